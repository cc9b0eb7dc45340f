"""What detectors on a map seen from above share: SECOND's trunk and neck (as PointPillars and CenterPoint use them), and the
steps from points to boxes, each by itself, so that more can be put between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from segmentarium.contracts import Detector3d
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.fpn import top_down
from segmentarium.layers.init import init_convs
from segmentarium.lidar.pillars import NORM, Area, PillarEncoder

norm = partial(nn.BatchNorm2d, **NORM)


class Trunk(nn.Module):
    """Stages of 3×3 convolutions, the first of each strided: (B, C, ny, nx) -> [(B, widths[i], …), …], finest first."""

    def __init__(self, in_channels: int, widths: Sequence[int], depths: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for width, depth, stride in zip(widths, depths, strides, strict=True):
            layers = [ConvNormAct(in_channels, width, 3, stride, norm=norm)]
            layers += [ConvNormAct(width, width, 3, norm=norm) for _ in range(depth)]
            self.stages.append(nn.Sequential(*layers))
            in_channels = width

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class Resample(nn.Module):
    """A convolution that makes a map `factor` times as large, or, below 1, as small; norm; ReLU."""

    def __init__(self, in_channels: int, out_channels: int, factor: float, *, transposed: bool) -> None:
        super().__init__()
        if transposed:
            side = round(factor)
            self.conv: nn.Module = nn.ConvTranspose2d(in_channels, out_channels, side, side, bias=False)
        else:
            side = round(1 / factor)
            self.conv = nn.Conv2d(in_channels, out_channels, side, side, bias=False)
        self.norm: nn.Module = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


class Neck(nn.Module):
    """Features of several strides, each brought to one size, side by side.

    transposed_at_one   a feature that keeps its size passes a transposed convolution, as in SECOND; else a plain one
    """

    def __init__(
        self, channels: Sequence[int], width: int, factors: Sequence[float], *, transposed_at_one: bool = True
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            Resample(given, width, factor, transposed=factor > 1 or (factor == 1 and transposed_at_one))
            for given, factor in zip(channels, factors, strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [torch.cat([part(x) for part, x in zip(self.parts, features, strict=True)], 1)]


class PyramidNeck(nn.Module):
    """A feature pyramid with a norm and ReLU behind each convolution (mmdetection's FPN, so told): features -> as many, finest
    first, of `width` channels."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(ConvNormAct(given, width, 1, norm=norm) for given in channels)
        self.outputs = nn.ModuleList(ConvNormAct(width, width, 3, norm=norm) for _ in channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        maps = top_down([lateral(x) for lateral, x in zip(self.laterals, features, strict=True)])
        return [output(x) for output, x in zip(self.outputs, maps, strict=True)]


class BevDetector(Detector3d):
    """A detector in steps: `canvas` (points to pillars), `features` (trunk and neck), `outputs` (heads), `decode` (boxes).

    canvas_channels, feature_channels   of the first two
    feature_strides                     cells of the canvas to a cell of each feature map, finest first
    map_names                           of what `outputs` gives

    Arguments that subclasses pass on:

    neck     "second": the trunk's stages side by side, one map; "pyramid": an FPN, a map for each stage
    columns  which of a point's values are read, x, y and z first; None: all
    """

    canvas_channels: int
    feature_channels: int
    feature_strides: tuple[int, ...]
    map_names: tuple[str, ...]

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        area: Area | Sequence[float],
        cell: Sequence[float],
        encoder: PillarEncoder,
        widths: Sequence[int],
        depths: Sequence[int],
        strides: Sequence[int],
        neck_width: int,
        factors: Sequence[float],
        transposed_at_one: bool = True,
        neck: Literal["second", "pyramid"] = "second",
        columns: Sequence[int] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, area=encoder.grid.area)
        if neck not in ("second", "pyramid"):
            raise ValueError(f"neck is {neck!r}; give 'second' or 'pyramid'")
        self.columns = None if columns is None else read_columns(columns, in_channels)
        self.encoder = encoder
        self.grid = encoder.grid
        total = math.prod(strides)
        _, ny, nx = self.grid.shape
        if ny % total or nx % total:
            raise ValueError(
                f"area {tuple(area)} is {ny} × {nx} cells of {tuple(cell)} m, and the trunk's strides {tuple(strides)} want "
                f"multiples of {total}; change the area or the cell"
            )
        self.trunk = Trunk(encoder.channels, widths, depths, strides)
        self.canvas_channels = encoder.channels
        if neck == "pyramid":
            self.neck: nn.Module = PyramidNeck(widths, neck_width)
            self.feature_channels = neck_width
            self.feature_strides = tuple(math.prod(strides[: i + 1]) for i in range(len(strides)))
        else:
            self.neck = Neck(widths, neck_width, factors, transposed_at_one=transposed_at_one)
            self.feature_channels = neck_width * len(widths)
            self.feature_strides = (round(strides[0] / factors[0]),)
        init_convs(self.trunk, self.neck)

    def canvas(self, points: Tensor) -> Tensor:
        """(B, N, F) -> (B, canvas_channels, ny, nx), row 0 at the least y"""
        if points.ndim != 3 or points.shape[-1] != self.in_channels:
            raise ValueError(
                f"points have shape {tuple(points.shape)}; this model takes (B, N, {self.in_channels}): x, y, z and "
                f"{self.in_channels - 3} further values of each point"
            )
        return self.encoder(points if self.columns is None else points[..., self.columns])

    def features(self, canvas: Tensor) -> list[Tensor]:
        """-> [(B, feature_channels, ny / stride, nx / stride) for each of `feature_strides`]"""
        return self.neck(self.trunk(canvas))

    def outputs(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """What the objective reads, and `decode`."""
        raise NotImplementedError

    def decode(self, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """-> boxes, labels, scores: the candidates, best first."""
        raise NotImplementedError

    def dense(self, canvas: Tensor) -> dict[str, Tensor]:
        """From the pillars to what the heads give (`DensePart`)."""
        return self.outputs(self.features(canvas))

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.decode(self.dense(self.canvas(points)))

    def forward_train(self, points: Tensor) -> dict[str, Tensor]:
        return self.dense(self.canvas(points))


def read_columns(columns: Sequence[int], in_channels: int) -> list[int]:
    """The columns, if they can be meant: x, y and z first, and others of so many."""
    if list(columns[:3]) != [0, 1, 2] or not all(0 <= column < in_channels for column in columns):
        raise ValueError(
            f"columns is {tuple(columns)}; give 0, 1 and 2 (x, y, z) and further ones below in_channels, {in_channels}"
        )
    return list(columns)


def sorted_candidates(boxes: Tensor, labels: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, M, D), labels and logits (B, M) -> boxes, labels, scores, best first."""
    logits, order = logits.sort(1, descending=True)
    return boxes.gather(1, order[..., None].expand_as(boxes)), labels.gather(1, order), logits.sigmoid()
