"""PSANet: each place says how much it wants from every other place, and how much it gives, by how the two stand to each other.

Weights of the authors' PyTorch code (MIT) and of mmsegmentation (Apache-2.0) load; the authors' first code and weights are for
Caffe.

From its own feature alone a place predicts a map of scores over all relative positions, of (2H - 1)·(2W - 1) entries for a map of
H·W places (over-complete: from any place, all others are within it).  In "collect" a place takes the weighted sum of all features
by its own map; in "distribute" by what the maps of all others say of it.  "both" has one of each, beside one another.  All that
happens on a map shrunk by two, whose result is brought back to full size and stands beside the feature.

The last layer has as many outputs as the map has relative positions, so the mask's size belongs to the size of pictures that it
was trained on: pictures of 709×709 at stride 8 give 89×89 places, shrunk 45×45, and a mask of 89×89.  On larger maps places
beyond the mask score 0, as in the public code, and are neither learned nor left out; windows of the trained size (sliding
inference) serve any picture as trained.  The compact form, whose mask is counted by absolute places, takes that one size.

What the public code does and the paper does not say: a softmax over all places, where the paper divides by their number
(`softmax=False`).  mmsegmentation ("mmseg"): the 1×1 convolution after the attention has a padding of 1, so that its result is
two places larger before it is resized; a map of which a side is even is shrunk with corners not aligned; its compact forms of
"collect" and "distribute" alone are exchanged (not here).  TorchSeg ("torchseg"; MIT, its weights load, too) has a compact mask
on the map as it is, and collects in both branches.  The authors' code ("authors") wants sides of 8 n + 1 pixels; here what
comes of other sizes is resized to the feature's.
What we change, exactly: without gradients each row of places is multiplied only with the rows of the mask that lie within the
map, half of them, and read through strides instead of being copied place by place; large maps go in chunks of rows.

Published (authors, ResNet-50/101, single scale): ADE20K val 42.29/43.37, VOC 2012 77.25/78.70, Cityscapes val 77.45 (ResNet-50);
paper, Cityscapes test 80.1.  mmsegmentation, ResNet-50/101: Cityscapes 77.24/79.31, ADE20K (160k) 41.67/43.74, VOC 2012 (40k)
76.30/77.73.
Recipes (authors): SGD 0.9, rate 0.01, decay 1e-4, poly 0.9, 16 crops a step, auxiliary 0.4, scales 0.5 to 2, rotation ±10°;
ADE20K 465×465, 100 epochs; VOC 465×465, 50; Cityscapes 709×709, 200.  mmsegmentation's as semantic/non_local.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segmentarium.composition import register_decoder, register_mmsegmentation
from segmentarium.contracts import Decoder
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier
from segmentarium.layers.norm import channels_first, channels_last
from segmentarium.layers.resize import resize
from segmentarium.registry import Card, Paper

FORMS = ("authors", "mmseg", "torchseg")
DIRECTIONS = ("collect", "distribute", "both")
SCORES = 2**24  # that stand in memory at a time: 64 MB in float32


def _skew(x: Tensor, count: int) -> Tensor:
    """(…, n, n + count - 1) -> (…, n, count), a copy: [i, j] of the result is [i, i + j]."""
    rows, steps = x.shape[-2:]
    return F.pad(x.flatten(-2), (0, rows)).unflatten(-1, (rows, steps + 1))[..., :count]


def relative_scores(places: Tensor, table: Tensor, count: int) -> Tensor:
    """What some rows of places, and all of their columns, score for some rows of others, by where these stand to them.

    places  (B, R, W, D), both R and W in reverse order
    table   (R + count - 1, 2W - 1, D): [k, l] is for the step from the last of these places down to the first other, k
            rows more, and l columns more
    Returns (B, R, W, count, W): R and W of the places in their reverse order, then rows and columns of the others.
    """
    rows, columns = places.shape[1:3]
    if torch.is_grad_enabled() or torch.compiler.is_exporting():
        scores = (places @ table.flatten(0, 1).T).unflatten(-1, table.shape[:2])  # (B, R, W, k, l)
        scores = _skew(scores.transpose(2, 3), columns)  # (B, R, k, W, W)
        return _skew(scores.permute(0, 3, 4, 1, 2), count).permute(0, 3, 1, 4, 2)
    # a window of the table for each row of places: a view; its columns are read through strides, too
    windows = table.unfold(0, count, 1).permute(0, 3, 1, 2).flatten(1, 2)  # (R, count·l, D)
    scores = places.transpose(0, 1).flatten(1, 2) @ windows.transpose(1, 2)  # (R, B·W, count·l)
    scores = scores.view(rows, -1, columns, count, 2 * columns - 1)
    strides = scores.stride()
    size = (*scores.shape[:4], columns)
    return scores.as_strided(size, (*strides[:2], strides[2] + 1, *strides[3:])).transpose(0, 1)


class PointwiseAttention(nn.Module):
    """One direction: (B, C, H, W) -> (B, width, h, w), of which each place is a weighted sum of the reduced feature.

    mask_size   (height, width) of the map of scores that each place predicts
    distribute  by what others say of a place, instead of what it says of others
    compact     the mask is counted by absolute places instead of steps: for maps of that size alone
    softmax     of the scores; without it their sum is divided by the entries of the mask
    """

    def __init__(
        self,
        channels: int,
        width: int,
        mask_size: tuple[int, int],
        *,
        distribute: bool = False,
        compact: bool = False,
        softmax: bool = True,
    ) -> None:
        super().__init__()
        self.mask_size, self.distribute, self.compact, self.softmax = mask_size, distribute, compact, softmax
        self.reduce = ConvNormAct(channels, width, 1)
        self.hidden = ConvNormAct(width, width, 1)
        self.mask = nn.Conv2d(width, mask_size[0] * mask_size[1], 1, bias=False)

    def table(self, height: int, width: int) -> Tensor:
        """(2·height - 1, 2·width - 1, D): the last layer's weights by the step to the other place, 0 where the mask has none"""
        table = self.mask.weight.flatten(1).unflatten(0, self.mask_size)
        mid_y, mid_x = ((side - 1) // 2 for side in self.mask_size)  # no step
        if torch.compiler.is_exporting():  # whichever is larger
            table = F.pad(table, (0, 0, width, width, height, height))
            return table[mid_y + 1 : mid_y + 2 * height, mid_x + 1 : mid_x + 2 * width]
        above, left = height - 1 - mid_y, width - 1 - mid_x
        below, right = 2 * height - 1 - above - self.mask_size[0], 2 * width - 1 - left - self.mask_size[1]
        return F.pad(table, (0, 0, left, right, above, below)) if any((above, left, below, right)) else table

    def _weigh(self, scores: Tensor, values: Tensor) -> Tensor:
        """(B, N, M) scores of who asks for who is asked, (B, M, D) -> (B, N, D)"""
        if not self.softmax:
            return scores @ values / (self.mask_size[0] * self.mask_size[1])
        return scores.softmax(2).to(values.dtype) @ values

    def _rows(self, asked: Tensor, values: Tensor, table: Tensor, top: int, count: int) -> Tensor:
        """`count` rows of the result, from `top` on: (B, count, W, D)"""
        height, columns = asked.shape[1:3]
        if self.distribute:  # all places, which are asked, score these rows
            scores = relative_scores(asked.flip(1, 2), table[top : top + height + count - 1], count)
            scores = scores.permute(0, 3, 4, 1, 2).flatten(3, 4).flatten(1, 2)
            return self._weigh(scores, values.flip(1, 2).flatten(1, 2)).unflatten(1, (count, columns))
        start = height - top - count
        places = asked[:, top : top + count].flip(1, 2)
        scores = relative_scores(places, table[start : start + height + count - 1], height)
        scores = scores.flatten(3, 4).flatten(1, 2)
        return self._weigh(scores, values.flatten(1, 2)).unflatten(1, (count, columns)).flip(1, 2)

    def _compact(self, asked: Tensor, values: Tensor) -> Tensor:
        height, width = asked.shape[1:3]
        if (height, width) != self.mask_size:
            wanted = "×".join(map(str, self.mask_size))
            raise ValueError(
                f"the map is {height}×{width} and the compact mask {wanted}: give pictures of the size that makes such a map, "
                "by sliding windows where they are larger, or build it with compact=False"
            )
        scores = asked.flatten(1, 2) @ self.mask.weight.flatten(1).T
        scores = scores.transpose(1, 2) if self.distribute else scores
        return self._weigh(scores, values.flatten(1, 2)).unflatten(1, (height, width))

    def forward(self, x: Tensor, size: Sequence[int], aligned: int) -> Tensor:
        """size     of the shrunk map
        aligned  1: the corners of both maps are; 0: not"""
        x = _resized(self.reduce(x), size, aligned)
        asked, values = channels_last(self.hidden(x)), channels_last(x)
        if self.compact:
            return channels_first(self._compact(asked, values))
        height, width = x.shape[-2:]
        table = self.table(height, width)
        if not x.is_meta and torch.is_autocast_enabled(x.device.type):
            # before windows of it are taken: each of them would be a copy
            table = table.to(torch.get_autocast_dtype(x.device.type))
        if torch.compiler.is_compiling():
            return channels_first(self._rows(asked, values, table, 0, height))
        step = max(1, SCORES // (len(x) * width * height * (2 * width - 1)))
        if step >= height:
            return channels_first(self._rows(asked, values, table, 0, height))
        parts = []
        for top in range(0, height, step):
            given = (asked, values, table, top, min(step, height - top))
            # gradients compute the scores again
            part = (
                checkpoint(self._rows, *given, use_reentrant=False) if torch.is_grad_enabled() else self._rows(*given)
            )
            assert isinstance(part, Tensor)
            parts.append(part)
        return channels_first(torch.cat(parts, 1))


def _resized(x: Tensor, size: Sequence[int], aligned: int) -> Tensor:
    """Bilinear, with corners aligned if `aligned` is 1; whether it is may hang on the size, which an export leaves open."""
    if isinstance(aligned, torch.SymInt):
        both = (resize(x, size, align_corners=corners) for corners in (True, False))
        return next(both) * aligned + next(both) * (1 - aligned)
    return resize(x, size, align_corners=bool(aligned))


class PSADecoder(Decoder):
    """Point-wise attention on the deepest feature, beside the feature itself, 3×3, the classifier: logits at the deepest stride.

    mask_size         (height, width) of the scores that a place predicts: for a shrunk map of h × w places (2h - 1, 2w - 1);
                      where it is compact (h, w)
    direction         "collect", "distribute" or "both"
    compact           the mask is counted by absolute places: one size of pictures
    shrink            how much smaller the map is on which the attention works
    decoder_channels  of the attention and of the 3×3 convolution; None: a quarter of the feature's
    softmax           of the scores; without it their sum is divided by the entries of the mask, as in the paper
    form              "authors", "mmseg" or "torchseg": whose arrangement, see above
    align_corners     in the resize to the image's size
    """

    prefers_output_stride = 8
    auxiliary = True

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        mask_size: Sequence[int] = (89, 89),
        direction: str = "both",
        compact: bool = False,
        shrink: int = 2,
        decoder_channels: int | None = None,
        softmax: bool = True,
        form: str = "authors",
        align_corners: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if direction not in DIRECTIONS:
            raise ValueError(f"direction is {direction!r}; give one of {', '.join(map(repr, DIRECTIONS))}")
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; give one of {', '.join(map(repr, FORMS))}")
        if len(mask_size) != 2 or min(mask_size) < 1 or shrink < 1:
            raise ValueError(
                f"mask_size is {mask_size} and shrink {shrink}; give (height, width) and a factor, 1 or more"
            )
        self.align_corners, self.form, self.shrink = align_corners, form, shrink
        inputs = channels[-1]
        width = decoder_channels or inputs // 4
        self.attention = nn.ModuleDict(
            {
                name: PointwiseAttention(
                    inputs,
                    width,
                    (mask_size[0], mask_size[1]),
                    distribute=name == "distribute" and form != "torchseg",
                    compact=compact,
                    softmax=softmax,
                )
                for name in (DIRECTIONS[:2] if direction == "both" else (direction,))
            }
        )
        self.project = ConvNormAct(len(self.attention) * width, inputs, 1, padding=int(form == "mmseg"))
        self.bottleneck = ConvNormAct(2 * inputs, width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(width, num_classes, 1))

    def context(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 2C, H, W): the feature, and what its places collected and were given"""
        size, factor = x.shape[-2:], self.shrink
        aligned = 1
        if factor == 1:
            aligned = 1 if self.form == "authors" else int(self.align_corners)
        elif self.form == "mmseg":  # 1 if the factor divides neither side
            aligned = (size[0] % factor + factor - 1) // factor * ((size[1] % factor + factor - 1) // factor)
        small = [(side + aligned * (factor - 1)) // factor for side in size]
        found = torch.cat([branch(x, small, aligned) for branch in self.attention.values()], 1)
        return torch.cat([x, _resized(self.project(found), size, aligned)], 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[(B, channels[i], h_i, w_i), …] -> (B, K, h, w) at the deepest stride"""
        return self.classifier(self.dropout(self.bottleneck(self.context(features[-1]))))


PAPER = Paper(
    title="PSANet: Point-wise Spatial Attention Network for Scene Parsing",
    authors="Zhao, Zhang, Liu, Shi, Loy, Lin, Jia",
    venue="ECCV",
    year=2018,
    url="https://hszhao.github.io/projects/psanet",
    code="https://github.com/hszhao/semseg",
    code_licence="MIT",
)
# the authors' for Cityscapes, 709×709
register_decoder(
    "psanet",
    PSADecoder,
    Card(paper=PAPER, num_classes=19, scores={"Cityscapes val mIoU": 77.45}),
    backbone="resnet50_v1s",
)
# mmsegmentation's, 769×769
register_mmsegmentation(
    PSADecoder,
    PAPER,
    {
        "psanet_resnet50": (50, 59.14, 77.24, 41.67),
        "psanet_resnet101": (101, 78.13, 79.31, 43.74),
    },
    mask_size=(97, 97),
    form="mmseg",
    align_corners=False,
)
