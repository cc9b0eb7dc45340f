"""MaskFormer: segmentation by masks that are classified, instead of pixels that are.

A pixel decoder brings the backbone's features to one fine map.  Beside it, a transformer decoder turns learned queries, which see
the coarsest feature, into pairs: a class, or none, and an embedding whose product with the fine map is a mask.  Which query
answers for which segment is found anew for each picture, by a matching of least cost; the loss is cross entropy of the class,
and focal loss and dice of the mask, after every layer of the decoder.  Semantic, instance and panoptic segmentation differ in
how the pairs are read (`MaskSet`) and in what is a segment.

What the public code does and the paper does not say (released for non-commercial use; this file was written from the paper and
from what their stored outputs show): the queries are positions, added to tokens that begin as zeros; group norm everywhere in
the pixel decoder; coarser maps are repeated, not interpolated; one layer norm stands before both heads, after each layer.  The
panoptic models have six layers of a transformer encoder on the coarsest feature (`encoder_layers=6`), whose output goes both
ways.  Their test pads pictures to multiples of 32.  Pixels without a label are background in every mask, and pay.
What we change: such pixels count nowhere, neither in the matching nor in the loss, and a picture of nothing else costs nothing
(`ignored="background"`: theirs).  Nothing is padded; at multiples of 32 that is the same.  Batch norms of a ResNet are trained;
theirs are frozen.

Published: ADE20K val mIoU 44.5 (ResNet-50), 45.5 (ResNet-101), 46.7, 49.8, 52.7, 54.1 (Swin T, S, B, L); COCO panoptic PQ 46.5
(ResNet-50 with six encoder layers), 47.7, 49.7, 51.8, 52.7 (Swin T, S, B, L).

Recipe of the authors, ADE20K: AdamW, rate 1e-4 (Swin 6e-5), a tenth of it for a ResNet, decay 1e-4 (Swin 0.01), gradients of the
whole model clipped to 0.01, poly 0.9, 160k steps of 16 crops of 512×512 (Swin B, L: 640×640).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from segmentarium.composition import register_decoder
from segmentarium.contracts import MaskDecoder, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.fpn import first_of_quarter
from segmentarium.layers.init import init_convs
from segmentarium.layers.mask_head import MaskHead
from segmentarium.layers.post_norm import AttentionHalf, FeedForwardHalf
from segmentarium.layers.resize import resize
from segmentarium.layers.sine_positions import sine_positions
from segmentarium.losses import FocalSetLoss
from segmentarium.losses.class_masks import Ignored
from segmentarium.registry import Card, Paper

Norm = partial(nn.GroupNorm, 32)


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network over the cells of a map."""

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = AttentionHalf(channels, heads, dropout=dropout)
        self.feed_forward = FeedForwardHalf(channels, hidden, dropout=dropout)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """(B, N, C), (1, N, C) -> (B, N, C)"""
        return self.feed_forward(self.attention(x, positions))


