"""Does SegViTv2 learn new classes without forgetting the old ones, where fine-tuning forgets?  On CamVid, in minutes.

    python -m benchmarks.continual --root DIR/camvid [--steps 600] [--pictures 120] [--seeds 0 1] [--out continual.csv]

Seven classes are learnt first, then the other four, whose labels are all that the second step gets: everything else is
"not one of these".  The features are those of a fixed trunk (that of street_small, which has seen all classes:
what is compared here are decoders on one trunk), computed once and kept.  Three ways for the second step, from one first step:

  new task      `SegViTv2.add_task`: class tokens and a decoder of their own, everything else frozen
  fine-tuning   one decoder that gets four class tokens more, and is trained on
  at once       one decoder, both steps' labels together, for as many steps as both: what could be had without the sequence

It learns from every fourth row and column of the labels; scores are those of whole label maps.

Scores are IoU on the test split, of the seven, the four and all; a row for each evaluation, so that the file is the curve of
forgetting.  "same masks" tells whether the old classes' scores of the first test pictures are the first step's, bit by bit.
"""

from __future__ import annotations

import argparse
import copy
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import segmentarium
from benchmarks.stored import Given
from segmentarium.benchmarking.machine import describe, machine_facts
from segmentarium.composition import EncoderDecoder
from segmentarium.data.camvid import INFO, CamVid
from segmentarium.labels import IGNORE_INDEX
from segmentarium.layers.resize import resize
from segmentarium.metrics import ConfusionMatrix
from segmentarium.semantic.segvit import SegViTDecoder
from segmentarium.semantic.segvitv2 import SegViTv2

OLD = 7
COLUMNS = ("seed", "way", "step", "old", "new", "all", "same masks")
DECODER = {"width": 96, "heads": 3, "layers": 2, "stages": 2}


@dataclass
class Pictures:
    """Features of pictures, in half precision, each (N, C, h, w), and their labels (N, H, W)."""

    features: list[Tensor]
    labels: Tensor

    def batch(self, chosen: Tensor) -> tuple[list[Tensor], Tensor]:
        return [feature[chosen].float() for feature in self.features], self.labels[chosen]


