"""HRNet, HRNetV2 and HRNet for poses as their authors, timm, mmsegmentation, mmpretrain and mmpose store them.

They agree on the trunk's keys.  `hrnet_rules` and `hrnet_backbone` serve the tables of every system that has an HRNet inside.
mmpretrain's neck is read off its code (HRFuseScales), mmsegmentation's and mmpose's heads too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.mobilenet_v2 import unit
from segmentarium.weights.layouts.parts import conv_bn, neighbours, rest
from segmentarium.weights.table import Golden, Layout, Rule, outputs_of

STAGES = (2, 3, 4)  # by how many branches they have


def _block(theirs: str, ours: str) -> list[Rule]:
    """A residual block."""
    return [
        Rule(f"{theirs}.conv{{}}.weight", f"{ours}.conv{{}}.conv.weight"),
        Rule(f"{theirs}.bn{{}}.{{}}", f"{ours}.conv{{}}.norm.{{}}"),
        *neighbours(f"{theirs}.downsample", f"{ours}.shortcut"),
    ]


def hrnet_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """The table of an HRNet under a prefix ("backbone."), without its classifier."""
    rules = [
        *unit(f"{theirs}conv1", f"{theirs}bn1", f"{ours}stem.0"),
        *unit(f"{theirs}conv2", f"{theirs}bn2", f"{ours}stem.1"),
    ]
    rules += _block(f"{theirs}layer1.{{}}", f"{ours}layer1.{{}}")
    rules += neighbours(f"{theirs}transition1.0", f"{ours}transitions.0.0")
    rules += neighbours(f"{theirs}transition1.1.0", f"{ours}transitions.0.1")
    for i in (1, 2):
        rules += neighbours(f"{theirs}transition{i + 1}.{i + 1}.0", f"{ours}transitions.{i}.0")
    for stage in STAGES:
        their_stage, mine = f"{theirs}stage{stage}.{{}}", f"{ours}stages.{stage - 2}.{{}}"
        rules += _block(f"{their_stage}.branches.{{}}.{{}}", f"{mine}.branches.{{}}.{{}}")
        rules += neighbours(f"{their_stage}.fuse_layers.{{}}.{{}}.{{}}", f"{mine}.fuse.{{}}.{{}}.{{}}")  # downwards
        rules += neighbours(f"{their_stage}.fuse_layers.{{}}.{{}}", f"{mine}.fuse.{{}}.{{}}")  # upwards
    return rules


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many modules stand in a row under `prefix`."""
    return len({key[len(prefix) :].partition(".")[0] for key in state if key.startswith(prefix)})


def hrnet_arguments(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Any]:
    """What makes the HRNet under `prefix`, but for its input; KeyError where there is none."""
    return {
        "width": state[f"{prefix}stage2.0.branches.0.0.conv1.weight"].shape[0],
        "modules": tuple(_count(state, f"{prefix}stage{stage}.") for stage in STAGES),
        "blocks": _count(state, f"{prefix}stage2.0.branches.0."),
        "bottlenecks": _count(state, f"{prefix}layer1."),
        "bottleneck_width": state[f"{prefix}layer1.0.conv1.weight"].shape[0],
    }


def hrnet_backbone(state: Mapping[str, Tensor], prefix: str = "", **more: Any) -> dict[str, Any]:
    """The HRNet under `prefix` as arguments of a network: by its name, if it is one of the papers, and with `more` arguments."""
    from segmentarium.backbones.hrnet import VARIANTS

    found = hrnet_arguments(state, prefix)
    for name, (width, depths, *_) in VARIANTS.items():
        if found == {"width": width, **depths}:
            return {"backbone": f"hrnet_{name}", "backbone_arguments": more}
    return {"backbone": "hrnet_w18", "backbone_arguments": found | more}


def _classifier(state: Mapping[str, Tensor], prefix: str, classifier: str, **more: Any) -> dict[str, Any]:
    return hrnet_arguments(state, prefix) | {
        "in_channels": state[f"{prefix}conv1.weight"].shape[1],
        "num_classes": outputs_of(state, classifier),
        **more,
    }


