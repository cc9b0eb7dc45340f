"""Swin's mechanisms: who sees whom, what is not shifted, one graph for all sizes, merging, tables of other windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.backbones.swin import PatchMerging, WindowAttention, roll
from segmentarium.registry import create_model
from segmentarium.weights import LoadError, load_part, save

SMALL: dict[str, Any] = {"embed_dim": 32, "depths": (2, 1, 2, 1)}


def attention(window: int, **options: bool) -> WindowAttention:
    layer = WindowAttention(8, 2, window, **{"shifted": False, "shift_all": False, **options}).eval()
    nn.init.normal_(layer.table)  # type: ignore[arg-type]
    return layer


def seen(layer: WindowAttention, height: int, width: int) -> Tensor:
    """(HW, HW): does place i's output depend on place j?"""

    def run(x: Tensor) -> Tensor:
        return layer(x, layer.mask(height, width, x)).sum(-1).flatten()

    x = torch.randn(1, height, width, 8)
    slopes = torch.autograd.functional.jacobian(run, x)
    return slopes.abs().sum(-1).flatten(1) > 1e-9  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [(4, 8), (5, 9), (3, 9), (3, 4)])
@pytest.mark.parametrize("shift_all", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_a_place_sees_its_window_and_nothing_else(shifted: bool, shift_all: bool, size: tuple[int, int]) -> None:
    """Windows of 4 begin at 0, or at 2 with a part before them; a side of one window is not shifted, unless all are."""
    height, width = size
    starts = [2 if shifted and (shift_all or side > 4) else 0 for side in size]
    y = (torch.arange(height) - starts[0]).div(4, rounding_mode="floor")
    x = (torch.arange(width) - starts[1]).div(4, rounding_mode="floor")
    window = (100 * y[:, None] + x).flatten()
    expected = window[:, None] == window
    assert torch.equal(seen(attention(4, shifted=shifted, shift_all=shift_all), height, width), expected)


@torch.no_grad()
def test_a_window_s_bias_is_of_the_step_alone() -> None:
    layer = attention(3)
    assert layer.table is not None
    bias = layer.bias()
    for i, j in ((0, 0), (4, 7), (8, 0), (2, 6)):
        down, right = i // 3 - j // 3, i % 3 - j % 3
        assert torch.equal(bias[:, i, j], layer.table[(down + 2) * 5 + right + 2])


@torch.no_grad()
def test_the_mask_is_for_each_window_of_each_image() -> None:
    layer = attention(4, shifted=True)
    x = torch.randn(3, 9, 7, 8)
    whole = layer(x, layer.mask(9, 7, x))
    for image, output in zip(x, whole, strict=True):
        assert torch.allclose(layer(image[None], layer.mask(9, 7, x))[0], output, atol=1e-6)


@pytest.mark.parametrize("shift_all", [False, True])
@torch.inference_mode()
def test_one_graph_serves_all_sizes(shift_all: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is exported asks no size, pads, rolls and masks always, and computes the same."""
    model = create_backbone("swin_t", **SMALL, shift_all=shift_all).eval()
    images = [torch.randn(1, 3, *size) for size in ((97, 129), (64, 224), (32, 32))]
    expected = [model(image) for image in images]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    for image, features in zip(images, expected, strict=True):
        for exported, feature in zip(model(image), features, strict=True):
            assert torch.allclose(exported, feature, atol=1e-5)


def test_rolling_by_an_index_is_rolling(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 7, 5, 3)
    rolled = {start: roll(x, 1, start) for start in (0, 3, 7)}
    assert rolled[0] is rolled[7] is x
    assert torch.equal(rolled[3], torch.cat([x[:, 3:], x[:, :3]], 1))
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert all(torch.equal(roll(x, 1, start), expected) for start, expected in rolled.items())


@torch.no_grad()
def test_four_places_become_one_column_by_column() -> None:
    layer = PatchMerging(2)
    nn.init.normal_(layer.norm.weight)
    x = torch.randn(1, 3, 4, 2)
    merged = layer(x)
    assert merged.shape == (1, 2, 2, 4)
    four = torch.cat([x[0, 0, 2], x[0, 1, 2], x[0, 0, 3], x[0, 1, 3]])
    assert torch.allclose(merged[0, 0, 1], layer.reduction(layer.norm(four)), atol=1e-6)
    edge = torch.cat([x[0, 2, 0], torch.zeros(2), x[0, 2, 1], torch.zeros(2)])
    assert torch.allclose(merged[0, 1, 0], layer.reduction(layer.norm(edge)), atol=1e-6)


def test_features_have_norms_where_there_is_no_classifier(tmp_path: Path) -> None:
    """A classifier's weights fill a backbone but for the norms that it has not, which stay as they are."""
    classifier: Any = create_model("swin_t", **SMALL, num_classes=3)
    save(classifier, tmp_path / "swin.safetensors")
    backbone: Any = create_backbone("swin_t", **SMALL)
    report = load_part(backbone, "", tmp_path / "swin.safetensors")
    assert (
        set(report.missing)
        == backbone.not_pretrained()
        == {f"norms.{i}.{k}" for i in range(3) for k in ("weight", "bias")}
    )
    raw = classifier.eval().backbone.pyramid(image := torch.randn(1, 3, 64, 64))
    for i, feature in enumerate(backbone.eval()(image)):
        expected = raw[i] if i == 3 else F.layer_norm(raw[i].movedim(1, -1), raw[i].shape[1:2]).movedim(-1, 1)
        assert torch.allclose(feature, expected, atol=1e-5)


def test_tables_of_another_window_are_interpolated(tmp_path: Path) -> None:
    small: Any = create_model("swin_t", **SMALL, window=3, num_classes=3)
    path = save(small, tmp_path / "swin.safetensors")
    with pytest.warns(UserWarning, match=r"from a table of another grid: stages.0.blocks.0.attention.table"):
        large: Any = create_model("swin_t", weights=path, **SMALL, window=5)
    mine, given = (m.backbone.stages[2].blocks[1].attention.table for m in (large, small))
    resized = F.interpolate(given.t().reshape(1, 4, 5, 5), (9, 9), mode="bicubic")
    assert torch.allclose(mine, resized.flatten(2)[0].t())
    part = create_backbone("swin_t", **SMALL, window=5)
    assert len(load_part(part, "", path).adapted) == 6
    with pytest.raises(LoadError):
        load_part(create_backbone("swin_t", **{**SMALL, "embed_dim": 64}), "", path)


@torch.inference_mode()
def test_deployed_biases_are_looked_up_once() -> None:
    model = create_model("swin_t", **SMALL, num_classes=3).eval()
    deployed: Any = model.deploy()
    assert not any(key.endswith("table") for key in deployed.state_dict())
    image = torch.randn(1, 3, 97, 64)
    assert torch.allclose(deployed(image), model(image), atol=1e-5)


def test_tables_are_not_decayed_and_widths_are_checked() -> None:
    backbone = create_backbone("swin_t", **SMALL)
    assert len(backbone.no_weight_decay()) == 6
    assert backbone.layer_of("stages.2.merge.norm.weight") == 3
    assert backbone.layer_of("stages.2.blocks.1.norm1.weight") == backbone.layer_of("norms.2.bias") == 5
    with pytest.raises(ValueError, match=r"embed_dim is 48, window 7; give a multiple of 32"):
        create_backbone("swin_t", embed_dim=48)
