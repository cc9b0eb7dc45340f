"""Anyone's data: a folder with `images/`, `masks/` and the names of the classes.

    images/*            pictures of any kind, in sub-folders if liked
    masks/*             label images under the same names (also <name>_mask, <name>_label): class indices as 8-bit or
                        palette PNG, colours, or any values with a mask map; 255 is ignored
    classes.txt         a class a line, its RGB colour behind it if liked:  road 128 64 128
    classes.yaml        instead: classes, palette, mask_map, ignore_colours (see `class_table.py`)

Train, val and test come from sub-folders (`images/train/` with `masks/train/`, or `train/images/` with
`train/masks/`), else from `train.txt` … with names, else from a hash of the name, which stays the same when pictures
are added, and is the same wherever the folder is used. The split "all" takes every pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from segmentarium.data.base import Item, SegmentationDataset, Transform
from segmentarium.data.class_table import ClassTable, as_colour, as_mask_map, read_classes
from segmentarium.data.image_io import IMAGE_SUFFIXES, ImageReadError
from segmentarium.data.mask_io import IGNORE_INDEX, RGB, LabelError, read_raw_mask
from segmentarium.data.splits import PARTS, check_split, hash_note, hash_split, read_list, wanted_parts
from segmentarium.palette import default_palette

SPLITS = ("train", "val", "trainval", "test", "all")

_IMAGE_FOLDERS, _MASK_FOLDERS = ("images", "imgs"), ("masks", "labels", "annotations")
_MASK_ENDINGS = ("", "_mask", "_label", "_labels", "_L")
_PROBED = 16  # masks that are looked at before a set is declared 0/255


class Folder(SegmentationDataset):
    """A plain folder of pictures and masks; see the head of this module for its layout.

    classes: names of the classes, or their number; None reads classes.txt or classes.yaml.
    palette: RGB of each class; also how masks in colour are read.
    mask_map: raw value -> class index, or as text "0:0,255:1"; needed for masks of 0 and 255.
    strict: False leaves out pictures without a mask; `missing_masks` and `stray_masks` list what has no partner
        either way.

    Raises:
        FileNotFoundError: no such folder or split, no pictures, or pictures without a mask (strict).
        ValueError: no classes, or files that contradict each other.
        LabelError: the masks hold 0 and 255 only, and no map says what 255 is.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        transform: Transform | None = None,
        cache: bool = False,
        classes: Sequence[str] | int | None = None,
        palette: Sequence[RGB] | None = None,
        mask_map: Mapping[int, int] | str | None = None,
        strict: bool = True,
    ) -> None:
        root = Path(root)
        split = split or "all"
        check_split(split, SPLITS, "folder")
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is not a folder; give one that holds images/ and masks/")
        pairs, missing, stray, notes = _find_pairs(root, split)
        if missing and strict:
            shown = ", ".join(p.name for p in missing[:5])
            raise FileNotFoundError(
                f"{root}: {len(missing)} pictures of split {split!r} have no mask: {shown}; add the masks, "
                "take the pictures away, or pass strict=False to leave them out"
            )
        table = _class_table(root, classes, palette, mask_map, [item.mask for item in pairs if item.mask])
        super().__init__(table.info(root.resolve().name), pairs, table.encoding(), transform, cache)
        self.missing_masks, self.stray_masks, self.notes = missing, stray, notes
        if table.mask_map is None:
            _refuse_black_and_white([item.mask for item in pairs if item.mask])

    @classmethod
    def evaluation_split(cls, root: Path) -> str:
        """test where the folder is divided and has one, else val."""
        return "test" if (root / "test.txt").is_file() or _split_folders(root, "test") else "val"


