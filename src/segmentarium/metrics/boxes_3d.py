"""Average precision of boxes in space: by the distance of centres (nuScenes, Argoverse 2) and by their overlap (KITTI).

Each follows its official code: nuScenes' devkit (1.1), KITTI's with 40 recalls, Argoverse 2's (av2-api).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from segmentarium.layers.turned_boxes import iou_3d, iou_from_above

DISTANCES = (0.5, 1.0, 2.0, 4.0)  # metres between centres
TRUE_POSITIVE = 2.0  # at which distance errors of true positives are measured
NOTHING: np.ndarray = np.zeros((0, 9))


@dataclass(frozen=True)
class ScanBoxes:
    """The boxes of one scan, found or labelled.

    boxes    (N, 7 or 9); labels (N,)
    scores   (N,), of what was found
    counted  (N,) bool, of what is labelled: False for what need not be found, and whose finding is no mistake (KITTI's other
             levels) or that is left out (the others); None: all
    levels   (N,) of KITTI, 0 to 2 and beyond: of what is labelled, the first level that wants it found; of what was found, the
             first at which it may be wrong; None: all
    attributes   (N,) of nuScenes, -1: it has none; None: not known
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    counted: np.ndarray | None = None
    levels: np.ndarray | None = None
    attributes: np.ndarray | None = None

    def of(self, label: int) -> np.ndarray:
        return np.flatnonzero(self.labels == label)

    def those(self, kept: np.ndarray) -> ScanBoxes:
        """The boxes of these numbers, or where this (N,) is True."""
        others = (self.scores, self.counted, self.levels, self.attributes)
        return ScanBoxes(
            self.boxes[kept], self.labels[kept], *(None if part is None else part[kept] for part in others)
        )


def _wanted(scan: ScanBoxes, label: int) -> np.ndarray:
    """The boxes of a class that a score counts."""
    here = scan.of(label)
    return here if scan.counted is None else here[scan.counted[here]]


def angle_between(a: np.ndarray, b: np.ndarray, period: float = 2 * math.pi) -> np.ndarray:
    """The absolute difference of angles that come again after `period`: 0 to half of it."""
    away = np.abs(a - b) % period
    return np.minimum(away, period - away)


def aligned_overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Shared volume over joint volume of boxes (N, 7) that are laid into each other, by their sizes alone."""
    shared = np.minimum(a[:, 3:6], b[:, 3:6]).prod(1)
    return shared / np.maximum(a[:, 3:6].prod(1) + b[:, 3:6].prod(1) - shared, 1e-12)


@dataclass
class Matched:
    """Of a class at one distance, what was found in the order of scores.

    hit      (D,) bool: it found a labelled box
    scores   (D,)
    found, labelled   (H, 7 or 9) boxes of the hits, and those that they found
    pairs    of each hit the scan, and the numbers of both
    wanted   number of labelled boxes
    """

    hit: np.ndarray
    scores: np.ndarray
    found: np.ndarray
    labelled: np.ndarray
    pairs: list[tuple[int, int, int]]
    wanted: int


def match_centres(
    found: Sequence[ScanBoxes], labelled: Sequence[ScanBoxes], label: int, distance: float, *, nearest: bool = False
) -> Matched:
    """Greedy, over all scans the best first: each found box takes the nearest labelled box of its scan that nobody has, if the
    centres, seen from above, are less than `distance` apart.

    nearest   it takes the nearest, or none where somebody has that
    """
    wanted = [_wanted(scan, label) for scan in labelled]
    rows = [
        (scan, i, float(one.scores[i]))
        for scan, one in enumerate(found)
        for i in one.of(label)
        if one.scores is not None
    ]
    rows.sort(key=lambda row: -row[2])  # stable: as found where scores are equal
    taken: list[set[int]] = [set() for _ in labelled]
    hit, pairs = [], []
    for scan, i, _ in rows:
        free = [j for j in wanted[scan] if nearest or j not in taken[scan]]
        away = (
            np.linalg.norm(labelled[scan].boxes[free, :2] - found[scan].boxes[i, :2], axis=1)
            if free
            else np.array([np.inf])
        )
        best = int(away.argmin())
        hit.append(bool(away[best] < distance) and free[best] not in taken[scan])
        if hit[-1]:
            taken[scan].add(free[best])
            pairs.append((scan, int(i), int(free[best])))
    return Matched(
        np.array(hit, bool),
        np.array([row[2] for row in rows]),
        np.array([found[scan].boxes[i] for scan, i, _ in pairs]) if pairs else NOTHING,
        np.array([labelled[scan].boxes[j] for scan, _, j in pairs]) if pairs else NOTHING,
        pairs,
        sum(map(len, wanted)),
    )


# nuScenes ---------------------------------------------------------------------------------------------------------------


def nuscenes_ap(matched: Matched, least_recall: float = 0.1, least_precision: float = 0.1) -> float:
    """Precision interpolated at recalls 0, 0.01, …, 1; those up to `least_recall` do not count, and of each precision
    `least_precision` is taken away.  0 where nothing was labelled or found."""
    if not matched.wanted or not matched.hit.any():
        return 0.0
    positives = np.cumsum(matched.hit)
    precision, recall = positives / np.arange(1, len(positives) + 1), positives / matched.wanted
    at = np.interp(np.linspace(0, 1, 101), recall, precision, right=0)
    counted = at[round(100 * least_recall) + 1 :] - least_precision
    return float(np.clip(counted, 0, None).mean() / (1 - least_precision))


def _mean_error(errors: np.ndarray, matched: Matched, least_recall: float = 0.1) -> float:
    """The running mean of the hits' errors, averaged over the recalls above `least_recall` that are reached; 1 where none is."""
    if not matched.wanted or not matched.hit.any():
        return 1.0
    known = np.cumsum(~np.isnan(errors))
    if not known[-1]:
        return 1.0
    running = np.where(known > 0, np.nancumsum(errors) / np.maximum(known, 1), 0)
    grid = np.linspace(0, 1, 101)
    recall = np.cumsum(matched.hit) / matched.wanted
    confidence = np.interp(grid, recall, matched.scores, right=0)
    hits = matched.scores[matched.hit]
    at = np.interp(confidence[::-1], hits[::-1], running[::-1])[::-1]
    first = round(100 * least_recall) + 1
    reached = np.flatnonzero(confidence)
    last = int(reached[-1]) if len(reached) else 0
    return 1.0 if last < first else float(at[first : last + 1].mean())


