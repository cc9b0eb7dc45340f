"""MSCAN, the encoder of SegNeXt: attention made of long, thin convolutions.

The authors' code (Visual-Attention-Network/SegNeXt) and mmsegmentation, both Apache-2.0, have it too.  This file was written
from the paper and the layout of their weights.

A block weighs its input, element by element, with a map that strips of 7, 11 and 21 pixels, lying and then standing, have drawn
from a 5×5 neighbourhood: what a window of 21×21 sees at the cost of two lines (section 3.1).  The feed-forward network has a
3×3 depthwise convolution inside, as MiT's.

What the public code does and the paper does not say: every convolution has a bias, also before a batch norm; attention's
shortcut adds the normalised input, not the block's own; the layer norm behind a stage is part of the trunk: its output goes to
the decoder and to the next stage alike; the classifier of the pretraining sees the mean of the deepest map.
What we change: maps stay (B, C, H, W) throughout, without the way to tokens and back at every block.  `deploy` folds both batch
norms and both layer scales of a block into its 1×1 convolutions; of the first norm a factor on the shortcut is left.  The strips
stay: each pair has a bias and a zero border in its middle, so that one k×k kernel would not be equal, and would cost more.

Published (ImageNet top-1, encoders with their classifiers): T 75.9, S 81.1, B 83.0, L 83.9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones.staged import StagedBackbone
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.drop_path import DropPath, drop_path_rates
from segmentarium.layers.norm import LayerNorm2d
from segmentarium.registry import TOKENS, Card, Paper, register

STRIPS = (7, 11, 21)
EXPANSION = (8, 8, 4, 4)  # of the feed-forward networks, by stage


def depthwise(channels: int, kernel: tuple[int, int]) -> nn.Conv2d:
    """Of the same size, with a bias."""
    return nn.Conv2d(channels, channels, kernel, padding=(kernel[0] // 2, kernel[1] // 2), groups=channels)


class StripAttention(nn.Module):
    """Multi-scale convolutional attention (equations 1 and 2) between two 1×1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(channels, channels, 1)
        self.local = depthwise(channels, (5, 5))
        self.strips = nn.ModuleList(
            nn.Sequential(depthwise(channels, (1, k)), depthwise(channels, (k, 1))) for k in STRIPS
        )
        self.mix = nn.Conv2d(channels, channels, 1)
        self.project_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.project_in(x))
        local = self.local(x)
        context = local
        for strip in self.strips:
            context = context + strip(local)
        return self.project_out(self.mix(context) * x)


class MixFFN(nn.Module):
    """1×1, 3×3 depthwise, GELU, 1×1."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = depthwise(hidden, (3, 3))
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))


class Block(nn.Module):
    keep: Tensor  # (C, 1, 1), of the deployed form: what the first shortcut is multiplied by

    def __init__(self, channels: int, expansion: int, drop: float) -> None:
        super().__init__()
        self.norm1: nn.Module = nn.BatchNorm2d(channels)
        self.attention = StripAttention(channels)
        self.scale1 = nn.Parameter(torch.full((channels,), 0.01))
        self.norm2: nn.Module = nn.BatchNorm2d(channels)
        self.ffn = MixFFN(channels, expansion * channels)
        self.scale2 = nn.Parameter(torch.full((channels,), 0.01))
        self.drop_path = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.norm1, nn.Identity):
            x = torch.addcmul(self.attention(x), x, self.keep)
            return x + self.ffn(x)
        normed = self.norm1(x)
        x = x + self.drop_path(self.scale1[:, None, None] * (self.attention(normed) + normed))
        return x + self.drop_path(self.scale2[:, None, None] * self.ffn(self.norm2(x)))

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Norms and scales become part of the 1×1 convolutions: with n(x) = s x + t and the scale l,
        x + l (a(n(x)) + n(x)) = (1 + l s) x + l a(n(x)) + l t."""
        if isinstance(self.norm1, nn.Identity):
            return
        slope, shift = _into(self.norm1, self.attention.project_in)
        _scale(self.attention.project_out, self.scale1, shift)
        self.register_buffer("keep", (1 + self.scale1 * slope)[:, None, None])
        _into(self.norm2, self.ffn.fc1)
        _scale(self.ffn.fc2, self.scale2)
        self.norm1 = self.norm2 = nn.Identity()
        del self.scale1, self.scale2


