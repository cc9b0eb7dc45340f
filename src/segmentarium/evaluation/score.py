"""`evaluate`: one pass over a data set, in memory that does not depend on the number of its images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from segmentarium.checks import check_choice
from segmentarium.contracts import (
    TASKS,
    Classifier,
    Detector3d,
    InstanceModel,
    KeypointModel,
    MaskModel,
    SegmentationModel,
    adopt,
    asked_task,
    task_of,
)
from segmentarium.data import PictureDataset, SegmentDataset
from segmentarium.data.coco_keypoints import CocoKeypoints
from segmentarium.data.drawn_labels import BACKGROUND, DrawnLabels
from segmentarium.data.hpatches import HPatches
from segmentarium.data.scans import ScanDataset
from segmentarium.evaluation.base import check_output
from segmentarium.evaluation.classes import ClassMatch, match_classes
from segmentarium.evaluation.classification import ClassificationReport, LabelledPictures, PictureScoring
from segmentarium.evaluation.diagnosis import label_warning
from segmentarium.evaluation.facts import facts_of, machine_of, trained_on_warning, versions
from segmentarium.evaluation.keypoints import PairReport, evaluate_pairs
from segmentarium.evaluation.poses import PoseReport, evaluate_poses
from segmentarium.evaluation.report import Report
from segmentarium.evaluation.samples import LabelledImages, Sample, with_logits
from segmentarium.evaluation.scans import ScanReport, ScanScoring
from segmentarium.evaluation.segments import LabelMaps, SegmentReport, SegmentScoring
from segmentarium.evaluation.tally import Tally
from segmentarium.inference.engines import Engine
from segmentarium.inference.network import Network
from segmentarium.inference.tta import augmented
from segmentarium.inference.windows import sliding, whole

Mode = Literal["whole", "slide"]


def evaluate(
    model: nn.Module | str | Path,
    dataset: LabelledImages | LabelledPictures | SegmentDataset | CocoKeypoints | HPatches,
    *,
    task: str | None = None,
    mode: Mode | None = None,
    tile: int | None = None,
    overlap: int | float | None = None,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    engine: str | Engine = "torch",
    precision: str = "fp32",
    device: torch.device | str | None = None,
    batch_size: int = 1,
    num_classes: int | None = None,
    boundary_ratio: float | None = 0.02,
    size: int | None = None,
    crop_ratio: float | None = None,
    beside: Sequence[str] = (),
    worst: int = 8,
    limit: int | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    readers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Report | SegmentReport | ClassificationReport | ScanReport | PoseReport | PairReport:
    """Scores of a model on labelled images: the `Report` of a segmenter, the `SegmentReport` of what tells segments apart, the
    `ClassificationReport` of a classifier, the `ScanReport` of a detector in point clouds, the `PoseReport` of joints, the
    `PairReport` of points.

    model           a model, or what `load` takes: a catalogue name, a file
    dataset         label maps for a segmenter, segments for a mask classifier, pictures with one class each for a classifier,
                    persons with joints, pairs of pictures with homographies
    task            of a mask classifier: "semantic" (mIoU), "instance" (AP) or "panoptic" (PQ); None: by the data, of segments
                    "panoptic" where there is stuff among the classes, else "instance" ("semantic" where all is stuff)
    mode            "whole" images, or "slide": windows of at most `tile` pixels a side that share `overlap` (pixels as int,
                    a share of the tile as float) with their neighbours and are blended; None: as the model's preprocessing
                    says, which published weights bring along, else "whole"
    tile, overlap   of mode "slide", and refused without it; None: 1024 and 0.25
    flip, scales    averages the probabilities of the mirrored image and of several scales
    engine          "torch", "compile", "onnxruntime", "openvino", "auto", or an engine that was built already
    batch_size      images (mode "whole") or windows ("slide") to one call; images share a call where they have one size
    num_classes     takes the first so many logits and leaves further ones out; must be the number of the data's classes
    boundary_ratio  distance of the boundary IoU as a share of the image's diagonal; None leaves it out
    size            of a classifier: side of the square that it sees; None: as its file says, else 224
    crop_ratio      of a classifier: share of the picture's shorter side that the square shows; None: as its file says, else
                    0.875, and 1 of pictures of 64 pixels or less
    beside          of points: OpenCV's detectors that are scored in the same run (`matching.classical.NAMES`)
    worst           how many of the worst images the report shows
    limit           stops after so many images
    output          a folder for report.json, report.html and pictures
    overwrite       files there are replaced; else only those of an earlier report, and FileExistsError for others
    readers         threads that read ahead
    progress        called with (images done, images in all)

    Of a segmenter, the logits are brought to the label's size before the greatest is taken, and pixels labelled 255 count
    nowhere; mode, tile, overlap, flip, scales and boundary_ratio are for segmenters.

    Raises TypeError for data of another task than the model's; ValueError for options or classes that do not fit, an empty
    data set, or logits that are not finite (naming the image); what the data set raises for a file that cannot be read;
    ImportError for an engine that is not installed.
    """
    _check(mode, batch_size, limit, len(dataset))
    if mode != "slide" and (tile is not None or overlap is not None):
        raise ValueError(
            'tile and overlap are of windows of your own: give mode "slide" (--mode slide) with them, or leave them out'
        )
    tile, overlap = 1024 if tile is None else tile, 0.25 if overlap is None else overlap
    if isinstance(model, str | Path):
        from segmentarium.weights import load

        source, model = str(model), load(model)
    else:
        model = adopt(model)
        source = model.title
    if not isinstance(model, MaskModel):
        asked_task(model, task)
    if output is not None:
        check_output(output, overwrite=overwrite)
    if isinstance(model, Detector3d):
        given = {
            "mode": mode == "slide",
            "flip": flip,
            "scales": _several(scales),
            "size": size,
            "crop_ratio": crop_ratio,
        }
        given |= {
            "engine": engine != "torch",
            "precision": precision != "fp32",
            "num_classes": num_classes,
            "beside": beside,
        }
        _refuse(source, model.kind, dataset, "boxes3d", **given)
        report = _evaluate_scans(model, dataset, source, device, batch_size, limit, readers, progress)
        if output is not None:
            report.save(output, overwrite=overwrite)
        return report
    if isinstance(model, KeypointModel):
        given = {"mode": mode == "slide", "flip": flip, "scales": _several(scales), "size": size}
        given |= {"crop_ratio": crop_ratio, "num_classes": num_classes, "beside": beside and model.joints}
        _refuse(source, model.kind, dataset, "keypoints" if model.joints else "pairs", **given)
        if isinstance(engine, Engine):
            raise ValueError(f"engine is {engine}; of key points give its name")
        runs = {"engine": engine, "precision": precision, "device": device}
        if model.joints:
            found = evaluate_poses(model, dataset, source, runs, limit, readers, progress)
        else:
            found = evaluate_pairs(model, dataset, source, runs, beside, limit, progress)
        if output is not None:
            found.save(output, overwrite=overwrite)
        return found
    if beside:
        raise ValueError(
            f"{source} is a {model.kind}; OpenCV's detectors stand beside key points alone: leave beside out"
        )
    common = {"num_classes": num_classes, "worst": worst}
    network = partial(Network, model, engine, precision, device)
    scoring: Scoring
    data: Any = dataset  # whose labels fit the kind, as `_refuse` sees to
    if isinstance(model, Classifier):
        _refuse(source, model.kind, dataset, "classification", mode=mode == "slide", flip=flip, scales=_several(scales))
        scoring = PictureScoring(model, network, data, size=size, crop_ratio=crop_ratio, **common)
    elif isinstance(model, InstanceModel) or (
        isinstance(model, MaskModel) and chosen_task(task, dataset) != "semantic"
    ):
        if isinstance(model, InstanceModel):
            task = asked_task(model, task)
        _refuse(
            source,
            model.kind,
            dataset,
            "segments",
            flip=flip,
            scales=_several(scales),
            size=size,
            crop_ratio=crop_ratio,
        )
        if isinstance(engine, Engine):
            raise ValueError(f"engine is {engine}, of which nobody knows that it gives masks; give its name")
        options = {"engine": engine, "precision": precision, "device": device, "mode": mode or "whole", "tile": tile}
        options |= {"overlap": overlap, "boundary_ratio": boundary_ratio}
        scoring = SegmentScoring(model, data, task=chosen_task(task, dataset), **options, **common)
    elif isinstance(model, SegmentationModel | MaskModel):
        if isinstance(dataset, SegmentDataset):
            # as objects are trained on as classes of pixels
            drawn = model.classes == (BACKGROUND[0], *dataset.info.classes)
            data = dataset = DrawnLabels([dataset]) if drawn else LabelMaps(dataset)
        _refuse(source, model.kind, dataset, "segmentation", size=size, crop_ratio=crop_ratio)
        options = {"mode": mode, "tile": tile, "overlap": overlap, "flip": flip, "scales": scales}
        scoring = MapScoring(model, network, data, boundary_ratio=boundary_ratio, **options, **common)
    else:
        raise TypeError(f"{source} is a {model.kind}: neither label maps nor classes of pictures can score it")

    started = time.perf_counter()
    total = len(dataset) if limit is None else min(limit, len(dataset))
    for done in scoring.run(range(total), batch_size, max(readers, 1)):
        if progress is not None:
            progress(done, total)
    options = {**scoring.options(), "batch_size": batch_size, "num_classes": num_classes, "limit": limit}
    report = scoring.report(
        **facts_of(scoring.network, source, dataset, options, started),
        model_seconds=scoring.network.seconds,
        notes=[*getattr(dataset, "notes", ()), *_depth_note(model, dataset), *scoring.match.notes],
        warning=trained_on_warning(model.weights_header, dataset),
    )
    if output is not None:
        report.save(output, overwrite=overwrite)
    return report


def _depth_note(model: Any, dataset: Any) -> list[str]:
    """That deep pictures are brighter or darker here than where the model learnt."""
    said, read = model.preprocessing.bits, getattr(dataset, "bits", None)
    if said is None or said == read:
        return []
    how = "by the bits that each needs" if read is None else f"as of {read} bits"
    return [f"deep pictures are read {how}, and the model learnt from such of {said}; give the data set bits={said}"]


def _evaluate_scans(
    model: Detector3d,
    dataset: Any,
    source: str,
    device: torch.device | str | None,
    batch_size: int,
    limit: int | None,
    readers: int,
    progress: Callable[[int, int], None] | None,
) -> ScanReport:
    from segmentarium.inference.engines import default_device

    place = default_device(device)
    started = time.perf_counter()
    scoring = ScanScoring(model.to(place), dataset)
    total = len(dataset) if limit is None else min(limit, len(dataset))
    for done in scoring.run(range(total), batch_size, readers):
        if progress is not None:
            progress(done, total)
    info = dataset.info
    return scoring.report(
        seconds=time.perf_counter() - started,
        model={"name": source, "classes": list(model.classes), "area": list(model.area)},
        data={"name": info.name, "split": dataset.split, "images_in_split": len(dataset), "licence": info.licence},
        options={
            "protocol": "boxes within the area that the model looks at; nuScenes' AP by distance, Argoverse 2's CDS without a "
            "region of interest, KITTI's AP with 40 recalls, by its levels where they are labelled",
            "batch_size": batch_size,
            "limit": limit,
        },
        machine=machine_of(place),
        versions=versions(),
        notes=[*dataset.notes, *scoring.notes],
    )


def chosen_task(task: str | None, dataset: Any) -> str:
    """What a mask classifier is scored by: as asked for, else by the data.  ValueError for what is none."""
    check_choice("task", task, (*TASKS, None))
    if task is not None:
        return task
    return task_of(dataset.things, dataset.info.num_classes) if isinstance(dataset, SegmentDataset) else "semantic"


class Scoring(Protocol):
    """A model and the data that it is scored on."""

    match: ClassMatch

    @property
    def network(self) -> Network: ...

    def run(self, indices: Sequence[int], batch_size: int, readers: int) -> Iterator[int]:
        """Scores these images; yields after each batch how many are done."""
        ...

    def options(self) -> dict[str, Any]:
        """How it was done, for the report."""
        ...

    def report(self, **facts: Any) -> Report | SegmentReport | ClassificationReport:
        """The report of what was scored so far; `facts`: the fields that say how it was measured."""
        ...


class MapScoring:
    """A segmenter and the label maps that it is scored on; the options are those of `evaluate`.

    Without any: one pass, whole or in the windows that the weights ask for, and neither boundaries nor worst pictures are kept.
    """

    def __init__(
        self,
        model: SegmentationModel | MaskModel,
        network: Callable[[], Network],
        dataset: LabelledImages,
        *,
        mode: Mode | None = None,
        tile: int = 1024,
        overlap: int | float = 0.25,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        boundary_ratio: float | None = None,
        num_classes: int | None = None,
        worst: int = 0,
    ) -> None:
        info = dataset.info
        self.match = match_classes(model.num_classes, model.classes, info.classes, info.palette, num_classes)
        self.network, self.dataset = network(), dataset
        self.tally = Tally(self.match, boundary_ratio, worst, self.network.device)
        self._forward = augmented(self.network, flip=flip, scales=scales, multiple=model.preprocessing.multiple)
        self._blend: dict[str, Any] = {}
        told = model.preprocessing
        if mode is None and told.tile is not None:
            mode, tile, overlap = "slide", told.tile, told.tile - (told.stride or 0)
            self._blend = {"blend": "mean", "spread": False}
        self._given = mode or "whole", tile, overlap, flip, scales, boundary_ratio

    def run(self, indices: Sequence[int], batch_size: int, readers: int) -> Iterator[int]:
        for batch, logits in self.answers(indices, batch_size, readers):
            self.tally.add(batch, logits)
            yield self.tally.images

    def answers(self, indices: Sequence[int], batch_size: int, readers: int) -> Iterator[tuple[list[Sample], Tensor]]:
        """These images and their logits (B, K, h, w), as they are scored: whole or in windows, at the size the network sees."""
        mode, tile, overlap, *_ = self._given
        once, together = partial(whole, self._forward), batch_size
        if mode == "slide":
            once = partial(sliding, self._forward, tile=tile, overlap=overlap, batch_size=batch_size, **self._blend)
            together = 1
        for batch, logits in with_logits(self.network, once, self.dataset, indices, together, readers):
            yield batch, logits.to(self.network.device)  # some engines compute elsewhere

    def options(self) -> dict[str, Any]:
        mode, tile, overlap, flip, scales, boundary_ratio = self._given
        return {
            "protocol": protocol(mode, tile, overlap, flip, scales),
            "mode": mode,
            "tile": tile if mode == "slide" else None,
            "overlap": overlap if mode == "slide" else None,
            "flip": flip,
            "scales": list(scales),
            "boundary_ratio": boundary_ratio,
        }

    def report(self, *, notes: Sequence[str], **facts: Any) -> Report:
        tally, names = self.tally, self.match.names
        summary: dict[str, Any] = tally.matrix.summary(names)
        edges: dict[str, Any] = tally.boundary.summary(names) if tally.boundary is not None else {}
        confusion = tally.matrix.counts.cpu().numpy()
        notes = list(notes)
        if tally.void == tally.images:
            notes.append("no image has a labelled pixel: there is nothing to score")
        if (warning := label_warning(confusion, summary["miou"], names)) is not None:
            notes.append(warning)
        return Report(
            miou=summary["miou"],
            macc=summary["macc"],
            aacc=summary["aacc"],
            iou=summary["iou"],
            acc=summary["accuracy"],
            boundary_iou=edges.get("boundary_iou"),
            boundary_iou_by_class=edges.get("boundary_iou_by_class"),
            false_alarms=tally.false_alarms(),
            confusion=confusion,
            classes=names,
            palette=self.match.palette,
            images=tally.images,
            void=tally.void,
            pixels=int(confusion.sum()),
            ignored=tally.ignored,
            worst=tally.worst.images(),
            notes=notes,
            **facts,
        )


def protocol(mode: str, tile: int, overlap: int | float, flip: bool, scales: Sequence[float]) -> str:
    """The field's words for how it was done: "single scale, whole image", "multi-scale (0.75, 1) + flip, slide …"."""
    scale = "single scale" if len(scales) == 1 else f"multi-scale ({', '.join(f'{s:g}' for s in scales)})"
    if len(scales) == 1 and scales[0] != 1:
        scale += f" {scales[0]:g}"
    shared = f"{overlap} px" if isinstance(overlap, int) else f"{overlap:.0%}"
    window = "whole image" if mode == "whole" else f"slide, windows of {tile} px with {shared} overlap"
    return f"{scale}{' + flip' if flip else ''}, {window}"


