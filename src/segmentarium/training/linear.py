"""Linear layers that learn on the processor, through oneDNN instead of MKL.

The three products, of a pass and of both gradients, take half the time where MKL is slow; see `layers/onednn.py`.  Numbers differ
by rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segmentarium.layers.onednn import has_operators, is_worth, linear


def quicken(model: nn.Module) -> int:
    """Makes the linear layers of `model` such, in place; keys and numbers of its state stay.  Returns how many layers."""
    if not has_operators("_linear_pointwise"):
        return 0
    chosen = [module for module in model.modules() if type(module) is nn.Linear]
    for module in chosen:
        module.__class__ = QuickLinear
    return len(chosen)


class QuickLinear(nn.Linear):
    """An `nn.Linear` whose products oneDNN computes where they are worth it: in float32, on the processor, outside of graphs."""

    def forward(self, input: Tensor) -> Tensor:
        plain = torch.compiler.is_compiling() or torch.is_autocast_enabled(input.device.type)
        single = input.dtype == self.weight.dtype == torch.float32 and input.device.type == "cpu"
        if plain or not single or not is_worth(input, self):
            return super().forward(input)
        if torch.is_grad_enabled():
            # rows, and their shape given back here: what PyTorch calls a view made inside must not be changed in place
            rows: Tensor = _Linear.apply(input.flatten(0, -2), self.weight, self.bias)  # type: ignore[assignment]
            return rows.unflatten(0, input.shape[:-1])
        return linear(input, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            linear(slope, weight.t()) if of_x else None,
            linear(slope.t(), x.t()) if of_weight else None,
            slope.sum(0) if of_bias else None,
        )
