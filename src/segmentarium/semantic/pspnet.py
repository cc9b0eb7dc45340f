"""PSPNet: Pyramid Scene Parsing Network.

Zhao, Shi, Qi, Wang, Jia; CVPR 2017; https://arxiv.org/abs/1612.01105.  Authors' code: hszhao/PSPNet (Caffe) and
hszhao/semseg (PyTorch, MIT), whose weights load, as do mmsegmentation's (Apache-2.0).

What is in an image decides what a pixel may be: averages over the whole feature map and over its 2×2, 3×3 and 6×6 parts
stand beside every pixel when it is classified.  A second classifier on the last stage but one eases training (0.4).

`pspnet` is the authors' PyTorch network: a ResNet with a wide deep stem, dilated in full, corners aligned.
`pspnet_resnet50` and `pspnet_resnet101` are mmsegmentation's: narrower stem, contracted dilation, corners not aligned.
The branches take a quarter of the feature's channels (paper, semseg); in mmsegmentation as many as the bottleneck, which
is the same for the published ResNets.

Published: Cityscapes test 80.2, PASCAL VOC 2012 test 85.4 (abstract; ResNet-101, extra data); Cityscapes val, single
scale, mmsegmentation: ResNet-50 78.55, ResNet-101 79.76.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.pyramid_pooling import PyramidPooling
from segmentarium.registry import Card, Paper, register
from segmentarium.semantic.fcn import SupervisedTwice


class PSPDecoder(nn.Module):
    """Pyramid pooling of the deepest feature, a 3×3 bottleneck, the classifier: logits at the deepest stride.

    decoder_channels  of the bottleneck; None: a quarter of the feature's
    branch_channels   of each pooled branch; None: the feature's, shared out over the bins
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        num_classes: int,
        decoder_channels: int | None = None,
        branch_channels: int | None = None,
        bins: Sequence[int] = (1, 2, 3, 6),
        align_corners: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        inputs = channels[-1]
        width = decoder_channels or inputs // 4
        branch = branch_channels or inputs // len(bins)
        self.pyramid = PyramidPooling(inputs, branch, bins, align_corners=align_corners)
        self.bottleneck = ConvNormAct(self.pyramid.out_channels, width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.dropout(self.bottleneck(self.pyramid(features[-1]))))


class PSPNet(SupervisedTwice):
    """A backbone of output stride 8 with pyramid pooling.

    backbone            ours by name, timm's as "timm:NAME", or a module with .channels and .strides
    output_stride       of the backbone; None: its own
    bins                the pyramid: cells along a side of each level
    decoder_channels, branch_channels   see `PSPDecoder`
    align_corners       in both resizes, that of the pyramid and that to the image's size
    auxiliary           supervise the last feature but one too (training only)
    backbone_arguments  further arguments of the backbone's class
    """

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: str | nn.Module = "resnet50_v1s",
        in_channels: int = 3,
        output_stride: int | None = 8,
        bins: Sequence[int] = (1, 2, 3, 6),
        decoder_channels: int | None = None,
        branch_channels: int | None = None,
        align_corners: bool = True,
        auxiliary: bool = True,
        backbone_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            lambda body: PSPDecoder(
                channels=body.channels,
                num_classes=num_classes,
                decoder_channels=decoder_channels,
                branch_channels=branch_channels,
                bins=bins,
                align_corners=align_corners,
            ),
            num_classes=num_classes,
            backbone=backbone,
            in_channels=in_channels,
            output_stride=output_stride,
            auxiliary=auxiliary,
            backbone_arguments=backbone_arguments,
        )
        self.align_corners = align_corners


PAPER = Paper(
    title="Pyramid Scene Parsing Network",
    authors="Zhao, Shi, Qi, Wang, Jia",
    venue="CVPR",
    year=2017,
    url="https://arxiv.org/abs/1612.01105",
    code="https://github.com/hszhao/semseg",
    code_licence="MIT",
)

# parameters with the auxiliary head; multiply-adds as counted in the authors' code
register("pspnet", PSPNet, Card(PAPER, "semantic", 49.08, 376.56, (513, 1025), 19))
for _depth, _parameters, _score in ((50, 48.98, 78.55), (101, 67.97, 79.76)):
    register(
        f"pspnet_resnet{_depth}",
        PSPNet,
        Card(PAPER, "semantic", _parameters, num_classes=19, scores={"Cityscapes val mIoU": _score}),
        backbone=f"resnet{_depth}_v1c",
        align_corners=False,
    )
