"""What the shipped models of persons learn whole bodies, groups and emptiness from: one plain folder of six data sets.

    python recipes/person_bodies_data.py --root DIR --out runs/person_bodies_data

DIR holds the data sets as folders; those that are absent are left out, with a line.  What each gives, and how often, so that no
kind of picture drowns another:

portrait           head and shoulders (EG1800); its labels count passers-by as background
person_photos      whole bodies, groups, sport, people far away; each twice, for they are of many kinds
clothing_parsing   one whole body in a street; bags count neither way
coco_*             everyday scenes, animals, nobody in half of them; each twice.  Crowds, and people much smaller than the largest
                   one of their picture, count neither way, because the portraits' labels would call them background
camvid             streets without anybody near; its pedestrians, a few pixels high, count neither way

For validation a part is held back by a hash of the names: of EG1800's val, person_photos' train and COCO's val2017 splits.
EG1800's test and person_photos' val splits are not touched.  The sets are for research and non-commercial use; their READMEs
state the terms.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

PERSON, UNLABELLED = 1, 0  # COCO's category, and its segment id of pixels that nobody labelled
IGNORED = 255
PASSER_BY = 0.25  # of the largest person's area: below it the picture is not of them
BAGS = (2, 33, 56)  # clothing_parsing's bag, purse and wallet
PEDESTRIANS = (9, 10, 11)  # CamVid's, bicyclists, and what it ignores
CAMVID_EVERY = 6  # neighbouring frames look alike

Found = Iterator[tuple[str, Path, np.ndarray]]  # name, picture, mask uint8 (H, W): 0, 1, or 255


def names_of(folder: Path, split: str) -> list[str]:
    return (folder / f"{split}.txt").read_text("utf-8").split()


def pairs(folder: Path, split: str, prefix: str) -> Found:
    """EG1800's and person_photos' photographs: masks of 0 and 1."""
    for name in names_of(folder, split):
        yield (
            f"{prefix}_{name}",
            folder / "images" / f"{name}.webp",
            np.asarray(Image.open(folder / f"masks/{name}.png")),
        )


def clothing(folder: Path, split: str) -> Found:
    for name in names_of(folder, split):
        labels = np.asarray(Image.open(folder / "labels" / f"{name}.png"))
        mask = (labels > 0).astype(np.uint8)
        mask[np.isin(labels, BAGS)] = IGNORED
        yield f"clothes_{name}", folder / "images" / f"{name}.webp", mask


def camvid(folder: Path) -> Found:
    for name in names_of(folder, "train")[::CAMVID_EVERY]:
        labels = np.asarray(Image.open(folder / "labels" / f"{name}.png"))
        mask = np.where(np.isin(labels, PEDESTRIANS), IGNORED, 0).astype(np.uint8)
        yield f"street_{name}", folder / "images" / f"{name}.webp", mask


def coco_panoptic(folder: Path, split: str) -> Found:
    found = json.loads((folder / "annotations" / f"panoptic_{split}.json").read_text("utf-8"))
    for picture in found["annotations"]:
        name = Path(picture["file_name"]).stem
        red, green, blue = np.moveaxis(
            np.asarray(Image.open(folder / "annotations" / f"panoptic_{split}" / f"{name}.png"), np.uint32), -1, 0
        )
        segment = red + 256 * green + 65536 * blue
        people = {s["id"]: s for s in picture["segments_info"] if s["category_id"] == PERSON}
        least = PASSER_BY * max((s["area"] for s in people.values() if not s["iscrowd"]), default=0)
        neither = [number for number, s in people.items() if s["iscrowd"] or s["area"] < least]
        mask = np.isin(segment, list(people)).astype(np.uint8)
        mask[np.isin(segment, [UNLABELLED, *neither])] = IGNORED
        yield f"coco_{name}", folder / split / f"{name}.jpg", mask


def coco_instances(folder: Path, split: str) -> Found:
    found = json.loads((folder / "annotations" / f"instances_{split}.json").read_text("utf-8"))
    people: dict[int, list[dict[str, Any]]] = {}
    for one in found["annotations"]:
        if one["category_id"] == PERSON:
            people.setdefault(one["image_id"], []).append(one)
    for picture in found["images"]:
        path = folder / split / f"{Path(picture['file_name']).stem}.webp"
        size = Image.open(path).size
        drawn, crowds = Image.new("L", size), np.zeros((size[1], size[0]), bool)
        here = people.get(picture["id"], [])
        least = PASSER_BY * max((one["area"] for one in here if not one["iscrowd"]), default=0)
        for one in sorted(here, key=lambda one: -one["area"]):
            if one["iscrowd"]:
                crowds |= run_lengths(one["segmentation"], size)
                continue
            for outline in one["segmentation"]:
                points = list(zip(outline[::2], outline[1::2], strict=True))
                ImageDraw.Draw(drawn).polygon(points, fill=IGNORED if one["area"] < least else 1)
        mask = np.array(drawn)
        mask[crowds & (mask == 0)] = IGNORED
        yield f"things_{path.stem}", path, mask


def run_lengths(encoded: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """COCO's uncompressed runs, column by column -> bool (H, W) at that size (width, height)."""
    height, width = encoded["size"]
    flat = np.repeat(np.arange(len(encoded["counts"])) % 2, encoded["counts"]).astype(np.uint8)
    whole = Image.fromarray(np.ascontiguousarray(flat.reshape(width, height).T))
    return np.asarray(whole.resize(size, Image.Resampling.NEAREST)) > 0


