"""Sequences with known homographies, and what key points are worth on them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import segmentarium
from segmentarium import create_model
from segmentarium.cli.main import main
from segmentarium.contracts import Keypoints
from segmentarium.data import build_dataset, check_data
from segmentarium.data.homographies import warp_points
from segmentarium.data.hpatches import HPatches, fitted
from segmentarium.evaluation import PairReport, evaluate
from segmentarium.evaluation.keypoints import Contender, Protocol, classical, evaluate_keypoints, learnt
from segmentarium.keypoints.superpoint import TINY, SuperPoint
from segmentarium.metrics.repeatability import (
    average_precision,
    corner_error,
    detection_ap,
    inside,
    localisation_error,
    matching_score,
    nearest_neighbour_ap,
    repeatability,
)

SHIFT = np.array([[1.0, 0, 10], [0, 1, 0], [0, 0, 1]])
SIZES = ((40, 60), (40, 60))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = create_model("superpoint", **TINY)
    return segmentarium.save(model, tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0, 255, (height // 6, width // 6)).astype(np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sequence whose second picture is the first one seen at an angle, and one whose second is darker."""
    root = tmp_path_factory.mktemp("sets") / "hpatches"
    root.mkdir()
    whole = texture(300, 400)
    angle = np.array([[0.95, 0.06, 8.0], [-0.05, 1.02, 5.0], [5e-5, -4e-5, 1.0]])
    for name, second, homography in (
        ("v_wall", cv2.warpPerspective(whole, angle, (400, 300)), angle),
        ("i_dark", (whole * 0.6).astype(np.uint8), np.eye(3)),
    ):
        (root / name).mkdir()
        Image.fromarray(whole).save(root / name / "1.png")
        Image.fromarray(second).save(root / name / "2.png")
        np.savetxt(root / name / "H_1_2", homography)
    return root


# the reader ---------------------------------------------------------------------------------------------------------------


def test_pairs_of_sequences_by_what_changes(root: Path) -> None:
    dataset = HPatches([root, root])
    assert [(pair.sequence, pair.number, pair.change) for pair in dataset.items[:2]] == [
        ("i_dark", 2, "illumination"),
        ("v_wall", 2, "viewpoint"),
    ]
    assert len(dataset) == 4
    first, second, homography = dataset.load(1)
    assert first.shape == second.shape == (300, 400)
    assert np.array_equal(homography, dataset.items[1].homography)
    assert dataset.name(1) == "v_wall/2"
    assert len(build_dataset("hpatches", root.parent, "all")) == 2  # a folder of such folders
    with pytest.raises(ValueError, match="no split 'val'"):
        build_dataset("hpatches", root, "val")
    with pytest.raises(ValueError, match="has homographies; only masks"):
        check_data(dataset)


def test_homographies_follow_the_pictures_size(root: Path) -> None:
    """The first picture, warped at the smaller size, is the second one there."""
    first, second, homography = HPatches(root, size=(120, 200)).load(1)
    assert first.shape == second.shape == (120, 200)
    again = cv2.warpPerspective(first, homography, (200, 120))
    seen = cv2.warpPerspective(np.full_like(first, 255), homography, (200, 120)) == 255
    assert np.abs(again[seen].astype(int) - second[seen]).mean() < 3
    _, matrix = fitted(np.zeros((300, 400), np.uint8), (150, 200))
    assert np.allclose(matrix @ (0.5, 0.5, 1), (0, 0, 1))  # between the first two pixels stands the first one now


def test_what_is_no_sequence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no sequence"):
        HPatches(tmp_path)
    (tmp_path / "v_a").mkdir()
    (tmp_path / "v_a" / "H_1_2").write_text("1 0 0\n0 1 0\n")
    with pytest.raises(FileNotFoundError, match="no picture 1"):
        HPatches(tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "v_a" / "1.png")
    with pytest.raises(ValueError, match="three rows"):
        HPatches(tmp_path)
    (tmp_path / "v_a" / "H_1_2").write_text("1 0 0\n0 1 0\n1 1 0\n")
    with pytest.raises(ValueError, match="inverted"):
        HPatches(tmp_path)


