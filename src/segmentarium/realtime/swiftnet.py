"""SwiftNet: a light network from ImageNet with as little on top as will do.

This file is written from the paper and from what the authors' code computes.

A light network from ImageNet classification (ResNet-18, MobileNetV2) with as little on top as will do: spatial pyramid
pooling at 1/32, then three upsampling modules, each of which adds a skip feature brought to 128 channels and blends the sum
by one 3×3 convolution.  All convolutions of the decoder stand behind their norm and activation.

The pyramid form widens the field of view another way: the same encoder sees the image at three scales, features of equal
size are added, and six of them are blended from 1/128 to 1/4; no pooling.  Convolutions are shared between the scales, batch
norms are not, but for those of the strided shortcuts.

What the authors' code does: in the single-scale basic-block networks an in-place ReLU makes the skips those after the
activation, where paper and pyramid take the sum before it; we follow the code.  The pooling's grid follows the aspect ratio
of the map.  Odd sizes fail in the public pyramid; here the smaller images are rounded up, so that features always meet.

Published: Cityscapes test 75.5 at 39.9 Hz (2048×1024, GTX 1080 Ti), 104.0 GFLOPs, 11.8 M parameters; CamVid test 72.6, from
scratch 63.3.
"""

from __future__ import annotations

from functools import partial
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.checks import check_choice
from segmentarium.contracts import Preprocessing, SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.fusion import fold_batch_norm
from segmentarium.layers.init import init_classifier, init_convs
from segmentarium.layers.pooling import PooledBatchNorm, adaptive_average_pool
from segmentarium.layers.resize import resize
from segmentarium.layers.shared_conv import SharedConv
from segmentarium.losses import BoundaryAwareFocal, CrossEntropy
from segmentarium.registry import Card, Paper, register

# the authors' statistics of Cityscapes
PREPROCESSING = Preprocessing((73.15 / 255, 82.90 / 255, 72.3 / 255), (47.67 / 255, 48.49 / 255, 47.73 / 255))


class NormActConv(nn.Module):
    """norm -> ReLU -> conv: the unit of the decoder."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = False, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels, momentum=momentum)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)"""
        # what the norm returns, or after `deploy` the sum or convolution before it, is seen by nobody else
        return self.conv(F.relu(self.norm(x), inplace=True))


def grid(rows: int, height: int, width: int) -> tuple[int, int]:
    """(rows, rows · width / height rounded, half to even, 1 or more), without a branch, so that sizes may be symbols."""
    doubled = 2 * rows * width + height
    columns = doubled // (2 * height)
    is_half = 1 // (1 + doubled % (2 * height))
    columns = columns - is_half * (columns % 2)
    return rows, columns + 1 // (columns + 1)


class SpatialPyramidPooling(nn.Module):
    """Averages over 8, 4 and 2 rows of square cells beside the reduced feature (section 3.2)."""

    def __init__(self, in_channels: int, channels: int, rows: tuple[int, ...] = (8, 4, 2)) -> None:
        super().__init__()
        self.rows = rows
        width = channels // len(rows)
        self.reduce = NormActConv(in_channels, channels, 1, momentum=0.005)
        self.levels = nn.ModuleList(NormActConv(channels, width, 1, momentum=0.005) for _ in rows)
        self.fuse = NormActConv(channels + len(rows) * width, channels, 1, momentum=0.005)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H, W)"""
        x = self.reduce(x)
        height, width = x.shape[-2:]
        out = [x]
        for rows, level in zip(self.rows, self.levels, strict=True):
            pooled = level(adaptive_average_pool(x, grid(rows, height, width)))
            out.append(resize(pooled, (height, width)))
        return self.fuse(torch.cat(out, 1))


class Upsampling(nn.Module):
    """The coarser feature enlarged, plus the skip brought to as many channels; blended by 3×3 (figure 2)."""

    def __init__(self, skip_channels: int, channels: int) -> None:
        super().__init__()
        self.lateral = NormActConv(skip_channels, channels, 1)
        self.blend = NormActConv(channels, channels, 3)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, channels, h, w), (B, skip_channels, H, W) -> (B, channels, H, W)"""
        return self.blend(resize(x, skip.shape[-2:]) + self.lateral(skip))


