"""Segmentation: crops with a class for every pixel, scored as `segmentarium evaluate` scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric import Fabric
from PIL import Image

from segmentarium.contracts import Backbone, SegmentationModel
from segmentarium.data import SegmentationDataset, SegmentDataset, TrainingStream, train_transform
from segmentarium.data.drawn_labels import DrawnLabels
from segmentarium.evaluation.classes import match_classes
from segmentarium.evaluation.diagnosis import label_warning
from segmentarium.evaluation.samples import with_logits
from segmentarium.evaluation.tally import Tally, predicted_classes
from segmentarium.files import write_png
from segmentarium.inference.network import Network
from segmentarium.inference.windows import whole
from segmentarium.training.loaders import TimedLoader, endless, joined, open_dataset, worker_count
from segmentarium.training.objective import set_objective
from segmentarium.training.options import TrainingOptions
from segmentarium.training.preflight import check_labels
from segmentarium.training.tasks import Evaluation
from segmentarium.training.tasks.labelled import labelled_model

PICTURES = 4  # drawn at each evaluation
STRIDE = 32  # of networks that do not tell


def label_maps(options: TrainingOptions, split: str) -> Any:
    """The data set of a split, its objects as classes of pixels beside a background."""
    dataset = open_dataset(options, split)
    objects = isinstance(dataset, SegmentDataset) and len(dataset.things) == dataset.info.num_classes
    return DrawnLabels([dataset], cache=options.cache) if objects else dataset


class SegmentationTask:
    """Crops {"image" (B, 3, H, W), "mask" (B, H, W) int64, 255 = ignored} for a SegmentationModel; mIoU decides."""

    best_key, best_name = "miou", "mIoU"
    shares = True
    train_set: SegmentationDataset
    val_set: SegmentationDataset

    def __init__(self, options: TrainingOptions) -> None:
        self.options = options
        self.train_set, self.val_set = (
            label_maps(options, split) for split in (options.train_split, options.val_split)
        )
        if not isinstance(self.train_set, SegmentationDataset):
            raise ValueError(f"data set {options.data!r} has no class for each pixel; give --data folder, …")

    @property
    def crop_size(self) -> tuple[int, int]:
        return self.options.crop_size

    def check(self) -> Iterator[str]:
        yield from check_labels(self.train_set, self.options.train_split)
        yield from check_labels(self.val_set, self.options.val_split)

    def model(self) -> SegmentationModel:
        options, info = self.options, self.train_set.info
        if info.num_classes == 1:
            raise ValueError(
                f"data set {info.name!r} has one class, {info.classes[0]!r}, so that every pixel would be right; "
                "name the background as a class of its own"
            )
        model = labelled_model(options, info, self.train_set.bands)
        assert isinstance(model, SegmentationModel)
        model.palette = info.palette
        if options.long_side is not None:
            backbone = getattr(model, "backbone", None)
            multiple = max(backbone.strides) if isinstance(backbone, Backbone) else STRIDE
            model.preprocessing = replace(model.preprocessing, long_side=options.long_side, multiple=multiple)
        set_objective(model, self.train_set, options)
        return model

    def batches(self, model: Any, fabric: Fabric, micro_batch: int, step: int) -> TimedLoader:
        options = self.options
        transform = train_transform(
            options.crop_size,
            options.scale,
            0.5 if options.flip else 0.0,
            options.photometric,
            options.max_class_ratio,
            options.rotate,
            model.preprocessing.mean,
            model.preprocessing.std,
            long_side=model.preprocessing.long_side,
            even_scales=options.even_scales,
            degrade=options.degrade,
        )
        stream = TrainingStream(self.train_set, transform, options.seed, options.class_mix, **joined(options, model))
        return endless(stream, options, fabric, micro_batch, step)

    @property
    def label_maps(self) -> Any:
        """The pictures that are scored, and a class for each of their pixels."""
        return self.val_set

    def evaluate(self, model: Any, fabric: Fabric, batch_size: int, stopped: Callable[[], bool]) -> Evaluation | None:
        info = self.val_set.info
        network = Network(model, "torch", "fp32", fabric.device)
        match = match_classes(model.num_classes, model.classes, info.classes, info.palette)
        tally = Tally(match, None, 0, fabric.device)
        mine = range(fabric.global_rank, len(self.val_set), fabric.world_size)
        readers = max(2, worker_count(self.options, fabric.world_size))
        for samples, logits in with_logits(
            network, partial(whole, network), self.label_maps, mine, batch_size, readers
        ):
            if stopped():
                return None
            tally.add(samples, logits)
        tally.matrix.all_reduce()
        found: dict[str, Any] = tally.matrix.summary()
        iou = [None if value != value else value for value in tally.matrix.iou().tolist()]
        scores = {key: found[key] for key in ("miou", "macc", "aacc")}
        line = f"mIoU {100 * found['miou']:.2f}  mAcc {100 * found['macc']:.2f}  aAcc {100 * found['aacc']:.2f}"
        by_class = {f"iou {name}": value for name, value in zip(match.names, iou, strict=True)}
        doubt = label_warning(tally.matrix.counts.cpu().numpy(), found["miou"], match.names)
        return Evaluation({**scores, "iou": iou}, {**scores, **by_class}, line, doubt)

    def draw(self, model: Any, fabric: Fabric, path: Path) -> None:
        """A row for each picture: image, target, prediction; ignored pixels are black."""
        network = Network(model, "torch", "fp32", fabric.device)
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(model.palette)] = np.array(model.palette, np.uint8)
        rows = []
        first = range(min(PICTURES, len(self.val_set)))
        for (sample,), logits in with_logits(network, partial(whole, network), self.label_maps, first, 1, 2):
            predicted = predicted_classes(logits, sample.target.shape)[0].cpu().numpy()
            rows.append(
                np.concatenate([np.array(sample.picture), palette[sample.target.numpy()], palette[predicted]], 1)
            )
        width = max(row.shape[1] for row in rows)
        rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
        write_png(path, Image.fromarray(np.concatenate(rows)))
