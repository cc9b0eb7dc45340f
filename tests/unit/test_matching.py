"""Matches, geometry, OpenCV's key points, files of other programs: what they find, and what they say where there is nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segmentarium.contracts import Keypoints
from segmentarium.matching import neighbours
from segmentarium.matching.classical import NAMES, ClassicalDetector, thinned
from segmentarium.matching.files import MOST_IMAGES, Pair, write_colmap, write_hloc
from segmentarium.matching.geometry import Geometry, estimate
from segmentarium.matching.neighbours import bits, match

H = np.array([[1.1, 0.05, 12.0], [-0.04, 0.95, -7.0], [1e-4, -5e-5, 1.0]])


def points(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform((0, 0), (640, 480), (count, 2))


def warped(given: np.ndarray) -> np.ndarray:
    return cv2.perspectiveTransform(given[None], H)[0]


# neighbours ---------------------------------------------------------------------------------------------------------------


def test_blocks_find_what_the_whole_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.nn.functional.normalize(torch.randn(n, 16, generator=generator)) for n in (53, 40))
    table = torch.cdist(first.double(), second.double())
    own = torch.arange(53)
    least, index = table.min(1)
    mutual = table.argmin(0)[index] == own
    second_best = table.topk(2, largest=False).values[:, 1]
    monkeypatch.setattr(neighbours, "BLOCK", 7 * 40)
    for found, kept in (
        (match(first, second), mutual),
        (match(first, second, mutual=False), torch.ones(53, dtype=torch.bool)),
        (match(first, second, ratio=0.9), mutual & (least <= 0.9 * second_best)),
        (match(first, second, distance=1.0), mutual & (least <= 1.0)),
    ):
        assert 0 < len(found) == kept.sum()
        assert torch.equal(found.pairs, torch.stack((own, index), 1)[kept])
        assert torch.allclose(found.distances.double(), least[kept], atol=1e-5)


def test_nothing_matches_nothing() -> None:
    some, none = torch.eye(3), torch.zeros(0, 3)
    for pair in ((some, none), (none, some), (none, none), (torch.zeros(4, 0), torch.zeros(2, 0))):
        found = match(*pair)
        assert (found.pairs.shape, found.distances.shape) == ((0, 2), (0,))
    assert match(some, some[:1], ratio=0.5).pairs.tolist() == [[0, 0]]  # no second to compare with
    with pytest.raises(ValueError, match=r"\(3, 3\) and \(2, 4\)"):
        match(some, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"ratio is 1\.5"):
        match(some, some, ratio=1.5)


def test_bits_are_compared_by_how_many_differ() -> None:
    packed = np.random.default_rng(0).integers(0, 256, (30, 32), dtype=np.uint8)
    changed = packed.copy()
    changed[:, 3] ^= 0b101
    found = match(bits(packed), bits(changed), metric="hamming")
    assert torch.equal(found.pairs[:, 0], found.pairs[:, 1])
    assert (found.distances == 2).all()


# geometry -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ransac", "magsac", "lmeds"])
def test_a_homography_among_outliers(method: str) -> None:
    first = points(120)
    second = warped(first)
    second[80:] = points(40, seed=1)
    found = estimate(first, second, method=method, threshold=2.0)
    assert found.reason == ""
    assert found.matrix is not None
    assert np.allclose(found.matrix / found.matrix[2, 2], H, rtol=1e-3, atol=1e-5)
    assert found.inliers[:80].all()
    assert found.inliers[80:].sum() <= 2
    assert found.as_dict()["inliers"] == found.inliers.sum()


def test_a_moving_camera() -> None:
    """Points in space seen by two cameras with different focal lengths, one turned and moved."""
    generator = np.random.default_rng(0)
    space = generator.uniform((-2, -2, 4), (2, 2, 9), (100, 3))
    rotation = cv2.Rodrigues(np.array([0.05, -0.2, 0.03]))[0]
    translation = np.array([1.0, 0.1, -0.2])
    cameras = tuple(np.array([[f, 0, 320], [0, f, 240], [0, 0, 1.0]]) for f in (500, 650))
    seen = [
        (camera @ view.T).T for camera, view in zip(cameras, (space, space @ rotation.T + translation), strict=True)
    ]
    first, second = (side[:, :2] / side[:, 2:] for side in seen)
    second[90:] = generator.uniform(0, 480, (10, 2))
    for method in ("ransac", "magsac"):
        found = estimate(first, second, "essential", method=method, threshold=1.0, cameras=cameras)
        assert found.inliers[:90].sum() >= 88
        assert found.rotation is not None
        assert found.translation is not None
        assert np.allclose(found.rotation, rotation, atol=5e-3)
        assert np.allclose(found.translation, translation / np.linalg.norm(translation), atol=2e-2)
        found = estimate(first, second, "fundamental", method=method, threshold=1.0)
        assert found.matrix is not None
        a, b = (np.column_stack((side[:90], np.ones(90))) for side in (first, second))
        lines = a @ found.matrix.T
        assert np.median(np.abs((b * lines).sum(1)) / np.hypot(lines[:, 0], lines[:, 1])) < 0.1


@pytest.mark.parametrize("kind", ["homography", "fundamental", "essential"])
@pytest.mark.parametrize("method", ["ransac", "magsac", "lmeds"])
def test_what_has_no_geometry_says_why(kind: str, method: str) -> None:
    cameras = (np.diag((500.0, 500, 1)),) * 2
    line = np.column_stack((np.arange(40.0), 2 * np.arange(40.0)))
    chance = points(9, seed=2), points(9, seed=3)
    for first, second, reason in (
        (points(0), points(0), "0 matches; it takes"),
        (points(3), points(3), "3 matches; it takes"),
        (np.full((30, 2), 7.0), points(30), "first picture lie on a line"),
        (points(40), line, "second picture lie on a line"),
        (np.full((30, 2), np.nan), points(30), "0 matches"),
        (*chance, ""),
        (points(50), np.tile(points(2), (25, 1)), "second picture lie on a line"),
    ):
        found = estimate(first, second, kind, method=method, threshold=0.5, cameras=cameras)  # type: ignore[arg-type]
        assert reason in found.reason
        assert found.inliers.shape == (len(first),)
        assert (found.matrix is None) == bool(found.reason)
        assert found.matrix is not None or not found.inliers.any()


def test_a_folded_picture_is_no_homography() -> None:
    first = points(60)
    folded = np.array([[1.0, 0, 0], [0, 1, 0], [-2 / 640, 0, 1]])  # its horizon stands in the middle
    moved = np.column_stack((first, np.ones(60))) @ folded.T
    found = estimate(first, moved[:, :2] / moved[:, 2:], threshold=1.0)
    assert found.matrix is None
    assert found.reason


def test_wrong_words_are_refused() -> None:
    with pytest.raises(ValueError, match="kind is 'affine'"):
        estimate(points(9), points(9), "affine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="9 points are matched with 8"):
        estimate(points(9), points(8))
    with pytest.raises(ValueError, match="both cameras"):
        estimate(points(9), points(9), "essential")
    with pytest.raises(ValueError, match="threshold is -1; give pixels, above 0"):
        estimate(points(9), points(9), threshold=-1)
    with pytest.raises(ValueError, match=r"focal lengths are \[0\.0, 0\.0, 5\.0, 5\.0\]; give pixels, above 0"):
        estimate(points(9), points(9), "essential", cameras=(np.diag((0.0, 0, 1)), np.diag((5.0, 5, 1))))


# OpenCV's -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_classical_points_stand_at_corners_and_apart(name: str) -> None:
    grey = np.full((160, 200), 40, np.uint8)
    grey[60:110, 50:140] = 200
    grey = cv2.GaussianBlur(grey, (0, 0), 1.0)
    detector = ClassicalDetector(name, 40, radius=6)
    found = detector(grey)
    assert 0 < len(found) <= 40
    corners = torch.tensor([[50.0, 60], [139, 60], [50, 109], [139, 109]])
    if name in ("harris", "fast", "shi_tomasi"):
        assert (torch.cdist(corners, found.keypoints).amin(1) < 5).all()
        assert (detector.metric, found.descriptors.shape[1]) == (None, 0)
    else:
        assert found.descriptors.shape[1] == (128 if name == "sift" else 256)
    assert (found.keypoint_scores.diff() <= 0).all()
    apart = (found.keypoints[:, None] - found.keypoints).abs().amax(2)
    assert (apart + 1e3 * torch.eye(len(found)) > 5).all()
    nothing = detector(np.full((16, 16), 7, np.uint8))
    assert len(nothing) == len(nothing.descriptors) == 0
    with pytest.raises(ValueError, match=r"\(H, W\) uint8"):
        detector(np.zeros((4, 4, 3), np.uint8))


def test_weaker_points_make_way_for_better_ones() -> None:
    places = np.array([[10.0, 10], [13, 10], [30, 5], [16, 10]], np.float32)
    assert thinned(places, np.array([1.0, 2, 0.5, 1.5]), 3, (40, 50)).tolist() == [1, 2]
    assert thinned(places, np.array([1.0, 2, 0.5, 1.5]), 2, (40, 50)).tolist() == [1, 3, 0, 2]


# files --------------------------------------------------------------------------------------------------------------------


def picture(count: int, size: tuple[int, int] = (640, 480)) -> Keypoints:
    described = torch.nn.functional.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(count)))
    return Keypoints(torch.from_numpy(points(count, count)).float(), torch.rand(count), described, torch.tensor(size))


def test_a_database_of_colmap(tmp_path: Path) -> None:
    pictures = {"a.png": picture(5), "b.png": picture(4)}
    pairs = np.array([[0, 2], [3, 1], [4, 0]])
    homography = Geometry("homography", H, np.array([True, False, True]))
    turned = Pair("b.png", "a.png", pairs[:, ::-1].copy(), np.zeros(3), homography)
    path = write_colmap(tmp_path / "points.db", pictures, [turned])
    with sqlite3.connect(path) as database:
        rows = database.execute(
            "SELECT image_id, name, width, height FROM images JOIN cameras USING (camera_id)"
        ).fetchall()
        assert rows == [(1, "a.png", 640, 480), (2, "b.png", 640, 480)]
        (count, columns, blob) = database.execute(
            "SELECT rows, cols, data FROM keypoints WHERE image_id = 1"
        ).fetchone()
        stored = np.frombuffer(blob, np.float32).reshape(count, columns)
        assert np.allclose(stored, pictures["a.png"].keypoints.numpy() + 0.5)
        (number, blob) = database.execute("SELECT pair_id, data FROM matches").fetchone()
        assert number == MOST_IMAGES + 2
        assert np.frombuffer(blob, np.uint32).reshape(-1, 2).tolist() == pairs.tolist()
        blob, configuration, matrix = database.execute("SELECT data, config, H FROM two_view_geometries").fetchone()
        assert np.frombuffer(blob, np.uint32).reshape(-1, 2).tolist() == pairs[[0, 2]].tolist()
        assert configuration == 6
        # from a to b, in COLMAP's pixels: half a pixel further on both sides
        given = points(3)
        back = cv2.perspectiveTransform(given[None] + 0.5, np.frombuffer(matrix).reshape(3, 3))[0] - 0.5
        assert np.allclose(warped(back), given)
    with pytest.raises(FileExistsError):
        write_colmap(path, pictures, [])
    with pytest.raises(ValueError, match=r"'c.png', which is not among"):
        write_colmap(tmp_path / "other.db", pictures, [Pair("a.png", "c.png", pairs, np.zeros(3))])
    for wrong, said in (
        ([turned, turned], "'b.png', 'a.png' is given twice"),
        ([turned, Pair("a.png", "b.png", pairs, np.zeros(3))], "'a.png', 'b.png' is given twice"),
        ([Pair("a.png", "a.png", pairs, np.zeros(3))], "'a.png', 'a.png' is one picture"),
    ):
        with pytest.raises(ValueError, match=said):
            write_colmap(tmp_path / "other.db", pictures, wrong)
    assert not (tmp_path / "other.db").exists()


def test_files_of_hloc(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    pictures = {"day/a.png": picture(5), "b.png": picture(4)}
    pair = Pair("day/a.png", "b.png", np.array([[0, 2], [3, 1]]), np.array([0.0, 1.0]))
    features, matches = write_hloc(tmp_path, pictures, [pair])
    with h5py.File(features) as file:
        group = file["day/a.png"]
        assert np.allclose(group["keypoints"][:], pictures["day/a.png"].keypoints.numpy())
        assert group["descriptors"].shape == (8, 5)
        assert group["scores"].shape == (5,)
        assert group["image_size"][:].tolist() == [640, 480]
    with h5py.File(matches) as file:
        group = file["day-a.png/b.png"]
        assert group["matches0"][:].tolist() == [2, -1, -1, 1, -1]
        assert group["matching_scores0"][:].tolist() == [1.0, 0, 0, 0.5, 0]
    lost = Pair("b.png", "c.png", np.array([[0, 2]]), np.zeros(1))
    for wrong, said in (
        ([pair, pair], "two pairs are 'day-a.png/b.png'"),
        ([pair, lost], "'c.png', which is not among"),
    ):
        with pytest.raises(ValueError, match=said):
            write_hloc(tmp_path / "wrong", pictures, wrong)
    assert not (tmp_path / "wrong").exists()