def nuscenes_scores(
    found: Sequence[ScanBoxes], labelled: Sequence[ScanBoxes], classes: Sequence[str]
) -> dict[str, float | dict[str, float]]:
    """{"map", "nds", "mate", "mase", "maoe", "mave", "maae", "ap": by class}.

    Errors of place (metres), size (1 - overlap when laid into each other), angle (radians; of barriers by half turns, of cones
    none), speed (metres a second) and attribute (share that differs; both of barriers and cones none) are those of pairs within
    2 m.  "nds" weighs the mAP 5 and the five errors 1 each, over 10.  Where attributes or speeds are not known their error is
    left out, and it divides by 9 or 8: that is not the official score.
    """
    ap, errors = {}, {"mate": [], "mase": [], "maoe": [], "mave": [], "maae": []}
    attributed = any(scan.attributes is not None for scan in labelled)
    for label, name in enumerate(classes):
        ap[name] = float(np.mean([nuscenes_ap(match_centres(found, labelled, label, d)) for d in DISTANCES]))
        pairs = match_centres(found, labelled, label, TRUE_POSITIVE)
        ours, theirs = pairs.found, pairs.labelled
        both = ours.shape[1] == theirs.shape[1] == 9
        period = math.pi if name == "barrier" else 2 * math.pi
        still = name in ("barrier", "traffic_cone")
        measured = {
            "mate": np.linalg.norm(ours[:, :2] - theirs[:, :2], axis=1),
            "mase": 1 - aligned_overlap(ours, theirs),
            "maoe": None if name == "traffic_cone" else angle_between(ours[:, 6], theirs[:, 6], period),
            "mave": None if still or not both else np.linalg.norm(ours[:, 7:9] - theirs[:, 7:9], axis=1),
            "maae": None if still or not attributed else _attribute_errors(found, labelled, pairs.pairs),
        }
        for error, values in measured.items():
            if values is not None:
                errors[error].append(_mean_error(values, pairs))
    mean = float(np.mean(list(ap.values())))
    means = {name: float(np.mean(values)) for name, values in errors.items() if values}
    nds = (5 * mean + sum(max(0.0, 1 - value) for value in means.values())) / (5 + len(means))
    return {"map": mean, "nds": nds, **means, "ap": ap}


