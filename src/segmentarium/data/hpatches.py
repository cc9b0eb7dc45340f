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

from segmentarium.data.base import DatasetInfo, PictureDataset, Transform
from segmentarium.data.image_io import IMAGE_SUFFIXES, read_image
from segmentarium.data.splits import check_split

SPLITS = ("all",)
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

    @property
    def image(self) -> Path:
        """The picture that no other pair has."""
        return self.second


class HPatches(PictureDataset):
    """All pairs of the first picture of a sequence with another: `dataset.items[i]` is a `WarpedPair`.

    roots    the folder that holds the sequences, or folders of them; or several
    size     (height, width) to which `load` brings pictures, the ratio kept and the middle cut out; None: as they are

    Raises FileNotFoundError where a folder has no sequence or a sequence lacks a picture, ValueError for a matrix that is none.
    """

    task = "pairs"
    items: Sequence[WarpedPair]

    def __init__(
        self,
        roots: str | Path | Sequence[str | Path],
        split: str = "all",
        transform: Transform | None = None,
        *,
        size: tuple[int, int] | None = None,
    ) -> None:
        check_split(split, SPLITS, "hpatches")
        folders = [Path(roots)] if isinstance(roots, str | Path) else list(map(Path, roots))
        names = ", ".join(folder.resolve().name for folder in folders)
        super().__init__(DatasetInfo(f"{names} pairs", (), (), labelled=False, licence="your own"), transform)
        self.roots, self.size, pairs = folders, size, []
        for folder in folders:
            sequences = _sequences(folder, "*") or _sequences(folder, "*/*")
            if not sequences:
                raise FileNotFoundError(f"{folder} has no sequence; expected folders with 1.ppm … and H_1_2 …")
            for sequence in sequences:
                pairs += _pairs_of(sequence)
        self.items = pairs

    @classmethod
    def evaluation_split(cls, root: Path) -> str:
        return "all"

    def name(self, index: int) -> str:
        """The sequence, and the number of its other picture."""
        return f"{self.items[index].sequence}/{self.items[index].number}"

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[override]
        """-> both pictures in grey, (H, W) uint8, and the homography between them at that size."""
        pair = self.items[index]
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


def _sequences(folder: Path, depth: str) -> list[Path]:
    return sorted({path.parent for path in folder.glob(f"{depth}/H_1_*")})


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
