"""ResNet against torchvision, timm, transformers and smp: same random weights through the key table, same output."""

from __future__ import annotations

from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from safetensors.torch import load_file
from transformers import ResNetConfig, ResNetForImageClassification

from segmentarium.backbones import create_backbone
from segmentarium.registry import entry
from segmentarium.weights import load_part
from segmentarium.weights.layouts import get_layout
from segmentarium.weights.source import open_weights
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import randomise, recognised, relative_error


@pytest.mark.parametrize("depth", [18, 50])
@torch.inference_mode()
def test_equals_torchvision(depth: int) -> None:
    theirs = randomise(getattr(torchvision.models, f"resnet{depth}")(weights=None, num_classes=10))
    ours = create_backbone(f"resnet{depth}", num_classes=10).eval()
    load_state(ours, theirs.state_dict(), rules=get_layout("resnet/torchvision").rules)
    image = torch.randn(2, 3, 97, 129)
    assert relative_error(ours.classify(image), theirs(image)) < 1e-4


@torch.inference_mode()
def test_dilation_equals_torchvision() -> None:
    theirs = randomise(
        torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, True, True], num_classes=7)
    )
    ours = create_backbone("resnet50", output_stride=8, num_classes=7).eval()
    load_state(ours, theirs.state_dict(), rules=get_layout("resnet/torchvision").rules)
    assert ours.strides == (4, 8, 8, 8)
    image = torch.randn(1, 3, 97, 129)
    assert relative_error(ours.classify(image), theirs(image)) < 1e-4


@pytest.mark.parametrize(
    ("name", "timm_name", "layout", "output_stride"),
    [
        ("resnet18", "resnet18", "resnet/torchvision", 32),
        ("resnet18", "resnet18", "resnet/torchvision", 8),
        ("resnet34", "resnet34", "resnet/torchvision", 16),
        ("resnet50", "resnet50", "resnet/torchvision", 16),
        ("resnet50_v1c", "resnet50c", "resnet/timm_v1c", 32),
        ("resnet18_v1d", "resnet18d", "resnet/timm_v1d", 32),
        ("resnet50_v1d", "resnet50d", "resnet/timm_v1d", 32),
        ("resnet50_v1s", "resnet50s", "resnet/timm_v1c", 32),
    ],
)
@torch.inference_mode()
def test_features_equal_timm(name: str, timm_name: str, layout: str, output_stride: int) -> None:
    theirs = randomise(timm.create_model(timm_name, features_only=True, output_stride=output_stride))
    ours = create_backbone(name, output_stride=output_stride, out_indices=(0, 1, 2, 3, 4)).eval()
    load_state(ours, theirs.state_dict(), rules=get_layout(layout).rules)
    assert list(ours.channels) == theirs.feature_info.channels()
    assert list(ours.strides) == theirs.feature_info.reduction()
    image = torch.randn(1, 3, 97, 129)
    for mine, reference in zip(ours(image), theirs(image), strict=True):
        assert relative_error(mine, reference) < 1e-4


@pytest.mark.parametrize(
    ("depth", "told"),
    [
        (18, {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}),
        (26, {"depths": [2, 2, 2, 2]}),
    ],
)
@torch.inference_mode()
def test_equals_transformers(tmp_path: Path, depth: int, told: dict) -> None:
    theirs = randomise(ResNetForImageClassification(ResNetConfig(num_labels=10, **told)))
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert open_weights(state).entry.name == f"resnet{depth}"
    ours = recognised(state, "resnet/transformers")
    image = torch.randn(1, 3, 65, 97)
    assert relative_error(ours.classify(image), theirs(image).logits) < 1e-4
    hidden = theirs.resnet(image, output_hidden_states=True).hidden_states
    for mine, reference in zip(ours(image), hidden[1:], strict=True):
        assert relative_error(mine, reference) < 1e-4


def test_the_timm_of_26_layers() -> None:
    theirs = randomise(timm.create_model("resnet26", num_classes=4))
    ours = recognised(theirs.state_dict(), "resnet/torchvision")
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert relative_error(ours.classify(image), theirs(image)) < 1e-4


