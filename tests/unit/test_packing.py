"""Packed layers compute what the plain ones do, whatever their form, and whoever looks at their weights."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segmentarium.inference.engines import build_engine
from segmentarium.inference.packing import PackedConv2d, PackedConvNormAct, PackedLinear, PackedMLP, can_pack, pack
from segmentarium.layers import onednn
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.depthwise import WIDE, DepthwiseConv2d, widen
from segmentarium.layers.mlp import MLP
from segmentarium.registry import create_model

pytestmark = pytest.mark.skipif(not can_pack(), reason="this PyTorch has no oneDNN operators for this processor")


def same(network: nn.Module, *images: Tensor) -> Any:
    """Packs it, after which it must give what it gave."""
    with torch.inference_mode():
        expected = [network(image) for image in images]
        pack(network)
        for image, wanted in zip(images, expected, strict=True):
            torch.testing.assert_close(network(image), wanted, rtol=1e-4, atol=1e-5)
    return network


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (1, 5), "padding": (0, 2), "bias": False},
        {"kernel_size": 3, "stride": 2, "dilation": 2, "groups": 4},
        {"kernel_size": 7, "padding": 3, "groups": 8},
        {"kernel_size": 1, "stride": (2, 1)},
    ],
    ids=str,
)
def test_a_convolution_at_several_sizes_and_in_both_layouts(arguments: dict) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, **arguments)
    weight = conv.weight.detach().clone()
    first = torch.randn(1, 8, 24, 20)
    packed = same(
        nn.Sequential(conv), first, torch.randn(3, 8, 33, 9), first.contiguous(memory_format=torch.channels_last)
    )[0]
    assert isinstance(packed, PackedConv2d)
    assert packed.unpacked is None  # not held twice
    torch.testing.assert_close(packed.weight, weight, rtol=0, atol=0)
    assert packed(first[:0]).shape[0] == 0
    assert packed(first[0]).ndim == 3


@pytest.mark.parametrize("dilation", [4, 9])
def test_a_greatly_dilated_depthwise_convolution(dilation: int) -> None:
    torch.manual_seed(0)
    conv = DepthwiseConv2d(12, 12, 3, padding=dilation, dilation=dilation, groups=12)
    plain = nn.Conv2d(12, 12, 3, padding=dilation, dilation=dilation, groups=12)
    plain.load_state_dict(conv.state_dict())
    images = [torch.randn(2, 12, 17, 20), torch.randn(1, 12, 40, 5)]
    images += [image.contiguous(memory_format=torch.channels_last) for image in images]
    with torch.inference_mode():
        for image in images:
            given, padding = widen(conv, image)
            padded = dilation > WIDE and image.is_contiguous(memory_format=torch.channels_last)
            assert padding == (dilation, 0 if padded else dilation)
            assert given.shape[-1] == image.shape[-1] + 2 * dilation * padded
            torch.testing.assert_close(conv(image), plain(image))
    assert widen(conv, images[-1])[0] is images[-1]  # where gradients are wanted
    assert isinstance(same(nn.Sequential(conv), *images)[0], PackedConv2d)


def twice(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return 2 * output


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh])
def test_activations_are_done_with_the_layer(act: type[nn.Module]) -> None:
    torch.manual_seed(0)
    conv = same(ConvNormAct(8, 16, norm=None, act=act), 4 * torch.randn(2, 8, 20, 20))
    mlp = same(MLP(32, 128, act=act), torch.randn(2, 100, 32), torch.randn(1, 1, 32), torch.randn(0, 5, 32))
    assert type(conv) is PackedConvNormAct
    assert type(mlp) is PackedMLP


def test_what_has_no_like_or_is_listened_to_is_left_alone() -> None:
    softplus = same(ConvNormAct(8, 8, norm=None, act=nn.Softplus), torch.randn(1, 8, 9, 9))
    assert type(softplus) is ConvNormAct
    for part in ("conv", "norm", "act"):  # where `insert_block` puts blocks
        listened = ConvNormAct(8, 8, norm=None)
        listened.get_submodule(part).register_forward_hook(twice)
        assert type(same(listened, torch.randn(1, 8, 9, 9))) is ConvNormAct
    normed = same(ConvNormAct(8, 8).eval(), torch.randn(1, 8, 9, 9))  # its norm was not folded
    assert type(normed) is ConvNormAct
    reflecting = nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")
    assert pack(nn.Sequential(reflecting, nn.Conv2d(3, 3, 3, padding="same"), nn.Linear(3, 3).double())) == 0


def test_a_linear_layer_whatever_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "WORK", 0)
    torch.manual_seed(0)
    turned = torch.randn(2, 48, 50).transpose(1, 2)
    linear = same(
        nn.Linear(48, 20), torch.randn(48), torch.randn(2, 48), turned, torch.randn(2, 3, 9, 48), turned[:, ::2]
    )
    assert isinstance(linear, PackedLinear)


def test_two_threads_meet_a_convolution_for_the_first_time() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 16, 32, 32)
    for _ in range(20):
        conv = nn.Conv2d(16, 16, 3, padding=1)
        wanted = conv(image).detach()
        pack(nn.Sequential(conv))
        found: list[Tensor] = []

        def run(conv: nn.Module = conv, found: list[Tensor] = found) -> None:
            with torch.inference_mode():
                found.append(conv(image))

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 3
        for output in found:
            torch.testing.assert_close(output, wanted, rtol=1e-4, atol=1e-5)


def test_the_engine_packs_its_own_copy_alone() -> None:
    torch.manual_seed(0)
    model = create_model("swin_t", num_classes=5, embed_dim=32, depths=[1, 1, 1, 1]).eval()
    engine = build_engine(model, "torch", device="cpu")
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(engine(image), model(image), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, PackedLinear | PackedConv2d) for module in model.modules())
