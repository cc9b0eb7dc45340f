"""DFANet: three light networks, aggregated deeply.

The authors published no code.  The public implementation whose layout of weights loads says that it does not reach the
paper's accuracy.

Three light Xceptions stand one behind the other.  Each ends with an attention from a fully connected layer, and its
upsampled result is the next one's input (sub-network aggregation); each stage sees the one before it of its own network
joined with the same stage of the network before (sub-stage aggregation).  The decoder sums the three networks' shallow
maps, then adds their attention maps.

`dfanet` is the public network.  What it does beyond the paper: 3, 6, 3 blocks, biases and no norm inside separable
convolutions, a linear projection beside every block, and one and the same decoder layer for the last two attention maps.

`dfanet_a` and `dfanet_b` follow the paper's table of Xception A and B: 4, 6, 4 blocks of widths (12, 12, 48), (24, 24, 96),
(48, 48, 192), in B two thirds of that.  Where it says nothing, we chose: a norm after the depthwise and the pointwise
convolution and a ReLU after the second; a projection with a norm where the shape changes and the identity elsewhere; biases
in the attention's layers, with ReLU and sigmoid as in the public code; in the decoder a layer for each map, 32 channels and
a 1×1 classifier, which give the published FLOPs.

Published: A: Cityscapes test 71.3 with 7.8 M parameters and 3.4 GFLOPs at 1024×1024 (ours: 3.42), CamVid 64.7; B: 67.1 with
4.8 M and 2.1 GFLOPs (ours: 2.06).  No reading of the paper's table that we know gives these parameters; ours has 1.84 M
and 1.11 M.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.checks import check_choice
from segmentarium.contracts import SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct, SeparableConv
from segmentarium.layers.init import init_classifier, init_convs
from segmentarium.layers.resize import resize
from segmentarium.losses import CrossEntropy
from segmentarium.registry import Card, Paper, register

NETWORKS = 3


class PlainSeparableConv(nn.Module):
    """Depthwise and pointwise convolution with biases and nothing between, then norm and ReLU: the public network's."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels)
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), …)"""
        return self.pointwise(self.depthwise(x))


class XceptionBlock(nn.Module):
    """Three separable convolutions, the first two a quarter as wide, and a shortcut that is added last."""

    def __init__(self, in_channels: int, channels: int, stride: int, *, public: bool) -> None:
        super().__init__()
        narrow = channels // 4
        if public:
            self.convs = nn.Sequential(
                PlainSeparableConv(in_channels, narrow, stride),
                PlainSeparableConv(narrow, narrow),
                PlainSeparableConv(narrow, channels),
            )
            self.shortcut: nn.Module = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
        else:
            self.convs = nn.Sequential(
                SeparableConv(in_channels, narrow, 3, stride, depthwise_act=None),
                SeparableConv(narrow, narrow, depthwise_act=None),
                SeparableConv(narrow, channels, depthwise_act=None),
            )
            same = stride == 1 and in_channels == channels
            self.shortcut = nn.Identity() if same else ConvNormAct(in_channels, channels, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, ceil(H / stride), …)"""
        return self.shortcut(x) + self.convs(x)


class FullyConnectedAttention(nn.Module):
    """Weighs the channels by a layer of 1000 that sees their means, as wide as a classifier of ImageNet."""

    def __init__(self, channels: int, *, bias: bool) -> None:
        super().__init__()
        self.connect = nn.Linear(channels, 1000, bias=bias)
        self.reduce = nn.Linear(1000, channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels, H, W)"""
        return x * self.reduce(F.relu(self.connect(x.mean((2, 3))))).sigmoid()[:, :, None, None]


class SubNetwork(nn.Module):
    """enc2, enc3 and enc4, each at half the size of what it sees, and the attention."""

    def __init__(
        self, inputs: tuple[int, int, int], widths: tuple[int, int, int], depths: tuple[int, int, int], *, public: bool
    ) -> None:
        super().__init__()
        self.enc2, self.enc3, self.enc4 = (
            nn.Sequential(
                *(XceptionBlock(width if i else given, width, 1 if i else 2, public=public) for i in range(depth))
            )
            for given, width, depth in zip(inputs, widths, depths, strict=True)
        )
        self.attention = FullyConnectedAttention(widths[-1], bias=not public)

    def forward(self, x: Tensor, before: list[Tensor] | None = None) -> list[Tensor]:
        """x, and the maps of the network before -> the maps of enc2, enc3, enc4, and enc4's with attention."""
        features = [self.enc2(x)]
        for index, stage in enumerate((self.enc3, self.enc4)):
            x = features[-1]
            features.append(stage(x if before is None else torch.cat([x, before[index + 1]], 1)))
        return [*features, self.attention(features[-1])]


