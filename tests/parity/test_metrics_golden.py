"""The metrics against the public implementations' values."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from segmentarium.metrics import BoundaryIoU, ConfusionMatrix, mask_to_boundary

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
