"""RegSeg: dilated convolutions in place of a deeper network.

A RegNetY block whose grouped 3×3 convolution is split in two halves of the channels, one dilated little and one much: the
field of view grows without a deeper network, and the half with rate 1 keeps the detail that dilation skips.  Thirteen
such blocks at 1/16 see more than the image is tall, so there is no context module, only a light decoder.

What the code does and the paper does not say: the first of the thirteen blocks is not split (one convolution of rate 1);
squeeze and excitation reduces to a quarter of the block's *input* channels.  We follow the code.  The loss is bootstrapped
cross entropy: pixels above 0.3, at least a sixteenth of them (the code counts all pixels, we the labelled ones).

Published: Cityscapes val 78.1 (runs from 77.8 to 78.9), test 78.3 at 30 FPS (1024×2048; 3.34 M parameters, 39.1 GFLOPs);
the larger one of the code test 79.5 at 20 FPS; CamVid test 80.9 (from Cityscapes weights).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones.resnet import shortcut
from segmentarium.contracts import SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.fusion import fold_joined
from segmentarium.layers.init import init_classifier, init_convs
from segmentarium.layers.resize import resize
from segmentarium.layers.squeeze_excite import SqueezeExcite
from segmentarium.losses import OhemCrossEntropy
from segmentarium.registry import Card, Paper, register

# rates of the blocks at 1/16 behind the strided one; the last belongs to the wider last block
DILATIONS = ((1,), (1, 2), *4 * ((1, 4),), *7 * ((1, 14),))


class SplitDilation(nn.Module):
    """The channels in equal parts, each through a grouped 3×3 convolution with its own dilation; norm, ReLU."""

    def __init__(self, channels: int, dilations: Sequence[int], groups: int) -> None:
        super().__init__()
        parts, part = len(dilations), channels // len(dilations)
        self.convs = nn.ModuleList(
            nn.Conv2d(part, part, 3, 1, rate, rate, groups // parts, bias=False) for rate in dilations
        )
        self.norm: nn.Module = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape"""
        parts = x.chunk(len(self.convs), 1)
        x = torch.cat([conv(part) for conv, part in zip(self.convs, parts, strict=True)], 1)
        return F.relu(self.norm(x), inplace=True)

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Folds the norm, which the concatenation hides from the usual folding, into the convolutions."""
        if isinstance(self.norm, nn.BatchNorm2d):
            fold_joined(self.norm, self.convs)  # type: ignore[arg-type]
            self.norm = nn.Identity()


class DBlock(nn.Module):
    """1×1, grouped 3×3 (split where it has two dilations), squeeze and excitation, 1×1, beside the shortcut.

    At stride 2 the shortcut averages 2×2 pixels before it projects.
    """

    def __init__(
        self, in_channels: int, channels: int, group_width: int, dilations: Sequence[int] = (1,), stride: int = 1
    ) -> None:
        super().__init__()
        groups = channels // group_width
        self.conv1 = ConvNormAct(in_channels, channels, 1)
        self.conv2 = (
            ConvNormAct(channels, channels, 3, stride, dilation=dilations[0], groups=groups)
            if len(dilations) == 1
            else SplitDilation(channels, dilations, groups)
        )
        self.excite = SqueezeExcite(channels, in_channels // 4)
        self.conv3 = ConvNormAct(channels, channels, 1, act=None)
        self.shortcut = shortcut(in_channels, channels, stride, average=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H / stride, W / stride)"""
        y = self.conv3(self.excite(self.conv2(self.conv1(x))))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


class Encoder(nn.Module):
    """A strided convolution and D blocks to 1/16; no dilation before 1/16.

    channels   of the stages at 1/4, 1/8 and 1/16, and of the last block
    depths     blocks at 1/4 and 1/8; at 1/16 there is a strided block and then one for each entry of `dilations`
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        depths: Sequence[int],
        dilations: Sequence[Sequence[int]],
        group_width: int,
    ) -> None:
        super().__init__()
        c4, c8, c16, last = channels
        self.stem = ConvNormAct(in_channels, 32, 3, 2)
        self.stage4 = self._stage(32, [c4] * depths[0], group_width, [(1,)] * depths[0])
        self.stage8 = self._stage(c4, [c8] * depths[1], group_width, [(1,)] * depths[1])
        widths = [c16] * len(dilations) + [last]
        self.stage16 = self._stage(c8, widths, group_width, [(1,), *dilations])

    @staticmethod
    def _stage(
        in_channels: int, widths: Sequence[int], group_width: int, dilations: Sequence[Sequence[int]]
    ) -> nn.Sequential:
        inputs = [in_channels, *widths]
        return nn.Sequential(
            *(
                DBlock(inputs[i], width, group_width, rates, stride=2 if i == 0 else 1)
                for i, (width, rates) in enumerate(zip(widths, dilations, strict=True))
            )
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) -> features at 1/4, 1/8 and 1/16, the last with `channels[3]`"""
        x4 = self.stage4(self.stem(image))
        x8 = self.stage8(x4)
        return x4, x8, self.stage16(x8)


