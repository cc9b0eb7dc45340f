"""MAE: what the encoder sees, what is asked of the decoder, and where its backbone goes afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segmentarium.backbones import create_backbone
from segmentarium.layers.patches import patchify, unpatchify
from segmentarium.losses import MaskedPatches
from segmentarium.meta import on_meta
from segmentarium.pretraining.mae import MAE, fixed_positions
from segmentarium.registry import create_model
from segmentarium.weights import load_part, save

VIT: dict[str, Any] = {"embed_dim": 32, "depth": 3, "heads": 2, "image_size": 64}
SMALL: dict[str, Any] = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "backbone_arguments": VIT}


def made(**arguments: Any) -> Any:
    torch.manual_seed(0)
    return create_model("mae", **{**SMALL, **arguments}).eval()


def noise(model: Any, size: tuple[int, int] = (64, 64), batch: int = 2) -> Tensor:
    rng = np.random.default_rng(1)
    return torch.stack([model.draw(rng, size)["noise"] for _ in range(batch)])


def test_patches_go_by_row_column_and_channel_and_come_back() -> None:
    image = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    patches = patchify(image, 2)
    assert patches.shape == (2, 6, 12)
    assert patches[0, 1].tolist() == [image[0, c, y, x] for y in (0, 1) for x in (2, 3) for c in range(3)]
    assert torch.equal(unpatchify(patches, (2, 3), 2), image)


def test_what_is_hidden_is_drawn_evenly_and_without_ties() -> None:
    model = made()
    rng = np.random.default_rng(0)
    drawn = torch.stack([model.draw(rng, (224, 224))["noise"] for _ in range(400)])
    assert all(len(row.unique()) == 196 for row in drawn)
    seen = torch.zeros(400, 196).scatter(1, model.kept(drawn), 1.0)
    assert (seen.sum(1) == 49).all()
    assert abs(float(seen.mean(0).std()) - (0.25 * 0.75 / 400) ** 0.5) < 0.005
    for share, count in ((0.8, 2), (0.9, 1), (0.95, 1), (0.0, 10)):
        assert made(mask_ratio=share).kept(torch.rand(1, 10)).shape == (1, count)


@torch.no_grad()
def test_hidden_pixels_reach_nothing() -> None:
    model = made()
    image, drawn = torch.randn(2, 3, 64, 64), noise(made())
    outputs = model.forward_train(image, drawn)
    hidden = outputs["hidden"]
    assert hidden.sum(1).tolist() == [12, 12]
    changed = patchify(image, 16)
    changed[hidden] = 100.0
    other = model.forward_train(unpatchify(changed, (4, 4), 16), drawn)
    assert torch.equal(other["prediction"], outputs["prediction"])
    changed[~hidden] = 0.0
    assert not torch.allclose(model(unpatchify(changed, (4, 4), 16), drawn), outputs["prediction"])


@torch.no_grad()
def test_every_patch_is_put_back_in_its_place() -> None:
    """Which patches are seen matters, and not in which order."""
    model = made(mask_ratio=0.5)
    image, drawn = torch.randn(2, 3, 64, 64), noise(made())
    order = drawn.argsort(1)
    turned = torch.empty_like(drawn).scatter(
        1, torch.cat([order[:, :8].flip(1), order[:, 8:]], 1), drawn.sort(1).values
    )
    assert not torch.equal(turned, drawn)
    assert torch.allclose(model(image, turned), model(image, drawn), atol=1e-5)


def test_the_encoder_s_work_falls_with_what_it_sees() -> None:
    """ViT-L as published: of 197 tokens the encoder gets 50, and a whole step has a third of the multiplications."""
    tokens, work = {}, {}
    for share in (0.75, 0.0):
        with on_meta(), torch.no_grad():
            model = create_model("mae_large", mask_ratio=share)
            model.backbone.blocks[0].register_forward_hook(
                lambda _module, given, _output, share=share: tokens.update({share: given[0].shape[1]})
            )
            given = model.example(2, (224, 224))
            with FlopCounterMode(display=False) as encoder:
                model.encode(*given)
            with FlopCounterMode(display=False) as whole:
                model(*given)
        work[share] = encoder.get_total_flops(), whole.get_total_flops()
    assert tokens == {0.75: 50, 0.0: 197}
    assert work[0.0][0] / work[0.75][0] > 3.8
    assert work[0.0][1] / work[0.75][1] > 3.0


def test_places_are_fixed_and_the_column_s_come_first() -> None:
    table = fixed_positions((2, 3), 8, 1)[0]
    assert table[0].tolist() == [0.0] * 8
    rates = torch.tensor([1.0, 0.01])
    for i, (y, x) in enumerate((y, x) for y in range(2) for x in range(3)):
        place = torch.cat([(x * rates).sin(), (x * rates).cos(), (y * rates).sin(), (y * rates).cos()])
        assert torch.allclose(table[1 + i], place, atol=1e-6)
    with pytest.raises(ValueError, match="multiple of 4"):
        fixed_positions((2, 2), 6, 0)
    model = made()
    assert torch.equal(model.backbone.positions, fixed_positions((4, 4), 32, 1))
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"backbone.positions", "decoder.positions"}


def test_the_mean_predictor_s_loss_is_one_and_the_truth_s_is_zero() -> None:
    image = torch.rand(2, 3, 64, 64) * torch.rand(2, 3, 1, 1) + 3
    hidden = torch.rand(2, 16) < 0.75
    loss = MaskedPatches(16)
    target = loss.target(image)
    assert float(loss(torch.zeros_like(target), hidden, image)) == pytest.approx(767 / 768, abs=1e-3)
    assert float(loss(target, hidden, image)) == 0
    wrong = torch.where(hidden[..., None], target, target + 5)  # what was seen does not count
    assert float(loss(wrong, hidden, image)) == 0
    assert float(loss(wrong, torch.zeros_like(hidden), image)) == 0
    pixels = MaskedPatches(16, normalise=False)
    assert torch.equal(pixels.target(image), patchify(image, 16))
    assert float(pixels(patchify(image, 16) + 2, hidden, image)) == pytest.approx(4, rel=1e-4)


@pytest.mark.parametrize("normalise", [True, False])
def test_a_true_prediction_paints_the_picture(normalise: bool) -> None:
    model = made(normalise=normalise)
    shown = torch.rand(2, 3, 56, 70)
    batch = {"image": model.preprocessing.normalise(shown), "noise": noise(model, (56, 70))}
    outputs = model.forward_train(batch["image"], batch["noise"])
    outputs["prediction"] = model.losses["pixels"].target(batch["image"])
    pictures = model.reconstruct(outputs, batch)
    assert torch.allclose(pictures["predicted"], shown, atol=1e-4)
    hidden = outputs["hidden"].unflatten(1, (4, 5)).repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :56, :70]
    mean = torch.tensor(model.preprocessing.mean)
    assert torch.allclose(pictures["masked"].permute(0, 2, 3, 1)[hidden], mean)
    assert torch.equal(pictures["masked"].permute(0, 2, 3, 1)[~hidden], pictures["input"].permute(0, 2, 3, 1)[~hidden])
    scores = model.scores(outputs, batch)
    assert scores["loss"] == pytest.approx(0, abs=1e-6)
    assert scores["explained"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("backbone", "arguments"),
    [
        ("timm:vit_tiny_patch16_224", {}),
        ("resnet18", {}),
        ("beit_b", {"image_size": 64}),
        ("vit_small_r26_s32_224", {}),
        ("vit_tiny_patch16_224", {**VIT, "shrink": 1}),
    ],
)
def test_a_backbone_that_cannot_see_some_patches_alone_is_refused(backbone: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"give a plain ViT of ours"), torch.device("meta"):
        MAE(backbone=backbone, backbone_arguments=arguments)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask_ratio is 1\.0"):
        made(mask_ratio=1.0)
    with pytest.raises(ValueError, match="has 3 tokens before those of patches and 1 rows"):
        made(backbone_arguments={**VIT, "registers": 2})
    with pytest.raises(ValueError, match="4×5 patches of 16 pixels, and noise 16 numbers"):
        made()(torch.zeros(1, 3, 64, 80), torch.rand(1, 16))


def test_a_backbone_that_stands_keeps_its_weights() -> None:
    vit = create_backbone("vit_tiny_patch16_224", **VIT)
    before = {key: value.clone() for key, value in vit.state_dict().items()}
    model = MAE(backbone=vit, decoder_dim=16, decoder_depth=1, decoder_heads=2)
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items())
    assert model.preprocessing == vit.preprocessing
    assert model.backbone.positions.requires_grad


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("upernet_vit_base", {"backbone": "vit_tiny_patch16_224", "backbone_arguments": {**VIT, "final_norm": False}}),
        ("segmenter_base", {"backbone": "vit_tiny_patch16_224", "backbone_arguments": {**VIT, "image_size": 96}}),
        ("segformer_b0", {"backbone": "vit_tiny_patch16_224", "neck": "pyramid", "backbone_arguments": VIT}),
        ("vit_tiny_patch16_224", {**VIT, "num_classes": 4}),
    ],
    ids=["without its last norm", "another size", "a decoder of pyramids", "a classifier"],
)
def test_its_backbone_stands_under_a_network_by_one_word(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    model = made()
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    path = save(model, tmp_path / "mae.safetensors")
    network = create_model(name, **{"num_classes": 4, **arguments, "backbone_weights": path})
    own = model.backbone.state_dict()
    for key, value in network.backbone.state_dict().items():
        if key.startswith("classifier"):
            continue
        assert key == "positions" or torch.equal(value, own[key]), key
    assert network.preprocessing.mean == model.preprocessing.mean
    bare = create_backbone("vit_tiny_patch16_224", **VIT)
    assert load_part(bare, "", path).complete
    assert torch.equal(bare.positions, model.backbone.positions)
    assert isinstance(bare.positions, nn.Parameter)
    assert bare.positions.requires_grad  # fixed while it was pretrained, learned from here on


def test_a_file_goes_on_at_another_size(tmp_path: Path) -> None:
    path = save(made(), tmp_path / "mae.safetensors")
    with pytest.warns(UserWarning, match="another shape"):
        larger: Any = create_model("mae", weights=path, backbone_arguments={**VIT, "image_size": 96})
    assert torch.equal(larger.decoder.positions, fixed_positions((6, 6), 16, 1))
    assert larger.backbone.positions.shape == (1, 37, 32)
    with torch.no_grad():
        assert larger.eval()(torch.randn(1, 3, 96, 96), noise(larger, (96, 96), 1)).isfinite().all()
