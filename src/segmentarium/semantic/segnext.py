"""SegNeXt: a Hamburger, global context as a factorised matrix, on the convolutional attention of MSCAN.

The authors' code (Visual-Attention-Network/SegNeXt) and mmsegmentation, both Apache-2.0, have it too.  This file was written
from the two papers (2209.08575; Hamburger, 2109.04553) and the layout of the weights.

The features of strides 8 to 32 are joined and squeezed to one width, and the map, as a matrix X of channels × places, is
replaced by its nearest product D C of two small matrices without negative entries: a few words D that all places are spoken
with.  Multiplicative updates find both (Lee and Seung), and gradients flow through all of them.  Its cost grows with the number
of places, where attention's grows with their square.

What the public code does and the paper does not say: the words are drawn anew at every forward pass, in evaluation too, so that
its answers differ from call to call; 6 updates in training, 7 in evaluation, and one more of C; the softmax that starts C has a
temperature of 1 whatever is asked; 16 words in T and S, 64 in B and L; the convolution before the factorisation has a bias and
no norm; group norm with 32 groups.
What we change: in evaluation, and so in what is exported, the words start at numbers drawn once, the same in every process.  In
training they are drawn at every pass, as published (`words="drawn"`; "fixed" starts them so there, too).  Each level is squeezed
at its own resolution and the results are upsampled and summed, which is equal and a quarter of the work.  The factorisation is
computed in float32 under autocast.

Published (ADE20K val, single / multi-scale): T 41.1/42.2, S 44.3/45.8, B 48.5/49.9, L 51.0/52.1; mmsegmentation, single: 41.50,
44.16, 48.03, 50.99.  Cityscapes: T 79.8/81.4, S 81.3/82.7, B 82.6/83.8, L 83.2/83.9.
Recipe, as in the public code: ADE20K, crops of 512×512, batch 16 (Cityscapes: 1024×1024, 8), 160,000 steps of AdamW at 6e-5, ten
times that for the decoder, decay 0.01 but for norms and position tables, poly 1.0 to 0, 1,500 steps of warm-up from 1e-6; whole
pictures at test (Cityscapes: windows of 1024, step 768).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones.mscan import PAPER
from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier
from segmentarium.layers.norm import channels_first, channels_last
from segmentarium.layers.resize import resize
from segmentarium.registry import Card

GROUPS = 32
EPS = 1e-6
group_norm = partial(nn.GroupNorm, GROUPS)


def factorise(x: Tensor, words: Tensor, steps: int) -> Tensor:
    """Non-negative matrix factorisation: rows x (B, N, D) and words to start with (B, D, R), none negative -> the product
    (B, N, D) of shares and words after `steps` updates of both and one more of the shares."""
    meeting = x @ words  # (B, N, R)
    shares = meeting.softmax(2)
    for _ in range(steps):
        shares = shares * meeting / (shares @ (words.mT @ words) + EPS)
        words = words * (x.mT @ shares) / (words @ (shares.mT @ shares) + EPS)
        meeting = x @ words
    shares = shares * meeting / (shares @ (words.mT @ words) + EPS)
    return shares @ words.mT


class Hamburger(nn.Module):
    """Two slices of bread, 1×1 convolutions, around the factorisation, with a shortcut and ReLU.

    words           of the factorisation, R
    drawn           in training they are drawn at every pass
    training_steps  and evaluation_steps: updates
    """

    start: Tensor  # (D, R), columns of length 1, none negative

    def __init__(
        self, channels: int, words: int, *, drawn: bool = True, training_steps: int = 6, evaluation_steps: int = 7
    ) -> None:
        super().__init__()
        self.drawn, self.training_steps, self.evaluation_steps = drawn, training_steps, evaluation_steps
        self.project_in = nn.Conv2d(channels, channels, 1)
        self.project_out = ConvNormAct(channels, channels, 1, norm=group_norm, act=None)
        # NumPy promises that this stream stays the same in all its versions
        drawn_once = np.random.RandomState(0).uniform(size=(channels, words))
        start = drawn_once / np.linalg.norm(drawn_once, axis=0)
        self.register_buffer("start", torch.tensor(start, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape"""
        rows = channels_last(F.relu(self.project_in(x)))
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            product = self.approximate(rows.float().flatten(1, 2)).unflatten(1, rows.shape[1:3])
        return F.relu(x + self.project_out(channels_first(product)))

    def approximate(self, rows: Tensor) -> Tensor:
        """(B, N, D), none negative -> the same shape"""
        words = self.start.float().expand(rows.shape[0], -1, -1)
        if self.training and self.drawn:
            words = F.normalize(torch.rand_like(words, memory_format=torch.contiguous_format), dim=1)
        return factorise(rows, words, self.training_steps if self.training else self.evaluation_steps)


class LightHamDecoder(Decoder):
    """The three deepest features, squeezed to one map at the finest of their strides, a Hamburger, 1×1, the classifier.

    width   of the map, a multiple of 32
    rank    words of the factorisation
    words   "drawn" at every pass of training, as published, or "fixed" there, too
    levels  how many of the deepest features are taken; all, where the backbone has fewer
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int = 256,
        rank: int = 16,
        words: Literal["drawn", "fixed"] = "drawn",
        levels: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if width < GROUPS or width % GROUPS:
            raise ValueError(f"width is {width}; group norm wants a multiple of {GROUPS}")
        if words not in ("drawn", "fixed"):
            raise ValueError(f"words is {words!r}; give 'drawn' (at every pass of training) or 'fixed'")
        if rank < 1 or levels < 1:
            raise ValueError(f"rank is {rank} and levels {levels}; give 1 or more")
        self.widths = list(channels[-levels:])
        self.squeeze = ConvNormAct(sum(self.widths), width, 1, norm=group_norm)
        self.hamburger = Hamburger(width, rank, drawn=words == "drawn")
        self.align = ConvNormAct(width, width, 1, norm=group_norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(width, num_classes, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[(B, channels[i], h_i, w_i), …] -> (B, K, h, w) at the finest stride that is taken"""
        levels = features[-len(self.widths) :]
        squeeze, size = self.squeeze, levels[0].shape[-2:]
        x, *deeper = (F.conv2d(f, w) for f, w in zip(levels, squeeze.conv.weight.split(self.widths, 1), strict=True))
        for level in deeper:
            x = x + resize(level, size)
        x = squeeze.act(squeeze.norm(x))
        return self.classifier(self.dropout(self.align(self.hamburger(x))))


# size: width, words, parameters in millions as counted in the authors' code (L: as the paper rounds them), published 1e9
# multiply-adds at 512×512, mIoU on ADE20K and on Cityscapes (single scale)
VARIANTS = {
    "t": (256, 16, 4.23, 6.6, 41.1, 79.8),
    "s": (256, 16, 13.90, 15.9, 44.3, 81.3),
    "b": (512, 64, 27.57, 34.9, 48.5, 82.6),
    "l": (1024, 64, 48.9, 70.0, 51.0, 83.2),
}
FLOPS = "fewer than published: each level is squeezed at its own resolution, with the same result"
for size, (width, rank, parameters, flops, ade, cityscapes) in VARIANTS.items():
    card = Card(
        paper=PAPER,
        parameters=parameters,
        flops=flops,
        flops_size=(512, 512),
        num_classes=150,
        scores={"ADE20K val mIoU (single scale)": ade, "Cityscapes val mIoU (single scale)": cityscapes},
        limits={"flops": FLOPS},
    )
    register_decoder(f"segnext_{size}", LightHamDecoder, card, backbone=f"mscan_{size}", width=width, rank=rank)
