"""STDC-Seg: BiSeNet without its spatial path.

Weights of the authors' code and of mmsegmentation (Apache-2.0) load.

BiSeNet spends a whole path on spatial detail.  Here the backbone's own feature at 1/8 takes its place, and is taught
detail in training: a head on it predicts where the label map changes (`losses/detail.py`).  Context path, attention
refinement and fusion are BiSeNet's, the fusion's attention narrowed four times; two auxiliary heads supervise the context path.
The detail head and the auxiliary heads are gone at inference, the paper's "cost-free" guidance.

What the public code does and the paper does not say: the context path upsamples by nearest neighbour, logits are brought to
the image's size with corners aligned, classifiers have no bias (mmsegmentation's have one).  The code builds detail heads at
1/2, 1/4, 1/8 and 1/16 whichever are trained, and ImageNet's last convolution whether or not the context path sees it; the paper
and the published weights train 1/8, and go without that convolution.  Of other files say so:
`load(file, detail_strides=(2, 4, 8), final_conv=True)`.

Published (FPS on a GTX 1080 Ti): Cityscapes val at 512×1024: STDC1 72.22 at 250, STDC2 74.24 at 189; at 768×1536: 74.50 at
127, 77.04 at 97.  Test: 71.9 (STDC1, 512×1024), 76.8 (STDC2, 768×1536).  CamVid test at 960×720: 73.0 at 198, 73.9 at 152.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.backbones.stdc import PAPER
from segmentarium.contracts import SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_convs
from segmentarium.losses import OhemCrossEntropy
from segmentarium.losses.detail import DetailLoss
from segmentarium.realtime.bisenet import ContextPath, FeatureFusion, Head
from segmentarium.registry import Card, register


class STDC(SegmentationModel):
    """The whole network.

    backbone            ours by name, timm's as "timm:NAME", or a module; strides 8, 16 and 32 are used
    detail_strides      strides of the backbone's features that are taught detail in training (table 4; the paper: 8)
    final_conv          a 1×1 convolution of ImageNet's network behind the deepest feature (the code's `use_conv_last`)
    auxiliary           supervise the context path at 1/8 and 1/16 (training only)
    head_bias           classifiers have a bias
    backbone_arguments  further arguments of the backbone's class
    """

    training_only = ("auxiliary", "detail")
    align_corners = True

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        backbone: str | nn.Module = "stdcnet1",
        detail_strides: Sequence[int] = (8,),
        final_conv: bool = False,
        auxiliary: bool = True,
        head_bias: bool = False,
        backbone_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        arguments = dict(backbone_arguments or {})
        if 2 in detail_strides:
            arguments.setdefault("out_indices", (0, 1, 2, 3, 4))
        self.backbone = create_backbone(backbone, in_channels=in_channels, **arguments)
        self.preprocessing = self.backbone.preprocessing.for_channels(in_channels)
        channels8, channels16, channels32 = (self.backbone.channels[self.backbone.at(stride)] for stride in (8, 16, 32))
        self.final_conv = ConvNormAct(channels32, channels32, 1) if final_conv else nn.Identity()
        self.context = ContextPath(channels16, channels32, upsample="nearest")
        self.fusion = FeatureFusion(channels8 + 128, 256, reduction=4)
        self.head = Head(256, 256, num_classes, bias=head_bias)
        self.auxiliary = nn.ModuleDict()
        if auxiliary:
            for stride in (8, 16):
                self.auxiliary[f"aux_{stride}"] = Head(128, 64, num_classes, bias=head_bias)
        self.detail_strides = tuple(detail_strides)
        self.detail = nn.ModuleDict()
        for stride in self.detail_strides:
            channels = self.backbone.channels[self.backbone.at(stride)]
            self.detail[f"detail_{stride}"] = Head(channels, 64, 1, bias=False)
        self.set_objective(
            *(Term(name, 1.0, OhemCrossEntropy(), of=(name,)) for name in ("logits", *self.auxiliary)),
            *(Term(name, 1.0, DetailLoss(), of=(name,), at="as is", classes=False) for name in self.detail),
        )
        init_convs(self.final_conv, self.context, self.fusion)

    def _features(self, image: Tensor) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """-> the backbone's features, the fused feature at 1/8, and the context path's at 1/8 and 1/16"""
        features = self.backbone(image)
        x8, x16, x32 = (features[self.backbone.at(stride)] for stride in (8, 16, 32))
        y8, y16 = self.context(x16, self.final_conv(x32), x8.shape[-2:])
        return features, self.fusion(x8, y8), y8, y16

    def logits(self, image: Tensor) -> Tensor:
        return self.head(self._features(image)[1])

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        features, fused, *context = self._features(image)
        outputs = {"logits": self.head(fused)}
        for (name, head), x in zip(self.auxiliary.items(), context, strict=False):
            outputs[name] = head(x)
        for (name, head), stride in zip(self.detail.items(), self.detail_strides, strict=True):
            outputs[name] = head(features[self.backbone.at(stride)])
        return outputs


SMALL, LARGE, CAMVID = "Cityscapes val mIoU (512×1024)", "Cityscapes val mIoU (768×1536)", "CamVid test mIoU (960×720)"

register(
    "stdc1",
    STDC,
    Card(
        paper=PAPER,
        num_classes=19,
        scores={SMALL: 72.22, LARGE: 74.50, CAMVID: 73.0},
    ),
    backbone="stdcnet1",
)
register(
    "stdc2",
    STDC,
    Card(paper=PAPER, num_classes=19, scores={SMALL: 74.24, LARGE: 77.04, CAMVID: 73.9}),
    backbone="stdcnet2",
)
