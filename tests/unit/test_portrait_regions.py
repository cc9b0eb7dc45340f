"""People are there or not: regions that are in doubt all over go, sure ones are solid, edges stay soft."""

from __future__ import annotations

import numpy as np
import pytest

from segmentarium.matting.regions import SOFT, check_hold, decided, with_held


def discs(*people: tuple[int, int, int, float], size: tuple[int, int] = (120, 200)) -> np.ndarray:
    """Probability of discs (row, column, radius, height) with slopes of four pixels."""
    y, x = np.mgrid[: size[0], : size[1]]
    found = np.zeros(size, np.float32)
    for row, column, radius, height in people:
        distance = np.hypot(y - row, x - column)
        found = np.maximum(found, height * np.clip((radius + 2 - distance) / 4, 0, 1))
    return found.astype(np.float32)


def test_a_ghost_is_dropped_whole_and_a_person_is_solid() -> None:
    probability = discs((60, 50, 30, 0.9), (60, 150, 25, 0.65))
    result = decided(probability)
    assert result[60, 50] == 1  # 0.9 before
    assert (result[:, 120:] <= 0.5).all()
    assert (result[50:70, 140:160] == 0).all()  # 0.65 before: nowhere sure


def test_a_doubtful_part_of_a_sure_person_is_there() -> None:
    probability = discs((60, 50, 30, 0.95), (60, 100, 30, 0.55))  # one region: a body, and its half-seen other half
    result = decided(probability)
    assert (result[55:65, 40:120] == 1).all()


def test_edges_stay_soft_and_doubt_far_from_people_goes() -> None:
    probability = discs((60, 60, 30, 0.95))
    probability[100:110, 150:190] = 0.4
    result = decided(probability)
    near = np.abs(np.hypot(*(np.mgrid[:120, :200] - np.array([60, 60])[:, None, None])) - 30) < 2
    assert np.array_equal(result[near], probability[near])
    assert (result[100:110, 150:190] == 0).all()
    assert SOFT * 200 < 10


@pytest.mark.parametrize(
    ("people", "columns"), [("all", [40, 100, 160]), ("largest", [40]), (2, [40, 160]), (9, [40, 100, 160])]
)
def test_so_many_of_the_largest(people: str | int, columns: list[int]) -> None:
    probability = discs((60, 40, 28, 1.0), (60, 100, 15, 1.0), (60, 160, 22, 1.0))
    result = decided(probability, people)
    assert [column for column in (40, 100, 160) if result[60, column] == 1] == columns


def test_nobody_and_everybody() -> None:
    assert (decided(np.full((20, 30), 0.3, np.float32)) == 0).all()
    assert (decided(np.full((20, 30), 0.9, np.float32)) == 1).all()


@pytest.mark.parametrize("people", ["some", 0, -1])
def test_what_people_can_be(people: str | int) -> None:
    with pytest.raises(ValueError, match="give all, largest, or a number of 1 or more"):
        decided(np.zeros((4, 4), np.float32), people)


def test_who_was_there_a_frame_ago_stays_with_less() -> None:
    faint = np.zeros((60, 80), np.float32)
    faint[10:50, 10:40] = 0.7  # above one half, not sure
    was = np.zeros_like(faint)
    was[10:50, 10:40] = 1
    assert decided(faint).max() == 0
    assert (decided(faint, before=was)[20:40, 20:30] == 1).all()
    elsewhere = np.roll(was, 35, 1)
    assert decided(faint, before=elsewhere).max() == 0


def test_what_a_person_holds_is_kept_or_dropped_and_edges_stay() -> None:
    person = discs((60, 60, 40, 0.95))
    bag = discs((60, 106, 8, 0.4))  # touches the person; rather not one
    kept = with_held(np.maximum(person, bag), "keep")
    assert kept[60, 106] > 0.5
    assert decided(kept)[60, 106] == 1
    flag = discs((60, 106, 8, 0.7))
    dropped = with_held(np.maximum(person, flag), "drop")
    assert dropped[60, 106] < 0.5
    assert decided(np.maximum(person, flag))[60, 106] == 1  # as the network says
    for hold in ("keep", "drop"):
        assert np.array_equal(with_held(person, hold), person)  # type: ignore[arg-type]


def test_a_body_in_doubt_is_no_thing_and_what_touches_nobody_is_not_held() -> None:
    torso, legs = discs((40, 60, 25, 0.95)), discs((80, 60, 22, 0.7))
    assert with_held(np.maximum(torso, legs), "drop")[80, 60] > 0.5  # too large a part of who is there
    apart = discs((60, 170, 10, 0.4))
    assert with_held(np.maximum(torso, apart), "keep")[60, 170] < 0.5


def test_hold_is_keep_or_drop() -> None:
    check_hold(None)
    with pytest.raises(ValueError, match="give keep or drop"):
        check_hold("throw")  # type: ignore[arg-type]
