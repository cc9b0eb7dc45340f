"""Scores of a network that tells segments apart: panoptic quality, and COCO's average precision."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segmentarium.contracts import InstanceModel, MaskModel
from segmentarium.data.lvis import LVIS
from segmentarium.data.segments import Region, Segmentation, SegmentDataset, first_of
from segmentarium.evaluation.base import BaseReport, number, numbers, percent
from segmentarium.evaluation.classes import ClassMatch, match_classes
from segmentarium.evaluation.samples import batches, prepare, read_ahead
from segmentarium.evaluation.worst import Worst, shrunk
from segmentarium.inference.network import Network, with_channels
from segmentarium.inference.segment_drawing import segment_overlay
from segmentarium.inference.segment_map import FoundSegment, SegmentMap, measured
from segmentarium.inference.segments import SURE, SegmentPredictor
from segmentarium.media.readers import ArrayRows
from segmentarium.metrics import AveragePrecision, FederatedAveragePrecision, PanopticQuality
from segmentarium.metrics.federated import MOST
from segmentarium.metrics.panoptic import contingency

QUALITY = {"pq": "PQ", "sq": "SQ", "rq": "RQ"}
RGB = tuple[int, int, int]


@dataclass(kw_only=True, repr=False)
class SegmentReport(BaseReport):
    """Scores of segments on a data set.  All shares lie in 0..1; NaN: there is nothing of that kind.

    task        "panoptic" or "instance"
    quality     pq, sq, rq; with stuff also pq_things, pq_stuff, …
    precision   of "instance": ap, ap50, ap75, ap_small, …, box_ap, …, boundary_ap, …
    table       column -> score by class name
    confusion   int64 (K, K) pixels that have a segment in label and prediction: rows the labels
    segments    labelled segments by class name; crowds are no such
    """

    counted = "labelled pixels"
    worst_text = "By the panoptic quality of the picture itself. Image, labelled segments, found segments."

    task: str
    quality: dict[str, float]
    precision: dict[str, float]
    table_by_class: dict[str, dict[str, float]]
    segments: dict[str, int]

    def scores(self) -> dict[str, Any]:
        return {
            "task": self.task,
            **{key: number(value) for key, value in (self.quality | self.precision).items()},
            "by_class": {column: numbers(values) for column, values in self.table_by_class.items()},
            "segments": self.segments,
            "images": self.images,
        }

    def headline(self) -> list[tuple[str, str]]:
        shown = {
            "ap": "AP",
            "ap50": "AP50",
            "ap75": "AP75",
            "ap_small": "AP small",
            "ap_medium": "AP medium",
            "ap_large": "AP large",
            "ap_rare": "AP rare",
            "ap_common": "AP common",
            "ap_frequent": "AP frequent",
            "box_ap": "box AP",
            "boundary_ap": "boundary AP",
            **QUALITY,
            "pq_things": "PQ things",
            "pq_stuff": "PQ stuff",
        }
        found = self.precision | self.quality
        return [(name, percent(found[key])) for key, name in shown.items() if key in found]

    def by_class(self) -> dict[str, dict[str, float]]:
        return self.table_by_class

    def facts(self) -> dict[str, Any]:
        return {"labelled segments": f"{sum(self.segments.values()):,}"}


@dataclass
class BadSegments:
    """One picture and how well its segments were found; kept small, as `BadImage` is."""

    quality: float
    index: int
    name: str
    shown: dict[str, np.ndarray] = field(repr=False)

    @property
    def caption(self) -> str:
        return f"{self.name}: PQ {100 * self.quality:.2f}"

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "index": self.index, "pq": self.quality}

    def panels(self, palette: Sequence[RGB]) -> dict[str, Image.Image]:
        """Picture, labelled and found segments, side by side."""
        return {name: Image.fromarray(array) for name, array in self.shown.items()}


@dataclass
class LabelledPicture:
    """`pixels` uint8 (3, H, W), and the segments of a picture."""

    index: int
    name: str
    picture: Image.Image
    pixels: Tensor
    truth: Segmentation
    open: dict[str, Any] = field(default_factory=dict)  # of a federated data set: what is known of the other classes


class SegmentTally:
    """What is kept of the pictures that were scored; what grows is 28 bytes a detection and kind of overlap.

    precise   the kinds of overlap that precision is wanted of: "mask", "box", "boundary"; (): only quality
    frequency  of a federated data set: "r", "c" or "f" for each class
    """

    def __init__(
        self,
        match: ClassMatch,
        things: Sequence[int],
        precise: Sequence[str],
        worst: int,
        device: torch.device | str = "cpu",
        frequency: Sequence[str] | None = None,
    ) -> None:
        self.match, self.things = match, things
        count = len(match.names)
        # of the model's classes, those that count, and which class of the data each is
        channels = range(count) if match.select is None else match.select
        self.place = {channel: place for place, channel in enumerate(channels)}
        self.quality = PanopticQuality(count, device)
        self.precision: AveragePrecision | None = None
        if precise:
            self.precision = (
                AveragePrecision(count, precise) if frequency is None else FederatedAveragePrecision(frequency, precise)
            )
        self.worst: Worst[BadSegments] = Worst(worst)
        self.confusion = np.zeros((count, count), np.int64)
        self.segments = np.zeros(count, np.int64)
        self.images = 0

    def add(self, sample: LabelledPicture, found: SegmentMap) -> None:
        """Scores a picture by its segments, in its own pixels."""
        counted = [one for one in found.segments if one.label in self.place]
        labels = {one.id: self.place[one.label] for one in counted}
        labelled = sample.truth if self.precision is None else only(sample.truth, self.things)
        truth, regions = labelled.ids, labelled.regions
        if self.precision is not None:
            masks = [found.mask(one) for one in counted]
            scores = [one.score for one in counted]
            self.precision.update(list(labels.values()), scores, masks, truth, regions, **sample.open)
            sure = found.surer_than(SURE)
            labels = {one.id: self.place[one.label] for one in sure.segments if one.label in self.place}
        else:
            sure = found
        flat, kept = flattened(labelled)
        own = self.quality.update(sure.ids, labels, flat, kept)
        self._confuse(sure.ids, labels, flat, kept)
        for one in regions:
            self.segments[one.label] += not one.crowd
        self.images += 1
        score = 0.0 if own != own else own
        if own == own and self.worst.takes(score):
            self.worst.add(score, sample.index, self._bad(score, sample, sure, flat, kept))

    def _confuse(self, ids: np.ndarray, labels: dict[int, int], truth: np.ndarray, regions: Sequence[Region]) -> None:
        places, table = contingency(ids, truth, len(regions))
        for row, place in enumerate(places.tolist()):
            if place in labels:
                for region, pixels in zip(regions, table[row, 2:].tolist(), strict=True):
                    self.confusion[region.label, labels[place]] += pixels

    def _bad(
        self, score: float, sample: LabelledPicture, found: SegmentMap, truth: np.ndarray, regions: Sequence[Region]
    ) -> BadSegments:
        known = {i: (one.label, 1.0) for i, one in enumerate(regions, 1)}
        target = measured(truth.clip(0), known)
        mine = SegmentMap(found.ids, tuple(self._renamed(one) for one in found.segments if one.label in self.place))
        (width, height), picture = shrunk(sample.picture, sample.picture.size)
        shown = {"image": picture}
        for name, one in (("target", target), ("prediction", mine)):
            rows = np.arange(height) * one.ids.shape[0] // height
            columns = np.arange(width) * one.ids.shape[1] // width
            small = SegmentMap(np.asarray(one.ids)[np.ix_(rows, columns)], ())
            shown[name] = self._drawn(picture, small, one)
        return BadSegments(score, sample.index, sample.name, shown)

    def _renamed(self, one: FoundSegment) -> FoundSegment:
        return FoundSegment(one.id, self.place[one.label], one.score, one.area, one.box)

    def _drawn(self, picture: np.ndarray, small: SegmentMap, found: SegmentMap) -> np.ndarray:
        known = {one.id: (one.label, one.score) for one in found.segments}
        ids = small.ids * np.isin(small.ids, list(known))
        return segment_overlay(picture, measured(ids, known), self.match.names, self.match.palette, self.things)

    def all_reduce(self) -> None:
        """Adds up what all processes have, in each of them."""
        self.quality.all_reduce()
        if self.precision is not None:
            self.precision.all_reduce()

    def scores(self) -> tuple[dict[str, float], dict[str, float], dict[str, dict[str, float]]]:
        """Quality, precision, and column -> score by class name."""
        names = self.match.names
        things = None if len(self.things) == len(names) else self.things
        quality = self.quality.summary(things, names)
        by_class = quality.pop("by_class")
        table: dict[str, dict[str, float]] = {}
        precision: dict[str, Any] = {}
        if self.precision is not None:
            precision = self.precision.summary(names)
            for kind in self.precision.kinds:
                start, title = ("", "AP") if kind == "mask" else (f"{kind}_", f"{kind} AP")
                table[title] = precision.pop(f"{start}by_class")
        for key, title in QUALITY.items():
            table[title] = {name: values[key] for name, values in by_class.items()}
        return quality, precision, table


def only(found: Segmentation, classes: Collection[int]) -> Segmentation:
    """The same without regions of other classes; their pixels are nobody's."""
    kept = [i for i, one in enumerate(found.regions) if one.label in classes]
    if len(kept) == len(found.regions):
        return found
    table = np.zeros(len(found.regions) + 2, found.ids.dtype)
    table[0], table[np.array(kept, int) + 2] = -1, np.arange(1, len(kept) + 1)
    return Segmentation(table[found.ids + 1], tuple(found.regions[i] for i in kept))


