"""BSN: DeepLabV2 that is taught the boundaries of portraits.

There is no public code.

DeepLabV2 on a ResNet, with three ideas for portraits.  Boundary pixels are no pure class: a third output, and soft labels
in the dilated boundary.  Portraits are alike, so the mean of the training masks tells where in the frame the outline
runs, and pixels there weigh more.  And a classifier of an attribute, long or short hair, shares the features, since hair
decides the shape.  All three are the training's: what remains is DeepLabV2.

What the paper leaves open, or we could not find, and what was chosen:
- soft labels: of the classes' shares s in a window of 9 pixels around a pixel, the boundary's output gets b = 1 - max s,
  at most one half, and class k gets (1 - b) · s_k.  Off the boundary that is the label itself, and the band is the
  contour dilated by the window.
- global kernel: w = 1 + 4 · m · (1 - m) with m the mean mask: 1 where all masks agree, 2 where half of them do.  For K
  classes, 1 plus the Gini impurity of their shares, scaled to 1 for equal ones, which is the same for two.  The mean is
  taken over the masks as they come in training, on a grid of 64×64 cells, and stays with the weights.
- attribute: our data has no labels of hair, so the mask itself gives one: whether its outline has a neck.  Hair that
  hangs down, a scarf or a hood hide it.  `criterion(..., attribute=labels)` takes real labels.  Weight 0.1.
- DeepLabV2: four dilated 3×3 classifiers at 1/8, summed, on ResNet-101; neither the three scales of its input nor a CRF.
- the logits of the classes are what the model returns; the boundary's output only takes part in training.

Published: mean IoU 96.7 on the portraits of PFCN (EG1800).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder, Term
from segmentarium.labels import IGNORE_INDEX
from segmentarium.layers.init import init_classifier
from segmentarium.layers.resize import resize
from segmentarium.losses.base import PixelLoss, one_hot, safe_divide
from segmentarium.registry import Card, Paper

RATES = (6, 12, 18, 24)
GRID = 64  # cells a side of the mean mask
NECK = 0.75  # a neck is narrower than this share of the head and of the shoulders


def soft_labels(labels: Tensor, valid: Tensor, num_classes: int, size: int) -> Tensor:
    """labels and valid (B, H, W) -> (B, num_classes + 1, H, W), the last for the boundary; each valid pixel sums to 1."""
    share = F.avg_pool2d(one_hot(labels, valid, num_classes), size, 1, size // 2)
    share = safe_divide(share, share.sum(1, keepdim=True))
    boundary = 1 - share.amax(1, keepdim=True)
    return torch.cat([share * (1 - boundary), boundary], 1) * valid[:, None]


def global_kernel(share: Tensor) -> Tensor:
    """The classes' shares of the training masks (K, h, w) -> (h, w): 1 where one class has all, 2 where all have the same."""
    impurity = 1 - share.square().sum(0)
    return 1 + impurity * len(share) / (len(share) - 1)


