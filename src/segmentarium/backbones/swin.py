"""Swin Transformer: attention within windows that are shifted from block to block.

timm, torchvision, transformers, mmsegmentation and mmpretrain have it too.  This file was written from the paper.

Attention inside windows of 7×7 or 12×12 costs what the picture has pixels, not their square.  Every second block cuts the map
half a window further down and to the right, so that neighbours across borders meet: the map is rolled, and a mask parts what
came from the other end.  Where two places stand to each other is a learned bias, the same in all windows of a block.  Between
stages, 2×2 places are merged into one.

What the public code does and the paper does not say: maps are padded to whole windows, below and to the right, with zeros behind
the norm, which take part in the attention unmasked.  Merging takes a 2×2 patch column by column.  The authors' classifiers do
not shift a map that one window covers, their code for detection and segmentation does (`shift_all`).  timm rolls before it pads:
the same wherever the windows fit, another network elsewhere.  For dense use each feature has a norm of its own, which
classifiers' weights do not have.
What we change: a side that one window covers is not shifted, whatever the other has (the authors: neither is); at their sizes
both are the same.  Weights of another window are carried over by bicubic interpolation of the table, as theirs are.

Published: ImageNet top-1 81.3 (T), 83.0 (S), 83.5 (B), 84.5 (B at 384), with 28, 50, 88 and 88 M parameters; of ImageNet-22k's
weights 86.3 (L) and 87.3 (L at 384), with 197 M.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.contracts import Backbone
from segmentarium.layers.attention import Attention, attend
from segmentarium.layers.drop_path import drop_path_rates
from segmentarium.layers.init import init_truncated
from segmentarium.layers.mlp import MLP
from segmentarium.layers.norm import channels_first
from segmentarium.layers.patch_embed import PatchEmbedding
from segmentarium.layers.relative_positions import relative_index
from segmentarium.layers.resize import pad_to_multiple
from segmentarium.layers.transformer import TransformerBlock
from segmentarium.preprocessing import Preprocessing
from segmentarium.registry import TOKENS, Card, Paper, register

HEAD = 32  # channels of a head, in all variants
APART = -100.0  # added to what may not be seen, as everyone does


def roll(x: Tensor, dim: int, start: int) -> Tensor:
    """What stood at `start` along `dim` comes first, and what stood before it last.  start: 0 to the size, and unknown while a
    graph is exported, where it must not be asked."""
    size = x.shape[dim]
    if not torch.compiler.is_exporting():
        return x.roll(-start, dim) if start % size else x
    order = torch.cat([torch.arange(start, size, device=x.device), torch.arange(start, device=x.device)])
    return x.index_select(dim, order)


def window_mask(rows: int, columns: int, window: int, down: int, right: int, like: Tensor) -> Tensor:
    """(rows·columns, 1, N, N) for the N = window² places of each window: APART where two places of a map that was rolled up
    by `down` and to the left by `right` are no neighbours in the picture, else 0; of `like`'s type and device."""
    below = torch.arange(rows * window, device=like.device) - (rows * window - down) >= 0
    beside = torch.arange(columns * window, device=like.device) - (columns * window - right) >= 0
    part = 2 * below.to(like.dtype)[:, None] + beside.to(like.dtype)
    part = part.reshape(rows, window, columns, window).transpose(1, 2).reshape(rows * columns, 1, 1, window * window)
    return APART * (part != part.transpose(2, 3)).to(like.dtype)


def windows_along(side: int, window: int) -> int:
    """How many windows cover `side` places."""
    return (side + window - 1) // window


