"""Class weights suggested by how many pixels each class has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Method = Literal["enet", "erfnet", "median_frequency", "inverse"]
METHODS: tuple[str, ...] = get_args(Method)
OFFSETS = {"enet": 1.02, "erfnet": 1.10}


def class_weights(
    counts: Sequence[float] | Tensor,
    method: Method = "enet",
    image_pixels: Sequence[float] | Tensor | None = None,
    offset: float | None = None,
) -> Tensor:
    """One weight a class, for the `class_weight` of a loss.

    With p the class's share of all counted pixels:

    - "enet": 1 / ln(1.02 + p) (Paszke et al., arXiv 1606.02147), between 1.4 and 50.
    - "erfnet": 1 / ln(1.10 + p), between 1.3 and 10.5: of this formula are the numbers in ERFNet's code (and CGNet's).
    - "median_frequency": median(f) / f, f the class's share of the pixels of the images that contain it
      (Eigen and Fergus, arXiv 1411.4734); without `image_pixels`, f = p.
    - "inverse": 1 / (K * p): 1 for every class where all are equally frequent.

    A class without a pixel gets the largest weight of the others (its own would be infinite; ENet's is finite).

    Args:
        counts: pixels of each class, (K,); ignored pixels left out.
        method: see above.
        image_pixels: pixels of the images that contain each class, (K,); for "median_frequency" only.
        offset: instead of the 1.02 or 1.10 of "enet" and "erfnet"; larger makes the weights more even.  The codes of both
            take 1.2 for the first stage, the encoder's.

    Returns:
        float32 (K,).
    """
    pixels = torch.as_tensor(counts, dtype=torch.float64)
    if pixels.ndim != 1 or not pixels.numel() or pixels.min() < 0 or pixels.sum() == 0:
        raise ValueError(f"counts is {counts}; give the number of pixels of each class, at least one of them above 0")
    share = pixels / pixels.sum()
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; give one of {', '.join(METHODS)}")
    if offset is not None and method not in OFFSETS:
        raise ValueError(f"offset is {offset}, but the method {method!r} has none; leave it out")
    if method in OFFSETS:
        offset = OFFSETS[method] if offset is None else offset
        if offset <= 1.0:
            raise ValueError(f"offset is {offset}; give a number above 1, so that every weight is finite and positive")
        return (1.0 / torch.log(offset + share)).float()
    if method == "median_frequency":
        if image_pixels is not None:
            seen = torch.as_tensor(image_pixels, dtype=torch.float64)
            if seen.shape != pixels.shape or bool((seen < pixels).any()):
                raise ValueError(f"image_pixels is {image_pixels}; give one number a class, none under its count")
            share = pixels / seen.clamp(min=1.0)
        # The mean of the middle two, where their number is even.
        weight = share[pixels > 0].quantile(0.5) / share
    else:
        weight = 1.0 / (share * len(share))
    return torch.where(pixels > 0, weight, weight[pixels > 0].max()).float()
