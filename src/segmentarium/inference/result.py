"""What prediction gives back: the classes of every pixel, and pictures and files made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segmentarium.files import atomic_write, check_targets
from segmentarium.inference import drawing
from segmentarium.matting.finder import no_foreground

KINDS = ("overlay", "mask", "cutout", "json")
RGB = tuple[int, int, int]


@dataclass
class Result:
    """One picture and what the model sees in it.

    image          (H, W, 3) uint8 RGB
    mask           (H, W) class index of every pixel: uint8, or int64 for more than 256 classes
    alpha          (H, W) uint8, how far each pixel belongs to the foreground class; None: the model has no foreground
    probabilities  (K, H, W) float16, only where they were asked for
    facts          model, engine, tile, seconds: they go into the JSON
    """

    image: np.ndarray
    mask: np.ndarray
    classes: tuple[str, ...]
    palette: tuple[RGB, ...]
    name: str = "image"
    path: Path | None = None
    alpha: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def areas(self) -> dict[str, float]:
        """Class name -> share of the picture, 0..1."""
        return drawing.shares_of(self.mask, self.classes)

    @property
    def overlay(self) -> Image.Image:
        """The picture with the classes' colours, contours and a legend."""
        return Image.fromarray(drawing.overlay(self.image, self.mask, self.classes, self.palette))

    @property
    def index_image(self) -> Image.Image:
        """The mask as an image of mode P: class indices with the classes' colours as palette."""
        return index_image(self.mask, self.palette)

    @property
    def cutout(self) -> Image.Image:
        """RGBA: the picture with everything but the foreground transparent, by a matte that follows the picture's edges."""
        if self.alpha is None:
            raise ValueError(no_foreground(self.classes))
        from segmentarium.matting.cutout import cut_out

        return Image.fromarray(cut_out(self.image, self.alpha))

    def as_dict(self) -> dict[str, Any]:
        """What the JSON file holds."""
        height, width = self.mask.shape
        return description(self.name, self.path, (width, height), self.classes, self.palette, self.areas, self.facts)

    def save(
        self,
        folder: str | Path,
        kinds: Sequence[str] = ("overlay", "mask", "json"),
        *,
        name: str | None = None,
        overwrite: bool = False,
    ) -> list[Path]:
        """Writes NAME_overlay.png, NAME_mask.png, NAME_cutout.png, NAME.json into `folder`, each whole or not at all.

        kinds      of "overlay", "mask", "cutout", "json"
        name       instead of the source's own
        overwrite  files that are there are replaced; else FileExistsError is raised and nothing written
        """
        check_kinds(kinds)
        paths = check_files(folder, name or self.name, kinds, self.path, overwrite=overwrite)
        pictures = {"overlay": lambda: self.overlay, "mask": lambda: self.index_image, "cutout": lambda: self.cutout}
        for kind, path in paths.items():
            content = pictures[kind]() if kind in pictures else json.dumps(self.as_dict(), indent=1)
            with atomic_write(path) as temporary:
                if isinstance(content, Image.Image):
                    content.save(temporary, format="PNG", compress_level=3)
                else:
                    temporary.write_text(content, encoding="utf-8")
        return list(paths.values())


def check_files(
    folder: str | Path, name: str, kinds: Sequence[str], source: Path | None, *, overwrite: bool = False
) -> dict[str, Path]:
    """Kind -> file of a picture's results.  FileExistsError where one is there, or is the source, unless `overwrite`."""
    paths = {k: Path(folder) / (f"{name}.json" if k == "json" else f"{name}_{k}.png") for k in kinds}
    check_targets(paths.values(), [source], overwrite=overwrite)
    return paths


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises ValueError for a kind of output that does not exist."""
    if isinstance(kinds, str) or not kinds or (unknown := sorted(set(kinds) - set(KINDS))):
        shown = kinds if isinstance(kinds, str) or not kinds else ", ".join(unknown)
        raise ValueError(f"kinds: {shown!r} is not a list of known kinds; give some of {', '.join(KINDS)}")


def index_image(mask: np.ndarray, palette: Sequence[RGB]) -> Image.Image:
    """Class indices (H, W) as mode P with the palette; more than 256 classes as 16-bit grey without one."""
    if mask.dtype != np.uint8 and (mask.max(initial=0) > 255 or len(palette) > 256):
        return Image.fromarray(mask.astype(np.uint16))
    picture = Image.fromarray(mask.astype(np.uint8))
    if mask.max(initial=0) >= len(palette):
        # Pillow writes as few bits as the palette needs, and would cut larger values.
        palette = [*palette, *[(0, 0, 0)] * (256 - len(palette))]
    picture.putpalette([value for colour in palette for value in colour])
    return picture


def description(
    name: str,
    path: Path | None,
    size: tuple[int, int],
    classes: Sequence[str],
    palette: Sequence[RGB],
    areas: dict[str, float],
    facts: dict[str, Any],
) -> dict[str, Any]:
    return {
        "name": name,
        "source": str(path) if path else None,
        "width": size[0],
        "height": size[1],
        "classes": [
            {"index": i, "name": label, "colour": list(palette[i]) if i < len(palette) else None, "share": areas[label]}
            for i, label in enumerate(classes)
        ],
        **facts,
    }
