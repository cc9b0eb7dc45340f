"""FCN: Fully Convolutional Networks for Semantic Segmentation, as the dilated baseline that everyone compares with.

Long, Shelhamer, Darrell; CVPR 2015; https://arxiv.org/abs/1411.4038.  Authors' code: shelhamer/fcn.berkeleyvision.org
(BSD-2, Caffe).  The paper turns a VGG classifier into a network of convolutions and adds coarse to fine scores.  What is
called FCN today, and held weights of, is a ResNet of output stride 8 with a few 3×3 convolutions before the classifier:
torchvision (BSD-3; one convolution: `fcn`) and mmsegmentation (Apache-2.0; two, then one more on their output beside the
input: `fcn_resnet50`, `fcn_resnet101`).  We build that one.

The same head, with one convolution and on the last feature but one, is the auxiliary classifier of PSPNet, DeepLabV3+
and many others: `SupervisedTwice`.

Published: PASCAL VOC 2012 test 62.2 (the paper, VGG); Cityscapes val, single scale, mmsegmentation: ResNet-50 73.61,
ResNet-101 75.13.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.contracts import EncoderDecoder
from segmentarium.layers.conv import ConvNormAct
from segmentarium.losses import CrossEntropy
from segmentarium.registry import Card, Paper, register


class FCNHead(nn.Module):
    """3×3 convolutions on one feature, then the classifier: logits at that feature's stride.

    decoder_channels  of the convolutions; None: a quarter of the feature's
    concatenate       one more convolution sees the feature beside what the others made of it
    index             which feature of the backbone
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        num_classes: int,
        decoder_channels: int | None = None,
        convs: int = 2,
        concatenate: bool = True,
        index: int = -1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.index = index
        inputs = channels[index]
        width = decoder_channels or inputs // 4
        self.convs = nn.Sequential(*(ConvNormAct(width if i else inputs, width) for i in range(convs)))
        self.concatenate = ConvNormAct(inputs + width, width) if concatenate else None
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        feature = features[self.index]
        x = self.convs(feature)
        if self.concatenate is not None:
            x = self.concatenate(torch.cat([feature, x], 1))
        return self.classifier(self.dropout(x))


class SupervisedTwice(EncoderDecoder):
    """A backbone with a decoder and, in training, an FCN head on the last feature but one (a ResNet's layer3).

    The usual arrangement of dilated networks, PSPNet's section 3.3: cross entropy of the logits, and 0.4 of the head's.

    decoder             given the backbone, with its .channels and .strides, the decoder for it
    backbone            ours by name, timm's as "timm:NAME", or a module with .channels and .strides
    output_stride       of the backbone; None: its own
    auxiliary           False leaves the head out
    backbone_arguments  further arguments of the backbone's class
    """

    def __init__(
        self,
        decoder: Callable[[Any], nn.Module],
        *,
        num_classes: int,
        backbone: str | nn.Module,
        in_channels: int,
        output_stride: int | None,
        auxiliary: bool,
        backbone_arguments: Mapping[str, Any] | None,
    ) -> None:
        body: Any = create_backbone(
            backbone, in_channels=in_channels, output_stride=output_stride, **(backbone_arguments or {})
        )
        heads: dict[str, nn.Module] = {}
        if auxiliary:
            index = -2 if len(body.channels) > 1 else -1
            heads["aux"] = FCNHead(
                channels=body.channels, num_classes=num_classes, convs=1, concatenate=False, index=index
            )
        super().__init__(
            backbone=body, decoder=decoder(body), auxiliary=heads, num_classes=num_classes, in_channels=in_channels
        )
        self.set_objective({"logits": (1.0, CrossEntropy()), **{name: (0.4, CrossEntropy()) for name in heads}})


class FCN(SupervisedTwice):
    """A backbone of output stride 8 with an FCN head.

    backbone            ours by name, timm's as "timm:NAME", or a module with .channels and .strides
    output_stride       of the backbone; None: its own
    decoder_channels, convs, concatenate   of the head, see `FCNHead`
    auxiliary           supervise the last feature but one too (training only)
    backbone_arguments  further arguments of the backbone's class
    """

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: str | nn.Module = "resnet50",
        in_channels: int = 3,
        output_stride: int | None = 8,
        decoder_channels: int | None = None,
        convs: int = 1,
        concatenate: bool = False,
        auxiliary: bool = True,
        backbone_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            lambda body: FCNHead(
                channels=body.channels,
                num_classes=num_classes,
                decoder_channels=decoder_channels,
                convs=convs,
                concatenate=concatenate,
            ),
            num_classes=num_classes,
            backbone=backbone,
            in_channels=in_channels,
            output_stride=output_stride,
            auxiliary=auxiliary,
            backbone_arguments=backbone_arguments,
        )


PAPER = Paper(
    title="Fully Convolutional Networks for Semantic Segmentation",
    authors="Long, Shelhamer, Darrell",
    venue="CVPR",
    year=2015,
    url="https://arxiv.org/abs/1411.4038",
    code="https://github.com/shelhamer/fcn.berkeleyvision.org",
    code_licence="BSD-2-Clause",
)

# parameters with the auxiliary head, 21 classes as in torchvision and 19 as in mmsegmentation
register("fcn", FCN, Card(PAPER, "semantic", 35.32, num_classes=21))
for _depth, _parameters, _score in ((50, 49.50, 73.61), (101, 68.49, 75.13)):
    register(
        f"fcn_resnet{_depth}",
        FCN,
        Card(PAPER, "semantic", _parameters, num_classes=19, scores={"Cityscapes val mIoU": _score}),
        backbone=f"resnet{_depth}_v1c",
        convs=2,
        concatenate=True,
    )
