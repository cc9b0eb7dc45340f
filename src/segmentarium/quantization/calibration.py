"""What a network sees of a data set: the tensors that its evaluation would give it, at that size and in those windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from segmentarium.contracts import MaskModel, Model, SegmentationModel, adopt
from segmentarium.data import SegmentationDataset
from segmentarium.evaluation.score import MapScoring


def spread_evenly(data: SegmentationDataset, count: int) -> Sequence[int]:
    """The numbers of `count` pictures of a data set, evenly spread; of all where there are fewer.  ValueError for none."""
    if not isinstance(data, SegmentationDataset):
        raise ValueError(f"int8 is scored by mIoU: data set {data.info.name!r} has no class for each pixel")
    if count < 1 or not len(data):
        raise ValueError(f"{count} of {len(data)} pictures to calibrate on; give one or more")
    return sorted({int(i) for i in np.linspace(0, len(data) - 1, min(count, len(data))).round()})


def what_it_sees(model: nn.Module, data: SegmentationDataset, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """(B, C, h, w) float32, normalised, of one picture or window after the other.

    It is `evaluate`'s own pass, with a network that notes what it is given.  ValueError for what is no segmenter.
    """
    model = adopt(model)
    if not isinstance(model, SegmentationModel | MaskModel):
        raise ValueError(f"{model.title} is a {model.kind}; int8 is for networks that give a class for each pixel")
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
