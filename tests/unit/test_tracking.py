"""Segments keep their numbers from frame to frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segmentarium.inference import SegmentPredictor, SegmentTracker, predict
from segmentarium.inference.segment_map import SegmentMap, measured
from segmentarium.inference.video import segment_video
from segmentarium.media.sources import expand
from tests.unit.mask_material import Colours, painted


def frame(*boxes: tuple[int, int, int, int, int]) -> SegmentMap:
    """Boxes of (class, top, left, bottom, right), numbered in their order."""
    ids = np.zeros((40, 60), np.int32)
    for number, (_, top, left, bottom, right) in enumerate(boxes, 1):
        ids[top:bottom, left:right] = number
    return measured(ids, {number: (box[0], 0.9) for number, box in enumerate(boxes, 1)})


def where(found: SegmentMap) -> dict[tuple[int, int], int]:
    """Upper left corner -> number"""
    return {(one.box[1], one.box[0]): one.id for one in found.segments}


def test_numbers_follow_what_moves_whatever_the_order() -> None:
    tracker = SegmentTracker()
    first = tracker.update(frame((0, 0, 0, 10, 10), (0, 20, 20, 30, 30)))
    assert where(first) == {(0, 0): 1, (20, 20): 2}
    second = tracker.update(frame((0, 21, 22, 31, 32), (0, 2, 2, 12, 12)))
    assert where(second) == {(21, 22): 2, (2, 2): 1}
    assert np.array_equal(second.ids == 1, frame((0, 2, 2, 12, 12)).ids == 1)
    third = tracker.update(frame((0, 22, 24, 32, 34), (0, 0, 40, 8, 48)))  # one is gone, one is new
    assert where(third) == {(22, 24): 2, (0, 40): 3}


def test_what_is_gone_is_waited_for_and_no_other_class_takes_its_number() -> None:
    tracker = SegmentTracker(patience=2)
    tracker.update(frame((0, 0, 0, 10, 10)))
    assert where(tracker.update(frame())) == {}
    assert where(tracker.update(frame((1, 20, 20, 30, 30)))) == {(20, 20): 2}
    assert where(tracker.update(frame((0, 1, 1, 11, 11))))[1, 1] == 1
    for _ in range(3):
        tracker.update(frame())
    assert where(tracker.update(frame((0, 1, 1, 11, 11)))) == {(1, 1): 3}
    assert where(tracker.update(frame((1, 1, 1, 11, 11)))) == {(1, 1): 4}


def test_the_best_assignment_in_all_not_the_first_best() -> None:
    """The new left one overlaps the old right one most, which the new right one needs."""
    tracker = SegmentTracker(same=0.05)
    tracker.update(frame((0, 0, 0, 10, 10), (0, 0, 10, 10, 22)))
    found = tracker.update(frame((0, 0, 7, 10, 16), (0, 0, 16, 10, 28)))
    assert where(found) == {(0, 7): 1, (0, 16): 2}


def test_stuff_has_one_number_and_another_size_begins_anew() -> None:
    tracker = SegmentTracker(things=(0,))
    first = tracker.update(frame((1, 0, 0, 10, 10), (0, 20, 0, 30, 10)))
    assert where(first) == {(0, 0): 1, (20, 0): 2}
    assert where(tracker.update(frame((1, 30, 30, 40, 40)))) == {(30, 30): 1}
    ids = np.zeros((10, 10), np.int32)
    ids[2:5, 2:5] = 1
    assert where(tracker.update(measured(ids, {1: (0, 0.5)}))) == {(2, 2): 3}
    with pytest.raises(ValueError, match="same is 0 and patience 3"):
        SegmentTracker(same=0, patience=3)


def test_500_segments() -> None:
    ids = np.arange(1, 501, dtype=np.int32).reshape(20, 25).repeat(4, 0).repeat(4, 1)
    known = {number: (number % 3, 0.5) for number in range(1, 501)}
    tracker = SegmentTracker()
    first = tracker.update(measured(ids, known))
    moved = tracker.update(measured(np.roll(ids, 1, 1), known))
    assert (np.roll(first.ids, 1, 1) == moved.ids)[:, 4:-4].all()


def test_a_video_whose_colours_do_not_jump(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "bgr0"
        for i in range(4):
            # the second cat comes in the middle; queries answer in another order than objects came
            boxes = [(1, 10, 10 + 4 * i, 30, 40 + 4 * i), (2, 40, 50 - 4 * i, 60, 80 - 4 * i)]
            image = painted((64, 96), *boxes, *([(0, 0, 70, 20, 95)] if i > 1 else []))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    results = list(predict(str(path), Colours(), task="instance"))
    numbers = [{one.label: one.id for one in result.segments.segments if one.area != 500} for result in results]
    assert len(results) == 4
    assert all(one == numbers[0] for one in numbers)
    assert [len(result.segments) for result in results] == [2, 2, 3, 3]
    done = segment_video(
        SegmentPredictor(Colours()), expand(str(path))[0], tmp_path / "out", ("overlay", "mask", "json")
    )
    assert done.frames == 4
    assert all(file.is_file() for file in done.files)
    assert done.areas["dog"] == pytest.approx(600 / (64 * 96), rel=0.01)
