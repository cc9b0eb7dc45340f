"""UPerNet: pyramid pooling at the top of a feature pyramid, all levels joined.

Weights of mmsegmentation (Apache-2.0), of the authors of Swin (MIT), ConvNeXt and BEiT (MIT), of transformers (Apache-2.0) and of
segmentation-models-pytorch (MIT) load; the authors' own code, which parses parts and materials too, is MIT.

PSPNet's pooling looks at the deepest feature; FPN's top-down sums bring what it saw to the finer ones; all levels, at 1/4, are
joined by one convolution and classified.  It is the head that backbones are compared under.  Plain transformers, whose features
have one stride, get a pyramid by a neck: `neck="pyramid"` as BEiT's authors, `neck="multilevel"` as mmsegmentation under its ViT.

What the public code does and the paper does not say: every convolution has batch norm and ReLU, sums are taken before the 3×3
convolutions, and the deepest level has none of its own.  An FCN head of 256 channels supervises the third feature, the last
under mmsegmentation's ViT, with 0.4.  Swin's and ConvNeXt's features pass a norm each.  segmentation-models-pytorch
brings the logits to the image's size with aligned corners.  What we change: nothing.

Published (ADE20K mIoU, single scale; mmsegmentation's where it has the network): the cards of the variants.
Recipes, all ADE20K, batch 16, 160k iterations: ResNet, SGD 0.9, learning rate 0.01, weight decay 5e-4, poly 0.9, 512×512; Swin,
AdamW 6e-5, weight decay 0.01, 1500 iterations of warm-up, poly 1.0, 512×512; ConvNeXt-T and BEiT-B the same with 1e-4 and 3e-5,
weight decay 0.05 and layer-wise decay 0.9, at 512×512 and 640×640.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.fpn import top_down
from segmentarium.layers.init import init_classifier
from segmentarium.layers.pyramid_pooling import PyramidPooling
from segmentarium.layers.resize import resize
from segmentarium.registry import Card, Paper


class UPerDecoder(Decoder):
    """Pyramid pooling, top-down sums, all levels joined (figure 4): logits at the finest feature's stride.

    decoder_channels  of all its convolutions
    bins              of the pooling: cells along a side of each level
    align_corners     how the logits are brought to the image's size; maps within are never aligned
    """

    auxiliary = True

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        decoder_channels: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        *finer, deepest = channels
        width = decoder_channels
        self.pyramid = PyramidPooling(deepest, width, bins)
        self.bottleneck = ConvNormAct(self.pyramid.out_channels, width)
        self.laterals = nn.ModuleList(ConvNormAct(inputs, width, 1) for inputs in finer)
        self.outputs = nn.ModuleList(ConvNormAct(width, width) for _ in finer)
        self.fuse = ConvNormAct(len(channels) * width, width)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = init_classifier(nn.Conv2d(width, num_classes, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        *finer, deepest = features
        maps = [lateral(x) for lateral, x in zip(self.laterals, finer, strict=True)]
        *sums, top = top_down([*maps, self.bottleneck(self.pyramid(deepest))], mode="bilinear")
        levels = [*(output(x) for output, x in zip(self.outputs, sums, strict=True)), top]
        x = torch.cat([resize(level, levels[0].shape[-2:]) for level in levels], 1)
        return self.classifier(self.dropout(self.fuse(x)))


PAPER = Paper(
    title="Unified Perceptual Parsing for Scene Understanding",
    authors="Xiao, Liu, Zhou, Jiang, Sun",
    venue="ECCV",
    year=2018,
    url="https://arxiv.org/abs/1807.10221",
    code="https://github.com/CSAILVision/unifiedparsing",
    code_licence="MIT",
)
ADE, FROM_22K, CITYSCAPES = "ADE20K val mIoU", "ADE20K val mIoU (from ImageNet-22k)", "Cityscapes val mIoU"
AUXILIARY = {"decoder_channels": 256}


def _register(
    name: str,
    backbone: str,
    scores: dict[str, float],
    parameters: float | None = None,
    flops: float | None = None,
    **arguments: Any,
) -> None:
    register_decoder(
        f"upernet_{name}",
        UPerDecoder,
        Card(
            paper=PAPER,
            parameters=parameters,
            parameters_of="training",
            flops=flops,
            flops_size=(512, 2048) if flops else None,
            num_classes=150,
            scores=scores,
        ),
        tiny={"decoder_channels": 32},
        backbone=backbone,
        **{"auxiliary_arguments": AUXILIARY, **arguments},
    )


for _depth, _ade, _cityscapes in ((50, 42.05, 78.19), (101, 43.82, 79.40)):
    _register(f"resnet{_depth}", f"resnet{_depth}_v1c", {ADE: _ade, CITYSCAPES: _cityscapes})
# millions of parameters and 1e9 multiply-adds at 512×2048, the auxiliary head counted, as the backbones' authors publish them
for _name, _backbone, _scores, _parameters, _flops in (
    ("tiny", "swin_t", {ADE: 44.41}, 60, 945),
    ("small", "swin_s", {ADE: 47.72}, 81, 1038),
    ("base", "swin_b", {ADE: 47.99, FROM_22K: 50.13}, 121, 1188),
    ("base_384", "swin_b_384", {ADE: 48.35, FROM_22K: 50.76}, 121, None),
    ("large_384", "swin_l_384", {}, 234, None),
):
    _arguments = {"shift_all": True, "drop_path": 0.3}
    _register(f"swin_{_name}", _backbone, _scores, _parameters, _flops, backbone_arguments=_arguments)
for _name, _scores, _parameters, _flops in (
    ("tiny", {ADE: 46.11}, 60, 939),
    ("small", {ADE: 48.56}, 82, 1027),
    ("base", {ADE: 48.71, FROM_22K: 52.13}, 122, 1170),
    ("large", {FROM_22K: 53.16}, 235, 1573),
    ("xlarge", {FROM_22K: 53.58}, 391, 2075),
):
    _arguments = {"output_norms": True, "layer_scale": 1.0, "drop_path": 0.3 if _name == "small" else 0.4}
    _register(f"convnext_{_name}", f"convnext_{_name}", _scores, _parameters, _flops, backbone_arguments=_arguments)
for _name, _backbone, _score, _width, _blocks in (
    ("base", "beit_b", 53.08, 768, (3, 5, 7, 11)),
    ("large", "beit_l", 56.33, 1024, (7, 11, 15, 23)),
):
    _arguments = {"image_size": 640, "drop_path": 0.1 if _name == "base" else 0.2, "out_indices": _blocks}
    _register(
        f"beit_{_name}",
        _backbone,
        {FROM_22K: _score},
        neck="pyramid",
        decoder_channels=_width,
        backbone_arguments=_arguments,
    )
# mmsegmentation's: with a norm of the last feature, and stochastic depth, and without either
for _suffix, _normed, _score in (("", False, 46.75), ("_ln", True, 47.73)):
    _register(
        f"vit_base{_suffix}",
        "vit_base_patch16_384",
        {FROM_22K: _score},
        neck="multilevel",
        auxiliary_arguments={**AUXILIARY, "index": -1},
        backbone_arguments={
            "image_size": 512,
            "final_norm": _normed,
            "antialias": False,
            "drop_path": 0.1 if _normed else 0.0,
            "out_indices": (2, 5, 8, 11),
        },
    )
