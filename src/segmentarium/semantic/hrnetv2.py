"""HRNetV2: all resolutions of HRNet, joined and classified.

The four branches are brought to the finest, joined, mixed by a 1×1 convolution with batch norm and ReLU, and classified at 1/4:
the network has kept its resolution, so that the head need not restore any.  It stands on any backbone with features of several
strides.

What the public code does and the paper does not say: the authors' 1×1 convolution has a bias in front of its norm,
mmsegmentation's (`fcn_hr18`, …, its FCN on HRNet) none.  The authors' first code interpolates without aligned corners, their
later one, of which the published weights are, with them, in the backbone (`upsample`) as in the head; mmsegmentation's without.
What we change: the 1×1 convolution is applied to each branch at its own resolution and the results are upsampled and summed,
which is the same function at an eighth of the work: a sum over joined channels is a sum over branches, and a 1×1 convolution
commutes with bilinear upsampling.

Published (Cityscapes val, single scale): W18-small-v1 70.3, W18-small-v2 76.2, W48 81.1; with mmsegmentation (160k)
76.3, 78.8 and 80.7 for W18-small-v2, W18 and W48.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from segmentarium.backbones.hrnet import PAPER as BACKBONE
from segmentarium.backbones.hrnet import TINY
from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder
from segmentarium.layers.init import init_classifier
from segmentarium.layers.resize import resize
from segmentarium.registry import Card, Paper


class HRNetV2Decoder(Decoder):
    """All features at the finest one's size, mixed and classified (figure 4b).  -> logits at the stride of the finest.

    width           channels of the mixing convolution; None: of all features together
    bias            the mixing convolution has a bias in front of its norm, as the authors'
    align_corners   how features and logits are upsampled
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int | None = None,
        bias: bool = True,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.channels = tuple(channels)
        width = width or sum(channels)
        self.fuse = nn.Conv2d(sum(channels), width, 1, bias=bias)
        self.norm: nn.Module = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.classifier = init_classifier(nn.Conv2d(width, num_classes, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        first, *weights = self.fuse.weight.split(self.channels, 1)
        x = F.conv2d(features[0], first, self.fuse.bias)
        for feature, weight in zip(features[1:], weights, strict=True):
            x = x + resize(F.conv2d(feature, weight), x.shape[-2:], align_corners=self.align_corners)
        return self.classifier(self.act(self.norm(x)))

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Folds the norm, which follows a sum, into the mixing convolution, in place; outputs in evaluation stay."""
        norm = self.norm
        if not isinstance(norm, nn.BatchNorm2d):
            return
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.fuse.weight, self.fuse.bias = fuse_conv_bn_weights(
            self.fuse.weight, self.fuse.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        self.norm = nn.Identity()


PAPER = Paper(
    title=BACKBONE.title,
    authors=BACKBONE.authors,
    venue=BACKBONE.venue,
    year=BACKBONE.year,
    url=BACKBONE.url,
    code="https://github.com/HRNet/HRNet-Semantic-Segmentation",
    code_licence="MIT",
)
FLOPS = "fewer than published: the mixing convolution works on each branch at its own resolution, with the same result"


def _card(
    parameters: float | None = None, flops: float | None = None, score: float | None = None, protocol: str = ""
) -> Card:
    return Card(
        paper=PAPER,
        parameters=parameters,
        flops=flops and round(flops * 2**30 / 1e9, 1),
        flops_size=(1024, 2048) if flops else None,
        num_classes=19,
        scores={f"Cityscapes val mIoU{protocol}": score} if score else {},
        limits={"flops": FLOPS} if flops else {},
    )


# millions of parameters, the authors' GFLOPs (in units of 2^30), mIoU
for _name, _published in {
    "w18_small": (1.54, 31.1, 70.3),  # 1.5 in their table
    "w18_small_v2": (3.9, 71.6, 76.2),
    "w18": (None, None, None),
    "w32": (None, None, None),
    "w48": (65.9, 696.2, 81.1),
}.items():
    register_decoder(
        f"hrnetv2_{_name}",
        HRNetV2Decoder,
        _card(*_published),
        tiny={"backbone_arguments": {**TINY, "upsample": "aligned"}},
        backbone=f"hrnet_{_name}",
        backbone_arguments={"upsample": "aligned"},
        align_corners=True,
    )
for _name, _backbone, _score in (
    ("fcn_hr18s", "w18_small_v2", 76.31),
    ("fcn_hr18", "w18", 78.80),
    ("fcn_hr48", "w48", 80.65),
):
    register_decoder(
        _name,
        HRNetV2Decoder,
        _card(score=_score, protocol=" (mmsegmentation, 160k)"),
        tiny={"backbone_arguments": {**TINY, "upsample": "bilinear"}},
        backbone=f"hrnet_{_backbone}",
        backbone_arguments={"upsample": "bilinear"},
        bias=False,
    )
