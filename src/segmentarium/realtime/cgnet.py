"""CGNet: a context guided network of few channels.

Each block joins what a pixel's neighbours say with what its surroundings say, two depthwise convolutions of which one is
dilated, and weighs the channels by the whole image.  The network stops at 1/8 and stays narrow, and the image itself,
averaged, is put in again at 1/2 and 1/4.

What the code does and the paper does not say: batch norms have an epsilon of 1e-3, the linear layers of the global context
are the only ones with a bias, and where a stage's first and last maps are joined, the last comes first in stage 2 and second
in stage 3; mmsegmentation's classifier has a bias.  Its class weights are `class_weights(counts, "enet", offset=1.1)`.

In the deploy form the joint batch norm is split over the two convolutions before it.

Published: Cityscapes test 64.8 with 0.5 M parameters (M3N21) and 6.0 GFLOPs at 360×640, multiplications and additions counted
apart; CamVid test 65.6.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.contracts import SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.fusion import fold_joined
from segmentarium.layers.init import init_classifier, init_convs
from segmentarium.losses import CrossEntropy
from segmentarium.registry import Card, Paper, register

norm = partial(nn.BatchNorm2d, eps=1e-3)


class NormAct(nn.Sequential):
    """Batch norm and PReLU, over joined maps."""

    def __init__(self, channels: int) -> None:
        super().__init__(norm(channels), nn.PReLU(channels))


class GlobalContext(nn.Module):
    """f_glo: the channels' weights, from their means over the image."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction)
        self.excite = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1)"""
        return self.excite(F.relu(self.squeeze(x.mean((2, 3))))).sigmoid()[:, :, None, None]


class LocalAndSurrounding(nn.Module):
    """f_loc, f_sur and f_joi: a depthwise and a dilated depthwise convolution, joined, normalised."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.surrounding = nn.Conv2d(
            channels, channels, 3, padding=dilation, dilation=dilation, groups=channels, bias=False
        )
        self.norm: nn.Module = norm(2 * channels)
        self.act = nn.PReLU(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 2 C, H, W)"""
        return self.act(self.norm(torch.cat([self.local(x), self.surrounding(x)], 1)))

    def reparameterize(self) -> None:
        """Each convolution takes over its half of the batch norm."""
        if isinstance(self.norm, nn.BatchNorm2d):
            fold_joined(self.norm, (self.local, self.surrounding))
            self.norm = nn.Identity()


class ContextGuidedBlock(nn.Module):
    """Reduced to half by a 1×1 convolution, joined to the full width, weighed, and added to the input."""

    def __init__(self, channels: int, dilation: int, reduction: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv = ConvNormAct(channels, half, 1, norm=norm, act=partial(nn.PReLU, half))
        self.joint = LocalAndSurrounding(half, dilation)
        self.context = GlobalContext(channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels, H, W)"""
        joint = self.joint(self.conv(x))
        return torch.addcmul(x, joint, self.context(joint))  # x + joint · weights, in one pass over memory


class ContextGuidedDown(nn.Module):
    """The block that begins a stage: a strided 3×3 convolution first, and a 1×1 after the joint feature; no shortcut."""

    def __init__(self, in_channels: int, channels: int, dilation: int, reduction: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_channels, channels, 3, 2, norm=norm, act=partial(nn.PReLU, channels))
        self.joint = LocalAndSurrounding(channels, dilation)
        self.reduce = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.context = GlobalContext(channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, ceil(H / 2), ceil(W / 2))"""
        x = self.reduce(self.joint(self.conv(x)))
        return x * self.context(x)


class CGNet(SegmentationModel):
    """The whole network.

    blocks      of stages 2 and 3, the down block among them: the M and N of the paper's names
    dropout     probability of dropping a channel before the classifier (0 as published)
    head_bias   the classifier has a bias (mmsegmentation)
    """

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        blocks: tuple[int, int] = (3, 21),
        dropout: float = 0.0,
        head_bias: bool = False,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        if min(blocks) < 1:
            raise ValueError(f"blocks is {tuple(blocks)}; give 1 or more for each of the two stages")
        self.stem = nn.Sequential(
            *(
                ConvNormAct(given, 32, 3, stride, norm=norm, act=partial(nn.PReLU, 32))
                for given, stride in ((in_channels, 2), (32, 1), (32, 1))
            )
        )
        self.join1 = NormAct(32 + in_channels)
        self.down2 = ContextGuidedDown(32 + in_channels, 64, dilation=2, reduction=8)
        self.stage2 = nn.Sequential(*(ContextGuidedBlock(64, 2, 8) for _ in range(blocks[0] - 1)))
        self.join2 = NormAct(128 + in_channels)
        self.down3 = ContextGuidedDown(128 + in_channels, 128, dilation=4, reduction=16)
        self.stage3 = nn.Sequential(*(ContextGuidedBlock(128, 4, 16) for _ in range(blocks[1] - 1)))
        self.join3 = NormAct(256)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(256, num_classes, 1, bias=head_bias)
        self.set_objective(Term("logits", 1.0, CrossEntropy()))
        init_convs(self)
        init_classifier(self.classifier)

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H/8, W/8)"""
        half = F.avg_pool2d(image, 3, 2, 1)
        quarter = F.avg_pool2d(half, 3, 2, 1)
        first = self.down2(self.join1(torch.cat([self.stem(image), half], 1)))  # 1/4
        second = self.join2(torch.cat([self.stage2(first), first, quarter], 1))
        first = self.down3(second)  # 1/8
        last = self.join3(torch.cat([first, self.stage3(first)], 1))
        return self.classifier(self.dropout(last))


PAPER = Paper(
    title="CGNet: A Light-weight Context Guided Network for Semantic Segmentation",
    authors="Wu, Tang, Zhang, Cao, Zhang",
    venue="IEEE TIP",
    year=2020,
    url="https://arxiv.org/abs/1811.08201",
    code="https://github.com/wutianyiRosun/CGNet",
    code_licence="MIT",
)
SCORES = {"Cityscapes test mIoU": 64.8, "CamVid test mIoU": 65.6}

register(
    "cgnet", CGNet, Card(paper=PAPER, parameters=0.5, flops=3.0, flops_size=(360, 640), num_classes=19, scores=SCORES)
)
register("cgnet_m3n15", CGNet, Card(paper=PAPER, num_classes=19), blocks=(3, 15))
