"""Mask classification, and detection with masks: crops with segments, or with a class for every pixel, scored as `segmentarium
evaluate` scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric import Fabric
from PIL import Image

from segmentarium.contracts import InstanceModel, MaskModel
from segmentarium.data import SegmentationDataset, SegmentDataset, TrainingStream, segment_train_transform
from segmentarium.evaluation.score import chosen_task
from segmentarium.evaluation.segments import LabelledPicture, LabelMaps, SegmentScoring, flattened
from segmentarium.files import write_png
from segmentarium.inference.segment_drawing import segment_overlay
from segmentarium.inference.segment_map import measured
from segmentarium.inference.segments import SURE
from segmentarium.training.loaders import TimedLoader, endless, joined, open_dataset, worker_count
from segmentarium.training.long_tail import counted
from segmentarium.training.options import TrainingOptions
from segmentarium.training.preflight import LOOKED_AT
from segmentarium.training.tasks import Evaluation, refuse_unused
from segmentarium.training.tasks.labelled import labelled_model
from segmentarium.training.tasks.segmentation import PICTURES, SegmentationTask

BEST = {"semantic": ("miou", "mIoU"), "instance": ("ap", "AP"), "panoptic": ("pq", "PQ")}


class MaskTask(SegmentationTask):
    """Crops {"image" (B, 3, H, W), "segments" a `Segments` each} for a MaskModel; mIoU, AP or PQ decides.

    Data with a class for every pixel give {"image", "mask"}, of which each class that is there is one segment.
    """

    train_set: Any
    val_set: Any

    def __init__(self, options: TrainingOptions) -> None:
        self.options = options
        self.train_set, self.val_set = (
            open_dataset(options, split) for split in (options.train_split, options.val_split)
        )
        if not isinstance(self.train_set, SegmentDataset | SegmentationDataset):
            raise ValueError(
                f"data set {options.data!r} has neither segments nor a class for each pixel; give --data instances, "
                "coco_panoptic, …, or folder"
            )
        if isinstance(self.train_set, SegmentDataset) and options.max_class_ratio < 1:  # 1, never, is what is done
            why = f"data set {options.data!r} has segments, of whose crops none is redrawn"
            refuse_unused(options, ("max_class_ratio",), why)
        self.task = chosen_task(None if options.task == "auto" else options.task, self.train_set)
        if self.task != "semantic" and not isinstance(self.train_set, SegmentDataset):
            raise ValueError(
                f"data set {options.data!r} has a class for each pixel and tells no segments apart: it cannot be scored as "
                f"{self.task}; leave task out, or give --data instances, coco_panoptic, …"
            )
        self.best_key, self.best_name = BEST[self.task]

    @property
    def label_maps(self) -> Any:
        return LabelMaps(self.val_set) if isinstance(self.val_set, SegmentDataset) else self.val_set

    def check(self) -> Iterator[str]:
        if not isinstance(self.train_set, SegmentDataset):
            yield from super().check()
            return
        if self.train_set.info.classes != self.val_set.info.classes:
            raise ValueError(
                f"{self.options.train_split!r} and {self.options.val_split!r} of {self.options.root} have other classes"
            )
        for split, dataset in ((self.options.train_split, self.train_set), (self.options.val_split, self.val_set)):
            number = min(LOOKED_AT, len(dataset))
            regions = [region for index in range(number) for region in dataset.load(index)[1].regions]
            if all(region.crowd for region in regions):
                yield (
                    f"warning: the first {number} pictures of split {split!r} have no segment at all; "
                    "see `segmentarium check-data`"
                )

    def model(self) -> MaskModel | InstanceModel:  # type: ignore[override]
        options, info = self.options, self.train_set.info
        model = labelled_model(options, info)
        assert isinstance(model, MaskModel | InstanceModel)
        model.palette = info.palette
        model.things = self.train_set.things if isinstance(self.train_set, SegmentDataset) else ()
        if options.long_side is not None:
            model.preprocessing = replace(model.preprocessing, long_side=options.long_side, short_side=None)
        return model

    def batches(self, model: Any, fabric: Fabric, micro_batch: int, step: int) -> TimedLoader:
        if not isinstance(self.train_set, SegmentDataset):
            return super().batches(model, fabric, micro_batch, step)
        options = self.options
        transform = segment_train_transform(
            options.crop_size,
            options.scale,
            0.5 if options.flip else 0.0,
            options.photometric,
            options.rotate,
            model.preprocessing.mean,
            model.preprocessing.std,
            long_side=model.preprocessing.long_side,
            even_scales=options.even_scales,
            degrade=options.degrade,
        )
        stream = TrainingStream(self.train_set, transform, options.seed, **joined(options, model))
        return endless(stream, options, fabric, micro_batch, step)

    def evaluate(self, model: Any, fabric: Fabric, batch_size: int, stopped: Callable[[], bool]) -> Evaluation | None:
        if self.task == "semantic":
            return super().evaluate(model, fabric, batch_size, stopped)
        scoring = self._scoring(model, fabric)
        mine = range(fabric.global_rank, len(self.val_set), fabric.world_size)
        for _ in scoring.run(mine, batch_size, max(2, worker_count(self.options, fabric.world_size))):
            if stopped():
                return None
        scoring.tally.all_reduce()
        quality, precision, table = scoring.tally.scores()
        # where there is no object at all there is nothing to decide by
        scores = {
            key: 0.0 if value != value and key == self.best_key else value
            for key, value in (precision | quality).items()
        }
        scores = {key: None if value != value else value for key, value in scores.items()}
        column = "AP" if self.task == "instance" else "PQ"
        by_class = {f"{column} {name}": None if value != value else value for name, value in table[column].items()}
        shown = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "pq": "PQ", "sq": "SQ", "rq": "RQ"}
        given = {name: value for key, name in shown.items() if (value := scores.get(key)) is not None}
        line = "  ".join(f"{name} {100 * value:.2f}" for name, value in given.items())
        return Evaluation(scores, {**scores, **by_class}, line)

    def _scoring(self, model: Any, fabric: Fabric) -> SegmentScoring:
        return SegmentScoring(model, self.val_set, task=self.task, device=fabric.device, boundary_ratio=None)

    def draw(self, model: Any, fabric: Fabric, path: Path) -> None:
        """A row for each picture: as it is, with the labelled segments, with those that were found."""
        if self.task == "semantic":
            return super().draw(model, fabric, path)
        scoring, info = self._scoring(model, fabric), self.val_set.info
        rows = []
        for index in range(min(PICTURES, len(self.val_set))):
            sample: LabelledPicture = scoring.read(index)
            (found,) = scoring.find([sample])
            flat, regions = flattened(sample.truth)
            target = measured(flat.clip(0), {i: (one.label, 1.0) for i, one in enumerate(regions, 1)})
            picture = np.array(sample.picture)
            shown = found.surer_than(SURE) if self.task == "instance" else found
            drawn = [
                segment_overlay(picture, one, info.classes, info.palette, self.val_set.things)
                for one in (target, shown)
            ]
            rows.append(np.concatenate([picture, *drawn], 1))
        width = max(row.shape[1] for row in rows)
        rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
        write_png(path, Image.fromarray(np.concatenate(rows)))
        return None


class InstanceTask(MaskTask):
    """The same crops for an InstanceModel; AP decides.  Stuff, where the data have it, is learned by a branch for it alone."""

    def __init__(self, options: TrainingOptions) -> None:
        if options.task not in ("auto", "instance"):
            raise ValueError(
                f"{options.model!r} finds objects, which are scored by AP: leave task ({options.task}) out"
            )
        super().__init__(options.replace(task="instance"))
        self.options = options

    def model(self) -> MaskModel | InstanceModel:
        options = self.options
        if isinstance(self.train_set, SegmentDataset):
            self.options = options.replace(model_arguments=counted(options.model_arguments, self.train_set))
        found = super().model()
        self.options = options  # as they were given
        return found
