"""Anyone's data: a folder with `images/`, `masks/` and the names of the classes.

    images/*            pictures of any kind, in sub-folders if liked
    masks/*             label images under the same names (also <name>_mask, _label, _segmentation), one a picture: class
                        indices as 8-bit or palette PNG or .npy, colours, or any values with a mask map; 255 is ignored
    classes.txt         a class a line, its RGB colour behind it if liked:  road 128 64 128
    classes.yaml        instead: classes, palette, mask_map, ignore_colours (see `class_table.py`, also for the files of tools)

Train, val and test come from sub-folders (`images/train/` with `masks/train/`, or `train/images/` with
`train/masks/`), else from `train.txt` … with names, else from a hash of the name, which stays the same when pictures
are added, and is the same wherever the folder is used. The split "all" takes every pair.

Read as well: JPEGImages/ and SegmentationClass/ with ImageSets/Segmentation/ (VOC, CVAT), lists of pairs of any folders
(PaddleSeg), and <name>.jpg beside <name>_mask.png (Roboflow). Outlines are read by `drawn_labels.py`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from segmentarium.data.base import Item, SegmentationDataset, Transform
from segmentarium.data.class_table import ClassTable, as_colour, as_mask_map, class_file, read_classes
from segmentarium.data.finding import files_below, name_below, pictures_by_name
from segmentarium.data.image_io import IMAGE_SUFFIXES, ImageReadError, open_image
from segmentarium.data.mask_io import (
    NOISE,
    RGB,
    SPLIT_MAP,
    LabelError,
    MaskEncoding,
    is_black_and_white,
    is_lossy,
    read_raw_mask,
)
from segmentarium.data.splits import PART_NAMES, PARTS, check_split, hash_note, hash_split, wanted_parts
from segmentarium.data.text_files import read_lines
from segmentarium.data.unlisted import note_of_parts
from segmentarium.labels import IGNORE_INDEX
from segmentarium.palette import default_palette

SPLITS = ("train", "val", "trainval", "test", "all")

_IMAGE_FOLDERS = ("images", "imgs", "image", "img", "JPEGImages")
_MASK_FOLDERS = ("masks", "labels", "annotations", "mask", "label", "gt", "SegmentationClass")
_MASK_ENDINGS = ("", "_mask", "_label", "_labels", "_L", "_segmentation", "_seg", "_gt")
_LISTS = ("{}.txt", "{}_list.txt", "ImageSets/Segmentation/{}.txt")
_NO_STRAYS = frozenset({"classes.txt", "_classes.csv", "thumbs.db", "desktop.ini"})
_PROBED = 16  # masks that are looked at before a set is declared 0/255


class Folder(SegmentationDataset):
    """A plain folder of pictures and masks; see the head of this module for its layout.

    classes: names of the classes, or their number; None reads classes.txt or classes.yaml.
    palette: RGB of each class; also how masks in colour are read.
    mask_map: raw value -> class index, or as text "0:0,255:1"; needed for masks of 0 and 255.
    bands: of the pictures: 3 are colours, 1 is grey, others are read as they lie in TIFFs.
    strict: False leaves out pictures without a mask and second masks of a picture; `missing_masks`, `stray_masks` and
        `second_masks` list what has no partner either way.

    Raises:
        FileNotFoundError: no such folder or split, no pictures, or pictures without a mask (strict).
        ValueError: no classes, files that contradict each other, or pictures with several masks (strict).
        LabelError: the masks hold 0 and 255 only, and no map says what 255 is.
    """

    own_classes = True

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
        bands: int = 3,
    ) -> None:
        root = Path(root)
        split = split or "all"
        check_split(split, SPLITS, "folder")
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is not a folder; give one that holds images/ and masks/")
        found = _find_pairs(root, split)
        if strict:
            _refuse_unmatched(root, split, found)
        pairs = list(found.pairs.values())
        table = class_table(root, classes, palette, mask_map, [item.mask for item in pairs if item.mask])
        super().__init__(table.info(root.resolve().name), pairs, table.encoding(), transform, cache)
        self.missing_masks, self.stray_masks = list(found.missing.values()), found.stray
        self.second_masks, self.notes, self.left_out, self.bands = found.second, found.notes, found.left_out, bands
        if table.mask_map is None:
            refuse_black_and_white([item.mask for item in pairs if item.mask], self.encoding)

    @classmethod
    def evaluation_split(cls, root: Path) -> str:
        """test where the folder is divided and has one, else val."""
        return "test" if _list_file(root, "test") or _split_folders(root, "test") else "val"


def _refuse_unmatched(root: Path, split: str, found: _Found) -> None:
    if found.missing:
        shown = ", ".join(p.name for p in list(found.missing.values())[:5])
        near = {p.stem.casefold(): p.name for p in found.stray}
        alike = [f"{p.name} and {near[p.stem.casefold()]}" for p in found.missing.values() if p.stem.casefold() in near]
        hint = f" ({', '.join(alike[:5])} differ by capital letters)" if alike else ""
        if dead := [p.name for p in found.missing.values() if not p.exists()]:
            hint += f" ({', '.join(dead[:5])}: links to nothing)"
        raise FileNotFoundError(
            f"{root}: {len(found.missing)} pictures of split {split!r} have no mask: {shown}{hint}; add the masks, "
            "take the pictures away, or pass strict=False to leave them out"
        )
    if found.second:
        image, mask = found.second[0]
        raise ValueError(
            f"{root}: {len(found.second)} pictures have a second mask, which would be trained as background: {mask} beside "
            f"that of {image.name}; unite the masks of a picture in one file, or take away those that belong to none"
        )


def class_table(
    root: Path,
    classes: Sequence[str] | int | None,
    palette: Sequence[RGB] | None,
    mask_map: Mapping[int, int] | str | None,
    masks: Sequence[Path],
) -> ClassTable:
    """Arguments first, then the file in the folder."""
    file = class_file(root)
    if classes is None:
        if file is None:
            raise ValueError(f"{root} has no classes.txt or classes.yaml, and no classes were given{_suggest(masks)}")
        table = read_classes(file)
    else:
        names = [f"class {i}" for i in range(max(classes, 0))] if isinstance(classes, int) else list(classes)
        if not names:
            raise ValueError(f"classes is {classes!r}: zero classes; give their names, or their number, 1 or more")
        if file is not None and isinstance(classes, int) and len(read_classes(file).classes) == classes:
            table = read_classes(file)
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


def refuse_black_and_white(masks: Sequence[Path], encoding: MaskEncoding) -> None:
    """Black and white masks would train on nothing but background, as 255 is ignored: ask for a map instead.

    Those whose edges are smoothed, or that JPEG has changed, too: the shades between would be classes.  Not where the shades are
    the very colours of classes.
    """
    greys = {red for red, green, blue in encoding.colours or {} if red == green == blue}
    classes = encoding.label_count
    step = max(len(masks) // _PROBED, 1)
    example = None
    for path in masks[::step]:
        counts = _counts(path)
        if counts is None or not counts[1:].any():
            continue
        between = bool(counts[1:IGNORE_INDEX].any())
        beyond = bool(counts[classes:IGNORE_INDEX].any())  # no index of a class
        if beyond and greys.issuperset(np.flatnonzero(counts).tolist()):
            return
        if between and not (is_black_and_white(counts) and (is_lossy(path) or beyond)):
            if is_lossy(path) and not counts[NOISE:].any():
                continue  # black, and JPEG's noise
            return
        if counts[IGNORE_INDEX - NOISE :].any() and (example is None or between):
            example = path
    if example is not None:
        counts = _counts(example)
        assert counts is not None
        smooth = bool(counts[1:IGNORE_INDEX].any())
        what = (
            f"is black and white with {int((counts > 0).sum()) - 2} shades between"
            if smooth
            else "holds only 0 and 255"
        )
        ours, python = (SPLIT_MAP, f'"{SPLIT_MAP}"') if smooth else ("0:0,255:1", "{0: 0, 255: 1}")
        raise LabelError(
            f"{example} {what} ({int(counts[255]):,} px), as do the other masks, and 255 means ignore; "
            f'say what white is with a mask map: --mask-map "{ours}" (mask_map={python} in Python, '
            f"`mask_map: {python}` in classes.yaml) if it is class 1, or "
            f'"0:0,255:{IGNORE_INDEX}" if these pixels are to be ignored',
            str(example),
            {255: int(counts[255])},
        )


def _counts(path: Path) -> np.ndarray | None:
    """(256,) pixels of each value of a grey mask; None for one in colour, of one bit, of other types, or unreadable."""
    try:
        if path.suffix != ".npy":
            with open_image(path) as opened:
                if opened.mode == "1":
                    return None
        raw = read_raw_mask(path)
    except (ImageReadError, LabelError):
        return None
    if raw.ndim == 3 and not (raw != raw[..., :1]).any():
        raw = raw[..., 0]
    return np.bincount(raw.reshape(-1), minlength=256) if raw.ndim == 2 and raw.dtype == np.uint8 else None


def _find_pairs(root: Path, split: str) -> _Found:
    by_part = {part: _split_folders(root, part) for part in PARTS}
    by_part = {part: folders for part, folders in by_part.items() if folders is not None}
    wanted = wanted_parts(split)
    if by_part:
        absent = [part for part in wanted if part not in by_part]
        if absent and split != "all":
            raise FileNotFoundError(
                f"{root} is divided into {', '.join(by_part)}, but has no pictures for {absent[0]!r}"
            )
        found = _Found({}, {}, [], [], [], [])
        for part in (part for part in wanted if part in by_part):
            own = _match(*by_part[part])
            found.pairs |= {f"{part}/{name}": item for name, item in own.pairs.items()}
            found.missing |= {f"{part}/{name}": path for name, path in own.missing.items()}
            found.stray += own.stray
            found.second += own.second
            found.left_out += own.left_out
        found.notes += note_of_parts((pictures for pictures, _ in by_part.values()), _IMAGE_FOLDERS)
    else:
        images = next((root / name for name in _IMAGE_FOLDERS if (root / name).is_dir()), None)
        masks = next((root / name for name in _MASK_FOLDERS if (root / name).is_dir()), None)
        if images is None and masks is None and _beside(root):
            images = masks = root
        if images is None or masks is None:
            if (pairs := _listed_pairs(root, wanted)) is not None:
                return pairs
            present = ", ".join(sorted(p.name for p in root.iterdir())[:10]) or "nothing"
            raise FileNotFoundError(f"{root} should hold the folders images/ and masks/; found {present}")
        found = _match(images, masks)
        if not any(_list_file(root, part) for part in PARTS):
            found.notes.append(hash_note(f"folder {root.resolve().name}", map(hash_split, found.pairs), split))
            found.pairs = {name: item for name, item in found.pairs.items() if hash_split(name) in wanted}
            found.missing = {name: path for name, path in found.missing.items() if hash_split(name) in wanted}
        elif split != "all":
            _listed(root, images, wanted, found)
    if not found.pairs and not found.missing:
        more = f" in split {split!r}; use the split 'all', or write {split}.txt" if split != "all" else ""
        raise FileNotFoundError(f"{root} holds no pictures{more}")
    return found


def _split_folders(root: Path, part: str) -> tuple[Path, Path] | None:
    """(pictures, masks) of one part, where it has folders of its own, or one of both."""
    for name in PART_NAMES[part]:
        for images in _IMAGE_FOLDERS:
            for masks in _MASK_FOLDERS:
                for pair in ((root / images / name, root / masks / name), (root / name / images, root / name / masks)):
                    if pair[0].is_dir() and pair[1].is_dir():
                        return pair
        if _beside(root / name):
            return root / name, root / name
    return None


def _beside(folder: Path) -> bool:
    """Whether a folder holds label images beside their pictures, under names that say so."""
    if not folder.is_dir():
        return False
    stems = {path.stem for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
    return any(
        stem.endswith(ending) and stem.removesuffix(ending) in stems for stem in stems for ending in _MASK_ENDINGS[1:]
    )


def _list_file(root: Path, part: str) -> Path | None:
    return next((path for form in _LISTS if (path := root / form.format(part)).is_file()), None)


def _listed_pairs(root: Path, wanted: Sequence[str]) -> _Found | None:
    """What lists of "picture mask", as paths below the folder, name; None where there is no such list."""
    files = [file for part in wanted if (file := _list_file(root, part)) is not None]
    found, lost = _Found({}, {}, [], [], [], []), []
    for file in files:
        for line in read_lines(file):
            places = [match.span() for match in re.finditer(r"[\t,; ]+", line)]
            pair = next(
                (
                    (root / line[:start], root / line[end:])
                    for start, end in places
                    if (root / line[:start]).is_file() and (root / line[end:]).is_file()
                ),
                None,
            )
            if pair is None:
                lost.append(line)
            else:
                found.pairs[_name(pair[0], root)] = Item(*pair)
    if lost and found.pairs:
        raise FileNotFoundError(
            f"{root}: {len(lost)} lines of {', '.join(file.name for file in files)} are no picture and mask that are there: "
            f"{', '.join(lost[:5])}; write their paths below the folder, a space or a tab between them"
        )
    return found if found.pairs else None


@dataclass
class _Found:
    """The pictures of a folder and their label images, by the names below the folder, and what fits nothing."""

    pairs: dict[str, Item]
    missing: dict[str, Path]  # pictures without a label image
    stray: list[Path]  # label images without a picture
    second: list[Item]  # further label images of pictures that have one
    notes: list[str]  # what is to be said of the division
    left_out: list[Path]  # files that are neither pictures nor label images


def _match(images: Path, masks: Path) -> _Found:
    pictures, labels = pictures_by_name(images, name=_name), pictures_by_name(masks, {".npy"}, _name)
    if images == masks:  # one folder: what its name says is a label image of another
        labels = {key: path for key, path in labels.items() if any(name in pictures for name in _owners(key))}
        pictures = {name: path for name, path in pictures.items() if name not in labels}
    found, used = _Found({}, {}, [], [], [], []), set()
    taken = {*pictures.values(), *labels.values()}
    for folder in dict.fromkeys((images, masks)):
        others = files_below(folder, (), lambda path: path not in taken and path.name.lower() not in _NO_STRAYS)
        found.left_out += others
    for name, picture in pictures.items():
        key = next((name + ending for ending in _MASK_ENDINGS if name + ending in labels), None)
        if key is None:
            found.missing[name] = picture
        else:
            used.add(key)
            found.pairs[name] = Item(picture, labels[key])
    for key, path in labels.items():
        if key not in used:
            # "scan_mask_1", "scan-2" and "scan (copy)" begin with the name of the picture "scan", "scan2" does not
            owner = next((n for n in _beginnings(key) if n in found.pairs), None)
            if owner is None:
                found.stray.append(path)
            else:
                found.second.append(Item(found.pairs[owner].image, path))
    return found


def _owners(key: str) -> Iterator[str]:
    """The names of which a label image's name is one with an ending."""
    for ending in _MASK_ENDINGS[1:]:
        if key.endswith(ending):
            yield key.removesuffix(ending)