def held_back(name: str, share: float) -> bool:
    """Whether this picture is for validation: by its name, so that it stays so."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 1000 < 1000 * share


def sources(root: Path, portraits: int, scenes: int) -> Iterator[tuple[Found, int, float]]:
    """Pictures of each set, how often each is taken (EG1800's and COCO's so many times), and which share is held back."""
    portrait, photos, clothes = root / "portrait", root / "person_photos", root / "clothing_parsing"
    panoptic, instances, streets = root / "coco_panoptic", root / "coco_instances", root / "camvid"
    for folder, parts in (
        (
            portrait,
            lambda: [(pairs(portrait, "train", "eg"), portraits, 0.0), (pairs(portrait, "val", "eg"), portraits, 0.5)],
        ),
        (photos, lambda: [(pairs(photos, "train", "photo"), 2, 0.06)]),
        (clothes, lambda: [(clothing(clothes, split), 1, 0.0) for split in ("train", "val")]),
        (
            panoptic,
            lambda: [
                (coco_panoptic(panoptic, s), scenes, share) for s, share in (("train2017", 0.0), ("val2017", 0.5))
            ],
        ),
        (instances, lambda: [(coco_instances(instances, "train2017"), scenes, 0.0)]),
        (streets, lambda: [(camvid(streets), 1, 0.0)]),
    ):
        if folder.is_dir():
            yield from parts()
        else:
            print(f"{folder} is not there: left out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/person_bodies_data"))
    parser.add_argument("--portraits", type=int, default=1, help="how often EG1800's pictures are taken (default 1)")
    parser.add_argument("--scenes", type=int, default=2, help="how often COCO's pictures are taken (default 2)")
    arguments = parser.parse_args()
    for folder in ("images", "masks"):
        (arguments.out / folder).mkdir(parents=True, exist_ok=True)
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for found, times, share in sources(arguments.root, arguments.portraits, arguments.scenes):
        for name, picture, mask in found:
            part = "val" if held_back(name, share) else "train"
            for copy in range(times if part == "train" else 1):  # a folder's sampler takes each name once a round
                again = name if copy == 0 else f"{name}_{copy + 1}"
                target = arguments.out / "images" / f"{again}{picture.suffix}"
                target.unlink(missing_ok=True)
                target.symlink_to(picture.resolve())
                Image.fromarray(mask).save(arguments.out / "masks" / f"{again}.png")
                lists[part].append(again)
    for part, names in lists.items():
        (arguments.out / f"{part}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    (arguments.out / "classes.txt").write_text("background\nperson\n", encoding="utf-8")
    print(f"{arguments.out}: {len(lists['train'])} to train on, {len(lists['val'])} to validate on")


if __name__ == "__main__":
    main()
