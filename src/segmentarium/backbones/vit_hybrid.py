"""Hybrid Vision Transformer: a transformer over the map of a small ResNet instead of patches of pixels.

The second form of the ViT paper (section 3.1).  Weights of "How to train your ViT" (2106.10270), Apache-2.0, as timm
(Apache-2.0) holds them; DPT's hybrid is built on R50+B/16.

The ResNet is BiT's kind (1912.11370): group norm in place of batch norm, and each filter standardised, mean 0 and variance 1,
before it is used.  Its blocks have the norm behind the convolution, and the stride in the 3×3 convolution.

What the code does and the paper does not say: convolutions are padded as in TensorFlow, less on the top and left where it does
not come out even; R50+B/16 leaves out the fourth stage; R+Ti/16 has the ResNet's first convolution alone, and patches of 8.
What we change: the ResNet's stages are features too, so that the backbone has strides 4, 8, 16, as DPT takes them; `deploy`
standardises the filters once.  An image is padded to whole strides, so that every padding is the same at any size.

Published (ImageNet top-1, from ImageNet-21k at 384 pixels, timm's measurement): R26+S/32 84.07, R50+B/16 84.99, R50+L/32 86.19.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones.plain import quarters
from segmentarium.backbones.vit import PAPER, SIZES, TOP1, VisionTransformer
from segmentarium.layers.init import init_convs
from segmentarium.layers.resize import pad_to_multiple
from segmentarium.registry import TOKENS, Card, register

GROUPS = 32
FILTER_EPS = (1e-8, 0.0)


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose filters have mean 0 and variance 1 when they are used (Qiao et al., 1903.10520), and which is padded as
    in TensorFlow, for sides that its stride divides."""

    standardized = False  # the stored filters are so already

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        eps: tuple[float, float] = FILTER_EPS,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, bias=False)
        self.of_variance, self.of_deviation = eps
        missing = kernel_size - stride
        self.before, self.after = max(missing // 2, 0), max(missing - missing // 2, 0)

    def _filters(self) -> Tensor:
        if self.standardized:
            return self.weight
        if self.of_deviation == 0:
            return F.layer_norm(self.weight, self.weight.shape[1:], eps=self.of_variance)  # over each filter
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        return (self.weight - mean) / ((variance + self.of_variance).sqrt() + self.of_deviation)

    def forward(self, input: Tensor) -> Tensor:
        padding = 0
        if self.before == self.after:
            padding = self.before
        else:
            input = F.pad(input, (self.before, self.after, self.before, self.after))
        return F.conv2d(input, self._filters(), None, self.stride, padding)

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Standardises the filters for good."""
        self.weight.copy_(self._filters())
        self.standardized = True


class Unit(nn.Module):
    """Standardised convolution, group norm, and ReLU where one is wanted."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        relu: bool = True,
        eps: tuple[float, float] = FILTER_EPS,
    ) -> None:
        super().__init__()
        self.conv = StandardizedConv2d(in_channels, channels, kernel_size, stride, eps)
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return F.relu(x, inplace=True) if self.relu else x


class Bottleneck(nn.Module):
    """1×1 to a quarter of the channels, 3×3, 1×1 back; and the input."""

    def __init__(self, in_channels: int, channels: int, stride: int, eps: tuple[float, float]) -> None:
        super().__init__()
        middle = channels // 4
        self.conv1 = Unit(in_channels, middle, eps=eps)
        self.conv2 = Unit(middle, middle, 3, stride, eps=eps)
        self.conv3 = Unit(middle, channels, relu=False, eps=eps)
        same = in_channels == channels and stride == 1
        self.shortcut = nn.Identity() if same else Unit(in_channels, channels, 1, stride, relu=False, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv3(self.conv2(self.conv1(x))) + self.shortcut(x), inplace=True)


class ResNetStem(nn.Module):
    """The ResNet before the patches.

    width    channels of the first convolution; the stages have 4, 8, 16, 32 times as many
    blocks   of each stage; (): the first convolution and the pooling alone
    eps      of the filters' variance, and of their standard deviation
    """

    def __init__(self, in_channels: int, width: int, blocks: Sequence[int], eps: tuple[float, float]) -> None:
        super().__init__()
        self.first = Unit(in_channels, width, 7, 2, eps=eps)
        self.stages = nn.ModuleList()
        inputs, self.channels_of, self.strides_of = width, [], []
        for index, count in enumerate(blocks):
            channels = 4 * width * 2**index
            stage = nn.Sequential()
            for block in range(count):
                stage.append(Bottleneck(inputs, channels, 2 if index > 0 and block == 0 else 1, eps))
                inputs = channels
            self.stages.append(stage)
            self.channels_of.append(channels)
            self.strides_of.append(4 * 2**index)
        if not blocks:
            self.channels_of, self.strides_of = [width], [4]
        self.channels, self.stride = self.channels_of[-1], self.strides_of[-1]
        init_convs(self)

    def maps(self, image: Tensor) -> list[Tensor]:
        """(B, C, H, W), sides that `stride` divides -> what each stage gives, of strides 4, 8, …"""
        # the maps are not negative, so that zeros pad as TensorFlow's pooling does
        x = F.max_pool2d(F.pad(self.first(image), (0, 1, 0, 1)), 3, 2)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found or [x]

    def forward(self, image: Tensor) -> Tensor:
        return self.maps(image)[-1]


