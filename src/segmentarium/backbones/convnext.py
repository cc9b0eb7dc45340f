"""ConvNeXt: a ResNet that was brought, step by step, to what makes a Swin transformer good, and stayed a convolutional network.

Weights of the authors (MIT), timm (Apache-2.0), torchvision (BSD-3), transformers, mmpretrain and mmsegmentation (Apache-2.0)
load.

Four stages.  The image is cut into patches of 4×4, and a stage begins with patches of 2×2 of the map before it.  A block filters
each channel in a window of 7×7, normalises over the channels, widens four times, GELU, narrows, and adds what it has, times a
learned factor for each channel, to its input.  There is one activation and one norm in a block, where a ResNet has three.

What the code does and the paper does not say: for dense prediction each feature has a layer norm of its own (`output_norms`:
authors, mmsegmentation, mmdetection; timm has none); the classifier's norm follows the pooling; layer-wise learning rates count
three blocks as one layer.
What we change: linear layers and norms see a map in channels-last memory through views, so that nothing is copied; sides that a
patch does not divide are padded below and to the right, where the public code cuts them off; `deploy` folds the factors into the
layer before.  Atto to Nano are timm's.

Published (ImageNet top-1 at 224, parameters, multiply-adds): T 82.1, 29 M, 4.5 G; S 83.1, 50 M, 8.7 G; B 83.8, 89 M, 15.4 G;
L 84.3, 198 M, 34.4 G; from ImageNet-22k: T 82.9, S 84.6, B 85.8, L 86.6, XL 87.0, 350 M, 60.9 G.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segmentarium.contracts import Backbone, Preprocessing
from segmentarium.layers.drop_path import DropPath, drop_path_rates
from segmentarium.layers.init import init_truncated
from segmentarium.layers.mlp import MLP
from segmentarium.layers.norm import LayerNorm2d, channels_first, channels_last
from segmentarium.layers.resize import pad_to_multiple
from segmentarium.layers.transformer import LayerScale
from segmentarium.registry import TOKENS, Card, Paper, register

BLOCKS_A_LAYER = 3  # in the sense of layer-wise learning rates


class Block(nn.Module):
    """7×7 depthwise, norm, 1×1 to four times the channels, GELU, 1×1 back, factors; and the input (figure 4)."""

    def __init__(self, channels: int, layer_scale: float, drop_path: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = MLP(channels, 4 * channels)
        self.scale: nn.Module = LayerScale(channels, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        branch = self.scale(self.mlp(self.norm(channels_last(self.depthwise(x)))))
        return x + self.drop_path(channels_first(branch))

    def reparameterize(self) -> None:
        """Folds the factors into the layer before them."""
        if isinstance(self.scale, LayerScale):
            self.scale = self.scale.fold_into(self.mlp.fc2)


class Patches(nn.Module):
    """A strided convolution whose patches do not overlap, and a norm: after it in the stem, before it between stages."""

    def __init__(self, in_channels: int, channels: int, patch: int, *, norm_first: bool) -> None:
        super().__init__()
        self.patch, self.norm_first = patch, norm_first
        self.norm = LayerNorm2d(in_channels if norm_first else channels, eps=1e-6)
        self.proj = nn.Conv2d(in_channels, channels, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, channels, ceil(H / patch), ceil(W / patch))"""
        if self.norm_first:
            return self.proj(pad_to_multiple(self.norm(x), self.patch))
        return self.norm(self.proj(pad_to_multiple(x, self.patch)))


class Stage(nn.Module):
    def __init__(self, embedding: Patches, blocks: list[Block]) -> None:
        super().__init__()
        self.embedding = embedding
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.embedding(x))


