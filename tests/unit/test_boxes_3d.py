"""Average precisions of boxes in space, on cases that are worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from segmentarium.metrics.boxes_3d import (
    ScanBoxes,
    argoverse_ap,
    argoverse_scores,
    kitti_ap,
    kitti_scores,
    match_centres,
    nuscenes_ap,
    nuscenes_scores,
)


def box(x: float, y: float = 0.0, *, angle: float = 0.0, length: float = 4.0) -> list[float]:
    return [x, y, 0, length, 2, 1.5, angle]


def scan(boxes: list[list[float]], scores: list[float] | None = None, counted: list[bool] | None = None) -> ScanBoxes:
    return ScanBoxes(
        np.array(boxes, np.float64).reshape(-1, len(boxes[0]) if boxes else 7),
        np.zeros(len(boxes), np.int64),
        None if scores is None else np.array(scores),
        None if counted is None else np.array(counted),
    )


# two cars; found: the first, then a mistake, then the second at 1 m
LABELLED = [scan([box(0), box(20)])]
FOUND = [scan([box(0.2), box(50), box(21)], [0.9, 0.8, 0.7])]


def test_nuscenes_precision_by_hand() -> None:
    matched = match_centres(FOUND, LABELLED, 0, 2.0)
    assert matched.hit.tolist() == [True, False, True]
    # recall 0.5 at precision 1, then 0.5 at 1/2, then 1 at 2/3; between 0.5 and 1 the line from 1/2 to 2/3
    recall = np.arange(11, 101) / 100
    precision = np.where(recall < 0.5, 1, 0.5 + (recall - 0.5) / 0.5 * (2 / 3 - 0.5))
    assert nuscenes_ap(matched) == pytest.approx((precision - 0.1).mean() / 0.9, abs=0.003)
    # at half a metre the second is none
    assert match_centres(FOUND, LABELLED, 0, 0.5).hit.tolist() == [True, False, False]
    assert nuscenes_ap(match_centres(LABELLED_AS_FOUND, LABELLED, 0, 0.5)) == pytest.approx(1)
    assert nuscenes_ap(match_centres([scan([], [])], LABELLED, 0, 0.5)) == 0


LABELLED_AS_FOUND = [scan([box(0), box(20)], [0.5, 0.4])]


def test_a_labelled_box_is_found_once_and_the_next_nearest_is_taken() -> None:
    labelled = [scan([box(0), box(1.5)])]
    twice = [scan([box(0.1), box(0.3), box(0.2)], [0.9, 0.8, 0.7])]
    # nuScenes: the second takes the other car; Argoverse 2: its nearest is taken, so it is a mistake
    assert match_centres(twice, labelled, 0, 2.0).hit.tolist() == [True, True, False]
    assert match_centres(twice, labelled, 0, 2.0, nearest=True).hit.tolist() == [True, False, False]


def test_scans_are_ranked_together_and_matched_apart() -> None:
    labelled = [scan([box(0)]), scan([box(0)])]
    found = [scan([box(0)], [0.3]), scan([box(0), box(0)], [0.9, 0.5])]
    assert match_centres(found, labelled, 0, 1.0).hit.tolist() == [True, False, True]


def test_nuscenes_errors_by_hand() -> None:
    labelled = [scan([[*box(0), 1.0, 0.0], [*box(20), 0.0, math.nan]])]
    found = [scan([[*box(0.5, angle=0.1), 1.0, 0.5], [*box(20, length=5), 3.0, 0.0]], [0.9, 0.8])]
    scores = nuscenes_scores(found, labelled, ("car",))
    # running means .5 and .25 over the recalls: near .5 up to recall a half, then falling to .25
    assert 0.25 < scores["mate"] < 0.5
    assert scores["map"] == pytest.approx((nuscenes_ap(match_centres(found, labelled, 0, 0.5)) + 3) / 4)
    one = nuscenes_scores([scan([[*box(0.5, angle=0.1), 1.0, 0.5]], [0.9])], [scan([[*box(0), 1.0, 0.0]])], ("car",))
    assert (one["mate"], one["mase"], one["maoe"], one["mave"]) == pytest.approx((0.5, 0, 0.1, 0.5))
    assert one["map"] == pytest.approx(0.75)  # half a metre is not less than half a metre
    assert one["nds"] == pytest.approx((5 * 0.75 + 0.5 + 1 + 0.9 + 0.5) / 9)
    barrier = nuscenes_scores([scan([box(0, angle=math.pi)], [0.9])], [scan([box(0)])], ("barrier",))
    assert barrier["maoe"] == pytest.approx(0, abs=1e-9)
    assert "mave" not in barrier
    nothing = nuscenes_scores([scan([], [])], LABELLED, ("car",))
    assert (nothing["map"], nothing["mate"], nothing["nds"]) == (0, 1, 0)


def test_argoverse_scores_by_hand() -> None:
    # precision made monotone: 1 up to recall a half, 2/3 to the end
    recall = np.linspace(0, 1, 100)
    at = np.interp(recall, [0.5, 0.5, 1], [1, 2 / 3, 2 / 3])
    assert argoverse_ap(match_centres(FOUND, LABELLED, 0, 2.0, nearest=True)) == pytest.approx(at.mean())
    found = [scan([box(1.0, angle=math.pi / 2, length=2)], [0.9])]
    scores = argoverse_scores(found, [scan([box(0)])], ("REGULAR_VEHICLE", "BUS"))
    assert (scores["ate"], scores["ase"], scores["aoe"]) == pytest.approx((1, 0.5, math.pi / 2))
    assert scores["map"] == pytest.approx(0.5)  # found at 2 and 4 m, not at half a metre and one
    assert scores["cds"] == pytest.approx(0.5 * (0.5 + 0.5 + 0.5) / 3)
    assert scores["ap"] == {"REGULAR_VEHICLE": pytest.approx(0.5)}  # no bus is labelled
    far = argoverse_scores(
        [scan([box(160)], [0.9])], [scan([box(0), box(160)], counted=[True, False])], ("REGULAR_VEHICLE",)
    )
    assert far["cds"] == 0


def test_kitti_precision_by_hand() -> None:
    # overlap in space with x moved by d: (4 - d) / (4 + d); above 0.7 for d < 0.7
    labelled = [scan([box(0), box(20)])]
    found = [scan([box(0.2), box(50), box(20.5)], [0.9, 0.8, 0.7])]
    # two true positives give the thresholds 0.9 and 0.7 for recalls 0 and 1/40: precision 1, then 2/3; behind, nothing
    assert kitti_ap(found, labelled, 0, 0.7) == pytest.approx(2 / 3 / 40)
    perfect = [scan([box(0), box(20)], [0.9, 0.8])]
    # two true positives give two thresholds of 41
    assert kitti_ap(perfect, labelled, 0, 0.7) == pytest.approx(1 / 40)
    many = [scan([box(5.0 * i) for i in range(41)])]
    same = [scan([box(5.0 * i) for i in range(41)], list(np.linspace(0.9, 0.1, 41)))]
    assert kitti_ap(same, many, 0, 0.7) == pytest.approx(1)
    moved = [scan([box(5.0 * i + 0.8) for i in range(41)], list(np.linspace(0.9, 0.1, 41)))]
    assert kitti_ap(moved, many, 0, 0.7) == 0
    assert kitti_ap(moved, many, 0, 0.5) == pytest.approx(1)


def test_kitti_s_boxes_of_other_levels_are_no_mistakes() -> None:
    many = [box(5.0 * i) for i in range(60)]
    counted = [i < 41 for i in range(60)]
    found = [scan(many, list(np.linspace(0.9, 0.1, 60)))]
    assert kitti_ap(found, [scan(many, counted=counted)], 0, 0.7) == pytest.approx(1)
    # the same, where the others are not labelled at all and are surer: mistakes
    order = [*many[41:], *many[:41]]
    worse = kitti_ap([scan(order, list(np.linspace(0.9, 0.1, 60)))], [scan(many[:41])], 0, 0.7)
    # at recall k / 40 there are k + 1 hits and 19 mistakes, and precision grows to 41 / 60
    assert worse == pytest.approx(41 / 60)
    scores = kitti_scores(found, [scan(many, counted=counted)], ("Car",))
    assert (scores["ap3d"], scores["ap_above"]) == pytest.approx((1, 1))


def leveled(boxes: list[list[float]], levels: list[int], scores: list[float] | None = None) -> ScanBoxes:
    return replace(scan(boxes, scores), levels=np.array(levels))


def test_kitti_s_levels_by_hand() -> None:
    """41 easy cars and 41 hard ones, all found, the easy ones last; behind them one more car of the hard ones' kind."""
    many = [box(5.0 * i) for i in range(82)]
    levels = [2] * 41 + [0] * 41
    labelled = [leveled(many, levels)]
    scores = list(np.linspace(0.9, 0.1, 82))
    # found hard ones are high enough for that level alone
    found = [leveled(many, levels, scores)]
    for level in (0, 1, 2):
        assert kitti_ap(found, labelled, 0, 0.7, level=level) == pytest.approx(1)
    # where nothing is labelled there, what is too low is no mistake at the easy level, and one at the hard
    nothing = [leveled(many[41:], levels[41:])]
    assert kitti_ap(found, nothing, 0, 0.7, level=0) == pytest.approx(1)
    assert kitti_ap(found, nothing, 0, 0.7, level=2) == pytest.approx(41 / 82)  # precision grows to one half
    # of a hard car that is found as high enough for easy, nothing is said at the easy level
    high = [leveled(many, [0] * 82, scores)]
    assert kitti_ap(high, labelled, 0, 0.7, level=0) == pytest.approx(1)
    # an easy car found as one that is too low: not found, at the easy level
    low = [leveled(many, [2] * 82, scores)]
    assert kitti_ap(low, labelled, 0, 0.7, level=0) == 0
    assert kitti_ap(low, labelled, 0, 0.7, level=2) == pytest.approx(1)
    # two on one car: the one that may be wrong stands for it, though the other overlaps more
    double = [leveled([*many[:41], *[box(5.0 * i + 0.3) for i in range(41)]], [2] * 41 + [0] * 41, scores)]
    easy = [leveled(many[:41], [0] * 41)]
    assert kitti_ap(double, easy, 0, 0.7, level=0) == pytest.approx(
        0, abs=1e-9
    )  # thresholds by score: the low ones are surer
    turned = [
        leveled([*many[:41], *[box(5.0 * i + 0.3) for i in range(41)]], [2] * 41 + [0] * 41, scores[41:] + scores[:41])
    ]
    assert kitti_ap(turned, easy, 0, 0.7, level=0) == pytest.approx(1)
    told = kitti_scores(found, nothing, ("Car",))
    assert (told["ap3d_easy"], told["ap3d"], told["ap3d_hard"]) == pytest.approx((1, 1, 0.5))
    assert told["ap_hard"] == {"Car": pytest.approx(0.5)}
    assert told.keys() >= {"ap_above", "ap_above_easy", "ap_above_hard"}
    assert "ap3d_easy" not in kitti_scores(FOUND, LABELLED, ("Car",))


