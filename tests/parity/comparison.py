"""What the parity tests share: goldens with our model loaded, weights that exercise every tensor, one measure of equality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.contracts import Backbone
from segmentarium.layers.pooling import adaptive_average_pool
from segmentarium.layers.resize import resize
from segmentarium.registry import entry
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import Layout, LoadReport, Output, load_state, to_theirs

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
    return float((ours - theirs).abs().max() / theirs.abs().max())


def golden_state(golden: ModuleType, name: str) -> tuple[dict[str, Tensor], dict, dict]:
    """State dict, description and reference outputs of the golden `name`."""
    description, arrays = golden.load(name)
    state = golden.state_dict(description, arrays)
    return {key: torch.from_numpy(value) for key, value in state.items()}, description, arrays


def example(golden: ModuleType, description: dict, name: str) -> Tensor:
    """The golden's input called `name`."""
    return torch.from_numpy(golden.example_input(name, tuple(description["inputs"][name])))


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


def mmcv_conv(x: Tensor, state: Mapping[str, Tensor], key: str) -> Tensor:
    """mmcv's ConvModule, by its tensors."""
    weight = state[f"{key}.conv.weight"]
    x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    mean, var, scale, bias = (state[f"{key}.bn.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, scale, bias).relu()


def mmseg_upernet(features: list[Tensor], state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """mmsegmentation's UPerHead and FCNHead by their tensors: class scores of the finest feature's size, and of the third's."""

    def score(x: Tensor, head: str) -> Tensor:
        return F.conv2d(x, state[f"{head}.conv_seg.weight"], state[f"{head}.conv_seg.bias"])

    deepest, head = features[-1], "decode_head"
    pooled = [
        resize(mmcv_conv(adaptive_average_pool(deepest, bins), state, f"{head}.psp_modules.{i}.1"), deepest.shape[-2:])
        for i, bins in enumerate((1, 2, 3, 6))
    ]
    maps = [mmcv_conv(x, state, f"{head}.lateral_convs.{i}") for i, x in enumerate(features[:-1])]
    maps.append(mmcv_conv(torch.cat([deepest, *pooled], 1), state, f"{head}.bottleneck"))
    for i in (2, 1, 0):
        maps[i] = maps[i] + resize(maps[i + 1], maps[i].shape[-2:])
    maps = [*(mmcv_conv(x, state, f"{head}.fpn_convs.{i}") for i, x in enumerate(maps[:-1])), maps[-1]]
    whole = torch.cat([resize(x, maps[0].shape[-2:]) for x in maps], 1)
    auxiliary = mmcv_conv(features[2], state, "auxiliary_head.convs.0")
    return score(mmcv_conv(whole, state, f"{head}.fpn_bottleneck"), head), score(auxiliary, "auxiliary_head")
