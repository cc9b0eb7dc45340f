"""What the filter over time does to clips: how often the network looks, how far the mask strays, and how much it flickers.

    python -m benchmarks.steady [--frames 45] [PHOTO]

Scenes of 30 frames a second with sensor noise: the person of PHOTO (default: the astronaut of docs/images) stands still, sways,
turns and jumps, or something crosses the picture.  The mask of the network alone is compared with the filtered one, where the
network sees every frame, and where it rests while motion explains the frames.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.clip import PHOTO
from segmentarium.benchmarking.machine import describe, machine_facts
from segmentarium.matting.exported import ExportedPredictor
from segmentarium.matting.temporal import TemporalFilter
from segmentarium.metrics import Flicker

WIDTH, HEIGHT, RATE = 1280, 720, 30
NOISE = 3.0  # standard deviation of a value in 0..255
SCENES = ("still", "sways", "turns", "crossed")


def frame(photo: Image.Image, scene: str, number: int, rng: np.random.Generator) -> Image.Image:
    seconds, turn = number / RATE, 2 * np.pi * number / RATE
    shift, angle, zoom = 0.0, 0.0, 1.0
    if scene == "sways":
        shift = 60 * np.sin(number / 20)
    elif scene == "turns":
        shift, angle, zoom = 250 * np.sin(turn), 6 * np.sin(0.8 * turn), 1 + 0.1 * np.sin(turn)
    elif scene == "crossed":
        shift, angle = 20 * np.sin(number / 10), 2 * np.sin(number / 7)
    wall = np.linspace(60, 160, WIDTH).astype(np.uint8)[None, :, None]
    picture = Image.fromarray(np.tile(wall, (HEIGHT, 1, 3)))
    side = round(HEIGHT * zoom)
    person = photo.rotate(angle, Image.Resampling.BICUBIC, fillcolor=(120, 120, 120)).resize((side, side))
    picture.paste(person, (round((WIDTH - side) / 2 + shift), (HEIGHT - side) // 2))
    if scene == "crossed":
        x = 200 + 900 * (0.9 * seconds % 1)
        ImageDraw.Draw(picture).ellipse((x - 70, 250, x + 70, 430), fill=(205, 150, 120))
    noisy = np.asarray(picture) + rng.normal(0, NOISE, (HEIGHT, WIDTH, 1))
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    first, second = one > 0.5, other > 0.5
    return float((first & second).sum() / max(1, (first | second).sum()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", type=Path, default=PHOTO)
    parser.add_argument("--frames", type=int, default=45)
    options = parser.parse_args()
    photo = Image.open(options.photo).convert("RGB").resize((HEIGHT, HEIGHT))
    print(describe(machine_facts()))
    predictor = ExportedPredictor("person")
    height, width = predictor.model_size((HEIGHT, WIDTH))
    print(
        "| scene | looks | IoU with the network's own mask | flicker: alone, every frame, rested |\n|---|---|---|---|"
    )
    for scene in SCENES:
        rng = np.random.default_rng(0)
        looks, agreement = [0, 0], [0.0, 0.0]
        filters = (TemporalFilter(rest=0), TemporalFilter())
        flicker = [Flicker() for _ in range(3)]
        for number in range(options.frames):
            seen = np.asarray(frame(photo, scene, number, rng).resize((width, height), Image.Resampling.BILINEAR))
            grey = seen.mean(2).astype(np.uint8)
            own = predictor.probability(seen)
            masks = [own]
            for index, steady in enumerate(filters):
                masks.append(steady(counted(looks, index, own), grey, number / RATE))
                agreement[index] += overlap(masks[-1], own) / options.frames
            for measure, mask in zip(flicker, masks, strict=True):
                measure.update(mask, seen)
        agreed = f"every frame {100 * agreement[0]:.2f}, rested {100 * agreement[1]:.2f}"
        flickers = ", ".join(f"{measure.compute():.4f}" for measure in flicker)
        print(f"| {scene} | {looks[1]} of {options.frames} | {agreed} | {flickers} |", flush=True)
    return 0


def counted(looks: list[int], index: int, mask: np.ndarray) -> Callable[[], np.ndarray]:
    def look() -> np.ndarray:
        looks[index] += 1
        return mask

    return look


if __name__ == "__main__":
    raise SystemExit(main())
