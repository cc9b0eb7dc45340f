"""What a backbone's features tell of pictures' classes, with nothing of the backbone trained: two numbers people ask of weights
that were learnt without labels.

`knn` is the vote of the nearest training pictures: cosine similarity of the features, each vote worth exp(similarity / 0.07), 20
neighbours (Wu et al., https://arxiv.org/abs/1805.01978; Caron et al., https://arxiv.org/abs/2104.14294, appendix E).  `linear` is
one linear layer on the features, each brought to mean 0 and deviation 1 (MAE, 2111.06377, appendix A.1): several learning rates
train side by side on nine tenths of the training pictures, the last tenth chooses one of them, and only that is scored.  Pictures
are shown whole, once, without augmentation; published linear probes, which augment for 50 to 100 epochs, come out higher.

Memory: a batch of pictures, and blocks of features; the features themselves lie in a file that is mapped.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.brief import Brief
from segmentarium.contracts import Backbone, Preprocessing
from segmentarium.data import ClassificationDataset, middle_crop, picture_size
from segmentarium.data.splits import hash_split
from segmentarium.evaluation.samples import read_ahead
from segmentarium.files import check_targets, has_keys, write_text
from segmentarium.inference.network import with_channels

NEIGHBOURS, TEMPERATURE = 20, 0.07
EPOCHS, BATCH, RATES = 50, 256, (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
BLOCK = 8192  # training features that are compared at once
HELD = 0.1  # share of the training pictures that chooses the learning rate


@dataclass(kw_only=True, repr=False)
class ProbeReport(Brief):
    """Shares of the test pictures whose class comes out first, 0..1.

    knn, linear   of the vote and of the linear layer; `linear_top5`: whose class is among its first five
    majority      of who always says the most frequent class of the training pictures
    rate          the learning rate that the held-back tenth chose
    """

    knn: float
    linear: float
    linear_top5: float
    majority: float
    rate: float
    pictures: dict[str, int]
    features: int
    size: int
    classes: int
    seconds: float
    backbone: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"probe": {"neighbours": NEIGHBOURS, "temperature": TEMPERATURE, "epochs": EPOCHS}, **asdict(self)}

    def summary(self) -> str:
        return (
            f"k-NN {100 * self.knn:.2f}   linear {100 * self.linear:.2f} (top-5 {100 * self.linear_top5:.2f})   "
            f"most frequent class {100 * self.majority:.2f}\n{self.features} features of {self.pictures['train']} pictures, "
            f"scored on {self.pictures['test']}, at {self.size}×{self.size}, in {self.seconds:.1f} s"
        )

    def write_json(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the numbers, whole or not at all.  FileExistsError where another file than such a report is there."""
        path = Path(path)
        check_targets([path], overwrite=overwrite, ours=has_keys(path, ("probe", "knn", "linear")))
        write_text(path, json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n")
        return path


def probe(
    backbone: Backbone,
    train: ClassificationDataset,
    test: ClassificationDataset,
    *,
    preprocessing: Preprocessing | None = None,
    size: int | None = None,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ProbeReport:
    """k-NN and a linear layer on `backbone.embed` of labelled pictures.

    preprocessing   what the weights want of a picture; None: what the backbone says
    size            side of the square it sees; None: what the preprocessing says, else the pictures' own, up to 224
    progress        called with pictures done and all of them

    Raises ValueError where the two sets have different classes, or one class alone, or too few pictures.
    """
    start, names = time.perf_counter(), train.info.classes
    if test.info.classes != names:
        raise ValueError(
            f"the training pictures have classes {names[:4]}, …, the test pictures {test.info.classes[:4]}, …"
        )
    if len(names) < 2 or len(train) < 10:
        raise ValueError(
            f"{len(train)} training pictures of {len(names)} classes; give two classes or more, 10 pictures or more"
        )
    if not len(test):
        raise ValueError(f"{test.info.name!r} has no test pictures: there is nothing to score")
    said = preprocessing or backbone.preprocessing.for_channels(backbone.in_channels)
    size = size or said.crop_size or picture_size(train)
    backbone = backbone.to(device).eval()
    done, total = 0, len(train) + len(test)
    with tempfile.TemporaryDirectory(prefix="probe-") as folder:
        found: dict[str, tuple[np.ndarray, Tensor]] = {}
        for part, dataset in (("train", train), ("test", test)):
            features, place = np.empty(0), 0
            for block in _features(backbone, dataset, said, size, batch_size, torch.device(device)):
                if not place:
                    shape = (len(dataset), block.shape[1])
                    features = np.lib.format.open_memmap(Path(folder, f"{part}.npy"), "w+", np.float32, shape)
                features[place : place + len(block)] = block.cpu().numpy()
                place += len(block)
                if progress is not None:
                    progress(done + place, total)
            done += place
            found[part] = features, torch.tensor([item.label for item in dataset.items])
        held = torch.tensor([hash_split(train.name(i), HELD, 0.0) == "val" for i in range(len(train))])
        if not held.any() or held.all():
            held = torch.arange(len(train)) % 10 == 0
        knn = _neighbours(found["train"], found["test"], len(names), torch.device(device))
        linear, five, rate = _linear(found["train"], found["test"], held, len(names), torch.device(device), seed)
        width = found["train"][0].shape[1]
        del found  # before the folder goes
    counts = torch.tensor(train.counts())
    return ProbeReport(
        knn=knn,
        linear=linear,
        linear_top5=five,
        majority=test.counts()[int(counts.argmax())] / len(test),
        rate=rate,
        pictures={"train": len(train), "test": len(test)},
        features=width,
        size=size,
        classes=len(names),
        seconds=time.perf_counter() - start,
    )


@dataclass
class _Seen:
    """A picture as the backbone takes it: float32 (C, size, size)."""

    name: str
    pixels: Tensor


@torch.inference_mode()
def _features(
    backbone: Backbone,
    dataset: ClassificationDataset,
    said: Preprocessing,
    size: int,
    batch_size: int,
    device: torch.device,
) -> Iterator[Tensor]:
    """(b, D) float32 of each batch of pictures, in their order."""
    crop = middle_crop(size, said.crop_ratio)

    def see(index: int) -> _Seen:
        pixels = torch.from_numpy(np.array(dataset.load(index)[0])).permute(2, 0, 1)
        shown = with_channels(crop(pixels)[None], backbone.in_channels)[0]
        return _Seen(dataset.name(index), said.normalise(shown))

    def embed(pictures: list[Tensor]) -> Tensor:
        return backbone.embed(torch.stack(pictures).to(device)).float()

    waiting: list[Tensor] = []
    for picture in read_ahead(see, range(len(dataset)), 2):
        waiting.append(picture.pixels)
        if len(waiting) == batch_size:
            yield embed(waiting)
            waiting = []
    if waiting:
        yield embed(waiting)


@torch.inference_mode()
def _neighbours(
    train: tuple[np.ndarray, Tensor], test: tuple[np.ndarray, Tensor], classes: int, device: torch.device
) -> float:
    """Share of the test pictures that the vote of the nearest training pictures gets right."""
    right = 0
    for first in range(0, len(test[1]), BATCH):
        asked = F.normalize(torch.from_numpy(test[0][first : first + BATCH].copy()).to(device), dim=1)
        near, labels = asked.new_zeros(len(asked), 0), torch.zeros(len(asked), 0, dtype=torch.int64, device=device)
        for begin in range(0, len(train[1]), BLOCK):
            block = F.normalize(torch.from_numpy(train[0][begin : begin + BLOCK].copy()).to(device), dim=1)
            theirs = train[1][begin : begin + BLOCK].to(device).expand(len(asked), -1)
            near, labels = torch.cat([near, asked @ block.T], 1), torch.cat([labels, theirs], 1)
            near, order = near.topk(min(NEIGHBOURS, near.shape[1]))
            labels = labels.gather(1, order)
        votes = asked.new_zeros(len(asked), classes).scatter_add_(1, labels, ((near - 1) / TEMPERATURE).exp())
        right += int((votes.argmax(1).cpu() == test[1][first : first + BATCH]).sum())
    return right / len(test[1])


def _linear(
    train: tuple[np.ndarray, Tensor],
    test: tuple[np.ndarray, Tensor],
    held: Tensor,
    classes: int,
    device: torch.device,
    seed: int,
) -> tuple[float, float, float]:
    """Top-1 and top-5 of the linear layer whose learning rate the held-back pictures choose, and that rate."""
    mine, rest = (~held).nonzero()[:, 0].numpy(), held.nonzero()[:, 0].numpy()
    mean, std = _statistics(train[0], mine)
    random = np.random.default_rng(seed)
    weight = torch.zeros(len(RATES), train[0].shape[1], classes, device=device, requires_grad=True)
    bias = torch.zeros(len(RATES), 1, classes, device=device, requires_grad=True)
    momenta = [torch.zeros_like(weight), torch.zeros_like(bias)]
    rates = torch.tensor(RATES, device=device).view(-1, 1, 1)

    def block(found: tuple[np.ndarray, Tensor], rows: np.ndarray) -> tuple[Tensor, Tensor]:
        features = (torch.from_numpy(found[0][rows]) - mean) / std
        return features.to(device), found[1][rows].to(device)

    steps = EPOCHS * -(-len(mine) // BATCH)
    step = 0
    for _ in range(EPOCHS):
        order = random.permutation(mine)
        for begin in range(0, len(order), BATCH):
            features, labels = block(train, np.sort(order[begin : begin + BATCH]))
            logits = features @ weight + bias  # (rates, b, classes)
            # each layer's own mean, so that the layers do not know of each other
            loss = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(RATES)), reduction="sum") / len(labels)
            gradients = torch.autograd.grad(loss, (weight, bias))
            factor = 0.5 * (1 + np.cos(np.pi * step / steps))
            step += 1
            with torch.no_grad():
                for parameter, momentum, gradient in zip((weight, bias), momenta, gradients, strict=True):
                    momentum.mul_(0.9).add_(gradient)
                    parameter.sub_(momentum * rates * factor)

    @torch.inference_mode()
    def right(found: tuple[np.ndarray, Tensor], rows: np.ndarray, among: int) -> Tensor:
        counts = torch.zeros(len(RATES))
        for begin in range(0, len(rows), BATCH):
            features, labels = block(found, rows[begin : begin + BATCH])
            best = (features @ weight + bias).topk(min(among, classes)).indices
            counts += (best == labels[:, None]).any(2).sum(1).cpu()
        return counts / len(rows)

    chosen = int(right(train, rest, 1).argmax())
    everything = np.arange(len(test[1]))
    return float(right(test, everything, 1)[chosen]), float(right(test, everything, 5)[chosen]), RATES[chosen]


def _statistics(features: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and deviation (D,) over the rows, in blocks."""
    sums = np.zeros((2, features.shape[1]))
    for begin in range(0, len(rows), BLOCK):
        block = features[rows[begin : begin + BLOCK]].astype(np.float64)
        sums += np.stack([block.sum(0), (block**2).sum(0)])
    mean, square = sums / len(rows)
    deviation = np.sqrt(np.maximum(square - mean**2, 0)) + 1e-6
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(deviation, dtype=torch.float32)
