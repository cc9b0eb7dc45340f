"""EANet: external attention over the deepest feature.

The authors' PyTorch code has no licence; this file was written from the paper, and from the code for what it leaves open.

Every pixel asks a small memory that all pictures share, instead of every other pixel, between two 3×3 convolutions
(layers/external_attention.py).  There is no auxiliary head.

What the public code does and the paper does not say: corners are aligned in the last resize; the backbone is a ResNet with a
wide deep stem at output stride 8 whose last stage has the dilations 2, 8, 16 (at stride 16: 1, 4, 8, which is to say
`backbone_arguments={"multigrid": (1, 4, 8)}`).  Both memories start with the same numbers and part from the first step on.
What we change: in `deploy()` the 1×1 layers around the memories are taken into them, which is exact.

Published: weights for PASCAL VOC 2012, whose test score stands on that benchmark's page alone.
Recipe for PASCAL VOC 2012, as in the public code: ResNet-101, SGD with momentum 0.9, rate 9e-3, twice that for biases, decay 1e-4
of weights alone, poly 0.9 (changed every tenth step), 45,000 steps of 16 crops of 513×513 pixels, scales 0.5 to 2.0 in tenths,
plain cross entropy; tested at scales 0.5 to 1.75 with mirror images.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.external_attention import ExternalAttention
from segmentarium.layers.init import init_classifier, init_convs
from segmentarium.registry import Card, Paper


class EADecoder(Decoder):
    """3×3, external attention, 3×3, the classifier: logits at the deepest stride.

    width          channels of the first convolution and of the attention; the second convolution has half of them
    units          of the memories
    align_corners  in the resize to the image's size
    """

    prefers_output_stride = 8

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int = 512,
        units: int = 64,
        align_corners: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.reduce = ConvNormAct(channels[-1], width)
        self.attention = ExternalAttention(width, units)
        self.mix = ConvNormAct(width, width // 2)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(width // 2, num_classes, 1))
        init_convs(self.reduce, self.mix, mode="fan_out")

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.dropout(self.mix(self.attention(self.reduce(features[-1])))))


PAPER = Paper(
    title="Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks",
    authors="Guo, Liu, Mu, Hu",
    venue="TPAMI",
    year=2022,
    url="https://arxiv.org/abs/2105.02358",
    code="https://github.com/MenghaoGuo/EANet",
    code_licence="none stated",
)
RATES = {"contract_dilation": True, "multigrid": [2, 8, 16]}
register_decoder(
    "eanet", EADecoder, Card(paper=PAPER, num_classes=21), backbone="resnet101_v1s", backbone_arguments=RATES
)
# parameters in millions and 1e9 multiply-adds as counted in the authors' code
register_decoder(
    "eanet_resnet50",
    EADecoder,
    Card(paper=PAPER, parameters=34.85, flops=305.34, flops_size=(512, 1024), num_classes=19),
    backbone="resnet50_v1s",
    backbone_arguments=RATES,
)
