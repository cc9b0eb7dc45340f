"""PyTorch's operators for oneDNN, which eager layers do not call: whether they are here, and the product of a linear layer.

Eager PyTorch sends a linear layer in float32 to MKL, which takes no AVX-512 on processors that are not Intel's: there oneDNN
needs half the time (one thread of an AMD EPYC: 200 instead of 95 billion operations a second).  Elsewhere both are the same.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn

Then = tuple[str, list[Any], str]  # what oneDNN calls an activation, its numbers, its algorithm
NOTHING: Then = ("none", [], "")
ROWS, WORK = 4, 500_000  # of a linear layer's input, and its multiply-adds, below which MKL is as fast


def has_operators(*names: str) -> bool:
    """Whether this PyTorch, on this processor, has these of `torch.ops.mkldnn`."""
    here = platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()
    return here and all(hasattr(torch.ops.mkldnn, name) for name in names)


def is_worth(x: Tensor, layer: nn.Linear) -> bool:
    """Whether oneDNN computes `layer` of x (…, N) faster than MKL."""
    return x.ndim > 1 and x.numel() >= ROWS * layer.in_features and x.numel() * layer.out_features >= WORK


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: Then = NOTHING) -> Tensor:
    """(…, N), (M, N), (M,) -> (…, M): x weightᵀ + bias, and the activation.  Has no gradient."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *then)
