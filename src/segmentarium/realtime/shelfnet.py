"""ShelfNet: four columns that a feature may pass in many ways.

Four columns that a feature may pass in many ways: the backbone goes down, a decoder up, a second encoder down again and a
second decoder up, with additions between the columns at every level; 1×1 convolutions first cut the backbone's channels to
an eighth or half.  The S-block, a residual block whose two 3×3 convolutions share their weights and have batch norms of
their own, halves the parameters.

Two forms are public.  The real-time one (Cityscapes, ResNet-18 and -34) has levels at 1/8, 1/16 and 1/32, goes up by
attention, nearest-neighbour enlargement and a 3×3 convolution, and activates by leaky ReLU, also in the backbone (in-place
activated batch norm).  The other (PASCAL, ResNet-50 and -101, "LadderNet" in the code) starts at 1/4, goes up by transposed
convolutions, and learns which classes the image shows from the deepest map (semantic encoding loss).

What the code does and the paper does not say: the second encoder adds the finest decoder map twice; the ResNet-34 has no
1×1 reduction.  Odd sizes fail there; here an enlarged map takes the size of the one that it is added to.

Published: Cityscapes test 74.8 at 59.2 FPS (ShelfNet18, GTX 1080 Ti), 75.8 (ShelfNet34); PASCAL VOC 2012 test 82.8 and 84.2
(ShelfNet50 and 101, pretrained on COCO).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.contracts import SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct, use_leaky_relu
from segmentarium.layers.init import init_classifier, init_convs
from segmentarium.layers.pooling import PooledBatchNorm, global_average_pool
from segmentarium.layers.resize import resize
from segmentarium.layers.shared_conv import SharedConv
from segmentarium.losses import ClassPresence, CrossEntropy, OhemCrossEntropy
from segmentarium.registry import Card, Paper, register

Activation = Callable[[], nn.Module]
LEAKY: Activation = partial(nn.LeakyReLU, 0.01, inplace=True)
RELU: Activation = partial(nn.ReLU, inplace=True)

# He's draw for layers without a ReLU behind them
initialise = partial(init_convs, nonlinearity="leaky_relu", slope=1.0)


class SBlock(nn.Module):
    """One 3×3 convolution used twice, with a batch norm for each time, beside the identity (figure 3)."""

    def __init__(self, channels: int, act: Activation, dropout: float) -> None:
        super().__init__()
        self.conv = SharedConv(nn.Conv2d(channels, channels, 3, padding=1), 2)
        self.act = act()
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape"""
        y = self.conv(self.dropout(self.act(self.conv(x, 0))), 1)
        y += x
        return F.relu(y, inplace=True)


class AttentionUp(nn.Module):
    """Half the channels, weighted by their means; enlarged, plus the lateral map, 3×3 (real-time form)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_channels, out_channels, act=LEAKY)
        self.attention = ConvNormAct(out_channels, out_channels, 1, norm=PooledBatchNorm, act=nn.Sigmoid)
        self.fuse = ConvNormAct(out_channels, out_channels, act=LEAKY)

    def forward(self, x: Tensor, lateral: Tensor) -> Tensor:
        """(B, in_channels, h, w), lateral (B, out_channels, H, W) -> (B, out_channels, H, W)"""
        x = self.conv(x)
        x = x * self.attention(global_average_pool(x))
        return self.fuse(resize(x, lateral.shape[-2:], mode="nearest") + lateral)


class TransposedUp(nn.Module):
    """A transposed convolution to half the channels, plus the lateral map, S-block (PASCAL form)."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 3, 2, 1, output_padding=1)
        self.block = SBlock(out_channels, RELU, dropout)

    def forward(self, x: Tensor, lateral: Tensor) -> Tensor:
        """(B, in_channels, h, w), lateral (B, out_channels, H, W) -> (B, out_channels, H, W)"""
        height, width = lateral.shape[-2:]
        return self.block(self.conv(x)[..., :height, :width] + lateral)