class ConvNeXt(Backbone):
    """ConvNeXt: features at 1/4, 1/8, 1/16 and 1/32.

    dims, depths    channels and blocks of the four stages
    layer_scale     at which the factors of the residual branches start
    drop_path       stochastic depth of the last block; it grows linearly from 0 at the first.  T, S, B and L have 0.1, 0.4,
                    0.5 and 0.5 (table 5); the others, which the table lacks, 0.1
    output_norms    each feature passes a layer norm of its own, as in the authors' segmentation networks
    out_indices     which features come out: 0 to 3 for the strides 4 to 32
    num_classes     classes of `classify`: 1000, or 21841 of ImageNet-22k; None: no classifier
    """

    preprocessing = Preprocessing(crop_size=224, crop_ratio=0.875)

    def __init__(
        self,
        *,
        dims: tuple[int, int, int, int] = (96, 192, 384, 768),
        depths: tuple[int, int, int, int] = (3, 3, 9, 3),
        layer_scale: float = 1e-6,
        in_channels: int = 3,
        drop_path: float = 0.1,
        output_norms: bool = False,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        drops = drop_path_rates(drop_path, tuple(depths))
        self.stages = nn.ModuleList()
        for i, (channels, rates) in enumerate(zip(dims, drops, strict=True)):
            before, patch = (in_channels, 4) if i == 0 else (dims[i - 1], 2)
            embedding = Patches(before, channels, patch, norm_first=i > 0)
            self.stages.append(Stage(embedding, [Block(channels, layer_scale, rate) for rate in rates]))
        init_truncated(self)
        self.norms = nn.ModuleDict()
        self.norm = None if num_classes is None else nn.LayerNorm(dims[-1], eps=1e-6)
        self.describe(dims, (4, 8, 16, 32), out_indices)
        for index in self.out_indices if output_norms else ():
            self.norms[str(index)] = LayerNorm2d(dims[index], eps=1e-6)
        self._depths = tuple(depths)
        self.num_layers = -(-sum(depths) // BLOCKS_A_LAYER) + 1

    def _maps(self, image: Tensor) -> list[Tensor]:
        features, x = [], image
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """-> features of the four stages; those of `out_indices` normed, where that is asked for"""
        features = self._maps(image)
        for index, norm in self.norms.items():
            features[int(index)] = norm(features[int(index)])
        return features

    def embed(self, image: Tensor) -> Tensor:
        mean = self._maps(image)[-1].mean((2, 3))
        return mean if self.norm is None else self.norm(mean)

    def not_pretrained(self) -> set[str]:
        return {f"norms.{name}" for name, _ in self.norms.named_parameters()}

    def layer_of(self, name: str) -> int:
        """Three blocks are a layer, counted through all stages; patches stand with the first block behind them, norms of
        features with the classifier."""
        parts = name.split(".")
        if parts[0] != "stages":
            return self.num_layers
        stage = int(parts[1])
        if parts[2] == "embedding" and stage == 0:
            return 0
        within = int(parts[3]) if parts[2] == "blocks" else 0
        return (sum(self._depths[:stage]) + within) // BLOCKS_A_LAYER + 1


PAPER = Paper(
    title="A ConvNet for the 2020s",
    authors="Liu, Mao, Wu, Feichtenhofer, Darrell, Xie",
    venue="CVPR",
    year=2022,
    url="https://arxiv.org/abs/2201.03545",
    code="https://github.com/facebookresearch/ConvNeXt",
    code_licence="MIT",
)

TOP1, FROM_22K = "ImageNet top-1", "ImageNet top-1 (from ImageNet-22k)"
# channels of the first stage, which double with each, blocks, drop path, parameters in millions, 1e9 multiply-adds at 224×224,
# scores
VARIANTS: dict[str, tuple[int, tuple[int, int, int, int], float, float, float, dict[str, float]]] = {
    "atto": (40, (2, 2, 6, 2), 0.1, 3.70, 0.55, {TOP1: 75.7}),
    "femto": (48, (2, 2, 6, 2), 0.1, 5.22, 0.79, {TOP1: 77.5}),
    "pico": (64, (2, 2, 6, 2), 0.1, 9.05, 1.37, {TOP1: 79.5}),
    "nano": (80, (2, 2, 8, 2), 0.1, 15.59, 2.46, {TOP1: 80.8}),
    "tiny": (96, (3, 3, 9, 3), 0.1, 29, 4.5, {TOP1: 82.1, FROM_22K: 82.9}),
    "small": (96, (3, 3, 27, 3), 0.4, 50, 8.7, {TOP1: 83.1, FROM_22K: 84.6}),
    "base": (128, (3, 3, 27, 3), 0.5, 89, 15.4, {TOP1: 83.8, FROM_22K: 85.8}),
    "large": (192, (3, 3, 27, 3), 0.5, 198, 34.4, {TOP1: 84.3, FROM_22K: 86.6}),
    "xlarge": (256, (3, 3, 27, 3), 0.1, 350, 60.9, {FROM_22K: 87.0}),
}
for size, (width, depths, drop_path, parameters, flops, scores) in VARIANTS.items():
    card = Card(
        paper=PAPER,
        training=TOKENS,
        parameters=parameters,
        flops=flops,
        flops_size=(224, 224),
        num_classes=1000,
        scores=scores,
    )
    dims = (width, 2 * width, 4 * width, 8 * width)
    tiny = {"dims": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
    register(f"convnext_{size}", ConvNeXt, card, tiny=tiny, dims=dims, depths=depths, drop_path=drop_path)
