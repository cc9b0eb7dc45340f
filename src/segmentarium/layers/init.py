"""How weights are drawn at the start."""

from __future__ import annotations

from typing import Literal, TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


def init_convs(
    *modules: nn.Module | None,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: Literal["relu", "leaky_relu"] = "relu",
    slope: float = 0.0,
) -> None:
    """He's normal distribution for all convolutions in `modules` (arXiv 1502.01852), zeros for their biases."""
    for outer in modules:
        for module in outer.modules() if outer is not None else ():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, a=slope, mode=mode, nonlinearity=nonlinearity)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def init_truncated(*modules: nn.Module, std: float = 0.02) -> None:
    """A normal distribution, cut off at two, for all linear layers and convolutions in `modules`, zeros for their biases: as
    transformers and their kin are drawn."""
    for outer in modules:
        for module in outer.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def init_classifier(layer: Layer, std: float = 0.01) -> Layer:
    """Small weights and zero bias for the convolution or linear layer that gives class scores.

    Drawn like any other layer, it would start with scores of tens: training then first spends its steps on unlearning
    them, and small data sets never recover.  So the first loss is near ln K, which is that of knowing nothing.
    """
    for module in layer.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return layer
