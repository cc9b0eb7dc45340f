"""Segments of a large picture from its tiles: what two tiles see of one object becomes one segment.

Tiles overlap.  Where they do, a segment of the one and a segment of the other are one if they are of one class and share more
than half of what either has there; stuff is one segment a class, wherever it is.  The seam runs through the middle of what is
shared.  Objects are joined across any number of tiles.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection

import numpy as np

from segmentarium.inference.segment_map import SegmentMap, bands, measured
from segmentarium.metrics.panoptic import contingency

SAME = 0.5  # IoU, in what two tiles share, above which two segments are one
IN_MEMORY = 2**27  # bytes of a map; larger ones lie in a temporary file


class Stitcher:
    """Takes the maps of tiles, from left to right and from top to bottom, and gives that of the picture.

    size     (H, W) of the picture
    things   classes whose segments are told apart; None: all
    """

    def __init__(self, size: tuple[int, int], things: Collection[int] | None = None) -> None:
        self.things = things
        self.ids = plane(size)
        self._parent = [0]  # of each number; 0 is nobody's
        self._label, self._score, self._weight = [-1], [0.0], [0.0]
        self._stuff: dict[int, int] = {}

    def add(self, top: int, left: int, found: SegmentMap, above: int, before: int) -> None:
        """A tile whose upper left pixel is (top, left); its first `above` rows and `before` columns others have seen, too."""
        height, width = found.ids.shape
        here = self.ids[top : top + height, left : left + width]
        numbers = self._numbers(found)
        for strip in (np.s_[:above, :], np.s_[above:, :before]):
            if found.ids[strip].size:
                self._join(here[strip], found, strip, numbers)
        rows, columns = above // 2, before // 2  # up to the seam, what is written stays
        here[rows:, columns:] = numbers[found.ids[rows:, columns:]]

    def _numbers(self, found: SegmentMap) -> np.ndarray:
        """The number in the whole picture of each number of a tile; the class's own, of stuff."""
        numbers = np.zeros(max((0, *(one.id for one in found.segments))) + 1, np.int32)
        for one in found.segments:
            stuff = self.things is not None and one.label not in self.things
            number = self._stuff.get(one.label) if stuff else None
            if number is None:
                number = len(self._parent)
                self._parent.append(number)
                self._label.append(one.label)
                self._score.append(0.0)
                self._weight.append(0.0)
                if stuff:
                    self._stuff[one.label] = number
            self._score[number] += one.score * one.area
            self._weight[number] += one.area
            numbers[one.id] = number
        return numbers

    def _join(self, here: np.ndarray, found: SegmentMap, strip: tuple[slice, slice], numbers: np.ndarray) -> None:
        places, table = contingency(self._roots()[here], found.ids[strip], len(numbers) - 1)
        pixels, own = table.sum(1), table.sum(0)
        for row, column in zip(*np.nonzero(table[:, 2:]), strict=True):
            old, new, shared = int(places[row]), int(numbers[column + 1]), table[row, column + 2]
            alike = old and new and self._label[old] == self._label[new]
            if alike and shared > SAME * (pixels[row] + own[column + 2] - shared):
                self._unite(old, new)

    def _roots(self) -> np.ndarray:
        return np.array([self._root(number) for number in range(len(self._parent))])

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number

    def _unite(self, one: int, other: int) -> None:
        first, second = sorted((self._root(one), self._root(other)))
        if first != second:
            self._parent[second] = first
            self._score[first] += self._score[second]
            self._weight[first] += self._weight[second]

    def finish(self) -> SegmentMap:
        """The map of the whole picture; its segments are numbered from 1, and scores are means by area."""
        roots = self._roots()
        present = np.zeros(len(roots), bool)
        for _, band in bands(self.ids):
            present[roots[np.unique(band)]] = True
        kept = [int(number) for number in np.flatnonzero(present) if number]
        table = np.zeros(len(roots), np.int32)
        table[kept] = np.arange(1, len(kept) + 1)
        table = table[roots]
        for top, band in bands(self.ids):
            self.ids[top : top + len(band)] = table[band]
        known = {i: (self._label[n], self._score[n] / self._weight[n]) for i, n in enumerate(kept, 1)}
        return measured(self.ids, known)


def plane(size: tuple[int, int]) -> np.ndarray:
    """int32 (H, W) of zeros: in memory, or where it is large in a file that vanishes with it."""
    if 4 * math.prod(size) <= IN_MEMORY:
        return np.zeros(size, np.int32)
    with tempfile.TemporaryFile(prefix="segments") as file:
        return np.memmap(file, np.int32, "w+", shape=size)
