"""Scores of a classifier: how often the right class comes first, or among the first five, and where it is surely wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segmentarium.contracts import Classifier
from segmentarium.evaluation.base import BaseReport, number, numbers, percent
from segmentarium.evaluation.classes import ClassMatch, match_classes
from segmentarium.evaluation.samples import batches, check_finite, read_ahead
from segmentarium.evaluation.worst import Worst, shrunk
from segmentarium.inference.classifier import seen_square
from segmentarium.inference.network import Network, with_channels
from segmentarium.inference.predictor import class_probabilities
from segmentarium.metrics import TopK

FIVE = 5  # the classes among which the right one counts in top-5


@dataclass(kw_only=True, repr=False)
class ClassificationReport(BaseReport):
    """Scores of a classifier on a data set.  All shares lie in 0..1; NaN: no picture had that class.

    top1, top5  share of the pictures whose class the model puts first, or among its first five
    macc        mean of `accuracy` over the classes
    accuracy    by class name: the share of its pictures whose class the model puts first
    confusion   int64 (K, K) pictures: rows the labels, columns the predictions
    worst       the wrong predictions of which the model was surest
    """

    counted = "pictures"
    worst_text = "The wrong predictions of which the model was surest."

    top1: float
    top5: float
    macc: float
    accuracy: dict[str, float]

    def scores(self) -> dict[str, Any]:
        return {
            "top1": number(self.top1),
            "top5": number(self.top5),
            "macc": number(self.macc),
            "accuracy": numbers(self.accuracy),
            "picture_share": numbers(self.shares()),
            "images": self.images,
        }

    def headline(self) -> list[tuple[str, str]]:
        five = [("top-5", percent(self.top5))] if len(self.classes) > FIVE else []  # of fewer, all are among five
        return [("top-1", percent(self.top1)), *five, ("mAcc", percent(self.macc))]

    def by_class(self) -> dict[str, dict[str, float]]:
        return {"Acc": self.accuracy}


class LabelledPictures(Protocol):
    """What a classifier is evaluated on: any `ClassificationDataset`, whose transform is left aside."""

    info: Any

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def load(self, index: int) -> tuple[Image.Image, int]:
        """RGB picture and the index of its class."""
        ...


@dataclass
class Picture:
    """One labelled picture: `pixels` uint8 (C, size, size) is what the network sees of it."""

    index: int
    name: str
    picture: Image.Image
    pixels: Tensor
    label: int


@dataclass
class WrongPicture:
    """A picture that was given a wrong class.

    label, prediction  names of the right class and of the one that was given
    probability        of the prediction, 0..1
    picture            uint8 (h, w, 3), made smaller
    """

    name: str
    index: int
    label: str
    prediction: str
    probability: float
    picture: np.ndarray = field(repr=False)

    @property
    def caption(self) -> str:
        return f"{self.name}: {self.label}, taken for {self.prediction} ({percent(self.probability)} %)"

    def panels(self, palette: Any) -> dict[str, Image.Image]:
        return {"image": Image.fromarray(self.picture)}

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("name", "index", "label", "prediction", "probability")}


class PictureTally:
    """The counts and the surest mistakes so far; its size depends on no number of pictures."""

    def __init__(self, match: ClassMatch, worst: int, device: torch.device) -> None:
        self.match = match
        self.counts = TopK(len(match.names), FIVE, device)
        self.worst: Worst[WrongPicture] = Worst(worst)
        self.images = 0

    @torch.inference_mode()
    def add(self, batch: Sequence[Picture], logits: Tensor) -> None:
        """Scores pictures by their logits (B, K)."""
        logits = self.match.logits(logits)
        check_finite(batch, logits)
        self.images += len(batch)
        self.counts.update(logits, torch.tensor([picture.label for picture in batch], device=logits.device))
        surest, given = class_probabilities(logits).cpu().max(1)
        for picture, probability, prediction in zip(batch, surest.tolist(), given.tolist(), strict=True):
            if prediction != picture.label and self.worst.takes(-probability):
                names = self.match.names[picture.label], self.match.names[prediction]
                _, small = shrunk(picture.picture, picture.picture.size)
                wrong = WrongPicture(picture.name, picture.index, *names, probability, small)
                self.worst.add(-probability, picture.index, wrong)

    def scores(self) -> dict[str, Any]:
        """top1, top5, macc and accuracy (by class name), as `ClassificationReport` has them."""
        found: dict[str, Any] = self.counts.summary(self.match.names)
        return {"top5": found.get(f"top{self.counts.k}"), **{key: found[key] for key in ("top1", "macc", "accuracy")}}


class PictureScoring:
    """A classifier and the pictures that it is scored on.

    size, crop_ratio  the square that it sees, out of the middle of a picture; None: as the model says

    Raises ValueError for classes or a size that do not fit.
    """

    def __init__(
        self,
        model: Classifier,
        network: Callable[[], Network],
        dataset: LabelledPictures,
        *,
        num_classes: int | None = None,
        size: int | None = None,
        crop_ratio: float | None = None,
        worst: int = 0,
    ) -> None:
        from segmentarium.data.classification import middle_crop  # imports torchvision, which segmenters do without

        info = dataset.info
        if len(info.classes) == 1:
            raise ValueError(
                f"data set {info.name!r} has one class, {info.classes[0]!r}: whatever a model says is right"
            )
        self.match = match_classes(model.num_classes, model.classes, info.classes, info.palette, num_classes)
        self.size, self.crop_ratio = seen_square(model, size, crop_ratio)
        self.crop = middle_crop(self.size, self.crop_ratio)
        self.network, self.dataset = network(), dataset
        self.tally = PictureTally(self.match, worst, self.network.device)

    def run(self, indices: Sequence[int], batch_size: int, readers: int) -> Iterator[int]:
        """Scores these pictures; yields after each batch how many are done."""
        for batch in batches(read_ahead(self.read, indices, readers), batch_size):
            logits = self.network(torch.stack([picture.pixels for picture in batch]))
            self.tally.add(batch, logits.to(self.network.device))
            yield self.tally.images

    def read(self, index: int) -> Picture:
        """Picture number `index`, as the network sees it."""
        picture, label = self.dataset.load(index)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        seen = self.crop(with_channels(pixels, self.network.in_channels))[0]
        return Picture(index, self.dataset.name(index), picture, seen, label)

    def options(self) -> dict[str, Any]:
        share = "" if self.crop_ratio is None else f", {self.crop_ratio:g} of the shorter side"
        protocol = f"one crop of {self.size}×{self.size} pixels out of the middle{share}"
        return {"protocol": protocol, "size": self.size, "crop_ratio": self.crop_ratio}

    def report(self, **facts: Any) -> ClassificationReport:
        return ClassificationReport(
            **self.tally.scores(),
            confusion=self.tally.counts.confusion.cpu().numpy(),
            classes=self.match.names,
            palette=self.match.palette,
            images=self.tally.images,
            worst=self.tally.worst.images(),
            **facts,
        )
