"""DNL: what a non-local block learns, taken apart: what sets a place off from the rest, and what stands out for all.

Weights of mmsegmentation (Apache-2.0) load.

The score of a pair, qᵢᵀkⱼ, is (qᵢ - q̄)ᵀ(kⱼ - k̄), in which only differences from the mean count, plus q̄ᵀkⱼ, which asks the same of
every place j whoever i is.  Multiplied in one softmax the two hinder each other.  Here each has a softmax of its own, and the
second a layer of its own (semantic/non_local.py is the block that was taken apart; in semantic/gcnet.py the second is alone):

    yᵢ = Σⱼ softmax((qᵢ - q̄)ᵀ(kⱼ - k̄) / (τ √d)) gⱼ + Σⱼ softmax(m xⱼ) gⱼ

What the public code does and the paper does not say: the division by √d, and then by a temperature τ = 0.05.  What we change,
exactly: the N×N scores never stand in memory, and what is common to all places is computed for one.  k̄, which is the same for
all that a query compares, and every bias but g's drop out of the softmax.

Published: ADE20K val 45.97, Pascal-Context 55.3, Cityscapes test 83.0 (coarse labels too).  mmsegmentation, single scale:
Cityscapes val 79.33 (ResNet-50), 80.41 (ResNet-101); ADE20K 160k steps 41.87 (ResNet-50).  Recipes: as semantic/non_local.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segmentarium.composition import register_decoder
from segmentarium.layers.attention import attend_bounded
from segmentarium.registry import Card, Paper, register_block
from segmentarium.semantic.fcn import FCNDecoder
from segmentarium.semantic.non_local import NonLocal


class DisentangledNonLocal(NonLocal):
    """The embedded Gaussian block in two terms, pairs and single places (section 3.3): keeps the shape (B, C, H, W).

    temperature  that the scores of pairs are divided by, beside √d where they are `scaled`
    """

    def __init__(self, channels: int, reduction: int = 2, temperature: float = 0.05, *, scaled: bool = True) -> None:
        super().__init__(channels, reduction=reduction, scaled=scaled)
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature:g}; give a positive one, such as 0.05")
        self.scale /= temperature
        self.unary = nn.Linear(channels, 1)
        nn.init.normal_(self.unary.weight, std=0.01)
        nn.init.zeros_(self.unary.bias)

    def context(self, places: Tensor) -> Tensor:
        query, key, value = (x.flatten(1, 2) for x in self.embed(places))
        query, key = (x - x.mean(1, keepdim=True) for x in (query, key))
        shown = self.unary(places).flatten(1, 2).softmax(1).to(value.dtype)  # (B, N, 1)
        return attend_bounded(query, key, value, self.scale) + shown.transpose(1, 2) @ value


class DNLDecoder(FCNDecoder):
    """The head of FCN with a disentangled block between its convolutions: logits at the deepest stride.

    decoder_channels                of the convolutions; None: a quarter of the feature's
    reduction, temperature, scaled  of the block
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        decoder_channels: int | None = None,
        reduction: int = 2,
        temperature: float = 0.05,
        scaled: bool = True,
    ) -> None:
        super().__init__(
            channels=channels,
            strides=strides,
            num_classes=num_classes,
            decoder_channels=decoder_channels,
            convs=2,
            concatenate=True,
        )
        width = decoder_channels or channels[-1] // 4
        self.convs.insert(1, DisentangledNonLocal(width, reduction, temperature, scaled=scaled))


PAPER = Paper(
    title="Disentangled Non-Local Neural Networks",
    authors="Yin, Yao, Cao, Li, Zhang, Lin, Hu",
    venue="ECCV",
    year=2020,
    url="https://arxiv.org/abs/2006.06668",
    code="https://github.com/yinmh17/DNL-Semantic-Segmentation",
    code_licence="Apache-2.0",
)
register_block("dnlnet", DisentangledNonLocal)
# mmsegmentation's
for _depth, _parameters, _score in ((50, 50.02, 79.33), (101, 69.01, 80.41)):
    register_decoder(
        "dnlnet" if _depth == 50 else f"dnlnet_resnet{_depth}",
        DNLDecoder,
        Card(
            paper=PAPER,
            parameters=_parameters,
            parameters_of="training",
            num_classes=19,
            scores={"Cityscapes val mIoU": _score},
        ),
        backbone=f"resnet{_depth}_v1c",
    )
