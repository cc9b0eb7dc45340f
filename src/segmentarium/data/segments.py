"""Data sets whose pictures are labelled in segments: objects told apart, or everything there is (panoptic).

What a picture's labels are is one thing for all of them: a map of numbers and a table.  Number i + 1 is row i of the table, 0 is
nobody's, and -1 is void: it counts nowhere.  Objects that overlap lie in layers, as few as they need, so that a map holds all of
each; what is panoptic has one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from PIL import Image

from segmentarium.data.base import DatasetInfo, PictureDataset, Sample, Transform
from segmentarium.data.image_io import ImageReadError
from segmentarium.data.mask_io import MAX_CLASSES, read_raw_mask
from segmentarium.labels import IGNORE_INDEX
from segmentarium.palette import default_palette
from segmentarium.rle import Patch, decode, patch, polygon, united

NOBODY, VOID = 0, -1
TABLE = np.dtype([("label", np.int32), ("crowd", bool), ("area", np.float64), ("box", np.float64, (4,))])
SHOWN = 5  # numbers that a message lists

Tell = Callable[[str, str, str], None]  # level "error" or "warning", kind, message


class SegmentError(ValueError):
    """Labels that contradict themselves or their picture; the message names the file and what is wrong."""


class Region(NamedTuple):
    """One labelled segment: its class, whether it is a crowd (several objects that are not told apart), and as the annotation
    has them its area in pixels and its box x0, y0, x1, y1."""

    label: int
    crowd: bool
    area: float
    box: tuple[float, float, float, float]


class Segmentation(NamedTuple):
    """ids int32 (L, H, W): i + 1 for regions[i], 0 nobody's, -1 void, in layers; the regions."""

    ids: np.ndarray
    regions: tuple[Region, ...]

    def label_map(self, num_classes: int) -> np.ndarray:
        """uint8 (H, W): the class of each pixel, 255 where there is none; of a single class 1, and 0 beside it.

        Where objects overlap, the first one's.
        """
        return label_map(self.ids, np.array([one.label for one in self.regions], np.int64), num_classes)


class SegmentItem(NamedTuple):
    """Where a picture and its labels lie, and what a reader knows of them already; `name` tells it from the others."""

    image: Path
    labels: Path
    entry: Any = None
    name: str = ""


class Outline(NamedTuple):
    """An object as an annotation draws it: by polygons, by runs, or by pixels.

    what       how messages call it: "annotation 12", "line 3"
    label      its class; -1: void, whatever nobody has of it
    polygons   x, y, x, y, … in pixels
    rle        as COCO has it
    area, box  as the annotation says; None: those of the pixels.  The box is x0, y0, x1, y1
    """

    what: str
    label: int
    polygons: Sequence[Sequence[float]] = ()
    rle: Mapping[str, Any] | None = None
    pixels: Patch | None = None
    crowd: bool = False
    area: float | None = None
    box: tuple[float, float, float, float] | None = None


