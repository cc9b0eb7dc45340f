"""Data sets of segments: one scene in every form, what the doctor finds, and transforms that keep objects and boxes right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segmentarium.cli.main import main
from segmentarium.data import (
    SegmentDataset,
    SegmentError,
    build_dataset,
    check_data,
    segment_train_transform,
)
from segmentarium.data.examination import examine
from segmentarium.data.image_io import ImageReadError
from segmentarium.data.segments import VOID, Segmentation
from segmentarium.evaluation.segments import flattened
from tests.unit import segment_files as files
from tests.unit.data_files import write_mask
from tests.unit.segment_files import SCENE, SIZE, masks_of

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not here")

FORMS: dict[str, tuple[str, Callable[..., Path], dict[str, Any]]] = {
    "polygons": ("coco_instances", files.coco, {"form": "polygon"}),
    "rle": ("coco_instances", files.coco, {"form": "rle"}),
    "runs": ("coco_instances", files.coco, {"form": "runs"}),
    "labelme": ("labelme", files.labelme, {}),
    "labelme masks": ("labelme", files.labelme, {"mask": True}),
    "cvat": ("cvat", files.cvat, {}),
    "yolo": ("yolo", files.yolo, {}),
}


def opened(form: str, root: Path, **changes: Any) -> SegmentDataset:
    name, write, arguments = FORMS[form]
    dataset = build_dataset(name, write(root, **arguments, **changes), "val" if name == "yolo" else "all")
    assert isinstance(dataset, SegmentDataset)
    return dataset


def pixels(found: Segmentation, number: int) -> np.ndarray:
    return (found.ids == number + 1).any(0)


@pytest.mark.parametrize("form", FORMS)
def test_one_scene_in_every_form(form: str, tmp_path: Path) -> None:
    dataset = opened(form, tmp_path)
    assert dataset.info.classes == ("cat", "dog")
    assert dataset.things == (0, 1)
    image, found = dataset.load(0)
    assert found.ids.shape == (2, *SIZE)  # two overlap
    assert found.ids.dtype == np.int32
    for i, (region, (label, top, left, bottom, right), mask) in enumerate(
        zip(found.regions, SCENE, masks_of(), strict=True)
    ):
        assert region == (label, False, mask.sum(), (left, top, right, bottom))
        assert np.array_equal(pixels(found, i), mask)
        assert np.asarray(image)[mask].min() > 20
    labels = found.label_map(2)
    assert (labels[3, 4], labels[15, 12], labels[20, 25], labels[0, 0]) == (0, 1, 0, 255)
    report = check_data(dataset)
    assert report.ok
    assert [problem.kind for problem in report.problems] == ["overlap", "few"]
    assert "36 pixels belong to more than one object" in report.problems[0].message
    assert [one.segments for one in report.classes] == [2, 1]
    assert report.sheet is not None


def test_where_objects_overlap_the_first_one_counts_whatever_its_layer(tmp_path: Path) -> None:
    # the third overlaps the second alone, and so lies in the first layer
    scene = ((0, 2, 0, 8, 10), (1, 2, 6, 8, 20), (0, 2, 16, 8, 30))
    _, found = opened("polygons", tmp_path / "three", scene=scene).load(0)
    assert found.ids[:, 4, 18].tolist() == [3, 2]
    assert found.label_map(2)[4, [2, 8, 18, 25]].tolist() == [0, 0, 1, 0]
    flat, regions = flattened(found)
    assert (flat[4, 18], len(regions)) == (2, 3)
    ignored = {"label": "__ignore__", "points": [[20, 12], [28, 12], [28, 20], [20, 20]], "shape_type": "polygon"}
    root = files.labelme(tmp_path / "void", scene=((0, 2, 0, 8, 10), (0, 2, 6, 8, 20)), more=[ignored])
    _, found = build_dataset("labelme", root, "all").load(0)
    assert len(found.ids) == 2
    assert found.label_map(1)[[4, 15, 0], [8, 24, 0]].tolist() == [1, 255, 0]


@pytest.mark.parametrize("form", ["polygons", "labelme", "cvat", "yolo"])
def test_nothing_a_pixel_and_much_beyond_the_picture(form: str, tmp_path: Path) -> None:
    dataset = opened(form, tmp_path, scene=((1, 5, 6, 6, 7), (0, 20, 20, 40, 60)))
    _, found = dataset.load(0)
    assert pixels(found, 0).sum() == 1
    assert found.regions[0].box == (6, 5, 7, 6)
    assert pixels(found, 1).sum() == 4 * 12
    assert [problem.kind for problem in check_data(dataset).problems if problem.file] == ["outside"]
    empty = opened(form, tmp_path / "empty", scene=((1, 50, 60, 52, 62), (0, 1, 1, 3, 3)))
    _, found = empty.load(0)  # the first lies outside
    assert [region.label for region in found.regions] == [0]
    assert {problem.kind for problem in check_data(empty).problems if problem.file} == {"outside", "empty"}


def test_a_picture_without_objects_is_one(tmp_path: Path) -> None:
    for form, name in (("polygons", "coco"), ("yolo", "yolo")):
        dataset = opened(form, tmp_path / name, scene=())
        _, found = dataset.load(0)
        assert (found.regions, found.ids.shape, found.ids.any()) == ((), (1, *SIZE), False)
        report = check_data(dataset)
        assert report.ok
        assert "no segment" in {problem.kind for problem in report.problems}
        sample = segment_train_transform((16, 16))(dataset.sample(0))
        assert sample["segments"].masks.shape == (0, 16, 16)
        assert sample["segments"].valid.all()


def test_500_objects_one_pixel_each(tmp_path: Path) -> None:
    values = np.zeros(SIZE, np.int64)
    values.flat[:500] = np.arange(1, 501)
    dataset = build_dataset("instances", files.instances(tmp_path, [values]), "val")
    _, found = dataset.load(0)
    assert len(found.regions) == 500
    assert np.array_equal(found.ids[0], values)
    sample = segment_train_transform(SIZE, (1, 1), 0, photometric=False)(dataset.sample(0))
    assert sample["segments"].masks.flatten(1).sum(1).tolist() == [1] * 500


# what is wrong ----------------------------------------------------------------------------------------------------------


WRONG: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "category": ("polygons", {"object1": {"category_id": 4}}, "no category", "category 4, which the JSON does not define"),
    "runs of another size": (
        "rle",
        {"object0": {"segmentation": {"size": [2, 3], "counts": [6]}}},
        "size",
        "a mask of 3 x 2 pixels, its picture has 32 x 24",
    ),
    "runs": ("rle", {"object0": {"segmentation": {"size": [24, 32], "counts": [6]}}}, "unreadable labels", "1 runs of 6"),
    "odd polygon": ("polygons", {"object0": {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}}, "polygon", "polygon of 7 numbers"),
    "no form": ("polygons", {"object0": {"segmentation": [["x", "y"]]}}, "unreadable labels", "x"),
    "size": (
        "polygons",
        {"content": {"images": [{"id": 5, "file_name": "a.png", "height": 32, "width": 24}]}},
        "size",
        "has 32 x 24 pixels, but the JSON says 24 x 32",
    ),
    "label": ("labelme", {"more": [{"label": "cat", "points": [[0, "x"]]}]}, "unreadable labels", "shape 4 of a.json"),
    "mask": (
        "labelme",
        {"more": [{"label": "cat", "points": [[0, 0]], "shape_type": "mask", "mask": "??"}]},
        "unreadable labels",
        "shape 4",
    ),
    "cvat's label": ("cvat", {"more": '<box label="cow" xtl="0" ytl="0" xbr="1" ybr="1"/>'}, "no category", "'cow'"),
    "cvat's runs": (
        "cvat",
        {"more": '<mask label="cat" rle="1, 2" left="0" top="0" width="2" height="2"/>'},
        "unreadable labels",
        "its runs have 3 pixels, its box 2 x 2",
    ),
    "a box": ("yolo", {"more": ["0 0.5 0.5 0.2 0.2"]}, "polygon", "line 4 of a.txt has 4 numbers; write three points"),
    "yolo's class": ("yolo", {"more": ["2 0 0 1 0 1 1"]}, "no category", "class 2, and there are 2 names"),
    "words": ("yolo", {"more": ["cat 0 0 1 0 1 1"]}, "unreadable labels", "line 4 of a.txt is 'cat 0 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_errors_are_told_and_stop_what_reads(case: str, tmp_path: Path) -> None:
    form, changes, kind, words = WRONG[case]
    dataset = opened(form, tmp_path, **changes)
    report = check_data(dataset)
    assert [problem.kind for problem in report.errors] == [kind]
    assert words in report.errors[0].message
    assert report.readable == 0
    with pytest.raises(SegmentError) as raised:
        dataset.load(0)
    assert words in str(raised.value)
    assert "a." in str(raised.value) or "annotations" in str(raised.value)  # names the file


WARNED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "two points": ("polygons", {"object0": {"segmentation": [[1, 1, 9, 9]]}}, "polygon", "a polygon of 2 points"),
    "only a box": ("polygons", {"object0": {"segmentation": []}}, "empty", "a box and no outline"),
    "a line": ("labelme", {"more": [{"label": "cat", "points": [[0, 0], [5, 5]], "shape_type": "line"}]}, "polygon", "is a line"),
    "points": ("cvat", {"more": '<points label="cat" points="1,2"/>'}, "polygon", "points 4 of a.png has no area"),
}  # fmt: skip


@pytest.mark.parametrize("case", WARNED)
def test_warnings_are_told_and_left_out(case: str, tmp_path: Path) -> None:
    form, changes, kind, words = WARNED[case]
    dataset = opened(form, tmp_path, **changes)
    report = check_data(dataset)
    assert report.ok
    told = [problem.message for problem in report.problems if problem.kind == kind]
    assert any(words in message for message in told)
    assert len(dataset.load(0)[1].regions) == (2 if form == "polygons" else 3)


def test_pieces_of_a_group_are_one_object_and_ignored_shapes_are_void(tmp_path: Path) -> None:
    def shape(label: str, box: tuple[int, int, int, int], group: int | None) -> dict[str, Any]:
        points = np.array(files.corners(*box)).reshape(-1, 2)[[0, 2]].tolist()
        return {"label": label, "points": points, "group_id": group, "shape_type": "rectangle"}

    more = [shape("dog", (0, 20, 3, 23), 1), shape("dog", (0, 28, 3, 31), 1), shape("__ignore__", (0, 0, 4, 6), None)]
    more.append({"label": "cat", "points": [[26, 8], [26, 11]], "shape_type": "circle"})
    dataset = build_dataset("labelme", files.labelme(tmp_path, more=more), "all")
    _, found = dataset.load(0)
    assert [region.label for region in found.regions] == [0, 1, 0, 1, 0]
    assert pixels(found, 3).sum() == 18
    assert found.regions[3].box == (20, 0, 31, 3)
    assert abs(pixels(found, 4).sum() - np.pi * 9) < 3
    assert (found.ids[0] == VOID).sum() == 4 * 6 - 2 * 3  # not what the first object has of it
    assert dataset.info.classes == ("cat", "dog")
    text = "".join(f'<box label="cat" xtl="{left}" ytl="0" xbr="{left + 2}" ybr="2" group_id="4"/>' for left in (0, 30))
    _, found = build_dataset("cvat", files.cvat(tmp_path / "cvat", more=text), "all").load(0)
    assert pixels(found, 3).sum() == 8


# panoptic ---------------------------------------------------------------------------------------------------------------


def test_panoptic_maps(tmp_path: Path) -> None:
    dataset = build_dataset("coco_panoptic", files.panoptic(tmp_path), "val")
    assert isinstance(dataset, SegmentDataset)
    assert dataset.info.classes == ("cat", "dog", "grass")
    assert dataset.info.palette == ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    assert dataset.things == (0, 1)
    assert dataset.notes == ["the 3 categories have ids 3 to 150 with 145 gaps; they are classes 0 to 2, in that order"]
    _, found = dataset.load(0)
    assert found.ids.shape == (1, *SIZE)
    assert (found.ids[0, :, 0] == VOID).all()
    assert [region.label for region in found.regions] == [0, 1, 0, 2]
    assert [region.crowd for region in found.regions] == [True, False, False, False]
    masks = masks_of()
    assert np.array_equal(pixels(found, 2), masks[2])
    assert np.array_equal(pixels(found, 1), masks[1] & ~masks[2])
    assert found.regions[1].area == pixels(found, 1).sum()
    report = check_data(dataset)
    assert report.ok
    assert [one.segments for one in report.classes] == [1, 1, 1]
    assert report.ignored_share == pytest.approx(1 / 32)
    assert any("and 1 crowds" in note for note in report.notes)
    sample = segment_train_transform(SIZE, (1, 1), 0, photometric=False)(dataset.sample(0))
    segments = sample["segments"]
    assert segments.labels.tolist() == [1, 0, 2]  # no crowd
    assert np.array_equal(~segments.valid.numpy(), pixels(found, 0) | (found.ids[0] == VOID))


def test_panoptic_maps_that_contradict_themselves(tmp_path: Path) -> None:
    strange = files.panoptic(tmp_path / "strange", paint={1234: (slice(0, 2), slice(20, 25))})
    dataset = build_dataset("coco_panoptic", strange, "val")
    with pytest.raises(SegmentError, match=r"a\.png: the map has numbers without a category: 1234 \(10 px\)"):
        dataset.load(0)
    assert check_data(dataset).errors[0].kind == "no category"
    more = [{"id": 77, "category_id": 3, "iscrowd": 0, "area": 3, "bbox": [0, 0, 1, 1]}]
    absent = build_dataset("coco_panoptic", files.panoptic(tmp_path / "absent", more=more), "val")
    assert next(p.message for p in check_data(absent).warnings if p.kind == "empty").endswith("left out: 77")
    assert len(absent.load(0)[1].regions) == 4
    more[0]["category_id"] = 4
    undefined = build_dataset("coco_panoptic", files.panoptic(tmp_path / "undefined", more=more), "val")
    with pytest.raises(SegmentError, match="segment 77 has category 4, which the JSON does not define"):
        undefined.load(0)
    more[0] |= {"id": 300, "category_id": 3}
    twice = build_dataset("coco_panoptic", files.panoptic(tmp_path / "twice", more=more), "val")
    with pytest.raises(SegmentError, match="the JSON has segment 300 twice"):
        twice.load(0)
    small = files.panoptic(tmp_path / "small")
    write_mask(small / "annotations" / "panoptic_val2017" / "a.png", np.zeros((3, 4, 3), np.uint8))
    with pytest.raises(ImageReadError, match="has 4 x 3 pixels, its picture has 32 x 24"):
        build_dataset("coco_panoptic", small, "val").load(0)


def test_the_doctor_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(files.yolo(tmp_path / "data", more=["0 0.5 0.5 0.2 0.2"]))
    words = ["check-data", root, "--data", "yolo", "--split", "val", "--out", str(tmp_path / "out")]
    assert main(words) == 1
    shown = capsys.readouterr().out
    assert "segments" in shown
    assert "error: polygon (1)" in shown
    assert (tmp_path / "out" / "contact_sheet.png").is_file()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["classes"][0]["segments"] == 2
    files.yolo(tmp_path / "data")
    assert main([*words, "--overwrite"]) == 0


def test_plain_folders(tmp_path: Path) -> None:
    values = np.zeros(SIZE, np.int64)
    values[2:5, 3:9], values[10:12, 10:20] = 7, 40_000
    root = files.instances(tmp_path / "one", [values, values, values])
    dataset = build_dataset("instances", root, "train")
    assert len(dataset) == 2
    assert dataset.info.classes == ("object",)
    _, found = dataset.load(0)
    assert [(region.label, region.area) for region in found.regions] == [(0, 18), (0, 20)]
    assert np.array_equal(found.label_map(1), (values > 0).astype(np.uint8))
    values[values == 7], values[values == 40_000] = 1001, 2005
    root = files.instances(tmp_path / "two", [values])
    (root / "classes.txt").write_text("cat 1 2 3\ndog 4 5 6\n")
    dataset = build_dataset("instances", root, "val")
    assert [region.label for region in dataset.load(0)[1].regions] == [0, 1]
    assert dataset.info.palette == ((1, 2, 3), (4, 5, 6))
    values[0, 0] = 3000
    files.instances(tmp_path / "two", [values])
    with pytest.raises(SegmentError, match=r"numbers without a category: 3000 \(1 px\)"):
        dataset.load(0)
    for part in ("images", "instances"):
        again = root / part / "a.bmp"
        Image.fromarray(values.astype(np.uint8)).save(again)
        with pytest.raises(ValueError, match=r"a\.bmp and .*a\.png have the same name; rename or remove one"):
            build_dataset("instances", root, "val")
        again.unlink()
    (root / "instances" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="no file for 1 of 1 pictures: a; write one of zeros"):
        build_dataset("instances", root, "val")


def test_the_sheet_shows_a_single_class_in_its_colour(tmp_path: Path) -> None:
    values = np.zeros(SIZE, np.int64)
    values[4:12, 8:20] = 1
    dataset = build_dataset("instances", files.instances(tmp_path, [values], parts=False), "all")
    picture = examine(dataset, 0, True).picture
    assert picture is not None
    assert picture.overlay is not None
    shown, image = np.asarray(picture.overlay), np.asarray(picture.image)
    assert shown[6, 10].tolist() == (0.4 * image[6, 10] + 0.6 * np.array(dataset.info.palette[0])).round().tolist()
    assert shown[1, 4].tolist() == image[1, 4].tolist()


def test_cityscapes(tmp_path: Path) -> None:
    ids = np.full(SIZE, 7)
    ids[:, 5:10], ids[:, 10:15], ids[:, 15:20], ids[:, 20:25], ids[0, 0] = 26_000, 26_001, 24, 3, 65_535
    write_mask(tmp_path / "leftImg8bit/val/city/x_leftImg8bit.png", np.zeros((*SIZE, 3), np.uint8))
    write_mask(tmp_path / "gtFine/val/city/x_gtFine_instanceIds.png", ids.astype(np.uint16))
    dataset = build_dataset("cityscapes_panoptic", tmp_path, "val")
    _, found = dataset.load(0)
    names = [dataset.info.classes[region.label] for region in found.regions]
    assert names == ["road", "person", "car", "car"]
    assert [region.crowd for region in found.regions] == [False, True, False, False]  # persons not told apart
    assert (found.ids == VOID).sum() == 24 * 5 + 1
    objects = build_dataset("cityscapes_instances", tmp_path, "val")
    _, found = objects.load(0)
    assert [objects.info.classes[region.label] for region in found.regions] == ["person", "car", "car"]
    assert (found.ids[0, 5, 2], found.ids[0, 5, 22]) == (0, VOID)  # road is ground, the ego vehicle counts nowhere
    assert check_data(objects).ok
    with pytest.raises(ValueError, match="no split 'test'"):
        build_dataset("cityscapes_panoptic", tmp_path, "test")


@needs_data
@pytest.mark.parametrize(
    ("name", "folder", "pictures", "classes"),
    [
        ("coco_panoptic", "coco_panoptic", 50, 133),
        ("coco_instances", "coco_instances", 77, 80),
        ("instances", "nuclei", 40, 1),
        ("cityscapes_panoptic", "samples/cityscapes", 1, 19),
    ],
)
def test_real_sets(name: str, folder: str, pictures: int, classes: int) -> None:
    dataset = build_dataset(name, DATA / folder, "val")
    assert isinstance(dataset, SegmentDataset)
    assert (len(dataset), dataset.info.num_classes) == (pictures, classes)
    for index in range(0, len(dataset), 13):
        _, found = dataset.load(index)
        assert found.regions
        for number, region in enumerate(found.regions):
            where = np.argwhere(pixels(found, number))
            top, left = where.min(0)
            bottom, right = where.max(0) + 1
            assert np.allclose(region.box, (left, top, right, bottom), atol=2)
            assert abs(region.area - len(where)) <= 0.1 * len(where) + 30


# transforms -------------------------------------------------------------------------------------------------------------


def test_objects_and_boxes_go_along(tmp_path: Path) -> None:
    """The picture's brightness says how many objects have a pixel: it must say so after every change, too."""
    dataset = opened("polygons", tmp_path)
    transform = segment_train_transform((20, 28), (0.6, 1.7), mean=(0, 0, 0), std=(1, 1, 1), photometric=False)
    for seed in range(20):
        torch.manual_seed(seed)
        sample = transform(dataset.sample(0))
        image, (labels, masks, valid, _) = sample["image"], sample["segments"]
        assert image.shape == (3, 20, 28)
        assert masks.shape == (len(labels), 20, 28)
        assert masks.flatten(1).any(1).all()
        assert valid is not None
        assert not image[:, ~valid].any()  # padded
        many = ((image[0] * 255 - 20) / 30)[valid]
        assert (many - masks.sum(0)[valid]).abs().gt(0.5).float().mean() < 0.12  # edges of scaled pictures are mixed


