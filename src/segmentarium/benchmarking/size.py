"""How large a model is, and how much work one forward pass: counted, without memory for weights where none are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from segmentarium.contracts import MaskOutputs, Model
from segmentarium.meta import on_meta
from segmentarium.registry import Entry, entry, without_fetching
from segmentarium.weights.exported import ExportedNetwork


def parameters_millions(model: nn.Module, *, training_only: bool = True) -> float:
    """1e6 parameters; without the branches that only training uses, if `training_only` is False."""
    left_out = () if training_only or not isinstance(model, Model) else model.training_only
    kept = (p.numel() for name, p in model.named_parameters() if not _below(name, left_out))
    return sum(kept) / 1e6


def _below(name: str, paths: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{path}.") for path in paths)


def multiply_adds(forward: Callable[..., Any], *inputs: Tensor) -> float:
    """1e9 multiply-adds of one call: convolutions, matrix products and attention, as PyTorch's counter sees them."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        forward(*inputs)
    return counter.get_total_flops() / 2e9


def counted(model: Model, *inputs: Tensor, training_only: bool = True) -> tuple[float, float]:
    """(1e6 parameters, 1e9 multiply-adds) of one call.  Of an exported network those of the model that was exported."""
    inner = model.network if isinstance(model, MaskOutputs) else model
    if isinstance(inner, ExportedNetwork):
        found = entry(inner.told["model"])
        with on_meta():
            model = found.model(**without_fetching(inner.told["arguments"])).eval()
        inputs = tuple(one.to("meta") for one in inputs)
    return parameters_millions(model, training_only=training_only), multiply_adds(model, *inputs)


def meta_model(found: Entry) -> Model:
    """The registered model with its published number of classes, on the meta device: shapes without memory or values."""
    with on_meta():
        return found.model().eval()


def count(found: Entry) -> dict[str, Any]:
    """What `models.json` has of a registered model: 1e6 parameters and 1e9 multiply-adds of inference, and (H, W).

    The size is the published one, else that of its kind.
    """
    model = meta_model(found)
    size = found.card.flops_size or model.counted_at
    return {
        "parameters": round(parameters_millions(model, training_only=False), 3),
        "flops": round(multiply_adds(model, *model.example(size=size)), 3),
        "flops_size": list(size),
    }
