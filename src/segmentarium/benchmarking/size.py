"""How large a model is, and how much work one forward pass: counted, without memory for weights where none are needed."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from segmentarium.registry import Entry


def parameters_millions(model: nn.Module, *, training_only: bool = True) -> float:
    """1e6 parameters; without the branches that only training uses, if `training_only` is False."""
    left_out = () if training_only else getattr(model, "training_only", ())
    kept = (p.numel() for name, p in model.named_parameters() if name.split(".")[0] not in left_out)
    return sum(kept) / 1e6


def multiply_adds(model: nn.Module, image: Tensor) -> float:
    """1e9 multiply-adds of one forward: convolutions, matrix products and attention, as PyTorch's counter sees them."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(image)
    return counter.get_total_flops() / 2e9


def meta_model(found: Entry) -> nn.Module:
    """The registered model with its published number of classes, on the meta device: shapes without memory or values."""
    arguments = dict(found.arguments)
    if "num_classes" in inspect.signature(found.build).parameters and found.card.num_classes:
        arguments["num_classes"] = found.card.num_classes
    with torch.device("meta"):
        return found.build(**arguments)
