"""Convolution, normalisation, activation: the unit that most papers are written in."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.layers.depthwise import DepthwiseConv2d


class PointwiseConv2d(nn.Conv2d):
    """A 1×1 convolution with a stride, which takes out the places that it looks at first: the same numbers.

    On the processor, channels last and with fewer than 16 channels coming in, PyTorch's own gradient of the weights (2.15) writes
    past the end of its memory: the process ends, sooner or later (seen with 3, 4 and 12 channels at 192×256, not with 24).
    """

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(input[..., ::rows, ::columns], self.weight, self.bias, groups=self.groups)


def sound_gradients(model: nn.Module) -> None:
    """Make the plain convolutions of `model`, timm's too, whose gradients PyTorch gets wrong on the processor a `DepthwiseConv2d`
    or a `PointwiseConv2d`.  Their weights stay."""
    for module in model.modules():
        if type(module) is not nn.Conv2d:
            continue
        if 1 < module.groups == module.in_channels == module.out_channels:
            module.__class__ = DepthwiseConv2d
        elif (
            module.kernel_size == (1, 1)
            and max(module.stride) > 1
            and module.padding == (0, 0)
            and module.in_channels // module.groups < 16
        ):
            module.__class__ = PointwiseConv2d


class ConvNormAct(nn.Module):
    """conv -> norm -> act.  `norm=None` and `act=None` leave them out; the convolution has a bias where no norm follows.

    padding: None keeps the size at stride 1 ("same" for odd kernels).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int = 1,
        *,
        padding: int | tuple[int, int] | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool | None = None,
        norm: Callable[[int], nn.Module] | None = nn.BatchNorm2d,
        act: Callable[[], nn.Module] | None = nn.ReLU,
    ) -> None:
        super().__init__()
        if padding is None:
            kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
            padding = (dilation * (kernel[0] - 1) // 2, dilation * (kernel[1] - 1) // 2)
        conv = DepthwiseConv2d if dilation > 1 and groups == in_channels else nn.Conv2d
        self.conv = conv(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            norm is None if bias is None else bias,
        )
        self.norm = norm(out_channels) if norm else nn.Identity()
        self.act = act() if act else nn.Identity()
        if isinstance(self.act, nn.ReLU | nn.ReLU6):
            # nobody else sees what the norm or convolution returns, and neither needs it for its gradient
            self.act.inplace = True

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


def use_leaky_relu(model: nn.Module, slope: float = 0.01) -> None:
    """Gives every ConvNormAct of `model` that has a ReLU a leaky one, in place: what networks have that were trained with
    in-place activated batch norm (Rota Bulò et al., 1712.02616).  A ReLU after a residual sum stays."""
    for module in model.modules():
        if isinstance(module, ConvNormAct) and isinstance(module.act, nn.ReLU):
            module.act = nn.LeakyReLU(slope, inplace=True)


class SeparableConv(nn.Module):
    """A depthwise k×k and a pointwise convolution, each with its own norm and activation (DeepLabV3+, MobileNet)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        dilation: int = 1,
        depthwise_act: Callable[[], nn.Module] | None = nn.ReLU,
        act: Callable[[], nn.Module] | None = nn.ReLU,
    ) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(
            in_channels, in_channels, kernel_size, stride, dilation=dilation, groups=in_channels, act=depthwise_act
        )
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))
