"""`ImageClassifier`: which class a picture belongs to, and how sure the model is of it."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from segmentarium.contracts import Classifier, InstanceModel, MaskModel, Model, SegmentationModel
from segmentarium.files import atomic_write, check_targets, write_json
from segmentarium.inference.network import Network, with_channels
from segmentarium.inference.predictor import ModelSource, class_probabilities, resolve_model
from segmentarium.media import sources
from segmentarium.media.showing import Shown
from segmentarium.media.sources import displayed

SIZE = 224  # of the square that a classifier sees, where neither it nor the user says otherwise


@dataclass(repr=False)
class Classification(Shown):
    """One picture and the classes that the model sees in it.

    classes        names, the most probable first
    probabilities  float32 (K,), theirs, in that order; they sum to 1
    image          (H, W, 3) uint8 RGB
    facts          model, engine, size, crop_ratio, seconds: they go into the JSON
    """

    classes: tuple[str, ...]
    probabilities: np.ndarray
    image: np.ndarray
    name: str = "image"
    path: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def told(self) -> str:
        best = ", ".join(f"{name} {share:.0%}" for name, share in self.top(3))
        return f"{self.name!r}: {best}"

    @property
    def picture(self) -> Image.Image:
        """The picture that was classified."""
        return Image.fromarray(self.image)

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """(class, probability) of the `count` most probable classes."""
        if count < 1:
            raise ValueError(f"top is {count}; give how many classes to tell, 1 or more")
        return list(zip(self.classes[:count], self.probabilities[:count].tolist(), strict=True))

    def as_dict(self, top: int | None = None) -> dict[str, Any]:
        """What the JSON file holds; `top`: only so many classes."""
        height, width = self.image.shape[:2]
        return {
            "name": self.name,
            "source": str(self.path) if self.path else None,
            "width": width,
            "height": height,
            "classes": [{"name": name, "probability": value} for name, value in self.top(top or len(self.classes))],
            **self.facts,
        }

    def save(
        self, folder: str | Path, *, top: int | None = None, name: str | None = None, overwrite: bool = False
    ) -> list[Path]:
        """Writes NAME.json into `folder`, whole or not at all.  FileExistsError where it is there, unless `overwrite`."""
        path = Path(folder) / f"{name or self.name}.json"
        check_targets([path], [self.path], overwrite=overwrite)
        write_json(path, self.as_dict(top))
        return [path]


def write_csv(results: Iterable[Classification], path: str | Path, *, top: int = 5, overwrite: bool = False) -> int:
    """One line a picture: name, source, then class and probability of the `top` most probable.  Returns how many there were.

    No picture is kept.  Nothing is written where there is none; FileExistsError where the file is there, unless `overwrite`.
    """
    path = Path(path)
    check_targets([path], overwrite=overwrite)
    lines: list[list[Any]] = [
        [result.name, result.path or "", *(cell for name, value in result.top(top) for cell in (name, f"{value:.6f}"))]
        for result in results
    ]
    if lines:
        places = range(1, (max(map(len, lines)) - 2) // 2 + 1)
        head = ["name", "source", *(word for n in places for word in (f"class_{n}", f"probability_{n}"))]
        with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([head, *lines])
    return len(lines)


def seen_square(
    model: Classifier, size: int | None = None, crop_ratio: float | None = None
) -> tuple[int, float | None]:
    """(side, share of the picture's shorter side) of what a classifier sees: as asked for, else as the model says.

    Raises ValueError for a size below 1, and for one that the model does not take.
    """
    if size is not None and size < 1:
        raise ValueError(f"size is {size}; give the side in pixels, 1 or more")
    said = model.preprocessing
    if model.fixed_size is not None:
        if model.fixed_size != (size or model.fixed_size[0],) * 2:
            taken = "×".join(map(str, model.fixed_size))
            raise ValueError(
                f"size is {size}, but {model.title} takes {taken} only"
                + ("; leave size out" if len(set(model.fixed_size)) == 1 else ", which is no square: build it for one")
            )
        size = model.fixed_size[0]
    return size or said.crop_size or SIZE, said.crop_ratio if crop_ratio is None else crop_ratio


class ImageClassifier:
    """Tells the class of a picture with one model.

        classifier = ImageClassifier("resnet18.safetensors")
        classifier(picture).top(5)

    model       a name of the catalogue, a file, a folder, "hf:OWNER/NAME", or a Classifier
    engine      "torch", "compile", "onnxruntime", "openvino", or "auto": the fastest that is installed and gives the first
                picture the class that eager PyTorch gives it
    precision   "fp32" or "bf16"; with "auto" the engine decides
    size        side of the square that the model sees, in pixels; None: as its file says, else 224
    crop_ratio  the share of the picture's shorter side that the square shows; None: as the file says, else the usual 0.875

    Raises TypeError for a model that is no classifier.
    """

    def __init__(
        self,
        model: ModelSource,
        *,
        engine: str = "torch",
        precision: str = "fp32",
        device: torch.device | str | None = None,
        size: int | None = None,
        crop_ratio: float | None = None,
    ) -> None:
        from segmentarium.data.classification import middle_crop  # imports torchvision, which segmenters do without

        found = resolve_model(model)
        self.model_name = str(model) if isinstance(model, str | PathLike) else found.title
        self.model = as_classifier(found, self.model_name)
        self.classes = self.model.classes
        self.size, self.crop_ratio = seen_square(self.model, size, crop_ratio)
        self.network = Network(self.model, engine, precision, device)
        self._crop = middle_crop(self.size, self.crop_ratio)

    def __call__(self, image: Any, *, name: str = "image", path: Any = None) -> Classification:
        """The classes of one picture: PIL image, (H, W), (H, W, 3 or 4) array, or (C, H, W) tensor; path: read it."""
        if isinstance(image, str | PathLike):
            image, name, path = sources.read_one(image, self.model.preprocessing.bits)
        started = time.perf_counter()
        array = sources.to_array(image, self.model.preprocessing.bits)
        pixels = with_channels(torch.from_numpy(np.array(array)).permute(2, 0, 1)[None], self.model.in_channels)
        found = class_probabilities(self.network(self._crop(pixels)))[0].cpu().numpy()
        order = np.argsort(-found, kind="stable")
        classes = tuple(self.classes[i] for i in order)
        facts = self.facts(time.perf_counter() - started)
        return Classification(classes, found[order], displayed(array), name, path, facts)

    def facts(self, seconds: float) -> dict[str, Any]:
        """What the JSON says of how a picture was classified."""
        return {
            "model": self.model_name,
            "engine": str(self.network.engine),
            "size": self.size,
            "crop_ratio": self.crop_ratio,
            "seconds": round(seconds, 4),
        }


def as_classifier(model: Model, name: str) -> Classifier:
    """The model itself.  TypeError where it is none that classifies pictures."""
    if isinstance(model, Classifier):
        return model
    other = ": use `segmentarium segment` (in Python Predictor, or predict)"
    raise TypeError(
        f"{name} is a {model.kind}: it gives no class for the whole picture, so it cannot classify"
        + (other if isinstance(model, SegmentationModel | MaskModel | InstanceModel) else "")
    )
