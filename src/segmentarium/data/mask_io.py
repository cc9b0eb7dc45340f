"""Label images: from the values or colours in the file to class indices, with every stray value reported.

A label outside the classes must never reach a loss: on a GPU it ends in an index assert that names neither the file
nor the value. `MaskEncoding` therefore knows which raw values are allowed, and `LabelError` says what was found,
in which file, in how many pixels, and how to map it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

import numpy as np
from PIL import Image

from segmentarium.data.image_io import ImageReadError, open_image, upright
from segmentarium.data.stored import open_file
from segmentarium.labels import IGNORE_INDEX

RGB = tuple[int, int, int]
MOST_COLOURS = 1000  # that an error counts
_ALL_VALUES = 2**16  # of a 16-bit label image
SPLIT_MAP = "0-127:0,128-255:1"  # of black and white with shades between
LOSSY = (".jpg", ".jpeg", ".jfif", ".webp", ".jp2")
_CHROMA = 24  # most that JPEG drives the channels of a grey apart
NOISE = 16  # values so near to 0 or 255 count as black or white
MAX_CLASSES = 255  # indices 0..254 in a byte; 255 is the ignore value


class LabelError(ValueError):
    """A label image with values that belong to no class; `counts` maps such values or colours to their pixels.

    Of colours the most frequent ones are there.  From another process comes the message alone, as it does of every error.
    """

    def __init__(
        self, message: str, path: str = "", counts: Mapping[int, int] | Mapping[RGB, int] = MappingProxyType({})
    ) -> None:
        super().__init__(message)
        self.path = path
        self.counts: dict[int, int] | dict[RGB, int] = dict(counts)  # type: ignore[assignment]


@dataclass(frozen=True)
class MaskEncoding:
    """How a label image says which class a pixel has.

    num_classes: number of classes K; results hold 0..K-1 and 255 (ignore).
    mapping: raw value -> class index (or 255). None: the value is the index, 255 is ignore.
    colours: RGB colour -> class index (or 255), for label images in colour. A file in colour needs it. A palette file
        whose colours are all among them is read by colour too, whatever the order of its palette, and so is a grey
        file of such greys that are no indices; other files hold indices, so that one encoding reads all of them.
    """

    num_classes: int
    mapping: Mapping[int, int] | None = None
    colours: Mapping[RGB, int] | None = None
    hint: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.num_classes <= MAX_CLASSES:
            raise ValueError(
                f"num_classes is {self.num_classes}; give the number of classes, 1 to {MAX_CLASSES} "
                f"(label images hold one byte a pixel, and {IGNORE_INDEX} means ignore)"
            )
        for table in (self.mapping, self.colours):
            stray = {k: v for k, v in (table or {}).items() if v != IGNORE_INDEX and not 0 <= v < self.label_count}
            if stray:
                shown = ", ".join(f"{k} to {v}" for k, v in list(stray.items())[:5]) + (" …" if len(stray) > 5 else "")
                raise ValueError(
                    f"the mask map sends {shown}, outside the classes 0..{self.label_count - 1}; "
                    f"use those indices, or {IGNORE_INDEX} for ignore"
                )

    @property
    def label_count(self) -> int:
        """How many labels may occur: K, or two (0 and 1) for the single class of a sigmoid model."""
        return max(self.num_classes, 2)

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """(index of each byte value, whether it is allowed); both (256,)."""
        index = np.full(256, IGNORE_INDEX, np.uint8)
        allowed = np.zeros(256, bool)
        pairs = self._value_map
        for value, label in pairs.items():
            if 0 <= value < 256:
                index[value], allowed[value] = label, True
        return index, allowed

    @cached_property
    def _value_map(self) -> dict[int, int]:
        if self.mapping is not None:
            return {int(k): int(v) for k, v in self.mapping.items()}
        return {i: i for i in range(self.label_count)} | {IGNORE_INDEX: IGNORE_INDEX}

    @property
    def white_is_255(self) -> bool:
        """Whether the mask map tells 255 and not 1 from 0: files of one bit are then black and white as the others are."""
        table = self._value_map if self.mapping is not None else {}
        return IGNORE_INDEX in table and table.get(1, table.get(0)) == table.get(0)

    @cached_property
    def _colour_table(self) -> tuple[np.ndarray, np.ndarray]:
        """(sorted packed colours, their labels)."""
        packed = {(r << 16) | (g << 8) | b: label for (r, g, b), label in (self.colours or {}).items()}
        keys = np.array(sorted(packed), np.int64)
        return keys.astype(np.int32), np.array([packed[int(k)] for k in keys], np.uint8)

    def decode(self, raw: np.ndarray, path: str | os.PathLike[str] = "<array>") -> np.ndarray:
        """Class indices uint8 (H, W) of a raw label array: (H, W) of values, or (H, W, 3) of colours.

        Raises:
            LabelError: values or colours that belong to no class.
        """
        if raw.ndim == 3:
            return self._decode_colours(raw, str(path))
        if raw.dtype == np.uint8:
            index, allowed = self._table
            counts = np.bincount(raw.reshape(-1), minlength=256)
            if self.colours is not None and self._greys_are_colours(counts, str(path)):
                return self._decode_colours(np.repeat(raw[..., None], 3, axis=2), str(path))
            stray = np.flatnonzero((counts > 0) & ~allowed)
            if stray.size:
                self._fail(str(path), {int(v): int(counts[v]) for v in stray})
            return index[raw]
        values, inverse, counts = np.unique(raw, return_inverse=True, return_counts=True)
        stray = {int(v): int(n) for v, n in zip(values, counts, strict=True) if int(v) not in self._value_map}
        if stray:
            self._fail(str(path), stray)
        labels = np.array([self._value_map[int(v)] for v in values], np.uint8)
        return labels[inverse].reshape(raw.shape)

    def _greys_are_colours(self, counts: np.ndarray, path: str) -> bool:
        """Whether a grey file, given as pixels (256,) of each value, was painted in the greys of classes.

        It was where all its values are such greys and one of them cannot be an index. Raises LabelError where 255 may
        be white, a class, or void.
        """
        found = np.flatnonzero(counts).tolist()
        if self.mapping is not None or not all((v, v, v) in (self.colours or {}) for v in found):
            return False
        if any(self.label_count <= v < IGNORE_INDEX for v in found):
            return True
        white = (self.colours or {}).get((255, 255, 255), IGNORE_INDEX)
        if IGNORE_INDEX in found and white != IGNORE_INDEX:
            raise LabelError(
                f"{path} is grey and holds 255 ({int(counts[IGNORE_INDEX]):,} px), which is both the colour of class {white} "
                f'and the value to ignore; say which with a mask map (mask_map="0:0,255:{white}"), or save it as RGB',
                path,
                {IGNORE_INDEX: int(counts[IGNORE_INDEX])},
            )
        return False

    def by_palette(self, indices: np.ndarray, palette: Sequence[RGB], path: str | os.PathLike[str]) -> np.ndarray:
        """The raw label array of a palette file: its indices, or its colours (H, W, 3) where these say other classes.

        Viewers show a palette file by its colours, and programs order palettes as they like.

        Raises:
            LabelError: some of its colours belong to other classes than their indices say, and others to none.
        """
        if self.colours is None or self.mapping is not None:  # a mask map speaks of indices
            return indices
        used = np.flatnonzero(np.bincount(indices.reshape(-1), minlength=256)).tolist()
        known = {i: palette[i] for i in used if i < len(palette) and palette[i] in self.colours}
        wrong = [i for i, colour in known.items() if self._value_map.get(i) != self.colours[colour]]
        if not wrong:
            return indices
        if len(known) == len(used):
            table = np.zeros((256, 3), np.uint8)
            table[used] = [known[i] for i in used]
            return table[indices]
        strange = next(i for i in used if i not in known)
        raise LabelError(
            f"{path} is a palette image in which index {wrong[0]} has the colour {known[wrong[0]]} of class "
            f"{self.colours[known[wrong[0]]]}, while the colour of index {strange} belongs to no class; is the class the "
            "index or the colour? Give the palette all colours, or save plain indices (grey, 8 bits)",
            str(path),
            {i: int((indices == i).sum()) for i in wrong},
        )

    def _decode_colours(self, raw: np.ndarray, path: str) -> np.ndarray:
        if self.colours is None:
            if bool((raw[..., 0] == raw[..., 1]).all()) and bool((raw[..., 0] == raw[..., 2]).all()):
                return self.decode(np.ascontiguousarray(raw[..., 0]), path)  # grey saved as RGB
            raise LabelError(
                f"{path} is a label image in colour, but no colour belongs to a class; "
                "give the palette (RGB of each class, for example in classes.yaml), or save class indices",
                path,
                _count_colours(raw)[0],
            )
        packed = _packed(raw)
        keys, labels = self._colour_table
        position = np.searchsorted(keys, packed).clip(max=len(keys) - 1)
        known = keys[position] == packed
        if not known.all():
            counts, number = _count_colours(raw[~known][None])
            self._fail(path, counts, number)
        return labels[position]

    def _fail(self, path: str, counts: Mapping[int, int] | Mapping[RGB, int], number: int | None = None) -> NoReturn:
        """number: of all that were found, where `counts` has the most frequent ones alone"""
        shown = sorted(counts.items(), key=lambda item: -item[1])[:8]
        found = ", ".join(f"{value} ({pixels:,} px)" for value, pixels in shown)
        further = (number or len(counts)) - len(shown)
        more = f" and {further} more" if further else ""
        raise LabelError(
            f"{path} has labels outside the classes: {found}{more}; expected {self._expectation()}. "
            + (self.hint or self._advice(list(counts))),
            path,
            counts,
        )

    def _expectation(self) -> str:
        if self.mapping is not None:
            return f"one of {_ranges(sorted(self._value_map))}"
        if self.colours is not None:
            return f"one of {len(self.colours)} colours, or indices 0..{self.label_count - 1} and {IGNORE_INDEX}"
        return f"0..{self.label_count - 1}, or {IGNORE_INDEX} for ignore"

    def _advice(self, values: Sequence[int | RGB]) -> str:
        first = values[0]
        if isinstance(first, tuple):
            return "Add the colour to the palette, or map it to 255 (ignore)."
        if self.mapping is not None and len(values) > 1 and self._value_map.keys() == {0, IGNORE_INDEX}:
            black, white = self._value_map[0], self._value_map[IGNORE_INDEX]
            return (
                "Black and white masks with smoothed edges, or that were JPEG, have such shades: the mask map "
                f'"0-127:{black},128-255:{white}" takes the darker half with black and the lighter with white.'
            )
        if self.mapping is not None:
            return f'Add the value to the mask map, e.g. "{first}:{IGNORE_INDEX}" to ignore it.'
        greys = [value for value in values if isinstance(value, int)]
        if len(greys) > NOISE // 2 and max(greys) in range(200, 256):
            return (
                "Black and white masks with smoothed edges, or that were JPEG, have such shades: the mask map "
                f'"{SPLIT_MAP}" (--mask-map, mask_map=) makes the darker half class 0 and the lighter class 1. '
                "Other masks: name the values, save the classes as indices in PNG, or give more classes."
            )
        return (
            f'Map the values with a mask map, e.g. --mask-map "{first}:1,*:same" (value {first} is class 1, the others '
            f'stay as they are) or "{first}:{IGNORE_INDEX},*:same" (ignore it), or give more classes.'
        )


def read_mask(path: str | os.PathLike[str], encoding: MaskEncoding) -> np.ndarray:
    """Class indices uint8 (H, W), values 0..K-1 and 255, of a label image file.

    Raises:
        ImageReadError: the file cannot be read.
        LabelError: it holds values that belong to no class.
    """
    return encoding.decode(read_raw_mask(path, encoding), path)


def read_raw_mask(path: str | os.PathLike[str], encoding: MaskEncoding | None = None) -> np.ndarray:
    """The values stored in a label image: (H, W) integers, or (H, W, 3) uint8 for a file in colour.

    A palette file gives its indices, or its colours where the encoding knows them; bits give 0 and 1, or 255 where a mask map
    knows that alone; an alpha channel is dropped; EXIF rotation is applied, as it is to pictures.  A .npy file holds integers
    or truths (H, W).

    Raises:
        ImageReadError: the file cannot be read.
        LabelError: its palette contradicts the encoding's colours.
    """
    if str(path).lower().endswith(".npy"):
        return _read_array(path)
    with open_image(path) as opened:
        image = upright(opened)
        if image.mode in ("RGB", "RGBA", "RGBX"):
            colours = np.array(image.convert("RGB") if image.mode != "RGB" else image)
            return _grey_again(colours, encoding) if is_lossy(path) else colours
        if image.mode in ("LA", "PA"):
            return np.array(image)[..., 0]
        if image.mode == "1":
            white = 255 if encoding is not None and encoding.white_is_255 else 1
            return np.array(image, dtype=np.uint8) * white
        if image.mode in ("L", "P") or image.mode.startswith("I"):
            values = np.array(image) // (_bit_spread(path) if image.mode == "L" else 1)
        else:
            raise ImageReadError(
                f"{path} has mode {image.mode}, which is no label image; save class indices as 8-bit PNG, "
                "or RGB colours with a palette"
            )
        palette = _palette(image) if image.mode == "P" and encoding is not None else None
    return values if palette is None or encoding is None else encoding.by_palette(values, palette, path)


def _read_array(path: str | os.PathLike[str]) -> np.ndarray:
    try:
        with open_file(path) as file:
            array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ImageReadError(f"{path} cannot be read as an array: {error}") from error
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array.squeeze(0 if array.shape[0] == 1 else 2)
    whole = array.dtype.kind in "iub" or (array.dtype.kind == "f" and bool((array == np.round(array)).all()))
    if array.ndim != 2 or not whole or not array.size:
        raise ImageReadError(
            f"{path} has the shape {array.shape} and the type {array.dtype}; a label image is (H, W) integers"
        )
    low, high = int(array.min()), int(array.max())
    return array.astype(np.uint8 if low >= 0 and high < 256 else np.int64)


def is_lossy(path: str | os.PathLike[str]) -> bool:
    """Whether a file is of a kind that changes values, by its ending."""
    return Path(path).suffix.lower() in LOSSY


def is_black_and_white(counts: np.ndarray) -> bool:
    """Whether a mask with so many pixels of each value (256,) is black and white, with shades between: edges, or JPEG's noise."""
    dark, light = int(counts[: NOISE + 1].sum()), int(counts[IGNORE_INDEX - NOISE :].sum())
    return light > 0 and dark + light >= 0.6 * int(counts.sum())