class Decoder(nn.Module):
    """Pooling at 1/32, then up to 1/4."""

    def __init__(self, in_channels: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.pooling = SpatialPyramidPooling(in_channels[-1], channels)
        self.upsampling = nn.ModuleList(Upsampling(skip, channels) for skip in reversed(in_channels[:-1]))

    def forward(self, features: list[Tensor]) -> Tensor:
        """features at 1/4, 1/8, 1/16, 1/32 -> (B, channels, H/4, W/4)"""
        x = self.pooling(features[-1])
        for module, skip in zip(self.upsampling, reversed(features[:-1]), strict=True):
            x = module(x, skip)
        return x

    @torch.no_grad()
    def reparameterize(self) -> None:
        """A blend's norm sees the sum of two linear maps, and so moves into the two convolutions before them."""
        before = self.pooling.fuse.conv
        for module in self.upsampling:
            assert isinstance(module, Upsampling)
            norm, lateral = module.blend.norm, module.lateral.conv
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            before.weight *= scale[:, None, None, None]
            if before.bias is not None:
                before.bias *= scale
            lateral.weight *= scale[:, None, None, None]
            lateral.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
            module.blend.norm = nn.Identity()  # type: ignore[assignment]
            before = module.blend.conv


class SwiftNet(SegmentationModel):
    """The single-scale network.

    backbone    any with features at 1/4 to 1/32; the paper has ResNet-18 and MobileNetV2
    channels    of the decoder
    """

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        backbone: str | nn.Module = "resnet18",
        channels: int = 128,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.preprocessing = PREPROCESSING.for_channels(in_channels)
        self.backbone = create_backbone(backbone, in_channels=in_channels)
        self.picked = [self.backbone.at(stride) for stride in (4, 8, 16, 32)]
        self.decoder = Decoder(tuple(self.backbone.channels[i] for i in self.picked), channels)
        self.classifier = init_classifier(NormActConv(channels, num_classes, 1, bias=True))
        self.set_objective(Term("logits", 1.0, CrossEntropy()))
        init_convs(self.decoder, mode="fan_out")

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H/4, W/4)"""
        features = self.backbone(image)
        return self.classifier(self.decoder([features[i] for i in self.picked]))

    def deploy(self) -> Self:
        model = super().deploy()
        # MobileNetV2 ends in a norm without an activation: with that one gone, the pooling's first follows a convolution
        norm = model.decoder.pooling.reduce.norm
        fold_batch_norm(model, *model.example(), only=(norm,))
        return model.requires_grad_(False)


class PyramidBlock(nn.Module):
    """A basic block whose norms belong to a scale; returns the sum before its activation."""

    def __init__(self, in_channels: int, channels: int, stride: int, levels: int) -> None:
        super().__init__()
        self.conv1 = SharedConv(nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False), levels)
        self.conv2 = SharedConv(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), levels)
        same = stride == 1 and in_channels == channels
        # the smallest scale of a small image ends in a single cell
        project = partial(ConvNormAct, norm=PooledBatchNorm, act=None)
        self.shortcut = nn.Identity() if same else project(in_channels, channels, 1, stride)

    def forward(self, x: Tensor, level: int) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, ceil(H / stride), …)"""
        y = self.conv2(F.relu(self.conv1(x, level), inplace=True), level)
        y += self.shortcut(x)
        return y