def test_large_scale_jitter_shrinks_pictures_with_their_objects(tmp_path: Path) -> None:
    """Published for COCO: between a tenth and twice the crop; what becomes too small to have a pixel is no segment any more."""
    from segmentarium.contracts.results import boxes_around

    dataset = opened("polygons", tmp_path)
    height, width = dataset.sample(0)["ids"].shape[-2:]
    whole = dataset.load(0)[1].regions
    transform = segment_train_transform((64, 64), (0.1, 2.0), 0.0, photometric=False, long_side=64)
    sizes = []
    for seed in range(12):
        torch.manual_seed(seed)
        labels, masks, valid, _ = transform(dataset.sample(0))["segments"]
        assert len(labels) == len(masks) <= len(whole)
        assert masks.shape[1:] == (64, 64)
        rows, columns = valid.any(1).sum().item(), valid.any(0).sum().item()
        sizes.append(max(rows, columns))
        if len(labels) < len(whole) or max(rows, columns) == 64:
            continue
        shrink = torch.tensor(
            [columns / width, rows / height] * 2
        )  # all of it is there: boxes are those of the file, smaller
        expected = torch.tensor([region.box for region in whole]) * shrink
        assert (boxes_around(masks) - expected).abs().max() <= 1.5
    assert min(sizes) < 32
    assert max(sizes) == 64


