"""Overlays of segments: objects in colours of their own, stuff in its class's, contours, and names that can be read."""

from __future__ import annotations

import colorsys
from collections.abc import Collection, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segmentarium.inference.drawing import RGB, SMALLEST_FONT, Painter, lay_over
from segmentarium.inference.segment_map import FoundSegment, SegmentMap

MOST_NAMES = 60  # segments whose names are written, the largest ones
GOLDEN = 0.618034  # of the circle of hues, between the colours of two numbers: no two near each other are alike
COLOURS = 255  # values of a byte but for nobody's: more segments share them
SMALL = 256  # pixels of the side at which a place for a name is looked for


def colour_of(segment: FoundSegment, palette: Sequence[RGB], things: Collection[int]) -> RGB:
    """Of stuff its class's colour; of an object one that its number alone decides, so that it stays from frame to frame."""
    if segment.label not in things and segment.label < len(palette):
        return palette[segment.label]
    red, green, blue = colorsys.hsv_to_rgb(segment.id * GOLDEN % 1, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


class SegmentPainter:
    """Paints segments in bands of rows, as `Painter` paints classes.

    size   (width, height) of the whole picture
    """

    def __init__(
        self, size: tuple[int, int], found: SegmentMap, palette: Sequence[RGB], things: Collection[int]
    ) -> None:
        colours: list[RGB] = [(0, 0, 0)]  # black, first: nobody's pixels stay as they are
        self._values = np.zeros(max((0, *(one.id for one in found.segments))) + 1, np.uint8)
        for place, one in enumerate(found.segments):
            self._values[one.id] = place % COLOURS + 1
            if place < COLOURS:
                colours.append(colour_of(one, palette, things))
        self._painter = Painter(size, colours)

    def paint(self, image: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """The next rows of the overlay, (n, W, 3) uint8, of the picture (n, W, 3) uint8 and numbers (n, W)."""
        return self._painter.paint(image, self._values[ids])


def segment_overlay(
    image: np.ndarray,
    found: SegmentMap,
    classes: Sequence[str],
    palette: Sequence[RGB],
    things: Collection[int],
    scores: bool = True,
) -> np.ndarray:
    """The picture (H, W, 3) uint8 with its segments painted over it, contours and names; `scores`: and how sure each is."""
    height, width = found.ids.shape
    result = SegmentPainter((width, height), found, palette, things).paint(image, found.ids)
    for top, left, box in names(found, classes, palette, things, scores):
        lay_over(result[top : top + len(box), left:], box)
    return result


def names(
    found: SegmentMap, classes: Sequence[str], palette: Sequence[RGB], things: Collection[int], scores: bool = True
) -> list[tuple[int, int, np.ndarray]]:
    """(top, left, box (h, w, 4) uint8) of the names of the larger segments, each where its segment is widest."""
    height, width = found.ids.shape
    letters = max(SMALLEST_FONT, round(max(height, width) / 60))
    font = ImageFont.load_default(letters)
    written = []
    largest = sorted(found.segments, key=lambda one: -one.area)[:MOST_NAMES]
    for one in largest:
        text = classes[one.label] + (f" {100 * one.score:.0f}" if scores and one.label in things else "")
        box = _box(text, font, letters, colour_of(one, palette, things))
        if box.shape[0] > height or box.shape[1] > width or one.area < box.shape[0] * box.shape[1]:
            continue
        row, column = _middle(found, one)
        top = min(max(0, row - box.shape[0] // 2), height - box.shape[0])
        left = min(max(0, column - box.shape[1] // 2), width - box.shape[1])
        written.append((top, left, box))
    return written


def _box(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, letters: int, colour: RGB) -> np.ndarray:
    gap = max(2, letters // 4)
    picture = Image.new("RGBA", (round(font.getlength(text)) + 2 * gap, round(1.3 * letters) + gap), (0, 0, 0, 150))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, max(1, gap // 2), picture.height), fill=(*colour, 255))
    draw.text((gap, picture.height / 2), text, fill=(255, 255, 255, 255), font=font, anchor="lm")
    return np.asarray(picture)


def _middle(found: SegmentMap, segment: FoundSegment) -> tuple[int, int]:
    """Row and column of a pixel of the segment that is far from its edges."""
    left, top, right, bottom = segment.box
    step = max(1, (max(bottom - top, right - left) + SMALL - 1) // SMALL)
    inside = np.asarray(found.ids[top:bottom:step, left:right:step]) == segment.id
    if not inside.any():  # it is thin, or others lie on top of it
        return (top + bottom) // 2, (left + right) // 2
    distance = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    far = np.argwhere(distance >= 0.9 * distance.max())
    row, column = far[((far - far.mean(0)) ** 2).sum(1).argmin()]
    return top + int(row) * step, left + int(column) * step
