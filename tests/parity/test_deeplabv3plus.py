"""DeepLabV3+ against mmsegmentation's recorded outputs and against segmentation-models-pytorch."""

from __future__ import annotations

from types import ModuleType

import pytest
import segmentation_models_pytorch as smp
import torch

from segmentarium import create_model
from segmentarium.semantic.deeplabv3plus import DeepLabV3PlusDecoder
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.layouts.deeplabv3plus import mmseg_head
from segmentarium.weights.table import load_state
from tests.parity.comparison import example, golden_state, randomise, relative_error


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
