"""STDC networks, the backbones of STDC-Seg.

Weights of the authors' code load, those of ImageNet and those inside a segmentation network.

A short-term dense concatenate module halves its width from convolution to convolution and concatenates what each of them
gives: few channels see far, many see near, and the module's output holds receptive fields of 1, 3, 5 and 7 pixels side by
side.  Two stages of a single convolution each come first, since early layers need little (table 2).

The code has a second form of the module (`fusion="add"`), which is not in the paper: the module's input is added to what was
concatenated, and at stride 2 the first quarter of that is what the depthwise convolution made, not an average.

The published checkpoints hold every tensor of the backbone twice, and a batch norm that no output passes through; neither is
kept.  They were trained with InPlaceABN, whose old kernel scaled by |γ| + ε where batch norm scales by γ; the authors' own
TensorRT network takes γ as it is, and so do we.

Published: ImageNet top-1 73.91 with 8.44 M parameters and 813 M multiply-adds (STDC1), 76.47 with 12.47 M and 1446 M (STDC2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.checks import check_choice
from segmentarium.contracts import Backbone
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_convs
from segmentarium.layers.pooling import global_average_pool
from segmentarium.registry import Card, Paper, register

Fusion = Literal["cat", "add"]


class ShortTermDenseConcat(nn.Module):
    """1×1 to half the channels, 3×3 to a quarter, an eighth, and an eighth again, all concatenated (figure 3b, 3c).

    At stride 2 a depthwise convolution without activation shrinks what the second convolution sees, and average pooling what
    is concatenated of the first.

    fusion   "cat"; or "add": the input, at stride 2 by a depthwise and a 1×1 convolution, is added to the concatenation
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, fusion: Fusion = "cat") -> None:
        super().__init__()
        half, quarter, eighth = out_channels // 2, out_channels // 4, out_channels // 8
        self.convs = nn.ModuleList(
            [
                ConvNormAct(in_channels, half, 1),
                ConvNormAct(half, quarter),
                ConvNormAct(quarter, eighth),
                ConvNormAct(eighth, eighth),
            ]
        )
        self.add = fusion == "add"
        self.down, self.pool, self.shortcut = nn.Identity(), nn.Identity(), nn.Identity()
        if stride == 2:
            self.down = ConvNormAct(half, half, 3, 2, groups=half, act=None)
            self.pool = nn.AvgPool2d(3, 2, 1)
            if self.add:
                self.shortcut = nn.Sequential(
                    ConvNormAct(in_channels, in_channels, 3, 2, groups=in_channels, act=None),
                    ConvNormAct(in_channels, out_channels, 1, act=None),
                )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), …)"""
        first, second, third, fourth = self.convs
        wide = first(x)
        near = self.down(wide)
        a = second(near)
        b = third(a)
        if self.add:
            return torch.cat([near, a, b, fourth(b)], 1) + self.shortcut(x)
        return torch.cat([self.pool(wide), a, b, fourth(b)], 1)


class STDCNet(Backbone):
    """Two convolutions to stride 4, then stages of short-term dense concatenate modules at strides 8, 16 and 32.

    blocks        modules of each stage
    fusion        of the modules: "cat", as published, or "add"
    out_indices   which features come out: 0 to 4 for the strides 2 to 32
    num_classes   classes of `classify`; None: no classifier
    """

    def __init__(
        self,
        *,
        blocks: Sequence[int] = (2, 2, 2),
        fusion: Fusion = "cat",
        in_channels: int = 3,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if len(blocks) != 3 or min(blocks) < 1:
            raise ValueError(f"blocks is {tuple(blocks)}; give three numbers of 1 or more, one for each stage")
        check_choice("fusion", fusion, get_args(Fusion))
        channels = (32, 64, 256, 512, 1024)
        layers: list[nn.Module] = [ConvNormAct(in_channels, 32, 3, 2), ConvNormAct(32, 64, 3, 2)]
        self.last_of_stride = [0, 1]
        for count, inputs, outputs in zip(blocks, channels[1:], channels[2:], strict=False):
            layers.append(ShortTermDenseConcat(inputs, outputs, 2, fusion))
            layers += [ShortTermDenseConcat(outputs, outputs, 1, fusion) for _ in range(count - 1)]
            self.last_of_stride.append(len(layers) - 1)
        self.layers = nn.ModuleList(layers)
        self.num_layers = len(layers)
        head = None
        if num_classes is not None:
            self.final_conv = ConvNormAct(channels[-1], 1024, 1)
            self.hidden = nn.Linear(1024, 1024, bias=False)
            nn.init.normal_(self.hidden.weight, std=0.001)
            self.dropout = nn.Dropout(0.2)
            head = nn.Linear(1024, num_classes, bias=False)
        self.describe(channels, (2, 4, 8, 16, 32), out_indices, head=head)
        init_convs(self, mode="fan_out")

    def pyramid(self, image: Tensor) -> list[Tensor]:
        features, x = [], image
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self.last_of_stride:
                features.append(x)
        return features

    def embed(self, image: Tensor) -> Tensor:
        """The squared feature is pooled, as in the authors' code."""
        if self.num_classes is None:
            return super().embed(image)
        x = self.final_conv(self.pyramid(image)[-1]).square()
        x = F.relu(self.hidden(global_average_pool(x).flatten(1)))
        return self.dropout(x)

    def layer_of(self, name: str) -> int:
        part, _, rest = name.partition(".")
        return int(rest.partition(".")[0]) if part == "layers" else self.num_layers


PAPER = Paper(
    title="Rethinking BiSeNet For Real-time Semantic Segmentation",
    authors="Fan, Lai, Huang, Wei, Chai, Luo, Wei",
    venue="CVPR",
    year=2021,
    url="https://arxiv.org/abs/2104.13188",
    code="https://github.com/MichaelFan01/STDC-Seg",
    code_licence="MIT",
)


def _card(parameters: float, flops: float, top1: float) -> Card:
    return Card(
        paper=PAPER,
        parameters=parameters,
        flops=flops,
        flops_size=(224, 224),
        num_classes=1000,
        scores={"ImageNet top-1": top1},
    )


register("stdcnet1", STDCNet, _card(8.44, 0.813, 73.91), blocks=(2, 2, 2))
register("stdcnet2", STDCNet, _card(12.47, 1.446, 76.47), blocks=(4, 5, 3))
