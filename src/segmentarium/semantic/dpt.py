"""DPT: the tokens of a plain transformer, put together again as maps of four strides, and fused by a convolutional decoder.

The authors' code and weights are MIT.  mmsegmentation, transformers (both Apache-2.0) and segmentation_models_pytorch (MIT) have
it too, and the weights of all four load.

The transformer keeps one stride from its first block to its last, so that nothing fine is ever lost.  Four of its blocks are
tapped.  Each map takes in the class token, which has seen the whole picture ("readout"), is projected, and enlarged or reduced to
strides 4, 8, 16 and 32; from the coarsest to the finest, RefineNet's fusion adds each map to what comes from below and doubles
its size.  Scores come at half the picture's size.  The hybrid takes its first two maps from a ResNet under the transformer.

What the code does and the paper does not say: the last fusion's output passes a 3×3 convolution with batch norm before it is
classified; enlargement aligns corners, mmsegmentation's last one does not; the first fusion's skip unit is there and never used
(but in segmentation_models_pytorch, `deepest_unit`); positions are interpolated bilinearly without antialiasing; the hybrid's
filters were standardised with 1e-5 beside the standard deviation.  transformers gives its auxiliary head the last fusion's
output and a weight of 0.4; here, as in section 4.2, it is that of the last fusion but one, and 0.2.
What we change: the class token's share of the readout's linear layer is computed once, not at every place; the 1×1 convolution of
a fusion comes before the enlargement, with which it commutes, at a quarter of the work.  Any picture goes: the transformer pads
it below and to the right to whole patches; where these are odd in number, the doubled coarser map is cropped to the finer one;
scores are brought to the padded size and cropped.  `readout="ignore"` needs no class token and stands on every pyramid.

Published (ADE20K val, single scale): DPT-Hybrid 49.02, DPT-Large 47.63; ViT-B/16 in mmsegmentation 46.97, 48.34 multi-scale.
The authors': 240 epochs on 4 GPUs, SGD with momentum 0.9 and polynomial decay of power 0.9, label smoothing, crops of 520.
mmsegmentation's: crops of 512, batch of 16, 160 000 iterations, AdamW 6e-5, weight decay 0.01 (none on norms and positions),
linear warm-up over 1500, polynomial decay of power 1.  The paper counts 343 and 123 M parameters in its depth networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.fcn_head import FCNHead
from segmentarium.layers.init import init_convs
from segmentarium.layers.resize import resize
from segmentarium.losses import CrossEntropy
from segmentarium.registry import Card, Paper

READOUTS = ("ignore", "add", "project")
Readout = Literal["ignore", "add", "project"]


class Reassemble(nn.Module):
    """A map and its class token -> a map of `width` channels, enlarged by `factor` (equation 1).

    factor    more than 1: by a transposed convolution; less: by a strided one
    readout   what becomes of the class token: nothing; added to each place; joined to each place and projected
    """

    def __init__(self, channels: int, width: int, factor: float, readout: Readout) -> None:
        super().__init__()
        self.adds = readout == "add"
        self.readout = nn.Linear(2 * channels, channels) if readout == "project" else None
        self.project = nn.Conv2d(channels, width, 1)
        if factor > 1:
            self.resize: nn.Module = nn.ConvTranspose2d(width, width, round(factor), round(factor))
        elif factor < 1:
            self.resize = nn.Conv2d(width, width, 3, round(1 / factor), 1)
        else:
            self.resize = nn.Identity()

    def read(self, x: Tensor, tokens: Tensor) -> Tensor:
        """(B, C, h, w), (B, P, C) -> (B, C, h, w)"""
        if self.adds:
            return x + tokens.mean(1)[:, :, None, None]
        if self.readout is None:
            return x
        of_map, of_token = self.readout.weight.chunk(2, 1)
        told = F.linear(tokens[:, 0], of_token, self.readout.bias)
        return F.gelu(F.linear(x.permute(0, 2, 3, 1), of_map) + told[:, None, None]).permute(0, 3, 1, 2)

    def forward(self, x: Tensor, tokens: Tensor | None) -> Tensor:
        return self.resize(self.project(x if tokens is None else self.read(x, tokens)))


class ResidualUnit(nn.Module):
    """Two 3×3 convolutions, each with a ReLU before and batch norm behind; and the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(channels, channels)
        self.conv2 = ConvNormAct(channels, channels, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(F.relu(x)))


