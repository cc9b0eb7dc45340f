"""The four corners of drawn quadrilaterals, in order, by a narrow HRNet: heat maps, their loss and their reading, end to end.

    python recipes/keypoints/quadrilaterals.py
    segmentarium train --recipe recipes/keypoints/quadrilaterals.py

Run as a program it draws the pictures, in COCO's layout: a quadrilateral of its own colour over lines and discs, each corner in a
quarter of the picture as those of a photographed page are, from the top left clockwise.  Three minutes of a core.
"""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segmentarium.training import TrainingOptions

DATA = Path("runs/quadrilaterals")
COUNTS = {"train": 2000, "val": 400}
SIDE = 96
JOINTS = ("top left", "top right", "bottom right", "bottom left")


def recipe() -> TrainingOptions:
    return TrainingOptions(
        model="hrnet_pose_w32",
        model_arguments={
            "num_joints": len(JOINTS),
            "backbone": "hrnet_w18_small",
            "backbone_arguments": {"width": 8, "bottleneck_width": 16},
        },
        data="coco_keypoints",
        root=str(DATA),
        output="runs/quadrilaterals-hrnet",
        cache=True,
        input_size=(SIDE, SIDE),
        flip=False,  # left would be right, and turned by a quarter the first corner the second
        turn=0.0,
        max_steps=600,
        batch_size=32,
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=0.01,
        schedule="cosine",
        warmup_steps=50,
        clip_norm=1.0,
        ema=0.99,
        val_every=200,
        save_every=200,
    )


def corners(draw: np.random.Generator) -> np.ndarray:
    """(4, 2) of a convex quadrilateral: top left, top right, bottom right, bottom left."""
    quarters = np.array([(6, 6), (58, 6), (58, 58), (6, 58)])
    while True:
        points = quarters + draw.uniform(0, 32, (4, 2))
        edges = np.roll(points, -1, 0) - points
        following = np.roll(edges, -1, 0)
        if (edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0] > 0).all():
            return points


def picture(draw: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8: lines and discs, the quadrilateral over them, noise over all."""
    colours = draw.integers(0, 256, (12, 3))
    drawn = np.full((SIDE, SIDE, 3), colours[0], np.uint8)
    for number in range(1, 11):
        first, second = (tuple(int(v) for v in draw.integers(0, SIDE, 2)) for _ in range(2))
        shade = [int(v) for v in colours[number]]
        if number % 2:
            cv2.line(drawn, first, second, shade, int(draw.integers(1, 4)), cv2.LINE_AA)
        else:
            cv2.circle(drawn, first, int(draw.integers(3, 15)), shade, -1, cv2.LINE_AA)
    eighths = np.rint(points * 8).astype(np.int32)
    cv2.fillPoly(drawn, [eighths], [int(v) for v in colours[11]], cv2.LINE_AA, shift=3)
    return np.clip(drawn + draw.normal(0, 8, drawn.shape), 0, 255).astype(np.uint8)


def main() -> None:
    (DATA / "images").mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate(COUNTS.items()):
        draw = np.random.default_rng(number)
        images, annotations = [], []
        for index in range(count):
            points = corners(draw)
            name = f"{split}_{index:04d}.png"
            Image.fromarray(picture(draw, points)).save(DATA / "images" / name)
            images.append({"id": index, "file_name": name, "width": SIDE, "height": SIDE})
            annotations.append(
                {
                    "id": index,
                    "image_id": index,
                    "category_id": 1,
                    "keypoints": [value for x, y in points for value in (float(x), float(y), 2)],
                    "num_keypoints": len(JOINTS),
                    "bbox": [0, 0, SIDE, SIDE],
                    "area": float(cv2.contourArea(points.astype(np.float32))),
                    "iscrowd": 0,
                }
            )
        categories = [
            {"id": 1, "name": "person", "keypoints": list(JOINTS), "skeleton": [[1, 2], [2, 3], [3, 4], [4, 1]]}
        ]
        told = {"images": images, "annotations": annotations, "categories": categories}
        (DATA / f"keypoints_{split}.json").write_text(json.dumps(told), encoding="utf-8")
    print(f"{DATA}: {COUNTS['train']} quadrilaterals to train on, {COUNTS['val']} others")


if __name__ == "__main__":
    main()
