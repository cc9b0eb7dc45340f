"""BSN: Boundary-sensitive Network for Portrait Segmentation.

Du, Wang, Li, Zhu, Tasci, Upright, Walsh, Davis; FG 2019; https://arxiv.org/abs/1712.08675.  There is no public code.

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

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.contracts import EncoderDecoder
from segmentarium.layers.resize import resize
from segmentarium.losses.base import IGNORE_INDEX, PixelLoss, one_hot, safe_divide
from segmentarium.registry import Card, Paper, register

RATES = (6, 12, 18, 24)
GRID = 64  # cells a side of the mean mask
NECK = 0.75  # a neck is narrower than this share of the head and of the shoulders


class DeepLabV2Decoder(nn.Module):
    """The sum of four 3×3 classifiers of other dilations (ASPP-L of DeepLabV2, 1606.00915): the classes' and the boundary's."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        outputs = max(num_classes, 2) + 1
        self.classifiers = nn.ModuleList(
            nn.Conv2d(in_channels, outputs, 3, padding=rate, dilation=rate) for rate in RATES
        )
        for conv in self.classifiers:
            nn.init.normal_(conv.weight, std=0.01)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        scores = self.classifiers[0](features[-1])
        for conv in self.classifiers[1:]:
            scores = scores + conv(features[-1])
        return scores

    def class_logits(self, scores: Tensor) -> Tensor:
        """(B, outputs, h, w) -> (B, num_classes, h, w): without the boundary; one logit is the foreground's lead."""
        if scores.shape[1] == self.num_classes:
            return scores
        return scores[:, 1:2] - scores[:, :1] if self.num_classes == 1 else scores[:, : self.num_classes]

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

    classwise = False
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


class OutlineAttribute(nn.Module):
    """Cross entropy of the attribute's logits (B, 2) with what the mask (B, H, W) says; images of nobody do not count."""

    native_size = True

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        valid = target != IGNORE_INDEX
        return attribute_loss(logits, hides_neck(target.masked_fill(~valid, 0), valid))


def attribute_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """logits (B, A), labels (B,) -> float32 scalar, 0 where all are 255"""
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return safe_divide(total, (labels != IGNORE_INDEX).sum())


class BSN(EncoderDecoder):
    """DeepLabV2 with the boundary-sensitive objective.

    backbone            ours by name, timm's as "timm:NAME", or a module with .channels and .strides
    output_stride       of the backbone; None: its own
    attributes          values of the attribute that the classifier tells apart
    backbone_arguments  further arguments of the backbone's class
    """

    training_only: ClassVar[tuple[str, ...]] = ("auxiliary", "attribute")
    decoder: DeepLabV2Decoder

    def __init__(
        self,
        *,
        num_classes: int = 2,
        backbone: str | nn.Module = "resnet101",
        in_channels: int = 3,
        output_stride: int | None = 8,
        attributes: int = 2,
        backbone_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        body: Any = create_backbone(
            backbone, in_channels=in_channels, output_stride=output_stride, **(backbone_arguments or {})
        )
        width = body.channels[-1]
        super().__init__(
            backbone=body,
            decoder=DeepLabV2Decoder(width, num_classes),
            num_classes=num_classes,
            in_channels=in_channels,
        )
        if attributes < 2:
            raise ValueError(f"attributes is {attributes}; give the number of values to tell apart, 2 or more")
        self.attribute = nn.Linear(width, attributes)
        self.set_objective(
            {"logits": (1.0, BoundarySensitive(max(num_classes, 2))), "attribute": (0.1, OutlineAttribute())}
        )

    def forward(self, image: Tensor) -> Tensor:
        scores = self.decoder(self.backbone(image))
        return resize(self.decoder.class_logits(scores), image.shape[-2:])

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        """ "logits" are of the classes and, last, of the boundary: (B, K + 1, h, w); "attribute": (B, attributes)."""
        features = self.backbone(image)
        return {"logits": self.decoder(features), "attribute": self.attribute(features[-1].mean((2, 3)))}

    def criterion(
        self, outputs: Mapping[str, Tensor], target: Tensor, attribute: Tensor | None = None
    ) -> dict[str, Tensor]:
        """attribute: (B,) int64 labels, 255 unknown, in place of what the masks say."""
        losses = super().criterion(outputs, target)
        if attribute is not None and "attribute" in losses:
            weight = self.loss_weights["attribute"]
            losses["attribute"] = weight * attribute_loss(outputs["attribute"], attribute)
        return losses


PAPER = Paper(
    title="Boundary-sensitive Network for Portrait Segmentation",
    authors="Du, Wang, Li, Zhu, Tasci, Upright, Walsh, Davis",
    venue="FG",
    year=2019,
    url="https://arxiv.org/abs/1712.08675",
)

register("bsn", BSN, Card(PAPER, "portrait", None, None, None, 2, {"EG1800 mean IoU": 96.7}))
