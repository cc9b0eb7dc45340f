"""Networks of points that were exported: they find what PyTorch finds, in eight bits where asked, or say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from segmentarium.cli.main import main
from segmentarium.contracts import KeypointModel
from segmentarium.data.hpatches import HPatches
from segmentarium.evaluation import evaluate
from segmentarium.evaluation.keypoints import PairReport, Protocol
from segmentarium.export import to_onnx
from segmentarium.inference.points import KeypointFinder
from segmentarium.keypoints.detector import PointDetector
from segmentarium.quantization import export_int8
from segmentarium.quantization.calibration import spread_evenly, what_it_sees
from segmentarium.registry import create_model, entry
from segmentarium.weights import load

SMALL = {"sizes": ((64, 96),)}


@pytest.fixture(scope="module")
def model() -> KeypointModel:
    torch.manual_seed(0)
    made = create_model("superpoint", **entry("superpoint").tiny_arguments()).eval()
    assert isinstance(made, KeypointModel)
    with torch.no_grad():
        made.get_submodule("detector.1.conv").weight.mul_(20)  # scores as far apart as a trained network's
    return made


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    random = np.random.default_rng(0)
    return cv2.resize(random.integers(0, 256, (24, 32), dtype=np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def pairs(picture: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> HPatches:
    """A sequence of two pairs: the picture moved to the right, and darker."""
    folder = tmp_path_factory.mktemp("pairs") / "v_noise"
    folder.mkdir()
    cv2.imwrite(str(folder / "1.png"), picture)
    moved = np.array([[1.0, 0, 5], [0, 1, 0], [0, 0, 1]])
    for number, (view, matrix) in enumerate(
        ((cv2.warpPerspective(picture, moved, picture.shape[::-1]), moved), (picture // 2, np.eye(3))), 2
    ):
        cv2.imwrite(str(folder / f"{number}.png"), view)
        np.savetxt(folder / f"H_1_{number}", matrix)
    return HPatches(folder.parent)


def test_a_file_finds_what_its_network_finds(model: KeypointModel, picture: np.ndarray, tmp_path: Path) -> None:
    file = to_onnx(model, tmp_path / "points.onnx")
    written = load(file)
    assert isinstance(written, KeypointModel)
    assert (written.stride, written.sampling) == (8, "superglue")
    expected, found = (KeypointFinder(one, count=40)(picture).keypoints for one in (model, written))
    assert len(expected) == 40
    assert torch.equal(found.keypoints, expected.keypoints)
    torch.testing.assert_close(found.descriptors, expected.descriptors, rtol=1e-4, atol=1e-5)
    cv2.imwrite(str(tmp_path / "picture.png"), picture)
    assert main(["keypoints", str(tmp_path / "picture.png"), "--model", str(file), "--out", str(tmp_path / "out")]) == 0
    told = json.loads(next((tmp_path / "out").glob("*.json")).read_text(encoding="utf-8"))
    assert told["count"] > 0
    assert told["engine"].startswith("onnxruntime")


def test_a_file_that_finds_its_points_itself_says_what_to_do(model: KeypointModel, tmp_path: Path) -> None:
    file = to_onnx(PointDetector(model, 16).eval(), tmp_path / "detector.onnx")
    with pytest.raises(ValueError, match="export it without --points"):
        load(file)


def test_a_file_that_says_what_cannot_be(model: KeypointModel, tmp_path: Path) -> None:
    file = to_onnx(model, tmp_path / "points.onnx")
    proto = onnx.load(str(file))
    for entry_ in proto.metadata_props:
        if entry_.key == "sampling":
            entry_.value = '"anywhere"'
    onnx.save(proto, str(file))
    with pytest.raises(ValueError, match=r"says of itself what cannot be.*anywhere"):
        load(file)


def test_eight_bits(
    model: KeypointModel, pairs: HPatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: np.ndarray
) -> None:
    protocol = Protocol(small=(48, 64), large=(96, 128), count=20, matched=40)
    for where in ("evaluation.keypoints", "quantization.calibration"):
        monkeypatch.setattr(f"segmentarium.{where}.Protocol", lambda: protocol)
    report = export_int8(model, tmp_path / "points.onnx", pairs, loss=0.9, **SMALL)
    scored = evaluate(load(report.path), pairs)
    assert isinstance(scored, PairReport)
    assert report.after["repeatability"] == pytest.approx(scored.of()["repeatability"])
    assert report.before["matching"] == pytest.approx(evaluate(model, pairs).of()["matching"], abs=0.02)  # type: ignore[union-attr]
    assert report.before["repeatability"] > 0.3
    told = json.loads((tmp_path / "points.onnx.score.json").read_text(encoding="utf-8"))
    assert set(told["loss"]) == {"repeatability", "matching"}
    assert told["calibrated_on"] == 2
    for said in ("repeatability", "matching score", "fp32", "int8"):
        assert said in str(report)
    # calibrated on both pictures of each pair, as they are matched
    seen = list(what_it_sees(model, pairs, [0, 1]))
    assert [one.shape for one in seen] == [(1, 1, 96, 128)] * 4
    np.testing.assert_allclose(seen[0][0, 0], picture / 255, atol=1e-6)


def test_points_are_not_scored_on_masks(model: KeypointModel, pairs: HPatches, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scored by mIoU"):
        spread_evenly(pairs, 2)
    pose = create_model("hrnet_pose_w32", **entry("hrnet_pose_w32").tiny_arguments())
    with pytest.raises(ValueError, match="a class for each pixel, or points with descriptors"):
        next(what_it_sees(pose, pairs, [0]))
