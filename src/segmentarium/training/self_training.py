"""Self-training: what a trained model is sure of becomes labels for the next one.

    teacher = SegmentPredictor("teacher.safetensors", task="instance", threshold=0.3, count=300)
    pseudo_labels(teacher, dataset, "runs/more")
    segmentarium train --data coco_instances --root runs/more …

Labels that people made stay as they are; a found object is added where none of theirs lies.  What is sure becomes an object, what
is only likely a region that counts nowhere, so that the next model is taught neither "yes" nor "no" there.  The score from which
on it is sure may depend on how frequent its class is, since a model is never as sure of rare ones.

The paper that this is for ("A good box is not a guarantee of a good mask", https://arxiv.org/abs/2009.01559) says neither its
thresholds nor how labels are joined; both are ours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from segmentarium.data.coco_instances import CocoInstances
from segmentarium.data.segments import Segmentation, SegmentDataset
from segmentarium.files import atomic_write, write_text
from segmentarium.inference.segment_map import SegmentMap
from segmentarium.media.readers import ArrayRows
from segmentarium.rle import Patch, encode

SURE, LIKELY = 0.7, 0.3
SAME = 0.5  # overlap above which a found object is one that people labelled
LOG = "pictures.jsonl"
KEPT = ("neg_category_ids", "not_exhaustive_category_ids")  # of LVIS's pictures

Threshold = float | Mapping[str, float]


class Finder(Protocol):
    """What finds objects: a `SegmentPredictor`."""

    classes: tuple[str, ...]
    model_name: str

    def find(self, image: ArrayRows) -> SegmentMap: ...


def pseudo_labels(
    finder: Finder,
    dataset: SegmentDataset,
    out: str | Path,
    *,
    sure: Threshold = SURE,
    likely: Threshold = LIKELY,
    val: SegmentDataset | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes OUT/train.json in COCO's form: the data set's labels and what the model adds; `--data coco_instances` reads it, and
    `--data lvis` where the data set was LVIS.

    Every picture that is done is a line of OUT/pictures.jsonl; called again, it goes on behind the last one.

    Args:
        finder: with the data set's classes, in their order.
        sure, likely: scores from which on a found object is one, and from which on its pixels count nowhere; numbers, or one
            each for "r", "c" and "f" (`frequency` of the data set: rare, common, frequent).
        val: its labels are written as OUT/val.json, as they are.
        on_progress: called with how many pictures are done, and how many there are.

    Raises:
        ValueError: other classes; thresholds that are none; a folder with labels that were made otherwise.
    """
    if finder.classes != dataset.info.classes:
        raise ValueError(
            f"the model finds {', '.join(finder.classes[:5])}, …, but the data set has {', '.join(dataset.info.classes[:5])}, "
            "…; give a model that was trained on these classes"
        )
    levels = np.array([_levels(one, dataset) for one in (likely, sure)])
    if not ((levels >= 0).all() and (levels <= 1).all() and (levels[0] <= levels[1]).all()):
        raise ValueError(f"likely is {likely} and sure {sure}; give scores from 0 to 1, sure the greater one")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    told = {"model": finder.model_name, "data": dataset.info.name, "split": dataset.split, "pictures": len(dataset)}
    done = _continued(out / LOG, {**told, "sure": sure, "likely": likely})
    with (out / LOG).open("a", encoding="utf-8") as log:
        for index in range(done, len(dataset)):
            picture, truth = dataset.load(index)
            array = np.array(picture)
            added = _added(finder.find(ArrayRows(array)), truth, levels)
            log.write(json.dumps({"size": list(array.shape[:2]), "objects": _labelled(truth) + added}) + "\n")
            log.flush()
            if on_progress is not None:
                on_progress(index + 1, len(dataset))
    pictures = _lines(out / LOG)
    next(pictures)
    _write(out / "train.json", dataset, pictures)
    if val is not None:
        _write(out / "val.json", val, ({"objects": _labelled(truth)} | _size(truth) for truth in _truths(val)))
    return out / "train.json"


