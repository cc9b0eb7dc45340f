"""Balanced group softmax (BAGS): classes compete only with classes that are about as frequent.

Y. Li, T. Wang, B. Kang, S. Tang, C. Wang, J. Li, J. Feng, "Overcoming Classifier Imbalance for Long-tail Object Detection with
Balanced Group Softmax", CVPR 2020, https://arxiv.org/abs/2006.10408; code https://github.com/FishYuLi/BalancedGroupSoftmax
(Apache-2.0), which this follows.  Published, LVIS v0.5, Mask R-CNN R50-FPN: box and mask AP 20.78, 20.68 -> 25.76, 26.25.

A normally trained detector keeps all its weights; only the last layer of its box classifier is new and trained with this loss.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.losses.regions import RegionLoss, numbers

EDGES = (10, 100, 1000)  # instances of a class from which on it is in the next group


def group_by_instances(instances: Sequence[int] | Tensor, edges: Sequence[int] = EDGES) -> list[int]:
    """The group of each class, 0..len(edges), by how many objects of it the training data have: objects, not pictures."""
    counts = numbers(instances, "instances")
    if sorted(set(edges)) != list(edges):
        raise ValueError(f"edges are {tuple(edges)}; give growing numbers of instances")
    return [bisect_right(edges, count) for count in counts]


class BalancedGroups(RegionLoss):
    """Logits (N, 2 + C + groups): background and foreground; then each group's "others" and its classes, by index.

    A softmax in each.  Rows of other groups are "others" of a group, as is the background; so that they do not drown its own
    rows, of each batch only `others` times as many are drawn, and a group without a row in the batch learns nothing.

    Args:
        groups: of each class its group (`group_by_instances`), from 0.
        num_groups: also of such as no class is in.
        others: rows of "others" for each own row (beta); published 8.
        background: see `RegionLoss`; without it there is no first pair.
    """

    table: Tensor
    columns: Tensor

    takes_known = False

    def __init__(
        self,
        groups: Sequence[int],
        num_groups: int = len(EDGES) + 1,
        others: float = 8.0,
        background: bool = True,
    ) -> None:
        super().__init__(len(groups), background)
        if not 0 <= min(groups) <= max(groups) < num_groups:
            raise ValueError(f"groups go from {min(groups)} to {max(groups)}; give 0..{num_groups - 1}, one a class")
        self.others = others
        group = list(groups)  # plain numbers: a network without any is built from them, too (`meta.py`)
        # columns of each softmax, and where each class stands in its group, behind "others"
        self.sizes = [2] * background + [1 + group.count(number) for number in range(num_groups)]
        place = torch.tensor([1 + group[:i].count(number) for i, number in enumerate(group)])
        starts = [sum(self.sizes[: number + background]) for number in group]
        mine = torch.tensor(group) == torch.arange(num_groups)[:, None]
        table = F.pad(torch.where(mine, place, 0), (0, int(background)))
        if background:
            foreground = (torch.arange(self.num_labels) < self.num_classes).long()
            table = torch.cat((foreground[None], table))
        # label -> its class in each softmax; class -> its column in all of them
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("columns", torch.tensor(starts) + place, persistent=False)

    @property
    def width(self) -> int:
        return sum(self.sizes)

    def draw(self, labels: Tensor, valid: Tensor | None = None) -> Tensor:
        """Weights (softmaxes, N), 0 or 1: the rows that each softmax learns from; randomly, by torch's generator."""
        valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
        own = (self.table[:, labels] > 0) & valid
        number = (own.sum(1, keepdim=True) * self.others).long()
        chance = torch.rand(own.shape, device=labels.device).masked_fill(own | ~valid, 2.0)
        drawn = (chance.argsort(1).argsort(1) < number) & ~own & valid
        weights = (own | drawn) & own.any(1, keepdim=True)
        if self.background:
            weights[0] = valid
        return weights.float()

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor, known: Tensor | None) -> Tensor:
        if known is not None:
            raise ValueError("balanced groups have no questions that could stay open; leave known out")
        return self.parts(logits, labels, self.draw(labels, valid)).sum()

    def parts(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """The loss of each softmax, (softmaxes,), of rows weighed as `draw` says."""
        found = [
            (weight * F.cross_entropy(scores, target, reduction="none")).sum() / weight.sum().clamp(min=1)
            for scores, target, weight in zip(logits.split(self.sizes, 1), self.table[:, labels], weights, strict=True)
        ]
        return torch.stack(found)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Each class by its group's softmax, times the foreground's; they need not add up to 1."""
        shares = torch.cat([one.float().softmax(-1) for one in logits.split(self.sizes, -1)], -1)
        found = shares[..., self.columns]
        if not self.background:
            return found
        return torch.cat((found * shares[..., 1:2], shares[..., :1]), -1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, columns={self.sizes}, others={self.others}"
