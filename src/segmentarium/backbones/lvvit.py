"""LV-ViT, a vision transformer that is trained by token labeling.

The authors' code (Apache-2.0) stands on timm.  This file was written from the paper, and from the code for what it leaves open.

Four convolutions make the patches, residual branches are divided by a number of 1 to 3, and in training every patch is
classified, too: an annotator, a strong classifier, says what is where, and the patches' logits are held against that
(losses/token_labels.py).  MixToken is CutMix behind the patch embedding: a rectangle of patches comes from another picture of
the batch, so that no patch shows two pictures; its logits are put back where they belong.

What the public code does and the paper does not say: at evaluation the logits are those of the class token and half of the
greatest of the patches', class by class; queries, keys and values have no bias; the patches' loss weighs as much as the class
token's (the paper has half, `token_weight=0.5`); without a map every patch has the picture's label; positions go to other sizes
bicubically, without antialiasing.
What we change: any image size, padded to whole patches; the last block's feature passes the final norm, which the authors'
segmentation networks leave out (`final_norm=False`; their L does not divide its branches, either).

Published (ImageNet top-1): T 79.1, S 83.3 (384 pixels: 84.4), M 84.0 (384: 85.4, 448: 85.5), L 86.2 at 448, 86.4 at 512.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmentarium.backbones.plain import PlainBackbone, grid_of, two
from segmentarium.contracts import Term
from segmentarium.layers.attention import Attention
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.drop_path import drop_path_rates
from segmentarium.layers.init import init_truncated
from segmentarium.layers.mlp import MLP
from segmentarium.layers.patch_embed import PatchEmbedding
from segmentarium.layers.positions import resize_positions
from segmentarium.layers.resize import pad_to_multiple
from segmentarium.layers.transformer import TransformerBlock
from segmentarium.losses import MixedLabelCrossEntropy, TokenLabelCrossEntropy
from segmentarium.preprocessing import Preprocessing
from segmentarium.registry import TOKENS, Card, Paper, register

PATCH = 16
Box = tuple[int, int, int, int]  # top, left, bottom, right, of patches


class Block(TransformerBlock):
    """A transformer block whose branches are divided by `divisor` before they are added."""

    def __init__(self, channels: int, heads: int, divisor: float, drop_path: float) -> None:
        attention = Attention(channels, heads, qkv_bias=False)
        super().__init__(channels, attention, MLP(channels, 3 * channels), drop_path=drop_path, eps=1e-5)
        self.divisor = divisor

    def forward(self, x: Tensor, *context: Tensor | None) -> Tensor:
        share = 1 / self.divisor
        x = torch.add(x, self.drop_path(self.attention(self.norm1(x))), alpha=share)
        return torch.add(x, self.drop_path(self.mlp(self.norm2(x))), alpha=share)

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Divides the branches' last layers instead."""
        for layer in (self.attention.proj, self.mlp.fc2):
            assert isinstance(layer, nn.Linear)
            layer.weight.div_(self.divisor)
            layer.bias.div_(self.divisor)
        self.divisor = 1.0


class TokenLabelHead(nn.Module):
    """Two linear layers: one scores the class token, the other each patch."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels, num_classes)
        self.patches = nn.Linear(channels, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 1 + N, D) -> (B, K): the class token's scores and half of the greatest of the patches'"""
        return self.first(tokens[:, 0]) + 0.5 * self.patches(tokens[:, 1:]).amax(1)


def mix_patches(patches: Tensor, box: Box) -> Tensor:
    """(B, h, w, D), the patches in the box from the picture in the place of each when the batch is turned round.  Twice is once
    too many: it puts them back."""
    top, left, bottom, right = box
    mixed = patches.clone()
    mixed[:, top:bottom, left:right] = patches[:, top:bottom, left:right].flip(0)
    return mixed


