"""CCNet: a pixel asks its row and its column, and then once more.

Weights of the authors' code (MIT) and of mmsegmentation (Apache-2.0) load.

Criss-cross attention compares a pixel with the H + W - 1 others of its row and column instead of all H·W.  The same layer, with
the same weights, is applied again: what the first pass brought to the crossings of rows and columns the second one brings to
every pixel.  Three passes gain little more.

What the public code does and the paper does not say: the pixel itself is in its row and in its column; in the column it is left
out, by minus infinity before the one softmax over both.  Products are not scaled.  `ccnet` is the authors' network: a ResNet
with a wide deep stem, the head's activations leaky (0.01) as their in-place norm has them by default, images blue first and
not scaled; its pooling rounds up, which at the sides it was trained at (769) is the same.  Their auxiliary head is twice as
wide as ours and has a bias in front of its norm; it is not loaded.  `ccnet_resnet50` and `ccnet_resnet101` are
mmsegmentation's: narrower stem, ReLU.  What it counts of ignored pixels: semantic/danet.py.
What we change: in `deploy()` queries, keys, values and γ are one layer.

`consistent=True` adds the journal version's category-consistent loss on the attention's result, for which there is no public
code (losses/category_consistency.py); `ccnet_v2` has it.  The feature it takes, 16 channels made by a 1×1 convolution that only
training has, is our reading.

Published: Cityscapes val, R101: 75.1 without attention, 78.0, 79.8 and 80.2 with one, two and three passes, 80.5 with two and
the loss (journal); the authors' weights 77.91 (R=1), 79.74 (R=2), 80.0 (R=2, OHEM), single scale; ADE20K 45.76 (journal).
mmsegmentation, single scale, ResNet-50/101: Cityscapes 79.03/78.87, ADE20K (160k) 42.08/43.71, VOC 2012 aug (40k) 75.96/77.87.
Two passes cost 16.5 GFLOPs and 127 MB where a non-local block costs 108 and 1411 (journal).
Recipes: the authors', Cityscapes: SGD 0.9, rate 0.01, poly 0.9, decay 1e-4, 60,000 steps of 8 crops of 769×769, cross entropy or
OHEM (0.7, 100,000 kept), auxiliary 0.4.  mmsegmentation's as its DANet's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmentarium.composition import register_decoder, register_mmsegmentation
from segmentarium.contracts import Decoder, Term
from segmentarium.layers.conv import ConvNormAct, use_leaky_relu
from segmentarium.layers.gated_attention import GatedAttention
from segmentarium.layers.init import init_classifier
from segmentarium.losses import CategoryConsistency
from segmentarium.registry import Card, Paper

EMBEDDING = 16  # channels of the feature that the category-consistent loss takes


class CrissCrossAttention(GatedAttention):
    """Each place sees its row and its column (section 3.2): (H + W) scores a place."""

    def look(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        height = query.shape[1]
        rows = query @ key.transpose(2, 3)  # (B, H, W, W)
        columns = query.transpose(1, 2) @ key.permute(0, 2, 3, 1)  # (B, W, H, H)
        place = torch.arange(height, device=query.device)
        columns = columns.masked_fill(place[:, None] == place, -torch.inf)  # the row has the place itself already
        weights = torch.cat([columns.transpose(1, 2), rows], -1).softmax(-1)  # (B, H, W, H + W)
        columns, rows = weights[..., :height], weights[..., height:]
        return rows @ value + (columns.transpose(1, 2) @ value.transpose(1, 2)).transpose(1, 2)


class CCDecoder(Decoder):
    """3×3, criss-cross attention `recurrence` times, 3×3, then all beside the feature itself: logits at the deepest stride.

    width               channels of the attention; None: a quarter of the feature's
    decoder_channels    of the last 3×3 convolution; None: `width`
    attention_channels  of queries and keys; None: an eighth of `width`
    recurrence          how often the attention is applied, with the same weights
    leaky               activations of slope 0.01 below 0, as the authors' code has them
    consistent          train with the category-consistent loss of the journal version
    align_corners       in the resize to the image's size
    """

    prefers_output_stride = 8
    auxiliary = True
    training_only = ("embedding",)

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int | None = None,
        decoder_channels: int | None = None,
        attention_channels: int | None = None,
        recurrence: int = 2,
        leaky: bool = False,
        consistent: bool = False,
        align_corners: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if recurrence < 1:
            raise ValueError(f"recurrence is {recurrence}; give how often the attention is applied, 1 or more")
        self.align_corners = align_corners
        self.recurrence = recurrence
        self.num_classes = num_classes
        inputs = channels[-1]
        width = width or inputs // 4
        decoder_channels = decoder_channels or width
        self.before = ConvNormAct(inputs, width)
        self.attention = CrissCrossAttention(width, attention_channels)
        self.after = ConvNormAct(width, width)
        self.bottleneck = ConvNormAct(inputs + width, decoder_channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(decoder_channels, num_classes, 1))
        self.embedding = nn.Conv2d(width, EMBEDDING, 1) if consistent else None
        if leaky:
            use_leaky_relu(self)

    def _context(self, x: Tensor) -> Tensor:
        x = self.before(x)
        for _ in range(self.recurrence):
            x = self.attention(x)
        return x

    def _classify(self, x: Tensor, context: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.bottleneck(torch.cat([x, self.after(context)], 1))))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[(B, channels[i], h_i, w_i), …] -> (B, K, h, w) at the deepest stride"""
        return self._classify(features[-1], self._context(features[-1]))

    def forward_train(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        context = self._context(features[-1])
        outputs = {"logits": self._classify(features[-1], context)}
        return outputs if self.embedding is None else outputs | {"embedding": self.embedding(context)}

    def objective(self) -> tuple[Term, ...]:
        if self.embedding is None:
            return super().objective()
        loss = CategoryConsistency(self.num_classes)
        return (*super().objective(), Term("consistency", 1.0, loss, of=("embedding",), at="output", classes=False))


PAPER = Paper(
    title="CCNet: Criss-Cross Attention for Semantic Segmentation",
    authors="Huang, Wang, Wei, Huang, Shi, Liu, Huang",
    venue="ICCV",
    year=2019,
    url="https://arxiv.org/abs/1811.11721",
    code="https://github.com/speedinghzl/CCNet",
    code_licence="MIT",
)
register_decoder(
    "ccnet",
    CCDecoder,
    Card(paper=PAPER, num_classes=19, scores={"Cityscapes val mIoU": 79.74}),
    backbone="resnet101_v1s",
    leaky=True,
)
register_decoder(
    "ccnet_v2",
    CCDecoder,
    Card(paper=PAPER, num_classes=19, scores={"Cityscapes val mIoU": 80.5}),
    backbone="resnet101_v1s",
    leaky=True,
    consistent=True,
)
# parameters in millions as counted in mmsegmentation's code
register_mmsegmentation(
    CCDecoder,
    PAPER,
    {
        "ccnet_resnet50": (50, 49.83, 79.03, 42.08),
        "ccnet_resnet101": (101, 68.82, 78.87, 43.71),
    },
    align_corners=False,
)
