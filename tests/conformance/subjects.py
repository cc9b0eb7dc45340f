"""Who is examined: every registered model in what is cheap, the smallest of each system in the rest."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segmentarium.contracts import Backbone, Model
from segmentarium.export.parity import compare_instances
from segmentarium.keypoints.cells import cell_labels
from segmentarium.losses import Segments
from segmentarium.registry import Entry, create_model, entry, known, list_models
from tests.parity.comparison import randomise

# examined in files of their own: the first have no classes, the second take points
PRETRAINERS, DETECTORS = list_models(kind="pretrainer"), list_models(kind="detector3d")
MODELS = [name for name in list_models() if name not in (*PRETRAINERS, *DETECTORS)]
SEGMENTERS = list_models(kind="segmenter")
MASKS = list_models(kind="mask")
CLASSIFIERS = list_models(kind="classifier")
LABELLED = [name for name in MODELS if entry(name).kind != "keypoints"]
CLASSES = 4


def build(name: str, **arguments: object) -> Model:
    """The model as published, but for `arguments`."""
    return create_model(name, **arguments)


def counted(name: str, number: int) -> dict[str, int]:
    """The argument that says how many classes a model scores, or how many joints it finds; {} for one that has neither."""
    return {argument: number for argument in ("num_joints", "num_classes") if entry(name).takes(argument)}


def least_classes(name: str) -> int:
    """1, or 2 where the model refuses a lone one."""
    return 2 if "one_class" in entry(name).card.limits else 1


def one_of_each(names: list[str], group: Callable[[Entry], object] = lambda found: found.build) -> list[str]:
    """One name for each class, or for each of what `group` says: a variant that has a tiny form, else the smallest.

    A first stage is examined only where it is alone.
    """
    systems: dict[object, list[str]] = {}
    for name in names:
        systems.setdefault(group(entry(name)), []).append(name)
    return sorted(
        min(
            members,
            key=lambda name: (name.endswith("_encoder"), not entry(name).tiny_arguments(), known()[name]["parameters"]),
        )
        for members in systems.values()
    )


def enrolled(names: list[str], check: str) -> list[Any]:
    """Parameters of a test; a model whose card states a limit for this check is expected to fail it."""
    limits = {name: entry(name).card.limits.get(check) for name in names}
    return [
        pytest.param(name, marks=[pytest.mark.xfail(reason=limit, strict=True)] if limit else [])
        for name, limit in limits.items()
    ]


def in_turn(names: list[str], ways: Sequence[tuple[Any, ...]], check: str = "") -> list[Any]:
    """Parameters (name, *way) of a test: every way for one of each class; of its variants, which differ in sizes, each in one
    way, in turn."""
    every = {*one_of_each(names)}
    return [
        pytest.param(*param.values, *way, marks=param.marks)
        for place, param in enumerate(enrolled(names, check))
        for way in (ways if param.values[0] in every else ways[place % len(ways) :][:1])
    ]


@lru_cache(maxsize=8)
def _made(name: str, num_classes: int) -> Model:
    torch.manual_seed(0)
    return create_model(name, **{**entry(name).tiny_arguments(), **counted(name, num_classes)})


def trained_like(name: str, num_classes: int = CLASSES) -> Model:
    """A copy whose batch norms are as after training, and whose scores are not near zero.  In eval mode."""
    model = randomise(copy.deepcopy(_made(name, num_classes)))
    assert isinstance(model, Model)
    if model.kind == "instances":  # what is found must not hang on the last digit of scores that are all alike
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.std() < 0.02:
                module.weight.data *= 5
    return model


def fresh(name: str, num_classes: int = CLASSES) -> Model:
    """A copy as `create_model` made it, in training mode.  What it draws does not depend on who was made before."""
    model = copy.deepcopy(_made(name, num_classes)).train()
    torch.manual_seed(0)
    return model


@cache
def photo(height: int, width: int) -> Tensor:
    """(1, 3, height, width) in [0, 1]: a real photograph, brought to that size."""
    from skimage.data import astronaut
    from skimage.transform import resize

    array = resize(astronaut()[:400, 60:460], (height, width), anti_aliasing=True)
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)[None].float()


def size_for(model: Model | Backbone, height: int, width: int) -> tuple[int, int]:
    """That size, or the only one that the model takes."""
    return model.fixed_size or (height, width)


def inputs(model: Model, height: int, width: int, batch: int = 1) -> Tensor:
    """The photograph and its mirror images, normalised as the model wants."""
    height, width = size_for(model, height, width)
    picture = photo(height, width)
    image = model.preprocessing.normalise(picture.mean(1, keepdim=True) if model.in_channels == 1 else picture)
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


def names_of_classes(model: Model, number: int) -> int:
    """How many classes have a name: of pixels two at least, background and foreground; of masks as many as there are."""
    return number if model.kind in ("mask", "instances") else max(number, 2)


def output_shape(model: Model, number: int, size: tuple[int, int]) -> tuple[int, ...]:
    """Of what `forward` gives of one picture of that size, by the model's kind; of several outputs, of the first."""
    if model.kind == "instances":
        return (model.decoder.detections, 4)  # pyright: ignore[reportAttributeAccessIssue]
    if model.kind == "keypoints" and not model.joints:
        return size_for(model, *size)
    if model.kind == "keypoints":
        return (number, *(-(-side // model.stride) for side in size_for(model, *size)))
    return (number, *size_for(model, *size)) if model.kind in ("segmenter", "mask") else (number,)


def joints_for(model: Model, height: int, width: int, batch: int) -> Tensor:
    """(batch, J, 3): places in the photograph, and where they are in its mirror images; the last one is not labelled."""
    number = len(model.joints)
    share = (torch.arange(number) + 1) / (number + 1)
    x, y = share * width, (1 - share) * height
    places = [(x, y), (width - 1 - x, y), (x, height - 1 - y), (width - 1 - x, height - 1 - y)]
    seen = (torch.arange(number) < max(number - 1, 1)).float()
    return torch.stack([torch.stack((*place, seen), 1) for place in places])[:batch]


def warps_for(model: Model, image: Tensor) -> dict[str, Tensor]:
    """The pictures mirrored, with points on a grid and where they are there."""
    height, width = (side // model.stride * model.stride for side in image.shape[-2:])
    points = torch.zeros(len(image), height, width)
    points[:, 5::24, 3::24] = 1
    homography = torch.tensor([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]]).expand(len(image), 3, 3)
    mirrored = torch.cat((image[..., :width].flip(-1), image[..., width:]), -1)
    return {
        "warped": mirrored,
        "cells": cell_labels(points),
        "warped_cells": cell_labels(points.flip(-1)),
        "warped_valid": torch.ones(len(image), height // model.stride, width // model.stride),
        "homography": homography,
    }


def segments_for(model: Model, height: int, width: int, batch: int) -> list[Segments]:
    """A box, a disc and a thin bar in the photograph, and where they are in its mirror images; a strip on the left counts
    nowhere."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    box = ((x - 0.35).abs() < 0.25) & ((y - 0.3).abs() < 0.2)
    disc = (x - 0.7).square() + (y - 0.65).square() < 0.05
    masks = torch.stack((box, disc, ((x - y).abs() < 0.1) & (y > 0.5)))
    valid = x >= 3 / width
    labels = torch.arange(3) % model.num_classes  # pyright: ignore[reportOperatorIssue]
    flips = ((), (-1,), (-2,), (-1, -2))
    return [Segments(labels, masks.flip(dims), valid) for dims in flips[:batch]]


def batch_for(model: Model, height: int, width: int, batch: int = 2) -> dict[str, Any]:
    """What the model's objective takes, by its kind: photographs with label maps, labels, joints, points or segments."""
    image = inputs(model, height, width, batch)
    if model.kind == "classifier":
        return {"image": image, "label": torch.arange(batch) % max(model.num_classes, 2)}
    if model.kind == "keypoints" and not model.joints:
        return {"image": image, **warps_for(model, image)}
    if model.kind == "keypoints":
        return {"image": image, "joints": joints_for(model, *image.shape[-2:], batch)}
    if model.kind == "instances":
        return {"image": image, "segments": segments_for(model, *image.shape[-2:], batch)}
    return {"image": image, "mask": brightness_target(*image.shape[-2:], model.num_classes, batch)}


def outputs_of(model: Model, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return model.forward_train(*(batch[key] for key in (*model.inputs, *model.train_inputs)))


def losses_of(model: Model, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of one training pass."""
    return model.criterion(outputs_of(model, batch), batch)


def given(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a model's forward gives: one or several."""
    return (output,) if isinstance(output, Tensor) else output


def relative_error(output: Tensor | tuple[Tensor, ...], reference: Tensor | tuple[Tensor, ...]) -> float:
    """The greatest of all that a model gives; instances may come in another order."""
    if isinstance(output, tuple) and len(output) == 4:
        found, wanted = (tuple(part.float().numpy() for part in given(one)) for one in (output, reference))
        height, width = wanted[-1].shape[-2:]
        return compare_instances(found, wanted, (height, width)).relative_error
    if isinstance(output, tuple):
        errors = [relative_error(one, other) for one, other in zip(output, given(reference), strict=True)]
        return float(np.max(errors))  # `max` passes over NaN
    assert isinstance(reference, Tensor)
    assert output.shape == reference.shape
    return float((output - reference).abs().max() / reference.abs().max())
