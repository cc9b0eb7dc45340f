"""UPerNet's heads and necks against mmsegmentation's recorded outputs, whole networks against transformers and smp, live."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file
from torch import Tensor

from segmentarium import create_model
from segmentarium.layers.pyramid_neck import ProjectedNeck, PyramidNeck
from segmentarium.meta import on_meta
from segmentarium.registry import entry
from segmentarium.semantic.upernet import UPerDecoder
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.layouts.upernet import mmseg_head, pyramid_neck
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, as_theirs, example, exercised, golden_state, randomise, relative_error


def carried_over(state: dict[str, Tensor], name: str, **told: Any) -> Any:
    """Our network with this state: recognised, and back to the same tensors.  told: arguments that no key tells"""
    layout = get_layout(name)
    if not told:
        assert recognise(state) is layout
    arguments = layout.arguments(state)
    ours = create_model(layout.model, **{**arguments, **told}).eval()
    report = load_state(ours, state, rules=layout.rules)
    back = to_theirs(ours.state_dict(), layout.rules)
    kept = {key: value for key, value in state.items() if key not in report.dropped}
    assert all(key.endswith("num_batches_tracked") for key in back.keys() - kept.keys())
    assert all(torch.equal(back[key], value) for key, value in kept.items())
    return ours


@torch.inference_mode()
def test_head_equals_mmsegmentation(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "semantic/upernet-head")
    head = UPerDecoder(channels=(8, 12, 16, 32), strides=(4, 8, 16, 32), num_classes=5, decoder_channels=16).eval()
    load_state(head, state, rules=mmseg_head("", ""))
    logits = head([example(golden, description, name) for name in ("c1", "c2", "c3", "c4")])
    assert relative_error(logits, torch.from_numpy(arrays["out"])) <= TOLERANCE


@torch.inference_mode()
def test_pyramid_neck_and_head_equal_mmsegmentation(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "semantic/upernet-feature2pyramid")
    neck = PyramidNeck((16,) * 4, (16,) * 4)
    head = UPerDecoder(channels=neck.channels, strides=neck.strides, num_classes=5, decoder_channels=16)
    ours = torch.nn.ModuleDict({"neck": neck, "decoder": head}).eval()
    load_state(ours, state, rules=[*mmseg_head(), *pyramid_neck()])
    features = neck([example(golden, description, f"f{i}") for i in range(4)])
    for i, feature in enumerate(features):
        assert relative_error(feature, torch.from_numpy(arrays[f"out/neck/{i}"])) <= TOLERANCE
    assert relative_error(head(features), torch.from_numpy(arrays["out/logits"])) <= TOLERANCE


def saved(model: Any, folder: Path) -> dict[str, Tensor]:
    """The keys of files, which newer versions rename in memory."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


OUT = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}


@pytest.mark.parametrize("trunk", ["swin", "convnext"])
@torch.inference_mode()
def test_equals_transformers(tmp_path: Path, trunk: str) -> None:
    transformers = pytest.importorskip("transformers")
    if trunk == "swin":
        backbone = transformers.SwinConfig(
            embed_dim=32, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], window_size=3, **OUT
        )
    else:
        backbone = transformers.ConvNextConfig(hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 2, 1], **OUT)
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=16, auxiliary_channels=8, auxiliary_in_channels=128, num_labels=5
    )
    theirs = randomise(exercised(transformers.UperNetForSemanticSegmentation(config)))
    ours = carried_over(saved(theirs, tmp_path), f"upernet/transformers_{trunk}")
    image = torch.randn(1, 3, 192, 96 if trunk == "convnext" else 192)
    outputs = ours.forward_train(image)
    assert relative_error(ours(image), theirs(image).logits) <= TOLERANCE
    features = theirs.backbone(image).feature_maps
    assert relative_error(outputs["aux"], theirs.auxiliary_head(features)) <= TOLERANCE


