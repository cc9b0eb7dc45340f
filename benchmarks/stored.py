"""Features of one trunk, computed once and mapped from disk, and decoders that are trained and scored on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from segmentarium import create_model
from segmentarium.benchmarking import alternate
from segmentarium.contracts import Backbone, SegmentationModel
from segmentarium.data import SegmentationDataset
from segmentarium.layers.resize import labels_at, resize
from segmentarium.losses import class_weights
from segmentarium.metrics import BoundaryIoU, ConfusionMatrix
from segmentarium.training import TrainingOptions
from segmentarium.training.loaders import TimedLoader, endless
from segmentarium.training.loop import Training

EDGE = 0.005  # of the diagonal: how near to an outline boundary IoU looks, 3 pixels at 480×360
LABELS = 2  # labels are trained on at half size: the loss of whole maps would cost more than most heads
WEIGHT_OFFSET = 1.1  # classes weigh 1 / ln(1.1 + share), as in recipes/camvid


class Given(Backbone):
    """Stands where the trunk stood: what it is given for an image are the image's features already.

    An image itself, which `deploy()` shows, becomes features of its size, all zero.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.describe(channels, strides, range(len(channels)))

    def forward(self, image: Tensor | list[Tensor]) -> list[Tensor]:
        if not isinstance(image, Tensor):
            return image
        height, width = image.shape[-2:]
        return [
            image.new_zeros(len(image), channels, -(-height // stride), -(-width // stride))
            for channels, stride in zip(self.channels, self.strides, strict=True)
        ]


class Store(Dataset[dict[str, Any]]):
    """Features and labels of a split's pictures, in a folder: float16 (N, h, w, C) a level, uint8 (N, H, W).

    Asked by keys (counter, index) of the endless sampler, it gives a sample for training.
    """

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / "facts.json").read_text("utf-8"))
        self.channels, self.strides, self.classes = facts["channels"], facts["strides"], facts["classes"]
        self.levels = [np.load(folder / f"level{i}.npy", mmap_mode="r") for i in range(len(self.channels))]
        self.masks = np.load(folder / "masks.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        _, index = key
        mask = self.mask(index)
        size = (mask.shape[1] // LABELS, mask.shape[2] // LABELS)
        return {"image": self.features(index), "mask": labels_at(mask, size)[0].long(), "name": str(index)}

    def features(self, index: int) -> list[Tensor]:
        """[(C, h, w), …] float32, finest first"""
        return [torch.from_numpy(level[index].astype(np.float32)).permute(2, 0, 1) for level in self.levels]

    def mask(self, index: int) -> Tensor:
        """(1, H, W)"""
        return torch.from_numpy(self.masks[index].copy())[None]

    @cached_property
    def class_weights(self) -> Tensor:
        """(K,) by ENet's formula"""
        counts = sum(torch.bincount(self.mask(index).flatten(), minlength=256) for index in range(len(self)))
        return class_weights(counts[: len(self.classes)], "enet", offset=WEIGHT_OFFSET)  # type: ignore[index]

    @property
    def gigabytes(self) -> float:
        return sum(level.nbytes for level in self.levels) / 1e9


@torch.inference_mode()
def write_store(
    trunk: Any, data: SegmentationDataset, folder: Path, *, mirrored: bool, shrink: int = 1, limit: int | None = None
) -> Store:
    """The features of a network's backbone for each picture of a data set, all of one size; of the mirrored ones, too.

    shrink   sides of pictures and labels are divided by it, pixels by the mean and labels by the nearest

    The folder appears when it is whole; one that is there already is not made again.
    """
    if folder.is_dir():
        return Store(folder)
    building = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    views = (False, True) if mirrored else (False,)
    number = min(len(data), limit or len(data))
    arrays: list[np.ndarray] = []
    for index in range(number):
        picture, labels = (torch.from_numpy(np.array(x)) for x in data.load(index))
        whole = picture.permute(2, 0, 1)
        if shrink > 1:
            whole = F.avg_pool2d(whole.float(), shrink).round().to(whole.dtype)
            labels = labels_at(labels[None], whole.shape[-2:])[0]
        for turn, mirror in enumerate(views):
            pixels, mask = (x.flip(-1) if mirror else x for x in (whole, labels))
            image = trunk.preprocessing.normalise(pixels)[None].contiguous(memory_format=torch.channels_last)
            maps = [x[0].permute(1, 2, 0).half().numpy() for x in trunk.backbone(image)]
            maps.append(mask.numpy())
            if not arrays:
                names = [f"level{i}" for i in range(len(maps) - 1)] + ["masks"]
                arrays = [
                    np.lib.format.open_memmap(
                        building / f"{name}.npy", "w+", found.dtype, (number * len(views), *found.shape)
                    )
                    for name, found in zip(names, maps, strict=True)
                ]
            for array, found in zip(arrays, maps, strict=True):
                if found.shape != array.shape[1:]:
                    raise ValueError(
                        f"{data.name(index)} has maps of {found.shape}, those before {array.shape[1:]}; "
                        "the pictures of a store must have one size"
                    )
                array[index * len(views) + turn] = found
    for array in arrays:
        array.flush()  # type: ignore[attr-defined]
    facts = {
        "channels": trunk.backbone.channels,
        "strides": trunk.backbone.strides,
        "classes": data.info.classes,
    }
    (building / "facts.json").write_text(json.dumps(facts), "utf-8")
    building.rename(folder)
    return Store(folder)


class HeadTask:
    """What the loop of `segmentarium.training` asks: a decoder on given features, and batches of them.

    without   names of the objective's terms that are left out
    """

    def __init__(self, options: TrainingOptions, store: Store, without: Sequence[str] = ()) -> None:
        self.options, self.store, self.without = options, store, tuple(without)

    def model(self) -> SegmentationModel:
        model: Any = create_model(
            self.options.model,
            backbone=Given(self.store.channels, self.store.strides),
            num_classes=len(self.store.classes),
            auxiliary=False,  # on features that stand still it teaches nobody
            **self.options.model_arguments,
        )
        model.set_class_weights(self.store.class_weights)
        unknown = set(self.without) - {term.name for term in model.objective}
        if unknown:
            raise ValueError(f"{self.options.model} has no term {', '.join(unknown)} that could be left out")
        model.set_objective(*(term for term in model.objective if term.name not in self.without))
        return model.to(memory_format=torch.channels_last)

    def batches(self, model: Any, fabric: Any, micro_batch: int, step: int) -> TimedLoader:
        return endless(self.store, self.options, fabric, micro_batch, step)


def train_head(task: HeadTask) -> tuple[SegmentationModel, float]:
    """-> the averaged model, and the mean loss of the last tenth of the steps.  ValueError if it is not finite."""
    training = Training(task, task.options)  # type: ignore[arg-type]
    training.start()
    for _ in range(task.options.max_steps):
        training.advance()
    training.refresh()
    last = training.window[-max(1, task.options.max_steps // 10) :]
    return training.kept, float(torch.stack([losses["loss"] for losses in last]).mean())  # type: ignore[return-value]


@torch.inference_mode()
def score_head(model: SegmentationModel, store: Store) -> dict[str, Any]:
    """Of a deployed model, on whole pictures: "miou", "aacc", "boundary_iou" in 0..1, "iou" by class."""
    labels = len(store.classes)
    matrix, edges = ConfusionMatrix(labels), BoundaryIoU(labels, EDGE)
    for index in range(len(store)):
        target = store.mask(index)
        logits = model.logits([x[None] for x in store.features(index)])  # type: ignore[arg-type]
        found = resize(logits, target.shape[-2:], align_corners=model.align_corners).argmax(1)
        matrix.update(found, target)
        edges.update(found, target)
    scores: Any = matrix.summary()
    iou = [None if value != value else value for value in matrix.iou().tolist()]
    return {
        "miou": scores["miou"],
        "aacc": scores["aacc"],
        "boundary_iou": edges.summary()["boundary_iou"],
        "iou": iou,
    }


@torch.inference_mode()
def presence_auc(model: SegmentationModel, store: Store) -> float | None:
    """How well scores of whole pictures tell those with a class from those without: the area under the ROC curve, averaged over
    the classes that some pictures show and others do not.  None: the decoder gives no "presence", or there is no such class.
    """
    if not any("presence" in term.of for term in model.objective):
        return None
    scores, shown = [], []
    for index in range(len(store)):
        image = [x[None] for x in store.features(index)]
        scores.append(model.forward_train(image)["presence"][0])  # type: ignore[arg-type]
        shown.append(torch.bincount(store.mask(index).flatten(), minlength=256)[: len(store.classes)] > 0)
    areas = []
    for score, there in zip(torch.stack(scores).T, torch.stack(shown).T, strict=True):
        higher = score[there][:, None] - score[~there]
        if higher.numel():
            areas.append(((higher > 0).float() + 0.5 * (higher == 0).float()).mean())
    return float(torch.stack(areas).mean()) if areas else None


@torch.inference_mode()
def milliseconds(tasks: Mapping[str, HeadTask], rounds: int = 10) -> dict[str, float]:
    """Of the deployed heads' logits on one picture, in turns: the least of so many rounds, since other work only adds to it."""
    calls = {}
    for name, task in tasks.items():
        model: Any = task.model().deploy().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        image = [x[None].contiguous(memory_format=torch.channels_last) for x in task.store.features(0)]
        calls[name] = partial(model.logits, image)
    return {name: 1e3 * min(seconds) for name, seconds in alternate(calls, warmup=1, rounds=rounds).items()}