class DecoderLayer(nn.Module):
    """Queries see each other, then the picture (DETR's layer)."""

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = AttentionHalf(channels, heads, dropout=dropout)
        self.cross_attention = AttentionHalf(channels, heads, dropout=dropout)
        self.feed_forward = FeedForwardHalf(channels, hidden, dropout=dropout)

    def forward(self, x: Tensor, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """x (B, Q, C) and the queries' positions; keys, values (B, N, C) of the picture's cells -> (B, Q, C)"""
        x = self.self_attention(x, queries)
        return self.feed_forward(self.cross_attention(x, queries, keys, values))


class PixelDecoder(nn.Module):
    """Features, finest first -> the fine map (B, mask_channels, h, w), and the coarsest one (B, width, h', w') for the queries.

    encoder_layers   of a transformer on the coarsest feature; 0: a feature pyramid alone
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int,
        mask_channels: int,
        encoder_layers: int,
        heads: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        *finer, coarsest = channels
        self.project = nn.Conv2d(coarsest, width, 1)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, hidden, dropout) for _ in range(encoder_layers))
        self.coarsest = ConvNormAct(width if encoder_layers else coarsest, width, norm=Norm)
        self.laterals = nn.ModuleList(ConvNormAct(inputs, width, 1, norm=Norm, act=None) for inputs in finer)
        self.outputs = nn.ModuleList(ConvNormAct(width, width, norm=Norm) for _ in finer)
        self.fine = nn.Conv2d(width, mask_channels, 3, padding=1)
        init_convs(self, nonlinearity="leaky_relu", slope=1.0)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        *finer, coarsest = features
        memory = self.project(coarsest)
        if len(self.encoder):
            size = memory.shape[-2:]
            positions = sine_positions(size, memory.shape[1], memory)
            tokens = memory.flatten(2).transpose(1, 2)
            for layer in self.encoder:
                tokens = layer(tokens, positions)
            coarsest = memory = tokens.transpose(1, 2).unflatten(2, size)
        x = self.coarsest(coarsest)
        for lateral, output, feature in zip(self.laterals[::-1], self.outputs[::-1], finer[::-1], strict=True):
            x = output(lateral(feature) + resize(x, feature.shape[-2:], mode="nearest"))
        return self.fine(x), memory


class MaskFormerDecoder(MaskDecoder):
    """Pixel decoder, transformer decoder and heads (figure 2).  Features finer than 1/4 are left out.

    width            channels of both decoders; a multiple of 32
    mask_channels    of the fine map
    queries          how many masks there are at most
    layers           of the transformer decoder, each of which is supervised
    encoder_layers   of a transformer on the coarsest feature; 0: the pixel decoder is a feature pyramid alone
    heads            of each attention
    hidden           channels inside the feed-forward networks
    dropout          in the transformers, in training
    no_object        weight of "no object" in the cross entropy
    ignored          "excluded": ignored pixels count nowhere; "background": they are background in every mask, as the authors
                     count them
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int = 256,
        mask_channels: int = 256,
        queries: int = 100,
        layers: int = 6,
        encoder_layers: int = 0,
        heads: int = 8,
        hidden: int = 2048,
        dropout: float = 0.1,
        no_object: float = 0.1,
        ignored: Ignored = "excluded",
    ) -> None:
        super().__init__()
        if width % 32 or queries < 1 or layers < 1:
            raise ValueError(
                f"width is {width}, queries {queries}, layers {layers}; give a multiple of 32, and 1 or more of each"
            )
        self.first = first_of_quarter(strides)
        self.pixels = PixelDecoder(channels[self.first :], width, mask_channels, encoder_layers, heads, hidden, dropout)
        self.queries = nn.Parameter(torch.empty(queries, width))
        nn.init.normal_(self.queries)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = MaskHead(width, mask_channels, num_classes)
        self.loss = {"no_object": no_object, "ignored": ignored}

    def states(self, memory: Tensor) -> list[Tensor]:
        """The coarsest map (B, C, h, w) -> the queries after each layer, (B, Q, C)"""
        positions = sine_positions(memory.shape[-2:], memory.shape[1], memory)
        values = memory.flatten(2).transpose(1, 2)
        keys, queries = values + positions, self.queries.repeat(memory.shape[0], 1, 1)
        found = [torch.zeros_like(queries)]
        for layer in self.layers:
            found.append(layer(found[-1], queries, keys, values))
        return found[1:]

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        pixels, memory = self.pixels(features[self.first :])
        return self.head(self.norm(self.states(memory)[-1]), pixels)

    def predictions(self, features: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        pixels, memory = self.pixels(features[self.first :])
        return [self.head(self.norm(state), pixels) for state in self.states(memory)]

    def no_weight_decay(self) -> set[str]:
        return {"queries"}

    def objective(self) -> tuple[Term, ...]:
        weight = {"class": 1.0, "mask": 20.0, "dice": 1.0}
        return self.every_layer(len(self.layers), weight, FocalSetLoss(weight, **self.loss))


PAPER = Paper(
    title="Per-Pixel Classification is Not All You Need for Semantic Segmentation",
    authors="Cheng, Schwing, Kirillov",
    venue="NeurIPS",
    year=2021,
    url="https://arxiv.org/abs/2107.06278",
    code="https://github.com/facebookresearch/MaskFormer",
    code_licence="CC-BY-NC-4.0",
)
TINY = {"width": 32, "mask_channels": 32, "queries": 6, "layers": 2, "heads": 4, "hidden": 64, "dropout": 0.0}
ADE, COCO = "ADE20K val mIoU (single scale)", "COCO panoptic val PQ"
# ours: backbone, side of the crop, millions of parameters and 1e9 multiply-adds of the ADE20K model as published, its mIoU, and
# the PQ of the panoptic model of COCO
for _name, _backbone, _side, _parameters, _flops, _ade, _coco in (
    ("resnet50", "resnet50", 512, 41, 53, 44.5, None),
    ("resnet101", "resnet101", 512, 60, 73, 45.5, None),
    ("resnet101_v1s", "resnet101_v1s", 512, 60, 80, 46.0, None),
    ("swin_tiny", "swin_t", 512, 42, 55, 46.7, 47.7),
    ("swin_small", "swin_s", 512, 63, 79, 49.8, 49.7),
    ("swin_base", "swin_b_384", 640, 102, 195, 52.7, 51.8),
    ("swin_large", "swin_l_384", 640, 212, 375, 54.1, 52.7),
):
    _swin = {"backbone_arguments": {"shift_all": True, "drop_path": 0.3}} if _backbone.startswith("swin") else {}
    register_decoder(
        f"maskformer_{_name}",
        MaskFormerDecoder,
        Card(
            paper=PAPER,
            parameters=_parameters,
            flops=_flops,
            flops_size=(_side, _side),
            num_classes=150,
            scores={ADE: _ade} | ({COCO: _coco} if _coco else {}),
        ),
        tiny=TINY,
        backbone=_backbone,
        **_swin,
    )
for _depth, _parameters, _coco, _ade in ((50, 45, 46.5, 34.7), (101, 64, 47.6, 35.7)):
    register_decoder(
        f"maskformer_resnet{_depth}_enc6",
        MaskFormerDecoder,
        Card(
            paper=PAPER,
            parameters=_parameters,
            num_classes=133,
            scores={COCO: _coco, "ADE20K panoptic val PQ": _ade},
        ),
        tiny={**TINY, "encoder_layers": 1},
        backbone=f"resnet{_depth}",
        encoder_layers=6,
    )
