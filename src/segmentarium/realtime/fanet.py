"""FANet: attention whose cost grows with the pixels, not with their square.

Self-attention with cosine similarity instead of a softmax: query and key are normalised to length one, so the product can be
taken as query · (keyᵀ · value), whose cost grows with the number of pixels and not with its square.  Cheap enough for every
level of a U-shaped network.  And an extra spatial reduction: the ResNet's first stage is strided too, so that attention
works at 1/8 to 1/64.

What the code does: the product is not divided by the number of pixels; activations are leaky (in-place activated batch
norm), also in the backbone, but for those after a residual sum; the 1×1 convolutions on the way up pad by one pixel; the
classifier has no bias.  The public modules own convolutions that they never use; here they are left out.

Published: Cityscapes test 74.4 at 72 FPS (FANet-18), 75.5 at 58 FPS (FANet-34; Titan X, 2048×1024); CamVid 69.0 (FANet-18).
"""

from __future__ import annotations

import itertools
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.contracts import SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct, use_leaky_relu
from segmentarium.layers.init import init_classifier
from segmentarium.layers.resize import resize
from segmentarium.losses import OhemCrossEntropy
from segmentarium.registry import Card, Paper, register

LeakyConv = partial(ConvNormAct, act=partial(nn.LeakyReLU, 0.01, inplace=True))


class FastAttention(nn.Module):
    """Linear attention by cosine similarity, and the residual (figure 3a).

    keys    channels of query and key
    """

    def __init__(self, channels: int, keys: int = 32) -> None:
        super().__init__()
        self.query = ConvNormAct(channels, keys, 1, act=None)
        self.key = ConvNormAct(channels, keys, 1, act=None)
        self.value = LeakyConv(channels, channels, 1)
        self.project = LeakyConv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape"""
        query = F.normalize(self.query(x), dim=1).flatten(2)  # (B, D, N)
        key = F.normalize(self.key(x), dim=1).flatten(2)
        value = self.value(x).flatten(2)  # (B, C, N)
        # pixels before channels: a convolution in channels-last takes the product as it lies
        y = query.transpose(1, 2) @ (key @ value.transpose(1, 2))  # (B, N, C)
        return self.project(y.transpose(1, 2).unflatten(2, x.shape[-2:])) + x


class Level(nn.Module):
    """Attention, and the coarser level added; on to the finer one by `up`, to the output by `smooth` (figure 3b)."""

    def __init__(self, channels: int, *, up: bool, smooth: bool) -> None:
        super().__init__()
        self.attention = FastAttention(channels)
        self.up = LeakyConv(channels, channels // 2, 1, padding=1) if up else None
        self.smooth = LeakyConv(channels, 128) if smooth else None

    def forward(self, x: Tensor, coarser: Tensor | None) -> Tensor:
        """(B, channels, H, W), what the coarser level's `up` gives -> (B, channels, H, W)"""
        y = self.attention(x)
        return y if coarser is None else y + resize(coarser, x.shape[-2:], align_corners=True)


class Head(nn.Sequential):
    """3×3 convolution and classifier, without a bias."""

    def __init__(self, in_channels: int, channels: int, num_classes: int) -> None:
        super().__init__(LeakyConv(in_channels, channels), nn.Conv2d(channels, num_classes, 1, bias=False))
        init_classifier(self[1])


class FANet(SegmentationModel):
    """The whole network.

    backbone    a ResNet ("resnet18", "resnet34", …), whose first stage is strided here; or a module with four features
    auxiliary   with the two heads that only training uses
    """

    training_only = ("auxiliary",)
    align_corners = True

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        backbone: str | nn.Module = "resnet18",
        auxiliary: bool = True,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        extra = {"first_stride": 2} if isinstance(backbone, str) and backbone.startswith("resnet") else {}
        self.backbone = create_backbone(backbone, in_channels=in_channels, **extra)
        self.preprocessing = self.backbone.preprocessing.for_channels(in_channels)
        use_leaky_relu(self.backbone)
        given = self.backbone.channels[-4:]
        if len(given) < 4 or any(coarse != 2 * fine for fine, coarse in itertools.pairwise(given)):
            raise ValueError(
                f"{type(self.backbone).__name__}'s features have {self.backbone.channels} channels; "
                "FANet needs four features, each with twice the channels of the one before"
            )
        # the public code's names are the strides without the extra reduction: level4 lies at 1/8
        self.level4 = Level(given[0], up=False, smooth=True)
        self.level8 = Level(given[1], up=True, smooth=False)
        self.level16 = Level(given[2], up=True, smooth=True)
        self.level32 = Level(given[3], up=True, smooth=False)
        self.head = Head(256, 256, num_classes)
        self.auxiliary = nn.ModuleDict()
        if auxiliary:
            self.auxiliary["aux_32"] = nn.Sequential(LeakyConv(given[3], 128), Head(128, 64, num_classes))
            self.auxiliary["aux_16"] = Head(128, 64, num_classes)
        self.set_objective(
            Term("logits", 1.0, OhemCrossEntropy()),
            *(Term(name, 0.5, OhemCrossEntropy(), of=(name,)) for name in self.auxiliary),
        )

    def _maps(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> the finest smoothed map, the smoothed map of level16, and level32's before smoothing"""
        x4, x8, x16, x32 = self.backbone(image)[-4:]
        y32 = self.level32(x32, None)
        y16 = self.level16(x16, self.level32.up(y32))  # type: ignore[misc]
        y8 = self.level8(x8, self.level16.up(y16))  # type: ignore[misc]
        y4 = self.level4(x4, self.level8.up(y8))  # type: ignore[misc]
        return self.level4.smooth(y4), self.level16.smooth(y16), y32  # type: ignore[misc]

    def _classify(self, fine: Tensor, coarse: Tensor) -> Tensor:
        return self.head(torch.cat([resize(coarse, fine.shape[-2:], align_corners=True), fine], 1))

    def logits(self, image: Tensor) -> Tensor:
        return self._classify(*self._maps(image)[:2])

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        fine, coarse, deep = self._maps(image)
        inputs = {"aux_32": deep, "aux_16": coarse}
        return {"logits": self._classify(fine, coarse)} | {
            name: head(inputs[name]) for name, head in self.auxiliary.items()
        }


PAPER = Paper(
    title="Real-time Semantic Segmentation with Fast Attention",
    authors="Hu, Perazzi, Heilbron, Wang, Lin, Saenko, Sclaroff",
    venue="RA-L",
    year=2021,
    url="https://arxiv.org/abs/2007.03815",
    code="https://github.com/feinanshan/FANet",
    code_licence="MIT",
)

SCORES = {"Cityscapes test mIoU": 74.4, "CamVid test mIoU": 69.0}

# parameters and multiply-adds as counted in the public code
register(
    "fanet18",
    FANet,
    Card(
        paper=PAPER,
        parameters=13.82,
        parameters_of="training",
        flops=11.85,
        flops_size=(512, 1024),
        num_classes=19,
        scores=SCORES,
    ),
)
register(
    "fanet34",
    FANet,
    Card(
        paper=PAPER,
        parameters=23.93,
        parameters_of="training",
        flops=16.69,
        flops_size=(512, 1024),
        num_classes=19,
        scores={"Cityscapes test mIoU": 75.5},
    ),
    backbone="resnet34",
)