# scores by hand -----------------------------------------------------------------------------------------------------------


def test_points_come_again_where_both_pictures_show_them() -> None:
    first = np.array([[5.0, 5], [20, 20], [55, 10], [30, 30]])  # the third leaves the picture
    second = np.array([[15.0, 5], [32, 20], [50, 35], [2, 2]])  # the last was not shown before
    found = repeatability(first, second, SHIFT, SIZES, distance=3)
    # of three and three, (5, 5) and (20, 20) are found again, the second two pixels off
    assert found.share == pytest.approx(4 / 6)
    assert found.error == pytest.approx(1.0)
    assert found.points == 6
    assert repeatability(first, second, SHIFT, SIZES, count=1, distance=3).share == 1
    nothing = repeatability(np.zeros((0, 2)), second, SHIFT, SIZES)
    assert (nothing.share, nothing.points) == (0, 3)
    assert np.isnan(nothing.error)
    assert repeatability(np.zeros((0, 2)), np.zeros((0, 2)), SHIFT, SIZES).share == 0


def test_matches_count_by_what_both_pictures_show() -> None:
    first, second = np.array([[5.0, 5], [20, 20], [55, 10]]), np.array([[15.0, 5], [30, 20], [44, 33], [2, 2]])
    pairs = np.array([[0, 0], [1, 2]])
    assert matching_score(first, second, pairs, SHIFT, SIZES) == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert matching_score(first, np.zeros((0, 2)), np.zeros((0, 2), int), SHIFT, SIZES) == 0
    # of the first picture's points one has its right neighbour and one a wrong one; of the second's both are right
    for far, expected in (((0.1, 0.9), 0.5), ((0.9, 0.1), 0.25)):
        neighbours = (np.array([0, 2]), np.array([0, 1, 0]))
        distances = (np.array(far), np.array([0.1, 0.1, 0.9]))
        found = nearest_neighbour_ap(first[:2], second[:3], neighbours, distances, SHIFT, SIZES)
        assert found == pytest.approx((expected + 1) / 2)


def test_average_precision_by_hand() -> None:
    assert average_precision(np.array([True, True]), np.array([2.0, 1]), 2) == 1
    assert average_precision(np.array([False, True]), np.array([2.0, 1]), 1) == 0.5
    assert average_precision(np.array([True]), np.array([1.0]), 4) == 0.25
    assert average_precision(np.zeros(0, bool), np.zeros(0), 0) == 0


def test_corners_tell_how_far_off_a_homography_is() -> None:
    assert corner_error(SHIFT, SHIFT, (40, 60)) == 0
    assert corner_error(np.eye(3), SHIFT, (40, 60)) == pytest.approx(10)
    assert corner_error(-2 * SHIFT, SHIFT, (40, 60)) == 0
    assert corner_error(None, SHIFT, (40, 60)) == float("inf")
    behind = np.array([[1.0, 0, 0], [0, 1, 0], [-1 / 20, 0, 1]])
    assert corner_error(behind, SHIFT, (40, 60)) == float("inf")
    assert np.isinf(warp_points(np.array([[40.0, 0]]), behind)).all()
    assert np.allclose(warp_points(np.array([[4.0, 2]]), -2 * SHIFT), [[14, 2]])
    assert inside(np.array([[0.0, 0], [59.9, 39], [60, 3], [np.nan, 1]]), (40, 60)).tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_a_labelled_point_is_found_once() -> None:
    truth = [np.array([[10.0, 10]])]
    found = [np.array([[10.0, 11], [11, 10], [40, 40]])]
    assert detection_ap(found, [np.array([0.9, 0.8, 0.1])], truth) == 1
    assert detection_ap(found, [np.array([0.9, 0.8, 0.95])], truth) == 0.5
    assert localisation_error(found, truth) == 1
    assert np.isnan(localisation_error([np.zeros((0, 2))], truth))
    assert detection_ap([np.zeros((0, 2))], [np.zeros(0)], truth) == 0


