"""`KeypointFinder`: the points of a picture and their descriptors, by one network on any engine, whatever the picture's size."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segmentarium.contracts import KeypointModel, Keypoints
from segmentarium.contracts.point_kinds import between_pixels
from segmentarium.inference.network import Network, with_channels
from segmentarium.inference.point_drawing import draw_points
from segmentarium.inference.point_files import PointResult
from segmentarium.inference.predictor import ModelSource, resolve_model
from segmentarium.media import sources
from segmentarium.media.sources import displayed

WHOLE = 2**21  # pixels, beyond which a picture is computed in tiles
TILE = 1024
REACH = 64  # pixels around a pixel that its score depends on, rounded up to whole cells; of a VGG of four stages 53


@dataclass(repr=False)
class FoundPoints(PointResult):
    """One picture and its points.

    image      (H, W, 3) uint8 RGB
    keypoints  best first, pixel centres at whole numbers, on the processor
    facts      model, engine, seconds, and a note where there is no point: they go into the JSON
    """

    endings: ClassVar = {"overlay": "_points.png", "json": ".json", "npz": ".npz"}

    image: np.ndarray
    keypoints: Keypoints
    name: str = "image"
    path: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def told(self) -> str:
        height, width = self.image.shape[:2]
        return f"{self.name!r}, {width}×{height}, {len(self.keypoints)} points"

    @property
    def overlay(self) -> Image.Image:
        """The picture with a ring at each point, green for the best."""
        points, scores = self.keypoints.keypoints, self.keypoints.keypoint_scores
        return Image.fromarray(draw_points(self.image, points.numpy(), scores.numpy()))

    def to_lightglue(self) -> dict[str, Tensor]:
        """What a LightGlue matcher takes for this picture."""
        return self.keypoints.to_lightglue()

    def as_dict(self) -> dict[str, Any]:
        """What the JSON file holds: places and scores.  Descriptors stand in the .npz."""
        height, width = self.image.shape[:2]
        return {
            "name": self.name,
            "source": str(self.path) if self.path else None,
            "width": width,
            "height": height,
            "count": len(self.keypoints),
            "keypoints": [[round(value, 3) for value in point] for point in self.keypoints.keypoints.tolist()],
            "scores": [round(value, 6) for value in self.keypoints.keypoint_scores.tolist()],
            **self.facts,
        }

    def made_of(self) -> tuple[Path | None, ...]:
        return (self.path,)

    def encoded(self, kind: str) -> bytes:
        """PNG; JSON in one line; keypoints, keypoint_scores, descriptors and image_size as .npz."""
        if kind == "json":
            return json.dumps(self.as_dict()).encode()
        if kind != "npz":
            return super().encoded(kind)
        file = io.BytesIO()
        np.savez_compressed(file, **{key: value.numpy() for key, value in vars(self.keypoints).items()})
        return file.getvalue()


class KeypointFinder:
    """Finds points with one model.

        finder = KeypointFinder("superpoint.free", count=2048)
        finder(picture).keypoints

    model       a name of the catalogue, a file, a folder, "hf:OWNER/NAME", or a model with scores and descriptors
    engine      "torch", "compile", "onnxruntime", "openvino", or "auto": the fastest that is installed and finds the points
                that eager PyTorch finds
    precision   "fp32" or "bf16"; with "auto" the engine decides
    count       the best so many points; None: all above the threshold
    threshold, radius, border   in place of the model's own
    subpixel    places between the pixels
    tile        largest side of a tile, in pixels; pictures of more than 2 megapixels are computed in tiles, with the same result
                and memory that does not grow with them

    Raises TypeError for a model that gives no such points.
    """

    gives = FoundPoints

    def __init__(
        self,
        model: ModelSource,
        *,
        engine: str = "torch",
        precision: str = "fp32",
        device: torch.device | str | None = None,
        count: int | None = 2048,
        threshold: float | None = None,
        radius: int | None = None,
        border: int | None = None,
        subpixel: bool = False,
        tile: int = TILE,
    ) -> None:
        found = resolve_model(model)
        self.model_name = str(model) if isinstance(model, str | PathLike) else found.title
        if not isinstance(found, KeypointModel) or found.joints:
            raise TypeError(
                f"{self.model_name} is a {found.kind}{' of joints' if found.kind == 'keypoints' else ''}: it gives no points "
                "with descriptors; give one such as superpoint"
            )
        if count is not None and count < 1:
            raise ValueError(f"count is {count}; give how many points are wanted, 1 or more, or None")
        if tile < 256:
            raise ValueError(f"tile is {tile}; give 256 pixels or more")
        self.model = found
        self.network = Network(found, engine, precision, device)
        self.count, self.subpixel, self.tile = count, subpixel, tile // found.stride * found.stride
        self.options = {"threshold": threshold, "radius": radius, "border": border}

    def __call__(self, image: Any, *, name: str = "image", path: Any = None) -> FoundPoints:
        """The points of one picture: PIL image, (H, W), (H, W, 3 or 4) array, or (C, H, W) tensor; path: read it."""
        if isinstance(image, str | PathLike):
            image, name, path = sources.read_one(image)
        started = time.perf_counter()
        array = sources.to_array(image)
        keypoints = self.find(array)
        facts = self.facts(time.perf_counter() - started)
        if not len(keypoints):
            flat = array.max() == array.min()
            facts["note"] = "no point: the picture is blank" if flat else "no point scores above the threshold"
        return FoundPoints(displayed(array), keypoints, name, path, facts)

    def facts(self, seconds: float) -> dict[str, Any]:
        """What the JSON says of how the points were found."""
        return {"model": self.model_name, "engine": str(self.network.engine), "seconds": round(seconds, 4)}

    @torch.inference_mode()
    def find(self, array: np.ndarray) -> Keypoints:
        """(H, W, C) uint8 -> its keypoints, on the processor."""
        height, width = array.shape[:2]
        size, stride = torch.tensor((width, height)), self.model.stride
        cells = (width // stride, height // stride)
        if not min(cells) or array.max() == array.min():  # a blank picture's scores are rounding alone
            return Keypoints(torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, 0), size)
        parts = [self._part(array, rows, columns, cells) for rows, columns in self._tiles(height, width)]
        points, scores, descriptors = (torch.cat(kind) for kind in zip(*parts, strict=True))
        best = scores.argsort(descending=True, stable=True)[: self.count]
        return Keypoints(points[best].cpu(), scores[best].cpu(), descriptors[best].cpu(), size)

    def _tiles(self, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        """The pictures' parts that are looked at one by one: rows and columns."""
        side = max(height, width) if height * width <= WHOLE else self.tile
        for top in range(0, height, side):
            for left in range(0, width, side):
                yield slice(top, min(top + side, height)), slice(left, min(left + side, width))

    def _part(
        self, array: np.ndarray, rows: slice, columns: slice, cells: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Points, scores and descriptors of the points that lie in these rows and columns."""
        model, stride = self.model, self.model.stride
        radius = model.radius if self.options["radius"] is None else self.options["radius"]
        # a point depends on what its score does, and on whom suppression in three rounds reaches
        margin = REACH + -(-int(5 * radius + stride) // stride) * stride
        top, left = max(0, rows.start - margin), max(0, columns.start - margin)
        seen = array[top : rows.stop + margin, left : columns.stop + margin]
        pixels = with_channels(torch.from_numpy(np.array(seen)).permute(2, 0, 1)[None], model.in_channels)
        scores, dense = self.network.outputs(pixels)
        peaks = model.peaks(scores, **self.options)[0]
        peaks[: rows.start - top] = False
        peaks[rows.stop - top :] = False
        peaks[:, : columns.start - left] = False
        peaks[:, columns.stop - left :] = False
        y, x = peaks.nonzero(as_tuple=True)
        found = scores[0, y, x]
        if self.count is not None and len(found) > self.count:
            found, best = found.topk(self.count)
            x, y = x[best], y[best]
        points = torch.stack((x, y), 1)
        places = between_pixels(scores[0], points) if self.subpixel else points.float()
        descriptors = model.sample(dense, places[None], first=(left // stride, top // stride), cells=cells)[0]
        return places + places.new_tensor((left, top)), found, descriptors
