"""What a network sees of a data set: the tensors that its evaluation would give it, at that size and in those windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segmentarium.contracts import KeypointModel, MaskModel, Model, SegmentationModel, adopt
from segmentarium.data import SegmentationDataset
from segmentarium.data.hpatches import HPatches
from segmentarium.evaluation.keypoints import Protocol
from segmentarium.evaluation.score import MapScoring
from segmentarium.inference.network import with_channels

Data = SegmentationDataset | HPatches
WANTED = {
    SegmentationDataset: "mIoU, of a class for each pixel",
    HPatches: "repeatability and matches, of pairs of pictures",
}


def spread_evenly(data: Data, count: int, kind: type[Data] = SegmentationDataset) -> Sequence[int]:
    """The numbers of `count` pictures, or pairs, of a data set, evenly spread; of all where there are fewer.

    ValueError for none, and for data of another kind than the model is scored on.
    """
    if not isinstance(data, kind):
        raise ValueError(
            f"int8 is scored by {WANTED[kind]}: data set {data.info.name!r} has none; it is for segmenters and networks of points"
        )
    if count < 1 or not len(data):
        raise ValueError(f"{count} of {len(data)} pictures to calibrate on; give one or more")
    return sorted({int(i) for i in np.linspace(0, len(data) - 1, min(count, len(data))).round()})


def what_it_sees(model: nn.Module, data: Any, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """(B, C, h, w) float32, normalised, of one picture or window after the other.

    Of a segmenter it is `evaluate`'s own pass, with a network that notes what it is given; of a network of points both pictures
    of each pair, at the size at which they are matched.  ValueError for other models.
    """
    model = adopt(model)
    if isinstance(model, KeypointModel) and not model.joints:
        pairs = HPatches(data.roots, size=Protocol().large)
        for index in indices:
            for grey in pairs.load(index)[:2]:
                pixels = with_channels(torch.from_numpy(grey)[None, None], model.in_channels)
                yield model.preprocessing.for_channels(model.in_channels).normalise(pixels).numpy()
        return
    if not isinstance(model, SegmentationModel | MaskModel):
        raise ValueError(
            f"{model.title} is a {model.kind}; int8 is for networks that give a class for each pixel, or points with descriptors"
        )
    noted: list[np.ndarray] = []
    scoring = MapScoring(
        model,
        lambda: _Notes(model, noted),  # type: ignore[arg-type, return-value] - it has what the pass asks of one
        data,
    )
    for _ in scoring.run(indices, 1, 2):
        yield from noted
        noted.clear()


class _Notes:
    """Stands for a network: remembers its inputs, and answers that all is of the first class."""

    def __init__(self, model: Model, noted: list[np.ndarray]) -> None:
        self.model, self.in_channels, self.device = model, model.in_channels, torch.device("cpu")
        self.preprocessing = model.preprocessing.for_channels(model.in_channels)
        self._noted = noted
        self._classes = getattr(model, "num_classes", 1)

    def __call__(self, pixels: Tensor) -> Tensor:
        self._noted.append(self.preprocessing.normalise(pixels).numpy())
        return torch.zeros(len(pixels), self._classes, *pixels.shape[-2:])
