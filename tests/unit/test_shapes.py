"""Drawn shapes: their points are corners, their stream follows from numbers; homographies and light as published."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from segmentarium.data import ClassificationDataset, build_dataset
from segmentarium.data.homographies import inside, sample_homography, valid_mask, warp_points
from segmentarium.data.photometric import OF_PICTURES, OF_SHAPES, Photometry
from segmentarium.data.points import Points, PointStream
from segmentarium.data.shapes import KINDS, Shapes, draw, draw_any
from segmentarium.labels import IGNORE_INDEX

SIZE = (120, 160)
POINTLESS = ("ellipses", "noise")


def corners(image: np.ndarray) -> np.ndarray:
    """Shi and Tomasi's response: the weaker of the two directions in which a place changes."""
    return cv2.cornerMinEigenVal(image.astype(np.float32) / 255, 3)


def within(points: np.ndarray, margin: int) -> np.ndarray:
    return points[((points >= margin) & (points < np.array(SIZE[::-1]) - margin)).all(1)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in POINTLESS])
def test_points_lie_on_corners_and_corners_have_points(kind: str) -> None:
    """As a detector that knows nothing of the drawing finds them again."""
    rng = np.random.default_rng(1)
    near = 5.5 if kind == "star" else 3  # where branches meet, the notches between them are found
    labelled, on_corner, strong, strong_labelled = 0, 0, 0, 0
    for _ in range(25):
        image, points = draw(rng, kind, SIZE)
        response = corners(image)
        peaks = np.argwhere((response == cv2.dilate(response, np.ones((5, 5)))) & (response > 2e-4))[:, ::-1]
        inner = within(points, 5)
        labelled += len(inner)
        if len(inner) and len(peaks):
            on_corner += int((np.hypot(*np.moveaxis(inner[:, None] - peaks, -1, 0)).min(1) <= near).sum())
        sure = within(peaks[response[peaks[:, 1], peaks[:, 0]] > max(0.01, 0.3 * response.max())], 5)
        strong += len(sure)
        if len(sure) and len(points):
            strong_labelled += int((np.hypot(*np.moveaxis(sure[:, None] - points, -1, 0)).min(1) <= near).sum())
    assert labelled > 40
    assert on_corner >= 0.95 * labelled
    assert strong_labelled >= 0.95 * strong


@pytest.mark.parametrize("kind", POINTLESS)
def test_what_has_no_corner_has_no_point(kind: str) -> None:
    rng = np.random.default_rng(0)
    assert all(draw(rng, kind, SIZE)[1].shape == (0, 2) for _ in range(10))


def test_how_many_points_a_kind_has() -> None:
    rng = np.random.default_rng(2)
    counts = {kind: [len(draw(rng, kind, SIZE)[1]) for _ in range(60)] for kind in KINDS}
    assert set(counts["cube"]) == {7}
    assert set(counts["star"]) == {4, 5, 6}
    assert min(counts["polygon"]) == 3
    assert max(counts["polygon"]) <= 7
    assert all(count % 2 == 0 for count in counts["lines"])
    assert max(counts["lines"]) <= 18
    assert max(counts["checkerboard"]) <= 49
    assert max(counts["stripes"]) <= 26