class Decoder(nn.Module):
    """1/16 added to 1/8, that beside a few channels of 1/4; logits at 1/4.

    heads      channels that each feature is projected to: at 1/16 and 1/8 (the same), and at 1/4
    channels   of the 3×3 convolutions after the sum at 1/8 and the concatenation at 1/4
    """

    def __init__(
        self, features: Sequence[int], heads: tuple[int, int], channels: tuple[int, int], num_classes: int
    ) -> None:
        super().__init__()
        c4, c8, c16 = features
        self.head16 = ConvNormAct(c16, heads[0], 1)
        self.head8 = ConvNormAct(c8, heads[0], 1)
        self.head4 = ConvNormAct(c4, heads[1], 1)
        self.conv8 = ConvNormAct(heads[0], channels[0])
        self.conv4 = ConvNormAct(channels[0] + heads[1], channels[1])
        self.classifier = nn.Conv2d(channels[1], num_classes, 1)

    def forward(self, x4: Tensor, x8: Tensor, x16: Tensor) -> Tensor:
        """features at 1/4, 1/8 and 1/16 -> (B, K, H/4, W/4)"""
        x8 = self.head8(x8) + resize(self.head16(x16), x8.shape[-2:])
        x4 = torch.cat([resize(self.conv8(x8), x4.shape[-2:]), self.head4(x4)], 1)
        return self.classifier(self.conv4(x4))


class RegSeg(SegmentationModel):
    """The whole network.

    channels, depths    of the encoder, see `Encoder`
    dilations           of the blocks at 1/16 behind the strided one; the last entry is the wider last block's
    group_width         channels in a group of the 3×3 convolutions
    heads, decoder_channels   see `Decoder`
    """

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        channels: tuple[int, int, int, int] = (48, 128, 256, 320),
        depths: tuple[int, int] = (1, 3),
        dilations: Sequence[Sequence[int]] = DILATIONS,
        group_width: int = 16,
        heads: tuple[int, int] = (128, 8),
        decoder_channels: tuple[int, int] = (64, 64),
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.encoder = Encoder(in_channels, channels, depths, dilations, group_width)
        self.decoder = Decoder((channels[0], channels[1], channels[3]), heads, decoder_channels, num_classes)
        self.set_objective(Term("logits", 1.0, OhemCrossEntropy(loss_threshold=0.3, min_kept=1 / 16)))
        init_convs(self, mode="fan_out")
        init_classifier(self.decoder.classifier)

    def logits(self, image: Tensor) -> Tensor:
        return self.decoder(*self.encoder(image))


PAPER = Paper(
    title="Rethink Dilated Convolution for Real-time Semantic Segmentation",
    authors="Gao",
    venue="arXiv",
    year=2021,
    url="https://arxiv.org/abs/2111.09957",
    code="https://github.com/RolandGao/RegSeg",
    code_licence="MIT",
)
SCORES = {
    "Cityscapes val mIoU": 78.1,
    "Cityscapes test mIoU": 78.3,
    "CamVid test mIoU (960×720, from Cityscapes weights)": 80.9,
}

register(
    "regseg",
    RegSeg,
    Card(paper=PAPER, parameters=3.34, flops=39.1, flops_size=(1024, 2048), num_classes=19, scores=SCORES),
)
register(
    "regseg_large",
    RegSeg,
    Card(paper=PAPER, num_classes=19, scores={"Cityscapes test mIoU": 79.5}),
    channels=(48, 120, 336, 384),
    depths=(2, 6),
    group_width=24,
    heads=(256, 16),
    decoder_channels=(128, 128),
)
