"""Semantic connectivity-aware loss (Chu et al., PP-HumanSeg, WACV workshops 2022, arXiv 2112.07146): whole pieces.

A mask in pieces where the truth is one piece is wrong even if few pixels are.  Prediction and truth fall into connected
components; each component of the truth is matched with those of the prediction that overlap it.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from segmentarium.checks import check_choice
from segmentarium.labels import IGNORE_INDEX
from segmentarium.losses.base import PixelLoss, probabilities, safe_divide

Form = Literal["paper", "paddleseg"]
CODE_LIMIT = 9  # predicted components that the public code looks at where there are many


@torch.no_grad()
def connected_components(labels: Tensor) -> Tensor:
    """(B, H, W) integers -> (B, H, W) int64: a number for each connected region of equal labels, eight neighbours a pixel.

    Numbers rise with the first pixel of a region in reading order, and over the batch.
    """
    if not labels.numel():
        return torch.zeros_like(labels, dtype=torch.int64)
    starts = torch.ones_like(labels, dtype=torch.bool)
    starts[..., 1:] = labels[..., 1:] != labels[..., :-1]
    run = starts.flatten().cumsum(0).view_as(starts) - 1  # pixels of a row that hang together, numbered
    count = int(run.flatten()[-1]) + 1
    pairs = []
    width = labels.shape[-1]
    for shift in (-1, 0, 1):
        above, below = slice(max(-shift, 0), width - max(shift, 0)), slice(max(shift, 0), width - max(-shift, 0))
        same = labels[:, :-1, above] == labels[:, 1:, below]
        pair = run[:, :-1, above][same] * count + run[:, 1:, below][same]
        pairs.append(torch.unique_consecutive(pair))
    edges = torch.cat(pairs)
    first, second = edges // count, edges % count
    parent = torch.arange(count, device=labels.device)
    while True:
        a, b = parent[first], parent[second]
        if torch.equal(a, b):
            break
        parent.scatter_reduce_(0, torch.maximum(a, b), torch.minimum(a, b), "amin")
        while not torch.equal(parent, parent[parent]):
            parent = parent[parent]
    return torch.unique(parent, return_inverse=True)[1][run]


class Connectivity(PixelLoss):
    """1 - the connectivity of prediction and truth, a mean over images of the mean over classes.

    Of a class, its components' connectivity is the sum over the truth's components of the mean IoU with the predicted ones
    that overlap it, divided by the number of the truth's components and of the predicted ones that overlap none.  Where
    nothing overlaps, the loss is |P ∪ G| / |I|, the share of the image in either.

    The components are those of the most probable class, which passes no gradient, and the public code has none.  Here a
    pixel of the mask has the value 0 or 1 and the gradient of its probability: as part of a component; in the gaps, the
    pixels of the truth that the prediction lacks, as what any component that overlaps this truth would gain; in
    a component that overlaps nothing, as its share in their number.

    Args:
        background: a class that is not looked at, or None; without effect for K = 1, which looks at the foreground.
        form: "paper", or "paddleseg", the values of the public code: classes of the truth only, background too, a
            component's pixels count as much as the number of their class (so the background scores 0), an empty
            prediction 1 more than the share of the truth; of very many predicted components nine.
        ignore_index: the label that counts nowhere.
    """

    def __init__(
        self,
        background: int | None = 0,
        form: Form = "paper",
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__(None, ignore_index)
        check_choice("form", form, get_args(Form))
        self.background = background
        self.form = form

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        guess = probabilities(logits)
        single = logits.shape[1] == 1
        predicted = (logits[:, 0] > 0).long() if single else logits.argmax(1)
        if self.form == "paper":
            predicted = predicted.masked_fill(~valid, -1)
        pieces = connected_components(predicted), connected_components(labels.masked_fill(~valid, -1))
        losses = []
        for image in range(len(logits)):
            terms = [
                self._class_loss(
                    guess[image, 0 if single else c],
                    torch.where(predicted[image] == c, pieces[0][image], -1),
                    torch.where(valid[image] & (labels[image] == c), pieces[1][image], -1),
                    valid[image],
                    c,
                )
                for c in self._classes(logits.shape[1], predicted[image], labels[image][valid[image]])
            ]
            losses.append(torch.stack(terms).mean() if terms else logits[image].sum() * 0)
        labelled = valid.flatten(1).any(1).float()
        return safe_divide((torch.stack(losses) * labelled).sum(), labelled.sum())

    def _classes(self, channels: int, predicted: Tensor, labels: Tensor) -> list[int]:
        if self.form == "paddleseg":
            return torch.unique(labels).tolist()
        seen = torch.unique(torch.cat([labels, predicted[predicted >= 0].flatten()])).tolist()
        return [c for c in seen if c != (0 if channels == 1 else self.background)]

    def _class_loss(self, guess: Tensor, predicted: Tensor, truth: Tensor, valid: Tensor, label: int) -> Tensor:
        """The loss of one class: its probability, and its predicted and true components by number, -1 elsewhere; (H, W)."""
        inside, wanted = predicted >= 0, truth >= 0
        mask = inside.float() + guess - guess.detach()  # 0 or 1, with the gradient of the probability
        j, g = (
            torch.unique(predicted[inside], return_inverse=True)[1],
            torch.unique(truth[wanted], return_inverse=True)[1],
        )
        p_id, t_id = predicted.masked_scatter(inside, j), truth.masked_scatter(wanted, g)
        count_p = int(j.max()) + 1 if j.numel() else 0
        count_t = int(g.max()) + 1 if g.numel() else 0
        if self.form == "paddleseg" and count_p + 1 > 2 * (count_t + 1):
            count_p = min(count_p, CODE_LIMIT)
            inside = inside & (p_id < count_p)
        if not count_p and self.form == "paddleseg":
            return (wanted & ~inside).float().mean() + 1 + 0 * guess.sum()

        both = inside & wanted
        area = mask.new_zeros(count_p).index_add(0, p_id[inside], mask[inside])  # (P,) of predicted components
        size = torch.bincount(g, minlength=count_t).to(mask.dtype)  # (T,) of true components
        pair = p_id[both] * count_t + t_id[both]
        overlap = mask.new_zeros(count_p * count_t).index_add(0, pair, mask[both]).view(count_p, count_t)
        weight = float(label) if self.form == "paddleseg" else 1.0
        matched = overlap.detach() * weight > 0
        if self.form == "paper" and not bool(matched.any()):
            return (mask * (valid & ~wanted)).sum().add(wanted.sum()) / valid.sum().clamp(min=1)

        gap = wanted & ~(predicted >= 0)
        gained = mask.new_zeros(count_t).index_add(0, t_id[gap], mask[gap])  # 0, with the gradient of what is missing
        iou = weight * (overlap + gained) / (size + weight * (area[:, None] - overlap)) * matched
        connectivity = (iou.sum(0) / matched.sum(0).clamp(min=1)).sum()
        alone = ~matched.any(1)
        number = count_t + (area / area.detach())[alone].sum()  # each one 1, with a gradient that makes it smaller
        return 1 - connectivity / number
