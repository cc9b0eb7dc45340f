"""BiSeNet: a path for where things are, and one for what they are.

Weights of the authors' PyTorch code, TorchSeg, of CoinCheung/BiSeNet (MIT) and of mmsegmentation (Apache-2.0) load.

A spatial path of three strided convolutions keeps where things are at 1/8; a context path, a classification network down
to 1/32 with its global average added, knows what they are.  Attention refinement weighs the context path's channels by
their averages over the image; feature fusion joins the two paths and weighs the result the same way.  Two auxiliary heads
on the context path supervise it in training with the same loss and the same weight as the main one (equation 2, alpha 1).

What the public code does and the paper does not say: the context path comes up from 1/32 to 1/8 in two steps, each refined
by a 3×3 convolution, and the pooled average is reduced to 128 channels before it is added.  CoinCheung's attention in the
fusion is one convolution with a batch norm instead of the paper's two with a ReLU; it upsamples the context path by nearest
neighbour, and its heads have other widths.  mmsegmentation follows it, puts a ReLU before the attention's sigmoid, and makes
all four times as wide on ResNet-50 and -101 (`width=256`).  The loss is plain cross entropy, as in the paper, TorchSeg's
ResNet-18 and mmsegmentation; TorchSeg's Xception-39 and CoinCheung learn from hard pixels only (`hard_pixels=True`).
TorchSeg's "speed" ResNet-18 is `auxiliary_channels=128`, supervised at the stride of its logits.

Published: Cityscapes test 68.4 at 105.8 FPS (Xception-39) and 74.7 at 65.5 FPS (ResNet-18; both 1536×768 on a Titan XP),
78.9 (ResNet-101); CamVid test 65.6 and 68.7.  TorchSeg on Cityscapes val, single scale: 70.1 and 76.21.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.checks import check_choice
from segmentarium.contracts import SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier, init_convs
from segmentarium.layers.pooling import PooledBatchNorm, global_average_pool
from segmentarium.layers.resize import resize
from segmentarium.losses import CrossEntropy, OhemCrossEntropy
from segmentarium.registry import Card, Paper, register

Upsample = Literal["bilinear", "nearest"]
Attention = Literal["mlp", "norm", "norm_relu"]


class SpatialPath(nn.Sequential):
    """Image -> (B, out_channels, H/8, W/8): three strided convolutions and a 1×1 (section 3.1)."""

    def __init__(self, in_channels: int, out_channels: int = 128, width: int = 64) -> None:
        super().__init__(
            ConvNormAct(in_channels, width, 7, 2),
            ConvNormAct(width, width, 3, 2),
            ConvNormAct(width, width, 3, 2),
            ConvNormAct(width, out_channels, 1),
        )


class AttentionRefinement(nn.Module):
    """3×3 convolution, then each channel weighed by what the image's average says (figure 2b)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_channels, channels)
        self.attention = ConvNormAct(channels, channels, 1, norm=PooledBatchNorm, act=nn.Sigmoid)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H, W)"""
        x = self.conv(x)
        return x * self.attention(global_average_pool(x))


class ContextPath(nn.Module):
    """Features at 1/16 and 1/32 -> refined ones at 1/8 and 1/16 (the right half of figure 2a).

    upsample   bilinear with corners aligned (TorchSeg), or nearest (CoinCheung, STDC)
    """

    def __init__(self, channels16: int, channels32: int, channels: int = 128, *, upsample: Upsample) -> None:
        super().__init__()
        check_choice("upsample", upsample, get_args(Upsample))
        self.upsample: Upsample = upsample
        self.average = ConvNormAct(channels32, channels, 1, norm=PooledBatchNorm)
        self.attention32 = AttentionRefinement(channels32, channels)
        self.attention16 = AttentionRefinement(channels16, channels)
        self.refine32 = ConvNormAct(channels, channels)
        self.refine16 = ConvNormAct(channels, channels)

    def forward(self, x16: Tensor, x32: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(B, channels16, h, w), (B, channels32, h', w'), height and width at 1/8 -> (B, channels, *size), and the feature
        (B, channels, h, w) at 1/16 that it came from"""
        y = self.attention32(x32) + self.average(global_average_pool(x32))
        y16 = self.refine32(self._to(y, x16.shape[-2:]))
        y = self.attention16(x16) + y16
        return self.refine16(self._to(y, size)), y16

    def _to(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return resize(x, size, mode=self.upsample, align_corners=self.upsample == "bilinear")


class FeatureFusion(nn.Module):
    """Both paths concatenated, mixed by a 1×1, and each channel of the mixture weighed by its average (figure 2c).

    attention   "mlp": two convolutions with a ReLU, the inner `reduction` times narrower; "norm": one with a batch norm;
                "norm_relu": one with a batch norm, and a ReLU before the sigmoid
    """

    def __init__(self, in_channels: int, channels: int, *, attention: Attention = "mlp", reduction: int = 1) -> None:
        super().__init__()
        check_choice("fusion", attention, get_args(Attention))
        self.mix = ConvNormAct(in_channels, channels, 1)
        if attention != "mlp":
            self.attention = nn.Sequential(
                ConvNormAct(
                    channels, channels, 1, norm=PooledBatchNorm, act=nn.Sigmoid if attention == "norm" else nn.ReLU
                ),
            )
            if attention == "norm_relu":
                self.attention.append(nn.Sigmoid())
        else:
            inner = channels // reduction
            self.attention = nn.Sequential(
                ConvNormAct(channels, inner, 1, norm=None, bias=False),
                ConvNormAct(inner, channels, 1, norm=None, bias=False, act=nn.Sigmoid),
            )

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        """(B, C, H, W), (B, in_channels - C, H, W) -> (B, channels, H, W)"""
        x = self.mix(torch.cat([spatial, context], 1))
        return x * (1 + self.attention(global_average_pool(x)))  # the paper's x · attention + x, in one pass


class Head(nn.Sequential):
    """3×3 convolution and classifier; logits at the stride of its input."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, *, bias: bool = True) -> None:
        super().__init__(ConvNormAct(in_channels, channels), nn.Conv2d(channels, num_classes, 1, bias=bias))
        init_convs(self[0])
        init_classifier(self[1])


class BiSeNet(SegmentationModel):
    """The whole network.

    backbone            of the context path: ours by name, timm's as "timm:NAME", or a module; strides 16 and 32 are used
    width               channels of the spatial path; the context path has twice, the fusion four times as many
    upsample            of the context path: "bilinear" (TorchSeg) or "nearest" (CoinCheung, mmsegmentation)
    fusion              attention of the fusion: "mlp" (paper, TorchSeg), "norm" (CoinCheung) or "norm_relu" (mmsegmentation)
    align_corners       how logits come to the image's size (TorchSeg: aligned)
    head_channels       of the main head (TorchSeg 64, CoinCheung 256)
    auxiliary_channels  of the two auxiliary heads (TorchSeg 256 or 128, CoinCheung 64); None: without them
    hard_pixels         cross entropy of the hard pixels only (TorchSeg's Xception-39 and speed variants, CoinCheung)
    backbone_arguments  further arguments of the backbone's class
    """

    training_only = ("auxiliary",)

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        backbone: str | nn.Module = "resnet18",
        width: int = 64,
        upsample: Upsample = "bilinear",
        fusion: Attention = "mlp",
        align_corners: bool = True,
        head_channels: int = 64,
        auxiliary_channels: int | None = 256,
        hard_pixels: bool = False,
        backbone_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.align_corners = align_corners
        self.backbone = create_backbone(backbone, in_channels=in_channels, **(backbone_arguments or {}))
        self.preprocessing = self.backbone.preprocessing.for_channels(in_channels)
        channels16, channels32 = (self.backbone.channels[self.backbone.at(stride)] for stride in (16, 32))
        self.spatial = SpatialPath(in_channels, 2 * width, width)
        self.context = ContextPath(channels16, channels32, 2 * width, upsample=upsample)
        self.fusion = FeatureFusion(4 * width, 4 * width, attention=fusion)
        self.head = Head(4 * width, head_channels, num_classes)
        self.auxiliary = nn.ModuleDict()
        if auxiliary_channels is not None:
            for stride in (8, 16):
                self.auxiliary[f"aux_{stride}"] = Head(2 * width, auxiliary_channels, num_classes)
        loss = OhemCrossEntropy if hard_pixels else CrossEntropy
        self.set_objective(*(Term(name, 1.0, loss(), of=(name,)) for name in ("logits", *self.auxiliary)))
        init_convs(self.spatial, self.context, self.fusion)

    def _features(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> the fused feature at 1/8, and the context path's at 1/8 and 1/16"""
        features = self.backbone(image)
        x16, x32 = (features[self.backbone.at(stride)] for stride in (16, 32))
        spatial = self.spatial(image)
        y8, y16 = self.context(x16, x32, spatial.shape[-2:])
        return self.fusion(spatial, y8), y8, y16

    def logits(self, image: Tensor) -> Tensor:
        return self.head(self._features(image)[0])

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        fused, *context = self._features(image)
        outputs = {"logits": self.head(fused)}
        return outputs | {name: head(x) for (name, head), x in zip(self.auxiliary.items(), context, strict=False)}


PAPER = Paper(
    title="BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation",
    authors="Yu, Wang, Peng, Gao, Yu, Sang",
    venue="ECCV",
    year=2018,
    url="https://arxiv.org/abs/1808.00897",
    code="https://github.com/ycszen/TorchSeg",
    code_licence="MIT",
)
CITYSCAPES, TORCHSEG, CAMVID = "Cityscapes test mIoU", "Cityscapes val mIoU (TorchSeg)", "CamVid test mIoU (960×720)"

register(
    "bisenet_resnet18",
    BiSeNet,
    Card(
        paper=PAPER,
        flops=10.8,
        flops_size=(360, 640),
        num_classes=19,
        scores={CITYSCAPES: 74.7, TORCHSEG: 76.21, CAMVID: 68.7},
        limits={"flops": "the authors' public network, this one, has 11.4 at the paper's size"},
    ),
)
register(
    "bisenet_xception39",
    BiSeNet,
    Card(
        paper=PAPER,
        flops=2.9,
        flops_size=(360, 640),
        num_classes=19,
        scores={CITYSCAPES: 68.4, TORCHSEG: 70.1, CAMVID: 65.6},
        limits={"flops": "the authors' public network, this one, has 3.05 at the paper's size"},
    ),
    backbone="xception39",
    auxiliary_channels=128,
)
register(
    "bisenet_resnet101",
    BiSeNet,
    Card(paper=PAPER, num_classes=19, scores={CITYSCAPES: 78.9}),
    backbone="resnet101",
)
