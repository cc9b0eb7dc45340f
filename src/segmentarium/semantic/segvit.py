"""SegViT: the attention of class tokens to the image is the mask.

The authors' code (zbwxp/SegVit) is free for academic use only.  This file was written from the paper and from descriptions of
what that code computes; only the names in its weights were taken over, in the key table.

A token for each class asks the features of several blocks of a plain transformer, deepest first.  How much the token attends to
a place, before the softmax, is the mask of its class there; what it becomes tells whether the class is there at all (section
3.2).  Shrunk (section 3.3): at one block of the transformer only every second token in both directions asks (query-based
down-sampling, QD), the blocks behind it have a quarter of the tokens, and queries of the full grid then ask a shallow and the
deepest feature (query-based up-sampling, QU).

What the public code does and the paper does not say: masks are the scores of a stage's last layer, averaged over the heads, and
the stages' are summed, while the shrunk form's three layers each give a mask of their own; class tokens and features have no
positions; the class token of the transformer is dropped before its blocks, and there is no final norm.  Masks are enlarged before
the sigmoid.  Ignored pixels are outside of every mask (`ignored="background"`), and absent classes weigh a tenth.
What we change: any grid, where that head wants squares of one size (the queries' table is interpolated), and any backbone;
ignored pixels count nowhere; the answer is the logarithm of the published score, class probability times mask, so that it is a
logit with the same order; attention weights have no dropout, all that stands behind them has.
In training "logits" are the masks: the score has no term of its own.

Published (ADE20K val, single / multi-scale, 1e9 multiply-adds): B 51.3/53.0, 120.9; L shrunk 53.9/55.1, 373.5; L 54.6/55.2,
637.9.  COCO-Stuff-10k: L shrunk 49.1/49.4, L 49.9/50.3.  Pascal Context, 59 classes: L shrunk 62.3/63.7, L 64.1/65.3.
Recipe, as in the public code: ViT weights of 2106.10270 at 384 pixels; AdamW at 2e-5, ten times that for the decoder, decay 0.01
but for norms, poly 1.0, 1,500 steps of warm-up, gradients clipped at 35, batch 16.  ADE20K: crops of 512×512 (L 640×640), 160,000
steps; COCO-Stuff: 512×512, 80,000 steps, decay 0.02, poly 2.0; Pascal Context: 480×480, 80,000 steps, decay 0.03.  Tested in
windows of the crop's size, step 341, 608, 341 and 320.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder, Term
from segmentarium.layers.init import init_classifier
from segmentarium.layers.norm import channels_last
from segmentarium.layers.positions import resize_positions
from segmentarium.layers.query_decoder import QueryDecoderLayer
from segmentarium.layers.resize import resize
from segmentarium.losses import ClassMaskDice, ClassMaskFocal, ClassOrNone
from segmentarium.losses.class_masks import Ignored
from segmentarium.registry import Card, Paper

TINIEST = 1e-6  # the least score, of which the logarithm is taken


class Stage(nn.Module):
    """A feature, projected and normed, and the layers whose queries ask it."""

    def __init__(self, channels: int, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(channels, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(QueryDecoderLayer(width, heads, dropout=dropout) for _ in range(layers))

    def memory(self, feature: Tensor) -> Tensor:
        """(B, C, h, w) or tokens (B, N, C) -> (B, N, width)"""
        tokens = channels_last(feature).flatten(1, 2) if feature.ndim == 4 else feature
        return self.norm(self.project(tokens))

    def forward(self, queries: Tensor, feature: Tensor, bias: Tensor | None = None) -> Tensor:
        """-> the queries, (B, Q, width), when they have asked; bias: of the tokens, as `attend` takes it"""
        memory = self.memory(feature)
        for layer in self.layers:
            queries = layer(queries, memory, bias)
        return queries

    def with_scores(self, queries: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        """-> the queries, and the scores (B, Q, N) of the last layer's attention"""
        memory = self.memory(feature)
        for layer in self.layers[:-1]:
            queries = layer(queries, memory)
        return self.layers[-1].with_scores(queries, memory)  # type: ignore[operator]


