"""Shared layers: sizes, pooling, folding of batch norm, re-parameterisation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from segmentarium.layers.conv import ConvNormAct, SeparableConv
from segmentarium.layers.drop_path import DropPath, drop_path_rates
from segmentarium.layers.fusion import fold_batch_norm, reparameterize
from segmentarium.layers.pooling import PooledBatchNorm, adaptive_average_pool, global_average_pool, spread
from segmentarium.layers.pyramid_pooling import PyramidPooling
from segmentarium.layers.resize import resize
from tests.parity.comparison import randomise

IMAGE = torch.linspace(-2, 2, 2 * 3 * 17 * 23).view(2, 3, 17, 23).sin()


# convolutions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dilation", [1, 2, 5])
@pytest.mark.parametrize("kernel", [1, 3, 7, (1, 5)])
def test_the_size_stays_at_stride_one(kernel: int | tuple[int, int], dilation: int) -> None:
    assert ConvNormAct(3, 4, kernel, dilation=dilation)(IMAGE).shape == (2, 4, 17, 23)


def test_a_convolution_has_a_bias_where_no_norm_follows() -> None:
    assert ConvNormAct(3, 4).conv.bias is None
    assert ConvNormAct(3, 4, norm=None).conv.bias is not None
    assert ConvNormAct(3, 4, norm=None, bias=False).conv.bias is None


def test_without_norm_and_act_it_is_the_convolution() -> None:
    unit = ConvNormAct(3, 4, norm=None, act=None)
    assert torch.equal(unit(IMAGE), unit.conv(IMAGE))


def test_separable_is_depthwise_then_pointwise() -> None:
    unit = SeparableConv(3, 5, 3, 2)
    assert unit(IMAGE).shape == (2, 5, 9, 12)
    assert unit.depthwise.conv.groups == 3
    assert unit.pointwise.conv.kernel_size == (1, 1)


# sizes ------------------------------------------------------------------------------------------------------------------


def test_resize_is_interpolate_and_free_where_nothing_changes() -> None:
    assert resize(IMAGE, (17, 23)) is IMAGE
    for align_corners in (False, True):
        expected = F.interpolate(IMAGE, (40, 11), mode="bilinear", align_corners=align_corners)
        assert torch.equal(resize(IMAGE, (40, 11), align_corners=align_corners), expected)
    assert torch.equal(resize(IMAGE, (34, 46), mode="nearest"), F.interpolate(IMAGE, (34, 46), mode="nearest"))
    assert resize(IMAGE.bfloat16(), (9, 9)).dtype == torch.bfloat16


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_adaptive_pooling_by_matrices_is_pytorch_s(bins: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = F.adaptive_avg_pool2d(IMAGE, bins)
    assert torch.allclose(adaptive_average_pool(IMAGE, bins), expected, atol=1e-6)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.allclose(adaptive_average_pool(IMAGE, bins), expected, atol=1e-6)


def test_spread_is_what_bilinear_makes_of_one_cell() -> None:
    pooled = global_average_pool(IMAGE)
    assert torch.allclose(spread(pooled, 5, 7), F.interpolate(pooled, (5, 7), mode="bilinear"))


def test_pooled_batch_norm_learns_from_one_image() -> None:
    norm = PooledBatchNorm(3).train()
    before = norm.running_mean.clone()
    one = norm(torch.randn(1, 3, 1, 1))
    one.sum().backward()
    assert one.isfinite().all()
    assert torch.equal(norm.running_mean, before)
    norm(torch.randn(2, 3, 1, 1))
    assert not torch.equal(norm.running_mean, before)
    plain = nn.BatchNorm2d(3).train()
    norm = PooledBatchNorm(3).train()
    assert torch.equal(norm(IMAGE), plain(IMAGE))


def test_pyramid_pooling_keeps_the_input_beside_its_averages() -> None:
    pyramid = PyramidPooling(3, 2, (1, 2, 6)).eval()
    out = pyramid(IMAGE)
    assert out.shape == (2, pyramid.out_channels, 17, 23) == (2, 9, 17, 23)
    assert torch.equal(out[:, :3], IMAGE)


# stochastic depth -------------------------------------------------------------------------------------------------------


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    out = drop(torch.ones(4000, 2, 3))
    per_sample = out.flatten(1)
    assert per_sample.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert (per_sample.amin(1) == per_sample.amax(1)).all()
    assert out.mean() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(drop.eval()(IMAGE), IMAGE)
    with pytest.raises(ValueError, match=r"rate is 1\.0; give"):
        DropPath(1.0)


def test_drop_path_rates_rise_from_zero_to_the_highest() -> None:
    assert drop_path_rates(0.3, (2, 2)) == [[0.0, pytest.approx(0.1)], [pytest.approx(0.2), pytest.approx(0.3)]]
    assert drop_path_rates(0.3, (1,)) == [[0.0]]


# folding ----------------------------------------------------------------------------------------------------------------


def fold_and_compare(model: nn.Module) -> int:
    """How many norms were folded; asserts that the output stayed."""
    model = randomise(model)
    with torch.no_grad():
        before = model(IMAGE)
        folded = fold_batch_norm(model, torch.zeros(1, 3, 16, 16))
        assert torch.allclose(model(IMAGE), before, atol=1e-5)
    return folded


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_convolutions_with_their_norms_become_one() -> None:
    model = nn.Sequential(ConvNormAct(3, 8), SeparableConv(8, 6, stride=2), ConvNormAct(6, 4, 1, bias=True, act=None))
    assert fold_and_compare(model) == 4
    assert norms(model) == 0
    assert all(module.bias is not None for module in model.modules() if isinstance(module, nn.Conv2d))


def test_a_norm_before_its_convolution_stays() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4))
    assert fold_and_compare(model) == 0
    assert norms(model) == 2


class SharedConv(nn.Module):
    """One convolution, two norms: folding either would spoil the other (as PIDNet and DDRNet forks have it)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])

    def forward(self, x: Tensor) -> Tensor:
        return self.norms[0](self.conv(x)) + self.norms[1](self.conv(x.flip(-1)))


