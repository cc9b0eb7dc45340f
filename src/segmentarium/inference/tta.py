"""Test-time augmentation as a wrapper of `forward`: flips and scales, probabilities averaged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segmentarium.inference.windows import Forward, whole
from segmentarium.layers.resize import resize
from segmentarium.preprocessing import rounded


def probabilities(logits: Tensor) -> Tensor:
    """Logits (B, K, H, W) -> float32 probabilities of the same shape; K = 1: that of the one class."""
    return torch.sigmoid(logits.float()) if logits.shape[1] == 1 else torch.softmax(logits.float(), 1)


def indices(logits: Tensor) -> Tensor:
    """Logits (B, K, H, W) -> class indices (B, H, W), uint8 where they fit (K up to 256), else int64."""
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).to(torch.uint8)
    if logits.shape[1] == 2:  # half the time of argmax; ties go to class 0 there too
        return (logits[:, 1] > logits[:, 0]).to(torch.uint8)
    index = logits.max(1).indices  # argmax gives the same, and takes 6 times as long on the processor
    return index.to(torch.uint8) if logits.shape[1] <= 256 else index


def augmented(
    forward: Forward, *, flip: bool = False, scales: Sequence[float] = (1.0,), multiple: int | None = None
) -> Forward:
    """A forward that averages the probabilities of the picture at several scales, and mirrored.

    What it returns counts as logits again (the logarithm of the mean), so that windows, classes and scores are computed
    from it as from a plain forward. In windows, each window is scaled and mirrored by itself.  Scaled sides are multiples of
    `multiple`.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales is {tuple(scales)}; give one or more positive factors, e.g. (0.75, 1.0, 1.25)")
    if not flip and tuple(scales) == (1.0,):
        return forward

    def mean_of_views(image: Tensor) -> Tensor:
        size = image.shape[-2:]
        total: Tensor | None = None
        for scale in scales:
            view = scaled(image, rounded(size, scale, multiple) if scale != 1 else size)
            for mirrored in (False, True) if flip else (False,):
                logits = whole(forward, view.flip(-1) if mirrored else view)
                part = probabilities(resize(logits.flip(-1) if mirrored else logits, size))
                total = part if total is None else total.add_(part)
        assert total is not None
        mean = (total / (len(scales) * (1 + flip))).clamp_(1e-7, 1 - 1e-7)
        return torch.logit(mean) if mean.shape[1] == 1 else mean.log_()

    return mean_of_views


def scaled(image: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, H, W) at another size, bilinear, without aliasing where it shrinks; uint8 stays uint8."""
    height, width = size
    if image.shape[-2] == height and image.shape[-1] == width:
        return image
    return torch.nn.functional.interpolate(image, (height, width), mode="bilinear", antialias=True)
