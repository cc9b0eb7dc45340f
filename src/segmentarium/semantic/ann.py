"""ANN: non-local blocks whose keys and values are a pyramid of averages, 110 places instead of all.

Weights of mmsegmentation (Apache-2.0) and of the authors (Apache-2.0) load.

Attention between all pairs of pixels costs the square of their number.  Here the keys and values are averages over 1×1, 3×3, 6×6
and 8×8 cells, S = 110 whatever the size.  One such block (AFNB) lets the deepest feature ask the one before it, and fuses both;
a second (APNB) lets the result ask itself, with keys and queries from one layer.

What the public code does and the paper does not say: keys and queries have a norm and a ReLU, values have neither; the last layer
of the attention starts at zero; in the authors' code ("authors") every convolution has a bias, dropout is 0.05 and corners are
aligned, in mmsegmentation's ("mmseg") not, and dropout stands behind the first block and before the classifier.
What we change, exactly: values are averaged before they are projected, and projected on through the block's last 1×1 convolution
before they are weighed, so that those layers see 110 places; nothing is concatenated; `deploy()` makes one layer of the three.

Published: Cityscapes test 81.3, ADE20K val 45.24, Pascal-Context 52.8 (abstract and tables; ResNet-101); authors' weights 79.9 on
Cityscapes val.  mmsegmentation, single scale: Cityscapes val 77.34 (ResNet-50), 77.14 (ResNet-101); ADE20K 160k steps 41.74,
42.94; VOC 2012 40k steps 76.56, 76.70.
Recipes (mmsegmentation): SGD with momentum 0.9, rate 0.01, decay 5e-4, poly 0.9 to 1e-4, auxiliary head 0.4; Cityscapes 80,000
steps of 8 crops of 512×1024 pixels, ADE20K 160,000 of 16 of 512×512, VOC 2012 with extra labels 40,000 of 16 of 512×512.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmentarium.composition import register_decoder, register_mmsegmentation
from segmentarium.contracts import Decoder
from segmentarium.layers.attention import attend
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.fusion import fold_joined
from segmentarium.layers.init import init_classifier
from segmentarium.layers.norm import channels_first, channels_last
from segmentarium.layers.pooling import adaptive_average_pool
from segmentarium.registry import Card, Paper
from segmentarium.reparameterize.transforms import fuse_norm, merge_pointwise

FORMS = ("mmseg", "authors")


def sample(x: Tensor, bins: Sequence[int]) -> Tensor:
    """(B, C, H, W) -> (B, C, 1, S): averages over bins×bins cells of each level, S = Σ bins² of them in a row."""
    return torch.cat([adaptive_average_pool(x, size).flatten(2) for size in bins], 2).unsqueeze(2)


class AsymmetricNonLocal(nn.Module):
    """A high feature asks the sampled places of a low one, and is fused with the answer (figure 4).

    in_channels   of the low and the high feature
    out_channels  of the answer and of the result
    width         channels of queries, keys and values
    shared        the low feature is the high one, and keys and queries come from one layer (APNB)
    bias          of the convolutions that a norm follows
    """

    def __init__(
        self,
        in_channels: tuple[int, int],
        out_channels: int,
        width: int,
        *,
        bins: Sequence[int] = (1, 3, 6, 8),
        shared: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        low, high = in_channels
        self.bins = tuple(bins)
        self.key = ConvNormAct(low, width, 1, bias=bias)
        self.query = None if shared else ConvNormAct(high, width, 1, bias=bias)
        self.value = nn.Conv2d(low, width, 1)
        self.project = nn.Conv2d(width, out_channels, 1)
        for parameter in self.project.parameters():
            nn.init.zeros_(parameter)
        # the 1×1 convolution over both, in two halves: that over the answer sees the values alone
        self.fuse_answer: nn.Module = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        self.fuse_feature = nn.Conv2d(high, out_channels, 1, bias=bias)
        self.norm: nn.Module = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU(inplace=True) if shared else nn.Identity()

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """(B, C_low, h, w), (B, C_high, H, W) -> (B, out_channels, H, W)"""
        keys = self.key(low)
        queries = keys if self.query is None else self.query(high)
        # averages of projections are projections of averages, and weights that add up to one keep the biases
        values = self.fuse_answer(self.project(self.value(sample(low, self.bins))))
        fused = self.fuse_feature(high)
        # without a name the answer, as large as the feature, is gone before the norm makes its copy
        fused += channels_first(
            attend(_tokens(queries), _tokens(sample(keys, self.bins)), _tokens(values), 1).unflatten(1, high.shape[-2:])
        )
        return self.act(self.norm(fused))

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Takes the norm into both halves before it, and the answer's half into the projection."""
        norm, half = self.norm, self.fuse_answer
        if not isinstance(norm, nn.BatchNorm2d) or not isinstance(half, nn.Conv2d):
            return
        assert self.project.bias is not None
        kernel, shift = fuse_norm(half.weight, norm)
        weight, bias = merge_pointwise(self.project.weight, self.project.bias, kernel, torch.zeros_like(shift))
        self.project.weight.copy_(weight)
        self.project.bias.copy_(bias)
        fold_joined(norm, [self.fuse_feature])
        self.fuse_answer = self.norm = nn.Identity()


