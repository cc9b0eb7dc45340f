"""One scene of objects in every form that is read, and pictures whose colours say what is where."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segmentarium.rle import encode, patch
from tests.unit.data_files import write_mask

SIZE = (24, 32)  # height, width
CLASSES = ("cat", "dog")
# class, top, left, bottom, right; the second and the third overlap
SCENE = ((0, 2, 3, 8, 12), (1, 10, 4, 20, 16), (0, 14, 10, 22, 30))


def masks_of(scene: Sequence[tuple[int, ...]] = SCENE, size: tuple[int, int] = SIZE) -> np.ndarray:
    """bool (N, H, W)"""
    masks = np.zeros((len(scene), *size), bool)
    for mask, (_, top, left, bottom, right) in zip(masks, scene, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def write_picture(path: Path, masks: np.ndarray) -> Path:
    """Grey 20, and each object 30 brighter."""
    grey = 20 + 30 * masks.sum(0) if len(masks) else np.full(SIZE, 20)
    return write_mask(path, np.repeat(grey[..., None], 3, 2).astype(np.uint8))


def corners(top: int, left: int, bottom: int, right: int) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def coco(root: Path, scene: Sequence[tuple[int, ...]] = SCENE, *, form: str = "polygon", **changes: Any) -> Path:
    """annotations.json and images/; categories have the ids 3 and 7."""
    masks = masks_of(scene)
    write_picture(root / "images" / "a.png", masks)
    annotations = []
    for i, ((label, *box), mask) in enumerate(zip(scene, masks, strict=True)):
        drawn: dict[str, Any] = {
            "polygon": [corners(*box)],
            "rle": encode(mask),
            "runs": {"size": list(SIZE), "counts": runs(mask)},
        }
        annotations.append(
            {
                "id": i + 1,
                "image_id": 5,
                "category_id": (3, 7)[label],
                "iscrowd": 0,
                "segmentation": drawn[form],
                "area": int(mask.sum()),
                "bbox": [box[1], box[0], box[3] - box[1], box[2] - box[0]],
            }
            | changes.get(f"object{i}", {})
        )
    content = {
        "images": [{"id": 5, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    (root / "annotations.json").write_text(json.dumps(content | changes.get("content", {})), encoding="utf-8")
    return root


def runs(mask: np.ndarray) -> list[int]:
    flat = mask.T.ravel().tolist()
    found, value = [0], False
    for one in flat:
        if one != value:
            found.append(0)
            value = one
        found[-1] += 1
    return found


def panoptic(root: Path, **changes: Any) -> Path:
    """COCO's panoptic form of the scene without overlaps: later objects lie on top; the first column is void."""
    folder = root / "annotations" / "panoptic_val2017"
    masks = masks_of()
    write_picture(root / "val2017" / "a.png", masks)
    numbers = (300, 70_000, 5)
    values = np.full(SIZE, 90)  # grass
    for number, mask in zip(numbers, masks, strict=True):
        values[mask] = number
    values[:, 0] = 0
    for number, where in changes.get("paint", {}).items():
        values[where] = number
    write_mask(folder / "a.png", np.stack((values % 256, values // 256 % 256, values // 65536), 2).astype(np.uint8))
    segments = []
    for number, category in zip((*numbers, 90), (3, 7, 3, 150), strict=True):
        inside = patch(values == number)
        height, width = inside.mask.shape
        segments.append(
            {
                "id": number,
                "category_id": category,
                "iscrowd": int(number == 300),
                "area": int(inside.mask.sum()),
                "bbox": [inside.left, inside.top, width, height],
            }
        )
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments + changes.get("more", [])}],
        "categories": [
            {"id": 3, "name": "cat", "isthing": 1, "color": [1, 2, 3]},
            {"id": 7, "name": "dog", "isthing": 1, "color": [4, 5, 6]},
            {"id": 150, "name": "grass", "isthing": 0, "color": [7, 8, 9]},
        ],
    }
    (root / "annotations" / "panoptic_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def labelme(
    root: Path, scene: Sequence[tuple[int, ...]] = SCENE, *, mask: bool = False, more: Sequence[dict] = ()
) -> Path:
    masks = masks_of(scene)
    write_picture(root / "a.png", masks)
    shapes = []
    for (label, top, left, bottom, right), one in zip(scene, masks, strict=True):
        points = np.array(corners(top, left, bottom, right)).reshape(-1, 2).tolist()
        shape: dict[str, Any] = {"label": CLASSES[label], "points": points, "group_id": None, "shape_type": "polygon"}
        if mask:
            file = io.BytesIO()
            Image.fromarray(one[top:bottom, left:right].astype(np.uint8) * 255).save(file, "PNG")
            shape |= {"shape_type": "mask", "points": points[:1], "mask": base64.b64encode(file.getvalue()).decode()}
        shapes.append(shape)
    content = {"imagePath": "a.png", "imageHeight": SIZE[0], "imageWidth": SIZE[1], "shapes": [*shapes, *more]}
    (root / "a.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def cvat(root: Path, scene: Sequence[tuple[int, ...]] = SCENE, more: str = "") -> Path:
    write_picture(root / "images" / "a.png", masks_of(scene))
    shapes = []
    for place, (label, top, left, bottom, right) in enumerate(scene):
        name, area = CLASSES[label], (bottom - top) * (right - left)
        points = ";".join(f"{x},{y}" for x, y in np.array(corners(top, left, bottom, right)).reshape(-1, 2))
        box = f'xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}"'
        runs = f'rle="0, {area}" left="{left}" top="{top}" width="{right - left}" height="{bottom - top}"'
        shapes.append(
            (
                f'<polygon label="{name}" points="{points}"/>',
                f'<box label="{name}" {box}/>',
                f'<mask label="{name}" {runs}/>',
            )[place % 3]
        )
    labels = "".join(f"<label><name>{name}</name><color>#10203{i}</color></label>" for i, name in enumerate(CLASSES))
    (root / "annotations.xml").write_text(
        f'<annotations><meta><task><labels>{labels}</labels></task></meta><image id="0" name="a.png" width="{SIZE[1]}" '
        f'height="{SIZE[0]}">{"".join(shapes)}{more}</image></annotations>',
        encoding="utf-8",
    )
    return root


def yolo(root: Path, scene: Sequence[tuple[int, ...]] = SCENE, more: Sequence[str] = ()) -> Path:
    yolo_pair(root / "images" / "val" / "a.png", root / "labels" / "val" / "a.txt", scene, more)
    (root / "data.yaml").write_text("path: .\nval: images/val\nnames:\n  0: cat\n  1: dog\n", encoding="utf-8")
    return root


def yolo_pair(image: Path, label: Path, scene: Sequence[tuple[int, ...]] = SCENE, more: Sequence[str] = ()) -> None:
    """A picture and its text file."""
    write_picture(image, masks_of(scene))
    lines = []
    for number, top, left, bottom, right in scene:
        shares = np.array(corners(top, left, bottom, right)).reshape(-1, 2) / SIZE[::-1]
        lines.append(f"{number} {' '.join(f'{value:.6f}' for value in shares.ravel())}")
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text("\n".join([*lines, *more]) + "\n", encoding="utf-8")


def instances(
    root: Path, values: Sequence[np.ndarray], names: Sequence[str] = ("a", "b", "c"), parts: bool = True
) -> Path:
    """images/ and instances/ of maps of numbers; the first for val, the others for train."""
    for name, one in zip(names, values, strict=False):
        numbers = np.unique(one[one > 0])
        write_picture(root / "images" / f"{name}.png", one == numbers[:, None, None])
        write_mask(root / "instances" / f"{name}.png", one.astype(np.uint16))
    if parts:
        (root / "val.txt").write_text(f"{names[0]}\n")
        (root / "train.txt").write_text("\n".join(names[1 : len(values)]) + "\n")
    return root
