"""DeepLabV3+: atrous pyramid pooling, and a light decoder that draws the borders.

Weights of mmsegmentation (Apache-2.0) and segmentation-models-pytorch (MIT) load.

Atrous spatial pyramid pooling looks at the deepest feature with four fields of view and at its mean; a light decoder
brings the result to 1/4, sets it beside a reduced fine feature and draws the borders with separable convolutions.

The public networks differ, and `form` says which one is meant:
"paper"   image pooling first, 1×1 projection, rates 6, 12, 18 at output stride 16 (doubled at 8), two separable
          convolutions after the fusion, norm and ReLU between depthwise and pointwise
"mmseg"   as the paper, but a 3×3 projection
"smp"     image pooling last, 1×1 projection, rates 12, 24, 36 always, one separable convolution before and one after the
          fusion, nothing between depthwise and pointwise, corners aligned

Published: PASCAL VOC 2012 test 89.0, Cityscapes test 82.1 (abstract; Xception-71, extra data); Cityscapes val, single
scale, mmsegmentation: ResNet-50 80.09, ResNet-101 80.97.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder
from segmentarium.layers.aspp import ASPP, separable
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier
from segmentarium.layers.resize import resize
from segmentarium.registry import Card, Paper


@dataclass(frozen=True)
class Form:
    """What the public implementations do differently."""

    projection_kernel: int = 1
    image_pool_first: bool = True
    depthwise_norm: bool = True
    convs_before: int = 0  # separable convolutions between the pyramid and the fusion
    convs_after: int = 2
    rates: tuple[int, int, int] = (6, 12, 18)
    double_rates_at_8: bool = True
    align_corners: bool = False
    projection_dropout: float = 0.0
    classifier_dropout: float = 0.0
    separable_convs: bool = True
    low_first: bool = False  # in the fusion
    pool_norm: bool = True


_PLAIN = {"image_pool_first": False, "separable_convs": False, "low_first": True, "projection_dropout": 0.1}
FORMS = {
    "paper": Form(projection_dropout=0.1),
    "mmseg": Form(projection_kernel=3, classifier_dropout=0.1),
    "smp": Form(
        image_pool_first=False,
        depthwise_norm=False,
        convs_before=1,
        convs_after=1,
        rates=(12, 24, 36),
        double_rates_at_8=False,
        align_corners=True,
        projection_dropout=0.5,
    ),
    "vainf": Form(**_PLAIN, convs_after=1),
    "detectron2": Form(**_PLAIN, pool_norm=False),
}


class DeepLabV3PlusDecoder(Decoder):
    """ASPP on the deepest feature, fused with a fine one (figure 2): logits at the fine feature's stride.

    The fine feature is the first of stride 4 or more; a backbone of one stride only (ViT) is decoded at that stride.

    form                "paper", "mmseg", "smp", "vainf" or "detectron2": whose arrangement, see above
    decoder_channels    of the pyramid's branches and the decoder
    low_channels        of the reduced fine feature
    rates               of the pyramid's dilated convolutions; None: those of the form for this output stride
    pool_window         of the mean, in the deepest feature's pixels (detectron2: those of a training crop); None: the whole
                        image
    align_corners       in both resizes; None: as the form has it
    """

    prefers_output_stride = 16
    auxiliary = True

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        decoder_channels: int = 256,
        low_channels: int = 48,
        rates: Sequence[int] | None = None,
        form: str = "paper",
        pool_window: Sequence[int] | None = None,
        align_corners: bool | None = None,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; give one of {', '.join(map(repr, FORMS))}")
        chosen = FORMS[form]
        if rates is None:
            doubled = chosen.double_rates_at_8 and strides[-1] <= 8
            rates = [rate * 2 for rate in chosen.rates] if doubled else chosen.rates
        self.align_corners = chosen.align_corners if align_corners is None else align_corners
        self.fine = next((i for i, stride in enumerate(strides) if stride >= 4), 0)
        self.aspp = ASPP(
            channels[-1],
            decoder_channels,
            rates,
            separable_convs=chosen.separable_convs,
            projection_kernel=chosen.projection_kernel,
            image_pool_first=chosen.image_pool_first,
            depthwise_norm=chosen.depthwise_norm,
            pool_norm=chosen.pool_norm,
            pool_window=pool_window,
        )
        self.projection_dropout = nn.Dropout(chosen.projection_dropout)
        self.before = nn.Sequential(
            *(
                separable(decoder_channels, decoder_channels, depthwise_norm=chosen.depthwise_norm)
                for _ in range(chosen.convs_before)
            )
        )
        self.low = ConvNormAct(channels[self.fine], low_channels, 1)
        self.low_first = chosen.low_first
        self.after = nn.Sequential()
        for i in range(chosen.convs_after):
            inputs = decoder_channels + (0 if i else low_channels)
            self.after.append(
                separable(inputs, decoder_channels, depthwise_norm=chosen.depthwise_norm)
                if chosen.separable_convs
                else ConvNormAct(inputs, decoder_channels)
            )
        self.classifier_dropout = nn.Dropout2d(chosen.classifier_dropout)
        self.classifier = init_classifier(nn.Conv2d(decoder_channels, num_classes, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        low = self.low(features[self.fine])
        x = self.before(self.projection_dropout(self.aspp(features[-1])))
        x = resize(x, low.shape[-2:], align_corners=self.align_corners)
        x = self.after(torch.cat([low, x] if self.low_first else [x, low], 1))
        return self.classifier(self.classifier_dropout(x))


PAPER = Paper(
    title="Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
    authors="Chen, Zhu, Papandreou, Schroff, Adam",
    venue="ECCV",
    year=2018,
    url="https://arxiv.org/abs/1802.02611",
    code="https://github.com/tensorflow/models/tree/master/research/deeplab",
    code_licence="Apache-2.0",
)

register_decoder("deeplabv3plus", DeepLabV3PlusDecoder, Card(paper=PAPER, num_classes=19))
register_decoder(
    "deeplabv3plus_mobilenet_v2", DeepLabV3PlusDecoder, Card(paper=PAPER, num_classes=19), backbone="mobilenet_v2"
)
# mmsegmentation's
for _depth, _width, _low, _parameters, _scores in (
    (18, 128, 12, 12.47, {}),
    (50, 512, 48, 43.59, {"Cityscapes val mIoU": 80.09}),
    (101, 512, 48, 62.58, {"Cityscapes val mIoU": 80.97}),
):
    register_decoder(
        f"deeplabv3plus_resnet{_depth}",
        DeepLabV3PlusDecoder,
        Card(paper=PAPER, parameters=_parameters, parameters_of="training", num_classes=19, scores=_scores),
        backbone=f"resnet{_depth}_v1c",
        output_stride=8,
        form="mmseg",
        decoder_channels=_width,
        low_channels=_low,
    )
