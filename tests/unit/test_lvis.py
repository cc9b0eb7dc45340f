"""LVIS's files and LVIS's average precision, the latter against the package `lvis`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segmentarium.data import build_dataset
from segmentarium.data.lvis import LVIS
from segmentarium.data.mosaic import Mosaic
from segmentarium.data.segment_transforms import segment_train_transform
from segmentarium.data.segments import SegmentError
from segmentarium.metrics import FederatedAveragePrecision
from segmentarium.rle import encode, polygon
from tests.unit.lvis_files import FREQUENCY, IDS, NAMES, SIZE, annotation, content, detections, write


@pytest.mark.parametrize("version", ["v1", "v0.5"])
def test_both_versions_are_read(tmp_path: Path, version: str) -> None:
    truth = write(tmp_path, version)
    dataset = build_dataset("lvis", tmp_path, "val")
    assert isinstance(dataset, LVIS)
    assert dataset.info.classes == NAMES
    assert dataset.frequency == FREQUENCY
    assert dataset.image_counts == [0, 20, 40, 60, 80]
    assert len(dataset) == 12
    for index, picture in enumerate(truth["images"]):
        own = [one for one in truth["annotations"] if one["image_id"] == picture["id"]]
        found = dataset.load(index)[1]
        assert [one.label for one in found.regions] == [IDS.index(one["category_id"]) for one in own]
        assert dataset.shown(index) == {IDS.index(one["category_id"]) for one in own}
        known = dataset.known(index)
        assert known["negative"] == {IDS.index(one) for one in picture["neg_category_ids"]}
        assert known["uncertain"] == {IDS.index(one) for one in picture["not_exhaustive_category_ids"]}


def test_the_newer_version_is_read_unless_one_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "v0.5")
    write(tmp_path, "v1")
    assert LVIS(tmp_path, "val").info.name == "lvis_v1"
    assert LVIS(tmp_path, "val", version="v0.5").info.name == "lvis_v0.5"
    with pytest.raises(ValueError, match=r"v1 and v0\.5"):
        LVIS(tmp_path, "val", version="v2")
    with pytest.raises(FileNotFoundError, match="lvis_v1_train"):
        LVIS(tmp_path, "train", version="v1")


def test_a_sample_says_which_questions_have_an_answer(tmp_path: Path) -> None:
    truth = write(tmp_path, "v1")
    dataset = LVIS(tmp_path, "val", transform=segment_train_transform((48, 64)))
    for index, picture in enumerate(truth["images"]):
        shown = {one["category_id"] for one in truth["annotations"] if one["image_id"] == picture["id"]}
        told = {*shown, *picture["neg_category_ids"]} - {*picture["not_exhaustive_category_ids"]}
        found = dataset[index]["segments"].answered
        assert [IDS[i] for i in torch.where(found)[0]] == sorted(told)
    dataset.transform = None
    four = [dataset[index] for index in range(4)]
    expected = np.stack([one["answered"] for one in four]).all(0)
    joined = segment_train_transform((48, 64))(Mosaic(SIZE)(four))
    assert joined["segments"].answered.tolist() == expected.tolist()


def test_what_is_not_federated_is_refused(tmp_path: Path) -> None:
    found = content()
    for one in found["images"]:
        del one["neg_category_ids"]
    write(tmp_path, images=found["images"])
    with pytest.raises(SegmentError, match="without neg_category_ids"):
        LVIS(tmp_path, "val")
    found = content()
    found["images"][3]["neg_category_ids"] = [77]
    write(tmp_path, images=found["images"])
    with pytest.raises(SegmentError, match="does not define: 77"):
        LVIS(tmp_path, "val")


def _official(truth: dict[str, Any], found: list[dict[str, Any]], kind: str, folder: Path) -> dict[str, float]:
    lvis = pytest.importorskip("lvis")
    path = folder / "truth.json"
    path.write_text(json.dumps(truth))
    told = []
    for one in found:
        result = {key: one[key] for key in ("image_id", "category_id", "score")}
        if kind == "bbox":
            x, y = np.array(one["points"]).reshape(-1, 2).T
            result["bbox"] = [x.min(), y.min(), x.max() - x.min(), y.max() - y.min()]
        else:
            result["segmentation"] = encode(polygon(one["points"], *SIZE).full(*SIZE))
        told.append(result)
    results = lvis.LVISResults(lvis.LVIS(str(path)), told)
    evaluation = lvis.LVISEval(lvis.LVIS(str(path)), results, kind)
    evaluation.run()
    return dict(evaluation.get_results())


def _ours(truth: dict[str, Any], found: list[dict[str, Any]], root: Path, most: int = 300) -> dict[str, Any]:
    write(root, **truth)
    dataset = LVIS(root, "val")
    metric = FederatedAveragePrecision(dataset.frequency or (), most=most)
    for index, picture in enumerate(truth["images"]):
        target = dataset.load(index)[1]
        own = [one for one in found if one["image_id"] == picture["id"]]
        corners = [np.array(one["points"]).reshape(-1, 2) for one in own]
        boxes = np.array([[*some.min(0), *some.max(0)] for some in corners]).reshape(-1, 4)
        metric.update(
            [IDS.index(one["category_id"]) for one in own],
            [one["score"] for one in own],
            [polygon(one["points"], *SIZE) for one in own],
            target.ids,
            target.regions,
            boxes,
            **dataset.known(index),
        )
    return metric.summary(NAMES)


KEYS = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "APs": "ap_small",
    "APm": "ap_medium",
    "APr": "ap_rare",
    "APc": "ap_common",
    "APf": "ap_frequent",
    "AR@300": "ar",
}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_average_precision_equals_the_package(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "float", float, raising=False)  # which lvis 0.5.3 still asks NumPy for
    truth = content(seed=seed)
    found = detections(truth, seed)
    ours = _ours(truth, found, tmp_path)
    for kind, start in (("segm", ""), ("bbox", "box_")):
        theirs = _official(truth, found, kind, tmp_path)
        assert 0 < theirs["AP"] < 1
        for name, key in KEYS.items():
            value = ours[start + key]
            assert (-1 if value != value else value) == pytest.approx(theirs[name], abs=1e-9), (kind, name)


def test_what_nobody_knows_of_counts_nowhere(tmp_path: Path) -> None:
    """A detection of an unlisted class changes nothing, of a negative one it does; unmatched ones of classes that are not
    labelled throughout count nowhere."""
    square = [10.0, 10, 30, 10, 30, 30, 10, 30]
    away = [40.0, 30, 60, 30, 60, 50, 40, 50]
    truth = content(1)
    truth["annotations"] = [annotation(1, 1, 1, square), annotation(2, 1, 4, square)]
    truth["images"][0] |= {"neg_category_ids": [5], "not_exhaustive_category_ids": [4]}
    right = [{"image_id": 1, "category_id": one, "points": square, "score": 0.5} for one in (1, 4)]

    def score(*wrong: int) -> list[float]:
        found = [*right, *({"image_id": 1, "category_id": one, "points": away, "score": 0.9} for one in wrong)]
        by_class = _ours(truth, found, tmp_path)["by_class"]
        return [by_class[NAMES[IDS.index(one)]] for one in (1, 4)]

    assert score() == score(9) == score(4) == pytest.approx([1, 1])  # 9: unlisted; 4: not exhaustive
    assert score(1) == pytest.approx([0.5, 1])


def test_the_surest_of_a_picture_count_whatever_their_class(tmp_path: Path) -> None:
    truth = content(4, seed=5)
    found = detections(truth, 5)
    few = _ours(truth, found, tmp_path, most=3)
    surest = []
    for picture in truth["images"]:
        own = [one for one in found if one["image_id"] == picture["id"]]
        surest += sorted(own, key=lambda one: -one["score"])[:3]
    assert few["ar"] == _ours(truth, surest, tmp_path)["ar"]
    assert few["ar"] < _ours(truth, found, tmp_path)["ar"]


def test_frequencies_are_letters() -> None:
    with pytest.raises(ValueError, match="rare is none"):
        FederatedAveragePrecision(["r", "rare"])


def test_evaluation_scores_lvis_by_its_protocol(tmp_path: Path) -> None:
    """As `FederatedAveragePrecision` alone does: detections of unknown classes count nowhere."""
    from PIL import Image

    from segmentarium.evaluation.classes import ClassMatch
    from segmentarium.evaluation.segments import LabelledPicture, SegmentTally
    from segmentarium.inference.segment_map import FoundSegment, SegmentMap

    truth = content(seed=4)
    found = detections(truth, 4)
    ours = _ours(truth, found, tmp_path)
    dataset = LVIS(tmp_path, "val")
    match = ClassMatch(dataset.info.classes, dataset.info.palette)
    tally = SegmentTally(match, dataset.things, ("mask", "box"), 0, frequency=dataset.frequency)
    for index, picture in enumerate(truth["images"]):
        segments = []
        for number, one in enumerate((one for one in found if one["image_id"] == picture["id"]), 1):
            own = polygon(one["points"], *SIZE)
            height, width = own.mask.shape
            box = (own.left, own.top, own.left + width, own.top + height)
            label = IDS.index(one["category_id"])
            segments.append(FoundSegment(number, label, one["score"], int(own.mask.sum()), box, own))
        image, target = dataset.load(index)
        sample = LabelledPicture(
            index, "", image, torch.from_numpy(np.array(image)).permute(2, 0, 1), target, dataset.known(index)
        )
        assert isinstance(image, Image.Image)
        tally.add(sample, SegmentMap(np.zeros(SIZE, np.int32), tuple(segments)))
    _, precision, _ = tally.scores()
    for key in ("ap", "ap50", "ap_rare", "ap_common", "ap_frequent"):
        assert precision[key] == pytest.approx(ours[key])


def test_check_data_tells_rare_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from segmentarium.cli.main import main

    write(tmp_path / "data")
    told = ["check-data", str(tmp_path / "data"), "--data", "lvis", "--split", "val", "--out", str(tmp_path / "report")]
    assert main(told) == 0
    printed = capsys.readouterr().out
    assert "2 rare, 2 common, 1 frequent; rare: cup, dog" in printed
    assert "11 to 100" not in printed  # twelve pictures, none of which shows all
    assert "█" in printed
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["frequency"]["common"] == ["bat", "egg"]
    assert sum(report["histogram"].values()) == 5
