"""Small data sets written to a temporary folder, for the tests of readers and doctor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 12, 16


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_mask(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def stripes(*values: int, size: tuple[int, int] = (HEIGHT, WIDTH), dtype: type = np.uint8) -> np.ndarray:
    """A mask of vertical stripes, one a value."""
    columns = np.array(values)[np.arange(size[1]) * len(values) // size[1]]
    return np.tile(columns, (size[0], 1)).astype(dtype)


def write_folder(root: Path, names: list[str], *values: int, classes: str | None = "background\nperson\n") -> Path:
    """A plain folder: images/, masks/ with stripes of the values, classes.txt."""
    for seed, name in enumerate(names):
        write_image(root / "images" / f"{name}.png", seed)
        write_mask(root / "masks" / f"{name}.png", stripes(*values))
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return root
