"""HRNet against timm and, by the keys that their code says, the layouts of the OpenMMLab packages."""

from __future__ import annotations

from types import ModuleType

import pytest
import timm
import torch
from torch import Tensor

from segmentarium.backbones import create_backbone
from segmentarium.registry import create_model, entry
from segmentarium.weights import export_layout, load_part
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.source import open_weights
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import golden_state, randomise, recognised, relative_error


@pytest.mark.parametrize("name", ["hrnet_w18_small", "hrnet_w18_small_v2"])
@torch.inference_mode()
def test_classifier_equals_timm(name: str) -> None:
    theirs = randomise(timm.create_model(name, num_classes=10))
    layout = get_layout("hrnet/authors")
    assert recognise(theirs.state_dict()) is layout
    ours = create_backbone(name, **layout.arguments(theirs.state_dict())).eval()
    load_state(ours, theirs.state_dict(), rules=layout.rules)
    image = torch.randn(1, 3, 64, 96)
    assert relative_error(ours.classify(image), theirs(image)) < 1e-4
    back = to_theirs(ours.state_dict(), layout.rules)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())


@torch.inference_mode()
def test_a_classifier_without_biases_before_norms_equals_timm() -> None:
    """The arrangement of its "ssld" weights."""
    theirs = randomise(timm.create_model("hrnet_w18_small", num_classes=10, head_conv_bias=False))
    ours = recognised(theirs.state_dict(), "hrnet/authors")
    image = torch.randn(1, 3, 64, 96)
    assert relative_error(ours.classify(image), theirs(image)) < 1e-4


@torch.inference_mode()
def test_branches_equal_timm() -> None:
    theirs = timm.create_model("hrnet_w18_small", features_only=True, feature_location="", out_indices=(1, 2, 3, 4))
    state = randomise(theirs).state_dict()
    ours = create_backbone("hrnet_w18_small").eval()
    load_part(ours, "", state)
    assert (list(ours.channels), list(ours.strides)) == (
        theirs.feature_info.channels(),
        theirs.feature_info.reduction(),
    )
    image = torch.randn(1, 3, 64, 96)
    for mine, reference in zip(ours(image), theirs(image), strict=True):
        assert relative_error(mine, reference) < 1e-4


@pytest.mark.parametrize("name", [f"hrnet_w{width}" for width in (18, 30, 32, 40, 44, 48, 64)])
def test_variants_are_read_off_the_weights(name: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    assert open_weights(state).entry.name == name
    read = get_layout("hrnet/authors").arguments(state)
    assert read == {"in_channels": 3, "num_classes": 1000} | entry(name).arguments


def test_mmpretrain_s_classifier() -> None:
    """Its head has no biases before norms; the rest of its keys are timm's under other names."""
    model = create_model("hrnet_w18_small", num_classes=10, head_bias=False)
    theirs = export_layout(model, "hrnet/mmpretrain")
    heads = {key for key in theirs if not key.startswith("backbone.")}
    assert {"neck.0.increase_layers.3.0.downsample.0.weight", "neck.0.downsample_layers.2.bn.running_mean"} <= heads
    assert {key for key in heads if key.startswith("neck.0.final_layer.conv")} == {"neck.0.final_layer.conv.weight"}
    assert {"head.fc.weight", "head.fc.bias"} <= heads
    trunk = {key.removeprefix("backbone.") for key in theirs if key.startswith("backbone.")}
    with torch.device("meta"):
        timms = timm.create_model("hrnet_w18_small").state_dict()
    others = ("incre_modules", "downsamp_modules", "final_layer", "classifier")
    assert trunk == {key for key in timms if not key.startswith(others)}
    stored = open_weights(theirs)
    assert (stored.entry.name, stored.layout and stored.layout.name) == ("hrnet_w18_small", "hrnet/mmpretrain")
    assert stored.arguments["head_bias"] is False


def of_mmseg(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The keys of a model of the authors' as mmsegmentation has them, whose head has no bias."""
    names = {
        "last_layer.0": "decode_head.convs.0.conv",
        "last_layer.1": "decode_head.convs.0.bn",
        "last_layer.3": "decode_head.conv_seg",
    }
    renamed = {}
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        if key != "last_layer.0.bias":
            renamed[f"{names[layer]}.{kind}" if layer in names else f"backbone.{key}"] = value
    return renamed


def test_mmsegmentation_s_fcn(golden: ModuleType) -> None:
    state, _, _ = golden_state(golden, "backbone/hrnetv2-seg-w18-small-v2")
    stored = open_weights(of_mmseg(state))
    assert stored.layout is get_layout("hrnetv2/mmseg")
    assert stored.entry.name == "fcn_hr18s"
    model = stored.entry.model(**stored.arguments)
    assert load_state(model, stored.state, rules=stored.rules).complete
    assert (model.decoder.fuse.bias, model.align_corners, model.backbone.stages[0][0].upsample) == (
        None,
        False,
        "bilinear",
    )


def test_what_the_authors_training_writes(golden: ModuleType) -> None:
    state, _, _ = golden_state(golden, "backbone/hrnetv2-seg-w18-small-v2")
    written = {f"model.{key}": value for key, value in state.items()} | {"loss.criterion.weight": torch.ones(5)}
    stored = open_weights(written)
    assert (stored.entry.name, stored.layout and stored.layout.name) == (
        "hrnetv2_w18_small_v2",
        "hrnetv2/authors_trained",
    )
    assert stored.all_arguments["align_corners"] is True


def test_mmpose_s_network(golden: ModuleType) -> None:
    state, _, _ = golden_state(golden, "backbone/hrnet-pose-w32")
    names = {key: f"head.{key}" if key.startswith("final_layer") else f"backbone.{key}" for key in state}
    stored = open_weights({names[key]: value for key, value in state.items()})
    assert (stored.entry.name, stored.layout and stored.layout.name) == ("hrnet_pose_w32", "hrnet_pose/mmpose")
