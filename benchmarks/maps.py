"""Does the map help a detector where it carries what the points do not?

    python -m benchmarks.maps --map LOG/map --out runs/maps --seeds 0 1

Scenes are drawn on a real map of Argoverse 2: cars on lanes, and as many things of a car's shape, with a car's points, off the
drivable area.  Ground points differ weakly in brightness between road and no road.  Scenes to train on lie in one half of the
place, scenes to score in the other, which training never saw.  Every variant has the same scenes, steps and seeds:

    base       CenterPoint on a small grid
    seg        + MapSeg alone: the map is learnt from points, and not read
    raster     + the map's layers beside the pillars
    feature    + FeatureAgg
    both       + FeatureAgg and MapSeg
    elsewhere  as "both", with the map of another part of the place under each scene: must not help

A run that is done is not done again; one that was stopped goes on.  Prints a table of AP (mean over centre distances of 0.5, 1, 2
and 4 m), of AP with every map taken away or exchanged from weights that learnt with it, and of the drivable area's IoU as MapSeg
sees it from points; all of it in OUT/maps.json.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from segmentarium.data import build_dataset
from segmentarium.data.hd_map import PlaceMap, argoverse_map
from segmentarium.data.poses import pose_matrix
from segmentarium.evaluation.scans import ScanScoring
from segmentarium.files import write_json
from segmentarium.inference.scans import ScanDetector, from_above, model_inputs
from segmentarium.training import TrainingOptions, train
from segmentarium.weights import load

REACH = 15.36  # metres to each side
AREA = [-REACH, -REACH, -3.0, REACH, REACH, 3.0]
CELLS = 96
CAR = (4.5, 1.9, 1.6)
DETECTOR = {
    "area": AREA,
    "cell": [2 * REACH / CELLS] * 2,
    "velocity": False,
    "widths": [16, 32, 32],
    "depths": [1, 2, 2],
    "neck_width": 16,
    "head_width": 24,
    "encoder_widths": [16],
    "candidates": 60,
}
VARIANTS: dict[str, dict[str, Any] | None] = {
    "base": None,
    "seg": {"aggregation": "none", "segmentation": True},
    "raster": {"aggregation": "raster", "segmentation": False},
    "feature": {"aggregation": "feature", "segmentation": False},
    "both": {"aggregation": "feature", "segmentation": True},
    "elsewhere": {"aggregation": "feature", "segmentation": True},
}


# scenes -----------------------------------------------------------------------------------------------------------------


def centre_lines(folder: Path) -> list[np.ndarray]:
    """(K, 3) points a metre or so apart along each vehicle lane of the map."""
    content = json.loads(next(folder.glob("log_map_archive_*.json")).read_text("utf-8"))
    lines = []
    for lane in content["lane_segments"].values():
        if lane["lane_type"] != "VEHICLE":
            continue
        sides = []
        for name in ("left_lane_boundary", "right_lane_boundary"):
            points = np.array([(p["x"], p["y"], p["z"]) for p in lane[name]])
            along = np.r_[0, np.linalg.norm(np.diff(points, axis=0), axis=1).cumsum()]
            steps = np.linspace(0, along[-1], max(2, round(along[-1])))
            sides.append((points, along, len(steps)))
        count = max(side[2] for side in sides)
        both = [
            np.stack([np.interp(np.linspace(0, along[-1], count), along, points[:, i]) for i in range(3)], 1)
            for points, along, _ in sides
        ]
        lines.append((both[0] + both[1]) / 2)
    return lines


def lane_places(lines: list[np.ndarray]) -> np.ndarray:
    """(N, 4): x, y, z and heading along the lanes."""
    rows = []
    for line in lines:
        step = np.diff(line[:, :2], axis=0)
        heading = np.arctan2(step[:, 1], step[:, 0])
        rows.append(np.c_[(line[:-1] + line[1:]) / 2, heading])
    return np.concatenate(rows)


def points_of(box: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(N, 4) points on the two sides that look at the sensor, the fewer the farther, bright as paint is."""
    x, y, z, length, width, height, angle = box
    count = int(np.clip(900 / (1 + math.hypot(x, y)), 20, 120))
    sides = []
    for across, extent, normal in ((1, length, width), (0, width, length)):
        for sign in (-1, 1):
            out = np.array([math.cos(angle + across * math.pi / 2), math.sin(angle + across * math.pi / 2)]) * sign
            middle = np.array((x, y)) + out * normal / 2
            if out @ -middle > 0:  # it looks at the sensor
                sides.append((middle, np.array([-out[1], out[0]]) * extent / 2))
    which = random.integers(len(sides), size=count)
    middles, reaches = (np.array([side[i] for side in sides])[which] for i in (0, 1))
    flat = middles + reaches * random.uniform(-1, 1, (count, 1))
    high = z + height * random.uniform(-0.5, 0.5, (count, 1))
    points = np.concatenate((flat, high), 1) + random.normal(0, 0.03, (count, 3))
    return np.c_[points, random.uniform(0.2, 0.8, count)]