class Decoder(nn.Module):
    """The enc2 maps, reduced and resized to 1/4, are summed and filtered; the attention maps are added; logits."""

    def __init__(
        self, shallow: int, deep: int, channels: int, num_classes: int, *, public: bool, align_corners: bool
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.shallow = nn.ModuleList(ConvNormAct(shallow, channels, 1) for _ in range(NETWORKS))
        self.deep = nn.ModuleList(ConvNormAct(deep, channels, 1) for _ in range(2 if public else NETWORKS))
        self.fuse = ConvNormAct(channels, channels, bias=public)
        kernel = 3 if public else 1
        self.classifier = nn.Conv2d(channels, num_classes, kernel, padding=kernel // 2, bias=not public)

    def forward(self, features: list[list[Tensor]]) -> Tensor:
        """What each of the three networks gives -> (B, K, H/4, W/4)"""
        size = features[0][0].shape[-2:]
        last = len(self.deep) - 1
        shallow = [conv(maps[0]) for conv, maps in zip(self.shallow, features, strict=True)]
        deep = [self.deep[min(index, last)](maps[-1]) for index, maps in enumerate(features)]
        x = self.fuse(self._sum(shallow, size))
        return self.classifier(x + self._sum(deep, size))

    def _sum(self, maps: list[Tensor], size: torch.Size) -> Tensor:
        first, second, third = (resize(x, size, align_corners=self.align_corners) for x in maps)
        return first + second + third


class DFANet(SegmentationModel):
    """The whole network.

    form        "public" or "paper": the blocks, the attention's biases and the decoder's layers (see above)
    widths      channels of enc2, enc3 and enc4
    depths      blocks of each
    decoder_channels  width of the decoder: None, the form's (64 or 32)
    """

    align_corners = True

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        form: Literal["public", "paper"] = "public",
        widths: tuple[int, int, int] = (48, 96, 192),
        depths: tuple[int, int, int] = (3, 6, 3),
        decoder_channels: int | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        check_choice("form", form, ("public", "paper"))
        if len(widths) != 3 or any(width < 4 or width % 4 for width in widths):
            raise ValueError(f"widths is {tuple(widths)}; give three multiples of 4, for enc2, enc3 and enc4")
        public = form == "public"
        c2, c3, c4 = widths
        self.stem = ConvNormAct(in_channels, 8, 3, 2)
        inputs = ((8, c2, c3), *(NETWORKS - 1) * ((c2 + c4, c2 + c3, c3 + c4),))
        self.networks = nn.ModuleList(SubNetwork(given, (c2, c3, c4), depths, public=public) for given in inputs)
        self.decoder = Decoder(
            c2,
            c4,
            decoder_channels or (64 if public else 32),
            num_classes,
            public=public,
            align_corners=self.align_corners,
        )
        self.set_objective(Term("logits", 1.0, CrossEntropy()))
        self._initialise()

    def _initialise(self) -> None:
        """He's, with a gain of 1 where no ReLU follows: 36 blocks in a row without norms would let half precision drown."""
        init_convs(self)
        for module in self.modules():
            linear = module.depthwise if isinstance(module, PlainSeparableConv) else getattr(module, "shortcut", None)
            if isinstance(linear, nn.Conv2d):
                nn.init.kaiming_normal_(linear.weight, nonlinearity="linear")
        init_classifier(self.decoder.classifier)

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H/4, W/4)"""
        x = self.stem(image)
        features: list[list[Tensor]] = []
        for network in self.networks:
            if features:
                before = features[-1]
                coarse = resize(before[-1], before[0].shape[-2:], align_corners=self.align_corners)
                features.append(network(torch.cat([before[0], coarse], 1), before))
            else:
                features.append(network(x))
        return self.decoder(features)


PAPER = Paper(
    title="DFANet: Deep Feature Aggregation for Real-Time Semantic Segmentation",
    authors="Li, Xiong, Fan, Sun",
    venue="CVPR",
    year=2019,
    url="https://arxiv.org/abs/1904.02216",
    code="https://github.com/huaifeng1993/DFANet",
    code_licence="MIT (by its files' headers)",
)
SCORES_A = {"Cityscapes test mIoU": 71.3, "CamVid test mIoU": 64.7}
SCORES_B = {"Cityscapes test mIoU": 67.1}


def _card(parameters: float, flops: float, scores: dict[str, float], ours: str) -> Card:
    limits = {"parameters": f"the layers of the paper's table, read so that they have its FLOPs, have {ours}"}
    return Card(
        paper=PAPER,
        parameters=parameters,
        flops=flops,
        flops_size=(1024, 1024),
        num_classes=19,
        scores=scores,
        limits=limits,
        # from scratch, at a tenth of it, nothing but the largest class for hundreds of steps
        training={"learning_rate": 1e-2},
    )


A: dict[str, Any] = {"widths": (48, 96, 192), "depths": (4, 6, 4)}
B: dict[str, Any] = {"widths": (32, 64, 128), "depths": (4, 6, 4)}

register("dfanet", DFANet, Card(paper=PAPER, parameters=2.19, num_classes=19))
register("dfanet_a", DFANet, _card(7.8, 3.4, SCORES_A, "1.84"), form="paper", **A)
register("dfanet_b", DFANet, _card(4.8, 2.1, SCORES_B, "1.11"), form="paper", **B)
