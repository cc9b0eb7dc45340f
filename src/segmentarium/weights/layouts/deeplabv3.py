"""DeepLabV3 as mmsegmentation, torchvision, smp, transformers, VainF, PyTorch-Encoding (the authors of ResNeSt) and detectron2
store it.

The tables of the last three, and of mmsegmentation on ResNeSt and MobileNetV2, rest on their code.  No key tells rates or output
stride: of mmsegmentation stride 8 is taken ("d16-mg124" files want output_stride=16 and backbone_arguments={"multigrid":
(1, 2, 4)}), of VainF's and detectron2's 16, of which the published files are.  The window of detectron2's pooling is that of its
crops of 512×1024 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.deeplabv3plus import (
    DETECTRON2,
    VAINF,
    VAINF_TRUNK,
    aspp_rules,
    detectron2_arguments,
    detectron2_aspp,
    torchvision_aspp,
    vainf_mobilenet,
)
from segmentarium.weights.layouts.mobilenet_v2 import arguments_of, transformers_rules
from segmentarium.weights.layouts.mobilenet_v2 import torchvision_rules as mobilenet_v2_rules
from segmentarium.weights.layouts.mobilenet_v3 import torchvision_rules as mobilenet_v3_rules
from segmentarium.weights.layouts.parts import (
    mmseg_on_other_backbones,
    mmseg_resnet_arguments,
    mmseg_resnet_segmenter,
    neighbours,
    rest,
)
from segmentarium.weights.layouts.resnest import resnest_arguments, resnest_rules
from segmentarium.weights.layouts.resnet import detectron2_rules, resnet_name, resnet_rules
from segmentarium.weights.table import Golden, Layout, Rule, to_ours


def mmseg_head(theirs: str = "decode_head.", ours: str = "decoder.") -> list[Rule]:
    """Prefixes ending in a dot."""
    return [*aspp_rules(theirs, f"{ours}aspp."), rest(f"{theirs}conv_seg", f"{ours}classifier")]


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return mmseg_resnet_arguments(state) | {"decoder_channels": state["decode_head.bottleneck.conv.weight"].shape[0]}


def _torchvision_head(theirs: str) -> list[Rule]:
    return [
        *torchvision_aspp(f"{theirs}.0"),
        *neighbours(theirs, "decoder.last", 1),
        rest(f"{theirs}.4", "decoder.classifier"),
    ]


AUXILIARY = [
    *neighbours("aux_classifier", "auxiliary.aux.convs.0"),
    rest("aux_classifier.4", "auxiliary.aux.classifier"),
]
SMP_HEAD = [
    *torchvision_aspp("decoder.aspp"),
    rest("decoder.conv", "decoder.last.conv"),
    rest("decoder.bn", "decoder.last.norm"),
    rest("segmentation_head.0", "decoder.classifier"),
]


def _torchvision_arguments(state: Mapping[str, Tensor], classifier: str = "classifier.4") -> dict[str, Any]:
    return {
        "num_classes": state[f"{classifier}.weight"].shape[0],
        "in_channels": state["backbone.conv1.weight"].shape[1],
        "backbone": resnet_name(state, "backbone."),
        "backbone_arguments": {"multigrid": None},
        "output_stride": 8,
        "form": "torchvision",
        "auxiliary": "aux_classifier.4.weight" in state,
    }


def _vainf_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    told = _torchvision_arguments(state, "classifier.classifier.4")
    return {**told, "output_stride": 16, "rates": (6, 12, 18)}


def _vainf_mobilenet_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    classes = state["classifier.classifier.4.weight"].shape[0]
    return vainf_mobilenet(state) | {"num_classes": classes, "form": "torchvision"}


def _mobilenet_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["classifier.4.weight"].shape[0],
        "in_channels": state["backbone.0.0.weight"].shape[1],
        "auxiliary": "aux_classifier.4.weight" in state,
    }


def _smp_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["segmentation_head.0.weight"].shape[0],
        "output_stride": 8,
        "form": "smp",
        "decoder_channels": state["decoder.conv.weight"].shape[0],
        "auxiliary": False,
    }


def _smp_resnet_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return _smp_arguments(state) | {
        "in_channels": state["encoder.conv1.weight"].shape[1],
        "backbone": resnet_name(state, "encoder."),
        "backbone_arguments": {"multigrid": None, "contract_dilation": False},
    }


def _smp_mobilenet_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return _smp_arguments(state) | {
        "in_channels": state["encoder.features.0.0.weight"].shape[1],
        "backbone": "mobilenet_v2",
        "backbone_arguments": {"contract_dilation": False, "final_conv": True},
    }


TRANSFORMERS_TRUNK = transformers_rules("mobilenet_v2.", "backbone.")


def _transformers_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    tensors, _, _ = to_ours(state, transformers_rules("mobilenet_v2.", ""), {})
    own = arguments_of(tensors)
    return {
        "num_classes": state["segmentation_head.classifier.convolution.weight"].shape[0],
        "in_channels": own.pop("in_channels"),
        "decoder_channels": state["segmentation_head.conv_projection.convolution.weight"].shape[0],
        "output_stride": 8,
        "rates": (),
        "auxiliary": False,
        "backbone": "mobilenet_v2",
        "backbone_arguments": {**own, "norm_eps": 1e-3, "same_padding": True},
    }


def _transformers_head() -> list[Rule]:
    rules = []
    for theirs, ours in (("pool", "image_pool"), ("aspp", "branches.0"), ("projection", "project")):
        rules += [
            rest(f"segmentation_head.conv_{theirs}.convolution", f"decoder.aspp.{ours}.conv"),
            rest(f"segmentation_head.conv_{theirs}.normalization", f"decoder.aspp.{ours}.norm"),
        ]
    return [*rules, rest("segmentation_head.classifier.convolution", "decoder.classifier")]


def _encoding() -> list[Rule]:
    rules = resnest_rules("pretrained.", "backbone.")
    rules += [rule for i in range(4) for rule in neighbours(f"head.aspp.b{i}", f"decoder.aspp.branches.{i}")]
    rules += neighbours("head.aspp.b4.gap", "decoder.aspp.image_pool", 1)
    rules += neighbours("head.aspp.project", "decoder.aspp.project") + neighbours("head.block", "decoder.last")
    rules += neighbours("auxlayer.conv5", "auxiliary.aux.convs.0")
    return [*rules, rest("head.block.4", "decoder.classifier"), rest("auxlayer.conv5.4", "auxiliary.aux.classifier")]


def _encoding_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    own = resnest_arguments(state, "pretrained.")
    channels = own.pop("in_channels")
    return {
        "num_classes": state["head.block.4.weight"].shape[0],
        "in_channels": channels,
        "backbone": f"resnest{own.pop('depth')}",
        "backbone_arguments": own,
        "output_stride": 8,
        "form": "smp",
        "auxiliary": "auxlayer.conv5.4.weight" in state,
    }


VISION, SMP = "https://github.com/pytorch/vision", "https://github.com/qubvel-org/segmentation_models.pytorch"
LAYOUTS = (
    Layout(
        "deeplabv3/mmseg",
        "deeplabv3_resnet50",
        mmseg_resnet_segmenter(mmseg_head()),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
        goldens={
            "semantic/deeplabv3-mmseg-r50-mg124": Golden(
                {"out/logits": "logits", "out/upsampled": "forward"},
                {"output_stride": 16, "backbone_arguments": {"multigrid": (1, 2, 4)}},
            )
        },
    ),
    *mmseg_on_other_backbones("deeplabv3", "deeplabv3_resnet50", mmseg_head(), _mmseg_arguments),
    Layout(
        "deeplabv3/torchvision",
        "deeplabv3",
        (*resnet_rules("backbone.", "backbone."), *_torchvision_head("classifier"), *AUXILIARY),
        _torchvision_arguments,
        VISION,
    ),
    Layout(
        "deeplabv3/torchvision_mobilenet_v3",
        "deeplabv3_mobilenet_v3_large",
        (*mobilenet_v3_rules("large", "backbone.", "backbone."), *_torchvision_head("classifier"), *AUXILIARY),
        _mobilenet_arguments,
        VISION,
    ),
    Layout(
        "deeplabv3/vainf",
        "deeplabv3",
        (*resnet_rules("backbone.", "backbone."), *_torchvision_head("classifier.classifier")),
        _vainf_arguments,
        VAINF,
    ),
    Layout(
        "deeplabv3/vainf_mobilenet_v2",
        "deeplabv3",
        (*VAINF_TRUNK, *_torchvision_head("classifier.classifier")),
        _vainf_mobilenet_arguments,
        VAINF,
    ),
    Layout(
        "deeplabv3/detectron2",
        "deeplabv3",
        (
            *detectron2_rules("backbone.", "backbone."),
            *detectron2_aspp("sem_seg_head.aspp"),
            rest("sem_seg_head.predictor", "decoder.classifier"),
        ),
        partial(detectron2_arguments, aspp="sem_seg_head.aspp"),
        DETECTRON2,
    ),
    Layout(
        "deeplabv3/smp_resnet",
        "deeplabv3",
        (*resnet_rules("encoder.", "backbone."), *SMP_HEAD),
        _smp_resnet_arguments,
        SMP,
    ),
    Layout(
        "deeplabv3/smp_mobilenet_v2",
        "deeplabv3",
        (*mobilenet_v2_rules("encoder.", "backbone."), *SMP_HEAD),
        _smp_mobilenet_arguments,
        SMP,
    ),
    Layout(
        "deeplabv3/transformers",
        "deeplabv3",
        (Rule("mobilenet_v2.conv_1x1.{*}", None), *TRANSFORMERS_TRUNK, *_transformers_head()),
        _transformers_arguments,
        "https://github.com/huggingface/transformers",
    ),
    Layout(
        "deeplabv3/encoding",
        "deeplabv3",
        tuple(_encoding()),
        _encoding_arguments,
        "https://github.com/zhanghang1989/PyTorch-Encoding",
    ),
)
