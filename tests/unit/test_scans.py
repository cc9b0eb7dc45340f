"""Scans transformed, drawn, trained on and scored: by library and by command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import segmentarium
from segmentarium.cli.main import main
from segmentarium.contracts import Boxes3d
from segmentarium.data import build_dataset
from segmentarium.data.hd_map import PlaceMap
from segmentarium.data.poses import pose_matrix
from segmentarium.data.scan_transforms import ObjectBank, TrainScan, moved_objects, transformed
from segmentarium.data.scans import Camera, Scan
from segmentarium.evaluation import evaluate
from segmentarium.evaluation.scans import ScanTally
from segmentarium.inference.scans import MapMissingError, as_json, colours, from_above, in_camera, map_of
from segmentarium.layers.turned_boxes import corners, inside_boxes
from segmentarium.registry import create_model
from segmentarium.training import TrainingOptions, train

DETECTOR = {
    "area": [-10.24, -10.24, -2.0, 10.24, 10.24, 2.0],
    "cell": [0.64, 0.64],
    "velocity": False,
    "widths": [8, 8, 8],
    "depths": [1, 1, 1],
    "neck_width": 8,
    "head_width": 8,
    "encoder_widths": [8],
    "candidates": 20,
}


def square(x: float, y: float, side: float) -> np.ndarray:
    return np.array([(x, y, 0), (x + side, y, 0), (x + side, y + side, 0), (x, y + side, 0)], np.float64)


def made(seed: int = 0, place: bool = True) -> Scan:
    """Two cars with points in them, and points elsewhere."""
    random = np.random.default_rng(seed)
    boxes = np.array([[3.0, 2, 0, 4, 2, 1.5, 0.4], [-4.0, -3, 0, 4, 2, 1.5, 2.0]], np.float32)
    points = [np.c_[random.uniform(-10, 10, (60, 2)), random.uniform(1, 2, 60), random.random(60)]]
    for box in boxes:
        local = random.uniform(-0.45, 0.45, (30, 3)) * box[3:6]
        cos, sin = math.cos(box[6]), math.sin(box[6])
        turned = local @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        points.append(np.c_[turned + box[:3], random.random(30)])
    there = PlaceMap({"drivable": [(square(0, 0, 6), [])]}, {}) if place else None
    return Scan(np.concatenate(points).astype(np.float32), boxes, np.array([0, 1]), f"scan{seed}", np.eye(4), there)


def inside(scan: Scan) -> list[int]:
    return inside_boxes(torch.from_numpy(scan.points[:, :3]), torch.from_numpy(scan.boxes[:, :7])).sum(0).tolist()


@pytest.mark.parametrize("mirror", [(False, False), (True, False), (False, True), (True, True)])
def test_points_boxes_and_map_change_together(mirror: tuple[bool, bool]) -> None:
    scan = made()
    scan.boxes = np.concatenate((scan.boxes, np.array([[1.0, 0], [0, 2]], np.float32)), 1)
    changed = transformed(scan, mirror_x=mirror[0], mirror_y=mirror[1], turn=0.7, scale=1.1)
    assert inside(changed) == inside(scan) == [30, 30]
    assert changed.boxes[0, 3] == pytest.approx(4.4)
    # a car that drives along its length still does
    for before, after in zip(scan.boxes, changed.boxes, strict=True):
        speed, angle = before[7:9], before[6]
        along = speed @ (math.cos(angle), math.sin(angle))
        assert after[7:9] @ (math.cos(after[6]), math.sin(after[6])) == pytest.approx(1.1 * along, abs=1e-5)
    # the same place of the map is under the same car
    assert scan.place is not None
    area, size = (-12.0, -12.0, -2, 12, 12, 2), (48, 48)
    for s in (scan, changed):
        drawn = s.place.raster(s.pose, area, size, ("drivable",))[0]  # type: ignore[union-attr]
        cell = ((s.boxes[:, :2] + 12) / 24 * 48).astype(int)
        assert (drawn[cell[:, 1], cell[:, 0]] > 0.5).tolist() == [True, False]


def test_a_shifted_world_keeps_shapes_and_the_place_of_the_map() -> None:
    scan = made()
    changed = transformed(scan, turn=0.7, scale=1.1, shift=(0.5, -0.25, 0.125))
    plain = transformed(scan, turn=0.7, scale=1.1)
    assert np.allclose(changed.points[:, :3] - plain.points[:, :3], (0.5, -0.25, 0.125), atol=1e-5)
    assert np.allclose(changed.boxes[:, :3] - plain.boxes[:, :3], (0.5, -0.25, 0.125), atol=1e-5)
    assert np.array_equal(changed.boxes[:, 3:], plain.boxes[:, 3:])
    assert scan.pose is not None
    assert changed.pose is not None
    # a point of the world stands where it stood
    point = np.array((1.0, 2.0, 0.5, 1.0))
    moved = np.linalg.inv(changed.pose) @ scan.pose @ point
    turned = np.linalg.inv(plain.pose) @ scan.pose @ point  # type: ignore[arg-type]
    assert np.allclose(moved - turned, (0.5, -0.25, 0.125, 0))
    torch.manual_seed(0)
    shifts = []
    for _ in range(200):
        sample = TrainScan(4, flip=False, turn=0.0, scale=(1.0, 1.0), shift=0.2)({"scan": scan, "name": "one"})
        shifts.append(sample["boxes"][0, :3].numpy() - scan.boxes[0, :3])
    assert np.allclose(np.std(shifts, 0), 0.2, atol=0.04)


def test_objects_move_with_their_points_and_never_into_each_other() -> None:
    torch.manual_seed(0)
    scan = made()
    moved = moved_objects(scan, distance=0.5, turn=0.3)
    assert np.abs(moved.boxes - scan.boxes).max() > 0.1
    assert inside(moved) == [30, 30]
    two = made()
    two.boxes[1, :2] = two.boxes[0, :2] + 1  # they overlap already: nothing is moved
    assert np.array_equal(moved_objects(two).boxes, two.boxes)


class Scans:
    """Some scans as a data set."""

    def __init__(self, scans: list[Scan]) -> None:
        self.scans = scans
        self.info = segmentarium.data.DatasetInfo("scans", ("car", "van"), ((1, 2, 3), (4, 5, 6)))

    def __len__(self) -> int:
        return len(self.scans)

    def load(self, index: int) -> Scan:
        return self.scans[index]


def test_objects_are_pasted_where_nothing_is() -> None:
    torch.manual_seed(0)
    other = made(1)
    other.boxes[:, :2] += np.array(
        [[4.0, -9.0], [0.0, 0.0]], np.float32
    )  # the first where nothing is, the second on a car
    other.points[60:90, :2] += np.array((4.0, -9.0), np.float32)
    bank = ObjectBank(Scans([other]))  # type: ignore[arg-type]
    assert [len(objects) for objects in bank.objects] == [1, 1]
    scan = made()
    full = bank.fill(scan, (2, 2))
    assert full.labels.tolist() == [0, 1, 0]
    assert inside(full)[2] == 30
    assert bank.fill(scan, (1, 1)) is scan  # enough of each


def test_training_samples_are_drawn_from_torch_s_seed() -> None:
    transform = TrainScan(
        5, lambda scan: scan.place.raster(scan.pose, (-8, -8, 0, 8, 8, 1), (8, 8)), noise=0.02, object_noise=True
    )
    samples = []
    for _ in range(2):
        torch.manual_seed(3)
        samples.append(transform({"scan": made(), "name": "a"}))
    assert all(
        torch.equal(samples[0][key].nan_to_num(), samples[1][key].nan_to_num()) for key in ("points", "boxes", "map")
    )
    assert samples[0]["points"].shape == (120, 5)
    assert samples[0]["boxes"].shape == (2, 10)
    assert samples[0]["map"].shape == (6, 8, 8)


def test_a_picture_from_above_shows_what_is_there() -> None:
    scan = made()
    area = (-10.0, -10.0, -2.0, 10.0, 10.0, 2.0)
    found = Boxes3d(torch.tensor([[3.0, 2, 0, 4, 2, 1.5, 0.4]]), torch.tensor([0]), torch.tensor([0.9]))
    bare = from_above(Scan(scan.points[:0], scan.boxes[:0], scan.labels[:0]), area, pixels=200)
    assert bare.shape == (200, 200, 3)
    marked = np.argwhere((bare != bare[0, 0]).any(2))
    assert np.abs(marked - 100).max() <= 5  # the sensor alone
    assert 10 < len(marked) < 60
    picture = from_above(scan, area, found, pixels=200)
    # y upwards: the map's square of 6 m is right and above of the middle
    assert tuple(picture[200 - 1 - 158, 105]) != tuple(bare[0, 0])
    unlabelled = from_above(scan, area, found, labelled=False, pixels=200)
    x, y = (corners(torch.from_numpy(scan.boxes[1:]))[0, 0] + 10).numpy() * 10
    around = np.s_[200 - int(y) - 3 : 200 - int(y) + 3, int(x) - 3 : int(x) + 3]
    assert (picture[around].min(-1) > 150).any()
    assert not (unlabelled[around].min(-1) > 150).any()
    # a box of which the detector is less sure is fainter
    orange = np.array(colours(1)[0])
    sure, unsure = (
        from_above(
            replace(scan, points=scan.points[:0]), area, replace(found, scores=score), labelled=False, pixels=200
        )
        for score in (torch.tensor([1.0]), torch.tensor([0.1]))
    )
    away = [np.abs(shown.astype(int) - orange).sum(2).min() for shown in (sure, unsure)]
    assert away[0] < 10
    assert away[1] > 60
    # the legend stands below, in the class's colour, and says how many
    told = from_above(scan, area, found, classes=("car", "van"), pixels=200)
    assert np.array_equal(told[:200], picture)
    assert len(told) > 210
    assert np.abs(told[200:].astype(int) - orange).sum(2).min() < 30


def test_boxes_in_the_camera_s_picture() -> None:
    # looks along x: right is -y, down is -z
    matrix = np.array([[100.0, 0, 0], [0, 100, 0], [0, 0, 1]]) @ np.array(
        [[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]]
    )
    matrix[:2] += 50 * np.array([1.0, 0, 0, 0])  # the middle of 100 x 100
    black = np.zeros((100, 100, 3), np.uint8)
    ahead = torch.tensor([[20.0, 0, 0, 4, 2, 2, 0]])
    drawn = in_camera(black, matrix, ahead, [(255, 0, 0)])
    rows, columns = np.nonzero(drawn[..., 0])
    assert (rows.mean(), columns.mean()) == pytest.approx((50, 50), abs=1)
    assert columns.max() - 50 == pytest.approx(100 / 18, abs=3)  # the near end is 18 m away, the line 2 wide
    behind = torch.tensor([[-20.0, 0, 0, 4, 2, 2, 0]])
    assert not in_camera(black, matrix, behind, [(255, 0, 0)]).any()
    around = torch.tensor([[0.0, 0, 0, 40, 2, 2, 0]])  # the camera is inside: only what is in front
    assert in_camera(black, matrix, around, [(255, 0, 0)]).any()


def test_a_map_that_is_missing() -> None:
    model = create_model("mapfusion_centerpoint", num_classes=2, in_channels=4, detector_arguments=DETECTOR)
    scan = made(place=False)
    assert map_of(model, scan).shape == (6, 32, 32)  # type: ignore[arg-type]
    assert not map_of(model, scan).any()  # type: ignore[arg-type]
    scan = made()
    scan.pose = None
    with pytest.raises(MapMissingError, match="scan0 has a map and no pose"):
        map_of(model, scan)  # type: ignore[arg-type]


def test_what_a_benchmark_does_not_count_is_left_out() -> None:
    """nuScenes' reach and attributes; KITTI's picture, its levels and what is like a car."""
    scan = made()
    scan.boxes = np.concatenate((scan.boxes, np.zeros((2, 2), np.float32)), 1)
    scan.attributes, scan.centre = np.array([0, 2]), (3.0, 2.0)
    near = torch.tensor([[3.0, 2, 0, 4, 2, 1.5, 0.4, 3, 0], [-4.0, -3, 0, 4, 2, 1.5, 2, 0, 0]])
    found = Boxes3d(near, torch.tensor([0, 1]), torch.tensor([0.9, 0.8]))
    tally = ScanTally(("car", "truck"), {"truck": 5.0})  # the second box is 8.6 m away
    tally.add(scan, found, (-20, -20, -2, 20, 20, 2))
    assert tally.found[0].labels.tolist() == [0]
    assert tally.found[0].attributes.tolist() == [0]  # it moves
    assert tally.labelled[0].counted.tolist() == [True, False]
    assert tally.scores()[0]["maae"] == pytest.approx(0.5)  # the truck is never found
    assert tally.confusion().tolist() == [[1, 0], [0, 0]]
    # a camera that looks along x
    scan = made()
    matrix = np.array([[100.0, 0, 0], [0, 100, 0], [0, 0, 1]]) @ np.array(
        [[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]]
    )
    matrix[:2] += 50 * np.array([1.0, 0, 0, 0])
    scan.cameras = [Camera(Path("none.png"), matrix, (100, 100))]
    scan.levels, scan.alike = np.array([0, 2]), np.array([[3.0, 8, 0, 4, 2, 1.5, 0, 1]], np.float32)
    tally = ScanTally(("car", "van"))
    tally.add(scan, Boxes3d(near[:, :7], found.labels, found.scores), (-20, -20, -2, 20, 20, 2))
    assert tally.found[0].labels.tolist() == [0]  # the other is behind the camera
    assert tally.found[0].levels.tolist() == [0]
    assert tally.labelled[0].labels.tolist() == [0, 1, 1]
    assert tally.labelled[0].counted.tolist() == [True, True, False]
    assert tally.scores()[2].keys() >= {"ap3d", "ap3d_easy", "ap3d_hard"}


def test_boxes_as_plain_data() -> None:
    found = Boxes3d(torch.tensor([[3.0, 2, 0, 4, 2, 1.5, 0.4, 1, -1]]), torch.tensor([1]), torch.tensor([0.9]))
    told = as_json(found, ("car", "van"), "a")
    assert json.loads(json.dumps(told))["boxes"] == [
        {"class": "van", "score": 0.9, "centre": [3, 2, 0], "size": [4, 2, 1.5], "angle": 0.4, "speed": [1, -1]}
    ]


# runs -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans of one's own, with a map as nuScenes has it."""
    root = tmp_path_factory.mktemp("scans")
    (root / "scans").mkdir()
    (root / "map").mkdir()
    (root / "classes.txt").write_text("car\nvan\n")
    for name, numbers in (("train", range(4)), ("val", range(4, 6))):
        (root / f"{name}.txt").write_text("\n".join(f"scan{i}" for i in numbers))
        for i in numbers:
            scan = made(i)
            pose = pose_matrix((1, 0, 0, 0), (0.0, 0.0, 0.0))
            np.savez(
                root / "scans" / f"scan{i}.npz", points=scan.points, boxes=scan.boxes, labels=scan.labels, pose=pose
            )
    nodes = [{"token": f"n{i}", "x": x, "y": y} for i, (x, y, _) in enumerate(square(0, 0, 6))]
    polygon = {"token": "p", "exterior_node_tokens": ["n0", "n1", "n2", "n3"], "holes": []}
    content = {"node": nodes, "polygon": [polygon], "drivable_area": [{"token": "d", "polygon_tokens": ["p"]}]}
    (root / "map" / "place.json").write_text(json.dumps(content))
    return root