class HybridVisionTransformer(VisionTransformer):
    """A ResNet, and a ViT over its map.  Features: those of the ResNet's stages, of strides 4 and up, then those of the blocks.

    stem_blocks     of the ResNet's stages; (): its first convolution and pooling alone
    stem_width      channels of the first convolution
    filter_eps      added to the variance of each filter, and to its standard deviation: timm's (1e-8, 0); (0, 1e-5) before its
                    version 0.4.9, as DPT was trained; transformers' (1e-6, 0)
    patch           side of a patch in pixels of the ResNet's map
    image_size      (height, width) that the table of positions is for, or both in one; it is interpolated to others
    drop_path       stochastic depth of the last block; it grows linearly from 0 at the first
    final_norm      whether the last block's feature passes the final norm
    interpolation, antialias   how the table is interpolated (`VisionTransformer`)
    out_indices     which features come out, the ResNet's counted first; None: the first two of the ResNet, as far as they are
                    finer than the tokens, and the last two of four blocks in equal steps
    num_classes     classes of `classify`, of the class token; None: no classifier
    """

    def __init__(
        self,
        *,
        stem_blocks: Sequence[int] = (2, 2, 2, 2),
        stem_width: int = 64,
        filter_eps: tuple[float, float] = FILTER_EPS,
        embed_dim: int = 384,
        depth: int = 12,
        heads: int = 6,
        patch: int = 1,
        image_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        drop_path: float = 0.0,
        final_norm: bool = True,
        interpolation: Literal["bicubic", "bilinear"] = "bicubic",
        antialias: bool = True,
        out_indices: Sequence[int] | None = None,
        num_classes: int | None = None,
    ) -> None:
        stem = ResNetStem(in_channels, stem_width, stem_blocks, (filter_eps[0], filter_eps[1]))
        stages = len(stem.channels_of)
        if out_indices is None:
            fine = [i for i, stride in enumerate(stem.strides_of[:2]) if stride < stem.stride * patch]
            out_indices = [*fine, *(stages + i for i in quarters(depth)[-2:])]
        super().__init__(
            embed_dim=embed_dim,
            depth=depth,
            heads=heads,
            patch=patch,
            image_size=image_size,
            in_channels=in_channels,
            drop_path=drop_path,
            final_norm=final_norm,
            interpolation=interpolation,
            antialias=antialias,
            stem=stem,
            num_classes=num_classes,
        )
        self._stages = stages
        strides = [*stem.strides_of, *[self.stride] * depth]
        self.describe([*stem.channels_of, *[embed_dim] * depth], strides, out_indices, head=embed_dim)

    def _features(self, image: Tensor, indices: Sequence[int]) -> list[tuple[Tensor, Tensor | None]]:
        assert self.stem is not None
        maps = self.stem.maps(pad_to_multiple(image, self.stride))
        height, width = image.shape[-2:]
        found: list[tuple[Tensor, Tensor | None]] = []
        for index in indices:
            if index < self._stages:
                stride = self.stem.strides_of[index]
                rows, columns = (height + stride - 1) // stride, (width + stride - 1) // stride
                found.append((maps[index][..., :rows, :columns], None))
        blocks = [index - self._stages for index in indices if index >= self._stages]
        if blocks:
            patches = self.embedding(maps[-1])
            found += self.tap(self.place(patches), (patches.shape[1], patches.shape[2]), blocks)
        return found

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.forward_with_prefix(image)[0]

    @property
    def prefixes(self) -> tuple[int, ...]:
        return tuple(self.prefix_tokens if index >= self._stages else 0 for index in self.out_indices)

    def forward_with_prefix(self, image: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        found = self._features(image, self.out_indices)
        return [feature for feature, _ in found], [prefix for _, prefix in found]

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """-> the ResNet's features and the blocks', up to the deepest that is wanted"""
        return [feature for feature, _ in self._features(image, range(self.out_indices[-1] + 1))]


BLOCKS = {"r": (), "r26": (2, 2, 2, 2), "r50_s16": (3, 4, 9), "r50_s32": (3, 4, 6, 3)}
TINY = {"stem_blocks": [1, 1], "stem_width": 32, "embed_dim": 32, "depth": 4, "heads": 2, "patch": 1, "image_size": 64}
# name, ResNet, size, patch, images; parameters in millions (timm's), scores
for _name, _resnet, _size, _patch, _image, _parameters, _scores in (
    ("vit_tiny_r_s16_p8_224", "r", "tiny", 8, 224, 6.34, {}),
    ("vit_tiny_r_s16_p8_384", "r", "tiny", 8, 384, 6.36, {}),
    ("vit_small_r26_s32_224", "r26", "small", 1, 224, 36.43, {}),
    ("vit_small_r26_s32_384", "r26", "small", 1, 384, 36.47, {TOP1: 84.07}),
    ("vit_base_r26_s32_224", "r26", "base", 1, 224, 101.38, {}),
    ("vit_base_r50_s16_224", "r50_s16", "base", 1, 224, 98.66, {}),
    ("vit_base_r50_s16_384", "r50_s16", "base", 1, 384, 98.95, {TOP1: 84.99}),
    ("vit_large_r50_s32_224", "r50_s32", "large", 1, 224, 328.99, {}),
    ("vit_large_r50_s32_384", "r50_s32", "large", 1, 384, 329.09, {TOP1: 86.19}),
):
    _channels, _depth, _heads = SIZES[_size]
    register(
        _name,
        HybridVisionTransformer,
        Card(paper=PAPER, training=TOKENS, parameters=_parameters, num_classes=1000, scores=_scores),
        tiny=TINY,
        stem_blocks=BLOCKS[_resnet],
        embed_dim=_channels,
        depth=_depth,
        heads=_heads,
        patch=_patch,
        image_size=_image,
    )
