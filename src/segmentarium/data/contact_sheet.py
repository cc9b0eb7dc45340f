"""A sheet of small pictures, each beside its labels in colour: the quickest way to see that masks fit their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from segmentarium.data.base import DatasetInfo
from segmentarium.data.mask_io import RGB
from segmentarium.labels import IGNORE_INDEX

_SIDE = 240  # longest side of a small picture, pixels
_GAP = 8
_LINE = 16  # height of a line of text
_COLUMNS = 2
_BACKGROUND = (32, 32, 32)
_TEXT = (230, 230, 230)
_LEGEND_COLUMNS = 6


class Thumbnail(NamedTuple):
    """A small picture, and the same under its labels (None if it has none: the caption stands there then)."""

    name: str
    image: Image.Image
    overlay: Image.Image | None
    caption: str


def thumbnail(
    image: np.ndarray, mask: np.ndarray | None, palette: Sequence[RGB], name: str, caption: str = ""
) -> Thumbnail:
    """Both halves of a row of the sheet, from uint8 (H, W, 3) and labels (H, W)."""
    height, width = image.shape[:2]
    factor = min(_SIDE / max(height, width), 1.0)
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    small = Image.fromarray(image).resize(size, Image.Resampling.BOX)
    if mask is None:
        return Thumbnail(name, small, None, caption)
    labels = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    return Thumbnail(name, small, Image.fromarray(overlay(np.asarray(small), labels, palette)), caption)


def overlay(image: np.ndarray, labels: np.ndarray, palette: Sequence[RGB], opacity: float = 0.6) -> np.ndarray:
    """uint8 (H, W, 3): the picture under the colours of its labels; ignored pixels are hatched in white."""
    table = np.zeros((256, 3), np.float32)
    table[: len(palette)] = palette
    mixed = (1 - opacity) * image + opacity * table[labels]
    rows, columns = np.indices(labels.shape)
    hatched = (labels == IGNORE_INDEX) & ((rows + columns) % 8 < 3)
    mixed = np.where((labels == IGNORE_INDEX)[..., None], image, mixed)
    mixed[hatched] = 255
    return mixed.round().astype(np.uint8)


def contact_sheet(pictures: Sequence[Thumbnail], info: DatasetInfo) -> Image.Image:
    """The sheet: two pairs a row with their names, and the colours of the classes below, where one is to be seen."""
    cell_width = 2 * _SIDE + 2 * _GAP
    rows = [pictures[i : i + _COLUMNS] for i in range(0, len(pictures), _COLUMNS)]
    heights = [max(p.image.height for p in row) + _LINE + _GAP for row in rows]
    legend = list(zip(info.classes, info.palette, strict=True)) if any(p.overlay for p in pictures) else []
    legend_rows = -(-len(legend) // _LEGEND_COLUMNS)
    width = _COLUMNS * cell_width + _GAP
    sheet = Image.new("RGB", (width, sum(heights) + legend_rows * _LINE + 2 * _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            left = _GAP + column * cell_width
            draw.text((left, top), picture.name[:60], fill=_TEXT)
            sheet.paste(picture.image, (left, top + _LINE))
            if picture.overlay is not None:
                sheet.paste(picture.overlay, (left + _SIDE + _GAP, top + _LINE))
            else:
                draw.text((left + _SIDE + _GAP, top + _LINE), picture.caption, fill=_TEXT)
        top += height
    step = (width - 2 * _GAP) // _LEGEND_COLUMNS
    for index, (name, colour) in enumerate(legend):
        left = _GAP + index % _LEGEND_COLUMNS * step
        line = top + index // _LEGEND_COLUMNS * _LINE
        draw.rectangle((left, line + 2, left + 10, line + 12), fill=colour, outline=_TEXT)
        draw.text((left + 15, line), f"{index} {name}"[: step // 7], fill=_TEXT)
    return sheet
