"""GCNet: one global context, the same for every pixel, added to all of them.

Weights of mmsegmentation (Apache-2.0) load, and of mmdetection (Apache-2.0) Mask R-CNN and Cascade Mask R-CNN on such trunks.

In trained non-local blocks every pixel attends to much the same places.  So the map of attention is computed once: a 1×1
convolution and a softmax over all places say what counts, the weighted mean goes through a bottleneck with a layer norm, and the
result is added to each pixel (or multiplies it).  The block stands between the convolutions of an FCN head, or inside a trunk:

    for stage in (2, 3, 4):  # c3 to c5
        insert_block(model, stage, "gcnet", at="every", after="conv3", ratio=1 / 16)

What the public code does and the paper does not say: the bias of the attention's convolution, which the softmax takes out again,
exists; the last convolution of each bottleneck starts at zero, so that a block that adds starts as the identity; where a block
multiplies and adds, it multiplies first.  What we change: nothing.

Published (authors): in trunks of Mask R-CNN on COCO with synchronised norms, 12 epochs, box AP 37.2 without, 39.4 at ratio 1/16,
39.9 at 1/4; ResNet-101 39.8, 41.1, 41.7.  mmsegmentation, single scale: Cityscapes val 78.48 (ResNet-50), 79.03 (ResNet-101);
ADE20K 160k steps 42.37, 43.69; VOC 2012 40k steps 76.24, 77.84.
Recipes: SGD with momentum 0.9, rate 0.01, decay 5e-4, poly 0.9 to 1e-4, auxiliary head 0.4; Cityscapes 80,000 steps of 8 crops of
512×1024 pixels, ADE20K 160,000 of 16 of 512×512, VOC 2012 with extra labels 40,000 of 16 of 512×512.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segmentarium.composition import register_mmsegmentation
from segmentarium.layers.norm import LayerNorm2d
from segmentarium.layers.pooling import global_average_pool
from segmentarium.registry import Paper, register_block
from segmentarium.semantic.fcn import FCNDecoder


class GlobalContext(nn.Module):
    """(B, C, H, W) -> the same shape: every pixel times or plus, or both, what one global context says (figure 4d).

    ratio    of the bottleneck's channels to C
    pooling  "attention", or "average": the plain mean
    fusion   of "multiply" and "add"; where both are given the first comes first
    """

    def __init__(
        self, channels: int, ratio: float = 1 / 16, pooling: str = "attention", fusion: Sequence[str] = ("add",)
    ) -> None:
        super().__init__()
        hidden = int(channels * ratio + 1e-6)  # a ratio that was read off a number of channels gives it again
        if hidden < 2:
            raise ValueError(
                f"ratio is {ratio:g}, which leaves {hidden} of {channels} channels; the norm between the layers needs 2 or more"
            )
        if pooling not in ("attention", "average"):
            raise ValueError(f"pooling is {pooling!r}; give 'attention' or 'average'")
        if not fusion or not set(fusion) <= {"add", "multiply"}:
            raise ValueError(f"fusion is {tuple(fusion)}; give 'add', 'multiply' or both")
        self.attention = nn.Conv2d(channels, 1, 1) if pooling == "attention" else None
        self.multiply = self._bottleneck(channels, hidden) if "multiply" in fusion else None
        self.add = self._bottleneck(channels, hidden) if "add" in fusion else None
        if self.attention is not None:
            nn.init.kaiming_normal_(self.attention.weight, nonlinearity="relu")

    @staticmethod
    def _bottleneck(channels: int, hidden: int) -> nn.Sequential:
        last = nn.Conv2d(hidden, channels, 1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        return nn.Sequential(nn.Conv2d(channels, hidden, 1), LayerNorm2d(hidden), nn.ReLU(inplace=True), last)

    def context(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1): the mean, weighted by what the attention says of each place"""
        if self.attention is None:
            return global_average_pool(x)
        weights = self.attention(x).flatten(2).softmax(2).transpose(1, 2)  # (B, HW, 1)
        return (x.flatten(2) @ weights).unsqueeze(3)

    def forward(self, x: Tensor) -> Tensor:
        context = self.context(x)
        if self.multiply is not None:
            x = x * self.multiply(context).sigmoid()
        if self.add is not None:
            x = x + self.add(context)
        return x


class GCDecoder(FCNDecoder):
    """The head of FCN with a global context block between its convolutions: logits at the deepest stride.

    decoder_channels        of the convolutions; None: a quarter of the feature's
    ratio, pooling, fusion  of the block
    align_corners           in the resize to the image's size
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        decoder_channels: int | None = None,
        ratio: float = 1 / 4,
        pooling: str = "attention",
        fusion: Sequence[str] = ("add",),
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
        self.convs.insert(1, GlobalContext(decoder_channels or channels[-1] // 4, ratio, pooling, fusion))


PAPER = Paper(
    title="GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond",
    authors="Cao, Xu, Lin, Wei, Hu",
    venue="ICCV Workshops",
    year=2019,
    url="https://arxiv.org/abs/1904.11492",
    code="https://github.com/xvjiarui/GCNet",
    code_licence="Apache-2.0",
)
register_block("gcnet", GlobalContext)
# mmsegmentation's
register_mmsegmentation(
    GCDecoder,
    PAPER,
    {
        "gcnet": (50, 49.63, 78.48, 42.37),
        "gcnet_resnet101": (101, 68.62, 79.03, 43.69),
    },
)