class SegmentDataset(PictureDataset):
    """Pictures with segments: `dataset[i]` is `{"image", "ids", "table", "name"}`, before a transform.

    ids     `tv_tensors.Mask` int32 (L, H, W): i + 1 for row i of the table; 0: nobody's; -1: void
    table   (N,) records: label, crowd, area, box (x0, y0, x1, y1)

    `things` are the classes whose segments are told apart, by index; of the others there is one segment a picture.
    A reader gives `items` and `annotate`.
    """

    task = "segments"
    items: Sequence[SegmentItem]

    def __init__(
        self,
        info: DatasetInfo,
        items: Sequence[SegmentItem],
        things: Iterable[int] | None = None,
        transform: Transform | None = None,
        cache: bool = False,
    ) -> None:
        super().__init__(info, transform, cache)
        self.items = items
        self.things: tuple[int, ...] = tuple(range(info.num_classes)) if things is None else tuple(sorted(things))

    def name(self, index: int) -> str:
        """The item's own name, else the picture's without its ending."""
        return self.items[index].name or super().name(index)

    def load(self, index: int) -> tuple[Image.Image, Segmentation]:
        """The raw pair: an upright RGB picture, and its segments.

        Raises:
            ImageReadError: a file cannot be read, or labels have another size than the picture.
            SegmentError: labels that contradict themselves.
        """
        image, ids, table = self._arrays(index)
        return Image.fromarray(image), Segmentation(ids, regions_of(table))

    def objects(self, index: int) -> list[int]:
        """The class of each segment of picture `index`, without crowds."""
        table = self._arrays(index)[-1]
        return table["label"][~table["crowd"]].tolist()

    def shown(self, index: int) -> set[int]:
        return set(self.objects(index))

    def annotate(self, item: SegmentItem, height: int, width: int, tell: Tell) -> tuple[np.ndarray, np.ndarray]:
        """ids int32 (L, height, width) and table of a picture of that size; `tell` takes what is wrong with them.

        After an error has been told the result is what is left without it.
        """
        raise NotImplementedError

    def examine(self, item: SegmentItem, height: int, width: int, tell: Tell) -> tuple[np.ndarray, np.ndarray]:
        """`annotate`, where entries that are not of the form are an error as any other."""
        try:
            return self.annotate(item, height, width, tell)
        except (SegmentError, ImageReadError):
            raise
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            message = f"{item.labels} has labels that are not of the form ({type(error).__name__}: {error})"
            tell("error", "unreadable labels", message)
        return np.zeros((1, height, width), np.int32), np.zeros(0, TABLE)

    def _decode(self, item: SegmentItem) -> tuple[np.ndarray, ...]:
        (image,) = super()._decode(item)
        return image, *self.examine(item, image.shape[0], image.shape[1], _raise_errors(item))

    def _label(self, index: int, arrays: tuple[np.ndarray, ...]) -> Sample:
        from torchvision import tv_tensors

        return {"ids": tv_tensors.Mask(torch.from_numpy(arrays[1])), "table": arrays[2]}


def _raise_errors(item: SegmentItem) -> Tell:
    def tell(level: str, kind: str, message: str) -> None:
        if level == "error":
            raise SegmentError(f"{item.labels}: {message}" if str(item.labels) not in message else message)

    return tell


def segment_info(
    name: str,
    classes: Sequence[str],
    palette: Sequence[tuple[int, int, int]] = (),
    licence: str = "unknown",
    url: str = "",
) -> DatasetInfo:
    """Facts of a data set of segments; without colours of their own the classes get such as are not black, which is nobody's."""
    colours = tuple(palette) or default_palette(len(classes) + 1)[1:]
    return DatasetInfo(name, tuple(classes), colours, licence=licence, url=url)


def regions_of(table: np.ndarray) -> tuple[Region, ...]:
    """The rows of a table."""
    rows = zip(
        table["label"].tolist(), table["crowd"].tolist(), table["area"].tolist(), table["box"].tolist(), strict=True
    )
    return tuple(Region(label, crowd, area, tuple(box)) for label, crowd, area, box in rows)