def _grey_again(colours: np.ndarray, encoding: MaskEncoding | None) -> np.ndarray:
    """Of a lossy file in colour that shows greys, one channel: JPEG drives them apart a little."""
    if encoding is not None and encoding.colours is not None:
        return colours
    wide = colours.astype(np.int16)
    return colours if (wide.max(2) - wide.min(2)).max() > _CHROMA else np.ascontiguousarray(colours[..., 1])


def _palette(image: Image.Image) -> list[RGB]:
    values = image.getpalette("RGB") or []
    return [(values[i], values[i + 1], values[i + 2]) for i in range(0, len(values), 3)]


def _bit_spread(path: str | os.PathLike[str]) -> int:
    """17 or 85 for grey PNG of 4 or 2 bits a pixel, whose values Pillow multiplies by that; else 1."""
    if Path(path).suffix.lower() != ".png":
        return 1
    with open_file(path) as file:
        head = file.read(26)  # signature 8, IHDR length and type 8, width 4, height 4, depth 1, colour type 1
    return {2: 85, 4: 17}.get(head[24], 1) if len(head) == 26 and head[25] == 0 else 1


def parse_mask_map(text: str, num_classes: int) -> dict[int, int]:
    """`"0:0,255:1"` as {0: 0, 255: 1}: raw value or range of values (`0-127`), colon, class index (255 = ignore).

    The map is complete: a value that it does not mention is an error, unless the map ends in `*:same` (classes and
    255 stay as they are) or `*:N` (all other values, of 16 bits too, become N; `0:0,*:1` makes instances one class).

    Raises:
        ValueError: the text has another form.
    """
    result: dict[int, int] = {}
    others: dict[int, int] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        value, colon, label = (p.strip() for p in part.partition(":"))
        if value == "*" and label == "same":
            others = {i: i for i in [*range(max(num_classes, 2)), IGNORE_INDEX]}
        elif value == "*" and label.isdigit():
            others = dict.fromkeys(range(_ALL_VALUES), int(label))
        elif colon and label.isdigit() and (span := re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", value)):
            first, last = int(span[1]), int(span[2] or span[1])
            if not first <= last < _ALL_VALUES:
                raise ValueError(f"mask map {text!r}: {value} is no range of values from 0 to {_ALL_VALUES - 1}")
            result |= dict.fromkeys(range(first, last + 1), int(label))
        else:
            raise ValueError(
                f'mask map {text!r}: cannot read {part!r}; write value:class pairs, e.g. "0:0,255:1" or "0-127:0,128-255:1", '
                'and "*:same" or "*:255" for all other values'
            )
    if not result and not others:
        raise ValueError('the mask map is empty; write value:class pairs, e.g. "0:0,255:1"')
    return others | result


def _packed(raw: np.ndarray) -> np.ndarray:
    """(…, 3) uint8 -> (…) int32: each colour as one number."""
    red, green, blue = (raw[..., i].astype(np.int32) for i in range(3))
    return (red << 16) | (green << 8) | blue


def _count_colours(raw: np.ndarray) -> tuple[dict[RGB, int], int]:
    """(pixels of the most frequent colours, number of all colours)"""
    packed = _packed(raw).reshape(-1)
    if len(packed) < 2**20:
        colours, counts = np.unique(packed, return_counts=True)
    else:  # counted in a table of all colours there are: sorting millions takes ten times as long
        table = np.bincount(packed, minlength=2**24)
        colours = np.flatnonzero(table)
        counts = table[colours]
    first = np.argsort(-counts, kind="stable")[:MOST_COLOURS]
    pairs = zip(colours[first].tolist(), counts[first].tolist(), strict=True)
    return {(colour >> 16, colour >> 8 & 255, colour & 255): count for colour, count in pairs}, len(colours)


def _ranges(values: Sequence[int]) -> str:
    """[0, 1, 2, 255] as "0..2, 255"."""
    parts: list[str] = []
    start = previous = values[0]
    for value in [*values[1:], None]:
        if value is not None and value == previous + 1:
            previous = value
            continue
        parts.append(str(start) if start == previous else f"{start}..{previous}")
        if value is not None:
            start = previous = value
    return ", ".join(parts)
