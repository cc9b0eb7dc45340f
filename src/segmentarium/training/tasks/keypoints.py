"""Keypoints: persons cut out by their boxes, scored by COCO's average precision of poses, on the labelled boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from PIL import Image, ImageDraw
from torch import Tensor

from segmentarium.data import TrainingStream
from segmentarium.data.base import apply_transform
from segmentarium.data.coco_keypoints import CocoKeypoints, PersonCrop, keypoint_transform, shown_box
from segmentarium.evaluation.poses import pose_scores, scores_line
from segmentarium.files import write_png
from segmentarium.keypoints.heatmaps import in_picture, lower_body, mirror_pairs, peaks, refined
from segmentarium.keypoints.hrnet_pose import HRNetPose
from segmentarium.registry import create_model, entry
from segmentarium.training.loaders import TimedLoader, endless, open_dataset, worker_count
from segmentarium.training.options import TrainingOptions
from segmentarium.training.preflight import LOOKED_AT
from segmentarium.training.tasks import Evaluation, Task, refuse_unused

SCALE, TURN, HALF = 0.35, 45.0, 0.3  # of the crops, as published at 256×192; degrees
PICTURES = 8  # drawn at each evaluation
UNUSED = ("learn", "adapt")  # of points, which nobody labels


def keypoint_task(options: TrainingOptions) -> Task:
    """Joints of persons or points of anything, by what the options' model gives."""
    if isinstance(build := entry(options.model.partition(".")[0]).build, type) and issubclass(build, HRNetPose):
        return KeypointTask(options)
    from segmentarium.training.tasks.points import PointTask

    return PointTask(options)


class KeypointTask:
    """Crops {"image" (B, 3, H, W), "joints" (B, J, 3)} for a network of heat maps; AP decides.

    A pose's score is the mean of its joints' above 0.2, and the mirrored crop is averaged in, as the authors do; but their boxes
    are a detector's, and poses too alike are removed: here the boxes are the labelled ones.
    """

    best_key, best_name = "ap", "AP"
    shares = True
    train_set: CocoKeypoints
    val_set: CocoKeypoints

    def __init__(self, options: TrainingOptions) -> None:
        refuse_unused(options, UNUSED, f"{options.model!r} finds joints, which are labelled")
        self.options, self.crop_size = options, options.input_size
        self.train_set, self.val_set = (
            open_dataset(options, split) for split in (options.train_split, options.val_split)
        )
        if not isinstance(self.train_set, CocoKeypoints):
            raise ValueError(f"data set {options.data!r} has no joints; give --data coco_keypoints")
        if self.train_set.info.classes != self.val_set.info.classes:
            raise ValueError(f"{options.train_split!r} and {options.val_split!r} of {options.root} name other joints")

    def check(self) -> Iterator[str]:
        for dataset in (self.train_set, self.val_set):
            for index in range(min(LOOKED_AT, len(dataset))):
                dataset.sample(index)
        seen = np.sum([person.joints[:, 2] for person in self.train_set.items], 0)
        missing = [name for name, count in zip(self.train_set.info.classes, seen, strict=True) if not count]
        if missing:
            yield f"warning: {', '.join(missing[:6])} labelled nowhere in {self.options.train_split!r}: it cannot be learnt"

    def model(self) -> HRNetPose:
        options, names = self.options, self.train_set.info.classes
        arguments = {"num_joints": len(names), **options.model_arguments}
        model = create_model(
            options.model, weights=options.weights, backbone_weights=options.backbone_weights, **arguments
        )
        if not isinstance(model, HRNetPose):
            raise ValueError(f"{options.model!r} gives no heat maps of joints; give hrnet_pose_w32 or hrnet_pose_w48")
        if model.final.out_channels != len(names) or model.in_channels != 3:
            raise ValueError(
                f"the model finds {model.final.out_channels} joints in {model.in_channels} channels, but the data have "
                f"{len(names)} joints and RGB; leave num_joints and in_channels out"
            )
        model.joints, model.input_size = names, self.crop_size
        given = {"mean": options.mean, "std": options.std}
        model.preprocessing = replace(model.preprocessing, **{k: v for k, v in given.items() if v is not None})
        return model

    def batches(self, model: Any, fabric: Fabric, micro_batch: int, step: int) -> TimedLoader:
        transform = keypoint_transform(
            self.crop_size,
            scale=SCALE,
            rotate=TURN if self.options.turn is None else self.options.turn,
            flip=0.5 if self.options.flip else 0.0,
            pairs=mirror_pairs(model.joints),
            half=HALF,
            lower=lower_body(model.joints),
            mean=model.preprocessing.mean,
            std=model.preprocessing.std,
        )
        return endless(
            TrainingStream(self.train_set, transform, self.options.seed), self.options, fabric, micro_batch, step
        )

    @torch.inference_mode()
    def evaluate(self, model: Any, fabric: Fabric, batch_size: int, stopped: Callable[[], bool]) -> Evaluation | None:
        persons = self.val_set.items
        transform = keypoint_transform(self.crop_size, mean=model.preprocessing.mean, std=model.preprocessing.std)
        found = torch.zeros(len(persons), len(model.joints), 3, device=fabric.device)
        mine = range(fabric.global_rank, len(persons), fabric.world_size)
        with ThreadPoolExecutor(max(2, worker_count(self.options, fabric.world_size))) as pool:
            for start in range(0, len(mine), batch_size):
                if stopped():
                    return None
                chosen = list(mine[start : start + batch_size])
                samples = list(pool.map(lambda i: apply_transform(transform, self.val_set.sample(i)), chosen))
                image = torch.stack([sample["image"].as_subclass(Tensor) for sample in samples]).to(fabric.device)
                boxes = torch.stack([sample["box"] for sample in samples]).to(fabric.device)
                found[chosen] = self._poses(model, image, boxes)
        poses: np.ndarray = fabric.all_reduce(found, reduce_op="sum").double().cpu().numpy()  # type: ignore[union-attr]
        given = pose_scores(persons, poses, model.joints)
        return Evaluation(given, given, scores_line(given))

    def _poses(self, model: HRNetPose, image: Tensor, boxes: Tensor) -> Tensor:
        """Crops and their boxes -> (B, J, 3): x, y in pixels of the pictures, and scores."""
        maps = model.heatmaps(image, flip=self.options.flip)
        places, scores = peaks(maps)
        centre, width = shown_box(boxes, self.crop_size)
        return torch.cat((in_picture(refined(maps, places), centre, width, maps.shape[-2:]), scores[..., None]), -1)

    @torch.inference_mode()
    def draw(self, model: Any, fabric: Fabric, path: Path) -> None:
        """A few crops, spread over the split, with the labelled joints (white) and the ones found (coloured)."""
        height, width = self.crop_size
        places = torch.linspace(0, len(self.val_set) - 1, min(PICTURES, len(self.val_set))).long().unique().tolist()
        sheet = Image.new("RGB", (len(places) * width, height))
        for place, index in enumerate(places):
            crop = PersonCrop(self.crop_size)(self.val_set.sample(index))
            pixels = crop["image"].as_subclass(Tensor)
            image = model.preprocessing.normalise(pixels[None].float() / 255).to(fabric.device)
            picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
            pen = ImageDraw.Draw(picture)
            for x, y, labelled in crop["joints"].tolist():
                if labelled:
                    pen.ellipse((x - 3, y - 3, x + 3, y + 3), outline="white")
            for (x, y), colour in zip(
                model.detect(image, flip=self.options.flip).keypoints.tolist(), self.val_set.info.palette, strict=True
            ):
                pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
            sheet.paste(picture, (place * width, 0))
        write_png(path, sheet)
