"""FCN, as the dilated baseline that everyone compares with.

The paper turns a VGG classifier into a network of convolutions and adds coarse to fine scores; its code is for Caffe.  What is
called FCN today, and held weights of, is a ResNet of output stride 8 with a few 3×3 convolutions before the classifier:
torchvision (BSD-3; one convolution: `fcn`) and mmsegmentation (Apache-2.0; two, then one more on their output beside the
input: `fcn_resnet50`, `fcn_resnet101`).  We build that one.

The same head, with one convolution and on the last feature but one, is the auxiliary classifier of PSPNet, DeepLabV3+
and many others (`layers/fcn_head.py`).  It counts 0.4 there, and so for `fcn`; torchvision's training counts it 0.5.

Published: PASCAL VOC 2012 test 62.2 (the paper, VGG); Cityscapes val, single scale, mmsegmentation: ResNet-50 73.61,
ResNet-101 75.13.
"""

from __future__ import annotations

from collections.abc import Sequence

from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder
from segmentarium.layers.fcn_head import FCNHead
from segmentarium.registry import Card, Paper


class FCNDecoder(FCNHead, Decoder):
    """The head of FCN on the deepest feature: logits at its stride.

    decoder_channels  of the convolutions; None: a quarter of the feature's
    convs             3×3 convolutions before the classifier
    concatenate       one more sees the feature beside what the others made of it
    dilation          of the convolutions, but for that one: 6 in mmsegmentation's "d6" models, of output stride 16
    align_corners     in the resize to the image's size
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
        convs: int = 1,
        concatenate: bool = False,
        dilation: int = 1,
        align_corners: bool = False,
    ) -> None:
        super().__init__(
            channels=channels,
            num_classes=num_classes,
            decoder_channels=decoder_channels,
            convs=convs,
            concatenate=concatenate,
            dilation=dilation,
        )
        self.align_corners = align_corners


PAPER = Paper(
    title="Fully Convolutional Networks for Semantic Segmentation",
    authors="Long, Shelhamer, Darrell",
    venue="CVPR",
    year=2015,
    url="https://arxiv.org/abs/1411.4038",
    code="https://github.com/shelhamer/fcn.berkeleyvision.org",
    code_licence="BSD-2-Clause",
)

# 21 classes as in torchvision and 19 as in mmsegmentation
register_decoder("fcn", FCNDecoder, Card(paper=PAPER, parameters=35.32, parameters_of="training", num_classes=21))
for _depth, _parameters, _score in ((50, 49.50, 73.61), (101, 68.49, 75.13)):
    register_decoder(
        f"fcn_resnet{_depth}",
        FCNDecoder,
        Card(
            paper=PAPER,
            parameters=_parameters,
            parameters_of="training",
            num_classes=19,
            scores={"Cityscapes val mIoU": _score},
        ),
        backbone=f"resnet{_depth}_v1c",
        convs=2,
        concatenate=True,
    )