class UpColumn(nn.Module):
    """From the coarsest map to the finest: columns two and four.  Channels and maps: finest first."""

    def __init__(self, channels: tuple[int, ...], up: Callable[[int, int], nn.Module], bottom: SBlock) -> None:
        super().__init__()
        self.bottom = bottom
        self.ups = nn.ModuleList(up(coarse, fine) for fine, coarse in reversed(list(itertools.pairwise(channels))))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[(B, channels[i], h_i, w_i), …], finest first -> the same shapes"""
        out = [self.bottom(maps[-1])]
        for up, lateral in zip(self.ups, reversed(maps[:-1]), strict=True):
            out.append(up(out[-1], lateral))
        return out[::-1]


class DownColumn(nn.Module):
    """From the finest map to the coarsest, adding those of the column before: column three."""

    def __init__(self, channels: tuple[int, ...], act: Activation, dropout: float) -> None:
        super().__init__()
        self.entry = SBlock(channels[0], act, dropout)
        self.blocks = nn.ModuleList(SBlock(width, act, dropout) for width in channels[:-1])
        self.strided = nn.ModuleList(
            ConvNormAct(fine, coarse, 3, 2, norm=None) for fine, coarse in itertools.pairwise(channels)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[(B, channels[i], h_i, w_i), …], finest first -> the same shapes"""
        x = self.entry(maps[0])
        out = []
        for lateral, block, strided in zip(maps[:-1], self.blocks, self.strided, strict=True):
            x = block(x + lateral)
            out.append(x)
            x = strided(x)
        return [*out, x]


