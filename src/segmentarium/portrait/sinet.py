"""SINet: portraits by spatial squeezes and a decoder that blocks information.

Weights of the authors' code load.

A spatial squeeze module looks at its input through two branches of another kernel or another scale: an average pooling
widens the view of a small depthwise kernel, and pays for it by working on fewer pixels.  The decoder asks the coarse
prediction where it is sure of itself, and lets fine detail pass only where it is not (information blocking).

What the authors' code does and we follow: squeezes have no sigmoid, the batch norm of a pooled branch stands after its
upsampling, all upsampling aligns corners, logits pass a last 3×3 convolution at the image's size.
What we change:
- any size, not only multiples of 32: pooling keeps a partial window, and what upsampling makes of it is cut off;
- with one sigmoid logit the confidence is max(p, 1 - p); the code's softmax over one channel is 1 everywhere, which
  would shut the detail out.

The objective: cross entropy, and half of it again on the band that a dilation minus an erosion of the mask leaves.  The
encoder is trained alone first (`sinet_encoder`, at 1/8), and `create_model("sinet", weights=...)` starts from its file.

Published: EG1800 mean IoU 95.2 with 0.087 M parameters and 0.064 GFLOPs at 224×224; the weights were trained on images
squeezed to that size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.contracts import SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier
from segmentarium.layers.pooling import PooledBatchNorm
from segmentarium.layers.resize import resize
from segmentarium.losses import CrossEntropy
from segmentarium.losses.boundary_band import OnBoundary
from segmentarium.registry import Card, Paper, register

# a branch pools by up to eight: of a small picture one place may be left
batch_norm = partial(PooledBatchNorm, eps=1e-3)

# (kernel, pooling) of both branches of each module: table 1 of the paper
LEVEL2 = (((3, 1), (5, 1)), ((3, 1), (3, 1)))
LEVEL3 = (
    ((3, 1), (5, 1)),
    ((3, 1), (3, 1)),
    ((5, 1), (3, 2)),
    ((5, 2), (3, 4)),
    ((3, 1), (3, 1)),
    ((5, 1), (5, 1)),
    ((3, 2), (3, 4)),
    ((3, 1), (5, 2)),
)
Branches = tuple[tuple[int, int], tuple[int, int]]


def conv_norm_prelu(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> ConvNormAct:
    act = partial(nn.PReLU, out_channels)
    return ConvNormAct(in_channels, out_channels, kernel_size, stride, norm=batch_norm, act=act)


class NormAct(nn.Module):
    """Batch norm and PReLU, after a concatenation or a sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = batch_norm(channels)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels, H, W)"""
        return self.act(self.norm(x))


def upsample(x: Tensor, factor: int, size: Sequence[int], align_corners: bool = True) -> Tensor:
    """By `factor`, cut to `size`: what stood for a partial window goes back to where it was."""
    if factor == 1:
        return x
    whole = (x.shape[-2] * factor, x.shape[-1] * factor)
    return resize(x, whole, align_corners=align_corners)[..., : size[0], : size[1]]


class UpsampleNorm(nn.Module):
    """Upsampling to a size, then batch norm.  Deployed, the norm comes first and folds into the convolution before it: an
    average of values that were scaled and shifted is the scaled and shifted average."""

    def __init__(self, channels: int, align_corners: bool = True) -> None:
        super().__init__()
        self.norm = batch_norm(channels)
        self.align_corners = align_corners
        self.norm_first = False

    def forward(self, x: Tensor, factor: int, size: Sequence[int]) -> Tensor:
        """(B, channels, h, w) -> (B, channels, *size)"""
        if self.norm_first:
            return upsample(self.norm(x), factor, size, self.align_corners)
        return self.norm(upsample(x, factor, size, self.align_corners))

    def reparameterize(self) -> None:
        self.norm_first = True


class SqueezeBlock(nn.Module):
    """One branch: pooled by `pooling`, a depthwise and a pointwise convolution, back to its size, batch norm (figure 3)."""

    def __init__(self, channels: int, kernel_size: int, pooling: int) -> None:
        super().__init__()
        self.pooling = pooling
        act = partial(nn.PReLU, channels)
        self.depthwise = ConvNormAct(channels, channels, kernel_size, groups=channels, norm=batch_norm, act=act)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.up = UpsampleNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels, H, W)"""
        y = x
        if self.pooling > 1:
            y = F.avg_pool2d(x, self.pooling, self.pooling, ceil_mode=True, count_include_pad=False)
        return self.up(self.pointwise(self.depthwise(y)), self.pooling, x.shape[-2:])