def _attribute_errors(
    found: Sequence[ScanBoxes], labelled: Sequence[ScanBoxes], pairs: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """Of each pair 1 where the attributes differ, else 0; not a number where the labelled box has none."""
    errors = []
    for scan, i, j in pairs:
        ours, theirs = found[scan].attributes, labelled[scan].attributes
        wanted = -1 if theirs is None else theirs[j]
        errors.append(np.nan if wanted < 0 else float(ours is None or ours[i] != wanted))
    return np.array(errors)


# Argoverse 2 ------------------------------------------------------------------------------------------------------------


def argoverse_ap(matched: Matched) -> float:
    """Precision, made monotone, at 100 evenly spaced recalls of which the last is 1 and the first 0; 0 without any hit."""
    if not matched.wanted or not matched.hit.any():
        return 0.0
    positives = np.cumsum(matched.hit)
    precision, recall = positives / np.arange(1, len(positives) + 1), positives / matched.wanted
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.interp(np.linspace(0, 1, 100), recall, precision, right=0).mean())


def argoverse_scores(
    found: Sequence[ScanBoxes],
    labelled: Sequence[ScanBoxes],
    classes: Sequence[str],
    *,
    most: int = 100,
    reach: float = 150.0,
) -> dict[str, float | dict[str, float]]:
    """{"cds", "map", "ate", "ase", "aoe", "ap": by class}: the composite score is the AP times the mean of 1 - error / worst,
    of place (worst: 2 m), size (1) and angle (pi), of pairs within 2 m.

    most    best boxes of a class and scan that count
    reach   metres from the vehicle within which boxes count

    Each found box stands for its nearest labelled one alone; classes without a labelled box are left out.  The region of
    interest, boxes with a corner on the drivable area grown by 5 m, is the caller's to leave out beforehand.
    """
    found = [_best(scan, most, reach) for scan in found]
    labelled = [_within(scan, reach) for scan in labelled]
    rows: dict[str, list[float]] = {"cds": [], "map": [], "ate": [], "ase": [], "aoe": []}
    ap = {}
    for label, name in enumerate(classes):
        if not any(len(_wanted(scan, label)) for scan in labelled):
            continue
        score = float(
            np.mean([argoverse_ap(match_centres(found, labelled, label, d, nearest=True)) for d in DISTANCES])
        )
        pairs = match_centres(found, labelled, label, TRUE_POSITIVE, nearest=True)
        ours, theirs = pairs.found, pairs.labelled
        hit = len(ours) > 0
        errors = (
            float(np.linalg.norm(ours[:, :3] - theirs[:, :3], axis=1).mean()) if hit else TRUE_POSITIVE,
            float((1 - aligned_overlap(ours, theirs)).mean()) if hit else 1.0,
            float(angle_between(ours[:, 6], theirs[:, 6]).mean()) if hit else math.pi,
        )
        share = np.mean([1 - error / worst for error, worst in zip(errors, (TRUE_POSITIVE, 1.0, math.pi), strict=True)])
        ap[name] = score
        for key, value in zip(rows, (score * float(share), score, *errors), strict=True):
            rows[key].append(value)
    return {key: float(np.mean(values)) if values else 0.0 for key, values in rows.items()} | {"ap": ap}


def _within(scan: ScanBoxes, reach: float) -> ScanBoxes:
    return scan.those(np.flatnonzero(np.linalg.norm(scan.boxes[:, :3], axis=1) <= reach))


def _best(scan: ScanBoxes, most: int, reach: float) -> ScanBoxes:
    scan = _within(scan, reach)
    assert scan.scores is not None
    order = np.argsort(-scan.scores, kind="stable")
    rank = np.empty(len(order), int)
    for label in np.unique(scan.labels):
        mine = order[scan.labels[order] == label]
        rank[mine] = np.arange(len(mine))
    return scan.those(np.flatnonzero(rank < most))


# KITTI ------------------------------------------------------------------------------------------------------------------

OVERLAPS = {"car": 0.7, "pedestrian": 0.5, "cyclist": 0.5}  # by the class's name, in any case; others 0.5
RECALLS = 40
LEVELS = ("easy", "moderate", "hard")
RANKED = 1  # the level by which KITTI ranks


