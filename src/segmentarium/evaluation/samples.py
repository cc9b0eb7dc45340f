"""The images of an evaluation: read ahead in threads, grouped by size, prepared as the model wants them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segmentarium.contracts import Preprocessing
from segmentarium.inference.tta import scaled


class LabelledImages(Protocol):
    """What is evaluated on: any `SegmentationDataset`, whose transform is left aside."""

    info: Any

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def load(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """RGB picture and class indices uint8 (H, W), 255 = ignored."""
        ...


@dataclass
class Sample:
    """One labelled image: `pixels` uint8 (3, H, W), `target` uint8 (H, W), `picture` the same as an RGB image."""

    index: int
    name: str
    picture: Image.Image
    pixels: Tensor
    target: Tensor


def read_ahead(dataset: LabelledImages, total: int, ahead: int) -> Iterator[Sample]:
    """The first `total` images in order; up to `ahead` of them are read by as many threads while others are scored."""

    def read(index: int) -> Sample:
        picture, target = dataset.load(index)
        # Copies: the array of a picture cannot be written to, and torch warns of sharing such memory.
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return Sample(index, dataset.name(index), picture, pixels, torch.from_numpy(np.array(target, np.uint8)))

    waiting: deque[Future[Sample]] = deque()
    with ThreadPoolExecutor(ahead) as pool:
        try:
            for index in range(total):
                waiting.append(pool.submit(read, index))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def batches(samples: Iterator[Sample], batch_size: int) -> Iterator[list[Sample]]:
    """Neighbours of one size together, up to `batch_size` of them."""
    batch: list[Sample] = []
    for sample in samples:
        if batch and (len(batch) == batch_size or batch[0].pixels.shape != sample.pixels.shape):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def prepare(images: Tensor, model: nn.Module, preprocessing: Preprocessing) -> Tensor:
    """uint8 (B, 3, H, W) -> what the model takes: its channels, normalised, at the longer side it was trained at."""
    channels = getattr(model, "in_channels", 3)
    if channels == 1:
        luma = torch.tensor([0.299, 0.587, 0.114], device=images.device)
        images = (images.permute(0, 2, 3, 1).float() @ luma / 255)[:, None]
    elif channels != 3:
        raise ValueError(f"the model takes {channels} channels, but the data set's images are RGB")
    normalised = preprocessing.for_channels(channels).normalise(images)
    if preprocessing.long_side is None:
        return normalised
    height, width = images.shape[-2:]
    factor = preprocessing.long_side / max(height, width)
    return scaled(normalised, (max(1, round(height * factor)), max(1, round(width * factor))))
