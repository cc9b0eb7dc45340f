"""Labels that a model adds: what is sure, what is only likely, what people labelled; and going on after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segmentarium.cli.pseudo_label import threshold
from segmentarium.data import SegmentDataset, build_dataset
from segmentarium.inference.segment_map import FoundSegment, SegmentMap
from segmentarium.media.readers import ArrayRows
from segmentarium.rle import Patch
from segmentarium.training.self_training import LOG, pseudo_labels
from tests.unit.lvis_files import write
from tests.unit.segment_files import SIZE, coco

# class, score, top, left, height, width
FOUND = (
    (0, 0.9, 2, 3, 6, 9),  # the first labelled object, as a cat
    (1, 0.8, 3, 20, 4, 5),  # new
    (0, 0.5, 18, 2, 4, 4),  # new, and only likely
    (1, 0.1, 10, 22, 3, 3),  # unlikely
)


class Found:
    """Finds the same in each picture; stops when `stop` pictures are done."""

    model_name = "teacher"

    def __init__(self, classes: tuple[str, ...], found: Any = FOUND, stop: int | None = None) -> None:
        self.classes, self.found, self.stop, self.seen = classes, found, stop, 0

    def find(self, image: ArrayRows) -> SegmentMap:
        if self.seen == self.stop:
            raise KeyboardInterrupt
        self.seen += 1
        segments = []
        for number, (label, score, top, left, height, width) in enumerate(self.found, 1):
            own = Patch(top, left, np.ones((height, width), bool))
            box = (left, top, left + width, top + height)
            segments.append(FoundSegment(number, label, score, height * width, box, own))
        return SegmentMap(np.zeros((image.height, image.width), np.int32), tuple(segments))


def _dataset(root: Path) -> SegmentDataset:
    coco(root)
    dataset = build_dataset("coco_instances", root, "all")
    assert isinstance(dataset, SegmentDataset)
    return dataset


def test_sure_objects_are_added_likely_ones_count_nowhere_and_labelled_ones_stay(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "data")
    pseudo_labels(Found(dataset.info.classes), dataset, tmp_path / "out", val=dataset)
    new = build_dataset("coco_instances", tmp_path / "out", "train")
    picture, found = new.load(0)
    before = dataset.load(0)[1]
    assert picture.size == SIZE[::-1]
    assert new.info.classes == dataset.info.classes
    labelled = len(before.regions)
    assert found.regions[:labelled] == before.regions
    assert [(one.label, one.crowd, one.area) for one in found.regions[labelled:]] == [(1, False, 20), (0, True, 16)]
    number = labelled + 1
    layer = next(layer for layer in found.ids if (layer == number).any())
    assert np.argwhere(layer == number).min(0).tolist() == [3, 20]
    for old, kept in zip(range(1, labelled + 1), range(1, labelled + 1), strict=True):
        assert ((before.ids == old).any(0) == (found.ids == kept).any(0)).all()
    assert build_dataset("coco_instances", tmp_path / "out", "val").load(0)[1].regions == before.regions


def test_a_stopped_run_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    write(tmp_path / "data")
    dataset: Any = build_dataset("lvis", tmp_path / "data", "val")
    classes = dataset.info.classes
    whole = pseudo_labels(Found(classes), dataset, tmp_path / "whole").read_text()
    for stop in (5, 4):
        with pytest.raises(KeyboardInterrupt):
            pseudo_labels(Found(classes, stop=stop), dataset, tmp_path / "parts")
        with (tmp_path / "parts" / LOG).open("a") as file:
            file.write('{"size": [60')  # cut off while it was written
    assert not (tmp_path / "parts" / "train.json").exists()
    last, seen = Found(classes), []
    path = pseudo_labels(last, dataset, tmp_path / "parts", on_progress=lambda done, total: seen.append((done, total)))
    assert path.read_text() == whole
    assert last.seen == 3
    assert seen == [(10, 12), (11, 12), (12, 12)]
    assert pseudo_labels(Found(classes, stop=0), dataset, tmp_path / "parts").read_text() == whole
    with pytest.raises(ValueError, match="made otherwise"):
        pseudo_labels(Found(classes), dataset, tmp_path / "parts", sure=0.6)


def test_thresholds_may_follow_frequency_and_lvis_stays_federated(tmp_path: Path) -> None:
    write(tmp_path / "data")
    dataset: Any = build_dataset("lvis", tmp_path / "data", "val")
    found = [(label, 0.5, 0, 10 * label, 4, 4) for label in range(4)]
    sure, likely = {"r": 0.4, "c": 0.5, "f": 0.6}, {"r": 0.1, "c": 0.5, "f": 0.6}
    path = pseudo_labels(Found(dataset.info.classes, found), dataset, tmp_path / "out", sure=sure, likely=likely)
    annotations = json.loads(path.read_text())["annotations"]
    added = {one["category_id"] for one in annotations if "score" in one}
    assert added == {4, 5, 9}  # common and rare ones
    again: Any = build_dataset("lvis", tmp_path / "out", "train")
    assert again.known(3) == dataset.known(3)
    assert again.frequency == dataset.frequency
    again.load(3)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "data")
    with pytest.raises(ValueError, match="trained on these classes"):
        pseudo_labels(Found(("dog", "cat")), dataset, tmp_path / "out")
    with pytest.raises(ValueError, match="0 to 1"):
        pseudo_labels(Found(dataset.info.classes), dataset, tmp_path / "out", sure=0.2, likely=0.5)
    with pytest.raises(ValueError, match="does not say how frequent"):
        pseudo_labels(Found(dataset.info.classes), dataset, tmp_path / "out", sure={"r": 0.5})
    assert threshold("0.4") == 0.4
    assert threshold("r=0.4, c=0.5") == {"r": 0.4, "c": 0.5}
    with pytest.raises(ValueError, match="no score"):
        threshold("r=high")