def _beginnings(key: str) -> Iterator[str]:
    """What stands in front of each separator of a mask's name, the longest first."""
    for match in reversed(list(re.finditer(r"[ _.(\-]+", key))):
        yield key[: match.start()]


def _listed(root: Path, images: Path, wanted: Sequence[str], found: _Found) -> None:
    """Keeps the pairs and the unmatched pictures that the list files of the wanted splits name, in their order."""
    lists = [part for part in PARTS if _list_file(root, part)]
    absent = [part for part in wanted if part not in lists]
    if absent:
        raise FileNotFoundError(f"{root} has {', '.join(f'{p}.txt' for p in lists)}, but no {absent[0]}.txt")
    pairs, missing, unknown = {}, {}, []
    for part in wanted:
        file = _list_file(root, part)
        assert file is not None
        for line in read_lines(file):
            name = next(
                (n for n in _names_in(line, images.name, found) if n in found.pairs or n in found.missing), None
            )
            if name is None:
                unknown.append(line)
            elif name in found.pairs:
                pairs[name] = found.pairs[name]
            else:
                missing[name] = found.missing[name]
    if unknown:
        raise FileNotFoundError(
            f"{root}: {len(unknown)} names in {', '.join(f'{p}.txt' for p in wanted)} have no picture in {images.name}/: "
            f"{', '.join(unknown[:5])}; write a picture a line, as its path below {images.name}/ or below the folder"
        )
    found.pairs, found.missing = pairs, missing


def _names_in(line: str, images: str, found: _Found) -> Iterator[str]:
    """What a line of a list may call its picture: the name, with or without ending, and with or without "images/".

    Of a pair, "images/a.png masks/a.png", it is the first, if the second is its label image.
    """
    paths = [line]
    first, _, second = line.partition(" ")
    if second.strip():
        paths.append(first)
    for path in paths:
        for text in (path, path.removeprefix("./").removeprefix(f"{images}/")):
            name = unicodedata.normalize("NFC", text)
            for candidate in (name, os.path.splitext(name)[0]):
                item = found.pairs.get(candidate)
                if path == line or (item is not None and item.mask is not None and item.mask.stem == Path(second).stem):
                    yield candidate


def _name(picture: Path, images: Path) -> str:
    """The path below the folder, without ending, with accents as one letter each (macOS takes them apart)."""
    return unicodedata.normalize("NFC", name_below(picture, images))
