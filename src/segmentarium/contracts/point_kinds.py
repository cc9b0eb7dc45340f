"""The kinds of models that find points of pictures, and boxes in point clouds."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.contracts.model import LabelledModel, Model
from segmentarium.contracts.results import Boxes3d, Keypoints
from segmentarium.layers.points import read_points
from segmentarium.layers.turned_boxes import suppress, suppress_near

Sampling = Literal["exact", "superglue", "corners"]


class KeypointModel(Model):
    """(B, C, H, W) -> scores (B, H, W), one a pixel, and descriptors (B, D, h, w) of cells of `stride` pixels.

    A subclass gives `forward`; where its keypoints are found by other means (heat maps of joints), `detect` too.

    threshold   a keypoint's score is greater
    radius      pixels around a keypoint within which there is no second
    border      pixels along the edges where there is none
    sampling    where between the cells a descriptor is read: "exact"; "superglue", as SuperGlue, LightGlue and transformers do,
                right at the upper left and too near to it at the lower right; "corners", as SuperPoint's demonstration does
    joints      names of keypoints that are told apart by their place in the list; (): there are none such
    input_size  (height, width) of the crops of persons that a network of joints was trained on; None: it does not say
    """

    kind = "keypoints"
    output_names = ("scores", "descriptors")
    stride: int = 8
    threshold: float = 0.005
    radius: int = 4
    border: int = 4
    sampling: Sampling = "exact"
    joints: tuple[str, ...] = ()
    input_size: tuple[int, int] | None = None

    def labels(self) -> dict[str, Any]:
        said = {"joints": list(self.joints)} if self.joints else {"stride": self.stride, "sampling": self.sampling}
        return said | ({"input_size": list(self.input_size)} if self.input_size else {})

    @torch.no_grad()
    def detect(
        self,
        image: Tensor,
        *,
        count: int | None = None,
        threshold: float | None = None,
        radius: int | None = None,
        border: int | None = None,
        subpixel: bool = False,
    ) -> Keypoints:
        """A normalised picture (C, H, W), or a batch of it alone -> its keypoints, best first; pixel centres at whole numbers.

        count       the best so many; None: all
        threshold, radius, border   in place of the model's own
        subpixel    places between the pixels, at the top of a parabola through the logarithms of a point's score and its
                    neighbours'

        A picture smaller than a cell has none.
        """
        if image.ndim == 4 and len(image) != 1:
            raise ValueError(f"detect takes one picture, and got {len(image)}; their keypoints differ in number")
        image = image if image.ndim == 4 else image[None]
        if min(image.shape[-2:]) < self.stride:
            size = torch.tensor((image.shape[-1], image.shape[-2]), device=image.device)
            return Keypoints(image.new_zeros(0, 2), image.new_zeros(0), image.new_zeros(0, 0), size)
        options = {"count": count, "threshold": threshold, "radius": radius, "border": border, "subpixel": subpixel}
        return self.read(*self(image), **options)

    @torch.no_grad()
    def read(
        self,
        scores: Tensor,
        dense: Tensor,
        *,
        count: int | None = None,
        threshold: float | None = None,
        radius: int | None = None,
        border: int | None = None,
        subpixel: bool = False,
    ) -> Keypoints:
        """What `forward` gave of one picture, on any engine -> its keypoints, as `detect`."""
        peaks = self.peaks(scores, threshold=threshold, radius=radius, border=border)
        y, x = peaks[0].nonzero(as_tuple=True)
        best = scores[0, y, x].argsort(descending=True, stable=True)[:count]
        points = torch.stack((x[best], y[best]), 1)
        found = scores[0, y[best], x[best]]
        places = between_pixels(scores[0], points) if subpixel else points.to(dense.dtype)
        size = torch.tensor((scores.shape[-1], scores.shape[-2]), device=scores.device)
        return Keypoints(places, found, self.sample(dense, places[None])[0], size)

    def peaks(
        self, scores: Tensor, *, threshold: float | None = None, radius: int | None = None, border: int | None = None
    ) -> Tensor:
        """(B, H, W) scores -> bool: which pixels are keypoints, the border counted from the last whole cell.

        Raises ValueError for a radius or border below 0.
        """
        threshold = self.threshold if threshold is None else threshold
        radius, border = self.radius if radius is None else radius, self.border if border is None else border
        if border < 0:  # would count pixels beyond the last whole cell
            raise ValueError(f"the border is {border}; give pixels, 0 or more")
        height, width = (side // self.stride * self.stride for side in scores.shape[-2:])
        y, x = (torch.arange(side, device=scores.device) for side in scores.shape[-2:])
        inside = ((y >= border) & (y < height - border))[:, None] & ((x >= border) & (x < width - border))
        return local_maxima(scores, radius) & inside & (scores > threshold)

    def sample(
        self, dense: Tensor, points: Tensor, *, first: tuple[int, int] = (0, 0), cells: tuple[int, int] | None = None
    ) -> Tensor:
        """(B, D, h, w) descriptors of cells and (B, N, 2) x, y in pixels -> (B, N, D) of length 1, bilinear between the cells.

        first   column and row of the picture's cells at which `dense` begins, where it is a part of them
        cells   how many columns and rows the whole picture has; None: those of `dense`
        """
        height, width = dense.shape[-2:]
        across, down = (width, height) if cells is None else cells
        x, y = points.to(dense.dtype).unbind(-1)
        column = self.cell(x + first[0] * self.stride, across) - first[0]
        row = self.cell(y + first[1] * self.stride, down) - first[1]
        places = torch.stack(((column + 0.5) / width, (row + 0.5) / height), -1)
        return F.normalize(read_points(dense, places).mT, dim=-1)

    def cell(self, place: Tensor, cells: int) -> Tensor:
        """Pixels along a side of so many cells -> which cell's middle lies there, with fractions between them."""
        side = cells * self.stride
        if self.sampling == "superglue":
            return (place - (self.stride - 1) / 2) / (side - (self.stride + 1) / 2) * (cells - 1)
        if self.sampling == "corners":
            return place / side * (cells - 1)
        return (place + 0.5) / self.stride - 0.5


