"""What a confusion matrix says about the set-up, not about the model: labels that are numbered differently.

A published checkpoint that scores next to nothing is mostly right, under other numbers: shifted by a missing background,
in the order of another implementation, or with train ids for label ids. Then some renumbering of the predicted classes
scores well, and the best one is an assignment problem over the IoU of every pair of classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

NEAR_ZERO = 0.1  # mIoU below which a trained model is suspect
LOW = 0.35  # mIoU above which the labels are surely numbered alike, and nothing is looked for


def pairwise_iou(confusion: np.ndarray) -> np.ndarray:
    """(K, K) counts, rows = target, columns = prediction -> IoU of each target class with each predicted one, 0..1."""
    counts = confusion.astype(np.float64)
    union = counts.sum(1, keepdims=True) + counts.sum(0, keepdims=True) - counts
    return np.divide(counts, union, out=np.zeros_like(counts), where=union > 0)


def best_renumbering(confusion: np.ndarray) -> tuple[list[int], float] | None:
    """(predicted class that serves best as target class i, for each i; mIoU with that numbering).

    The mean is over classes with labels. None where scipy, which solves the assignment, is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
    except ImportError:
        return None
    iou = pairwise_iou(confusion)
    present = confusion.sum(1) > 0
    _, chosen = linear_sum_assignment(iou, maximize=True)
    scores = iou[np.arange(len(iou)), chosen][present]
    return [int(c) for c in chosen], float(scores.mean()) if scores.size else math.nan


def label_warning(confusion: np.ndarray, miou: float, names: Sequence[str]) -> str | None:
    """A sentence for scores that look like a mistake in the numbering of the labels; None where they do not.

    confusion: (K, K) counts, rows = target.  miou: 0..1 or NaN.
    """
    if not miou < LOW:
        return None
    low = f"mIoU is {100 * miou:.2f} %"
    found = best_renumbering(confusion) if len(names) > 1 else None
    if found is not None:
        order, reached = found
        moved = [(names[c], names[i]) for i, c in enumerate(order) if c != i and confusion[i].sum() > 0]
        if moved and reached >= 2 * miou and reached >= miou + 0.1:
            shown = ", ".join(f"{ours!r} as {theirs!r}" for ours, theirs in moved[:6])
            more = f" and {len(moved) - 6} more" if len(moved) > 6 else ""
            return (
                f"{low}, but {100 * reached:.2f} % if the predicted classes were read in another order "
                f"({shown}{more}): the labels are probably numbered differently in model and data; compare the class lists"
            )
    if miou < NEAR_ZERO:
        return (
            f"{low}: if these weights are trained, look for other class numbers in the data (a background at 0, "
            "another order), or for another preprocessing (mean, std, RGB order) than in training"
        )
    return None