class Shelf(nn.Module):
    """Columns two to four."""

    def __init__(
        self, channels: tuple[int, ...], up: Callable[[int, int], nn.Module], act: Activation, dropout: float
    ) -> None:
        super().__init__()
        self.decoder = UpColumn(channels, up, SBlock(channels[-1], act, dropout))
        self.encoder = DownColumn(channels, act, dropout)
        self.second_decoder = UpColumn(channels, up, SBlock(channels[-1], act, dropout))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[(B, channels[i], h_i, w_i), …], finest first -> the same shapes"""
        return self.second_decoder(self.encoder(self.decoder(maps)))


class Head(nn.Sequential):
    """Two 3×3 convolutions, the second one the classifier."""

    def __init__(self, in_channels: int, channels: int, num_classes: int) -> None:
        super().__init__(
            ConvNormAct(in_channels, channels, act=LEAKY), nn.Conv2d(channels, num_classes, 3, padding=1, bias=False)
        )
        initialise(self[0])
        init_classifier(self[1])


class ShelfNet(SegmentationModel):
    """The real-time form: levels at 1/8, 1/16, 1/32, each with a head; the finest one's logits are the answer.

    width       channels of the finest level, doubled from level to level; the backbone's maps are brought to them
    dropout     of the S-blocks
    """

    training_only = ("auxiliary",)
    align_corners = True

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        backbone: str | nn.Module = "resnet18",
        width: int = 64,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.backbone = create_backbone(backbone, in_channels=in_channels)
        self.preprocessing = self.backbone.preprocessing.for_channels(in_channels)
        use_leaky_relu(self.backbone)
        channels = (width, 2 * width, 4 * width)
        given = [self.backbone.channels[self.backbone.at(stride)] for stride in (8, 16, 32)]
        self.reductions = nn.ModuleList(
            nn.Identity() if has == wanted else ConvNormAct(has, wanted, 1, act=LEAKY)
            for has, wanted in zip(given, channels, strict=True)
        )
        self.shelf = Shelf(channels, AttentionUp, LEAKY, dropout)
        self.head = Head(width, width, num_classes)
        self.auxiliary = nn.ModuleDict(
            {"aux_16": Head(2 * width, 64, num_classes), "aux_32": Head(4 * width, 64, num_classes)}
        )
        self.set_objective(*(Term(name, 1.0, OhemCrossEntropy(), of=(name,)) for name in ("logits", *self.auxiliary)))
        initialise(self.reductions, self.shelf)

    def _maps(self, image: Tensor) -> list[Tensor]:
        features = self.backbone(image)
        strides = zip(self.reductions, (8, 16, 32), strict=True)
        return self.shelf([reduction(features[self.backbone.at(stride)]) for reduction, stride in strides])

    def logits(self, image: Tensor) -> Tensor:
        return self.head(self._maps(image)[0])

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        maps = self._maps(image)
        outputs = {"logits": self.head(maps[0])}
        return outputs | {name: head(x) for (name, head), x in zip(self.auxiliary.items(), maps[1:], strict=True)}


class ShelfNetPascal(SegmentationModel):
    """The form for PASCAL: levels at 1/4 to 1/32, an auxiliary head on the stage at 1/16, and class presence.

    width       channels of the finest level, doubled from level to level
    dropout     of the S-blocks
    auxiliary   with the two heads that only training uses
    """

    training_only = ("auxiliary", "presence")
    align_corners = True

    def __init__(
        self,
        *,
        num_classes: int = 21,
        in_channels: int = 3,
        backbone: str | nn.Module = "resnet50",
        width: int = 64,
        dropout: float = 0.25,
        auxiliary: bool = True,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.backbone = create_backbone(backbone, in_channels=in_channels)
        self.preprocessing = self.backbone.preprocessing.for_channels(in_channels)
        channels = (width, 2 * width, 4 * width, 8 * width)
        given = [self.backbone.channels[self.backbone.at(stride)] for stride in (4, 8, 16, 32)]
        self.reductions = nn.ModuleList(
            ConvNormAct(has, wanted, 1) for has, wanted in zip(given, channels, strict=True)
        )
        self.shelf = Shelf(channels, partial(TransposedUp, dropout=dropout), RELU, dropout)
        self.classifier = init_classifier(nn.Conv2d(width, num_classes, 1))
        self.presence, self.auxiliary = None, None
        objective = [Term("logits", 1.0, CrossEntropy())]
        if auxiliary:
            self.presence = init_classifier(nn.Linear(channels[-1], num_classes))
            hidden = given[2] // 4
            self.auxiliary = nn.Sequential(
                ConvNormAct(given[2], hidden), nn.Dropout2d(0.1), init_classifier(nn.Conv2d(hidden, num_classes, 1))
            )
            initialise(self.auxiliary[0])
            objective += [
                Term("aux_16", 0.5, CrossEntropy(), of=("aux_16",)),
                Term("presence", 0.2, ClassPresence(), of=("presence",), at="as is", classes=False),
            ]
        self.set_objective(*objective)
        initialise(self.reductions, self.shelf)

    def _features(self, image: Tensor) -> list[Tensor]:
        features = self.backbone(image)
        return [features[self.backbone.at(stride)] for stride in (4, 8, 16, 32)]

    def _maps(self, features: list[Tensor]) -> list[Tensor]:
        return self.shelf([reduction(x) for reduction, x in zip(self.reductions, features, strict=True)])

    def logits(self, image: Tensor) -> Tensor:
        return self.classifier(self._maps(self._features(image))[0])

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        features = self._features(image)
        maps = self._maps(features)
        outputs = {"logits": self.classifier(maps[0])}
        if self.auxiliary is not None and self.presence is not None:
            outputs["aux_16"] = self.auxiliary(features[2])
            outputs["presence"] = self.presence(maps[-1].amax((2, 3)))  # (B, K)
        return outputs


PAPER = Paper(
    title="ShelfNet for Fast Semantic Segmentation",
    authors="Zhuang, Yang, Gu, Dvornek",
    venue="ICCV workshops",
    year=2019,
    url="https://arxiv.org/abs/1811.11254",
    code="https://github.com/juntang-zhuang/ShelfNet",
    code_licence="MIT (on the branches citys and pascal)",
)
TEST, VOC = "Cityscapes test mIoU", "VOC 2012 test mIoU (COCO pretraining)"

# parameters and multiply-adds as counted in the public code
register(
    "shelfnet18",
    ShelfNet,
    Card(
        paper=PAPER,
        parameters=14.60,
        flops=24.68,
        flops_size=(512, 1024),
        num_classes=19,
        scores={TEST: 74.8},
    ),
)
register(
    "shelfnet34",
    ShelfNet,
    Card(paper=PAPER, parameters=33.75, flops=60.2, flops_size=(512, 1024), num_classes=19, scores={TEST: 75.8}),
    backbone="resnet34",
    width=128,
    dropout=0.0,
)
register("shelfnet50", ShelfNetPascal, Card(paper=PAPER, num_classes=21, scores={VOC: 82.8}))
register("shelfnet101", ShelfNetPascal, Card(paper=PAPER, num_classes=21, scores={VOC: 84.2}), backbone="resnet101")