class BoundarySensitive(PixelLoss):
    """Divergence from the soft labels of the boundary, weighed by the global kernel.

    Logits (B, K + 1, H, W), the last the boundary's; labels of K classes.  In training the mean mask takes in each batch.

    size   of the window around a pixel, odd, in which labels are counted
    """

    seen: Tensor

    def __init__(self, num_classes: int, size: int = 9, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__(None, ignore_index)
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size is {size}; give an odd number of pixels")
        self.num_classes = num_classes
        self.size = size
        self.register_buffer("seen", torch.zeros(num_classes, GRID, GRID))  # images, by class and cell

    @torch.no_grad()
    def observe(self, labels: Tensor, valid: Tensor) -> None:
        """Adds masks (B, H, W) to the mean of those seen."""
        self.seen += F.adaptive_avg_pool2d(one_hot(labels, valid, self.num_classes), GRID).sum(0)

    def mean_mask(self) -> Tensor:
        """(K, 64, 64): each class's share of what was seen at that place; where nothing was, the first class has all."""
        total = self.seen.sum(0)
        mean = safe_divide(self.seen, total)
        mean[0] += total == 0
        return mean

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        if self.training:
            self.observe(labels, valid)
        kernel = resize(global_kernel(self.mean_mask())[None, None], labels.shape[-2:])[:, 0]
        soft = soft_labels(labels, valid, self.num_classes, self.size)
        # the cross entropy less that of the labels with themselves: the same gradient, and 0 is the best there is
        divergence = (soft.xlogy(soft) - soft * logits.log_softmax(1)).sum(1)
        weight = kernel * valid
        return safe_divide((weight * divergence).sum(), weight.sum())


@torch.no_grad()
def hides_neck(labels: Tensor, valid: Tensor) -> Tensor:
    """labels (B, H, W), 0 the background -> (B,): 0 an outline with a neck, 1 one without, 255 nobody there.

    A neck is a row narrower than some row above it (the head) and some row below it (the shoulders).
    """
    width = ((labels > 0) & valid).sum(2).float()  # (B, H) of each row
    above = width.cummax(1).values
    below = width.flip(1).cummax(1).values.flip(1)
    around = torch.minimum(above, below)
    dip = torch.where(around > 0, width / around.clamp(min=1), 1.0).amin(1)
    return (dip > NECK).long().masked_fill(width.sum(1) == 0, IGNORE_INDEX)


class AttributeLoss(nn.Module):
    """Cross entropy of the attribute's logits (B, A) with its labels (B,); 255 is unknown and does not count."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """-> float32 scalar, 0 where all are 255"""
        total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="sum")
        return safe_divide(total, (labels != IGNORE_INDEX).sum())


class OutlineAttribute(AttributeLoss):
    """The same with what the masks (B, H, W) say; images of nobody do not count."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        valid = labels != IGNORE_INDEX
        return super().forward(logits, hides_neck(labels.masked_fill(~valid, 0), valid))


class BSNDecoder(Decoder):
    """DeepLabV2 with the boundary-sensitive objective: the sum of four 3×3 classifiers of other dilations (ASPP-L of
    DeepLabV2, 1606.00915), the classes' and the boundary's; and in training the portrait's attribute.

    attributes       values of the attribute that the classifier tells apart
    attribute_label  the batch has them as "attribute" (B,), 255 unknown; else they are read off the masks
    """

    prefers_output_stride = 8
    training_only = ("attribute",)

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        attributes: int = 2,
        attribute_label: bool = False,
    ) -> None:
        super().__init__()
        if attributes < 2:
            raise ValueError(f"attributes is {attributes}; give the number of values to tell apart, 2 or more")
        self.num_classes = num_classes
        self.attribute_label = attribute_label
        self.classifiers = nn.ModuleList(
            nn.Conv2d(channels[-1], max(num_classes, 2) + 1, 3, padding=rate, dilation=rate) for rate in RATES
        )
        init_classifier(self.classifiers)
        self.attribute = nn.Linear(channels[-1], attributes)

    def scores(self, features: Sequence[Tensor]) -> Tensor:
        """-> (B, K + 1, h, w): of the classes and, last, of the boundary; once deployed, the class logits"""
        scores = self.classifiers[0](features[-1])
        for conv in self.classifiers[1:]:
            scores = scores + conv(features[-1])
        return scores

    def class_logits(self, scores: Tensor) -> Tensor:
        """(B, outputs, h, w) -> (B, num_classes, h, w): without the boundary; one logit is the foreground's lead."""
        if scores.shape[1] == self.num_classes:
            return scores
        return scores[:, 1:2] - scores[:, :1] if self.num_classes == 1 else scores[:, : self.num_classes]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.class_logits(self.scores(features))

    def forward_train(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """ "logits" are of the classes and, last, of the boundary: (B, K + 1, h, w); "attribute": (B, attributes)."""
        return {"logits": self.scores(features), "attribute": self.attribute(features[-1].mean((2, 3)))}

    def objective(self) -> tuple[Term, ...]:
        loss, on = (AttributeLoss(), "attribute") if self.attribute_label else (OutlineAttribute(), "mask")
        return (
            Term("logits", 1.0, BoundarySensitive(max(self.num_classes, 2)), classes=False),
            Term("attribute", 0.1, loss, of=("attribute",), on=on, at="as is", classes=False),
        )

    @torch.no_grad()
    def reparameterize(self) -> None:
        """The choice of outputs moves into the classifiers."""
        for conv in self.classifiers:
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            for name, tensor in (("weight", conv.weight), ("bias", conv.bias)):
                chosen = self.class_logits(tensor.reshape(1, len(tensor), -1, 1))
                shape = (self.num_classes, *tensor.shape[1:])
                setattr(conv, name, nn.Parameter(chosen.reshape(shape).contiguous()))
            conv.out_channels = self.num_classes


PAPER = Paper(
    title="Boundary-sensitive Network for Portrait Segmentation",
    authors="Du, Wang, Li, Zhu, Tasci, Upright, Walsh, Davis",
    venue="FG",
    year=2019,
    url="https://arxiv.org/abs/1712.08675",
)

register_decoder(
    "bsn", BSNDecoder, Card(paper=PAPER, num_classes=2, scores={"EG1800 mean IoU": 96.7}), backbone="resnet101"
)
