"""How large the tensors are that a computation makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Largest(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        made = [x.numel() for x in tree_leaves(output) if isinstance(x, torch.Tensor)]
        self.numel = max([self.numel, *made])
        return output


def largest_tensor(compute: Callable[[], object]) -> int:
    """Elements of the largest tensor that an operator gives while `compute` runs, its gradients' included."""
    with _Largest() as seen:
        compute()
    return seen.numel