def options(folder: Path, output: Path, **changes: object) -> TrainingOptions:
    given = {
        "model": "mapfusion_centerpoint",
        "model_arguments": {"in_channels": 4, "detector_arguments": DETECTOR},
        "data": "lidar_folder",
        "root": str(folder),
        "max_steps": 3,
        "batch_size": 2,
        "val_every": 3,
        "save_every": 3,
        "precision": "32",
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "workers": 0,
        "paste": 2,
        "channels_last": False,
        "output": str(output),
    }
    return TrainingOptions(**{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    result = train(options(folder, output))
    assert result.best.keys() >= {"map", "nds", "cds", "ap3d", "ap"}
    assert result.best_line.startswith("mAP ")
    assert (output / "pictures" / "0000003.png").is_file()
    return output


def test_one_loop_trains_and_one_evaluation_scores(folder: Path, trained: Path) -> None:
    model = segmentarium.load(trained / "last.safetensors")
    assert model.classes == ("car", "van")
    dataset = build_dataset("lidar_folder", folder, "val")
    report = evaluate(model, dataset)  # type: ignore[arg-type]
    assert report.images == 2
    assert report.boxes == {"car": 2, "van": 2}  # type: ignore[union-attr]
    assert json.loads(report.json())["by_class"].keys() == {"AP (distance)", "AP Argoverse", "AP 3-D R40"}
    assert "scans" in report.summary()
    with pytest.raises(ValueError, match="no flip"):
        evaluate(model, dataset, flip=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no precision and no beside"):
        evaluate(model, dataset, precision="bf16", beside=("sift",))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="boxes in point clouds"):
        evaluate(create_model("pphumanseg"), dataset)  # type: ignore[arg-type]


def test_what_does_not_fit_is_said_before_training(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no use for crop_size"):
        train(options(folder, tmp_path, crop_size=(64, 64)))
    (folder / "none.txt").write_text("")
    with pytest.raises(ValueError, match=r"split 'none' of .* has no scans"):
        train(options(folder, tmp_path, train_split="none"))
    five = {"in_channels": 5, "detector_arguments": DETECTOR}
    with pytest.raises(ValueError, match="--set in_channels=4"):
        train(options(folder, tmp_path, model_arguments=five))


def test_the_commands(folder: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(trained / "last.safetensors")
    scoring = ["evaluate", "--model", weights, "--data", "lidar_folder", "--root", str(folder)]
    assert main([*scoring, "--json", str(tmp_path / "a.json")]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["images"] == 2
    out = tmp_path / "out"
    command = ["detect3d", str(folder), "--model", weights, "--out", str(out), "--limit", "1", "--threshold", "0"]
    assert main(command) == 0
    assert {path.name for path in out.iterdir()} == {"scan0.json", "scan0_above.png"}
    assert json.loads((out / "scan0.json").read_text())["boxes"]
    assert main(command) == 2  # they are there
    assert main([*command, "--overwrite"]) == 0
    eager = json.loads((out / "scan0.json").read_text())["boxes"]
    assert main([*command, "--overwrite", "--engine", "torch"]) == 0
    for ours, theirs in zip(json.loads((out / "scan0.json").read_text())["boxes"], eager, strict=True):
        assert ours["class"] == theirs["class"]
        assert ours["centre"] == pytest.approx(theirs["centre"], abs=0.01)
    capsys.readouterr()
    np.zeros((0, 4), np.float32).tofile(tmp_path / "empty.bin")
    (tmp_path / "bad.ply").write_text("nothing")
    assert (
        main(
            ["detect3d", str(tmp_path / "empty.bin"), str(tmp_path / "bad.ply"), "--model", weights, "--out", str(out)]
        )
        == 1
    )
    said = capsys.readouterr()
    assert "bad.ply" in said.err
    assert "1 of 2 done" in said.out
    assert main(["detect3d", str(tmp_path / "none.bin"), "--model", weights]) == 2
    given = [
        "detect3d",
        str(tmp_path / "empty.bin"),
        "--model",
        weights,
        "--out",
        str(tmp_path / "b"),
        "--map",
        str(folder / "map"),
    ]
    assert main(given) == 2  # where it stood is not said
    assert main([*given, "--pose", "1", "0", "0", "0", "2", "2", "0"]) == 0
    capsys.readouterr()
    for words, said in (
        (["--threshold", "2"], "between 0 and 1"),
        (["--limit", "0"], "give 1 or more"),
        (["--sweeps", "3"], "goes with argoverse2 and nuscenes"),
        (["--precision", "bf16"], "say which"),
        (["--device", "cuda:77"], "GPUs here"),
        (["--device", "toaster"], "one of PyTorch's"),
    ):
        assert main(["detect3d", str(folder), "--model", weights, "--out", str(tmp_path / "c"), *words]) == 2
        assert said in capsys.readouterr().err


def test_the_real_frames_are_drawn(shared: Path, trained: Path, tmp_path: Path) -> None:
    """Boxes into the camera's picture too."""
    arguments = ["--model", str(trained / "last.safetensors"), "--out", str(tmp_path), "--threshold", "0"]
    assert main(["detect3d", str(shared / "data" / "lidar" / "kitti"), *arguments]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "000008.bin.json",
        "000008.bin_above.png",
        "000008.bin_camera.png",
    }
