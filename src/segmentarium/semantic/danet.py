"""DANet: a pixel asks all other pixels, and a channel all other channels.

Weights of the authors' code (MIT) and of mmsegmentation (Apache-2.0) load.

Two branches stand on the deepest feature, each between two 3×3 convolutions.  Position attention adds to each pixel what the
similar ones have, however far away; channel attention adds to each channel what others respond to.  Their sum is classified,
and in training each branch alone, too: three losses of equal weight.

What the public code does and the paper does not say: queries and keys have an eighth of the channels, and their products are
not scaled; the softmax of channels is that of the *negated* products, so that a channel looks at those unlike itself.
`danet` is the authors' network: the plain ResNet-101 whose last stage has the dilations 4, 8 and 16, corners aligned, no
auxiliary head.  `danet_resnet50` and `danet_resnet101` are mmsegmentation's: a deep stem, no multigrid, corners not aligned (its
models for 769×769 align them), an auxiliary head with 0.4.  mmsegmentation divides its cross entropy by all pixels, ignored
ones too; here they count nowhere (`losses.CrossEntropy(average="all")` is its way).
What we change: the scores of all pairs of pixels never stand in memory; channel attention and its shortcut are one product of
C×C and C×HW, and C×C is computed in float32; in `deploy()` queries, keys, values and γ are one layer.

Published: Cityscapes test 81.5 (abstract), val 79.93 (authors' weights, single scale, ResNet-101); mmsegmentation, single
scale, ResNet-50/101: Cityscapes 79.34/80.41, ADE20K (160k) 42.45/44.17, VOC 2012 aug (40k) 76.37/76.51.
Recipes: the authors', Cityscapes: SGD 0.9, rate 0.01 at 8 pictures a step, decay 1e-4, poly, 180 epochs.  mmsegmentation's: SGD
0.9, rate 0.01, decay 5e-4, poly 0.9 down to 1e-4, scales 0.5 to 2, flips, photometric distortion; ADE20K 512×512, 16 a step, 80k
or 160k steps; Cityscapes 512×1024, 8 a step, 40k or 80k; VOC aug 512×512, 16 a step, 20k or 40k.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmentarium.composition import register_decoder, register_mmsegmentation
from segmentarium.contracts import Decoder, Term
from segmentarium.layers.attention import attend_bounded
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.gated_attention import GatedAttention
from segmentarium.layers.init import init_classifier
from segmentarium.layers.norm import channels_first, channels_last
from segmentarium.layers.precision import autocast_off
from segmentarium.losses import CrossEntropy
from segmentarium.registry import Card, Paper


class PositionAttention(GatedAttention):
    """Each place sees all places (section 3.2)."""

    def look(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen = attend_bounded(query.flatten(1, 2), key.flatten(1, 2), value.flatten(1, 2))
        return seen.unflatten(1, query.shape[1:3])


class ChannelAttention(nn.Module):
    """x + γ · what each channel sees of the others (section 3.3): a C×C softmax of what they do not share, γ at first 0."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape"""
        places = channels_last(x).flatten(1, 2)
        with autocast_off(x.device):  # sums over all places
            exact = places.to(torch.promote_types(x.dtype, torch.float32))
            weights = (-exact.transpose(1, 2) @ exact).softmax(-1)
            # the shortcut is the identity beside the weights
            mixed = self.gamma * weights + torch.eye(x.shape[1], device=x.device, dtype=weights.dtype)
        return channels_first((places @ mixed.to(x.dtype).transpose(1, 2)).unflatten(1, x.shape[-2:]))


class DADecoder(Decoder):
    """Both attentions on the deepest feature, their sum classified: logits at the deepest stride.

    width               channels of both branches; None: a quarter of the feature's
    attention_channels  of queries and keys of the positions; None: an eighth of `width`
    align_corners       in the resize to the image's size
    """

    prefers_output_stride = 8
    training_only = ("position_classifier", "channel_classifier")

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int | None = None,
        attention_channels: int | None = None,
        align_corners: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        inputs = channels[-1]
        width = width or inputs // 4
        self.position_in = ConvNormAct(inputs, width)
        self.position = PositionAttention(width, attention_channels)
        self.position_out = ConvNormAct(width, width)
        self.channel_in = ConvNormAct(inputs, width)
        self.channel = ChannelAttention()
        self.channel_out = ConvNormAct(width, width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier, self.position_classifier, self.channel_classifier = (
            init_classifier(nn.Conv2d(width, num_classes, 1)) for _ in range(3)
        )

    def _branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        position = self.position_out(self.position(self.position_in(x)))
        return position, self.channel_out(self.channel(self.channel_in(x)))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[(B, channels[i], h_i, w_i), …] -> (B, K, h, w) at the deepest stride"""
        position, channel = self._branches(features[-1])
        return self.classifier(self.dropout(position + channel))

    def forward_train(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        position, channel = self._branches(features[-1])
        return {
            "logits": self.classifier(self.dropout(position + channel)),
            "position": self.position_classifier(self.dropout(position)),
            "channel": self.channel_classifier(self.dropout(channel)),
        }

    def objective(self) -> tuple[Term, ...]:
        return tuple(Term(name, 1.0, CrossEntropy(), of=(name,)) for name in ("logits", "position", "channel"))


PAPER = Paper(
    title="Dual Attention Network for Scene Segmentation",
    authors="Fu, Liu, Tian, Li, Bao, Fang, Lu",
    venue="CVPR",
    year=2019,
    url="https://arxiv.org/abs/1809.02983",
    code="https://github.com/junfu1115/DANet",
    code_licence="MIT",
)
register_decoder(
    "danet",
    DADecoder,
    Card(paper=PAPER, num_classes=19, scores={"Cityscapes val mIoU": 79.93}),
    backbone="resnet101",
    backbone_arguments={"multigrid": (4, 8, 16)},
)
# parameters in millions as counted in mmsegmentation's code
register_mmsegmentation(
    DADecoder,
    PAPER,
    {
        "danet_resnet50": (50, 49.85, 79.34, 42.45),
        "danet_resnet101": (101, 68.84, 80.41, 44.17),
    },
    align_corners=False,
    auxiliary=True,
)
