"""DeepLabV3 against mmsegmentation's and kazuto1011's recorded outputs, and against torchvision, smp and transformers, live."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from segmentarium import create_model
from segmentarium.layers.resize import resize
from segmentarium.meta import on_meta
from segmentarium.semantic.deeplabv3 import DeepLabV3Decoder
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.layouts.deeplabv3 import mmseg_head
from segmentarium.weights.table import Rule, load_state, to_theirs
from tests.parity.comparison import TOLERANCE, example, golden_state, randomise, relative_error


def carried_over(state: dict[str, Tensor], name: str, **told: Any) -> Any:
    """Our network with this state: recognised, and back to the same tensors.  told: what no key tells"""
    layout = get_layout(name)
    assert recognise(state) is layout
    ours = create_model(layout.model, **{**layout.arguments(state), **told}).eval()
    report = load_state(ours, state, rules=layout.rules)
    back = to_theirs(ours.state_dict(), layout.rules)
    assert all(torch.equal(back[key], value) for key, value in state.items() if key not in report.dropped)
    return ours


@torch.inference_mode()
def test_head_equals_mmsegmentation(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "semantic/deeplabv3-aspp-head")
    head = DeepLabV3Decoder(channels=(48,), strides=(8,), num_classes=5, decoder_channels=16, form="mmseg").eval()
    load_state(head, state, rules=mmseg_head("", ""))
    logits = head([example(golden, description, "c4")])
    assert relative_error(logits, torch.from_numpy(arrays["out"])) <= TOLERANCE


def kazuto_rules() -> list[Rule]:
    def unit(theirs: str, ours: str) -> list[Rule]:
        return [Rule(f"{theirs}.conv.{{}}", f"{ours}.conv.{{}}"), Rule(f"{theirs}.bn.{{}}", f"{ours}.norm.{{}}")]

    rules = unit("layer1.conv1", "backbone.stem.0")
    for layer, depth in enumerate((3, 4, 6, 3), 1):
        for block in range(depth):
            theirs, ours = f"layer{layer + 1}.block{block + 1}", f"backbone.layer{layer}.{block}"
            for name, mine in (
                ("reduce", "conv1"),
                ("conv3x3", "conv2"),
                ("increase", "conv3"),
                ("shortcut", "shortcut"),
            ):
                rules += unit(f"{theirs}.{name}", f"{ours}.{mine}")
    for i in range(4):
        rules += unit(f"aspp.stages.c{i}", f"decoder.aspp.branches.{i}")
    rules += unit("aspp.stages.imagepool.conv", "decoder.aspp.image_pool") + unit("fc1", "decoder.aspp.project")
    return [*rules, Rule("fc2.{}", "decoder.classifier.{}")]


@torch.inference_mode()
def test_the_paper_s_network_equals_kazuto1011_s(golden: ModuleType) -> None:
    """Theirs strides in a bottleneck's first convolution, as Caffe's ResNet, and has the image's mean last."""
    state, description, arrays = golden_state(golden, "semantic/deeplabv3-multigrid-r50-os16")
    state["fc1.conv.weight"] = state["fc1.conv.weight"].roll(256, 1)
    ours = create_model("deeplabv3", backbone="resnet50", backbone_arguments={"multigrid": (2, 4, 8)}, num_classes=5)
    assert ours.backbone.strides[-1] == 16
    for layer in (ours.backbone.layer2, ours.backbone.layer3):
        layer[0].conv1.conv.stride, layer[0].conv2.conv.stride = (2, 2), (1, 1)
    report = load_state(ours.eval(), state, rules=kazuto_rules())
    assert report.complete
    logits = ours.forward_train(example(golden, description, "x"))["logits"]
    assert relative_error(logits, torch.from_numpy(arrays["out"])) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "layout_name"),
    [
        ("deeplabv3_resnet50", "deeplabv3/torchvision"),
        ("deeplabv3_mobilenet_v3_large", "deeplabv3/torchvision_mobilenet_v3"),
    ],
)
@torch.inference_mode()
def test_equals_torchvision(name: str, layout_name: str) -> None:
    build = getattr(torchvision.models.segmentation, name)
    theirs = randomise(build(weights=None, weights_backbone=None, num_classes=5, aux_loss=True))
    ours = carried_over(theirs.state_dict(), layout_name)
    image = torch.randn(1, 3, 97, 129)
    reference, outputs = theirs(image), ours.forward_train(image)
    assert relative_error(ours(image), reference["out"]) <= TOLERANCE
    assert relative_error(resize(outputs["aux"], (97, 129)), reference["aux"]) <= TOLERANCE


