"""Pixels of patches that a network did not see (MAE, 2111.06377, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segmentarium.layers.patches import patchify
from segmentarium.layers.resize import pad_to_multiple

EPS = 1e-6  # added to a patch's variance


class MaskedPatches(nn.Module):
    """Mean squared error of predicted patches (B, N, patch²·C) over those that are `hidden` (B, N), against the image they were
    taken from, padded with zeros to whole patches.

    normalise   each patch is to be foreseen as it is less its mean, over its deviation: the mean predictor's error is then 1
    """

    def __init__(self, patch: int, normalise: bool = True) -> None:
        super().__init__()
        self.patch, self.normalise = patch, normalise

    def forward(self, prediction: Tensor, hidden: Tensor, image: Tensor) -> Tensor:
        """The mean over all hidden patches of the batch, a float32 scalar; 0 where none is."""
        with torch.autocast(prediction.device.type, enabled=False):
            error = (prediction.float() - self.target(image)).square().mean(-1)
            return (error * hidden).sum() / hidden.sum().clamp(min=1)

    def target(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, patch²·C), float32: what is to be foreseen"""
        patches = patchify(pad_to_multiple(image.float(), self.patch), self.patch)
        if not self.normalise:
            return patches
        mean, deviation = self.statistics(patches)
        return (patches - mean) / deviation

    @staticmethod
    def statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (B, N, 1) of each patch; the variance is the unbiased one."""
        variance, mean = torch.var_mean(patches, -1, keepdim=True)
        return mean, (variance + EPS).sqrt()

    def extra_repr(self) -> str:
        return f"patch={self.patch}, normalise={self.normalise}"