# the protocol -------------------------------------------------------------------------------------------------------------


def test_learnt_and_classical_points_in_one_run(root: Path) -> None:
    protocol = Protocol(small=(120, 160), count=100, large=(240, 320), matched=300)

    def blind(grey: np.ndarray) -> Keypoints:
        nothing = torch.zeros(0, 2)
        return Keypoints(nothing, torch.zeros(0), torch.zeros(0, 8), torch.tensor(grey.shape[::-1]))

    contenders = {
        "tiny": learnt(SuperPoint(**TINY), protocol),  # type: ignore[arg-type]
        "sift": classical("sift", protocol),
        "harris": classical("harris", protocol),
        "blind": Contender(blind, blind, "l2"),
    }
    seen: list[tuple[int, int]] = []
    rows = evaluate_keypoints(contenders, root, protocol, progress=lambda *told: seen.append(told))
    assert seen == [(1, 2), (2, 2)]
    by = {(row["detector"], row["change"]): row for row in rows}
    assert by["sift", "all"]["pairs"] == 2
    assert by["sift", "all"]["homography_3"] == 1
    assert by["sift", "all"]["homography_1"] <= by["sift", "all"]["homography_3"]
    assert 0.5 < by["sift", "viewpoint"]["matching"] <= by["sift", "illumination"]["nn_map"] <= 1
    assert by["harris", "illumination"]["repeatability"] > 0.9
    assert np.isnan(by["harris", "all"]["matching"])
    assert 0 < by["tiny", "all"]["repeatability"] <= 1
    assert by["blind", "all"]["repeatability"] == by["blind", "all"]["homography_5"] == 0
    assert by["blind", "all"]["failed"] == 1


def test_the_table_of_the_benchmark(root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from benchmarks.keypoints import main

    words = ["--root", str(root), "--classical", "orb", "fast", "--small", "120", "160", "--large", "120", "160"]
    assert main([*words, "--csv", str(tmp_path / "rows.csv")]) == 0
    table = capsys.readouterr().out
    assert "| all | 2 | orb |" in table
    assert "| viewpoint | 1 | fast |" in table
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + 3 * 2


def test_the_verb_scores_a_network_beside_opencv_s(
    root: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--model", str(weights), "--data", "hpatches", "--root", str(root), "--device", "cpu"]
    assert main([*words, "--beside", "orb", "harris", "--limit", "1", "--out", str(tmp_path / "report")]) == 0
    printed = capsys.readouterr().out
    assert "repeatability 0." in printed
    assert "1 pairs of pictures" in printed
    told = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    rows = {(row["detector"], row["change"]): row for row in told["detectors"]}
    assert set(rows) == {
        (name, change) for name in ("superpoint", "orb", "harris") for change in ("all", "illumination")
    }
    assert told["repeatability"] == rows["superpoint", "all"]["repeatability"]
    assert rows["harris", "all"]["matching"] is None
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<h2>Detectors</h2>" in page
    assert "Confusion" not in page
    assert main([*words, "--limit", "1", "--out", str(tmp_path / "report")]) == 0  # an earlier report is renewed


def test_what_points_are_not_scored_on(root: Path, weights: Path, tmp_path: Path) -> None:
    dataset = build_dataset("hpatches", root, "all")
    report = evaluate(str(weights), dataset, limit=1)
    assert isinstance(report, PairReport)
    assert report.of("illumination") == report.of()
    with pytest.raises(TypeError, match="give hpatches"):
        evaluate(str(weights), build_dataset("shapes", tmp_path, "val"))
    with pytest.raises(ValueError, match="no flip"):
        evaluate(str(weights), dataset, flip=True)
    with pytest.raises(ValueError, match="leave beside out"):
        evaluate(create_model("pphumanseg"), dataset, beside=("orb",))
    with pytest.raises(TypeError, match="is of pairs"):
        evaluate(create_model("pphumanseg"), dataset)
