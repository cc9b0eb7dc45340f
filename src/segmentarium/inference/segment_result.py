"""The result of a picture whose segments are told apart, and the pictures and files made of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segmentarium.files import atomic_write, check_targets, write_png
from segmentarium.inference.polygons import Piece
from segmentarium.inference.result import ENDINGS, FILE_SUFFIXES, Result, check_kinds, detections
from segmentarium.inference.segment_drawing import segment_overlay
from segmentarium.inference.segment_map import FoundSegment, SegmentMap, bands
from segmentarium.matting.cutout import still_erased
from segmentarium.media.png import PngWriter
from segmentarium.rle import encode

KINDS = ("overlay", "mask", "json", "coco", "yolo", "labelme", "panoptic", "cutouts")
MARGIN = 4  # pixels around a cut-out segment


@dataclass(repr=False)
class SegmentResult(Result):
    """One picture and its segments.

    segments   the map of numbers and what each is: class, score, area, box
    things     classes whose segments are told apart, by index

    `mask` is the class of every pixel, and 255 where it has no segment.
    """

    segments: SegmentMap = field(default_factory=lambda: SegmentMap(np.zeros((0, 0), np.int32), ()))
    things: tuple[int, ...] = ()

    def told(self) -> str:
        height, width = self.mask.shape
        counts = Counter(self.classes[one.label] for one in self.segments.segments).most_common(3)
        parts = ", ".join(f"{count} {name}" for name, count in counts) or "none"
        return f"{self.name!r}, {width}×{height}, {len(self.segments)} segments: {parts}"

    @property
    def overlay(self) -> Image.Image:
        """The picture with every segment in a colour, its contour, and names and scores of the larger ones."""
        return Image.fromarray(segment_overlay(self.image, self.segments, self.classes, self.palette, self.things))

    def cut_out(self, segment: FoundSegment) -> Image.Image:
        """RGBA: what lies in a segment's box and a little around it, with everything but the segment transparent.

        What was erased in the picture stays so.
        """
        height, width = self.image.shape[:2]
        left, top, right, bottom = segment.box
        top, left = max(0, top - MARGIN), max(0, left - MARGIN)
        bottom, right = min(height, bottom + MARGIN), min(width, right + MARGIN)
        own = self.segments.mask(segment)
        alpha = np.zeros((bottom - top, right - left), np.uint8)
        rows, columns = own.where
        alpha[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = 255 * own.mask
        alpha = still_erased(alpha, self.own_alpha, top, left)
        return Image.fromarray(np.dstack((self.image[top:bottom, left:right], alpha)))

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"segments": segment_list(self.segments, self.classes)}

    def coco(self) -> dict[str, Any]:
        """The segments in COCO's form, masks as compressed runs, with scores; categories are numbered from 1."""
        return coco_content(self.segments, self.name, self.path, self.classes, self.things)

    def panoptic(self) -> dict[str, Any]:
        """What COCO's panoptic JSON holds; its PNG has the numbers, R + 256 G + 65536 B a pixel."""
        return panoptic_content(self.segments, self.name, self.path, self.classes, self.palette, self.things)

    def to_supervision(self) -> Any:
        """The segments as `supervision.Detections`.  ImportError where that package is not installed."""
        segments, size = self.segments.segments, self.segments.ids.shape
        return detections(
            [self.segments.mask(one).full(*size) for one in segments],
            [one.label for one in segments],
            self.classes,
            confidence=np.array([one.score for one in segments], np.float32),
            tracker_id=np.array([one.id for one in segments], int),
        )

    def pieces(self) -> list[Piece]:
        """The mask of each segment."""
        return [Piece(one.label, self.segments.mask(one), one.id, one.score) for one in self.segments.segments]

    def save(
        self,
        folder: str | Path,
        kinds: Sequence[str] | None = None,
        *,
        name: str | None = None,
        overwrite: bool = False,
    ) -> list[Path]:
        """Writes files into `folder`, each whole or not at all: NAME_overlay.png, NAME_mask.png, NAME.json;

        coco      NAME_coco.json, masks as runs
        yolo      NAME.txt, a line a polygon; labelme: NAME_labelme.json
        panoptic  NAME_panoptic.png and NAME_panoptic.json
        cutouts   NAME_cutouts/NUMBER_CLASS.png, one a segment

        folder     or the one file of one kind that has its suffix, as of `Result.save`
        kinds      of "overlay", "mask", "json", "coco", "yolo", "labelme", "panoptic", "cutouts"; None: overlay, mask, json
        name       instead of the source's own
        overwrite  files that are there are replaced; else FileExistsError is raised and nothing written
        """
        if Path(folder).suffix.lower() in FILE_SUFFIXES:
            return super().save(folder, kinds, name=name, overwrite=overwrite)
        kinds = kinds or ("overlay", "mask", "json")
        check_segment_kinds(kinds)
        paths = segment_files(folder, name or self.name, kinds)
        cutouts = {}
        if "cutouts" in kinds:
            place = paths.pop("cutouts")
            cutouts = {
                place / f"{one.id:04d}_{_word(self.classes[one.label])}.png": one for one in self.segments.segments
            }
        check_targets([*paths.values(), *cutouts], [self.path], overwrite=overwrite)
        for kind, path in paths.items():
            with atomic_write(path) as temporary:
                if kind == "panoptic":
                    temporary.write_text(json.dumps(self.panoptic(), indent=1), encoding="utf-8")
                elif kind == "map":
                    write_numbers(temporary, self.segments.ids)
                else:
                    temporary.write_bytes(self.encoded(kind, path.parent))
        for path, one in cutouts.items():
            write_png(path, self.cut_out(one), compress_level=3)
        return [*paths.values(), *cutouts]


