"""What a detector with masks says of pictures: boxes with classes, and in each box a small mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.brief import Brief
from segmentarium.contracts.results import Instances
from segmentarium.rle import Patch, patch

Pasting = Literal["centres", "integers"]
Found = tuple[int, float, Patch]  # class, score, mask
AT_A_TIME = 16  # masks that are floats of the picture's size


@dataclass(frozen=True, repr=False)
class InstanceSet(Brief):
    """N places a picture, best first.

    boxes    (B, N, 4) x0, y0, x1, y1 in pixels of the image
    labels   (B, N) int64 class indices; -1: the place is empty
    scores   (B, N) in [0, 1]
    masks    (B, N, m, m) probabilities, spread over the box
    pasting  how a mask becomes pixels: "centres", interpolated at their centres; "integers", in the box of whole pixels
             around, as torchvision does
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor
    pasting: Pasting = "centres"

    @property
    def finite(self) -> bool:
        """Whether all numbers are."""
        return all(bool(torch.isfinite(x.sum())) for x in (self.boxes, self.scores, self.masks))

    def scaled(self, seen: tuple[int, int], size: tuple[int, int]) -> InstanceSet:
        """The same in pixels of a picture of (H, W) = `size`, which was `seen` at another."""
        if seen == size:
            return self
        x, y = size[1] / seen[1], size[0] / seen[0]
        return replace(self, boxes=self.boxes * self.boxes.new_tensor((x, y, x, y)))

    def pasted(self, size: tuple[int, int]) -> Tensor:
        """-> (B, N, H, W): the masks in pictures of (H, W) = `size`, 0 outside their boxes."""
        height, width = size
        boxes, masks = self.boxes.flatten(0, 1), self.masks.flatten(0, 1)
        y = torch.arange(height, device=boxes.device, dtype=boxes.dtype)
        x = torch.arange(width, device=boxes.device, dtype=boxes.dtype)
        return self._spread(boxes, masks, y, x).unflatten(0, self.boxes.shape[:2])

    def _spread(self, boxes: Tensor, masks: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Boxes (n, 4), masks (n, m, m), rows (h,), columns (w,) of pixels -> (n, h, w)"""
        x0, y0, x1, y1 = boxes.unbind(-1)
        if self.pasting == "integers":
            masks = F.pad(masks, (1, 1, 1, 1))
        down, across = (
            self._weights(low, high, line, masks.shape[-1]) for low, high, line in ((y0, y1, y), (x0, x1, x))
        )
        return down @ masks.to(down.dtype) @ across.transpose(1, 2)

    def _weights(self, low: Tensor, high: Tensor, line: Tensor, m: int) -> Tensor:
        """(n, pixels of the line, m): how much of each cell of a mask a pixel has, by linear interpolation."""
        inside = None
        if self.pasting == "integers":
            centre, half = (low + high) / 2, (high - low) / 2 * (m / (m - 2))  # of the mask with a cell around it
            low, high = (centre - half).trunc()[:, None], (centre + half).trunc()[:, None]
            inside = (line >= low) & (line <= high)
            where = ((line - low + 0.5) * m / (high - low + 1).clamp(min=1) - 0.5).clamp(0, m - 1)
        else:
            low, high = low[:, None], high[:, None]
            where = (line + 0.5 - low) * m / (high - low).clamp(min=1e-6) - 0.5
        weights = (1 - (where[..., None] - torch.arange(m, device=line.device)).abs()).clamp(min=0)
        return weights if inside is None else weights * inside[..., None]

    @torch.no_grad()
    def patches(self, picture: int, size: tuple[int, int], *, threshold: float, inside: float = 0.5) -> Iterator[Found]:
        """Of one picture of (H, W) = `size`, class, score and mask of each instance from the score `threshold` on, best first;
        those without a pixel are left out.

        inside   probability from which on a pixel belongs to a mask
        """
        kept = (self.labels[picture] >= 0) & (self.scores[picture] >= threshold)
        (chosen,) = torch.where(kept)
        boxes, masks = self.boxes[picture, chosen].cpu(), self.masks[picture, chosen].float().cpu()
        labels, scores = self.labels[picture, chosen].tolist(), self.scores[picture, chosen].tolist()
        for label, score, (top, left, found) in zip(labels, scores, self._windows(boxes, masks, size), strict=True):
            own = patch((found >= inside).numpy())
            if own.mask.size:
                yield label, score, Patch(own.top + top, own.left + left, own.mask)

    def _windows(self, boxes: Tensor, masks: Tensor, size: tuple[int, int]) -> Iterator[tuple[int, int, Tensor]]:
        """Boxes (n, 4), masks (n, m, m) -> of each top, left, and its probabilities (h, w) there; all others are 0."""
        height, width = size
        margin = 1 + (0 if self.pasting == "centres" else (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) / 14)
        low = (boxes[:, :2] - margin).floor().long().clamp(min=0).tolist()
        high = (boxes[:, 2:] + margin).ceil().long().tolist()
        for box, mask, (left, top), (right, bottom) in zip(boxes, masks, low, high, strict=True):
            y = torch.arange(top, max(top, min(bottom, height)), dtype=boxes.dtype)
            x = torch.arange(left, max(left, min(right, width)), dtype=boxes.dtype)
            yield top, left, self._spread(box[None], mask[None], y, x)[0]

    @torch.no_grad()
    def instances(self, size: tuple[int, int], *, threshold: float = 0.5, inside: float = 0.5) -> list[Instances]:
        """Of each picture of (H, W) = `size`, the instances from the score `threshold` on."""
        found = []
        for labels, scores, boxes, masks in zip(self.labels, self.scores, self.boxes, self.masks, strict=True):
            kept = (labels >= 0) & (scores >= threshold)
            labels, scores, boxes, masks = labels[kept], scores[kept], boxes[kept], masks[kept]
            whole = self._whole(boxes, masks, size, inside)
            found.append(Instances(labels, scores, boxes, whole))
        return found

    def _whole(self, boxes: Tensor, masks: Tensor, size: tuple[int, int], inside: float) -> Tensor:
        """Boxes (n, 4), masks (n, m, m) -> (n, H, W) bool"""
        whole = torch.zeros((len(boxes), *size), dtype=torch.bool, device=masks.device)
        if masks.device.type == "cpu":  # where many small steps are cheaper than few large ones
            for own, (top, left, part) in zip(whole, self._windows(boxes, masks, size), strict=True):
                own[top : top + part.shape[0], left : left + part.shape[1]] = part >= inside
            return whole
        height, width = size
        y, x = (torch.arange(side, device=boxes.device, dtype=boxes.dtype) for side in (height, width))
        for some in torch.arange(len(boxes), device=boxes.device).split(AT_A_TIME):
            whole[some] = self._spread(boxes[some], masks[some], y, x) >= inside
        return whole
