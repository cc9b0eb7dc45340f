"""Points and poses of whatever picture comes: tiles, engines, drawings, files, the command line."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import segmentarium
from segmentarium.cli.main import main
from segmentarium.contracts import KeypointModel
from segmentarium.export import export_model
from segmentarium.export.parity import compare_points
from segmentarium.inference import KeypointFinder, PoseFinder, match_pictures, points
from segmentarium.inference.point_drawing import GREEN, RED, draw_matches, draw_points, draw_skeleton
from segmentarium.keypoints.detector import PointDetector
from segmentarium.keypoints.hrnet_pose import COCO_JOINTS
from segmentarium.keypoints.superpoint import TINY, SuperPoint
from segmentarium.media.sources import DamagedError
from segmentarium.metrics.repeatability import corner_error
from segmentarium.registry import create_model, entry
from segmentarium.runtimes import onnx_session
from tests.parity.comparison import randomise
from tests.unit.inference_material import write_pictures


def photo(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    """Spots of every size on a gradient, (H, W, 3) uint8."""
    generator = np.random.default_rng(seed)
    picture = sum(
        cv2.resize(generator.uniform(0, 1, (-(-height // step), -(-width // step))).astype(np.float32), (width, height))
        for step in (3, 7, 20)
    )
    return np.repeat((picture * 85).astype(np.uint8)[..., None], 3, 2)


def network(form: str = "open") -> SuperPoint:
    torch.manual_seed(0)
    return randomise(create_model("superpoint", form=form, **TINY))  # type: ignore[return-value]


class Corners(KeypointModel):
    """A network without weights worth naming: scores are local contrast, a cell is described by its own pixels."""

    def __init__(self) -> None:
        super().__init__(in_channels=1)
        self.preprocessing = self.preprocessing.__class__((0.0,), (1.0,))
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.nn.functional.avg_pool2d(image, 5, 1, 2)
        scores = ((image - mean).abs() * self.weight)[:, 0]
        height, width = (side // 8 * 8 for side in image.shape[-2:])
        cells = torch.nn.functional.pixel_unshuffle(image[..., :height, :width], 8)
        return scores, torch.nn.functional.normalize(cells - cells.mean(1, keepdim=True), dim=1)


# points -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["open", "magicleap"])
def test_tiles_find_what_the_whole_picture_has(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = photo(410, 531)
    finder = KeypointFinder(network(form), count=None, threshold=0.016, tile=256, subpixel=True)
    whole = finder.find(picture)
    monkeypatch.setattr(points, "WHOLE", 0)
    tiled = finder.find(picture)
    assert len(whole) > 300
    assert len(tiled) == len(whole)
    # scores may lie closer together than rounding: by place
    orders = [np.lexsort((found.keypoints + 0.25).round().numpy().T) for found in (tiled, whole)]
    for name in ("keypoints", "keypoint_scores", "descriptors"):
        ours, theirs = (getattr(found, name)[order] for found, order in zip((tiled, whole), orders, strict=True))
        assert torch.allclose(ours, theirs, atol=2e-3), name


def test_a_finder_is_its_model_s_detect_on_any_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEGMENTARIUM_CACHE", str(tmp_path))
    model, picture = network(), photo()
    image = torch.from_numpy(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)).float()[None] / 255
    expected = model.detect(image, count=50)
    for engine in ("torch", "onnxruntime"):
        found = KeypointFinder(model, engine=engine, count=50)(picture)
        assert torch.equal(found.keypoints.keypoints, expected.keypoints)
        assert torch.allclose(found.keypoints.descriptors, expected.descriptors, atol=1e-4)
        assert engine in found.facts["engine"]
    auto = KeypointFinder(model, engine="auto", count=50)(picture)
    assert len(auto.keypoints) > 40


@pytest.mark.parametrize("size", [(16, 16), (5, 90), (1, 1), (8, 8)])
def test_tiny_and_blank_pictures_say_that_they_have_no_points(size: tuple[int, int]) -> None:
    finder = KeypointFinder(network(), threshold=0.99)
    found = finder(photo(*size))
    assert len(found.keypoints) == 0
    assert found.facts["note"].startswith("no point")
    blank = finder(np.full((*size, 3), 200, np.uint8))
    assert blank.facts["note"] == "no point: the picture is blank"
    nothing = match_pictures(found, blank)
    assert nothing.geometry.matrix is None
    assert nothing.geometry.reason == "0 matches; it takes 4 or more"
    assert nothing.as_dict()["pairs"] == []
    assert nothing.overlay.size == (2 * size[1], size[0])


def test_pictures_of_every_mode(tmp_path: Path) -> None:
    files = write_pictures(tmp_path / "in")
    finder = KeypointFinder(network(), threshold=0.0, count=20)
    for name in (p.name for p in sorted((tmp_path / "in").iterdir())):
        found = finder(tmp_path / "in" / name)
        assert found.name == Path(name).stem
        assert found.image.shape[2] == 3
        assert found.path == tmp_path / "in" / name
    assert files is None or len(files) > 5


def test_what_is_saved_and_read_back(tmp_path: Path) -> None:
    found = KeypointFinder(network(), count=30, threshold=0.0)(photo(), name="spots")
    written = found.save(tmp_path)
    assert [path.name for path in written] == ["spots_points.png", "spots.json", "spots.npz"]
    told = json.loads((tmp_path / "spots.json").read_text())
    assert (told["count"], len(told["keypoints"]), told["width"], told["height"]) == (30, 30, 128, 96)
    with np.load(tmp_path / "spots.npz") as arrays:
        assert arrays["descriptors"].shape == (30, 16)
        assert np.array_equal(arrays["keypoints"], found.keypoints.keypoints.numpy())
    assert {name: tuple(value.shape) for name, value in found.to_lightglue().items()} == {
        "keypoints": (1, 30, 2),
        "keypoint_scores": (1, 30),
        "descriptors": (1, 30, 16),
        "image_size": (1, 2),
    }
    with pytest.raises(FileExistsError):
        found.save(tmp_path, ("json",))
    with pytest.raises(ValueError, match="masks"):
        found.save(tmp_path, ("masks",))


def test_two_views_of_a_picture_are_matched() -> None:
    whole = photo(200, 260)
    move = np.array([[1.0, 0, -24], [0, 1, -16], [0, 0, 1]])
    finder = KeypointFinder(Corners(), threshold=0.05, count=400)
    first, second = finder(whole, name="a"), finder(np.ascontiguousarray(whole[16:, 24:]), name="b")
    found = match_pictures(first, second, ratio=0.95)
    assert found.name == "a-b"
    assert found.geometry.inliers.sum() > 60
    assert found.geometry.matrix is not None
    assert corner_error(found.geometry.matrix, move, (200, 260)) < 0.5
    told = found.as_dict()
    assert told["geometry"]["inliers"] == sum(pair["inlier"] for pair in told["pairs"])


def test_other_models_are_refused() -> None:
    with pytest.raises(TypeError, match="keypoints of joints"):
        KeypointFinder(create_model("hrnet_pose_w32", **entry("hrnet_pose_w32").tiny_arguments()))
    with pytest.raises(TypeError, match="gives no joints"):
        PoseFinder(network())
    with pytest.raises(ValueError, match="count is 0"):
        KeypointFinder(network(), count=0)
    with pytest.raises(ValueError, match="tells no segments apart"):
        segmentarium.predict(photo(), network(), task="panoptic")


# in one graph -------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_a_detector_in_one_graph_finds_what_detect_finds() -> None:
    model = network()
    images = torch.rand(2, 1, 72, 89)
    keypoints, scores, descriptors = PointDetector(model, 40, threshold=0.015)(images)
    assert descriptors.shape == (2, 40, 16)
    for i, image in enumerate(images):
        alone = model.detect(image, count=40, threshold=0.015)
        count = len(alone)
        assert count > 10
        assert torch.equal(keypoints[i, :count], alone.keypoints)
        assert torch.allclose(scores[i, :count], alone.keypoint_scores)
        assert torch.allclose(descriptors[i, :count], alone.descriptors, atol=1e-5)
        assert (scores[i, count:] == 0).all()
    few = PointDetector(model, 9000)(torch.rand(1, 1, 16, 16))
    assert few[0].shape == (1, 9000, 2)
    assert (few[1] > 0).sum() <= 64


def test_suppression_and_all_go_into_the_onnx_file(tmp_path: Path) -> None:
    images = [photo(), photo(seed=1)]
    report = export_model(
        PointDetector(network(), 60).eval(), tmp_path / "points", images=images, sizes=((64, 80), (97, 129))
    )
    assert report.relative_error < 1e-4
    assert {row.batch for row in report.comparisons} == {1, 2}
    session = onnx_session(report.path, 1)
    assert [output.name for output in session.get_outputs()] == ["keypoints", "scores", "descriptors"]
    places, scores, described = session.run(None, {"image": np.random.rand(3, 1, 40, 72).astype(np.float32)})
    assert (places.shape, scores.shape, described.shape) == ((3, 60, 2), (3, 60), (3, 60, 16))


def test_points_are_compared_by_their_places() -> None:
    places = np.arange(400, dtype=np.float32).reshape(1, 200, 2)
    scores, described = np.linspace(1, 0.1, 200, dtype=np.float32)[None], np.ones((1, 200, 4), np.float32)
    given = [places, scores, described]
    turned = [array[:, ::-1] for array in given]
    assert compare_points(turned, given, (8, 8)).relative_error == 0
    one_less = [places, np.where(np.arange(200) == 199, 0, scores), described]
    assert compare_points(one_less, given, (8, 8)).same_class == 199 / 200
    assert compare_points([places, scores * 1.01, described], given, (8, 8)).relative_error == pytest.approx(0.01)
    assert compare_points([places + 5, scores, described], given, (8, 8)).relative_error == float("inf")
    assert compare_points([places, scores, described * np.nan], given, (8, 8)).relative_error == float("inf")


# drawings -----------------------------------------------------------------------------------------------------------------


def test_lines_lead_from_points_to_their_matches() -> None:
    black = np.zeros((60, 80, 3), np.uint8)
    ends = np.array([[10.0, 20], [50, 40]]), np.array([[30.0, 20], [50, 10]])
    drawn = draw_matches(black, black[:50], ends, np.array([True, False]))
    assert drawn.shape == (60, 160, 3)
    for (y, x), colour in {(20, 60): GREEN, (40, 50): RED, (10, 130): RED, (25, 90): RED}.items():
        assert np.argmax(drawn[y, x]) == np.argmax(colour)
        assert np.ptp(drawn[y, x]) > 40
    ring = draw_points(black, np.array([[40.0, 30]]), np.array([1.0]))
    assert ring[30, 43].any()
    assert not ring[30, 40].any()
    assert not black.any()


def test_limbs_lead_from_joint_to_joint_where_both_are_sure() -> None:
    black = np.zeros((60, 80, 3), np.uint8)
    joints = np.zeros((17, 2))
    names = list(COCO_JOINTS)
    scores = np.zeros(17)
    for name, place in {"left_hip": (10, 10), "left_knee": (10, 40), "left_ankle": (60, 40)}.items():
        joints[names.index(name)], scores[names.index(name)] = place, 0.9
    scores[names.index("left_ankle")] = 0.1
    drawn = draw_skeleton(black, joints, scores, names)
    assert drawn[25, 10].any()
    assert not drawn[40, 35].any()
    assert not drawn[40, 60].any()


# poses --------------------------------------------------------------------------------------------------------------------


def pose_network() -> object:
    torch.manual_seed(0)
    return randomise(create_model("hrnet_pose_w32", **entry("hrnet_pose_w32").tiny_arguments()))


def test_poses_stand_in_the_picture_s_pixels(tmp_path: Path) -> None:
    model = pose_network()
    finder = PoseFinder(model, size=(64, 48))  # type: ignore[arg-type]
    picture = photo(200, 240)
    found = finder(picture, boxes=[(20, 30, 60, 100), (120, 10, 90, 150)], name="two")
    assert found.joints.shape == (2, 17, 2)
    # the second person alone is found where it was
    alone = finder(picture, boxes=[(120, 10, 90, 150)])
    assert np.allclose(alone.joints[0], found.joints[1], atol=1e-3)
    # moved by as much as the picture
    moved = finder(np.ascontiguousarray(picture[:, 20:]), boxes=[(100, 10, 90, 150)])
    assert np.allclose(moved.joints[0] + (20, 0), alone.joints[0], atol=1e-2)
    assert [path.name for path in found.save(tmp_path)] == ["two_poses.png", "two.json"]
    told = json.loads((tmp_path / "two.json").read_text())
    assert list(told["persons"][0]["joints"]) == list(COCO_JOINTS)
    assert finder(picture, boxes=[]).joints.shape == (0, 17, 2)
    assert PoseFinder(model, size=(64, 48), flip=True)(picture).scores.shape == (1, 17)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width and height in pixels"):
        finder(picture, boxes=[(0, 0, 0, 10)])
    (result,) = segmentarium.predict(picture, finder)
    assert result.boxes.tolist() == [[0, 0, 240, 200]]


# the command line ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = create_model("superpoint_open", **TINY)
    return segmentarium.save(randomise(model), tmp_path_factory.mktemp("weights") / "tiny.safetensors")  # type: ignore[arg-type]


def test_options_of_points_and_of_joints(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(photo()).save(tmp_path / "a.png")
    joints = segmentarium.save(pose_network(), tmp_path / "joints.safetensors")  # type: ignore[arg-type]
    for model, option, said in (
        (weights, ["--flip"], "--flip is for joints"),
        (joints, ["--count", "9"], "--count is for points"),
        (joints, ["--threshold", "0"], "--threshold is for points"),
    ):
        words = ["keypoints", str(tmp_path / "a.png"), "--model", str(model), "--out", str(tmp_path / "out")]
        assert main([*words, *option]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_keypoints_of_a_folder_and_a_clip(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    av = pytest.importorskip("av")
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(photo()).save(folder / "spots.png")
    (folder / "broken.png").write_bytes(b"no picture")
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for i in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(photo(seed=i), format="rgb24")))
        container.mux(stream.encode(None))
    words = ["keypoints", str(folder), "--model", str(weights), "--threshold", "0.01", "--out", str(tmp_path / "out")]
    assert main([*words, "--count", "40"]) == 1
    told = capsys.readouterr()
    assert "spots: 40 points" in told.out
    assert "clip: 3 frames" in told.out
    assert "broken.png" in told.err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"spots_points.png", "spots.json", "spots.npz", "clip_points.mp4", "clip_points.jsonl"}
    lines = (tmp_path / "out" / "clip_points.jsonl").read_text().splitlines()
    assert [json.loads(line)["count"] for line in lines] == [40, 40, 40]
    assert main(words) == 2 or main(words) == 1  # what is there stays


def clip_cut_off(path: Path) -> Path:
    """A clip of Matroska whose end is missing."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for i in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(photo(seed=i), format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    return path