def kitti_ap(
    found: Sequence[ScanBoxes],
    labelled: Sequence[ScanBoxes],
    label: int,
    least: float,
    *,
    from_above: bool = False,
    level: int | None = None,
) -> float:
    """The mean of the best precision at or behind each of 40 recalls, 1/40 to 1.

    least       overlap that a pair needs, strictly more
    from_above  overlap seen from above instead of in space
    level       labelled boxes of a further one do not count, and found ones of a further one are no mistakes; None: all do

    Within a scan each labelled box, in its order, takes the found one with the best score (for the thresholds) and then the best
    overlap among those that reach it, one that may be wrong before others; labelled boxes that do not count swallow what is
    found of them.
    """
    overlap = iou_from_above if from_above else iou_3d
    scans = []
    for ours, theirs in zip(found, labelled, strict=True):
        mine, real = ours.of(label), theirs.of(label)
        assert ours.scores is not None
        pairs = overlap(
            torch.from_numpy(theirs.boxes[real, :7]).double(), torch.from_numpy(ours.boxes[mine, :7]).double()
        )
        counted = np.ones(len(real), bool) if theirs.counted is None else theirs.counted[real]
        full = np.ones(len(mine), bool)
        if level is not None:
            counted = counted if theirs.levels is None else counted & (theirs.levels[real] <= level)
            full = full if ours.levels is None else ours.levels[mine] <= level
        scans.append((pairs.numpy() > least, pairs.numpy(), ours.scores[mine].astype(np.float64), counted, full))
    wanted = sum(int(counted.sum()) for *_, counted, _ in scans)
    if not wanted:
        return 0.0
    scores = [score for near, _, points, *others in scans for score in _thresholds(near, points, *others)]
    precision = np.zeros(RECALLS + 1)
    for i, threshold in enumerate(_at_recalls(sorted(scores, reverse=True), wanted)):
        right = wrong = 0
        for near, shares, points, counted, full in scans:
            hits, others = _count(near, shares, points >= threshold, counted, full)
            right, wrong = right + hits, wrong + others
        precision[i] = right / max(right + wrong, 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(precision[1:].mean())


def _thresholds(near: np.ndarray, scores: np.ndarray, counted: np.ndarray, full: np.ndarray) -> list[float]:
    """The scores of true positives, when each labelled box takes the surest that reaches it."""
    taken = np.zeros(len(scores), bool)
    kept = []
    for row, counts in zip(near, counted, strict=True):
        free = np.flatnonzero(row & ~taken)
        if len(free):
            best = free[scores[free].argmax()]
            taken[best] = True
            if counts and full[best]:
                kept.append(float(scores[best]))
    return kept


def _at_recalls(scores: Sequence[float], wanted: int) -> list[float]:
    """Of sorted scores those at which recall comes nearest to 0, 1/40, 2/40, …"""
    chosen, recall = [], 0.0
    for i, score in enumerate(scores):
        left, right = (i + 1) / wanted, (i + 2) / wanted if i < len(scores) - 1 else (i + 1) / wanted
        if right - recall < recall - left and i < len(scores) - 1:
            continue
        chosen.append(score)
        recall += 1 / RECALLS
    return chosen[: RECALLS + 1]


def _count(
    near: np.ndarray, shares: np.ndarray, kept: np.ndarray, counted: np.ndarray, full: np.ndarray
) -> tuple[int, int]:
    """True and false positives among what is kept, when each labelled box takes what overlaps it most; where no `full`
    one reaches it, the first of the others."""
    taken = np.zeros(len(kept), bool)
    right = 0
    for row, share, counts in zip(near, shares, counted, strict=True):
        free = np.flatnonzero(row & ~taken & kept)
        if len(free):
            whole = free[full[free]]
            best = whole[share[whole].argmax()] if len(whole) else free[0]
            taken[best] = True
            right += int(counts and full[best])
    return right, int((kept & ~taken & full).sum())


def kitti_scores(
    found: Sequence[ScanBoxes],
    labelled: Sequence[ScanBoxes],
    classes: Sequence[str],
    overlaps: Mapping[str, float] = OVERLAPS,
) -> dict[str, float | dict[str, float]]:
    """{"ap3d", "ap_above": means, "ap": by class, in space}, at 40 recalls.

    Where boxes have levels these are of the moderate one, by which KITTI ranks, and "ap3d_easy", "ap_above_easy", "ap_easy" and
    the same of "hard" stand beside them; else all boxes count.
    """
    leasts = [overlaps.get(name.lower(), 0.5) for name in classes]

    def at(level: int | None, ending: str = "") -> dict[str, float | dict[str, float]]:
        space, above = (
            [kitti_ap(found, labelled, i, leasts[i], from_above=flat, level=level) for i in range(len(classes))]
            for flat in (False, True)
        )
        means = {"ap3d": float(np.mean(space)), "ap_above": float(np.mean(above))}
        return {
            f"{name}{ending}": value for name, value in {**means, "ap": dict(zip(classes, space, strict=True))}.items()
        }

    if not any(scan.levels is not None for scan in labelled):
        return at(None)
    others = [at(i, f"_{name}") for i, name in enumerate(LEVELS) if i != RANKED]
    return at(RANKED) | others[0] | others[1]