def _tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, HW, C), a view where memory is channels-last"""
    return channels_last(x).flatten(1, 2)


class ANNDecoder(Decoder):
    """AFNB on the two deepest features, a 3×3 convolution, APNB, the classifier (figure 3): logits at the deepest stride.

    decoder_channels  after the 3×3 convolution; None: a quarter of the deepest feature's
    key_channels      of queries, keys and values in both blocks; None: an eighth of the deepest feature's
    bins              the pyramid: cells along a side of each level
    form              "mmseg" or "authors": whose arrangement, see above
    align_corners     in the resize to the image's size; None: as the form has it
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
        key_channels: int | None = None,
        bins: Sequence[int] = (1, 3, 6, 8),
        form: str = "mmseg",
        align_corners: bool | None = None,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; give one of {', '.join(map(repr, FORMS))}")
        if len(channels) < 2:
            raise ValueError(
                "the fusion takes the two deepest features; this backbone has one: give it more out_indices"
            )
        low, high = channels[-2:]
        width, keys, authors = decoder_channels or high // 4, key_channels or high // 8, form == "authors"
        self.align_corners = authors if align_corners is None else align_corners
        self.fusion = AsymmetricNonLocal((low, high), high, keys, bins=bins, bias=authors)
        self.reduce = ConvNormAct(high, width, bias=authors)
        self.context = AsymmetricNonLocal((width, width), width, keys, bins=bins, shared=True, bias=authors)
        self.dropout = nn.Dropout2d(0.05 if authors else 0.1)
        self.classifier = init_classifier(nn.Conv2d(width, num_classes, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.reduce(self.dropout(self.fusion(features[-2], features[-1])))
        return self.classifier(self.dropout(self.context(x, x)))


PAPER = Paper(
    title="Asymmetric Non-local Neural Networks for Semantic Segmentation",
    authors="Zhu, Xu, Bai, Huang, Bai",
    venue="ICCV",
    year=2019,
    url="https://arxiv.org/abs/1908.07678",
    code="https://github.com/MendelXu/ANN",
    code_licence="Apache-2.0",
)
# mmsegmentation's
register_mmsegmentation(
    ANNDecoder,
    PAPER,
    {
        "ann": (50, 46.23, 77.34, 41.74),
        "ann_resnet101": (101, 65.22, 77.14, 42.94),
    },
)
register_decoder(
    "ann_authors",
    ANNDecoder,
    Card(paper=PAPER, num_classes=19, scores={"Cityscapes val mIoU": 79.9, "Cityscapes test mIoU": 81.3}),
    backbone="resnet101_v1s",
    auxiliary_arguments={"dropout": 0.05},
    form="authors",
)
