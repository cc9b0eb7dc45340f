"""Labels of patches out of an annotator's maps (Jiang et al., 2104.10858; Yun et al., 2101.05022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align


def token_targets(
    scores: Tensor,
    classes: Tensor,
    boxes: Tensor,
    labels: Tensor,
    num_classes: int,
    size: int | tuple[int, int] | None,
    *,
    smoothing: float = 0.0,
) -> Tensor:
    """What a network that sees crops of pictures should say of each crop and of each of its patches.

    scores     (B, K, h, w) of the K best classes of each cell of the annotator's map of the whole picture, before a softmax
    classes    (B, K, h, w) integers: which these are
    boxes      (B, 4) the crops: left, top, width, height, as shares of the picture's
    labels     (B,) integers: the pictures' classes as people say
    size       rows and columns of the patches, or one number for both; None: the crops alone
    smoothing  the share of each target, 0..1, that is spread evenly over all classes

    -> (B, num_classes, 2 + rows · columns) shares of classes: the people's, the annotator's of the whole crop, the patches' row
    by row.  As in the authors' code, classes that a cell does not name have score 0 in the softmax, which is taken behind the
    pooling; and the annotator's shares, smoothed, sum to 1 + smoothing / num_classes.
    """
    batch, _, height, width = scores.shape
    if boxes.shape != (batch, 4) or labels.shape != (batch,) or classes.shape != scores.shape:
        raise ValueError(
            f"scores are {tuple(scores.shape)}, classes {tuple(classes.shape)}, boxes {tuple(boxes.shape)} and labels "
            f"{tuple(labels.shape)}; give (B, K, h, w) twice, (B, 4) and (B,)"
        )
    full = scores.new_zeros(batch, num_classes, height, width).scatter_(1, classes.long(), scores)
    sides = boxes.new_tensor((width, height))
    corners = torch.cat([boxes[:, :2] * sides, (boxes[:, :2] + boxes[:, 2:]) * sides], 1) - 0.5
    crops = list(corners.to(scores.dtype).split(1))
    pooled = [roi_align(full, crops, cells).flatten(2) for cells in ((1,) if size is None else (1, size))]
    seen = torch.cat(pooled, 2).softmax(1)
    people = F.one_hot(labels.long(), num_classes).to(scores.dtype).unsqueeze(2)
    even = smoothing / num_classes
    return torch.cat([people * (1 - smoothing), seen * (1 - smoothing + even)], 2) + even
