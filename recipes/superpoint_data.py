"""The pictures that superpoint_small's weights are made from: only such as everybody may use, so that the weights are free.

    python recipes/superpoint_data.py --root DIR --out runs/superpoint_data

coco_instances, coco_panoptic   of COCO's photographs those that their entry says are under CC BY, the United States' government's
                                or without known copyright (licences 4, 8 and 7); those for non-commercial use, without
                                derivatives, or to be shared alike are left out
scikit-image                    photographs that it brings, dedicated to the public or in the public domain
drawn                           scenes of shapes on noise of all scales, with words: corners as sharp as in print

DIR holds the two COCO sets as folders; what is absent is left out, with a line.  Photographs come twice, whole and at half the
size.  A fifth, by a hash of the names, is val/.  sources.csv names each photograph's address and licence: whoever passes on the
pictures names their authors.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segmentarium.data.homographies import sample_homography
from segmentarium.data.shapes import KINDS, draw
from segmentarium.data.splits import hash_split

FREE = {4: "CC BY 2.0", 7: "no known copyright restrictions", 8: "United States government work"}
SKIMAGE = (
    "astronaut",
    "brick",
    "grass",
    "gravel",
    "camera",
    "cat",
    "coffee",
    "hubble_deep_field",
    "rocket",
    "coins",
    "text",
)
SCENES = 200

Found = Iterator[tuple[str, Image.Image, str, str]]  # name, picture, address, licence


def coco(folder: Path) -> Found:
    """Photographs of a COCO set, each once."""
    seen = set()
    for path in sorted(folder.glob("annotations/*2017.json")):
        content = json.loads(path.read_text("utf-8"))
        part = next((p for p in ("train2017", "val2017") if p in path.name), "")
        for entry in content["images"]:
            name, licence = Path(entry["file_name"]).stem, entry.get("license")
            if licence not in FREE or name in seen:
                continue
            file = next(folder.glob(f"{part}/{name}.*"), None)
            if file is not None:
                seen.add(name)
                yield f"coco_{name}", Image.open(file), entry.get("flickr_url", ""), FREE[licence]


def skimage() -> Found:
    try:
        from skimage import data
    except ModuleNotFoundError:
        print("scikit-image is not installed: its photographs are left out")
        return
    for name in SKIMAGE:
        yield f"skimage_{name}", Image.fromarray(getattr(data, name)()), "scikit-image", "CC0 or public domain"


def drawn(number: int, size: tuple[int, int] = (480, 640)) -> Found:
    """Scenes: noise of all scales, shapes in any place and pose, and words."""
    height, width = size
    kinds = [kind for kind in KINDS if kind != "noise"]
    for index in range(number):
        rng = np.random.default_rng((7, index))
        scene = np.full(size, rng.uniform(60, 200), np.float32)
        for cells in 2 ** np.arange(2, 9):
            noise = rng.standard_normal((max(2, height * cells // width), cells)).astype(np.float32)
            scene += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(rng.uniform(0, 18))
        canvas = scene.clip(0, 255).astype(np.uint8)
        for _ in range(int(rng.integers(8, 20))):
            side = int(rng.integers(60, 240))
            shape, _ = draw(rng, str(rng.choice(kinds)), (side, int(side * rng.uniform(1, 1.6))))
            place = sample_homography(rng, (shape.shape[0], shape.shape[1]), max_angle=np.pi)
            place = (
                np.array([[1, 0, rng.uniform(0, width - side)], [0, 1, rng.uniform(0, height - side)], [0, 0, 1]])
                @ place
            )
            here = cv2.warpPerspective(np.ones_like(shape), place, (width, height)) > 0
            canvas[here] = cv2.warpPerspective(shape, place, (width, height))[here]
        for _ in range(int(rng.integers(2, 10))):
            word = "".join(chr(int(c)) for c in rng.integers(48, 122, int(rng.integers(2, 9))))
            place = (int(rng.integers(0, width - 80)), int(rng.integers(30, height)))
            scale, thick = rng.uniform(0.5, 2.5), int(rng.integers(1, 4))
            cv2.putText(canvas, word, place, int(rng.integers(0, 8)), scale, int(rng.integers(256)), thick, cv2.LINE_AA)
        yield f"drawn_{index:03d}", Image.fromarray(canvas), "drawn by this program", "CC0"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of coco_instances and coco_panoptic")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=SCENES, help=f"drawn ones (default: {SCENES})")
    given = parser.parse_args()
    sources: dict[str, tuple[str, str]] = {}

    def keep(found: Found, sizes: tuple[int, ...]) -> None:
        for name, picture, address, licence in found:
            if name in sources:
                continue
            sources[name] = address, licence
            part = "val" if hash_split(name, 0.2, 0.0) == "val" else "train"
            grey = np.array(picture.convert("L"))
            for long_side in sizes:
                factor = min(1.0, long_side / max(grey.shape))
                size = (round(grey.shape[1] * factor), round(grey.shape[0] * factor))
                path = given.out / part / f"{name}_{long_side}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), cv2.resize(grey, size, interpolation=cv2.INTER_AREA))

    for name in ("coco_panoptic", "coco_instances"):  # the larger pictures of those that are in both
        if (given.root / name).is_dir():
            keep(coco(given.root / name), (640, 320))
        else:
            print(f"{given.root / name} is not there: left out")
    keep(skimage(), (640, 320))
    keep(drawn(given.scenes), (640,))
    with (given.out / "sources.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("name", "address", "licence"))
        writer.writerows((name, *facts) for name, facts in sorted(sources.items()))
    print(f"{len(sources)} pictures, in one size or two, in {given.out}")


if __name__ == "__main__":
    main()
