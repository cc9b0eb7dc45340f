"""Pictures of nobody, as a folder to evaluate on: how often does a model see somebody?

    python recipes/person_negatives.py --root DIR --out runs/person_negatives
    segmentarium evaluate --model person --data folder --root runs/person_negatives --split val

DIR holds the data sets as folders: COCO's val2017 parts (coco_panoptic, coco_instances) and CamVid's test split, of which
those pictures are taken that hold no person and no rider: rooms, food, animals, streets.  None of them is trained on, except
that half of coco_panoptic's val2017 part is (`person_bodies_data.py`); those are left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from person_bodies_data import PEDESTRIANS, coco_instances, coco_panoptic, held_back, names_of
from PIL import Image


def empty(root: Path) -> list[tuple[str, Path, tuple[int, int]]]:
    """Name, picture and (height, width) of every picture of nobody."""
    found = []
    for name, picture, mask in coco_panoptic(root / "coco_panoptic", "val2017"):
        if held_back(name, 0.5) and not np.isin(mask, 1).any():
            found.append((name, picture, mask.shape))
    for name, picture, mask in coco_instances(root / "coco_instances", "val2017"):
        if not (mask > 0).any():
            found.append((name, picture, mask.shape))
    streets = root / "camvid"
    for name in names_of(streets, "test"):
        labels = np.asarray(Image.open(streets / "labels" / f"{name}.png"))
        if np.isin(labels, PEDESTRIANS[:2]).mean() < 0.0002:
            found.append((f"street_{name}", streets / "images" / f"{name}.webp", labels.shape))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/person_negatives"))
    arguments = parser.parse_args()
    for folder in ("images", "masks"):
        (arguments.out / folder).mkdir(parents=True, exist_ok=True)
    pictures = empty(arguments.root)
    for name, picture, size in pictures:
        target = arguments.out / "images" / f"{name}{picture.suffix}"
        target.unlink(missing_ok=True)
        target.symlink_to(picture.resolve())
        Image.fromarray(np.zeros(size, np.uint8)).save(arguments.out / "masks" / f"{name}.png")
    (arguments.out / "val.txt").write_text("\n".join(name for name, *_ in pictures) + "\n", encoding="utf-8")
    (arguments.out / "classes.txt").write_text("background\nperson\n", encoding="utf-8")
    print(f"{arguments.out}: {len(pictures)} pictures of nobody")


if __name__ == "__main__":
    main()