def _class_table(
    root: Path,
    classes: Sequence[str] | int | None,
    palette: Sequence[RGB] | None,
    mask_map: Mapping[int, int] | str | None,
    masks: Sequence[Path],
) -> ClassTable:
    """Arguments first, then the file in the folder."""
    files = [root / name for name in ("classes.txt", "classes.yaml", "classes.yml") if (root / name).is_file()]
    if classes is None:
        if not files:
            raise ValueError(f"{root} has no classes.txt or classes.yaml, and no classes were given{_suggest(masks)}")
        table = read_classes(files[0])
    else:
        names = [f"class {i}" for i in range(max(classes, 0))] if isinstance(classes, int) else list(classes)
        if not names:
            raise ValueError(f"classes is {classes!r}: zero classes; give their names, or their number, 1 or more")
        if files and isinstance(classes, int) and len(read_classes(files[0]).classes) == classes:
            table = read_classes(files[0])
        else:
            table = ClassTable(tuple(names), default_palette(len(names)))
    if palette is not None:
        table = replace(table, palette=tuple(as_colour(c, root) for c in palette), coloured=True)
    given = as_mask_map(mask_map, len(table.classes))
    return replace(table, mask_map=given) if given is not None else table


def _suggest(masks: Sequence[Path]) -> str:
    """What the first masks hold, as the end of an error about missing classes."""
    values = sorted(set().union(*map(_values, masks[:_PROBED]))) if masks else []
    if not values:
        return "; write classes.txt with the name of a class in each line"
    number = max((v for v in values if v != IGNORE_INDEX), default=0) + 1
    if values == [0, 255]:
        advice = 'write classes.txt with two names, or give 2 classes, and the mask map "0:0,255:1"'
    else:
        advice = f"write classes.txt with {number} names, or give {number} classes"
    shown = ", ".join(map(str, values[:12])) + (" …" if len(values) > 12 else "")
    return f"; the first {min(len(masks), _PROBED)} masks hold the values {shown}: {advice}"


def _values(path: Path) -> set[int]:
    """Values in an index mask; empty for one in colour or one that cannot be read (which is reported elsewhere)."""
    try:
        raw = read_raw_mask(path)
    except ImageReadError:
        return set()
    if raw.ndim == 3:
        if (raw != raw[..., :1]).any():
            return set()
        raw = raw[..., 0]
    return {int(v) for v in np.unique(raw)}


