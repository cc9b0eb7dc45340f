"""DeepLabV3: atrous convolution in parallel, with the image beside it, or in cascade.

The authors' code is for TensorFlow.  Weights of mmsegmentation, transformers (both Apache-2.0), torchvision (BSD-3),
segmentation-models-pytorch (MIT) and VainF/DeepLabV3Plus-Pytorch (MIT) load.

Parallel (`DeepLabV3Decoder`): a 1×1 and three dilated 3×3 convolutions look at the deepest feature, and its mean joins them: a
3×3 convolution of a rate near the map's size sees its centre alone: all other taps fall outside.  Cascaded (`CascadedDecoder`):
three more copies of the last stage of a ResNet go deeper at the same resolution, the rate doubled from one to the next.  In both,
the three blocks of a stage have rates of their own, unit rates ("multi-grid") times the stage's.

The public networks of the parallel form differ, and `form` says which one is meant:
"paper"        1×1 projection, rates 6, 12, 18 at output stride 16, doubled at 8, then the classifier
"mmseg"        as the paper, but a 3×3 projection; its "mg124" models take unit rates for rates, without the stage's factor of 2
"torchvision"  the mean last, 1×1 projection, a 3×3 convolution behind it, rates 12, 24, 36 at any stride
"smp"          as torchvision, the logits resized with corners aligned

There is no public code of the cascade.  We chose: no projection in a copy's shortcut, since its channels stay; copies start as
the identity.  The auxiliary FCN head, which the paper does without, is mmsegmentation's, which counts it 0.4, as here, and
torchvision's, whose training counts it 0.5.

Published: PASCAL VOC 2012 val, ResNet-101: cascade with (1, 2, 1) 76.66, parallel with (1, 2, 4) and the mean 77.21, at stride 8
78.51; test 85.7.  mmsegmentation's recipe: SGD 0.9, learning rate 0.01, weight decay 5e-4, poly 0.9 down to 1e-4; Cityscapes
512×1024, batch 8, 80k iterations; ADE20K 512×512, batch 16, 160k: 42.66 (ResNet-50), 45.00 (ResNet-101).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from segmentarium.backbones.resnet import Bottleneck
from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder
from segmentarium.layers.aspp import ASPP
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier, init_convs
from segmentarium.registry import Card, Paper


@dataclass(frozen=True)
class Form:
    """What the public implementations do differently."""

    projection_kernel: int = 1
    image_pool_first: bool = True
    last_conv: bool = False
    rates: tuple[int, int, int] = (6, 12, 18)
    double_rates_at_8: bool = True
    align_corners: bool = False
    projection_dropout: float = 0.0
    classifier_dropout: float = 0.0
    pool_norm: bool = True


_WIDE = {"image_pool_first": False, "last_conv": True, "rates": (12, 24, 36), "double_rates_at_8": False}
FORMS = {
    "paper": Form(),
    "mmseg": Form(projection_kernel=3, classifier_dropout=0.1),
    "torchvision": Form(**_WIDE, projection_dropout=0.5),
    "smp": Form(**_WIDE, projection_dropout=0.5, align_corners=True),
    "detectron2": Form(image_pool_first=False, projection_dropout=0.1, pool_norm=False),
}


class DeepLabV3Decoder(Decoder):
    """ASPP on the deepest feature, classified (figure 5): logits at its stride.

    Without rates it is a 1×1 convolution beside the mean, as MobileNetV2 (1801.04381, section 6.3) has it.

    form              "paper", "mmseg", "torchvision", "smp" or "detectron2": whose arrangement, see above
    decoder_channels  of the pyramid's branches
    rates             of its dilated convolutions; None: those of the form for this output stride
    pool_window       of the mean, in the feature's pixels (detectron2: those of a training crop); None: the whole image
    align_corners     in the resize to the image's size; None: as the form has it
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
        rates: Sequence[int] | None = None,
        form: str = "paper",
        pool_window: Sequence[int] | None = None,
        align_corners: bool | None = None,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; give one of {', '.join(map(repr, FORMS))}")
        chosen, width = FORMS[form], decoder_channels
        if rates is None:
            doubled = chosen.double_rates_at_8 and strides[-1] <= 8
            rates = [rate * 2 for rate in chosen.rates] if doubled else chosen.rates
        self.align_corners = chosen.align_corners if align_corners is None else align_corners
        self.aspp = ASPP(
            channels[-1],
            width,
            rates,
            separable_convs=False,
            projection_kernel=chosen.projection_kernel,
            image_pool_first=chosen.image_pool_first,
            pool_norm=chosen.pool_norm,
            pool_window=pool_window,
        )
        self.projection_dropout = nn.Dropout(chosen.projection_dropout)
        self.last = ConvNormAct(width, width) if chosen.last_conv else nn.Identity()
        self.classifier_dropout = nn.Dropout2d(chosen.classifier_dropout)
        self.classifier = init_classifier(nn.Conv2d(width, num_classes, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.last(self.projection_dropout(self.aspp(features[-1])))
        return self.classifier(self.classifier_dropout(x))


class CascadedDecoder(Decoder):
    """Copies of a ResNet's last stage behind the deepest feature, classified (figure 3b): logits at its stride.

    A copy's rate keeps the map's size where the stage would stride: at output stride 16, 4, 8 and 16 for block5 to block7.

    copies     of the stage: 3 is up to block7
    multigrid  unit rates of a copy's bottlenecks, and so their number
    """

    prefers_output_stride = 16

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        copies: int = 3,
        multigrid: Sequence[int] = (1, 2, 1),
    ) -> None:
        super().__init__()
        width = channels[-1]
        if width % Bottleneck.expansion:
            raise ValueError(
                f"the deepest feature has {width} channels; a bottleneck has a quarter of them: use a backbone whose last "
                f"channels are a multiple of {Bottleneck.expansion}"
            )
        self.cascade = nn.Sequential()
        for copy in range(copies):
            rate = max((64 << copy) // strides[-1], 1)
            units = (Bottleneck(width, width // 4, 1, (rate * unit, 1), False) for unit in multigrid)
            self.cascade.append(nn.Sequential(*units))
        init_convs(self.cascade, mode="fan_out")
        for module in self.cascade.modules():
            if isinstance(module, Bottleneck):
                norm = module.last_norm()
                assert isinstance(norm, nn.BatchNorm2d)
                nn.init.zeros_(norm.weight)
        self.classifier = init_classifier(nn.Conv2d(width, num_classes, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        # an identity's sum writes into the block's own map alone, never into the feature
        return self.classifier(self.cascade(features[-1]))


PAPER = Paper(
    title="Rethinking Atrous Convolution for Semantic Image Segmentation",
    authors="Chen, Papandreou, Schroff, Adam",
    venue="arXiv",
    year=2017,
    url="https://arxiv.org/abs/1706.05587",
    code="https://github.com/tensorflow/models/tree/master/research/deeplab",
    code_licence="Apache-2.0",
)
VOC, CITYSCAPES, ADE, COCO = (
    "PASCAL VOC 2012 val mIoU",
    "Cityscapes val mIoU",
    "ADE20K val mIoU",
    "COCO val, VOC's classes, mIoU",
)

# the paper's, of output stride 16: unit rates times two
register_decoder(
    "deeplabv3",
    DeepLabV3Decoder,
    Card(paper=PAPER, num_classes=21, scores={VOC: 77.21}),
    backbone="resnet101",
    backbone_arguments={"multigrid": [2, 4, 8]},
    auxiliary=False,
)
for _depth, _multigrid, _score in ((50, [2, 2, 2], 73.88), (101, [2, 4, 2], 76.66)):
    register_decoder(
        f"deeplabv3_cascade_resnet{_depth}",
        CascadedDecoder,
        Card(paper=PAPER, num_classes=21, scores={VOC: _score}),
        backbone=f"resnet{_depth}",
        backbone_arguments={"multigrid": _multigrid},
        multigrid=tuple(rate // 2 for rate in _multigrid),
    )
# mmsegmentation's
for _name, _depth, _parameters, _scores, _arguments in (
    ("resnet18", 18, None, {CITYSCAPES: 76.70}, {"decoder_channels": 128}),
    ("resnet50", 50, 68.11, {CITYSCAPES: 79.32, ADE: 42.66}, {}),
    ("resnet101", 101, 87.10, {CITYSCAPES: 80.20, ADE: 45.00}, {}),
    (
        "resnet101_mg124",
        101,
        87.10,
        {CITYSCAPES: 78.36},
        {"output_stride": 16, "backbone_arguments": {"multigrid": [1, 2, 4]}},
    ),
):
    register_decoder(
        f"deeplabv3_{_name}",
        DeepLabV3Decoder,
        Card(paper=PAPER, parameters=_parameters, parameters_of="training", num_classes=19, scores=_scores),
        backbone=f"resnet{_depth}_v1c",
        **{"output_stride": 8, "form": "mmseg", "decoder_channels": 512, **_arguments},
    )
# torchvision's
register_decoder(
    "deeplabv3_mobilenet_v3_large",
    DeepLabV3Decoder,
    Card(paper=PAPER, parameters=11.03, parameters_of="training", num_classes=21, scores={COCO: 60.3}),
    backbone="mobilenet_v3_large",
    backbone_arguments={"contract_dilation": False, "strided_taps": True},
    auxiliary_arguments={"index": -3},
    form="torchvision",
)