def test_exactly_what_is_cut_and_mirrored(tmp_path: Path) -> None:
    dataset = opened("polygons", tmp_path)
    transform = segment_train_transform(
        (12, 12), (1, 1), 0.5, mean=(0, 0, 0), std=(1, 1, 1), photometric=False, rotate=0
    )
    for seed in range(10):
        torch.manual_seed(seed)
        sample = transform(dataset.sample(0))
        assert torch.equal((sample["image"][0] * 255).round(), 20 + 30 * sample["segments"].masks.sum(0).float())
        assert sample["segments"].valid.all()


def test_corners_that_rotation_leaves_empty_count_nowhere(tmp_path: Path) -> None:
    dataset = opened("polygons", tmp_path)
    torch.manual_seed(3)
    sample = segment_train_transform(SIZE, (1, 1), 0, photometric=False, rotate=40)(dataset.sample(0))
    segments = sample["segments"]
    assert not segments.valid[0, 0]
    assert 0.6 < segments.valid.float().mean() < 0.99
    assert not segments.masks[:, ~segments.valid].any()
    assert len(segments.labels) == 3


def test_a_cache_gives_the_same(tmp_path: Path) -> None:
    root = files.coco(tmp_path)
    plain, kept = (build_dataset("coco_instances", root, "all", cache=cache) for cache in (False, True))
    kept.preload()
    first = kept.load(0)[1]
    assert first.regions == plain.load(0)[1].regions
    kept.sample(0)["ids"].zero_()
    assert np.array_equal(kept.load(0)[1].ids, plain.load(0)[1].ids)