def segment_files(folder: str | Path, name: str, kinds: Sequence[str]) -> dict[str, Path]:
    """Kind -> file (of "cutouts" a folder) of a picture's results; "map" is the PNG beside the JSON of "panoptic"."""
    endings = ENDINGS | {"panoptic": "_panoptic.json", "map": "_panoptic.png", "cutouts": "_cutouts"}
    wanted = [kind for kind in endings if kind in kinds or (kind == "map" and "panoptic" in kinds)]
    return {kind: Path(folder) / f"{name}{endings[kind]}" for kind in wanted}


def check_segment_kinds(kinds: Sequence[str]) -> None:
    """Raises ValueError for a kind of output that segments do not have."""
    check_kinds(kinds, KINDS)


def segment_list(found: SegmentMap, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The segments as plain data."""
    return [
        {
            "number": one.id,
            "class": classes[one.label],
            "index": one.label,
            "score": round(one.score, 6),
            "area": one.area,
            "box": list(one.box),
        }
        for one in found.segments
    ]


def coco_content(
    found: SegmentMap, name: str, path: Path | None, classes: Sequence[str], things: Sequence[int]
) -> dict[str, Any]:
    """See `SegmentResult.coco`."""
    height, width = found.ids.shape
    annotations = []
    for one in found.segments:
        left, top, right, bottom = one.box
        annotations.append(
            {
                "id": one.id,
                "image_id": 1,
                "category_id": one.label + 1,
                "iscrowd": 0,
                "segmentation": encode(found.mask(one).full(height, width)),
                "area": one.area,
                "bbox": [left, top, right - left, bottom - top],
                "score": round(one.score, 6),
            }
        )
    image = {"id": 1, "file_name": path.name if path else name, "height": height, "width": width}
    categories = [{"id": i, "name": label, "isthing": int(i - 1 in things)} for i, label in enumerate(classes, 1)]
    return {"images": [image], "annotations": annotations, "categories": categories}


def panoptic_content(
    found: SegmentMap,
    name: str,
    path: Path | None,
    classes: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    things: Sequence[int],
) -> dict[str, Any]:
    """See `SegmentResult.panoptic`."""
    height, width = found.ids.shape
    listed = []
    for one in found.segments:
        left, top, right, bottom = one.box
        entry = {"id": one.id, "category_id": one.label + 1, "iscrowd": 0, "area": one.area}
        listed.append(entry | {"bbox": [left, top, right - left, bottom - top], "score": round(one.score, 6)})
    categories = [
        {"id": i, "name": label, "isthing": int(i - 1 in things), "color": list(palette[i - 1])}
        for i, label in enumerate(classes, 1)
    ]
    image = {"id": 1, "file_name": path.name if path else f"{Path(name).name}.png", "height": height, "width": width}
    annotation = {"image_id": 1, "file_name": f"{Path(name).name}_panoptic.png", "segments_info": listed}
    return {"images": [image], "annotations": [annotation], "categories": categories}


def write_numbers(path: Path, ids: np.ndarray) -> None:
    """A PNG of numbers (H, W), R + 256 G + 65536 B, in bands of rows."""
    with PngWriter(path, ids.shape[1], ids.shape[0], "RGB") as file:
        for _, band in bands(ids):
            file.write(numbers_as_colours(band))


def numbers_as_colours(ids: np.ndarray) -> np.ndarray:
    """Numbers (H, W) -> uint8 (H, W, 3): R + 256 G + 65536 B."""
    return np.stack((ids & 255, ids >> 8 & 255, ids >> 16 & 255), 2).astype(np.uint8)


def _word(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)[:40]
