"""MobileNet: depthwise and pointwise convolutions in place of full ones.

The authors' networks are TensorFlow's (slim).  Weights of timm (Apache-2.0) load.

A 3×3 convolution is cut in two: each channel filtered alone, then all of them mixed by a 1×1, with norm and activation after
both.  One multiplier thins every layer.

What the public code does and the paper does not say: the activation is ReLU6 (`act`; the paper and Diverse Branch Block's
authors have ReLU).  Output stride 8 or 16 dilates the later stages instead of striding; the block that gives up its stride keeps
the rate before it.  What we change: nothing.

Published (ImageNet top-1, slim's table of released networks): width 1.0: 70.9 with 4.24 M parameters and 569 M multiply-adds;
0.75: 68.4; 0.5: 63.3; 0.25: 49.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from segmentarium.contracts import Backbone
from segmentarium.layers.conv import ConvNormAct, SeparableConv
from segmentarium.layers.init import init_convs
from segmentarium.registry import Card, Paper, register

STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))  # table 1: channels, blocks, stride
ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6}


class MobileNetV1(Backbone):
    """MobileNet at a width multiplier.

    output_stride   32 as published; 16 or 8: later stages dilated instead of strided
    act             "relu6" (the authors' code) or "relu" (the paper)
    out_indices     which features come out: 0 to 4 for the strides 2 to 32
    num_classes     classes of `classify`; None: no classifier
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        in_channels: int = 3,
        output_stride: int = 32,
        act: Literal["relu6", "relu"] = "relu6",
        out_indices: Sequence[int] = (1, 2, 3, 4),
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride is {output_stride}; {type(self).__name__} can have 8, 16 or 32")
        if act not in ACTIVATIONS:
            raise ValueError(f"act is {act!r}; give one of {', '.join(ACTIVATIONS)}")
        layer = ACTIVATIONS[act]
        inputs = int(32 * width)
        self.stem = ConvNormAct(in_channels, inputs, 3, 2, act=layer)
        self.stages = nn.ModuleList()
        channels, strides = [], []
        stride, rate = 2, 1
        for full, blocks, step in STAGES:
            before, outputs = rate, int(full * width)
            if stride * step > output_stride:
                rate, step = rate * step, 1
            stride *= step
            stage = nn.Sequential()
            for i in range(blocks):
                dilation = before if i == 0 else rate
                block_stride = step if i == 0 else 1
                stage.append(
                    SeparableConv(inputs, outputs, 3, block_stride, dilation=dilation, depthwise_act=layer, act=layer)
                )
                inputs = outputs
            self.stages.append(stage)
            channels.append(outputs)
            strides.append(stride)
        self.describe(channels, strides, out_indices)
        init_convs(self, mode="fan_out")

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """-> features of strides 2 to 32"""
        x = self.stem(image)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features

    num_layers, layer_row = len(STAGES) + 1, "stages"


PAPER = Paper(
    title="MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
    authors="Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam",
    venue="arXiv",
    year=2017,
    url="https://arxiv.org/abs/1704.04861",
    code="https://github.com/tensorflow/models/blob/master/research/slim/nets/mobilenet_v1.py",
    code_licence="Apache-2.0",
)

# width: millions of parameters, 1e9 multiply-adds, top-1
VARIANTS = {1.0: (4.24, 0.569, 70.9), 0.75: (2.59, 0.325, 68.4), 0.5: (1.34, 0.150, 63.3), 0.25: (0.47, 0.041, 49.8)}
for _width, (_parameters, _flops, _top1) in VARIANTS.items():
    _card = Card(
        paper=PAPER,
        parameters=_parameters,
        flops=_flops,
        flops_size=(224, 224),
        num_classes=1000,
        scores={"ImageNet top-1": _top1},
    )
    _name = "mobilenet_v1" + ("" if _width == 1.0 else f"_{round(100 * _width):03d}")
    register(_name, MobileNetV1, _card, tiny={"width": 0.25}, width=_width)