def test_a_clip_that_is_cut_off_is_told_and_ends_in_exit_code_1(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = clip_cut_off(tmp_path / "cut.mkv"), tmp_path / "out"
    words = ["keypoints", str(clip), "--model", str(weights), "--threshold", "0.01", "--out", str(out)]
    assert main(words) == 1
    told = capsys.readouterr()
    assert "cut.mkv was cut off after" in told.err
    assert "what came before it is done" in told.err
    assert "1 of 1 done" in told.out
    assert len((out / "cut_points.jsonl").read_text().splitlines()) > 2


def test_the_frames_before_a_cut_come_and_then_its_error(tmp_path: Path) -> None:
    clip = clip_cut_off(tmp_path / "cut.mkv")
    found = segmentarium.predict(clip, Corners())
    assert len(list(itertools.islice(found, 2))) == 2
    with pytest.raises(DamagedError, match="cut off after"):
        list(found)
    errors: list[Exception] = []
    assert len(list(segmentarium.predict(clip, Corners(), on_error=lambda _, error: errors.append(error)))) > 2
    assert [type(error) for error in errors] == [DamagedError]


def test_the_kinds_of_a_clip(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["keypoints", str(clip_cut_off(tmp_path / "cut.mkv")), "--model", str(weights), "--threshold", "0.01"]
    for kind, name in (("json", "cut_points.jsonl"), ("overlay", "cut_points.mp4")):
        assert main([*words, "--kinds", kind, "--out", str(tmp_path / kind)]) == 1
        assert [path.name for path in (tmp_path / kind).iterdir()] == [name]
    capsys.readouterr()
    assert main([*words, "--kinds", "npz", "--out", str(tmp_path / "npz")]) == 2
    assert "'npz' is not a list of known kinds; give some of overlay, json" in capsys.readouterr().err


def test_keypoints_of_a_webcam(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av")

    class Camera:
        def __init__(self, number: int) -> None:
            self.frames = [photo(seed=i) for i in range(3)]

        def isOpened(self) -> bool:
            return True

        def get(self, _: int) -> float:
            return 30.0

        def read(self) -> tuple[bool, np.ndarray | None]:
            return (True, self.frames.pop()) if self.frames else (False, None)

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    words = ["keypoints", "0", "--model", str(weights), "--threshold", "0.01", "--count", "9", "--out", str(tmp_path)]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "3 frames" in told.out
    assert "Ctrl-C ends it" in told.err
    (lines,) = tmp_path.glob("*_points.jsonl")
    assert [json.loads(line)["count"] for line in lines.read_text().splitlines()] == [9, 9, 9]


def test_match_two_pictures(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = photo(160, 200)
    Image.fromarray(whole).save(tmp_path / "a.png")
    Image.fromarray(whole[8:, 16:]).save(tmp_path / "b.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "blank.png")
    pictures = [str(tmp_path / f"{name}.png") for name in ("a", "b", "blank")]
    words = ["--model", str(weights), "--threshold", "0.01", "--out", str(tmp_path / "out")]
    assert main(["match", *pictures[:2], *words, "--colmap", str(tmp_path / "points.db"), "--hloc", str(tmp_path)]) in (
        0,
        1,
    )
    assert (tmp_path / "out" / "a-b_matches.png").is_file()
    assert json.loads((tmp_path / "out" / "a-b.json").read_text())["matches"] > 20
    assert (tmp_path / "points.db").is_file()
    assert (tmp_path / "matches.h5").is_file()
    capsys.readouterr()
    assert main(["match", pictures[0], pictures[2], *words]) == 1
    assert "a – blank: 0 matches; 0 matches; it takes 4 or more" in capsys.readouterr().out
    assert main(["match", pictures[0], *words]) == 2
    assert "two pictures or more" in capsys.readouterr().err
    assert main(["match", *pictures[:2], *words, "--geometry", "essential", "--overwrite"]) == 2
    assert "--focal" in capsys.readouterr().err
    for words_of, said in (
        (["--geometry", "essential", "--focal", "0"], "--focal is 0; give pixels, above 0"),
        (["--tolerance", "-1"], "--tolerance is -1; give pixels, above 0"),
        (["--border", "-3"], "the border is -3; give pixels, 0 or more"),
    ):
        assert main(["match", *pictures[:2], *words, *words_of, "--overwrite"]) == 2
        assert said in capsys.readouterr().err


def test_each_pair_of_a_folder_with_subfolders_has_files_of_its_own(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmentarium.cli.match.KEPT", 1)  # pictures are read again for their drawings
    for name in ("a", "x/b", "y/b"):
        place = tmp_path / "in" / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(place)
    words = ["--model", str(weights), "--out", str(tmp_path / "out")]
    database = tmp_path / "points.db"
    # blank: no pair has a geometry
    assert main(["match", str(tmp_path / "in"), *words, "--colmap", str(database)]) == 1
    told = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").rglob("*.json"))]
    pairs = [(one["first"]["name"], one["second"]["name"]) for one in told]
    assert sorted(pairs) == [("a", "x/b"), ("a", "y/b"), ("x/b", "y/b")]
    assert Image.open(tmp_path / "out" / "x" / "b-b_matches.png").size == (80, 40)
    with contextlib.closing(sqlite3.connect(database)) as file:
        # as COLMAP finds them in its folder of pictures
        assert [name for (name,) in file.execute("SELECT name FROM images")] == ["a.png", "x/b.png", "y/b.png"]


@pytest.mark.parametrize("verb", ["keypoints", "match"])
def test_outputs_are_checked_before_the_work(
    verb: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [tmp_path / f"{name}.png" for name in ("a", "b", "c")]
    for path in pictures:
        Image.fromarray(photo()).save(path)
    out = tmp_path / "out"
    out.mkdir()
    taken = ["a", "b", "c"] if verb == "keypoints" else ["b-c"]
    for name in taken:
        (out / f"{name}.json").write_text("mine")
    looked_at: list[object] = []
    monkeypatch.setattr(KeypointFinder, "__call__", lambda self, image, **named: looked_at.append(image))
    words = [verb, *map(str, pictures), "--model", str(weights), "--out", str(out)]
    assert main(words) == 2
    assert f"{taken[0]}.json is there already" in capsys.readouterr().err
    (tmp_path / "file").write_text("no folder")
    assert main([*words, "--out", str(tmp_path / "file")]) == 2
    assert "is no folder" in capsys.readouterr().err
    if verb == "keypoints":
        assert main([*words, "--kinds", "masks", "--out", str(tmp_path / "new")]) == 2
        assert "'masks' is not a list of known kinds" in capsys.readouterr().err
    assert looked_at == []


def test_a_picture_that_cannot_be_read_leaves_the_others_matched(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "c"):
        Image.fromarray(photo()).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    words = ["--model", str(weights), "--threshold", "0.01", "--out", str(tmp_path / "out")]
    assert main(["match", str(tmp_path), *words]) == 1
    assert "b.png" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a-c_matches.png", "a-c.json"}
    assert main(["match", str(tmp_path / "a.png"), str(tmp_path / "b.png"), *words]) == 2
    assert "1 of 2 pictures can be read; it takes two" in capsys.readouterr().err
