"""Scores of segments: of a model that knows all, of one that errs in known ways, and what the report says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segmentarium.cli.main import main
from segmentarium.data import Region, Segmentation, build_dataset
from segmentarium.evaluation import SegmentReport, evaluate
from segmentarium.evaluation.classes import ClassMatch
from segmentarium.evaluation.segments import LabelledPicture, SegmentTally, flattened
from segmentarium.inference.segment_map import measured
from segmentarium.metrics import PanopticQuality
from segmentarium.palette import default_palette
from segmentarium.registry import create_model
from tests.unit import segment_files as files
from tests.unit.mask_material import CLASSES, QUERIES, Colours, Scenes
from tests.unit.test_metrics_segments import DATA, official, perturbed, renumbered

GRASS, CAT, OTHER, DOG = (4, 30, 0, 60, 90), (0, 5, 8, 25, 30), (1, 10, 40, 35, 60), (2, 40, 30, 55, 50)
ALL = [[GRASS, CAT, OTHER, DOG], [CAT], [GRASS, DOG]]


def test_a_model_that_knows_all(tmp_path: Path) -> None:
    scenes = Scenes(tmp_path, ALL)
    report = evaluate(Colours(), scenes)
    assert isinstance(report, SegmentReport)
    assert report.task == "panoptic"
    assert [report.quality[key] for key in ("pq", "sq", "rq", "pq_things", "pq_stuff")] == pytest.approx([1.0] * 5)
    assert report.precision == {}
    assert report.segments == {"cat": 3, "dog": 2, "grass": 2}
    assert np.array_equal(report.confusion, np.diag(report.confusion.sum(0)))
    assert [name for name, _ in report.headline()] == ["PQ", "SQ", "RQ", "PQ things", "PQ stuff"]
    instances = evaluate(Colours(), scenes, task="instance")
    assert isinstance(instances, SegmentReport)
    for key in ("ap", "ap50", "box_ap", "boundary_ap", "ap_small"):
        assert instances.precision[key] == pytest.approx(1), key
    assert math.isnan(instances.precision["ap_large"])
    assert math.isnan(instances.table_by_class["AP"]["grass"])  # no thing
    semantic = evaluate(Colours(), scenes, task="semantic")
    assert semantic.miou == 1  # type: ignore[union-attr]


class Missing(Colours):
    """Sees no dog, calls the second cat a dog, and is less sure of it."""

    def __init__(self) -> None:
        super().__init__([(1 if i == 1 else label, colour) for i, (label, colour) in enumerate(QUERIES) if i != 2],
                         sure=[0.95, 0.6, 0.95, 0.95])  # fmt: skip


def test_a_model_that_errs_in_known_ways(tmp_path: Path) -> None:
    scenes = Scenes(tmp_path, ALL)
    report = evaluate(Missing(), scenes, task="instance")
    assert isinstance(report, SegmentReport)
    # Two of three cats come first.  Every query counts under every class: the third is found by the query that calls it a dog,
    # at a score of almost nothing, behind two that are false.  No dog is found.
    two_thirds = (np.linspace(0, 1, 101) <= 2 / 3).mean()
    cats = two_thirds + (1 - two_thirds) * 3 / 5
    assert report.precision["ap"] == pytest.approx(cats / 2)
    assert report.table_by_class["AP"]["cat"] == pytest.approx(cats)
    assert report.table_by_class["AP"]["dog"] == 0
    assert report.table_by_class["PQ"]["cat"] == pytest.approx(2 / 2.5)
    assert report.confusion[0].tolist() == [2 * 440, 25 * 20, 0]
    assert report.precision["ap50"] == pytest.approx(cats / 2)
    panoptic = evaluate(Missing(), scenes, task="panoptic", worst=1)
    assert isinstance(panoptic, SegmentReport)
    # the second cat's query is not sure enough for a panoptic map
    assert panoptic.table_by_class["PQ"] == {"cat": pytest.approx(2 / 2.5), "dog": 0, "grass": pytest.approx(1)}
    (bad,) = panoptic.worst
    assert bad.name == "02"
    assert bad.caption == "02: PQ 50.00"
    assert [picture.size for picture in bad.panels(()).values()] == [(90, 60)] * 3


def test_crowds_void_and_pictures_without_objects(tmp_path: Path) -> None:
    scenes = Scenes(tmp_path / "crowd", [[CAT, OTHER]], crowds=(1,), things=None)
    report = evaluate(Colours(), scenes)
    assert isinstance(report, SegmentReport)
    assert report.task == "instance"
    assert report.segments["cat"] == 1
    assert report.precision["ap"] == pytest.approx(1)  # what lies on the crowd is no false alarm
    assert report.quality["pq"] == 1
    nothing = Scenes(tmp_path / "nothing", [[], []])
    for task, key in (("instance", "ap"), ("panoptic", "pq")):
        empty = evaluate(Colours(), nothing, task=task)
        assert isinstance(empty, SegmentReport)
        assert empty.scores()[key] is None
        assert empty.images == 2


def test_tiles_pages_and_what_does_not_fit(tmp_path: Path) -> None:
    scenes = Scenes(tmp_path / "data", ALL)
    tiled = evaluate(Colours(), scenes, mode="slide", tile=64, overlap=16)
    assert isinstance(tiled, SegmentReport)
    assert tiled.quality["pq"] == 1
    assert tiled.options["protocol"] == "panoptic, tiles of 64 px, joined"
    pytest.importorskip("matplotlib")
    report = evaluate(Missing(), scenes, task="instance", output=tmp_path / "report")
    assert isinstance(report, SegmentReport)
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["by_class"]["AP"]["dog"] == 0
    assert content["ap_large"] is None
    assert content["task"] == "instance"
    assert "boundary AP" in (tmp_path / "report" / "report.html").read_text()
    assert len(list((tmp_path / "report" / "worst").iterdir())) == 3
    assert report.rows()[1][:2] == ("dog", "0.00")
    for options, message in (
        ({"flip": True, "task": "instance"}, "no flip"),
        ({"task": "things"}, "task is 'things'"),
        ({"engine": "tensorflow", "task": "panoptic"}, "engine is 'tensorflow'"),
        ({"size": 64, "task": "panoptic"}, "no size"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(Colours(), scenes, **options)
    with pytest.raises(ValueError, match="tells no segments apart: leave task"):
        evaluate(create_model("pphumanseg", num_classes=3), scenes, task="instance")
    assert evaluate(create_model("pphumanseg", num_classes=3), scenes).miou >= 0  # type: ignore[union-attr]
    data = build_dataset("imagefolder", _pictures(tmp_path / "classes"), "all")
    with pytest.raises(TypeError, match="is of classification"):
        evaluate(Colours(), data, task="instance")  # type: ignore[arg-type]
    broken = Colours()
    broken.scale = nn.Parameter(torch.tensor(torch.nan))
    with pytest.raises(ValueError, match="not finite on 00; nothing was scored"):
        evaluate(broken, scenes)


def _pictures(root: Path) -> Path:
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / name / "x.png")
    return root


def test_classes_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    model = Colours([(2 - label, colour) for label, colour in QUERIES], things=(1, 2))
    model.classes = CLASSES[::-1]
    for task in ("instance", "panoptic"):
        report = evaluate(model, Scenes(tmp_path / task, ALL), task=task)
        assert isinstance(report, SegmentReport)
        assert report.quality["pq"] == 1
        assert any("another order" in note for note in report.notes)


def test_one_class(tmp_path: Path) -> None:
    values = np.zeros((40, 40), np.int64)
    values[2:12, 3:20], values[20:30, 5:9] = 1, 2
    root = files.instances(tmp_path, [values])
    pixels = np.full((40, 40, 3), 20, np.uint8)
    pixels[2:12, 3:20], pixels[20:30, 5:9] = QUERIES[0][1], QUERIES[1][1]
    Image.fromarray(pixels).save(root / "images" / "a.png")
    dataset = build_dataset("instances", root, "val")
    model = Colours(QUERIES[:2], 1)
    report = evaluate(model, dataset)  # type: ignore[arg-type]
    assert isinstance(report, SegmentReport)
    assert (report.task, report.precision["ap"], report.quality["pq"]) == ("instance", pytest.approx(1), 1.0)
    semantic = evaluate(model, dataset, task="semantic")  # type: ignore[arg-type]
    assert (semantic.miou, semantic.classes) == (1.0, ("background", "object"))  # type: ignore[union-attr]


def test_objects_that_overlap_are_laid_flat() -> None:
    ids = np.zeros((2, 3, 6), np.int32)
    ids[0, :, :3], ids[1, :, 2:5], ids[1, 0, 0], ids[0, 0, 5] = 1, 2, 3, -1
    regions = tuple(Region(i, False, 1.0, (0, 0, 1, 1)) for i in range(3))
    flat, kept = flattened(Segmentation(ids, regions))
    assert [region.label for region in kept] == [0, 1]  # the third lies below the first
    assert flat[0].tolist() == [1, 1, 1, 2, 2, -1]


@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not here")
def test_quality_is_the_official_one_from_the_data_set_on() -> None:
    """Read by the library's own reader, with perturbed predictions."""
    dataset = build_dataset("coco_panoptic", DATA / "coco_panoptic", "val")
    info, random, pairs = dataset.info, np.random.default_rng(7), []
    tally = SegmentTally(ClassMatch(info.classes, default_palette(133)), dataset.things, (), 2)  # type: ignore[attr-defined]
    for index in (0, 7, 21):
        picture, truth = dataset.load(index)
        own = truth.ids[0].clip(0).astype(np.int64)
        known = {i: {"category": r.label, "crowd": r.crowd} for i, r in enumerate(truth.regions, 1)}
        found, predicted = perturbed(own, known, random)
        numbers = {old: new for new, old in enumerate(predicted, 1)}
        small = np.zeros(found.shape, np.int32)
        for old, new in numbers.items():
            small[found == old] = new
        pairs.append((own, known, found, predicted))
        answer = measured(small, {numbers[p]: (one["category"], 0.9) for p, one in predicted.items()})
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        tally.add(LabelledPicture(index, dataset.name(index), picture, pixels, truth), answer)
        plain = PanopticQuality(133)
        target, labelled = renumbered(own, known, {i: i for i in range(133)})
        plain.update(small, {numbers[p]: one["category"] for p, one in predicted.items()}, target, labelled)
    expected = np.zeros((133, 4))
    for category, values in official(pairs).items():
        expected[category] = values
    np.testing.assert_allclose(tally.quality.counts.numpy(), expected, rtol=1e-12)
    assert expected.sum(0).min() > 3
    assert len(tally.worst.images()) == 2


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.zeros((40, 40), np.int64)
    values[2:12, 3:20] = 1001
    root = files.instances(tmp_path, [values])
    (root / "classes.txt").write_text("cat\ndog\ngrass\n")
    pixels = np.full((40, 40, 3), 20, np.uint8)
    pixels[2:12, 3:20] = QUERIES[0][1]
    Image.fromarray(pixels).save(root / "images" / "a.png")
    monkeypatch.setattr("segmentarium.weights.load", lambda *_, **__: Colours())
    words = [
        "evaluate",
        "--model",
        "any",
        "--data",
        "instances",
        "--root",
        str(root),
        "--json",
        str(tmp_path / "a.json"),
    ]
    assert main([*words, "--task", "instance"]) == 0
    assert "AP 100.00" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["ap"] == pytest.approx(1)
