"""Overlays: the classes' colours over the picture, thin contours between them, and a legend that can be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

RGB = tuple[int, int, int]
OPACITY = 0.5
SMALLEST_FONT = 9  # pixels; below it letters of the default font run together
MOST_ENTRIES = 16
LEAST_SHARE = 0.001  # of the picture: classes below it are not in the legend


def is_unpainted(index: int, palette: Sequence[RGB]) -> bool:
    """Whether a class leaves the picture as it is: a first class in black is a background, and black would hide it."""
    return index == 0 and tuple(palette[0]) == (0, 0, 0)


def shown_classes(classes: Sequence[str], shares: Mapping[str, float], palette: Sequence[RGB]) -> list[int]:
    """Indices of the classes that are painted and take enough of the picture to be named, largest first.

    shares  class name -> share of the picture
    """
    present = [
        i
        for i, name in enumerate(classes)
        if i < len(palette) and shares.get(name, 0.0) >= LEAST_SHARE and not is_unpainted(i, palette)
    ]
    return sorted(present, key=lambda i: -shares[classes[i]])


class Painter:
    """Paints overlays in bands of rows, so that one picture and one that does not fit into memory look the same.

    size     (width, height) of the whole picture: it decides how thick contours are
    palette  RGB of each class, 0..255; indices beyond it (255: ignore) stay unpainted
    """

    def __init__(self, size: tuple[int, int], palette: Sequence[RGB], opacity: float = OPACITY) -> None:
        self.thickness = max(1, round(max(size) / 1200))
        weight = round(opacity * 256)
        self._keep = np.full(256, 256 - weight, np.uint16)
        self._add = np.zeros((256, 3), np.uint16)
        self._contour = np.full((256, 3), 255, np.uint8)
        for index, colour in enumerate(palette[:256]):
            if not is_unpainted(index, palette):
                self._add[index] = np.asarray(colour, np.uint16) * weight
                self._contour[index] = [round((c + 255) / 2) for c in colour]
        unpainted = [i for i in range(256) if i >= len(palette) or is_unpainted(i, palette)]
        self._keep[unpainted] = 256
        self._above: np.ndarray | None = None  # the last rows of the band before

    def paint(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The next rows of the overlay, (n, W, 3) uint8, of the picture (n, W, 3) uint8 and its classes (n, W) uint8."""
        # `take` is three times as fast as indexing by an array
        blended = image * self._keep.take(mask)[..., None]
        blended += self._add.take(mask, axis=0)
        blended >>= 8
        result = blended.astype(np.uint8)
        edges = self._edges(mask)
        result[edges] = self._contour[mask[edges]]
        return result

    def _edges(self, mask: np.ndarray) -> np.ndarray:
        """(n, W) bool: within `thickness` pixels below or right of a change of class."""
        above = mask[:1] if self._above is None else self._above
        tall = np.concatenate((above, mask))
        edges = np.zeros(tall.shape, bool)
        np.not_equal(tall[1:], tall[:-1], out=edges[1:])
        edges[:, 1:] |= tall[:, 1:] != tall[:, :-1]
        if self._above is None:
            edges[0] = False  # the row that was only repeated
        thick = edges.copy()
        for step in range(1, self.thickness):
            thick[step:] |= edges[:-step]
        edges = thick.copy()
        for step in range(1, self.thickness):
            edges[:, step:] |= thick[:, :-step]
        self._above = tall[-(self.thickness + 1) :].copy()
        return edges[len(above) :]


def legend(
    size: tuple[int, int], shares: Mapping[str, float], classes: Sequence[str], palette: Sequence[RGB]
) -> Image.Image | None:
    """An RGBA box with colour and name of the classes that are present, largest first, to lay over the upper left corner.

    size    (width, height) of the picture; the letters are 1/44 of its longer side, and at least 9 pixels high
    shares  class name -> share of the picture

    None where not even one entry fits, or nothing is painted.
    """
    width, height = size
    present = shown_classes(classes, shares, palette)[:MOST_ENTRIES]
    letters = max(SMALLEST_FONT, round(max(size) / 44))
    while present:
        font = ImageFont.load_default(letters)
        line, gap = round(letters * 1.4), max(2, letters // 3)
        longest = max(font.getlength(classes[i]) for i in present)
        box = (round(longest) + letters + 3 * gap, line * len(present) + gap)
        if box[0] <= 0.9 * width and box[1] <= 0.9 * height:
            return _draw_legend(box, [(classes[i], palette[i]) for i in present], font, letters, line, gap)
        if letters > SMALLEST_FONT:
            letters = max(SMALLEST_FONT, round(letters * 0.85))
        else:
            present = present[:-1]
    return None


def _draw_legend(
    box: tuple[int, int],
    entries: Sequence[tuple[str, RGB]],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    letters: int,
    line: int,
    gap: int,
) -> Image.Image:
    picture = Image.new("RGBA", box, (0, 0, 0, 150))
    draw = ImageDraw.Draw(picture)
    for row, (name, colour) in enumerate(entries):
        top = gap + row * line
        draw.rectangle(
            (gap, top, gap + letters - 1, top + letters - 1), fill=(*colour, 255), outline=(255, 255, 255, 255)
        )
        draw.text((2 * gap + letters, top + letters / 2), name, fill=(255, 255, 255, 255), font=font, anchor="lm")
    return picture


def lay_over(rows: np.ndarray, box: np.ndarray, top: int = 0) -> None:
    """Lays the rows of `box` (h, w, 4) uint8 that meet rows top, top + 1, … over the left of `rows` (n, W, 3), in place."""
    part = box[top : top + len(rows)]
    if len(part):
        target = rows[: len(part), : part.shape[1]]
        alpha = part[..., 3:].astype(np.uint16)
        target[:] = (part[..., :3] * alpha + target * (255 - alpha)) // 255


def overlay(image: np.ndarray, mask: np.ndarray, classes: Sequence[str], palette: Sequence[RGB]) -> np.ndarray:
    """The picture (H, W, 3) uint8 with the classes (H, W) of every pixel painted over it, contours and legend."""
    height, width = mask.shape
    small = mask if mask.dtype == np.uint8 else np.minimum(mask, 255).astype(np.uint8)
    result = Painter((width, height), palette).paint(image, small)
    box = legend((width, height), shares_of(mask, classes), classes, palette)
    if box is not None:
        lay_over(result, np.asarray(box))
    return result


def shares_of(mask: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Class name -> share of the pixels, 0..1, for every class."""
    counts = np.bincount(mask.reshape(-1), minlength=len(classes))
    return {name: float(counts[i] / mask.size) for i, name in enumerate(classes)}


def soften(probability: np.ndarray | float) -> np.ndarray:
    """Probability of the foreground -> alpha in 0..1: below 5 % is clear and above 95 % solid, so that no haze remains."""
    return np.clip((np.asarray(probability, np.float32) - 0.05) / 0.9, 0.0, 1.0)