def draw_box(height: int, width: int) -> Box:
    """CutMix's rectangle (1905.04899) on a grid of patches: its share of the area even in 0..1, its centre anywhere, cut off at
    the edges."""
    share, y, x = torch.rand(3).tolist()
    rows, columns = (int(side * share**0.5) // 2 for side in (height, width))
    y, x = int(y * height), int(x * width)
    return max(y - rows, 0), max(x - columns, 0), min(y + rows, height), min(x + columns, width)


class LVViT(PlainBackbone):
    """LV-ViT: features of stride 16, all of `embed_dim` channels.

    stem          channels of the first three convolutions
    divisor       of residual branches
    image_size    (height, width) that the table of positions is for, or both in one; it is interpolated to others
    drop_path     stochastic depth of the last block; it grows linearly from 0 at the first
    mix_token     whether MixToken mixes the pictures of a training batch
    token_weight  of the patches' loss beside the class token's
    final_norm    whether the last block's feature passes the final norm
    ground_truth  whether people's label counts beside the annotator's for the class token
    out_indices   blocks whose features come out; None: four in equal steps, up to the last
    num_classes   classes of `classify`; None: no classifier
    """

    def __init__(
        self,
        *,
        embed_dim: int = 384,
        depth: int = 16,
        heads: int = 6,
        stem: int = 64,
        divisor: float = 2.0,
        image_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        drop_path: float = 0.1,
        mix_token: bool = True,
        token_weight: float = 1.0,
        ground_truth: bool = False,
        final_norm: bool = True,
        out_indices: Sequence[int] | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        self.mix_token, self.token_weight, self.ground_truth = mix_token, token_weight, ground_truth
        self.grid = rows, columns = grid_of(image_size, PATCH)
        height, width = two(image_size)
        whole = embed_dim >= 512  # M and L are shown whole squares
        self.preprocessing = Preprocessing(
            crop_size=height if height == width else None, crop_ratio=1.0 if whole else 0.9
        )
        self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.positions = nn.Parameter(torch.zeros(1, 1 + rows * columns, embed_dim))
        self.stem = nn.Sequential(
            ConvNormAct(in_channels, stem, 7, 2), ConvNormAct(stem, stem), ConvNormAct(stem, stem)
        )
        self.embedding = PatchEmbedding(stem, embed_dim, PATCH // 2)
        (drops,) = drop_path_rates(drop_path, (depth,))
        self.blocks = nn.ModuleList(Block(embed_dim, heads, divisor, drop) for drop in drops)
        self.norm_last = final_norm
        self.norm = nn.LayerNorm(embed_dim) if final_norm or num_classes is not None else nn.Identity()
        init_truncated(self.blocks)
        for table in (self.class_token, self.positions):
            nn.init.trunc_normal_(table, std=0.02)
        head = None if num_classes is None else TokenLabelHead(embed_dim, num_classes)
        self.describe_blocks(embed_dim, PATCH, out_indices, head)

    def _patches(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, h, w, D)"""
        return self.embedding(self.stem(pad_to_multiple(image, PATCH)))

    def _tokens(self, patches: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, 1 + h·w, D), with the class token and positions"""
        first = self.class_token.expand(patches.shape[0], -1, -1)
        tokens = torch.cat([first, patches.flatten(1, 2)], 1)
        return tokens + resize_positions(self.positions, self.grid, patches.shape[1:3], prefix=1, antialias=False)

    def embed_patches(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        patches = self._patches(image)
        return self._tokens(patches), (patches.shape[1], patches.shape[2])

    def _last(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """The tokens of a grid of `size` patches behind all blocks and the norm."""
        return self.norm(self.run_blocks(tokens, size, (len(self.blocks) - 1,))[0])

    def classify(self, image: Tensor) -> Tensor:
        if self.classifier is None:
            return super().classify(image)  # which says so
        return self.classifier(self._last(*self.embed_patches(image)))

    def classify_train(self, image: Tensor, box: Box | None = None) -> dict[str, Tensor]:
        """-> "logits" (B, K) of the class token, "tokens" (B, h·w, K) of the patches, each under the picture that it shows, and
        "kept", the share of the patches that are the picture's own.

        box  of MixToken; None: drawn in training, none else
        """
        assert isinstance(self.classifier, TokenLabelHead)
        patches = self._patches(image)
        height, width = patches.shape[1:3]
        if box is None:
            box = draw_box(height, width) if self.training and self.mix_token else (0, 0, 0, 0)
        top, left, bottom, right = box
        area = (bottom - top) * (right - left)
        tokens = self._last(self._tokens(mix_patches(patches, box) if area else patches), (height, width))
        scores = self.classifier.patches(tokens[:, 1:])
        if area:
            scores = mix_patches(scores.unflatten(1, (height, width)), box).flatten(1, 2)
        kept = torch.tensor(1 - area / (height * width), device=image.device)
        return {"logits": self.classifier.first(tokens[:, 0]), "tokens": scores, "kept": kept}

    def objective(self) -> tuple[Term, ...]:
        """The class token against the picture's label, and each patch against its own."""
        token, patch = MixedLabelCrossEntropy(self.ground_truth), TokenLabelCrossEntropy()
        return (
            Term("class", 1.0, token, of=("logits", "kept"), on="label", at="as is"),
            Term("tokens", self.token_weight, patch, of=("tokens",), on="label", at="as is"),
        )

    def no_weight_decay(self) -> set[str]:
        return {"class_token", "positions"}


PAPER = Paper(
    title="All Tokens Matter: Token Labeling for Training Better Vision Transformers",
    authors="Jiang, Hou, Yuan, Zhou, Shi, Jin, Wang, Feng",
    venue="NeurIPS",
    year=2021,
    url="https://arxiv.org/abs/2104.10858",
    code="https://github.com/zihangJiang/TokenLabeling",
    code_licence="Apache-2.0",
)
# channels, blocks, heads, stem, divisor, drop path
SIZES = {
    "t": (240, 12, 4, 64, 1.0, 0.1),
    "s": (384, 16, 6, 64, 2.0, 0.1),
    "m": (512, 20, 8, 64, 2.0, 0.2),
    "l": (768, 24, 12, 128, 3.0, 0.3),
}
TINY = {"embed_dim": 48, "depth": 4, "heads": 3, "stem": 8, "image_size": 64}
# size, image, parameters in millions, ImageNet top-1 (README)
for _size, _image, _parameters, _top1 in (
    ("t", 224, 8.53, 79.1),
    ("s", 224, 26.15, 83.3),
    ("s", 384, 26.30, 84.4),
    ("m", 224, 55.83, 84.0),
    ("m", 384, 56.03, 85.4),
    ("m", 448, 56.13, 85.5),
    ("l", 448, 150.47, 86.2),
    ("l", 512, 150.66, 86.4),
):
    _channels, _depth, _heads, _stem, _divisor, _drop = SIZES[_size]
    register(
        f"lvvit_{_size}" if _image == 224 or (_size, _image) == ("l", 448) else f"lvvit_{_size}_{_image}",
        LVViT,
        Card(
            paper=PAPER,
            training=TOKENS,
            parameters=_parameters,
            flops=6.55 if (_size, _image) == ("s", 224) else None,  # as counted in the authors' code
            flops_size=(224, 224) if (_size, _image) == ("s", 224) else None,
            num_classes=1000,
            scores={"ImageNet top-1": _top1},
        ),
        tiny=TINY,
        embed_dim=_channels,
        depth=_depth,
        heads=_heads,
        stem=_stem,
        divisor=_divisor,
        image_size=_image,
        drop_path=_drop,
    )
