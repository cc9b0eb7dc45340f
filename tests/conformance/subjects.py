"""Who is examined: every registered model in what is cheap, the smallest of each system in the rest."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segmentarium.benchmarking.size import parameters_millions as millions
from segmentarium.contracts import SegmentationModel
from segmentarium.registry import Entry, create_model, entry, list_models
from tests.parity.comparison import randomise

SEGMENTERS = list_models(kind="segmenter")
BACKBONES = list_models(kind="backbone")
CLASSES = 4
HEAVY = 15.0  # millions of parameters; above, a system of any backbone is examined on a small one
SMALL_BACKBONE = "resnet18"


def build(name: str, **arguments: object) -> nn.Module:
    """The model as published, but for `arguments`; with the card's classes where it takes any."""
    found = entry(name)
    if "num_classes" not in arguments and "num_classes" in inspect.signature(found.build).parameters:
        arguments["num_classes"] = found.card.num_classes or 19
    return create_model(name, **arguments)


@cache
def size(name: str) -> float:
    """Millions of parameters: the card's, else counted."""
    published = entry(name).card.parameters
    if published is not None:
        return published
    with torch.device("meta"):
        return millions(build(name), training_only=False)


def smallest_of_each(names: list[str], group: Callable[[Entry], object] = lambda found: found.build) -> list[str]:
    """One name for each class or build function, or for each of what `group` says; a first stage only where it is alone."""
    systems: dict[object, list[str]] = {}
    for name in names:
        systems.setdefault(group(entry(name)), []).append(name)
    return sorted(
        members[0] if len(members) == 1 else min(members, key=lambda name: (name.endswith("_encoder"), size(name)))
        for members in systems.values()
    )


def enrolled(names: list[str], check: str) -> list[object]:
    """Parameters of a test; a model whose card states a limit for this check is expected to fail it."""
    limits = {name: entry(name).card.limits.get(check) for name in names}
    return [
        pytest.param(name, marks=[pytest.mark.xfail(reason=limit, strict=True)] if limit else [])
        for name, limit in limits.items()
    ]


@cache
def _made(name: str, num_classes: int) -> nn.Module:
    torch.manual_seed(0)
    arguments: dict[str, object] = {"num_classes": num_classes}
    if "backbone" in inspect.signature(entry(name).build).parameters and size(name) > HEAVY:
        arguments["backbone"] = SMALL_BACKBONE
    return create_model(name, **arguments)


def trained_like(name: str, num_classes: int = CLASSES) -> SegmentationModel:
    """A copy whose batch norms are as after training: weights, biases and statistics of their own.  In eval mode."""
    model = randomise(copy.deepcopy(_made(name, num_classes)))
    assert isinstance(model, SegmentationModel)
    return model


def fresh(name: str, num_classes: int = CLASSES) -> SegmentationModel:
    """A copy as `create_model` made it, in training mode.  What it draws does not depend on who was made before."""
    model = copy.deepcopy(_made(name, num_classes)).train()
    torch.manual_seed(0)
    assert isinstance(model, SegmentationModel)
    return model


@cache
def photo(height: int, width: int) -> Tensor:
    """(1, 3, height, width) in [0, 1]: a real photograph, brought to that size."""
    from skimage.data import astronaut
    from skimage.transform import resize

    array = resize(astronaut()[:400, 60:460], (height, width), anti_aliasing=True)
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)[None].float()


def inputs(model: SegmentationModel, height: int, width: int, batch: int = 1) -> Tensor:
    """The photograph and its mirror images, normalised as the model wants."""
    image = model.preprocessing.normalise(photo(height, width))
    return torch.cat([image, image.flip(-1), image.flip(-2), image.flip(-1, -2)])[:batch]


def brightness_target(height: int, width: int, num_classes: int, batch: int = 1) -> Tensor:
    """(batch, H, W): which of `num_classes` ranges of brightness a pixel of the smoothed photograph is in, each range
    with as many pixels; a strip on the left is ignored."""
    grey = nn.functional.avg_pool2d(photo(height, width).mean(1, keepdim=True), 9, 1, 4, count_include_pad=False)[:, 0]
    labels = max(num_classes, 2)
    edges = torch.quantile(grey, torch.arange(1, labels) / labels)
    target = torch.bucketize(grey, edges)
    flipped = torch.cat([target, target.flip(-1), target.flip(-2), target.flip(-1, -2)])[:batch].clone()
    flipped[..., :3] = 255
    return flipped


def relative_error(output: Tensor, reference: Tensor) -> float:
    assert output.shape == reference.shape
    return float((output - reference).abs().max() / reference.abs().max())
