"""What detectors on a map seen from above share: SECOND's trunk and neck (as PointPillars and CenterPoint use them), and the
steps from points to boxes, each by itself, so that more can be put between them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from segmentarium.contracts import Detector3d
from segmentarium.layers.conv import ConvNormAct
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

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return torch.cat([part(x) for part, x in zip(self.parts, features, strict=True)], 1)


class BevDetector(Detector3d):
    """A detector in steps: `canvas` (points to pillars), `features` (trunk and neck), `outputs` (heads), `decode` (boxes).

    canvas_channels, feature_channels   of the first two
    feature_stride                      cells of the canvas to a cell of the features
    """

    canvas_channels: int
    feature_channels: int
    feature_stride: int

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
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, area=encoder.grid.area)
        self.encoder = encoder
        self.grid = encoder.grid
        total = 1
        for stride in strides:
            total *= stride
        _, ny, nx = self.grid.shape
        if ny % total or nx % total:
            raise ValueError(
                f"area {tuple(area)} is {ny} × {nx} cells of {tuple(cell)} m, and the trunk's strides {tuple(strides)} want "
                f"multiples of {total}; change the area or the cell"
            )
        self.trunk = Trunk(encoder.channels, widths, depths, strides)
        self.neck = Neck(widths, neck_width, factors, transposed_at_one=transposed_at_one)
        self.canvas_channels = encoder.channels
        self.feature_channels = neck_width * len(widths)
        self.feature_stride = round(strides[0] / factors[0])
        init_convs(self.trunk, self.neck)

    def canvas(self, points: Tensor) -> Tensor:
        """(B, N, F) -> (B, canvas_channels, ny, nx), row 0 at the least y"""
        if points.ndim != 3 or points.shape[-1] != self.in_channels:
            raise ValueError(
                f"points have shape {tuple(points.shape)}; this model takes (B, N, {self.in_channels}): x, y, z and "
                f"{self.in_channels - 3} further values of each point"
            )
        return self.encoder(points)

    def features(self, canvas: Tensor) -> Tensor:
        """-> (B, feature_channels, ny / feature_stride, nx / feature_stride)"""
        return self.neck(self.trunk(canvas))

    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        """What the objective reads, and `decode`."""
        raise NotImplementedError

    def decode(self, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """-> boxes, labels, scores: the candidates, best first."""
        raise NotImplementedError

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.decode(self.outputs(self.features(self.canvas(points))))

    def forward_train(self, points: Tensor) -> dict[str, Tensor]:
        return self.outputs(self.features(self.canvas(points)))


class DensePart(nn.Module):
    """Of a detector, what comes behind the pillars: canvas (B, C, ny, nx) -> boxes, labels, scores.

    What goes onto a device that has no scattering: the pillars are made outside.
    """

    def __init__(self, detector: BevDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, canvas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.detector.decode(self.detector.outputs(self.detector.features(canvas)))


def sorted_candidates(boxes: Tensor, labels: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, M, D), labels and logits (B, M) -> boxes, labels, scores, best first."""
    logits, order = logits.sort(1, descending=True)
    return boxes.gather(1, order[..., None].expand_as(boxes)), labels.gather(1, order), logits.sigmoid()
