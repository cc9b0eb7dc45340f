"""SINet for streets: the network that SINet's authors trained on Cityscapes.

Weights of the authors' code, which is not that of the portraits, load.

SINet's squeezes and its information blocking, made for 19 classes at 1024×2048.  A branch looks through a column and a row of
its kernel, side by side, instead of a square; some branches are a plain 3×3 without pooling.  The encoder goes down to 1/16, by
way of as many channels at 1/4 as there are classes: these are the finest detail that the decoder lets through.  It blocks twice:
what the prediction at 1/16 is sure of stops the detail of 1/8, and what the result is sure of that of 1/4; a transposed
convolution gives the classes at 1/2.

What the authors' code does: squeezes of branches align corners, the decoder's enlargements do not, the last one, to the image's
size, does.  The prediction at 1/16 is trained beside, with the weight 0.25, on labels of that size, the whole on labels at 1/2.
What we change: any size, as in SINet.

Published: Cityscapes val 68.22, test 66.46, with 0.12 M parameters and 1.22 GFLOPs at 1024×2048.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from segmentarium.contracts import SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier
from segmentarium.losses import CrossEntropy
from segmentarium.portrait.sinet import (
    PAPER,
    Branches,
    NormAct,
    SpatialSqueeze,
    SqueezeBlock,
    SqueezedDown,
    UpsampleNorm,
    batch_norm,
    conv_norm_prelu,
    doubt,
    upsample,
)
from segmentarium.registry import Card, register

# (kernel, pooling) of both branches of each module; pooling 0: a plain 3×3
LEVEL3: tuple[Branches, ...] = (((3, 1), (5, 1)), ((3, 0), (3, 1)), ((3, 0), (3, 1)))
LEVEL4: tuple[Branches, ...] = (
    ((3, 1), (5, 1)),
    ((3, 0), (3, 1)),
    ((5, 1), (5, 4)),
    ((3, 2), (5, 8)),
    ((3, 1), (5, 1)),
    ((3, 1), (5, 1)),
    ((3, 0), (3, 1)),
    ((5, 1), (5, 8)),
    ((3, 2), (5, 4)),
    ((3, 0), (5, 2)),
)
WIDTHS = (60, 84, 108)  # of level 3, and of both halves of level 4
AT8 = 24  # channels that come down to 1/8


class Cross(nn.Module):
    """A column and a row, depthwise, each with its batch norm, added; PReLU."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        line = partial(ConvNormAct, channels, channels, groups=channels, norm=batch_norm, act=None)
        self.column, self.row = line((kernel_size, 1)), line((1, kernel_size))
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels, H, W)"""
        return self.act(self.column(x) + self.row(x))


class CrossBlock(SqueezeBlock):
    """A branch: as SINet's, but for the cross; with pooling 0 the very branch of SINet, 3×3 and not pooled."""

    def __init__(self, channels: int, kernel_size: int, pooling: int) -> None:
        super().__init__(channels, kernel_size if pooling else 3, max(pooling, 1))
        if pooling:
            self.depthwise = Cross(channels, kernel_size)


def _level(in_channels: int, channels: int, branches: Sequence[Branches]) -> nn.Sequential:
    widths = [in_channels, *(channels for _ in branches)]
    return nn.Sequential(
        *(SpatialSqueeze(a, b, pair, CrossBlock) for a, b, pair in zip(widths, widths[1:], branches, strict=False))
    )


class Encoder(nn.Module):
    """Image -> logits at 1/16, and the detail of 1/8 and 1/4 that the decoder wants."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        fine, coarse, coarsest = WIDTHS
        self.stem = conv_norm_prelu(in_channels, 16, 3, 2)
        self.down2 = SqueezedDown(16, num_classes)
        self.down3 = SqueezedDown(num_classes, AT8)
        self.level3 = _level(AT8, fine, LEVEL3)
        self.join3 = NormAct(fine + AT8)
        self.down4 = SqueezedDown(fine + AT8, fine, (fine + AT8) // 2)
        half = len(LEVEL4) // 2
        self.level4 = nn.Sequential(*_level(fine, coarse, LEVEL4[:half]), *_level(coarse, coarsest, LEVEL4[half:]))
        self.join4 = NormAct(coarsest + fine)
        self.classifier = init_classifier(nn.Conv2d(coarsest + fine, num_classes, 1, bias=False))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) -> logits (B, K, H/16, W/16), features (B, 60, H/8, W/8) and (B, K, H/4, W/4)"""
        x4 = self.down2(self.stem(image))
        x8 = self.down3(x4)
        fine = self.level3(x8)
        x16 = self.down4(self.join3(torch.cat([x8, fine], 1)))
        coarse = self.join4(torch.cat([x16, self.level4(x16)], 1))
        return self.classifier(coarse), fine, x4


class SINetStreet(SegmentationModel):
    """The whole network: the encoder, and the decoder that blocks information twice."""

    align_corners = True

    def __init__(self, *, num_classes: int = 19, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.encoder = Encoder(num_classes, in_channels)
        self.up8 = UpsampleNorm(num_classes, align_corners=False)
        self.detail = conv_norm_prelu(WIDTHS[0], num_classes, 1)
        self.up4 = UpsampleNorm(num_classes, align_corners=False)
        # few inputs: smaller weights would take long to grow
        last = nn.ConvTranspose2d(num_classes, num_classes, 2, 2, bias=False)
        self.classifier = init_classifier(last, std=0.5 / num_classes**0.5)
        self.set_objective(
            Term("logits", 1.0, CrossEntropy(), at="output"),
            Term("encoder", 0.25, CrossEntropy(), of=("encoder",), at="output"),
        )

    def _scores(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """-> logits at 1/2, and those of the encoder at 1/16"""
        coarse, fine, finest = self.encoder(image)
        x8 = self.up8(coarse, 2, fine.shape[-2:])
        x4 = self.up4(self.detail(fine) * doubt(x8) + x8, 2, finest.shape[-2:])
        return self.classifier(finest * doubt(x4) + x4), coarse

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H/2, W/2)"""
        return self._scores(image)[0]

    def forward(self, image: Tensor) -> Tensor:
        return upsample(self.logits(image), 2, image.shape[-2:])

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        logits, coarse = self._scores(image)
        return {"logits": logits, "encoder": coarse}


register(
    "sinet_street",
    SINetStreet,
    Card(
        paper=PAPER,
        parameters=0.12,
        flops=1.22,
        flops_size=(1024, 2048),
        num_classes=19,
        scores={"Cityscapes val mIoU": 68.22, "Cityscapes test mIoU": 66.46},
        limits={"flops": "the public network, this one, has 1.39, of which its transposed convolution is 0.19"},
        training={"learning_rate": 5e-3},  # all that it knows passes through as many channels as there are classes
    ),
)
