"""Max pooling that remembers where its maxima stood, and the unpooling that puts values back there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReversiblePool(nn.Module):
    """Max pooling of stride 2, `pool(x) -> (maxima, places)`, and its reverse, `pool.undo(y, places, size)`.

    kernel_size   2: windows side by side.  3: windows that overlap, padded by one; a side of H becomes ceil(H / 2)
    round_up      of 2×2 windows: an odd side's last row is a window of its own; else it is dropped

    Of equal values in a window the first in reading order counts.  Where overlapping windows share their maximum, the last
    of them is put back there.  `places` are positions in the plane, or, while exporting, the number of the position within
    the window: ONNX has no operator that would take positions back (for which engines exist), comparing needs none.
    """

    def __init__(self, kernel_size: int = 2, *, round_up: bool = False) -> None:
        super().__init__()
        if kernel_size not in (2, 3):
            raise ValueError(f"kernel_size is {kernel_size}; give 2 or 3")
        self.kernel_size, self.padding = kernel_size, kernel_size // 3
        self.round_up = round_up or kernel_size == 3
        self._window = ((kernel_size,) * 2, (2, 2), (self.padding,) * 2)  # size, stride, padding

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, round_up={self.round_up}"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, C, h, w) and as many places"""
        if torch.compiler.is_exporting():
            return self._compare(x)
        return F.max_pool2d_with_indices(x, *self._window, ceil_mode=self.round_up and self.kernel_size == 2)

    def undo(self, y: Tensor, places: Tensor, size: Sequence[int]) -> Tensor:
        """(B, C, h, w) -> (B, C, *size): each value where the maximum of its window stood, 0 elsewhere.

        size   of what was pooled
        """
        height, width = size
        if torch.compiler.is_exporting():
            full = F.pixel_shuffle(torch.stack(self._phases(y, places), 2).flatten(1, 2), 2)
            if self.round_up:
                return full[..., :height, :width]
            return F.pad(full, (0, width - full.shape[-1], 0, height - full.shape[-2]))
        if self.kernel_size == 3:
            y = _agreed(y, places)
        return F.max_unpool2d(y, places, *self._window, (height, width))

    def _compare(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.round_up:  # no window's maximum is the padding, as each holds at least one pixel
            x = F.pad(x, (self.padding, 1, self.padding, 1), value=torch.finfo(x.dtype).min)
        maxima = F.max_pool2d(x, self.kernel_size, 2)
        height, width = maxima.shape[-2:]
        last = self.kernel_size**2 - 1
        places = torch.full_like(maxima, last)
        for place in range(last - 1, -1, -1):
            row, column = divmod(place, self.kernel_size)
            seen = x[..., row : row + 2 * height - 1 : 2, column : column + 2 * width - 1 : 2]
            places = torch.where(seen == maxima, place, places)
        return maxima, places

    def _phases(self, y: Tensor, places: Tensor) -> list[Tensor]:
        """What stands at (even, even), (even, odd), (odd, even) and (odd, odd) rows and columns."""
        zero = torch.zeros((), dtype=y.dtype, device=y.device)
        if self.kernel_size == 2:
            return [torch.where(places == place, y, zero) for place in range(4)]
        # The windows that reach a phase: how far below and to the right, and as which of their nine places; later wins.
        reaching = (
            ((0, 0, 4),),
            ((0, 0, 5), (0, 1, 3)),
            ((0, 0, 7), (1, 0, 1)),
            ((0, 0, 8), (0, 1, 6), (1, 0, 2), (1, 1, 0)),
        )
        phases = []
        for windows in reaching:
            phase = zero
            for down, right, place in windows:
                chosen = _shifted(places, down, right, -1) == place
                phase = torch.where(chosen, _shifted(y, down, right, 0), phase)
            phases.append(phase)
        return phases


def _shifted(x: Tensor, down: int, right: int, value: float) -> Tensor:
    """x[i + down, j + right] at (i, j), `value` beyond the border.  down is 0 or 1, right is -1, 0 or 1."""
    if not down and not right:
        return x
    height, width = x.shape[-2:]
    padded = F.pad(x, (max(-right, 0), max(right, 0), 0, down), value=value)
    left = max(right, 0)
    return padded[..., down : down + height, left : left + width]


def _agreed(y: Tensor, places: Tensor) -> Tensor:
    """The values of overlapping windows, those that share a place with a later window replaced by that one's.

    Then the order of writing does not matter, which no backend promises; and the later window alone gets the gradient.
    """
    result = y
    for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
        same = places == _shifted(places, down, right, -1)
        result = torch.where(same, _shifted(y, down, right, 0).detach(), result)
    return result
