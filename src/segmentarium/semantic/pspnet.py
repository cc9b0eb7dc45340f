"""PSPNet: pyramid pooling over the deepest feature.

Weights of the authors' PyTorch code (their first, hszhao/PSPNet, is for Caffe) and of mmsegmentation (Apache-2.0) load.

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

from collections.abc import Sequence

from torch import Tensor, nn

from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier
from segmentarium.layers.pyramid_pooling import PyramidPooling
from segmentarium.registry import Card, Paper


class PSPDecoder(Decoder):
    """Pyramid pooling of the deepest feature, a 3×3 bottleneck, the classifier: logits at the deepest stride.

    bins              the pyramid: cells along a side of each level
    align_corners     in both resizes, that of the pyramid and that to the image's size
    decoder_channels  of the bottleneck; None: a quarter of the feature's
    branch_channels   of each pooled branch; None: the feature's, shared out over the bins
    """

    prefers_output_stride = 8
    auxiliary = True

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        decoder_channels: int | None = None,
        branch_channels: int | None = None,
        bins: Sequence[int] = (1, 2, 3, 6),
        align_corners: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        inputs = channels[-1]
        width = decoder_channels or inputs // 4
        branch = branch_channels or inputs // len(bins)
        self.pyramid = PyramidPooling(inputs, branch, bins, align_corners=align_corners)
        self.bottleneck = ConvNormAct(self.pyramid.out_channels, width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(width, num_classes, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.dropout(self.bottleneck(self.pyramid(features[-1]))))


PAPER = Paper(
    title="Pyramid Scene Parsing Network",
    authors="Zhao, Shi, Qi, Wang, Jia",
    venue="CVPR",
    year=2017,
    url="https://arxiv.org/abs/1612.01105",
    code="https://github.com/hszhao/semseg",
    code_licence="MIT",
)

# multiply-adds as counted in the authors' code
register_decoder(
    "pspnet",
    PSPDecoder,
    Card(paper=PAPER, parameters=49.08, parameters_of="training", flops=376.56, flops_size=(513, 1025), num_classes=19),
    backbone="resnet50_v1s",
)
for _depth, _parameters, _score in ((50, 48.98, 78.55), (101, 67.97, 79.76)):
    register_decoder(
        f"pspnet_resnet{_depth}",
        PSPDecoder,
        Card(
            paper=PAPER,
            parameters=_parameters,
            parameters_of="training",
            num_classes=19,
            scores={"Cityscapes val mIoU": _score},
        ),
        backbone=f"resnet{_depth}_v1c",
        align_corners=False,
    )
