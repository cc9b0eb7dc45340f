"""`SegmentPredictor`: a network that tells segments apart, a mask classifier or a detector, on pictures of any size."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from os import PathLike
from typing import Any, Self, cast

import numpy as np
import torch

from segmentarium.checks import check_choice
from segmentarium.contracts import InstanceModel, InstanceSet, MaskModel, MaskSet, asked_task
from segmentarium.inference.network import segment_network, with_channels
from segmentarium.inference.predictor import WHOLE_LIMIT, ModelSource, Tile, resolve_model
from segmentarium.inference.segment_map import SegmentMap, of_instances, of_panoptic, painted_instances
from segmentarium.inference.segment_result import SegmentResult
from segmentarium.inference.stitching import Stitcher
from segmentarium.inference.tta import scaled
from segmentarium.inference.windows import Rows, grid, overlap_in_pixels, pad_to_smallest
from segmentarium.media import sources
from segmentarium.media.readers import ArrayRows
from segmentarium.media.sources import displayed, own_alpha

TOLD_APART = ("instance", "panoptic")
TILE = 1024
SURE = 0.5  # an instance's score from which on it is shown


class SegmentPredictor:
    """Tells the segments of pictures apart with one mask classifier or detector.

        predictor = SegmentPredictor("file.safetensors", task="instance")
        for segment in predictor(picture).segments: …

    model         a name of the catalogue, a file, a folder, "hf:OWNER/NAME", or a MaskModel or InstanceModel
    task          "instance": objects, which may overlap; "panoptic": every pixel to one segment at most; None: as the model says
                  (`MaskModel.task`), panoptic where it says "semantic".  A detector does the former alone
    threshold     score from which on an instance, or probability above which a query, counts; None: 0.5 and 0.8, as published
    mask_overlap  of "panoptic": share of its mask that a query must keep where masks compete
    count         of "instance": at most so many a picture; None: 100, of a detector as many as it gives
    engine        "torch", "compile", "onnxruntime", "openvino", or "auto": the fastest that agrees on the first picture; of a
                  detector "torch" or "compile"
    tile          largest side of a tile in pixels, None: always the whole picture, "auto": whole up to 2 megapixels.  Segments of
                  several tiles are joined
    overlap       of the tiles: pixels (int) or share of the tile (float)

    Models with `preprocessing.long_side` see the picture at that size.  Raises TypeError for a model that gives no masks.
    """

    foreground = None  # cut-outs are of each segment

    def __init__(
        self,
        model: ModelSource,
        *,
        task: str | None = None,
        threshold: float | None = None,
        mask_overlap: float = 0.8,
        count: int | None = None,
        engine: str = "torch",
        precision: str = "fp32",
        device: torch.device | str | None = None,
        tile: Tile = "auto",
        overlap: int | float = 0.25,
    ) -> None:
        check_choice("task", task, (*TOLD_APART, None))
        if isinstance(tile, str) and tile != "auto":
            raise ValueError(f'tile is {tile!r}; give a number of pixels, "auto" or None')
        for name, value in (("threshold", threshold), ("mask_overlap", mask_overlap)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; give a share from 0 to 1")
        overlap_in_pixels(tile if isinstance(tile, int) else TILE, overlap)
        found = resolve_model(model)
        self.model_name = str(model) if isinstance(model, str | PathLike) else found.title
        if not isinstance(found, MaskModel | InstanceModel):
            raise TypeError(f"{self.model_name} is a {found.kind}: it gives no masks, so it cannot tell segments apart")
        told = asked_task(found, task)
        self.model, self.task = found, "panoptic" if told == "semantic" else told
        self.classes, self.palette, self.things = found.classes, found.palette, found.things
        self.threshold = usual_threshold(self.task) if threshold is None else threshold
        self.mask_overlap, self.count = mask_overlap, count
        self.tile, self.overlap = tile, overlap
        self.network = segment_network(found, engine, precision, device)
        self.preprocessing = self.network.preprocessing

    @property
    def engine(self) -> str:
        """What computes, in words; "auto" before the first picture."""
        return "auto" if self.network.engine is None else str(self.network.engine)

    def asked(self, task: str, threshold: float | None = None) -> Self:
        """The same network, asked for another task."""
        check_choice("task", task, TOLD_APART)
        other = copy.copy(self)
        other.task, other.threshold = task, usual_threshold(task) if threshold is None else threshold
        return other

    def __call__(self, image: Any, *, name: str = "image", path: Any = None) -> SegmentResult:
        """The segments of one picture: PIL image, (H, W), (H, W, 3 or 4) array, or (C, H, W) tensor; path: read it."""
        if isinstance(image, str | PathLike):
            image, name, path = sources.read_one(image, self.preprocessing.bits)
        started = time.perf_counter()
        array = sources.to_array(image, self.preprocessing.bits)
        found = self.find(ArrayRows(array))
        return SegmentResult(
            displayed(array),
            found.label_map(len(self.classes)),
            self.classes,
            self.palette,
            name,
            path,
            facts=self.facts(time.perf_counter() - started),
            segments=found,
            things=self.things,
            own_alpha=own_alpha(array, path) if self.network.in_channels < 4 else None,
        )

    def facts(self, seconds: float) -> dict[str, Any]:
        """What the JSON says of how a picture was segmented."""
        return {
            "model": self.model_name,
            "task": self.task,
            "threshold": self.threshold,
            "engine": self.engine,
            "tile": self.tile,
            "seconds": round(seconds, 4),
        }

    def find(self, image: Rows, thumbnail: Callable[[int, int], np.ndarray] | None = None) -> SegmentMap:
        """The segments of a picture in rows, as they are in its own pixels.

        Overlapping instances keep their whole masks where the picture is seen whole; of tiles, only the map is kept.

        image      uint8 rows, of 1, 3 or 4 channels
        thumbnail  (width, height) -> (H, W, 3): shrinks the picture without reading `image`
        """
        size = (image.height, image.width)
        small = self.preprocessing.size_of(size)
        channels = self.network.in_channels
        if small != size:
            if thumbnail is not None:
                shrunk = ArrayRows(thumbnail(small[1], small[0])).rows(0, small[0])
            else:
                shrunk = image.rows(0, image.height)
            return self.read(
                self.network(pad_to_smallest(scaled(with_channels(shrunk, channels), small))), small, size
            )[0]
        tile = self._tile_for(*size)
        if tile is None:
            return self.read(
                self.network(pad_to_smallest(with_channels(image.rows(0, size[0]), channels))), size, size
            )[0]
        overlap = overlap_in_pixels(tile, self.overlap)
        (tops, tall), (lefts, wide) = grid(size[0], tile, overlap), grid(size[1], tile, overlap)
        stitcher = Stitcher(size, self.things if self.task == "panoptic" else None)
        for i, top in enumerate(tops):
            rows = with_channels(image.rows(top, top + tall), channels)
            above = tops[i - 1] + tall - top if i else 0
            for j, left in enumerate(lefts):
                before = lefts[j - 1] + wide - left if j else 0
                pixels = pad_to_smallest(rows[..., left : left + wide])
                (found,) = self.read(self.network(pixels), (tall, wide), (tall, wide))
                stitcher.add(top, left, found, above, before)
        return stitcher.finish()

    def read(self, found: MaskSet | InstanceSet, seen: tuple[int, int], size: tuple[int, int]) -> list[SegmentMap]:
        """Segments of each picture from its masks.

        seen   (H, W) of the picture as the network saw it, without what it was padded by
        size   (H, W) of the picture
        """
        if isinstance(found, InstanceSet):
            found = found.scaled(seen, size)
            return [self._of_boxes(found, picture, size) for picture in range(len(found.boxes))]
        height, width = (round(side * full / part) for side, full, part in zip(found.shape, size, seen, strict=True))
        found = found.at((height, width))  # with what was padded below and to the right
        if self.task == "instance":
            things = None if len(self.things) == len(self.classes) else self.things
            answers = found.instances(count=self.count or 100, things=things, threshold=self.threshold)
            return [of_instances(one, size) for one in answers]
        answers = found.panoptic(self.things, threshold=self.threshold, overlap=self.mask_overlap)
        return [of_panoptic(one, size) for one in answers]

    def _of_boxes(self, found: InstanceSet, picture: int, size: tuple[int, int]) -> SegmentMap:
        patches = found.patches(picture, size, threshold=self.threshold)
        return painted_instances([one for one in patches if one[0] in self.things][: self.count], size)

    def _tile_for(self, height: int, width: int) -> int | None:
        """The tile of a picture of this size; None: compute it whole."""
        if self.tile == "auto":
            return TILE if height * width > WHOLE_LIMIT else None
        tile = cast("int | None", self.tile)
        return None if tile is None or max(height, width) <= tile else tile


def usual_threshold(task: str) -> float:
    """From which score on segments count, as published."""
    return SURE if task == "instance" else 0.8
