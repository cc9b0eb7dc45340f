"""HRNet: resolutions side by side, none of which is ever given up.

A stem of two strided convolutions leads to 1/4, where the network stays.  Each further stage starts one more branch at half the
resolution of the last, and at the end of each of its modules every branch receives all others: finer ones through strided 3×3
convolutions, a halving each, coarser ones through a 1×1 convolution and upsampling.  Widths double from branch to branch.

The features are the branches themselves.  Where only the finest are asked for (`out_indices=(0,)`), the last module makes no
others, which is the network for poses.  The classifier's head widens the branches by a bottleneck each, adds them from fine to
coarse, and is no part of the features (timm's `features_only` gives its widened maps unless told otherwise).

What the public code does and the papers do not say: in the exchange, poses, classifiers and timm repeat pixels (`upsample`
"nearest"), mmsegmentation and the authors' first segmentation code interpolate ("bilinear"), their later one with aligned corners
("aligned"), as do their published segmentation weights.  Convolutions of the authors' head have biases in front of norms,
mmpretrain's none (`head_bias`).  What the authors call W18-small-v1 is 16 wide.
What we change: "nearest" takes any size, not multiples of 32 alone: rows and columns that a coarser branch has too many are cut.
mmsegmentation interpolates maps of such sizes twice, by the factor and to the size; we once.

Published (ImageNet, one crop, top-1): W18-small-v1 72.3, W18-small-v2 75.1, W18 76.8, W30 78.2, W32 78.5, W40 78.9, W44 78.9,
W48 79.3, W64 79.5.  The authors' GFLOPs are in units of 2^30; the cards have mmpretrain's and timm's counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones.resnet import BasicBlock, Bottleneck
from segmentarium.contracts import Backbone
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_convs
from segmentarium.layers.pooling import global_average_pool
from segmentarium.layers.resize import resize
from segmentarium.registry import Card, Paper, register

Upsampling = Literal["nearest", "bilinear", "aligned"]
STRIDES = (4, 8, 16, 32)


class Exchange(nn.Module):
    """A module of a stage: residual blocks on each branch, then every branch into the first `outputs` of them.

    widths   channels of the branches, finest first
    """

    def __init__(self, widths: Sequence[int], blocks: int, outputs: int, upsample: Upsampling) -> None:
        super().__init__()
        self.upsample = upsample
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width, 1, (1, 1), False) for _ in range(blocks))) for width in widths
        )
        self.fuse = nn.ModuleList(
            nn.ModuleList(self._path(widths, source, target) for source in range(len(widths)))
            for target in range(outputs)
        )

    @staticmethod
    def _path(widths: Sequence[int], source: int, target: int) -> nn.Module:
        """From one branch to another, without the upsampling."""
        if source == target:
            return nn.Identity()
        if source > target:
            return ConvNormAct(widths[source], widths[target], 1, act=None)
        halvings = [ConvNormAct(widths[source], widths[source], 3, 2) for _ in range(target - source - 1)]
        return nn.Sequential(*halvings, ConvNormAct(widths[source], widths[target], 3, 2, act=None))

    def _enlarged(self, x: Tensor, factor: int, like: Tensor) -> Tensor:
        height, width = like.shape[-2:]
        if self.upsample == "nearest":
            return F.interpolate(x, scale_factor=float(factor), mode="nearest")[..., :height, :width]
        return resize(x, (height, width), align_corners=self.upsample == "aligned")

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One feature a branch, finest first -> the first `outputs` of them, exchanged."""
        given = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        made = []
        for target, own in enumerate(given[: len(self.fuse)]):
            paths: Any = self.fuse[target]
            total = own
            for source, path in enumerate(paths):
                if source == target:
                    continue
                part = path(given[source])
                if source > target:
                    part = self._enlarged(part, 2 ** (source - target), own)
                # the branch's own map goes to the others, too; the sum is nobody else's
                total = own + part if total is own else total.add_(part)
            made.append(F.relu(total, inplace=True))
        return made


class Start(nn.ModuleList):
    """What begins a stage's new branches, of the coarsest feature before it."""

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """The features before the stage, finest first -> those of its branches."""
        kept = [] if len(self) == 2 else features  # the first two branches both start anew
        return [*kept, *(branch(features[-1]) for branch in self)]


class Head(nn.Module):
    """The four branches widened to 4, 8, 16, 32 times `width`, added from fine to coarse, and widened once more."""

    def __init__(self, widths: Sequence[int], width: int, bias: bool) -> None:
        super().__init__()
        self.increase = nn.ModuleList(Bottleneck(w, width << i, 1, (1, 1), False) for i, w in enumerate(widths))
        self.down = nn.ModuleList(ConvNormAct(4 * width << i, 8 * width << i, 3, 2, bias=bias) for i in range(3))
        self.final = ConvNormAct(32 * width, 64 * width, 1, bias=bias)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """-> (B, 64 width, h, w) at stride 32"""
        wide = [increase(x) for increase, x in zip(self.increase, features, strict=True)]
        x = wide[0]
        for down, more in zip(self.down, wide[1:], strict=True):
            x = down(x) + more
        return self.final(x)


