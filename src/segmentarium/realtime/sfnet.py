"""SFNet: levels of a pyramid aligned by a flow; and SFNet-Lite, its faster sequel.

A feature pyramid whose levels do not meet by blunt enlargement: a flow alignment module looks at both maps, predicts for
every pixel where its semantics lie in the coarser one, and fetches them there.  Pyramid pooling on top, all levels fused at
the finest, and in training a head at every level.  SFNet-Lite aligns once, from 1/32 to 1/4 directly: two flows warp the
deep and the shallow map, a gate mixes them.

What the code does: the last two stages' middle convolutions are dilated by 2 and 4 although all strides stay (variant "D");
pooled maps have no activation; flows are divided by width and height.  DF backbones start at 1/8 (DF2) or 1/16 (DF1).

Published: Cityscapes test ResNet-18 79.0 (79.9 with Mapillary), ResNet-50 80.4, DF1 72.2, DF2 75.8; CamVid ResNet-18 73.8.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.backbones.resnet import BasicBlock, Bottleneck, ResNet
from segmentarium.checks import check_choice
from segmentarium.contracts import SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.flow import flow_warp
from segmentarium.layers.init import init_classifier
from segmentarium.layers.pooling import PooledBatchNorm, adaptive_average_pool, spread
from segmentarium.layers.resize import resize
from segmentarium.losses import OhemCrossEntropy
from segmentarium.registry import Card, Paper, register

Gate = Literal["feature", "pooled"]


class ContextPooling(nn.Module):
    """Pyramid pooling whose pooled maps have no activation, brought down to `channels`."""

    def __init__(self, in_channels: int, channels: int, bins: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.bins = bins
        self.stages = nn.ModuleList(
            ConvNormAct(in_channels, channels, 1, norm=PooledBatchNorm if size == 1 else nn.BatchNorm2d, act=None)
            for size in bins
        )
        self.fuse = ConvNormAct(in_channels + len(bins) * channels, channels, 1)
        self.dropout = nn.Dropout2d(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H, W)"""
        height, width = x.shape[-2:]
        out = []
        for size, stage in zip(self.bins, self.stages, strict=True):
            pooled = stage(adaptive_average_pool(x, size))
            if size == 1:
                out.append(spread(pooled, height, width))
            else:
                out.append(resize(pooled, (height, width), align_corners=True))
        return self.dropout(self.fuse(torch.cat([*out, x], 1)))


