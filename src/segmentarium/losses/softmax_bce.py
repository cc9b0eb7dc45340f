"""Binary cross entropy of softmax probabilities against the labelled class alone, summed over the classes.

The detector loss of eric-yyjau/pytorch-superpoint; the paper has plain cross entropy (1712.07629, equation 2).
"""

from __future__ import annotations

from torch import Tensor

from segmentarium.losses.base import PixelLoss, one_hot, safe_divide


class SoftmaxBCE(PixelLoss):
    """Logits (B, K, H, W) with K of 2 or more against labels (B, H, W), the mean over the pixels that count."""

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        if logits.shape[1] < 2:
            raise ValueError("a softmax over one class is always 1; give logits of two or more")
        target = one_hot(labels, valid, logits.shape[1])
        probability = logits.softmax(1)
        # as PyTorch's own: a logarithm is never below -100
        loss = -(target * probability.log().clamp(min=-100) + (1 - target) * (1 - probability).log().clamp(min=-100))
        weight = self.pixel_weight(labels, valid)
        return safe_divide((loss.sum(1) * weight).sum(), weight.sum())
