"""SuperPoint: key points and their descriptors in one pass, learnt without anybody's labels.

A VGG encoder brings a grey picture to 1/8.  One head scores, for each cell of 8×8 pixels, its 64 pixels and "none of them"
(the dustbin); the other describes each cell by 256 numbers of length 1, and a point's descriptor is read between the cells.
First it is taught on drawn shapes, whose corners are known (MagicPoint); then on photographs, on what it found itself in many
warps of them (homographic adaptation); at last both heads on pairs of a picture and its warp.

The forms differ in their norms and in where a descriptor is read:

                        magicleap (default)    open (rpautrat)         yyjau (eric-yyjau)
    norm                none                   batch norm, eps 1e-3    batch norm
    order               conv, ReLU             conv, ReLU, norm        conv, norm, ReLU
    behind the last     –                      norm                    norm
    descriptors read    as SuperGlue does      exactly                 as SuperGlue does

"magicleap" is what the authors published, with descriptors read as SuperGlue, LightGlue and transformers do: right at the upper
left, and 3.5 pixels too near to it at the lower right; `sampling="corners"` is the authors' own demonstration, off by that much
at the upper left, too.
A picture's rows and columns behind the last whole cell have no points, as in all of them.

How it is trained: `forward_train(image)` gives "logits" (B, 65, h, w) and "descriptors"; with a second picture, the first one's
warp, "warped_logits" and "warped_descriptors" too.  The loop hands over that picture where the model lists it in `train_inputs`:
`learn("points")` is MagicPoint's objective, one picture; `learn("pairs")`, as built, is the joint one.  A batch has

    "cells", "warped_cells"   (B, h, w) int64: which pixel of each cell is the point, dy · 8 + dx; 64 none; 255 counts nowhere
    "homography"              (B, 3, 3): pixels (x, y, 1) of the image to pixels of the warped one
    "warped_valid"            (B, h, w): 1 where a cell of the warped picture shows the image in whole, else 0

What the public codes do and the paper does not say: the demonstration adds 1e-5 to the softmax's denominator, left out here.
`objective="rpautrat"` has the descriptor loss that their weights were made by (`losses/descriptor_hinge.py`).
What we change: other widths and more input channels are possible.

Published (HPatches, 300 points, NMS 4): repeatability .652 under illumination, .503 under viewpoint; homographies within 3 pixels
.684.  The open form, by its authors' scripts: .662, .674 and .836.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.contracts import KeypointModel, Preprocessing, Term
from segmentarium.contracts.point_kinds import Sampling
from segmentarium.keypoints.cells import CELL, DUSTBIN, scores_of_cells
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_convs
from segmentarium.losses import CrossEntropy, DescriptorHinge
from segmentarium.registry import Card, Paper, register

Form = Literal["magicleap", "open", "yyjau"]
Objective = Literal["paper", "rpautrat"]
PAIR = ("warped",)  # what is taken beside the image where pairs are learnt from


class NormedLast(ConvNormAct):
    """conv -> ReLU -> norm, as rpautrat has them."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.act(self.conv(x)))


def unit(inputs: int, outputs: int, kernel_size: int, form: Form, *, last: bool = False) -> ConvNormAct:
    """A convolution with its activation, and its norm where the form has one.  `last`: none of them but a norm."""
    kind = NormedLast if form == "open" else ConvNormAct
    norm = None if form == "magicleap" else partial(nn.BatchNorm2d, eps=1e-3 if form == "open" else 1e-5)
    return kind(inputs, outputs, kernel_size, bias=True, norm=norm, act=None if last else nn.ReLU)


