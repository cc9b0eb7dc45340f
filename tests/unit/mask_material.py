"""A mask classifier that knows what it sees, each query one colour, and pictures of such colours with their segments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segmentarium.contracts import MaskModel, MaskSet, Preprocessing
from segmentarium.data.segments import Outline, SegmentDataset, SegmentItem, Tell, draw, segment_info
from segmentarium.rle import patch

BACKGROUND = (20, 20, 20)
# class, colour: two cats, two dogs, grass
QUERIES = (
    (0, (220, 40, 40)),
    (0, (220, 120, 40)),
    (1, (40, 40, 220)),
    (1, (40, 160, 220)),
    (2, (40, 200, 40)),
)
CLASSES = ("cat", "dog", "grass")


class Colours(MaskModel):
    """Query i has the pixels of colour i, and is of its class where there are any; else it is no object.

    stride   of the masks: colours are averaged
    sure     score of each query's class
    """

    def __init__(
        self,
        queries: Sequence[tuple[int, tuple[int, int, int]]] = QUERIES,
        num_classes: int = 3,
        things: Sequence[int] | None = (0, 1),
        stride: int = 1,
        sure: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, things=None if num_classes == 1 else things)
        self.classes = CLASSES[:num_classes]
        self.preprocessing = Preprocessing((0.0,) * 3, (1.0,) * 3)
        self.stride = stride
        self.register_buffer("colours", torch.tensor([colour for _, colour in queries]) / 255)
        self.register_buffer("label_of", torch.tensor([label for label, _ in queries]))
        self.register_buffer("certain", torch.tensor(list(sure or [0.95] * len(queries))))
        self.scale = nn.Parameter(torch.tensor(100.0))

    def forward_masks(self, image: Tensor) -> MaskSet:
        small = nn.functional.avg_pool2d(image, self.stride, ceil_mode=True)
        distance = (small[:, None] - self.colours[:, :, None, None].to(image)).abs().amax(2)
        masks = self.scale.to(image) * (0.08 - distance)
        there = (masks > 0).flatten(2).any(2)
        probability = torch.full((*there.shape, self.num_classes + 1), 1e-4, device=image.device)
        probability.scatter_(
            2, self.label_of.expand(len(image), -1)[..., None], self.certain.expand(len(image), -1)[..., None]
        )
        probability[..., -1] = 1 - probability[..., :-1].sum(-1)
        nothing = torch.zeros_like(probability)
        nothing[..., -1] = 1
        return MaskSet(torch.where(there[..., None], probability, nothing).clamp(min=1e-6).log(), masks)


def painted(size: tuple[int, int], *boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    """uint8 (H, W, 3): the background, and boxes of (query, top, left, bottom, right), the later ones on top."""
    image = np.empty((*size, 3), np.uint8)
    image[:] = BACKGROUND
    for query, top, left, bottom, right in boxes:
        image[top:bottom, left:right] = QUERIES[query][1]
    return image


class Scenes(SegmentDataset):
    """Painted pictures, and what is in them: each a list of (query, top, left, bottom, right).

    crowds   places in the lists of those that are crowds
    """

    def __init__(
        self,
        folder: Path,
        scenes: Sequence[Sequence[tuple[int, int, int, int, int]]],
        size: tuple[int, int] = (60, 90),
        things: Sequence[int] | None = (0, 1),
        num_classes: int = 3,
        crowds: Sequence[int] = (),
    ) -> None:
        items = []
        for index, scene in enumerate(scenes):
            path = folder / f"{index:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(painted(size, *scene)).save(path)
            items.append(SegmentItem(path, path, scene))
        super().__init__(segment_info("scenes", CLASSES[:num_classes]), items, things)
        self.crowds = crowds

    def annotate(self, item: SegmentItem, height: int, width: int, tell: Tell) -> tuple[np.ndarray, np.ndarray]:
        image = painted((height, width), *item.entry)
        outlines = []
        for place, (query, *_) in enumerate(item.entry):
            label, colour = QUERIES[query]
            pixels = patch((image == colour).all(2))
            outlines.append(Outline(f"object {place}", label, pixels=pixels, crowd=place in self.crowds))
        return draw(outlines, height, width, tell)
