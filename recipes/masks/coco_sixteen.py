"""Sixteen pictures of COCO learnt by heart: Mask2Former on a half-width ResNet-18, trained and scored on the same pictures.

    python recipes/masks/coco_sixteen.py --root DIR/coco_panoptic
    segmentarium train --recipe recipes/masks/coco_sixteen.py
    segmentarium evaluate --model runs/coco_sixteen/last.safetensors --data coco_panoptic --root runs/coco_sixteen_data \\
        --split train --task panoptic            # and --task instance, --task semantic

A proof that network, objective, matching and the three readings of masks fit together (PQ of 0.9 and more), not a model: of other
pictures it knows nothing.  Run as a program it writes the data: of the pictures of 640×480 the sixteen whose smallest segment is
largest, so that an outline of an eighth of a picture's side can be right; the crop is the whole picture, and nothing is changed.
"""

import argparse
import json
import shutil
from pathlib import Path

from segmentarium.training import TrainingOptions

DATA = Path("runs/coco_sixteen_data")
NUMBER, SIZE = 16, (640, 480)


def recipe() -> TrainingOptions:
    return TrainingOptions(
        model="mask2former_resnet50",
        model_arguments={
            "backbone": "resnet18",
            "backbone_arguments": {"width": 32},
            "width": 128,
            "mask_channels": 128,
            "queries": 40,
            "layers": 3,
            "encoder_layers": 2,
            "hidden": 512,
            "encoder_hidden": 256,
            "drawn": 3136,
            "oversample": 2.0,
        },
        backbone_weights="street_small",
        data="coco_panoptic",
        root=str(DATA),
        val_split="train",
        task="panoptic",
        output="runs/coco_sixteen",
        cache=True,
        long_side=384,
        crop_size=(288, 384),
        scale=(1.0, 1.0),
        flip=False,
        photometric=False,
        batch_size=4,
        optimizer="adamw",
        learning_rate=5e-4,
        backbone_lr_factor=1.0,
        weight_decay=0.01,
        warmup_steps=50,
        clip_norm=1.0,
        ema=0.99,
        max_steps=1600,
        val_every=400,
        save_every=100,
        workers=1,
    )


def write_data(root: Path) -> None:
    """The sixteen pictures, as a data set of COCO's form."""
    source = root / "annotations" / "panoptic_train2017.json"
    content = json.loads(source.read_text(encoding="utf-8"))
    images = {one["id"]: one for one in content["images"] if (one["width"], one["height"]) == SIZE}
    labelled = [one for one in content["annotations"] if one["image_id"] in images]
    labelled.sort(key=lambda one: min(segment["area"] for segment in one["segments_info"]), reverse=True)
    chosen = sorted(labelled[:NUMBER], key=lambda one: one["image_id"])
    content["annotations"] = chosen
    content["images"] = [images[one["image_id"]] for one in chosen]
    maps = DATA / "annotations" / source.stem
    for folder in (maps, DATA / "train2017"):
        folder.mkdir(parents=True, exist_ok=True)
    for one in chosen:
        shutil.copy(source.with_suffix("") / one["file_name"], maps / one["file_name"])
        name = images[one["image_id"]]["file_name"]
        shutil.copy(root / "train2017" / name, DATA / "train2017" / name)
    (DATA / "annotations" / source.name).write_text(json.dumps(content), encoding="utf-8")
    print(f"{DATA}: {len(chosen)} pictures, {sum(len(one['segments_info']) for one in chosen)} segments")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True, help="the folder of coco_panoptic")
    write_data(parser.parse_args().root)
