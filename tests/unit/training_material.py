"""A small labelled folder and quick options for the tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segmentarium.training import TrainingOptions


def labelled_folder(
    root: Path, number: int = 8, size: tuple[int, int] = (48, 64), void: bool = False, void_border: bool = True
) -> Path:
    """Noise with a bright box; the box is class 1, with a border of 255, or none.  `void`: every label is 255."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            image = random.integers(0, 120, (*size, 3), dtype=np.uint8)
            mask = np.zeros(size, np.uint8)
            top, left = random.integers(2, 20, 2)
            image[top : top + 20, left : left + 30] += 120
            mask[top : top + 20, left : left + 30] = 1
            if void_border:
                mask[top, left : left + 30] = 255
            Image.fromarray(image).save(root / "images" / split / f"{index:02d}.png")
            Image.fromarray(np.full_like(mask, 255) if void else mask).save(root / "masks" / split / f"{index:02d}.png")
    (root / "classes.txt").write_text("background\nbox\n", encoding="utf-8")
    return root


def quick_options(root: Path, output: Path, **changes: Any) -> TrainingOptions:
    """Six steps of the smallest model on one thread of data."""
    values: dict[str, Any] = {
        "model": "pphumanseg",
        "data": "folder",
        "root": str(root),
        "output": str(output),
        "crop_size": (32, 32),
        "batch_size": 4,
        "max_steps": 6,
        "learning_rate": 0.01,
        "val_every": 3,
        "save_every": 3,
        "log_every": 2,
        "workers": 0,
        "accelerator": "cpu",
    }
    return TrainingOptions(**{**values, **changes})
