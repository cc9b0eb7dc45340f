"""Loud starts: drawn too large, a classifier begins with scores of tens, and small data sets never recover from that."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from segmentarium.contracts import SegmentationModel
from segmentarium.layers.resize import resize
from segmentarium.losses import CrossEntropy
from segmentarium.registry import create_model, known
from tests.conformance.subjects import (
    SEGMENTERS,
    brightness_target,
    enrolled,
    inputs,
    least_classes,
    one_of_each,
    size_for,
)

EACH = one_of_each(SEGMENTERS)
LARGE = 15.0  # millions of parameters


def counts(name: str) -> tuple[int, ...]:
    """Of one of each class all; fewer of its variants, and of large networks, which take seconds to draw."""
    if name not in EACH:
        return (19,)
    return (1, 2, 11, 19, 150) if known()[name]["parameters"] <= LARGE else (2, 19)


@pytest.mark.parametrize("name", enrolled(SEGMENTERS, "start"))
@torch.no_grad()
def test_it_starts_knowing_nothing(name: str) -> None:
    """In training mode on a photograph, scores are small and cost about ln K: those of `forward`, and all that are supervised."""
    for num_classes in counts(name):
        if num_classes < least_classes(name):
            continue
        torch.manual_seed(0)
        model = create_model(name, num_classes=num_classes).train()
        assert isinstance(model, SegmentationModel)
        side = size_for(model, 64, 64)
        image, target = inputs(model, *side, 4), brightness_target(*side, num_classes, 4)
        outputs = model.forward_train(image)
        scores = {
            f"output {key!r}": outputs[key]
            for term in model.objective
            if term.classes and term.on == "mask"
            for key in term.of
        }
        for what, logits in {"forward": model(image), **scores}.items():
            where = f"{what} at {num_classes} classes"
            assert logits.std() < 1, f"{where}: the logits deviate by {float(logits.std()):.2f}"
            entropy = cross_entropy(logits, target)
            expected = math.log(max(num_classes, 2))
            assert abs(entropy - expected) < 0.3, (
                f"{where}: cross entropy {entropy:.2f}, that of a guess {expected:.2f}"
            )


def cross_entropy(logits: Tensor, target: Tensor) -> float:
    """Of all labelled pixels, at the target's size."""
    return float(CrossEntropy()(resize(logits, target.shape[-2:]), target))