class PyramidEncoder(nn.Module):
    """ResNet-18 or -34 for several scales."""

    def __init__(self, in_channels: int, depths: tuple[int, ...], levels: int) -> None:
        super().__init__()
        self.stem = SharedConv(nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False), levels)
        self.channels = tuple(64 * 2**stage for stage in range(len(depths)))
        stages, inputs = [], 64
        for stage, (blocks, outputs) in enumerate(zip(depths, self.channels, strict=True)):
            layer = nn.ModuleList()
            for block in range(blocks):
                layer.append(PyramidBlock(inputs, outputs, 2 if stage > 0 and block == 0 else 1, levels))
                inputs = outputs
            stages.append(layer)
        self.layers = nn.ModuleList(stages)

    def forward(self, image: Tensor, level: int) -> list[Tensor]:
        """(B, C, H, W) -> sums before the activation at 1/4, 1/8, 1/16, 1/32"""
        x = F.max_pool2d(F.relu(self.stem(image, level), inplace=True), 3, 2, 1)
        features = []
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            for index, block in enumerate(layer):
                x = block(F.relu(x) if index or features else x, level)
            features.append(x)
        return features


class Blend(nn.Module):
    """The coarser feature enlarged, plus the finer; blended by 3×3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blend = NormActConv(channels, channels, 3)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, channels, h, w), (B, channels, H, W) -> (B, channels, H, W)"""
        return self.blend(resize(x, skip.shape[-2:]) + skip)


class SwiftNetPyramid(SegmentationModel):
    """Interleaved pyramidal fusion (section 3.4, figure 4).

    depth       18 or 34: of the ResNet that all scales share
    levels      scales of the image: 1, 1/2, 1/4, ...
    channels    of the decoder
    """

    def __init__(
        self, *, num_classes: int = 19, in_channels: int = 3, depth: int = 18, levels: int = 3, channels: int = 128
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        depths = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
        check_choice("depth", depth, depths)
        if levels < 1:
            raise ValueError(f"levels is {levels}; give the number of scales, 1 or more")
        self.preprocessing = PREPROCESSING.for_channels(in_channels)
        self.levels = levels
        self.encoder = PyramidEncoder(in_channels, depths[depth], levels)
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1, bias=False) for width in self.encoder.channels)
        self.blends = nn.ModuleList(Blend(channels) for _ in range(len(self.laterals) + levels - 2))
        self.classifier = NormActConv(channels, num_classes, 1, bias=True)
        self.set_objective(Term("logits", 1.0, BoundaryAwareFocal()))
        init_convs(self, mode="fan_out")
        init_classifier(self.classifier)

    def scale(self, image: Tensor, level: int) -> Tensor:
        """The image at 1 / 2^level, rounded up: strided convolutions round up too, so features of all levels meet."""
        if level == 0:
            return image
        factor = 2**level
        height, width = ((side + factor - 1) // factor for side in image.shape[-2:])
        return F.interpolate(image, (height, width), mode="bicubic", align_corners=False)

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H/4, W/4)"""
        skips: list[Tensor] = []
        for level in range(self.levels):
            features = self.encoder(self.scale(image, level), level)
            for stage, (lateral, feature) in enumerate(zip(self.laterals, features, strict=True)):
                skip = lateral(feature)
                if level + stage < len(skips):
                    skips[level + stage] = skips[level + stage] + skip
                else:
                    skips.append(skip)
        x = skips[-1]
        for blend, skip in zip(self.blends, reversed(skips[:-1]), strict=True):
            x = blend(x, skip)
        return self.classifier(x)


PAPER = Paper(
    title="In Defense of Pre-trained ImageNet Architectures for Real-time Semantic Segmentation of Road-driving Images",
    authors="Oršić, Krešo, Bevandić, Šegvić",
    venue="CVPR",
    year=2019,
    url="https://arxiv.org/abs/1903.08469",
    code="https://github.com/orsic/swiftnet",
    code_licence="GPL-3.0",
)
SCORES = {"Cityscapes test mIoU": 75.5, "CamVid test mIoU": 72.6, "CamVid test mIoU, from scratch": 63.3}

register(
    "swiftnet",
    SwiftNet,
    Card(paper=PAPER, parameters=11.80, flops=104.0, flops_size=(1024, 2048), num_classes=19, scores=SCORES),
)
register("swiftnet_mobilenet_v2", SwiftNet, Card(paper=PAPER, num_classes=19), backbone="mobilenet_v2")
register("swiftnet_pyramid", SwiftNetPyramid, Card(paper=PAPER, parameters=12.06, num_classes=19))
