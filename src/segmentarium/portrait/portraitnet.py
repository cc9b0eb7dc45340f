"""PortraitNet: a U-shape on MobileNetV2 for mobile devices.

Nothing of the authors' code, which states no licence, is here, but its weights load.

A U-shape on MobileNetV2: each D-block is a residual block of separable convolutions and a transposed convolution.  Two
things help in training only: a head that draws the boundary, under a focal loss since few pixels lie on it, and a
consistency term, by which a copy of the image in other light must give what the image gives.

What the authors' code does and we follow: ReLU instead of MobileNetV2's ReLU6, an expanding convolution in the first
block too, no feature of 1/2 in the decoder, no gradient through the focal loss's factor, nor to the consistency's teacher.
What we change:
- any size, not only multiples of 32: what a transposed convolution has too much is cut off;
- the transposed convolutions start as bilinear upsampling of each channel; the code copies the kernel into every pair of
  channels, so that all channels of the result are one;
- the boundary is the band of 4 pixels of a morphological gradient; the code draws contours with a line of that thickness;
- the copy in other light is made on the device, from the batch, inside `forward_train`.

Published: EG1800 mean IoU 96.62 with 2.1 M parameters, from an encoder trained on ImageNet, at 224×224.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.checks import check_choice
from segmentarium.contracts import Preprocessing, SegmentationModel, Term
from segmentarium.labels import IGNORE_INDEX
from segmentarium.layers.conv import ConvNormAct, SeparableConv
from segmentarium.layers.init import init_classifier, init_convs
from segmentarium.layers.inverted_residual import InvertedResidual
from segmentarium.layers.resize import resize
from segmentarium.layers.strided import Upconv
from segmentarium.losses import CrossEntropy, PixelLoss
from segmentarium.losses.base import pixel_cross_entropy, safe_divide
from segmentarium.losses.boundary_band import boundary_band
from segmentarium.losses.consistency import Consistency
from segmentarium.registry import Card, Paper, register

# expansion, channels, blocks, stride; MobileNetV2's table without its last convolution
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
SKIPPED = (1, 2, 4)  # the stages whose features, at 1/4, 1/8 and 1/16, the decoder takes
WIDTHS = (96, 32, 24, 16, 8)  # of the D-blocks, from 1/32 to the image's size
PREPROCESSING = Preprocessing((123.68 / 255, 116.78 / 255, 103.94 / 255), (1 / (0.017 * 255),) * 3)


class Encoder(nn.Module):
    """MobileNetV2, on which the U-shape stands, with ReLU for ReLU6 and an expanding convolution at every expansion."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.stem = ConvNormAct(in_channels, 32, 3, 2)
        stages, inputs = [], 32
        for expansion, channels, blocks, stride in STAGES:
            stage = nn.Sequential()
            for i in range(blocks):
                step = 1 if i else stride
                stage.append(InvertedResidual(inputs, channels, expansion, step, act=nn.ReLU, expand=True))
                inputs = channels
            stages.append(stage)
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> features at 1/2, 1/4, 1/8, 1/16 and 1/32, of 32, 24, 32, 96 and 320 channels"""
        x = self.stem(image)
        features = [x]
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in SKIPPED:
                features.append(x)
        return [*features, x]


class DBlock(nn.Module):
    """Two separable convolutions beside a projection, then to twice the size (figure 3)."""

    def __init__(self, in_channels: int, channels: int, upsample: Literal["deconv", "bilinear"]) -> None:
        super().__init__()
        self.convs = nn.Sequential(SeparableConv(in_channels, channels), SeparableConv(channels, channels, act=None))
        self.shortcut = ConvNormAct(in_channels, channels, 1, act=None)
        self.up = Upconv(channels, channels, 4, 2, 1, bias=False) if upsample == "deconv" else None

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, in_channels, h, w) -> (B, channels, *size), size within a pixel of (2h, 2w)"""
        x = F.relu(self.convs(x) + self.shortcut(x))
        return resize(x, size) if self.up is None else self.up(x, size)


class TextureEnhancement(nn.Module):
    """In training, the picture in other light: brightness, contrast, sharpness and noise, drawn for each image anew.

    brightness, contrast, sharpness   ranges of the factors: 0 is black, the mean grey, a smoothed picture; 1 changes nothing
    noise                             standard deviation of values in [0, 1]
    """

    def __init__(
        self,
        brightness: tuple[float, float] = (0.4, 1.7),
        contrast: tuple[float, float] = (0.6, 1.5),
        sharpness: tuple[float, float] = (0.8, 1.3),
        noise: float = 10 / 255,
    ) -> None:
        super().__init__()
        self.brightness, self.contrast, self.sharpness, self.noise = brightness, contrast, sharpness, noise

    def forward(self, image: Tensor, preprocessing: Preprocessing) -> Tensor:
        """image (B, C, H, W), normalised by `preprocessing` -> the same, in other light"""
        if not self.training:
            return image
        mean = torch.tensor(preprocessing.mean, device=image.device).view(-1, 1, 1)
        std = torch.tensor(preprocessing.std, device=image.device).view(-1, 1, 1)
        x = image.float() * std + mean

        def factor(bounds: tuple[float, float]) -> Tensor:
            return torch.empty(len(x), 1, 1, 1, device=x.device).uniform_(*bounds)

        x = (x * factor(self.brightness)).clamp(0, 1)
        grey = x.mean((1, 2, 3), keepdim=True)
        x = (grey + (x - grey) * factor(self.contrast)).clamp(0, 1)
        # the eight neighbours once and the pixel five times, as Pillow smooths
        smooth = (9 * F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) + 4 * x) / 13
        x = smooth + (x - smooth) * factor(self.sharpness)
        x = (x + self.noise * torch.randn_like(x)).clamp(0, 1)
        return ((x - mean) / std).to(image.dtype)


