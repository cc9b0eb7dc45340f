"""COCO's average precision of instances: by their masks, their boxes, and their outlines (boundary AP, arXiv 2103.16562)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch

from segmentarium.metrics.boundary import boundary_distance, label_boundary
from segmentarium.rle import Patch

KINDS = ("mask", "box", "boundary")
THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU
RECALLS = np.linspace(0, 1, 101)
RANGES = {
    "": (0.0, 1e10),
    "_small": (0.0, 32.0**2),
    "_medium": (32.0**2, 96.0**2),
    "_large": (96.0**2, 1e10),
}  # of areas
CELLS = len(RANGES) * len(THRESHOLDS)  # bits of a detection


class LabelledObject(Protocol):
    """One labelled segment; area in pixels and box x0, y0, x1, y1 as the annotation says, which may be finer than pixels."""

    @property
    def label(self) -> int: ...

    @property
    def crowd(self) -> bool: ...

    @property
    def area(self) -> float: ...

    @property
    def box(self) -> tuple[float, float, float, float]: ...


class AveragePrecision:
    """Instances against labelled ones, over a data set, as COCO's own evaluation scores them.

    Of a picture, 28 bytes for each detection and kind of overlap are kept: its score, and at which IoU thresholds and for which
    sizes of objects it was right, wrong, or counted nowhere.

    Args:
        num_classes: K.
        kinds: of overlap: "mask", "box", "boundary" (the smaller of the IoU of masks and of their boundary regions).
        dilation_ratio: of boundary regions, as a share of the diagonal.
        most: detections of a class that count in a picture, the surest first.
    """

    def __init__(
        self, num_classes: int, kinds: Sequence[str] = KINDS, dilation_ratio: float = 0.02, most: int = 100
    ) -> None:
        if unknown := sorted(set(kinds) - set(KINDS)):
            raise ValueError(f"kinds of overlap are {', '.join(KINDS)}; {', '.join(unknown)} is none of them")
        self.num_classes, self.kinds, self.dilation_ratio, self.most = num_classes, tuple(kinds), dilation_ratio, most
        self.objects = np.zeros((num_classes, len(RANGES)), np.int64)  # that count
        self._rows: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}

    def update(
        self,
        labels: np.ndarray | Sequence[int],
        scores: np.ndarray | Sequence[float],
        masks: Sequence[Patch],
        target: np.ndarray,
        objects: Sequence[LabelledObject],
        boxes: np.ndarray | None = None,
        uncertain: Collection[int] = (),
    ) -> None:
        """Add a picture.

        Args:
            labels, scores, masks: of N detections, in any order; masks lie in pixels of the picture.
            target: int (L, H, W), 1..M: the pixels of the labelled objects, in as many layers as their overlaps need; 0: none's,
                -1: void, which here is no different.
            objects: the M labelled objects.
            boxes: (N, 4) x0, y0, x1, y1 of the detections; None: those of their masks.
            uncertain: classes of which not all objects are labelled: detections without an object count nowhere.

        Raises:
            ValueError: numbers that do not fit, or classes outside 0..K-1.
        """
        label, score = np.asarray(labels, np.int64).reshape(-1), np.asarray(scores, np.float64).reshape(-1)
        if not len(label) == len(score) == len(masks):
            raise ValueError(f"{len(label)} labels, {len(score)} scores and {len(masks)} masks; give as many of each")
        if target.ndim != 3 or (target.size and int(target.max()) > len(objects)):
            raise ValueError(
                f"target has shape {target.shape} and numbers up to {target.max(initial=0)} for {len(objects)} objects; give "
                "(L, H, W) with 1 for the first object"
            )
        truth = np.array([one.label for one in objects], np.int64)
        if (wrong := np.concatenate((label, truth))).size and not (wrong.min() >= 0 and wrong.max() < self.num_classes):
            raise ValueError(f"classes go from {wrong.min()} to {wrong.max()}; give 0..{self.num_classes - 1}")
        if not np.isfinite(score).all():
            raise ValueError("a score is not finite: there is no order of the detections")
        crowd = np.array([one.crowd for one in objects], bool)
        area = np.array([one.area for one in objects], np.float64)
        # what counts nowhere in each range of sizes
        ignored = crowd | np.stack([(area < low) | (area > high) for low, high in RANGES.values()])
        np.add.at(self.objects, truth, (~ignored).T)
        kept = self._first(label, score)
        label, score, masks = label[kept], score[kept], [masks[i] for i in kept]
        given = None if boxes is None else np.asarray(boxes, np.float64)[kept]
        alike = overlaps(masks, target, objects, self.kinds, self.dilation_ratio, given)
        given = _boxes(masks) if given is None else given
        pixels = np.array([one.mask.sum() for one in masks], np.float64)
        sizes = {"mask": pixels, "boundary": pixels, "box": (given[:, 2:] - given[:, :2]).prod(1)}
        for kind in self.kinds:
            outside = np.stack([(sizes[kind] < low) | (sizes[kind] > high) for low, high in RANGES.values()])
            for one in np.unique(label):
                found, there = label == one, truth == one
                right, nowhere = _matched(alike[kind][found][:, there], ignored[:, there], crowd[there])
                nowhere |= ~right & (outside[:, None, found] | (one in uncertain))
                self._rows[kind].append(_packed(score[found], int(one), right & ~nowhere, nowhere))

    def _first(self, label: np.ndarray, score: np.ndarray) -> np.ndarray:
        """The detections that count, the surest first."""
        order = np.argsort(-score, kind="stable")
        place = np.zeros(len(order), np.int64)
        for one in np.unique(label):
            same = label[order] == one
            place[same] = np.arange(same.sum())
        return order[place < self.most]

    def merge(self, other: Self) -> Self:
        """Add another part of the data set; detections of equal score are then ordered part by part."""
        if (other.num_classes, other.kinds) != (self.num_classes, self.kinds):
            raise ValueError("both must be made with the same classes and kinds of overlap")
        self.objects += other.objects
        for kind, rows in other._rows.items():
            self._rows[kind] += rows
        return self

    def all_reduce(self) -> Self:
        """Add up what all processes have, in each of them.  Call it once, after the last update."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, (self.objects, self._rows))
            self.objects = np.sum([objects for objects, _ in parts], 0)
            self._rows = {kind: [row for _, rows in parts for row in rows[kind]] for kind in self.kinds}
        return self

    def by_class(self, kind: str = "mask") -> np.ndarray:
        """Precision float64 (K, ranges of sizes, thresholds), the mean over 101 recalls; NaN where a class has no object."""
        return self._curves(kind)[0]

    def _curves(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean precision and greatest recall, both (K, ranges, thresholds)."""
        shape = (self.num_classes, len(RANGES), len(THRESHOLDS))
        precision, recall = np.full(shape, np.nan), np.full(shape, np.nan)
        rows = np.concatenate(self._rows[kind]) if self._rows[kind] else np.empty(0, ROW)
        for one in range(self.num_classes):
            mine = rows[rows["label"] == one]
            mine = mine[np.argsort(-mine["score"], kind="stable")]
            right, nowhere = _unpacked(mine["right"]), _unpacked(mine["nowhere"])
            for which, number in enumerate(self.objects[one]):
                if number:
                    wrong = ~right[:, which] & ~nowhere[:, which]
                    precision[one, which], recall[one, which] = _averaged(right[:, which], wrong, int(number))
        return precision, recall

    def summary(self, classes: Sequence[str] | None = None) -> dict[str, Any]:
        """All numbers, in 0..1; NaN where there is no object of that kind.

        Returns:
            ap (mean over classes and the thresholds 0.5 to 0.95), ap50, ap75, ap_small, ap_medium, ap_large, ar (the mean of the
            greatest recall), and by_class, name -> ap; those of boxes and outlines begin with "box_" and "boundary_".
        """
        names = [str(index) for index in range(self.num_classes)] if classes is None else classes
        found: dict[str, Any] = {}
        for kind in self.kinds:
            start = "" if kind == "mask" else f"{kind}_"
            precision, recall = self._curves(kind)
            found[f"{start}ap"] = _mean(precision[:, 0])
            found[f"{start}ap50"], found[f"{start}ap75"] = _mean(precision[:, 0, 0]), _mean(precision[:, 0, 5])
            for which, size in enumerate(list(RANGES)[1:], 1):
                found[f"{start}ap{size}"] = _mean(precision[:, which])
            found[f"{start}ar"] = _mean(recall[:, 0])
            found[f"{start}by_class"] = dict(zip(names, precision[:, 0].mean(1).tolist(), strict=True))
        return found


def overlaps(
    masks: Sequence[Patch],
    target: np.ndarray,
    objects: Sequence[LabelledObject],
    kinds: Sequence[str] = KINDS,
    dilation_ratio: float = 0.02,
    boxes: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Kind of overlap -> IoU (N, M) in 0..1 of detections and labelled objects, as `AveragePrecision.update` takes them.

    Of a crowd it is the share of the detection that lies on it; boundary regions of crowds are not compared.
    """
    crowd = np.array([one.crowd for one in objects], bool)
    own, table = _shared(masks, target, len(objects))
    found = {"mask": _iou(table, own, _sizes(target, len(objects)), crowd)}
    if "box" in kinds:
        drawn = np.array([one.box for one in objects], np.float64).reshape(-1, 4)
        given = _boxes(masks) if boxes is None else boxes
        low, high = np.maximum(given[:, None, :2], drawn[:, :2]), np.minimum(given[:, None, 2:], drawn[:, 2:])
        mine, theirs = ((some[:, 2:] - some[:, :2]).prod(1) for some in (given, drawn))
        found["box"] = _iou((high - low).clip(0).prod(2), mine, theirs, crowd)
    if "boundary" in kinds:
        distance = boundary_distance(target.shape[1], target.shape[2], dilation_ratio)
        edges = [Patch(one.top, one.left, one.mask & _edge(one.mask[None], distance)[0]) for one in masks]
        ring = np.where(_edge(target, distance), target, 0)
        edge, shared = _shared(edges, ring, len(objects))
        thin = _iou(shared, edge, _sizes(ring, len(objects)), np.zeros_like(crowd))
        found["boundary"] = np.where(crowd, found["mask"], np.minimum(thin, found["mask"]))
    return found


ROW = np.dtype([("score", np.float64), ("label", np.int32), ("right", np.uint64), ("nowhere", np.uint64)])


def _packed(score: np.ndarray, label: int, right: np.ndarray, nowhere: np.ndarray) -> np.ndarray:
    """Rows of detections (n,), whose bits (ranges, thresholds, n) become one number each."""
    rows = np.empty(len(score), ROW)
    weight = (np.uint64(1) << np.arange(CELLS, dtype=np.uint64))[:, None]
    rows["score"], rows["label"] = score, label
    for name, bits in (("right", right), ("nowhere", nowhere)):
        rows[name] = (bits.reshape(CELLS, -1) * weight).sum(0, dtype=np.uint64)
    return rows


def _unpacked(numbers: np.ndarray) -> np.ndarray:
    """uint64 (n,) -> bool (n, ranges, thresholds)"""
    bits = (numbers[:, None] >> np.arange(CELLS, dtype=np.uint64)) & np.uint64(1)
    return bits.astype(bool).reshape(-1, len(RANGES), len(THRESHOLDS))


def _matched(iou: np.ndarray, ignored: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Detections (n, m), the surest first, against the objects of their class -> two bool (ranges, thresholds, n): whether each
    has an object, and whether that object counts nowhere.

    A detection takes the free object of most IoU, of several the last; one that counts before one that does not; a crowd is
    free for all.
    """
    shape = (len(RANGES), len(THRESHOLDS))
    right, nowhere = np.zeros((2, *shape, len(iou)), bool)
    if not iou.shape[1]:
        return right, nowhere
    free = np.ones((*shape, iou.shape[1]), bool)
    least = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    for detection, overlap in enumerate(iou):
        if overlap.max() < least[0, 0]:
            continue
        good = np.where((free | crowd) & (overlap >= least), overlap, -1.0)
        counted = np.where(ignored[:, None], -1.0, good)
        chosen = np.where(counted.max(2, keepdims=True) >= 0, counted, good)
        last = chosen.shape[2] - 1 - chosen[..., ::-1].argmax(2)
        has = chosen.max(2) >= 0
        right[..., detection] = has
        nowhere[..., detection] = has & ignored[rows, last]
        free[rows, columns, last] &= ~has
    return right, nowhere


def _averaged(right: np.ndarray, wrong: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Detections (n, thresholds), the surest first, for `number` objects -> mean precision and greatest recall (thresholds,)."""
    hits, misses = np.cumsum(right, 0, dtype=np.float64), np.cumsum(wrong, 0, dtype=np.float64)
    recall, precision = hits / number, hits / (hits + misses + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    means = [
        np.append(envelope[:, i], 0.0)[np.searchsorted(recall[:, i], RECALLS, side="left")].mean()
        for i in range(len(THRESHOLDS))
    ]
    return np.array(means), recall[-1] if len(recall) else np.zeros(len(THRESHOLDS))


def _shared(masks: Sequence[Patch], target: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each mask (n,), and those that it shares with each object (n, count)."""
    own, table = np.zeros(len(masks)), np.zeros((len(masks), count))
    for row, one in enumerate(masks):
        own[row] = one.mask.sum()
        for layer in target:
            table[row] += np.bincount(layer[one.where][one.mask].clip(0), minlength=count + 1)[1:]
    return own, table


def _sizes(target: np.ndarray, count: int) -> np.ndarray:
    """Pixels of each object (count,)."""
    return sum((np.bincount(layer.reshape(-1).clip(0), minlength=count + 1)[1:] for layer in target), np.zeros(count))


def _iou(shared: np.ndarray, found: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """(n, m); of a crowd, the share of the detection that lies on it."""
    union = np.where(crowd, found[:, None], found[:, None] + truth - shared)
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0)


def _edge(layers: np.ndarray, distance: int) -> np.ndarray:
    """bool (L, H, W): where another number, or the outside, lies within `distance`."""
    return label_boundary(torch.from_numpy(np.ascontiguousarray(layers)), distance).numpy()


def _boxes(masks: Sequence[Patch]) -> np.ndarray:
    """(N, 4) x0, y0, x1, y1 of masks that fill their boxes."""
    return np.array(
        [(m.left, m.top, m.left + m.mask.shape[1], m.top + m.mask.shape[0]) for m in masks], np.float64
    ).reshape(-1, 4)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