def semantic_logits(class_logits: Tensor, masks: Tensor, *, binary: bool) -> Tensor:
    """Answers (B, K, K + 1) and mask logits (B, K, h, w) -> (B, K, h, w): the logarithm of each class's probability times
    mask, summed over the queries (equation 6); `binary`: of a lone foreground the logit of that product."""
    probability = class_logits.float().softmax(-1)[..., :-1]
    scores = probability.mT @ masks.float().sigmoid().flatten(2)
    if binary:
        scores = scores.clamp(TINIEST, 1 - TINIEST)
        logits = scores.log() - (1 - scores).log()
    else:
        logits = scores.clamp_min(TINIEST).log()
    return logits.unflatten(2, masks.shape[2:])


def mask_objective(
    suffixes: Sequence[str], ignored: Ignored = "excluded", first: int = 0, logits: str = "logits"
) -> Iterator[Term]:
    """The three terms of the answers and masks of each of the outputs that end so; the last one's masks are called `logits`."""
    for suffix in suffixes:
        masks = f"masks{suffix}" if suffix else logits
        for name, weight, loss, of in (
            ("classes", 1.0, ClassOrNone(ignored=ignored, first=first), f"class_logits{suffix}"),
            ("mask", 20.0, ClassMaskFocal(ignored, first), masks),
            ("dice", 1.0, ClassMaskDice(ignored, first), masks),
        ):
            yield Term(f"{name}{suffix}", weight, loss, of=(of,), at="as is", classes=False)


