"""Scores of a network of joints: COCO's average precision of poses on the labelled boxes, and PCK, beside the mean pose's.

The mean pose is a guess that looks at no picture: each joint lies where, in its person's box, it lies on average of the very
persons that are scored, so that no constant guess from other persons comes out better in squared distance.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from segmentarium.contracts import KeypointModel
from segmentarium.data.coco_keypoints import CocoKeypoints, Person
from segmentarium.evaluation.base import RGB, Measured, number, numbers, percent
from segmentarium.evaluation.facts import facts_of, trained_on_warning
from segmentarium.inference.poses import SURE, PoseFinder
from segmentarium.metrics.oks import keypoint_scores, pck, sigmas_of

NAMES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "pck": "PCK"}


def pose_scores(persons: Sequence[Person], poses: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Poses (N, J, 3), x and y in pixels of the pictures and a score for each joint, of N persons -> "ap", "ap50", "ap75" (OKS)
    and "pck", within a fifth of the longer side of the person's box; in 0..1.

    A pose's score is the mean of its joints' above 0.2, as the HRNet authors have it.
    """
    sure = poses[..., 2] > SURE
    scores = (poses[..., 2] * sure).sum(1) / sure.sum(1).clip(1)
    joints = np.stack([person.joints for person in persons]).astype(np.float64)
    areas = np.array([person.area for person in persons])
    pictures = [person.picture for person in persons]
    found = keypoint_scores(pictures, poses[..., :2], scores, joints, areas, sigmas_of(names))
    return {**found, "pck": pck(poses[..., :2], joints, _boxes(persons))}


def scores_line(scores: dict[str, float]) -> str:
    """The line of a log."""
    told = "  ".join(f"{NAMES[name]} {percent(scores[name])}" for name in ("ap", "ap50", "ap75"))
    return f"{told} (OKS, labelled boxes)  PCK {percent(scores['pck'])} (0.2 of the box)"


def mean_poses(persons: Sequence[Person]) -> np.ndarray:
    """(N, J, 3): the mean pose in each person's box, every score 1."""
    boxes = _boxes(persons)[:, None]
    joints = np.stack([person.joints for person in persons]).astype(np.float64)
    labelled = joints[..., 2:] > 0
    within = (joints[..., :2] - boxes[..., :2]) / np.maximum(boxes[..., 2:], 1)
    mean = np.where(labelled, within, 0).sum(0) / np.maximum(labelled.sum(0), 1)
    placed = boxes[..., :2] + mean * np.maximum(boxes[..., 2:], 1)
    return np.concatenate((placed, np.ones_like(placed[..., :1])), 2)


def _boxes(persons: Sequence[Person]) -> np.ndarray:
    return np.array([person.box for person in persons])


@dataclass(kw_only=True, repr=False)
class PoseReport(Measured):
    """Scores of poses, in 0..1.

    ap, ap50, ap75   COCO's precision by OKS, on the labelled boxes, the mirrored crop averaged in
    pck              share of the labelled joints that lie within a fifth of the longer side of their person's box
    pck_by_joint     the same, by name; NaN where a joint is labelled nowhere
    mean_pose        all of these of the mean pose
    persons          how many there were, in `images` pictures
    """

    heading = "Joints"

    ap: float
    ap50: float
    ap75: float
    pck: float
    pck_by_joint: dict[str, float]
    mean_pose: dict[str, Any]
    labelled: dict[str, int]
    persons: int
    palette: tuple[RGB, ...]

    def scores(self) -> dict[str, Any]:
        mean = {name: number(self.mean_pose[name]) for name in NAMES}
        mean["pck_by_joint"] = numbers(self.mean_pose["pck_by_joint"])  # type: ignore[assignment]
        return {
            **{name: number(getattr(self, name)) for name in NAMES},
            "pck_by_joint": numbers(self.pck_by_joint),
            "mean_pose": mean,
            "labelled": self.labelled,
            "persons": self.persons,
            "images": self.images,
        }

    def headline(self) -> list[tuple[str, str]]:
        ours = [(title, percent(getattr(self, name))) for name, title in NAMES.items()]
        return [*ours, *((f"{NAMES[n]} of the mean pose", percent(self.mean_pose[n])) for n in ("ap", "pck"))]

    def columns(self) -> tuple[str, ...]:
        return ("joint", "PCK", "mean pose", "labelled")

    def rows(self) -> list[tuple[str, ...]]:
        mean = self.mean_pose["pck_by_joint"]
        return [
            (name, percent(value), percent(mean[name]), str(self.labelled[name]))
            for name, value in self.pck_by_joint.items()
        ]

    def drawn(self) -> list[tuple[RGB, float]]:
        return list(zip(self.palette, self.pck_by_joint.values(), strict=True))

    def images_line(self) -> str:
        return f"{self.persons} persons in {self.images} pictures"


