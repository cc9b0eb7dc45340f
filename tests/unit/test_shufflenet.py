"""Channel shuffle and what the two ShuffleNets make of it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.backbones.shufflenet_v1 import STAGE2, STEMS, ShuffleUnit, bottleneck
from segmentarium.backbones.shufflenet_v2 import BLOCKS, FORMS, WIDTHS, Form
from segmentarium.layers.channel_shuffle import channel_shuffle, interleave
from segmentarium.meta import on_meta
from tests.parity.comparison import randomise

ORDERS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("order", ORDERS)
def test_a_shuffle_deals_out_and_keeps_the_memory_s_order(order: torch.memory_format) -> None:
    x = torch.arange(12.0).view(1, 12, 1, 1).expand(2, 12, 3, 5).contiguous(memory_format=order)
    shuffled = channel_shuffle(x, 3)
    assert shuffled[0, :, 0, 0].tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert torch.equal(channel_shuffle(shuffled, 4), x)
    assert shuffled.is_contiguous(memory_format=order)
    mixed = interleave(x[:, :6], x[:, 6:])
    assert torch.equal(mixed, channel_shuffle(x, 2))
    assert mixed.is_contiguous(memory_format=order)


# ShuffleNet -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backwards", [False, True])
def test_every_output_sees_every_input_group(backwards: bool) -> None:
    """Two grouped convolutions in a row keep the groups apart; with the shuffle each output depends on all inputs."""
    unit = ShuffleUnit(36, 36, 3, 1, 3, backwards=backwards).eval()
    for module in unit.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)

    def reach(group: int) -> Tensor:
        x = torch.zeros(1, 36, 3, 3)
        x[:, 12 * group : 12 * group + 12] = 1
        return (unit(x) - torch.relu(x))[0, :, 1, 1] > 0

    assert all(reach(group).all() for group in range(3))
    unit.grouped = False  # no shuffle
    assert [reach(0)[12 * group : 12 * group + 12].any().item() for group in range(3)] == [True, False, False]


@pytest.mark.parametrize("form", ["megvii", "mmpretrain"])
@torch.inference_mode()
def test_the_forms_shuffle_in_opposite_directions(form: str) -> None:
    unit = create_backbone("shufflenet_v1", groups=2, width=0.5, form=form).eval().stages[0][1]
    randomise(unit)
    x = torch.randn(1, 100, 4, 4).relu()
    inner = unit.depthwise(unit.reduce(x))
    count = inner.shape[1]
    place = [(i % 2) * (count // 2) + i // 2 for i in range(count)]  # the paper's: one of each group in turn
    order = place if form == "mmpretrain" else [place.index(i) for i in range(count)]
    assert torch.allclose(unit(x), torch.relu(x + unit.expand(inner[:, order])), atol=1e-6)


@torch.inference_mode()
def test_a_halving_unit_keeps_its_pooled_input() -> None:
    backbone = randomise(create_backbone("shufflenet_v1", width=0.25))
    x = torch.randn(1, 12, 9, 9).relu()
    y = backbone.stages[0][0](x)
    assert y.shape == (1, 60, 5, 5)
    assert torch.equal(y[:, :12], torch.nn.functional.avg_pool2d(x, 3, 2, 1))
    assert y.min() >= 0


@pytest.mark.parametrize("groups", STAGE2)
@pytest.mark.parametrize("width", STEMS)
def test_groups_divide_everything_and_the_first_convolution_has_none(groups: int, width: float) -> None:
    with on_meta():
        backbone = create_backbone("shufflenet_v1", groups=groups, width=width)
    pointwise = {
        key: m.groups
        for key, m in backbone.stages.named_modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)
    }
    assert pointwise.pop("0.0.reduce.conv") == 1
    assert set(pointwise.values()) == {groups}
    assert backbone.channels[1:] == tuple(int(STAGE2[groups] * width) * n for n in (1, 2, 4))
    for stage in backbone.stages:
        assert {unit.depthwise.conv.groups for unit in stage} == {unit.reduce.conv.out_channels for unit in stage}


def test_bottlenecks_are_a_quarter() -> None:
    assert [bottleneck(c, g) for c, g in ((240, 3), (384, 8), (272, 4), (144, 1))] == [60, 96, 68, 36]
    assert [bottleneck(c, g) for c, g in ((136, 4), (50, 2), (100, 2))] == [36, 12, 26]


# ShuffleNetV2 -----------------------------------------------------------------------------------------------------------


def fates(form: Form, half: int, units: int) -> dict[int, Counter]:
    """Of each unit's outputs: how many are convolved again by which later unit (0: by none in this stage)."""

    def labels(unit: int) -> Tensor:
        return (torch.arange(half) + 1000 * unit).view(1, -1, 1, 1)

    passed, made = labels(99), labels(0)
    found = {unit: Counter() for unit in (99, *range(units))}
    for unit in range(1, units):
        passed, convolved = form.split(passed, made)
        for label in convolved.flatten().tolist():
            found[label // 1000][unit] += 1
        made = labels(unit)
    for label in form.join(passed, made).flatten().tolist():
        found[label // 1000][0] += 1
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_the_forms_are_one_function_in_other_orders(width: float) -> None:
    """Each unit's outputs pass equally many units in both, so that reordering the weights makes one into the other."""
    for channels, units in zip(WIDTHS[width], BLOCKS, strict=False):
        ours, theirs = (fates(FORMS[form], channels // 2, units) for form in ("torchvision", "megvii"))
        assert ours == theirs
        assert all(sum(count.values()) == channels // 2 for count in ours.values())


@pytest.mark.parametrize("form", FORMS)
def test_what_is_split_is_the_whole_in_halves(form: str) -> None:
    a, b = torch.randn(1, 6, 3, 3), torch.randn(1, 6, 3, 3)
    whole = FORMS[form].join(a, b)
    halves = (whole[:, :6], whole[:, 6:]) if form == "torchvision" else (whole[:, ::2], whole[:, 1::2])
    assert all(torch.equal(mine, half) for mine, half in zip(FORMS[form].split(a, b), halves, strict=True))


@torch.inference_mode()
def test_channels_last_stays_channels_last() -> None:
    """A map in the other order would be turned round before every convolution."""
    for name in ("shufflenet_v1_050", "shufflenet_v2_050"):
        backbone = create_backbone(name).eval().to(memory_format=torch.channels_last)
        image = torch.randn(1, 3, 64, 96).contiguous(memory_format=torch.channels_last)
        assert all(feature.is_contiguous(memory_format=torch.channels_last) for feature in backbone(image))


def test_errors_name_what_goes() -> None:
    with pytest.raises(ValueError, match="groups is 5; ShuffleNet has 1, 2, 3, 4, 8"):
        create_backbone("shufflenet_v1", groups=5)
    with pytest.raises(ValueError, match=r"width is 0\.25; ShuffleNetV2 has 0\.5, 1\.0, 1\.5, 2\.0"):
        create_backbone("shufflenet_v2", width=0.25)
    with pytest.raises(ValueError, match="form is 'keras'; give one of 'megvii', 'mmpretrain'"):
        create_backbone("shufflenet_v1", form="keras")
