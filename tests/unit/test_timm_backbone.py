"""timm's models keep the contract of a backbone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import segmentarium
from segmentarium.backbones import can_have, create_backbone
from segmentarium.backbones.timm import TimmBackbone, rename_features_only
from segmentarium.contracts import Classifier, Preprocessing
from segmentarium.export import export_formats
from segmentarium.registry import create_model, entry
from tests.parity.comparison import relative_error

ANY_SIZE = [
    "resnet18",
    "efficientnet_lite0",
    "mobilenetv3_small_050",
    "convnext_atto",
    "hrnet_w18_small",
    "test_vit",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
]
FIXED_SIZE = ["beit_base_patch16_224", "mixer_s32_224", "test_maxvit", "maxvit_tiny_rw_224", "coatnet_nano_rw_224"]


def assert_features(backbone: TimmBackbone, features: list[Tensor], height: int, width: int) -> None:
    assert len(features) == len(backbone.channels) == len(backbone.strides)
    for feature, channels, stride in zip(features, backbone.channels, backbone.strides, strict=True):
        assert feature.shape == (1, channels, -(-height // stride), -(-width // stride))


@pytest.mark.parametrize("name", ANY_SIZE)
@torch.inference_mode()
def test_features_at_odd_sizes(name: str) -> None:
    backbone = create_backbone(f"timm:{name}", in_channels=4).eval()
    assert isinstance(backbone, TimmBackbone)
    for height, width in ((97, 129), (32, 33)):
        features = backbone(torch.randn(1, 4, height, width))
        assert_features(backbone, features, height, width)
        assert all(feature.isfinite().all() for feature in features)
    assert min(backbone.strides) >= 4
    assert backbone.fixed_size is None


@pytest.mark.parametrize("name", FIXED_SIZE)
@torch.no_grad()
def test_a_fixed_grid_is_said_at_construction(name: str) -> None:
    own = timm.get_pretrained_cfg(name).input_size[-1]
    with pytest.raises(ValueError, match=rf"does not take images of any size: give img_size={own}, its own"):
        create_backbone(f"timm:{name}")
    with torch.device("meta"):
        backbone = create_backbone(f"timm:{name}", img_size=own)
        assert isinstance(backbone, TimmBackbone)
        assert backbone.fixed_size == (own, own)
        assert_features(backbone, backbone(torch.empty(1, 3, own, own)), own, own)
        with pytest.raises(ValueError, match=rf"the image is 97×129; this timm model takes {own}×{own} only"):
            backbone(torch.empty(1, 3, 97, 129))


@torch.inference_mode()
def test_a_fixed_grid_may_be_another() -> None:
    arguments = {"backbone": "timm:test_maxvit", "backbone_arguments": {"img_size": (96, 64)}}
    model = create_model("segformer_b0", num_classes=3, **arguments).eval()
    assert model.fixed_size == (96, 64)
    image = torch.randn(1, 3, 96, 64)
    assert relative_error(model.deploy()(image), model(image)) < 1e-4


def test_the_network_sees_what_its_weights_want() -> None:
    half = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop_size=224, crop_ratio=0.9)
    with torch.device("meta"):
        assert create_backbone("timm:vit_tiny_patch16_224").preprocessing == half
        assert create_backbone("timm:resnet18").preprocessing == Preprocessing(crop_size=224, crop_ratio=0.95)
        segmenter = create_model("segformer_b0", backbone="timm:vit_tiny_patch16_224").preprocessing
        grey = create_model("timm:vit_tiny_patch16_224", in_channels=1).preprocessing
        fixed = create_model("timm:test_maxvit", img_size=96).preprocessing
    assert (segmenter.mean, segmenter.std) == (half.mean, half.std)
    assert (grey.mean, grey.std) == ((0.5,), (0.5,))
    assert fixed.crop_size == 96


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "test_vit", "test_maxvit", "hrnet_w18_small"])
@torch.inference_mode()
def test_files_of_features_only_hold_the_same_weights(name: str) -> None:
    """timm's `features_only`, which wrapped these models before: its keys renamed, nothing missing, the same features."""
    size = timm.get_pretrained_cfg(name).input_size[-1]
    fixed = {"img_size": size} if name in FIXED_SIZE else {}
    backbone = create_backbone(f"timm:{name}", **fixed).eval()
    body = timm.create_model(name, features_only=True).eval()
    before = {f"body.{key}": value for key, value in body.state_dict().items()}
    backbone.load_state_dict(rename_features_only(before, backbone.state_dict()))
    image = torch.randn(1, 3, size, size)
    kept = [x for x, stride in zip(body(image), body.feature_info.reduction(), strict=True) if stride >= 4]
    for ours, theirs in zip(backbone(image), kept, strict=True):
        assert torch.equal(ours, theirs)