class SuperPoint(KeypointModel):
    """A grey picture (B, 1, H, W) in [0, 1] -> scores (B, H, W) and descriptors (B, D, H // 8, W // 8) of length 1.

    form             whose network, see above
    widths           channels of the four stages, at 1/1, 1/2, 1/4 and 1/8
    head_width       of the 3×3 convolution of each head
    descriptor_size  D
    sampling         where between the cells a descriptor is read: "exact", "superglue" or "corners"; None: as the form says
    objective        "paper", or "rpautrat": the descriptor loss of their code, with their weights
    """

    inputs = ("image",)
    stride = CELL
    counted_at = (480, 640)

    def __init__(
        self,
        *,
        form: Form = "magicleap",
        widths: Sequence[int] = (64, 64, 128, 128),
        head_width: int = 256,
        descriptor_size: int = 256,
        in_channels: int = 1,
        sampling: Sampling | None = None,
        objective: Objective = "paper",
    ) -> None:
        super().__init__(in_channels=in_channels)
        for what, given, known in (
            ("form", form, get_args(Form)),
            ("sampling", sampling, (*get_args(Sampling), None)),
            ("objective", objective, get_args(Objective)),
        ):
            if given not in known:
                raise ValueError(f"{what} is {given!r}; give one of {', '.join(map(repr, known))}")
        if len(widths) != 4:
            raise ValueError(f"widths is {tuple(widths)}; give the channels of the four stages")
        self.sampling: Sampling = sampling or ("exact" if form == "open" else "superglue")
        self.preprocessing = Preprocessing((0.0,), (1.0,)).for_channels(in_channels)
        before = (in_channels, *widths)
        self.encoder = nn.ModuleList(
            nn.Sequential(unit(a, b, 3, form), unit(b, b, 3, form)) for a, b in zip(before, widths, strict=False)
        )
        self.detector, self.descriptor = (
            nn.Sequential(unit(widths[-1], head_width, 3, form), unit(head_width, outputs, 1, form, last=True))
            for outputs in (DUSTBIN + 1, descriptor_size)
        )
        init_convs(self)
        self.how: Objective = objective
        self.learn("pairs")

    def learn(self, what: Literal["points", "pairs"]) -> None:
        """Sets the objective: of "points", on one picture (MagicPoint, and after adaptation), or of "pairs", the joint one."""
        points = Term("points", 1.0, CrossEntropy(), on="cells", at="as is", classes=False)
        if what == "points":
            self.train_inputs = ()
            self.set_objective(points)
            return
        weight, hinge = (1e-4, DescriptorHinge()) if self.how == "paper" else (1e4, DescriptorHinge.rpautrat())
        self.train_inputs = PAIR
        self.set_objective(
            points,
            Term("warped points", 1.0, CrossEntropy(), ("warped_logits",), "warped_cells", at="as is", classes=False),
            Term(
                "descriptors",
                weight,
                hinge,
                of=("descriptors", "warped_descriptors"),
                on="homography",
                beside=("warped_valid",),
                at="as is",
                classes=False,
            ),
        )

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W), H and W of 8 or more -> (B, widths[3], H // 8, W // 8)"""
        x = self.encoder[0](image)
        for stage in self.encoder[1:]:
            x = stage(F.max_pool2d(x, 2))
        return x

    def heads(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> logits of the cells (B, 65, h, w) and descriptors (B, D, h, w) of length 1"""
        x = self.encode(image)
        return self.detector(x), F.normalize(self.descriptor(x), dim=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits, descriptors = self.heads(image)
        scores = scores_of_cells(logits)
        height, width = image.shape[-2] - scores.shape[-2], image.shape[-1] - scores.shape[-1]
        return F.pad(scores, (0, width, 0, height)), descriptors

    def forward_train(self, image: Tensor, warped: Tensor | None = None) -> dict[str, Tensor]:
        """The supervised outputs of a picture, and of its warp where one is given, which has its size."""
        if warped is None:
            logits, descriptors = self.heads(image)
            outputs = {"logits": logits, "descriptors": descriptors}
            # gradients of what no term reads would be asked for in vain
            return outputs if self.train_inputs or not self.training else {"logits": self.detector(self.encode(image))}
        logits, descriptors = self.heads(torch.cat((image, warped)))
        outputs: dict[str, Tensor] = {}
        for name, both in (("logits", logits), ("descriptors", descriptors)):
            outputs[name], outputs[f"warped_{name}"] = both.chunk(2)
        return outputs


PAPER = Paper(
    title="SuperPoint: Self-Supervised Interest Point Detection and Description",
    authors="DeTone, Malisiewicz, Rabinovich",
    venue="CVPR Workshops",
    year=2018,
    url="https://arxiv.org/abs/1712.07629",
    code="https://github.com/rpautrat/SuperPoint",
    code_licence="MIT",
)
TINY = {"widths": [8, 8, 16, 16], "head_width": 16, "descriptor_size": 16}

register(
    "superpoint",
    SuperPoint,
    Card(
        paper=PAPER,
        parameters=1.301,
        scores={
            "HPatches repeatability, illumination": 0.652,
            "HPatches repeatability, viewpoint": 0.503,
            "HPatches homography, 3 px": 0.684,
        },
    ),
    tiny=TINY,
)
register(
    "superpoint_open",
    SuperPoint,
    Card(
        paper=PAPER,
        parameters=1.304,
        scores={
            "HPatches repeatability, illumination": 0.662,
            "HPatches repeatability, viewpoint": 0.674,
            "HPatches homography, 3 px": 0.836,
        },
    ),
    tiny=TINY,
    form="open",
    objective="rpautrat",
)
register(
    "superpoint_small",
    SuperPoint,
    Card(  # not the paper's: a narrower encoder, a sixth of the work
        paper=PAPER,
        limits={
            "learning": "of 65 answers a cell, behind batch norms: a few dozen steps take a third of the error away"
        },
    ),
    tiny=TINY,
    form="yyjau",
    widths=(16, 32, 64, 128),
    head_width=128,
    sampling="exact",
    objective="rpautrat",
)
