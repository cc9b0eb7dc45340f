"""Detail guidance (Fan et al., STDC, arXiv 2104.13188, section 3.3): learn where the label map changes.

The label map's Laplacian, taken at steps of one, two and four pixels, says where classes meet; a head on an early feature
learns that map by binary cross entropy and Dice, which together bear that hardly any pixel is one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.labels import IGNORE_INDEX
from segmentarium.layers.resize import resize
from segmentarium.losses.base import safe_divide

STEPS = (1, 2, 4)


def detail_maps(target: Tensor, ignore_index: int | None = IGNORE_INDEX) -> Tensor:
    """Label map (B, H, W) -> (B, 3, H, W) bool: where the Laplacian exceeds zero, at steps of 1, 2 and 4 pixels.

    As in the authors' code, labels are taken as numbers, so of two neighbours the one of the larger class is marked; and
    what lies outside the image has label 0.  Ignored pixels are never marked, and make none of their neighbours so;
    `ignore_index=None` takes them for a class like any other (the authors' code).
    """
    labels = target.unsqueeze(1).float()
    known = torch.ones_like(labels) if ignore_index is None else (labels != ignore_index).float()
    ring = labels.new_tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]).view(1, 1, 3, 3)
    labels = labels * known
    with torch.autocast(labels.device.type, enabled=False):  # sums of class numbers need float32's integers
        neighbours = F.conv2d(F.pad(known, (1, 1, 1, 1), value=1.0), ring)
        laplacian = (labels * neighbours - F.conv2d(labels, ring, padding=1)) * known
    marked = (laplacian > 0.1).float()
    size = target.shape[-2:]
    return torch.cat([resize(marked[..., ::step, ::step], size, mode="nearest") for step in STEPS], 1) > 0.5


class DetailLoss(nn.Module):
    """Binary cross entropy plus Dice between detail logits (B, 1, h, w) and the detail map of the labels (B, H, W).

    The logits are brought to the labels' size, corners aligned.

    Args:
        fuse: weights of the maps at steps 1, 2 and 4; a pixel is detail where their sum exceeds `threshold`.  The paper calls
            them learnable, but behind a threshold they have no gradient: the authors' stay as they are, except for weight
            decay.  With these, a mark of step 4 alone just fails the threshold, so steps 1 and 2 decide.
        threshold: see `fuse`.
        ignore_index: the label that counts nowhere; None: it counts like any other label (the authors' code).
    """

    def __init__(
        self,
        fuse: Sequence[float] = (0.6, 0.3, 0.1),
        threshold: float = 0.1,
        ignore_index: int | None = IGNORE_INDEX,
    ) -> None:
        super().__init__()
        if len(fuse) != len(STEPS):
            raise ValueError(f"fuse is {tuple(fuse)}; give three weights, for steps of {STEPS} pixels")
        self.fuse = tuple(fuse)
        self.threshold = threshold
        self.ignore_index = ignore_index

    def detail_target(self, target: Tensor) -> Tensor:
        """Label map (B, H, W) -> (B, 1, H, W) float32: 1 at details."""
        maps = detail_maps(target, self.ignore_index).float()
        weights = maps.new_tensor(self.fuse).view(1, -1, 1, 1)
        return ((maps * weights).sum(1, keepdim=True) > self.threshold).float()

    def terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The binary cross entropy and the Dice loss, float32 scalars."""
        if logits.ndim != 4 or logits.shape[1] != 1 or target.ndim != 3 or len(logits) != len(target):
            raise ValueError(
                f"detail logits have shape {tuple(logits.shape)} and target {tuple(target.shape)}; "
                "give one channel (B, 1, h, w) and a label map (B, H, W)"
            )
        with torch.autocast(logits.device.type, enabled=False):
            logits = resize(logits.float(), target.shape[-2:], align_corners=True)
            truth = self.detail_target(target)
            known = torch.ones_like(truth)
            if self.ignore_index is not None:
                known = (target != self.ignore_index).unsqueeze(1).float()
            pixels = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
            entropy = safe_divide((pixels * known).sum(), known.sum())
            guess, dims = logits.sigmoid() * known, (1, 2, 3)
            overlap = 2.0 * (guess * truth).sum(dims) + 1.0
            dice = 1.0 - overlap / (guess.sum(dims) + truth.sum(dims) + 1.0)
            labelled = known.amax(dims)  # an image without labels has no part in the mean
            return entropy, safe_divide((dice * labelled).sum(), labelled.sum())

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The sum of both, a float32 scalar; 0 where no pixel is labelled."""
        entropy, dice = self.terms(logits, target)
        return entropy + dice

    def extra_repr(self) -> str:
        return f"fuse={self.fuse}, threshold={self.threshold}, ignore_index={self.ignore_index}"