def _refuse_black_and_white(masks: Sequence[Path]) -> None:
    """Masks of 0 and 255 alone would train on nothing but background, as 255 is ignored: ask for a map instead."""
    step = max(len(masks) // _PROBED, 1)
    example = None
    for path in masks[::step]:
        values = _values(path)
        if not values <= {0, 255}:
            return
        example = path if 255 in values else example
    if example is not None:
        count = int((read_raw_mask(example) == 255).sum())
        raise LabelError(
            f"{example} holds only 0 and 255 ({count:,} px), as do the other masks, and 255 means ignore; "
            'say what 255 is with a mask map: --mask-map "0:0,255:1" (mask_map={0: 0, 255: 1} in Python, '
            "`mask_map: {0: 0, 255: 1}` in classes.yaml) if it is class 1, or "
            f'"0:0,255:{IGNORE_INDEX}" if these pixels are to be ignored',
            str(example),
            {255: count},
        )


def _find_pairs(root: Path, split: str) -> tuple[list[Item], list[Path], list[Path], list[str]]:
    """(pairs of the split, its pictures without a mask, masks without a picture, what is to be said of the division)."""
    by_part = {part: _split_folders(root, part) for part in PARTS}
    by_part = {part: folders for part, folders in by_part.items() if folders is not None}
    wanted = wanted_parts(split)
    notes: list[str] = []
    if by_part:
        absent = [part for part in wanted if part not in by_part]
        if absent and split != "all":
            raise FileNotFoundError(
                f"{root} is divided into {', '.join(by_part)}, but has no pictures for {absent[0]!r}"
            )
        pairs, missing, stray = [], [], []
        for part in wanted:
            if part in by_part:
                found_pairs, found_missing, found_stray = _match(*by_part[part])
                pairs += found_pairs
                missing += found_missing
                stray += found_stray
    else:
        images = next((root / name for name in _IMAGE_FOLDERS if (root / name).is_dir()), None)
        masks = next((root / name for name in _MASK_FOLDERS if (root / name).is_dir()), None)
        if images is None or masks is None:
            found = ", ".join(sorted(p.name for p in root.iterdir())[:10]) or "nothing"
            raise FileNotFoundError(f"{root} should hold the folders images/ and masks/; found {found}")
        pairs, missing, stray = _match(images, masks)
        if not any((root / f"{part}.txt").is_file() for part in PARTS):
            part_of = {item: hash_split(_name(item.image, images)) for item in pairs}
            notes.append(hash_note(f"folder {root.resolve().name}", part_of.values(), split))
            pairs = [item for item in pairs if part_of[item] in wanted]
            missing = [path for path in missing if hash_split(_name(path, images)) in wanted]
        elif split != "all":
            pairs, missing = _listed(root, images, wanted, pairs, missing)
    if not pairs and not missing:
        more = f" in split {split!r}; use the split 'all', or write {split}.txt" if split != "all" else ""
        raise FileNotFoundError(f"{root} holds no pictures{more}")
    return pairs, missing, stray, notes


def _split_folders(root: Path, part: str) -> tuple[Path, Path] | None:
    """(pictures, masks) of one part, where it has folders of its own."""
    for images in _IMAGE_FOLDERS:
        for masks in _MASK_FOLDERS:
            for pair in ((root / images / part, root / masks / part), (root / part / images, root / part / masks)):
                if pair[0].is_dir() and pair[1].is_dir():
                    return pair
    return None


def _match(images: Path, masks: Path) -> tuple[list[Item], list[Path], list[Path]]:
    pictures, labels = _by_name(images), _by_name(masks)
    pairs, missing, used = [], [], set()
    for name, picture in pictures.items():
        key = next((name + ending for ending in _MASK_ENDINGS if name + ending in labels), None)
        if key is None:
            missing.append(picture)
        else:
            used.add(key)
            pairs.append(Item(picture, labels[key]))
    return pairs, missing, [path for key, path in labels.items() if key not in used]


def _by_name(folder: Path) -> dict[str, Path]:
    """Path below the folder, without ending -> file; hidden files (macOS leaves "._photo.jpg") are passed over."""
    result: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        name = _name(path, folder)
        if name in result:
            raise ValueError(f"{result[name]} and {path} have the same name; rename or remove one of them")
        result[name] = path
    return result


def _listed(
    root: Path, images: Path, wanted: Sequence[str], pairs: list[Item], missing: list[Path]
) -> tuple[list[Item], list[Path]]:
    """The part of pairs and of unmatched pictures that the list files of the wanted splits name."""
    lists = [part for part in PARTS if (root / f"{part}.txt").is_file()]
    absent = [part for part in wanted if part not in lists]
    if absent:
        raise FileNotFoundError(f"{root} has {', '.join(f'{p}.txt' for p in lists)}, but no {absent[0]}.txt")
    known = {_name(item.image, images): item for item in pairs}
    unmatched = {_name(path, images): path for path in missing}
    chosen, lost, unknown = [], [], []
    for part in wanted:
        for line in read_list(root / f"{part}.txt"):
            name = line if line in known or line in unmatched else Path(line).with_suffix("").as_posix()
            if name in known:
                chosen.append(known[name])
            elif name in unmatched:
                lost.append(unmatched[name])
            else:
                unknown.append(line)
    if unknown:
        raise FileNotFoundError(
            f"{root}: {len(unknown)} names in {', '.join(f'{p}.txt' for p in wanted)} have no picture in {images.name}/: "
            f"{', '.join(unknown[:5])}"
        )
    return chosen, lost


def _name(picture: Path, images: Path) -> str:
    return picture.relative_to(images).with_suffix("").as_posix()