class BoundaryFocal(PixelLoss):
    """Focal loss of "on the boundary" and "not", logits (B, 2, H, W), of any label map; its factor takes no gradient.

    size   of the window that must see two labels: 5 makes a band of 4 pixels
    """

    def __init__(self, gamma: float = 2.0, size: int = 5, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__(None, ignore_index)
        self.gamma = gamma
        self.size = size

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """(B, 2, H, W) and labels (B, H, W) of any classes -> float32 scalar"""
        return super().forward(logits, self.edges(target))

    def edges(self, target: Tensor) -> Tensor:
        """int64 (B, H, W): 1 on the boundary, 0 off it, ignored pixels as they are."""
        edges = boundary_band(target, self.size, self.ignore_index).long()
        return edges.masked_fill(target == self.ignore_index, self.ignore_index)

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        loss = pixel_cross_entropy(logits, labels, valid)
        focus = (-torch.expm1(-loss.detach())).pow(self.gamma)
        return safe_divide((focus * loss).sum(), valid.sum())


class PortraitNet(SegmentationModel):
    """The whole network.

    upsample   "deconv", transposed convolutions, or "bilinear"
    boundary   the second head, which only training uses
    """

    training_only = ("boundary_head", "enhance")

    def __init__(
        self,
        *,
        num_classes: int = 2,
        in_channels: int = 3,
        upsample: Literal["deconv", "bilinear"] = "deconv",
        boundary: bool = True,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        check_choice("upsample", upsample, ("deconv", "bilinear"))
        self.encoder = Encoder(in_channels)
        inputs = (STAGES[-1][1], *WIDTHS[:-1])
        self.decoder = nn.ModuleList(DBlock(a, b, upsample) for a, b in zip(inputs, WIDTHS, strict=True))
        self.mask_head = nn.Conv2d(WIDTHS[-1], num_classes, 3, padding=1, bias=False)
        self.boundary_head = nn.Conv2d(WIDTHS[-1], 2, 3, padding=1, bias=False) if boundary else None
        self.enhance = TextureEnhancement()
        self.preprocessing = PREPROCESSING.for_channels(in_channels)
        terms = [
            Term("logits", 1.0, CrossEntropy()),
            Term("original", 1.0, CrossEntropy(), of=("original",)),
            Term("consistency", 2.0, Consistency(), of=("logits", "original"), classes=False),
        ]
        if boundary:
            terms.append(Term("boundary", 0.1, BoundaryFocal(), of=("boundary",), classes=False))
        self.set_objective(*terms)
        self._initialise()

    def _initialise(self) -> None:
        init_convs(self)
        for head in (self.mask_head, self.boundary_head):
            if head is not None:
                init_classifier(head)
        for module in self.modules():
            if isinstance(module, Upconv):
                slope = torch.tensor([0.25, 0.75, 0.75, 0.25], device="cpu")  # wherever the network is built
                kernel = slope.outer(slope)
                identity = torch.eye(module.in_channels, device="cpu")[:, :, None, None]
                with torch.no_grad():
                    module.weight.copy_(identity * kernel)

    def _decode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 8, H, W)"""
        x2, x4, x8, x16, x32 = self.encoder(image)
        x = x32
        for block, skip in zip(self.decoder, (x16, x8, x4, x2, image), strict=True):
            x = block(x, (skip.shape[-2], skip.shape[-1]))
            if skip is not x2 and skip is not image:
                x = x + skip
        return x

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H, W)"""
        return self.mask_head(self._decode(image))

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        """ "logits" and "boundary" are of the copy in other light, "original" of the image itself."""
        features = self._decode(self.enhance(image, self.preprocessing))
        outputs = {"logits": self.mask_head(features), "original": self.logits(image)}
        if self.boundary_head is not None:
            outputs["boundary"] = self.boundary_head(features)
        return outputs


PAPER = Paper(
    title="PortraitNet: Real-time Portrait Segmentation Network for Mobile Device",
    authors="Zhang, Dong, Li, Li, Yang",
    venue="Computers & Graphics",
    year=2019,
    url="https://doi.org/10.1016/j.cag.2019.03.007",
    code="https://github.com/dong-x16/PortraitNet",
    code_licence="none stated",
)

register(
    "portraitnet", PortraitNet, Card(paper=PAPER, parameters=2.08, num_classes=2, scores={"EG1800 mean IoU": 96.62})
)