def label_map(ids: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """As `Segmentation.label_map`, of ids (L, H, W) and the class (N,) of each number."""
    if num_classes > MAX_CLASSES:
        raise ValueError(
            f"a map of classes holds one byte a pixel, and there are {num_classes} classes; {MAX_CLASSES} fit"
        )
    values = np.full(len(labels) + 2, IGNORE_INDEX, np.uint8)  # void, nobody's, the segments
    values[1] = 0 if num_classes == 1 else IGNORE_INDEX
    values[2:] = 1 if num_classes == 1 else labels
    return values[first_of(ids) + 1]


def first_of(ids: np.ndarray) -> np.ndarray:
    """One layer (H, W) of ids (L, H, W): where objects overlap the first one's number, where none is void or nobody's."""
    found = ids[0]
    for layer in ids[1:]:  # a later layer may hold an earlier object: each lies in the first one that was free
        better = np.where(found > 0, (layer > 0) & (layer < found), layer != NOBODY)
        found = np.where(better, layer, found)
    return found


def draw(outlines: Sequence[Outline], height: int, width: int, tell: Tell) -> tuple[np.ndarray, np.ndarray]:
    """ids int32 (L, height, width) and table of the objects that have a pixel, in their order."""
    layers = [np.zeros((height, width), np.int32)]
    rows: list[tuple[int, bool, float, tuple[float, ...]]] = []
    shared, void = 0, []
    for one in outlines:
        found = _pixels(one, height, width, tell)
        if found is None:
            continue
        if one.label == VOID:
            void.append(found)
            continue
        if not found.mask.any():
            tell("warning", "empty", f"{one.what} has no pixel, and is left out")
            continue
        taken = [bool(layer[found.where][found.mask].any()) for layer in layers]
        if any(taken):
            shared += int(np.any([layer[found.where] > 0 for layer in layers], 0)[found.mask].sum())
        if all(taken):
            layers.append(np.zeros((height, width), np.int32))
            taken.append(False)
        rows.append((one.label, one.crowd, *_measures(found, one.area, one.box)))
        layers[taken.index(False)][found.where][found.mask] = len(rows)
    for found in void:
        free = found.mask & np.all([layer[found.where] == NOBODY for layer in layers], 0)
        layers[0][found.where][free] = VOID
    if shared:
        tell("warning", "overlap", f"{shared:,} pixels belong to more than one object")
    return np.stack(layers), np.array(rows, TABLE)


def _measures(
    found: Patch, area: float | None = None, box: Sequence[float] | None = None
) -> tuple[float, tuple[float, ...]]:
    height, width = found.mask.shape
    own = (found.left, found.top, found.left + width, found.top + height)
    return float(found.mask.sum() if area is None else area), tuple(map(float, own if box is None else box))


def _pixels(one: Outline, height: int, width: int, tell: Tell) -> Patch | None:
    """The pixels of an object; None where an error was told."""
    if one.pixels is not None:
        top, left = max(0, one.pixels.top), max(0, one.pixels.left)
        inside = one.pixels.mask[top - one.pixels.top :, left - one.pixels.left :][: height - top, : width - left]
        if inside.sum() < one.pixels.mask.sum():
            tell(
                "warning",
                "outside",
                f"{one.what} reaches beyond the picture of {width} x {height}; it is cut off there",
            )
        inner = patch(inside)
        return Patch(top + inner.top, left + inner.left, inner.mask)
    if one.rle is not None:
        try:
            mask = decode(one.rle)
        except ValueError as error:
            return tell("error", "unreadable labels", f"{one.what}: {error}")
        if mask.shape != (height, width):
            size = f"{mask.shape[1]} x {mask.shape[0]}"
            return tell("error", "size", f"{one.what} is a mask of {size} pixels, its picture has {width} x {height}")
        return patch(mask)
    parts = []
    for points in one.polygons:
        corners = np.asarray(points, np.float64).reshape(-1)
        if corners.size % 2 or not np.isfinite(corners).all():
            return tell("error", "polygon", f"{one.what} has a polygon of {corners.size} numbers; give x, y, x, y, …")
        if corners.size < 6:
            message = f"{one.what} has a polygon of {corners.size // 2} points, which has no area, and is left out"
            tell("warning", "polygon", message)
            continue
        reach = max(-corners.min(), corners[::2].max() - width, corners[1::2].max() - height)
        if reach > 1:
            message = (
                f"{one.what} reaches {reach:.0f} pixels beyond the picture of {width} x {height}; it is cut off there"
            )
            tell("warning", "outside", message)
        parts.append(polygon(corners, height, width))
    return united(parts)


def merged(outlines: Sequence[Outline], groups: Sequence[Any], height: int, width: int, tell: Tell) -> list[Outline]:
    """The same with those of one class and one group (None: of none) as one object in several pieces."""
    pieces: dict[Any, list[Outline]] = {}
    for place, (one, group) in enumerate(zip(outlines, groups, strict=True)):
        pieces.setdefault(("alone", place) if group is None else (one.label, group), []).append(one)
    result = []
    for same in pieces.values():
        found = [_pixels(one, height, width, tell) for one in same] if len(same) > 1 else []
        pixels = united([one for one in found if one is not None])
        result.append(Outline(same[0].what, same[0].label, pixels=pixels) if found else same[0])
    return result


def numbered(
    values: np.ndarray,
    segments: Mapping[int, tuple[int, bool]],
    nothing: Mapping[int, int],
    tell: Tell,
    given: Mapping[int, tuple[float, Sequence[float]]] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """ids int32 (1, H, W) and table of a map of other numbers.

    values     integers (H, W)
    segments   their number -> class, crowd
    nothing    number -> 0 or -1: what is no segment
    given      number -> area and box, as the annotation says
    """
    found, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    strange = {
        int(v): int(n) for v, n in zip(found, counts, strict=True) if int(v) not in segments and int(v) not in nothing
    }
    if strange:
        shown = ", ".join(f"{value} ({count:,} px)" for value, count in list(strange.items())[:SHOWN])
        more = f" and {len(strange) - SHOWN} more" if len(strange) > SHOWN else ""
        tell("error", "no category", f"the map has numbers without a category: {shown}{more}")
    present = [int(v) for v in found if int(v) in segments]
    order = {value: i + 1 for i, value in enumerate(v for v in segments if v in set(present))}
    target = np.array([order.get(int(v), nothing.get(int(v), VOID)) for v in found], np.int32)
    ids = target[place].reshape(values.shape)
    absent = [value for value in segments if value not in order]
    if absent:
        shown = ", ".join(map(str, absent[:SHOWN])) + (
            f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
        )
        tell("warning", "empty", f"segments without a pixel, which are left out: {shown}")
    rows = []
    boxes = _boxes(ids, len(order))
    areas = dict(zip(found.tolist(), counts.tolist(), strict=True))
    for value, number in order.items():
        area, box = (areas[value], boxes[number - 1]) if given is None else given[value]
        rows.append((*segments[value], float(area), tuple(map(float, box))))
    return ids[None], np.array(rows, TABLE)


def _boxes(ids: np.ndarray, count: int) -> np.ndarray:
    """(count, 4) x0, y0, x1, y1 of the numbers 1..count, each of which has a pixel."""
    boxes = np.zeros((count, 4), np.int64)
    boxes[:, :2] = max(ids.shape, default=0)
    rows, columns = np.nonzero(ids > 0)
    which = ids[rows, columns] - 1
    for place, coordinate in enumerate((columns, rows)):
        np.minimum.at(boxes[:, place], which, coordinate)
        np.maximum.at(boxes[:, place + 2], which, coordinate + 1)
    return boxes


def read_numbers(path: Path, height: int, width: int) -> np.ndarray:
    """int64 (height, width): the numbers in a file; of one in colour R + 256 G + 65536 B, as COCO writes them.

    Raises:
        ImageReadError: the file cannot be read, or has another size.
    """
    raw = read_raw_mask(path)
    if raw.shape[:2] != (height, width):
        raise ImageReadError(
            f"{path} has {raw.shape[1]} x {raw.shape[0]} pixels, its picture has {width} x {height}; save both in one size"
        )
    return raw.astype(np.int64) @ np.array([1, 256, 65536]) if raw.ndim == 3 else raw.astype(np.int64)


def refuse(path: Path, what: str) -> NoReturn:
    """The error of a file that is not what it should be."""
    raise SegmentError(f"{path} {what}")
