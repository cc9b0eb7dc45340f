"""PSPNet against mmsegmentation's and the authors' recorded outputs; its pooling against PyTorch's."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from segmentarium import create_model
from segmentarium.layers.pooling import _cells, adaptive_average_pool
from segmentarium.semantic.pspnet import PSPDecoder
from segmentarium.weights.layouts import recognise
from segmentarium.weights.layouts.pspnet import mmseg_head
from segmentarium.weights.table import load_state, to_theirs
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


@torch.inference_mode()
def test_torchseg_s_names(golden: ModuleType) -> None:
    """The authors' network under them; but for its dilation TorchSeg's is the same."""
    given, description, outputs = golden_state(golden, "semantic/pspnet-semseg-r50")
    names = {"layer0.6": "backbone.conv1.6", "layer0.7": "backbone.bn1"}
    names |= {f"layer0.{i}": f"backbone.conv1.{i}" for i in (0, 1, 3, 4)}
    for i in range(4):
        branch = f"psp_layer.ppm.{i}.psp/cbr"
        names |= {f"ppm.features.{i}.1": f"{branch}.conv", f"ppm.features.{i}.2": f"{branch}.bn"}
    for theirs, mine in (("cls", "psp_layer.conv6"), ("aux", "aux_layer")):
        names |= {f"{theirs}.0": f"{mine}.0.conv", f"{theirs}.1": f"{mine}.0.bn", f"{theirs}.4": f"{mine}.2"}
    state = {}
    for key, value in given.items():
        layer, _, kind = key.rpartition(".")
        state[f"{names.get(layer, f'backbone.{layer}')}.{kind}"] = value
    layout = recognise(state)
    assert layout.name == "pspnet/torchseg"
    arguments = layout.arguments(state)
    assert arguments["backbone_arguments"] == {"contract_dilation": True}
    ours = create_model("pspnet", **{**arguments, "backbone_arguments": {"contract_dilation": False}}).eval()
    assert load_state(ours, state, rules=layout.rules).complete
    (name,) = description["inputs"]
    assert golden.relative_error(ours(example(golden, description, name)).numpy(), outputs["out"]) < 1e-4
    back = to_theirs(ours.state_dict(), layout.rules)
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_published_parameters() -> None:
    model = create_model("pspnet_resnet50", num_classes=19)
    assert sum(p.numel() for p in model.decoder.parameters()) == 23_083_539
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 48.98
    authors = create_model("pspnet", num_classes=19)
    assert round(sum(p.numel() for p in authors.parameters()) / 1e6, 2) == 49.08
