"""Panoptic quality and average precision: against the official procedures in their plain form, by hand, and at the edges."""

from __future__ import annotations

import importlib.util
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segmentarium.metrics import AveragePrecision, PanopticQuality
from segmentarium.metrics.average_precision import overlaps
from segmentarium.metrics.panoptic import contingency
from segmentarium.rle import Patch, decode, encode, mask_of, patch, polygon, runs_of, united

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@dataclass(frozen=True)
class Labelled:
    label: int
    crowd: bool = False
    area: float = 0.0
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


# runs -------------------------------------------------------------------------------------------------------------------


def some_masks() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    masks = [random.random(tuple(random.integers(1, 30, 2))) < random.random() for _ in range(30)]
    big = np.zeros((700, 900), bool)
    big[30:650, 200:] = True
    return [*masks, big, np.zeros((3, 4), bool), np.ones((3, 4), bool)]


def test_a_mask_is_what_its_runs_say() -> None:
    for mask in some_masks():
        rle = encode(mask)
        assert np.array_equal(decode(rle), mask)
        assert np.array_equal(decode({"size": rle["size"], "counts": runs_of(mask).tolist()}), mask)
        assert np.array_equal(patch(mask).full(*mask.shape), mask)
    # columns first: two pixels outside, three inside, one outside
    assert np.array_equal(mask_of([2, 3, 1], 2, 3), np.array([[0, 1, 1], [0, 1, 0]], bool))
    assert encode(mask_of([2, 3, 1], 2, 3)) == {"size": [2, 3], "counts": "231"}


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [2, 3], "counts": [2, 3]}, r"2 runs of 5 pixels are no mask of 3 x 2 = 6"),
        ({"size": [2, 3], "counts": [7, -1]}, "are no mask"),
        ({"size": [2, 3], "counts": "23"}, "are no mask"),
        ({"size": [2, 3], "counts": "2~"}, "no text of COCO's"),
        ({"size": [2, 3], "counts": "2P"}, "no text of COCO's"),
        ({"size": [2, 3], "counts": ""}, "no text of COCO's"),
        ({"counts": [6]}, "needs size"),
        ({"size": [2, 3], "counts": "P" * 30 + "0"}, "more than 12 characters"),
    ],
)
def test_runs_that_are_none_are_named(rle: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(rle)


def test_polygons_become_pixels() -> None:
    square = polygon([2, 1, 6, 1, 6, 4, 2, 4], 10, 10)
    assert square.mask.shape == (3, 4)
    assert (square.top, square.left, square.mask.all()) == (1, 2, True)
    assert polygon([-5, -5, 3, -5, 3, 2, -5, 2], 10, 10).full(10, 10).sum() == 6  # cut off at the border
    for nothing in ([1, 1, 5, 5], [20, 20, 30, 20, 30, 30], [1, 1, 5, 5, 9, 9], [3, 3, 3, 3, 3, 3], []):
        assert polygon(nothing, 10, 10).mask.sum() == 0
    both = united([square, polygon([8, 8, 10, 8, 10, 10, 8, 10], 10, 10)])
    assert both.full(10, 10).sum() == 16
    assert united([]).mask.size == 0


def test_runs_and_polygons_are_those_of_coco_s_own_tools() -> None:
    tools = pytest.importorskip("pycocotools.mask")
    for mask in some_masks():
        theirs = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert encode(mask)["counts"] == theirs["counts"].decode()
    random = np.random.default_rng(1)
    for index in range(300):
        height, width, corners = (int(n) for n in random.integers((1, 1, 3), (50, 50, 12)))
        points = random.random((corners, 2)) * (width * 1.6, height * 1.6) - (width * 0.3, height * 0.3)
        points = points.round(index % 3) if index % 2 else points
        theirs = tools.decode(tools.frPyObjects([points.ravel().tolist()], height, width)[0]).astype(bool)
        assert np.array_equal(polygon(points.ravel(), height, width).full(height, width), theirs)


# panoptic quality -------------------------------------------------------------------------------------------------------


def official(pairs: list[tuple[np.ndarray, dict[int, dict], np.ndarray, dict[int, dict]]]) -> dict[int, list[float]]:
    """The official procedure in its plain form: category -> [summed IoU, matched, false, missed].

    Each picture: labelled map and {id: {category, crowd}}, predicted map and {id: {category}}; 0 is void.
    """
    stats: dict[int, list[float]] = defaultdict(lambda: [0.0, 0, 0, 0])
    for truth, labelled, found, predicted in pairs:
        count = lambda where: int(where.sum())  # noqa: E731
        matched_truth, matched_found = set(), set()
        for t, one in labelled.items():
            for p, other in predicted.items():
                if one["crowd"] or one["category"] != other["category"]:
                    continue
                both = count((truth == t) & (found == p))
                union = count(truth == t) + count(found == p) - both - count((truth == 0) & (found == p))
                if both and both / union > 0.5:
                    stats[one["category"]][0] += both / union
                    stats[one["category"]][1] += 1
                    matched_truth.add(t)
                    matched_found.add(p)
        crowds = {one["category"]: t for t, one in labelled.items() if one["crowd"]}
        for t, one in labelled.items():
            if not one["crowd"] and t not in matched_truth:
                stats[one["category"]][3] += 1
        for p, other in predicted.items():
            if p in matched_found:
                continue
            nowhere = count((truth == 0) & (found == p))
            if other["category"] in crowds:
                nowhere += count((truth == crowds[other["category"]]) & (found == p))
            if nowhere / count(found == p) <= 0.5:
                stats[other["category"]][2] += 1
    return stats


def renumbered(
    truth: np.ndarray, segments: dict[int, dict], classes: dict[int, int]
) -> tuple[np.ndarray, list[Labelled]]:
    """What the metric takes: 1..N, and -1 for void."""
    target = np.full(truth.shape, -1, np.int32)
    for number, t in enumerate(segments, 1):
        target[truth == t] = number
    return target, [Labelled(classes[one["category"]], one["crowd"]) for one in segments.values()]


def perturbed(
    truth: np.ndarray, segments: dict[int, dict], random: np.random.Generator
) -> tuple[np.ndarray, dict[int, dict]]:
    """Shifted by some pixels, with segments lost, torn, renamed and in wrong classes: a prediction."""
    found = np.roll(truth, random.integers(-9, 10, 2), (0, 1))
    predicted = {t: {"category": one["category"]} for t, one in segments.items()}
    for t in list(predicted):
        fate = random.random()
        if fate < 0.1:
            found[found == t] = 0
            del predicted[t]
        elif fate < 0.25:
            predicted[t] = {"category": random.choice([one["category"] for one in segments.values()])}
        elif fate < 0.4:
            torn = (found == t) & (np.arange(found.shape[1]) % 64 < random.integers(10, 60))
            found[torn] = t + 7_000_000
            predicted[t + 7_000_000] = predicted[t]
    found[: found.shape[0] // 3][truth[: found.shape[0] // 3] == 0] = next(iter(predicted))  # onto void
    present = set(np.unique(found).tolist())
    return found, {p: one for p, one in predicted.items() if p in present}


def test_quality_is_the_official_one_on_real_pictures() -> None:
    root = DATA / "coco_panoptic" / "annotations"
    if not root.is_dir():
        pytest.skip("the data set is not here")
    content = json.loads((root / "panoptic_val2017.json").read_text())
    classes = {c["id"]: i for i, c in enumerate(content["categories"])}
    things = {i for i, c in enumerate(content["categories"]) if c["isthing"]}
    metric, pairs, random = PanopticQuality(len(classes)), [], np.random.default_rng(0)
    chosen = [a for a in content["annotations"] if any(s["iscrowd"] for s in a["segments_info"])][:3]
    chosen += content["annotations"][:5]
    for annotation in chosen:
        colours = np.asarray(Image.open(root / "panoptic_val2017" / annotation["file_name"]))[::2, ::2].astype(np.int64)
        truth = colours @ np.array([1, 256, 65536])
        here = set(np.unique(truth).tolist())
        segments = {
            s["id"]: {"category": s["category_id"], "crowd": bool(s["iscrowd"])}
            for s in annotation["segments_info"]
            if s["id"] in here
        }
        found, predicted = perturbed(truth, segments, random)
        pairs.append((truth, segments, found, predicted))
        target, labelled = renumbered(truth, segments, classes)
        metric.update(found, {p: classes[one["category"]] for p, one in predicted.items()}, target, labelled)
    expected = np.zeros((len(classes), 4))
    for category, values in official(pairs).items():
        expected[classes[category]] = values
    np.testing.assert_allclose(metric.counts.numpy(), expected, rtol=1e-12)
    assert expected[:, 1].sum() > 20
    assert expected[:, 2].sum() > 20
    assert expected[:, 3].sum() > 20
    summary = metric.summary(things)
    total = expected[:, 1:] @ (1, 0.5, 0.5)
    quality = {i: expected[i, 0] / total[i] for i in range(len(classes)) if total[i]}
    assert summary["pq"] == pytest.approx(np.mean(list(quality.values())), abs=1e-12)
    assert summary["pq_things"] == pytest.approx(np.mean([q for i, q in quality.items() if i in things]), abs=1e-12)
    assert summary["pq_stuff"] == pytest.approx(np.mean([q for i, q in quality.items() if i not in things]), abs=1e-12)


def test_quality_by_hand() -> None:
    target = np.zeros((4, 10), np.int32)
    target[:, :4], target[:, 4:8], target[:, 8] = 1, 2, -1
    metric = PanopticQuality(3)
    found = np.zeros((4, 10), np.int64)
    found[:, :5], found[:, 5:9], found[0, 9] = 10, 20, 30
    own = metric.update(torch.from_numpy(found), {10: 0, 20: 1, 30: 2}, target, [Labelled(0), Labelled(1)])
    # 16 of 20 pixels; 12 of 16, of which the four on void are not in the union; one alone on the background is false
    assert metric.counts.tolist() == [[16 / 20, 1, 0, 0], [12 / 16, 1, 0, 0], [0, 0, 1, 0]]
    assert own == pytest.approx((0.8 + 0.75 + 0) / 3)
    metric.update(found, {10: 1}, target, [Labelled(0), Labelled(1, crowd=True)])
    assert metric.counts.tolist() == [[0.8, 1, 0, 1], [0.75, 1, 1, 0], [0, 0, 1, 0]]
    summary = metric.summary({0}, ("a", "b", "c"))
    assert summary["by_class"]["a"] == {"pq": pytest.approx(0.8 / 1.5), "sq": 0.8, "rq": pytest.approx(1 / 1.5)}
    assert summary["by_class"]["c"] == {"pq": 0, "sq": 0, "rq": 0}


def test_quality_of_nothing_and_what_does_not_fit() -> None:
    metric = PanopticQuality(2)
    nothing = np.zeros((3, 4), np.int32)
    assert math.isnan(metric.update(nothing, {}, nothing, []))
    assert math.isnan(metric.update(nothing, {}, nothing - 1, []))
    assert math.isnan(metric.summary({0})["pq"])
    metric.update(nothing + 1, {1: 0}, nothing - 1, [])  # all of it on void
    metric.update(nothing + 1, {1: 0}, nothing + 1, [Labelled(0, crowd=True)])  # all of it on a crowd of its class
    assert metric.counts.sum() == 0
    metric.update(nothing + 1, {1: 1}, nothing + 1, [Labelled(0, crowd=True)])
    assert metric.counts.tolist() == [[0, 0, 0, 0], [0, 0, 1, 0]]
    with pytest.raises(ValueError, match=r"two maps \(H, W\) of one size"):
        metric.update(nothing, {}, nothing[:2], [])
    with pytest.raises(ValueError, match=r"numbers 3 to 3, but there are 1 segments"):
        metric.update(nothing, {}, nothing + 3, [Labelled(0)])
    with pytest.raises(ValueError, match=r"classes \[2\], but only 0..1"):
        metric.update(nothing, {}, nothing, [Labelled(2)])
    other = PanopticQuality(2)
    other.update(nothing + 1, {1: 0}, nothing + 1, [Labelled(0)])
    assert metric.merge(other).counts.tolist() == [[1, 1, 0, 0], [0, 0, 1, 0]]


def test_maps_are_counted_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    found, truth = random.integers(0, 2**24, 5)[random.integers(0, 5, (17, 6))], random.integers(-1, 3, (17, 6))
    numbers, table = contingency(found, truth, 2)
    monkeypatch.setattr("segmentarium.metrics.panoptic.BAND", 6)
    again = contingency(found, truth, 2)
    assert np.array_equal(again[0], numbers)
    assert np.array_equal(again[1], table)
    assert table[2, 3] == ((found == numbers[2]) & (truth == 2)).sum()


# average precision ------------------------------------------------------------------------------------------------------


def box(top: int, left: int, height: int, width: int) -> Patch:
    return Patch(top, left, np.ones((height, width), bool))


def objects_of(
    patches: list[Patch], labels: list[int], size: tuple[int, int], crowds: tuple[int, ...] = ()
) -> tuple[np.ndarray, list[Labelled]]:
    """Each in a layer of its own, so that they may overlap."""
    target = np.zeros((max(1, len(patches)), *size), np.int32)
    objects = []
    for i, (one, label) in enumerate(zip(patches, labels, strict=True)):
        target[i][one.where][one.mask] = i + 1
        height, width = one.mask.shape
        corner = (float(one.left), float(one.top), float(one.left + width), float(one.top + height))
        objects.append(Labelled(label, i in crowds, float(one.mask.sum()), corner))
    return target, objects


def test_precision_by_hand() -> None:
    truth = [box(0, 0, 10, 10), box(20, 20, 10, 10)]
    target, objects = objects_of(truth, [0, 0], (40, 40))
    metric = AveragePrecision(2)
    # right and sure; a second one for the same object; 80 of 100 pixels; nothing
    found = [truth[0], box(0, 0, 10, 9), box(20, 20, 8, 10), box(5, 30, 4, 4)]
    metric.update([0, 0, 0, 1], [0.9, 0.8, 0.7, 0.6], found, target, objects)
    summary = metric.summary(("a", "b"))
    recalls = np.linspace(0, 1, 101)
    loose = np.where(recalls <= 0.5, 1.0, 2 / 3).mean()  # up to IoU 0.8
    strict = np.where(recalls <= 0.5, 1.0, 0.0).mean()
    assert summary["ap50"] == pytest.approx(loose)
    assert summary["ap"] == pytest.approx((7 * loose + 3 * strict) / 10)
    assert summary["ap_small"] == pytest.approx(summary["ap"])
    assert math.isnan(summary["ap_medium"])
    assert summary["box_ap"] == pytest.approx(summary["ap"])
    assert summary["ar"] == pytest.approx((7 * 1 + 3 * 0.5) / 10)
    assert summary["by_class"]["a"] == pytest.approx(summary["ap"])
    assert math.isnan(summary["by_class"]["b"])  # it has no object, so its false alarm counts nowhere
    assert 0 < summary["boundary_ap"] <= summary["ap"]


def test_precision_of_nothing_and_what_does_not_fit() -> None:
    metric = AveragePrecision(1)
    empty = np.zeros((1, 8, 8), np.int32)
    metric.update([], [], [], empty, [])
    assert math.isnan(metric.summary()["ap"])
    target, objects = objects_of([box(0, 0, 1, 1)], [0], (8, 8))
    metric.update([], [], [], target, objects)
    assert metric.summary()["ap"] == 0
    metric.update([0], [0.5], [box(0, 0, 1, 1)], target, objects)  # an object of one pixel
    metric.update([0], [0.9], [box(3, 3, 2, 2)], empty, [])
    assert metric.summary()["ap"] == pytest.approx(51 / 101 * 0.5)
    target, objects = objects_of([box(0, 0, 8, 8)], [0], (8, 8), crowds=(0,))
    metric.update([0, 0], [0.99, 0.98], [box(3, 3, 2, 2), box(0, 0, 1, 1)], target, objects)  # a crowd takes both
    assert metric.summary()["ap"] == pytest.approx(51 / 101 * 0.5)
    with pytest.raises(ValueError, match="1 labels, 0 scores and 0 masks"):
        metric.update([0], [], [], target, objects)
    with pytest.raises(ValueError, match=r"classes go from 3 to 3; give 0..0"):
        metric.update([3], [0.5], [box(0, 0, 1, 1)], empty, [])
    with pytest.raises(ValueError, match=r"numbers up to 1 for 0 objects"):
        metric.update([], [], [], target, [])
    with pytest.raises(ValueError, match="not finite"):
        metric.update([0], [math.nan], [box(0, 0, 1, 1)], empty, [])
    with pytest.raises(ValueError, match="lines is none of them"):
        AveragePrecision(1, ("lines",))


def scene(random: np.random.Generator, classes: int, size: tuple[int, int], many: int) -> tuple[list[Patch], list[int]]:
    """Discs of every size."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    patches = []
    for _ in range(many):
        y, x, radius = random.random() * size[0], random.random() * size[1], random.choice([2, 8, 25, 60])
        patches.append(patch((rows - y) ** 2 + (columns - x) ** 2 <= (radius * random.uniform(0.7, 1.3)) ** 2))
    patches = [one for one in patches if one.mask.size]
    return patches, random.integers(0, classes, len(patches)).tolist()


def moved(one: Patch, random: np.random.Generator, size: tuple[int, int]) -> Patch:
    full = np.roll(one.full(*size), random.integers(-1, 2, 2), (0, 1))
    return patch(full) if full.any() else one


@pytest.mark.skipif(importlib.util.find_spec("pycocotools") is None, reason="pycocotools is not installed")
def test_precision_is_that_of_coco_s_own_tools(capsys: pytest.CaptureFixture[str]) -> None:
    """Crowds, ties, more detections than count, objects of all sizes: masks and boxes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    random, size, classes = np.random.default_rng(0), (100, 130), 3
    metric, half = (AveragePrecision(classes, ("mask", "box"), most=25) for _ in range(2))
    images, annotations, results = [], [], []
    for picture in range(4):
        truth, labels = scene(random, classes, size, [0, 90, 20, 30][picture])
        crowds = tuple(random.choice(max(1, len(truth)), 4).tolist()) if picture > 1 else ()
        target, objects = objects_of(truth, labels, size, crowds)
        chosen = random.permutation(len(truth))[: len(truth) * 2 // 3]
        found = [moved(truth[i], random, size) for i in chosen]
        extra, _ = scene(random, classes, size, 20)
        found += extra
        guesses = [labels[i] for i in chosen] + random.integers(0, classes, len(extra)).tolist()
        scores = random.random(len(found)).round(2).tolist()
        (half if picture < 2 else metric).update(guesses, scores, found, target, objects)
        images.append({"id": picture, "height": size[0], "width": size[1]})
        for one, thing in zip(truth, objects, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": picture,
                    "category_id": thing.label,
                    "iscrowd": int(thing.crowd),
                    "area": thing.area,
                    "bbox": [thing.box[0], thing.box[1], thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]],
                    "segmentation": encode(one.full(*size)),
                }
            )
        for one, label, score in zip(found, guesses, scores, strict=True):
            height, width = one.mask.shape
            results.append(
                {
                    "image_id": picture,
                    "category_id": label,
                    "score": score,
                    "bbox": [one.left, one.top, width, height],
                    "segmentation": encode(one.full(*size)),
                }
            )
    summary = AveragePrecision(classes, ("mask", "box"), most=25).merge(half).merge(metric).summary()
    truth_file = COCO()
    truth_file.dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in range(classes)],
    }
    truth_file.createIndex()
    for kind, start in (("segm", ""), ("bbox", "box_")):
        given = [{k: v for k, v in r.items() if k != ("bbox" if kind == "segm" else "segmentation")} for r in results]
        judge = COCOeval(truth_file, truth_file.loadRes(given), kind)
        judge.params.maxDets = [1, 10, 25]
        judge.evaluate()
        judge.accumulate()
        precision, recall = judge.eval["precision"], judge.eval["recall"]

        def mean(values: np.ndarray) -> float:
            return float(values[values > -1].mean())

        assert summary[f"{start}ap"] == pytest.approx(mean(precision[:, :, :, 0, 2]), abs=1e-12)
        assert summary[f"{start}ap50"] == pytest.approx(mean(precision[0, :, :, 0, 2]), abs=1e-12)
        assert summary[f"{start}ap75"] == pytest.approx(mean(precision[5, :, :, 0, 2]), abs=1e-12)
        for place, name in enumerate(("small", "medium", "large"), 1):
            assert summary[f"{start}ap_{name}"] == pytest.approx(mean(precision[:, :, :, place, 2]), abs=1e-12)
        assert summary[f"{start}ar"] == pytest.approx(mean(recall[:, :, 0, 2]), abs=1e-12)
        assert 0.05 < summary[f"{start}ap"] < 0.9