def flattened(found: Segmentation) -> tuple[np.ndarray, list[Region]]:
    """One layer (H, W) of numbers, where objects overlap the first one's, and the regions that are left."""
    ids = first_of(found.ids)
    if len(found.ids) == 1:
        return ids, list(found.regions)
    present = np.unique(ids[ids > 0])
    table = np.zeros(len(found.regions) + 2, ids.dtype)
    table[0], table[present + 1] = -1, np.arange(1, len(present) + 1)
    return table[ids + 1], [found.regions[number - 1] for number in present]


class SegmentScoring:
    """A mask classifier or detector and the segments that it is scored on; the options are those of `evaluate`."""

    def __init__(
        self,
        model: MaskModel | InstanceModel,
        dataset: SegmentDataset,
        *,
        task: str,
        engine: str = "torch",
        precision: str = "fp32",
        device: torch.device | str | None = None,
        mode: str = "whole",
        tile: int = 1024,
        overlap: int | float = 0.25,
        threshold: float | None = None,
        boundary_ratio: float | None = 0.02,
        num_classes: int | None = None,
        worst: int = 0,
    ) -> None:
        info = dataset.info
        if model.num_classes == info.num_classes == 1:
            self.match = ClassMatch(info.classes, info.palette)
        else:
            self.match = match_classes(model.num_classes, model.classes, info.classes, info.palette, num_classes)
        self.dataset, self.task, self.mode = dataset, task, mode
        # precision wants every instance, however unsure
        least = 0.0 if task == "instance" and threshold is None else threshold
        federated = isinstance(dataset, LVIS)
        self.predictor = SegmentPredictor(
            model,
            task=task,
            threshold=least,
            count=MOST if federated else 100,
            engine=engine,
            precision=precision,
            device=device,
            tile=tile if mode == "slide" else None,
            overlap=overlap,
        )
        self.predictor.things = _in_model(dataset.things, self.match)  # the data say what is stuff
        kinds = ("mask", "box", "boundary") if boundary_ratio else ("mask", "box")
        frequency = dataset.frequency if federated else None
        self.tally = SegmentTally(
            self.match, dataset.things, kinds if task == "instance" else (), worst, frequency=frequency
        )
        if self.tally.precision is not None and boundary_ratio:
            self.tally.precision.dilation_ratio = boundary_ratio
        self.boundary_ratio = boundary_ratio

    @property
    def network(self) -> Network:
        """What computes the masks, and for how long."""
        return self.predictor.network

    def run(self, indices: Sequence[int], batch_size: int, readers: int) -> Iterator[int]:
        """Scores these pictures; yields after each batch how many are done."""
        for batch in batches(read_ahead(self.read, indices, readers), batch_size if self.mode == "whole" else 1):
            for sample, found in zip(batch, self.find(batch), strict=True):
                self.tally.add(sample, found)
            yield self.tally.images

    def find(self, batch: Sequence[LabelledPicture]) -> list[SegmentMap]:
        """The segments of pictures of one size."""
        pixels = torch.stack([sample.pixels for sample in batch])
        height, width = pixels.shape[-2:]
        network = self.network
        if self.mode == "slide" or min(height, width) < 32:
            rows = with_channels(pixels, network.in_channels)
            return [self.predictor.find(ArrayRows(one.permute(1, 2, 0).numpy())) for one in rows]
        seen = prepare(pixels, network.in_channels, network.preprocessing)
        masks = network(seen)
        if not masks.finite:
            raise ValueError(
                f"the model's logits are not finite on {', '.join(s.name for s in batch)}; nothing was scored"
            )
        small = (seen.shape[-2], seen.shape[-1])
        return self.predictor.read(masks, small, (height, width))

    def read(self, index: int) -> LabelledPicture:
        """Picture number `index`."""
        picture, truth = self.dataset.load(index)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        known = self.dataset.known(index) if isinstance(self.dataset, LVIS) else {}
        return LabelledPicture(index, self.dataset.name(index), picture, pixels, truth, known)

    def options(self) -> dict[str, Any]:
        """How it was done, for the report."""
        slide = f"tiles of {self.predictor.tile} px, joined" if self.mode == "slide" else "whole image"
        return {
            "protocol": f"{self.task}, {slide}",
            "task": self.task,
            "mode": self.mode,
            "tile": self.predictor.tile,
            "overlap": self.predictor.overlap if self.mode == "slide" else None,
            "threshold": self.predictor.threshold,
            "boundary_ratio": self.boundary_ratio if self.task == "instance" else None,
        }

    def report(self, **facts: Any) -> SegmentReport:
        """The report of what was scored so far; `facts`: the fields that say how it was measured."""
        tally = self.tally
        quality, precision, table = tally.scores()
        return SegmentReport(
            task=self.task,
            quality=quality,
            precision=precision,
            table_by_class=table,
            segments=dict(zip(self.match.names, tally.segments.tolist(), strict=True)),
            confusion=tally.confusion,
            classes=self.match.names,
            palette=self.match.palette,
            images=tally.images,
            worst=tally.worst.images(),
            **facts,
        )


def _in_model(things: Sequence[int], match: ClassMatch) -> tuple[int, ...]:
    """The model's indices of classes of the data."""
    return tuple(things) if match.select is None else tuple(sorted(match.select[one] for one in things))


class LabelMaps:
    """A data set of segments as one of classes of pixels: for semantic scores."""

    task = "segmentation"

    def __init__(self, dataset: SegmentDataset) -> None:
        self.dataset, self.info = dataset, dataset.info
        self.split, self.notes = dataset.split, list(dataset.notes)
        if dataset.info.num_classes > 1 and len(dataset.things) == dataset.info.num_classes:
            self.notes.append("what is no object has no class: only pixels of objects count")

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        return self.dataset.name(index)

    def load(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """RGB picture and class indices uint8 (H, W), 255 = ignored."""
        picture, found = self.dataset.load(index)
        return picture, found.label_map(self.info.num_classes)
