"""ShuffleNet: grouped pointwise convolutions for very small budgets.

Weights of the authors' public code (MIT) and of mmpretrain (Apache-2.0) load.

In a bottleneck with a depthwise convolution nearly all work is in its two 1×1 convolutions.  In groups they cost a fraction,
but then no group sees what another found: a channel shuffle between them deals each group's results out to all.  A unit that
halves the map is concatenated with its pooled input, so that its branch makes only the further channels.  The very first 1×1
convolution is not grouped, since its input is narrow.

What the public code does and the paper does not say: the shuffle stands behind the depthwise convolution, and the stem is 24
wide at 1.5×, too.  It knows 3 and 8 groups from 0.5× on; the others follow table 1, with a bottleneck that the groups divide
and, at 0.25×, the stem that gives the published complexity.  The implementations differ, and `form` says which one is meant:
"megvii"      the authors': a shuffle that goes backwards (C / g groups of g), a classifier without a bias, images of 0 to 255,
              blue first, not normalised.  Here they are red first, as everywhere: the key table turns the stem's weights round
"mmpretrain"  the paper's shuffle, a bias, ImageNet's normalisation

Published (ImageNet top-1 error, the authors' code): 3 groups: 0.5× 42.7, 1× 32.2, 1.5× 28.4, 2× 25.9 with 0.7, 1.9, 3.4 and
5.4 M parameters and 38, 138, 292 and 524 M multiply-adds; 8 groups: 41.2, 32.0, 29.0, 27.1 with 1.0, 2.4, 4.3 and 6.5 M and
40, 138, 290 and 522 M.  The paper (tables 1 and 2): at 1× 33.6, 32.7, 32.6, 32.8, 32.4 with 1, 2, 3, 4 and 8 groups and 143,
140, 137, 133 and 137 M multiply-adds; at 0.5× 45.1, 44.4, 43.2, 41.6, 42.3 with about 38 M; at 0.25× 57.1, 56.8, 55.0, 54.2,
52.7 with about 13 M.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.contracts import Backbone
from segmentarium.layers.channel_shuffle import channel_shuffle
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_convs
from segmentarium.preprocessing import Preprocessing
from segmentarium.registry import Card, Paper, register

STAGE2 = {
    1: 144,
    2: 200,
    3: 240,
    4: 272,
    8: 384,
}  # channels at 1× by groups (table 1); each later stage has twice as many
# channels of the stem: with up to 4 groups, with 8
STEMS = {0.25: (12, 8), 0.5: (12, 16), 1.0: (24, 24), 1.5: (24, 24), 2.0: (48, 48)}
BLOCKS = (4, 8, 4)
BYTES = Preprocessing((0.0,) * 3, (1 / 255,) * 3, crop_size=224, crop_ratio=0.875)  # values of 0 to 255


@dataclass(frozen=True)
class Form:
    """What the public implementations do differently."""

    backwards: bool = True
    classifier_bias: bool = False
    preprocessing: Preprocessing = BYTES


FORMS = {
    "megvii": Form(),
    "mmpretrain": Form(False, True, Preprocessing(crop_size=224, crop_ratio=0.875)),
}


def bottleneck(channels: int, groups: int) -> int:
    """A quarter of a unit's channels, the nearest number that the groups divide."""
    return max(1, int(channels / 4 / groups + 0.5)) * groups


class ShuffleUnit(nn.Module):
    """Grouped 1×1, depthwise 3×3, shuffle, grouped 1×1, beside the input (figure 2b) or its pooled form (figure 2c).

    reduce_groups   of the first 1×1 convolution
    backwards       the shuffle is the paper's inverse
    """

    def __init__(
        self, in_channels: int, out_channels: int, groups: int, stride: int, reduce_groups: int, *, backwards: bool
    ) -> None:
        super().__init__()
        self.stride = stride
        inner = bottleneck(out_channels, groups)
        self.shuffled = inner // groups if backwards else groups
        self.grouped = groups > 1
        made = out_channels - in_channels if stride == 2 else out_channels
        self.reduce = ConvNormAct(in_channels, inner, 1, groups=reduce_groups)
        self.depthwise = ConvNormAct(inner, inner, 3, stride, groups=inner, act=None)
        self.expand = ConvNormAct(inner, made, 1, groups=groups, act=None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.reduce(x))
        y = self.expand(channel_shuffle(y, self.shuffled) if self.grouped else y)
        if self.stride == 2:  # both are at least 0
            return torch.cat([F.avg_pool2d(x, 3, 2, 1), F.relu(y, inplace=True)], 1)
        y += x
        return F.relu(y, inplace=True)


