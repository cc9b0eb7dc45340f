"""Cross entropy over the hard pixels only: online hard example mining, also called bootstrapping.

Streets are mostly road and sky that a network soon knows by heart; their many small losses drown the few large
ones. Every published form (BiSeNet, STDC, OCNet, PSPNet, TorchSeg, SFNet, RegSeg) is one rule with different numbers: a
pixel is hard where the probability of its label is under a threshold, which is the same as a loss above
-log(threshold); and at least `min_kept` pixels are kept, those of the largest losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from segmentarium.checks import check_choice
from segmentarium.labels import IGNORE_INDEX
from segmentarium.losses.base import PixelLoss, pixel_cross_entropy, safe_divide


class OhemCrossEntropy(PixelLoss):
    """The mean cross entropy of the hard pixels.

    Published forms: BiSeNet (CoinCheung) is the default; STDC, FANet, TorchSeg and OCNet give `min_kept` as a
    number, OCNet with `threshold=0.7, min_kept=100_000`; RegSeg's bootstrapped cross entropy is `loss_threshold=0.3`.
    mmsegmentation's sampler is `min_kept=100_000, per_image=True, average="all"`, without its `thresh` besides
    `loss_threshold=math.inf`.

    Args:
        threshold: keep pixels whose label has a probability under this, in (0, 1].
        min_kept: how many pixels to keep at least, the hardest: a number (int), or a share of the labelled pixels
            (float, 0..1). Never more than there are labelled pixels, so ignored ones do not thin out the mean.
        per_image: a number of `min_kept` is for each image of a batch, of which the hardest pixels are chosen together.
        loss_threshold: keep pixels with a loss above this, instead of `threshold`.
        class_weight: one weight a class, for the mean over the kept pixels; they are chosen without it, since a
            weight says how much a class matters and not how hard its pixels are.
        ignore_index: the label that counts nowhere.
        average: "kept" divides by the pixels that are kept; "all" by every pixel, easy and ignored ones included
            (mmsegmentation's), so that the loss fades as pixels become easy.
    """

    def __init__(
        self,
        threshold: float = 0.7,
        min_kept: int | float = 1 / 16,
        loss_threshold: float | None = None,
        class_weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        per_image: bool = False,
        average: Literal["kept", "all"] = "kept",
    ) -> None:
        super().__init__(class_weight, ignore_index)
        check_choice("average", average, ("kept", "all"))
        if not 0.0 < threshold <= 1.0:
            raise ValueError(f"threshold is {threshold}; give a probability above 0 and up to 1 (or a loss_threshold)")
        if min_kept < 0 or (isinstance(min_kept, float) and min_kept > 1.0):
            raise ValueError(f"min_kept is {min_kept}; give a number of pixels (int) or a share from 0 to 1 (float)")
        self.min_kept = min_kept
        self.per_image = per_image
        self.average = average
        self.loss_threshold = -math.log(threshold) if loss_threshold is None else loss_threshold

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        loss = pixel_cross_entropy(logits, labels, valid).flatten()
        hard = self._hard(loss.detach(), valid.flatten(), len(labels) if self.per_image else 1)
        weight = self.pixel_weight(labels, valid).flatten() * hard
        total = (loss * weight).sum()
        return total / labels.numel() if self.average == "all" else safe_divide(total, weight.sum())

    def _hard(self, loss: Tensor, valid: Tensor, images: int) -> Tensor:
        """Which pixels to keep, bool (P,); a number of `min_kept` is for each of so many `images`."""
        hard = valid & (loss > self.loss_threshold)
        num_valid = valid.sum()
        if isinstance(self.min_kept, float):
            # The small addend keeps 0.1 * 30 = 2.9999… from losing a pixel.
            least = (num_valid * self.min_kept + 1e-6).long()
        else:
            least = num_valid.clamp(max=self.min_kept * images)
        ranked = loss.masked_fill(~valid, -1.0)
        if torch.compiler.is_compiling():  # no branch on values: rank all pixels
            order = ranked.argsort(descending=True)
            kept = torch.arange(loss.numel(), device=loss.device) < torch.maximum(hard.sum(), least)
            return torch.zeros_like(valid).scatter_(0, order, kept)
        if hard.sum() >= least:  # the usual case in early training, and it needs no sorting
            return hard
        top = ranked.topk(int(least), sorted=False).indices
        return torch.zeros_like(valid).index_fill_(0, top, True)

    def extra_repr(self) -> str:
        chosen = f"loss_threshold={self.loss_threshold:.4f}, min_kept={self.min_kept}"
        return f"{super().extra_repr()}, {chosen}, per_image={self.per_image}, average={self.average!r}"
