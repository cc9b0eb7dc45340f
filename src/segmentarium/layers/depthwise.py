"""Depthwise convolutions on the processor, channels last, where oneDNN computes them badly: the same numbers in less time.

Seen with PyTorch 2.15 on AMX, one thread:

- Rows that are padded by more than `WIDE` columns: 2048 channels of 64×64 at a dilation of 12 and 36 take 93 and 180 ms, and 28
  and 35 where they are padded before.
- Gradients of dilated convolutions in bfloat16 are wrong, the weights' from call to call, up to NaN: these stay in float32.
  Taken apart into pictures of every n-th place they gain nothing, for the copies.
- The weights' gradient of a kernel larger than 3×3: 8 crops of 720 channels at 18×24 and 5×5 take 84 ms in bfloat16, 23 in
  float32, and 8 by 3×3 pieces in bfloat16.
- The gradient of the input at a stride of 2, in bfloat16: 8 crops of 144 channels at 72×96 take 99 ms, and 8 as a convolution
  of the slope between zeros.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

WIDE = 6  # columns of padding up to which oneDNN's kernel for depthwise convolutions, channels last, is made
PIECE = 3  # side of the kernels for which oneDNN has a fast gradient of the weights
LARGE = 7  # side from which pieces are faster in float32, too


def widen(conv: nn.Conv2d, input: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """What a convolution shall be given in place of `input`, and the padding that is left to it: the same numbers.

    Gradients gain nothing by it, and exported networks pad for themselves.
    """
    assert not isinstance(conv.padding, str)
    rows, columns = conv.padding
    if (
        columns > WIDE
        and conv.groups == conv.in_channels == conv.out_channels
        and input.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_exporting()
        and input.is_contiguous(memory_format=torch.channels_last)
    ):
        return F.pad(input, (columns, columns)), (rows, 0)
    return input, (rows, columns)


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution with gradients that are right and fast on the processor.

    Under bfloat16 autocast there it computes in float32, unless its gradients are taken here: of a square kernel of odd side
    that keeps the size (or halves it, at a stride of 2), channels last, not dilated.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super().forward(input)
        mixed = torch.is_autocast_enabled("cpu")
        if self._differentiates(input, mixed):
            kind = torch.bfloat16 if mixed else torch.float32
            with torch.autocast("cpu", enabled=False):
                out: Tensor = _Depthwise.apply(input.to(kind), self.weight.to(kind), self.stride[0])  # type: ignore[assignment]
                return out if self.bias is None else out + self.bias.to(kind)[:, None, None]
        if mixed:
            with torch.autocast("cpu", enabled=False):
                return self._plain(input.float()).to(torch.get_autocast_dtype("cpu"))
        return self._plain(input)

    def _plain(self, input: Tensor) -> Tensor:
        input, padding = widen(self, input)
        return F.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def _differentiates(self, input: Tensor, mixed: bool) -> bool:
        """Whether gradients are wanted, and taken here."""
        side = self.kernel_size[0]
        return (
            torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and (torch.get_autocast_dtype("cpu") == torch.bfloat16 if mixed else input.dtype == torch.float32)
            and self.weight.dtype == torch.float32
            and side % 2 == 1
            and (mixed or side >= LARGE)
            and self.kernel_size == (side, side)
            and self.dilation == (1, 1)
            and self.padding == (side // 2, side // 2)
            and self.stride in ((1, 1), (2, 2))
            and self.groups == self.in_channels == self.out_channels
            and input.ndim == 4
            and input.is_contiguous(memory_format=torch.channels_last)
        )


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        slope = slope.contiguous(memory_format=torch.channels_last)
        of_x, of_weight, _ = ctx.needs_input_grad
        return (
            _of_input(x, weight, slope, ctx.stride) if of_x else None,
            _of_weight(x, weight, slope, ctx.stride) if of_weight else None,
            None,
        )


def _of_input(x: Tensor, weight: Tensor, slope: Tensor, stride: int) -> Tensor:
    """A convolution of the slope, between zeros where the stride left places out, by the turned kernel."""
    if stride > 1:
        spread = torch.zeros_like(x)
        spread[..., ::stride, ::stride] = slope
        slope = spread
    return F.conv2d(slope, weight.flip(2, 3), None, 1, weight.shape[-1] // 2, 1, weight.shape[0])


def _of_weight(x: Tensor, weight: Tensor, slope: Tensor, stride: int) -> Tensor:
    side = weight.shape[-1]
    if side <= PIECE:
        return _correlation(x, weight, slope, stride, side // 2)
    if stride > 1:  # pieces copy every place that the stride leaves out
        return _correlation(x.float(), weight.float(), slope.float(), stride, side // 2).to(weight.dtype)
    rows, columns = slope.shape[-2:]
    padded = F.pad(x, (side // 2,) * 4)
    piece = weight[..., :PIECE, :PIECE]
    found = torch.empty_like(weight)
    for top in range(0, side - PIECE + 1, PIECE - 1):
        for left in range(0, side - PIECE + 1, PIECE - 1):
            seen = padded[..., top : top + rows + PIECE - 1, left : left + columns + PIECE - 1]
            seen = seen.contiguous(memory_format=torch.channels_last)
            found[..., top : top + PIECE, left : left + PIECE] = _correlation(seen, piece, slope, 1, 0)
    return found


def _correlation(x: Tensor, weight: Tensor, slope: Tensor, stride: int, padding: int) -> Tensor:
    """The weights' gradient, by PyTorch; of `weight` only its shape and type matter."""
    strides, paddings = (stride, stride), (padding, padding)
    mask = (False, True, False)
    return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
        slope, x, weight, None, strides, paddings, (1, 1), False, (0, 0), weight.shape[0], mask
    )[1]