def local_maxima(scores: Tensor, radius: int, rounds: int = 2) -> Tensor:
    """(B, H, W) -> bool: greater than all within `radius` pixels; then, `rounds` times, the same among those that no peak
    suppresses, as a lower peak counts once the one that hid it from its neighbours is itself suppressed."""
    if radius < 0:
        raise ValueError(f"the radius is {radius}; give pixels, 0 or more")

    peaks = scores == greatest(scores, radius)
    for _ in range(rounds):
        hidden = near(peaks, radius)
        rest = scores.masked_fill(hidden, 0)
        peaks = peaks | ((rest == greatest(rest, radius)) & ~hidden)
    return peaks


def greatest(x: Tensor, radius: int) -> Tensor:
    """(B, H, W) -> the same shape: of each place the greatest number within `radius` pixels, along either axis.

    By OpenCV where it can, whose dilation is the same and a small part of the time; in graphs and on GPUs by pooling.
    """
    if x.dtype == torch.float32 and _on_the_processor(x):
        return _dilated(x, radius)
    # of rows, then of columns: the same as of squares, and many times faster
    x = F.max_pool2d(x[:, None], (1, 2 * radius + 1), stride=1, padding=(0, radius))
    return F.max_pool2d(x, (2 * radius + 1, 1), stride=1, padding=(radius, 0))[:, 0]


def near(peaks: Tensor, radius: int) -> Tensor:
    """(B, H, W) bool -> bool: whether there is a peak within `radius` pixels, along either axis."""
    if _on_the_processor(peaks):
        return _dilated(peaks.view(torch.uint8), radius).view(torch.bool)
    return greatest(peaks.float(), radius) > 0


