"""Mosaic: four pictures become one, so that a crop shows more objects, smaller ones, and such as never meet.

A. Bochkovskiy, C.-Y. Wang, H.-Y. M. Liao, "YOLOv4", https://arxiv.org/abs/2004.10934.  No formula is published; ours is that of
the public YOLO codes: a canvas of twice the size, a random point in its middle, and a picture in each quarter, which touches
that point with a corner.  What is left of the canvas is void.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from segmentarium.data.base import Sample
from segmentarium.data.segments import VOID
from segmentarium.data.transforms import IMAGENET_MEAN, ResizeTo, Size
from segmentarium.labels import IGNORE_INDEX

PICTURES = 4


class Mosaic:
    """Untransformed samples with "ids" and "table" (`SegmentDataset`) or "mask" -> one of 2·size; the segments go along.

    As `join` of a `TrainingStream`, before its transform, which then cuts out a crop at its scale.

    Args:
        size: (height, width) at most of each picture before `scale`: it keeps its shape.
        scale: range of a further random factor of each picture.
        mean: RGB in 0..1 where there is no picture.
    """

    def __init__(
        self, size: Size, scale: tuple[float, float] = (0.5, 1.5), mean: Sequence[float] = IMAGENET_MEAN
    ) -> None:
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale is {scale}; give (least, greatest) factor, both above 0")
        self.size, self.scale = size, scale
        self.fill = torch.tensor([round(255 * value) for value in mean], dtype=torch.uint8)

    def __call__(self, samples: Sequence[Sample]) -> Sample:
        if len(samples) != PICTURES:
            raise ValueError(f"a mosaic has {PICTURES} pictures, and {len(samples)} are given")
        height, width = self.size
        label = "ids" if "ids" in samples[0] else "mask"
        # what is nowhere: of layers the first says so for all
        image = self.fill.to(samples[0]["image"].dtype)[:, None, None].repeat(1, 2 * height, 2 * width)
        layers = max(len(one["ids"]) for one in samples) if label == "ids" else 1
        labels = torch.zeros((layers, 2 * height, 2 * width), dtype=samples[0][label].dtype)
        labels[0] = VOID if label == "ids" else IGNORE_INDEX
        row, column = (
            int(side / 2 + side * draw) for side, draw in zip(self.size, torch.rand(2).tolist(), strict=True)
        )
        before = 0
        for place, sample in enumerate(samples):
            small = self._shrunk(sample, label)
            above, left = place < 2, place % 2 == 0
            high = min(small["image"].shape[-2], row if above else 2 * height - row)
            wide = min(small["image"].shape[-1], column if left else 2 * width - column)
            # the corner that touches the point, on the canvas and in the picture
            there = (
                slice(row - high, row) if above else slice(row, row + high),
                slice(column - wide, column) if left else slice(column, column + wide),
            )
            here = (slice(-high, None) if above else slice(high), slice(-wide, None) if left else slice(wide))
            image[:, *there] = small["image"][:, *here]
            part = small[label][..., *here].reshape(-1, high, wide)
            labels[:, *there] = 0
            labels[: len(part), *there] = torch.where(part > 0, part + before, part)
            before += len(sample["table"]) if label == "ids" else 0
        found: dict[str, Any] = {**samples[0], "image": tv_tensors.Image(image)}
        found[label] = tv_tensors.Mask(labels if label == "ids" else labels[0])
        if label == "ids":
            found["table"] = np.concatenate([one["table"] for one in samples])
        if "answered" in found:  # a class is where it is known to be, if all four say so
            found["answered"] = np.logical_and.reduce([one["answered"] for one in samples])
        found["name"] = " and ".join(one["name"] for one in samples)
        return found

    def _shrunk(self, sample: Sample, label: str) -> dict[str, Tensor]:
        """Picture and labels as large as fits, times a random factor."""
        low, high = self.scale
        factor = low + (high - low) * torch.rand(()).item()
        sides = sample["image"].shape[-2:]
        factor *= min(full / side for full, side in zip(self.size, sides, strict=True))
        size = (max(1, round(sides[0] * factor)), max(1, round(sides[1] * factor)))
        small = ResizeTo(size)({key: sample[key] for key in ("image", label)})
        return {key: value.as_subclass(Tensor) for key, value in small.items()}
