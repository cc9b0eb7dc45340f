"""ResNet with strip pooling modules, as SPNet stands on it.

The authors' code says that it is for non-commercial use; this file was written from the paper, and for what it leaves open from
stored outputs and keys of that code.

A strip pooling module (layers/strip_pooling.py) stands behind the 3×3 convolution of the last bottleneck of each stage, and of
every bottleneck of the last one.  The ResNet has a wide deep stem; dilated to output stride 8, the blocks of the last stage have
the rates 4, 8, 16, which is to say `multigrid=(4, 8, 16)`; that is what the network has, and a classifier has not.
What we change: nothing.

Published: no score of the trunk alone; its weights are of ImageNet.
"""

from __future__ import annotations

from segmentarium.backbones.resnet import Bottleneck, ResNet, deep_tiny
from segmentarium.contracts.insertion import Place, put_behind
from segmentarium.layers.strip_pooling import StripPooling
from segmentarium.registry import Card, Paper, register

PAPER = Paper(
    title="Strip Pooling: Rethinking Spatial Pooling for Scene Parsing",
    authors="Hou, Zhang, Cheng, Feng",
    venue="CVPR",
    year=2020,
    url="https://arxiv.org/abs/2003.13328",
    code="https://github.com/Andrew-Qibin/SPNet",
    code_licence="MIT file; the README says non-commercial use only",
)


class StripResNet(ResNet):
    """A ResNet of 50, 101 or 152 layers with strip pooling modules in its bottlenecks.  Its arguments are ResNet's."""

    def _initialise(self) -> None:
        for stage, layer in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=1):
            for i, block in enumerate(layer):
                if not isinstance(block, Bottleneck):
                    raise ValueError("strip pooling modules stand in bottlenecks: give depth 50, 101 or 152")
                if stage == 4 or i == len(layer) - 1:
                    channels = block.conv2.conv.out_channels
                    put_behind(self, Place(f"layer{stage}.{i}.conv2", channels, last=False), StripPooling(channels))
        super()._initialise()


for _depth in (50, 101):
    register(
        f"resnet{_depth}_spm",
        StripResNet,
        Card(paper=PAPER, num_classes=1000),
        tiny=deep_tiny(_depth),
        depth=_depth,
        deep_stem=(64, 64, 128),
    )
