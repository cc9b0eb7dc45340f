"""What a network that learns without labels sees of a picture: one random box of it, and what is drawn for it besides.

    view = PretrainingView(224, draw=model.draw)              # MAE: "image", "noise"
    view = PretrainingView(224, token_size=112, draw=...)     # BEiT: "image", "masked", and "token_image" for its tokenizer
    stream = TrainingStream(dataset, view, seed=0)

As published, the box is a random share of the area, 3:4 to 4:3, resized bicubically with the antialiasing of Pillow; the same box
is resized for a tokenizer, smaller, by Lanczos; colours are changed before, and half of the pictures mirrored (MAE, 2111.06377,
appendix A.1; BEiT, 2106.08254, section 2.3 and its code).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from segmentarium.data.base import Sample

Draw = Callable[[np.random.Generator, tuple[int, int]], dict[str, Tensor]]
RATIO = [3 / 4, 4 / 3]


class PretrainingView:
    """{"image" uint8 (3, H, W), "name", …} -> {"image" float32 (3, size, size), "name"}, with what `draw` gives; no labels.

    size         pixels of a side
    area         range of the box's share of the picture's area; None: the middle square, whole, as evaluation shows it
    flip         probability of a left-right mirror
    jitter       brightness, contrast and saturation change by factors of 1 ± this
    mean, std    RGB, of values in 0..1
    token_size   side of "token_image" float32 (3, token_size, token_size), values in 0..1; None: there is none
    draw         further inputs of one picture, of a random generator and its (height, width)

    All is random by torch's generator and numpy's, so that seeding them before a sample fixes it.
    """

    def __init__(
        self,
        size: int,
        *,
        area: tuple[float, float] | None = (0.2, 1.0),
        flip: float = 0.5,
        jitter: float = 0.0,
        mean: Sequence[float],
        std: Sequence[float],
        token_size: int | None = None,
        draw: Draw | None = None,
    ) -> None:
        if area is not None and not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f"area is {area}; give the least and the greatest share of a picture, above 0, up to 1")
        self.size, self.area, self.flip, self.token_size, self.draw = size, area, flip, token_size, draw
        self.jitter = v2.ColorJitter(jitter, jitter, jitter) if jitter else None
        self.mean, self.std = (np.asarray(values, np.float32) for values in (mean, std))

    def __call__(self, sample: Sample) -> Sample:
        words: Any = np.random.randint(0, 2**32, 4, np.uint32)
        return self.of(sample, np.random.default_rng(words))

    def of(self, sample: Sample, random: np.random.Generator) -> Sample:
        """The same, with what the model draws drawn from `random`; without area, flip and jitter nothing else is random."""
        pixels = sample["image"].as_subclass(Tensor)
        if self.jitter is not None:
            pixels = self.jitter(pixels)
        if self.flip and torch.rand(()).item() < self.flip:
            pixels = F.horizontal_flip(pixels)
        picture = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
        box = self._box(pixels)
        seen: Sample = {"image": self._normalised(_cut(picture, box, self.size, Image.Resampling.BICUBIC))}
        if self.token_size is not None:
            small = _cut(picture, box, self.token_size, Image.Resampling.LANCZOS)
            seen["token_image"] = torch.from_numpy(small / np.float32(255)).permute(2, 0, 1).contiguous()
        if self.draw is not None:
            seen |= self.draw(random, (self.size, self.size))
        return {**seen, "name": sample["name"]}

    def _box(self, pixels: Tensor) -> tuple[int, int, int, int]:
        """left, top, right, bottom in pixels"""
        height, width = pixels.shape[-2:]
        if self.area is None:
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            return left, top, left + side, top + side
        from torchvision.transforms import RandomResizedCrop

        top, left, rows, columns = RandomResizedCrop.get_params(pixels, list(self.area), RATIO)
        return left, top, left + columns, top + rows

    def _normalised(self, pixels: np.ndarray) -> Tensor:
        values = (pixels / np.float32(255) - self.mean) / self.std
        return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def _cut(picture: Image.Image, box: tuple[int, int, int, int], size: int, by: Image.Resampling) -> np.ndarray:
    """(size, size, 3) uint8 of the box"""
    return np.asarray(picture.resize((size, size), by, box=box))
