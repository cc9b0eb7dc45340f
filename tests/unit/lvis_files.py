"""A small data set in LVIS's form, with objects drawn at random."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segmentarium.rle import patch, polygon

IDS = (1, 4, 5, 9, 12)  # of the categories; the last occurs nowhere but in a negative list
NAMES = ("apple", "bat", "cup", "dog", "egg")
FREQUENCY = ("f", "c", "r", "r", "c")
SIZE = (60, 80)


def outline(draws: np.random.Generator, size: tuple[int, int] = SIZE) -> list[float]:
    """A quadrilateral: x, y, x, y, …"""
    height, width = size
    side = draws.uniform(6, 40, 2)
    x, y = draws.uniform(0, width - side[0]), draws.uniform(0, height - side[1])
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * side + [x, y] + draws.uniform(-2, 2, (4, 2))
    return corners.clip(0, [width, height]).round(2).reshape(-1).tolist()


def annotation(number: int, picture: int, category: int, points: Sequence[float]) -> dict[str, Any]:
    x, y = np.array(points).reshape(-1, 2).T
    box = [x.min(), y.min(), x.max() - x.min(), y.max() - y.min()]
    area = float(polygon(points, *SIZE).mask.sum())
    told = {"id": number, "image_id": picture, "category_id": category, "segmentation": [list(points)], "area": area}
    return told | {"bbox": [float(value) for value in box]}


def content(pictures: int = 12, seed: int = 0, version: str = "v1") -> dict[str, Any]:
    draws = np.random.default_rng(seed)
    images, annotations = [], []
    for number in range(1, pictures + 1):
        shown = draws.choice(IDS[:4], draws.integers(0, 6)).tolist()
        for category in shown:
            annotations.append(annotation(len(annotations) + 1, number, category, outline(draws)))
        others = [one for one in IDS if one not in shown]
        told = {
            "id": number,
            "height": SIZE[0],
            "width": SIZE[1],
            "neg_category_ids": others[:2],
            "not_exhaustive_category_ids": sorted(set(shown))[:1] if number % 2 else [],
        }
        name = f"{number:012d}.png"
        if version == "v1":
            told["coco_url"] = f"http://images.cocodataset.org/{'val' if number % 3 else 'train'}2017/{name}"
        else:
            told["file_name"] = f"COCO_val2014_{name}"[: len("COCO_val2014_") + 16]
        images.append(told)
    categories = [
        {"id": one, "name": name, "frequency": often, "image_count": 20 * place, "instance_count": 30 * place}
        for place, (one, name, often) in enumerate(zip(IDS, NAMES, FREQUENCY, strict=True))
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def write(root: Path, version: str = "v1", **changes: Any) -> dict[str, Any]:
    """annotations/lvis_VERSION_val.json and its pictures."""
    found = content(version=version) | changes
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"lvis_{version}_val.json").write_text(json.dumps(found))
    for one in found["images"]:
        folder, name = one["coco_url"].split("/")[-2:] if version == "v1" else ("val2017", one["file_name"][-16:])
        (root / folder).mkdir(exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(root / folder / name)
    return found


def detections(truth: dict[str, Any], seed: int = 1, extra: int = 6) -> list[dict[str, Any]]:
    """Objects found well and badly, of the right and of wrong classes, with some equal scores."""
    draws = np.random.default_rng(seed)
    found = []
    for one in truth["annotations"]:
        points = np.array(one["segmentation"][0]) + draws.normal(0, draws.choice([0.2, 2, 6]), 8)
        category = one["category_id"] if draws.random() < 0.8 else int(draws.choice(IDS))
        found.append((one["image_id"], category, points.clip(0, [SIZE[1], SIZE[0]] * 4).tolist()))
    for picture in truth["images"]:
        found += [(picture["id"], int(draws.choice(IDS)), outline(draws)) for _ in range(extra)]
    found = [one for one in found if patch(polygon(one[2], *SIZE).full(*SIZE)).mask.size]
    return [
        {"image_id": picture, "category_id": category, "points": points, "score": round(float(draws.random()), 1)}
        for picture, category, points in found
    ]
