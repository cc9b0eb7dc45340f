"""RepMLPNet: fully connected layers over the positions of a map, with the locality of convolutions merged into them.

Weights of the authors (MIT), as trained and as converted, and of mmpretrain (Apache-2.0) load.

A map is cut into parts of one size, and every part goes through a fully connected layer from all its positions to all of them
(channel perceptron).  `share_sets` such layers serve all channels: channel c uses the layer c mod S.  Beside it small depthwise
convolutions run on the parts (local perceptron); they are linear too, so that after training they are added to the layer's
matrix (locality injection).  Parts know of each other only by a vector of gates, made from the mean over the whole map
(global perceptron).

What the public code does and the paper does not say: the hidden layer of the gates is a quarter as wide; convolutions see zeros
beyond the borders of a part; statistics of the norms are those of a share set, over all channels that use it; the last feature
has a norm of its own; several parts are put back in another order than they were cut in (what lies as images, parts, channels is
read as images, channels, parts), which mixes parts and channels unless each channel has a share set of its own, and is the same
for one part, the published use.

What we change: one matrix product for each share set, on views, in place of a grouped convolution; the norm before a feed-forward
network moves into its first layer in `deploy()`.  Stochastic depth (`drop_path`), which the public code lacks, is off.

Limit: the layers are matrices of a part's positions, so the network takes images of `img_size`, or of whole multiples.

Published (ImageNet top-1, the authors' README): T224 76.62 with 38.3 M parameters and 2.8 G multiply-adds, B224 80.32 (68.2 M),
T256 77.44 (58.7 M), B256 81.03 (96.5 M), D256 80.83 (86.9 M), L256 81.68 (117.7 M).  That is the network as trained (B224 in
mmpretrain: 68.24 M); converted, it has 0.1 to 0.15 % more parameters, its biases, and 0.3 % less work.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.contracts import Backbone
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.drop_path import DropPath, drop_path_rates
from segmentarium.layers.pooling import global_average_pool
from segmentarium.registry import Card, Paper, register
from segmentarium.reparameterize import add_branches, fuse_norm, pad_kernel


class RepMLPBlock(nn.Module):
    """Global, channel and local perceptron.

    part      height and width of the parts; the map's are multiples
    kernels   sides of the local convolutions, odd
    reduction of the gates' hidden layer
    deployed  the convolutions are in the matrices: as the authors' converted files
    """

    def __init__(
        self,
        channels: int,
        part: tuple[int, int],
        share_sets: int,
        kernels: Sequence[int] = (1, 3),
        *,
        reduction: int = 4,
        deployed: bool = False,
    ) -> None:
        super().__init__()
        if channels % share_sets:
            raise ValueError(f"{channels} channels cannot use {share_sets} share sets evenly; give a divisor")
        self.part, self.share_sets = part, share_sets
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1)
        self.excite = nn.Conv2d(channels // reduction, channels, 1)
        positions = part[0] * part[1]
        self.fc = nn.Linear(positions, share_sets * positions, bias=deployed)  # row (s, to), column from
        self.fc_norm: nn.Module = nn.Identity() if deployed else nn.BatchNorm2d(share_sets)
        self.local = nn.ModuleDict(
            {str(k): ConvNormAct(share_sets, share_sets, k, groups=share_sets, act=None) for k in kernels}
            if not deployed
            else {}
        )

    def gates(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1) in (0, 1)"""
        return self.excite(F.relu(self.squeeze(global_average_pool(x)), inplace=True)).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape; H and W multiples of the part's"""
        channels, height, width = x.shape[1:]
        h, w = self.part
        sets, rows, columns = self.share_sets, height // h, width // w
        parts = x.unflatten(3, (columns, w)).unflatten(2, (rows, h))
        parts = parts.permute(0, 2, 4, 1, 3, 5).reshape(-1, sets, h * w)  # a row for each part and channel of each set
        y = self.fc(parts) if sets == 1 else self._by_set(parts)
        y = self.fc_norm(y.unflatten(2, (h, w)))
        for conv in self.local.values():
            y = y + conv(parts.unflatten(2, (h, w)))
        # the public code's order, see the head of this file
        y = y.reshape(-1, rows, columns, sets, h, w).permute(0, 3, 1, 4, 2, 5)
        return y.reshape(-1, channels, height, width) * self.gates(x)

    def _by_set(self, parts: Tensor) -> Tensor:
        """(R, S, N) -> the same shape, each set by its own rows of the layer"""
        sets, positions = parts.shape[1:]
        weight = self.fc.weight.view(sets, positions, positions).transpose(1, 2)
        if self.fc.bias is None:
            return torch.bmm(parts.transpose(0, 1), weight).transpose(0, 1)
        return torch.baddbmm(self.fc.bias.view(sets, 1, positions), parts.transpose(0, 1), weight).transpose(0, 1)

    @torch.no_grad()
    def matrix_and_bias(self) -> tuple[Tensor, Tensor]:
        """Of the layer with its norm and the convolutions merged into it: like `fc.weight`, and a bias like its rows."""
        norm, (h, w), sets = self.fc_norm, self.part, self.share_sets
        assert isinstance(norm, nn.BatchNorm2d)
        rows = self.fc.weight.view(sets, h * w, h * w, 1)  # as a kernel: scaled by set
        matrix, bias = fuse_norm(rows, norm)
        if self.local:
            largest = (max(int(k) for k in self.local),) * 2
            branches = []
            for unit in self.local.values():
                assert isinstance(unit, ConvNormAct)
                assert isinstance(unit.norm, nn.BatchNorm2d)
                small, small_bias = fuse_norm(unit.conv.weight, unit.norm)
                branches.append((pad_kernel(small, largest), small_bias))
            kernel, local_bias = add_branches(branches)
            # what the convolution makes of a part in which one position is 1: a column
            single = (
                torch.eye(h * w, dtype=kernel.dtype, device=kernel.device).view(h * w, 1, h, w).expand(-1, sets, -1, -1)
            )
            columns = F.conv2d(single, kernel, padding=largest[0] // 2, groups=sets)
            matrix = matrix + columns.permute(1, 2, 3, 0).reshape(sets, h * w, h * w, 1)
            bias = bias + local_bias
        return matrix.reshape(self.fc.weight.shape), bias.repeat_interleave(h * w)

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Locality injection."""
        if isinstance(self.fc_norm, nn.BatchNorm2d):
            matrix, bias = self.matrix_and_bias()
            self.fc.weight, self.fc.bias = nn.Parameter(matrix), nn.Parameter(bias)
            self.fc_norm, self.local = nn.Identity(), nn.ModuleDict()


class Unit(nn.Module):
    """A block and a feed-forward network of 1×1 convolutions, each after a norm and beside a shortcut."""

    def __init__(self, channels: int, block: RepMLPBlock, expansion: int, drop: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.block = block
        self.norm2: nn.Module = nn.BatchNorm2d(channels)
        self.fc1 = ConvNormAct(channels, expansion * channels, 1, act=nn.GELU)
        self.fc2 = ConvNormAct(expansion * channels, channels, 1, act=None)
        self.drop_path = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.block(self.norm1(x)))
        return x + self.drop_path(self.fc2(self.fc1(self.norm2(x))))

    @torch.no_grad()
    def reparameterize(self) -> None:
        """The norm before the 1×1 convolution moves into it."""
        norm, conv = self.norm2, self.fc1.conv
        if isinstance(norm, nn.BatchNorm2d):
            scale, shift = fuse_norm(torch.ones_like(norm.bias)[:, None, None, None], norm)
            conv.bias = nn.Parameter(conv.weight.flatten(1) @ shift)
            conv.weight *= scale.view(1, -1, 1, 1)
            self.norm2 = nn.Identity()


class RepMLPNet(Backbone):
    """RepMLPNet: features at 1/4, 1/8, 1/16 and 1/32.

    channels, depths, share_sets   of the four stages
    img_size      side of the images, or height and width, multiples of 32: the parts are the maps that it makes
    kernels       sides of the local convolutions
    drop_path     stochastic depth of the last unit; it grows linearly from 0 at the first
    deployed      the local convolutions are merged into the matrices already: as the authors' converted files
    out_indices   which features come out: 0 to 3 for the strides 4 to 32
    num_classes   classes of `classify`; None: no classifier
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 6, 2),
        share_sets: Sequence[int] = (1, 4, 16, 128),
        img_size: int | Sequence[int] = 224,
        kernels: Sequence[int] = (1, 3),
        in_channels: int = 3,
        drop_path: float = 0.0,
        deployed: bool = False,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if height % 32 or width % 32 or min(height, width) < 32:
            raise ValueError(
                f"img_size is {height}×{width}; RepMLPNet's parts need multiples of 32, such as 224 or 256"
            )
        self.fixed_size = (height, width)
        drops = drop_path_rates(drop_path, tuple(depths))
        inputs = in_channels
        self.embeds, self.stages = nn.ModuleList(), nn.ModuleList()
        for stage, outputs in enumerate(channels):
            patch = 4 if stage == 0 else 2
            self.embeds.append(ConvNormAct(inputs, outputs, patch, patch, padding=0))
            part = (height // 4 >> stage, width // 4 >> stage)
            units = []
            for drop in drops[stage]:
                block = RepMLPBlock(outputs, part, share_sets[stage], kernels, deployed=deployed)
                units.append(Unit(outputs, block, 4, drop))
            self.stages.append(nn.Sequential(*units))
            inputs = outputs
        self.norm = nn.BatchNorm2d(inputs)
        self.describe(channels, (4, 8, 16, 32), out_indices)
        self._depths = tuple(depths)
        self.num_layers = sum(depths) + 1

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """-> features of the four stages.  ValueError for an image that is no multiple of `img_size`."""
        assert self.fixed_size is not None
        height, width = self.fixed_size
        if image.shape[-2] % height or image.shape[-1] % width:
            raise ValueError(
                f"the image is {image.shape[-2]}×{image.shape[-1]}; this RepMLPNet takes {height}×{width} and whole multiples "
                "of it: resize the image, or build the network with img_size (its weights are of one size)"
            )
        features = []
        x = image
        for embed, stage in zip(self.embeds, self.stages, strict=True):
            x = stage(embed(x))
            features.append(x)
        features[-1] = self.norm(features[-1])
        return features

    def layer_of(self, name: str) -> int:
        """A layer is a unit; an embedding stands below the first unit of its stage, the last norm with the last."""
        part, *rest = name.split(".")
        if part in ("classifier", "norm"):
            return self.num_layers - (part == "norm")
        below = sum(self._depths[: int(rest[0])])
        return below if part == "embeds" else below + int(rest[1]) + 1


PAPER = Paper(
    title="RepMLPNet: Hierarchical Vision MLP with Re-parameterized Locality",
    authors="Ding, Chen, Zhang, Han, Ding",
    venue="CVPR",
    year=2022,
    url="https://arxiv.org/abs/2112.11081",
    code="https://github.com/DingXiaoH/RepMLP",
    code_licence="MIT",
)

TINY = (64, 128, 256, 512), (2, 2, 6, 2), (1, 4, 16, 128)
BASE = (96, 192, 384, 768), (2, 2, 12, 2), (1, 4, 32, 128)
# channels, depths, share sets; image size; millions of parameters, 1e9 multiply-adds, top-1
VARIANTS = {
    "t224": (*TINY, 224, 38.3, 2.8, 76.62),
    "b224": (*BASE, 224, 68.2, 6.7, 80.32),
    "t256": (*TINY, 256, 58.7, 4.2, 77.44),
    "b256": (*BASE, 256, 96.5, 9.6, 81.03),
    "d256": ((80, 160, 320, 640), (2, 2, 18, 2), (1, 4, 16, 128), 256, 86.9, 8.6, 80.83),
    "l256": ((96, 192, 384, 768), (2, 2, 18, 2), (1, 4, 32, 256), 256, 117.7, 11.5, 81.68),
}
SMALL = {"channels": [8, 16, 32, 64], "depths": [1, 1, 2, 1], "share_sets": [1, 2, 4, 8], "img_size": 64}
for _name, (_channels, _depths, _sets, _size, _parameters, _flops, _top1) in VARIANTS.items():
    _card = Card(
        paper=PAPER,
        parameters=_parameters,
        flops=_flops,
        flops_size=(_size, _size),
        num_classes=1000,
        scores={"ImageNet top-1": _top1},
    )
    register(
        f"repmlpnet_{_name}",
        RepMLPNet,
        _card,
        tiny=SMALL,
        channels=_channels,
        depths=_depths,
        share_sets=_sets,
        img_size=_size,
    )
