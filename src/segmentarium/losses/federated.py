"""What a federated data set leaves open: of most classes nobody looked whether a picture shows them.

A. Gupta, P. Dollár, R. Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019,
https://arxiv.org/abs/1908.03195: a picture's annotation is complete only for the classes that it shows ("positive") and for
those that it is known not to show ("negative").  So a "no" to any other class may be wrong, and should not be taught.

X. Zhou, V. Koltun, P. Krähenbühl, "Probabilistic two-stage detection", https://arxiv.org/abs/2103.07461 (code Apache-2.0),
does without the lists: in each step a few classes are asked, those that the batch shows and others at random.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.losses.regions import RegionLoss, numbers, one_hot_rows, row_mean


def answered(
    positive: Sequence[Collection[int]],
    negative: Sequence[Collection[int]],
    num_classes: int,
    not_exhaustive: Sequence[Collection[int]] | None = None,
) -> Tensor:
    """bool (pictures, C): of which classes it is known where in a picture they are, and where they are not.

    positive        classes that a picture's annotations have
    negative        classes that it is known not to show
    not_exhaustive  classes of which some objects may not be annotated: of those a "no" is never sure

    Index it by each row's picture for `RegionLoss`'s `known`; a row's own class needs no list, see `known_of`.
    """
    if len(positive) != len(negative):
        raise ValueError(
            f"{len(positive)} lists of positive and {len(negative)} of negative classes; give one a picture"
        )
    found = torch.zeros(len(positive), num_classes, dtype=torch.bool)
    for row, (shown, absent) in enumerate(zip(positive, negative, strict=True)):
        found[row, [*shown, *absent]] = True
        if not_exhaustive is not None:
            found[row, [*not_exhaustive[row]]] = False
    return found


def known_of(labels: Tensor, picture: Tensor, answers: Tensor) -> Tensor:
    """bool (N, C): the questions with an answer, of rows with `labels` (N,) out of pictures numbered `picture` (N,)."""
    return answers[picture] | (one_hot_rows(labels, answers.shape[1]) > 0)


def asked_classes(labels: Tensor, shares: Tensor, number: int) -> Tensor:
    """bool (C,): the classes that occur among labels (N,), and others drawn until there are `number`.

    shares   (C,) how likely each is drawn; published: the root of the number of pictures that show it
    """
    classes = len(shares)
    asked = torch.zeros(classes, dtype=torch.bool, device=labels.device)
    asked[labels[(labels >= 0) & (labels < classes)]] = True
    chance = shares.to(labels.device).float().masked_fill(asked, 0)
    missing = min(number - int(asked.sum()), int((chance > 0).sum()))
    if missing > 0:
        asked[chance.multinomial(missing)] = True
    return asked


class FederatedLoss(RegionLoss):
    """Sigmoids (N, C), of which in each step only some are asked: the batch's own, and others at random.

    Args:
        counts: pictures that show each class, (C,).
        number: of classes that are asked at least; published 50.
        power: of the counts, for the chance to be drawn; published 0.5.
        background: see `RegionLoss`.
    """

    shares: Tensor

    def __init__(
        self, counts: Sequence[float] | Tensor, number: int = 50, power: float = 0.5, background: bool = True
    ) -> None:
        known = numbers(counts, "counts")
        super().__init__(len(known), background)
        self.number = number
        self.register_buffer("shares", torch.tensor([count**power for count in known]), persistent=False)

    @property
    def width(self) -> int:
        return self.num_classes

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor, known: Tensor | None) -> Tensor:
        weight = asked_classes(labels.where(valid, -1), self.shares, self.number).float()[None]
        if known is not None:
            weight = weight * known
        losses = F.binary_cross_entropy_with_logits(logits, one_hot_rows(labels, self.width), reduction="none")
        return row_mean((losses * weight).sum(1), valid)

    def probabilities(self, logits: Tensor) -> Tensor:
        found = logits.float().sigmoid()
        return F.pad(found, (0, 1)) if self.background else found
