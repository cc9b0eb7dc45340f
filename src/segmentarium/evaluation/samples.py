"""The images of an evaluation: read ahead in threads, grouped by size, in the form that the model wants."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segmentarium.contracts import Preprocessing
from segmentarium.inference.network import Network, with_channels
from segmentarium.inference.tta import scaled
from segmentarium.media.sources import displayed


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
    """One labelled image: `pixels` uint8 (C, H, W), `target` uint8 (H, W), `picture` an RGB image to be shown."""

    index: int
    name: str
    picture: Image.Image
    pixels: Tensor
    target: Tensor


def with_logits(
    network: Network,
    forward: Callable[[Tensor], Tensor],
    dataset: LabelledImages,
    indices: Sequence[int],
    batch_size: int,
    readers: int,
) -> Iterator[tuple[list[Sample], Tensor]]:
    """Images, neighbours of one size together, and their logits (B, K, h, w) at the size that the network sees.

    forward   uint8 (B, C, h, w) -> logits: through the network, whole or in windows, once or at several scales
    """

    def read(index: int) -> Sample:
        picture, target = dataset.load(index)
        # Copies: the array of a picture cannot be written to, and torch warns of sharing such memory.
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        if not isinstance(picture, Image.Image):  # of other bands than three
            picture = Image.fromarray(np.ascontiguousarray(displayed(picture)))
        return Sample(index, dataset.name(index), picture, pixels, torch.from_numpy(np.array(target, np.uint8)))

    for batch in batches(read_ahead(read, indices, readers), batch_size):
        pixels = torch.stack([sample.pixels for sample in batch])
        images = prepare(pixels, network.in_channels, network.preprocessing)
        with torch.inference_mode():
            logits = forward(images)
        yield batch, logits


class Read(Protocol):
    """An image that was read: a name, and uint8 (3, H, W)."""

    @property
    def name(self) -> str: ...

    @property
    def pixels(self) -> Tensor: ...


S = TypeVar("S", bound=Read)


def read_ahead(read: Callable[[int], S], indices: Sequence[int], ahead: int) -> Iterator[S]:
    """What `read` makes of these numbers, in order; up to `ahead` are read by as many threads while others are scored."""
    waiting: deque[Future[S]] = deque()
    with ThreadPoolExecutor(ahead) as pool:
        try:
            for index in indices:
                waiting.append(pool.submit(read, index))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def batches(samples: Iterator[S], batch_size: int) -> Iterator[list[S]]:
    """Neighbours of one size together, up to `batch_size` of them."""
    batch: list[S] = []
    for sample in samples:
        if batch and (len(batch) == batch_size or batch[0].pixels.shape != sample.pixels.shape):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def check_finite(batch: Sequence[Read], logits: Tensor) -> None:
    """ValueError where logits (B, …) are not finite, with the names of their images."""
    if not torch.isfinite(logits.sum()):
        bad = [sample.name for sample, one in zip(batch, logits, strict=True) if not torch.isfinite(one).all()]
        raise ValueError(f"the model's logits are not finite on {', '.join(bad) or 'this batch'}; nothing was scored")


def prepare(images: Tensor, channels: int, preprocessing: Preprocessing) -> Tensor:
    """uint8 RGB (B, 3, H, W) -> uint8 (B, channels, h, w) at the size at which the network sees it.

    Done as the predictor does it, so that the scores are those of what it gives.
    """
    images = with_channels(images, channels)
    given = (images.shape[-2], images.shape[-1])
    wanted = preprocessing.size_of(given)
    return images if wanted == given else scaled(images, wanted)
