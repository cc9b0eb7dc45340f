"""MobileNetV3: inverted residuals, searched, with squeeze-and-excitation and hard swish.

The authors' weights are for TensorFlow.  Those of torchvision (BSD-3), timm, mmpretrain and mmsegmentation (all Apache-2.0) load.

Two rows of MobileNetV2's blocks were searched for a phone's processor (tables 1 and 2).  Wide maps of half of them are weighed by
squeeze-and-excitation, between the depthwise and the last convolution, by a piecewise linear sigmoid; the later blocks have
h-swish for ReLU (section 5.2).  The 1×1 convolution that widens the last map stands before the pooling, the 1280 (Large) or 1024
(Small) channels behind it, where a pixel is all that they cost (figure 5).  "Minimalistic" networks, the authors' third row,
have the same channels with 3×3 kernels, ReLU and no attention.

What the public code does and the paper does not say: a width multiplier scales the map, whose rounded channels times the block's
expansion are then rounded again; the stem keeps its 16 channels at widths below 1, the hidden layer of the classifier its own.
The implementations are one network but for this:
norm_eps           of batch norms: 1e-3, the authors', torchvision's, mmpretrain's; 1e-5 timm's own weights (not "tf_…")
same_padding       TensorFlow's padding: the authors', timm's "tf_…" and mmsegmentation's; the others pad alike on all sides
contract_dilation  the block that gives up its stride keeps the rate before it (timm), or not (torchvision, mmsegmentation)
strided_taps       a feature is taken behind the block that strides (torchvision's segmentation networks), or behind the last
                   block of its stride
The last feature is always that behind the convolution to 960 or 576 channels.

Published (ImageNet top-1, table 3): Large 75.2 with 5.4 M parameters and 219 M multiply-adds, at width 0.75 73.3; Small 67.4 with
2.5 M and 56 M, at width 0.75 65.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones.mobilenet_v2 import divisible_by_8, finish
from segmentarium.contracts import Backbone
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_convs
from segmentarium.layers.pooling import global_average_pool
from segmentarium.layers.squeeze_excite import SqueezeExcite
from segmentarium.registry import Card, Paper, register

STEM = 16
# tables 1 and 2: kernel, widened channels, channels, squeeze-and-excitation, h-swish, stride
Line = tuple[int, int, int, bool, bool, int]
ROWS: dict[str, tuple[Line, ...]] = {
    "large": (
        (3, 16, 16, False, False, 1),
        (3, 64, 24, False, False, 2),
        (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2),
        (5, 120, 40, True, False, 1),
        (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2),
        (3, 200, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 480, 112, True, True, 1),
        (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2),
        (5, 960, 160, True, True, 1),
        (5, 960, 160, True, True, 1),
    ),
    "small": (
        (3, 16, 16, True, False, 2),
        (3, 72, 24, False, False, 2),
        (3, 88, 24, False, False, 1),
        (5, 96, 40, True, True, 2),
        (5, 240, 40, True, True, 1),
        (5, 240, 40, True, True, 1),
        (5, 120, 48, True, True, 1),
        (5, 144, 48, True, True, 1),
        (5, 288, 96, True, True, 2),
        (5, 576, 96, True, True, 1),
        (5, 576, 96, True, True, 1),
    ),
}
HIDDEN = {"large": 1280, "small": 1024}
STRIDES = (2, 4, 8, 16, 32)
HardSwish = partial(nn.Hardswish, inplace=True)  # nobody else sees what the norm before it returns


class HardSqueezeExcite(SqueezeExcite):
    """Squeeze-and-excitation whose weights come from the piecewise linear sigmoid, ReLU6(x + 3) / 6."""

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(global_average_pool(x)))))


class Block(nn.Module):
    """1×1 up, depthwise, squeeze-and-excitation, linear 1×1 down; a shortcut between equal shapes (figure 4)."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        kernel: int,
        stride: int,
        dilation: int,
        *,
        residual: bool,
        expand: bool,
        excite: bool,
        act: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self.residual = residual
        self.expand = ConvNormAct(in_channels, width, 1, act=act) if expand else nn.Identity()
        self.depthwise = ConvNormAct(width, width, kernel, stride, dilation=dilation, groups=width, act=act)
        self.excite = HardSqueezeExcite(width, divisible_by_8(width / 4)) if excite else nn.Identity()
        self.project = ConvNormAct(width, out_channels, 1, act=None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.excite(self.depthwise(self.expand(x))))
        if self.residual:
            y += x
        return y