def test_a_detection_costs_28_bytes_and_no_picture_is_kept() -> None:
    metric = AveragePrecision(2, ("mask",), most=5)
    target, objects = objects_of([box(0, 0, 9, 9)], [1], (900, 900))
    for _ in range(3):
        metric.update([1] * 9, np.arange(9) / 10, [box(0, 0, 9, 9)] * 9, target, objects)
    kept = [row for rows in metric._rows.values() for row in rows]
    assert sum(row.nbytes for row in kept) <= 3 * 5 * 28
    assert all(row.base is None for row in kept)


def test_what_several_processes_saw_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    target, objects = objects_of([box(0, 0, 5, 5), box(9, 9, 5, 5)], [0, 1], (20, 20))
    parts = [AveragePrecision(2) for _ in range(2)]
    parts[0].update([0, 1], [0.9, 0.3], [box(0, 0, 5, 5), box(0, 0, 5, 5)], target, objects)
    parts[1].update([1], [0.8], [box(9, 9, 5, 5)], target, objects)
    together = AveragePrecision(2).merge(parts[0]).merge(parts[1]).summary()

    def gather(found: list[Any], mine: Any) -> None:
        found[:] = [mine, (parts[1].objects, parts[1]._rows)]

    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    np.testing.assert_equal(parts[0].all_reduce().summary(), together)
    with pytest.raises(ValueError, match="same classes and kinds"):
        parts[0].merge(AveragePrecision(3))


def test_overlap_of_crowds_and_layers() -> None:
    truth = [box(0, 0, 6, 6), box(2, 2, 6, 6)]  # they overlap
    target, objects = objects_of(truth, [0, 0], (12, 12), crowds=(1,))
    found = overlaps([box(0, 0, 6, 6), box(2, 2, 2, 2)], target, objects)
    np.testing.assert_allclose(found["mask"], [[1, 16 / 36], [4 / 36, 1]])
    np.testing.assert_allclose(found["box"], [[1, 16 / 36], [4 / 36, 1]])
    assert found["boundary"][0].tolist() == [1, 16 / 36]
