"""Segmenter: a plain transformer classifies its patches; a second, small one lets classes and patches talk first.

The authors' code is MIT; mmsegmentation (Apache-2.0) has it too, and the weights of both load.

The linear decoder is one linear layer on the last block's tokens, behind the final norm.  The mask transformer puts a learned
embedding of each class behind the patches' tokens, runs two more blocks over all of them, and scores a patch for a class by the
product of what became of both: the classes are its queries, and each makes a mask.

What the code does and the paper does not say: patches and classes are projected and scaled to length one before the product
(the paper divides it by √D), and a layer norm goes over the scores of a patch; all layer norms have an epsilon of 1e-5,
mmsegmentation's encoder 1e-6; positions are interpolated bilinearly, in mmsegmentation bicubically.  The authors' code resizes
positions only where the count of patches differs, so that a picture of 4×9 patches reads a table of 6×6 row by row: not here.
A picture is padded to whole patches, and its scores are cropped.
What we change: the decoder's dropout acts in its feed-forward layers, not in its attention.  One class is the difference of two,
for the norm over the scores of a single one would leave nothing.  On other backbones than a plain transformer the decoder takes
the deepest feature.

Published (ADE20K val, single and multi-scale): mask transformer Ti/16 38.1, 38.8, S/16 45.3, 46.9, B/16 48.5, 50.0, L/16 51.8,
53.6; linear B/8 49.5, 50.5; DeiT-B/16 linear 47.1, mask 48.7.  Cityscapes L/16 79.1, 81.3, Pascal-Context L/16 58.1, 59.0.
The authors': SGD, momentum 0.9, no weight decay, polynomial decay of power 0.9 down to 1e-5, stochastic depth 0.1, random scales
of 0.5 to 2: ADE20K batch of 8, 160 000 iterations, rate 1e-3, crops and windows of 512 (L: 640); Cityscapes batch of 8, 80 000,
1e-2, crops of 768, windows of 768 every 512; Pascal-Context batch of 16, 80 000, 1e-3, windows of 480 every 320.
`inference.windows.sliding(..., window, window - stride, "mean", spread=False)` is their sliding window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder
from segmentarium.layers.attention import Attention
from segmentarium.layers.init import init_classifier, init_truncated
from segmentarium.layers.mlp import MLP
from segmentarium.layers.transformer import TransformerBlock
from segmentarium.registry import Card, Paper


class LinearDecoder(Decoder):
    """One linear layer on the deepest feature.  -> logits at its stride."""

    final_norm = True

    def __init__(self, *, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.covers = strides[-1]
        self.classifier = init_classifier(nn.Linear(channels[-1], num_classes))

    def forward(self, features: Sequence[Tensor], *prefix: Sequence[Tensor | None]) -> Tensor:
        return self.classifier(features[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MaskTransformer(Decoder):
    """Classes among the patches (section 3.2.2).  -> logits at the deepest feature's stride.

    decoder_channels  of its blocks, whose heads have 64 each; None: the feature's
    depth             its blocks
    dropout           in their feed-forward layers
    """

    final_norm = True

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        decoder_channels: int | None = None,
        depth: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.covers = strides[-1]
        width = decoder_channels or channels[-1]
        heads = next(heads for heads in range(max(width // 64, 1), 0, -1) if width % heads == 0)
        self.single = num_classes == 1
        labels = max(num_classes, 2)
        self.project = nn.Linear(channels[-1], width)
        self.class_embeddings = nn.Parameter(torch.empty(1, labels, width))
        self.blocks = nn.ModuleList(
            TransformerBlock(width, Attention(width, heads), MLP(width, 4 * width, dropout=dropout), eps=1e-5)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.project_patches = nn.Linear(width, width, bias=False)
        self.project_classes = nn.Linear(width, width, bias=False)
        self.mask_norm = nn.LayerNorm(labels)
        init_truncated(self.project, self.blocks)
        nn.init.trunc_normal_(self.class_embeddings, std=0.02)
        for layer in (self.project_patches, self.project_classes):
            nn.init.normal_(layer.weight, std=width**-0.5)

    def forward(self, features: Sequence[Tensor], *prefix: Sequence[Tensor | None]) -> Tensor:
        x = self.project(features[-1].permute(0, 2, 3, 1))
        size = x.shape[1:3]
        labels = self.class_embeddings.shape[1]
        x = torch.cat([x.flatten(1, 2), self.class_embeddings.expand(x.shape[0], -1, -1)], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        patches = F.normalize(self.project_patches(x[:, :-labels]), dim=-1)
        classes = F.normalize(self.project_classes(x[:, -labels:]), dim=-1)
        masks = self.mask_norm(patches @ classes.mT).unflatten(1, size).permute(0, 3, 1, 2)
        return masks[:, 1:] - masks[:, :1] if self.single else masks


PAPER = Paper(
    title="Segmenter: Transformer for Semantic Segmentation",
    authors="Strudel, Garcia, Laptev, Schmid",
    venue="ICCV",
    year=2021,
    url="https://arxiv.org/abs/2105.05633",
    code="https://github.com/rstrudel/segmenter",
    code_licence="MIT",
)
LOUD = {
    "start": "the norm over a patch's scores gives them a deviation of 1 from the first step, as in the authors' code"
}
AUTHORS = {"image_size": 512, "norm_eps": 1e-5, "interpolation": "bilinear", "antialias": False, "drop_path": 0.1}
DEIT = {**AUTHORS, "distilled": True}
ADE, MMSEG = "ADE20K val mIoU (single scale)", "ADE20K val mIoU (single scale, mmsegmentation)"
# name, decoder, backbone, what that has beside the authors' way, scores
for _name, _decoder, _backbone, _arguments, _scores in (
    ("tiny", MaskTransformer, "vit_tiny_patch16_384", AUTHORS, {ADE: 38.1, MMSEG: 39.99}),
    ("small", MaskTransformer, "vit_small_patch16_384", AUTHORS, {ADE: 45.3, MMSEG: 46.19}),
    ("base", MaskTransformer, "vit_base_patch16_384", AUTHORS, {ADE: 48.5, MMSEG: 49.6}),
    ("large", MaskTransformer, "vit_large_patch16_384", {**AUTHORS, "image_size": 640}, {ADE: 51.8, MMSEG: 52.16}),
    ("deit_base", MaskTransformer, "vit_base_patch16_384", DEIT, {ADE: 48.7}),
    ("small_linear", LinearDecoder, "vit_small_patch16_384", AUTHORS, {MMSEG: 45.75}),
    ("base8_linear", LinearDecoder, "vit_base_patch8_224", AUTHORS, {ADE: 49.5}),
    ("deit_base_linear", LinearDecoder, "vit_base_patch16_384", DEIT, {ADE: 47.1}),
):
    register_decoder(
        f"segmenter_{_name}",
        _decoder,
        Card(paper=PAPER, num_classes=150, scores=_scores, limits=LOUD if _decoder is MaskTransformer else {}),
        backbone=_backbone,
        backbone_arguments=_arguments,
    )
