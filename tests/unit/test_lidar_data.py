"""Points, poses, maps and scans, of files written here and of the real ones beside the checkout."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segmentarium.data import build_dataset, kitti, nuscenes
from segmentarium.data.clouds import PointReadError, _lzf, read_points
from segmentarium.data.hd_map import LAYERS, PlaceMap, argoverse_map, nuscenes_map
from segmentarium.data.poses import Sweep, aggregate, moved, moved_boxes, pose_matrix
from segmentarium.data.scans import FAR, Scan, ScanError, check_scan, collate_scans, inputs_of, target_of
from segmentarium.layers.turned_boxes import corners_3d, inside_boxes

ROWS = np.array([[1.5, -2, 0.25, 7], [4, 5, 6, 8], [0, 0.5, -1, 9]], np.float32)
TURN = pose_matrix((math.cos(0.25), 0, 0, math.sin(0.25)), (10.0, 20.0, 1.0))  # half a radian


# files ------------------------------------------------------------------------------------------------------------------


def test_every_kind_of_file_gives_the_same_points(tmp_path: Path) -> None:
    ROWS.tofile(tmp_path / "a.bin")
    np.save(tmp_path / "a.npy", ROWS)
    np.savez(tmp_path / "a.npz", points=ROWS)
    np.savez(
        tmp_path / "b.npz", xyz=ROWS[:, :3].astype(np.float16), intensity=ROWS[:, 3].astype(np.uint8), other=np.zeros(9)
    )
    head = "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\n"
    head += "WIDTH 3\nHEIGHT 1\nPOINTS 3\n"
    text = "\n".join(" ".join(map(str, row)) for row in ROWS.tolist()) + "\n"
    (tmp_path / "a.pcd").write_text(f"{head}DATA ascii\n{text}")
    (tmp_path / "b.pcd").write_bytes(f"{head}DATA binary\n".encode() + ROWS.tobytes())
    by_field = ROWS.T.tobytes()
    packed = bytes([31]) + by_field[:32] + bytes([len(by_field) - 33]) + by_field[32:]  # two runs as they are
    sizes = np.array([len(packed), len(by_field)], "<u4").tobytes()
    (tmp_path / "c.pcd").write_bytes(f"{head}DATA binary_compressed\n".encode() + sizes + packed)
    properties = "".join(f"property float {name}\n" for name in ("x", "y", "z", "intensity"))
    for name, kind, body in (
        ("a.ply", "ascii", text.encode()),
        ("b.ply", "binary_little_endian", ROWS.tobytes()),
        ("c.ply", "binary_big_endian", ROWS.astype(">f4").tobytes()),
    ):
        (tmp_path / name).write_bytes(
            f"ply\nformat {kind} 1.0\nelement vertex 3\n{properties}end_header\n".encode() + body
        )
    import pyarrow as pa
    from pyarrow import feather

    columns = dict(zip(("x", "y", "z", "intensity"), ROWS.T, strict=True))
    feather.write_feather(
        pa.table({name: pa.array(column) for name, column in columns.items()}), tmp_path / "a.feather"
    )
    for path in sorted(tmp_path.iterdir()):
        found = read_points(path)
        assert found.fields[:4] == ("x", "y", "z", "intensity"), path
        assert np.array_equal(found.values, ROWS), path
    assert read_points(tmp_path / "a.bin").columns(("x", "time"))[:, 1].tolist() == [0, 0, 0]
    ROWS.tofile(tmp_path / "a.pcd.bin")
    with pytest.raises(PointReadError, match="12 numbers, which are no rows of 5"):
        read_points(tmp_path / "a.pcd.bin")
    assert read_points(tmp_path / "a.pcd.bin", ("x", "y", "z", "i")).values.shape == (3, 4)


def test_packed_bytes_are_copied_from_before() -> None:
    # "ab", seven more from two back (which run into themselves), then twelve from one back: a long copy
    assert _lzf(bytes([1]) + b"ab" + bytes([(5 << 5), 1]) + bytes([(7 << 5), 3, 0]), 21) == b"ababababa" + b"a" * 12
    with pytest.raises(ValueError, match="not there"):
        _lzf(bytes([0]) + b"a" + bytes([(1 << 5), 7]), 4)
    with pytest.raises(ValueError, match="1 bytes unpacked, and 9"):
        _lzf(bytes([0]) + b"a", 9)


def test_files_that_are_no_points_say_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 2 3")
    (tmp_path / "a.pcd").write_text("VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 9\nDATA binary\nab")
    (tmp_path / "b.pcd").write_text("VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 9\nDATA bzip\nab")
    (tmp_path / "a.ply").write_text("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n")
    (tmp_path / "c.pcd").write_text("# nothing")
    (tmp_path / "b.ply").write_text("ply")
    (tmp_path / "a.npz").write_bytes(b"PK nothing")
    (tmp_path / "a.feather").write_bytes(b"nothing")
    np.save(tmp_path / "a.npy", np.zeros((4, 2)))
    np.savez(tmp_path / "b.npz", points=np.zeros(4))
    for name, said in {
        "a.txt": "give one of .bin",
        "a.pcd": "cannot be read",
        "b.pcd": "save it as binary, binary_compressed or ascii",
        "a.ply": "no y, z",
        "c.pcd": "no line DATA",
        "b.ply": "no line end_header",
        "a.npz": "cannot be read",
        "a.feather": "cannot be read",
        "a.npy": "has shape",
        "b.npz": "has shape",
    }.items():
        with pytest.raises(PointReadError, match=said):
            read_points(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no file"):
        read_points(tmp_path / "c.bin")
    (tmp_path / "empty.bin").write_bytes(b"")
    assert read_points(tmp_path / "empty.bin").values.shape == (0, 4)  # a sweep that saw nothing


# poses ------------------------------------------------------------------------------------------------------------------


def test_poses_turn_points_and_boxes_alike() -> None:
    box = np.array([[3.0, 1.0, 0.5, 4.0, 2.0, 1.5, 0.3, 2.0, 0.0]])
    there = moved_boxes(box, TURN)
    corners = corners_3d(torch.from_numpy(box))[0].numpy()
    assert np.allclose(corners_3d(torch.from_numpy(there))[0].numpy(), moved(corners, TURN))
    assert there[0, 7:] == pytest.approx((2 * math.cos(0.5), 2 * math.sin(0.5)))
    assert np.allclose(moved_boxes(there, np.linalg.inv(TURN)), box)
    with pytest.raises(ValueError, match="not 0"):
        pose_matrix((0, 0, 0, 0), (0, 0, 0))


def test_sweeps_lie_over_each_other() -> None:
    wall = np.array([[5.0, 1.0, 0.0, 1.0], [6.0, 1.0, 0.0, 1.0]], np.float32)  # in the place
    poses = [TURN, pose_matrix((1, 0, 0, 0), (8.0, 19.0, 1.0))]
    seen = [Sweep(moved(wall, np.linalg.inv(pose)).astype(np.float32), pose, 10.0 - i) for i, pose in enumerate(poses)]
    points = aggregate(seen)
    assert points.shape == (4, 5)
    assert np.allclose(points[:2, :4], points[2:, :4], atol=1e-5)
    assert points[:, 4].tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="sweep 1 has no pose"):
        aggregate([seen[0], seen[1]._replace(pose=None)])
    with pytest.raises(ValueError, match="sweep 1 has 3 columns"):
        aggregate([seen[0], seen[1]._replace(points=wall[:, :3])])
    assert aggregate([seen[0]._replace(pose=None)]).shape == (2, 5)  # one needs none
    with pytest.raises(ValueError, match="no sweep"):
        aggregate([])


# maps -------------------------------------------------------------------------------------------------------------------


def square(x: float, y: float, side: float) -> np.ndarray:
    return np.array([(x, y, 0), (x + side, y, 0), (x + side, y + side, 0), (x, y + side, 0)], np.float64)


def test_a_map_is_drawn_where_it_lies_by_the_share_of_each_cell() -> None:
    place = PlaceMap({"drivable": [(square(0, 0, 4), [square(1, 1, 1)]), (square(2, 2, 4), [])]}, {})
    area, size = (-2.0, -2.0, 0.0, 8.0, 8.0, 1.0), (10, 10)
    (drawn,) = place.raster(np.eye(4), area, size, ("drivable",))
    wanted = np.zeros((10, 10))
    wanted[2:6, 2:6] = wanted[4:8, 4:8] = 1  # where both lie, still one
    wanted[3, 3] = 0  # the hole
    assert np.abs(drawn - wanted).max() < 0.45  # OpenCV fills what an edge touches: an eighth of a cell on each side
    assert np.abs(drawn - wanted).mean() < 0.05
    half = PlaceMap({"drivable": [(square(0.5, 0, 4), [])]}, {})
    (drawn,) = half.raster(np.eye(4), area, size, ("drivable",))
    assert drawn[3, 2] == pytest.approx(0.5, abs=0.3)
    assert drawn[3, 3:6].min() == 1
    # turned by a quarter: the lidar looks along y, so what was at x is at -y … of the place
    quarter = pose_matrix((math.sqrt(0.5), 0, 0, math.sqrt(0.5)), (0, 0, 0))
    (turned,) = half.raster(quarter, (-8.0, -8.0, 0.0, 8.0, 8.0, 1.0), (16, 16), ("drivable",))
    places = np.arange(16) - 7.5
    x, y = (turned * places).sum() / turned.sum(), (turned * places[:, None]).sum() / turned.sum()
    assert (x, y) == pytest.approx((2.0, -2.5), abs=0.15)
    again = place.raster(np.eye(4), area, size, ("drivable",))
    assert again is place.raster(np.eye(4), area, size, ("drivable",))  # remembered
    assert place.raster(np.eye(4), area, size, ("known",)).min() == 1
    with pytest.raises(ValueError, match="no pose"):
        place.raster(None, area, size)
    with pytest.raises(ValueError, match="trees is no layer"):
        place.raster(np.eye(4), area, size, ("trees",))


def test_nuscenes_layers_are_read(tmp_path: Path) -> None:
    nodes = [{"token": f"n{i}", "x": x, "y": y} for i, (x, y, _) in enumerate(square(0, 0, 4))]
    content = {
        "node": nodes,
        "polygon": [{"token": "p", "exterior_node_tokens": ["n0", "n1", "n2", "n3"], "holes": []}],
        "line": [{"token": "l", "node_tokens": ["n0", "n2"]}],
        "drivable_area": [{"token": "d", "polygon_tokens": ["p"]}],
        "lane": [{"token": "a", "polygon_token": "p"}],
        "ped_crossing": [{"token": "c", "polygon_token": "p"}],
        "lane_divider": [{"token": "v", "line_token": "l"}],
    }
    (tmp_path / "place.json").write_text(json.dumps(content))
    drawn = nuscenes_map(tmp_path / "place.json").raster(np.eye(4), (0, 0, 0, 4, 4, 1), (8, 8))
    assert drawn[[0, 1, 3]].min() == 1
    assert drawn[2].diagonal().min() > 0
    assert drawn[2, 0, 7] == 0
    with pytest.raises(FileNotFoundError, match="no map"):
        nuscenes_map(tmp_path / "other.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match="map expansion"):
        nuscenes_map(tmp_path / "bad.json")


def test_the_real_map_lies_under_the_real_sweep(shared: Path) -> None:
    dataset = build_dataset("argoverse2", shared / "data" / "lidar" / "argoverse2_7fab2350", "all")
    assert len(dataset) == 2
    scan = dataset.load(0)
    assert scan.points.shape == (99229, 4)
    assert scan.boxes.shape == (81, 7)
    assert scan.pose is not None
    assert scan.place is not None
    # moving cars, of which there are enough, stand on the drivable area
    area, size = (-50.0, -50.0, -5.0, 50.0, 50.0, 3.0), (400, 400)
    layers = dict(zip(LAYERS, scan.place.raster(scan.pose, area, size), strict=True))
    cars = scan.boxes[scan.labels == dataset.info.classes.index("REGULAR_VEHICLE")]
    near = cars[(np.abs(cars[:, :2]) < 49).all(1)]
    spot = ((near[:, :2] + 50) / 100 * 400).astype(int)
    assert len(near) > 10
    assert (layers["drivable"][spot[:, 1], spot[:, 0]] > 0.5).mean() > 0.7
    shifted = scan.place.raster(scan.pose @ pose_matrix((1, 0, 0, 0), (25.0, 25.0, 0)), area, size, ("drivable",))[0]
    assert (shifted[spot[:, 1], spot[:, 0]] > 0.5).mean() < 0.6
    # ground points of the sweep lie at the map's height
    with np.load(next((shared / "data" / "lidar" / "argoverse2_7fab2350").glob("sweep_*259836000.npz"))) as sweep:
        ground = scan.points[sweep["is_ground"]]
    ground = ground[(np.abs(ground[:, :2]) < 30).all(1)]
    cell = ((ground[:, :2] + 50) / 100 * 400).astype(int)
    away = ground[:, 2] - layers["ground"][cell[:, 1], cell[:, 0]]
    assert np.median(np.abs(away)) < 0.15
    # the two sweeps, laid over each other by their poses
    both = build_dataset("argoverse2", dataset.items[0].log, "all", sweeps=2).load(1)
    assert both.points.shape == (99229 + 99466, 5)
    assert np.unique(both.points[:, 4]).tolist() == pytest.approx([0.0, 0.1], abs=1e-3)
    with pytest.raises(ValueError, match="HOVERCRAFT is no class"):
        build_dataset("argoverse2", dataset.items[0].log, "all", classes=("HOVERCRAFT",))


def test_frames_with_an_info_file(shared: Path) -> None:
    for name, label, cameras in (("kitti", "Car", 1), ("nuscenes", "car", 1)):
        dataset = build_dataset("scan_info", shared / "data" / "lidar" / name, "all")
        scan = dataset.load(0)
        mine = scan.boxes[scan.labels == dataset.info.classes.index(label)]
        mine = mine[np.linalg.norm(mine[:, :2], axis=1) < 30]
        inside = inside_boxes(torch.from_numpy(scan.points[:, :3]), torch.from_numpy(mine[:, :7])).sum(0)
        assert (inside > 5).float().mean() > 0.7, (name, inside)  # boxes lie where the points are
        assert len(scan.cameras) == cameras
        # and in the picture: corners of a near car in front
        front = mine[(mine[:, 0] > 3)] if name == "kitti" else mine[(mine[:, 1] > 3) & (np.abs(mine[:, 0]) < 3)]
        picture = cv2.imread(str(scan.cameras[0].path))
        for box in corners_3d(torch.from_numpy(front[:, :7])).numpy():
            seen = np.c_[box, np.ones(8)] @ scan.cameras[0].matrix.T
            assert (seen[:, 2] > 0).all()
            u, v = (seen[:, :2] / seen[:, 2:]).mean(0)
            assert -0.5 * picture.shape[1] < u < 1.5 * picture.shape[1]
            assert 0 < v < 1.3 * picture.shape[0]


# scans ------------------------------------------------------------------------------------------------------------------


def kitti_folder(root: Path) -> Path:
    for folder in ("velodyne", "label_2", "calib", "image_2"):
        (root / "training" / folder).mkdir(parents=True)
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "train.txt").write_text("000000\n")
    ROWS.tofile(root / "training" / "velodyne" / "000000.bin")
    # the lidar's axes are the camera's: x right, y down, z forward from x forward, y left, z up
    turn = "0 -1 0 0 0 0 -1 0 1 0 0 0"
    calibration = f"P2: 700 0 600 0 0 700 180 0 0 0 1 0\nR0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam: {turn}\n"
    (root / "training" / "calib" / "000000.txt").write_text(calibration)
    label = "DontCare -1 -1 -10 1 1 2 2 -1 -1 -1 -1000 -1000 -1000 -10\n"
    label += "Car 0.10 0 0 100 100 200 150 1.50 2.00 4.00 -3.00 1.00 20.00 0.00\n"
    label += "Van 0.60 0 0 100 100 200 150 1.50 2.00 4.00 3.00 1.00 20.00 0.00\n"
    cv2.imwrite(str(root / "training" / "image_2" / "000000.png"), np.zeros((360, 1200, 3), np.uint8))
    (root / "training" / "label_2" / "000000.txt").write_text(label)
    return root


def test_kitti_s_boxes_come_into_the_lidar_s_frame(tmp_path: Path) -> None:
    dataset = build_dataset("kitti", kitti_folder(tmp_path))
    scan = dataset.load(0)
    # 20 m ahead, 3 m to the left, its floor 1 m below; it looks to the right
    assert scan.boxes[0].tolist() == pytest.approx([20, 3, -1 + 0.75, 4, 2, 1.5, -math.pi / 2], abs=1e-5)
    assert scan.labels.tolist() == [2]
    assert scan.levels is not None
    assert scan.levels.tolist() == [0]
    assert scan.alike is not None
    assert scan.alike[0, [0, 1, 7]].tolist() == pytest.approx([20, -3, 2], abs=1e-5)  # a van, as a car
    # the car in the picture: its ends are 19 and 21 m away, its sides between 1 and 5 m left of the middle
    (camera,) = scan.cameras
    assert camera.size == (360, 1200)
    seen = kitti.in_picture(scan.boxes, camera)[0]
    assert seen.tolist() == pytest.approx(
        [600 - 700 * 5 / 19, 180 - 700 * 0.5 / 19, 600 - 700 / 21, 180 + 700 / 19], abs=1e-3
    )
    behind, aside = scan.boxes[0].copy(), scan.boxes[0].copy()
    behind[0], aside[1] = -20, 60
    for one, wanted in ((scan.boxes[0], (True, 0)), (behind, (False, 3)), (aside, (False, 3))):
        shown, level = kitti.levels_of_found(one[None], camera)
        assert (bool(shown[0]), int(level[0])) == wanted
    far = scan.boxes[0].copy()
    far[:2] = far[:2] * 2  # 1.5 m at 39 m: 27 pixels
    assert kitti.levels_of_found(far[None], camera)[1].tolist() == [1]
    assert [kitti._level(f"Car {cut} {hidden} 0 0 100 9 {100 + height}".split()) for cut, hidden, height in (
        (0.15, 0, 41), (0.15, 0, 40), (0.16, 0, 99), (0, 1, 99), (0, 2, 26), (0, 2, 25), (0, 3, 99), (0.51, 0, 99))
    ] == [0, 1, 1, 1, 2, 3, 3, 3]  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"no val\.txt"):
        build_dataset("kitti", tmp_path, "val")
    (tmp_path / "ImageSets" / "val.txt").write_text("000009")
    with pytest.raises(ScanError, match="000009"):
        build_dataset("kitti", tmp_path, "val")


def test_nuscenes_tables_are_joined(tmp_path: Path) -> None:
    tables = tmp_path / "v1.0-mini"
    tables.mkdir()
    half = [math.cos(0.25), 0, 0, math.sin(0.25)]
    rows = {
        "scene": [{"token": "s", "name": "scene-0103", "first_sample_token": "a", "log_token": "g"}],
        "log": [{"token": "g", "location": "nowhere"}],
        "sample": [
            {"token": "a", "next": "b", "scene_token": "s", "timestamp": 1_000_000},
            {"token": "b", "next": "", "scene_token": "s", "timestamp": 1_500_000},
        ],
        "sample_data": [
            {"token": f"d{i}", "sample_token": key, "is_key_frame": True, "filename": f"samples/LIDAR_TOP/{i}.pcd.bin",
             "ego_pose_token": f"e{i}", "calibrated_sensor_token": "c", "prev": "" if not i else "d0",
             "timestamp": 10**6 + i * 5 * 10**5}
            for i, key in enumerate("ab")
        ],
        "ego_pose": [
            {"token": "e0", "rotation": [1, 0, 0, 0], "translation": [0, 0, 0]},
            {"token": "e1", "rotation": half, "translation": [10, 0, 0]},
        ],
        "calibrated_sensor": [{"token": "c", "rotation": [1, 0, 0, 0], "translation": [1, 0, 2], "camera_intrinsic": []}],
        "attribute": [{"token": "m", "name": "vehicle.moving"}],
        "category": [{"token": "k", "name": "vehicle.car"}, {"token": "z", "name": "animal"}],
        "instance": [{"token": "i", "category_token": "k"}, {"token": "j", "category_token": "z"}],
        "sample_annotation": [
            {"token": "t0", "sample_token": "a", "instance_token": "i", "translation": [5, 1, 1], "size": [2, 4, 1.5],
             "attribute_tokens": ["m"],
             "rotation": [1, 0, 0, 0], "prev": "", "next": "t1", "num_lidar_pts": 3, "num_radar_pts": 0},
            {"token": "t1", "sample_token": "b", "instance_token": "i", "translation": [6, 1, 1], "size": [2, 4, 1.5],
             "rotation": half, "prev": "t0", "next": "", "num_lidar_pts": 0, "num_radar_pts": 0, "attribute_tokens": []},
            {"token": "t2", "sample_token": "a", "instance_token": "j", "translation": [6, 1, 1], "size": [1, 1, 1],
             "rotation": half, "prev": "", "next": "", "num_lidar_pts": 1, "num_radar_pts": 0},
        ],
    }  # fmt: skip
    for name, content in rows.items():
        (tables / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "samples" / "LIDAR_TOP").mkdir(parents=True)
    for i in range(2):
        np.full((2, 5), i, np.float32).tofile(tmp_path / "samples" / "LIDAR_TOP" / f"{i}.pcd.bin")
    dataset = build_dataset("nuscenes", tmp_path, "mini_val", sweeps=2)
    assert len(dataset) == 2
    first, second = dataset.load(0), dataset.load(1)
    assert first.boxes[0].tolist() == pytest.approx([4, 1, -1, 4, 2, 1.5, 0, 2, 0], abs=1e-6)  # 1 m in half a second
    assert first.labels.tolist() == [0]
    assert first.place is None
    assert second.boxes[0, 6] == pytest.approx(0, abs=1e-6)  # turned as the vehicle
    assert [scan.attributes.tolist() for scan in (first, second)] == [[0], [-1]]
    assert first.centre == pytest.approx((-1, 0))  # the lidar stands a metre ahead
    assert [nuscenes.ATTRIBUTES[nuscenes.likely_attribute(*given)] for given in (
        ("car", 0.1), ("car", 0.3), ("bus", 0), ("bus", 9), ("bicycle", 3), ("bicycle", 0), ("pedestrian", 1), ("pedestrian", 0))
    ] == [
        "vehicle.parked", "vehicle.moving", "vehicle.stopped", "vehicle.moving", "cycle.with_rider", "cycle.without_rider",
        "pedestrian.moving", "pedestrian.standing",
    ]  # fmt: skip
    assert nuscenes.likely_attribute("barrier", 0.0) == -1
    assert second.counted is not None
    assert second.counted.tolist() == [False]
    assert second.points.shape == (4, 5)
    assert second.points[:, 4].tolist() == [0, 0, 0.5, 0.5]
    assert len(build_dataset("nuscenes", tmp_path, "mini_train")) == 0
    with pytest.raises(FileNotFoundError, match="which scenes are 'train'"):
        build_dataset("nuscenes", tmp_path)


def test_a_folder_of_your_own(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "classes.txt").write_text("car\nbike\n")
    (tmp_path / "train.txt").write_text("a\n")
    boxes = np.array([[1.0, 2, 0, 4, 2, 1.5, 0.1]])
    np.savez(tmp_path / "scans" / "a.npz", points=ROWS, boxes=boxes, labels=np.array(["bike"]), pose=TURN)
    np.savez(tmp_path / "scans" / "b.npz", points=ROWS, boxes=boxes, labels=np.array(["plane"]))
    np.savez(tmp_path / "scans" / "c.npz", points=ROWS, boxes=boxes, labels=np.array([2]))
    scan = build_dataset("lidar_folder", tmp_path).load(0)
    assert scan.labels.tolist() == [1]
    assert scan.place is None
    everything = build_dataset("lidar_folder", tmp_path, "all")
    with pytest.raises(ScanError, match=r"'plane', which classes\.txt does not name"):
        everything.load(1)
    with pytest.raises(ScanError, match="there are 2 classes"):
        everything.load(2)
    (tmp_path / "map").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no map"):
        build_dataset("lidar_folder", tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no map of this place"):
        argoverse_map(tmp_path / "map")


def test_bad_boxes_are_named() -> None:
    fine = Scan(ROWS, np.array([[1.0, 2, 0, 4, 2, 1.5, 0.1]]), np.array([0]), "here")
    check_scan(fine, 1)
    for changes, said in (
        ({"points": ROWS[:, :2]}, "points have shape"),
        ({"boxes": fine.boxes[:, :6]}, "give"),
        ({"boxes": fine.boxes * np.nan}, "1 boxes hold values that are no numbers"),
        ({"labels": np.array([1])}, "labels go from 1 to 1"),
        ({"pose": np.full((4, 4), np.nan)}, "finite"),
    ):
        with pytest.raises(ScanError, match=f"here: .*{said}"):
            check_scan(Scan(**{**vars(fine), **changes}), 1)


def test_batches_are_filled_up_with_what_counts_nowhere() -> None:
    bad = np.concatenate((ROWS, np.full((1, 4), np.nan, np.float32)))
    boxes = np.array([[1.0, 2, 0, 4, 2, 1.5, 0.1], [1.0, 2, 0, 0, 2, 1.5, 0.1]])
    one, two = Scan(bad, boxes, np.array([0, 0]), "a"), Scan(ROWS[:1], boxes[:0], np.zeros(0, np.int64), "b")
    assert target_of(one).shape == (1, 10)  # a box without length is left out
    samples = [{"name": s.name, "boxes": target_of(s), **inputs_of(s, 5)} for s in (one, two)]
    batch = collate_scans(samples)
    assert batch["points"].shape == (2, 3, 5)
    assert (batch["points"][1, 1:] == FAR).all()
    assert (batch["points"][0, :, 4] == 0).all()
    assert batch["boxes"][1, 0, 7] == -1
