"""ERFNet: residual blocks of factorised convolutions.

Weights of the authors' code and of mmsegmentation (Apache-2.0) load.

A residual block of 3×3 convolutions, each of them factorised into 3×1 and 1×3 with a ReLU between: the non-bottleneck-1D.
That saves a third of the work and of the weights, and what is saved buys width.  Stacked at 1/4 and, dilated, at 1/8;
a small decoder of transposed convolutions and the same blocks brings the classes back.

The encoder is trained first, with a classifier of its own at 1/8 on labels of that size (`erfnet_encoder`; the paper also
does so on ImageNet), then the whole network, starting from that encoder: `create_model("erfnet", weights=...)` takes the
file of the first stage.  Classes are weighted by 1 / ln(c + p), p the share of a class's pixels; the numbers in the authors'
code are those of c = 1.10, and of 1.2 for the encoder.

What the authors' code does and the paper does not say: batch norm has eps 1e-3 and dropout, of channels, is 0.3 in the
deep blocks and 0.03 in the first five.  mmsegmentation classifies at 1/2 behind a further 3×3 convolution (`head_channels`)
instead of by a transposed one, and its images are normalised as for ImageNet's networks.  What we change: their sides must be
multiples of 8, ours may be any; a part of a pooling window counts, and what the decoder gives beyond the image is cut off.

Published: Cityscapes val 70.0 and test 68.0 class mIoU from scratch (test 69.7 with the encoder from ImageNet), 83 FPS at
640×360 on a Titan X; 2.06 M parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.contracts import Preprocessing, SegmentationModel, Term
from segmentarium.layers.init import init_classifier
from segmentarium.layers.strided import ConvPool, Upconv
from segmentarium.losses import CrossEntropy
from segmentarium.realtime.bisenet import Head
from segmentarium.registry import Card, Paper, register

EPS = 1e-3


class NonBottleneck1D(nn.Module):
    """Two factorised 3×3 convolutions around a shortcut, the second one dilated (figure 2c)."""

    def __init__(self, channels: int, dropout: float = 0.0, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = self._factorised(channels, 1)
        self.norm1 = nn.BatchNorm2d(channels, EPS)
        self.conv2 = self._factorised(channels, dilation)
        self.norm2 = nn.BatchNorm2d(channels, EPS)
        self.dropout = nn.Dropout2d(dropout)

    @staticmethod
    def _factorised(channels: int, dilation: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=dilation),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=dilation),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape"""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.dropout(self.norm2(self.conv2(y)))  # used by nothing else, so that the sum may take its place
        return F.relu(y.add_(x), inplace=True)


class Upsampler(nn.Module):
    """A transposed 3×3 convolution of stride 2, norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = Upconv(in_channels, out_channels, 3, 2, 1, output_padding=1)
        self.norm = nn.BatchNorm2d(out_channels, EPS)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, *size)"""
        return F.relu(self.norm(self.up(x, size)), inplace=True)


class Encoder(nn.Module):
    """Layers 1 to 16 of table 1."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.down1 = ConvPool(in_channels, 16, bias=True, eps=EPS)
        self.down2 = ConvPool(16, 64, bias=True, eps=EPS)
        self.stage2 = nn.Sequential(*(NonBottleneck1D(64, 0.03) for _ in range(5)))
        self.down3 = ConvPool(64, 128, bias=True, eps=EPS)
        self.stage3 = nn.Sequential(*(NonBottleneck1D(128, 0.3, dilation) for dilation in 2 * (2, 4, 8, 16)))

    def forward(self, image: Tensor) -> tuple[Tensor, torch.Size, torch.Size]:
        """(B, C, H, W) -> (B, 128, H/8, W/8), and the sizes at 1/2 and 1/4"""
        x2 = self.down1(image)
        x4 = self.stage2(self.down2(x2))
        return self.stage3(self.down3(x4)), x2.shape[-2:], x4.shape[-2:]


class ERFNetEncoder(SegmentationModel):
    """The first stage of training: the encoder with a classifier at 1/8, on labels of that size."""

    def __init__(self, *, num_classes: int = 19, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.encoder = Encoder(in_channels)
        self.encoder_head = init_classifier(nn.Conv2d(128, num_classes, 1))
        self.preprocessing = _unit_range(in_channels)
        self.set_objective(Term("logits", 1.0, CrossEntropy(), at="output"))

    def logits(self, image: Tensor) -> Tensor:
        return self.encoder_head(self.encoder(image)[0])


class ERFNet(SegmentationModel):
    """The whole network.

    encoder_head    keep the first stage's classifier, as the authors' weights do, and train it along (output "encoder")
    head_channels   classes are told at 1/2 behind a 3×3 convolution of so many channels, as in mmsegmentation; None: by a
                    transposed convolution, the paper's
    """

    training_only = ("encoder_head",)
    first_stage: ClassVar[tuple[str, str]] = ("erfnet_encoder", "encoder.")

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        encoder_head: bool = False,
        head_channels: int | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.encoder = Encoder(in_channels)
        self.up1 = Upsampler(128, 64)
        self.stage4 = nn.Sequential(NonBottleneck1D(64), NonBottleneck1D(64))
        self.up2 = Upsampler(64, 16)
        self.stage5 = nn.Sequential(NonBottleneck1D(16), NonBottleneck1D(16))
        self.classifier = (
            init_classifier(Upconv(16, num_classes, 2, 2))
            if head_channels is None
            else Head(16, head_channels, num_classes)
        )
        self.encoder_head = init_classifier(nn.Conv2d(128, num_classes, 1)) if encoder_head else None
        self.preprocessing = _unit_range(in_channels)
        objective = [Term("logits", 1.0, CrossEntropy())]
        if encoder_head:
            objective.append(Term("encoder", 1.0, CrossEntropy(), of=("encoder",), at="output"))
        self.set_objective(*objective)

    def _decode(self, image: Tensor, x8: Tensor, size2: torch.Size, size4: torch.Size) -> Tensor:
        """-> the logits: at the image's size, or at 1/2 of it"""
        x = self.stage5(self.up2(self.stage4(self.up1(x8, size4)), size2))
        return self.classifier(x) if isinstance(self.classifier, Head) else self.classifier(x, image.shape[-2:])

    def logits(self, image: Tensor) -> Tensor:
        return self._decode(image, *self.encoder(image))

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) if isinstance(self.classifier, Head) else self.logits(image)

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        encoded = self.encoder(image)
        outputs = {"logits": self._decode(image, *encoded)}
        return outputs if self.encoder_head is None else outputs | {"encoder": self.encoder_head(encoded[0])}


def _unit_range(in_channels: int) -> Preprocessing:
    """The authors' images are in [0, 1], neither centred nor scaled."""
    return Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).for_channels(in_channels)


PAPER = Paper(
    title="ERFNet: Efficient Residual Factorized ConvNet for Real-Time Semantic Segmentation",
    authors="Romera, Álvarez, Bergasa, Arroyo",
    venue="IEEE Transactions on Intelligent Transportation Systems",
    year=2018,
    url="https://doi.org/10.1109/TITS.2017.2750080",
    code="https://github.com/Eromera/erfnet_pytorch",
    code_licence="CC BY-NC 4.0",
)
SCORES = {"Cityscapes val mIoU": 70.0, "Cityscapes test mIoU": 68.0, "Cityscapes test mIoU (ImageNet encoder)": 69.7}


register("erfnet", ERFNet, Card(paper=PAPER, parameters=2.06, num_classes=20, scores=SCORES))
register("erfnet_encoder", ERFNetEncoder, Card(paper=PAPER, num_classes=20))
