"""Regions of a feature pyramid, brought to one size (RoIAlign, 1703.06870, on the levels of FPN, 1612.03144)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from segmentarium.layers.boxes import areas
from segmentarium.layers.nms import indices

FINEST = 56  # side in pixels up to which a region is seen in the finest level; twice that for each further one


class RoIAlign(nn.Module):
    """[(B, C, h_i, w_i), …] and regions (M, 5): number of the image, x0, y0, x1, y1 in its pixels -> (M, C, size, size).

    strides   of the maps, finest first; with one, all regions are seen in it
    aligned   pixels have their centres at halves; False: torchvision's earlier form
    samples   along each side of a cell; 0: as many as the region has pixels of the map
    """

    def __init__(self, strides: Sequence[int], size: int, *, aligned: bool = True, samples: int = 0) -> None:
        super().__init__()
        self.strides, self.size, self.aligned, self.samples = tuple(strides), size, aligned, samples

    def levels(self, rois: Tensor) -> Tensor:
        """(M, 5) -> (M,) int64: the level in which each region is seen (equation 1 of FPN)."""
        scale = areas(rois[:, 1:]).clamp(min=0).sqrt()
        return (scale / FINEST + 1e-6).log2().floor().clamp(0, len(self.strides) - 1).long()

    def forward(self, maps: Sequence[Tensor], rois: Tensor, levels: Tensor | None = None) -> Tensor:
        """levels: (M,), where something else than their size tells them"""
        if len(maps) == 1 or rois.is_meta:
            return self._cut(maps[0], rois, self.strides[0])
        levels = self.levels(rois) if levels is None else levels
        found = maps[0].new_zeros((rois.shape[0], maps[0].shape[1], self.size, self.size))
        for level, (x, stride) in enumerate(zip(maps, self.strides, strict=True)):
            (own,) = indices(levels == level)
            found[own] = self._cut(x, rois[own], stride)
        return found

    def levels_of(self, rois: Tensor, objects: Tensor, truth: Any) -> Tensor | None:
        """In training: the levels of regions by the labelled object that each stands for; None: by size alone."""
        return None

    def second_look(self, first: Tensor, rois: Tensor, labels: Tensor, look: Callable[..., Tensor]) -> Tensor:
        """The masks of a first look; where they tell of other levels, those of another `look(rois, labels, levels)`."""
        return first

    def _cut(self, x: Tensor, rois: Tensor, stride: int) -> Tensor:
        from torchvision.ops import roi_align

        # in float32: half precision has neither the positions nor, on processors, the operator
        size = (self.size, self.size)
        return roi_align(x.float(), rois, size, 1 / stride, self.samples or -1, self.aligned).to(x.dtype)
