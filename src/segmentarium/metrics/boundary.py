"""Boundary IoU (Cheng et al., CVPR 2021, arXiv 2103.16562), for label maps and for masks.

Mask IoU hardly sees the outline of a large object: its inside is most of it. Boundary IoU compares only the pixels
of each mask that lie within a distance d of its outline, d a share of the image's diagonal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segmentarium.labels import IGNORE_INDEX
from segmentarium.metrics.accumulator import Accumulator, by_name, check_labels, number_of_labels


class BoundaryIoU(Accumulator):
    """Boundary IoU of each class over a data set: the boundary regions' intersections and unions, summed over images.

    An ignored pixel is neither inside nor outside of anything: it is never counted, and does not make a boundary of
    the pixels around it. So what is predicted there changes nothing, and a prediction that is right wherever there
    are labels scores 1. The image's border counts as a boundary, as in the authors' code.

    Args:
        num_classes: K; 1 (a sigmoid) means two labels, background and foreground.
        dilation_ratio: the distance d as a share of the image diagonal: 0.02 in the paper, 0.005 for Cityscapes.
        ignore_index: the target label that counts nowhere.
        device: where the counts are kept and updates come from.
    """

    def __init__(
        self,
        num_classes: int,
        dilation_ratio: float = 0.02,
        ignore_index: int = IGNORE_INDEX,
        device: torch.device | str = "cpu",
    ) -> None:
        if not dilation_ratio > 0:
            raise ValueError(f"dilation_ratio is {dilation_ratio}; give a share of the image diagonal above 0")
        self.num_labels = number_of_labels(num_classes)
        self.dilation_ratio = dilation_ratio
        self.ignore_index = ignore_index
        super().__init__((3, self.num_labels), device)  # pixels of: intersection, target's, prediction's region

    @torch.no_grad()
    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch: prediction (B, H, W) and target (B, H, W), integer labels."""
        check_labels(prediction, target, self.num_labels, self.ignore_index)
        distance = boundary_distance(target.shape[-2], target.shape[-1], self.dilation_ratio)
        valid = target != self.ignore_index
        near_target = label_boundary(target, distance, valid) & valid
        near_prediction = label_boundary(prediction, distance, valid) & valid
        near_both = near_target & near_prediction & (prediction == target)
        regions = ((target, near_both), (target, near_target), (prediction, near_prediction))
        self.counts += torch.stack([self._count(labels, region) for labels, region in regions])

    def _count(self, labels: Tensor, region: Tensor) -> Tensor:
        cell = labels.long().masked_fill(~region, self.num_labels)
        return torch.bincount(cell.flatten(), minlength=self.num_labels + 1)[: self.num_labels]

    def iou(self) -> Tensor:
        """Boundary IoU of each class, float64 (K,) on the CPU; NaN where a class never occurs."""
        both, target, prediction = self.counts.cpu().double()
        return both / (target + prediction - both)

    def summary(self, classes: tuple[str, ...] | list[str] | None = None) -> dict[str, float | dict[str, float]]:
        """boundary_iou, the mean over the classes that occur, and boundary_iou_by_class (name, or index -> value)."""
        iou = self.iou()
        return {"boundary_iou": iou.nanmean().item(), "boundary_iou_by_class": by_name(iou, classes)}


def mask_to_boundary(mask: Tensor, dilation_ratio: float = 0.02) -> Tensor:
    """The boundary region of each mask: its pixels within d of its outline or of the image's border.

    Args:
        mask: (N, H, W), bool or 0 and 1.
        dilation_ratio: d as a share of the image diagonal; d is at least 1 pixel.

    Returns:
        bool (N, H, W): the mask less its erosion by d steps of a 3×3 box.
    """
    if mask.ndim != 3:
        raise ValueError(f"mask has shape {tuple(mask.shape)}; give masks (N, H, W)")
    inside = mask.bool()
    distance = boundary_distance(mask.shape[-2], mask.shape[-1], dilation_ratio)
    return inside & label_boundary(inside, distance)


def boundary_distance(height: int, width: int, dilation_ratio: float) -> int:
    """The distance d in pixels: a share of the diagonal, rounded (halves to the even number), at least 1."""
    return max(1, round(dilation_ratio * math.hypot(height, width)))


def label_boundary(labels: Tensor, distance: int, valid: Tensor | None = None) -> Tensor:
    """Where another label, or the outside of the image, lies within `distance` in both directions.

    For the pixels of one label this is what erosion takes from its mask: d erosions by a 3×3 box are one by a square
    of 2d+1. A square holds one label only where its largest label is its smallest, so two window maxima do it for all
    classes at once.

    Args:
        labels: (B, H, W), integer or bool.
        distance: in pixels.
        valid: bool (B, H, W); False pixels count as no label. Without it, all are valid.

    Returns:
        bool (B, H, W); at pixels that are not valid it means nothing.
    """
    batch, height, width = labels.shape
    values = labels.to(torch.int32)
    none = torch.iinfo(torch.int32).min
    windows = values.new_full((2, batch, height + 2 * distance, width + 2 * distance), none)
    windows[0] = -none - 1  # outside the image: larger than any label
    middle = windows[:, :, distance : distance + height, distance : distance + width]
    middle[0], middle[1] = values, -values
    if valid is not None:
        middle.masked_fill_(~valid, none)
    largest, negative_smallest = _window_max(_window_max(windows, 2 * distance + 1, 2), 2 * distance + 1, 3)
    return (largest != values) | (negative_smallest != -values)


def _window_max(values: Tensor, size: int, dim: int) -> Tensor:
    """The maximum of every `size` neighbours along `dim`, which gets size - 1 shorter.

    Windows of 1, 2, 4, … and at last two that overlap: log2(size) passes, where pooling would look at each neighbour
    (93 of them, twice, for a Cityscapes image).
    """
    span = 1
    while span < size:
        step = min(span, size - span)
        length = values.shape[dim] - step
        values = torch.maximum(values.narrow(dim, 0, length), values.narrow(dim, step, length))
        span += step
    return values
