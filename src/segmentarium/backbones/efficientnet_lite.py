"""EfficientNet-Lite: EfficientNet for phones and other small processors.

The paper has EfficientNet.  The Lite form has none; it is Google's own.  Weights of timm (Apache-2.0) load.

A searched row of MobileNetV2's blocks, some of them with 5×5 kernels, and one coefficient that widens, another that deepens
it (section 3.3).  Lite leaves out squeeze-and-excitation, takes ReLU6 for swish, and keeps the stem, the first and the last
stage as they are when it grows.

Published (ImageNet top-1, the authors' README): Lite0 75.1 with 4.7 M parameters and 407 M multiply-adds, Lite4 81.5 with
13.0 M and 2,640 M (at 300 pixels).
"""

from __future__ import annotations

from collections.abc import Sequence

from segmentarium.backbones.mobilenet_v2 import LAST_OF_STRIDE, InvertedResidualNet, blocks_of, divisible_by_8
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
STEM, HEAD = 32, 1280


class EfficientNetLite(InvertedResidualNet):
    """EfficientNet-Lite at a width and a depth coefficient.

    blocks         of each stage, instead of the published ones that `depth` multiplies
    output_stride  32 as published; 16 or 8: later stages dilated instead of strided, in timm's way (see MobileNetV2)
    dropout        before the classifier, in training
    out_indices    which features come out: 0 to 4 for the strides 2 to 32.  Stages behind the last one are left out, unless
                   there is a classifier
    num_classes    classes of `classify`; None: no classifier
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        depth: float = 1.0,
        blocks: Sequence[int] | None = None,
        in_channels: int = 3,
        output_stride: int = 32,
        dropout: float = 0.2,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        num_classes: int | None = None,
    ) -> None:
        deepest = 4 if num_classes is not None else min(max(out_indices, default=4), 4)
        last = LAST_OF_STRIDE[deepest]
        stages = [
            (expansion, kernel, divisible_by_8(base * width), count, stride)
            for (expansion, kernel, base, _, stride), count in zip(
                STAGES[: last + 1], blocks or blocks_of(STAGES, depth), strict=False
            )
        ]
        super().__init__(
            stages,
            stem=STEM,
            head=HEAD if num_classes is not None else None,
            in_channels=in_channels,
            output_stride=output_stride,
            contract_dilation=True,
            dropout=dropout,
            final_conv=False,
            out_indices=out_indices,
            num_classes=num_classes,
        )


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
    return Card(
        paper=PAPER,
        parameters=parameters,
        flops=flops,
        flops_size=(side, side),
        num_classes=1000,
        scores={"ImageNet top-1": top1},
        limits=LIMITS,
    )


register("efficientnet_lite0", EfficientNetLite, _card(4.65, 0.407, 224, 75.1))
register("efficientnet_lite1", EfficientNetLite, _card(5.42, 0.631, 240, 76.7), depth=1.1)
register("efficientnet_lite2", EfficientNetLite, _card(6.09, 0.899, 260, 77.6), width=1.1, depth=1.2, dropout=0.3)
register("efficientnet_lite3", EfficientNetLite, _card(8.20, 1.44, 280, 79.8), width=1.2, depth=1.4, dropout=0.3)
register("efficientnet_lite4", EfficientNetLite, _card(13.01, 2.64, 300, 81.5), width=1.4, depth=1.8, dropout=0.3)
