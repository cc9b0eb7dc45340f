"""Mix Transformer (MiT), the encoder of SegFormer.

mmsegmentation and transformers (both Apache-2.0) have it too.  This file was written from the paper.

Four stages of blocks on overlapping patches.  Attention is made affordable by reducing keys and values in space, and needs no
positional encoding: the 3×3 depthwise convolution inside the feed-forward network leaks position through its zero padding.

Where the public code differs from the paper we follow the code: the hidden layer of the feed-forward network is 4 times as wide
everywhere (table 6 has 8 in some stages).  The implementations differ in the epsilon of their layer norms (`norm_eps`).
What we change: tokens stay (B, H, W, C) throughout, which is the memory of a channels-last map, so that convolutions and linear
layers alternate without a copy.  Limit: a torch.export program takes sides of 61 pixels or more, below which the reduced map of
the first stage is one wide; eager PyTorch and ONNX take 32.

Published (encoders alone): 3.4, 13.1, 24.2, 44.0, 60.8, 81.4 M parameters for B0 to B5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones.staged import StagedBackbone
from segmentarium.layers.attention import attend
from segmentarium.layers.drop_path import DropPath, drop_path_rates
from segmentarium.layers.norm import channels_first, channels_last
from segmentarium.layers.patch_embed import PatchEmbedding
from segmentarium.registry import TOKENS, Card, Paper, register


class EfficientSelfAttention(nn.Module):
    """Every position asks, one in reduction² answers (equation 2): a strided convolution shortens keys and values."""

    def __init__(self, channels: int, heads: int, reduction: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.reduce = nn.Conv2d(channels, channels, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(channels, eps=eps) if reduction > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)"""
        tokens = x.flatten(1, 2)  # (B, HW, C)
        short = tokens if self.reduce is None else self.norm(self.reduce(channels_first(x)).flatten(2).transpose(1, 2))
        key, value = self.kv(short).chunk(2, -1)  # (B, HW / reduction², C) each
        return self.proj(attend(self.q(tokens), key, value, self.heads)).unflatten(1, x.shape[1:3])


class MixFFN(nn.Module):
    """The feed-forward network with a 3×3 depthwise convolution inside, which stands in for positions (equation 3)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)"""
        return self.fc2(F.gelu(channels_last(self.dwconv(channels_first(self.fc1(x))))))


class Block(nn.Module):
    def __init__(self, channels: int, heads: int, reduction: int, drop: float, norm_eps: tuple[float, float]) -> None:
        super().__init__()
        eps, inner_eps = norm_eps
        self.norm1 = nn.LayerNorm(channels, eps=eps)
        self.attention = EfficientSelfAttention(channels, heads, reduction, inner_eps)
        self.norm2 = nn.LayerNorm(channels, eps=eps)
        self.ffn = MixFFN(channels, 4 * channels)
        self.drop_path = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))


class Stage(nn.Module):
    """Patch embedding, blocks, and the norm after which the map goes to the decoder and to the next stage alike."""

    def __init__(self, embedding: PatchEmbedding, blocks: list[Block], channels: int, eps: float) -> None:
        super().__init__()
        self.embedding = embedding
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return channels_first(self.norm(self.blocks(self.embedding(x))))


class MixTransformer(StagedBackbone):
    """MiT: features at 1/4, 1/8, 1/16 and 1/32.

    embed_dims, depths    channels and blocks of the four stages (table 6)
    drop_path             stochastic depth of the last block; it grows linearly from 0 at the first
    out_indices           which features come out: 0 to 3 for the strides 4 to 32
    num_classes           classes of `classify`, of the mean over the deepest feature as in the authors' pretraining; None: no
                          classifier
    norm_eps              epsilon of the layer norms: of blocks and stages, and of embeddings and reduced keys.  (1e-6, 1e-5) is
                          the authors', (1e-6, 1e-6) mmsegmentation's, (1e-5, 1e-5) transformers'
    """

    def __init__(
        self,
        *,
        embed_dims: tuple[int, int, int, int] = (32, 64, 160, 256),
        depths: tuple[int, int, int, int] = (2, 2, 2, 2),
        in_channels: int = 3,
        drop_path: float = 0.1,
        norm_eps: tuple[float, float] = (1e-6, 1e-5),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        eps, inner_eps = norm_eps
        drops = drop_path_rates(drop_path, tuple(depths))
        stages = []
        widths = (in_channels, *embed_dims)
        for i, (heads, reduction) in enumerate(((1, 8), (2, 4), (5, 2), (8, 1))):
            channels = embed_dims[i]
            patch, stride = (7, 4) if i == 0 else (3, 2)
            # patches overlap, so that neighbours stay continuous (section 3.1)
            norm = partial(nn.LayerNorm, eps=inner_eps)
            embedding = PatchEmbedding(widths[i], channels, patch, stride, norm=norm)
            blocks = [Block(channels, heads, reduction, drop, (eps, inner_eps)) for drop in drops[i]]
            stages.append(Stage(embedding, blocks, channels, eps))
        self.stages = nn.ModuleList(stages)
        self._initialise()
        self.describe_stages(embed_dims, depths, out_indices)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """-> features of the four stages"""
        features = []
        x = image
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


PAPER = Paper(
    title="SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
    authors="Xie, Wang, Yu, Anandkumar, Alvarez, Luo",
    venue="NeurIPS",
    year=2021,
    url="https://arxiv.org/abs/2105.15203",
    code="https://github.com/NVlabs/SegFormer",
    code_licence="NVIDIA Source Code License for SegFormer (non-commercial)",
)

# Table 6: channels and blocks of the four stages; parameters of the encoder alone, in millions (table 1a)
VARIANTS: dict[str, tuple[tuple[int, int, int, int], tuple[int, int, int, int], float]] = {
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2), 3.4),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2), 13.1),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3), 24.2),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3), 44.0),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3), 60.8),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3), 81.4),
}
for size, (embed_dims, depths, _) in VARIANTS.items():
    card = Card(paper=PAPER, training=TOKENS, num_classes=1000)
    register(f"mit_{size}", MixTransformer, card, embed_dims=embed_dims, depths=depths)