def _several(scales: Sequence[float]) -> bool:
    return tuple(scales) != (1.0,)


def _refuse(source: str, kind: str, dataset: Any, task: str, **options: Any) -> None:
    """Raises for the data and the options that are of another kind of model."""
    if isinstance(dataset, PictureDataset | ScanDataset) and dataset.task != task:
        labels = {
            "segmentation": "a class for every pixel",
            "segments": "segments",
            "classification": "a class for every picture",
            "boxes3d": "boxes in point clouds",
            "pairs": "pictures of the same, with homographies",
            "pictures": "no labels",
        }
        raise TypeError(
            f"{source} is a {kind}, but data set {dataset.info.name!r} is of {dataset.task}: "
            + labels.get(dataset.task, "joints of persons, or points")
            + {"pairs": "; give hpatches", "keypoints": "; give coco_keypoints"}.get(task, "")
        )
    if given := [name for name, value in options.items() if value]:
        raise ValueError(f"{source} is a {kind}, for which there is no {' and no '.join(given)}; leave it out")


def _check(mode: str | None, batch_size: int, limit: int | None, length: int) -> None:
    if mode not in (None, "whole", "slide"):
        raise ValueError(f'mode is {mode!r}; give "whole" or "slide"')
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give 1 or more")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; give the number of images to score, 1 or more")
    if length < 1:
        raise ValueError("the data set is empty: there is nothing to score")