def _authors_classifier(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """timm's "ssld" networks have no biases before norms."""
    bare = {"head_bias": False} if "final_layer.0.bias" not in state else {}
    return _classifier(state, "", "classifier.weight", **bare)


def _segmenter(state: Mapping[str, Tensor], prefix: str, fuse: str, classifier: str, upsample: str) -> dict[str, Any]:
    return hrnet_backbone(state, prefix, upsample=upsample) | {
        "num_classes": state[f"{classifier}.weight"].shape[0],
        "in_channels": state[f"{prefix}conv1.weight"].shape[1],
        "width": state[f"{fuse}.weight"].shape[0],
        "bias": f"{fuse}.bias" in state,
        "align_corners": upsample == "aligned",
    }


def _authors_head(prefix: str) -> list[Rule]:
    return [
        rest(f"{prefix}last_layer.0", "decoder.fuse"),
        rest(f"{prefix}last_layer.1", "decoder.norm"),
        rest(f"{prefix}last_layer.3", "decoder.classifier"),
    ]


def _pose(state: Mapping[str, Tensor], prefix: str, final: str) -> dict[str, Any]:
    joints, _, kernel_size, _ = state[f"{final}.weight"].shape
    return hrnet_backbone(state, prefix) | {
        "num_joints": joints,
        "kernel_size": kernel_size,
        "in_channels": state[f"{prefix}conv1.weight"].shape[1],
    }


CLASSIFICATION = "https://github.com/HRNet/HRNet-Image-Classification"
SEGMENTATION = "https://github.com/HRNet/HRNet-Semantic-Segmentation"
# their first code, whose models cannot be told from later ones by their keys
UNALIGNED = {"align_corners": False, "backbone": "hrnet_w18_small", "backbone_arguments": {"upsample": "bilinear"}}
LAYOUTS = (
    Layout(
        "hrnet/authors",
        "hrnet_w18",
        (
            *hrnet_rules(),
            *_block("incre_modules.{}.0", "head.increase.{}"),
            *neighbours("downsamp_modules.{}", "head.down.{}"),
            *neighbours("final_layer", "head.final"),
            rest("classifier", "classifier"),
        ),
        _authors_classifier,
        CLASSIFICATION,
        others=(
            "https://github.com/huggingface/pytorch-image-models",
            "https://github.com/open-mmlab/mmsegmentation",  # whose trunks are the authors' files without their heads
        ),
        goldens={"backbone/hrnetv2-cls-w18-small-v1": Golden({"out": "classify"})},
    ),
    Layout(
        "hrnet/mmpretrain",
        "hrnet_w18",
        (
            *hrnet_rules("backbone."),
            *_block("neck.0.increase_layers.{}.0", "head.increase.{}"),
            *conv_bn("neck.0.downsample_layers.{}", "head.down.{}"),
            *conv_bn("neck.0.final_layer", "head.final"),
            rest("head.fc", "classifier"),
        ),
        partial(_classifier, prefix="backbone.", classifier="head.fc.weight", head_bias=False),
        "https://github.com/open-mmlab/mmpretrain",
    ),
    Layout(
        "hrnetv2/authors",
        "hrnetv2_w18",
        (*hrnet_rules("", "backbone."), *_authors_head("")),
        partial(_segmenter, prefix="", fuse="last_layer.0", classifier="last_layer.3", upsample="aligned"),
        SEGMENTATION,
        goldens={
            "backbone/hrnetv2-seg-w18-small-v1": Golden({"out": "logits"}, UNALIGNED),
            "backbone/hrnetv2-seg-w18-small-v2": Golden({"out": "logits"}),
        },
    ),
    Layout(
        "hrnetv2/authors_trained",  # as their training writes them: the model beside its loss
        "hrnetv2_w18",
        (*hrnet_rules("model.", "backbone."), *_authors_head("model."), Rule("loss.{*}", None)),
        partial(
            _segmenter, prefix="model.", fuse="model.last_layer.0", classifier="model.last_layer.3", upsample="aligned"
        ),
        SEGMENTATION,
    ),
    Layout(
        "hrnetv2/mmseg",
        "fcn_hr18",
        (
            *hrnet_rules("backbone.", "backbone."),
            rest("decode_head.convs.0.conv", "decoder.fuse"),
            rest("decode_head.convs.0.bn", "decoder.norm"),
            rest("decode_head.conv_seg", "decoder.classifier"),
        ),
        partial(
            _segmenter,
            prefix="backbone.",
            fuse="decode_head.convs.0.conv",
            classifier="decode_head.conv_seg",
            upsample="bilinear",
        ),
        "https://github.com/open-mmlab/mmsegmentation",
    ),
    Layout(
        "hrnet_pose/authors",
        "hrnet_pose_w32",
        (*hrnet_rules("", "backbone."), rest("final_layer", "final")),
        partial(_pose, prefix="", final="final_layer"),
        "https://github.com/leoxiaobin/deep-high-resolution-net.pytorch",
        goldens={
            "backbone/hrnet-pose-narrow": Golden({"out": "heatmaps"}),
            "backbone/hrnet-pose-w32": Golden({"out": "heatmaps"}),
        },
    ),
    Layout(
        "hrnet_pose/mmpose",
        "hrnet_pose_w32",
        (*hrnet_rules("backbone.", "backbone."), rest("head.final_layer", "final")),
        partial(_pose, prefix="backbone.", final="head.final_layer"),
        "https://github.com/open-mmlab/mmpose",
    ),
)
