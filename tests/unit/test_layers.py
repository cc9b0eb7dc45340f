"""Shared layers: sizes, pooling, folding of batch norm, re-parameterisation."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from segmentarium.layers.attention import Attention, attend
from segmentarium.layers.conv import ConvNormAct, PointwiseConv2d, SeparableConv, sound_gradients
from segmentarium.layers.drop_path import DropPath, drop_path_rates
from segmentarium.layers.fusion import fold_batch_norm, reparameterize
from segmentarium.layers.inverted_residual import InvertedResidual
from segmentarium.layers.mlp import MLP
from segmentarium.layers.norm import LayerNorm2d
from segmentarium.layers.patch_embed import PatchEmbedding
from segmentarium.layers.pooling import PooledBatchNorm, adaptive_average_pool, global_average_pool, spread
from segmentarium.layers.positions import resize_positions
from segmentarium.layers.pyramid_pooling import PyramidPooling
from segmentarium.layers.resize import pad_to_multiple, resize
from segmentarium.layers.transformer import LayerScale, TransformerBlock
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


@pytest.mark.parametrize("form", [(4, 16, 1, 2), (8, 8, 1, (1, 3)), (12, 24, 3, 2)])
def test_narrow_pointwise_convolutions_take_their_places_out_first(form: tuple[Any, ...]) -> None:
    """Their gradients are not PyTorch's own, which write past their memory; the numbers are."""
    inputs, outputs, groups, stride = form
    plain = nn.Conv2d(inputs, outputs, 1, stride, groups=groups)
    ours = nn.Sequential(copy.deepcopy(plain), nn.Conv2d(32, 32, 1, 2), nn.Conv2d(4, 4, 3, 2), nn.Conv2d(4, 4, 1))
    sound_gradients(ours)
    assert [type(layer) is PointwiseConv2d for layer in ours] == [True, False, False, False]
    x = torch.randn(2, inputs, 9, 7, requires_grad=True)
    found = []
    for conv in (plain, ours[0]):
        y = conv(x)  # contiguous: here PyTorch's own are sound
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, conv.weight, conv.bias])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_resize_is_interpolate_and_free_where_nothing_changes() -> None:
    assert resize(IMAGE, (17, 23)) is IMAGE
    for align_corners in (False, True):
        expected = F.interpolate(IMAGE, (40, 11), mode="bilinear", align_corners=align_corners)
        assert torch.equal(resize(IMAGE, (40, 11), align_corners=align_corners), expected)
    assert torch.equal(resize(IMAGE, (34, 46), mode="nearest"), F.interpolate(IMAGE, (34, 46), mode="nearest"))
    assert resize(IMAGE.bfloat16(), (9, 9)).dtype == torch.bfloat16


def test_padding_reaches_the_next_multiple_below_and_to_the_right() -> None:
    padded = pad_to_multiple(IMAGE, 8)
    assert padded.shape == (2, 3, 24, 24)
    assert torch.equal(padded[..., :17, :23], IMAGE)
    assert padded[..., 17:, :].abs().max() == padded[..., 23:].abs().max() == 0
    assert pad_to_multiple(padded, 8) is padded


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


def test_reparameterize_calls_every_block_but_not_the_model_inner_ones_first() -> None:
    called: list[str] = []

    class Block(nn.Module):
        def __init__(self, name: str, instead: nn.Module | None = None) -> None:
            super().__init__()
            self.name, self.instead = name, (instead,)

        def reparameterize(self) -> nn.Module | None:
            called.append(self.name)
            return self.instead[0]

    plain = nn.Identity()
    inner = Block("inner", instead=plain)
    model, outer = Block("model"), Block("outer")
    model.add_module("outer", outer)
    outer.add_module("inner", nn.Sequential(inner))
    outer.add_module("again", inner)
    reparameterize(model)
    assert called == ["inner", "outer"]
    assert outer.get_submodule("inner.0") is outer.get_submodule("again") is plain


# transformers -----------------------------------------------------------------------------------------------------------


def attention_by_hand(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | float) -> Tensor:
    outputs = []
    for q, k, v in zip(query.chunk(heads, -1), key.chunk(heads, -1), value.chunk(heads, -1), strict=True):
        outputs.append((q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 + bias).softmax(-1) @ v)
    return torch.cat(outputs, -1)


