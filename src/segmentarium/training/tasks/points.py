"""Points: a detector on drawn shapes (MagicPoint), or on pictures that it labelled itself, with descriptors (SuperPoint).

Pictures are labelled by homographic adaptation of the weights that the run starts from, where `adapt` says so, before the data
set is opened: a stage of a recipe is adaptation and the training on what it found.  A run that is stopped meanwhile goes on
there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning.fabric import Fabric
from PIL import Image
from rich.progress import track
from torch import Tensor

from segmentarium.checks import check_options
from segmentarium.contracts import KeypointModel
from segmentarium.data.homographies import sample_homography
from segmentarium.data.photometric import OF_PICTURES
from segmentarium.data.points import Points, PointStream
from segmentarium.data.shapes import Shapes
from segmentarium.files import write_png
from segmentarium.inference.adaptation import Adaptation, label_pictures, pictures
from segmentarium.keypoints.superpoint import SuperPoint
from segmentarium.matching.geometry import estimate
from segmentarium.matching.neighbours import match
from segmentarium.metrics.repeatability import corner_error, detection_ap, matching_score, repeatability
from segmentarium.registry import create_model
from segmentarium.training.loaders import TimedLoader, endless, open_dataset
from segmentarium.training.options import TrainingOptions
from segmentarium.training.preflight import LOOKED_AT
from segmentarium.training.tasks import Evaluation, refuse_unused
from segmentarium.wording import problem

MOST = 1000  # detections of a picture that its precision is made of
LEAST_SCORE = 1e-4  # of these
SHOWN, PICTURES = 0.015, 8  # scores of the points that are drawn, and pictures
DETECTED, TURNED = 1000, math.pi / 4  # points of a picture that is matched with its warp, and how far that is turned
WARPS = 7  # seed of the warps
UNUSED = ("mean", "std", "backbone_weights", "flip")  # the network is of one piece and takes grey in 0..1
LABELLED = "labelled"  # where adaptation writes, in the run's folder


class PointTask:
    """Pictures {"image" (B, C, H, W), "cells" (B, h, w)}, and with descriptors their warps, for SuperPoint.

    On shapes average precision of the points decides, of fresh ones with noise; on pictures the matching score: the share of
    points that descriptors bring to the right place in a warp.
    """

    best_key, best_name = "ap", "AP"
    shares = True
    train_set: Shapes | Points
    val_set: Shapes | Points

    def __init__(self, options: TrainingOptions) -> None:
        refuse_unused(options, UNUSED, f"{options.model!r} takes pictures as they are, under its own warps")
        if any(side % SuperPoint.stride for side in options.input_size):
            raise ValueError(f"input_size is {options.input_size}; give multiples of {SuperPoint.stride}")
        self.crop_size = options.input_size
        if options.adapt:
            options = _adapted(options)
        elif options.data == "shapes":
            options = options.replace(data_arguments={"size": options.input_size, **options.data_arguments})
        self.options = options
        self.train_set, self.val_set = (
            open_dataset(options, split) for split in (options.train_split, options.val_split)
        )
        if not isinstance(self.train_set, Shapes | Points):
            raise ValueError(f"data set {options.data!r} has no points; give --data shapes or --data points")
        if isinstance(self.val_set, Shapes):
            self.val_set.noise = True
        else:
            self.best_key, self.best_name = "matching", "matching score"
        self.pairs = options.learn == "pairs" or (options.learn == "auto" and isinstance(self.train_set, Points))

    def check(self) -> Iterator[str]:
        for dataset in (self.train_set, self.val_set):
            if not len(dataset):
                raise ValueError(f"split {dataset.split!r} of {dataset.info.name} has no pictures")
            found = sum(len(_sample(dataset, index)[1]) for index in range(min(LOOKED_AT, len(dataset))))
            if not found:
                yield f"warning: the first pictures of {dataset.split!r} have no point at all"

    def model(self) -> SuperPoint:
        options = self.options
        model = create_model(options.model, weights=options.weights, **options.model_arguments)
        if not isinstance(model, SuperPoint):
            raise ValueError(f"{options.model!r} gives no cells of points; give superpoint")
        model.learn("pairs" if self.pairs else "points")
        model.descriptor.requires_grad_(self.pairs)  # what is never optimised has no state to resume from
        return model

    def batches(self, model: Any, fabric: Fabric, micro_batch: int, step: int) -> TimedLoader:
        stream = PointStream(
            self.train_set,
            self.crop_size,
            self.options.seed,
            pairs=self.pairs,
            channels=model.in_channels,
            mean=model.preprocessing.mean,
            std=model.preprocessing.std,
            turn=self.options.turn,
        )
        return endless(stream, self.options, fabric, micro_batch, step)

    def evaluate(self, model: Any, fabric: Fabric, batch_size: int, stopped: Callable[[], bool]) -> Evaluation | None:
        on_shapes = isinstance(self.val_set, Shapes)
        return (self._precision if on_shapes else self._matching)(model, fabric, batch_size, stopped)

    @torch.inference_mode()
    def _precision(
        self, model: KeypointModel, fabric: Fabric, batch_size: int, stopped: Callable[[], bool]
    ) -> Evaluation | None:
        """Of all detections, without a border, as the paper scores shapes."""
        found = torch.zeros(len(self.val_set), MOST, 3, device=fabric.device)  # x, y, score
        mine = range(fabric.global_rank, len(self.val_set), fabric.world_size)
        for start in range(0, len(mine), batch_size):
            if stopped():
                return None
            chosen = list(mine[start : start + batch_size])
            scores = model(_input(model, np.stack([_sample(self.val_set, index)[0] for index in chosen]), fabric))[0]
            peaks = model.peaks(scores, threshold=LEAST_SCORE, border=0)
            for index, score, peak in zip(chosen, scores, peaks, strict=True):
                y, x = peak.nonzero(as_tuple=True)
                surest, order = score[y, x].float().sort(descending=True, stable=True)
                found[index, : len(order)] = torch.stack((x[order], y[order], surest), 1)[:MOST]
        everything: np.ndarray = fabric.all_reduce(found, reduce_op="sum").cpu().numpy()  # type: ignore[union-attr]
        kept = [points[points[:, 2] > 0] for points in everything]
        truth = [_by_rows(_sample(self.val_set, index)[1]) for index in range(len(self.val_set))]
        precision = detection_ap([points[:, :2] for points in kept], [points[:, 2] for points in kept], truth)
        return Evaluation({"ap": precision}, {"ap": precision}, f"AP {100 * precision:.2f} (fresh shapes with noise)")

    @torch.inference_mode()
    def _matching(
        self, model: KeypointModel, fabric: Fabric, batch_size: int, stopped: Callable[[], bool]
    ) -> Evaluation | None:
        """Of each picture and a warp of it, seen in other light: the same one at each evaluation."""
        names = ("repeatability", "matching", "homography")
        found = torch.zeros(len(self.val_set), len(names), dtype=torch.float64, device=fabric.device)
        for index in range(fabric.global_rank, len(self.val_set), fabric.world_size):
            if stopped():
                return None
            grey, _ = _sample(self.val_set, index)
            size = (grey.shape[0], grey.shape[1])
            rng = np.random.default_rng((WARPS, index))
            homography = sample_homography(rng, size, max_angle=TURNED)
            warped = OF_PICTURES(cv2.warpPerspective(grey, homography, size[::-1]), rng).round().astype(np.uint8)
            pair = [model.detect(_input(model, view[None], fabric), count=DETECTED) for view in (grey, warped)]
            first, second = (keypoints.keypoints.double().cpu().numpy() for keypoints in pair)
            scores = [repeatability(first, second, homography, (size, size)).share, 0.0, 0.0]
            if min(len(first), len(second)):
                matches = match(pair[0].descriptors.float(), pair[1].descriptors.float()).pairs.cpu().numpy()
                geometry = estimate(first[matches[:, 0]], second[matches[:, 1]], "homography")
                scores[1] = matching_score(first, second, matches, homography, (size, size))
                scores[2] = float(corner_error(geometry.matrix, homography, size) <= 3)
            found[index] = torch.tensor(scores)
        everything: Tensor = fabric.all_reduce(found, reduce_op="sum")  # type: ignore[assignment]
        given: dict[str, float] = dict(zip(names, everything.mean(0).tolist(), strict=True))
        return Evaluation(
            given, given, "  ".join(f"{name} {100 * value:.2f}" for name, value in given.items()) + " (warps, 3 px)"
        )

    @torch.inference_mode()
    def draw(self, model: Any, fabric: Fabric, path: Path) -> None:
        """A few pictures with their points (green rings) and the ones found (red)."""
        places = torch.linspace(0, len(self.val_set) - 1, min(PICTURES, len(self.val_set))).long().unique().tolist()
        panels = []
        for index in places:
            grey, truth = _sample(self.val_set, index)
            found = model.detect(_input(model, grey[None], fabric), threshold=SHOWN)
            panel = cv2.cvtColor(
                cv2.resize(grey, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST), cv2.COLOR_GRAY2RGB
            )
            for points, radius, colour in ((truth, 5, (0, 255, 0)), (found.keypoints.cpu().numpy(), 2, (255, 0, 0))):
                for x, y in np.rint(2 * points + 0.5).astype(int).tolist():
                    cv2.circle(panel, (x, y), radius, colour, 1)
            panels.append(panel)
        sheet = np.zeros((max(len(p) for p in panels), sum(p.shape[1] for p in panels), 3), np.uint8)
        edges = np.cumsum([0, *(p.shape[1] for p in panels)])
        for left, panel in zip(edges, panels, strict=False):
            sheet[: len(panel), left : left + panel.shape[1]] = panel
        write_png(path, Image.fromarray(sheet))


def _sample(dataset: Shapes | Points, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture (H, W) uint8 and its points (N, 2)."""
    if isinstance(dataset, Points):
        return dataset.grey(index)
    drawing = dataset.drawing(index)
    return drawing.image, drawing.points


