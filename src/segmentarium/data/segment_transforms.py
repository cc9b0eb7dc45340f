"""What is done to pictures with segments before a network learns them; each segment, and its box, goes along.

The steps are those of `transforms.py`: scale and crop, rotate, mirror, change colours, normalise.  Numbers of segments move as
masks do, and only what is left of them at the end becomes masks, so that a picture of 500 objects costs no more than one of 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from segmentarium.data.base import Sample
from segmentarium.data.segments import VOID
from segmentarium.data.transforms import IMAGENET_MEAN, IMAGENET_STD, RandomScaleCrop, Size, ToModelInput, changes
from segmentarium.losses.segments import Segments


def segment_train_transform(
    crop_size: Size,
    scale: tuple[float, float] = (0.5, 2.0),
    flip: float = 0.5,
    photometric: bool = True,
    rotate: float = 0.0,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    long_side: int | None = None,
    even_scales: bool = False,
    degrade: float = 0.0,
) -> nn.Module:
    """{"image", "ids", "table", "name"} of a `SegmentDataset` -> {"image" float32 (3, *crop_size), "segments", "name"}.

    The arguments are `train_transform`'s.  Published for COCO (large scale jitter): crop_size (1024, 1024), scale (0.1, 2.0),
    long_side 1024.
    """
    crop = RandomScaleCrop(crop_size, scale, max_class_ratio=1.0, long_side=long_side, even=even_scales)
    steps = [crop, *changes(rotate, flip, degrade, photometric, mean, VOID)]
    return v2.Compose([*steps, ToSegments(mean, std, pad_to=crop_size)])


class ToSegments(nn.Module):
    """What a mask classifier learns from: the picture as `ToModelInput` makes it, and "segments", a `Segments`.

    Crowds are no segments.  Their pixels do not count, unless another segment has them, and neither do void ones and what is
    padded.  A sample's "answered", bool (K,) numpy, goes along.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], pad_to: Size | None = None) -> None:
        super().__init__()
        self.picture, self.pad_to = ToModelInput(mean, std, pad_to), pad_to

    def forward(self, sample: Sample) -> Sample:
        rest = {key: value for key, value in sample.items() if key not in ("image", "ids", "table", "answered")}
        image = self.picture(sample["image"])
        found = segments_of(sample["ids"].as_subclass(Tensor), sample["table"])
        height, width = image.shape[-2:]
        below, right = height - found.masks.shape[1], width - found.masks.shape[2]
        if below or right:
            pad = (0, right, 0, below)
            assert found.valid is not None
            masks, valid = (nn.functional.pad(part, pad) for part in (found.masks, found.valid))
            found = Segments(found.labels, masks, valid)
        if "answered" in sample:
            found = found._replace(answered=torch.from_numpy(sample["answered"]))
        return {**rest, "image": image, "segments": found}


def segments_of(ids: Tensor, table: np.ndarray) -> Segments:
    """The segments that have a pixel in a map of numbers (L, H, W), in the order of the table, crowds left out."""
    layer_of: dict[int, int] = {}
    for layer, plane in enumerate(ids):
        for number in plane.unique().tolist():
            if number > 0:
                layer_of[number] = layer
    kept = [number for number in sorted(layer_of) if not table["crowd"][number - 1]]
    masks = torch.zeros((len(kept), *ids.shape[1:]), dtype=torch.bool)
    for place, number in enumerate(kept):
        masks[place] = ids[layer_of[number]] == number
    labels = torch.tensor([int(table["label"][number - 1]) for number in kept], dtype=torch.int64)
    crowds = torch.tensor([number for number in layer_of if table["crowd"][number - 1]], dtype=ids.dtype)
    nowhere = (ids == VOID).any(0)
    if len(crowds):
        nowhere |= torch.isin(ids, crowds).any(0)
    return Segments(labels, masks, ~nowhere | masks.any(0))
