"""MSFNet: features of every stage, fused at every resolution.

Posted in 2019.  No code was published and no reimplementation is known: this one is built from what the paper says.

Spatial-aware pooling looks at the output of every residual stage through average windows of 2s + 1 pixels and stride s,
s = 2, 4, 8: each stage so reaches every coarser resolution with a large field of view and without weights.  The
multi-feature fusion module joins, at each of 1/8, 1/16 and 1/32, what all stages have there.  From the fused features two
independent branches upsample, fast, up to 1/8 (maps at 1/4 serve pooling only): one gives the classes, the other is
supervised with the boundaries between classes.

What the paper does not tell, or we could not learn, and is chosen here: ResNet-18; a stage's own resolution passes
unpooled; 128 channels, one 3×3 convolution for each fusion and each upsampling step; a border is wherever a window of
9×9 pixels sees two classes (a cell of the 1/8 map to either side), in balanced binary cross entropy with the weight 0.5
beside the cross entropy of the classes; the boundary branch serves training only.

Published: Cityscapes test 77.1 at 41 FPS (1024×2048) and 71.3 at 117 FPS (512×1024), CamVid test 75.4 at 91 FPS
(768×1024).  The paper's parameters are not known to us; later comparisons quote 24.2 GFLOPs at 512×1024, which we could
not check against the paper; this network has 23.9, and 13.3 M parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.contracts import SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier, init_convs
from segmentarium.layers.resize import resize
from segmentarium.losses import CrossEntropy
from segmentarium.losses.class_boundary import ClassBoundary
from segmentarium.registry import Card, Paper, register


class SpatialAwarePooling(nn.Module):
    """One feature at several coarser resolutions: averages over windows of 2s + 1 pixels, s pixels apart, for each s.

    A window is centred on every s-th pixel and leaves out what is beyond the border; s = 1 is the feature itself.
    """

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> [(B, C, ceil(H / s), ceil(W / s)) for each s]"""
        return [x if s == 1 else F.avg_pool2d(x, 2 * s + 1, s, s, count_include_pad=False) for s in self.strides]

    def extra_repr(self) -> str:
        return f"strides={self.strides}"


class MultiFeatureFusion(nn.Module):
    """Spatial-aware pooling of every stage, and for each resolution one convolution over what the stages have there.

    in_channels, in_strides   of the stages, finest first
    out_strides               of the fused features, finest first; each from all stages that are not coarser
    """

    def __init__(
        self, in_channels: Sequence[int], in_strides: Sequence[int], out_strides: Sequence[int], channels: int
    ) -> None:
        super().__init__()
        self.out_strides = tuple(out_strides)
        self.targets = tuple(tuple(out for out in out_strides if out >= stride) for stride in in_strides)
        self.poolings = nn.ModuleList(
            SpatialAwarePooling([out // stride for out in outs])
            for stride, outs in zip(in_strides, self.targets, strict=True)
        )
        self.fusions = nn.ModuleList(
            ConvNormAct(sum(c for c, s in zip(in_channels, in_strides, strict=True) if s <= out), channels)
            for out in out_strides
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[(B, in_channels[i], h_i, w_i), …] -> [(B, channels, H / s, W / s) for each s of `out_strides`]"""
        gathered: dict[int, list[Tensor]] = {stride: [] for stride in self.out_strides}
        for feature, pooling, targets in zip(features, self.poolings, self.targets, strict=True):
            for stride, pooled in zip(targets, pooling(feature), strict=True):
                gathered[stride].append(pooled)
        return [fusion(torch.cat(gathered[s], 1)) for s, fusion in zip(self.out_strides, self.fusions, strict=True)]


class UpsamplingBranch(nn.Module):
    """From the coarsest fused feature up to the finest: double, add, convolve; then the classifier."""

    def __init__(self, channels: int, steps: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvNormAct(channels, channels) for _ in range(steps))
        self.classifier = nn.Conv2d(channels, outputs, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[(B, channels, h_i, w_i), …], finest first -> (B, outputs, h_0, w_0)"""
        x = features[-1]
        for conv, finer in zip(self.convs, reversed(features[:-1]), strict=True):
            x = conv(resize(x, finer.shape[-2:]) + finer)
        return self.classifier(x)


class MSFNet(SegmentationModel):
    """The whole network.

    backbone          ours by name, timm's as "timm:NAME", or a `Backbone`: features at 1/4 to 1/32
    channels          of the fused features and of both branches
    boundary_size     of the window that makes a boundary, see `ClassBoundary`
    boundary_weight   of the boundaries in the sum of the losses
    """

    training_only = ("boundary",)

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        backbone: str | nn.Module = "resnet18",
        channels: int = 128,
        boundary_size: int = 9,
        boundary_weight: float = 0.5,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.backbone = create_backbone(backbone, in_channels=in_channels)
        self.preprocessing = self.backbone.preprocessing.for_channels(in_channels)
        strides = self.backbone.strides
        out_strides = [stride for stride in strides if stride >= 8]
        if not out_strides or any(b != 2 * a for a, b in itertools.pairwise(strides)):
            raise ValueError(f"the backbone has strides {strides}; the fusion wants 4, 8, 16, 32")
        self.fusion = MultiFeatureFusion(self.backbone.channels, strides, out_strides, channels)
        self.decoder = UpsamplingBranch(channels, len(out_strides) - 1, num_classes)
        self.boundary = UpsamplingBranch(channels, len(out_strides) - 1, 1)
        self.set_objective(
            Term("logits", 1.0, CrossEntropy()),
            Term("boundary", boundary_weight, ClassBoundary(boundary_size), of=("boundary",), classes=False),
        )
        init_convs(self.fusion, self.decoder, self.boundary)
        for branch in (self.decoder, self.boundary):
            init_classifier(branch.classifier)

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H/8, W/8)"""
        return self.decoder(self.fusion(self.backbone(image)))

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        fused = self.fusion(self.backbone(image))
        return {"logits": self.decoder(fused), "boundary": self.boundary(fused)}


PAPER = Paper(
    title="Real-Time Semantic Segmentation via Multiply Spatial Fusion Network",
    authors="Si, Zhang, Lv, Yu, Lu",
    venue="BMVC",
    year=2021,
    url="https://arxiv.org/abs/1911.07217",
)
SCORES = {
    "Cityscapes test mIoU": 77.1,
    "Cityscapes test mIoU (512×1024)": 71.3,
    "CamVid test mIoU (768×1024)": 75.4,
}

register("msfnet", MSFNet, Card(paper=PAPER, flops=24.2, flops_size=(512, 1024), num_classes=19, scores=SCORES))
