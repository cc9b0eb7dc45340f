"""MLP-Mixer: patches are mixed by feed-forward networks alone, across places and across channels by turns.

The authors' code and weights are Apache-2.0; timm and mmpretrain (both Apache-2.0) hold them.

A block has two feed-forward networks, each with a layer norm over the channels before it and a shortcut.  The first mixes the
places of each channel, with the same weights for all channels; the second mixes the channels of each place.  There are no
positions, because the first knows each place by its weights.

What the code does and the paper does not say: the classifier sees the mean of normed tokens; mmpretrain's layer norms have an
epsilon of 1e-5 where the others' have 1e-6.
What we change: nothing.  Limit: it takes the one size that it was built for (`image_size`), since the weights over the places are
as many as those; neither authors nor timm carry weights to another grid.

Published (parameters without the classifier, in millions): S/32 19, S/16 18, B/32 60, B/16 59, L/32 206, L/16 207, H/14 431.
ImageNet top-1 of the public weights in timm's measurement: B/16 76.62, L/16 72.08.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segmentarium.backbones.plain import PlainBackbone, grid_of, two
from segmentarium.layers.drop_path import DropPath, drop_path_rates
from segmentarium.layers.init import init_truncated
from segmentarium.layers.mlp import MLP
from segmentarium.layers.patch_embed import PatchEmbedding
from segmentarium.preprocessing import Preprocessing
from segmentarium.registry import TOKENS, Card, Paper, register


class MixerBlock(nn.Module):
    """Across places, then across channels (equation 1)."""

    def __init__(
        self, channels: int, places: int, place_hidden: int, hidden: int, drop_path: float, eps: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=eps)
        self.place_mlp = MLP(places, place_hidden)
        self.norm2 = nn.LayerNorm(channels, eps=eps)
        self.channel_mlp = MLP(channels, hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)"""
        x = x + self.drop_path(self.place_mlp(self.norm1(x).transpose(1, 2))).transpose(1, 2)
        return x + self.drop_path(self.channel_mlp(self.norm2(x)))


class MLPMixer(PlainBackbone):
    """MLP-Mixer: features of the patches' stride, all of `embed_dim` channels.

    place_hidden   width of the hidden layers over places
    hidden         of those over channels
    patch          side of a patch in pixels, the stride of all features
    image_size     (height, width) that it takes, or both in one
    norm_eps       epsilon of the layer norms
    drop_path      stochastic depth of the last block; it grows linearly from 0 at the first
    out_indices    blocks whose features come out; None: four in equal steps, up to the last
    num_classes    classes of `classify`, of the mean over all places; None: no classifier
    """

    prefix_tokens = 0

    def __init__(
        self,
        *,
        embed_dim: int = 768,
        depth: int = 12,
        place_hidden: int = 384,
        hidden: int = 3072,
        patch: int = 16,
        image_size: int | Sequence[int] = 224,
        norm_eps: float = 1e-6,
        in_channels: int = 3,
        drop_path: float = 0.0,
        out_indices: Sequence[int] | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        rows, columns = grid_of(image_size, patch)
        self.fixed_size = height, width = two(image_size)
        half = (0.5, 0.5, 0.5)
        self.preprocessing = Preprocessing(half, half, crop_size=height if height == width else None, crop_ratio=0.875)
        self.embedding = PatchEmbedding(in_channels, embed_dim, patch)
        (drops,) = drop_path_rates(drop_path, (depth,))
        self.blocks = nn.ModuleList(
            MixerBlock(embed_dim, rows * columns, place_hidden, hidden, drop, norm_eps) for drop in drops
        )
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        init_truncated(self.embedding, self.blocks)
        self.describe_blocks(embed_dim, patch, out_indices)

    def embed_patches(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        self.require_size(image)
        patches = self.embedding(image)
        return patches.flatten(1, 2), (patches.shape[1], patches.shape[2])

    def embed(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D): the mean over all places behind the final norm"""
        ((grid, _),) = self.forward_tokens(image, (len(self.blocks) - 1,))
        return grid.mean((2, 3))


PAPER = Paper(
    title="MLP-Mixer: An all-MLP Architecture for Vision",
    authors="Tolstikhin, Houlsby, Kolesnikov, Beyer, Zhai, Unterthiner, Yung, Steiner, Keysers, Uszkoreit, Lucic, Dosovitskiy",
    venue="NeurIPS",
    year=2021,
    url="https://arxiv.org/abs/2105.01601",
    code="https://github.com/google-research/vision_transformer",
    code_licence="Apache-2.0",
)
# channels, blocks, hidden layers over places and channels (table 1)
SIZES = {
    "s": (512, 8, 256, 2048),
    "b": (768, 12, 384, 3072),
    "l": (1024, 24, 512, 4096),
    "h": (1280, 32, 640, 5120),
}
TINY = {"embed_dim": 32, "depth": 4, "place_hidden": 16, "hidden": 64, "patch": 16, "image_size": 64}
# size, patch, parameters in millions with 1000 classes, 1e9 multiply-adds (timm's), ImageNet top-1
for _size, _patch, _parameters, _flops, _top1 in (
    ("s", 32, 19.10, 1.00, None),
    ("s", 16, 18.53, 3.79, None),
    ("b", 32, 60.29, 3.24, None),
    ("b", 16, 59.88, 12.62, 76.62),
    ("l", 32, 206.94, 11.27, None),
    ("l", 16, 208.20, 44.60, 72.08),
    ("h", 14, 432.0, None, None),
):
    _channels, _depth, _place_hidden, _hidden = SIZES[_size]
    register(
        f"mlp_mixer_{_size}{_patch}",
        MLPMixer,
        Card(
            paper=PAPER,
            training=TOKENS,
            parameters=_parameters,
            flops=_flops,
            flops_size=(224, 224) if _flops else None,
            num_classes=1000,
            scores={"ImageNet top-1": _top1} if _top1 else {},
        ),
        tiny=TINY,
        embed_dim=_channels,
        depth=_depth,
        place_hidden=_place_hidden,
        hidden=_hidden,
        patch=_patch,
    )