def _on_the_processor(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _dilated(x: Tensor, radius: int) -> Tensor:
    import cv2  # not needed to build a model

    square = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    return torch.stack([torch.from_numpy(cv2.dilate(one, square)) for one in x.detach().contiguous().numpy()])


def between_pixels(scores: Tensor, points: Tensor) -> Tensor:
    """Moves local maxima (N, 2) x, y of scores (H, W) by up to half a pixel: along either axis to the top of the parabola through
    the logarithms of three scores, which is exact for a Gaussian.  Points at the picture's edge stay."""
    height, width = scores.shape
    x, y = points.long().unbind(1)
    inner = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    cx, cy = x.clamp(1, max(width - 2, 1)), y.clamp(1, max(height - 2, 1))
    logs = scores.float().clamp(min=1e-12).log()

    def top(before: Tensor, here: Tensor, behind: Tensor) -> Tensor:
        curved = before - 2 * here + behind
        return torch.where(curved < 0, 0.5 * (before - behind) / curved, 0.0).clamp(-0.5, 0.5)

    if min(height, width) < 3:
        return points.float()
    here = logs[cy, cx]
    moved = torch.stack(
        (top(logs[cy, cx - 1], here, logs[cy, cx + 1]), top(logs[cy - 1, cx], here, logs[cy + 1, cx])), 1
    )
    return points + moved * inner[:, None]


class Detector3d(LabelledModel):
    """Points (B, N, F) in the lidar's frame -> boxes (B, M, 7), labels (B, M), scores (B, M): M places a scan, best first.

    points   x, y, z in metres and F - 3 further values, such as the reflectance; points outside `area` fill up a batch
    boxes    x, y, z of the centre, length, width, height in metres, angle about z in radians; (B, M, 9) of a model that gives
             the speed along x and y, too
    labels   int64 class indices; -1: the place is empty
    map      (B, map_channels, H, W), drawn over `area`'s x and y, row 0 at the least y, for a subclass whose `inputs` are
             ("points", "map")

    A subclass gives `forward`: candidates, many of the same object, in a number that does not depend on the points, so that the
    whole of it is one graph.  `detect` leaves one an object.

    threshold   least score
    overlap     shared area over joint area, from above, beyond which the better of two boxes of a group suppresses the other
    radii       of each class: metres between centres that suppress instead; None: overlap does
    groups      of each class: the group whose boxes suppress each other; None: each class is one
    most        boxes of a scan at most
    """

    layers: tuple[str, ...] = ()  # of the map, by name, and the (H, W) at which it is best drawn
    map_size: tuple[int, int] = (64, 64)
    threshold: float = 0.1
    overlap: float = 0.2
    radii: tuple[float, ...] | None = None
    groups: tuple[int, ...] | None = None
    most: int = 500
    kind = "detector3d"
    inputs = ("points",)
    open_axes = (("batch", "points", ""), ("batch", "", "height", "width"))
    output_names = ("boxes", "labels", "scores")
    example_points: ClassVar[int] = 2048
    counted_at = (256, 256)  # of the map, where there is one

    def __init__(
        self,
        *,
        num_classes: int,
        area: tuple[float, float, float, float, float, float],
        in_channels: int = 4,
        map_channels: int = 0,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        if in_channels < 3:
            raise ValueError(f"in_channels is {in_channels}; a point has x, y and z at least: give 3 or more")
        if any(low >= high for low, high in zip(area[:3], area[3:], strict=True)):
            raise ValueError(f"area is {area}; give least x, y, z and greatest x, y, z in metres")
        if bool(map_channels) != ("map" in self.inputs):
            raise ValueError(
                f"map_channels is {map_channels}, and {type(self).__name__} takes {', '.join(self.inputs)}"
            )
        self.classes = self.classes[:num_classes]
        self.area, self.map_channels = area, map_channels

    def example(self, batch: int = 1, size: tuple[int, int] = (64, 64)) -> tuple[Tensor, ...]:
        """Points on a diagonal of the area, further values 0; where the model takes a map, zeros of (batch, channels, *size)."""
        like = next(self.parameters(), torch.zeros(()))
        area = torch.tensor(self.area, device=like.device, dtype=like.dtype)
        along = torch.linspace(0.01, 0.99, self.example_points, device=like.device, dtype=like.dtype)[:, None]
        points = F.pad(area[:3] + along * (area[3:] - area[:3]), (0, self.in_channels - 3)).expand(batch, -1, -1)
        raster = torch.zeros(batch, self.map_channels, *size, device=like.device, dtype=like.dtype)
        return (points, raster) if "map" in self.inputs else (points,)

    @torch.no_grad()
    def detect(
        self, points: Tensor, *others: Tensor, threshold: float | None = None, most: int | None = None
    ) -> list[Boxes3d]:
        """What `forward` takes -> the boxes of each scan, best first, one an object.

        threshold, most   instead of the model's own
        """
        return self.chosen(*self(points, *others), threshold=threshold, most=most)

    @torch.no_grad()
    def chosen(
        self, boxes: Tensor, labels: Tensor, scores: Tensor, *, threshold: float | None = None, most: int | None = None
    ) -> list[Boxes3d]:
        """What `forward` gave, on any engine -> the boxes of each scan, as `detect`."""
        least, most = self.threshold if threshold is None else threshold, self.most if most is None else most
        found = []
        for box, label, score in zip(boxes, labels, scores, strict=True):
            kept = (label >= 0) & (score >= least) & box.isfinite().all(1)
            box, label, score = box[kept].float(), label[kept], score[kept].float()
            groups = label if self.groups is None else label.new_tensor(self.groups)[label]
            if self.radii is None:
                best = suppress(box, score, self.overlap, groups)[:most]
            else:
                best = suppress_near(box, score, score.new_tensor(self.radii)[label], groups)[:most]
            found.append(Boxes3d(box[best], label[best], score[best]))
        return found
