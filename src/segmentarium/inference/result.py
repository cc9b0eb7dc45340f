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

from segmentarium.files import atomic_write, check_targets, png_bytes
from segmentarium.inference import drawing
from segmentarium.inference.polygons import (
    SMALLEST,
    TOLERANCE,
    Piece,
    Polygon,
    labelme_content,
    polygons_of,
    yolo_lines,
)
from segmentarium.matting.finder import no_foreground
from segmentarium.media.showing import Shown
from segmentarium.rle import encode, patch

# kind of output -> how its file ends
ENDINGS = {
    "overlay": "_overlay.png",
    "mask": "_mask.png",
    "cutout": "_cutout.png",
    "json": ".json",
    "coco": "_coco.json",
    "yolo": ".txt",
    "labelme": "_labelme.json",
}
KINDS = tuple(ENDINGS)
OF_FRAMES = ("overlay", "mask", "cutout", "json")  # what videos, and files that are read in rows, have of these
# of one file, where `save` is given that
FILE_SUFFIXES = (".png", ".json", ".txt", ".jpg", ".jpeg", ".webp", ".tif", ".bmp")
RGB = tuple[int, int, int]


@dataclass(repr=False)
class Result(Shown):
    """One picture and what the model sees in it.

    image          (H, W, 3) uint8 RGB
    mask           (H, W) class index of every pixel: uint8, or int64 for more than 256 classes
    alpha          (H, W) uint8, how far each pixel belongs to the foreground class; None: the model has no foreground
    probabilities  (K, H, W) float16, only where they were asked for
    facts          model, engine, tile, seconds: they go into the JSON
    own_alpha      (H, W) uint8 of a picture that is partly transparent itself, whose cut-outs are so, too; None: it is not
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
    own_alpha: np.ndarray | None = None

    def told(self) -> str:
        height, width = self.mask.shape
        largest = sorted(self.areas.items(), key=lambda one: -one[1])[:3]
        parts = ", ".join(f"{name} {share:.0%}" for name, share in largest if share)
        return f"{self.name!r}, {width}×{height}, {len(self.classes)} classes: {parts}"

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
        """RGBA: the picture with everything but the foreground transparent, by a matte that follows the picture's edges.

        What was erased in the picture stays so.
        """
        if self.alpha is None:
            raise ValueError(no_foreground(self.classes))
        from segmentarium.matting.cutout import cut_out

        return Image.fromarray(cut_out(self.image, self.alpha, self.own_alpha))

    def as_dict(self) -> dict[str, Any]:
        """What the JSON file holds."""
        height, width = self.mask.shape
        return description(self.name, self.path, (width, height), self.classes, self.palette, self.areas, self.facts)

    def pieces(self) -> list[Piece]:
        """The mask of each class that occurs, but of the background: class 0 where there is a foreground, or it is called so."""
        found = []
        for index in np.unique(self.mask).tolist():
            behind = index == 0 and (self.alpha is not None or self.classes[0].lower() == "background")
            if index < len(self.classes) and not behind:
                found.append(Piece(index, patch(self.mask == index)))
        return found

    def polygons(self, tolerance: float = TOLERANCE, smallest: int = SMALLEST) -> list[Polygon]:
        """The masks as polygons, one for each connected piece of a class (not of the background), or of a segment.

        tolerance  pixels that a polygon may be off the mask; 0: exactly its pixels
        smallest   pixels of a piece that gets one
        """
        return polygons_of(self.pieces(), self.classes, tolerance, smallest)

    def coco(self) -> dict[str, Any]:
        """The classes in COCO's form, one annotation each, masks as compressed runs; categories are numbered from 1."""
        height, width = self.mask.shape
        annotations = []
        for number, piece in enumerate(self.pieces(), 1):
            one, (tall, wide) = piece.patch, piece.patch.mask.shape
            told = {"id": number, "image_id": 1, "category_id": piece.index + 1, "iscrowd": 0}
            told |= {"segmentation": encode(one.full(height, width)), "area": int(one.mask.sum())}
            annotations.append(told | {"bbox": [one.left, one.top, wide, tall]})
        image = {"id": 1, "file_name": self.path.name if self.path else self.name, "height": height, "width": width}
        categories = [{"id": i, "name": label} for i, label in enumerate(self.classes, 1)]
        return {"images": [image], "annotations": annotations, "categories": categories}

    def yolo(self, tolerance: float = TOLERANCE, smallest: int = SMALLEST) -> str:
        """The polygons as lines of YOLO's segmentation: class, x, y, x, y, … in shares of the picture."""
        return yolo_lines(self.polygons(tolerance, smallest), self.mask.shape)

    def labelme(
        self, folder: str | Path | None = None, tolerance: float = TOLERANCE, smallest: int = SMALLEST
    ) -> dict[str, Any]:
        """The polygons as labelme's JSON; `folder`: where it will lie, from which it names the picture."""
        place = None if folder is None else Path(folder)
        return labelme_content(self.polygons(tolerance, smallest), self.mask.shape, self.path, place)

    def to_supervision(self) -> Any:
        """The classes that occur as `supervision.Detections`, one each.  ImportError where that package is not installed."""
        pieces, size = self.pieces(), self.mask.shape
        masks = [one.patch.full(*size) for one in pieces]
        return detections(masks, [one.index for one in pieces], self.classes)

    def encoded(self, kind: str, folder: Path | None = None) -> bytes:
        """The bytes of the file of one kind (see `save`)."""
        if kind in ("json", "coco", "labelme"):
            told = self.labelme(folder) if kind == "labelme" else self.as_dict() if kind == "json" else self.coco()
            return json.dumps(told, indent=1).encode()
        if kind == "yolo":
            return self.yolo().encode()
        picture = {"overlay": "overlay", "mask": "index_image", "cutout": "cutout"}[kind]
        return png_bytes(getattr(self, picture))

    def save(
        self,
        folder: str | Path,
        kinds: Sequence[str] | None = None,
        *,
        name: str | None = None,
        overwrite: bool = False,
    ) -> list[Path]:
        """Writes NAME_overlay.png, NAME_mask.png, NAME_cutout.png, NAME.json, NAME_coco.json, NAME_labelme.json, and
        NAME.txt (YOLO's) into `folder`, each whole or not at all; the files are returned.

        folder     or the one file to be written, with its suffix: then of the one kind that is given, else the overlay
        kinds      of "overlay", "mask", "cutout", "json", "coco", "yolo", "labelme"; None: overlay, mask, json
        name       instead of the source's own
        overwrite  files that are there are replaced; else FileExistsError is raised and nothing written
        """
        as_file = Path(folder).suffix.lower() in FILE_SUFFIXES
        kinds = kinds or (("overlay",) if as_file else ("overlay", "mask", "json"))
        check_kinds(kinds)
        if as_file:
            paths = {one_kind(folder, kinds): Path(folder)}
            check_targets(paths.values(), [self.path], overwrite=overwrite)
        else:
            paths = check_files(folder, name or self.name, kinds, self.path, overwrite=overwrite)
        for kind, path in paths.items():
            with atomic_write(path) as temporary:
                temporary.write_bytes(self.encoded(kind, path.parent))
        return list(paths.values())


