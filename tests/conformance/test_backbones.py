"""What the contracts promise of a backbone, held against every registered one, and against timm's through our door."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segmentarium.backbones import create_backbone
from segmentarium.registry import entry
from tests.conformance.subjects import BACKBONES, build, enrolled, inputs, millions, smallest_of_each
from tests.parity.comparison import randomise

SMALL = smallest_of_each(BACKBONES)
TIMM = ["timm:mobilenetv3_small_050", "timm:convnext_atto"]
DILATED = [name for name in BACKBONES if "output_stride" in inspect.signature(entry(name).build).parameters]
SIZES = [(97, 129), (32, 32), (64, 33)]


def assert_pyramid(backbone: nn.Module, features: list[Tensor], size: tuple[int, int]) -> None:
    assert len(features) == len(backbone.channels) == len(backbone.strides)
    assert list(backbone.strides) == sorted(backbone.strides)
    for feature, channels, stride in zip(features, backbone.channels, backbone.strides, strict=True):
        assert feature.shape[1:] == (channels, *(-(-side // stride) for side in size))


@pytest.mark.parametrize("in_channels", [1, 3, 4])
@pytest.mark.parametrize("name", enrolled(BACKBONES, "in_channels"))
def test_channels_and_strides_are_true(name: str, in_channels: int) -> None:
    with torch.device("meta"), torch.no_grad():
        backbone = create_backbone(name, in_channels=in_channels).eval()
        for size in SIZES if in_channels == 3 else SIZES[:1]:
            assert_pyramid(backbone, backbone(torch.empty(2, in_channels, *size)), size)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", DILATED)
def test_output_stride(name: str, output_stride: int) -> None:
    with torch.device("meta"), torch.no_grad():
        backbone = create_backbone(name, output_stride=output_stride).eval()
        assert_pyramid(backbone, backbone(torch.empty(1, 3, 97, 129)), (97, 129))
    assert max(backbone.strides) == output_stride


@pytest.mark.parametrize("name", DILATED)
def test_an_impossible_output_stride_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"output_stride is 7.*8, 16 or 32"), torch.device("meta"):
        create_backbone(name, output_stride=7)


@pytest.mark.parametrize("name", smallest_of_each(DILATED))
@torch.inference_mode()
def test_dilation_keeps_the_weights_and_where_strided_features_agree(name: str) -> None:
    strided = randomise(create_backbone(name))
    dilated = create_backbone(name, output_stride=8).eval()
    dilated.load_state_dict(strided.state_dict())
    image = torch.randn(1, 3, 97, 129)
    for a, b, stride in zip(strided(image), dilated(image), strided.strides, strict=True):
        if stride <= 8:
            assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    "name", enrolled([name for name in BACKBONES if entry(name).card.parameters is not None], "parameters")
)
def test_parameters_as_published(name: str) -> None:
    published = entry(name).card.parameters
    with torch.device("meta"):
        backbone = build(name)
    assert millions(backbone, training_only=True) == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize("name", enrolled([name for name in BACKBONES if entry(name).card.flops is not None], "flops"))
def test_flops_as_published(name: str) -> None:
    card = entry(name).card
    assert card.flops_size is not None
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone = build(name).eval()
        classify = getattr(backbone, "classify", backbone)
        classify(torch.empty(1, 3, *card.flops_size))
    assert counter.get_total_flops() / 2e9 == pytest.approx(card.flops, rel=0.03)


@pytest.mark.parametrize("name", enrolled(SMALL, "gradients"))
def test_features_are_finite_and_every_parameter_learns(name: str) -> None:
    backbone = randomise(create_backbone(name)).train()
    features = backbone(torch.randn(2, 3, 97, 129))
    assert all(feature.isfinite().all() for feature in features)
    sum(feature.square().mean() for feature in features).backward()
    assert [key for key, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", enrolled(SMALL, "compile"))
@torch.inference_mode()
def test_compiles_as_one_graph(name: str) -> None:
    torch._dynamo.reset()
    backbone = randomise(create_backbone(name))
    image = torch.randn(1, 3, 64, 96)
    for a, b in zip(torch.compile(backbone, fullgraph=True, backend="eager")(image), backbone(image), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", TIMM)
def test_timm_models_are_backbones(name: str) -> None:
    for in_channels in (1, 3, 4):
        backbone = create_backbone(name, in_channels=in_channels).eval()
        with torch.inference_mode():
            assert_pyramid(backbone, backbone(torch.randn(1, in_channels, 64, 96)), (64, 96))


@pytest.mark.parametrize("name", ["segformer_b0", "deeplabv3plus", "pspnet", "fcn"])
@torch.inference_mode()
def test_a_decoder_stands_on_a_timm_model(name: str) -> None:
    model = build(name, num_classes=3, backbone=TIMM[0]).eval()
    assert model(inputs(model, 97, 129)).shape == (1, 3, 97, 129)
    assert torch.allclose(model.deploy()(inputs(model, 64, 64)), model(inputs(model, 64, 64)), atol=1e-4)