@torch.inference_mode()
def test_strides_in_the_first_convolution_equal_the_moved_ones_of_torchvision() -> None:
    theirs = randomise(torchvision.models.resnet50(weights=None, num_classes=10))
    for layer in (theirs.layer2, theirs.layer3, theirs.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    ours = create_backbone("resnet50", num_classes=10, stride_first=True).eval()
    load_state(ours, theirs.state_dict(), rules=get_layout("resnet/torchvision").rules)
    image = torch.randn(1, 3, 65, 97)
    assert relative_error(ours.classify(image), theirs(image)) < 1e-4


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@torch.inference_mode()
def test_equals_smp_s_encoder(name: str) -> None:
    """Its files have torchvision's keys without a classifier."""
    theirs = randomise(smp.encoders.get_encoder(name, weights=None))
    ours = recognised(theirs.state_dict(), "resnet/torchvision", out_indices=range(5))
    image = torch.randn(1, 3, 64, 96)
    for mine, reference in zip(ours(image), theirs(image)[1:], strict=True):
        assert relative_error(mine, reference) < 1e-4


@pytest.mark.parametrize(
    ("layout_name", "name", "keys"),
    [
        ("resnet/mmpretrain", "resnet34", {"backbone.conv1.weight", "backbone.bn1.running_var", "head.fc.bias"}),
        (
            "resnet/mmpretrain_v1c",
            "resnet50_v1c",
            {"backbone.stem.1.conv.weight", "backbone.layer2.0.downsample.1.bias"},
        ),
        ("resnet/mmpretrain_v1d", "resnet101_v1d", {"backbone.stem.2.bn.bias", "backbone.layer2.0.downsample.2.bias"}),
        ("resnet/mmpretrain_v1d", "resnet50_v1d", {"backbone.layer1.0.downsample.0.weight"}),  # that does not pool
        ("resnet/mmseg", "resnet18_v1c", {"stem.0.weight", "layer1.0.bn2.weight", "fc.weight"}),
    ],
)
def test_openmmlab_s_names(layout_name: str, name: str, keys: set[str]) -> None:
    """With and without the classifier; as a part of a network, too."""
    layout, arguments = get_layout(layout_name), {"num_classes": 5, "in_channels": 3, "width": 64}
    with torch.device("meta"):
        state = to_theirs(entry(name).build(**entry(name).completed(arguments)).state_dict(), layout.rules)
    assert keys <= state.keys()
    headless = {key: value for key, value in state.items() if "fc." not in key}
    for file, classes in ((state, 5), (headless, None)):
        stored = open_weights(file)
        assert (stored.layout, stored.entry.name) == (layout, name)
        assert stored.all_arguments["num_classes"] == classes


def test_a_file_of_mmsegmentation_s_fills_a_backbone() -> None:
    trunk = randomise(create_backbone("resnet18_v1c", num_classes=3))
    state = to_theirs(trunk.state_dict(), get_layout("resnet/mmseg").rules)
    ours = create_backbone("resnet18_v1c", output_stride=8)
    report = load_part(ours, "", state)
    assert set(report.dropped) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(value, trunk.state_dict()[key]) for key, value in ours.state_dict().items())


def test_layout_reads_the_depth_and_goes_back() -> None:
    theirs = torchvision.models.resnet34(weights=None, num_classes=5)
    layout = get_layout("resnet/torchvision")
    assert layout.arguments(theirs.state_dict()) == {"depth": 34, "in_channels": 3, "num_classes": 5}
    ours = create_backbone("resnet34", num_classes=5)
    load_state(ours, theirs.state_dict(), rules=layout.rules)
    back = to_theirs(ours.state_dict(), layout.rules)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet18", 11.69), ("resnet34", 21.80), ("resnet50", 25.56), ("resnet18_v1d", 11.71), ("resnet50_v1d", 25.58)],
)
def test_parameters_as_published(name: str, millions: float) -> None:
    model = create_backbone(name, num_classes=1000)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_multigrid_sets_the_rates_of_the_last_stage() -> None:
    model = create_backbone("resnet50", output_stride=16, multigrid=(2, 4, 8))
    assert [block.conv2.conv.dilation for block in model.layer4] == [(2, 2), (4, 4), (8, 8)]
    with pytest.raises(ValueError, match="layer4 has 3 blocks"):
        create_backbone("resnet50", multigrid=(1, 2))


def test_depths_stand_for_those_of_the_depth() -> None:
    model = create_backbone("resnet50", width=8, depths=(1, 2, 1, 3), output_stride=8, multigrid=(2, 4, 8))
    layers = (model.layer1, model.layer2, model.layer3, model.layer4)
    assert [[type(block).__name__ for block in layer] for layer in layers] == [["Bottleneck"] * n for n in (1, 2, 1, 3)]
    with pytest.raises(ValueError, match=r"depths is \(1, 2, 0, 1\); give the numbers of blocks of four stages"):
        create_backbone("resnet50", depths=(1, 2, 0, 1))


def test_any_channels_and_clear_errors() -> None:
    features = create_backbone("resnet18", in_channels=5, output_stride=16)(torch.randn(2, 5, 33, 47))
    assert [tuple(f.shape[1:]) for f in features] == [(64, 9, 12), (128, 5, 6), (256, 3, 3), (512, 3, 3)]
    with pytest.raises(ValueError, match="output_stride is 4"):
        create_backbone("resnet18", output_stride=4)
    with pytest.raises(ValueError, match="has no classifier; build it with num_classes"):
        create_backbone("resnet18").classify(torch.randn(1, 3, 64, 64))
