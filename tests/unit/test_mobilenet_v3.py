"""MobileNetV3's mechanisms: the linear sigmoid's place, TensorFlow's grid, taps, dilation, the minimalistic form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segmentarium.backbones import create_backbone
from segmentarium.backbones.mobilenet_v3 import Block, HardSqueezeExcite
from segmentarium.layers.same_padding import SameConv2d, pad_as_tensorflow


@torch.inference_mode()
def test_the_attention_is_linear_between_minus_three_and_three() -> None:
    layer = HardSqueezeExcite(3, 8)
    for score, weight in ((-4.0, 0.0), (-1.5, 0.25), (0.0, 0.5), (3.0, 1.0), (9.0, 1.0)):
        layer.expand.weight.zero_()
        layer.expand.bias.fill_(score)
        x = torch.randn(1, 3, 4, 5)
        torch.testing.assert_close(layer(x), weight * x)


@torch.inference_mode()
def test_attention_stands_behind_the_depthwise_convolution_and_its_activation() -> None:
    block = Block(8, 16, 8, 3, 1, 1, residual=True, expand=True, excite=True, act=nn.Hardswish).eval()
    assert isinstance(block.excite, HardSqueezeExcite)
    x = torch.randn(1, 8, 6, 6)
    wide = block.depthwise(block.expand(x))
    torch.testing.assert_close(block(x), x + block.project(block.excite(wide)))
    block.excite.expand.weight.zero_()
    block.excite.expand.bias.fill_(-3.0)
    torch.testing.assert_close(block(x), x + block.project(torch.zeros_like(wide)))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(8, 9), (7, 8), (1, 2)])
def test_windows_begin_where_tensorflow_s_do(kernel: int, size: tuple[int, int]) -> None:
    """TensorFlow shares the padding that ceil(n / 2) windows need out to both sides; the odd pixel goes to the far one."""
    conv = nn.Conv2d(2, 2, kernel, 2, kernel // 2, groups=2, bias=False)
    pad_as_tensorflow(conv)
    assert isinstance(conv, SameConv2d)
    sides = []
    for n in reversed(size):
        total = max((-(-n // 2) - 1) * 2 + kernel - n, 0)
        sides += [total // 2, total - total // 2]
    x = torch.randn(1, 2, *size)
    expected = nn.functional.conv2d(nn.functional.pad(x, sides), conv.weight, stride=2, groups=2)
    torch.testing.assert_close(conv(x), expected)


def test_only_the_grid_of_strided_kernels_is_tensorflow_s() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1, 2), nn.Conv2d(3, 3, 3, 1, 1), nn.Conv2d(3, 3, 3, 2, 1))
    pad_as_tensorflow(model)
    assert [type(module) for module in model] == [nn.Conv2d, nn.Conv2d, SameConv2d]


def rates(name: str, **arguments: object) -> list[tuple[int, int]]:
    """(stride, dilation) of each block's depthwise convolution"""
    backbone = create_backbone(name, **arguments)
    convs = [block.depthwise.conv for block in backbone.blocks]
    return [(conv.stride[0], conv.dilation[0]) for conv in convs]


def test_dilation_takes_the_place_of_strides() -> None:
    large = [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1]
    assert rates("mobilenet_v3_large") == [(stride, 1) for stride in large]
    plain = [(stride, 1) for stride in large[:6]]
    contracted = [*plain, (1, 1), *[(1, 2)] * 5, (1, 2), (1, 4), (1, 4)]
    assert rates("mobilenet_v3_large", output_stride=8) == contracted
    full = [*plain, *[(1, 2)] * 6, *[(1, 4)] * 3]
    assert rates("mobilenet_v3_large", output_stride=8, contract_dilation=False) == full


@torch.inference_mode()
def test_features_behind_the_last_block_of_a_stride_or_behind_the_first() -> None:
    arguments = {"width": 0.5, "out_indices": (0, 1, 2, 3, 4)}
    last = create_backbone("mobilenet_v3_large", **arguments).eval()
    first = create_backbone("mobilenet_v3_large", **arguments, strided_taps=True).eval()
    first.load_state_dict(last.state_dict())
    assert last.taps == [1, 3, 6, 12]
    assert first.taps == [0, 2, 4, 7]
    assert create_backbone("mobilenet_v3_small").taps == [0, 1, 3, 8]
    image = torch.randn(1, 3, 64, 64)
    x = first.stem(image)
    for block in first.blocks[:4]:
        x = block(x)
    assert torch.equal(first(image)[2], x)
    for block in first.blocks[4:6]:
        x = block(x)
    assert torch.equal(last(image)[2], x)
    assert torch.equal(first(image)[4], last(image)[4])


def test_the_minimalistic_form_has_the_same_channels_and_none_of_the_rest() -> None:
    whole, minimal = (create_backbone(f"mobilenet_v3_small{form}", num_classes=3) for form in ("", "_minimal"))
    shapes = [
        [(p.shape[0], p.shape[1]) for k, p in m.named_parameters() if "project.conv" in k] for m in (whole, minimal)
    ]
    assert shapes[0] == shapes[1]
    assert not any(isinstance(module, nn.Hardswish | HardSqueezeExcite) for module in minimal.modules())
    assert {m.kernel_size for m in minimal.modules() if isinstance(m, nn.Conv2d)} == {(1, 1), (3, 3)}


def test_errors() -> None:
    with pytest.raises(ValueError, match="arch is 'tiny'; give 'large' or 'small'"):
        create_backbone("mobilenet_v3_large", arch="tiny")
