"""Vision Transformer (ViT): an image is a sentence of patches, read by a plain transformer.

The authors' code and weights are Apache-2.0; the weights of their follow-up "How to train your ViT" (2106.10270) are what is used
today.  timm (Apache-2.0), torchvision (BSD-3), transformers, mmpretrain and mmsegmentation (Apache-2.0) hold them.

The image is cut into patches, each one becomes a token by one linear layer, a learned table says where it stands, and a class
token in front collects what the classifier reads.  Nothing else knows that there are two dimensions.  At another size than it was
trained at, the table is interpolated as a picture of the grid (section 3.2).

What the code does and the paper does not say: the classifier of the public fine-tuned weights is a single linear layer; the
implementations differ in the epsilon of their layer norms, and in how they interpolate the table (here and in timm bicubically
with antialiasing; without in mmsegmentation and transformers).  Register tokens (2309.16588) have no positions.
What we change: any size of an image is taken, padded below and to the right to whole patches, and the features are maps: of four
blocks in equal steps unless others are named.  `shrink` is SegViT's (2210.05844, section 3.3): at that block only every second
token in both directions asks, so that it and all behind it have a quarter of the tokens, and the weights are the same.

Published (ImageNet top-1, fine-tuned from ImageNet-21k at 384 pixels, timm's measurement): Ti/16 78.4 (5.8 M parameters),
S/16 83.8 (22 M), B/16 86.0 (86 M), L/16 87.1 (307 M); H/14 88.55 from JFT-300M at 518 (632 M).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segmentarium.backbones.plain import PlainBackbone, grid_of, two
from segmentarium.layers.attention import Attention
from segmentarium.layers.drop_path import drop_path_rates
from segmentarium.layers.init import init_truncated
from segmentarium.layers.mlp import MLP
from segmentarium.layers.patch_embed import PatchEmbedding
from segmentarium.layers.positions import resize_positions
from segmentarium.layers.resize import pad_to_multiple
from segmentarium.layers.transformer import TransformerBlock
from segmentarium.preprocessing import Preprocessing
from segmentarium.registry import TOKENS, Card, Paper, register

HALF = (0.5, 0.5, 0.5)


def every_second(tokens: Tensor, size: tuple[int, int], prefix: int = 0) -> Tensor:
    """(B, P + h·w, D) -> (B, P + ⌈h/2⌉·⌈w/2⌉, D): every second token of the grid `size` in both directions, from the first on"""
    grid = tokens[:, prefix:].unflatten(1, size)[:, ::2, ::2].flatten(1, 2)
    return torch.cat([tokens[:, :prefix], grid], 1) if prefix else grid


class VisionTransformer(PlainBackbone):
    """ViT: features of the patches' stride, all of `embed_dim` channels.

    patch           side of a patch in pixels (behind a stem: in its pixels)
    patch_bias      whether the patches' convolution has a bias: mmsegmentation 1.x makes networks without, whose published files
                    have one
    image_size      (height, width) that the table of positions is for, or both in one; it is interpolated to others
    class_token     False: there is none, and `pool` must be "mean"; "unseen": it and its row are kept with the weights, and no
                    block sees them (mmsegmentation's `with_cls_token=False`)
    registers       tokens between class token and patches that belong to nothing
    class_position  whether the class token has a row in the table of positions
    distilled       a second token behind the class token, with a row of its own, that learned from a teacher (DeiT, 2012.12877,
                    whose pictures are normalised as ImageNet's)
    pool            what the classifier sees, behind the final norm: "token" the class token, "mean" the mean of the patches
    layer_scale     at which factors of the residual branches start; None: there are none
    norm_eps        epsilon of the layer norms: 1e-6 is the authors', timm's and torchvision's, 1e-12 transformers'
    drop_path       stochastic depth of the last block; it grows linearly from 0 at the first
    final_norm      whether the last block's feature passes the final norm (Segmenter, SETR), or comes as it is (DPT, UPerNet)
    interpolation   of the table at another size: "bilinear" is DPT's and Segmenter's
    antialias       how the table is interpolated: with antialiasing as in timm, or without (mmsegmentation, transformers)
    stem            a network before the patches, with `channels` and `stride`; None: the patches are the image's
    shrink          block from which on every second token stays, in both directions; None: all stay
    out_indices     blocks whose features come out; None: four in equal steps, up to the last
    num_classes     classes of `classify`; None: no classifier
    """

    def __init__(
        self,
        *,
        embed_dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        patch: int = 16,
        patch_bias: bool = True,
        image_size: int | Sequence[int] = 224,
        class_token: bool | Literal["unseen"] = True,
        registers: int = 0,
        class_position: bool = True,
        distilled: bool = False,
        pool: Literal["token", "mean"] = "token",
        layer_scale: float | None = None,
        norm_eps: float = 1e-6,
        in_channels: int = 3,
        drop_path: float = 0.0,
        final_norm: bool = True,
        interpolation: Literal["bicubic", "bilinear"] = "bicubic",
        antialias: bool = True,
        stem: Any = None,
        shrink: int | None = None,
        out_indices: Sequence[int] | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if class_token not in (True, False, "unseen"):
            raise ValueError(f"class_token is {class_token!r}; give True, False or 'unseen'")
        if pool == "token" and class_token is not True:
            raise ValueError(
                f'pool is "token" and class_token is {class_token!r}; give pool="mean" where there is no class token'
            )
        if distilled and not (class_token is True and class_position):
            raise ValueError(
                "distilled is True: its token stands behind a class token that has a position; leave those on"
            )
        if shrink is not None and shrink not in range(depth):
            raise ValueError(f"shrink is {shrink}; give a block, 0 to {depth - 1}, or None")
        self.pool, self.norm_last, self.shrink = pool, final_norm, shrink
        self.resizing: dict[str, Any] = {"mode": interpolation, "antialias": antialias}
        self._token_seen = class_token is True
        self.prefix_tokens = int(self._token_seen) + int(distilled) + registers
        self._placed = int(bool(class_token) and class_position) + int(distilled)  # rows before those of the patches
        channels, self.stride = (in_channels, patch) if stem is None else (stem.channels, stem.stride * patch)
        self.grid = rows, columns = grid_of(image_size, self.stride)
        height, width = two(image_size)
        square, ratio = height if height == width else None, 0.9 if height < 384 else 1.0
        pixels = Preprocessing() if distilled else Preprocessing(HALF, HALF)
        self.preprocessing = replace(pixels, crop_size=square, crop_ratio=ratio)
        self.stem = stem
        self.embedding = PatchEmbedding(channels, embed_dim, patch, bias=patch_bias)
        if class_token == "unseen":
            self.register_buffer("class_token", torch.zeros(1, 1, embed_dim))
        else:
            self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if distilled else None
        self.registers = nn.Parameter(torch.zeros(1, registers, embed_dim)) if registers else None
        self.positions = nn.Parameter(torch.zeros(1, self._placed + rows * columns, embed_dim))
        (drops,) = drop_path_rates(drop_path, (depth,))
        self.blocks = nn.ModuleList(
            TransformerBlock(
                embed_dim,
                Attention(embed_dim, heads),
                MLP(embed_dim, 4 * embed_dim),
                drop_path=drop,
                layer_scale=layer_scale,
                eps=norm_eps,
            )
            for drop in drops
        )
        normed = final_norm or num_classes is not None
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps) if normed else nn.Identity()
        init_truncated(self.embedding, self.blocks)
        for table in (self.class_token, self.distillation_token, self.registers, self.positions):
            if isinstance(table, nn.Parameter):
                nn.init.trunc_normal_(table, std=0.02)
        self.describe_blocks(embed_dim, self.stride, out_indices)

    def place(self, patches: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, P + h·w, D): the patches where they stand, behind class token and registers"""
        size, placed = patches.shape[1:3], self._placed
        table = resize_positions(self.positions, self.grid, size, prefix=placed, **self.resizing)
        tokens = patches.flatten(1, 2) + table[:, placed:]
        first = []
        if self._token_seen:
            assert self.class_token is not None
            first = [self.class_token + table[:, :1] if placed else self.class_token]
        first += [] if self.distillation_token is None else [self.distillation_token + table[:, 1:2]]
        first += [] if self.registers is None else [self.registers]
        return torch.cat([*(x.expand(tokens.shape[0], -1, -1) for x in first), tokens], 1) if first else tokens

    def embed_patches(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        image = pad_to_multiple(image, self.stride)
        patches = self.embedding(image if self.stem is None else self.stem(image))
        return self.place(patches), (patches.shape[1], patches.shape[2])

    def size_behind(self, index: int, size: tuple[int, int]) -> tuple[int, int]:
        if self.shrink is None or index < self.shrink:
            return size
        return (size[0] + 1) // 2, (size[1] + 1) // 2

    def run_block(self, index: int, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        if index != self.shrink:
            return self.blocks[index](tokens)
        block = self.blocks[index]
        assert isinstance(block, TransformerBlock)
        return block.shrink(tokens, partial(every_second, size=size, prefix=self.prefix_tokens))

    def embed(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D): the class token, or the mean of the patches, behind all blocks and the final norm"""
        tokens, size = self.embed_patches(image)
        (last,) = self.run_blocks(tokens, size, (len(self.blocks) - 1,))
        pooled = last[:, 0] if self.pool == "token" else last[:, self.prefix_tokens :].mean(1)
        return self.norm(pooled)

    def carry(self, name: str, tensor: Tensor) -> Tensor:
        """The table of positions of weights of another, square, grid for this one; other tensors as they are."""
        side = math.isqrt(max(tensor.shape[1] - self._placed, 0)) if name == "positions" and tensor.ndim == 3 else 0
        if side == 0 or side * side + self._placed != tensor.shape[1]:
            return tensor
        return resize_positions(tensor, (side, side), self.grid, prefix=self._placed, **self.resizing)

    def receive(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the final norm, where there is none here."""
        bare = not isinstance(self.norm, nn.LayerNorm)
        return {key: tensor for key, tensor in state.items() if not (bare and key.startswith("norm."))}

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters(recurse=False)}


PAPER = Paper(
    title="An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
    authors="Dosovitskiy, Beyer, Kolesnikov, Weissenborn, Zhai, Unterthiner, Dehghani, Minderer, Heigold, Gelly, Uszkoreit, "
    "Houlsby",
    venue="ICLR",
    year=2021,
    url="https://arxiv.org/abs/2010.11929",
    code="https://github.com/google-research/vision_transformer",
    code_licence="Apache-2.0",
)
# channels, blocks, heads (table 1 there, and table 2 of 2106.10270)
SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
TINY = {"embed_dim": 32, "depth": 4, "heads": 2, "patch": 16, "image_size": 64}
TOP1, FROM_JFT = "ImageNet top-1 (from ImageNet-21k)", "ImageNet top-1 (from JFT-300M, at 518)"
# size, patch, image, parameters in millions, 1e9 multiply-adds with those of the attention (torchvision's count), scores.  The
# authors round parameters to whole sizes; where that is more than 2 % off they are timm's
for _size, _patch, _image, _parameters, _flops, _scores in (
    ("tiny", 16, 224, 5.8, None, {TOP1: 75.45}),
    ("tiny", 16, 384, 5.8, None, {TOP1: 78.44}),
    ("small", 32, 224, 22.88, None, {TOP1: 76.01}),
    ("small", 32, 384, 22.92, None, {TOP1: 80.48}),
    ("small", 16, 224, 22.2, None, {TOP1: 81.40}),
    ("small", 16, 384, 22.2, None, {TOP1: 83.81}),
    ("base", 32, 224, 88.22, 4.409, {TOP1: 80.73}),
    ("base", 32, 384, 88.30, None, {TOP1: 83.36}),
    ("base", 16, 224, 86.57, 17.564, {TOP1: 84.53}),
    ("base", 16, 384, 86.86, None, {TOP1: 86.01}),
    ("base", 8, 224, 86.58, None, {TOP1: 85.84}),
    ("large", 32, 224, 307.0, 15.378, {}),
    ("large", 32, 384, 307.0, None, {TOP1: 81.51}),
    ("large", 16, 224, 307.0, 61.555, {TOP1: 85.86}),
    ("large", 16, 384, 307.0, None, {TOP1: 87.10}),
    ("huge", 14, 224, 632.0, None, {FROM_JFT: 88.55}),
):
    _channels, _depth, _heads = SIZES[_size]
    register(
        f"vit_{_size}_patch{_patch}_{_image}",
        VisionTransformer,
        Card(
            paper=PAPER,
            training=TOKENS,
            parameters=_parameters,
            flops=_flops,
            flops_size=(_image, _image) if _flops else None,
            num_classes=1000,
            scores=_scores,
        ),
        tiny=TINY,
        embed_dim=_channels,
        depth=_depth,
        heads=_heads,
        patch=_patch,
        image_size=_image,
    )
