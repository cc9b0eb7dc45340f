"""What models give that is more than one tensor: sets of masks, instances, keypoints."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from segmentarium.layers.resize import resize


@dataclass(frozen=True)
class Instances:
    """The instances of one picture, best first.

    labels   (N,) int64 class indices
    scores   (N,) in [0, 1]
    boxes    (N, 4) x0, y0, x1, y1 in pixels of the masks
    masks    (N, H, W) bool
    """

    labels: Tensor
    scores: Tensor
    boxes: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class Segment(NamedTuple):
    """One segment of a panoptic map: its number there, its class, and how sure its query was of the class, in [0, 1]."""

    id: int
    label: int
    score: float


@dataclass(frozen=True)
class Panoptic:
    """ids (H, W) int64: the number of the segment that has the pixel, 0 where none has; the segments in their order."""

    ids: Tensor
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class MaskSet:
    """The answer of a mask classifier (arXiv 2107.06278): Q queries, each a class or none, and each a mask.

    class_logits   (B, Q, K + 1), the last is "no object"
    mask_logits    (B, Q, H, W)
    """

    class_logits: Tensor
    mask_logits: Tensor

    def resized(self, size: tuple[int, int]) -> MaskSet:
        """The same with masks of (H, W) = `size`, interpolated as logits."""
        return MaskSet(self.class_logits, resize(self.mask_logits, size))

    def semantic(self) -> Tensor:
        """-> (B, K, H, W): of each class, the sum over the queries of class probability times mask probability
        (semantic inference, section 3.4)."""
        probability = self.class_logits.float().softmax(-1)[..., :-1]
        return torch.einsum("bqk,bqhw->bkhw", probability, self.mask_logits.float().sigmoid())

    @torch.no_grad()
    def instances(self, *, count: int = 100, things: Collection[int] | None = None) -> list[Instances]:
        """The `count` best pairs of query and class of each picture, as in the authors' code: their masks may overlap.

        A score is the class's probability times the mean probability inside the mask.

        things   classes that have instances; None: all
        """
        return [self._instances(*picture, count, things) for picture in zip(*self._probabilities(), strict=True)]

    @torch.no_grad()
    def panoptic(
        self, things: Collection[int], *, threshold: float = 0.8, overlap: float = 0.8, inside: float = 0.5
    ) -> list[Panoptic]:
        """Every pixel to at most one segment (section 3.4).

        things      classes whose segments are told apart; those of other classes are one segment a class
        threshold   a query takes part if its class's probability is greater
        overlap     a query is dropped if less than this share of its mask is left to it where masks compete
        inside      probability from which on a pixel belongs to a mask
        """
        return [
            self._panoptic(*picture, things, threshold, overlap, inside)
            for picture in zip(*self._probabilities(), strict=True)
        ]

    def _probabilities(self) -> tuple[Tensor, Tensor]:
        return self.class_logits.float().softmax(-1), self.mask_logits.float().sigmoid()

    @staticmethod
    def _instances(classes: Tensor, masks: Tensor, count: int, things: Collection[int] | None) -> Instances:
        num_classes = classes.shape[-1] - 1
        scores, best = classes[:, :-1].flatten().topk(min(count, len(classes) * num_classes))
        labels, masks = best % num_classes, masks[best // num_classes]
        kept = masks > 0.5
        scores = scores * (masks * kept).sum((1, 2)) / (kept.sum((1, 2)) + 1e-6)
        wanted = kept.any(2).any(1)
        if things is not None:
            wanted &= torch.isin(labels, torch.tensor(list(things), dtype=labels.dtype, device=labels.device))
        chosen = wanted.nonzero()[:, 0]
        chosen = chosen[scores[chosen].argsort(descending=True)]
        return Instances(labels[chosen], scores[chosen], boxes_around(kept[chosen]), kept[chosen])

    @staticmethod
    def _panoptic(
        classes: Tensor, masks: Tensor, things: Collection[int], threshold: float, overlap: float, inside: float
    ) -> Panoptic:
        score, label = classes.max(-1)
        kept = (label < classes.shape[-1] - 1) & (score > threshold)
        score, label, masks = score[kept], label[kept], masks[kept]
        ids = torch.zeros(masks.shape[-2:], dtype=torch.int64, device=masks.device)
        segments: list[Segment] = []
        if not len(score):
            return Panoptic(ids, ())
        winner = (score[:, None, None] * masks).argmax(0)
        stuff: dict[int, int] = {}  # class -> its one segment
        for query, (one, mask) in enumerate(zip(label.tolist(), masks, strict=True)):
            own, whole = winner == query, mask >= inside
            seen = own & whole
            if not seen.any() or own.sum() < overlap * whole.sum():
                continue
            if one in stuff:
                ids[seen] = stuff[one]
                continue
            segments.append(Segment(len(segments) + 1, one, float(score[query])))
            ids[seen] = len(segments)
            if one not in things:
                stuff[one] = len(segments)
        return Panoptic(ids, tuple(segments))


def boxes_around(masks: Tensor) -> Tensor:
    """(N, H, W) bool, none of them empty -> (N, 4) float x0, y0, x1, y1: left, top, and one past right and bottom."""

    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        line = line.to(torch.uint8)
        return line.argmax(1), line.shape[1] - line.flip(1).argmax(1)

    (x0, x1), (y0, y1) = ends(masks.any(1)), ends(masks.any(2))
    return torch.stack((x0, y0, x1, y1), 1).float()


@dataclass(frozen=True)
class Keypoints:
    """The keypoints of one picture, best first, under the names that LightGlue knows them by.

    keypoints         (N, 2) x, y in pixels
    keypoint_scores   (N,)
    descriptors       (N, D) of length 1; D = 0 for keypoints that are told apart by their place in the list (joints)
    image_size        (2,) width and height of the picture
    """

    keypoints: Tensor
    keypoint_scores: Tensor
    descriptors: Tensor
    image_size: Tensor

    def as_dict(self) -> dict[str, Tensor]:
        """What a LightGlue matcher takes for one of its two pictures: the same with a batch of one in front."""
        return {name: value[None] for name, value in vars(self).items()}
