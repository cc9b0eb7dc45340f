"""BEiT's pretraining: how patches are hidden, where the layer of words looks, and where the tables go afterwards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segmentarium.backbones import create_backbone
from segmentarium.losses import MaskedTokens
from segmentarium.pretraining.beit import MaskedImageModelling, block_mask
from segmentarium.registry import create_model
from segmentarium.weights import load_part, save

BEIT: dict[str, Any] = {"embed_dim": 32, "depth": 3, "heads": 2, "image_size": 96}


def made(**arguments: Any) -> Any:
    torch.manual_seed(0)
    return create_model("beit_mim", **{"vocabulary": 20, "backbone_arguments": BEIT, **arguments}).eval()


def masks(count: int, grid: tuple[int, int] = (14, 14), wanted: int = 75, smallest: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([block_mask(rng, grid, wanted, smallest) for _ in range(count)])


# what is hidden ----------------------------------------------------------------------------------------------------------


def test_never_more_than_asked_and_seldom_fewer() -> None:
    hidden = masks(2000).reshape(2000, -1).sum(1)
    assert hidden.max() == 75
    assert 0.5 < (hidden == 75).mean() < 1.0  # ten attempts may find no block
    assert hidden.min() < 75
    assert hidden.mean() > 70


def test_blocks_are_at_least_the_smallest_and_never_as_long_as_the_picture() -> None:
    """Where one block is all that is asked for."""
    rng = np.random.default_rng(1)
    sides = []
    for _ in range(2000):
        mask = block_mask(rng, (14, 14), 16, 16)
        rows, columns = mask.any(1), mask.any(0)
        first = (rows.sum(), columns.sum())
        if mask.sum() == first[0] * first[1]:  # one rectangle
            sides.append(first)
    heights, widths = np.array(sides).T
    assert len(sides) > 1000
    assert max(heights.max(), widths.max()) < 14
    assert (heights * widths).max() <= 16
    # sides of 16 places in proportions of 0.3 to 1/0.3: 2.2 to 7.3 rounded
    assert heights.min() >= 2
    assert heights.max() <= 8
    assert heights.mean() == pytest.approx(widths.mean(), rel=0.05)  # evenly by the logarithm of the proportion


def test_hidden_places_hang_together_and_lie_about_evenly() -> None:
    drawn = masks(2000)
    neighbours = (drawn[:, 1:] & drawn[:, :-1]).mean() / drawn.mean()
    assert neighbours > 0.75  # of places drawn one by one 0.38 would have a hidden one below
    share = drawn.mean(0)
    assert share[4:10, 4:10].mean() > share[[0, 0, -1, -1], [0, -1, 0, -1]].mean()  # blocks lie inside: corners seldom
    assert abs(share - share[::-1]).max() < 0.06
    assert abs(share - share[:, ::-1]).max() < 0.06
    assert abs(share - share.T).max() < 0.06


def test_a_grid_where_no_block_fits_stays_seen() -> None:
    assert masks(50, (1, 40), 20, 4).sum() == 0  # every block is as high as the grid
    assert masks(50, (14, 14), 0).sum() == 0


@pytest.mark.parametrize(("size", "wanted"), [((224, 224), 75), ((96, 96), 14), ((64, 160), 15), ((384, 384), 220)])
def test_other_grids_hide_the_same_share(size: tuple[int, int], wanted: int) -> None:
    model, rng = made(), np.random.default_rng(2)
    hidden = torch.stack([model.draw(rng, size)["masked"] for _ in range(200)])
    assert hidden.dtype == torch.bool
    assert hidden.shape[1] == math.prod(model.grid(size))
    assert hidden.sum(1).max() == wanted
    assert hidden.sum(1).float().mean() > 0.75 * wanted


# what is foreseen --------------------------------------------------------------------------------------------------------


def given(model: Any, size: tuple[int, int] = (96, 96)) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(3)
    return torch.randn(2, 3, *size), torch.stack([model.draw(rng, size)["masked"] for _ in range(2)])


@torch.no_grad()
def test_the_layer_of_words_sees_hidden_patches_alone() -> None:
    model = made()
    image, masked = given(model)
    rows = []
    model.head.register_forward_hook(lambda _module, given, _output: rows.append(given[0].shape))
    outputs = model.forward_train(image, masked)
    assert rows == [(int(masked.sum()), 32)]
    assert torch.allclose(outputs["logits"], model(image, masked)[masked], atol=1e-6)
    # what is behind a hidden patch reaches nothing
    behind = masked.unflatten(1, (6, 6)).repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None]
    assert torch.equal(model(torch.where(behind, 9.0, image), masked), model(image, masked))
    nothing = model.forward_train(image, torch.zeros_like(masked))
    assert nothing["logits"].shape == (0, 20)
    (loss,) = model.criterion(nothing, {"tokens": torch.zeros(2, 36, dtype=torch.int64)}).values()
    assert loss == 0


def test_the_loss_is_of_hidden_words() -> None:
    masked = torch.tensor([[True, False, False], [False, True, True]])
    tokens = torch.tensor([[2, 0, 0], [1, 0, 2]])
    sure = 50.0 * torch.nn.functional.one_hot(torch.tensor([2, 0, 2]), 3)
    assert float(MaskedTokens()(sure, masked, tokens)) == pytest.approx(0, abs=1e-6)
    assert float(MaskedTokens()(torch.zeros(3, 3), masked, tokens)) == pytest.approx(math.log(3))
    with pytest.raises(ValueError, match="one word for each patch"):
        MaskedTokens()(sure, masked, tokens[:, :2])


def test_scores_stand_beside_those_of_knowing_nothing() -> None:
    model = made(vocabulary=3)
    masked = torch.ones(1, 4, dtype=torch.bool)
    tokens = torch.tensor([[0, 0, 0, 1]])
    logits = 50.0 * torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 1]), 3)
    scores = model.scores({"logits": logits, "masked": masked}, {"tokens": tokens})
    assert scores["accuracy"] == 0.75
    assert scores["trivial_accuracy"] == 0.75
    assert scores["trivial_loss"] == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert scores["loss"] == pytest.approx(12.5, rel=1e-4)


def test_pictures_say_which_words_were_right() -> None:
    model = made()
    image, masked = given(model, (96, 90))
    tokens = torch.zeros(masked.shape, dtype=torch.int64)
    right = 50.0 * torch.nn.functional.one_hot(torch.zeros(int(masked.sum()), dtype=torch.int64), 20)
    batch = {"image": image, "tokens": tokens}
    pictures = model.reconstruct({"logits": right, "masked": masked}, batch)
    behind = masked.unflatten(1, (6, 6)).repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :96, :90]
    painted = pictures["predicted"].permute(0, 2, 3, 1)
    assert torch.allclose(painted[behind], torch.tensor([0.2, 0.8, 0.2]))
    assert torch.equal(painted[~behind], pictures["input"].permute(0, 2, 3, 1)[~behind])
    pictures = model.reconstruct({"logits": right, "masked": masked}, {**batch, "tokens": tokens + 1})
    assert torch.allclose(pictures["predicted"].permute(0, 2, 3, 1)[behind], torch.tensor([0.9, 0.2, 0.2]))

    class Words:
        def decode(self, tokens: Tensor) -> Tensor:
            return (tokens[:, None] / 10.0).expand(-1, 3, -1, -1).repeat_interleave(8, 2).repeat_interleave(8, 3)

    pictures = model.reconstruct({"logits": right, "masked": masked}, {**batch, "tokens": tokens + 5}, Words())
    assert pictures["predicted"].shape == image.shape
    assert set(pictures["predicted"].unique().tolist()) >= {0.0, 0.5}


# its backbone ------------------------------------------------------------------------------------------------------------


def test_tables_are_shared_or_one_a_block() -> None:
    assert made().backbone.shared_positions is not None
    apart = made(backbone_arguments={**BEIT, "shared_bias": False})
    assert apart.backbone.shared_positions is None
    assert len(apart.backbone.positions) == 3


def test_what_does_not_fit_is_refused() -> None:
    for backbone, arguments in (("vit_tiny_patch16_224", {}), ("beit_b", {"mask_token": False})):
        with pytest.raises(ValueError, match="has no token for hidden patches"), torch.device("meta"):
            MaskedImageModelling(backbone=backbone, backbone_arguments=arguments)
    with pytest.raises(ValueError, match="vocabulary is 1"):
        made(vocabulary=1)
    with pytest.raises(ValueError, match="mask_ratio is 1"):
        made(mask_ratio=1)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("upernet_beit_base", {"backbone_arguments": {**BEIT, "image_size": 160, "out_indices": [0, 1]}}),
        ("segformer_b0", {"backbone": "beit_b", "neck": "pyramid", "backbone_arguments": BEIT}),
        ("beit_b", {**BEIT, "num_classes": 4}),
    ],
    ids=["another size and fewer blocks", "a decoder of pyramids", "a classifier"],
)
def test_the_shared_table_becomes_each_block_s(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    model = made()
    with torch.no_grad():
        model.backbone.shared_positions.table.normal_()
    path = save(model, tmp_path / "beit.safetensors")
    network: Any = create_model(name, **{"num_classes": 4, **arguments, "backbone_weights": path})
    beit = network.backbone
    assert beit.mask_token is None
    shared = model.backbone.shared_positions.table
    for bias in beit.positions:
        assert torch.equal(bias.table[-3:], shared[-3:])
        if bias.grid == (6, 6):
            assert torch.equal(bias.table, shared)
        else:
            assert bias.table.shape == (19 * 19 + 3, 2)
    assert torch.equal(beit.blocks[1].mlp.fc1.weight, model.backbone.blocks[1].mlp.fc1.weight)
    bare = create_backbone("beit_b", **BEIT, shared_bias=True)
    assert load_part(bare, "", path).complete
    again = made(backbone_arguments={**BEIT, "shared_bias": False})
    assert load_part(again, "backbone", path).complete
    assert torch.equal(again.backbone.positions[2].table, shared)
    assert torch.equal(again.backbone.mask_token, model.backbone.mask_token)
