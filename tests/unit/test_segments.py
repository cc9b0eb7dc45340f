"""Segments of pictures of every size: the map and what is in it, tiles that are joined, drawings and files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from segmentarium.cli.main import main
from segmentarium.contracts import Instances, Panoptic, Segment
from segmentarium.data.segments import NOBODY, numbered, read_numbers
from segmentarium.inference import Predictor, SegmentPredictor, SegmentResult, predict
from segmentarium.inference.large_segments import segment_large_file
from segmentarium.inference.segment_drawing import colour_of
from segmentarium.inference.segment_map import SegmentMap, measured, of_instances, of_panoptic
from segmentarium.inference.stitching import Stitcher, plane
from segmentarium.registry import create_model
from segmentarium.rle import decode
from tests.unit.mask_material import CLASSES, QUERIES, Colours, painted

SCENE = ((4, 30, 0, 60, 90), (0, 5, 8, 25, 30), (1, 10, 40, 35, 60), (2, 40, 30, 55, 50))


def picture() -> np.ndarray:
    return painted((60, 90), *SCENE)


def of_query(query: int, image: np.ndarray) -> np.ndarray:
    return (image == QUERIES[query][1]).all(2)


# the map ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_segments_of_a_picture(task: str) -> None:
    image = picture()
    result = SegmentPredictor(Colours(), task=task)(image)
    found = {CLASSES[one.label]: one for one in result.segments.segments}
    assert sorted(CLASSES[one.label] for one in result.segments.segments) == (
        ["cat", "cat", "dog", "grass"] if task == "panoptic" else ["cat", "cat", "dog"]
    )
    for one in result.segments.segments:
        query = next(q for q, (label, _) in enumerate(QUERIES) if label == one.label and of_query(q, image)[
            (result.segments.ids == one.id)
        ].all())  # fmt: skip
        inside = of_query(query, image)
        assert np.array_equal(result.segments.ids == one.id, inside)
        assert np.array_equal(result.segments.mask(one).full(60, 90), inside)
        rows, columns = np.nonzero(inside)
        assert one.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert one.area == inside.sum()
        assert one.score == pytest.approx(0.95, abs=0.01)
    assert found["dog"].box == (30, 40, 50, 55)
    assert (result.mask[0, 0], result.mask[41, 31]) == (255, 1)
    assert result.areas["dog"] == pytest.approx(300 / 5400)
    assert result.facts["task"] == task


def test_a_small_picture_and_one_at_the_model_s_own_scale() -> None:
    tiny = painted((9, 13), (0, 2, 3, 6, 8))
    result = SegmentPredictor(Colours(stride=1), task="instance")(tiny)  # padded to 32 pixels, and cut again
    assert [one.box for one in result.segments.segments] == [(3, 2, 8, 6)]
    assert result.segments.ids.shape == (9, 13)
    model = Colours(stride=2)
    model.preprocessing = model.preprocessing.from_dict(model.preprocessing.as_dict() | {"long_side": 64})
    big = painted((100, 130), (0, 20, 30, 60, 80), (4, 70, 0, 100, 130))
    (cat, grass) = SegmentPredictor(model)(big).segments.segments
    assert np.allclose(cat.box, (30, 20, 80, 60), atol=5)
    assert np.allclose(grass.box, (0, 70, 130, 100), atol=5)
    assert len(SegmentPredictor(Colours())(np.full((40, 40, 3), 20, np.uint8)).segments) == 0


def test_overlapping_instances_keep_their_masks() -> None:
    masks = torch.zeros(2, 10, 12, dtype=torch.bool)
    masks[0, 2:8, 2:8], masks[1, 4:10, 4:12] = True, True
    found = of_instances(Instances(torch.tensor([1, 0]), torch.tensor([0.9, 0.6]), torch.zeros(2, 4), masks), (10, 12))
    assert [one.id for one in found.segments] == [1, 2]
    assert (found.ids == 1).sum() == 36  # the surer one on top
    assert [one.area for one in found.segments] == [36, 48]
    assert np.array_equal(found.mask(found.segments[1]).full(10, 12), masks[1].numpy())
    assert [one.label for one in found.surer_than(0.7).segments] == [1]
    small = of_instances(Instances(torch.tensor([1, 0]), torch.tensor([0.9, 0.6]), torch.zeros(2, 4), masks), (4, 4))
    assert [one.box for one in small.segments] == [(2, 2, 4, 4)]  # the second lies outside of what is kept


def test_measures_are_taken_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(0).integers(0, 4, (23, 17)).astype(np.int32)
    panoptic = Panoptic(torch.from_numpy(ids), tuple(Segment(i, i - 1, 0.5) for i in (1, 2, 3)))
    whole = of_panoptic(panoptic, (23, 17))
    monkeypatch.setattr("segmentarium.inference.segment_map.BAND", 40)
    assert of_panoptic(panoptic, (23, 17)).segments == whole.segments
    for one in whole.segments:
        rows, columns = np.nonzero(ids == one.id)
        assert one.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert one.area == len(rows)
    assert measured(ids, {7: (0, 0.5)}).segments == ()


# tiles ------------------------------------------------------------------------------------------------------------------


def shapes() -> np.ndarray:
    """A U, a ring and a line across all tiles, single pixels, and grass in two places."""
    image = painted((150, 190), (4, 0, 0, 20, 60), (4, 130, 150, 150, 190), (0, 30, 10, 120, 30), (0, 30, 90, 120, 110))
    image[100:120, 10:110] = QUERIES[0][1]
    image[40:90, 130:185] = QUERIES[1][1]
    image[55:75, 145:170] = 20
    image[140:144, 0:140] = QUERIES[2][1]
    image[60, 60] = QUERIES[3][1]
    return image


@pytest.mark.parametrize("task", ["panoptic", "instance"])
@pytest.mark.parametrize(("tile", "overlap"), [(64, 0.25), (32, 8), (96, 0.5)])
def test_tiles_are_joined(task: str, tile: int, overlap: int | float) -> None:
    image = shapes()
    whole = SegmentPredictor(Colours(), task=task, tile=None)(image).segments
    tiled = SegmentPredictor(Colours(), task=task, tile=tile, overlap=overlap)(image).segments
    assert len(tiled) == len(whole) == (5 if task == "panoptic" else 4)
    match = {one.id: int(np.bincount(tiled.ids[whole.ids == one.id]).argmax()) for one in whole.segments}
    assert len(set(match.values())) == len(whole)
    assert np.array_equal(tiled.ids, whole.painted(match, 0, np.int32))
    by_id = {one.id: one for one in tiled.segments}
    for one in whole.segments:
        other = by_id[match[one.id]]
        assert (other.label, other.area, other.box) == (one.label, one.area, one.box)
        assert other.score == pytest.approx(one.score, abs=0.02)


def test_two_objects_that_meet_at_a_seam_stay_two() -> None:
    def tile(ids: list[int], labels: dict[int, int]) -> SegmentMap:
        row = np.repeat(np.array(ids, np.int32)[None], 8, 0)
        return measured(row, {number: (label, 0.5) for number, label in labels.items()})

    stitcher = Stitcher((8, 14), None)
    stitcher.add(0, 0, tile([1, 1, 1, 1, 1, 2, 2, 2], {1: 0, 2: 0}), 0, 0)
    # columns 6 and 7 are shared: the right tile sees only a little of object 2 there, and one of another class beside it
    stitcher.add(0, 6, tile([3, 3, 1, 1, 1, 1, 0, 0], {1: 0, 3: 1}), 0, 2)
    found = stitcher.finish()
    assert {(one.label, one.box) for one in found.segments} == {
        (0, (0, 0, 5, 8)),
        (0, (5, 0, 7, 8)),
        (1, (7, 0, 8, 8)),
        (0, (8, 0, 12, 8)),
    }


def test_a_map_that_is_large_lies_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segmentarium.inference.stitching.IN_MEMORY", 1000)
    assert isinstance(plane((20, 20)), np.memmap)
    assert not isinstance(plane((5, 5)), np.memmap)
    image = shapes()
    found = SegmentPredictor(Colours(), tile=64)(image).segments
    assert isinstance(found.ids, np.memmap)
    assert len(found) == 5


def test_20_000_pixels_wide() -> None:
    image = painted((40, 20_000), (0, 10, 5, 20, 19_990), (2, 25, 9_000, 35, 9_030))
    found = SegmentPredictor(Colours(stride=4), tile="auto")
    found.tile = 2048
    segments = found(image).segments.segments
    assert [CLASSES[one.label] for one in segments] == ["cat", "dog"]
    assert np.allclose(segments[0].box, (5, 10, 19_990, 20), atol=4)


# drawings and files -----------------------------------------------------------------------------------------------------


def test_overlays_show_every_segment_and_its_name() -> None:
    image = picture()
    result = SegmentPredictor(Colours())(image)
    drawn = np.asarray(result.overlay)
    changed = (drawn != image).any(2)
    assert changed[result.segments.ids > 0].mean() > 0.95
    cats = [one for one in result.segments.segments if one.label == 0]
    colours = [colour_of(one, result.palette, result.things) for one in cats]
    assert colours[0] != colours[1]
    grass = next(one for one in result.segments.segments if one.label == 2)
    assert colour_of(grass, result.palette, result.things) == result.palette[2]
    assert np.array_equal(drawn[0, 89], image[0, 89])  # nobody's
    big = painted((300, 400), (0, 50, 50, 250, 350))
    names = np.asarray(SegmentPredictor(Colours())(big).overlay).astype(int)
    assert (names[140:160, 170:230].min(2) > 200).sum() > 8  # white letters in the middle


def test_files_of_segments(tmp_path: Path) -> None:
    image = picture()
    result = SegmentPredictor(Colours(), task="panoptic")(image, name="scene")
    kinds = ("overlay", "mask", "json", "coco", "panoptic", "cutouts")
    written = result.save(tmp_path, kinds)
    assert len(written) == len(set(written)) == 6 + 4
    assert all(path.is_file() for path in written)
    with pytest.raises(FileExistsError, match="is there already"):
        result.save(tmp_path, ("cutouts",))
    content = json.loads((tmp_path / "scene.json").read_text())
    assert [one["class"] for one in content["segments"]] == [CLASSES[one.label] for one in result.segments.segments]
    assert content["segments"][0]["score"] == pytest.approx(0.95, abs=1e-3)
    coco = json.loads((tmp_path / "scene_coco.json").read_text())
    for entry, one in zip(coco["annotations"], result.segments.segments, strict=True):
        assert np.array_equal(decode(entry["segmentation"]), result.segments.ids == one.id)
        assert (entry["area"], entry["category_id"]) == (one.area, one.label + 1)
    assert [one["isthing"] for one in coco["categories"]] == [1, 1, 0]
    panoptic = json.loads((tmp_path / "scene_panoptic.json").read_text())
    (annotation,) = panoptic["annotations"]
    values = read_numbers(tmp_path / annotation["file_name"], 60, 90)
    assert np.array_equal(values, result.segments.ids)
    segments = {one["id"]: (one["category_id"] - 1, False) for one in annotation["segments_info"]}
    problems: list[str] = []
    ids, table = numbered(values, segments, {0: NOBODY}, lambda *told: problems.append(told[2]))
    assert (problems, np.array_equal(ids[0] > 0, result.segments.ids > 0)) == ([], True)
    assert table["area"].tolist() == [one.area for one in result.segments.segments]
    mask = np.asarray(Image.open(tmp_path / "scene_mask.png"))
    assert (mask[0, 0], mask[41, 31]) == (255, 1)
    dog = next(one for one in result.segments.segments if one.label == 1)
    cut = np.asarray(Image.open(tmp_path / "scene_cutouts" / f"{dog.id:04d}_dog.png"))
    assert cut.shape == (15 + 8, 20 + 8, 4)
    assert np.array_equal(cut[..., 3] == 255, (cut[..., :3] == QUERIES[2][1]).all(2))
    with pytest.raises(
        ValueError, match="'cutout' is not a list of known kinds; give some of overlay, mask, json, coco"
    ):
        result.save(tmp_path, ("cutout",))


def test_large_files_are_written_in_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = shapes()
    Image.fromarray(image).save(tmp_path / "big.png")
    predictor = SegmentPredictor(Colours(), tile=64)
    monkeypatch.setattr("segmentarium.inference.large_segments.ROWS", 37)
    shares: list[float] = []
    kinds = ("overlay", "mask", "json", "panoptic")
    done = segment_large_file(predictor, tmp_path / "big.png", tmp_path / "rows", kinds, progress=shares.append)
    assert shares[-1] == 1
    predictor(tmp_path / "big.png").save(tmp_path / "whole", kinds)
    for path in done.files:
        if path.suffix == ".png":
            other = np.asarray(Image.open(tmp_path / "whole" / path.name))
            assert np.array_equal(np.asarray(Image.open(path)), other), path.name
    ours, theirs = (json.loads((tmp_path / place / "big.json").read_text()) for place in ("rows", "whole"))
    assert ours["segments"] == theirs["segments"]
    assert ours["classes"] == theirs["classes"]
    with pytest.raises(ValueError, match="coco of a large picture would be kept in memory whole"):
        segment_large_file(predictor, tmp_path / "big.png", tmp_path, ("coco",))


def test_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    result = SegmentPredictor(Colours(), task="instance")(picture())
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    found = result.to_supervision()
    assert found.xyxy.shape == (3, 4)
    assert found.mask.shape == (3, 60, 90)
    assert found.mask.sum((1, 2)).tolist() == [one.area for one in result.segments.segments]
    assert found.data["class_name"].tolist() == [CLASSES[label] for label in found.class_id]
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        result.to_supervision()


def test_supervision_itself_takes_it() -> None:
    supervision = pytest.importorskip("supervision")
    found = SegmentPredictor(Colours(), task="instance")(picture()).to_supervision()
    assert isinstance(found, supervision.Detections)
    assert len(found) == 3
    assert found.area.tolist() == found.mask.sum((1, 2)).tolist()


# verbs ------------------------------------------------------------------------------------------------------------------


def test_predict_speaks_all_tasks() -> None:
    image = picture()
    for task in ("instance", "panoptic"):
        (result,) = predict(image, Colours(), task=task, threshold=0.4)
        assert isinstance(result, SegmentResult)
        assert result.facts["threshold"] == 0.4
    (usual,) = predict(image, Colours())  # two of its three classes are things
    assert usual.facts["task"] == "panoptic"
    (semantic,) = predict(image, Colours(), task="semantic")
    assert not isinstance(semantic, SegmentResult)
    assert semantic.mask[41, 31] == 1
    (same,) = predict(image, SegmentPredictor(Colours()))
    assert len(same.segments) == 4
    with pytest.raises(TypeError, match="has its options already; task cannot be given beside it"):
        next(predict(image, SegmentPredictor(Colours()), task="instance"))
    with pytest.raises(ValueError, match="task is 'things'"):
        next(predict(image, Colours(), task="things"))
    with pytest.raises(ValueError, match="is a segmenter, which tells no segments apart: leave task"):
        next(predict(image, create_model("pphumanseg", num_classes=2), task="instance"))
    with pytest.raises(TypeError, match="is a segmenter: it gives no masks"):
        SegmentPredictor(create_model("pphumanseg", num_classes=2))
    with pytest.raises(ValueError, match="engine is 'tensorflow'; give one of torch, compile"):
        SegmentPredictor(Colours(), engine="tensorflow")
    with pytest.raises(ValueError, match="threshold is 3; give a share"):
        SegmentPredictor(Colours(), threshold=3)


def test_one_class_is_told_from_all_else() -> None:
    model = Colours(QUERIES[:2], 1)
    image = painted((60, 90), *SCENE[1:3])
    semantic = Predictor(model)(image)
    assert semantic.classes == ("background", "cat")
    assert np.array_equal(semantic.mask > 0, (image != 20).any(2))
    assert semantic.areas["cat"] == pytest.approx((semantic.mask > 0).mean())
    result = SegmentPredictor(model, task="instance")(image)
    assert [one.label for one in result.segments.segments] == [0, 0]
    assert result.classes == ("cat",)


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("segmentarium.inference.predictor.resolve_model", lambda model: Colours())
    Image.fromarray(picture()).save(tmp_path / "a.png")
    words = ["segment", str(tmp_path / "a.png"), "--model", "any", "--out", str(tmp_path / "out")]
    assert main([*words, "--task", "instance", "--kinds", "overlay,json,coco", "--threshold", "0.3"]) == 0
    content = json.loads((tmp_path / "out" / "a.json").read_text())
    assert (content["task"], content["threshold"], len(content["segments"])) == ("instance", 0.3, 3)
    assert (tmp_path / "out" / "a_coco.json").is_file()
    monkeypatch.setattr("segmentarium.media.readers.LARGE", 100)
    assert main([*words, "--task", "panoptic", "--tile", "64", "--kinds", "mask,panoptic"]) == 0
    assert (tmp_path / "out" / "a_panoptic.png").is_file()
    assert main([*words, "--task", "panoptic", "--flip"]) == 2
    assert "--flip is for --task semantic, and this is panoptic" in capsys.readouterr().err
    assert main([*words, "--task", "panoptic", "--batch-size", "4"]) == 2
    assert "--batch-size is for --task semantic, and this is panoptic" in capsys.readouterr().err
    assert main([*words, "--task", "semantic", "--threshold", "0.3"]) == 2
    assert "--threshold is of segments, and this is semantic" in capsys.readouterr().err


def test_the_list_of_inputs_says_what_the_terminal_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("segmentarium.inference.predictor.resolve_model", lambda model: Colours())
    source, out = tmp_path / "in", tmp_path / "out"
    for folder in (source / "sub", out):
        folder.mkdir(parents=True)
    Image.fromarray(picture()).save(source / "a.png")
    Image.fromarray(picture()).save(source / "sub" / "b.png")
    (out / "sub").write_text("a file in a folder's place")
    assert main(["segment", str(source), "--model", "any", "--task", "semantic", "--out", str(out)]) == 1
    told = json.loads((out / "_inputs.json").read_text())["inputs"]
    (problem,) = [one["problem"] for one in told if "problem" in one]
    assert problem.startswith(f"{out / 'sub'}: is no folder")
    assert problem in capsys.readouterr().err
