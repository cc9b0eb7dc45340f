"""Scores of the averaged weights on the validation split, during training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segmentarium.contracts import SegmentationModel
from segmentarium.layers.resize import resize
from segmentarium.metrics import ConfusionMatrix


@dataclass(frozen=True)
class Picture:
    """A validation image with what is true and what was predicted: tensors on the CPU."""

    name: str
    image: Tensor  # (C, H, W), normalised
    target: Tensor  # (H, W)
    prediction: Tensor  # (H, W)


class Interrupted(Exception):
    """Somebody asked to stop while the model was evaluated."""


@torch.inference_mode()
def predict_classes(model: SegmentationModel, images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) normalised -> (B, *size) classes, through the model's own `long_side`, as the predictor does it."""
    long_side = model.preprocessing.long_side
    if long_side is not None and max(images.shape[-2:]) != long_side:
        factor = long_side / max(images.shape[-2:])
        height, width = (max(1, round(length * factor)) for length in images.shape[-2:])
        images = torch.nn.functional.interpolate(
            images, size=(height, width), mode="bilinear", antialias=True, align_corners=False
        )
    images = images.contiguous(memory_format=torch.channels_last)
    logits = resize(model(images).float(), size)
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).long()
    return logits.argmax(1)


def confusion_of(
    model: SegmentationModel,
    batches: Iterable[list[dict[str, Any]]],
    num_labels: int,
    device: torch.device,
    *,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    stopped: Callable[[], bool] = lambda: False,
    pictures: int = 0,
) -> tuple[ConfusionMatrix, list[Picture]]:
    """Counts on `device`, of this process's part of the data, and the first few pictures.

    context   what the forward pass runs in (autocast); stopped is asked before each batch: Interrupted if it is true.
    """
    model.eval()
    confusion = ConfusionMatrix(num_labels, device=device)
    shown: list[Picture] = []
    for batch in batches:
        if stopped():
            raise Interrupted
        for samples in _same_size(batch):
            images = torch.stack([sample["image"] for sample in samples]).to(device, non_blocking=True)
            targets = torch.stack([sample["mask"] for sample in samples]).to(device, non_blocking=True)
            with context():
                predicted = predict_classes(model, images, (targets.shape[-2], targets.shape[-1]))
            confusion.update(predicted, targets)
            for sample, classes in zip(samples, predicted, strict=True):
                if len(shown) < pictures:
                    shown.append(Picture(sample["name"], sample["image"], sample["mask"], classes.cpu()))
    return confusion, shown


def _same_size(batch: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Neighbours of one size together."""
    groups: list[list[dict[str, Any]]] = []
    for sample in batch:
        if groups and groups[-1][0]["image"].shape == sample["image"].shape:
            groups[-1].append(sample)
        else:
            groups.append([sample])
    return groups


def scores(confusion: ConfusionMatrix) -> dict[str, Any]:
    """mIoU, mAcc, aAcc in 0..1 and the IoU of each class (None: neither labelled nor predicted)."""
    found = confusion.summary()
    iou = [None if value != value else value for value in confusion.iou().tolist()]
    return {"miou": found["miou"], "macc": found["macc"], "aacc": found["aacc"], "iou": iou}


def save_pictures(model: SegmentationModel, pictures: list[Picture], path: Path) -> None:
    """A PNG with a row for each picture: image, target, prediction; ignored pixels are black."""
    from PIL import Image

    palette = np.zeros((256, 3), np.uint8)
    palette[: len(model.palette)] = np.array(model.palette, np.uint8)
    mean = torch.tensor(model.preprocessing.mean).view(-1, 1, 1)
    std = torch.tensor(model.preprocessing.std).view(-1, 1, 1)
    rows = []
    for picture in pictures:
        pixels = ((picture.image * std + mean).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
        pixels = np.broadcast_to(pixels[..., :1], (*pixels.shape[:2], 3)) if pixels.shape[2] != 3 else pixels
        rows.append(np.concatenate([pixels, palette[picture.target.numpy()], palette[picture.prediction.numpy()]], 1))
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)
