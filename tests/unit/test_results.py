"""Results as a person holds them: a line, a picture, a polygon, a file of a labelling tool."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segmentarium.data import build_dataset
from segmentarium.inference.polygons import outline, rings
from segmentarium.inference.result import Result, detections
from segmentarium.inference.segment_map import painted_instances
from segmentarium.inference.segment_result import SegmentResult
from segmentarium.matting.portrait import PortraitResult
from segmentarium.registry import create_model, entry
from segmentarium.rle import decode, patch, polygon

CLASSES, PALETTE = ("background", "cat", "dog"), ((0, 0, 0), (200, 30, 30), (30, 30, 200))


def blobs() -> np.ndarray:
    """(40, 60) labels: a ring of class 1, two squares of class 2."""
    mask = np.zeros((40, 60), np.uint8)
    y, x = np.mgrid[:40, :60]
    far = np.hypot(y - 18, x - 20)
    mask[(far < 15) & (far > 6)] = 1
    mask[5:15, 45:58] = 2
    mask[25:35, 45:52] = 2
    return mask


def result(path: Path | None = None) -> Result:
    image = np.zeros((40, 60, 3), np.uint8)
    return Result(image, blobs(), CLASSES, PALETTE, "photo", path)


def segments() -> SegmentResult:
    mask = blobs()
    found = painted_instances([(2, 0.9, patch(mask == 2)), (1, 0.8, patch(mask == 1))], mask.shape)
    image = np.zeros((*mask.shape, 3), np.uint8)
    return SegmentResult(image, mask, CLASSES, PALETTE, "photo", segments=found, things=(0, 1, 2))


def test_a_line_each() -> None:
    assert repr(result()) == "Result('photo', 60×40, 3 classes: background 67%, cat 24%, dog 8%)"
    assert repr(segments()) == "SegmentResult('photo', 60×40, 2 segments: 1 dog, 1 cat)"
    portrait = PortraitResult(np.zeros((4, 6, 4), np.uint8), np.zeros((4, 6), np.uint8), 0.5, "me")
    assert repr(portrait) == "PortraitResult('me', 6×4, a person of 50%)"
    found = entry("pphumanseg")
    model = create_model("pphumanseg", num_classes=2, **found.tiny_arguments())
    assert repr(model).startswith("<pphumanseg: segmenter of 2 classes, 3 channels in, ")
    assert "\n" not in repr(model)
    assert str(model).count("\n") > 20  # every layer, as of any module


def test_every_result_and_report_is_brief() -> None:
    from segmentarium.benchmarking.case import Case, Measurement
    from segmentarium.contracts import Keypoints, MaskSet
    from segmentarium.inference import Classification

    points = Keypoints(torch.rand(500, 2), torch.rand(500), torch.rand(500, 64), torch.tensor([640, 480]))
    many = [
        MaskSet(torch.zeros(1, 100, 20), torch.zeros(1, 100, 60, 80)),
        points,
        Measurement(Case("person", "eager")),
        Classification(("cat", "dog"), np.array([0.8, 0.2], np.float32), np.zeros((2, 2, 3), np.uint8)),
        segments().segments,
    ]
    for one in many:
        assert "\n" not in repr(one)
        assert len(repr(one)) <= 110, repr(one)
    assert "100×20" not in repr(points)
    assert "1×100×60×80 float32" in repr(many[0])


def test_a_notebook_gets_a_picture_and_a_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    matplotlib.use("Agg")
    assert Image.open(io.BytesIO(result()._repr_png_())).size == result().overlay.size
    axes = result().plot()
    assert axes.get_title() == "photo"
    assert segments().plot(axes) is axes
    shown: list[object] = []
    monkeypatch.setattr(Image.Image, "show", lambda self: shown.append(self.size))
    result().show()
    assert len(shown) == 1


def test_saves_agree(tmp_path: Path) -> None:
    assert [p.name for p in result().save(tmp_path / "a")] == ["photo_overlay.png", "photo_mask.png", "photo.json"]
    assert result().save(tmp_path / "one.png") == [tmp_path / "one.png"]
    assert result().save(tmp_path / "mask.png", ("mask",)) == [tmp_path / "mask.png"]
    assert Image.open(tmp_path / "mask.png").mode == "P"
    assert segments().save(tmp_path / "b.png") == [tmp_path / "b.png"]
    with pytest.raises(ValueError, match="is one file, and kinds are mask, json"):
        result().save(tmp_path / "two.png", ("mask", "json"))
    with pytest.raises(ValueError, match="one kind of that suffix"):
        result().save(tmp_path / "two.jpg")
    with pytest.raises(ValueError, match="one kind of that suffix"):
        result().save(tmp_path / "two.json", ("mask",))
    portrait = PortraitResult(np.zeros((4, 6, 4), np.uint8), np.zeros((4, 6), np.uint8), 0.5, "me")
    assert portrait.save(tmp_path / "p.png") == [tmp_path / "p.png"]
    assert portrait.save(tmp_path / "folder", name="you") == [tmp_path / "folder" / "you.png"]
    with pytest.raises(FileExistsError):
        result().save(tmp_path / "one.png")


@pytest.mark.parametrize("seed", range(6))
def test_polygons_fill_to_their_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    import cv2

    noise = cv2.GaussianBlur(rng.random((48, 64)).astype(np.float32), (0, 0), 2.5)
    from scipy.ndimage import label

    parts, count = label(noise > np.median(noise))  # type: ignore[misc]
    for number in range(1, count + 1):
        mask = parts == number
        again = polygon(outline(mask).ravel(), *mask.shape).full(*mask.shape)
        assert (again == mask).all(), f"part {number} of {mask.sum()} pixels differs in {(again != mask).sum()}"


def test_rings_begin_with_the_outer_one_and_touch_at_no_corner() -> None:
    outer, hole = rings(blobs() == 1)
    assert outer.shape[1] == 2
    assert len(outer) > len(hole)
    crossed = np.array([[1, 0], [0, 1]], bool)
    assert [len(ring) for ring in rings(crossed)] == [4, 4]


def test_polygons_say_what_they_are_of() -> None:
    found = result().polygons()
    assert [(one.name, one.area) for one in found] == [("cat", int((blobs() == 1).sum())), ("dog", 130), ("dog", 70)]
    assert result().polygons(smallest=100)[-1].area == 130
    assert len(result().polygons(tolerance=0)[0].points) > len(found[0].points)
    told = segments().polygons()
    assert [(one.number, one.score) for one in told] == [(1, 0.9), (1, 0.9), (2, 0.8)]


def test_files_of_labelling_tools_come_back(tmp_path: Path) -> None:
    picture = tmp_path / "images" / "train" / "photo.png"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(picture)
    given = result(picture)
    mask = blobs()
    coco = given.coco()
    for one in coco["annotations"]:
        assert (decode(one["segmentation"]) == (mask == one["category_id"] - 1)).all()
    labels = tmp_path / "labels" / "train"
    given.save(labels, ("yolo",))
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    (tmp_path / "data.yaml").write_text(f"names: {list(CLASSES)}\ntrain: images/train\n")
    _, found = build_dataset("yolo", tmp_path, "train").load(0)
    assert {region.label for region in found.regions} == {1, 2}
    assert ((found.ids > 0).any(0) == (mask > 0)).mean() > 0.97
    drawn = tmp_path / "drawn"
    (path,) = given.save(drawn, ("labelme",))
    content = json.loads(path.read_text())
    assert content["imagePath"] == "../images/train/photo.png"
    assert {shape["label"] for shape in content["shapes"]} == {"cat", "dog"}
    _, found = build_dataset("labelme", drawn, "all", classes=CLASSES).load(0)
    assert ((found.ids > 0).any(0) == (mask > 0)).mean() > 0.97


def test_supervision_where_it_is_installed() -> None:
    try:
        import supervision  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(ImportError, match="pip install supervision"):
            result().to_supervision()
        pytest.skip("supervision is not installed")
    found = result().to_supervision()
    assert found.class_id.tolist() == [1, 2]
    assert detections([], [], CLASSES).xyxy.shape == (0, 4)
