"""What goes behind the person: a blur of the picture itself, nothing, a colour, an image, or a looped video."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from segmentarium.data.image_io import IMAGE_SUFFIXES, read_image
from segmentarium.matting.guided import box, smaller
from segmentarium.matting.matte import Matte, as_bytes
from segmentarium.media.sources import VIDEO_SUFFIXES, holds_clip

BLUR = 2.0  # default strength: standard deviation in per cent of the picture's longer side


@dataclass(frozen=True)
class Blur:
    """The picture's own background, out of focus.  strength: standard deviation in per cent of the longer side."""

    strength: float = BLUR


@dataclass(frozen=True)
class Transparent:
    """Nothing: pictures become RGBA, clips get an alpha channel."""


@dataclass(frozen=True)
class Colour:
    """One colour, RGB 0..255."""

    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Picture:
    """An image (H, W, 3) uint8, scaled to cover the frame and cut at its centre."""

    pixels: np.ndarray


@dataclass(frozen=True)
class Clip:
    """A video file, scaled to cover the frame and repeated for as long as it takes."""

    path: Path


Background = Blur | Transparent | Colour | Picture | Clip
BackgroundLike = str | os.PathLike[str] | Sequence[int] | np.ndarray | Image.Image | Background


def parse_background(given: BackgroundLike) -> Background:
    """"blur", "blur:STRENGTH", "transparent", a colour ("green", "#20c040", (32, 192, 64)), an image or a video.

    Images are files, arrays (H, W, 3) or PIL images.  ValueError for what is none of these, ImageReadError for a damaged file.
    """  # fmt: skip
    if isinstance(given, Blur | Transparent | Colour | Picture | Clip):
        return given
    if isinstance(given, Image.Image):
        return Picture(np.asarray(given.convert("RGB")))
    if isinstance(given, np.ndarray) and given.ndim == 3:
        from segmentarium.media.sources import to_array

        return Picture(to_array(given)[..., :3])
    if isinstance(given, str | os.PathLike):
        return _parse_text(os.fspath(given))
    values = tuple(given)
    if len(values) != 3 or not all(0 <= int(value) <= 255 for value in values):
        raise ValueError(f"background is {given!r}; a colour has three values from 0 to 255")
    return Colour((int(values[0]), int(values[1]), int(values[2])))


def _parse_text(text: str) -> Background:
    word, _, strength = text.partition(":")
    if word == "blur":
        try:
            value = float(strength) if strength else BLUR
        except ValueError:
            value = 0.0
        if not 0 < value <= 20:
            raise ValueError(f"background is {text!r}; the strength of a blur is a number above 0, up to 20 (per cent)")
        return Blur(value)
    if text == "transparent":
        return Transparent()
    path = Path(text)
    if path.is_file():
        if holds_clip(path):
            return Clip(path)
        return Picture(np.asarray(read_image(path)))
    if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        raise FileNotFoundError(f"background {text} does not exist")
    try:
        return Colour(colour_of(text))
    except ValueError:
        raise ValueError(
            f"background is {text!r}; give blur, blur:STRENGTH, transparent, a colour (green, #20c040), "
            "or the path of an image or a video"
        ) from None


def colour_of(text: str) -> tuple[int, int, int]:
    """RGB 0..255 of a name (green), #20c040, rgb(…) or hsl(…).  ValueError for what is none, or lies outside."""
    red, green, blue, *_ = ImageColor.getrgb(text)
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"{text!r} is no colour: its red, green and blue are {red}, {green}, {blue}")
    return red, green, blue


def covering_box(given: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the central part of a picture of `given` (width, height) that has the shape of `size`."""
    factor = min(given[0] / size[0], given[1] / size[1])
    width, height = size[0] * factor, size[1] * factor
    left, top = (given[0] - width) / 2, (given[1] - height) / 2
    return left, top, left + width, top + height


def blurred(guide: np.ndarray, alpha: np.ndarray, strength: float) -> np.ndarray:
    """The background of a small picture, out of focus and without the person in it: (C, h, w) uint8.

    guide     (C, h, w) float32, 0..1
    alpha     (h, w) float32, 0..1: where the person is
    strength  standard deviation in hundredths of the longer side

    Pixels count by how little they belong to the person, so that nobody bleeds a halo into what is behind; under the
    person the surroundings go on.
    """
    side = max(guide.shape[1:])
    deviation = strength / 100 * side
    # never more than needed: a blur of 2.5 pixels looks the same at any size of the guide
    shrink = max(1, int(deviation / 2.5))
    planes = np.concatenate((guide, alpha[None]))
    if shrink > 1:
        planes = smaller(planes, shrink)
    weight = (1 - planes[-1]) ** 2
    weighted = np.concatenate((planes[:-1] * weight, weight[None]))
    # under a person who fills most of the picture: the mean of all that there is
    mean = weighted[:-1].mean((1, 2), keepdims=True) / max(float(weighted[-1].mean()), 1e-6)
    radius = max(1, round(deviation / shrink))  # three boxes of radius r have the deviation sqrt(r (r + 1))
    for _ in range(3):
        weighted = box(weighted, radius)
    result = (weighted[:-1] + np.float32(1e-4) * mean) / (weighted[-1] + np.float32(1e-4))
    return as_bytes(result.clip(0, 1))


class Rows:
    """The background of a picture of `size` (H, W), in rows.  Of `Transparent` and `Clip` there are none."""

    def __init__(self, background: Background, matte: Matte) -> None:
        height, width = self._size = matte.size
        self._colour = background.rgb if isinstance(background, Colour) else None
        self._image: Image.Image | None = None
        if isinstance(background, Blur):
            small = blurred(matte.guide, matte.small, background.strength)
            self._image = Image.fromarray(np.ascontiguousarray(small.transpose(1, 2, 0)))
            self._box = (0.0, 0.0, float(self._image.width), float(self._image.height))
            self._filter = Image.Resampling.BICUBIC
        elif isinstance(background, Picture):
            self._image = Image.fromarray(np.ascontiguousarray(background.pixels))
            self._box = covering_box(self._image.size, (width, height))
            self._filter = Image.Resampling.BICUBIC
        elif self._colour is None:
            raise ValueError(f"a {type(background).__name__.lower()} background has no rows of colours")

    def rows(self, top: int, bottom: int) -> np.ndarray | tuple[int, int, int]:
        """(bottom - top, W, 3) uint8, or one colour for all."""
        if self._image is None:
            assert self._colour is not None
            return self._colour
        height, width = self._size
        left, upper, right, lower = self._box
        scale = (lower - upper) / height
        part = (left, upper + top * scale, right, min(upper + bottom * scale, self._image.height))
        return np.asarray(self._image.resize((width, bottom - top), self._filter, box=part))