@pytest.mark.parametrize(
    ("encoder", "output_stride", "layout_name"),
    [
        ("resnet18", 8, "deeplabv3/smp_resnet"),
        ("resnet50", 16, "deeplabv3/smp_resnet"),
        ("mobilenet_v2", 8, "deeplabv3/smp_mobilenet_v2"),
    ],
)
@torch.inference_mode()
def test_equals_smp(encoder: str, output_stride: int, layout_name: str) -> None:
    theirs = smp.DeepLabV3(
        encoder, encoder_weights=None, classes=5, encoder_output_stride=output_stride, decoder_channels=32
    )
    ours = carried_over(randomise(theirs).state_dict(), layout_name, output_stride=output_stride)
    image = torch.randn(2, 3, 128, 96)
    assert relative_error(ours(image), theirs(image)) <= TOLERANCE


@torch.inference_mode()
def test_equals_transformers_mobilenet(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MobileNetV2Config(num_labels=5, output_stride=8, tf_padding=True, layer_norm_eps=0.001)
    theirs: nn.Module = randomise(transformers.MobileNetV2ForSemanticSegmentation(config))
    theirs.save_pretrained(tmp_path)  # type: ignore[operator]
    ours = carried_over(load_file(tmp_path / "model.safetensors"), "deeplabv3/transformers")
    image = torch.randn(1, 3, 97, 129)
    assert relative_error(ours.forward_train(image)["logits"], theirs(image).logits) <= TOLERANCE


@pytest.mark.parametrize(
    ("layout_name", "arguments"),
    [
        ("deeplabv3/vainf", {"backbone": "resnet101", "form": "torchvision", "auxiliary": False}),
        ("deeplabv3/encoding", {"backbone": "resnest101", "form": "smp", "auxiliary": True}),
        (
            "deeplabv3/vainf_mobilenet_v2",
            {
                "backbone": "mobilenet_v2",
                "backbone_arguments": {"pad_first": True},
                "form": "torchvision",
                "auxiliary": False,
            },
        ),
        (
            "deeplabv3/detectron2",
            {"backbone": "resnet101_v1s", "form": "detectron2", "auxiliary": False, "pool_window": (32, 64)},
        ),
        ("deeplabv3/mmseg_resnest", None),
    ],
)
def test_the_other_layouts_are_recognised(layout_name: str, arguments: dict[str, Any] | None) -> None:
    layout = get_layout(layout_name)
    if arguments is None:
        arguments = {"backbone": "resnest101", "backbone_arguments": {"form": "mmseg"}}
    with on_meta():
        model = create_model(layout.model, **arguments)
    state = to_theirs(model.state_dict(), layout.rules)
    assert recognise(state) is layout
    found = layout.arguments(state)
    assert found["backbone"] == arguments["backbone"]
    if layout_name.startswith(("deeplabv3/vainf", "deeplabv3/detectron2")):
        assert found["output_stride"] == 16
        assert found["backbone_arguments"].items() >= arguments.get("backbone_arguments", {}).items()


def test_published_parameters() -> None:
    with on_meta():
        model = create_model("deeplabv3_resnet50")
    assert sum(p.numel() for p in model.decoder.parameters()) == 42_221_075
    assert sum(p.numel() for p in model.auxiliary.parameters()) == 2_364_691