class PoseScoring:
    """A network of joints and the persons that it is scored on.

    Joints that the model does not know are left out, and so are persons that have no others.  ValueError where it knows none, or
    no person is left.
    """

    def __init__(self, finder: PoseFinder, dataset: CocoKeypoints, limit: int | None = None) -> None:
        self.finder, self.dataset = finder, dataset
        named, known = dataset.info.classes, finder.model.joints
        self.names = tuple(name for name in named if name in known)
        if not self.names:
            raise ValueError(
                f"the model finds {', '.join(known)}, and data set {dataset.info.name!r} has {', '.join(named)}: no name is "
                "common to both"
            )
        columns = [named.index(name) for name in self.names]
        self.palette = tuple(dataset.info.palette[column] for column in columns)
        self.order = [known.index(name) for name in self.names]
        given = [person._replace(joints=person.joints[columns]) for person in dataset.items]
        chosen = [i for i, person in enumerate(given) if person.joints[:, 2].any()][:limit]
        if not chosen:
            raise ValueError(
                f"no person of data set {dataset.info.name!r} has a labelled joint that the model finds "
                f"({', '.join(self.names)}): there is nothing to score"
            )
        self.indices, self.persons = chosen, [given[i] for i in chosen]
        self.poses = np.zeros((len(chosen), len(self.names), 3))
        missing = [name for name in named if name not in known]
        self.notes = [f"the model does not know {', '.join(missing)}, which count nowhere"] if missing else []

    def run(self, readers: int) -> Iterator[int]:
        """Finds the poses; yields after each how many are done."""
        with ThreadPoolExecutor(max(readers, 1)) as pool:
            for start in range(0, len(self.indices), 16):  # memory does not grow with the pictures
                part = self.indices[start : start + 16]
                for place, (picture, _) in enumerate(pool.map(self.dataset.load, part), start):
                    box = torch.tensor([self.persons[place].box])
                    joints, scores = self.finder.find(np.asarray(picture), box)
                    self.poses[place] = torch.cat((joints, scores[..., None]), 2)[0, self.order].double().numpy()
                    yield place + 1

    def report(self, **facts: Any) -> PoseReport:
        """Of all that was found; `facts`: the fields that say how it was measured."""
        mean = mean_poses(self.persons)
        return PoseReport(
            **pose_scores(self.persons, self.poses, self.names),
            pck_by_joint=self._by_joint(self.poses),
            mean_pose={**pose_scores(self.persons, mean, self.names), "pck_by_joint": self._by_joint(mean)},
            labelled={name: int(count) for name, count in zip(self.names, self._labelled().sum(0), strict=True)},
            persons=len(self.persons),
            palette=self.palette,
            images=len({person.picture for person in self.persons}),
            **facts,
        )

    def _labelled(self) -> np.ndarray:
        return np.stack([person.joints[:, 2] > 0 for person in self.persons])

    def _by_joint(self, poses: np.ndarray) -> dict[str, float]:
        joints, boxes = np.stack([person.joints for person in self.persons]), _boxes(self.persons)
        seen = np.any(self._labelled(), axis=0)
        return {
            name: pck(poses[:, [i], :2], joints[:, [i]], boxes) if seen[i] else float("nan")
            for i, name in enumerate(self.names)
        }


def evaluate_poses(
    model: KeypointModel,
    dataset: Any,
    source: str,
    runs: dict[str, Any],
    limit: int | None,
    readers: int,
    progress: Callable[[int, int], None] | None,
) -> PoseReport:
    """`evaluate` of a network of joints; runs: engine, precision and device.  TypeError for data without joints."""
    if not isinstance(dataset, CocoKeypoints):
        raise TypeError(f"{source} finds joints of persons, which {dataset.info.name!r} has not; give coco_keypoints")
    started = time.perf_counter()
    finder = PoseFinder(model, flip=True, **runs)
    scoring = PoseScoring(finder, dataset, limit)
    for done in scoring.run(readers):
        if progress is not None:
            progress(done, len(scoring.persons))
    height, width = finder.size
    protocol = f"labelled boxes, crops of {height}×{width}, the mirrored crop averaged in"
    return scoring.report(
        **facts_of(finder.network, source, dataset, {"protocol": protocol, "limit": limit}, started),
        model_seconds=finder.network.seconds,
        notes=[*dataset.notes, *scoring.notes],
        warning=trained_on_warning(model.weights_header, dataset),
    )
