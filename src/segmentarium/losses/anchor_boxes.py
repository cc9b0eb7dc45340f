"""The objective of PointPillars (Lang et al., 1812.05784, section 2.4), which is SECOND's: anchors matched to boxes, focal loss
of the classes, smooth L1 of the boxes with the sine of the angles' difference, cross entropy of the direction.

A target is (B, M, 8 or 10): x, y, z, length, width, height, angle, label, and the speed along x and y (not a number: unknown); a
label of -1 fills up.
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
    anchors: Tensor,
    kinds: Tensor,
    boxes: Tensor,
    labels: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    shared: bool = False,
) -> tuple[Tensor, Tensor]:
    """Which box each anchor stands for.

    anchors              (A, 7), and the kind of each (A,), which is its class unless `shared`
    boxes, labels        (M, 7) and (M,)
    positive, negative   of each kind: overlap from which on an anchor stands for a box, and below which for none
    shared               anchors are of no class: any may stand for any box

    -> state (A,): 1 for a box, 0 for nothing, -1 does not count; which (A,).  Each box has its best anchors, if they overlap by
    `negative` or more.
    """
    if not len(boxes):
        return torch.zeros_like(kinds), torch.zeros_like(kinds)
    overlap = iou_upright(anchors, boxes)
    if not shared:
        overlap = overlap.masked_fill(kinds[:, None] != labels, 0)
    best, which = overlap.max(1)
    least = negative[kinds]
    state = torch.where(best >= positive[kinds], 1, torch.where(best < least, 0, -1))
    top = overlap.max(0).values
    own = (overlap == top) & (overlap >= least[:, None]) & (top > 0)
    has = own.any(1)
    last = len(boxes) - 1 - own.flip(1).to(torch.uint8).argmax(1)
    return torch.where(has, 1, state), torch.where(has, last, which)


class AnchorBoxes(nn.Module):
    """Scores (B, A/cell * K, h, w), codes (B, A/cell * 7 or 9, h, w), directions (B, A/cell * 2, h, w), each of so many levels,
    and targets (B, M, 8 or 10) -> {"class", "box", "direction"}, each a sum over the batch divided by the number of anchors that
    stand for a box.

    anchors              (A, 7) in the order level, y, x, anchor of the cell; of each its kind (A,), see `match`
    positive, negative   overlaps of each kind
    start                angle at which direction 0 begins
    earlier              anchors, codes and directions have the conventions of mmdetection3d before 1.0: width before length, and
                         the angle clockwise from the negative y axis
    shared               anchors are of no class
    velocity             codes end with the speed along x and y, which weighs 0.2
    """

    def __init__(
        self,
        anchors: Tensor,
        kinds: Tensor,
        positive: Sequence[float],
        negative: Sequence[float],
        *,
        start: float = 0.0,
        earlier: bool = False,
        shared: bool = False,
        velocity: bool = False,
        alpha: float = 0.25,
        gamma: float = 2.0,
        beta: float = 1 / 9,
    ) -> None:
        super().__init__()
        self.start, self.earlier, self.shared, self.velocity = start, earlier, shared, velocity
        self.alpha, self.gamma, self.beta = alpha, gamma, beta
        for name, value in (
            ("anchors", anchors),
            ("kinds", kinds),
            ("positive", torch.tensor(positive)),
            ("negative", torch.tensor(negative)),
            ("weights", torch.tensor([1.0] * 7 + [0.2] * (2 * velocity))),
        ):
            self.register_buffer(name, value.clone(), persistent=False)

    anchors: Tensor
    kinds: Tensor
    positive: Tensor
    negative: Tensor
    weights: Tensor

    def forward(self, *given: Tensor) -> dict[str, Tensor]:
        *maps, target = given
        levels = len(maps) // 3
        with torch.autocast(target.device.type, enabled=False):
            target = F.pad(
                as_in_earlier_code(target) if self.earlier else target, (0, 0, 0, 1), value=-1.0
            )  # one at least
            count = len(self.anchors)
            # (B, A, …): a cell's channels are counted by anchor first
            anchors_of = sum(x.shape[1] for x in maps[2 * levels :]) // (2 * levels)  # of a cell
            scores, codes, directions = (
                torch.cat(
                    [
                        x.float().permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, x.shape[1] // anchors_of))
                        for x in part
                    ],
                    1,
                )
                for part in (maps[:levels], maps[levels : 2 * levels], maps[2 * levels :])
            )
            state, which = zip(*(self._match(boxes) for boxes in target), strict=True)
            state, which = torch.stack(state), torch.stack(which)
            stands = state == 1
            number = stands.sum().clamp(min=1)
            boxes = target.gather(1, which[..., None].expand(-1, -1, target.shape[-1]))[stands].float()
            wanted = torch.zeros_like(scores)
            wanted[stands] = F.one_hot(boxes[:, 7].long(), scores.shape[-1]).to(scores.dtype)
            focal = self._focal(scores, wanted)[state >= 0].sum()
            anchors = self.anchors.expand(len(target), count, -1)[stands]
            code, goal = codes[stands], encode(boxes[:, :7], anchors)
            if self.velocity:
                unknown = torch.full_like(boxes[:, :2], torch.nan)
                goal = torch.cat((goal, boxes[:, 8:10] if boxes.shape[1] >= 10 else unknown), 1)
                goal = torch.where(goal.isnan(), code.detach(), goal)
            # sin(a - b) = sin a cos b - cos a sin b, held against each other by the distance that all numbers have
            turn, aim = code[:, 6:7], goal[:, 6:7]
            code = torch.cat((code[:, :6], turn.sin() * aim.cos(), code[:, 7:]), 1)
            goal = torch.cat((goal[:, :6], turn.cos() * aim.sin(), goal[:, 7:]), 1)
            away = F.smooth_l1_loss(code, goal, beta=self.beta, reduction="none")
            box = (away * self.weights).sum()
            half = direction_of(boxes[:, 6], self.start)
            direction = F.cross_entropy(directions[stands], half, reduction="sum")
            return {"class": focal / number, "box": box / number, "direction": direction / number}

    def _match(self, target: Tensor) -> tuple[Tensor, Tensor]:
        real = (target[:, 7] >= 0) & (target[:, 3:6] > 0).all(1)  # a box without extent cannot be learnt
        numbers = real.nonzero()[:, 0]
        boxes, labels = target[real, :7].float(), target[real, 7].long()
        state, which = match(self.anchors, self.kinds, boxes, labels, self.positive, self.negative, shared=self.shared)
        return state, numbers[which] if len(numbers) else which

    def _focal(self, logits: Tensor, target: Tensor) -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        score = logits.sigmoid()
        wrong = torch.where(target > 0, 1 - score, score)
        return torch.where(target > 0, self.alpha, 1 - self.alpha) * wrong.pow(self.gamma) * entropy
