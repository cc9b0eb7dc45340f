"""Adds to the person's pictures some in which a thing is held, or stands behind: for `person_held.py`.

    python recipes/person_held_data.py --data runs/person_data --out runs/person_held_data

Neither data set says that a helmet under an arm goes with its person, and the network cut such things into pieces.  Here
made-up things (blobs, discs and boxes, plain and shining or with the texture of another picture) are laid over a portrait's
lower part, where they count as person, or in the background, partly hidden by the person, where they do not: who holds a thing
is in front of nothing of it.  The folder holds all pictures of `--data` too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from person_data import link
from PIL import Image, ImageDraw, ImageFilter

BEHIND = 0.35  # share of the things that stand in the background
LEAST_OVERLAP = 0.25  # of a held thing with its person
SIDE = 480  # longer side of the pictures that are made


def outline(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """(height, width) "L": a disc, a rounded box, or a blob."""
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    kind = rng.choice(["disc", "box", "blob"])
    if kind == "disc":
        draw.ellipse((0, 0, width - 1, height - 1), fill=255)
    elif kind == "box":
        draw.rounded_rectangle(
            (0, 0, width - 1, height - 1), radius=int(rng.uniform(0.05, 0.4) * min(width, height)), fill=255
        )
    else:
        angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        radius = 0.75 + sum(rng.uniform(0, 0.12) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 5))
        radius = radius / radius.max() / 2
        points = zip(width * (0.5 + radius * np.cos(angle)), height * (0.5 + radius * np.sin(angle)), strict=True)
        draw.polygon([(float(x), float(y)) for x, y in points], fill=255)
    turned = mask.rotate(float(rng.uniform(-40, 40)), expand=True)
    return turned.filter(ImageFilter.GaussianBlur(0.8))


def surface(rng: np.random.Generator, texture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) float: a piece of another picture, more or less plain, with light from one side and perhaps a shine."""
    width, height = size
    factor = rng.uniform(0.5, 1.5)
    cut_width, cut_height = (min(t, max(8, int(s * factor))) for t, s in zip(texture.size, size, strict=True))
    left, top = (int(rng.integers(0, t - c + 1)) for t, c in zip(texture.size, (cut_width, cut_height), strict=True))
    piece = np.asarray(texture.crop((left, top, left + cut_width, top + cut_height)).resize(size), np.float32)
    plain = rng.choice([piece.mean((0, 1)), rng.uniform(0, 255, 3), np.full(3, rng.choice([12.0, 30.0, 235.0]))])
    pixels = plain + rng.choice([0.1, 0.3, 1.0]) * (piece - piece.mean((0, 1)))
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    pixels = pixels * (1 + rng.uniform(0, 0.5) * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)))[..., None]
    for _ in range(int(rng.integers(0, 3))):
        distance = ((x - rng.uniform(0.2, 0.8)) ** 2 + (y - rng.uniform(0.1, 0.6)) ** 2) / rng.uniform(0.02, 0.12) ** 2
        pixels = pixels + rng.uniform(60, 220) * np.exp(-(distance**2))[..., None]
    return pixels.clip(0, 255)


def with_thing(
    rng: np.random.Generator, image: Image.Image, mask: np.ndarray, texture: Image.Image
) -> tuple[Image.Image, np.ndarray] | None:
    """The picture with a thing, and its new mask; None where the thing found no place.

    mask  (H, W) uint8 of the picture, 1 where the person is
    """
    rows, columns = np.nonzero(mask == 1)
    if len(rows) < 0.05 * mask.size:
        return None
    height, width = mask.shape
    top, bottom = int(rows.min()), int(rows.max())
    behind = rng.random() < BEHIND
    for _ in range(20):
        shape = outline(rng, *(int(rng.uniform(0.15, 0.6) * width) for _ in range(2)))
        if behind:
            y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
        else:  # about the edge of the lower half
            y = int(rng.integers(round(top + 0.55 * (bottom - top)), bottom + 1))
            across = columns[rows == y]
            if not len(across):
                continue
            x = int(rng.choice([across.min(), across.max(), rng.integers(across.min(), across.max() + 1)]))
        placed = Image.new("L", (width, height))
        placed.paste(shape, (x - shape.width // 2, y - shape.height // 2))
        alpha = np.asarray(placed, np.float32) / 255
        solid = alpha > 0.5
        if not solid.any():
            continue
        overlap = float((mask[solid] == 1).mean())
        if behind and 0.05 < overlap < 0.7:
            alpha = alpha * (mask == 0)
            new = mask
        elif not behind and overlap > LEAST_OVERLAP and not solid[: round(top + 0.4 * (bottom - top))].any():
            new = np.where(solid, np.uint8(1), mask)
        else:
            continue
        pixels = np.zeros((height, width, 3), np.float32)
        box = placed.getbbox()
        assert box is not None
        pixels[box[1] : box[3], box[0] : box[2]] = surface(rng, texture, (box[2] - box[0], box[3] - box[1]))
        mixed = np.asarray(image, np.float32) * (1 - alpha[..., None]) + pixels * alpha[..., None]
        return Image.fromarray(mixed.round().astype(np.uint8)), new
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/person_data"))
    parser.add_argument("--out", type=Path, default=Path("runs/person_held_data"))
    parser.add_argument("--count", type=int, default=1000)
    arguments = parser.parse_args()
    for folder in ("images", "masks"):
        (arguments.out / folder).mkdir(parents=True, exist_ok=True)
        for file in sorted((arguments.data / folder).iterdir()):
            link(file, arguments.out / folder / file.name)
    for name in ("val.txt", "classes.txt"):
        (arguments.out / name).write_text((arguments.data / name).read_text())
    names = (arguments.data / "train.txt").read_text().split()
    files = {file.stem: file for file in (arguments.data / "images").iterdir()}
    portraits = [name for name in names if not name.startswith("coco_")]
    rng = np.random.default_rng(0)
    made = []
    for number in range(arguments.count):
        name, other = rng.choice(portraits), rng.choice(names)
        image = Image.open(files[name]).convert("RGB")
        mask = Image.open(arguments.data / "masks" / f"{name}.png")
        image.thumbnail((SIDE, SIDE))
        pixels = np.asarray(mask.resize(image.size, Image.Resampling.NEAREST), np.uint8)
        found = with_thing(rng, image, pixels, Image.open(files[other]).convert("RGB"))
        if found is not None:
            made.append(f"held_{number:04d}")
            found[0].save(arguments.out / "images" / f"{made[-1]}.webp", quality=92)
            Image.fromarray(found[1]).save(arguments.out / "masks" / f"{made[-1]}.png")
    (arguments.out / "train.txt").write_text("\n".join([*names, *made]) + "\n")
    print(f"{arguments.out}: {len(names)} pictures and {len(made)} with a thing")


if __name__ == "__main__":
    main()
