"""What makes DPT DPT: its readout, what commutes with enlargement, and where it can stand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.registry import create_model
from segmentarium.semantic.dpt import DPTDecoder, Fusion, Reassemble
from tests.parity.comparison import randomise

VIT: dict[str, Any] = {"embed_dim": 32, "depth": 4, "heads": 2, "image_size": 64}
SMALL: dict[str, Any] = {"num_classes": 3, "decoder_channels": 8, "widths": (8, 8, 16, 32)}


def map_and_tokens() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 8, 3, 5), torch.randn(2, 2, 8)


@torch.inference_mode()
def test_the_readout_projects_the_class_token_beside_every_place() -> None:
    reassemble = Reassemble(8, 4, 1, "project")
    x, tokens = map_and_tokens()
    places = x.flatten(2).transpose(1, 2)
    joined = torch.cat([places, tokens[:, :1].expand_as(places)], -1)
    assert reassemble.readout is not None
    expected = F.gelu(reassemble.readout(joined)).transpose(1, 2).unflatten(2, (3, 5))
    assert torch.allclose(reassemble.read(x, tokens), expected, atol=1e-5)


@torch.inference_mode()
def test_the_other_readouts() -> None:
    x, tokens = map_and_tokens()
    assert torch.equal(Reassemble(8, 4, 1, "ignore").read(x, tokens), x)
    assert torch.equal(Reassemble(8, 4, 1, "add").read(x, tokens[:, :1]), x + tokens[:, 0, :, None, None])


@torch.inference_mode()
def test_the_pointwise_convolution_commutes_with_the_enlargement() -> None:
    fusion = randomise(Fusion(8, skip=True))
    assert isinstance(fusion, Fusion)
    assert fusion.skip_unit is not None
    skip, below = torch.randn(1, 8, 5, 7), torch.randn(1, 8, 6, 8)
    x = fusion.unit(below[..., :5, :7] + fusion.skip_unit(skip))
    theirs = fusion.out(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))
    assert torch.allclose(fusion(skip, below), theirs, atol=1e-5)


def test_the_maps_have_the_strides_of_a_pyramid() -> None:
    for strides, expected in (
        ((16,) * 4, (4, 2, 1, 0.5)),
        ((14,) * 4, (4, 2, 1, 0.5)),
        ((4, 8, 16, 16), (1, 1, 1, 0.5)),
    ):
        decoder = DPTDecoder(channels=(32,) * 4, strides=strides, prefixes=(0, 0, 1, 1), **SMALL)
        x = torch.zeros(1, 32, 4, 4)
        sides = [block(x, None).shape[-1] / 4 if isinstance(block, Reassemble) else 1 for block in decoder.reassemble]
        assert tuple(sides) == expected


@pytest.mark.parametrize(
    ("backbone", "arguments", "own"),
    [
        ("vit_tiny_patch16_224", VIT, {"readout": "project"}),
        ("vit_tiny_patch16_224", {**VIT, "patch": 8, "registers": 4}, {"readout": "add"}),
        ("beit_b", VIT, {}),
        ("timm:test_vit", {}, {}),
        ("mit_b0", {"embed_dims": (8, 16, 20, 32), "depths": (1, 1, 1, 1)}, {"readout": "ignore"}),
        ("resnet18", {}, {"readout": "ignore"}),
    ],
)
@torch.inference_mode()
def test_stands_on_what_has_four_maps(backbone: str, arguments: dict[str, Any], own: dict[str, Any]) -> None:
    model = create_model("dpt_base", backbone=backbone, backbone_arguments=arguments, **SMALL, **own).eval()
    image = torch.randn(1, 3, 49, 71)
    assert model(image).shape == (1, 3, 49, 71)
    outputs = model.forward_train(image)
    assert outputs.keys() == {"logits", "aux"}
    assert torch.equal(outputs["logits"], model.logits(image))


@pytest.mark.parametrize(
    ("backbone", "arguments", "own", "message"),
    [
        ("resnet18", {}, {}, "and this backbone has none; give readout='ignore'"),
        ("resnet18", {"out_indices": (1, 2, 3)}, {}, "fuses four features, and this backbone has 3"),
        ("vit_tiny_patch16_224", VIT, {"readout": "cat"}, "give 'ignore', 'add', 'project'"),
        ("vit_tiny_patch16_224", VIT, {"widths": (8, 8)}, "give four"),
    ],
)
def test_says_why_it_cannot(backbone: str, arguments: dict[str, Any], own: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        create_model("dpt_base", backbone=backbone, backbone_arguments=arguments, **{**SMALL, **own})


def test_the_auxiliary_head_sees_the_last_fusion_but_one_and_is_not_kept() -> None:
    model = create_model("dpt_base", backbone="vit_tiny_patch16_224", backbone_arguments=VIT, **SMALL).eval()
    assert [(term.name, term.weight) for term in model.objective] == [("logits", 1.0), ("aux", 0.2)]
    image = torch.randn(1, 3, 64, 64)
    outputs = model.forward_train(image)
    assert (outputs["logits"].shape[-1], outputs["aux"].shape[-1]) == (32, 16)
    grads = torch.autograd.grad(outputs["aux"].sum(), list(model.decoder.fusions[0].parameters()), allow_unused=True)
    assert all(grad is None for grad in grads)
    deployed = model.deploy()
    assert not any("auxiliary" in name for name, _ in deployed.named_modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())


@torch.inference_mode()
def test_a_picture_is_padded_to_whole_patches() -> None:
    model = randomise(create_model("dpt_base", backbone="vit_tiny_patch16_224", backbone_arguments=VIT, **SMALL))
    image = torch.randn(1, 3, 40, 60)
    assert torch.allclose(model(image), model(F.pad(image, (0, 4, 0, 8)))[..., :40, :60], atol=1e-5)