def scene(place: PlaceMap, pose: np.ndarray, lanes: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Cars on lanes, labelled; as many things off the road, not labelled; ground."""
    size = (CELLS * 2, CELLS * 2)
    drivable, ground = place.raster(pose, AREA, size, ("drivable", "ground"))
    back = np.linalg.inv(pose)
    local = lanes[:, :3] @ back[:3, :3].T + back[:3, 3]
    turn = math.atan2(pose[1, 0], pose[0, 0])
    inside = (np.abs(local[:, :2]) < REACH - 1).all(1) & (np.linalg.norm(local[:, :2], axis=1) > 4)
    on_lanes = np.c_[local, lanes[:, 3] - turn][inside]

    def share(spots: np.ndarray) -> np.ndarray:
        cell = ((spots + REACH) / (2 * REACH) * size[0]).astype(int).clip(0, size[0] - 1)
        return drivable[cell[:, 1], cell[:, 0]]

    grown = cv2.dilate(drivable, np.ones((7, 7), np.uint8))  # a metre off the road at least
    rows, columns = np.nonzero(grown < 0.05)
    off = (np.c_[columns, rows] + 0.5) / size[0] * 2 * REACH - REACH
    off = off[(np.abs(off) < REACH - 1).all(1) & (np.linalg.norm(off, axis=1) > 4)]
    boxes: list[np.ndarray] = []
    real: list[bool] = []
    count = random.integers(2, 6)
    for wanted, spots in ((True, on_lanes), (False, off)):
        for _ in range(count if len(spots) else 0):
            for _ in range(20):
                spot = spots[random.integers(len(spots))]
                # off the road things stand as cars do on lanes
                heading = spot[3] if wanted else on_lanes[random.integers(len(on_lanes)), 3] if len(on_lanes) else 0.0
                sides = np.array(CAR) * random.uniform(0.9, 1.1, 3)
                cell = ((spot[:2] + REACH) / (2 * REACH) * size[0]).astype(int).clip(0, size[0] - 1)
                floor = ground[cell[1], cell[0]]
                box = np.r_[
                    spot[:2] + random.normal(0, 0.2, 2), floor + sides[2] / 2, sides, heading + random.normal(0, 0.05)
                ]
                if all(np.hypot(*(box[:2] - other[:2])) > 5 for other in boxes):
                    boxes.append(box)
                    real.append(wanted)
                    break
    floor = random.uniform(-REACH, REACH, (600, 2))
    cell = ((floor + REACH) / (2 * REACH) * size[0]).astype(int).clip(0, size[0] - 1)
    bright = np.where(share(floor) > 0.5, 0.3, 0.42) + random.normal(0, 0.12, len(floor))
    earth = np.c_[floor, ground[cell[:, 1], cell[:, 0]] + random.normal(0, 0.03, len(floor)), bright]
    points = [earth, *(points_of(box, random) for box in boxes)]
    labelled = np.array([box for box, wanted in zip(boxes, real, strict=True) if wanted]).reshape(-1, 7)
    return {
        "points": np.concatenate(points).astype(np.float32),
        "boxes": labelled.astype(np.float32),
        "labels": np.zeros(len(labelled), np.int64),
        "things": np.array([box for box, wanted in zip(boxes, real, strict=True) if not wanted]).reshape(-1, 7),
    }


def draw_scenes(folder: Path, map_folder: Path, train_scenes: int, val_scenes: int, elsewhere: bool) -> None:
    """A folder that `lidar_folder` reads; `elsewhere`: the same scenes, and poses of other places on the map beside them."""
    if (folder / "val.txt").is_file():
        return
    (folder / "scans").mkdir(parents=True, exist_ok=True)
    shutil.copytree(map_folder, folder / "map", dirs_exist_ok=True)
    (folder / "classes.txt").write_text("car\n")
    place, lanes, random = argoverse_map(map_folder), lane_places(centre_lines(map_folder)), np.random.default_rng(0)
    half = np.median(lanes[:, 0])
    for split, count, mine in (
        ("train", train_scenes, lanes[:, 0] < half - REACH),
        ("val", val_scenes, lanes[:, 0] > half + REACH),
    ):
        names, spots = [], np.flatnonzero(mine)
        while len(names) < count:
            x, y, z, heading = lanes[random.choice(spots)]
            heading += random.uniform(-math.pi, math.pi)
            pose = pose_matrix((math.cos(heading / 2), 0, 0, math.sin(heading / 2)), (x, y, z))
            found = scene(place, pose, lanes, random)
            if not len(found["boxes"]) or not len(found["things"]):
                continue
            other = random.choice(spots)
            turned = heading + random.uniform(-math.pi, math.pi)
            there = pose_matrix((math.cos(turned / 2), 0, 0, math.sin(turned / 2)), lanes[other, :3])
            names.append(f"{split}{len(names):04d}")
            np.savez_compressed(folder / "scans" / f"{names[-1]}.npz", pose=there if elsewhere else pose, **found)
        (folder / f"{split}.txt").write_text("\n".join(names) + "\n")


# runs -------------------------------------------------------------------------------------------------------------------


def options_of(variant: str, seed: int, out: Path, scenes: Path, steps: int) -> TrainingOptions:
    """A run's; it resumes where its folder has one."""
    told = VARIANTS[variant]
    output = out / f"{variant}-{seed}"
    return TrainingOptions(
        model="centerpoint_pillar" if told is None else "mapfusion_centerpoint",
        model_arguments={"in_channels": 4, **(DETECTOR if told is None else {**told, "detector_arguments": DETECTOR})},
        data="lidar_folder",
        root=str(scenes),
        cache=True,
        flip=False,
        turn=0.0,
        stretch=(1.0, 1.0),
        max_steps=steps,
        batch_size=8,
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=0.01,
        schedule="cosine",
        warmup_steps=min(50, steps // 10),
        clip_norm=35.0,
        ema=0.98,
        precision="32",
        workers=0,
        seed=seed,
        val_every=steps,
        save_every=100,
        images_every=0,
        channels_last=False,
        output=str(output),
        resume=(output / "last.ckpt").is_file(),
    )


class Moved:
    """A data set whose scans have no map, or one of elsewhere: what the weights make of it."""

    def __init__(self, dataset: Any, poses: list[np.ndarray] | None) -> None:
        self.dataset, self.poses, self.info = dataset, poses, dataset.info

    def __len__(self) -> int:
        return len(self.dataset)

    def load(self, index: int) -> Any:
        scan = self.dataset.load(index)
        return replace(scan, place=None) if self.poses is None else replace(scan, pose=self.poses[index])


def ap_of(model: Any, dataset: Any) -> float:
    scoring = ScanScoring(model, dataset)
    for _ in scoring.run(range(len(dataset)), 8, 1):
        pass
    return float(scoring.tally.scores()[0]["map"])


@torch.inference_mode()
def map_iou(model: Any, dataset: Any) -> float:
    """Of the drivable area, by MapSeg from points, at the resolution of the features."""
    shared = joint = 0
    for index in range(len(dataset)):
        points, raster = model_inputs(model, [dataset.load(index)])
        said = model.map_scores(points, raster)[:, 0] > 0.5
        wanted = torch.nn.functional.adaptive_avg_pool2d(raster[:, :1], said.shape[-2:])[:, 0] > 0.5
        shared, joint = shared + int((said & wanted).sum()), joint + int((said | wanted).sum())
    return shared / max(joint, 1)


def outcome(variant: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    out, elsewhere = arguments.out, variant == "elsewhere"
    scenes = out / ("scenes-elsewhere" if elsewhere else "scenes")
    options = options_of(variant, seed, out, scenes, arguments.steps)
    train(options)
    model = load(Path(options.folder) / "last.safetensors").eval()
    dataset = build_dataset("lidar_folder", scenes, "val", cache=True)
    row: dict[str, Any] = {"variant": variant, "seed": seed, "ap": ap_of(model, dataset)}
    if VARIANTS[variant] is not None:
        row["ap_no_map"] = ap_of(model, Moved(dataset, None))
        others = build_dataset("lidar_folder", out / "scenes-elsewhere", "val", cache=True)
        row["ap_elsewhere"] = ap_of(model, Moved(dataset, [others.load(i).pose for i in range(len(others))]))
        if hasattr(model, "segment"):
            row["map_iou"] = map_iou(model, dataset)
    scans = [dataset.load(i) for i in range(3)]
    shown = [from_above(s, AREA, f, pixels=360) for s, f in zip(scans, ScanDetector(model, 0.3)(scans), strict=True)]
    cv2.imwrite(str(Path(options.folder) / "above.png"), np.concatenate(shown, 1)[..., ::-1])
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds, with the least and the greatest AP."""
    head = ("variant", "AP", "seeds", "map taken away", "map of elsewhere", "IoU of drivable, from points")
    lines = [f"| {' | '.join(head)} |", "|---|---|---|---|---|---|"]
    for variant in VARIANTS:
        mine = [row for row in rows if row["variant"] == variant]
        if not mine:
            continue
        cells = [f"{np.mean([row['ap'] for row in mine]):.3f}", ", ".join(f"{row['ap']:.3f}" for row in mine)]
        for key in ("ap_no_map", "ap_elsewhere", "map_iou"):
            values = [row[key] for row in mine if key in row]
            cells.append(f"{np.mean(values):.3f}" if values else "")
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--map", type=Path, required=True, help="folder with log_map_archive_*.json of an Argoverse 2 log"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/maps"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--scenes", type=int, nargs=2, default=(600, 150), help="to train on and to score")
    arguments = parser.parse_args()
    for elsewhere in (False, True):
        folder = arguments.out / ("scenes-elsewhere" if elsewhere else "scenes")
        draw_scenes(folder, arguments.map, *arguments.scenes, elsewhere)
    path = arguments.out / "maps.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["rows"] if path.is_file() else []
    for seed in arguments.seeds:
        for variant in arguments.variants:
            if not any(row["variant"] == variant and row["seed"] == seed for row in rows):
                rows.append(outcome(variant, seed, arguments))
                write_json(path, {"steps": arguments.steps, "scenes": list(arguments.scenes), "rows": rows})
                print(rows[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
