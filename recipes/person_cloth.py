"""Portraits with cloth behind them, drawn: what hangs beside an arm is background, be it as red as the sleeve.

    python recipes/person_cloth.py --data runs/person_grown_data --out runs/person_close_data

DATA is what `person_bodies_data.py --portraits 2 --scenes 2` made.  OUT gets its pictures, once each and the portraits twice, and
500 of the portraits once more with a striped cloth behind them: one side of the picture, folded, lit, out of focus.
"""

import argparse
import shutil
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

MADE = 500


def smooth(rng: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """(H, W) of a slow noise."""
    return cv2.resize(rng.standard_normal((cells, cells)).astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)


def cloth(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3), 0..255: stripes of one to three colours, half of them red and white, some with a field of dark blue."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    width = size[1]
    angle = rng.uniform(-0.9, 0.9) + (np.pi / 2 if rng.random() < 0.3 else 0)
    along = x * np.cos(angle) + y * np.sin(angle) + smooth(rng, size, 4) * width * rng.uniform(0.01, 0.06)
    if rng.random() < 0.5:
        colours = [(rng.uniform(110, 200), rng.uniform(0, 50), rng.uniform(10, 60)), (225, 220, 218)]
    else:
        colours = [tuple(rng.uniform(0, 255, 3)) for _ in range(rng.integers(1, 4))]
    stripe = np.floor(along / (width * rng.uniform(0.04, 0.16))).astype(int) % len(colours)
    drawn = np.array(colours, np.float32)[stripe]
    if rng.random() < 0.3:
        drawn[y < size[0] * rng.uniform(0.2, 0.6)] = (rng.uniform(0, 60), rng.uniform(0, 60), rng.uniform(60, 150))
    across = x * np.cos(angle + 1.2) + y * np.sin(angle + 1.2) + smooth(rng, size, 3) * width * 0.05
    folds = np.sin(across / (width * rng.uniform(0.02, 0.08)))
    light = 1 + rng.uniform(0.05, 0.3) * folds + 0.15 * smooth(rng, size, 3)
    return np.clip(drawn * light[..., None] * rng.uniform(0.5, 1.05), 0, 255).astype(np.float32)


def behind(rng: np.random.Generator, picture: np.ndarray, person: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) uint8 with cloth on one side of it, behind the person (H, W) bool."""
    height, width = size = (person.shape[0], person.shape[1])
    slant = np.linspace(rng.uniform(-0.3, 0.3), 0, height)[:, None] * width
    edge = rng.uniform(0.1, 0.4) * width + smooth(rng, size, 3)[:, :1] * width * 0.04 + slant
    region = (np.arange(width) < edge).astype(np.float32)
    if rng.random() < 0.4:
        region[: int(height * rng.uniform(0.1, 0.6))] = 0
    if rng.random() < 0.5:
        region = np.ascontiguousarray(region[:, ::-1])
    region = cv2.GaussianBlur(region, (0, 0), rng.uniform(0.3, 2.5))
    hung = cv2.GaussianBlur(cloth(rng, size), (0, 0), rng.uniform(0.4, 2.0))
    hung += rng.standard_normal(picture.shape) * rng.uniform(0, 4)
    share = (region * (1 - cv2.GaussianBlur(person.astype(np.float32), (0, 0), 1.0)))[..., None]
    return np.clip(picture * (1 - share) + hung * share, 0, 255).astype(np.uint8)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    data, out = options.data, options.out
    names = (data / "train.txt").read_text("utf-8").split()
    kept = [name for name in names if name.startswith("eg_") or not name.endswith("_2")]
    for part in ("images", "masks"):
        shutil.copytree(data / part, out / part, dirs_exist_ok=True)
    for file in ("classes.txt", "val.txt"):
        shutil.copy2(data / file, out / file)
    rng = np.random.default_rng(0)
    portraits = [name for name in kept if name.startswith("eg_") and not name.endswith("_2")]
    rng.shuffle(portraits)
    for name in portraits[:MADE]:
        picture = np.asarray(Image.open(next(data.glob(f"images/{name}.*"))).convert("RGB"))
        person = np.asarray(Image.open(data / "masks" / f"{name}.png")) == 1
        Image.fromarray(behind(rng, picture, person)).save(out / "images" / f"cloth_{name}.webp", quality=92)
        shutil.copy2(data / "masks" / f"{name}.png", out / "masks" / f"cloth_{name}.png")
        kept.append(f"cloth_{name}")
    (out / "train.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")
    print(f"{out}: {len(kept)} pictures to train on, {min(MADE, len(portraits))} of them with cloth")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
