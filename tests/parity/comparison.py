"""What the parity tests share: goldens with our model loaded, weights that exercise every tensor, one measure of equality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.contracts import Backbone
from segmentarium.layers.resize import resize
from segmentarium.meta import on_meta
from segmentarium.registry import create_model, entry
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import Layout, LoadReport, Output, fit, load_state, to_theirs

TOLERANCE = 1e-4


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


def exercised(model: nn.Module, seed: int = 1) -> Any:
    """Weights that make everything count: vectors away from where they start, matrices large enough for all branches."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.squeeze().ndim > 1:
            parameter.data.normal_(std=0.2, generator=generator)
        elif name.endswith("bias"):
            parameter.data.uniform_(-0.2, 0.2, generator=generator)
        else:
            parameter.data.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def recognised(state: Mapping[str, Tensor], name: str, **arguments: Any) -> Any:
    """Our backbone with this state through the layout `name`, which is recognised, and whose table reads back the same."""
    layout = get_layout(name)
    assert recognise(state) is layout
    ours = create_backbone(layout.model, **{**layout.arguments(state), **arguments}).eval()
    report = load_state(ours, state, rules=layout.rules)
    assert report.complete
    back = to_theirs(ours.state_dict(), layout.rules)
    assert back.keys() == state.keys() - set(report.dropped)
    assert all(torch.equal(value, state[key]) for key, value in back.items())
    return ours


@torch.no_grad()
def check_earlier_keys(name: str, replaced: Mapping[str, str]) -> None:
    """Files of the layout `name` are read under the keys of an earlier version, too: replaced, text of today's -> theirs."""
    layout = get_layout(name)
    with on_meta():
        state = to_theirs(create_model(layout.model).state_dict(), layout.rules)
    earlier = {}
    for key, value in state.items():
        for now, then in replaced.items():
            key = key.replace(now, then)
        earlier[key] = value
    assert earlier.keys() != state.keys()
    assert recognise(earlier) is layout
    assert layout.arguments(earlier) == layout.arguments(state)


def gradients_in_files(model: Any, folder: Path) -> dict[str, Tensor]:
    """The gradients of one of transformers' models by the keys of its files, which newer versions rename in memory.  The model's
    weights stay."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        model.save_pretrained(folder)
        model.load_state_dict(state)
    return load_file(folder / "model.safetensors")


def stir(model: nn.Module) -> Any:
    """Nothing at its neutral value, and biases of places that matter."""
    for name, parameter in model.named_parameters():
        if "table" in name:
            parameter.normal_()
        elif parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max())


def golden_state(golden: ModuleType, name: str) -> tuple[dict[str, Tensor], dict, dict]:
    """State dict, description and reference outputs of the golden `name`."""
    description, arrays = golden.load(name)
    state = golden.state_dict(description, arrays)
    return {key: torch.from_numpy(value) for key, value in state.items()}, description, arrays


def example(golden: ModuleType, description: dict, name: str) -> Tensor:
    """The golden's input called `name`."""
    return torch.from_numpy(golden.example_input(name, tuple(description["inputs"][name])))


def as_theirs(name: str, model: str, dropped: Mapping[str, tuple[int, ...]] | None = None, **arguments: Any) -> None:
    """A whole network's keys in the layout `name`, by its table read backwards, on the meta device: recognised, and read back to
    the same network; so that every tensor of the network has a key of theirs, and all that its arguments say is read off.

    dropped   keys with shapes that theirs has beside
    """
    layout = get_layout(name)
    with on_meta():
        wanted = create_model(model, **arguments)
    state = to_theirs(wanted.state_dict(), layout.rules)
    state |= {key: torch.empty(shape, device="meta") for key, shape in (dropped or {}).items()}
    assert recognise(state) is layout
    with on_meta():
        again = entry(layout.model).build(**{**entry(layout.model).arguments, **layout.arguments(state)})
    shapes = {key: value.shape for key, value in wanted.state_dict().items()}
    assert {key: value.shape for key, value in again.state_dict().items()} == shapes
    _, report = fit(again.state_dict(), state, layout.rules)
    assert report.complete
    assert set(report.dropped) == set(dropped or {})


@dataclass
class Loaded:
    """A golden of a layout, and our model with its weights, strictly loaded.

    image   what our model takes where theirs takes the golden's input
    """

    layout: Layout
    name: str
    model: Any
    state: dict[str, Tensor]
    report: LoadReport
    description: dict
    arrays: dict[str, np.ndarray]
    image: Tensor

    @cached_property
    def outputs(self) -> dict[str, Tensor]:
        """Everything that our model gives, by the names of `Output`."""
        with torch.inference_mode():
            if isinstance(self.model, Backbone):
                found = {f"feature {i}": feature for i, feature in enumerate(self.model(self.image))}
                return (
                    found if self.model.num_classes is None else found | {"classify": self.model.classify(self.image)}
                )
            return self.model.forward_train(self.image) | {"forward": self.model(self.image)}

    def error(self, array: str, output: str | Output) -> float:
        """max |ours - theirs| / max |theirs| of a stored array."""
        theirs = torch.from_numpy(self.arrays[array])
        if isinstance(output, str):
            output = Output(output)
        ours = self.outputs[output.name]
        if output.resized:
            ours = resize(ours, theirs.shape[-2:], align_corners=self.model.align_corners)
        if output.log:
            ours = ours.log_softmax(1)
        if output.exp:
            ours = ours.exp()
        return relative_error(ours[..., :: output.step, :: output.step] if output.step > 1 else ours, theirs)


def loaded(golden: ModuleType, layout_name: str, name: str) -> Loaded:
    """The golden `name` of the layout, its model built as the keys say."""
    state, description, arrays = golden_state(golden, name)
    layout = get_layout(layout_name)
    found = entry(layout.model)
    told = layout.goldens[name]
    model = found.build(**{**found.arguments, **layout.arguments(state), **told.arguments}).eval()
    report = load_state(model, state, rules=layout.rules)
    inputs = {given: example(golden, description, given) for given in description["inputs"]}
    if told.prepare is None:
        (image,) = inputs.values()
    else:
        image = next(iter(inputs.values()))
        told.prepare(model, inputs)
    if told.pixels is not None:
        scale, offset = told.pixels
        image = model.preprocessing.normalise((scale * image + offset) / 255)
    if layout.blue_first:
        image = image.flip(1)
    return Loaded(layout, name, model, state, report, description, arrays, image)