class Fusion(nn.Module):
    """Adds a skip's residual unit to what comes from below, passes another one, and doubles the size.

    skip   whether there is a unit for the skip
    """

    def __init__(self, channels: int, *, skip: bool) -> None:
        super().__init__()
        self.skip_unit = ResidualUnit(channels) if skip else None
        self.unit = ResidualUnit(channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, skip: Tensor, below: Tensor | None) -> Tensor:
        """(B, C, h, w), and None or (B, C, ≥ h, ≥ w) -> (B, C, 2h, 2w)"""
        height, width = skip.shape[-2:]
        if self.skip_unit is not None:
            skip = self.skip_unit(skip)
        x = self.out(self.unit(skip if below is None else below[..., :height, :width] + skip))
        return resize(x, (2 * height, 2 * width), align_corners=True)


class DPTDecoder(Decoder):
    """Reassemble, fuse, classify (section 3).  -> logits at half the stride of the finest map: 2 for patches of 16.

    The last four features are used: of a plain transformer's one stride s they become maps of s / 4, s / 2, s and 2 s; of others,
    such as a hybrid's, each has twice the stride of the one before.  A feature that is no map of tokens and has its stride
    already is taken as it is.

    widths            channels that the features are projected to; None: an eighth, a quarter, half and all of their own
    decoder_channels  of the fusion
    readout           what the class token is for: "project", "add" (the mean of all prefix tokens, as in the authors' code),
                      or "ignore", which needs none
    supervised        whether a head learns from the last fusion but one
    align_corners     in the last enlargement; False is mmsegmentation's
    deepest_unit      whether the deepest map passes a skip's unit, too (segmentation_models_pytorch's)
    """

    takes_prefix = True
    final_norm = False
    training_only = ("auxiliary_head",)

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        prefixes: Sequence[int],
        num_classes: int,
        widths: Sequence[int] | None = None,
        decoder_channels: int = 256,
        readout: Readout = "project",
        supervised: bool = True,
        align_corners: bool = True,
        deepest_unit: bool = False,
    ) -> None:
        super().__init__()
        if readout not in READOUTS:
            raise ValueError(f"readout is {readout!r}; give {', '.join(map(repr, READOUTS))}")
        if len(channels) < 4:
            raise ValueError(f"DPT fuses four features, and this backbone has {len(channels)}; give four out_indices")
        channels, strides, prefixes = channels[-4:], strides[-4:], prefixes[-4:]
        if readout != "ignore" and not any(prefixes):
            raise ValueError(
                f"readout is {readout!r}, for the class token of a plain transformer, and this backbone has none; "
                "give readout='ignore', or a transformer that has one"
            )
        self.align_corners = align_corners
        finest = strides[0] if len(set(strides)) > 1 else strides[0] / 4
        factors = [stride / (finest * 2**i) for i, stride in enumerate(strides)]
        if any(max(factor, 1 / factor) % 1 for factor in factors):
            raise ValueError(
                f"this backbone's features have strides {tuple(strides)}; DPT doubles the stride from each to the next"
            )
        self.covers = strides[0]
        widths = [c * 2**i // 8 for i, c in enumerate(channels)] if widths is None else list(widths)
        if len(widths) != 4:
            raise ValueError(f"widths is {tuple(widths)}; give four, one for each feature")
        self.reassemble = nn.ModuleList()
        for i, (prefix, factor) in enumerate(zip(prefixes, factors, strict=True)):
            if prefix == 0 and factor == 1:
                widths[i] = channels[i]
                self.reassemble.append(nn.Identity())
            else:
                self.reassemble.append(Reassemble(channels[i], widths[i], factor, readout if prefix else "ignore"))
        inner = decoder_channels
        self.laterals = nn.ModuleList(nn.Conv2d(width, inner, 3, padding=1, bias=False) for width in widths)
        self.fusions = nn.ModuleList(Fusion(inner, skip=i < 3 or deepest_unit) for i in range(4))
        init_convs(self.laterals, self.fusions)
        self.head = FCNHead(channels=(inner,), decoder_channels=inner, num_classes=num_classes)
        self.auxiliary_head = None
        if supervised:
            self.auxiliary_head = FCNHead(channels=(inner,), decoder_channels=inner, num_classes=num_classes)

    def fuse(self, features: Sequence[Tensor], prefix: Sequence[Tensor | None]) -> list[Tensor]:
        """-> what the four fusions give, finest first, of half the stride of their maps"""
        maps = []
        pairs = zip(features[-4:], prefix[-4:], strict=True)
        for (feature, tokens), reassemble, lateral in zip(pairs, self.reassemble, self.laterals, strict=True):
            whole = reassemble(feature, tokens) if isinstance(reassemble, Reassemble) else feature
            maps.append(lateral(whole))
        fused: list[Tensor] = []
        for skip, fusion in zip(reversed(maps), reversed(self.fusions), strict=True):
            fused.insert(0, fusion(skip, fused[0] if fused else None))
        return fused

    def forward(self, features: Sequence[Tensor], *prefix: Sequence[Tensor | None]) -> Tensor:
        return self.head([self.fuse(features, *prefix)[0]])

    def forward_train(self, features: Sequence[Tensor], *prefix: Sequence[Tensor | None]) -> dict[str, Tensor]:
        finest, penultimate, *_ = self.fuse(features, *prefix)
        outputs = {"logits": self.head([finest])}
        if self.auxiliary_head is not None:
            outputs["aux"] = self.auxiliary_head([penultimate])
        return outputs

    def objective(self) -> tuple[Term, ...]:
        """The paper's: 0.2 for the auxiliary head (section 4.2)."""
        terms = super().objective()
        return terms if self.auxiliary_head is None else (*terms, Term("aux", 0.2, CrossEntropy(), of=("aux",)))


PAPER = Paper(
    title="Vision Transformers for Dense Prediction",
    authors="Ranftl, Bochkovskiy, Koltun",
    venue="ICCV",
    year=2021,
    url="https://arxiv.org/abs/2103.13413",
    code="https://github.com/isl-org/DPT",
    code_licence="MIT",
)
TINY = {"decoder_channels": 16, "widths": [8, 8, 16, 32]}
BILINEAR = {"interpolation": "bilinear", "antialias": False}
HYBRID = {**BILINEAR, "filter_eps": (0.0, 1e-5)}
register_decoder(
    "dpt_base",
    DPTDecoder,
    Card(paper=PAPER, num_classes=150, scores={"ADE20K val mIoU (single scale, mmsegmentation)": 46.97}),
    tiny=TINY,
    backbone="vit_base_patch16_384",
    backbone_arguments=BILINEAR,
)
register_decoder(
    "dpt_large",
    DPTDecoder,
    Card(paper=PAPER, num_classes=150, scores={"ADE20K val mIoU (single scale)": 47.63}),
    tiny=TINY,
    backbone="vit_large_patch16_384",
    backbone_arguments=BILINEAR,
    widths=(256, 512, 1024, 1024),
)
register_decoder(
    "dpt_hybrid",
    DPTDecoder,
    Card(paper=PAPER, num_classes=150, scores={"ADE20K val mIoU (single scale)": 49.02}),
    tiny={
        **TINY,
        "backbone_arguments": {
            **HYBRID,
            "stem_blocks": [1, 1, 1],
            "stem_width": 32,
            "embed_dim": 32,
            "depth": 4,
            "heads": 2,
            "image_size": 64,
        },
    },
    backbone="vit_base_r50_s16_384",
    backbone_arguments=HYBRID,
    widths=(256, 512, 768, 768),
)