class FlowAlignment(nn.Module):
    """Flow alignment module: where each pixel of the finer map finds its semantics in the coarser one (figure 3a)."""

    flows = 1

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = channels // 2
        self.high = nn.Conv2d(channels, reduced, 1, bias=False)
        self.low = nn.Conv2d(channels, reduced, 1, bias=False)
        self.flow = nn.Conv2d(2 * reduced, 2 * self.flows, 3, padding=1, bias=False)

    def reduce(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """-> both maps with half the channels, the coarser enlarged"""
        return resize(self.high(high), low.shape[-2:], align_corners=True), self.low(low)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low (B, C, H, W), the finer; high (B, C, h, w) -> high, aligned (B, C, H, W)"""
        return flow_warp(high, self.flow(torch.cat(self.reduce(low, high), 1)))


class GatedDualFlow(FlowAlignment):
    """Both maps are warped, and a gate mixes them (SFNet-Lite, figure 3).

    gate    sees both reduced maps ("feature"), or mean and maximum over the channels of the reduced coarser and of the
            whole finer map ("pooled", the published models)
    """

    flows = 2

    def __init__(self, channels: int, gate: Gate = "pooled") -> None:
        super().__init__(channels)
        check_choice("gate", gate, get_args(Gate))
        self.pooled_gate = gate == "pooled"
        self.gate = nn.Conv2d(4 if self.pooled_gate else channels // 2 * 2, 1, 3, padding=1, bias=False)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low (B, C, H, W), the finer; high (B, C, h, w) -> their mixture (B, C, H, W)"""
        high_reduced, low_reduced = self.reduce(low, high)
        both = torch.cat([high_reduced, low_reduced], 1)
        flow = self.flow(both)
        deep, shallow = flow_warp(high, flow[:, :2]), flow_warp(low, flow[:, 2:])
        if self.pooled_gate:
            seen = [high_reduced.mean(1, True), low.mean(1, True), high_reduced.amax(1, True), low.amax(1, True)]
            both = torch.cat(seen, 1)
        return torch.lerp(shallow, deep, self.gate(both).sigmoid().to(deep.dtype))


class Head(nn.Sequential):
    """The head of a level, for training."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(
            ConvNormAct(channels, channels, 3, bias=True),
            nn.Dropout2d(0.1),
            init_classifier(nn.Conv2d(channels, num_classes, 1)),
        )


def dilate_middle(backbone: nn.Module) -> None:
    """Dilates conv2 of every block of a ResNet's layer3 by 2 and of layer4 by 4; strides stay (the authors' variant "D")."""
    if isinstance(backbone, ResNet):
        for layer, rate in ((backbone.layer3, 2), (backbone.layer4, 4)):
            for block in layer:
                assert isinstance(block, BasicBlock | Bottleneck)
                block.conv2.conv.dilation = block.conv2.conv.padding = (rate, rate)


class SFNet(SegmentationModel):
    """The pyramid with flow alignment between all levels.

    backbone    its last `levels` features are used
    channels    of the pyramid
    auxiliary   with a head at each level but the coarsest, for training
    """

    training_only = ("auxiliary",)
    align_corners = True

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        backbone: str | nn.Module = "resnet18_v1s",
        channels: int = 128,
        levels: int = 4,
        auxiliary: bool = True,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.backbone = create_backbone(backbone, in_channels=in_channels)
        self.preprocessing = self.backbone.preprocessing.for_channels(in_channels)
        dilate_middle(self.backbone)
        given = self.backbone.channels
        if not 2 <= levels <= len(given):
            raise ValueError(f"levels is {levels}; this backbone has {len(given)} features: give 2 to {len(given)}")
        self.levels = levels
        given = given[-levels:]
        self.context = ContextPooling(given[-1], channels)
        # these three: finest first, without the coarsest level
        self.laterals = nn.ModuleList(ConvNormAct(width, channels, 1, bias=True) for width in given[:-1])
        self.alignments = nn.ModuleList(FlowAlignment(channels) for _ in given[:-1])
        self.outputs = nn.ModuleList(ConvNormAct(channels, channels) for _ in given[:-1])
        self.fuse = ConvNormAct(levels * channels, channels)
        self.classifier = init_classifier(nn.Conv2d(channels, num_classes, 1))
        heads = {f"aux_{i}": Head(channels, num_classes) for i in range(levels - 1)} if auxiliary else {}
        self.auxiliary = nn.ModuleDict(heads)
        self.set_objective(*(Term(name, 1.0, OhemCrossEntropy(), of=(name,)) for name in ("logits", *heads)))

    def _pyramid(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """-> the levels' outputs, finest first, the pooled one last; and the maps before their last convolutions"""
        features = self.backbone(image)[-self.levels :]
        x = self.context(features[-1])
        outputs, aligned = [x], []
        for i in reversed(range(self.levels - 1)):
            lateral = self.laterals[i](features[i])
            x = lateral + self.alignments[i](lateral, x)
            aligned.append(x)
            outputs.append(self.outputs[i](x))
        return outputs[::-1], aligned[::-1]

    def _classify(self, outputs: list[Tensor]) -> Tensor:
        size = outputs[0].shape[-2:]
        return self.classifier(self.fuse(torch.cat([resize(x, size, align_corners=True) for x in outputs], 1)))

    def logits(self, image: Tensor) -> Tensor:
        return self._classify(self._pyramid(image)[0])

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        """aux_0 is the finest level's"""
        outputs, aligned = self._pyramid(image)
        heads = self.auxiliary.items()
        return {"logits": self._classify(outputs)} | {
            name: head(x) for (name, head), x in zip(heads, aligned, strict=False)
        }


