"""OCRNet: a pixel is described by the object that it belongs to.

A coarse head on an earlier feature scores the classes and so gives one soft region for each.  The pixels of a region, weighted
by how surely they belong to it, add up to its representation; every pixel then asks the regions, by attention, what of them it
should know, and is classified from the answer beside its own feature.  The coarse head is part of the network, not of its
training alone; its own cross entropy counts 0.4.

What the public code does and the paper does not say: a region's weights are a softmax over all places, so that every region
sums to 1 however small it is.  On a ResNet (`joined=False`) the coarse head sees the last feature but one, on HRNet
(`joined=True`) all features at the finest size.  `ocrnet` is the authors' HRNet-W48: convolutions in front of the head with
biases before their norms, corners aligned, dropout 0.05 before the last classifier and none in the coarse head; mmsegmentation's
(`ocrnet_hr18`, …, `ocrnet_resnet101`) have no such biases, no aligned corners, no dropout on HRNet and 0.1 in both heads on
ResNet.
What we change: the convolution that widens the answers is applied to the regions instead of to the pixels.  It is the same
function, since the answer at a pixel is a mean of its regions, and costs as many multiplications as there are regions instead of
pixels; `deploy()` folds its norm into it.  Coarse scores of another size than the pixels' are brought to it.  One class has two
regions, itself and the background, whose score is the negative: with one alone all pixels would get the same answer.

Published (Cityscapes val, single scale): authors' HRNet-W48 81.6 (test, with scales and mirror images, 82.3); mmsegmentation
HR18s 78.45, HR18 79.47, HR48 81.35 (160k), ResNet-101 80.81 (80k, batch 16).  ADE20K val, mmsegmentation, 160k, single scale and
all: HR18s 37.19 and 38.40, HR18 39.32 and 40.80, HR48 43.25 and 44.88.

Recipes.  Authors, Cityscapes: SGD, momentum 0.9, rate 0.01, decay 5e-4, poly 0.9, 484 epochs of batch 12, crops of 512×1024,
scales 0.5 to 2, plain cross entropy; ADE20K: rate 0.02, decay 1e-4, batch 16, 120 epochs, crops of 520×520, hard examples (0.9,
at least 131,072 pixels).  mmsegmentation: rate 0.01, decay 5e-4, poly 0.9 to 1e-4; Cityscapes 512×1024, batch 8, 80k or 160k
steps (ResNet-101: batch 16, rate 0.02); ADE20K 512×512, batch 16, 80k or 160k; VOC with extra masks 512×512, batch 16, 20k or
40k.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier
from segmentarium.layers.resize import resize
from segmentarium.losses import CrossEntropy
from segmentarium.registry import Card, Paper


class CoarseHead(nn.Module):
    """A convolution and a classifier: (B, C, H, W) -> (B, K, H, W) scores, which are the soft regions, too."""

    def __init__(self, channels: int, width: int, num_classes: int, kernel: int, bias: bool, dropout: float) -> None:
        super().__init__()
        self.conv = ConvNormAct(channels, width, kernel, bias=bias)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(width, num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.conv(x)))


def gather_regions(pixels: Tensor, scores: Tensor) -> Tensor:
    """(B, C, H, W), (B, K, H, W) -> (B, C, K, 1): the mean of the pixels in each soft region (equation 2)."""
    weights = scores.flatten(2).softmax(2)
    return (weights @ pixels.flatten(2).transpose(1, 2)).transpose(1, 2).unsqueeze(3)


class ObjectAttention(nn.Module):
    """Pixels ask regions: (B, C, H, W), (B, C, K, 1) -> what each pixel learns of them, (B, C, H, W) (equation 3).

    width   channels of queries and keys
    """

    def __init__(self, channels: int, width: int, *, bias: bool = False) -> None:
        super().__init__()

        def projection(*widths: int) -> list[ConvNormAct]:
            return [ConvNormAct(a, b, 1, bias=bias) for a, b in pairwise(widths)]

        self.query = nn.Sequential(*projection(channels, width, width))
        self.key = nn.Sequential(*projection(channels, width, width))
        self.value = projection(channels, width)[0]
        self.widen: nn.Conv2d = nn.Conv2d(width, channels, 1, bias=bias)
        self.norm: nn.Module = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, pixels: Tensor, regions: Tensor) -> Tensor:
        query = self.query(pixels)
        # keys are few: nothing of (H·W)² arises that a fused kernel would have to avoid, and scaling them costs nothing
        key = self.key(regions).squeeze(3) * query.shape[1] ** -0.5
        value = self.widen(self.value(regions)).squeeze(3).transpose(1, 2)
        share = (query.flatten(2).transpose(1, 2) @ key).softmax(2)  # (B, H·W, K)
        answer = (share @ value).transpose(1, 2).unflatten(2, query.shape[-2:])
        return self.act(self.norm(answer))

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Folds the norm, which follows a mean of what `widen` gives, into `widen`, in place; outputs in evaluation stay."""
        norm = self.norm
        if not isinstance(norm, nn.BatchNorm2d):
            return
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.widen.weight, self.widen.bias = fuse_conv_bn_weights(
            self.widen.weight, self.widen.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        self.norm = nn.Identity()


class OCRDecoder(Decoder):
    """Coarse regions, their representations, object attention, a fused classifier (figure 3): logits at the pixels' stride.

    joined          pixels and coarse head see all features, at the finest one's size (HRNet); else the deepest one and the one
                    before it
    width           channels of the pixels
    key_channels    of queries and keys
    coarse_width    of the coarse head's convolution; None: joined all its input's, else a quarter
    coarse_kernel   of that convolution; None: joined 1, else 3
    bias            the convolutions before the attention have biases in front of their norms, as the authors'
    attention_bias  those of the attention and of the fusion, too, as in openseg
    align_corners   in all resizes
    dropout         before the last classifier; where features are not joined, in the coarse head, too
    """

    prefers_output_stride = 8

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        joined: bool = False,
        width: int = 512,
        key_channels: int = 256,
        coarse_width: int | None = None,
        coarse_kernel: int | None = None,
        bias: bool = False,
        attention_bias: bool = False,
        align_corners: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.joined = joined
        self.align_corners = align_corners
        inputs = sum(channels) if joined else channels[-1]
        before = inputs if joined else channels[-2:][0]
        self.coarse = CoarseHead(
            before,
            coarse_width or (before if joined else before // 4),
            num_classes,
            coarse_kernel or (1 if joined else 3),
            bias,
            0.0 if joined else dropout,
        )
        self.pixels = ConvNormAct(inputs, width, bias=bias)
        self.attention = ObjectAttention(width, key_channels, bias=attention_bias)
        self.fuse = ConvNormAct(2 * width, width, 1, bias=attention_bias)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(width, num_classes, 1))

    def embed(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """-> what the classifier sees (B, width, h, w), before dropout, and the coarse scores (B, K, h', w')"""
        if self.joined:
            size = features[0].shape[-2:]
            deepest = torch.cat([resize(x, size, align_corners=self.align_corners) for x in features], 1)
            coarse = self.coarse(deepest)
        else:
            deepest = features[-1]
            coarse = self.coarse(features[-2:][0])
        pixels = self.pixels(deepest)
        scores = resize(coarse, pixels.shape[-2:], align_corners=self.align_corners)
        if scores.shape[1] == 1:
            scores = torch.cat([-scores, scores], 1)
        answer = self.attention(pixels, gather_regions(pixels, scores))
        return self.fuse(torch.cat([answer, pixels], 1)), coarse

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.dropout(self.embed(features)[0]))

    def forward_train(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        x, coarse = self.embed(features)
        return {"logits": self.classifier(self.dropout(x)), "coarse": coarse}

    def objective(self) -> tuple[Term, ...]:
        return (*super().objective(), Term("coarse", 0.4, CrossEntropy(), of=("coarse",)))


PAPER = Paper(
    title="Object-Contextual Representations for Semantic Segmentation",
    authors="Yuan, Chen, Wang",
    venue="ECCV",
    year=2020,
    url="https://arxiv.org/abs/1909.11065",
    code="https://github.com/HRNet/HRNet-Semantic-Segmentation",
    code_licence="MIT",
)
TINY = {"width": 32, "key_channels": 16}
ALIGNED = {"upsample": "aligned"}
register_decoder(
    "ocrnet",
    OCRDecoder,
    Card(paper=PAPER, num_classes=19, scores={"Cityscapes val mIoU": 81.6}),
    tiny=TINY,
    backbone="hrnet_w48",
    backbone_arguments=ALIGNED,
    joined=True,
    bias=True,
    align_corners=True,
    dropout=0.05,
)
for _name, _backbone, _city, _ade in (
    ("ocrnet_hr18s", "w18_small_v2", 78.45, 37.19),
    ("ocrnet_hr18", "w18", 79.47, 39.32),
    ("ocrnet_hr48", "w48", 81.35, 43.25),
):
    register_decoder(
        _name,
        OCRDecoder,
        Card(
            paper=PAPER,
            num_classes=19,
            scores={
                "Cityscapes val mIoU (mmsegmentation, 160k)": _city,
                "ADE20K val mIoU (mmsegmentation, 160k)": _ade,
            },
        ),
        tiny=TINY,
        backbone=f"hrnet_{_backbone}",
        backbone_arguments={"upsample": "bilinear"},
        joined=True,
        dropout=0.0,
    )
for _depth, _scores in ((50, {}), (101, {"Cityscapes val mIoU (mmsegmentation, 80k, batch 16)": 80.81})):
    register_decoder(
        f"ocrnet_resnet{_depth}",
        OCRDecoder,
        Card(paper=PAPER, num_classes=19, scores=_scores),
        backbone=f"resnet{_depth}_v1c",
    )
