"""Mask2Former: mask classification whose queries look only where they see something.

Each layer of the transformer decoder lets a query attend inside the mask that the layer before gave it, and everywhere where that
mask is empty (masked attention, equation 2).  The layers take the levels of the pixel decoder in turn, coarsest first; they
attend to the picture before the queries attend to each other; the queries' features are learned, and give masks, which are
supervised, before any layer.  The pixel decoder is multi-scale deformable attention on three levels.  Losses are taken at drawn
points instead of all pixels: at arbitrary ones, the same for all pairs, for the matching; for the loss three quarters of them
where the mask is least sure, of three times as many that are drawn.

What the public code does and the paper does not say (MIT; deformable attention Apache-2.0): positions and level embeddings are
added to the queries of the deformable attention alone, its values are plain; its feed-forward networks are 1024 wide; the level
of 1/4 joins by a lateral convolution and bilinear interpolation; group norm everywhere in the pixel decoder; one layer norm
stands before both heads; no dropout.  Their test pads pictures to multiples of 32.  Pixels without a label are background in
every mask, and pay.
What we change: the mask that steers attention is the product of the query with the fine map brought to the level's size, instead
of their product brought there: the same numbers, as both are linear, at a fraction of the work.  Deformable attention has a form
of its own on processors (`layers/deformable_attention.py`).  Pixels without a label count nowhere: a drawn point counts for the
share of its four pixels that is labelled, and a picture of nothing else costs nothing (`ignored="background"`: theirs).
Nothing is padded; at multiples of 32 that is the same.  Batch norms of a ResNet are trained; theirs are frozen.

Published: ADE20K val mIoU 47.2 (ResNet-50), 47.8 (ResNet-101), 47.7, 51.3, 53.9, 56.1 (Swin T, S, B, L); COCO panoptic PQ 51.9,
52.6, 53.2, 54.6, 56.4, 57.8; COCO instance AP 43.7, 44.2, 45.0, 46.3, 48.1, 50.1.

Recipe of the authors: AdamW, rate 1e-4, a tenth of it for the backbone, decay 0.05 but for norms and embeddings, gradients of the
whole model clipped to 0.01, 12,544 points.  ADE20K: poly 0.9, 160k steps of 16 crops of 512×512 (Swin B, L: 640×640).  COCO: 50
epochs of 16 pictures of 1024×1024, scaled by 0.1 to 2, rate ×0.1 after 0.889 and 0.963 of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from segmentarium.composition import register_decoder
from segmentarium.contracts import MaskDecoder, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.deformable_attention import DeformableAttention, Sizes, at_levels, cell_places
from segmentarium.layers.fpn import first_of_quarter
from segmentarium.layers.init import init_convs
from segmentarium.layers.mask_head import MaskHead
from segmentarium.layers.post_norm import AttentionHalf, FeedForwardHalf
from segmentarium.layers.resize import resize
from segmentarium.layers.sine_positions import sine_positions
from segmentarium.losses import PointSetLoss
from segmentarium.losses.class_masks import Ignored
from segmentarium.registry import Card, Paper

Norm = partial(nn.GroupNorm, 32)


class EncoderLayer(nn.Module):
    """Deformable attention of all cells of all levels to each other, and a feed-forward network."""

    def __init__(self, channels: int, heads: int, levels: int, points: int, hidden: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(channels, heads, levels=levels, points=points)
        self.norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForwardHalf(channels, hidden)

    def forward(self, x: Tensor, positions: Tensor, places: Tensor, sizes: Sizes) -> Tensor:
        """(B, S, C) of levels of `sizes`, positions (1, S, C), places (1, S, L, 2) -> (B, S, C)"""
        return self.feed_forward(self.norm(x + self.attention(x + positions, places, x, sizes)))


class DeformablePixelDecoder(nn.Module):
    """Features, finest first -> the fine map (B, mask_channels, h, w), and the `levels` coarsest ones, coarsest first, each
    (B, width, h_i, w_i)."""

    def __init__(
        self,
        channels: Sequence[int],
        width: int,
        mask_channels: int,
        levels: int,
        encoder_layers: int,
        heads: int,
        points: int,
        hidden: int,
    ) -> None:
        super().__init__()
        finer, coarser = channels[:-levels], channels[-levels:]
        self.project = nn.ModuleList(
            ConvNormAct(inputs, width, 1, bias=True, norm=Norm, act=None) for inputs in coarser[::-1]
        )
        self.level = nn.Parameter(torch.empty(levels, width))
        nn.init.normal_(self.level)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, levels, points, hidden) for _ in range(encoder_layers))
        self.laterals = nn.ModuleList(ConvNormAct(inputs, width, 1, norm=Norm, act=None) for inputs in finer)
        self.outputs = nn.ModuleList(ConvNormAct(width, width, norm=Norm) for _ in finer)
        self.fine = nn.Conv2d(width, mask_channels, 1)
        init_convs(self, nonlinearity="leaky_relu", slope=1.0)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        coarser = features[: -len(self.project) - 1 : -1]
        maps = [project(feature) for project, feature in zip(self.project, coarser, strict=True)]
        sizes = [(x.shape[-2], x.shape[-1]) for x in maps]
        positions = torch.cat(
            [
                sine_positions(size, x.shape[1], x) + level
                for size, x, level in zip(sizes, maps, self.level, strict=True)
            ],
            1,
        )
        places = at_levels(cell_places(sizes, positions), sizes)
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
        for layer in self.encoder:
            tokens = layer(tokens, positions, places, sizes)
        ends = [0]
        for height, width in sizes:
            ends.append(ends[-1] + height * width)
        levels = [
            tokens[:, start:end].transpose(1, 2).unflatten(2, size)
            for (start, end), size in zip(pairwise(ends), sizes, strict=True)
        ]
        x = levels[-1]
        finer = features[: len(features) - len(levels)]
        for lateral, output, feature in zip(self.laterals[::-1], self.outputs[::-1], finer[::-1], strict=True):
            x = output(lateral(feature) + resize(x, feature.shape[-2:]))
        return self.fine(x), levels


class DecoderLayer(nn.Module):
    """Queries see the picture where they may, then each other (figure 2, right)."""

    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.cross_attention = AttentionHalf(channels, heads)
        self.self_attention = AttentionHalf(channels, heads)
        self.feed_forward = FeedForwardHalf(channels, hidden)

    def forward(self, x: Tensor, queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        """x (B, Q, C) and the queries' positions; keys, values (B, N, C) of a level's cells, which of them each query may see
        (B, 1, Q, N) -> (B, Q, C)"""
        x = self.cross_attention(x, queries, keys, values, seen)
        return self.feed_forward(self.self_attention(x, queries))


def inside(embedded: Tensor, pixels: Tensor, shift: float | None = None) -> Tensor:
    """Embeddings of masks (B, Q, M), a map (B, M, h, w) -> (B, 1, Q, h · w): where each mask is, in which half of its pixels
    and more are as likely inside as outside, and everywhere for one that is nowhere; `shift`: of the decoder."""
    logits = embedded @ pixels.flatten(2)
    found = logits >= (shift * logits.abs().max() if shift else 0)
    return (found | ~found.any(-1, keepdim=True)).unsqueeze(1)


class Mask2FormerDecoder(MaskDecoder):
    """Pixel decoder, transformer decoder with masked attention, heads (figure 2).  Features finer than 1/4 are left out.

    width            channels of both decoders; a multiple of 32
    mask_channels    of the fine map
    queries          how many masks there are at most
    layers           of the transformer decoder; what the queries give before any of them is supervised too
    encoder_layers   of deformable attention in the pixel decoder
    levels           coarsest features that both transformers see
    points           of each level that a head of deformable attention sees
    heads            of each attention
    hidden           channels inside the feed-forward networks of the transformer decoder
    encoder_hidden   the same of the pixel decoder
    no_object        weight of "no object" in the cross entropy
    drawn            points at which masks are compared in training
    oversample       times as many are drawn for a matched mask,
    importance       of which this share of `drawn` is taken where the mask is least sure; the rest are arbitrary
    ignored          "excluded": ignored pixels count nowhere; "background": they are background in every mask, as the authors
                     count them
    """

    shift = 0.0

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int = 256,
        mask_channels: int = 256,
        queries: int = 100,
        layers: int = 9,
        encoder_layers: int = 6,
        levels: int = 3,
        points: int = 4,
        heads: int = 8,
        hidden: int = 2048,
        encoder_hidden: int = 1024,
        no_object: float = 0.1,
        drawn: int = 12544,
        oversample: float = 3.0,
        importance: float = 0.75,
        ignored: Ignored = "excluded",
    ) -> None:
        super().__init__()
        if width % 32 or queries < 1 or layers < 0:
            raise ValueError(
                f"width is {width}, queries {queries}, layers {layers}; give a multiple of 32, 1 or more, and 0 or more"
            )
        self.first = first_of_quarter(strides)
        channels = channels[self.first :]
        if not 1 <= levels <= len(channels):
            raise ValueError(f"levels is {levels}; this backbone has {len(channels)} features no finer than 1/4")
        self.pixels = DeformablePixelDecoder(
            channels, width, mask_channels, levels, encoder_layers, heads, points, encoder_hidden
        )
        self.features = nn.Parameter(torch.empty(queries, width))
        self.queries = nn.Parameter(torch.empty(queries, width))
        self.level = nn.Parameter(torch.empty(levels, width))
        for learned in (self.features, self.queries, self.level):
            nn.init.normal_(learned)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = MaskHead(width, mask_channels, num_classes)
        self.loss = {
            "no_object": no_object,
            "points": drawn,
            "oversample": oversample,
            "importance": importance,
            "ignored": ignored,
        }

    def states(self, pixels: Tensor, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The fine map and the levels -> the queries before any layer and after each, normed (B, Q, C), with the embeddings of
        their masks (B, Q, M)"""
        sizes = [(x.shape[-2], x.shape[-1]) for x in levels]
        values = [x.flatten(2).transpose(1, 2) + level for x, level in zip(levels, self.level, strict=True)]
        keys = [x + sine_positions(size, x.shape[2], x) for x, size in zip(values, sizes, strict=True)]
        small = [resize(pixels.detach(), size) for size in sizes]
        queries = self.queries.repeat(pixels.shape[0], 1, 1)
        x = self.features.repeat(pixels.shape[0], 1, 1)
        normed = self.norm(x)
        found = [(normed, self.head.embed(normed))]
        for i, layer in enumerate(self.layers):
            level = i % len(levels)
            x = layer(x, queries, keys[level], values[level], inside(found[-1][1], small[level], self.shift))
            normed = self.norm(x)
            found.append((normed, self.head.embed(normed)))
        return found

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        pixels, levels = self.pixels(features[self.first :])
        normed, embedded = self.states(pixels, levels)[-1]
        return self.head(normed, pixels, embedded)

    def predictions(self, features: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        pixels, levels = self.pixels(features[self.first :])
        return [self.head(normed, pixels, embedded) for normed, embedded in self.states(pixels, levels)]

    def no_weight_decay(self) -> set[str]:
        return {"features", "queries", "level", "pixels.level"}

    def objective(self) -> tuple[Term, ...]:
        weight = {"class": 2.0, "mask": 5.0, "dice": 5.0}
        return self.every_layer(len(self.layers) + 1, weight, PointSetLoss(weight, **self.loss))


PAPER = Paper(
    title="Masked-attention Mask Transformer for Universal Image Segmentation",
    authors="Cheng, Misra, Schwing, Kirillov, Girdhar",
    venue="CVPR",
    year=2022,
    url="https://arxiv.org/abs/2112.01527",
    code="https://github.com/facebookresearch/Mask2Former",
    code_licence="MIT",
)
FEWER = (
    "fewer than published: the masks that steer attention are computed at the size of the level, with the same result"
)
TINY = {
    "width": 32,
    "mask_channels": 32,
    "queries": 6,
    "layers": 3,
    "encoder_layers": 1,
    "heads": 4,
    "hidden": 48,
    "encoder_hidden": 48,
    "drawn": 256,
}
# ours: backbone, side of the crop, millions of parameters and 1e9 multiply-adds of the ADE20K model as published, its mIoU, PQ of
# the panoptic and AP of the instance model of COCO, PQ, AP and mIoU of the models of Cityscapes
for _name, _backbone, _side, _parameters, _flops, _scores in (
    ("resnet50", "resnet50", 512, 44, 71, (47.2, 51.9, 43.7, 62.1, 37.4, 79.4)),
    ("resnet101", "resnet101", 512, 63, 90, (47.8, 52.6, 44.2, 62.4, 38.5, 80.1)),
    ("swin_tiny", "swin_t", 512, 47, 74, (47.7, 53.2, 45.0, 63.9, 39.7, 82.1)),
    ("swin_small", "swin_s", 512, 69, 98, (51.3, 54.6, 46.3, 64.8, 41.8, 82.6)),
    ("swin_base", "swin_b_384", 640, 107, 223, (53.9, 56.4, 48.1, 66.1, 42.0, 83.3)),
    ("swin_large", "swin_l_384", 640, 215, 403, (56.1, 57.8, 50.1, 66.6, 43.7, 83.3)),
):
    _swin = {"backbone_arguments": {"shift_all": True, "drop_path": 0.3}} if _backbone.startswith("swin") else {}
    register_decoder(
        f"mask2former_{_name}",
        Mask2FormerDecoder,
        Card(
            paper=PAPER,
            parameters=_parameters,
            flops=_flops,
            flops_size=(_side, _side),
            limits={"flops": FEWER} if _side == 512 else {},  # of the larger trunks' work it is less than 3%
            num_classes=150,
            scores=dict(
                zip(
                    (
                        "ADE20K val mIoU (single scale)",
                        "COCO panoptic val PQ",
                        "COCO instance val AP",
                        "Cityscapes panoptic val PQ",
                        "Cityscapes instance val AP",
                        "Cityscapes val mIoU (single scale)",
                    ),
                    _scores,
                    strict=True,
                )
            ),
        ),
        tiny=TINY,
        backbone=_backbone,
        **_swin,
    )
