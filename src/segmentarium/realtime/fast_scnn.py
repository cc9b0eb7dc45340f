"""Fast-SCNN: two branches that share their first layers.

The authors published no code; the two public implementations are Tramac's and mmsegmentation's (Apache-2.0), and both layouts
of weights load.

ContextNet's two branches share their first three layers here, which learn to downsample to 1/8.  From there a deep branch of
inverted bottlenecks with pyramid pooling goes to 1/32, and the shallow one is the 1/8 map itself; the fusion is ContextNet's.

The three forms:
- "paper" (the default): no activation between depthwise and pointwise convolutions, dilation 4 in the fusion, auxiliary heads
  after the downsampling and after the global features, weight 0.4.
- "mmseg": no dilation, a 3×3 convolution after the pyramid pooling, and its configuration's loss, a binary cross entropy
  for each class.
- "tramac": no dilation, an activation after every depthwise convolution, no padding in the first convolution, a bias before
  the batch norms of the fusion, aligned corners, and one auxiliary head only.

Published: Cityscapes test 68.0 at 123.5 FPS (Titan Xp, 1024×2048, 1.11 M parameters); mmsegmentation's 70.96 on val.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from segmentarium.checks import check_choice
from segmentarium.contracts import SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct, SeparableConv
from segmentarium.layers.init import init_classifier, init_convs
from segmentarium.layers.pyramid_pooling import PyramidPooling
from segmentarium.losses import CrossEntropy
from segmentarium.realtime.contextnet import AuxiliaryHead, Classifier, FeatureFusion, bottlenecks
from segmentarium.registry import Card, Paper, register

BOTTLENECKS = (  # table 1 of the paper: channels, blocks, expansion, stride
    (64, 3, 6, 2),
    (96, 3, 6, 2),
    (128, 3, 6, 1),
)


@dataclass(frozen=True)
class Form:
    """Where the paper and the two public networks differ."""

    stem_padding: int = 1
    depthwise_act: bool = False
    pooling_kernel: int = 1  # of the convolution after the pyramid pooling
    fusion_dilation: int = 1
    fusion_bias: bool = False
    align_corners: bool = False
    auxiliary: tuple[str, ...] = ("aux_8", "aux_32")
    sigmoid: bool = False  # a binary cross entropy for each class


FORMS = {
    "paper": Form(fusion_dilation=4),
    "mmseg": Form(pooling_kernel=3, sigmoid=True),
    "tramac": Form(stem_padding=0, depthwise_act=True, fusion_bias=True, align_corners=True, auxiliary=("aux_8",)),
}


class GlobalFeatures(nn.Module):
    """Inverted bottlenecks to 1/32, then pyramid pooling: what the network knows of the whole image."""

    def __init__(self, in_channels: int, kernel_size: int, align_corners: bool) -> None:
        super().__init__()
        self.stages = bottlenecks(in_channels, BOTTLENECKS)
        self.pooling = PyramidPooling(128, 32, align_corners=align_corners)
        self.out = ConvNormAct(self.pooling.out_channels, 128, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H/8, W/8) -> (B, 128, H/32, W/32)"""
        return self.out(self.pooling(self.stages(x)))


class FastSCNN(SegmentationModel):
    """The whole network.

    form        "paper", "mmseg" or "tramac": see above
    auxiliary   the form's auxiliary heads, in training
    """

    training_only = ("auxiliary",)

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        form: Literal["paper", "mmseg", "tramac"] = "paper",
        auxiliary: bool = True,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        check_choice("form", form, FORMS)
        chosen = FORMS[form]
        act = nn.ReLU if chosen.depthwise_act else None
        self.align_corners = chosen.align_corners
        self.downsample = nn.Sequential(
            ConvNormAct(in_channels, 32, 3, 2, padding=chosen.stem_padding),
            SeparableConv(32, 48, 3, 2, depthwise_act=act),
            SeparableConv(48, 64, 3, 2, depthwise_act=act),
        )
        self.global_features = GlobalFeatures(64, chosen.pooling_kernel, chosen.align_corners)
        self.fusion = FeatureFusion(
            64,
            128,
            128,
            dilation=chosen.fusion_dilation,
            bias=chosen.fusion_bias,
            align_corners=chosen.align_corners,
        )
        self.classifier = Classifier(128, num_classes, depthwise_act=act)
        channels = {"aux_8": 64, "aux_32": 128}
        self.auxiliary = nn.ModuleDict(
            {name: AuxiliaryHead(channels[name], num_classes) for name in chosen.auxiliary if auxiliary}
        )

        def loss() -> CrossEntropy:
            return CrossEntropy(average="all", activation="sigmoid") if chosen.sigmoid else CrossEntropy()

        self.set_objective(
            Term("logits", 1.0, loss()), *(Term(name, 0.4, loss(), of=(name,)) for name in self.auxiliary)
        )
        init_convs(self, mode="fan_out")
        for head in (self.classifier, *self.auxiliary.values()):
            assert isinstance(head, nn.Sequential)
            init_classifier(head[-1])

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H/8, W/8)"""
        fine = self.downsample(image)
        return self.classifier(self.fusion(fine, self.global_features(fine)))

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        fine = self.downsample(image)
        coarse = self.global_features(fine)
        seen = {"aux_8": fine, "aux_32": coarse}
        outputs = {"logits": self.classifier(self.fusion(fine, coarse))}
        return outputs | {name: head(seen[name]) for name, head in self.auxiliary.items()}


PAPER = Paper(
    title="Fast-SCNN: Fast Semantic Segmentation Network",
    authors="Poudel, Liwicki, Cipolla",
    venue="BMVC",
    year=2019,
    url="https://arxiv.org/abs/1902.04502",
    code="https://github.com/Tramac/Fast-SCNN-pytorch",
    code_licence="Apache-2.0",
)
PARAMETERS = "the paper's table of layers adds up to 1.138, as does Tramac's network; mmsegmentation's has 1.400"

register(
    "fast_scnn",
    FastSCNN,
    Card(
        paper=PAPER,
        parameters=1.11,
        num_classes=19,
        scores={"Cityscapes test mIoU": 68.0},
        limits={"parameters": PARAMETERS},
    ),
)
