"""SegFormer: a decoder of linear layers on the Mix Transformer.

mmsegmentation, transformers (both Apache-2.0) and segmentation-models-pytorch (MIT) have it too, and the weights of all four
load.  This file was written from the paper.

The Mix Transformer (`segmentarium.backbones.mit`) sees far enough that the decoder can be all linear layers: each level is
projected to one width, upsampled to 1/4, joined and classified (equation 4).

mmsegmentation's decoder (`projection="conv"`) has batch norm and ReLU after each projection, joins the levels in the other order
and is 256 wide for every size; the authors' is 768 wide from B2 on.

What we change: the joining linear layer is applied to each level at its own resolution, and the results are upsampled and summed.
It is the same function, since a sum over joined channels is a sum over levels and a linear layer commutes with bilinear
upsampling, at about a third of the multiplications and without the map of four times the width.  `deploy()` goes on to multiply
projection, joining layer and batch norm into one layer a level.

Published (single scale, ADE20K): mIoU 37.4, 41.0, 45.6, 47.8, 48.5, 49.1 for B0 to B5 in mmsegmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones.mit import PAPER
from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier
from segmentarium.layers.resize import resize
from segmentarium.registry import Card


class LinearProjection(nn.Linear):
    """A linear layer over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class AllMLPDecoder(Decoder):
    """Project, upsample, fuse, classify (section 3.2).  -> logits at the stride of the finest feature.

    embed_dim       the width that every level is projected to
    projection      "linear" as in the paper, joined coarsest first; "conv" as in mmsegmentation: convolution, batch norm and
                    ReLU, joined finest first
    align_corners   in the resize to the image's size; True is segmentation-models-pytorch's
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        embed_dim: int = 256,
        projection: Literal["linear", "conv"] = "linear",
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        if projection not in ("linear", "conv"):
            raise ValueError(f"projection is {projection!r}; give 'linear' (the paper's) or 'conv' (mmsegmentation's)")
        self.coarsest_first = projection == "linear"
        self.project = nn.ModuleList(
            LinearProjection(c, embed_dim) if projection == "linear" else ConvNormAct(c, embed_dim, 1) for c in channels
        )
        self.fuse: nn.Conv2d | None = nn.Conv2d(len(channels) * embed_dim, embed_dim, 1, bias=False)
        self.norm = nn.BatchNorm2d(embed_dim)
        self.act = nn.ReLU()
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = init_classifier(nn.Conv2d(embed_dim, num_classes, 1))

    def _fuse_weights(self, fuse: nn.Conv2d) -> list[Tensor]:
        """The columns of the joining layer that belong to each level, finest first: (D, D, 1, 1) each."""
        weights = list(fuse.weight.chunk(len(self.project), 1))
        return weights[::-1] if self.coarsest_first else weights

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        levels = [project(feature) for project, feature in zip(self.project, features, strict=True)]
        if self.fuse is not None:
            levels = [F.conv2d(x, w) for x, w in zip(levels, self._fuse_weights(self.fuse), strict=True)]
        x = levels[0]
        for level in levels[1:]:
            x = x + resize(level, x.shape[-2:])
        return self.classifier(self.dropout(self.act(self.norm(x))))

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Multiplies the joining layer and its batch norm into the projections, in place; outputs in evaluation stay."""
        if self.fuse is None:
            return
        norm = self.norm
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        bias = norm.bias - scale * norm.running_mean
        merged: list[nn.Module] = []
        joins = []
        for project, weight in zip(self.project, self._fuse_weights(self.fuse), strict=True):
            weight = scale[:, None] * weight.flatten(1)
            if isinstance(project, LinearProjection):
                bias = bias + weight @ project.bias
                joins.append(self._pointwise(weight @ project.weight))
                merged.append(joins[-1])
            else:  # a ReLU stands between
                joins.append(self._pointwise(weight))
                merged.append(nn.Sequential(project, joins[-1]))
        joins[0].bias = nn.Parameter(bias)  # upsampling keeps a constant, so that one level carries the bias of all
        self.project = nn.ModuleList(merged)
        self.fuse, self.norm = None, nn.Identity()

    @staticmethod
    def _pointwise(weight: Tensor) -> nn.Conv2d:
        conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False)
        conv.weight = nn.Parameter(weight[:, :, None, None].clone())
        return conv


# size: width of the decoder, published parameters (millions) and 1e9 multiply-adds with 150 classes at 512×512 (B5: 640×640),
# mIoU on ADE20K (single scale, mmsegmentation)
VARIANTS = {
    "b0": (256, 3.8, 8.4, 37.4),
    "b1": (256, 13.7, 15.9, 41.0),
    "b2": (768, 27.5, 62.4, 45.6),
    "b3": (768, 47.3, 79.0, 47.8),
    "b4": (768, 64.1, 95.7, 48.5),
    "b5": (768, 84.7, 183.3, 49.1),
}
FLOPS = "fewer than published: the joining layer works on each level at its own resolution, with the same result"
for size, (embed_dim, parameters, flops, score) in VARIANTS.items():
    flops_size = (640, 640) if size == "b5" else (512, 512)
    scores = {"ADE20K val mIoU (single scale)": score}
    card = Card(
        paper=PAPER,
        parameters=parameters,
        flops=flops,
        flops_size=flops_size,
        num_classes=150,
        scores=scores,
        limits={"flops": FLOPS},
    )
    register_decoder(f"segformer_{size}", AllMLPDecoder, card, backbone=f"mit_{size}", embed_dim=embed_dim)
