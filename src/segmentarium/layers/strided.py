"""From one scale to the next as ENet and ERFNet go: down by convolution beside pooling, up by transposed convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


class ConvPool(nn.Module):
    """A strided 3×3 convolution and a max pooling of the input side by side, then norm and activation.

    The input's channels, pooled, are the last `in_channels` of the `out_channels`.  A side of H becomes ceil(H / 2).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        pool_size: int = 2,
        bias: bool = False,
        eps: float = 1e-5,
        act: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        if out_channels <= in_channels:
            raise ValueError(
                f"out_channels is {out_channels} and in_channels {in_channels}; the pooled input is a part of the output, "
                "so give more out_channels"
            )
        self.conv = nn.Conv2d(in_channels, out_channels - in_channels, 3, 2, 1, bias=bias)
        self.pool = nn.MaxPool2d(pool_size, 2, pool_size // 2 if pool_size % 2 else 0, ceil_mode=pool_size % 2 == 0)
        self.norm: nn.Module = nn.BatchNorm2d(out_channels, eps)
        self.act = act()

    def reparameterize(self) -> None:
        """The norm over both parts becomes a part of the convolution, and a scale and shift of the pooled input."""
        norm = self.norm
        if not isinstance(norm, nn.BatchNorm2d):
            return
        assert norm.running_mean is not None
        assert norm.running_var is not None
        count = self.conv.out_channels
        tensors = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        mean, var, weight, bias = (tensor.detach()[:count] for tensor in tensors)
        self.conv.weight, self.conv.bias = fuse_conv_bn_weights(
            self.conv.weight, self.conv.bias, mean, var, norm.eps, weight, bias
        )
        mean, var, weight, bias = (tensor.detach()[count:].view(1, -1, 1, 1) for tensor in tensors)
        scale = weight * torch.rsqrt(var + norm.eps)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", bias - mean * scale)
        self.norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(x)
        if isinstance(self.norm, nn.Identity):
            pooled = pooled * self.scale + self.shift
        return self.act(self.norm(torch.cat([self.conv(x), pooled], 1)))


class Upconv(nn.ConvTranspose2d):
    """A transposed convolution of stride 2 to a given size, which must be within one pixel of twice the input's.

    ONNX knows the padding of the output only as a constant.  While exporting, `output_padding` is therefore always added,
    and what is too much cut off, which is the same; and copied, or an activation that then writes in place would have to
    write into the whole as well, which engines are slow at.
    """

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:  # type: ignore[override]
        """(B, C, h, w) -> (B, out_channels, *size)"""
        extra: tuple[int, ...] = tuple(self.output_padding)  # type: ignore[arg-type]
        if not torch.compiler.is_exporting():
            sides = zip(size, x.shape[-2:], self.kernel_size, self.padding, extra, strict=True)
            extra = tuple(min(max(s - (2 * (n - 1) + k - 2 * int(p)), 0), most) for s, n, k, p, most in sides)
        y = F.conv_transpose2d(x, self.weight, self.bias, self.stride, self.padding, extra)  # type: ignore[arg-type]
        y = y[..., : size[0], : size[1]]
        return y.clone() if torch.compiler.is_exporting() else y
