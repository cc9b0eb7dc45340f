"""Seesaw loss: a frequent class presses less on a rare one, unless it is mistaken for it.

J. Wang, W. Zhang, Y. Zang, Y. Cao, J. Pang, T. Gong, K. Chen, Z. Liu, C. C. Loy, D. Lin, "Seesaw Loss for Long-Tailed Instance
Segmentation", CVPR 2021, https://arxiv.org/abs/2008.10032; code: mmdetection's `SeesawLoss` (Apache-2.0), which this follows.
Published, LVIS v1, Mask R-CNN R50 2×: mask AP 25.0, with repeat-factor sampling 26.4, with normalised masks 26.8.

The normalised classifiers of the paper are `layers.cosine`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.losses.regions import RegionLoss, numbers, one_hot_rows, row_mean, summed_over_processes


class SeesawLoss(RegionLoss):
    """Logits (N, C + 2): the classes, softmax among themselves, then "object" and "background", softmax of two.

    It counts, in training, the rows of each class; a run that goes on keeps them.

    Args:
        num_classes: C.
        p: of mitigation: a class with a thousandth of another's rows is pressed by it with 0.001**p.
        q: of compensation: a class that a row is mistaken for is pressed more, by (P_j / P_i)**q.
        eps: least probability of the row's class in that ratio.
        counts: rows of each class (and of the background) to start from, (C + 1,); None: 0.
        background: see `RegionLoss`; without it the logits are (N, C).
    """

    counts: Tensor

    def __init__(
        self,
        num_classes: int,
        p: float = 0.8,
        q: float = 2.0,
        eps: float = 1e-2,
        counts: Sequence[float] | Tensor | None = None,
        background: bool = True,
    ) -> None:
        super().__init__(num_classes, background)
        self.p, self.q, self.eps = p, q, eps
        known = [0.0] * (num_classes + 1) if counts is None else numbers(counts, "counts")
        if len(known) != num_classes + 1:
            raise ValueError(f"counts are {len(known)} numbers; give {num_classes + 1}, the background's last")
        self.register_buffer("counts", torch.tensor(known, dtype=torch.float32), persistent=False)

    @property
    def width(self) -> int:
        return self.num_classes + 2 * self.background

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor, known: Tensor | None) -> Tensor:
        return sum(self.parts(logits, labels, valid, known).values(), logits.new_zeros(()))

    def parts(self, logits: Tensor, labels: Tensor, valid: Tensor, known: Tensor | None = None) -> dict[str, Tensor]:
        """ "classes", the mean over foreground rows, and with a background "object", the mean over all rows."""
        if self.training:
            seen = torch.bincount(labels[valid], minlength=self.num_classes + 1).to(self.counts.dtype)
            self.counts += summed_over_processes(seen)
        scores = logits[:, : self.num_classes]
        foreground = valid & (labels < self.num_classes)
        own = labels.where(foreground, 0)
        pressed = scores + self._log_weights(scores.detach(), own)
        if known is not None:  # the row's own class is known
            pressed = pressed.masked_fill(~(known.bool() | (one_hot_rows(own, self.num_classes) > 0)), -torch.inf)
        found = {"classes": row_mean(F.cross_entropy(pressed, own, reduction="none"), foreground)}
        if self.background:
            absent = (labels == self.num_classes).long()
            found["object"] = row_mean(F.cross_entropy(logits[:, self.num_classes :], absent, reduction="none"), valid)
        return found

    def _log_weights(self, scores: Tensor, labels: Tensor) -> Tensor:
        """ln of how much each class presses on each row's, (N, C); 0 for its own."""
        count = self.counts[: self.num_classes].clamp(min=1)
        mitigation = (count / count[labels][:, None]).clamp(max=1).log() * self.p
        probability = scores.softmax(1)
        mistaken = probability / probability.gather(1, labels[:, None]).clamp(min=self.eps)
        compensation = mistaken.clamp(min=1).log() * self.q
        return (mitigation + compensation) * (1 - one_hot_rows(labels, self.num_classes))

    def probabilities(self, logits: Tensor) -> Tensor:
        found = logits[..., : self.num_classes].float().softmax(-1)
        if not self.background:
            return found
        known = logits[..., self.num_classes :].float().softmax(-1)
        return torch.cat((found * known[..., :1], known[..., 1:]), -1)
