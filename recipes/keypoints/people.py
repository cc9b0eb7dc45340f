"""Joints of real people: a narrow HRNet from scratch, against the pose that is right on average.

    python recipes/keypoints/people_more.py --data DIR/person_photos DIR/portrait
    python recipes/keypoints/people.py --coco DIR/coco_instances --panoptic DIR/coco_panoptic --sports DIR/sports_pose \\
        --more runs/people_more
    segmentarium train --recipe recipes/keypoints/people.py
    segmentarium evaluate --model runs/people/best.safetensors --data coco_keypoints --root DIR/coco_instances
    segmentarium evaluate --model runs/people/best.safetensors --data coco_keypoints --root DIR/sports_pose

The second writes the persons of all three as one data set with COCO's 17 joints, 198 and 200 to learn from, 167 and 50 to score,
and to learn from also those that the first found.
Athletes have twelve of these joints; their neck and top of the head, which COCO does not have, are left out.  `evaluate` scores
by the joints that model and data have in common, and says what the mean pose comes to.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from segmentarium.keypoints.hrnet_pose import COCO_JOINTS
from segmentarium.training import TrainingOptions

DATA = Path("runs/people_data")
SPLITS = ("train", "val")


def recipe() -> TrainingOptions:
    narrow = {"width": 16, "modules": [1, 1, 1], "blocks": 2, "bottlenecks": 2, "bottleneck_width": 32}
    return TrainingOptions(
        model="hrnet_pose_w32",
        model_arguments={"backbone_arguments": narrow, "sigma": 1.5},
        data="coco_keypoints",
        root=str(DATA),
        output="runs/people",
        cache=True,
        input_size=(128, 96),
        batch_size=32,
        max_steps=3500,
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=0.01,
        schedule="cosine",
        warmup_steps=200,
        clip_norm=5.0,
        ema=0.998,
        val_every=500,
        save_every=100,
        log_every=50,
        workers=1,
    )


def add(data: dict[str, Any], folder: Path, file: Path, name: str) -> None:
    """Puts the persons of a JSON, with COCO's joints, and the pictures that show them into a data set."""
    content = json.loads(file.read_text(encoding="utf-8"))
    category = next(one for one in content["categories"] if one.get("keypoints"))
    places = {joint: i for i, joint in enumerate(category["keypoints"])}
    pictures = {one["id"]: one for one in content["images"]}
    numbers: dict[int, int] = {}
    for one in content["annotations"]:
        if one["category_id"] != category["id"] or one.get("iscrowd") or not any(one.get("keypoints", ())):
            continue
        picture = pictures[one["image_id"]]
        if picture["id"] not in numbers:
            numbers[picture["id"]] = len(data["images"]) + 1
            written = f"{name}_{Path(picture['file_name']).name}"
            shutil.copy(folder / picture["file_name"], DATA / "images" / written)
            data["images"].append({**picture, "id": numbers[picture["id"]], "file_name": written})
        given = one["keypoints"]
        joints = [given[3 * places[j] : 3 * places[j] + 3] if j in places else [0, 0, 0] for j in COCO_JOINTS]
        data["annotations"].append(
            {
                **{key: one[key] for key in ("bbox", "area")},
                "id": len(data["annotations"]) + 1,
                "image_id": numbers[picture["id"]],
                "category_id": 1,
                "iscrowd": 0,
                "keypoints": [value for joint in joints for value in joint],
            }
        )


def write_data(coco: Path, panoptic: Path, sports: Path, more: Path | None) -> None:
    (DATA / "images").mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        data: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_JOINTS)}],
        }
        labels = coco / "annotations"
        add(data, coco / f"{split}2017", labels / f"person_keypoints_{split}2017.json", "coco")
        add(data, panoptic / f"{split}2017", labels / f"person_keypoints_coco_panoptic_{split}2017.json", "panoptic")
        add(data, sports / "images", sports / f"keypoints_{split}.json", "sports")
        if more is not None and split == "train":
            add(data, more, more / "keypoints.json", "more")
        (DATA / f"keypoints_{split}.json").write_text(json.dumps(data), encoding="utf-8")
        print(f"{split}: {len(data['annotations'])} persons in {len(data['images'])} pictures")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("coco", "panoptic", "sports"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="the folder of the data set")
    parser.add_argument("--more", type=Path, help="what people_more.py wrote, to learn from")
    write_data(**vars(parser.parse_args()))
