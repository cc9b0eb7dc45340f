"""ShuffleNetV2: what small networks cost on a machine, not on paper.

Weights of torchvision (BSD-3), mmpretrain (Apache-2.0) and the authors' public code (MIT) load.

Memory traffic counts as much as multiplications: 1×1 convolutions should keep the number of channels, grouped ones and sums
of maps cost more than they seem to (section 2).  So half of the channels pass a unit untouched, the other half goes through
1×1, depthwise and 1×1 convolutions at one width, both are concatenated, and a channel shuffle mixes them for the next unit.
A unit that halves the map convolves both halves.

The public networks are one function with its channels in other orders, and `form` says which one is meant:
"torchvision"  both halves are interleaved after each unit and split in the middle (mmpretrain too)
"megvii"       the authors': concatenated, and split into even and odd channels; a classifier without a bias, at 2× behind
               dropout; images of 0 to 255, blue first, not normalised.  Here they are red first, as everywhere: the key table
               turns the stem's weights round
What we change: within a stage the two halves stay two maps.  What the next unit keeps and what it convolves are put together
at once, which moves each value once where concatenation, shuffle and split would move it up to three times.

Published (ImageNet top-1 error, the authors' code): 0.5× 38.9, 1× 30.6, 1.5× 27.4, 2× 25.0 with 1.4, 2.3, 3.5 and 7.4 M
parameters and 41, 146, 299 and 591 M multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segmentarium.backbones.shufflenet_v1 import BLOCKS, BYTES
from segmentarium.contracts import Backbone
from segmentarium.layers.channel_shuffle import interleave
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_convs
from segmentarium.layers.pooling import global_average_pool
from segmentarium.preprocessing import Preprocessing
from segmentarium.registry import Card, Paper, register

STEM = 24
WIDTHS = {  # table 5: channels of the three stages and of the 1×1 convolution before the classifier
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}
Pair = tuple[Tensor, Tensor]


def _cut(a: Tensor, b: Tensor) -> Pair:
    """The halves of the interleaved maps, without interleaving them whole."""
    half = a.shape[1] // 2
    return interleave(a[:, :half], b[:, :half]), interleave(a[:, half:], b[:, half:])


def _deal(a: Tensor, b: Tensor) -> Pair:
    """The even and the odd channels of the concatenated maps, without concatenating them whole."""
    return torch.cat([a[:, ::2], b[:, ::2]], 1), torch.cat([a[:, 1::2], b[:, 1::2]], 1)


def _concatenate(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b], 1)


@dataclass(frozen=True)
class Form:
    """What the public implementations do differently.

    split   (passed, convolved) of a unit, each (B, C / 2, …) with C / 4 even or odd -> the next unit's
    join    the same -> (B, C, …), which leaves the stage
    """

    split: Callable[[Tensor, Tensor], Pair]
    join: Callable[[Tensor, Tensor], Tensor]
    classifier_bias: bool = True
    dropout_at_2: float = 0.0


FORMS = {
    "torchvision": Form(_cut, interleave),
    "megvii": Form(_deal, _concatenate, classifier_bias=False, dropout_at_2=0.2),
}


def branch(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """1×1, depthwise 3×3 without an activation, 1×1 (figure 3c)."""
    return nn.Sequential(
        ConvNormAct(in_channels, channels, 1),
        ConvNormAct(channels, channels, 3, stride, groups=channels, act=None),
        ConvNormAct(channels, channels, 1),
    )


class Stage(nn.Module):
    """Units on one map size; the first halves it, and convolves both halves (figure 3d)."""

    def __init__(self, in_channels: int, out_channels: int, units: int, form: Form) -> None:
        super().__init__()
        half = out_channels // 2
        self.form = form
        self.shortcut = nn.Sequential(
            ConvNormAct(in_channels, in_channels, 3, 2, groups=in_channels, act=None),
            ConvNormAct(in_channels, half, 1),
        )
        self.branches = nn.ModuleList(
            [branch(in_channels, half, 2), *(branch(half, half, 1) for _ in range(units - 1))]
        )

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.branches
        passed, convolved = self.shortcut(x), first(x)
        for unit in others:
            passed, convolved = self.form.split(passed, convolved)
            convolved = unit(convolved)
        return self.form.join(passed, convolved)


class ShuffleNetV2(Backbone):
    """ShuffleNetV2 at a width multiplier.

    width         0.5, 1.0, 1.5 or 2.0
    form          "torchvision" or "megvii": whose arrangement, see above
    out_indices   which features come out: 0 to 4 for the strides 2 to 32; that of stride 4 is the stem's, pooled
    num_classes   classes of `classify`; None: no classifier
    """

    num_layers, layer_row = 4, "stages"

    def __init__(
        self,
        *,
        width: float = 1.0,
        form: str = "torchvision",
        in_channels: int = 3,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if width not in WIDTHS:
            raise ValueError(f"width is {width}; ShuffleNetV2 has {', '.join(map(str, WIDTHS))}")
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; give one of {', '.join(map(repr, FORMS))}")
        chosen = FORMS[form]
        usual = Preprocessing(crop_size=224, crop_ratio=0.875 if width <= 1 else 224 / 232)
        self.preprocessing = BYTES if form == "megvii" else usual
        self.stem = ConvNormAct(in_channels, STEM, 3, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        *widths, final = WIDTHS[width]
        channels = [STEM, STEM, *widths]
        self.stages = nn.ModuleList(Stage(channels[i + 1], widths[i], units, chosen) for i, units in enumerate(BLOCKS))
        self.final: ConvNormAct | None = None
        head = None
        if num_classes is not None:
            self.final = ConvNormAct(channels[-1], final, 1)
            self.dropout = nn.Dropout(chosen.dropout_at_2 if width == 2 else 0.0)
            head = nn.Linear(final, num_classes, bias=chosen.classifier_bias)
        self.describe(channels, (2, 4, 8, 16, 32), out_indices, head=head)
        init_convs(self, mode="fan_out")

    def pyramid(self, image: Tensor) -> list[Tensor]:
        features = [self.stem(image)]
        features.append(self.pool(features[0]))
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features

    def embed(self, image: Tensor) -> Tensor:
        if self.final is None:
            return super().embed(image)
        return self.dropout(global_average_pool(self.final(self.pyramid(image)[-1])).flatten(1))


PAPER = Paper(
    title="ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
    authors="Ma, Zhang, Zheng, Sun",
    venue="ECCV",
    year=2018,
    url="https://arxiv.org/abs/1807.11164",
    code="https://github.com/megvii-model/ShuffleNet-Series",
    code_licence="MIT",
)

for _width, _parameters, _flops, _top1 in (
    (0.5, 1.37, 0.041, 61.1),
    (1.0, 2.28, 0.146, 69.4),
    (1.5, 3.50, 0.299, 72.6),
    (2.0, 7.39, 0.591, 75.0),
):
    register(
        "shufflenet_v2" + (f"_{_width * 100:03.0f}" if _width != 1 else ""),
        ShuffleNetV2,
        Card(
            paper=PAPER,
            parameters=_parameters,
            flops=_flops,
            flops_size=(224, 224),
            num_classes=1000,
            scores={"ImageNet top-1": _top1},
        ),
        width=_width,
    )
