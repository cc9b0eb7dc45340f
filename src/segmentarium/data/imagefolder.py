"""Pictures in a folder for each class.

    train/<class>/*  val/<class>/*  test/<class>/*     divided; sub-folders of a class belong to it
    <class>/*                                          not divided: a hash of the names gives train, val and test

Classes are in the order of their folders' names, as text ("10" comes before "2"), as in torchvision. Where there is
train/ without val/, a tenth of train/ by hash is val: test/ is not looked at before the end. `ImageNet` is the same
with the names of its synsets.
"""

from __future__ import annotations

from pathlib import Path

from segmentarium.data.base import (
    ClassificationDataset,
    DatasetInfo,
    LabelledPicture,
    Transform,
    require_folder,
)
from segmentarium.data.finding import name_below, pictures_below
from segmentarium.data.splits import PART_NAMES, PARTS, VAL_SHARE, check_split, hash_note, hash_split, wanted_parts
from segmentarium.data.text_files import read_lines
from segmentarium.palette import default_palette

SPLITS = (*PARTS, "trainval", "all")

_SYNSETS = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt")


class ImageFolder(ClassificationDataset):
    """A folder of pictures for each class; `split` is train, val, test, trainval or all.

    Raises:
        FileNotFoundError: no such folder or split, or no pictures in it.
        ValueError: no folders of classes, or a part with classes that train/ does not have.
    """

    licence = "your own"
    url = ""

    def __init__(
        self, root: str | Path, split: str = "train", transform: Transform | None = None, cache: bool = False
    ) -> None:
        root = require_folder(Path(root), "a folder of pictures for each class")
        check_split(split, SPLITS, "imagefolder")
        parts = _parts(root)
        folders = _class_folders(root, parts)
        names = self.class_names(root, folders)
        items, notes = _pictures(root, split, parts, {folder: label for label, folder in enumerate(folders)})
        info = DatasetInfo(root.resolve().name, names, default_palette(len(names)), licence=self.licence, url=self.url)
        super().__init__(info, items, transform, cache)
        empty = [name for name, count in zip(names, self.counts(), strict=True) if not count]
        if empty:
            shown = ", ".join(empty[:5]) + (", …" if len(empty) > 5 else "")
            notes.append(f"{len(empty)} of {len(names)} classes have no picture in {split!r}: {shown}")
        self.notes = notes

    @classmethod
    def evaluation_split(cls, root: Path) -> str:
        """test where there are pictures of it in classes, else val."""
        return "test" if "test" in _parts(root) else "val"

    def class_names(self, root: Path, folders: list[str]) -> tuple[str, ...]:
        """The names of the classes that lie in `folders`."""
        return tuple(folders)


class ImageNet(ImageFolder):
    """ILSVRC 2012 with train/ and val/ in folders of synsets; names from LOC_synset_mapping.txt where it is there.

    O. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", https://arxiv.org/abs/1409.0575.
    """

    licence = "research use (ImageNet's terms of access)"
    url = "https://image-net.org"

    @classmethod
    def evaluation_split(cls, root: Path) -> str:
        return "val"

    def class_names(self, root: Path, folders: list[str]) -> tuple[str, ...]:
        """The words of each synset; where two have the same (crane: a bird, a machine), with the synset behind them."""
        path = next((root / name for name in _SYNSETS if (root / name).is_file()), None)
        if path is None:
            return tuple(folders)
        words = {line.split()[0]: " ".join(line.split()[1:]) for line in read_lines(path)}
        named = [words.get(folder) or folder for folder in folders]
        return tuple(
            f"{name} ({folder})" if named.count(name) > 1 else name for name, folder in zip(named, folders, strict=True)
        )


def _parts(root: Path) -> dict[str, Path]:
    """part -> its folder, of those that hold folders of classes; none where the classes lie in the root itself."""
    places = {part: next((root / n for n in names if (root / n).is_dir()), None) for part, names in PART_NAMES.items()}
    return {part: place for part, place in places.items() if place is not None and _inner(place)}


def _inner(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones and what macOS leaves in archives."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))


def _class_folders(root: Path, parts: dict[str, Path]) -> list[str]:
    if not parts:
        found = _inner(root)
        if not found or not any(pictures_below(root / name) for name in found):
            raise ValueError(
                f"{root} holds no pictures in folders of classes; expected train/<class>/*.jpg and val/<class>/*.jpg, "
                f"or <class>/*.jpg; found {', '.join(sorted(p.name for p in root.iterdir())[:10]) or 'nothing'}"
            )
        return found
    of_part = {part: _inner(folder) for part, folder in parts.items()}
    known = of_part.get("train") or sorted(set().union(*of_part.values()))
    for part, names in of_part.items():
        if new := [name for name in names if name not in known]:
            raise ValueError(
                f"{parts[part]} has {len(new)} classes that {parts['train']} does not have: {', '.join(new[:5])}; "
                "give the folders of a class one name everywhere"
            )
    return known


def _pictures(
    root: Path, split: str, parts: dict[str, Path], label_of: dict[str, int]
) -> tuple[list[LabelledPicture], list[str]]:
    """The pictures of a split, part after part, class after class, and what is to be said of the division."""
    wanted = wanted_parts(split)
    by_hash = not parts or ("val" not in parts and "train" in parts)
    absent = [part for part in wanted if part not in parts and not (by_hash and (part == "val" or not parts))]
    if absent and split != "all":
        raise FileNotFoundError(
            f"{root} is divided into {', '.join(p.name for p in parts.values())}, but has no {absent[0]}/<class>/*.jpg "
            f"for split {split!r}"
        )
    items: list[LabelledPicture] = []
    notes: list[str] = []
    if by_hash and (not parts or set(wanted) & {"train", "val"}):
        whole = parts.get("train", root)
        shares = (VAL_SHARE, 0.0) if parts else ()
        found = [
            LabelledPicture(path, label, hash_split(name_below(path, whole), *shares))
            for name, label in label_of.items()
            for path in pictures_below(whole / name)
        ]
        what = f"folder {root.resolve().name}" if not parts else f"{whole.name}/ of {root.resolve().name}"
        notes.append(hash_note(what, (item.part for item in found), split))
        items += [item for item in found if item.part in wanted]
    items += [
        LabelledPicture(path, label, part)
        for part in wanted
        if part in parts and not (by_hash and part == "train")
        for name, label in label_of.items()
        if (parts[part] / name).is_dir()
        for path in pictures_below(parts[part] / name)
    ]
    if not items:
        raise FileNotFoundError(f"{root} holds no pictures in split {split!r}")
    return items, notes