@torch.inference_mode()
def test_an_older_file_of_a_segmenter_loads(tmp_path: Path) -> None:
    model = create_model("segformer_b0", num_classes=2, backbone="timm:test_vit", embed_dim=8).eval()
    path = segmentarium.save(model, tmp_path / "model.safetensors")
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    before = {key.replace("backbone.body.", "backbone.body.model."): value for key, value in model.state_dict().items()}
    save_file(before, path, metadata=header)
    image = torch.randn(1, 3, 64, 96)
    assert torch.equal(segmentarium.load(path)(image), model(image))


def test_other_keys_keep_their_names() -> None:
    tensor = torch.zeros(1)
    state = {"backbone.body.stages_0.norm.weight": tensor, "decoder.fuse.weight": tensor, "left": tensor}
    renamed = rename_features_only(state, ["backbone.body.stages.0.norm.weight", "decoder.fuse.weight"])
    assert list(renamed) == ["backbone.body.stages.0.norm.weight", "decoder.fuse.weight", "left"]


@torch.inference_mode()
def test_layers_behind_the_last_feature_asked_for_are_left_out() -> None:
    backbone = create_backbone("timm:efficientnet_lite0", out_indices=(1, 2, 3)).eval()
    assert (backbone.channels, backbone.strides) == ((24, 40, 112), (4, 8, 16))
    assert sum(p.numel() for p in backbone.parameters()) == 700_768
    body = timm.create_model("efficientnet_lite0", features_only=True, out_indices=(1, 2, 3)).eval()
    missing, unexpected = body.load_state_dict(backbone.get_submodule("body").state_dict(), strict=False)
    assert unexpected == []
    assert all(name.startswith(("blocks.5.", "blocks.6.")) for name in missing)
    image = torch.randn(1, 3, 64, 96)
    for ours, theirs in zip(backbone(image), body(image), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["resnet18", "test_vit", "convnext_atto", "mobilenetv3_small_050"])
@torch.inference_mode()
def test_a_classifier_is_timm_s(name: str) -> None:
    model = create_model(f"timm:{name}", num_classes=10).eval()
    assert isinstance(model, Classifier)
    theirs = timm.create_model(name, num_classes=10).eval()
    theirs.load_state_dict(model.backbone.get_submodule("body").state_dict())
    image = torch.randn(2, 3, 160, 160)
    assert torch.equal(model(image), theirs(image))
    assert torch.equal(
        model.backbone.embed(image), theirs.forward_head(theirs.forward_features(image), pre_logits=True)
    )
    assert relative_error(model.deploy()(image), model(image)) < 1e-4


def test_classes_as_published() -> None:
    found = entry("timm:test_vit")
    assert (found.kind, found.family, found.card.num_classes) == ("classifier", "backbones", 1000)
    assert create_model("timm:test_vit").num_classes == 1000
    assert entry("timm:vit_small_patch16_dinov3").card.num_classes is None


@torch.no_grad()
def test_taps_with_prefix_tokens() -> None:
    backbone = create_backbone("timm:test_vit").eval()  # one class token
    (early, early_prefix), (late, prefix) = backbone.forward_tokens(torch.randn(2, 3, 97, 129), (1, 5))
    assert early.shape == late.shape == (2, 64, 7, 9)
    assert early_prefix.shape == prefix.shape == (2, 1, 64)
    assert not torch.equal(early, late)
    image = torch.randn(1, 3, 160, 160)
    (grid, prefix), body = backbone.forward_tokens(image, (5,))[0], backbone.get_submodule("body")
    tokens = torch.cat([prefix, grid.flatten(2).transpose(1, 2)], 1)
    assert torch.equal(tokens, body.forward_features(image))  # the last block, whose norm is left out
    for wrong in ((), (6,), (3, 1)):
        with pytest.raises(ValueError, match="give some of 0 to 5"):
            backbone.forward_tokens(image, wrong)


