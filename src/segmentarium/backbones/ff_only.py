"""FF-only: a vision transformer whose attention is a feed-forward network over the patches.

"Do You Even Need Attention?"; the authors' PyTorch code stands on timm and DeiT.  This file was written from the paper, and from
the code for what it leaves open.

A block is two feed-forward networks, each with a norm before it and a shortcut: the first over the channels of each token, the
second over the tokens of each channel.

What the public code does and the paper does not say: the channels come first; the second norm is taken over the tokens, unlike
MLP-Mixer's; the class token is mixed like any patch; its own position and the patches' are tables, the latter of 14×14, which
is resized bilinearly to the patches, so that the large network (7×7 patches of 32 pixels) has a table four times as large.
What we change: `image_size` may be another than 224, which is a constant in the authors' code.  The networks over the tokens
have one weight for each pair of places, so that a network takes the one size that it was built for; weights of one size fit no
other.

Published (ImageNet top-1, README): tiny 61.4 with 7.7 M parameters, base 74.9 with 62 M, large 71.4 with 206 M.  Trained by
DeiT's recipe with a dropout of 0.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmentarium.backbones.plain import PlainBackbone, grid_of, two
from segmentarium.layers.drop_path import DropPath, drop_path_rates
from segmentarium.layers.init import init_truncated
from segmentarium.layers.mlp import MLP
from segmentarium.layers.norm import channels_last
from segmentarium.layers.patch_embed import PatchEmbedding
from segmentarium.layers.resize import resize
from segmentarium.preprocessing import Preprocessing
from segmentarium.registry import TOKENS, Card, Paper, register


class Block(nn.Module):
    """Over the channels, then over the tokens (figure 1)."""

    def __init__(self, channels: int, tokens: int, dropout: float, drop_path: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=eps)
        self.channel_mlp = MLP(channels, 4 * channels, dropout=dropout)
        self.norm2 = nn.LayerNorm(tokens, eps=eps)
        self.token_mlp = MLP(tokens, 4 * tokens, dropout=dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)"""
        x = x + self.drop_path(self.channel_mlp(self.norm1(x)))
        return x + self.drop_path(self.token_mlp(self.norm2(x.transpose(1, 2)))).transpose(1, 2)


class FFOnly(PlainBackbone):
    """Feed-forward networks alone: features of the patches' stride, all of `embed_dim` channels.

    patch          side of a patch in pixels, the stride of all features
    image_size     (height, width) that it takes, or both in one
    position_grid  (rows, columns) of the table of positions
    dropout        in training, of positions and feed-forward networks
    drop_path      stochastic depth of the last block; it grows linearly from 0 at the first
    out_indices    blocks whose features come out; None: four in equal steps, up to the last
    num_classes    classes of `classify`, of the class token; None: no classifier
    """

    def __init__(
        self,
        *,
        embed_dim: int = 192,
        depth: int = 12,
        patch: int = 16,
        image_size: int | Sequence[int] = 224,
        position_grid: Sequence[int] = (14, 14),
        in_channels: int = 3,
        dropout: float = 0.1,
        drop_path: float = 0.1,
        norm_eps: float = 1e-6,
        out_indices: Sequence[int] | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        rows, columns = grid_of(image_size, patch)
        self.fixed_size = height, width = two(image_size)
        self.preprocessing = Preprocessing(crop_size=height if height == width else None, crop_ratio=0.875)
        self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.class_position = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.positions = nn.Parameter(torch.zeros(1, embed_dim, *position_grid))
        self.embedding = PatchEmbedding(in_channels, embed_dim, patch)
        self.dropout = nn.Dropout(dropout)
        tokens, (drops,) = 1 + rows * columns, drop_path_rates(drop_path, (depth,))
        self.blocks = nn.ModuleList(Block(embed_dim, tokens, dropout, drop, norm_eps) for drop in drops)
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        init_truncated(self.blocks)
        for table in (self.class_token, self.class_position, self.positions):
            nn.init.trunc_normal_(table, std=0.02)
        self.describe_blocks(embed_dim, patch, out_indices)

    def embed_patches(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        assert self.fixed_size is not None
        if tuple(image.shape[-2:]) != self.fixed_size:
            height, width = self.fixed_size
            raise ValueError(
                f"the image is {image.shape[-2]}×{image.shape[-1]}; this network takes {height}×{width} only, because its "
                "layers over the patches have a weight for each: resize the image, or build it with image_size"
            )
        patches = self.embedding(image)  # (B, h, w, D)
        size = patches.shape[1], patches.shape[2]
        patches = (patches + channels_last(resize(self.positions, size))).flatten(1, 2)
        first = (self.class_token + self.class_position).expand(patches.shape[0], -1, -1)
        return self.dropout(torch.cat([first, patches], 1)), size

    def no_weight_decay(self) -> set[str]:
        return {"class_token", "class_position", "positions"}


PAPER = Paper(
    title="Do You Even Need Attention? A Stack of Feed-Forward Layers Does Surprisingly Well on ImageNet",
    authors="Melas-Kyriazi",
    venue="arXiv",
    year=2021,
    url="https://arxiv.org/abs/2105.02723",
    code="https://github.com/lukemelas/do-you-even-need-attention",
    code_licence="none stated",
)
TINY = {"embed_dim": 32, "depth": 4, "image_size": 64, "position_grid": [4, 4]}
# channels, blocks, patch; parameters in millions and ImageNet top-1 (README); 1e9 multiply-adds as counted in the author's code
VARIANTS = {
    "tiny": (192, 12, 16, 7.7, 61.4, 1.44),
    "base": (768, 12, 16, 62.0, 74.9, 14.13),
    "large": (1024, 24, 32, 206.0, 71.4, None),
}
for _size, (_channels, _depth, _patch, _parameters, _top1, _flops) in VARIANTS.items():
    _card = Card(
        paper=PAPER,
        training=TOKENS,
        parameters=_parameters,
        flops=_flops,
        flops_size=(224, 224) if _flops else None,
        num_classes=1000,
        scores={"ImageNet top-1": _top1},
    )
    register(f"ff_only_{_size}", FFOnly, _card, tiny=TINY, embed_dim=_channels, depth=_depth, patch=_patch)