def _by_rows(points: np.ndarray) -> np.ndarray:
    """Points as pixels, sorted by y and then x."""
    points = np.rint(points)
    return points[np.lexsort((points[:, 0], points[:, 1]))]


def _input(model: KeypointModel, grey: np.ndarray, fabric: Fabric) -> Tensor:
    """(B, H, W) uint8 -> what the model takes."""
    image = torch.from_numpy(grey)[:, None].expand(-1, model.in_channels, -1, -1)
    return model.preprocessing.normalise(image).to(fabric.device)


def _adapted(options: TrainingOptions) -> TrainingOptions:
    """Labels the pictures of `root` by the weights -> the options with the folder that was made."""
    if options.weights is None:
        raise ValueError("adapt labels pictures by the weights that training starts from; give --weights")
    if options.data != "points":
        raise ValueError(f"adapt labels pictures, and the data set is {options.data!r}; give --data points")
    own, others = [item.name for item in fields(Adaptation)], ["precision", "batch_size"]
    check_options("adapt", options.adapt, own + others)
    settings = Adaptation(**{name: value for name, value in options.adapt.items() if name in own})
    more = {name: value for name, value in options.adapt.items() if name in others}
    model = create_model(options.model, weights=options.weights, **options.model_arguments)
    if not isinstance(model, SuperPoint):
        raise ValueError(f"{options.model!r} gives no cells of points; give superpoint")
    out, found = Path(options.folder) / LABELLED, pictures(options.root)
    labelled = label_pictures(
        model,
        found,
        out,
        settings,
        failed=lambda path, error: print(f"left out   {problem(str(path), error)}"),
        **{"precision": options.precision.replace("32", "fp32"), **more},
    )
    tracked = track(labelled, f"adapting {len(found)} pictures", total=len(found))
    counts = [number for _, number in tracked if number is not None]
    if not counts:
        raise ValueError(f"no picture of {options.root} could be labelled")
    print(f"adapted    {len(counts)} pictures of {options.root}: {np.mean(counts):.0f} points each, in {out}")
    return options.replace(root=str(out))