@torch.inference_mode()
def look(trunk: EncoderDecoder, root: Path, split: str, count: int) -> Pictures:
    """At `count` pictures of a split, evenly taken."""
    dataset = CamVid(root, split)
    count = min(count, len(dataset))
    kept: list[list[Tensor]] = []
    labels = []
    for i in range(count):
        sample = dataset.sample(i * len(dataset) // count)
        image = trunk.preprocessing.normalise(torch.as_tensor(sample["image"])[None].float() / 255)
        features = trunk.features(image)[-2:]
        kept.append([feature.half() for feature in features])
        labels.append(torch.as_tensor(sample["mask"]).to(torch.uint8))
    return Pictures([torch.cat(level) for level in zip(*kept, strict=True)], torch.stack(labels))


def only(labels: Tensor, first: int, last: int) -> Tensor:
    """Labels of the classes first to last - 1; all others are ignored, which the losses here take for "none of these"."""
    return torch.where((labels >= first) & (labels < last), labels, IGNORE_INDEX).long()


def network(trunk: Given, classes: int) -> SegViTv2:
    return SegViTv2(num_classes=classes, backbone=trunk, ignored="background", dropout=0.0, **DECODER)  # type: ignore[arg-type]


def train(
    model: SegViTv2, pictures: Pictures, classes: tuple[int, int], steps: int, seed: int, every: int, batch: int = 8
) -> Iterator[int]:
    """Yields the number of steps made, every so often and at the end."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, max(steps, 2), pct_start=0.1)
    for step in range(1, steps + 1):
        model.train()
        features, labels = pictures.batch(torch.randint(len(pictures.labels), (batch,), generator=generator))
        target = only(labels[:, 2::4, 2::4], *classes)  # a quarter of the size is four times finer than the features
        outputs = model.forward_train(features)  # type: ignore[arg-type]
        loss = torch.stack(list(model.criterion(outputs, {"mask": target}).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 35.0)
        optimizer.step()
        schedule.step()
        if step % every == 0 or step == steps:
            yield step


@torch.inference_mode()
def scores(model: SegViTv2, pictures: Pictures, chosen: Tensor) -> Tensor:
    model.eval()
    return model.logits(pictures.batch(chosen)[0])  # type: ignore[arg-type]


def evaluate(model: SegViTv2, test: Pictures) -> dict[str, float]:
    """IoU in percent of the old classes, the new ones and all, of those that the model knows."""
    matrix = ConfusionMatrix(len(INFO.classes))
    for chosen in torch.arange(len(test.labels)).split(8):
        logits = resize(scores(model, test, chosen), test.labels.shape[1:])
        matrix.update(logits.argmax(1), only(test.labels[chosen], 0, model.num_classes))
    iou = 100 * matrix.iou()[: model.num_classes]
    parts = {"old": iou[:OLD], "new": iou[OLD:], "all": iou}
    return {name: float(part.nanmean()) if len(part) else float("nan") for name, part in parts.items()}


def widened(model: SegViTv2, classes: int) -> SegViTv2:
    """One decoder with more classes, which has everything of `model`'s."""
    wider = network(model.backbone, classes)  # type: ignore[arg-type]
    old, new = model.tasks[0], wider.tasks[0]
    assert isinstance(old, SegViTDecoder)
    assert isinstance(new, SegViTDecoder)
    with torch.no_grad():
        for name, parameter in new.named_parameters():
            learnt = old.get_parameter(name)
            if learnt.shape == parameter.shape:
                parameter.copy_(learnt)
        new.class_tokens[:OLD] = old.class_tokens
        for ours, learnt in ((new.classify.weight, old.classify.weight), (new.classify.bias, old.classify.bias)):
            ours[:OLD], ours[-1] = learnt[:OLD], learnt[-1]  # the last is "none"
    return wider


def run(seed: int, fit: Pictures, test: Pictures, strides: Sequence[int], steps: int, every: int) -> Iterator[dict]:
    torch.manual_seed(seed)
    total = len(INFO.classes)
    trunk = Given([feature.shape[1] for feature in fit.features], strides)
    few = torch.arange(min(8, len(test.labels)))
    first = network(trunk, OLD)
    for step in train(first, fit, (0, OLD), steps, seed, every):
        yield {"seed": seed, "way": "first seven", "step": step, **evaluate(first, test)}
    before = scores(first, test, few)
    task = copy.deepcopy(first)
    task.add_task(INFO.classes[OLD:])
    for way, model in (("new task", task), ("fine-tuning", widened(first, total))):
        for step in train(model, fit, (OLD, total), steps, seed, every):
            same = torch.equal(scores(model, test, few)[:, :OLD], before)
            yield {"seed": seed, "way": way, "step": step, **evaluate(model, test), "same masks": same}
    together = network(trunk, total)
    for step in train(together, fit, (0, total), 2 * steps, seed, every):
        yield {"seed": seed, "way": "at once", "step": step, **evaluate(together, test)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the folder of CamVid")
    parser.add_argument("--steps", type=int, default=600, help="of each of the two steps")
    parser.add_argument("--pictures", type=int, default=120, help="of train, and at most as many of test")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--every", type=int, default=200, help="steps between evaluations")
    parser.add_argument("--out", type=Path, default=Path("continual.csv"))
    options = parser.parse_args(arguments)

    print(describe(machine_facts()))
    street = segmentarium.load("street_small").eval()
    assert isinstance(street, EncoderDecoder)
    fit, test = (look(street, options.root, split, options.pictures) for split in ("train", "test"))
    strides = street.backbone.strides[-2:]
    shapes = ", ".join(f"{tuple(feature.shape[1:])}" for feature in fit.features)
    print(
        f"features {shapes}, strides {tuple(strides)}; {len(fit.labels)} pictures to learn, {len(test.labels)} to test"
    )
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for seed in options.seeds:
            for row in run(seed, fit, test, strides, options.steps, options.every):
                writer.writerow(
                    {key: f"{value:.2f}" if isinstance(value, float) else value for key, value in row.items()}
                )
                file.flush()
                numbers = "  ".join(f"{name} {row[name]:6.2f}" for name in ("old", "new", "all"))
                told = f"  same masks: {row['same masks']}" if "same masks" in row else ""
                print(f"seed {seed}  {row['way']:<12} {row['step']:>6}  {numbers}{told}", flush=True)
    print(f"written: {options.out}")


if __name__ == "__main__":
    sys.exit(main())