def test_what_weight_decay_leaves_alone() -> None:
    with torch.device("meta"):
        assert create_backbone("timm:test_vit").no_weight_decay() == {"body.cls_token", "body.pos_embed"}
        swin = create_backbone("timm:swin_tiny_patch4_window7_224").no_weight_decay()
    assert len(swin) == 12
    assert all(name.endswith("relative_position_bias_table") for name in swin)


def test_exports_at_sizes_that_no_stride_divides(tmp_path: Path) -> None:
    for name in ("resnet18", "convnext_atto"):  # the second is padded
        arguments = {"backbone": f"timm:{name}", "backbone_arguments": {"out_indices": (0, 1, 2, 3)}}
        model = create_model("deeplabv3plus", num_classes=3, output_stride=None, **arguments).eval()
        photo = torch.rand(3, 97, 129)
        (report,) = export_formats(model, tmp_path / name, sizes=((97, 129), (65, 90)), images=[photo])
        assert report.relative_error <= 1e-4


def test_a_classifier_exports(tmp_path: Path) -> None:
    model = create_model("timm:convnext_atto", num_classes=3).eval()
    (report,) = export_formats(model, tmp_path / "model", sizes=((97, 129), (64, 96)), images=[torch.rand(3, 97, 129)])
    assert report.relative_error <= 1e-4


@torch.inference_mode()
def test_whole_strides_cost_no_padding_and_compile_as_one_graph() -> None:
    torch._dynamo.reset()
    backbone = create_backbone("timm:convnext_atto").eval()
    seen: list[Tensor] = []
    body = backbone.get_submodule("body.stem")
    handle = body.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    image = torch.randn(1, 3, 64, 96).contiguous(memory_format=torch.channels_last)
    features = backbone(image)
    handle.remove()
    assert seen[0] is image
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in features)
    compiled = torch.compile(copy.deepcopy(backbone), fullgraph=True, backend="eager")
    for size in ((64, 96), (97, 129)):
        image = torch.randn(1, 3, *size)
        for a, b in zip(compiled(image), backbone(image), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_a_file_does_not_fetch_the_weights_that_training_started_from() -> None:
    model = create_model(
        "deeplabv3plus", num_classes=3, backbone="timm:resnet18", backbone_arguments={"pretrained": False}
    )
    assert model.given_arguments["backbone_arguments"] == {}


def test_output_stride() -> None:
    assert create_backbone("timm:resnet18", output_stride=8).strides == (4, 8, 8, 8)
    for name in ("vit_tiny_patch16_224", "hrnet_w18_small", "swin_tiny_patch4_window7_224"):
        with pytest.raises(ValueError, match=rf"{name}' cannot have output stride 8: timm dilates some families only"):
            create_backbone(f"timm:{name}", output_stride=8)
        assert not can_have(f"timm:{name}", 8)
    assert can_have("timm:convnext_atto", 8)
    assert not can_have("timm:resnet18", 7)


def test_what_a_model_cannot_do_is_said() -> None:
    with pytest.raises(KeyError, match="resnet18"):
        create_backbone("timm:resnet18x")
    with pytest.raises(KeyError, match="resnet18"):
        create_model("timm:resnet18x")
    with pytest.raises(ValueError, match="has no argument 'img_size'"):
        create_backbone("timm:resnet18", img_size=64)
    with pytest.raises(ValueError, match=r"inception_v3' cannot be a backbone: .* their strides make"):
        create_backbone("timm:inception_v3")
    with pytest.raises(ValueError, match=r"out_indices is \(9,\); give some of 0, 1, 2, 3, 4"):
        create_backbone("timm:resnet18", out_indices=(9,))
