"""Decoders that read the class token beside the map: what backbones give them, and what is asked of backbones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.composition import EncoderDecoder
from segmentarium.contracts import Decoder

VIT: dict[str, Any] = {"embed_dim": 32, "depth": 4, "heads": 2, "image_size": 64}
HYBRID: dict[str, Any] = {**VIT, "stem_blocks": (1, 1, 1), "stem_width": 32, "patch": 1}


class Reader(Decoder):
    """The deepest map's class scores, plus the class token's."""

    takes_prefix = True
    final_norm = False

    def __init__(
        self, *, channels: Sequence[int], strides: Sequence[int], prefixes: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        if not prefixes[-1]:
            raise ValueError("there is no class token; give a plain transformer")
        self.covers = strides[-1]
        self.score = nn.Linear(channels[-1], num_classes)

    def forward(self, features: Sequence[Tensor], *prefix: Sequence[Tensor | None]) -> Tensor:
        token = prefix[0][-1]
        assert token is not None
        scores = self.score(features[-1].permute(0, 2, 3, 1)) + self.score(token[:, :1])[:, None]
        return scores.permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("name", "arguments", "prefixes"),
    [
        ("vit_tiny_patch16_224", VIT, (1, 1, 1, 1)),
        ("vit_tiny_patch16_224", {**VIT, "distilled": True, "registers": 3}, (5, 5, 5, 5)),
        ("vit_small_r26_s32_224", HYBRID, (0, 0, 1, 1)),
        ("beit_b", VIT, (1, 1, 1, 1)),
        ("timm:test_vit", {"out_indices": "quarters"}, (1, 1, 1, 1)),
        ("timm:test_vit", {}, (1, 1, 1)),
        ("timm:test_vit3", {}, None),
        ("mit_b0", {}, (0, 0, 0, 0)),
        ("timm:convnext_atto", {}, (0, 0, 0, 0)),
    ],
)
@torch.inference_mode()
def test_features_come_with_their_prefix_tokens(
    name: str, arguments: dict[str, Any], prefixes: tuple[int, ...] | None
) -> None:
    backbone = create_backbone(name, **arguments).eval()
    image = torch.randn(2, 3, 49, 70)
    features, tokens = backbone.forward_with_prefix(image)
    assert backbone.prefixes == tuple(0 if token is None else token.shape[1] for token in tokens)
    assert prefixes in (None, backbone.prefixes)
    assert all(torch.equal(a, b) for a, b in zip(features, backbone(image), strict=True))
    for feature, token in zip(features, tokens, strict=True):
        assert token is None or token.shape[::2] == feature.shape[:2]


def test_a_decoder_reads_them_or_says_why_not() -> None:
    model = EncoderDecoder(Reader, num_classes=3, backbone="vit_tiny_patch16_224", backbone_arguments=VIT).eval()
    image = torch.randn(1, 3, 64, 80)
    with torch.inference_mode():
        (grid, token), *_ = model.backbone.forward_tokens(image, (3,))
        score = model.decoder.score  # type: ignore[union-attr]
        expected = score(grid.permute(0, 2, 3, 1) + token[:, None]) + score.bias  # type: ignore[operator]
        assert torch.allclose(model.logits(image), expected.permute(0, 3, 1, 2), atol=1e-5)
    with pytest.raises(ValueError, match="there is no class token"):
        EncoderDecoder(Reader, num_classes=3, backbone="mit_b0")


@torch.inference_mode()
def test_the_padding_is_cropped_from_outputs() -> None:
    model = EncoderDecoder(Reader, num_classes=3, backbone="vit_tiny_patch16_224", backbone_arguments=VIT).eval()
    image = torch.randn(1, 3, 50, 70)
    whole = nn.functional.pad(image, (0, 10, 0, 14))
    assert torch.allclose(model(image), model(whole)[..., :50, :70], atol=1e-5)
    assert torch.equal(model(image), model.forward_train(image)["logits"])
    assert model.forward_train(whole)["logits"].shape == (1, 3, 4, 5)


@torch.inference_mode()
def test_the_final_norm_is_asked_for() -> None:
    class Normed(Reader):
        final_norm = True

    for name, arguments in (("vit_tiny_patch16_224", VIT), ("timm:test_vit", {})):
        raw = EncoderDecoder(Reader, num_classes=3, backbone=name, backbone_arguments=arguments).eval()
        normed = EncoderDecoder(Normed, num_classes=3, backbone=name, backbone_arguments=arguments).eval()
        state = normed.state_dict()
        raw.load_state_dict({key: state[key] for key in raw.state_dict()})
        image = torch.randn(1, 3, 64, 64)
        body = normed.backbone.get_submodule("body") if "timm" in name else normed.backbone
        features = raw.features(image)[-1].permute(0, 2, 3, 1)
        assert torch.allclose(body.norm(features), normed.features(image)[-1].permute(0, 2, 3, 1), atol=1e-4)  # type: ignore[operator]


@torch.inference_mode()
def test_the_distillation_token_has_a_place_of_its_own() -> None:
    backbone = create_backbone("vit_tiny_patch16_224", **VIT, distilled=True).eval()
    assert backbone.positions.shape[1] == 2 + 16  # type: ignore[union-attr]
    tokens, _ = backbone.embed_patches(torch.zeros(1, 3, 64, 64))  # type: ignore[operator]
    expected = backbone.distillation_token + backbone.positions[:, 1:2]  # type: ignore[index,operator]
    assert torch.equal(tokens[:, 1:2], expected)
    with pytest.raises(ValueError, match="distilled is True"):
        create_backbone("vit_tiny_patch16_224", distilled=True, class_token=False, pool="mean")