def _levels(threshold: Threshold, dataset: SegmentDataset) -> list[float]:
    """The threshold of each class."""
    if not isinstance(threshold, Mapping):
        return [float(threshold)] * dataset.info.num_classes
    if dataset.frequency is None or not set(dataset.frequency) <= threshold.keys():
        raise ValueError(
            f"thresholds are given by {', '.join(threshold)}, but data set {dataset.info.name!r} "
            + ("does not say how frequent its classes are" if dataset.frequency is None else "has r, c and f")
        )
    return [float(threshold[one]) for one in dataset.frequency]


def _continued(path: Path, told: dict[str, Any]) -> int:
    """How many pictures are done; a new log begins with what it is told.  A line that was cut off is taken away."""
    told = json.loads(json.dumps(told))
    if not path.is_file() or not path.stat().st_size:
        write_text(path, json.dumps(told) + "\n")
        return 0
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with atomic_write(path) as temporary:
            temporary.write_bytes(whole)
    lines = whole.splitlines()
    if not lines or json.loads(lines[0]) != told:
        raise ValueError(
            f"{path} has labels that were made otherwise: {lines[0].decode() if lines else 'none'}; give another folder"
        )
    return len(lines) - 1


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _added(found: SegmentMap, truth: Segmentation, levels: np.ndarray) -> list[dict[str, Any]]:
    """What is likely or sure and none of the labelled objects."""
    height, width = found.ids.shape
    objects = []
    for one in sorted(found.segments, key=lambda one: -one.score):
        if one.score < levels[0, one.label]:
            continue
        mask = found.mask(one)
        if mask.mask.size and not _is_labelled(mask, truth):
            objects.append(
                {
                    "label": one.label,
                    "crowd": bool(one.score < levels[1, one.label]),
                    "rle": encode(mask.full(height, width)),
                    "area": float(mask.mask.sum()),
                    "box": [mask.left, mask.top, mask.left + mask.mask.shape[1], mask.top + mask.mask.shape[0]],
                    "score": round(one.score, 6),
                }
            )
    return objects


def _is_labelled(mask: Patch, truth: Segmentation) -> bool:
    """Whether it is an object that people labelled, of whatever class, or lies on a crowd."""
    own = mask.mask.sum()
    for layer in truth.ids:
        here = layer[mask.where][mask.mask]
        numbers, shared = np.unique(here[here > 0], return_counts=True)
        for number, pixels in zip(numbers.tolist(), shared.tolist(), strict=True):
            union = own if truth.regions[number - 1].crowd else own + (layer == number).sum() - pixels
            if pixels > SAME * union:
                return True
    return False


def _labelled(truth: Segmentation) -> list[dict[str, Any]]:
    """The labelled objects, as they are added."""
    found = []
    for number, one in enumerate(truth.regions, 1):
        layer = next((layer for layer in truth.ids if (layer == number).any()), None)
        if layer is not None:
            told = {"label": one.label, "crowd": one.crowd, "rle": encode(layer == number)}
            found.append(told | {"area": one.area, "box": list(one.box)})
    return found


def _truths(dataset: SegmentDataset) -> Iterator[Segmentation]:
    return (dataset.load(index)[1] for index in range(len(dataset)))


def _size(truth: Segmentation) -> dict[str, Any]:
    return {"size": list(truth.ids.shape[1:])}


def _write(path: Path, dataset: SegmentDataset, pictures: Iterator[dict[str, Any]]) -> None:
    """COCO's form, whole or not at all; pictures are named from the folder of the JSON."""
    coco = dataset.categories if isinstance(dataset, CocoInstances) else None
    categories = coco or [{"id": i, "name": name} for i, name in enumerate(dataset.info.classes, 1)]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (item, done) in enumerate(zip(dataset.items, pictures, strict=True), 1):
        height, width = done["size"]
        name = Path(os.path.relpath(item.image.resolve(), path.parent.resolve())).as_posix()
        image = {"id": number, "file_name": name, "height": height, "width": width}
        if coco:
            image |= {key: item.entry[0][key] for key in KEPT if key in item.entry[0]}
        images.append(image)
        for one in done["objects"]:
            left, top, right, bottom = one["box"]
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": categories[one["label"]]["id"],
                "iscrowd": int(one["crowd"]),
                "segmentation": one["rle"],
                "area": one["area"],
                "bbox": [left, top, right - left, bottom - top],
            }
            annotations.append(annotation | ({"score": one["score"]} if "score" in one else {}))
    content = {"images": images, "annotations": annotations, "categories": list(categories)}
    write_text(path, json.dumps(content))
