"""ResNeSt's mechanisms: which map each attention score weighs, the sigmoid of one split, where blocks pool."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segmentarium.backbones import create_backbone
from segmentarium.backbones.resnest import SplitAttention, SplitBottleneck


@torch.inference_mode()
def test_scores_of_a_group_are_shared_out_among_its_own_splits() -> None:
    """Group by group, by hand: a group sees the sum of its splits and decides between them alone."""
    radix, cardinality, channels = 3, 2, 12
    layer = SplitAttention(channels, 1, radix, cardinality).eval()
    part = channels // cardinality  # of a group in one split
    x = torch.randn(2, channels, 5, 6)
    maps = layer.conv(x).unflatten(1, (radix, cardinality, part))  # the convolution's order: split by split
    expected = torch.empty(2, channels, 5, 6)
    for group in range(cardinality):
        seen = maps[:, :, group].sum(1).mean((2, 3), keepdim=True)
        alone = [torch.zeros_like(seen) for _ in range(cardinality)]
        alone[group] = seen
        scores = layer.expand(layer.reduce(torch.cat(alone, 1))).unflatten(1, (cardinality, radix, part))[:, group]
        weights = scores.softmax(1)
        expected[:, group * part : (group + 1) * part] = (weights * maps[:, :, group]).sum(1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_one_split_is_weighed_by_a_sigmoid() -> None:
    layer = SplitAttention(16, 1, radix=1, cardinality=4).eval()
    x = torch.randn(1, 16, 4, 4)
    maps = layer.conv(x)
    gate = layer.expand(layer.reduce(maps.mean((2, 3), keepdim=True))).sigmoid()
    torch.testing.assert_close(layer(x), gate * maps)


def pools(output_stride: int, form: str) -> list[object]:
    """Of the first block of each stage: the stride of its pooling, None without one."""
    backbone = create_backbone("resnest14", width=8, deep_stem=(8, 8, 8), output_stride=output_stride, form=form)
    firsts = [getattr(backbone, f"layer{i}")[0] for i in (1, 2, 3, 4)]
    assert all(isinstance(first, SplitBottleneck) for first in firsts)
    return [first.pool.stride if isinstance(first.pool, nn.AvgPool2d) else None for first in firsts]


def test_strides_are_poolings_and_the_authors_keep_them_where_dilation_takes_the_stride() -> None:
    assert pools(32, "authors") == pools(32, "timm") == pools(32, "mmseg") == [None, 2, 2, 2]
    assert pools(16, "authors") == [None, 2, 2, 1]
    assert pools(8, "authors") == [None, 2, 1, 1]
    assert pools(8, "timm") == pools(8, "mmseg") == [None, 2, None, None]


def test_errors() -> None:
    with pytest.raises(ValueError, match="depth is 18; a ResNeSt has 14, 26, 50, 101, 200, 269 layers"):
        create_backbone("resnest14", depth=18)
    with pytest.raises(ValueError, match="form is 'gluon'; give one of 'authors', 'timm', 'mmseg'"):
        create_backbone("resnest14", form="gluon")