class HRNet(Backbone):
    """HRNet: features at 1/4, 1/8, 1/16 and 1/32, with `width` channels, twice, four and eight times as many.

    width               channels of the finest branch
    modules             exchange modules of the stages with two, three and four branches
    blocks              residual blocks on each branch of a module
    bottlenecks         blocks at 1/4 before the branches part
    bottleneck_width    channels inside those blocks, a quarter of what they give
    upsample            how coarser branches reach finer ones: "nearest", "bilinear", or "aligned" (bilinear, corners aligned)
    head_width          of the classifier's head, which shows it the last feature 64 times as wide; 32 as published
    head_bias           the head's convolutions have biases before their norms
    out_indices         which features come out: 0 to 3 for the strides 4 to 32
    num_classes         classes of `classify`; None: no classifier and no head
    """

    def __init__(
        self,
        *,
        width: int = 18,
        modules: tuple[int, int, int] = (1, 4, 3),
        blocks: int = 4,
        bottlenecks: int = 4,
        bottleneck_width: int = 64,
        upsample: Upsampling = "nearest",
        head_width: int = 32,
        head_bias: bool = True,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if upsample not in ("nearest", "bilinear", "aligned"):
            raise ValueError(f"upsample is {upsample!r}; give 'nearest', 'bilinear' or 'aligned'")
        self.stem = nn.Sequential(ConvNormAct(in_channels, 64, 3, 2), ConvNormAct(64, 64, 3, 2))
        wide = 4 * bottleneck_width
        self.layer1 = nn.Sequential(
            *(Bottleneck(wide if i else 64, bottleneck_width, 1, (1, 1), False) for i in range(bottlenecks))
        )
        widths = [width << i for i in range(4)]
        first = Start([ConvNormAct(wide, widths[0]), ConvNormAct(wide, widths[1], 3, 2)])
        later = [Start([ConvNormAct(widths[i], widths[i + 1], 3, 2)]) for i in (1, 2)]
        self.transitions = nn.ModuleList([first, *later])
        needed = 4 if num_classes is not None else max(out_indices, default=0) + 1
        self.stages = nn.ModuleList()
        for stage, count in enumerate(modules):
            branches = stage + 2
            outputs = [branches] * count
            if branches == 4:
                outputs[-1] = min(needed, 4)
            self.stages.append(nn.Sequential(*(Exchange(widths[:branches], blocks, o, upsample) for o in outputs)))
        self.head = None if num_classes is None else Head(widths, head_width, head_bias)
        init_convs(self, mode="fan_out")
        self.describe(widths, STRIDES, out_indices, head=64 * head_width)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """-> the branches, as far as `out_indices` needs them"""
        features = [self.layer1(self.stem(image))]
        for start, stage in zip(self.transitions, self.stages, strict=True):
            features = stage(start(features))
        return features

    def embed(self, image: Tensor) -> Tensor:
        features = self.pyramid(image)
        return global_average_pool(features[-1] if self.head is None else self.head(features)).flatten(1)

    num_layers = 5

    def layer_of(self, name: str) -> int:
        """The stem, layer1, a stage with what starts its branches, and the head with the classifier are a layer each."""
        parts = name.split(".")
        if parts[0] in ("transitions", "stages"):
            return 2 + int(parts[1])
        return {"stem": 0, "layer1": 1}.get(parts[0], self.num_layers)


PAPER = Paper(
    title="Deep High-Resolution Representation Learning for Visual Recognition",
    authors="Wang, Sun, Cheng, Jiang, Deng, Zhao, Liu, Mu, Tan, Wang, Liu, Xiao",
    venue="TPAMI",
    year=2020,
    url="https://arxiv.org/abs/1908.07919",
    code="https://github.com/HRNet/HRNet-Image-Classification",
    code_licence="MIT",
)

SMALL = {"modules": (1, 1, 1), "blocks": 2, "bottlenecks": 1, "bottleneck_width": 32}
SMALL_V2 = {"modules": (1, 3, 2), "blocks": 2, "bottlenecks": 2, "bottleneck_width": 64}
FULL = {"modules": (1, 4, 3), "blocks": 4, "bottlenecks": 4, "bottleneck_width": 64}
# width and the rest; millions of parameters, 1e9 multiply-adds at 224×224, top-1 of the authors' weights
VARIANTS = {
    "w18_small": (16, SMALL, 13.19, 1.61, 72.3),
    "w18_small_v2": (18, SMALL_V2, 15.60, 2.62, 75.1),
    "w18": (18, FULL, 21.30, 4.33, 76.8),
    "w30": (30, FULL, 37.71, 8.17, 78.2),
    "w32": (32, FULL, 41.23, 8.99, 78.5),
    "w40": (40, FULL, 57.55, 12.77, 78.9),
    "w44": (44, FULL, 67.06, 14.96, 78.9),
    "w48": (48, FULL, 77.47, 17.36, 79.3),
    "w64": (64, FULL, 128.06, 29.00, 79.5),
}
# lists, as a file gives them back
TINY = {"width": 8, "modules": [1, 1, 2], "blocks": 1, "bottlenecks": 1, "bottleneck_width": 8, "head_width": 4}
for _name, (_width, _depths, _parameters, _flops, _top1) in VARIANTS.items():
    _card = Card(
        paper=PAPER,
        parameters=_parameters,
        flops=_flops,
        flops_size=(224, 224),
        num_classes=1000,
        scores={"ImageNet top-1": _top1},
    )
    register(f"hrnet_{_name}", HRNet, _card, tiny=TINY, width=_width, **_depths)
