"""Sequences of pictures with known homographies, in HPatches' layout.

    SEQUENCE/1.ppm … 6.ppm     the first picture, and others of the same scene; .png, .webp or .jpg, too
    SEQUENCE/H_1_2 … H_1_6     3×3, rows on lines: pixels (x, y, 1) of the first picture to pixels of the other

The first letter of a sequence's name says what changes: i light, v viewpoint; n, where somebody has it, noise and blur.  Pixel
centres are at whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from segmentarium.data.image_io import IMAGE_SUFFIXES, read_image

CHANGES = {"i": "illumination", "v": "viewpoint", "n": "noise"}


class WarpedPair(NamedTuple):
    """Two pictures' files, and the homography (3, 3) float64 from the first to the second.

    change   "illumination", "viewpoint", "noise" or "other"
    """

    sequence: str
    number: int
    change: str
    first: Path
    second: Path
    homography: np.ndarray


class HPatches:
    """All pairs of the first picture of a sequence with another: `len(dataset)`, `dataset[i]` is a `WarpedPair`.

    roots    the folder that holds the sequences, or several of them
    size     (height, width) to which `load` brings pictures, the ratio kept and the middle cut out; None: as they are

    Raises FileNotFoundError where a folder has no sequence or a sequence lacks a picture, ValueError for a matrix that is none.
    """

    def __init__(self, roots: str | Path | Sequence[str | Path], size: tuple[int, int] | None = None) -> None:
        folders = [roots] if isinstance(roots, str | Path) else list(roots)
        self.size = size
        self.pairs: list[WarpedPair] = []
        for folder in map(Path, folders):
            sequences = sorted({path.parent for path in folder.glob("*/H_1_*")})
            if not sequences:
                raise FileNotFoundError(f"{folder} has no sequence; expected folders with 1.ppm … and H_1_2 …")
            for sequence in sequences:
                self.pairs += _pairs_of(sequence)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> WarpedPair:
        return self.pairs[index]

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """-> both pictures in grey, (H, W) uint8, and the homography between them at that size."""
        pair = self.pairs[index]
        first, one = self._seen(pair.first)
        second, other = self._seen(pair.second)
        return first, second, other @ pair.homography @ np.linalg.inv(one)

    def _seen(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        grey = np.asarray(read_image(path).convert("L"))
        return (grey, np.eye(3)) if self.size is None else fitted(grey, self.size)


def fitted(picture: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A picture scaled until it covers `size`, and its middle -> (height, width) uint8, and the matrix that pixels moved by."""
    height, width = picture.shape[:2]
    factor = max(size[0] / height, size[1] / width)
    scaled = (max(size[0], round(height * factor)), max(size[1], round(width * factor)))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    large = cv2.resize(picture, scaled[::-1], interpolation=how)
    top, left = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    across, down = scaled[1] / width, scaled[0] / height
    # pixel centres lie at whole numbers, so edges at halves: those stay where they are
    matrix = np.array([[across, 0, (across - 1) / 2 - left], [0, down, (down - 1) / 2 - top], [0, 0, 1]])
    return np.ascontiguousarray(large[top : top + size[0], left : left + size[1]]), matrix


def _pairs_of(sequence: Path) -> list[WarpedPair]:
    change = CHANGES.get(sequence.name.partition("_")[0], "other")
    first = _picture(sequence, 1)
    found = []
    for path in sorted(sequence.glob("H_1_*"), key=lambda path: int(path.name.rpartition("_")[2])):
        number = int(path.name.rpartition("_")[2])
        try:
            homography = np.loadtxt(path).reshape(3, 3)
        except ValueError as error:
            raise ValueError(f"{path} is no matrix of three rows of three numbers: {error}") from error
        if not np.isfinite(homography).all() or abs(np.linalg.det(homography)) < 1e-12:
            raise ValueError(f"{path} is no homography: it cannot be inverted")
        found.append(WarpedPair(sequence.name, number, change, first, _picture(sequence, number), homography))
    return found


def _picture(sequence: Path, number: int) -> Path:
    found = next((p for p in sorted(sequence.glob(f"{number}.*")) if p.suffix.lower() in IMAGE_SUFFIXES), None)
    if found is None:
        raise FileNotFoundError(f"{sequence} has no picture {number} ({number}.ppm, .png, …), but homographies to it")
    return found
