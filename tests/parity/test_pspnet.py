"""PSPNet against mmsegmentation's and the authors' recorded outputs; its pooling against PyTorch's."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from segmentarium import create_model
from segmentarium.layers.pooling import _cells, adaptive_average_pool
from segmentarium.semantic.pspnet import PSPDecoder
from segmentarium.weights.layouts.pspnet import mmseg_head
from segmentarium.weights.table import load_state
from tests.parity.comparison import example, golden_state, relative_error


@torch.inference_mode()
def test_head_equals_mmsegmentation(golden: ModuleType) -> None:
    state, description, outputs = golden_state(golden, "semantic/pspnet-head")
    head = PSPDecoder(
        channels=(48,), strides=(8,), num_classes=5, decoder_channels=16, branch_channels=16, align_corners=False
    ).eval()
    load_state(head, state, rules=mmseg_head("", ""))
    logits = head([example(golden, description, "c4")])
    assert golden.relative_error(logits.numpy(), outputs["out"]) < 1e-4


@pytest.mark.parametrize(("height", "width", "bins"), [(12, 20, 6), (13, 17, 3), (7, 5, 6), (4, 33, 2), (9, 9, 1)])
def test_pooling_matrices_equal_adaptive_pooling(height: int, width: int, bins: int) -> None:
    x = torch.randn(2, 3, height, width)
    reference = F.adaptive_avg_pool2d(x, bins)
    matrices = _cells(height, bins, x) @ x @ _cells(width, bins, x).T
    assert relative_error(matrices, reference) < 1e-6
    assert relative_error(adaptive_average_pool(x, bins), reference) < 1e-6


def test_published_parameters() -> None:
    model = create_model("pspnet_resnet50", num_classes=19)
    assert sum(p.numel() for p in model.decoder.parameters()) == 23_083_539
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 48.98
    authors = create_model("pspnet", num_classes=19)
    assert round(sum(p.numel() for p in authors.parameters()) / 1e6, 2) == 49.08
