"""The objective of PointPillars (Lang et al., 1812.05784, section 2.4), which is SECOND's: anchors matched to boxes, focal loss
of the classes, smooth L1 of the boxes with the sine of the angles' difference, cross entropy of the direction.

A target is (B, M, 8 or more): x, y, z, length, width, height, angle, label; a label of -1 fills up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.layers.turned_boxes import as_in_earlier_code, iou_upright


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., 7) as offsets from their anchors: of the centre in units of the anchor's diagonal and height, logarithms of the
    ratios of sizes, difference of angles."""
    diagonal = anchors[..., 3:5].norm(dim=-1, keepdim=True)
    centre = (boxes[..., :2] - anchors[..., :2]) / diagonal
    height = (boxes[..., 2:3] - anchors[..., 2:3]) / anchors[..., 5:6]
    size = (boxes[..., 3:6] / anchors[..., 3:6]).log()
    return torch.cat((centre, height, size, boxes[..., 6:7] - anchors[..., 6:7]), -1)


def decode(codes: Tensor, anchors: Tensor) -> Tensor:
    """What `encode` gives, back to boxes; further values stay."""
    diagonal = anchors[..., 3:5].norm(dim=-1, keepdim=True)
    centre = codes[..., :2] * diagonal + anchors[..., :2]
    height = codes[..., 2:3] * anchors[..., 5:6] + anchors[..., 2:3]
    size = codes[..., 3:6].exp() * anchors[..., 3:6]
    return torch.cat((centre, height, size, codes[..., 6:7] + anchors[..., 6:7], codes[..., 7:]), -1)


def direction_of(angle: Tensor, start: float) -> Tensor:
    """0 where the angle lies in [start, start + pi), 1 in the other half circle."""
    return (torch.remainder(angle - start, 2 * math.pi) / math.pi).floor().clamp(0, 1).long()


def match(
    anchors: Tensor, classes: Tensor, boxes: Tensor, labels: Tensor, positive: Tensor, negative: Tensor
) -> tuple[Tensor, Tensor]:
    """Which box each anchor stands for.

    anchors              (A, 7), and the class of each (A,)
    boxes, labels        (M, 7) and (M,)
    positive, negative   (K,) overlap from which on an anchor of a class stands for a box, and below which for none

    -> state (A,): 1 for a box, 0 for nothing, -1 does not count; which (A,).  Each box has its best anchors, if they overlap by
    `negative` or more.
    """
    if not len(boxes):
        return torch.zeros_like(classes), torch.zeros_like(classes)
    overlap = iou_upright(anchors, boxes).masked_fill(classes[:, None] != labels, 0)
    best, which = overlap.max(1)
    state = torch.where(best >= positive[classes], 1, torch.where(best < negative[classes], 0, -1))
    top = overlap.max(0).values
    own = (overlap == top) & (top >= negative[labels]) & (top > 0)
    has = own.any(1)
    last = len(boxes) - 1 - own.flip(1).to(torch.uint8).argmax(1)
    return torch.where(has, 1, state), torch.where(has, last, which)


class AnchorBoxes(nn.Module):
    """Scores (B, A/cell * K, h, w), codes (B, A/cell * 7, h, w), directions (B, A/cell * 2, h, w) and targets (B, M, 8) ->
    {"class", "box", "direction"}, each a sum over the batch divided by the number of anchors that stand for a box.

    anchors              (A, 7) in the order y, x, anchor of the cell; of each its class (A,)
    positive, negative   overlaps of each class
    start                angle at which direction 0 begins
    earlier              anchors, codes and directions have the conventions of mmdetection3d before 1.0: width before length, and
                         the angle clockwise from the negative y axis
    """

    def __init__(
        self,
        anchors: Tensor,
        classes: Tensor,
        positive: Sequence[float],
        negative: Sequence[float],
        *,
        start: float = 0.0,
        earlier: bool = False,
        alpha: float = 0.25,
        gamma: float = 2.0,
        beta: float = 1 / 9,
    ) -> None:
        super().__init__()
        self.start, self.earlier = start, earlier
        self.alpha, self.gamma, self.beta = alpha, gamma, beta
        for name, value in (
            ("anchors", anchors),
            ("classes", classes),
            ("positive", torch.tensor(positive)),
            ("negative", torch.tensor(negative)),
        ):
            self.register_buffer(name, value.clone(), persistent=False)

    anchors: Tensor
    classes: Tensor
    positive: Tensor
    negative: Tensor

    def forward(self, scores: Tensor, codes: Tensor, directions: Tensor, target: Tensor) -> dict[str, Tensor]:
        with torch.autocast(scores.device.type, enabled=False):
            target = F.pad(
                as_in_earlier_code(target) if self.earlier else target, (0, 0, 0, 1), value=-1.0
            )  # one at least
            count = len(self.anchors)
            # (B, A, …): a cell's channels are counted by anchor first
            given, codes, directions = (
                x.float().permute(0, 2, 3, 1).reshape(len(x), count, -1) for x in (scores, codes, directions)
            )
            state, which = zip(*(self._match(boxes) for boxes in target), strict=True)
            state, which = torch.stack(state), torch.stack(which)
            stands = state == 1
            number = stands.sum().clamp(min=1)
            wanted = torch.zeros_like(given)
            wanted[stands] = F.one_hot(self.classes, given.shape[-1]).to(given.dtype).expand_as(given)[stands]
            focal = self._focal(given, wanted)[state >= 0].sum()
            boxes = target.gather(1, which[..., None].expand(-1, -1, target.shape[-1]))[stands][:, :7].float()
            anchors = self.anchors.expand(len(target), -1, -1)[stands]
            code, wanted_code = codes[stands][:, :7], encode(boxes, anchors)
            # sin(a - b) = sin a cos b - cos a sin b, held against each other by the distance that all numbers have
            angle, goal = code[:, 6:], wanted_code[:, 6:]
            code = torch.cat((code[:, :6], angle.sin() * goal.cos()), 1)
            wanted_code = torch.cat((wanted_code[:, :6], angle.cos() * goal.sin()), 1)
            box = F.smooth_l1_loss(code, wanted_code, beta=self.beta, reduction="sum")
            half = direction_of(boxes[:, 6], self.start)
            direction = F.cross_entropy(directions[stands], half, reduction="sum")
            return {"class": focal / number, "box": box / number, "direction": direction / number}

    def _match(self, target: Tensor) -> tuple[Tensor, Tensor]:
        real = (target[:, 7] >= 0) & (target[:, 3:6] > 0).all(1)  # a box without extent cannot be learnt
        numbers = real.nonzero()[:, 0]
        boxes, labels = target[real, :7].float(), target[real, 7].long()
        state, which = match(self.anchors, self.classes, boxes, labels, self.positive, self.negative)
        return state, numbers[which] if len(numbers) else which

    def _focal(self, logits: Tensor, target: Tensor) -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        score = logits.sigmoid()
        wrong = torch.where(target > 0, 1 - score, score)
        return torch.where(target > 0, self.alpha, 1 - self.alpha) * wrong.pow(self.gamma) * entropy