class WindowAttention(Attention):
    """Attention in windows of a map (sections 3.2), with a bias for each pair of places.

    shifted     rolls the map by half a window first
    shift_all   also along a side that a single window covers
    """

    def __init__(self, channels: int, heads: int, window: int, *, shifted: bool, shift_all: bool) -> None:
        super().__init__(channels, heads)
        self.window, self.shifted, self.shift_all = window, shifted, shift_all
        self.table: nn.Parameter | None = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.index: Tensor
        # reckoned on the processor: there are no numbers on the meta device, and trying to costs seconds
        index = relative_index(window, window, torch.device("cpu")).to(self.table.device)
        self.register_buffer("index", index, persistent=False)
        self.biases: Tensor

    def shift_of(self, windows: int) -> int:
        """By how much a side of so many windows is rolled; by arithmetic alone, since exports do not know the number."""
        by = self.window // 2 if self.shifted else 0
        return by if self.shift_all else by * (1 - 1 // windows)

    def mask(self, height: int, width: int, like: Tensor) -> Tensor | None:
        """What parts the rolled map of that size (`window_mask`); None where nothing is rolled."""
        rows, columns = windows_along(height, self.window), windows_along(width, self.window)
        down, right = self.shift_of(rows), self.shift_of(columns)
        if torch.compiler.is_exporting() or down or right:
            return window_mask(rows, columns, self.window, down, right, like)
        return None

    def bias(self) -> Tensor:
        """(heads, N, N): of each pair of places in a window."""
        if self.table is None:
            return self.biases
        return F.embedding(self.index, self.table).permute(2, 0, 1).contiguous()

    @torch.no_grad()
    def reparameterize(self) -> None:
        """The biases are looked up once for all."""
        self.register_buffer("biases", self.bias())
        self.table = None

    def carry(self, name: str, tensor: Tensor) -> Tensor:
        """The table of weights with another window, brought to this one's (the authors: bicubic, whole table at once)."""
        side, ours = round(tensor.shape[0] ** 0.5), 2 * self.window - 1
        if name != "table" or tensor.ndim != 2 or side * side != tensor.shape[0]:
            return tensor
        grid = tensor.float().t().reshape(1, -1, side, side)
        resized = F.interpolate(grid, (ours, ours), mode="bicubic", align_corners=False)
        return resized.flatten(2)[0].t().to(tensor.dtype)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, H, W, C), and the mask of a rolled map -> (B, H, W, C)"""
        batch, height, width, channels = x.shape
        window = self.window
        rows, columns = windows_along(height, window), windows_along(width, window)
        down, right = self.shift_of(rows), self.shift_of(columns)
        lower, wider = rows * window - height, columns * window - width
        if torch.compiler.is_exporting() or lower or wider:
            x = F.pad(x, (0, 0, 0, wider, 0, lower))
        if self.shifted:
            x = roll(roll(x, 1, down), 2, right)
        x = x.reshape(batch, rows, window, columns, window, channels).transpose(2, 3)
        query, key, value = self.qkv(x.reshape(batch * rows * columns, window * window, channels)).chunk(3, -1)
        bias = self.bias()
        if mask is not None:
            bias = (bias + mask).expand(batch, -1, -1, -1, -1).flatten(0, 1)
        x = self.proj(attend(query, key, value, self.heads, bias))
        x = x.reshape(batch, rows, columns, window, window, channels).transpose(2, 3)
        x = x.reshape(batch, rows * window, columns * window, channels)
        if self.shifted:
            x = roll(roll(x, 1, rows * window - down), 2, columns * window - right)
        return x[:, :height, :width]


class PatchMerging(nn.Module):
    """2×2 places to one of twice the channels (section 3.1); an odd side is padded with zeros."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H / 2, W / 2, 2 C)"""
        batch, height, width, channels = x.shape
        rows, columns = windows_along(height, 2), windows_along(width, 2)
        if torch.compiler.is_exporting() or height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, 2 * columns - width, 0, 2 * rows - height))
        # the two of the left column, then those of the right one
        x = x.reshape(batch, rows, 2, columns, 2, channels).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x))


