"""Boxes in point clouds, with or without a map, scored by nuScenes' precision by distance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning.fabric import Fabric

from segmentarium.contracts import Detector3d
from segmentarium.data.samplers import TrainingStream
from segmentarium.data.scan_transforms import ObjectBank, TrainScan
from segmentarium.data.scans import ScanDataset, collate_scans
from segmentarium.evaluation.scans import ScanScoring
from segmentarium.inference.scans import ScanDetector, from_above, map_of
from segmentarium.registry import create_model
from segmentarium.training.loaders import TimedLoader, endless, open_dataset, worker_count
from segmentarium.training.options import TrainingOptions
from segmentarium.training.preflight import LOOKED_AT
from segmentarium.training.tasks import Evaluation, refuse_unused

UNUSED = ("mean", "std", "backbone_weights")  # of networks that see pictures
PICTURES, SIDE = 4, 400  # drawn at each evaluation, and pixels of their longer sides


class Boxes3dTask:
    """Scans {"points" (B, N, F), "boxes" (B, M, 10), and "map"} for a detector; the mAP by distance of centres decides."""

    best_key, best_name = "map", "mAP"
    shares = True
    train_set: ScanDataset
    val_set: ScanDataset

    def __init__(self, options: TrainingOptions) -> None:
        refuse_unused(options, UNUSED, f"{options.model!r} finds boxes in point clouds")
        self.options, self.crop_size = options, (0, 0)  # `model` knows better
        self.train_set, self.val_set = (
            open_dataset(options, split) for split in (options.train_split, options.val_split)
        )
        if not isinstance(self.train_set, ScanDataset):
            raise ValueError(
                f"data set {options.data!r} has no point clouds; give --data kitti, nuscenes, argoverse2 or "
                "lidar_folder"
            )
        for dataset in (self.train_set, self.val_set):
            if not len(dataset):
                raise ValueError(f"split {dataset.split!r} of {options.root} has no scans")

    def check(self) -> Iterator[str]:
        seen = np.zeros(self.train_set.info.num_classes, int)
        for dataset in (self.train_set, self.val_set):
            for index in range(min(LOOKED_AT, len(dataset))):
                scan = dataset.load(index)
                if dataset is self.train_set:
                    seen += np.bincount(scan.labels, minlength=len(seen))
        missing = [name for name, count in zip(self.train_set.info.classes, seen, strict=True) if not count]
        if missing:
            yield f"warning: the first scans of {self.options.train_split!r} have no {', '.join(missing[:6])}"

    def model(self) -> Detector3d:
        options, info = self.options, self.train_set.info
        arguments = {"num_classes": info.num_classes, **options.model_arguments}
        model = create_model(options.model, weights=options.weights, **arguments)
        if not isinstance(model, Detector3d) or model.num_classes != info.num_classes:
            raise ValueError(
                f"{options.model!r} finds {getattr(model, 'num_classes', 'no')} classes, and data set {info.name!r} has "
                f"{info.num_classes}; leave num_classes out"
            )
        model.classes = info.classes
        scan = self.train_set.load(0)
        if scan.points.shape[1] < model.in_channels:
            raise ValueError(
                f"points of {info.name!r} have {scan.points.shape[1]} values, and the model takes {model.in_channels}; give "
                f"--set in_channels={scan.points.shape[1]}"
            )
        if "map" in model.inputs and scan.place is None:
            raise ValueError(
                f"{options.model!r} reads a map, and {scan.name} of {info.name!r} comes without; train the detector "
                "alone, or put the map where the data set has it"
            )
        self.crop_size = model.map_size
        return model

    def batches(self, model: Any, fabric: Fabric, micro_batch: int, step: int) -> TimedLoader:
        options = self.options
        bank = ObjectBank(self.train_set) if options.paste else None
        transform = TrainScan(
            model.in_channels,
            (lambda scan: map_of(model, scan)) if "map" in model.inputs else None,
            flip=options.flip,
            all_round=model.area[0] < 0,  # a sensor that looks ahead alone is not mirrored backwards
            turn=TrainScan.turn if options.turn is None else options.turn,
            scale=options.stretch,
            shift=options.shift,
            noise=options.point_noise,
            object_noise=options.object_noise,
            bank=bank,
            wanted=(options.paste,) * self.train_set.info.num_classes,
        )
        stream = TrainingStream(self.train_set, transform, options.seed)  # type: ignore[arg-type]
        return endless(stream, options, fabric, micro_batch, step, collate=collate_scans)

    def evaluate(self, model: Any, fabric: Fabric, batch_size: int, stopped: Callable[[], bool]) -> Evaluation | None:
        scoring = ScanScoring(model, self.val_set)
        for _ in scoring.run(range(len(self.val_set)), batch_size, worker_count(self.options, fabric.world_size) or 1):
            if stopped():
                return None
        nuscenes, argoverse, kitti = scoring.tally.scores()
        ap = nuscenes.pop("ap")
        found = {**nuscenes, "cds": argoverse["cds"], "ap3d": kitti["ap3d"]}
        line = (
            f"mAP {100 * found['map']:.2f}  NDS* {100 * found['nds']:.2f}  CDS {100 * found['cds']:.2f}  "
            f"AP 3-D R40 {100 * found['ap3d']:.2f}"
        )
        return Evaluation({**found, "ap": list(ap.values())}, {**found, **{f"ap {k}": v for k, v in ap.items()}}, line)

    @torch.inference_mode()
    def draw(self, model: Any, fabric: Fabric, path: Path) -> None:
        """A few scans from above: labelled boxes white, found ones in colour."""
        places = torch.linspace(0, len(self.val_set) - 1, min(PICTURES, len(self.val_set))).long().unique().tolist()
        scans = [self.val_set.load(index) for index in places]
        shown = [
            from_above(scan, model.area, found, pixels=SIDE)
            for scan, found in zip(scans, ScanDetector(model, 0.3)(scans), strict=True)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.concatenate(shown, 1)[..., ::-1])
