"""Pictures with points, as homographic adaptation stores them, and the samples that a detector is trained on.

    images/NAME.png     grey
    points/NAME.npz     keypoints (N, 2) float32 x, y with pixel centres at whole numbers, keypoint_scores (N,) float32

divided by train/ and val/ in the names, by train.txt and val.txt, or by a hash of the names.  `segmentarium adapt` writes such a
folder; any other points will do.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from segmentarium.data.base import DatasetInfo, PictureDataset, Sample, Transform, require_folder
from segmentarium.data.finding import pictures_by_name
from segmentarium.data.homographies import inside, sample_homography, valid_mask, warp_points
from segmentarium.data.image_io import ImageReadError
from segmentarium.data.photometric import OF_PICTURES, OF_SHAPES
from segmentarium.data.samplers import Key
from segmentarium.data.shapes import Shapes, draw_any
from segmentarium.data.splits import PARTS, check_split, chosen
from segmentarium.keypoints.cells import cell_labels
from segmentarium.labels import IGNORE_INDEX

SPLITS = (*PARTS, "trainval", "all")


class PicturePoints(NamedTuple):
    """Where a picture lies, and its points."""

    image: Path
    points: Path


class Points(PictureDataset):
    """`dataset[i]` is `{"image", "points", "name"}`: points (N, 2) float32 x, y.

    licence   of the pictures, which goes into the weights that are made from them

    Raises:
        FileNotFoundError: no such folder or split, no pictures, or a picture without its points.
        ValueError: no such split, or two pictures that differ in their endings alone.
    """

    task = "keypoints"
    items: Sequence[PicturePoints]

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Transform | None = None,
        cache: bool = False,
        *,
        licence: str = "your own",
    ) -> None:
        root = Path(root)
        check_split(split, SPLITS, "points")
        images = require_folder(root / "images", "pictures, beside points/ as `segmentarium adapt` writes them")
        found = pictures_by_name(images)
        if not found:
            raise FileNotFoundError(f"{images} holds no pictures")
        info = DatasetInfo(f"{root.resolve().name} points", ("point",), ((255, 255, 255),), licence=licence)
        super().__init__(info, transform, cache)
        names, self.notes = chosen(root, sorted(found), split, root.name)
        self.names = names
        self.items = [PicturePoints(found[name], root / "points" / f"{name}.npz") for name in names]
        missing = [name for name, item in zip(names, self.items, strict=True) if not item.points.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{root / 'points'} has no points of {len(missing)} of {len(names)} pictures: {', '.join(missing[:5])}; "
                "let `segmentarium adapt` finish"
            )

    def name(self, index: int) -> str:
        """The picture's path below images/, without its ending."""
        return self.names[index]

    def load(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The picture as RGB and its points (N, 2); raises ImageReadError for a file that cannot be read."""
        image, points = self._arrays(index)
        return Image.fromarray(image), points

    def grey(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The picture as (H, W) uint8, and its points (N, 2) float32."""
        image, points = self._arrays(index)
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), points

    def _decode(self, item: PicturePoints) -> tuple[np.ndarray, ...]:
        return *super()._decode(item), read_points(item.points)[0]

    def _label(self, index: int, arrays: tuple[np.ndarray, ...]) -> Sample:
        return {"points": torch.from_numpy(arrays[1])}