def test_a_cube_s_hidden_corner_is_no_point() -> None:
    """The seven lie on the outline or, one of them, inside it, where the faces meet."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        _, points = draw(rng, "cube", SIZE)
        hull = cv2.convexHull(points)[:, 0]
        on_outline = [np.abs(hull - point).sum(1).min() < 1e-3 for point in points]
        assert sum(on_outline) == 6


def test_a_picture_follows_from_seed_split_and_number() -> None:
    train, again = (build_dataset("shapes", "", "train", noise=True) for _ in range(2))
    val, other = (
        build_dataset("shapes", "", "val", noise=True),
        build_dataset("shapes", "", "train", noise=True, seed=1),
    )
    assert isinstance(train, Shapes)
    assert isinstance(again, Shapes)
    assert isinstance(val, Shapes)
    assert isinstance(other, Shapes)
    again.drawing(3)  # what was drawn before is of no matter
    assert (train.drawing(17).image == again.drawing(17).image).all()
    assert (train.drawing(17).points == again.drawing(17).points).all()
    for different in (val, other):
        assert (train.drawing(17).image != different.drawing(17).image).any()


def test_a_classification_set_of_the_kinds() -> None:
    dataset = build_dataset("shapes", "", "val", size=(64, 64), kinds=["star", "cube"], count=3)
    assert isinstance(dataset, ClassificationDataset)
    assert dataset.info.classes == ("star", "cube")
    assert dataset.counts() == [3, 3]
    sample = dataset[3]
    assert sample["image"].shape == (3, 64, 64)
    assert sample["label"] == 1
    picture, label = dataset.load(3)
    assert (np.array(picture).transpose(2, 0, 1) == sample["image"].numpy()).all()
    assert label == 1
    assert len(build_dataset("shapes", "")) == 90_000
    with pytest.raises(ValueError, match="no kind of shape 'circle'"):
        build_dataset("shapes", "", kinds=["circle"])
    with pytest.raises(ValueError, match="32 pixels"):
        build_dataset("shapes", "", size=(16, 64))


def test_kinds_are_taught_as_often_as_published() -> None:
    rng = np.random.default_rng(0)
    names = list(KINDS)
    found = np.bincount([draw_any(rng, (32, 32)).kind for _ in range(600)], minlength=9) / 600
    share = 1 / 6.6  # six whole kinds, and 0.3, 0.2 and 0.1 of one
    for name, part in (("cube", 1), ("ellipses", 0.3), ("stripes", 0.2), ("noise", 0.1)):
        assert found[names.index(name)] == pytest.approx(part * share, abs=0.04)


# homographies -----------------------------------------------------------------------------------------------------------


def test_without_artefacts_nothing_from_beyond_the_edges_is_shown() -> None:
    rng = np.random.default_rng(0)
    ends = np.array([[0, 0], [SIZE[1], 0], [0, SIZE[0]], [SIZE[1], SIZE[0]]], float)
    beyond = 0
    for _ in range(100):
        shown = warp_points(ends, np.linalg.inv(sample_homography(rng, SIZE, artefacts=False)))
        assert (shown > -1e-3).all()
        assert (shown < np.array(SIZE[::-1]) + 1e-3).all()
        beyond += (valid_mask(sample_homography(rng, SIZE), SIZE) == 0).any()
    assert beyond > 50  # with artefacts, as published, mostly


def test_each_change_of_a_homography_alone() -> None:
    rng = np.random.default_rng(0)
    none: dict[str, Any] = {"patch_ratio": 1.0, "perspective": 0.0, "scaling": 0.0, "max_angle": 0.0}
    assert np.allclose(sample_homography(rng, SIZE, **none), np.eye(3), atol=1e-4)
    halved = sample_homography(rng, SIZE, **none | {"patch_ratio": 0.5})  # a quarter of the picture, shifted
    assert np.allclose(halved[:2, :2], 2 * np.eye(2), atol=1e-3)
    square = (100, 100)
    for _ in range(20):
        turned = sample_homography(rng, square, **none | {"max_angle": 1.0})
        angle = math.atan2(turned[1, 0], turned[0, 0])
        assert abs(angle) <= 1.0 + 1e-4
        assert np.linalg.det(turned[:2, :2]) == pytest.approx(1, abs=1e-3)
        factor = np.linalg.det(sample_homography(rng, square, **none | {"scaling": 0.2})[:2, :2]) ** -0.5
        assert 0.8 <= factor <= 1.2


def test_points_go_where_pixels_go() -> None:
    rng = np.random.default_rng(4)
    for _ in range(10):
        homography = sample_homography(rng, SIZE)
        dot = np.zeros(SIZE, np.uint8)
        cv2.circle(dot, (80, 60), 4, 255, -1)
        seen = cv2.warpPerspective(dot, homography, SIZE[::-1]).astype(float)
        (place,) = warp_points(np.array([[80.0, 60.0]]), homography)
        assert inside(place[None], SIZE).all()  # the middle is always shown
        y, x = np.indices(SIZE)
        middle = np.array([(seen * x).sum(), (seen * y).sum()]) / seen.sum()
        assert np.abs(middle - place).max() < 0.5


def test_edges_of_what_is_known_do_not_count() -> None:
    shifted = np.array([[1.0, 0, 10], [0, 1, 0], [0, 0, 1]])
    whole, eroded = valid_mask(shifted, SIZE), valid_mask(shifted, SIZE, 3)
    assert (whole[:, :10] == 0).all()
    assert (whole[:, 10:] == 1).all()
    assert (eroded[:, :12] == 0).all()
    assert (eroded[:, 14:] == 1).all()  # the frame of the warped picture itself is no edge
    cut = np.array([[1.0, 0, -30], [0, 1, -20], [0, 0, 1]])
    assert (valid_mask(cut, (40, 40), 3, (200, 200)) == 1).all()


# light ------------------------------------------------------------------------------------------------------------------


def test_light_changes_within_its_bounds() -> None:
    grey = np.full(SIZE, 128, np.uint8)
    for photometry in (OF_SHAPES, OF_PICTURES):
        seen = [photometry(grey, np.random.default_rng(i)) for i in range(20)]
        assert all(image.dtype == np.float32 and image.min() >= 0 and image.max() <= 255 for image in seen)
        assert np.std([image.mean() for image in seen]) > 10
        assert (photometry(grey, np.random.default_rng(3)) == seen[3]).all()
    assert (grey == 128).all()
    none = Photometry(brightness=0, contrast=(1, 1), noise=0, speckle=0, shade=(0, 0), motion=0)
    assert np.allclose(none(grey, np.random.default_rng(0)), 128, atol=1e-3)
    speckled = Photometry(0, (1, 1), 0, 0.02, (0, 0), (100, 150), 0)(grey, np.random.default_rng(0))
    changed = np.abs(speckled - 128) > 1
    assert 0 < changed.mean() <= 0.02 * 3
    assert set(np.unique(speckled[changed].round())) == {0, 255}


# samples ----------------------------------------------------------------------------------------------------------------


def folder_with_points(root, size=(96, 128)):  # type: ignore[no-untyped-def]
    """One picture of four dark squares, whose corners are its points."""
    for name in ("images", "points"):
        (root / name).mkdir(parents=True, exist_ok=True)
    picture, points = np.full(size, 200, np.uint8), []
    for top, left in ((12, 12), (20, 80), (60, 20), (64, 92)):
        picture[top : top + 17, left : left + 17] = 40
        points += [(left, top), (left + 16, top), (left, top + 16), (left + 16, top + 16)]
    Image.fromarray(picture).save(root / "images" / "train.png")
    points = np.array(points, np.float32)
    np.savez(root / "points" / "train.npz", keypoints=points, keypoint_scores=np.ones(len(points), np.float32))
    return picture, points


def places(cells: torch.Tensor) -> np.ndarray:
    """Cells -> x, y of the pixels that they name."""
    y, x = ((cells != 64) & (cells != IGNORE_INDEX)).nonzero(as_tuple=True)
    inner = cells[y, x]
    return torch.stack((x * 8 + inner % 8, y * 8 + inner // 8), 1).numpy()


def test_samples_of_shapes_are_warped_with_their_points() -> None:
    stream = PointStream(Shapes(), SIZE, seed=5)
    sample, again = stream[(7, 0)], stream[(7, 12345)]
    assert set(sample) == {"name", "counter", "image", "cells"}
    assert sample["image"].shape == (1, *SIZE)
    assert sample["cells"].shape == (15, 20)
    assert sample["cells"].dtype == torch.int64
    assert (sample["image"] == again["image"]).all()  # there is a new shape for each counter, whatever the index
    assert (sample["image"] != stream[(8, 0)]["image"]).any()
    assert (sample["image"] != PointStream(Shapes(), SIZE, seed=6)[(7, 0)]["image"]).any()
    cells = torch.stack([stream[(number, 0)]["cells"] for number in range(60)])
    assert 0.5 < (cells == 64).float().mean() < 0.97
    assert 0.001 < (cells < 64).float().mean() < 0.2
    assert (cells == IGNORE_INDEX).any()  # beyond the edges of what was drawn


def test_a_pair_is_a_crop_and_its_warp(tmp_path) -> None:  # type: ignore[no-untyped-def]
    picture, points = folder_with_points(tmp_path)
    stream = PointStream(Points(tmp_path, "all"), (64, 80), seed=1, pairs=True)
    stream.photometry = lambda image, rng: image.astype(np.float32)  # type: ignore[assignment]
    compared = 0
    for counter in range(12):
        sample = stream[(counter, 0)]
        image, homography = sample["image"][0].numpy() * 255, sample["homography"].double().numpy()
        found = cv2.matchTemplate(picture.astype(np.float32), image.astype(np.float32), cv2.TM_SQDIFF)
        assert found.min() < 1e-3 * image.size
        left, top = cv2.minMaxLoc(found)[2]
        here = points - (left, top)
        crop = picture[top : top + 64, left : left + 80]
        assert np.abs(crop - image).max() < 1e-3

        named = places(sample["cells"])
        assert all((np.abs(here - place).max(1) < 0.5).any() for place in named)
        warped = places(sample["warped_cells"])
        moved = warp_points(here, homography)
        assert all((np.abs(moved - place).max(1) < 0.51).any() for place in warped)
        compared += len(warped)

        seen = cv2.warpPerspective(crop, homography, (80, 64)).astype(float)
        known = valid_mask(homography, (64, 80), 3) > 0  # what the crop does not show, the picture may
        assert np.abs(seen - sample["warped"][0].numpy() * 255)[known].mean() < 0.1
        assert ((sample["warped_cells"] != IGNORE_INDEX) == (sample["warped_valid"] > 0)).all()
    assert compared > 30


def test_warps_turn_as_far_as_they_may(tmp_path) -> None:  # type: ignore[no-untyped-def]
    folder_with_points(tmp_path)

    def turns(turn: float | None) -> np.ndarray:
        stream = PointStream(Points(tmp_path, "all"), (64, 80), pairs=True, turn=turn)
        stream.warps |= {"perspective": 0.0, "scaling": 0.0}
        found = [stream[(counter, 0)]["homography"].double().numpy() for counter in range(40)]
        # of a crop that is as high as wide in units of its sides
        return np.array([abs(np.degrees(np.arctan2(matrix[1, 0] * 80, matrix[0, 0] * 64))) for matrix in found])

    assert turns(20.0).max() < 21
    assert turns(0.0).max() < 1e-3
    assert turns(None).max() > 60


def test_points_of_pictures_are_read_and_checked(tmp_path) -> None:  # type: ignore[no-untyped-def]
    _, points = folder_with_points(tmp_path)
    dataset = build_dataset("points", tmp_path, "all")
    assert (dataset[0]["points"].numpy() == points).all()
    assert dataset[0]["name"] == "train"
    np.savez(tmp_path / "points" / "train.npz", keypoints=points, keypoint_scores=np.ones(3))
    with pytest.raises(ValueError, match="expected \\(N, 2\\) and \\(N,\\)"):
        build_dataset("points", tmp_path, "all")[0]
    again = tmp_path / "images" / "train.bmp"
    Image.new("L", (8, 8)).save(again)
    with pytest.raises(ValueError, match=r"train\.bmp and .*train\.png have the same name; rename or remove one"):
        build_dataset("points", tmp_path, "all")
    again.unlink()
    (tmp_path / "points" / "train.npz").unlink()
    with pytest.raises(FileNotFoundError, match="no points of 1 of 1 pictures: train"):
        build_dataset("points", tmp_path, "all")
