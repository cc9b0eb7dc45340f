"""Segments of a video keep their number from frame to frame, so that colours do not jump."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from segmentarium.inference.segment_map import SegmentMap
from segmentarium.metrics.panoptic import contingency

SAME = 0.3  # IoU of masks from which on two segments of two frames may be one
PATIENCE = 10  # frames for which a segment that is gone is waited for, where it was last seen


class SegmentTracker:
    """Gives the segments of each frame the numbers of those before that they are: most IoU in all, by Hungarian assignment.

    Only segments of one class are compared.  One that is gone is waited for where it was last seen, unless others have come
    there.  Stuff has one number a class, for ever.

    things    classes whose segments are told apart; None: all
    same      least IoU of two masks that are one segment
    patience  frames
    """

    def __init__(self, things: Collection[int] | None = None, same: float = SAME, patience: int = PATIENCE) -> None:
        if not 0 < same <= 1 or patience < 0:
            raise ValueError(
                f"same is {same} and patience {patience}; give an IoU above 0, up to 1, and frames, 0 or more"
            )
        self.things, self.same, self.patience = things, same, patience
        self.count = 0  # numbers given so far
        self._seen: np.ndarray | None = None  # (H, W): where each number was last
        self._label: dict[int, int] = {}
        self._missed: dict[int, int] = {}  # frames since
        self._stuff: dict[int, int] = {}

    def update(self, found: SegmentMap) -> SegmentMap:
        """The next frame's segments under their lasting numbers.  A frame of another size begins anew."""
        if self._seen is None or self._seen.shape != found.ids.shape:
            self._seen, self._label, self._missed = np.zeros(found.ids.shape, np.int32), {}, {}
        numbers = self._stuff_numbers(found)
        numbers |= self._matched(found, numbers)
        for one in found.segments:
            if one.id not in numbers:
                numbers[one.id] = self._next()
        named = found.renumbered(numbers)
        self._remember(named)
        return named

    def _next(self) -> int:
        self.count += 1
        return self.count

    def _stuff_numbers(self, found: SegmentMap) -> dict[int, int]:
        if self.things is None:
            return {}
        stuff = [one for one in found.segments if one.label not in self.things]
        for one in stuff:
            if one.label not in self._stuff:
                self._stuff[one.label] = self._next()
        return {one.id: self._stuff[one.label] for one in stuff}

    def _matched(self, found: SegmentMap, taken: dict[int, int]) -> dict[int, int]:
        from scipy.optimize import linear_sum_assignment

        assert self._seen is not None
        known = [number for number in self._label if number not in self._stuff.values()]
        new = [one for one in found.segments if one.id not in taken]
        if not known or not new:
            return {}
        most = max(one.id for one in found.segments)
        places, table = contingency(self._seen, found.ids, most)
        rows = {int(number): row for row, number in enumerate(places)}
        areas, sizes = table.sum(1), table.sum(0)
        iou = np.zeros((len(known), len(new)))
        for i, number in enumerate(known):
            row = rows.get(number)
            for j, one in enumerate(new):
                if row is not None and self._label[number] == one.label:
                    shared = table[row, one.id + 1]
                    iou[i, j] = shared / max(1, areas[row] + sizes[one.id + 1] - shared)
        iou[iou < self.same] = 0.0
        pairs = zip(*linear_sum_assignment(-iou), strict=True)
        return {new[j].id: known[i] for i, j in pairs if iou[i, j] > 0}

    def _remember(self, named: SegmentMap) -> None:
        """Where everything is now, and where what is gone was."""
        assert self._seen is not None
        present = {one.id: one.label for one in named.segments}
        missed = {number: self._missed.get(number, 0) + 1 for number in self._label if number not in present}
        gone = [number for number, frames in missed.items() if frames > self.patience]
        old = np.where(np.isin(self._seen, [*gone, *present]), 0, self._seen)  # those present are where they are now
        self._seen = np.where(named.ids > 0, named.ids, old)
        self._missed = {number: frames for number, frames in missed.items() if number not in gone}
        self._label = {number: self._label[number] for number in self._missed} | present
