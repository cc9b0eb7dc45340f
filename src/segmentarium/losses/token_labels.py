"""Token labeling: the class token and every patch have a target of their own (Jiang et al., 2104.10858).

The batch's "label" says how much is known of a picture: its class, integers (B,); shares of classes (B, K); or, from an
annotator's map, (B, K, 2 + N) shares: column 0 of the picture as people label it, column 1 of the picture as the annotator
sees it, and then one for each of the N patches, row by row (`data.token_labels` makes them).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.losses.label_cross_entropy import LabelCrossEntropy


class MixedLabelCrossEntropy(LabelCrossEntropy):
    """Cross entropy of the class token, where MixToken put patches of another picture of the batch in place of some of its own.

    Args:
        ground_truth: with an annotator's map, the target is mixed with people's label: half each where both name the same
            class, else 0.9 of the annotator's.
        label_smoothing: the share of each target, 0..1, that is spread evenly over all classes.
    """

    def __init__(self, ground_truth: bool = False, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing)
        self.ground_truth = ground_truth

    def forward(self, logits: Tensor, kept: Tensor, target: Tensor) -> Tensor:
        """Logits (B, K), the share of patches that are a picture's own, a scalar, and the batch's label -> float32 scalar.

        The other patches are of the picture that stands in its place when the batch is turned round.
        """
        own = self._own(target, max(logits.shape[1], 2))
        return super().forward(logits, kept * own + (1 - kept) * own.flip(0))

    def _own(self, target: Tensor, classes: int) -> Tensor:
        """(B, classes) shares of each picture for itself."""
        if not target.is_floating_point():
            return F.one_hot(target.long(), classes).float()
        target = target.float()
        if target.ndim < 3:
            return target
        people, annotator = target[:, :, 0], target[:, :, 1]
        if not self.ground_truth:
            return annotator
        agree = (people.argmax(1) == annotator.argmax(1)).float().unsqueeze(1)
        return people.lerp(annotator, 0.9 - 0.4 * agree)


class TokenLabelCrossEntropy(LabelCrossEntropy):
    """Cross entropy of every patch against its own label; against the picture's, where there is no map."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (B, N, K) of the patches and the batch's label -> the mean over all patches, a float32 scalar."""
        count = logits.shape[1]
        if target.ndim == 3:
            if target.shape[-1] != 2 + count:
                raise ValueError(
                    f"the label has {target.shape[-1] - 2} patches and the network {count}; make the label maps of the size "
                    "that the network sees its pictures in"
                )
            target = target[:, :, 2:].transpose(1, 2).flatten(0, 1)
        else:
            target = torch.repeat_interleave(target, count, 0)
        return super().forward(logits.flatten(0, 1), target)
