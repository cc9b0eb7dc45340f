"""Non-local networks: a place becomes a sum over all places of the map, weighted by how each pair goes together.

Weights of mmsegmentation (Apache-2.0) load.  (The file has an underscore because Python keeps the word.)

Of a pair i, j the paper tries four functions, and finds that which one matters little: "gaussian", exp(xᵢᵀxⱼ);
"embedded_gaussian", the same of two linear layers θ and φ; "dot_product", θᵢᵀφⱼ / N; "concatenation", ReLU(wᵀ[θᵢ, φⱼ]) / N.
The first two, normed, are a softmax.  The block stands between the convolutions of an FCN head, or inside a trunk; the paper's
places are before the last block of conv4, or five of them, behind every other block of conv3 and conv4 (ResNet-50):

    insert_block(model, 3, "nonlocal", at=(-2,))
    insert_block(model, 2, "nonlocal", at=(0, 2)); insert_block(model, 3, "nonlocal", at=(0, 2, 4))

The norm behind the last layer starts with factors of zero, so that a block put into a trained network changes nothing.

What the public code does and the paper does not say: mmsegmentation divides the products of the embedded form by √(C/2)
(`scaled`), those of the Gaussian by nothing; its layers θ, φ and g have biases.  What we change, exactly: no N×N scores stand in
memory.  Dot products are associative: φᵀg first, a matrix of C/2 × C/2.  The softmax forms go through fused attention, or in
chunks.  Of the concatenation's ReLU(aᵢ + bⱼ), a number a and a number b for each place, the sums over j are sums over the first
few of the sorted b, which takes N log N steps.  In `deploy()` θ, φ and g are one layer, and of the concatenation that layer gives
a and b.

Published: Kinetics top-1 with ResNet-50 71.8 without, 72.7 with one block, 73.8 with five; COCO Mask R-CNN (ResNet-50) box AP
38.0, 39.0 with one block.  mmsegmentation (embedded), single scale, ResNet-50/101: Cityscapes val 78.01/78.93, ADE20K (160k)
42.03/44.63, VOC 2012 with extra labels (40k) 76.65/78.27.
Recipes (mmsegmentation): SGD with momentum 0.9, rate 0.01, decay 5e-4, poly 0.9 to 1e-4, auxiliary head 0.4; Cityscapes 80,000
steps of 8 crops of 512×1024 pixels, ADE20K 160,000 of 16 of 512×512, VOC 2012 with extra labels 40,000 of 16 of 512×512.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.composition import register_mmsegmentation
from segmentarium.layers.attention import attend_bounded
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.external_attention import linear
from segmentarium.layers.init import init_convs
from segmentarium.layers.norm import channels_first, channels_last
from segmentarium.layers.precision import autocast_off
from segmentarium.registry import Paper, register_block
from segmentarium.semantic.fcn import FCNDecoder

FORMS = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")


def rectified_sums(a: Tensor, b: Tensor, values: Tensor) -> Tensor:
    """(B, N), (B, M), (B, M, D) -> (B, N, D): Σⱼ ReLU(aᵢ + bⱼ) vⱼ, without the N×M numbers.

    With the bⱼ in falling order those that count for a place i are the first few, and the sum is aᵢ Σ vⱼ + Σ bⱼ vⱼ over them.
    """
    if torch.compiler.is_exporting():  # ONNX has no search in a sorted row
        return (a[:, :, None] + b[:, None]).relu() @ values
    b, order = b.sort(1, descending=True)
    values = values.gather(1, order[:, :, None].expand_as(values))
    sums = F.pad(torch.cat([values, b[:, :, None] * values], 2).cumsum(1), (0, 0, 1, 0))
    first = torch.searchsorted(-b, a.contiguous())  # how many bⱼ are greater than -aᵢ
    plain, weighted = sums.gather(1, first[:, :, None].expand(-1, -1, sums.shape[2])).chunk(2, 2)
    return a[:, :, None] * plain + weighted


class NonLocal(nn.Module):
    """x + W y, y at each place a weighted sum of a linear layer g of x at all places (section 3): keeps the shape (B, C, H, W).

    form       one of `FORMS`, see above
    reduction  C / channels inside
    scaled     products of the embedded form are divided by the root of the channels inside
    subsample  keys and values are the greatest of 2×2 places, a quarter of the work (section 3.3)
    """

    query: nn.Module | None
    key: nn.Module | None
    value: nn.Module

    def __init__(
        self,
        channels: int,
        form: str = "embedded_gaussian",
        reduction: int = 2,
        *,
        scaled: bool = True,
        subsample: bool = False,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; give one of {', '.join(map(repr, FORMS))}")
        if reduction < 1:
            raise ValueError(
                f"reduction is {reduction}; give how many times fewer channels there are inside, 1 or more"
            )
        inner = max(1, channels // reduction)
        self.form, self.subsample = form, subsample
        self.scale = inner**-0.5 if scaled and form == "embedded_gaussian" else 1.0
        embedded = form != "gaussian"
        self.query = nn.Linear(channels, inner) if embedded else None
        self.key = nn.Linear(channels, inner) if embedded else None
        self.value = nn.Linear(channels, inner)
        self.pair = nn.Linear(2 * inner, 1, bias=False) if form == "concatenation" else None
        self.joined: nn.Linear | None = None  # all these layers, after `reparameterize`
        self.widths: tuple[int, ...] = ()
        self.project = ConvNormAct(inner, channels, 1, act=None)
        init_convs(self.project)
        assert isinstance(self.project.norm, nn.BatchNorm2d)
        nn.init.zeros_(self.project.norm.weight)
        for layer in (self.query, self.key, self.value):
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def embed(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, W, C) -> what asks, what is asked, and the values, all (B, H, W, ·)"""
        if self.joined is not None:
            parts = self.joined(places).split(self.widths, -1)
            query, key, value = parts if len(parts) == 3 else (places, places, parts[0])
        else:
            query, key, value = (layer(places) if layer else places for layer in (self.query, self.key, self.value))
        if self.subsample:
            key, value = (channels_last(F.max_pool2d(channels_first(x), 2)) for x in (key, value))
        if self.pair is not None:
            left, right = self.pair.weight.chunk(2, 1)
            query, key = F.linear(query, left), F.linear(key, right)
        return query, key, value

    def context(self, places: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, HW, inner): y of the paper"""
        query, key, value = (x.flatten(1, 2) for x in self.embed(places))
        if "gaussian" in self.form:
            return attend_bounded(query, key, value, self.scale)
        with autocast_off(places.device):  # sums over all places
            exact = torch.promote_types(value.dtype, torch.float32)
            query, key, value = (x.to(exact) for x in (query, key, value))
            if self.form == "dot_product":
                answer = query @ (key.transpose(1, 2) @ value / key.shape[1])
            else:
                answer = rectified_sums(query[..., 0], key[..., 0], value) / key.shape[1]
        return answer.to(places.dtype)

    def forward(self, x: Tensor) -> Tensor:
        places = channels_last(x).contiguous()  # no copy in channels-last memory
        return x + self.project(channels_first(self.context(places).unflatten(1, x.shape[-2:])))

    @torch.no_grad()
    def reparameterize(self) -> None:
        """One layer for all that is linear in the places."""
        if self.joined is not None or (self.pair is not None and self.subsample):
            return
        layers = [layer for layer in (self.query, self.key, self.value) if isinstance(layer, nn.Linear)]
        pairs: list[tuple[Tensor, Tensor]] = [(layer.weight, layer.bias) for layer in layers]
        if self.pair is not None:
            for i, half in enumerate(self.pair.weight.chunk(2, 1)):
                pairs[i] = (half @ pairs[i][0], half @ pairs[i][1])
        self.widths = tuple(len(bias) for _, bias in pairs)
        self.joined = linear(torch.cat([weight for weight, _ in pairs]), torch.cat([bias for _, bias in pairs]))
        self.query = self.key = self.pair = None
        self.value = nn.Identity()


class NonLocalDecoder(FCNDecoder):
    """The head of FCN with a non-local block between its convolutions: logits at the deepest stride.

    decoder_channels         of the convolutions; None: a quarter of the feature's
    form, reduction, scaled  of the block
    align_corners            in the resize to the image's size
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        decoder_channels: int | None = None,
        form: str = "embedded_gaussian",
        reduction: int = 2,
        scaled: bool = True,
        align_corners: bool = False,
    ) -> None:
        super().__init__(
            channels=channels,
            strides=strides,
            num_classes=num_classes,
            decoder_channels=decoder_channels,
            convs=2,
            concatenate=True,
            align_corners=align_corners,
        )
        self.convs.insert(1, NonLocal(decoder_channels or channels[-1] // 4, form, reduction, scaled=scaled))


PAPER = Paper(
    title="Non-local Neural Networks",
    authors="Wang, Girshick, Gupta, He",
    venue="CVPR",
    year=2018,
    url="https://arxiv.org/abs/1711.07971",
    code="https://github.com/facebookresearch/video-nonlocal-net",
    code_licence="Apache-2.0",
)
register_block("nonlocal", NonLocal)
# mmsegmentation's
register_mmsegmentation(
    NonLocalDecoder,
    PAPER,
    {
        "nonlocal": (50, 50.02, 78.01, 42.03),
        "nonlocal_resnet101": (101, 69.01, 78.93, 44.63),
    },
)
