"""EncNet: what is in the picture, counted against a small codebook, says which channels matter.

Weights of the authors' code (MIT) and of mmsegmentation (Apache-2.0) load.

Every pixel of the deepest feature is assigned softly to K learned codewords; what is left of it, its residual, is summed up by
codeword and encodes the picture as a whole.  From this code one layer makes a factor for every channel, and in training another
tells which classes occur (semantic encoding loss, 0.2): small things count as much there as large ones.

What the public code does and the paper does not say: the codes pass a batch norm over the codewords and a ReLU, and their mean
is the encoding; a channel is multiplied by 1 + σ(…), that is, added to what it was; the smoothing factors of the assignment
start between -1 and 0.  The lateral form (the authors' PASCAL Context models) sees the two features before the deepest, too.
`encnet` is the authors' network: a ResNet with a wide deep stem, corners aligned; their auxiliary head counts 0.2.
`encnet_resnet50` and `encnet_resnet101` are mmsegmentation's: narrower stem, corners not aligned (its models for 769×769 align
them).  Class presence: neither code counts 255; here pictures without any label are left out, too.  What mmsegmentation counts of
ignored pixels in its cross entropy: semantic/danet.py.
What we change: distances to codewords come from the expanded square, so that the B×HW×K×C residuals never stand in memory; the
ReLU after the factors is left out, since both are positive already.

Published: PASCAL Context 51.7, VOC 2012 test 85.9 (abstract); the authors' weights, ResNet-50/101, multi-scale: PASCAL Context
51.0/54.1 (59 classes), ADE20K 41.5/44.4; mmsegmentation, single scale, ResNet-50/101: Cityscapes 77.94/78.55, ADE20K (160k)
40.10/42.61.
Recipes: the authors' crops are 480×480, of ADE20K with ResNet-101 576×576, SGD 0.9, poly, decay 1e-4.  mmsegmentation's as its
DANet's (semantic/danet.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.composition import register_decoder, register_mmsegmentation
from segmentarium.contracts import Decoder, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier
from segmentarium.layers.norm import channels_last
from segmentarium.layers.precision import autocast_off
from segmentarium.layers.resize import resize
from segmentarium.losses import ClassPresence
from segmentarium.registry import Card, Paper


class Encoding(nn.Module):
    """Residuals to K codewords, summed by soft assignment (equations 1 and 2): (B, N, C) -> (B, K, C), float32.

    a_ik = softmax over k of s_k |x_i - c_k|², e_k = Σ_i a_ik (x_i - c_k).
    """

    def __init__(self, channels: int, codes: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(channels * codes)
        self.codewords = nn.Parameter(torch.empty(codes, channels).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.empty(codes).uniform_(-1, 0))

    def forward(self, x: Tensor) -> Tensor:
        with autocast_off(x.device):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            words, scale = self.codewords, self.scale
            # s |x|² - 2 s x·c + s |c|²
            products = F.linear(x, -2 * scale[:, None] * words, scale * words.square().sum(1))
            weights = (products + scale * x.square().sum(2, keepdim=True)).softmax(2)  # (B, N, K)
            return weights.transpose(1, 2) @ x - weights.sum(1)[..., None] * words


class ContextEncoding(nn.Module):
    """(B, C, H, W) -> (B, C): the picture's code."""

    def __init__(self, channels: int, codes: int) -> None:
        super().__init__()
        self.project = ConvNormAct(channels, channels, 1)
        self.encoding = Encoding(channels, codes)
        self.norm = nn.BatchNorm1d(codes)

    def forward(self, x: Tensor) -> Tensor:
        codes = self.encoding(channels_last(self.project(x)).flatten(1, 2))
        return self.norm(codes).relu().mean(1)


class EncDecoder(Decoder):
    """3×3 on the deepest feature, its channels weighed by the picture's code, the classifier: logits at the deepest stride.

    width          channels of the decoder; None: a quarter of the feature's
    codes          number of codewords
    lateral        the two features before the deepest take part
    presence       train with the semantic encoding loss
    align_corners  in all resizes
    """

    prefers_output_stride = 8
    auxiliary = True
    training_only = ("presence",)

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int | None = None,
        codes: int = 32,
        lateral: bool = False,
        presence: bool = True,
        align_corners: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        sides = channels[-3:-1] if lateral else ()
        if lateral and not sides:
            raise ValueError(
                "lateral=True wants features before the deepest; this backbone has one: give lateral=False"
            )
        self.align_corners = align_corners
        width = width or channels[-1] // 4
        self.reduce = ConvNormAct(channels[-1], width)
        self.laterals = nn.ModuleList(ConvNormAct(side, width, 1) for side in sides)
        self.fuse = ConvNormAct((1 + len(sides)) * width, width) if sides else None
        self.context = ContextEncoding(width, codes)
        self.gate = nn.Linear(width, width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(width, num_classes, 1))
        self.presence = init_classifier(nn.Linear(width, num_classes)) if presence else None

    def _encode(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """-> (B, width, h, w), and its code (B, width)"""
        x = self.reduce(features[-1])
        if self.fuse is not None:
            sides = [lateral(f) for lateral, f in zip(self.laterals, features[-3:-1], strict=True)]
            size = x.shape[-2:]
            x = self.fuse(torch.cat([x, *(resize(s, size, align_corners=self.align_corners) for s in sides)], 1))
        return x, self.context(x)

    def _classify(self, x: Tensor, code: Tensor) -> Tensor:
        factor = 1 + self.gate(code).sigmoid()
        return self.classifier(self.dropout(x * factor[..., None, None]))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[(B, channels[i], h_i, w_i), …] -> (B, K, h, w) at the deepest stride"""
        return self._classify(*self._encode(features))

    def forward_train(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        x, code = self._encode(features)
        outputs = {"logits": self._classify(x, code)}
        return outputs if self.presence is None else outputs | {"presence": self.presence(code)}

    def objective(self) -> tuple[Term, ...]:
        if self.presence is None:
            return super().objective()
        presence = Term("presence", 0.2, ClassPresence(), of=("presence",), at="as is", classes=False)
        return (*super().objective(), presence)


PAPER = Paper(
    title="Context Encoding for Semantic Segmentation",
    authors="Zhang, Dana, Shi, Zhang, Wang, Tyagi, Agrawal",
    venue="CVPR",
    year=2018,
    url="https://arxiv.org/abs/1803.08904",
    code="https://github.com/zhanghang1989/PyTorch-Encoding",
    code_licence="MIT",
)
register_decoder(
    "encnet",
    EncDecoder,
    Card(paper=PAPER, num_classes=150, scores={"ADE20K val mIoU, multi-scale": 41.5}),
    backbone="resnet50_v1s",
    auxiliary_arguments={"weight": 0.2},
    backbone_arguments={"contract_dilation": True},  # in the authors' ResNet the first block of a dilated stage
)
# parameters in millions as counted in mmsegmentation's code
register_mmsegmentation(
    EncDecoder,
    PAPER,
    {
        "encnet_resnet50": (50, 35.90, 77.94, 40.10),
        "encnet_resnet101": (101, 54.89, 78.55, 42.61),
    },
    align_corners=False,
)
