"""The metrics against brute force, and what all of them promise: ignored pixels, merging, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.metrics import Accumulator, BoundaryIoU, CalibrationError, ConfusionMatrix, TopK, mask_to_boundary
from segmentarium.metrics.boundary import label_boundary

METRICS = {"confusion": ConfusionMatrix, "boundary": BoundaryIoU, "calibration": CalibrationError}
every_metric = pytest.mark.parametrize("build", METRICS.values(), ids=METRICS.keys())
classes = pytest.mark.parametrize("num_classes", [1, 2, 5])


def _case(num_classes: int, size: tuple[int, int] = (48, 64), void: float = 0.1) -> tuple[Tensor, Tensor]:
    """Blobs as targets, and scores that are right about most of them."""
    num_labels = max(2, num_classes)
    target = F.interpolate(torch.randn(3, num_labels, 6, 8), size=size, mode="bilinear").argmax(1)
    scores = F.one_hot(target, num_labels).permute(0, 3, 1, 2) + 0.6 * torch.randn(3, num_labels, *size)
    target[torch.rand(target.shape) < void] = 255
    probability = (3.0 * scores).softmax(1)
    return (probability[:, 1:] if num_classes == 1 else probability), target


def _labels(probability: Tensor) -> Tensor:
    return (probability[:, 0] > 0.5).long() if probability.shape[1] == 1 else probability.argmax(1)


def _update(metric: Accumulator, probability: Tensor, target: Tensor) -> Tensor:
    if isinstance(metric, CalibrationError):
        metric.update(probability, target)
    else:
        assert isinstance(metric, ConfusionMatrix | BoundaryIoU)
        metric.update(_labels(probability), target)
    return metric.counts


@every_metric
@classes
def test_ignored_pixels_change_nothing(build: Callable[..., Accumulator], num_classes: int) -> None:
    probability, target = _case(num_classes)
    counts = _update(build(num_classes), probability, target)
    other, _ = _case(num_classes)
    changed = probability.where((target != 255).unsqueeze(1), other)
    assert not torch.equal(_labels(changed), _labels(probability))
    assert torch.equal(_update(build(num_classes), changed, target), counts)
    assert counts.sum() > 0


@every_metric
@classes
def test_nothing_but_ignored_pixels(build: Callable[..., Accumulator], num_classes: int) -> None:
    probability, target = _case(num_classes, void=2.0)
    assert not _update(build(num_classes), probability, target).any()


@every_metric
@classes
def test_parts_merge_to_the_whole(build: Callable[..., Accumulator], num_classes: int) -> None:
    probability, target = _case(num_classes)
    whole = build(num_classes)
    _update(whole, probability, target)
    part, rest = build(num_classes), build(num_classes)
    _update(part, probability[:1], target[:1])
    _update(rest, probability[1:2], target[1:2])
    _update(rest, probability[2:], target[2:])
    torch.testing.assert_close(part.merge(rest).counts, whole.counts)
    assert part.all_reduce() is part  # without a process group it has nothing to add
    torch.testing.assert_close(part.counts, whole.counts)
    part.reset()
    assert not part.counts.any()
    with pytest.raises(ValueError, match="cannot merge"):
        part.merge(CalibrationError(2, num_bins=7) if build is CalibrationError else build(9))


@every_metric
def test_counts_of_all_processes_add_up(build: Callable[..., Accumulator], tmp_path) -> None:
    probability, target = _case(5)
    metric = build(5)
    expected = 1 * _update(metric, probability, target)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        assert torch.equal(metric.all_reduce().counts, expected)
    finally:
        torch.distributed.destroy_process_group()


@classes
def test_confusion_matrix_equals_counting(num_classes: int) -> None:
    probability, target = _case(num_classes, size=(12, 16))
    prediction, num_labels = _labels(probability), max(2, num_classes)
    metric = ConfusionMatrix(num_classes)
    metric.update(prediction, target)
    counts = np.zeros((num_labels, num_labels), dtype=np.int64)
    for truth, guess in zip(target.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if truth != 255:
            counts[truth, guess] += 1
    np.testing.assert_array_equal(metric.counts.numpy(), counts)

    names = [f"class {index}" for index in range(num_labels)]
    summary = metric.summary(names)
    iou = [counts[c, c] / (counts[c].sum() + counts[:, c].sum() - counts[c, c]) for c in range(num_labels)]
    accuracy = [counts[c, c] / counts[c].sum() for c in range(num_labels)]
    assert summary["iou"] == pytest.approx(dict(zip(names, iou, strict=True)))
    assert summary["accuracy"] == pytest.approx(dict(zip(names, accuracy, strict=True)))
    assert summary["miou"] == pytest.approx(np.mean(iou))
    assert summary["macc"] == pytest.approx(np.mean(accuracy))
    assert summary["aacc"] == pytest.approx(np.trace(counts) / counts.sum())
    assert summary["fwiou"] == pytest.approx(np.dot(iou, counts.sum(1)) / counts.sum())


def test_a_class_that_never_occurs_is_nan_and_outside_the_mean() -> None:
    metric = ConfusionMatrix(4)
    metric.update(torch.tensor([[[0, 0, 1, 2]]]), torch.tensor([[[0, 1, 1, 1]]]))
    assert metric.iou().tolist() == pytest.approx([1 / 2, 1 / 3, 0.0, math.nan], nan_ok=True)
    assert metric.accuracy().tolist() == pytest.approx([1.0, 1 / 3, math.nan, math.nan], nan_ok=True)
    summary = metric.summary()
    assert summary["miou"] == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert summary["macc"] == pytest.approx((1 + 1 / 3) / 2)
    assert summary["fwiou"] == pytest.approx(0.25 / 2 + 0.75 / 3)
    assert summary["iou"] == pytest.approx({"0": 1 / 2, "1": 1 / 3, "2": 0.0, "3": math.nan}, nan_ok=True)
    assert math.isnan(ConfusionMatrix(4).summary()["miou"])


def test_counts_stay_exact_beyond_what_floats_hold() -> None:
    metric = ConfusionMatrix(2)
    metric.counts[1, 1] = 2**53
    metric.update(torch.ones(1, 1, 1, dtype=torch.long), torch.ones(1, 1, 1, dtype=torch.long))
    assert metric.counts[1, 1].item() == 2**53 + 1


def _erode(mask: np.ndarray, steps: int) -> np.ndarray:
    """Erosion by the 3×3 box, step by step; outside the image nothing is set."""
    for _ in range(steps):
        padded = np.pad(mask, 1)
        height, width = mask.shape
        mask = np.all([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)
    return mask


@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.04, 0.2, 1.5])
def test_boundary_region_is_what_repeated_erosion_takes(ratio: float) -> None:
    _, target = _case(2, size=(37, 50), void=0.0)
    steps = max(1, round(ratio * math.hypot(37, 50)))
    expected = np.stack([mask & ~_erode(mask, steps) for mask in target.numpy().astype(bool)])
    np.testing.assert_array_equal(mask_to_boundary(target, ratio).numpy(), expected)


@classes
def test_boundary_iou_equals_a_loop_over_masks(num_classes: int) -> None:
    probability, target = _case(num_classes, size=(37, 50))
    prediction, num_labels, ratio = _labels(probability), max(2, num_classes), 0.05
    metric = BoundaryIoU(num_classes, ratio)
    steps = round(ratio * math.hypot(37, 50))
    both, either = np.zeros(num_labels), np.zeros(num_labels)
    for truth, guess in zip(target.numpy(), prediction.numpy(), strict=True):
        void = truth == 255
        for index in range(num_labels):
            # Void may be inside: it must not take anything away. The image border still does (padding).
            regions = [
                (labels == index) & ~void & ~_erode((labels == index) | void, steps) for labels in (truth, guess)
            ]
            both[index] += (regions[0] & regions[1]).sum()
            either[index] += (regions[0] | regions[1]).sum()
    metric.update(prediction, target)
    np.testing.assert_allclose(metric.iou().numpy(), both / either)
    summary = metric.summary()
    assert summary["boundary_iou"] == pytest.approx(np.mean(both / either))
    assert list(summary["boundary_iou_by_class"]) == [str(index) for index in range(num_labels)]


def test_boundary_iou_is_one_where_every_labelled_pixel_is_right() -> None:
    _, target = _case(5, void=0.3)
    target[:, 10:30, 20:40] = 255
    metric = BoundaryIoU(5)
    metric.update(target.where(target != 255, torch.randint(0, 5, target.shape)), target)
    assert metric.iou().nanmean().item() == 1.0


def test_boundary_iou_sees_an_outline_that_iou_does_not() -> None:
    target = torch.zeros(1, 100, 100, dtype=torch.long)
    target[:, 10:90, 10:90] = 1
    shifted = target.roll((2, 2), (1, 2))
    matrix, boundary = ConfusionMatrix(1), BoundaryIoU(1)
    matrix.update(shifted, target)
    boundary.update(shifted, target)
    assert matrix.iou()[1] > 0.9
    assert boundary.iou()[1] < 0.3


def test_boundary_of_labels_wider_than_the_image() -> None:
    assert label_boundary(torch.zeros(1, 3, 4, dtype=torch.long), 10).all()


@classes
def test_calibration_error_equals_a_loop(num_classes: int) -> None:
    probability, target = _case(num_classes, size=(12, 16))
    metric = CalibrationError(num_classes, num_bins=10)
    metric.update(probability, target)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for index in (target != 255).nonzero().tolist():
        image, y, x = index
        scores = probability[image, :, y, x]
        scores = torch.cat([1 - scores, scores]) if num_classes == 1 else scores
        sure, guess = scores.max(0)
        right = guess.item() == target[image, y, x].item()
        bins.setdefault(math.ceil(sure.item() * 10) - 1, []).append((sure.item(), right))
    count = sum(len(members) for members in bins.values())
    expected = sum(abs(sum(s for s, _ in m) - sum(r for _, r in m)) for m in bins.values()) / count
    summary = metric.summary()
    assert summary["calibration_error"] == pytest.approx(expected)
    assert sum(summary["share"]) == pytest.approx(1.0)
    assert len(summary["confidence"]) == len(summary["accuracy"]) == 10


def test_calibration_knows_the_honest_from_the_sure() -> None:
    target = (torch.rand(1, 100, 100) < 0.3).long()
    honest, sure = CalibrationError(1), CalibrationError(1)
    honest.update(torch.full((1, 1, 100, 100), 0.3), target)
    sure.update(torch.full((1, 1, 100, 100), 0.01), target)
    assert honest.error() < 0.02
    assert sure.error() == pytest.approx(0.29, abs=0.02)


@pytest.mark.parametrize("build", [ConfusionMatrix, BoundaryIoU])
def test_label_maps_that_cannot_be_compared(build: Callable[..., ConfusionMatrix]) -> None:
    prediction, target = torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(1, 4, 4, dtype=torch.long)
    metric = build(3)
    with pytest.raises(ValueError, match="two label maps"):
        metric.update(prediction[:, :3], target)
    with pytest.raises(TypeError, match="argmax of the logits"):
        metric.update(prediction.float(), target)
    target[0, 0, 0] = 9
    with pytest.raises(ValueError, match=r"target has labels 9 .*3 classes"):
        metric.update(prediction, target)
    target[0, 0, 0], prediction[0, 0, 0], prediction[0, 0, 1] = 255, 77, 255
    with pytest.raises(ValueError, match="prediction has labels 255 "):
        metric.update(prediction, target)
    prediction[0, 0, 1] = 2
    metric.update(prediction.to(torch.uint8), target.to(torch.uint8))
    assert metric.counts.sum() > 0
    with pytest.raises(ValueError, match="num_classes is 0"):
        build(0)
    with pytest.raises(ValueError, match="2 names for 3 classes"):
        metric.summary(["a", "b"])


def test_masks_of_true_and_false_are_labels() -> None:
    probability, target = _case(1)
    prediction = _labels(probability)
    for build in (ConfusionMatrix, BoundaryIoU):
        plain, binary = build(1), build(1)
        plain.update(prediction, target)
        binary.update(prediction.bool(), target)
        assert torch.equal(binary.counts, plain.counts)


def test_calibration_refuses_logits() -> None:
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"outside 0\.\.1; give the softmax"):
        CalibrationError(3).update(5 * torch.randn(1, 3, 4, 4), target)
    with pytest.raises(ValueError, match=r"give \(B, 3, H, W\)"):
        CalibrationError(3).update(torch.rand(1, 2, 4, 4), target)
    with pytest.raises(ValueError, match="num_bins is 0"):
        CalibrationError(3, num_bins=0)
    with pytest.raises(ValueError, match="dilation_ratio is 0"):
        BoundaryIoU(3, dilation_ratio=0)


def test_top_k_against_sorting() -> None:
    scores = torch.randn(200, 7, generator=torch.Generator().manual_seed(0))
    target = torch.arange(200) % 6  # class 6 has no picture
    metric = TopK(7, k=3)
    parts = [TopK(7, k=3), TopK(7, k=3)]
    for part, rows in zip(parts, (slice(0, 130), slice(130, 200)), strict=True):
        part.update(scores[rows].softmax(1), target[rows])
    metric.update(scores, target)
    assert torch.equal(parts[0].merge(parts[1]).all_reduce().counts, metric.counts)
    order = [sorted(range(7), key=lambda c, row=row: -row[c]) for row in scores.tolist()]
    right = [int(t) in o[:1] for t, o in zip(target, order, strict=True)]
    summary = metric.summary([f"c{i}" for i in range(7)])
    assert summary["top1"] == pytest.approx(sum(right) / 200)
    assert summary["top3"] == pytest.approx(sum(int(t) in o[:3] for t, o in zip(target, order, strict=True)) / 200)
    by_class = [sum(right[c::6]) / len(right[c::6]) for c in range(6)]
    assert list(summary["accuracy"].values())[:6] == pytest.approx(by_class)  # type: ignore[union-attr]
    assert math.isnan(summary["accuracy"]["c6"])  # type: ignore[index]
    assert summary["macc"] == pytest.approx(sum(by_class) / 6)
    assert metric.confusion[2].tolist() == [sum(o[0] == c for o in order[2::6]) for c in range(7)]
    assert metric.counts.shape == (7, 8)
    metric.reset()
    assert metric.counts.sum() == 0


def test_top_k_of_few_classes_and_of_one_logit() -> None:
    few = TopK(2)
    few.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    assert few.summary() == {
        "top1": 0.5,
        "top2": 1.0,
        "macc": 0.5,
        "accuracy": {"0": 0.5, "1": pytest.approx(math.nan, nan_ok=True)},
    }
    one = TopK(1, k=1)
    one.update(torch.tensor([[3.0], [-1.0], [2.0]]), torch.tensor([1, 0, 0]))
    assert one.confusion.tolist() == [[1, 1], [0, 1]]


def test_top_k_of_one_probability() -> None:
    metric = TopK(1, k=1, threshold=0.5)
    metric.update(torch.tensor([[0.2], [0.1], [0.7]]), torch.tensor([0, 0, 1]))
    assert metric.confusion.tolist() == [[2, 0], [0, 1]]


def test_scores_that_cannot_be_counted() -> None:
    metric = TopK(3)
    with pytest.raises(ValueError, match=r"scores have shape \(2, 4\).*give \(B, 3\) scores and \(B,\) classes"):
        metric.update(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"classes 0 to 3; give 0\.\.2"):
        metric.update(torch.zeros(2, 3), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="NaN"):
        metric.update(torch.full((1, 3), math.nan), torch.tensor([0]))
    with pytest.raises(ValueError, match="k is 0"):
        TopK(3, k=0)
    metric.update(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    assert metric.counts.sum() == 0
