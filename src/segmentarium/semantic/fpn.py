"""Semantic FPN: the segmentation branch of Panoptic FPN, alone.

Weights of mmsegmentation (Apache-2.0) load; the authors' code is detectron2 (Apache-2.0).

A feature pyramid gives maps of one width at 1/4 to 1/32; each is brought to 1/4 by turns of a 3×3 convolution and an upsampling
by two, and their sum is classified.  As accurate as dilation, it costs far less memory.

What the public code does and the paper does not say: mmsegmentation has batch norm where the paper has group norm, and dropout
before the classifier.  A finest map of any stride stands where the paper has 1/4; a map of the finest one's stride gets one
convolution.  What we change: nothing.

Published: Cityscapes val 77.7 (the paper, ResNet-101); mmsegmentation, single scale: Cityscapes 74.52 (ResNet-50) and 75.80
(ResNet-101), ADE20K 37.49 and 39.35.
Recipes of mmsegmentation: SGD 0.9, learning rate 0.01, weight decay 5e-4, poly 0.9 down to 1e-4; Cityscapes 512×1024, batch 8,
80k iterations; ADE20K 512×512, batch 16, 160k.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder
from segmentarium.layers.fpn import FeaturePyramid, PyramidSum
from segmentarium.layers.init import init_classifier
from segmentarium.registry import Card, Paper


class FPNDecoder(Decoder):
    """A pyramid of all features, each level brought to the finest one's stride, and classified: logits at that stride.

    decoder_channels  of the levels' convolutions
    pyramid_channels  of the pyramid
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        decoder_channels: int = 128,
        pyramid_channels: int = 256,
    ) -> None:
        super().__init__()
        self.pyramid = FeaturePyramid(channels, pyramid_channels)
        self.fuse = PyramidSum(pyramid_channels, strides, decoder_channels)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = init_classifier(nn.Conv2d(decoder_channels, num_classes, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.dropout(self.fuse(self.pyramid(features))))


PAPER = Paper(
    title="Panoptic Feature Pyramid Networks",
    authors="Kirillov, Girshick, He, Dollár",
    venue="CVPR",
    year=2019,
    url="https://arxiv.org/abs/1901.02446",
    code="https://github.com/facebookresearch/detectron2",
    code_licence="Apache-2.0",
)

# mmsegmentation's
for _depth, _parameters, _cityscapes, _ade in ((50, 28.53, 74.52, 37.49), (101, 47.52, 75.80, 39.35)):
    register_decoder(
        f"fpn_resnet{_depth}",
        FPNDecoder,
        Card(
            paper=PAPER,
            parameters=_parameters,
            num_classes=19,
            scores={"Cityscapes val mIoU": _cityscapes, "ADE20K val mIoU": _ade},
        ),
        backbone=f"resnet{_depth}_v1c",
    )