class MobileNetV3(Backbone):
    """MobileNetV3-Large or -Small at a width multiplier.

    arch               "large" or "small"
    minimal            the authors' minimalistic form
    reduced_tail       half the channels in the last blocks and in the classifier, as in the paper's segmentation networks
    output_stride      32 as published; 16 or 8: later blocks dilated instead of strided
    contract_dilation, strided_taps, norm_eps, same_padding   whose network it is, see above
    dropout            before the last layer of the classifier, in training
    out_indices        which features come out: 0 to 4 for the strides 2 to 32
    num_classes        classes of `classify`; None: no classifier
    """

    layer_row = "blocks"

    def __init__(
        self,
        *,
        arch: str = "large",
        width: float = 1.0,
        minimal: bool = False,
        reduced_tail: bool = False,
        in_channels: int = 3,
        output_stride: int = 32,
        contract_dilation: bool = True,
        strided_taps: bool = False,
        norm_eps: float = 1e-3,
        same_padding: bool = False,
        dropout: float = 0.2,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if arch not in ROWS:
            raise ValueError(f"arch is {arch!r}; give 'large' or 'small'")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride is {output_stride}; a MobileNetV3 can have 8, 16 or 32")
        last_act = nn.ReLU if minimal else HardSwish
        inputs, published = max(STEM, divisible_by_8(STEM * width)), STEM
        self.stem = ConvNormAct(in_channels, inputs, 3, 2, act=last_act)
        self.blocks = nn.ModuleList()
        # of the maps behind the stem and behind each block: the stride that it has where nothing is dilated, and its channels
        places = [(2, inputs)]
        stride, rate = 2, 1
        for kernel, widened, outputs, excite, swish, step in ROWS[arch]:
            natural, before = places[-1][0] * step, rate
            channels = divisible_by_8(outputs * width) // (2 if reduced_tail and natural == 32 else 1)
            # a block that gives up its stride gets no shortcut, though half a tail may make its shapes equal
            residual = step == 1 and inputs == channels
            if stride * step > output_stride:
                rate, step = rate * step, 1
            stride *= step
            self.blocks.append(
                Block(
                    inputs,
                    divisible_by_8(inputs * widened / published),
                    channels,
                    3 if minimal else kernel,
                    step,
                    before if contract_dilation else rate,
                    residual=residual,
                    expand=widened != published,
                    excite=excite and not minimal,
                    act=HardSwish if swish and not minimal else nn.ReLU,
                )
            )
            inputs, published = channels, outputs
            places.append((natural, channels))
        self.head = ConvNormAct(inputs, 6 * inputs, 1, act=last_act)
        hidden = HIDDEN[arch] // (2 if reduced_tail else 1)
        self.hidden = None if num_classes is None else nn.Sequential(nn.Linear(6 * inputs, hidden), last_act())
        self.dropout = nn.Dropout(0.0 if num_classes is None else dropout)
        self.taps = [self._tap([natural for natural, _ in places], s, strided_taps) for s in STRIDES[:-1]]
        self.describe(
            [*(places[tap][1] for tap in self.taps), 6 * inputs],
            [min(stride, output_stride) for stride in STRIDES],
            out_indices,
            head=hidden,
        )
        init_convs(self, mode="fan_out")
        finish(self, norm_eps, same_padding)
        self.num_layers = len(self.blocks) + 1

    @staticmethod
    def _tap(strides: Sequence[int], stride: int, strided: bool) -> int:
        """Behind how many blocks the feature of a stride is taken."""
        first = strides.index(stride)
        return first if strided else first + strides.count(stride) - 1

    def _features(self, image: Tensor, deepest: int) -> list[Tensor]:
        """Up to the feature `deepest`, finest first"""
        x = self.stem(image)
        features = [x] if self.taps[0] == 0 else []
        for number, block in enumerate(self.blocks, 1):
            if len(features) > deepest:
                return features
            x = block(x)
            if number in self.taps:
                features.append(x)
        return features if len(features) > deepest else [*features, self.head(x)]

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """-> features of strides 2 to 32, as far as `out_indices` needs them"""
        return self._features(image, self.out_indices[-1])

    def embed(self, image: Tensor) -> Tensor:
        pooled = global_average_pool(self._features(image, len(STRIDES) - 1)[-1]).flatten(1)
        return pooled if self.hidden is None else self.dropout(self.hidden(pooled))


PAPER = Paper(
    title="Searching for MobileNetV3",
    authors="Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le, Adam",
    venue="ICCV",
    year=2019,
    url="https://arxiv.org/abs/1905.02244",
    code="https://github.com/tensorflow/models/tree/master/research/slim/nets/mobilenet",
    code_licence="Apache-2.0",
)

LIMITS = {
    "small_minimal": {
        "flops": "the authors' README counts 65 M, as it counts 66 M for Small, which has 56 M in the paper"
    }
}
# table 3, and the README of the authors' code for the minimalistic forms; Small at half the width is timm's
VARIANTS: tuple[tuple[str, float, float | None, float, dict[str, Any]], ...] = (
    ("large", 5.48, 0.219, 75.2, {"arch": "large"}),
    ("large_075", 3.99, 0.155, 73.3, {"arch": "large", "width": 0.75}),
    ("large_minimal", 3.92, 0.209, 72.3, {"arch": "large", "minimal": True}),
    ("small", 2.54, 0.056, 67.4, {"arch": "small"}),
    ("small_075", 2.04, 0.044, 65.4, {"arch": "small", "width": 0.75}),
    ("small_050", 1.59, None, 57.9, {"arch": "small", "width": 0.5}),
    ("small_minimal", 2.04, 0.065, 61.9, {"arch": "small", "minimal": True}),
)
for _name, _parameters, _flops, _top1, _arguments in VARIANTS:
    register(
        f"mobilenet_v3_{_name}",
        MobileNetV3,
        Card(
            paper=PAPER,
            parameters=_parameters,
            flops=_flops,
            flops_size=(224, 224) if _flops else None,
            num_classes=1000,
            scores={"ImageNet top-1": _top1},
            limits=LIMITS.get(_name, {}),
        ),
        **_arguments,
    )
