"""ICNet: an image cascade for images of high resolution.

The authors' code is hszhao/ICNet (Caffe, evaluation only, no licence stated); a PyTorch port reads the released weights, and
so do we.  mmsegmentation (Apache-2.0) builds the network differently; that form is here too.

An image cascade: the deep network sees the image at a quarter of its size only, its first layers, shared, at a half, and
three convolutions the whole image.  Cascade feature fusion joins them, coarse to fine, and cascade label guidance
supervises each junction (1/16 and 1/8, with labels scaled to that size) beside the prediction at 1/4.

What the code does and the paper does not say: the released network is the pruned one, half as wide as PSPNet50; pyramid
pooling is a sum without convolutions; the half-size branch shares the layers up to the first block of conv3; corners are
aligned, which suits sides of 32k + 1 (others work).  At evaluation the release pools with fixed windows for 1025×2049
(`windows="release"`), in training, and here by default, with windows from the size of the map.

`icnet_resnet18`, `_resnet50` and `_resnet101` are mmsegmentation's: full width, everything up to conv3 shared,
concatenating pyramid pooling, corners not aligned, a ReLU on both sides of each fusion, the prediction at 1/8, and heads
of their own on the upsampled features, all weighed 0.4.

Published: Cityscapes val 67.7, test 69.5 at 30 FPS (Titan X, 1024×2048); CamVid test 67.1 (960×720).  mmsegmentation,
Cityscapes val, from ImageNet weights: 74.4 (ResNet-18), 76.3 (50), 76.2 (101).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.backbones.resnet import ResNet
from segmentarium.checks import check_choice
from segmentarium.contracts import SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier, init_convs
from segmentarium.layers.pooling import adaptive_average_pool, global_average_pool, spread
from segmentarium.layers.pyramid_pooling import PyramidPooling
from segmentarium.layers.resize import resize
from segmentarium.losses import CrossEntropy
from segmentarium.registry import Card, Paper, entry, list_models, register

# kernels and strides of the released network's pooling, for a map of 33×65 (an image of 1025×2049)
RELEASE_MAP = (33, 65)
RELEASE_WINDOWS = (((8, 15), (5, 10)), ((13, 25), (10, 20)), ((17, 33), (16, 32)))


def detail_branch(in_channels: int) -> nn.Sequential:
    """What the whole image goes through: three strided convolutions to 1/8."""
    return nn.Sequential(ConvNormAct(in_channels, 32, 3, 2), ConvNormAct(32, 32, 3, 2), ConvNormAct(32, 64, 3, 2))


def _spreading(size: int, bins: int, like: Tensor) -> Tensor:
    """(size, size): averages over windows of size // bins pixels, resized back with aligned corners, as one matrix.

    Written in tensors alone, so that an exported graph makes it from whatever size it meets.
    """
    pixel = torch.arange(size, device=like.device)
    last = pixel[-1:]
    window = ((last + 1) // bins).clamp(min=1)
    count = (last + 1) // window
    position = pixel.unsqueeze(1) * (count - 1).to(like.dtype) / last.clamp(min=1)
    share = (1 - (position - (pixel // window)).abs()).relu() / window
    return (share * (pixel < count * window)).to(like.dtype)


class SumPyramid(nn.Module):
    """The map plus its averages over windows of a sixth, a third, a half and all of it, resized back (no weights)."""

    def __init__(self, windows: Literal["size", "release"]) -> None:
        super().__init__()
        self.windows = windows

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        height, width = x.shape[-2:]
        out = x + global_average_pool(x)
        if self.windows == "release" and not self.training:
            if (height, width) != RELEASE_MAP:
                raise ValueError(
                    f"windows='release' pools a map of 33×65, this one is {height}×{width}; "
                    "give images of 1025×2049, or build the network with windows='size'"
                )
            pooled = [F.avg_pool2d(x, kernel, stride) for kernel, stride in RELEASE_WINDOWS]
        elif torch.compiler.is_exporting():
            for bins in (2, 3, 6):
                out = out + _spreading(height, bins, x) @ x @ _spreading(width, bins, x).transpose(0, 1)
            return out
        else:
            pooled = [F.avg_pool2d(x, (max(height // bins, 1), max(width // bins, 1))) for bins in (2, 3, 6)]
        for part in pooled:
            out = out + resize(part, (height, width), align_corners=True)
        return out


class CascadeFusion(nn.Module):
    """A coarse feature, upsampled, through a dilated 3×3, plus a fine one through a 1×1 (figure 3 of the paper).

    act   of each side before the sum (mmsegmentation); None as in the paper
    """

    def __init__(
        self,
        low: int,
        high: int,
        channels: int = 128,
        *,
        act: Callable[[], nn.Module] | None = None,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.low = ConvNormAct(low, channels, 3, dilation=2, act=act)
        self.high = ConvNormAct(high, channels, 1, act=act)

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """(B, low, h, w), (B, high, H, W) -> the fused feature (B, channels, H, W), and the coarse side of its sum"""
        coarse = self.low(resize(low, high.shape[-2:], align_corners=self.align_corners))
        return F.relu(coarse + self.high(high)), coarse


class ICNet(SegmentationModel):
    """The paper's network, as released: on a pruned PSPNet50.

    width     of the first stage of the ResNet: 32 as released, 64 without pruning
    windows   of pyramid pooling: from the map's "size", or the "release"'s fixed ones (1025×2049 only)
    """

    training_only = ("auxiliary",)
    align_corners = True

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        width: int = 32,
        windows: Literal["size", "release"] = "size",
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        check_choice("windows", windows, ("size", "release"))
        self.detail = detail_branch(in_channels)
        self.backbone = ResNet(
            depth=50,
            width=width,
            in_channels=in_channels,
            output_stride=8,
            deep_stem=(width, width, 2 * width),
            contract_dilation=False,
        )
        shared, deep = self.backbone.channels[1], self.backbone.channels[3]
        self.pyramid = SumPyramid(windows)
        self.reduce = ConvNormAct(deep, 256, 1)
        self.fuse16 = CascadeFusion(256, shared, align_corners=True)
        self.fuse8 = CascadeFusion(128, 64, align_corners=True)
        self.classifier = init_classifier(nn.Conv2d(128, num_classes, 1))
        self.auxiliary = init_classifier(
            nn.ModuleDict({"aux_8": nn.Conv2d(128, num_classes, 1), "aux_16": nn.Conv2d(256, num_classes, 1)})
        )
        # cascade label guidance: each output against labels of its own size
        weights = {"logits": 1.0, "aux_8": 0.4, "aux_16": 0.16}
        self.set_objective(
            *(Term(name, weight, CrossEntropy(), of=(name,), at="output") for name, weight in weights.items())
        )
        init_convs(self.detail, self.reduce, self.fuse16, self.fuse8)

    def _cascade(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, C, H, W) -> logits at 1/4, and the features at 1/32, 1/16 and 1/8 by the name of their junction"""
        height, width = image.shape[-2:]
        net = self.backbone
        half = net.layer1(net.pool(net.stem(self._shrink(image))))
        half = net.layer2[0](half)
        quarter = net.layer2[1:](self._shrink(half))
        quarter = self.reduce(self.pyramid(net.layer4(net.layer3(quarter))))
        fused16, _ = self.fuse16(quarter, half)
        fused8, _ = self.fuse8(fused16, self.detail(image))
        # a 1×1 convolution and a resize may change places, and the first costs a quarter here
        logits = resize(self.classifier(fused8), ((height + 3) // 4, (width + 3) // 4), align_corners=True)
        return logits, {"aux_16": quarter, "aux_8": fused16, "logits": fused8}

    @staticmethod
    def _shrink(x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))"""
        height, width = x.shape[-2:]
        return resize(x, ((height + 1) // 2, (width + 1) // 2), align_corners=True)

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H/4, W/4)"""
        return self._cascade(image)[0]

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        logits, features = self._cascade(image)
        outputs = {"logits": logits}
        # of the upsampled coarse feature, before the dilated convolution; again the classifier goes first
        for name, finer in (("aux_8", "logits"), ("aux_16", "aux_8")):
            scores = self.auxiliary[name](features[name])
            outputs[name] = resize(scores, features[finer].shape[-2:], align_corners=True)
        return outputs


class PooledFirst(PyramidPooling):
    """Pyramid pooling with the input behind the pooled branches, mmsegmentation's order in this network."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H, W)"""
        height, width = x.shape[-2:]
        out = []
        for size, branch in zip(self.bins, self.branches, strict=True):
            pooled = branch(adaptive_average_pool(x, size))
            out.append(spread(pooled, height, width) if size == 1 else resize(pooled, (height, width)))
        return torch.cat([*out, x], 1)


class ResNetICNet(SegmentationModel):
    """mmsegmentation's network, on a whole ResNet.

    backbone   the name of one of our ResNets, which comes dilated to output stride 8, or such a network (it is changed)
    channels   of the pyramid's branches and bottleneck
    """

    training_only = ("auxiliary",)

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        backbone: str | nn.Module = "resnet50_v1c",
        channels: int = 512,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        named = isinstance(backbone, str)
        fits = backbone in list_models(kind="classifier") and entry(backbone).build is ResNet if named else True
        net = create_backbone(backbone, in_channels=in_channels, output_stride=8) if fits else None
        if not isinstance(net, ResNet) or net.strides != (4, 8, 8, 8):
            raise ValueError(
                f"backbone is {backbone if named else type(backbone).__name__}; the cascade cuts a ResNet in two: give one of "
                "ours, such as 'resnet18', or a ResNet(output_stride=8)"
            )
        net.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.detail = detail_branch(in_channels)
        self.backbone = net
        self.pyramid = PooledFirst(net.channels[3], channels)
        self.bottleneck = ConvNormAct(self.pyramid.out_channels, channels)
        self.reduce16 = ConvNormAct(net.channels[1], 256, 1)
        self.reduce32 = ConvNormAct(channels, 256, 1)
        self.fuse16 = CascadeFusion(256, 256, act=nn.ReLU, align_corners=False)
        self.fuse8 = CascadeFusion(128, 64, act=nn.ReLU, align_corners=False)
        self.head = self._head(num_classes, 0.0)
        self.auxiliary = nn.ModuleDict({name: self._head(num_classes, 0.1) for name in ("aux_16", "aux_8")})
        weights = {"logits": 1.0, "aux_16": 0.4, "aux_8": 0.4}
        self.set_objective(*(Term(name, weight, CrossEntropy(), of=(name,)) for name, weight in weights.items()))
        init_convs(*(part for name, part in self.named_children() if name != "backbone"))
        for head in (self.head, *self.auxiliary.values()):
            assert isinstance(head, nn.Sequential)
            init_classifier(head[-1])

    @staticmethod
    def _head(num_classes: int, dropout: float) -> nn.Sequential:
        return nn.Sequential(ConvNormAct(128, 128), nn.Dropout2d(dropout), nn.Conv2d(128, num_classes, 1))

    def _cascade(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) -> the fused feature at 1/8, and the coarse sides of both fusions, at 1/16 and 1/8"""
        net = self.backbone
        # bilinear halving that takes the factor, not the sizes, for its coordinates: the mean of 2×2 pixels
        half = net.layer2(net.layer1(net.pool(net.stem(F.avg_pool2d(image, 2)))))
        quarter = net.layer4(net.layer3(F.avg_pool2d(half, 2)))
        quarter = self.reduce32(self.bottleneck(self.pyramid(quarter)))
        fused16, coarse16 = self.fuse16(quarter, self.reduce16(half))
        fused8, coarse8 = self.fuse8(fused16, self.detail(image))
        return fused8, coarse16, coarse8

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H/8, W/8)"""
        return self.head(self._cascade(image)[0])

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        fused8, coarse16, coarse8 = self._cascade(image)
        return {
            "logits": self.head(fused8),
            "aux_16": self.auxiliary["aux_16"](coarse16),
            "aux_8": self.auxiliary["aux_8"](coarse8),
        }


PAPER = Paper(
    title="ICNet for Real-Time Semantic Segmentation on High-Resolution Images",
    authors="Zhao, Qi, Shen, Shi, Jia",
    venue="ECCV",
    year=2018,
    url="https://arxiv.org/abs/1704.08545",
    code="https://github.com/meetps/pytorch-semseg",  # the port; the authors' states no licence
    code_licence="MIT",
)
SCORES = {"Cityscapes val mIoU": 67.7, "Cityscapes test mIoU": 69.5, "CamVid test mIoU (960×720)": 67.1}

register("icnet", ICNet, Card(paper=PAPER, num_classes=19, scores=SCORES))
for _depth, _score in ((18, 74.43), (50, 76.29), (101, 76.15)):
    register(
        f"icnet_resnet{_depth}",
        ResNetICNet,
        Card(paper=PAPER, num_classes=19, scores={"Cityscapes val mIoU, mmsegmentation": _score}),
        backbone=f"resnet{_depth}_v1c",
    )
