"""The metrics against the public implementations' values."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from segmentarium.metrics import BoundaryIoU, ConfusionMatrix, PanopticQuality, mask_to_boundary
from segmentarium.metrics.average_precision import overlaps
from segmentarium.rle import patch
from tests.unit.test_metrics_segments import Labelled

ratios = pytest.mark.parametrize("ratio", [0.02, 0.005, 0.05])


@ratios
def test_boundary_regions_equal_the_published_ones(golden: ModuleType, ratio: float) -> None:
    _, arrays = golden.load("metrics/boundary-iou")
    region = mask_to_boundary(torch.from_numpy(arrays["target/gt"]), ratio)
    np.testing.assert_array_equal(region.numpy(), arrays[f"out/boundary_gt/{ratio}"].astype(bool))


@ratios
def test_boundary_iou_equals_the_published_one(golden: ModuleType, ratio: float) -> None:
    _, arrays = golden.load("metrics/boundary-iou")
    truth, guess = torch.from_numpy(arrays["target/gt"]), torch.from_numpy(arrays["target/pred"])
    boundary, smaller = [], []
    for index in range(len(truth)):
        metric, matrix = BoundaryIoU(1, ratio), ConfusionMatrix(1)
        metric.update(guess[index : index + 1], truth[index : index + 1])
        matrix.update(guess[index : index + 1], truth[index : index + 1])
        # The reference calls the IoU of two empty masks 0, where a class without pixels is NaN here.
        boundary.append(metric.iou()[1].nan_to_num(0.0).item())
        smaller.append(min(boundary[-1], matrix.iou()[1].nan_to_num(0.0).item()))
    np.testing.assert_allclose(boundary, arrays[f"out/boundary_iou/{ratio}"], rtol=1e-6)
    np.testing.assert_allclose(smaller, arrays[f"out/min_iou/{ratio}"], rtol=1e-6)


@ratios
def test_overlap_of_instances_equals_the_published_one(golden: ModuleType, ratio: float) -> None:
    """What boundary AP matches by, of one instance a picture; what lies on a crowd is its share by the mask alone."""
    _, arrays = golden.load("metrics/boundary-iou")
    found, shares = [], []
    for truth, guess in zip(arrays["target/gt"], arrays["target/pred"], strict=True):
        one, target = patch(guess.astype(bool)), truth[None].astype(np.int32)
        found.append(overlaps([one], target, [Labelled(0)], ("boundary",), ratio)["boundary"].item())
        shares.append(overlaps([one], target, [Labelled(0, crowd=True)], ("boundary",), ratio)["boundary"].item())
    np.testing.assert_allclose(found, arrays[f"out/min_iou/{ratio}"], rtol=1e-6)
    inside = (arrays["target/gt"].astype(bool) & arrays["target/pred"].astype(bool)).sum((1, 2))
    np.testing.assert_allclose(shares, inside / np.maximum(arrays["target/pred"].astype(bool).sum((1, 2)), 1))


def test_panoptic_quality_equals_the_published_one(golden: ModuleType) -> None:
    _, arrays = golden.load("metrics/panoptic-quality")
    metric = PanopticQuality(5)
    for index, (truth, guess) in enumerate(zip(arrays["target/gt"], arrays["target/pred"], strict=True)):
        segments = arrays[f"target/gt_segments/{index}"]
        target = np.full(truth.shape, -1, np.int32)
        for number, segment in enumerate(segments, 1):
            target[truth == segment[0]] = number
        labels = {int(number): int(category) - 1 for number, category in arrays[f"target/pred_segments/{index}"]}
        metric.update(guess, labels, target, [Labelled(int(s[1]) - 1, bool(s[2])) for s in segments])
    categories = arrays["out/stats"][:, 0].astype(int) - 1
    np.testing.assert_allclose(metric.counts.numpy()[categories], arrays["out/stats"][:, 1:], rtol=1e-6)
    summary = metric.summary(things=(0, 1))
    for name, key in (("", "out/all"), ("_things", "out/things"), ("_stuff", "out/stuff")):
        found = [summary[f"{short}{name}"] for short in ("pq", "sq", "rq")]
        np.testing.assert_allclose(found, arrays[key][:3], rtol=1e-6)