@torch.inference_mode()
def test_beit_equals_transformers(tmp_path: Path) -> None:
    """Theirs counts the blocks two too few: of five it reads the first four where it is told 2 to 5."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BeitConfig(
        image_size=64, hidden_size=64, num_hidden_layers=5, num_attention_heads=4, intermediate_size=256, num_labels=5,
        use_relative_position_bias=True, use_absolute_position_embeddings=False, use_mask_token=False,
        out_indices=[2, 3, 4, 5], auxiliary_channels=8,
    )  # fmt: skip
    theirs = randomise(exercised(transformers.BeitForSemanticSegmentation(config)))
    state = {key: value for key, value in saved(theirs, tmp_path).items() if ".layer.4." not in key}
    arguments = get_layout("upernet/transformers_beit").arguments(state)
    assert arguments["backbone_arguments"]["out_indices"] == (0, 1, 2, 3)
    image = torch.randn(1, 3, 64, 64)
    ours = carried_over(
        state, "upernet/transformers_beit", backbone_arguments={**arguments["backbone_arguments"], "heads": 4}
    )
    assert relative_error(ours.forward_train(image)["logits"], theirs(image).logits) <= TOLERANCE


@pytest.mark.parametrize(("trunk", "size"), [("convnext", (128, 96)), ("swin", (128, 128))])
@torch.inference_mode()
def test_equals_smp(trunk: str, size: tuple[int, int]) -> None:
    name, arguments = "convnext_tiny", {"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1)}
    if trunk == "swin":
        name = "swin_tiny_patch4_window7_224"
        arguments = {"embed_dim": 32, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8), "window_size": 4}
        arguments |= {"img_size": 128}
    theirs = smp.UPerNet(f"tu-{name}", encoder_weights=None, classes=5, decoder_channels=16, **arguments)
    randomise(exercised(theirs))
    ours = carried_over(theirs.state_dict(), f"upernet/smp_{trunk}")
    image = torch.randn(1, 3, *size)
    assert relative_error(ours(image), theirs(image)) <= TOLERANCE


@pytest.mark.parametrize(
    ("layout_name", "variant", "key"),
    [
        ("upernet/mmseg_resnet", "upernet_resnet101", "decode_head.fpn_bottleneck.conv.weight"),
        ("upernet/microsoft_swin", "upernet_swin_small", "backbone.layers.2.blocks.17.attn.qkv.weight"),
        ("upernet/facebook_convnext", "upernet_convnext_base", "backbone.stages.2.26.pwconv1.weight"),
        ("upernet/unilm_beit", "upernet_beit_large", "backbone.fpn1.3.weight"),
        ("upernet/mmseg_vit", "upernet_vit_base_ln", "backbone.ln1.weight"),
        ("upernet/mmseg_vit", "upernet_vit_base", "neck.convs.3.conv.bias"),
    ],
)
def test_the_other_layouts_are_recognised(layout_name: str, variant: str, key: str) -> None:
    """State dicts of published sizes under their keys, without storage, find their layout and their sizes."""
    with on_meta():
        model = create_model(variant)
    layout = get_layout(layout_name)
    state = to_theirs(model.state_dict(), layout.rules)
    assert key in state
    assert recognise(state) is layout
    arguments = entry(layout.model).completed(layout.arguments(state))
    with on_meta():
        again = create_model(layout.model, **arguments)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert (again.backbone.out_indices, again.neck is None) == (model.backbone.out_indices, model.neck is None)


def test_mmsegmentation_s_mae() -> None:
    """A BEiT with places of patches and a bias of keys, whose images are normalised as for ImageNet's networks."""
    own = {"absolute": True, "key_bias": True, "image_size": 512, "out_indices": (3, 5, 7, 11)}
    as_theirs("upernet/mmseg_mae", "upernet_beit_base", num_classes=150, decoder_channels=768, backbone_arguments=own)
    assert get_layout("upernet/mmseg_mae").facts({})["preprocessing"]["mean"] == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(("size", "divisor"), [("s", 2.0), ("m", 2.0), ("l", 1.0)])
def test_lvvit_s_networks(size: str, divisor: float) -> None:
    depth = {"s": 16, "m": 20, "l": 24}[size]
    own = {"final_norm": False, "divisor": divisor, "out_indices": tuple(range(depth - 10, depth, 3))}
    told = {"neck": "projected", "auxiliary_arguments": {"decoder_channels": 256}, "decoder_channels": 256}
    name, arguments = "upernet/authors_lvvit", {"backbone": f"lvvit_{size}", "backbone_arguments": own, **told}
    as_theirs(name, "upernet_vit_base", num_classes=150, **arguments)
    with on_meta():
        state = to_theirs(create_model("upernet_vit_base", **arguments).state_dict(), get_layout(name).rules)
    assert {
        "backbone.side_layer1.3.weight",
        "backbone.side_layer2.0.weight",
        "backbone.side_layer4.1.bias",
    } <= state.keys()
    read = get_layout(name).arguments(state)["backbone_arguments"]
    assert own.items() <= read.items()


@torch.inference_mode()
def test_the_neck_of_lvvit_by_its_definition() -> None:
    neck = randomise(ProjectedNeck((8,) * 4, (16,) * 4, width=24))
    assert (neck.channels, neck.strides) == ((8, 8, 8, 24), (4, 8, 16, 16))
    features = [torch.randn(2, 8, 3, 5) for _ in range(4)]
    for i, made in enumerate(neck(features)):
        x = features[i]
        for module in (
            *(neck.enlarge[i] if i < 2 else ()),
            neck.project[i].conv,
            neck.project[i].norm,
            torch.nn.ReLU(),
        ):
            x = module(x)
        assert torch.equal(made, x)
        assert made.shape[-2:] == tuple(16 * side // neck.strides[i] for side in (3, 5))


@pytest.mark.parametrize(
    ("channels", "width", "classes", "parameters"),
    [
        ((256, 512, 1024, 2048), 512, 19, 40_523_283),
        ((96, 192, 384, 768), 512, 19, 31_430_163),
        ((128, 256, 512, 1024), 512, 19, 33_248_787),
        ((768,) * 4, 768, 150, 67_963_542),
    ],
)
def test_published_parameters(channels: tuple[int, ...], width: int, classes: int, parameters: int) -> None:
    with on_meta():
        head = UPerDecoder(channels=channels, strides=(4, 8, 16, 32), num_classes=classes, decoder_channels=width)
        neck = PyramidNeck((768,) * 4, (16,) * 4)
    assert sum(p.numel() for p in head.parameters()) == parameters
    assert sum(p.numel() for p in neck.parameters()) == 7_081_728
