"""ParseNet: what the whole picture shows, beside every pixel, both brought to one length.

The authors' code is for Caffe and no weights of it are held in PyTorch; this file was written from the paper, with the layer's
formula from its code.

The mean of the feature over the whole map says what kind of scene it is.  Mean and pixels have lengths that differ by an order of
magnitude, so each is divided by its L2 norm and multiplied by a learned factor for each channel; then the mean is repeated
("unpooled") at every pixel, concatenated with it, and classified together: early fusion.  In late fusion two classifiers judge
mean and pixels, and their scores are summed; with one 1×1 layer as the classifier that is the same function, which is how it is
computed here: a layer on the pixels, another on the one mean, whose columns are those of the classifier on both.

What the public code does and the paper does not say: the norm's epsilon, 1e-10, stands under the root; factors start at 1 unless
told (10 here; SSD, with the same layer, takes 20: lengths of 1 over hundreds of channels learn slowly).
What we change: the paper stands on VGG-16 as DeepLab's large field of view has it, two layers of 1,024 channels with dropout;
here a 3×3 convolution with a norm, as in an FCN head, makes the feature on any backbone.

Published (VGG-16): VOC 2012 test 69.8, Pascal-Context 40.4.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier
from segmentarium.layers.norm import L2Norm
from segmentarium.layers.pooling import global_average_pool
from segmentarium.registry import Card, Paper


class ParseDecoder(Decoder):
    """A 3×3 convolution on the deepest feature; its pixels and their mean, normalised, classified together (figure 1): logits at
    the deepest stride.

    decoder_channels  of the convolution; None: a quarter of the feature's
    normalise         L2 norms with learned factors; False: both features as they are
    scale             that the factors start at
    """

    prefers_output_stride = 8

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        decoder_channels: int | None = None,
        normalise: bool = True,
        scale: float = 10.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        width = decoder_channels or channels[-1] // 4
        self.reduce = ConvNormAct(channels[-1], width)
        self.dropout = nn.Dropout2d(dropout)
        self.norm = L2Norm(width, scale) if normalise else nn.Identity()
        self.context_norm = L2Norm(width, scale) if normalise else nn.Identity()
        self.classifier = init_classifier(nn.Conv2d(width, num_classes, 1))
        self.context_classifier = init_classifier(nn.Conv2d(width, num_classes, 1, bias=False))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.reduce(features[-1])
        context = self.context_norm(global_average_pool(x))
        return self.classifier(self.dropout(self.norm(x))) + self.context_classifier(self.dropout(context))


PAPER = Paper(
    title="ParseNet: Looking Wider to See Better",
    authors="Liu, Rabinovich, Berg",
    venue="ICLR Workshop",
    year=2016,
    url="https://arxiv.org/abs/1506.04579",
    code="https://github.com/weiliu89/caffe/tree/fcn",
    code_licence="BSD-2-Clause",
)
register_decoder("parsenet", ParseDecoder, Card(paper=PAPER, num_classes=21))
