"""Object keypoint similarity, COCO's average precision of poses by it, and the percentage of correct keypoints."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

# how far annotators differ, by the square root of the person's area (COCO)
SIGMAS = {
    "nose": 0.026,
    "eye": 0.025,
    "ear": 0.035,
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
}
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MOST = 20  # poses that count in a picture


def sigmas_of(names: Sequence[str]) -> np.ndarray:
    """(J,) of joints by the part in their names, "left_ear" or "Ear (right)"; one that COCO does not have gets the shoulder's."""
    words = (re.split("[^a-z]+", name.lower()) for name in names)
    return np.array([next((SIGMAS[word] for word in name if word in SIGMAS), SIGMAS["shoulder"]) for name in words])


def similarity(found: np.ndarray, joints: np.ndarray, areas: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """(N, J, 2) poses against (M, J, 3) labelled ones with areas (M,) -> (N, M) in [0, 1]: the mean, over the labelled joints,
    of a Gaussian of their distance."""
    squared = ((found[:, None] - joints[None, :, :, :2]) ** 2).sum(-1)
    error = squared / (2 * (2 * sigmas) ** 2 * (areas[:, None] + np.spacing(1)))
    labelled = joints[..., 2] > 0
    return (np.exp(-error) * labelled).sum(-1) / labelled.sum(-1)


def keypoint_scores(
    pictures: Sequence[int],
    found: np.ndarray,
    scores: np.ndarray,
    joints: np.ndarray,
    areas: np.ndarray,
    sigmas: np.ndarray,
) -> dict[str, float]:
    """COCO's AP, AP50 and AP75 of one pose for each labelled person, in 0..1.

    pictures   (N,) which picture a person is in: poses are matched among its persons, best first
    found      (N, J, 2);  scores (N,);  joints (N, J, 3): x, y, and above 0 where labelled;  areas (N,)
    """
    pictures_of = np.asarray(pictures)
    hits, order = [], []
    for picture in np.unique(pictures_of):
        here = np.flatnonzero(pictures_of == picture)
        best = here[np.argsort(-scores[here], kind="stable")][:MOST]
        alike = similarity(found[best], joints[here], areas[here], sigmas)
        hits.append(np.stack([_matched(alike, threshold) for threshold in THRESHOLDS], 1))
        order.append(scores[best])
    by_score = np.argsort(-np.concatenate(order), kind="stable")
    hit = np.concatenate(hits)[by_score]
    precision = np.array([_precision(hit[:, i], len(found)) for i in range(len(THRESHOLDS))])
    return {"ap": float(precision.mean()), "ap50": float(precision[0]), "ap75": float(precision[5])}


def pck(found: np.ndarray, joints: np.ndarray, boxes: np.ndarray, share: float = 0.2) -> float:
    """The percentage of correct keypoints, in 0..1: of all labelled joints, those that are found within `share` of the longer
    side of their person's box.

    found   (N, J, 2);  joints (N, J, 3): x, y, and above 0 where labelled;  boxes (N, 4) x, y, width, height
    """
    far = np.linalg.norm(found - joints[..., :2], axis=-1)
    labelled = joints[..., 2] > 0
    right = (far <= share * boxes[:, 2:].max(1)[:, None]) & labelled
    return float(right.sum() / max(labelled.sum(), 1))


def _matched(alike: np.ndarray, threshold: float) -> np.ndarray:
    """(N, M), poses best first -> (N,) bool: a labelled person that no better pose has is similar enough."""
    free = alike.copy()
    matched = np.zeros(len(alike), bool)
    for pose, row in enumerate(free):
        person = int(row.argmax())
        if row[person] >= threshold:
            matched[pose] = True
            free[:, person] = -1
    return matched


def _precision(hit: np.ndarray, persons: int) -> float:
    """The mean over 101 recalls of the greatest precision at that recall or more."""
    right = np.cumsum(hit)
    recall, precision = right / persons, right / np.arange(1, len(hit) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(envelope, 0.0)[place].mean())
