"""ExtremeC3Net: portraits in 0.04 million parameters.

Weights of the authors' code load.  SINet is its successor.

A C3 module looks through three dilated depthwise convolutions; before each one, two one-dimensional kernels as long as
the gaps gather what the dilation would step over.  A coarse path of such modules at 1/4 meets a fine one at 1/2.

What the authors' code does and the paper does not say: all features keep 1/4 after the first two strides; the image
itself, averaged, joins the features at 1/2 and 1/4; upsampling aligns corners.
What we change:
- any size: averaging keeps a partial window, and what upsampling makes of it is cut off;
- the classifier, a 1×1 convolution without bias, comes before the last upsampling instead of after it: the same scores,
  since both are linear, from a twentieth of the memory.

The objective is that of the published weights for one logit, the Lovász hinge, and half of it again on the band around
the boundary; for several classes cross entropy in its place.  The coarse path is trained alone first (`extremec3_encoder`, at
1/4), and `create_model("extremec3", weights=...)` starts from its file.

Published: EG1800 mean IoU 94.98 with 0.038 M parameters; the weights, of one logit, were trained on images squeezed to
224×224.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.contracts import SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier
from segmentarium.losses import CrossEntropy, Lovasz
from segmentarium.losses.boundary_band import OnBoundary
from segmentarium.portrait.sinet import NormAct, conv_norm_prelu, upsample
from segmentarium.registry import Card, Paper, register


class C3Block(nn.Module):
    """One branch: a dilated depthwise 3×3 after a column and a row of 2d - 1 pixels, then pointwise (figure 3)."""

    def __init__(self, channels: int, out_channels: int, dilation: int) -> None:
        super().__init__()
        if dilation > 1:
            act, length = partial(nn.PReLU, channels), 2 * dilation - 1
            self.gather: nn.Module = nn.Sequential(
                ConvNormAct(channels, channels, (length, 1), groups=channels, act=act),
                ConvNormAct(channels, channels, (1, length), groups=channels, act=None),
            )
        else:
            self.gather = nn.Identity()
        self.depthwise = nn.Conv2d(channels, channels, 3, 1, dilation, dilation, channels, bias=False)
        self.pointwise = nn.Conv2d(channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out_channels, H, W)"""
        return self.pointwise(self.depthwise(self.gather(x)))


class C3Module(nn.Module):
    """A third of the channels, seen by three branches of other dilations, joined; a shortcut where the width is kept.

    stride   2: the reducing convolution is a strided 3×3 instead of a 1×1
    """

    def __init__(self, in_channels: int, channels: int, dilations: tuple[int, int, int], stride: int = 1) -> None:
        super().__init__()
        third = channels // 3
        kernel = 3 if stride > 1 else 1
        self.reduce = nn.Conv2d(in_channels, third, kernel, stride, kernel // 2, bias=False)
        widths = (channels - 2 * third, third, third)
        self.branches = nn.ModuleList(C3Block(third, w, d) for w, d in zip(widths, dilations, strict=True))
        self.residual = in_channels == channels and stride == 1
        self.join = NormAct(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, ceil(H / stride), …)"""
        reduced = self.reduce(x)
        y = torch.cat([branch(reduced) for branch in self.branches], 1)
        return self.join(y + x if self.residual else y)


def halved(image: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2)): means of 2×2 pixels."""
    return F.avg_pool2d(image, 2, 2, ceil_mode=True, count_include_pad=False)


class Encoder(nn.Module):
    """The coarse path; `first` and `second` modules follow those that change the width."""

    def __init__(self, in_channels: int, first: int, second: int) -> None:
        super().__init__()
        self.stem = conv_norm_prelu(in_channels, 24, 3, 2)
        self.join1 = NormAct(24 + in_channels)
        self.down = C3Module(24 + in_channels, 48, (1, 2, 3), stride=2)
        self.level2 = nn.Sequential(*(C3Module(48, 48, (1, 3, 4)) for _ in range(first)))
        self.join2 = NormAct(48 + 48 + in_channels)
        self.widen = C3Module(48 + 48 + in_channels, 56, (1, 3, 5))
        self.level3 = nn.Sequential(*(C3Module(56, 56, (2, 4, 8)) for _ in range(second)))
        self.join3 = NormAct(56 + 56)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 112, H/4, W/4)"""
        image2 = halved(image)
        image4 = halved(image2)
        x4 = self.down(self.join1(torch.cat([self.stem(image), image2], 1)))
        x4 = self.widen(self.join2(torch.cat([self.level2(x4), x4, image4], 1)))
        return self.join3(torch.cat([x4, self.level3(x4)], 1))


def _objective(num_classes: int, band: int, **meeting: Any) -> tuple[Term, Term]:
    loss = Lovasz if num_classes == 1 else CrossEntropy
    return (
        Term("logits", 1.0, loss(), **meeting),
        Term("boundary", 0.5, OnBoundary(loss(), band), classes=False, **meeting),
    )


class ExtremeC3Encoder(SegmentationModel):
    """The first stage of training: the coarse path alone, on labels at 1/4.

    blocks   C3 modules of constant width in both levels
    """

    align_corners = True

    def __init__(self, *, num_classes: int = 1, in_channels: int = 3, blocks: tuple[int, int] = (1, 5)) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.encoder = Encoder(in_channels, *blocks)
        self.classifier = init_classifier(nn.Conv2d(112, num_classes, 1, bias=False))
        self.set_objective(*_objective(num_classes, 5, at="output"))

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H/4, W/4)"""
        return self.classifier(self.encoder(image))

    def forward(self, image: Tensor) -> Tensor:
        return upsample(self.logits(image), 4, image.shape[-2:])


class ExtremeC3(SegmentationModel):
    """The whole network: a coarse and a fine path, and one logit, as published, or several.

    blocks   C3 modules of constant width in both levels of the coarse path (the code's p and q)
    """

    align_corners = True
    first_stage: ClassVar[tuple[str, str]] = ("extremec3_encoder", "encoder.")

    def __init__(self, *, num_classes: int = 1, in_channels: int = 3, blocks: tuple[int, int] = (1, 5)) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.encoder = Encoder(in_channels, *blocks)
        self.coarse = ConvNormAct(112, 24, 1, act=None)
        self.fine = nn.Sequential(
            nn.Conv2d(in_channels, 24, 3, 2, 1, bias=False),
            C3Module(24, 24, (2, 4, 8)),
        )
        self.join = NormAct(24)
        # few inputs: smaller weights would take long to grow
        self.classifier = init_classifier(nn.Conv2d(24, num_classes, 1, bias=False), std=0.1)
        self.set_objective(*_objective(num_classes, 15))

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H, W)"""
        fine = self.fine(image)
        coarse = upsample(self.coarse(self.encoder(image)), 2, fine.shape[-2:])
        return upsample(self.classifier(self.join(coarse + fine)), 2, image.shape[-2:])


PAPER = Paper(
    title="Extreme Lightweight Portrait Segmentation Networks using Advanced C3-modules",
    authors="Park, Sjösund, Yoo, Bang, Kwak",
    venue="arXiv",
    year=2019,
    url="https://arxiv.org/abs/1908.03093",
    code="https://github.com/clovaai/ext_portrait_segmentation",
    code_licence="MIT",
)

register("extremec3", ExtremeC3, Card(paper=PAPER, parameters=0.038, num_classes=1, scores={"EG1800 mean IoU": 94.98}))
register("extremec3_encoder", ExtremeC3Encoder, Card(paper=PAPER, num_classes=1))
