"""DeepLabV3+ against mmsegmentation's recorded outputs, segmentation-models-pytorch, and VainF's arrangement of torchvision's
parts; detectron2's by its keys and definition."""

from __future__ import annotations

from types import ModuleType

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import ASPP as TorchvisionASPP

from segmentarium import create_model
from segmentarium.layers.aspp import ASPP
from segmentarium.semantic.deeplabv3plus import DeepLabV3PlusDecoder
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.layouts.deeplabv3plus import mmseg_head
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, as_theirs, example, golden_state, randomise, relative_error


@torch.inference_mode()
def test_head_equals_mmsegmentation(golden: ModuleType) -> None:
    state, description, outputs = golden_state(golden, "semantic/deeplabv3plus-head")
    head = DeepLabV3PlusDecoder(
        channels=(16, 48),
        strides=(4, 8),
        num_classes=5,
        decoder_channels=24,
        low_channels=6,
        form="mmseg",
    ).eval()
    load_state(head, state, rules=mmseg_head("", ""))
    logits = head([example(golden, description, "c1"), example(golden, description, "c4")])
    assert golden.relative_error(logits.numpy(), outputs["out"]) < 1e-4


def test_the_widths_are_read_off_the_weights(golden: ModuleType) -> None:
    state, _, _ = golden_state(golden, "semantic/deeplabv3plus-r18")
    arguments = get_layout("deeplabv3plus/mmseg").arguments(state)
    assert (arguments["backbone"], arguments["decoder_channels"], arguments["low_channels"]) == (
        "resnet18_v1c",
        128,
        12,
    )


@pytest.mark.parametrize(
    ("encoder", "output_stride", "layout_name"),
    [
        ("resnet18", 16, "deeplabv3plus/smp_resnet"),
        ("resnet50", 16, "deeplabv3plus/smp_resnet"),
        ("resnet50", 8, "deeplabv3plus/smp_resnet"),
        ("mobilenet_v2", 16, "deeplabv3plus/smp_mobilenet_v2"),
        ("mobilenet_v2", 8, "deeplabv3plus/smp_mobilenet_v2"),
    ],
)
@torch.inference_mode()
def test_equals_smp(encoder: str, output_stride: int, layout_name: str) -> None:
    theirs = smp.DeepLabV3Plus(encoder, encoder_weights=None, classes=5, encoder_output_stride=output_stride)
    randomise(theirs)
    state = theirs.state_dict()
    layout = recognise(state)
    assert layout is get_layout(layout_name)
    ours = create_model("deeplabv3plus", **layout.arguments(state), output_stride=output_stride).eval()
    load_state(ours, state, rules=layout.rules)
    image = torch.randn(2, 3, 128, 96)
    assert relative_error(ours(image), theirs(image)) < 1e-4


class VainFHead(nn.Module):
    """Its head, of torchvision's parts under its names."""

    def __init__(self, channels: int, low: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Conv2d(low, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU())
        self.aspp = TorchvisionASPP(channels, (6, 12, 18))
        conv = nn.Conv2d(304, 256, 3, padding=1, bias=False)
        self.classifier = nn.Sequential(conv, nn.BatchNorm2d(256), nn.ReLU(), nn.Conv2d(256, 5, 1))

    def forward(self, low: Tensor, deep: Tensor) -> Tensor:
        low = self.project(low)
        return self.classifier(torch.cat([low, F.interpolate(self.aspp(deep), low.shape[2:], mode="bilinear")], 1))


def vainf_mobilenet() -> nn.Module:
    """torchvision's at output stride 16, with zeros around what blocks take instead of around what they convolve depthwise."""
    row = torchvision.models.mobilenet_v2(weights=None).features
    row[0][0].padding = (0, 0)
    for index, block in enumerate(row[1:18], 1):
        rate = 2 if index > 14 else 1
        depthwise = block.conv[-3][0]
        depthwise.padding = (0, 0)
        if index == 14:
            depthwise.stride = (1, 1)
        depthwise.dilation = (rate, rate)
        block.conv.register_forward_pre_hook(lambda _, given, r=rate: (F.pad(given[0], (r, r, r, r)),))
        block.use_res_connect = block.use_res_connect and index != 14
    return row[:18]


@pytest.mark.parametrize("trunk", ["resnet50", "mobilenet_v2"])
@torch.inference_mode()
def test_equals_vainf(trunk: str) -> None:
    image = torch.randn(1, 3, 65, 49)
    if trunk == "resnet50":
        net = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
        backbone, name = (
            randomise(IntermediateLayerGetter(net, {"layer1": "low", "layer4": "deep"})),
            "vainf",
        )
        state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
        features = backbone(image)
        low, deep = features["low"], features["deep"]
    else:
        row, name = randomise(vainf_mobilenet()), "vainf_mobilenet_v2"
        parts = {True: "low_level_features", False: "high_level_features"}
        state = {
            f"backbone.{parts[int(key.split('.')[0]) < 4]}.{key}": value for key, value in row.state_dict().items()
        }
        low = row[:4](image)
        deep = row[4:](low)
    head = randomise(VainFHead(deep.shape[1], low.shape[1]))
    state |= {f"classifier.{key}": value for key, value in head.state_dict().items()}
    layout = recognise(state)
    assert layout.name == f"deeplabv3plus/{name}"
    ours = create_model("deeplabv3plus", **layout.arguments(state)).eval()
    load_state(ours, state, rules=layout.rules)
    assert relative_error(ours.forward_train(image)["logits"], head(low, deep)) <= TOLERANCE
    back = to_theirs(ours.state_dict(), layout.rules)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())


