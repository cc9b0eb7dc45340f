"""What the live parity tests share: weights that exercise every tensor, and one measure of equality."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import nn


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms that do something: weights, biases and statistics away from 1, 0, 0, 1."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.0),
                (module.bias, -0.1, 0.1),
                (module.running_mean, -0.1, 0.1),
                (module.running_var, 0.5, 1.5),
            ):
                tensor.data.uniform_(low, high, generator=generator)
    return model.eval()


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def golden_state(golden: ModuleType, name: str) -> tuple[dict[str, torch.Tensor], dict, dict]:
    """State dict, description and reference outputs of the golden `name`."""
    description, arrays = golden.load(name)
    state = golden.state_dict(description, arrays)
    return {key: torch.from_numpy(value) for key, value in state.items()}, description, arrays


def example(golden: ModuleType, description: dict, name: str) -> torch.Tensor:
    """The golden's input called `name`."""
    return torch.from_numpy(golden.example_input(name, tuple(description["inputs"][name])))