def read_points(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 2) and their scores (N,), float32, of a file; raises ImageReadError for one that has none."""
    try:
        with np.load(path) as stored:
            points = stored["keypoints"].astype(np.float32)
            scores = stored["keypoint_scores"].astype(np.float32)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ImageReadError(f"{path} holds no points ({error}); expected keypoints and keypoint_scores") from error
    if points.ndim != 2 or points.shape[1] != 2 or scores.shape != points.shape[:1]:
        raise ImageReadError(
            f"{path}: keypoints are {points.shape} and their scores {scores.shape}; expected (N, 2) and (N,)"
        )
    return points, scores


class PointStream(Dataset[Sample]):
    """Training samples of drawn shapes or of pictures with points, asked by keys (counter, index) of an `InfiniteSampler`.

    What a sample is follows from (seed, counter), and for pictures from the index, alone; of shapes the set is only asked which
    kinds it draws, as there is a new one for each counter.

    A sample has "image" (C, H, W) float32, "cells" (H / 8, W / 8) int64: of each cell the place of its point, 64 where there is
    none, 255 where it does not count; with `pairs` also "warped" and "warped_cells", "warped_valid" (h, w) float32, 1 where a
    cell of the warp counts, and "homography" (3, 3) float32, from pixels of the image to those of its warp.

    size     (height, width), multiples of 8: shapes are drawn at it, pictures are cut to it, at random
    pairs    the image is as it was, and a warp comes with it; else the image is the warp
    channels, mean, std   of what the network takes
    turn     greatest turn of the warps, degrees; None: 90, as published
    """

    def __init__(
        self,
        dataset: Shapes | Points,
        size: tuple[int, int],
        seed: int = 0,
        *,
        pairs: bool = False,
        channels: int = 1,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        turn: float | None = None,
    ) -> None:
        self.dataset, self.size, self.seed, self.pairs, self.channels = dataset, size, seed, pairs, channels
        self.mean, self.std = (torch.tensor(x, dtype=torch.float32)[:, None, None] for x in (mean, std))
        # as published: shapes may be shifted out of the picture a little, and are seen in worse light
        self.drawn = isinstance(dataset, Shapes)
        self.photometry = OF_SHAPES if self.drawn else OF_PICTURES
        self.warps: dict[str, Any] = {"patch_ratio": 0.8, "overflow": 0.05} if self.drawn else {}
        if turn is not None:
            self.warps["max_angle"] = math.radians(turn)
        self.margin = 2 if self.drawn else 3

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Sample:
        counter, index = key
        rng = np.random.default_rng((self.seed, counter))
        if isinstance(self.dataset, Shapes):
            image, points, kind = draw_any(rng, self.size, self.dataset.info.classes)
            name = f"{self.dataset.info.classes[kind]} {counter}"
        else:
            (image, points), name = self.dataset.grey(index), self.dataset.name(index)
        cut = np.eye(3)
        cut[:2, 2] = -np.floor((np.array(image.shape[::-1]) - self.size[::-1] + 1) * rng.random(2))
        homography = sample_homography(rng, self.size, **self.warps)
        sample: Sample = {"name": name, "counter": counter}
        warped, cells = self._view(image, points, homography @ cut, rng)
        if not self.pairs:
            return sample | {"image": warped, "cells": cells}
        sample["image"], sample["cells"] = self._view(image, points, cut, rng)
        return sample | {
            "warped": warped,
            "warped_cells": cells,
            "warped_valid": (cells != IGNORE_INDEX).float(),
            "homography": torch.from_numpy(homography.astype(np.float32)),
        }

    def _view(
        self, image: np.ndarray, points: np.ndarray, matrix: np.ndarray, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """What `matrix` makes of a picture, in other light, and its cells."""
        seen = cv2.warpPerspective(image, matrix, self.size[::-1], flags=cv2.INTER_LINEAR)
        valid = valid_mask(matrix, self.size, self.margin, image.shape)
        places = warp_points(points, matrix)
        x, y = np.rint(places[inside(places, self.size)]).astype(int).T
        there = np.zeros(self.size, np.uint8)
        there[y, x] = 1
        lots = torch.Generator().manual_seed(int(rng.integers(2**62)))
        cells = cell_labels(torch.from_numpy(there)[None], torch.from_numpy(valid)[None], lots)[0]
        return self._input(self.photometry(seen, rng)), cells

    def _input(self, image: np.ndarray) -> Tensor:
        return (torch.from_numpy(image / np.float32(255)).expand(self.channels, -1, -1) - self.mean) / self.std
