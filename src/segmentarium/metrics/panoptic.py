"""Panoptic quality (Kirillov et al., CVPR 2019, arXiv 1801.00868): how well segments are told apart, and how well drawn."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from segmentarium.metrics.accumulator import Accumulator

VOID = -1  # in a map of segments: counts nowhere
BAND = 2**22  # pixels that are counted at a time
SAME = 0.5  # two segments of more IoU than this are one: no third can have as much of either


class LabelledSegment(Protocol):
    """One labelled segment: its class, and whether it is a crowd, which matches nothing and is missed by nobody."""

    @property
    def label(self) -> int: ...

    @property
    def crowd(self) -> bool: ...


class PanopticQuality(Accumulator):
    """Of each class the summed IoU of matched segments, and how many matched, were false, were missed: float64 (K, 4).

    A predicted and a labelled segment of one class match where their IoU is above a half.  Void pixels and crowds count as the
    official evaluation counts them: void is taken off the union, and what lies for more than half on void, or on a crowd of its
    class, is no false alarm.

    Args:
        num_classes: K.
        device: where the counts are kept; maps may come from any.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; give the number of classes, 1 or more")
        super().__init__((num_classes, 4), device, torch.float64)

    def update(
        self,
        ids: np.ndarray | Tensor,
        labels: Mapping[int, int],
        target: np.ndarray | Tensor,
        segments: Sequence[LabelledSegment],
    ) -> float:
        """Add a picture; returns its own mean quality over the classes in it (NaN: none).

        Args:
            ids: (H, W) integers, the predicted segment of each pixel; 0: none.
            labels: the class of each predicted segment; pixels of other numbers count as unlabelled.
            target: (H, W), 1..N, the labelled segment of each pixel; 0: none; -1: void.
            segments: the N labelled segments.

        Raises:
            ValueError: other shapes, numbers that are no segment, or classes outside 0..K-1.
        """
        found, truth = _numbers(ids), _numbers(target)
        if found.shape != truth.shape or truth.ndim != 2:
            raise ValueError(f"ids have shape {found.shape} and target {truth.shape}; give two maps (H, W) of one size")
        if truth.size and (truth.min() < VOID or truth.max() > len(segments)):
            raise ValueError(
                f"target has numbers {truth.min()} to {truth.max()}, but there are {len(segments)} segments; give 1 to "
                f"{len(segments)}, 0 for none and {VOID} for void"
            )
        wrong = sorted({*labels.values(), *(one.label for one in segments)} - set(range(len(self.counts))))
        if wrong:
            raise ValueError(f"there are classes {wrong[:8]}, but only 0..{len(self.counts) - 1} are scored")
        one = self._picture(found, labels, truth, segments)
        self.counts += torch.from_numpy(one).to(self.counts.device)
        return float(np.nanmean(_quality(one)[:, 0])) if one[:, 1:].any() else float("nan")

    def _picture(
        self, found: np.ndarray, labels: Mapping[int, int], truth: np.ndarray, segments: Sequence[LabelledSegment]
    ) -> np.ndarray:
        numbers, table = contingency(found, truth, len(segments))
        labelled = np.array([int(number) in labels for number in numbers], bool)
        # a predicted number without a class is no segment; its pixels still belong to the labelled ones' areas
        areas = table[:, 2:].sum(0)
        numbers, table = numbers[labelled], table[labelled]
        label = np.array([labels[int(number)] for number in numbers], np.int64)
        truth_label = np.array([one.label for one in segments], np.int64)
        crowd = np.array([one.crowd for one in segments], bool)
        void, common = table[:, 0], table[:, 2:]
        sizes = table.sum(1)
        union = sizes[:, None] + areas - common - void[:, None]
        same = (label[:, None] == truth_label) & ~crowd
        iou = np.where(same & (common > 0), common / np.maximum(union, 1), 0.0)
        predicted, matched = np.nonzero(iou > SAME)
        unlabelled = void + (common * (crowd & (label[:, None] == truth_label))).sum(1)
        false = np.ones(len(numbers), bool)
        false[predicted] = False
        false &= unlabelled <= sizes / 2
        missed = ~crowd & (areas > 0)
        missed[matched] = False
        counts = np.zeros(self.counts.shape)
        np.add.at(counts[:, 0], truth_label[matched], iou[predicted, matched])
        np.add.at(counts[:, 1], truth_label[matched], 1)
        np.add.at(counts[:, 2], label[false], 1)
        np.add.at(counts[:, 3], truth_label[missed], 1)
        return counts

    def by_class(self) -> dict[str, Tensor]:
        """pq, sq and rq of each class, float64 (K,) on the CPU; NaN where a class neither is labelled nor predicted."""
        quality = torch.from_numpy(_quality(self.counts.cpu().numpy()))
        return dict(zip(("pq", "sq", "rq"), quality.T, strict=True))

    def summary(self, things: Collection[int] | None = None, classes: Sequence[str] | None = None) -> dict[str, Any]:
        """All numbers, in 0..1; NaN where nothing was counted.

        Args:
            things: the classes that are things; the others are stuff.  None: it is not told apart.
            classes: names; without them, their indices.

        Returns:
            pq, sq, rq (means over the classes that occur), with `things` also pq_things, …, pq_stuff, …; and by_class: name ->
            {"pq", "sq", "rq"}.
        """
        values = self.by_class()
        occurs = ~values["pq"].isnan()
        chosen = {"": occurs}
        if things is not None:
            thing = torch.tensor([index in things for index in range(len(occurs))])
            chosen |= {"_things": occurs & thing, "_stuff": occurs & ~thing}
        names = [str(index) for index in range(len(occurs))] if classes is None else classes
        return {
            **{
                f"{key}{name}": value[which].mean().item()
                for name, which in chosen.items()
                for key, value in values.items()
            },
            "by_class": {name: {key: value[i].item() for key, value in values.items()} for i, name in enumerate(names)},
        }


def _quality(counts: np.ndarray) -> np.ndarray:
    """(K, 4) counts -> (K, 3) pq, sq, rq; NaN where there is neither a labelled nor a predicted segment.

    sq is 0 where none matched, as in the official evaluation.
    """
    iou, right, false, missed = counts.T
    total = right + false / 2 + missed / 2
    total = np.where(total > 0, total, np.nan)
    quality, shape = iou / total, iou / np.maximum(right, 1)
    return np.stack((quality, np.where(np.isnan(total), np.nan, shape), right / total), 1)


def contingency(found: np.ndarray, truth: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that each segment of one map shares with those of another.

    Args:
        found: (H, W) integers, any numbers.
        truth: (H, W), -1..count.

    Returns:
        the numbers (n,) that `found` has, 0 as any other, and int64 (n, count + 2): their pixels on truth -1, 0, 1, …
    """
    numbers = np.unique(found)
    table = np.zeros(len(numbers) * (count + 2), np.int64)
    rows = max(1, BAND // max(1, found.shape[1]))
    for top in range(0, found.shape[0], rows):
        place = np.searchsorted(numbers, found[top : top + rows])
        cells = place * (count + 2) + truth[top : top + rows] + 1
        table += np.bincount(cells.reshape(-1), minlength=table.size)
    return numbers, table.reshape(len(numbers), count + 2)


def _numbers(ids: np.ndarray | Tensor) -> np.ndarray:
    return ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