def test_attention_is_softmax_of_the_scaled_products() -> None:
    query, key, value = torch.randn(2, 6, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    assert torch.allclose(attend(query, key, value, 2), attention_by_hand(query, key, value, 2, 0.0), atol=1e-6)
    bias = torch.randn(6, 5)
    assert torch.allclose(attend(query, key, value, 2, bias), attention_by_hand(query, key, value, 2, bias), atol=1e-6)
    seen = torch.tensor([True, True, False, False, True])
    assert torch.allclose(
        attend(query, key, value, 2, seen[None]), attend(query, key[:, seen], value[:, seen], 2), atol=1e-6
    )


def test_self_attention_projects_before_and_after() -> None:
    layer = Attention(8, 2)
    x, bias = torch.randn(2, 6, 8), torch.randn(1, 2, 6, 6)
    assert torch.allclose(layer(x, bias), layer.proj(attend(*layer.qkv(x).chunk(3, -1), 2, bias)))
    assert Attention(8, 2, qkv_bias=False).qkv.bias is None
    with pytest.raises(ValueError, match="10 channels cannot be shared by 4 heads"):
        Attention(10, 4)


def test_mlp_is_two_linear_layers() -> None:
    layer = MLP(4, 7, 3, dropout=0.5).eval()
    x = torch.randn(2, 5, 4)
    assert torch.allclose(layer(x), layer.fc2(F.gelu(layer.fc1(x))))
    assert MLP(4, 7)(x).shape == x.shape
    assert not torch.equal(layer.train()(x), layer(x))


def test_a_transformer_block_adds_two_branches_to_its_input() -> None:
    x, bias = torch.randn(2, 6, 8), torch.randn(2, 6, 6)
    block = TransformerBlock(8, Attention(8, 2), MLP(8, 16))
    middle = x + block.attention(block.norm1(x), bias)
    assert torch.allclose(block(x, bias), middle + block.mlp(block.norm2(middle)))
    theirs = timm.models.vision_transformer.Block(
        8, 2, mlp_ratio=2, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6)
    )
    theirs.load_state_dict({key.replace("attention", "attn"): value for key, value in block.state_dict().items()})
    assert torch.allclose(block(x), theirs.eval()(x), atol=1e-6)


@torch.no_grad()
def test_factors_of_the_channels_fold_into_the_layers_before_them() -> None:
    block = TransformerBlock(8, Attention(8, 2), MLP(8, 16), layer_scale=1e-5).eval()
    x = torch.randn(2, 6, 8)
    assert torch.allclose(block(x), x, atol=1e-4)
    for scale in (block.scale1, block.scale2):
        nn.init.uniform_(scale.gamma, 0.5, 2)
    before = block(x)
    reparameterize(nn.ModuleList([block]))
    assert not any(isinstance(module, LayerScale) for module in block.modules())
    assert torch.allclose(block(x), before, atol=1e-6)


def test_patches_are_whole_or_overlap() -> None:
    plain = PatchEmbedding(3, 8, 4)
    image = torch.randn(1, 3, 8, 12)
    patch = image[:, :, 4:8, 8:12]
    assert torch.allclose(
        plain(image)[0, 1, 2], (plain.proj.weight * patch).sum((1, 2, 3)) + plain.proj.bias, atol=1e-6
    )
    overlapping = PatchEmbedding(3, 8, 7, 4, norm=nn.LayerNorm)(torch.randn(1, 3, 9, 13))
    assert overlapping.shape == (1, 3, 4, 8)
    assert torch.allclose(overlapping.mean(-1), torch.zeros(1, 3, 4), atol=1e-5)


def test_positions_at_another_size_keep_the_prefix_tokens() -> None:
    table = torch.randn(1, 2 + 12, 5)
    assert resize_positions(table, (3, 4), (3, 4), prefix=2) is table
    larger = resize_positions(table, (3, 4), (6, 7), prefix=2)
    assert torch.equal(larger[:, :2], table[:, :2])
    ours = timm.layers.resample_abs_pos_embed(table, [6, 7], [3, 4], num_prefix_tokens=2)
    assert torch.allclose(larger, ours)
    ramp = torch.arange(3.0).repeat_interleave(4)[None, :, None]  # a row's number
    rows = resize_positions(ramp, (3, 4), (9, 4)).unflatten(1, (9, 4))
    assert torch.allclose(rows[0, :, 0, 0], rows[0, :, 3, 0])
    assert bool((rows[0, :, 0, 0].diff() > 0).all())
    assert resize_positions(ramp.half(), (3, 4), (2, 2)).dtype == torch.float16
    with pytest.raises(ValueError, match=r"has 14 rows; 1 of prefix tokens and a grid of 3×4 are 13"):
        resize_positions(table, (3, 4), (6, 6), prefix=1)


def test_layer_norm_of_maps_is_that_of_their_channels() -> None:
    layer = LayerNorm2d(6)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 6, 3, 4)
    by_hand = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + layer.eps).sqrt()
    by_hand = by_hand * layer.weight[:, None, None] + layer.bias[:, None, None]
    assert torch.allclose(layer(x), by_hand, atol=1e-5)
    in_place = layer(x.contiguous(memory_format=torch.channels_last))
    assert in_place.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(in_place, layer(x))


def test_inverted_residuals_expand_and_join_equal_shapes() -> None:
    x = torch.randn(1, 4, 8, 8)
    block = InvertedResidual(4, 4, 6, 1, kernel_size=5).eval()
    before = x.clone()
    assert torch.allclose(block(x), x + block.project(block.depthwise(block.expand(x))))
    assert torch.equal(x, before)
    assert isinstance(InvertedResidual(4, 8, 1, 2).expand, nn.Identity)
    always = InvertedResidual(4, 8, 1, 2, act=nn.ReLU, expand=True)
    assert isinstance(always.expand, ConvNormAct)
    assert type(always.depthwise.act) is nn.ReLU
    assert always.eval()(x).shape == (1, 8, 4, 4)