class SegViTDecoder(Decoder):
    """Attention to mask over several features.  -> logits at the image's size, as far as whole patches go.

    width    of the class tokens
    heads    of the attentions
    layers   of each stage
    stages   the deepest features, of which each is one
    ignored  what ignored pixels are to the losses: "excluded", or "background", the authors' way
    """

    ignored: Ignored

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int = 384,
        heads: int = 12,
        layers: int = 3,
        stages: int = 3,
        dropout: float = 0.1,
        ignored: Ignored = "excluded",
    ) -> None:
        super().__init__()
        if stages < 1 or layers < 1:
            raise ValueError(f"stages is {stages} and layers {layers}; give 1 or more")
        if stages > len(channels):
            raise ValueError(
                f"stages is {stages}; this backbone has {len(channels)} features: give out_indices, or fewer"
            )
        self.stride = strides[-stages]
        self.one_class, self.ignored = num_classes == 1, ignored
        self.class_tokens = nn.Parameter(torch.empty(num_classes, width).normal_())
        self.stages = nn.ModuleList(Stage(c, width, heads, layers, dropout) for c in reversed(channels[-stages:]))
        self.classify = init_classifier(nn.Linear(width, num_classes + 1))

    def every_stage(self, features: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each stage the class tokens and the masks so far, at the finest of the features' strides."""
        taken = features[-len(self.stages) :]
        size, masks = taken[0].shape[-2:], None
        tokens = self.class_tokens.repeat(taken[0].shape[0], 1, 1)
        for stage, feature in zip(self.stages, reversed(taken), strict=True):
            tokens, scores = stage.with_scores(tokens, feature)  # type: ignore[operator]
            scores = resize(scores.unflatten(2, feature.shape[-2:]), size)
            masks = scores if masks is None else masks + scores
            yield tokens, masks

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        *_, (tokens, masks) = self.every_stage(features)
        return semantic_logits(self.classify(tokens), enlarge(masks, self.stride), binary=self.one_class)

    def forward_train(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """ "logits" are the last stage's masks (B, K, h, w), "class_logits" (B, K, K + 1) its answers; "masks_0", … others'."""
        return supervised([(self.classify(tokens), masks) for tokens, masks in self.every_stage(features)])

    def objective(self) -> tuple[Term, ...]:
        return tuple(mask_objective(suffixes(len(self.stages)), self.ignored, int(self.one_class)))


def suffixes(count: int) -> list[str]:
    """Of the outputs of all that is supervised, the last of which is what `forward` reads: "_0", "_1", … and ""."""
    return [*(f"_{i}" for i in range(count - 1)), ""]


def supervised(found: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Answers and masks, in their order, by the names that `mask_objective` reads."""
    outputs = {}
    for suffix, (answers, masks) in zip(suffixes(len(found)), found, strict=True):
        outputs |= {f"masks{suffix}" if suffix else "logits": masks, f"class_logits{suffix}": answers}
    return outputs


def enlarge(masks: Tensor, stride: int) -> Tensor:
    """Masks of a grid of that stride at the size of the image."""
    return resize(masks, (masks.shape[-2] * stride, masks.shape[-1] * stride))


class GridQueries(nn.Module):
    """A learned query for each place of a grid, interpolated as a picture to other grids."""

    def __init__(self, grid: Sequence[int], width: int) -> None:
        super().__init__()
        rows, columns = self.grid = (int(grid[0]), int(grid[1]))
        self.table = nn.Parameter(torch.empty(rows * columns, width).normal_())

    def forward(self, size: Sequence[int], batch: int) -> Tensor:
        """(h, w) -> (batch, h·w, width)"""
        return resize_positions(self.table[None], self.grid, size, antialias=False).repeat(batch, 1, 1)

    def carry(self, name: str, tensor: Tensor) -> Tensor:
        """The table of another, square, grid for this one; other tensors as they are."""
        side = math.isqrt(tensor.shape[0])
        if tensor.ndim != 2 or side * side != tensor.shape[0]:
            return tensor
        return resize_positions(tensor[None], (side, side), self.grid, antialias=False)[0]


class AttentionToMask(nn.Module):
    """Class tokens that ask one map in several layers, each of which gives masks of its own."""

    def __init__(self, num_classes: int, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.class_tokens = nn.Parameter(torch.empty(num_classes, width).normal_())
        self.layers = nn.ModuleList(QueryDecoderLayer(width, heads, dropout=dropout) for _ in range(layers))
        self.classify = init_classifier(nn.Linear(width, num_classes + 1))

    def forward(self, memory: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(B, h·w, width), (h, w) -> the last layer's answers (B, K, K + 1) and masks (B, K, h, w)"""
        tokens = self.class_tokens.repeat(memory.shape[0], 1, 1)
        for layer in self.layers[:-1]:
            tokens = layer(tokens, memory)
        tokens, scores = self.layers[-1].with_scores(tokens, memory)  # type: ignore[operator]
        return self.classify(tokens), scores.unflatten(2, size)

    def every_layer(self, memory: Tensor, size: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """The same of every layer."""
        tokens, found = self.class_tokens.repeat(memory.shape[0], 1, 1), []
        for layer in self.layers:
            tokens, scores = layer.with_scores(tokens, memory)  # type: ignore[operator]
            found.append((self.classify(tokens), scores.unflatten(2, size)))
        return found


class ShrunkSegViTDecoder(Decoder):
    """Queries of the full grid ask a shallow and the deepest feature, and class tokens ask them (the shrunk form, QU).
    -> logits at the image's size, as far as whole patches go.

    grid     (height, width) of the learned queries, or both in one; they are interpolated to the shallow feature's
    width, heads, layers, ignored   as `SegViTDecoder` has them
    """

    ignored: Ignored

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        grid: int | Sequence[int] = 40,
        width: int = 512,
        heads: int = 16,
        layers: int = 3,
        dropout: float = 0.1,
        ignored: Ignored = "excluded",
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(
                "the backbone has one feature; a shallow and a deep one are needed: give out_indices of two"
            )
        if layers < 1:
            raise ValueError(f"layers is {layers}; give 1 or more")
        self.stride, self.one_class, self.ignored = strides[-2], num_classes == 1, ignored
        self.queries = GridQueries((grid, grid) if isinstance(grid, int) else grid, width)
        self.stages = nn.ModuleList(Stage(c, width, heads, layers, dropout) for c in channels[-2:])
        self.masks = AttentionToMask(num_classes, width, heads, layers, dropout)

    def upsampled(self, features: Sequence[Tensor]) -> tuple[Tensor, tuple[int, int]]:
        """-> the queries of the shallow feature's grid when they have asked, (B, h·w, width), and (h, w)"""
        shallow = features[-2]
        size = (shallow.shape[-2], shallow.shape[-1])
        queries = self.queries(size, shallow.shape[0])
        for stage, feature in zip(self.stages, features[-2:], strict=True):
            queries = stage(queries, feature)
        return queries, size

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        answers, masks = self.masks(*self.upsampled(features))
        return semantic_logits(answers, enlarge(masks, self.stride), binary=self.one_class)

    def forward_train(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """ "logits" are the last layer's masks (B, K, h, w), "class_logits" (B, K, K + 1) its answers; "masks_0", … others'."""
        return supervised(self.masks.every_layer(*self.upsampled(features)))

    def objective(self) -> tuple[Term, ...]:
        return tuple(mask_objective(suffixes(len(self.masks.layers)), self.ignored, int(self.one_class)))


PAPER = Paper(
    title="SegViT: Semantic Segmentation with Plain Vision Transformers",
    authors="Zhang, Tian, Tang, Chu, Wei, Shen, Liu",
    venue="NeurIPS",
    year=2022,
    url="https://arxiv.org/abs/2210.05844",
    code="https://github.com/zbwxp/SegVit",
    code_licence="2-clause BSD for academic use; commercial: ask the authors",
)
# mmsegmentation's ViT as SegViT has it, apart from its size
PLAIN: Mapping[str, Any] = {"class_token": "unseen", "pool": "mean", "final_norm": False}
BASE = {**PLAIN, "image_size": 512, "drop_path": 0.1, "out_indices": (5, 7, 11)}
LARGE = {**PLAIN, "image_size": 640, "drop_path": 0.3, "out_indices": (7, 15, 23)}
SHRUNK = {**LARGE, "shrink": 8, "out_indices": (7, 23)}
# in the tiny form the taps are at the blocks that it has, and patches are small, as masks are no finer
TINY_PLAIN: Mapping[str, Any] = {**PLAIN, "embed_dim": 64, "depth": 4, "heads": 2, "patch": 8, "image_size": 64}
TINY = {"backbone_arguments": {**TINY_PLAIN, "out_indices": [1, 2, 3]}, "width": 64, "heads": 4, "layers": 2}
TINY_SHRUNK = {
    "backbone_arguments": {**TINY_PLAIN, "shrink": 2, "out_indices": [1, 3]},
    "width": 64,
    "heads": 4,
    "layers": 2,
    "grid": 8,
}
ADE = "ADE20K val mIoU (single scale)"
register_decoder(
    "segvit_vit_base",
    SegViTDecoder,
    Card(paper=PAPER, parameters=108.64, flops=120.9, flops_size=(512, 512), num_classes=150, scores={ADE: 51.3}),
    tiny=TINY,
    backbone="vit_base_patch16_384",
    backbone_arguments=BASE,
    width=384,
    heads=12,
)
register_decoder(
    "segvit_vit_large",
    SegViTDecoder,
    Card(paper=PAPER, flops=637.9, flops_size=(640, 640), num_classes=150, scores={ADE: 54.6}),
    tiny=TINY,
    backbone="vit_large_patch16_384",
    backbone_arguments=LARGE,
    width=512,
    heads=16,
)
register_decoder(
    "segvit_shrunk_vit_large",
    ShrunkSegViTDecoder,
    Card(paper=PAPER, flops=373.5, flops_size=(640, 640), num_classes=150, scores={ADE: 53.9}),
    tiny=TINY_SHRUNK,
    backbone="vit_large_patch16_384",
    backbone_arguments=SHRUNK,
)