def _into(norm: nn.Module, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Folds a batch norm into the 1×1 convolution behind it -> its factor and its shift, (C,) each."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert conv.bias is not None
    slope = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * slope
    conv.bias += conv.weight[:, :, 0, 0] @ shift
    conv.weight *= slope[:, None, None]
    return slope, shift


def _scale(conv: nn.Conv2d, scale: Tensor, shift: Tensor | float = 0.0) -> None:
    """scale * (conv + shift), as a convolution."""
    assert conv.bias is not None
    conv.weight *= scale[:, None, None, None]
    conv.bias.copy_(scale * (conv.bias + shift))


class Stage(nn.Module):
    """Down by two (the first: by four), blocks, and the norm after which the map goes to the decoder and the next stage alike."""

    def __init__(self, embedding: nn.Module, blocks: list[Block], channels: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.blocks = nn.Sequential(*blocks)
        self.norm = LayerNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks(self.embedding(x)))


def _down(in_channels: int, channels: int, act: type[nn.Module] | None = None) -> ConvNormAct:
    return ConvNormAct(in_channels, channels, 3, 2, bias=True, act=act)


class MSCAN(StagedBackbone):
    """MSCAN: features at 1/4, 1/8, 1/16 and 1/32.

    embed_dims, depths    channels and blocks of the four stages (table 2)
    drop_path             stochastic depth of the last block; it grows linearly from 0 at the first
    out_indices           which features come out: 0 to 3 for the strides 4 to 32
    num_classes           classes of `classify`, of the mean over the deepest feature; None: no classifier
    """

    def __init__(
        self,
        *,
        embed_dims: tuple[int, int, int, int] = (32, 64, 160, 256),
        depths: tuple[int, int, int, int] = (3, 3, 5, 2),
        in_channels: int = 3,
        drop_path: float = 0.1,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        stages = []
        for i, drops in enumerate(drop_path_rates(drop_path, tuple(depths))):
            channels = embed_dims[i]
            if i == 0:
                half = channels // 2
                embedding: nn.Module = nn.Sequential(_down(in_channels, half, nn.GELU), _down(half, channels))
            else:
                embedding = _down(embed_dims[i - 1], channels)
            stages.append(Stage(embedding, [Block(channels, EXPANSION[i], drop) for drop in drops], channels))
        self.stages = nn.ModuleList(stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        self.describe_stages(embed_dims, depths, out_indices)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """-> features of the four stages, as far as `out_indices` needs them"""
        features = []
        x = image
        for stage in self.stages[: self.out_indices[-1] + 1]:
            x = stage(x)
            features.append(x)
        return features

    def embed(self, image: Tensor) -> Tensor:
        x = image
        for stage in self.stages:
            x = stage(x)
        return x.mean((2, 3))


PAPER = Paper(
    title="SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation",
    authors="Guo, Lu, Hou, Liu, Cheng, Hu",
    venue="NeurIPS",
    year=2022,
    url="https://arxiv.org/abs/2209.08575",
    code="https://github.com/Visual-Attention-Network/SegNeXt",
    code_licence="Apache-2.0",
)

WIDE = (64, 128, 320, 512)
# channels, blocks, drop path, parameters in millions, ImageNet top-1
VARIANTS: dict[str, tuple[tuple[int, int, int, int], tuple[int, int, int, int], float, float, float]] = {
    "t": ((32, 64, 160, 256), (3, 3, 5, 2), 0.1, 4.2, 75.9),
    "s": (WIDE, (2, 2, 4, 2), 0.1, 14.0, 81.1),
    "b": (WIDE, (3, 3, 12, 3), 0.1, 26.8, 83.0),
    "l": (WIDE, (3, 5, 27, 3), 0.3, 45.2, 83.9),
}
TINY = {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
for size, (embed_dims, depths, drop_path, parameters, top1) in VARIANTS.items():
    card = Card(paper=PAPER, training=TOKENS, parameters=parameters, num_classes=1000, scores={"ImageNet top-1": top1})
    register(f"mscan_{size}", MSCAN, card, tiny=TINY, embed_dims=embed_dims, depths=depths, drop_path=drop_path)