class SpatialSqueeze(nn.Module):
    """The S2 module: two branches see the same half of the channels, each makes half of the output (figure 3).

    block   what a branch is, of channels, kernel and pooling
    """

    def __init__(
        self, in_channels: int, channels: int, branches: Branches, block: Callable[..., SqueezeBlock] = SqueezeBlock
    ) -> None:
        super().__init__()
        half = channels // 2
        self.reduce = nn.Conv2d(in_channels, half, 1, groups=2, bias=False)
        self.shuffle = True
        self.branches = nn.ModuleList(block(half, kernel, pooling) for kernel, pooling in branches)
        self.residual = in_channels == channels
        self.join = NormAct(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H, W)"""
        reduced = self.reduce(x)
        if self.shuffle:  # the two groups interleaved: a0 b0 a1 b1 ...
            reduced = torch.stack(reduced.chunk(2, 1), 2).flatten(1, 2)
        y = torch.cat([branch(reduced) for branch in self.branches], 1)
        return self.join(y + x if self.residual else y)

    def reparameterize(self) -> None:
        """Moves no channels: the branches' weights are put in the order of the groups instead."""
        if not self.shuffle:
            return
        half = self.reduce.out_channels
        place = torch.arange(half).view(half // 2, 2).transpose(0, 1).flatten().to(self.reduce.weight.device)
        for branch in self.branches:
            assert isinstance(branch, SqueezeBlock)
            for tensor in (*branch.depthwise.parameters(), *branch.depthwise.buffers()):
                if tensor.ndim:
                    tensor.data = tensor.data[place]
            branch.pointwise.weight.data = branch.pointwise.weight.data[:, place]
        self.shuffle = False


class SqueezedDown(nn.Module):
    """To half the size: a strided depthwise convolution, its channels weighed by what the whole image shows, pointwise.

    hidden   channels between the two layers of the weighing; None: one layer
    """

    def __init__(self, in_channels: int, out_channels: int, hidden: int | None = None) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, 2, 1, groups=in_channels, bias=False)
        widths = [in_channels, *([hidden] if hidden else []), in_channels]
        layers = [(nn.Linear(a, b), nn.PReLU(b)) for a, b in itertools.pairwise(widths)]
        self.weigh = nn.Sequential(*(module for pair in layers for module in pair))
        self.pointwise = conv_norm_prelu(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / 2), ceil(W / 2))"""
        x = self.depthwise(x)
        return self.pointwise(x * self.weigh(x.mean((2, 3)))[:, :, None, None])


class Encoder(nn.Module):
    """Image -> logits at 1/8, and the fine feature at 1/4 that the decoder wants."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = conv_norm_prelu(in_channels, 12, 3, 2)
        self.down2 = SqueezedDown(12, 16)
        self.level2 = self._level(16, 48, LEVEL2)
        self.join2 = NormAct(16 + 48)
        self.down3 = SqueezedDown(16 + 48, 48, 32)
        self.level3 = self._level(48, 96, LEVEL3)
        self.join3 = NormAct(48 + 96)
        self.classifier = init_classifier(nn.Conv2d(48 + 96, num_classes, 1, bias=False))

    @staticmethod
    def _level(in_channels: int, channels: int, branches: tuple[Branches, ...]) -> nn.Sequential:
        return nn.Sequential(
            *(SpatialSqueeze(channels if i else in_channels, channels, b) for i, b in enumerate(branches))
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """(B, C, H, W) -> logits (B, K, H/8, W/8), feature (B, 48, H/4, W/4), height and width at 1/2"""
        x2 = self.stem(image)
        x4 = self.down2(x2)
        fine = self.level2(x4)
        x8 = self.down3(self.join2(torch.cat([x4, fine], 1)))
        coarse = self.join3(torch.cat([x8, self.level3(x8)], 1))
        return self.classifier(coarse), fine, (x2.shape[-2], x2.shape[-1])


class SINetEncoder(SegmentationModel):
    """The first stage of training: the encoder alone, on labels at 1/8."""

    align_corners = True

    def __init__(self, *, num_classes: int = 2, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.encoder = Encoder(num_classes, in_channels)
        self.set_objective(
            Term("logits", 1.0, CrossEntropy(), at="output"),
            Term("boundary", 0.5, OnBoundary(CrossEntropy(), 5), at="output", classes=False),
        )

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H/8, W/8)"""
        return self.encoder(image)[0]

    def forward(self, image: Tensor) -> Tensor:
        return upsample(self.logits(image), 8, image.shape[-2:])


class SINet(SegmentationModel):
    """The whole network: the encoder and the information-blocking decoder (figure 2)."""

    align_corners = True
    first_stage: ClassVar[tuple[str, str]] = ("sinet_encoder", "encoder.")

    def __init__(self, *, num_classes: int = 2, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.encoder = Encoder(num_classes, in_channels)
        self.up_coarse = UpsampleNorm(num_classes)
        self.detail = conv_norm_prelu(48, num_classes, 1)
        self.up_fine = UpsampleNorm(num_classes)
        # few inputs, 9 K: smaller weights would take long to grow
        last = nn.Conv2d(num_classes, num_classes, 3, padding=1, bias=False)
        self.classifier = init_classifier(last, std=0.5 / (9 * num_classes) ** 0.5)
        self.set_objective(
            Term("logits", 1.0, CrossEntropy()), Term("boundary", 0.5, OnBoundary(CrossEntropy(), 15), classes=False)
        )

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H, W)"""
        coarse, fine, half = self.encoder(image)
        x4 = self.up_coarse(coarse, 2, fine.shape[-2:])
        x2 = self.up_fine(self.detail(fine) * doubt(x4) + x4, 2, half)
        return self.classifier(upsample(x2, 2, image.shape[-2:]))


def doubt(logits: Tensor) -> Tensor:
    """One minus the highest probability, (B, 1, H, W): where detail may pass."""
    if logits.shape[1] == 1:
        return (-logits.abs()).sigmoid()
    return 1 - logits.softmax(1).amax(1, keepdim=True)


PAPER = Paper(
    title="SINet: Extreme Lightweight Portrait Segmentation Networks with Spatial Squeeze Modules and Information "
    "Blocking Decoder",
    authors="Park, Sjösund, Yoo, Monet, Bang, Kwak",
    venue="WACV",
    year=2020,
    url="https://arxiv.org/abs/1911.09099",
    code="https://github.com/clovaai/ext_portrait_segmentation",
    code_licence="MIT",
)

register(
    "sinet",
    SINet,
    Card(
        paper=PAPER,
        parameters=0.087,
        flops=0.064,
        flops_size=(224, 224),
        num_classes=2,
        scores={"EG1800 mean IoU": 95.2},
    ),
)
register("sinet_encoder", SINetEncoder, Card(paper=PAPER, num_classes=2))
