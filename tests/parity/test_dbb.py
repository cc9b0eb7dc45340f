"""Diverse Branch Blocks against stored outputs of the authors' block, and their networks' files against theirs and ours."""

from __future__ import annotations

from types import ModuleType

import pytest
import timm
import torch
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.backbones.dbb import DBBMobileNetV1, DBBResNet
from segmentarium.registry import create_model
from segmentarium.reparameterize import DiverseBranch
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.layouts.dbb import block_rules
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, example, golden_state, randomise, relative_error

BLOCKS = {  # golden -> in, out, kernel, stride, padding, dilation, groups
    "dbb-k3-s1-g1": (8, 12, 3, 1, 1, 1, 1),
    "dbb-k3-s1-g4": (8, 12, 3, 1, 1, 1, 4),
    "dbb-k3-s2-g1": (8, 12, 3, 2, 1, 1, 1),
    "dbb-k3-s2-g4": (8, 12, 3, 2, 1, 1, 4),
    "dbb-depthwise": (8, 8, 3, 1, 1, 1, 8),
}


@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_the_authors_block(golden: ModuleType, name: str) -> None:
    state, description, arrays = golden_state(golden, f"backbone/{name}")
    network = nn.ModuleDict({"ours": DiverseBranch(nn.Conv2d(*BLOCKS[name]))}).eval()
    block, rules = network["ours"], block_rules("theirs", "ours")
    assert isinstance(block, DiverseBranch)
    theirs = {f"theirs.{key}": tensor for key, tensor in state.items()}
    assert load_state(network, theirs, rules=rules).complete
    back = to_theirs(network.state_dict(), rules)
    assert all(key.endswith("num_batches_tracked") for key in back.keys() - theirs.keys())
    assert all(torch.equal(back[key], tensor) for key, tensor in theirs.items())
    assert sum(p.numel() for p in block.parameters()) == description["parameters"]

    def stored(array: str) -> Tensor:
        return torch.from_numpy(arrays[array])

    x = example(golden, description, "x")
    folded = block.reparameterize()
    assert relative_error(block(x), stored("out/eval")) < TOLERANCE
    assert relative_error(folded(x), stored("out/deploy")) < TOLERANCE
    assert folded.bias is not None
    assert relative_error(folded.weight, stored("out/kernel")) < TOLERANCE
    assert relative_error(folded.bias, stored("out/bias")) < TOLERANCE
    assert relative_error(block.train()(x), stored("out/train")) < TOLERANCE
    mean = block.average_norm.running_mean
    assert mean is not None
    assert relative_error(mean, stored("out/train_avgbn_running_mean")) < TOLERANCE


NETWORKS = {
    "dbb_resnet18": (DBBResNet, {"depth": 18, "width": 8}, {"stage0.conv1", "stage1.0.conv1", "stage2.0.shortcut"}),
    "dbb_resnet50": (DBBResNet, {"depth": 50, "width": 8}, {"stage0.conv1", "stage1.0.conv2", "stage4.2.conv3"}),
    "dbb_mobilenet_v1": (DBBMobileNetV1, {"width": 0.25}, {"conv1", "stem.0.depthwise", "stem.12.pointwise"}),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_files_as_trained_and_as_converted(name: str) -> None:
    """No package has these networks: what is tested is that their converted form is our deployed one, under their keys."""
    build, arguments, units = NETWORKS[name]
    trained = randomise(build(**arguments, num_classes=5))
    image = torch.randn(2, 3, 64, 96)
    expected = trained.classify(image)

    layout = get_layout(f"{name}/authors")
    theirs = to_theirs(trained.state_dict(), layout.rules)
    assert recognise(theirs) is layout
    assert {unit for unit in units if any(key.startswith(f"{unit}.") for key in theirs)} == units
    ends = {key.rpartition(".")[0] for key in theirs if "dbb" in key}
    assert all(
        any(f".{part}" in key for key in ends) for part in ("dbb_origin.conv", "dbb_avg.avgbn", "dbb_1x1_kxk.bn1.bn")
    )
    again = build(**layout.arguments(theirs)).eval()
    assert load_state(again, theirs, rules=layout.rules).complete
    assert torch.equal(again.classify(image), expected)

    deployed = create_model(name, **{**arguments, "num_classes": 5})
    deployed.backbone.load_state_dict(trained.state_dict())
    folded = deployed.deploy().backbone.state_dict()
    layout = get_layout(f"{name}/authors_deployed")
    theirs = to_theirs(folded, layout.rules)
    assert recognise(theirs) is layout
    assert not any("bn" in key or "avg" in key for key in theirs)
    assert any(key.endswith(".dbb_reparam.bias") for key in theirs)
    converted = build(**layout.arguments(theirs)).eval()
    assert load_state(converted, theirs, rules=layout.rules).complete
    assert relative_error(converted.classify(image), expected) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "millions"), [("dbb_resnet18", 11.69), ("dbb_resnet50", 25.56), ("dbb_mobilenet_v1", 4.23)]
)
def test_converted_networks_are_as_large_as_the_plain_ones(name: str, millions: float) -> None:
    with torch.device("meta"):
        network = create_backbone(name, num_classes=1000, deployed=True)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.005)


@pytest.mark.parametrize(
    ("output_stride", "timm_name"), [(32, "mobilenetv1_100"), (16, "mobilenetv1_100"), (8, "mobilenetv1_100")]
)
@torch.inference_mode()
def test_mobilenet_equals_timm(output_stride: int, timm_name: str) -> None:
    theirs = randomise(timm.create_model(timm_name, num_classes=10, output_stride=output_stride))
    layout = get_layout("mobilenet_v1/timm")
    assert recognise(theirs.state_dict()) is layout
    arguments = layout.arguments(theirs.state_dict())
    ours = create_backbone("mobilenet_v1", **arguments, output_stride=output_stride, out_indices=(0, 1, 2, 3, 4)).eval()
    load_state(ours, theirs.state_dict(), rules=layout.rules)
    image = torch.randn(1, 3, 97, 129)
    assert relative_error(ours.classify(image), theirs(image)) < TOLERANCE
    features = theirs.forward_intermediates(image, intermediates_only=True)
    for mine, reference in zip(ours(image), features, strict=True):
        assert relative_error(mine, reference) < TOLERANCE
    back = to_theirs(ours.state_dict(), layout.rules)
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())