class Stage(nn.Module):
    """Merging, but for the first, and blocks, every second of them with shifted windows."""

    def __init__(self, channels: int, drops: list[float], *, merges: bool, window: int, shift_all: bool) -> None:
        super().__init__()
        self.merge = PatchMerging(channels // 2) if merges else nn.Identity()
        blocks = []
        for i, drop in enumerate(drops):
            attention = WindowAttention(channels, channels // HEAD, window, shifted=i % 2 == 1, shift_all=shift_all)
            blocks.append(TransformerBlock(channels, attention, MLP(channels, 4 * channels), drop_path=drop, eps=1e-5))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same, or (B, H / 2, W / 2, 2 C)"""
        x = self.merge(x)
        mask = self.blocks[1].attention.mask(*x.shape[1:3], x) if len(self.blocks) > 1 else None  # type: ignore
        for i, block in enumerate(self.blocks):
            x = block(x, mask if i % 2 else None)
        return x


class SwinTransformer(Backbone):
    """Swin: features at 1/4, 1/8, 1/16 and 1/32.

    embed_dim     channels of the first stage, a multiple of 32; each stage has twice those of the one before
    depths        blocks of the four stages (section 3.3)
    window        side of a window, in places of each stage's map: 7 for weights of 224 pixels, 12 for 384
    shift_all     maps that one window covers are shifted, too, as the authors' code for detection and segmentation, and
                  mmsegmentation, do
    drop_path     stochastic depth of the last block; it grows linearly from 0 at the first.  T has 0.2, S 0.3, B 0.5, and L,
                  which was pretrained on more, 0.2
    out_indices   which features come out: 0 to 3 for the strides 4 to 32; each has a norm where there is no classifier
    num_classes   classes of `classify`, of the mean over the last stage; None: no classifier, and no stages behind the deepest
                  of `out_indices`
    """

    def __init__(
        self,
        *,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        window: int = 7,
        shift_all: bool = False,
        in_channels: int = 3,
        drop_path: float = 0.2,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if embed_dim < HEAD or embed_dim % HEAD or window < 2:
            raise ValueError(f"embed_dim is {embed_dim}, window {window}; give a multiple of {HEAD}, and 2 or more")
        widths = [embed_dim * 2**i for i in range(4)]
        deepest = 3 if num_classes is not None else max(out_indices, default=3)
        drops = drop_path_rates(drop_path, tuple(depths))
        self.embedding = PatchEmbedding(in_channels, embed_dim, 4, norm=nn.LayerNorm)
        self.stages = nn.ModuleList(
            Stage(width, drops[i], merges=i > 0, window=window, shift_all=shift_all)
            for i, width in enumerate(widths[: deepest + 1])
        )
        init_truncated(self.stages)
        normed = out_indices if num_classes is None else (3,)
        self.norms = nn.ModuleList(
            nn.LayerNorm(width) if i in normed else nn.Identity() for i, width in enumerate(widths[: deepest + 1])
        )
        self.describe(widths, (4, 8, 16, 32), out_indices)
        self.preprocessing = Preprocessing(crop_size=32 * window)
        self._depths = tuple(depths)
        self.num_layers = sum(depths[: deepest + 1]) + 1

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """-> features of the stages, up to the deepest of `out_indices`"""
        x = self.embedding(pad_to_multiple(image, 4))
        features = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)
            features.append(channels_first(norm(x)))
        return features

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith("attention.table")}

    def not_pretrained(self) -> set[str]:
        """The norms of the features before the last, which no classifier has."""
        return {f"norms.{i}.{kind}" for i in self.out_indices if i < 3 for kind in ("weight", "bias")}

    def layer_of(self, name: str) -> int:
        """A layer is a block; merging stands below the first block of its stage, a stage's norm with its last."""
        part, number, *inner = name.split(".")
        if part in ("embedding", "classifier"):
            return 0 if part == "embedding" else self.num_layers
        below = sum(self._depths[: int(number)])
        if part == "norms":
            return below + self._depths[int(number)]
        return below + (int(inner[1]) + 1 if inner[0] == "blocks" else 0)


PAPER = Paper(
    title="Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
    authors="Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo",
    venue="ICCV",
    year=2021,
    url="https://arxiv.org/abs/2103.14030",
    code="https://github.com/microsoft/Swin-Transformer",
    code_licence="MIT",
)


def _card(parameters: float, flops: float, side: int, top1: float, *, pretrained: bool = False) -> Card:
    return Card(
        paper=PAPER,
        training=TOKENS,
        parameters=parameters,
        flops=flops,
        flops_size=(side, side),
        num_classes=1000,
        scores={"ImageNet top-1, pretrained on ImageNet-22k" if pretrained else "ImageNet top-1": top1},
    )


TINY = {"embed_dim": 32, "depths": [2, 1, 2, 1]}
# channels, blocks, drop path
T, S = (96, (2, 2, 6, 2), 0.2), (96, (2, 2, 18, 2), 0.3)
B, L = (128, (2, 2, 18, 2), 0.5), (192, (2, 2, 18, 2), 0.2)
for name, (embed_dim, depths, drop_path), card in (
    ("swin_t", T, _card(28.3, 4.5, 224, 81.3)),
    ("swin_s", S, _card(49.6, 8.7, 224, 83.0)),
    ("swin_b", B, _card(87.8, 15.4, 224, 83.5)),
    ("swin_l", L, _card(196.5, 34.5, 224, 86.3, pretrained=True)),
):
    register(name, SwinTransformer, card, embed_dim=embed_dim, depths=depths, drop_path=drop_path, tiny=TINY)
for name, (embed_dim, depths, drop_path), card in (
    ("swin_b_384", B, _card(87.9, 47.0, 384, 84.5)),
    ("swin_l_384", L, _card(196.7, 103.9, 384, 87.3, pretrained=True)),
):
    register(name, SwinTransformer, card, embed_dim=embed_dim, depths=depths, drop_path=drop_path, window=12, tiny=TINY)
