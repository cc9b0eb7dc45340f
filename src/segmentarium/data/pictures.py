"""Pictures without labels: every picture file of a folder, at any depth.

    train/…  val/…  test/…                 divided
    *.jpg, holiday/2024/*.png, …           not divided: lists (train.txt, val.txt), else a hash of the names, as everywhere

Other files are passed over; pictures that cannot be opened, and those too small to show anything, are left out.  All are
counted, and some named, in the data set's notes; `segmentarium check-data FOLDER --data pictures` names each and reads all.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from segmentarium.data.base import DatasetInfo, PictureDataset, Sample, Transform, require_folder
from segmentarium.data.finding import name_below, pictures_below
from segmentarium.data.image_io import IMAGE_SUFFIXES, ImageReadError, picture_shape
from segmentarium.data.splits import PARTS, check_split, chosen

SPLITS = (*PARTS, "trainval", "all")
SMALLEST = 16  # pixels of the shorter side: one patch of most networks
_NAMED = 3  # files of each kind that a note names


class Picture(NamedTuple):
    """Where a picture lies."""

    image: Path


class Pictures(PictureDataset):
    """The pictures below a folder, without labels: `dataset[i]` is {"image", "name"}.

    split      train, val, test, trainval or all
    smallest   pictures with a shorter side of fewer pixels are left out
    look       open every file to see whether it is a picture and how large it is; no pixel is read.  Without it a broken file is
               found when its turn comes, and stops what reads it

    Attributes: unreadable (files and why), small (files with width and height), others (files that are no pictures).

    Raises:
        FileNotFoundError: no such folder or part, or no picture in it that can be used.
    """

    task = "pictures"

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Transform | None = None,
        cache: bool = False,
        *,
        smallest: int = SMALLEST,
        look: bool = True,
    ) -> None:
        self.root = root = require_folder(Path(root), "a folder of pictures")
        check_split(split, SPLITS, "pictures")
        if smallest < 1:
            raise ValueError(f"smallest is {smallest}; give the pixels of a picture's shorter side, 1 or more")
        super().__init__(DatasetInfo(root.resolve().name, (), (), licence="your own", labelled=False), transform, cache)
        files = pictures_below(root)
        if not files:
            raise FileNotFoundError(f"{root} holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))}) at any depth")
        named: dict[str, list[Path]] = {}
        for path in files:
            named.setdefault(name_below(path, root), []).append(path)
        names, self.notes = chosen(root, list(named), split, f"folder {root.resolve().name}")
        found = [path for name in names for path in named[name]]
        self.unreadable: list[tuple[Path, str]] = []
        self.small: list[tuple[Path, int, int]] = []
        self.others = [path for path in _other_files(root, set(files)) if path.name not in _LISTS]
        self.items: Sequence[Picture] = self._usable(found, smallest) if look else [Picture(path) for path in found]
        self.notes += self._left_out(smallest)
        if not self.items:
            why = "; ".join(self.notes) or f"none of its {len(files)} pictures is in that part"
            raise FileNotFoundError(f"{root} has no picture for split {split!r} ({why})")

    def name(self, index: int) -> str:
        """The path of a picture below the folder, without its ending."""
        return name_below(self.items[index].image, self.root)

    def load(self, index: int) -> tuple[Image.Image, None]:
        """An upright RGB picture, and no label; raises ImageReadError for a file that cannot be read."""
        return Image.fromarray(self._arrays(index)[0]), None

    def _label(self, index: int, arrays: tuple[object, ...]) -> Sample:
        return {}

    def _usable(self, files: Sequence[Path], smallest: int) -> list[Picture]:
        """The pictures that open and are large enough; the others are noted."""

        def look(path: Path) -> tuple[int, int] | str:
            try:
                return picture_shape(path)
            except ImageReadError as error:
                return str(error)

        usable = []
        with ThreadPoolExecutor(8) as pool:
            for path, found in zip(files, pool.map(look, files), strict=True):
                if isinstance(found, str):
                    self.unreadable.append((path, found))
                elif min(found) < smallest:
                    self.small.append((path, *found))
                else:
                    usable.append(Picture(path))
        return usable

    def _left_out(self, smallest: int) -> list[str]:
        """A line for each kind of file that is passed over or left out."""
        lines = []
        if self.others:
            endings = Counter(path.suffix.lower() or "no ending" for path in self.others).most_common(4)
            kinds = ", ".join(f"{ending} {count}" for ending, count in endings)
            lines.append(f"{_count(self.others, 'other file')} passed over ({kinds})")
        if self.unreadable:
            lines.append(
                f"{_count(self.unreadable, 'picture')} left out that cannot be read: "
                + self._some([path for path, _ in self.unreadable])
            )
        if self.small:
            sizes = [(path, f" ({width}×{height})") for path, width, height in self.small]
            lines.append(f"{_count(self.small, 'picture')} left out with a side below {smallest} pixels: ")
            lines[-1] += self._some([path for path, _ in sizes], [text for _, text in sizes])
        return lines

    def _some(self, paths: Sequence[Path], behind: Sequence[str] = ()) -> str:
        texts = behind or [""] * len(paths)
        named = [f"{path.relative_to(self.root)}{text}" for path, text in zip(paths, texts, strict=True)]
        return ", ".join(named[:_NAMED]) + (", …" if len(named) > _NAMED else "")


_LISTS = {f"{part}.txt" for part in PARTS}


def _other_files(root: Path, pictures: set[Path]) -> list[Path]:
    """The files below a folder that are no pictures, hidden ones apart."""
    found = []
    for place, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [path for name in names if not name.startswith(".") and (path := Path(place, name)) not in pictures]
    return sorted(found)


def _count(found: Sequence[object], what: str) -> str:
    return f"{len(found)} {what}{'' if len(found) == 1 else 's'}"
