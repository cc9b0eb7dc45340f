"""ECENet: embeddings of the classes are read off their masks, and ask the finer features for better masks.

The deepest feature gives a mask for each class, and pooled to a few grids the mask gives the class's embedding: explicit class
extraction (ECE).  Level by level, from coarse to fine, the pixels of a feature ask the embeddings by attention; the scores before
its softmax are the masks of that level, which renew the embeddings: semantic attention and update (SAU).  In front of it each
feature of the backbone is made anew (FR), of a part that is common and of one that is to be diverse, in which every channel looks
at a place of its own.  All levels, enlarged, joined and classified, and the classes' masks beside them, are the answer.

The only public code is the authors' port to MindSpore (Apache-2.0), for inference.  What it does and the paper does not say:
pixels take values by the softmax of the negated scores; of the classes' answers about each other only the diagonal counts; levels
are doubled by a 1×1 and a depthwise convolution of its result, whose channels become places.  Its queries pass a ReLU behind both
of their convolutions, since it reads mmcv's "no activation" as "the usual one"; the score that is published was measured with it
(`query_act`; False: as the original would be).
The code of the losses is not public.  The configuration names cross entropy; focal, times 5, and Dice, times 2, of the masks of
all levels but the finest, summed; and the diversity of the parts, 0.2.  Our reading: the masks' losses are SegViT's, of the
classes that a picture shows; diversity is that of Mutual-Channel loss, whose values at each place the port computes, over all
channels of a level, the mean of the levels.
What we change: ignored pixels count nowhere, pictures without a label have no diversity; features finer than 1/4 are left out; a
level is enlarged as often as its stride is twice the finest's; the heads' scores are averaged by one product over all channels.
One class is refused: its softmax over classes is 1 everywhere.

Published: ADE20K val mIoU 54.17, accuracy 84.57, that of the classes 65.46 (Swin-B from ImageNet-22k, the port, one scale,
windows of 640 at steps of 608).
Recipe, ADE20K: Swin-B of 384 pixels, stochastic depth 0.3, crops of 640×640, 8 devices; the rest is not public.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones.mit import MixFFN
from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder, Term
from segmentarium.layers.attention import attend
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier
from segmentarium.layers.norm import LayerNorm2d, channels_first, channels_last
from segmentarium.layers.pooling import adaptive_average_pool
from segmentarium.layers.resize import resize
from segmentarium.losses import ClassMaskDice, ClassMaskFocal, Diversity
from segmentarium.losses.diversity import most_seen
from segmentarium.registry import Card, Paper


class FeatureReconstruction(nn.Module):
    """(B, C, h, w) -> its diverse part (B, C // 2, h, w), and the feature made anew of both parts (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.common = ConvNormAct(channels, half, 1, act=None)
        self.diverse = ConvNormAct(half, half, groups=half, bias=True, act=None)
        inner = max(1, half // 2)
        gate = nn.Linear(half, inner, bias=False), nn.ReLU(inplace=True), nn.Linear(inner, half, bias=False)
        self.gate = nn.Sequential(*gate)
        self.join = nn.Conv2d(2 * half, channels, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        common = self.common(x)
        diverse = self.diverse(common)
        diverse = diverse * self.gate(diverse.mean((2, 3)))[:, :, None, None]
        return diverse, self.join(torch.cat([diverse, common], 1))


class ClassExtraction(nn.Module):
    """Masks (B, K, h, w), pooled to a few grids -> embeddings of the classes (B, K, channels).

    side   of the finest grid
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.grids = (1, 2, 3, 6, side)
        self.embed = nn.Linear(sum(grid**2 for grid in self.grids), channels)

    def forward(self, masks: Tensor) -> Tensor:
        return self.embed(torch.cat([adaptive_average_pool(masks, grid).flatten(2) for grid in self.grids], 2))


class SemanticAttention(nn.Module):
    """A feature (B, C, h, w) asks the classes (B, K, C) -> what it becomes (B, C, h, w), and the classes' masks (B, K, h, w)."""

    def __init__(self, channels: int, heads: int, query_act: bool) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be shared by {heads} heads; give a number that divides them")
        self.heads = heads
        act = nn.ReLU if query_act else None
        self.norm_low, self.norm_high = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.query = nn.Sequential(
            ConvNormAct(channels, channels, groups=channels, norm=None, act=act),
            ConvNormAct(channels, channels, 1, norm=None, act=act),
        )
        self.kv = nn.Linear(channels, 2 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.norm_ffn = nn.LayerNorm(channels)
        self.ffn = MixFFN(channels, 4 * channels)

    def forward(self, low: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        height, width = low.shape[-2:]
        x = channels_last(low)
        query = channels_last(self.query(channels_first(self.norm_low(x)))).flatten(1, 2)
        key, value = self.kv(self.norm_high(classes)).chunk(2, -1)
        scale = (
            query.shape[-1] // self.heads
        ) ** -0.5 / self.heads  # a mean over the heads is a product over all channels
        masks = (key * scale) @ query.transpose(1, 2)
        answer = attend(query, -key, value, self.heads)  # of those unlike itself
        x = x + self.proj(answer).unflatten(1, (height, width))
        x = x + self.ffn(self.norm_ffn(x))
        return channels_first(x), masks.unflatten(2, (height, width))


class ClassUpdate(nn.Module):
    """Embeddings of new masks, and the classes so far, (B, K, C) each -> the classes, renewed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.split = nn.Linear(channels, 2 * channels)
        self.input, self.gate, self.mix = (nn.Linear(channels, channels) for _ in range(3))
        self.norm_gate, self.norm_new, self.norm = (nn.LayerNorm(channels) for _ in range(3))

    def forward(self, found: Tensor, classes: Tensor) -> Tensor:
        factor, new = self.split(found).chunk(2, -1)
        gate = self.norm_gate(self.gate(self.input(classes) * factor)).sigmoid()
        return F.relu(self.norm(self.mix(gate * self.norm_new(new) + classes)))


class GhostDouble(nn.Module):
    """(B, C, h, w) -> (B, C, 2h, 2w): channels made by a cheap convolution of others become places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.primary = ConvNormAct(channels, 2 * channels, 1)
        self.cheap = ConvNormAct(2 * channels, 2 * channels, groups=2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.primary(x)
        return F.pixel_shuffle(torch.cat([x, self.cheap(x)], 1), 2)


class ECEDecoder(Decoder):
    """FR, ECE and SAU, then all levels joined (figure 3).  -> logits at the stride of the finest feature, 1/4 or more.

    width      channels of features and embeddings
    heads      of the attention
    ratio      side of the finest grid that masks are pooled to, in roots of the number of classes; made odd
    query_act  a ReLU behind both convolutions of the queries, as in the public code
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int = 256,
        heads: int = 4,
        ratio: float = 1.0,
        query_act: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if num_classes == 1:
            raise ValueError(
                "num_classes is 1, and class embeddings answer by a softmax over the classes, which of one class is 1 "
                "everywhere; give 2, background and foreground"
            )
        self.finest = next((i for i, stride in enumerate(strides) if stride >= 4), 0)
        channels, strides = channels[self.finest :], strides[self.finest :]
        if len(channels) < 2:
            raise ValueError(
                "there is one feature, and classes go from coarser to finer ones; give a backbone with more"
            )
        levels, side = range(len(channels)), int(math.sqrt(num_classes) * ratio)
        side += 1 - side % 2
        self.diverse_channels = tuple(c // 2 for c in channels)
        self.reconstruct = nn.ModuleList(FeatureReconstruction(c) for c in channels)
        self.norms = nn.ModuleList(LayerNorm2d(c) for c in channels)
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1, bias=False) for c in channels)
        self.first_masks = nn.Sequential(
            nn.Conv2d(width, width, 1, groups=heads, bias=False), nn.Conv2d(width, num_classes, 1, bias=False)
        )
        self.extract = nn.ModuleList(ClassExtraction(width, side) for _ in levels)
        self.attend = nn.ModuleList(SemanticAttention(width, heads, query_act) for _ in levels[1:])
        self.update = nn.ModuleList(ClassUpdate(width) for _ in levels[1:])
        doublings = [max(0, round(math.log2(stride / strides[0]))) for stride in strides[1:]]
        self.enlarge = nn.ModuleList(nn.Sequential(*(GhostDouble(width) for _ in range(n))) for n in doublings)
        self.fuse = ConvNormAct(len(channels) * width, width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(width, num_classes, 1))
        self.answer = init_classifier(nn.Linear(width, num_classes))

    def _look(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """-> logits (B, K, h, w); the masks of all levels but the finest, summed, (B, K, h, w); the features' diverse parts"""
        diverse, maps = [], []
        parts = zip(self.reconstruct, self.norms, self.laterals, features[self.finest :], strict=True)
        for reconstruct, norm, lateral, feature in parts:
            part, x = reconstruct(feature)
            diverse.append(part)
            maps.append(lateral(norm(x)))
        size = maps[0].shape[-2:]

        masks = self.first_masks(maps[-1])
        classes = self.extract[-1](masks)
        coarse = torch.zeros(1, device=masks.device, dtype=masks.dtype)
        for i in reversed(range(len(self.attend))):
            coarse = coarse + resize(masks, size)
            maps[i], masks = self.attend[i](maps[i], classes)
            classes = self.update[i](self.extract[i](masks), classes)

        finer, *others = maps
        others = [resize(enlarge(x), size) for enlarge, x in zip(self.enlarge, others, strict=True)]
        x = self.fuse(torch.cat([finer, *others], 1))
        # how sure each class is of itself
        own = self.answer(classes).softmax(-1).diagonal(dim1=1, dim2=2)[:, :, None, None]
        logits = self.classifier(self.dropout(x)) + own * (coarse + masks).sigmoid()
        return logits, coarse, diverse

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[(B, channels[i], h_i, w_i), …] -> (B, K, h, w)"""
        return self._look(features)[0]

    def forward_train(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """ "masks" (B, K, h, w) are those of all levels but the finest; "seen_0", … (B, h·w) say of each level's diverse part how
        much the channel that looks most at a place does so."""
        logits, coarse, diverse = self._look(features)
        return {"logits": logits, "masks": coarse} | {f"seen_{i}": most_seen(x) for i, x in enumerate(diverse)}

    def objective(self) -> tuple[Term, ...]:
        seen = tuple(f"seen_{i}" for i in range(len(self.diverse_channels)))
        return (
            *super().objective(),
            Term("mask", 5.0, ClassMaskFocal(), of=("masks",), at="as is", classes=False),
            Term("dice", 2.0, ClassMaskDice(), of=("masks",), at="as is", classes=False),
            Term("diversity", 0.2, Diversity(self.diverse_channels), of=seen, at="as is", classes=False),
        )


PAPER = Paper(
    title="Boosting Semantic Segmentation from the Perspective of Explicit Class Embeddings",
    authors="Liu, Liu, Han, Tang, Qin",
    venue="ICCV",
    year=2023,
    url="https://arxiv.org/abs/2308.12894",
    code="https://gitee.com/mindspore/models",
    code_licence="Apache-2.0",
)
register_decoder(
    "ecenet_swin_base",
    ECEDecoder,
    Card(
        paper=PAPER,
        num_classes=150,
        scores={"ADE20K val mIoU (from ImageNet-22k)": 54.17},
        limits={"one_class": "a softmax over one class is 1 everywhere, so that its embedding would say nothing"},
    ),
    tiny={"width": 32},
    backbone="swin_b_384",
    backbone_arguments={"shift_all": True, "drop_path": 0.3},
)