class SFNetLite(SegmentationModel):
    """One gated dual flow from the pooled map at 1/32 to 1/4; the map at 1/16 joins at the end.

    gate        of the dual flow: "pooled" (published) or "feature"
    """

    align_corners = True

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        backbone: str | nn.Module = "resnet18_v1s",
        channels: int = 128,
        gate: Gate = "pooled",
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.backbone = create_backbone(backbone, in_channels=in_channels)
        self.preprocessing = self.backbone.preprocessing.for_channels(in_channels)
        dilate_middle(self.backbone)
        given4, given16, given32 = (self.backbone.channels[self.backbone.at(stride)] for stride in (4, 16, 32))
        self.context = ContextPooling(given32, channels)
        self.lateral4 = ConvNormAct(given4, channels, 1, bias=True)
        self.lateral16 = ConvNormAct(given16, channels, 1, bias=True)
        self.alignment = GatedDualFlow(channels, gate)
        self.fuse = ConvNormAct(2 * channels, channels)
        self.classifier = init_classifier(nn.Conv2d(channels, num_classes, 1))
        self.set_objective(Term("logits", 1.0, OhemCrossEntropy()))

    def logits(self, image: Tensor) -> Tensor:
        features = self.backbone(image)
        x4, x16, x32 = (features[self.backbone.at(stride)] for stride in (4, 16, 32))
        aligned = self.alignment(self.lateral4(x4), self.context(x32))
        x16 = resize(self.lateral16(x16), aligned.shape[-2:], align_corners=True)
        return self.classifier(self.fuse(torch.cat([aligned, x16], 1)))


PAPER = Paper(
    title="Semantic Flow for Fast and Accurate Scene Parsing",
    authors="Li, You, Zhu, Zhao, Yang, Yang, Tan, Tong",
    venue="ECCV",
    year=2020,
    url="https://arxiv.org/abs/2002.10120",
    code="https://github.com/lxtGH/SFSegNets",
    code_licence="MIT (README)",
)
LITE = Paper(
    title="SFNet: Faster, Accurate, and Domain Agnostic Semantic Segmentation via Semantic Flow",
    authors="Li, Zhang, Yang, Cheng, Yang, Tong, Tao",
    venue="IJCV",
    year=2023,
    url="https://arxiv.org/abs/2207.04415",
    code="https://github.com/lxtGH/SFSegNets",
    code_licence="MIT (README)",
)
TEST = "Cityscapes test mIoU"
R18_SCORES = {TEST: 79.0, "Cityscapes test mIoU, with Mapillary": 79.9, "CamVid test mIoU": 73.8}

# parameters and multiply-adds as counted in the public code, without the heads for training
register(
    "sfnet_resnet18",
    SFNet,
    Card(paper=PAPER, parameters=12.87, flops=60.74, flops_size=(512, 1024), num_classes=19, scores=R18_SCORES),
)
register(
    "sfnet_resnet50",
    SFNet,
    Card(paper=PAPER, num_classes=19, scores={TEST: 80.4}),
    backbone="resnet50_v1s",
    channels=256,
)
register("sfnet_resnet101", SFNet, Card(paper=PAPER, num_classes=19), backbone="resnet101_v1s", channels=256)
register(
    "sfnet_df1",
    SFNet,
    Card(paper=PAPER, num_classes=19, scores={TEST: 72.2}),
    backbone="df1",
    channels=64,
    levels=3,
)
register(
    "sfnet_df2",
    SFNet,
    Card(paper=PAPER, num_classes=19, scores={TEST: 75.8}),
    backbone="df2",
    channels=64,
    levels=3,
)
register(
    "sfnet_lite_resnet18",
    SFNetLite,
    Card(paper=LITE, parameters=12.15, flops=44.49, flops_size=(512, 1024), num_classes=19),
)
