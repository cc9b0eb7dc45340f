"""Strip pooling: a pixel reaches its row and column to both ends, and nothing else; where the modules stand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.backbones import create_backbone
from segmentarium.contracts.insertion import hooked
from segmentarium.layers.strip_pooling import StripConvs, StripPooling, pool_strips
from segmentarium.meta import on_meta
from segmentarium.registry import create_model, insert_block
from segmentarium.semantic.spnet import MixedPooling
from tests.parity.comparison import exercised, randomise

HEIGHT, WIDTH = 11, 17


def reach(layer: Any, row: int, column: int) -> Tensor:
    """(H, W): which places see it when one pixel changes."""
    x = torch.randn(1, 8, HEIGHT, WIDTH)
    other = x.clone()
    other[..., row, column] += 3
    return (layer(other) - layer(x)).abs().amax((0, 1)) > 1e-6


@torch.no_grad()
@pytest.mark.parametrize(("row", "column"), [(5, 8), (0, 0), (10, 3)])
def test_the_reach_of_a_strip(row: int, column: int) -> None:
    """The rows and columns within one of the pixel's, from end to end."""
    layer = randomise(StripConvs(8))
    rows, columns = torch.arange(HEIGHT), torch.arange(WIDTH)
    cross = ((rows - row).abs() <= 1)[:, None] | ((columns - column).abs() <= 1)[None]
    # a ReLU may hide it from some places in one draw
    seen = torch.stack([reach(layer, row, column) for _ in range(8)]).any(0)
    assert torch.equal(seen, cross)
    weighed = torch.stack([reach(exercised(StripPooling(8)), row, column) for _ in range(8)]).any(0)
    assert torch.equal(weighed, cross)


@torch.no_grad()
def test_strips_are_means_kept_channels_last() -> None:
    x = torch.randn(2, 8, HEIGHT, WIDTH).to(memory_format=torch.channels_last)
    rows, columns = pool_strips(x)
    torch.testing.assert_close(rows, x.mean(3, keepdim=True))
    torch.testing.assert_close(columns, x.mean(2, keepdim=True))
    layer = StripConvs(8).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert layer(x).is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_without_its_long_range_mixed_pooling_sees_squares_alone() -> None:
    """On a map much larger than its cells; with it, a far pixel of the same row is seen."""
    module: Any = randomise(MixedPooling(64, bins=(8, 6)))
    x = torch.randn(1, 64, 48, 64)
    other = x.clone()
    other[..., 2, 2] += 50

    def seen() -> Tensor:
        return (module(other) - module(x)).abs().amax((0, 1)) > 1e-6

    far = (slice(0, 4), slice(44, 64))
    assert seen()[far].any()
    assert not seen()[30:, 44:].any()
    for part in (module.strips.rows, module.strips.columns):
        part.norm.weight.zero_()
    assert not seen()[far].any()
    assert seen()[:4, :4].all()


def test_where_the_modules_stand_in_the_trunk() -> None:
    with on_meta():
        trunk: Any = create_backbone("resnet50_spm")
    names = sorted(name.removesuffix("_conv2") for name in trunk.inserted)
    assert names == ["layer1_2", "layer2_3", "layer3_5", "layer4_0", "layer4_1", "layer4_2"]
    assert hooked(trunk) == 6
    with pytest.raises(ValueError, match="give depth 50, 101 or 152"), on_meta():
        create_backbone("resnet50_spm", depth=18)


@torch.no_grad()
def test_a_bottleneck_s_middle_is_weighed_before_its_last_layer() -> None:
    trunk: Any = randomise(create_backbone("resnet50_spm", width=8, deep_stem=(4, 4, 8)))
    block, module = trunk.layer4[1], trunk.inserted["layer4_1_conv2"]
    x = torch.randn(1, 256, 5, 6)
    y = F.relu(block.conv2.norm(block.conv2.conv(block.conv1(x))))
    torch.testing.assert_close(block(x), F.relu(block.conv3(module(y)) + x))
    strips, weights = module.strips(y), module.weigh(module.strips(y)).sigmoid()
    assert strips.shape == y.shape
    torch.testing.assert_close(module(y), y * weights)


def test_the_block_stands_in_other_trunks() -> None:
    backbone = create_backbone("resnet18", width=8)
    assert insert_block(backbone, 3, "spnet", at="every", after="conv1") == ["layer3.0.conv1", "layer3.1.conv1"]
    assert all(isinstance(block, StripPooling) for block in backbone.inserted.values())  # type: ignore[union-attr]


def test_counted_in_the_authors_code() -> None:
    with on_meta():
        model = create_model("spnet", num_classes=5)
        other: Any = create_model("spnet", num_classes=19)
    assert sum(p.numel() for p in model.parameters()) == 47_726_474
    assert round(sum(p.numel() for p in other.decoder.parameters()) / 1e6, 4) == 15.6237