DETECTRON2 = {
    "output_stride": 16,
    "form": "detectron2",
    "pool_window": (32, 64),
    "auxiliary": False,
    "backbone": "resnet101_v1s",
    "backbone_arguments": {"multigrid": (2, 4, 8)},
}


def test_detectron2_s_network() -> None:
    pixels = {"pixel_mean": (3, 1, 1), "pixel_std": (3, 1, 1)}
    as_theirs("deeplabv3plus/detectron2", "deeplabv3plus", pixels, num_classes=19, **DETECTRON2)


@torch.inference_mode()
def test_the_mean_of_windows() -> None:
    """Of a map of one window it is the mean; of a larger one as many means as windows have places."""
    aspp = randomise(
        ASPP(8, 4, (1, 2, 3), separable_convs=False, image_pool_first=False, pool_norm=False, pool_window=(4, 6))
    )
    convolve = aspp.image_pool
    assert isinstance(convolve.conv.bias, nn.Parameter)
    for size, places in (((4, 6), (1, 1)), ((8, 12), (5, 7)), ((3, 12), (1, 7))):
        x = torch.randn(2, 8, *size)
        means = torch.stack(
            [
                torch.stack([x[..., i : i + 4, j : j + 6].mean((2, 3)) for j in range(places[1])], -1)
                for i in range(places[0])
            ],
            -2,
        )
        image = F.interpolate(convolve(means), size, mode="bilinear", align_corners=False)
        expected = aspp.project(torch.cat([*(branch(x) for branch in aspp.branches), image], 1))
        assert relative_error(aspp(x), expected) <= TOLERANCE


def test_published_parameters() -> None:
    model = create_model("deeplabv3plus_resnet50", num_classes=19)
    assert sum(p.numel() for p in model.decoder.parameters()) == 17_697_923
    assert sum(p.numel() for p in model.auxiliary.parameters()) == 2_364_691
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 43.59
    small = create_model("deeplabv3plus_resnet18", num_classes=19)
    assert round(sum(p.numel() for p in small.parameters()) / 1e6, 2) == 12.47


def test_one_image_trains() -> None:
    """Image pooling gives one value a channel for one image: its norm then uses the running statistics."""
    model = create_model("deeplabv3plus_mobilenet_v2", num_classes=3).train()
    pooled_norm = model.decoder.aspp.image_pool.norm
    before = pooled_norm.running_mean.clone()
    losses = model.criterion(model.forward_train(torch.randn(1, 3, 65, 97)), {"mask": torch.randint(0, 3, (1, 65, 97))})
    sum(losses.values()).backward()
    assert set(losses) == {"logits", "aux"}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert torch.equal(pooled_norm.running_mean, before)
    model.forward_train(torch.randn(2, 3, 65, 97))
    assert not torch.equal(pooled_norm.running_mean, before)


def test_rates_follow_the_output_stride_and_errors_are_clear() -> None:
    def rates(**arguments: object) -> list[int]:
        decoder = DeepLabV3PlusDecoder(channels=(8, 16), num_classes=2, decoder_channels=8, **arguments)
        return [branch.depthwise.conv.dilation[0] for branch in decoder.aspp.branches[1:]]

    assert rates(strides=(4, 16)) == [6, 12, 18]
    assert rates(strides=(4, 8)) == [12, 24, 36]
    assert rates(strides=(4, 8), rates=(2, 3, 4)) == [2, 3, 4]
    assert rates(strides=(4, 16), form="smp") == [12, 24, 36]
    with pytest.raises(ValueError, match="form is 'caffe'"):
        create_model("deeplabv3plus", num_classes=2, form="caffe")
    with pytest.raises(TypeError, match="it is called 'num_classes'"):
        create_model("deeplabv3plus", classes=2)