class SharedNorm(nn.Module):
    """Two convolutions, one norm."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)])
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.convs[0](x)) + self.norm(self.convs[1](x))


class SometimesNormed(nn.Module):
    """A convolution whose second call goes without the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.conv(x.flip(-1))


class ChangedBetween(nn.Module):
    """The convolution's output is added to in place before the norm sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y += x
        return self.norm(y)


@pytest.mark.parametrize("kind", [SharedConv, SharedNorm, SometimesNormed, ChangedBetween])
def test_what_cannot_be_folded_stays(kind: type[nn.Module]) -> None:
    model = kind()
    kept = norms(model)
    assert fold_and_compare(model) == 0
    assert norms(model) == kept


class SharedPair(nn.Module):
    """A convolution and its norm applied twice, together, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.again = self.norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.again(self.conv(x.flip(-1)))


def test_a_pair_that_is_used_twice_is_folded_once() -> None:
    model = SharedPair()
    assert fold_and_compare(model) == 1
    assert norms(model) == 0


def test_timm_s_norm_leaves_its_activation_behind() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), BatchNormAct2d(8, act_layer=nn.SiLU), nn.Conv2d(8, 4, 1))
    assert fold_and_compare(model) == 1
    assert isinstance(model[1], nn.SiLU)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), BatchNormAct2d(8, apply_act=False))
    assert fold_and_compare(model) == 1
    assert isinstance(model[1], nn.Identity)


def test_a_norm_without_statistics_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    assert fold_batch_norm(model.eval(), torch.zeros(2, 3, 16, 16)) == 0


def test_folding_leaves_no_hooks() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    with pytest.raises(RuntimeError, match="channels"):
        fold_batch_norm(model, torch.zeros(1, 5, 16, 16))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_reparameterize_calls_every_block_but_not_the_model() -> None:
    called: list[str] = []

    class Block(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def reparameterize(self) -> None:
            called.append(self.name)

    model = Block("model")
    model.add_module("a", Block("a"))
    model.add_module("b", nn.Sequential(Block("b")))
    reparameterize(model)
    assert called == ["a", "b"]
