"""About 1,700 real pictures in one folder, for pretraining that fits a processor.

    python recipes/pretraining/pictures.py --data DIR --out runs/pictures

DIR holds `camvid` (its training pictures; one in five of val), `portrait` (EG1800's training photographs) and parts of COCO
(`coco_panoptic`, `coco_instances`).  Each is shrunk to a shorter side of 128 pixels, so that reading them costs next to nothing.

The portraits are of private persons and may not be shown: they are trained on alone, so that no validation picture, and no sheet
that a run draws, has one.  CamVid's test pictures are left out everywhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

SIDE = 128


def add(files: list[Path], out: Path, prefix: str) -> int:
    """Writes shrunken copies; one that is there stays."""
    out.mkdir(parents=True, exist_ok=True)
    for file in files:
        target = out / f"{prefix}_{file.stem}.webp"
        if target.exists():
            continue
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
        factor = SIDE / min(picture.size)
        size = (round(picture.width * factor), round(picture.height * factor))
        shrunk = picture.resize(size, Image.Resampling.LANCZOS) if factor < 1 else picture
        part = target.with_suffix(".part")
        shrunk.save(part, "WEBP", quality=95)
        part.replace(target)
    return len(files)


def listed(root: Path, split: str) -> list[Path]:
    """The pictures that a list of a split names."""
    return [root / "images" / f"{name}.webp" for name in (root / f"{split}.txt").read_text("utf-8").split()]


def below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix in (".jpg", ".webp", ".png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/pictures"))
    given = parser.parse_args()
    data, out = given.data, given.out
    train = add(listed(data / "camvid", "train"), out / "train", "camvid")
    train += add(listed(data / "portrait", "train"), out / "train", "portrait")
    val = add(listed(data / "camvid", "val")[::5], out / "val", "camvid")
    for name in ("coco_panoptic", "coco_instances"):
        train += add(below(data / name / "train2017"), out / "train", "coco")
        val += add(below(data / name / "val2017"), out / "val", "coco")
    print(f"{train} pictures in {out / 'train'}, {val} in {out / 'val'}")


if __name__ == "__main__":
    main()
