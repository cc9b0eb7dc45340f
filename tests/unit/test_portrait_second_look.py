"""The second look: what is small is seen from nearer, what is large is left alone, and crops leave no seams."""

from __future__ import annotations

import numpy as np

from segmentarium.matting.second_look import boxes, look_closer, quarters


class Eye:
    """Sees bright pixels, and remembers how large the pictures were that it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, ...]] = []

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self.shown.append(image.shape[:2])
        return (image[..., 0] > 128).astype(np.float32)


def picture(*people: tuple[slice, slice], size: tuple[int, int] = (320, 480)) -> np.ndarray:
    image = np.zeros((*size, 3), np.uint8)
    for rows, columns in people:
        image[rows, columns] = 255
    return image


def small_copy(image: np.ndarray) -> np.ndarray:
    """What a first look at half the size found: half sure."""
    return np.where(image[::2, ::2, 0] > 128, np.float32(0.55), np.float32(0.1))


def test_a_small_person_is_looked_at_alone() -> None:
    image, eye = picture((slice(100, 160), slice(200, 230))), Eye()
    found = look_closer(eye, image, small_copy(image))
    assert len(eye.shown) == 1
    assert max(eye.shown[0]) <= 130  # the region and half of it on each side
    assert found.shape == (320, 480)
    assert (found[105:155, 205:225] == 1).all()  # what the closer look says, not the mean
    assert np.isclose(found[0, 0], 0.1)  # elsewhere the first look's answer


def test_large_people_are_not_looked_at_again() -> None:
    image, eye = picture((slice(20, 300), slice(100, 400))), Eye()
    first = small_copy(image)
    assert look_closer(eye, image, first) is first
    assert eye.shown == []


def test_where_nobody_was_seen_four_quarters_are_looked_at() -> None:
    image, eye = picture((slice(100, 140), slice(200, 220))), Eye()
    found = look_closer(eye, image, np.full((160, 240), 0.1, np.float32))
    assert eye.shown == [(192, 288)] * 4
    assert found[120, 210] > 0.5
    covered = np.zeros((320, 480), int)
    for box in quarters((320, 480)):
        covered[box.top : box.bottom, box.left : box.right] += 1
    assert covered.min() == 1


def test_people_close_together_share_a_crop_and_there_are_few_crops() -> None:
    seen = np.zeros((320, 480), np.float32)
    seen[100:130, 100:110] = seen[100:130, 140:150] = 1
    assert len(boxes(seen)) == 1
    many = np.zeros((640, 640), np.float32)
    for row in (20, 320, 600):
        many[row : row + 20, 20:30] = many[row : row + 20, 320:330] = many[row : row + 20, 600:610] = 1
    assert len(boxes(many)) == 4


def test_answers_fade_in_so_that_crops_leave_no_seam() -> None:
    image = picture((slice(100, 160), slice(200, 230)))
    first = np.where(image[::2, ::2, 0] > 128, np.float32(0.6), np.float32(0.4))
    found = look_closer(lambda crop: np.ones(crop.shape[:2], np.float32), image, first)
    assert np.abs(np.diff(found[130])).max() < 0.2