def one_kind(file: str | Path, kinds: Sequence[str]) -> str:
    """The one kind of output that goes into a file.  ValueError for several, and for a suffix that is of another kind."""
    if len(kinds) != 1 or Path(file).suffix.lower() != Path(f"x{ENDINGS[kinds[0]]}").suffix:
        raise ValueError(
            f"{file} is one file, and kinds are {', '.join(kinds)}; give a folder, or one kind of that suffix"
        )
    return kinds[0]


def detections(masks: Sequence[np.ndarray], labels: Sequence[int], classes: Sequence[str], **more: np.ndarray) -> Any:
    """`supervision.Detections` of masks bool (H, W).  ImportError where that package is not installed."""
    try:
        import supervision  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError("to_supervision needs the package supervision: pip install supervision") from None
    boxes = []
    for mask in masks:
        one = patch(mask)
        boxes.append((one.left, one.top, one.left + one.mask.shape[1], one.top + one.mask.shape[0]))
    return supervision.Detections(
        xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        mask=np.stack(masks) if masks else np.zeros((0, 0, 0), bool),
        class_id=np.array(labels, int),
        data={"class_name": np.array([classes[label] for label in labels], dtype=str)},
        **more,
    )


def check_files(
    folder: str | Path, name: str, kinds: Sequence[str], source: Path | None, *, overwrite: bool = False
) -> dict[str, Path]:
    """Kind -> file of a picture's results.  FileExistsError where one is there, or is the source, unless `overwrite`."""
    paths = {kind: Path(folder) / f"{name}{ENDINGS[kind]}" for kind in kinds}
    check_targets(paths.values(), [source], overwrite=overwrite)
    return paths


def check_kinds(kinds: Sequence[str], known: Sequence[str] = KINDS) -> None:
    """Raises ValueError for a kind of output that is none of the `known`."""
    if isinstance(kinds, str) or not kinds or (unknown := sorted(set(kinds) - set(known))):
        shown = kinds if isinstance(kinds, str) or not kinds else ", ".join(unknown)
        raise ValueError(f"kinds: {shown!r} is not a list of known kinds; give some of {', '.join(known)}")


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