def test_nds_with_attributes_by_hand() -> None:
    cars = [[*box(10.0 * i), 1.0, 0.0] for i in range(4)]
    scores = [0.9, 0.8, 0.7, 0.6]
    labelled = [replace(scan(cars), attributes=np.array([0, 0, 2, -1]))]
    found = [replace(scan(cars, scores), attributes=np.array([0, 0, 0, 0]))]
    told = nuscenes_scores(found, labelled, ("car",))
    # running means of the errors 0, 0, 1 and one that is not known, at the recalls of hits: 0, 0, 1/3, 1/3; between them lines
    recall = np.linspace(0, 1, 101)[11:]
    confidence = np.interp(recall, [0.25, 0.5, 0.75, 1.0], scores)
    wanted = np.interp(confidence[::-1], scores[::-1], [1 / 3, 1 / 3, 0, 0])[::-1].mean()
    assert told["maae"] == pytest.approx(wanted)
    assert 0.1 < wanted < 0.3
    assert told["nds"] == pytest.approx((5 * 1 + 4 + 1 - wanted) / 10)
    plain = nuscenes_scores(found, [scan(cars)], ("car",))
    assert "maae" not in plain
    assert plain["nds"] == pytest.approx(1)
    # none of the labelled has one: the official mean of nothing is 1
    unknown = nuscenes_scores(found, [replace(scan(cars), attributes=np.full(4, -1))], ("car",))
    assert (unknown["maae"], unknown["nds"]) == pytest.approx((1, 0.9))
    cone = nuscenes_scores(found, labelled, ("traffic_cone",))
    assert "maae" not in cone
