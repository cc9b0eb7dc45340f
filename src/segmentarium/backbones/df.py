"""DF1 and DF2, backbones searched for speed and accuracy in one order.

Made public twice: by the authors for Caffe, and as part of SFNet (lxtGH/SFSegNets, MIT according to its README).

Searched for speed on a TX2: two strided convolutions to 1/4, then stages of ordinary basic blocks, few where maps are large
and many where they are small.  DF1 widens once more at 1/32, so it has two maps of that stride; DF2 widens at the end of
every stage.

Published: 0.746 (DF1) and 1.77 (DF2) 1e9 multiply-adds at 224×224.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segmentarium.backbones.resnet import BasicBlock
from segmentarium.contracts import Backbone
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_convs
from segmentarium.registry import Card, Paper, register

# channels, blocks, stride
STAGES: dict[int, tuple[tuple[int, int, int], ...]] = {
    1: ((64, 3, 2), (128, 3, 2), (256, 3, 2), (512, 1, 1)),
    2: ((64, 2, 2), (128, 1, 1), (128, 10, 2), (256, 1, 1), (256, 4, 2), (512, 2, 1)),
}
# the stages that make features: of DF2 the last of each stride, of DF1 all
OUTPUTS = {1: (0, 1, 2, 3), 2: (1, 3, 5)}


class DFNet(Backbone):
    """DF1 or DF2: the stem's maps at 1/2 and 1/4, then those of the stages.

    variant       1 or 2
    out_indices   which features come out: 0 and 1 for the stem's, of strides 2 and 4, from 2 on the stages'; None: from 1 on
    num_classes   classes of `classify`; None: no classifier
    """

    layer_row = "stages"

    def __init__(
        self,
        *,
        variant: int = 2,
        in_channels: int = 3,
        out_indices: Sequence[int] | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if variant not in STAGES:
            raise ValueError(f"variant is {variant}; give 1 (DF1) or 2 (DF2)")
        self.outputs = OUTPUTS[variant]
        self.stem = nn.Sequential(ConvNormAct(in_channels, 32, 3, 2), ConvNormAct(32, 64, 3, 2))
        stages, inputs, stride = [], 64, 4
        channels, strides = [32, 64], [2, 4]
        for index, (width, blocks, step) in enumerate(STAGES[variant]):
            layer = nn.Sequential()
            for block in range(blocks):
                layer.append(BasicBlock(inputs, width, step if block == 0 else 1, (1, 1), False))
                inputs = width
            stages.append(layer)
            stride *= step
            if index in self.outputs:
                channels.append(width)
                strides.append(stride)
        self.stages = nn.ModuleList(stages)
        self.num_layers = len(stages) + 1
        self.describe(channels, strides, range(1, len(channels)) if out_indices is None else out_indices)
        init_convs(self, mode="fan_out")

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """-> features of the stem's two convolutions and of the stages"""
        features = [self.stem[0](image)]
        x = self.stem[1](features[0])
        features.append(x)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.outputs:
                features.append(x)
        return features


PAPER = Paper(
    title="Partial Order Pruning: for Best Speed/Accuracy Trade-off in Neural Architecture Search",
    authors="Li, Zhou, Pan, Feng",
    venue="CVPR",
    year=2019,
    url="https://arxiv.org/abs/1903.03777",
    code="https://github.com/lixincn2015/Partial-Order-Pruning",
    code_licence="none stated",
)

for _variant, _flops in ((1, 0.746), (2, 1.77)):
    _card = Card(paper=PAPER, flops=_flops, flops_size=(224, 224), num_classes=1000)
    register(f"df{_variant}", DFNet, _card, variant=_variant)
