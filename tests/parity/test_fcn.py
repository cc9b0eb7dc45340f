"""FCN against mmsegmentation's recorded head, torchvision, and PyTorch-Encoding's arrangement of other packages' parts."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor
from torchvision.models.segmentation.fcn import FCNHead as TorchvisionHead

from segmentarium import create_model
from segmentarium.semantic.fcn import FCNHead
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.layouts.parts import mmseg_fcn_head
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, as_theirs, example, exercised, golden_state, randomise, relative_error


@torch.inference_mode()
def test_head_equals_mmsegmentation(golden: ModuleType) -> None:
    state, description, outputs = golden_state(golden, "semantic/fcn-head")
    head = FCNHead(channels=(48,), num_classes=5, decoder_channels=32, convs=2, concatenate=True).eval()
    load_state(head, state, rules=mmseg_fcn_head("", ""))
    logits = head([example(golden, description, "c4")])
    assert golden.relative_error(logits.numpy(), outputs["out"]) < 1e-4


@torch.inference_mode()
def test_equals_torchvision() -> None:
    theirs = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=5, aux_loss=True
    )
    randomise(theirs)
    state = theirs.state_dict()
    layout = recognise(state)
    assert layout is get_layout("fcn/torchvision")
    ours = create_model("fcn", **layout.arguments(state)).eval()
    load_state(ours, state, rules=layout.rules)
    image = torch.randn(1, 3, 97, 129)
    reference = theirs(image)
    assert relative_error(ours(image), reference["out"]) < 1e-4
    aux = torch.nn.functional.interpolate(ours.forward_train(image)["aux"], (97, 129), mode="bilinear")
    assert relative_error(aux, reference["aux"]) < 1e-4
    back = to_theirs(ours.state_dict(), layout.rules)
    assert all(torch.equal(back[key], value) for key, value in state.items())


@torch.inference_mode()
def test_equals_encoding() -> None:
    """A wide stem, a dilated trunk, and the heads under their names; the trunk's classifier may lie beside it."""
    trunk = randomise(timm.create_model("resnet50s", features_only=True, output_stride=8, out_indices=(3, 4)))
    heads = {"head": randomise(TorchvisionHead(2048, 5)), "auxlayer": randomise(TorchvisionHead(1024, 5))}
    state = {f"pretrained.{key}": value for key, value in trunk.state_dict().items()}
    for name, head in heads.items():
        state |= {f"{name}.conv5.{key}": value for key, value in head.state_dict().items()}
    layout = recognise(state | {"pretrained.fc.weight": torch.zeros(10, 2048)})
    assert layout.name == "fcn/encoding"
    ours = create_model("fcn", **layout.arguments(state)).eval()
    assert load_state(ours, state, rules=layout.rules).complete
    image = torch.randn(1, 3, 49, 65)
    third, last = trunk(image)
    outputs, scores = ours.forward_train(image), heads["head"](last)
    assert relative_error(outputs["logits"], scores) <= TOLERANCE
    assert relative_error(outputs["aux"], heads["auxlayer"](third)) <= TOLERANCE
    whole = torch.nn.functional.interpolate(scores, (49, 65), mode="bilinear", align_corners=True)
    assert relative_error(ours(image), whole) <= TOLERANCE
    back = to_theirs(ours.state_dict(), layout.rules)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_encoding_s_network_on_resnest() -> None:
    as_theirs("fcn/encoding_resnest", "fcn", backbone="resnest50", num_classes=59, align_corners=True)


@torch.inference_mode()
def test_the_convolutions_of_mmsegmentation_s_d6_models_are_dilated() -> None:
    """By its head: all but the one that sees the feature again, padded by as much; that one reads the feature first."""
    head = exercised(FCNHead(channels=(8,), num_classes=3, decoder_channels=4, convs=2, concatenate=True, dilation=6))
    feature = torch.randn(1, 8, 15, 17)

    def conv(x: Tensor, module: Any, dilation: int) -> Tensor:
        norm = module.norm
        y = F.conv2d(x, module.conv.weight, None, 1, dilation, dilation)
        return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()

    x = conv(conv(feature, head.convs[0], 6), head.convs[1], 6)
    x = conv(torch.cat([feature, x], 1), head.concatenate, 1)
    assert relative_error(head([feature]), head.classifier(x)) <= TOLERANCE


def test_published_parameters() -> None:
    model = create_model("fcn_resnet50", num_classes=19)
    assert sum(p.numel() for p in model.decoder.parameters()) == 23_605_779
    assert sum(p.numel() for p in model.auxiliary.parameters()) == 2_364_691
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 49.50
    assert round(sum(p.numel() for p in create_model("fcn", num_classes=21).parameters()) / 1e6, 2) == 35.32