class ShuffleNetV1(Backbone):
    """ShuffleNet of `groups` groups at a width multiplier.

    groups        1, 2, 3, 4 or 8, of the 1×1 convolutions; more make the network wider at the same cost
    width         0.25, 0.5, 1.0, 1.5 or 2.0
    form          "megvii" or "mmpretrain": whose arrangement, see above
    out_indices   which features come out: 0 to 4 for the strides 2 to 32; that of stride 4 is the stem's, pooled
    num_classes   classes of `classify`; None: no classifier
    """

    num_layers, layer_row = 4, "stages"

    def __init__(
        self,
        *,
        groups: int = 3,
        width: float = 1.0,
        form: str = "megvii",
        in_channels: int = 3,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if groups not in STAGE2:
            raise ValueError(f"groups is {groups}; ShuffleNet has {', '.join(map(str, STAGE2))}")
        if width not in STEMS:
            raise ValueError(f"width is {width}; ShuffleNet has {', '.join(map(str, STEMS))}")
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; give one of {', '.join(map(repr, FORMS))}")
        chosen = FORMS[form]
        self.preprocessing = chosen.preprocessing
        stem = STEMS[width][groups == 8]
        self.stem = ConvNormAct(in_channels, stem, 3, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.stages = nn.ModuleList()
        channels = [stem, stem]
        for index, blocks in enumerate(BLOCKS):
            inputs, outputs = channels[-1], int(STAGE2[groups] * width) * 2**index
            stage = nn.Sequential()
            for i in range(blocks):
                stage.append(
                    ShuffleUnit(
                        outputs if i else inputs,
                        outputs,
                        groups,
                        stride=1 if i else 2,
                        reduce_groups=groups if index or i else 1,
                        backwards=chosen.backwards,
                    )
                )
            self.stages.append(stage)
            channels.append(outputs)
        head = nn.Linear(channels[-1], num_classes, bias=chosen.classifier_bias) if num_classes is not None else None
        self.describe(channels, (2, 4, 8, 16, 32), out_indices, head=head)
        init_convs(self, mode="fan_out")

    def pyramid(self, image: Tensor) -> list[Tensor]:
        features = [self.stem(image)]
        features.append(self.pool(features[0]))
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features


PAPER = Paper(
    title="ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices",
    authors="Zhang, Zhou, Lin, Sun",
    venue="CVPR",
    year=2018,
    url="https://arxiv.org/abs/1707.01083",
    code="https://github.com/megvii-model/ShuffleNet-Series",
    code_licence="MIT",
)

# groups, width: top-1 (the authors' code, where it has the variant, else the paper's table 2), millions of parameters (counted
# where the authors give one digit), 1e9 multiply-adds
VARIANTS = {
    (1, 0.25): (42.9, None, None),
    (1, 0.5): (54.9, None, 0.038),
    (1, 1.0): (66.4, None, 0.143),
    (2, 0.25): (43.2, None, None),
    (2, 0.5): (55.6, None, 0.038),
    (2, 1.0): (67.3, None, 0.140),
    (3, 0.25): (45.0, None, None),
    (3, 0.5): (57.3, 0.717, 0.038),
    (3, 1.0): (67.8, 1.86, 0.138),
    (3, 1.5): (71.6, 3.44, 0.292),
    (3, 2.0): (74.1, 5.45, 0.524),
    (4, 0.25): (45.8, None, None),
    (4, 0.5): (58.4, None, 0.038),
    (4, 1.0): (67.2, None, 0.133),
    (8, 0.25): (47.3, None, None),
    (8, 0.5): (58.8, 1.01, 0.040),
    (8, 1.0): (68.0, 2.43, 0.138),
    (8, 1.5): (71.0, 4.27, 0.290),
    (8, 2.0): (72.9, 6.52, 0.522),
}
for (_groups, _width), (_top1, _parameters, _flops) in VARIANTS.items():
    _name = (
        "shufflenet_v1" + (f"_g{_groups}" if _groups != 3 else "") + (f"_{_width * 100:03.0f}" if _width != 1 else "")
    )
    register(
        _name,
        ShuffleNetV1,
        Card(
            paper=PAPER,
            parameters=_parameters,
            flops=_flops,
            flops_size=(224, 224) if _flops else None,
            num_classes=1000,
            scores={"ImageNet top-1": _top1},
        ),
        tiny={"width": 0.25} if _groups == 3 else None,  # so that what is examined small has groups
        groups=_groups,
        width=_width,
    )
