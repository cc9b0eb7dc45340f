"""EAMLP: a vision transformer with multi-head external attention in place of self-attention, so linear layers alone.

The authors' code (Clear BSD) is that of T2T-ViT with its attention exchanged.  This file was written from the papers, and from
the code for what they leave open.

Patches overlap: three times a map is cut into windows of 7×7, 3×3 and 3×3 pixels, whose contents are the tokens, and between
the cuts the tokens see each other through an external attention of one head (T2T-ViT, 2101.11986, section 3.1).  Then follow
blocks of multi-head external attention and feed-forward networks (layers/external_attention.py).

What the public code does and the papers do not say: a token block's first shortcut starts behind its first linear layer; its
attention and what leaves it have a dropout of 0.1; the single head has 128 memory units, and both its memories start with the
same numbers; positions are a fixed table of sines and cosines by the number of the patch.
What we change: any image size, with the table of positions interpolated (theirs takes squares, of one size); a shared key bias
that the softmax over the patches makes ineffective stays, since public weights have it.

Published: the weights EAMLP-7-384, ImageNet top-1 71.7.  The larger networks are in the public code, without weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones.plain import PlainBackbone, grid_of, two
from segmentarium.layers.drop_path import drop_path_rates
from segmentarium.layers.external_attention import MultiHeadExternalAttention, compose, normalise_twice, tie
from segmentarium.layers.init import init_truncated
from segmentarium.layers.mlp import MLP
from segmentarium.layers.norm import channels_first
from segmentarium.layers.positions import resize_positions
from segmentarium.layers.resize import pad_to_multiple
from segmentarium.layers.transformer import TransformerBlock
from segmentarium.preprocessing import Preprocessing
from segmentarium.registry import TOKENS, Card, Paper, register

STRIDE = 16
WIDTH = 64  # channels of the token blocks


def sinusoids(count: int, channels: int) -> Tensor:
    """(1, count, channels): sines in even channels, cosines in odd ones, of place / 10000^(2·⌊c/2⌋ / channels)
    (1706.03762, section 3.5)."""
    channel = np.arange(channels)
    angle = np.arange(count)[:, None] / 10000 ** (2 * (channel // 2) / channels)
    table = np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))
    return torch.tensor(table[None], dtype=torch.float32)


class SoftSplit(nn.Module):
    """Overlapping windows of a map become the channels of a smaller one (T2T-ViT's soft split)."""

    def __init__(self, window: int, stride: int, padding: int) -> None:
        super().__init__()
        self.window, self.stride, self.padding = window, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H / stride, W / stride, C · window²) for sides that the stride divides"""
        height, width = x.shape[-2] // self.stride, x.shape[-1] // self.stride
        windows = F.unfold(x, self.window, padding=self.padding, stride=self.stride)
        return windows.transpose(1, 2).unflatten(1, (height, width))


class TokenBlock(nn.Module):
    """External attention with one head, which changes the width, and a feed-forward network."""

    proj: nn.Module

    def __init__(self, in_channels: int, channels: int, units: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(in_channels)
        self.query = nn.Linear(in_channels, channels)
        self.key = nn.Linear(channels, units, bias=False)
        self.value = nn.Linear(units, channels)
        self.proj = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, channels)
        init_truncated(self)
        tie(self.value, self.key)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, in_channels) -> (B, H, W, channels)"""
        query = self.query(self.norm1(x))
        weights = normalise_twice(self.key(query).flatten(1, 2), 1, 2)  # (B, HW, units)
        seen = self.dropout(self.proj(self.value(self.dropout(weights))))
        x = query + seen.unflatten(1, x.shape[1:3])
        return x + self.mlp(self.norm2(x))

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Takes the projection into the values."""
        if isinstance(self.proj, nn.Linear):
            self.value, self.proj = compose(self.proj, self.value), nn.Identity()


class EAMLP(PlainBackbone):
    """EAMLP: features of stride 16, all of `embed_dim` channels.

    mlp_ratio    width of the feed-forward networks' hidden layers, as a multiple of `embed_dim`
    image_size   (height, width) that the table of positions is made for, or both in one; it is interpolated to others
    drop_path    stochastic depth of the last block; it grows linearly from 0 at the first
    out_indices  blocks whose features come out; None: four in equal steps, up to the last
    num_classes  classes of `classify`, of the class token; None: no classifier
    """

    positions: Tensor

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        depth: int = 7,
        heads: int = 4,
        mlp_ratio: int = 2,
        image_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        drop_path: float = 0.1,
        out_indices: Sequence[int] | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        self.grid = rows, columns = grid_of(image_size, STRIDE)
        height, width = two(image_size)
        self.preprocessing = Preprocessing(crop_size=height if height == width else None, crop_ratio=0.9)
        self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.register_buffer("positions", sinusoids(1 + rows * columns, embed_dim), persistent=False)
        self.splits = nn.ModuleList((SoftSplit(7, 4, 2), SoftSplit(3, 2, 1), SoftSplit(3, 2, 1)))
        self.token_blocks = nn.ModuleList((TokenBlock(49 * in_channels, WIDTH), TokenBlock(9 * WIDTH, WIDTH)))
        self.project = nn.Linear(9 * WIDTH, embed_dim)
        (drops,) = drop_path_rates(drop_path, (depth,))
        self.blocks = nn.ModuleList(
            TransformerBlock(
                embed_dim,
                MultiHeadExternalAttention(embed_dim, heads),
                MLP(embed_dim, mlp_ratio * embed_dim),
                drop_path=drop,
                eps=1e-5,
            )
            for drop in drops
        )
        self.norm = nn.LayerNorm(embed_dim)
        init_truncated(self.project, self.blocks)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        self.describe_blocks(embed_dim, STRIDE, out_indices)

    def embed_patches(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = pad_to_multiple(image, STRIDE)
        for split, block in zip(self.splits, self.token_blocks, strict=False):
            x = channels_first(block(split(x)))
        patches = self.project(self.splits[-1](x))  # (B, h, w, D)
        size = patches.shape[1], patches.shape[2]
        first = self.class_token.expand(patches.shape[0], -1, -1)
        tokens = torch.cat([first, patches.flatten(1, 2)], 1)
        return tokens + resize_positions(self.positions, self.grid, size, prefix=1), size

    def no_weight_decay(self) -> set[str]:
        return {"class_token"}


PAPER = Paper(
    title="Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks",
    authors="Guo, Liu, Mu, Hu",
    venue="TPAMI",
    year=2022,
    url="https://arxiv.org/abs/2105.02358",
    code="https://github.com/MenghaoGuo/EANet",
    code_licence="Clear BSD (folder EAMLP; none stated for the rest)",
)
TINY = {"embed_dim": 32, "depth": 4, "heads": 2, "image_size": 64}
# channels, blocks, heads, ratio; parameters in millions and 1e9 multiply-adds as counted in the authors' code at 224 pixels, with
# the table of positions among the parameters
VARIANTS = {
    7: (256, 7, 4, 2, 6.15, 1.465),
    10: (256, 10, 4, 2, None, None),
    12: (256, 12, 4, 2, None, None),
    14: (384, 14, 6, 3, 29.88, 6.45),
    19: (448, 19, 7, 3, None, None),
    24: (512, 24, 8, 3, None, None),
}
for _depth, (_channels, _, _heads, _ratio, _parameters, _flops) in VARIANTS.items():
    for _image in (224, 384) if _depth == 7 else (224,):
        register(
            f"eamlp_{_depth}" if _image == 224 else f"eamlp_{_depth}_{_image}",
            EAMLP,
            Card(
                paper=PAPER,
                training=TOKENS,
                parameters=_parameters,
                flops=_flops if _image == 224 else None,
                flops_size=(224, 224) if _flops and _image == 224 else None,
                num_classes=1000,
                scores={"ImageNet top-1": 71.7} if _image == 384 else {},
            ),
            tiny=TINY,
            embed_dim=_channels,
            depth=_depth,
            heads=_heads,
            mlp_ratio=_ratio,
            image_size=_image,
        )
