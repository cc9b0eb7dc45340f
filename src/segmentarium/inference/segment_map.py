"""What was found in a picture when its segments are told apart: a map of numbers, and what each number is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from segmentarium.brief import Brief
from segmentarium.contracts import Instances, Panoptic
from segmentarium.labels import IGNORE_INDEX
from segmentarium.rle import Patch, patch

BAND = 2**22  # pixels that are gone through at a time


@dataclass(frozen=True)
class FoundSegment:
    """One segment: its number in the map, its class, how sure the model is of it, in 0..1, its pixels, and its box x0, y0, x1,
    y1, the last two one past its last column and row.

    own   its mask, of an instance, which others may partly cover in the map; None: all that the map has of it
    """

    id: int
    label: int
    score: float
    area: int
    box: tuple[int, int, int, int]
    own: Patch | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, repr=False)
class SegmentMap(Brief):
    """ids (H, W) int32: the number of each pixel's segment, 0 where it has none; and the segments.

    Instances may overlap: in the map the surer one lies on top, and each keeps its whole mask.
    """

    ids: np.ndarray
    segments: tuple[FoundSegment, ...]

    def __len__(self) -> int:
        return len(self.segments)

    def mask(self, segment: FoundSegment) -> Patch:
        """The segment's own pixels, in their box."""
        if segment.own is not None:
            return segment.own
        left, top, right, bottom = segment.box
        return Patch(top, left, self.ids[top:bottom, left:right] == segment.id)

    def label_map(self, num_classes: int) -> np.ndarray:
        """(H, W) the class of each pixel, uint8, and 255 where it has no segment; of more than 255 classes int64 and K."""
        nobody = IGNORE_INDEX if num_classes <= IGNORE_INDEX else num_classes
        return self.painted(
            {one.id: one.label for one in self.segments}, nobody, np.uint8 if nobody < 256 else np.int64
        )

    def painted(self, values: Mapping[int, int], nobody: int, dtype: type) -> np.ndarray:
        """(H, W): a value for each number, `nobody` for those without one."""
        table = np.full(max((0, *(one.id for one in self.segments))) + 1, nobody, dtype)
        for number, value in values.items():
            table[number] = value
        return table[self.ids]

    def renumbered(self, numbers: Mapping[int, int]) -> SegmentMap:
        """The same under other numbers, each given for one."""
        ids = self.painted(numbers, 0, np.int32)
        return SegmentMap(ids, tuple(replace(one, id=numbers[one.id]) for one in self.segments))

    def surer_than(self, threshold: float) -> SegmentMap:
        """Of instances, those of this score or more, painted anew."""
        kept = [one for one in self.segments if one.score >= threshold]
        return painted_instances([(one.label, one.score, self.mask(one)) for one in kept], self.ids.shape)


def of_panoptic(found: Panoptic, size: tuple[int, int]) -> SegmentMap:
    """The answer of `MaskSet.panoptic`, of the first `size` (H, W) pixels."""
    ids = found.ids[: size[0], : size[1]].cpu().numpy()
    return measured(ids, {one.id: (one.label, one.score) for one in found.segments})


def of_instances(found: Instances, size: tuple[int, int]) -> SegmentMap:
    """The answer of `MaskSet.instances`, of the first `size` (H, W) pixels."""
    masks = found.masks[:, : size[0], : size[1]].cpu().numpy()
    rows = zip(found.labels.tolist(), found.scores.tolist(), map(patch, masks), strict=True)
    return painted_instances([row for row in rows if row[2].mask.size], size)


def painted_instances(found: Sequence[tuple[int, float, Patch]], size: tuple[int, ...]) -> SegmentMap:
    """A map (H, W) = `size` of classes, scores and masks, the surest first: it lies on top, and is number 1."""
    ids = np.zeros(size, np.int32)
    segments = []
    for number, (label, score, own) in reversed(list(enumerate(found, 1))):
        ids[own.where][own.mask] = number
        height, width = own.mask.shape
        box = (own.left, own.top, own.left + width, own.top + height)
        segments.append(FoundSegment(number, label, score, int(own.mask.sum()), box, own))
    return SegmentMap(ids, tuple(reversed(segments)))


def measured(ids: np.ndarray, known: Mapping[int, tuple[int, float]]) -> SegmentMap:
    """A map with area and box of each number that has a pixel; `known`: number -> class, score."""
    from scipy.ndimage import find_objects

    most = max(known, default=0)
    areas, boxes = np.zeros(most + 1, np.int64), np.zeros((most + 1, 4), np.int64)
    boxes[:, :2] = max(ids.shape)
    for top, band in bands(ids):
        areas += np.bincount(band.reshape(-1), minlength=most + 1)[: most + 1]
        for number, place in enumerate(find_objects(band, most), 1):
            if place is not None:
                rows, columns = place
                np.minimum(boxes[number, :2], (columns.start, rows.start + top), out=boxes[number, :2])
                np.maximum(boxes[number, 2:], (columns.stop, rows.stop + top), out=boxes[number, 2:])
    segments = (
        FoundSegment(number, label, score, int(areas[number]), tuple(boxes[number].tolist()))
        for number, (label, score) in known.items()
        if areas[number]
    )
    return SegmentMap(ids, tuple(segments))


def bands(ids: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
    """First row and rows of a map (H, W), in memory, some at a time."""
    rows = max(1, BAND // max(1, ids.shape[1]))
    for top in range(0, ids.shape[0], rows):
        yield top, np.asarray(ids[top : top + rows])
