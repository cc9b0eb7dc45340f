"""EfficientNet-Lite: EfficientNet for phones and other small processors.

EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, Tan, Le; ICML 2019; https://arxiv.org/abs/1905.11946.
The Lite form has no paper; it is Google's own, in tensorflow/tpu (Apache-2.0).  Weights of timm (Apache-2.0) load.

A searched row of MobileNetV2's blocks, some of them with 5×5 kernels, and one coefficient that widens, another that deepens
it (section 3.3).  Lite leaves out squeeze-and-excitation, takes ReLU6 for swish, and keeps the stem, the first and the last
stage as they are when it grows.

Published (ImageNet top-1, the authors' README): Lite0 75.1 with 4.7 M parameters and 407 M multiply-adds, Lite4 81.5 with
13.0 M and 2,640 M (at 300 pixels).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from segmentarium.backbones.mobilenet_v2 import InvertedResidual, divisible_by_8
from segmentarium.contracts import Backbone
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.pooling import global_average_pool
from segmentarium.registry import Card, Paper, register

STAGES = (  # table 1: expansion, kernel, channels, blocks, stride
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)
LAST_OF_STRIDE = (0, 1, 2, 4, 6)  # the stages after which strides 2, 4, 8, 16, 32 end
STEM, HEAD = 32, 1280


class EfficientNetLite(Backbone):
    """EfficientNet-Lite at a width and a depth coefficient.

    output_stride  32 as published; 16 or 8: later stages dilated instead of strided, in timm's way (see MobileNetV2)
    out_indices    which features come out: 0 to 4 for the strides 2 to 32.  Stages behind the last one are left out, unless
                   there is a classifier
    num_classes    classes of `classify`; None: no classifier
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        depth: float = 1.0,
        in_channels: int = 3,
        output_stride: int = 32,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride is {output_stride}; EfficientNet-Lite can have 8, 16 or 32")
        if not out_indices or any(index not in range(5) for index in out_indices):
            raise ValueError(f"out_indices is {tuple(out_indices)}; give some of 0, 1, 2, 3, 4 (strides 2 to 32)")
        self.in_channels = in_channels
        self.out_indices = tuple(sorted(out_indices))
        last = len(STAGES) - 1 if num_classes is not None else LAST_OF_STRIDE[self.out_indices[-1]]
        self.stem = ConvNormAct(in_channels, STEM, 3, 2, act=nn.ReLU6)
        self.stages = nn.ModuleList()
        inputs, channels, strides = STEM, [], []
        stride, rate = 2, 1
        for index, (expansion, kernel, base, blocks, step) in enumerate(STAGES[: last + 1]):
            fixed = index in (0, len(STAGES) - 1)
            before = rate
            if stride * step > output_stride:
                rate, step = rate * step, 1
            stride *= step
            outputs = divisible_by_8(base * width)
            stage = nn.Sequential()
            for i in range(blocks if fixed else math.ceil(blocks * depth)):
                first = i == 0
                stage.append(
                    InvertedResidual(
                        inputs, outputs, expansion, step if first else 1, before if first else rate, kernel_size=kernel
                    )
                )
                inputs = outputs
            self.stages.append(stage)
            channels.append(outputs)
            strides.append(stride)
        self.head = self.classifier = None
        if num_classes is not None:
            self.head = ConvNormAct(inputs, HEAD, 1, act=nn.ReLU6)
            self.classifier = nn.Linear(HEAD, num_classes)
        self.channels = tuple(channels[LAST_OF_STRIDE[i]] for i in self.out_indices)
        self.strides = tuple(strides[LAST_OF_STRIDE[i]] for i in self.out_indices)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.stem(image)
        features = []
        for index, stage in enumerate(self.stages[: LAST_OF_STRIDE[self.out_indices[-1]] + 1]):
            x = stage(x)
            if index in LAST_OF_STRIDE:
                features.append(x)
        return [features[i] for i in self.out_indices]

    def classify(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) -> scores (B, num_classes)"""
        if self.head is None or self.classifier is None:
            raise ValueError(
                "this EfficientNetLite has no classifier; build it with num_classes=1000 or another number"
            )
        x = self.stem(image)
        for stage in self.stages:
            x = stage(x)
        return self.classifier(global_average_pool(self.head(x)).flatten(1))


PAPER = Paper(
    title="EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
    authors="Tan, Le",
    venue="ICML",
    year=2019,
    url="https://arxiv.org/abs/1905.11946",
    code="https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
    code_licence="Apache-2.0",
)


LIMITS = {
    "flops": "published are 3 to 6 % more than its convolutions have; MobileNetV2's figure is the convolutions alone"
}


def _card(parameters: float, flops: float, side: int, top1: float) -> Card:
    return Card(PAPER, "backbones", parameters, flops, (side, side), 1000, {"ImageNet top-1": top1}, LIMITS)


register("efficientnet_lite0", EfficientNetLite, _card(4.65, 0.407, 224, 75.1))
register("efficientnet_lite1", EfficientNetLite, _card(5.42, 0.631, 240, 76.7), depth=1.1)
register("efficientnet_lite2", EfficientNetLite, _card(6.09, 0.899, 260, 77.6), width=1.1, depth=1.2)
register("efficientnet_lite3", EfficientNetLite, _card(8.20, 1.44, 280, 79.8), width=1.2, depth=1.4)
register("efficientnet_lite4", EfficientNetLite, _card(13.01, 2.64, 300, 81.5), width=1.4, depth=1.8)
