"""How large a model is, and how much work one forward pass: counted, without memory for weights where none are needed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from segmentarium.registry import Entry


def parameters_millions(model: nn.Module, *, training_only: bool = True) -> float:
    """1e6 parameters; without the branches that only training uses, if `training_only` is False."""
    left_out = () if training_only else getattr(model, "training_only", ())
    kept = (p.numel() for name, p in model.named_parameters() if name.split(".")[0] not in left_out)
    return sum(kept) / 1e6


def multiply_adds(forward: Callable[[Tensor], Any], image: Tensor) -> float:
    """1e9 multiply-adds of one call: convolutions, matrix products and attention, as PyTorch's counter sees them."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        forward(image)
    return counter.get_total_flops() / 2e9


def meta_model(found: Entry) -> nn.Module:
    """The registered model with its published number of classes, on the meta device: shapes without memory or values."""
    arguments = dict(found.arguments)
    if "num_classes" in inspect.signature(found.build).parameters and found.card.num_classes:
        arguments["num_classes"] = found.card.num_classes
    with torch.device("meta"):
        return found.build(**arguments)


def count(found: Entry) -> dict[str, Any]:
    """What `counted.json` has of a registered model: 1e6 parameters and 1e9 multiply-adds of inference, and (H, W).

    The size is the published one, else 512×1024; of backbones 224×224.
    """
    size = found.card.flops_size or ((224, 224) if found.kind == "backbone" else (512, 1024))
    model: Any = meta_model(found).eval()
    forward = model.classify if found.kind == "backbone" and found.card.num_classes else model
    image = torch.zeros(1, getattr(model, "in_channels", 3), *size, device="meta")
    return {
        "parameters": round(parameters_millions(model, training_only=False), 3),
        "flops": round(multiply_adds(forward, image), 3),
        "flops_size": list(size),
    }
