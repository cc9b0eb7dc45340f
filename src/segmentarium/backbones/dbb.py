"""ResNet and MobileNet of Diverse Branch Blocks, as their authors trained them.

DingXiaoH/DiverseBranchBlock (Apache-2.0).  Blocks for any other network: `segmentarium.with_dbb`, or `dbb=True`.

Every k×k convolution with 1 < k < 7 and the norm behind it are one block (`segmentarium.reparameterize`): the norms are in its
branches, none comes after their sum.  ResNet keeps its 7×7, and the shortcuts their 1×1.

What the public code does and the paper does not say: MobileNet has ReLU, not ReLU6; the stem of MobileNet is a block, too;
files of `convert.py` hold convolutions with biases and no norms at all (`deployed`).  What we change: nothing.

Published (ImageNet top-1, table 1, 120 epochs): ResNet-18 69.54 -> 70.99, ResNet-50 76.14 -> 76.71, MobileNet 71.89 -> 72.88.
Parameters and FLOPs of the table of models are those of training; deployed, they are the plain networks': 11.69, 25.56, 4.23 M.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from segmentarium.backbones.mobilenet_v1 import MobileNetV1
from segmentarium.backbones.resnet import ResNet
from segmentarium.contracts import Backbone
from segmentarium.layers.conv import ConvNormAct
from segmentarium.registry import Card, Paper, register
from segmentarium.reparameterize import DiverseBranch


def blocks_for_units(network: nn.Module, deployed: bool) -> None:
    """A block in place of each convolution of 1 < k < 7 and its norm, in place; `deployed`: convolutions with biases alone."""
    for unit in network.modules():
        if not isinstance(unit, ConvNormAct):
            continue
        conv = unit.conv
        if deployed:
            unit.conv = type(conv)(
                conv.in_channels,
                conv.out_channels,
                conv.kernel_size,  # type: ignore[arg-type]
                conv.stride,  # type: ignore[arg-type]
                conv.padding,  # type: ignore[arg-type]
                conv.dilation,  # type: ignore[arg-type]
                conv.groups,
            )
            unit.norm = nn.Identity()
        elif 1 < conv.kernel_size[0] < 7:
            unit.conv = DiverseBranch(conv)  # type: ignore[assignment]
            unit.norm = nn.Identity()


class DBBResNet(ResNet):
    """A ResNet whose 3×3 convolutions are blocks.

    deployed   as the authors' converted files: plain convolutions with biases
    The other arguments are ResNet's.
    """

    def __init__(
        self,
        *,
        depth: int = 18,
        width: int = 64,
        in_channels: int = 3,
        output_stride: int = 32,
        deployed: bool = False,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        num_classes: int | None = None,
    ) -> None:
        super().__init__(
            depth=depth,
            width=width,
            in_channels=in_channels,
            output_stride=output_stride,
            out_indices=out_indices,
            num_classes=num_classes,
        )
        blocks_for_units(self, deployed)


class DBBMobileNetV1(MobileNetV1):
    """A MobileNet whose 3×3 convolutions, depthwise but for the stem's, are blocks.  Its arguments are MobileNet's and
    `deployed`, as of `DBBResNet`."""

    def __init__(
        self,
        *,
        width: float = 1.0,
        in_channels: int = 3,
        output_stride: int = 32,
        deployed: bool = False,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        num_classes: int | None = None,
    ) -> None:
        super().__init__(
            width=width,
            in_channels=in_channels,
            output_stride=output_stride,
            act="relu",
            out_indices=out_indices,
            num_classes=num_classes,
        )
        blocks_for_units(self, deployed)


PAPER = Paper(
    title="Diverse Branch Block: Building a Convolution as an Inception-like Unit",
    authors="Ding, Zhang, Han, Ding",
    venue="CVPR",
    year=2021,
    url="https://arxiv.org/abs/2103.13425",
    code="https://github.com/DingXiaoH/DiverseBranchBlock",
    code_licence="Apache-2.0",
)


def _register(name: str, build: type[Backbone], top1: float, tiny: dict[str, float], **arguments: int) -> None:
    card = Card(paper=PAPER, num_classes=1000, scores={"ImageNet top-1": top1})
    register(name, build, card, tiny=tiny, **arguments)


_register("dbb_resnet18", DBBResNet, 70.99, {"width": 16}, depth=18)
_register("dbb_resnet50", DBBResNet, 76.71, {"width": 16}, depth=50)
_register("dbb_mobilenet_v1", DBBMobileNetV1, 72.88, {"width": 0.25})
