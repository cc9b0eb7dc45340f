"""What the contracts promise of a backbone, held against every registered one, and against timm's through our door."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.backbones.mit import VARIANTS
from segmentarium.contracts import Backbone
from segmentarium.meta import on_meta
from segmentarium.registry import create_model, entry
from tests.conformance.subjects import CLASSIFIERS, enrolled, in_turn, inputs, one_of_each, relative_error, size_for
from tests.parity.comparison import randomise

SMALL = one_of_each(CLASSIFIERS)
TIMM = ["timm:mobilenetv3_small_050", "timm:convnext_atto", "timm:test_vit"]
DILATED = [name for name in CLASSIFIERS if "output_stride" in inspect.signature(entry(name).build).parameters]
SIZES = [(97, 129), (32, 32), (64, 33)]


def small(name: str, **arguments: object) -> Backbone:
    """The backbone in its tiny form, if it has one."""
    return create_backbone(name, **{**({} if name in TIMM else entry(name).tiny), **arguments})


def assert_pyramid(backbone: Backbone, features: list[Tensor], size: tuple[int, int]) -> None:
    assert len(features) == len(backbone.channels) == len(backbone.strides) == len(backbone.out_indices)
    assert list(backbone.strides) == sorted(backbone.strides)
    for feature, channels, stride in zip(features, backbone.channels, backbone.strides, strict=True):
        assert feature.shape[1:] == (channels, *(-(-side // stride) for side in size))


@pytest.mark.parametrize(("name", "in_channels"), in_turn(CLASSIFIERS, [(3,), (1,), (4,)], "in_channels"))
def test_channels_and_strides_are_true(name: str, in_channels: int) -> None:
    with on_meta(), torch.no_grad():
        backbone = create_backbone(name, in_channels=in_channels).eval()
        for size in SIZES:
            size = size_for(backbone, *size)
            assert_pyramid(backbone, backbone(torch.empty(2, in_channels, *size)), size)
    assert backbone.num_classes is None
    assert [key for key in backbone.state_dict() if "classifier" in key] == []


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_any_features_come_out(name: str) -> None:
    """Each feature alone is the one that comes with the others; without a choice, those of stride 4 and more."""
    whole = randomise(small(name))
    size = size_for(whole, 64, 96)
    image = torch.randn(1, 3, *size)
    features = dict(zip(whole.out_indices, whole(image), strict=True))
    assert min(whole.strides) == 4 or len(set(whole.strides)) == 1  # a plain transformer's
    for index in (whole.out_indices[0] - 1, *features):
        if index < 0:
            continue
        one = small(name, out_indices=(index,)).eval()
        one.load_state_dict({key: whole.state_dict()[key] for key in one.state_dict()})
        (feature,) = one(image)
        assert_pyramid(one, [feature], size)
        if index in features:
            assert torch.equal(feature, features[index])
    for wrong in ((), (17,), (-1,)):
        with pytest.raises(ValueError, match=r"out_indices is .*; give some of 0, 1"):
            small(name, out_indices=wrong)


@pytest.mark.parametrize("name", [*SMALL, *TIMM])
def test_classify_is_what_the_classifier_gives(name: str) -> None:
    tiny = {} if name in TIMM else entry(name).tiny
    model = randomise(create_model(name, num_classes=5, **tiny)).requires_grad_(False)
    image = torch.randn(2, 3, *size_for(model, 64, 96))
    assert torch.equal(model(image), model.backbone.classify(image))
    assert model(image).shape == (2, 5)
    assert relative_error(model(image[1:]), model(image)[1:]) < 1e-4
    assert model.backbone.embed(image).ndim == 2
    bare = small(name)
    assert bare.embed(image).shape == (2, bare.channels[-1])
    with pytest.raises(ValueError, match=r"has no classifier; build it with num_classes"):
        bare.classify(image)
    with pytest.raises(ValueError, match=r"num_classes is 0"):
        small(name, num_classes=0)


@pytest.mark.parametrize("name", [*SMALL, *TIMM])
def test_layers_have_depths(name: str) -> None:
    """From the stem's 0 to the classifier's `num_layers`, none left out."""
    backbone = small(name, num_classes=3)
    depths = {key: backbone.depth_of(key) for key, _ in backbone.named_parameters()}
    assert sorted(set(depths.values())) == list(range(backbone.num_layers + 1))
    own = [depth for key, depth in depths.items() if not key.startswith("inserted.")]
    assert (own[0], own[-1]) == (0, backbone.num_layers)
    assert backbone.no_weight_decay() <= depths.keys()


@pytest.mark.parametrize(("name", "output_stride"), in_turn(DILATED, [(8,), (16,), (32,)]))
def test_output_stride(name: str, output_stride: int) -> None:
    with on_meta(), torch.no_grad():
        backbone = create_backbone(name, output_stride=output_stride).eval()
        assert_pyramid(backbone, backbone(torch.empty(1, 3, 97, 129)), (97, 129))
    assert max(backbone.strides) == output_stride
    assert backbone.strides[backbone.at(output_stride)] == output_stride
    assert backbone.at(output_stride) == len(backbone.strides) - 1
    with pytest.raises(ValueError, match="has no feature of stride 7"):
        backbone.at(7)


@pytest.mark.parametrize("name", DILATED)
def test_an_impossible_output_stride_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"output_stride is 7.*8, 16 or 32"), on_meta():
        create_backbone(name, output_stride=7)


@pytest.mark.parametrize("name", one_of_each(DILATED))
@torch.inference_mode()
def test_dilation_keeps_the_weights_and_where_strided_features_agree(name: str) -> None:
    strided = randomise(small(name))
    dilated = small(name, output_stride=8).eval()
    dilated.load_state_dict(strided.state_dict())
    image = torch.randn(1, 3, 97, 129)
    for a, b, stride in zip(strided(image), dilated(image), strided.strides, strict=True):
        if stride <= 8:
            assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("size", VARIANTS)
def test_mit_has_the_published_parameters(size: str) -> None:
    """The paper counts the encoder alone, which no classifier's card can say."""
    with on_meta():
        encoder = create_backbone(f"mit_{size}")
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(VARIANTS[size][2], rel=0.025)


