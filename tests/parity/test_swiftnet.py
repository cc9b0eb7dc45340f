"""SwiftNet's boundary-aware loss against the authors' code.  Stored outputs of its networks: test_layouts.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segmentarium.backbones import create_backbone
from segmentarium.layers.resize import resize
from segmentarium.losses import BoundaryAwareFocal
from segmentarium.losses.boundary_focal import label_distance
from segmentarium.realtime.swiftnet import grid
from segmentarium.registry import create_model


def test_pooling_grid_rounds_as_the_code_does():
    for rows in (2, 4, 8):
        for height in range(1, 24):
            for width in range(1, 24):
                assert grid(rows, height, width) == (rows, max(1, round(width / height * rows)))


def test_distance_and_weights_of_the_boundary_aware_loss(golden):
    _, arrays = golden.load("realtime/swiftnet-boundary-loss")
    labels = torch.from_numpy(arrays["target/labels"]).long()
    valid = labels != 19
    distance = label_distance(labels, 200.0)
    assert golden.relative_error(torch.where(valid, distance, -1).numpy(), arrays["out/distance"]) <= 1e-4
    loss = BoundaryAwareFocal(bins=(4, 8, 16), ignore_index=19)
    assert np.array_equal(loss.alpha(labels, valid).numpy(), arrays["out/alphas"])


@pytest.mark.parametrize("gamma", [0, 0.5, 2.0])
def test_boundary_aware_loss(golden, gamma):
    _, arrays = golden.load("realtime/swiftnet-boundary-loss")
    labels = torch.from_numpy(arrays["target/labels"]).long()
    logits = torch.from_numpy(golden.example_input("logits", (2, 19, 20, 28)))
    assert np.array_equal(logits.numpy(), arrays["target/logits"])
    loss = BoundaryAwareFocal(gamma, bins=(4, 8, 16), ignore_index=19)(resize(logits, labels.shape[-2:]), labels)
    assert golden.relative_error(loss.numpy(), arrays[f"out/loss_gamma{gamma}"]) <= 1e-4


def test_a_backbone_without_a_needed_stride_is_refused():
    with pytest.raises(ValueError, match=r"no feature of stride 16, which is needed; it has \(4, 8, 32\)"):
        create_model("swiftnet", backbone=create_backbone("resnet18", out_indices=(1, 2, 4)))