@pytest.mark.parametrize("name", enrolled(SMALL, "gradients"))
def test_features_are_finite_and_every_parameter_learns(name: str) -> None:
    backbone = randomise(small(name)).train()
    features = backbone(torch.randn(2, 3, *size_for(backbone, 97, 129)))
    assert all(feature.isfinite().all() for feature in features)
    sum(feature.square().mean() for feature in features).backward()
    assert [key for key, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", enrolled(SMALL, "compile"))
@torch.inference_mode()
def test_compiles_as_one_graph(name: str) -> None:
    torch._dynamo.reset()
    backbone = randomise(small(name))
    image = torch.randn(1, 3, *size_for(backbone, 64, 96))
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
    model = create_model(name, num_classes=3, backbone=TIMM[0]).eval()
    assert model(inputs(model, 97, 129)).shape == (1, 3, 97, 129)
    assert torch.allclose(model.deploy()(inputs(model, 64, 64)), model(inputs(model, 64, 64)), atol=1e-4)


def test_only_plain_transformers_have_tokens() -> None:
    for name in ("mit_b0", "timm:convnext_atto"):
        with pytest.raises(ValueError, match="no plain transformer"):
            create_backbone(name).forward_tokens(torch.zeros(1, 3, 64, 64), (0,))


def test_a_backbone_stands_for_its_name() -> None:
    made = create_backbone("df1")
    assert create_backbone(made) is made
    with pytest.raises(TypeError, match=r"Conv2d is no backbone"):
        create_backbone(nn.Conv2d(3, 3, 1))
