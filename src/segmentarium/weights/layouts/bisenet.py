"""BiSeNet as its authors' TorchSeg, CoinCheung and mmsegmentation store it; `context_rules` serves STDC's table too.

mmsegmentation's was compared with its own networks of random weights, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import conv_bn
from segmentarium.weights.layouts.resnet import resnet_name, resnet_rules
from segmentarium.weights.layouts.xception import xception39_rules
from segmentarium.weights.table import Golden, Layout, Output, Rule


def context_rules(theirs: str, ours: str) -> list[Rule]:
    """CoinCheung's context path without its backbone, prefixes ending in a dot."""
    rules = conv_bn(f"{theirs}conv_avg", f"{ours}average")
    for stride in (16, 32):
        attention, mine = f"{theirs}arm{stride}", f"{ours}attention{stride}"
        rules += [
            *conv_bn(f"{attention}.conv", f"{mine}.conv"),
            Rule(f"{attention}.conv_atten.weight", f"{mine}.attention.conv.weight"),
            Rule(f"{attention}.bn_atten.{{}}", f"{mine}.attention.norm.{{}}"),
            *conv_bn(f"{theirs}conv_head{stride}", f"{ours}refine{stride}"),
        ]
    return rules


def head_rules() -> list[Rule]:
    """CoinCheung's heads; theirs are called by the stage that their feature comes from."""
    rules: list[Rule] = []
    for theirs, ours in (
        ("conv_out", "head"),
        ("conv_out16", "auxiliary.aux_8"),
        ("conv_out32", "auxiliary.aux_16"),
    ):
        rules += [*conv_bn(f"{theirs}.conv", f"{ours}.0"), Rule(f"{theirs}.conv_out.{{}}", f"{ours}.1.{{}}")]
    return rules


def _coincheung() -> list[Rule]:
    rules = resnet_rules("cp.resnet.", "backbone.") + context_rules("cp.", "context.")
    for index, name in enumerate(("conv1", "conv2", "conv3", "conv_out")):
        rules += conv_bn(f"sp.{name}", f"spatial.{index}")
    rules += conv_bn("ffm.convblk", "fusion.mix")
    rules += [
        Rule("ffm.conv.weight", "fusion.attention.0.conv.weight"),
        Rule("ffm.bn.{}", "fusion.attention.0.norm.{}"),
    ]
    return rules + head_rules()


def _torchseg() -> list[Rule]:
    rules = resnet_rules("context_path.", "backbone.") + xception39_rules("context_path.", "backbone.")
    for index, name in enumerate(("conv_7x7", "conv_3x3_1", "conv_3x3_2", "conv_1x1")):
        rules += conv_bn(f"spatial_path.{name}", f"spatial.{index}")
    rules += conv_bn("global_context.1", "context.average")
    for index, stride in enumerate((32, 16)):
        rules += conv_bn(f"arms.{index}.conv_3x3", f"context.attention{stride}.conv")
        rules += conv_bn(f"arms.{index}.channel_attention.1", f"context.attention{stride}.attention")
        rules += conv_bn(f"refines.{index}", f"context.refine{stride}")
    rules += conv_bn("ffm.conv_1x1", "fusion.mix")
    for index in (0, 1):
        rules += [Rule(f"ffm.channel_attention.{index + 1}.conv.weight", f"fusion.attention.{index}.conv.weight")]
    for index, ours in enumerate(("auxiliary.aux_16", "auxiliary.aux_8", "head")):
        rules += conv_bn(f"heads.{index}.conv_3x3", f"{ours}.0")
        rules += [Rule(f"heads.{index}.conv_1x1.{{}}", f"{ours}.1.{{}}")]
    return rules


def mmseg_refinement(theirs: str, ours: str) -> list[Rule]:
    return [
        *conv_bn(f"{theirs}.conv_layer", f"{ours}.conv"),
        *conv_bn(f"{theirs}.atten_conv_layer.1", f"{ours}.attention"),
    ]


def mmseg_heads() -> list[Rule]:
    """Its FCN heads: the main one, and those of the context path at 1/8 and 1/16."""
    rules: list[Rule] = []
    for theirs, ours in (
        ("decode_head", "head"),
        ("auxiliary_head.0", "auxiliary.aux_8"),
        ("auxiliary_head.1", "auxiliary.aux_16"),
    ):
        rules += [*conv_bn(f"{theirs}.convs.0", f"{ours}.0"), Rule(f"{theirs}.conv_seg.{{}}", f"{ours}.1.{{}}")]
    return rules


def _mmseg() -> list[Rule]:
    context, mine = "backbone.context_path", "context"
    rules = resnet_rules(f"{context}.backbone.", "backbone.")
    for index in range(4):
        rules += conv_bn(f"backbone.spatial_path.layer{index + 1}", f"spatial.{index}")
    rules += conv_bn(f"{context}.gap_conv.1", f"{mine}.average")
    for stride in (16, 32):
        rules += mmseg_refinement(f"{context}.arm{stride}", f"{mine}.attention{stride}")
        rules += conv_bn(f"{context}.conv_head{stride}", f"{mine}.refine{stride}")
    rules += conv_bn("backbone.ffm.conv1", "fusion.mix") + conv_bn("backbone.ffm.conv_atten.0", "fusion.attention.0")
    return rules + mmseg_heads()


def _auxiliary(state: Mapping[str, Tensor], key: str) -> int | None:
    return state[key].shape[0] if key in state else None


def _coincheung_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["conv_out.conv_out.weight"].shape[0],
        "in_channels": state["sp.conv1.conv.weight"].shape[1],
        "backbone": resnet_name(state, "cp.resnet."),
        "upsample": "nearest",
        "fusion": "norm",
        "align_corners": False,
        "head_channels": state["conv_out.conv.conv.weight"].shape[0],
        "auxiliary_channels": _auxiliary(state, "conv_out16.conv.conv.weight"),
        "hard_pixels": True,
    }


def _torchseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    small = "context_path.conv1.conv.weight" in state
    auxiliary = _auxiliary(state, "heads.0.conv_3x3.conv.weight")
    return {
        "num_classes": state["heads.2.conv_1x1.weight"].shape[0],
        "in_channels": state["spatial_path.conv_7x7.conv.weight"].shape[1],
        "backbone": "xception39" if small else resnet_name(state, "context_path."),
        "auxiliary_channels": auxiliary,
        "hard_pixels": auxiliary == 128,  # Xception-39 and the speed variants
    }


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    first = state["backbone.spatial_path.layer1.conv.weight"]
    return {
        "num_classes": state["decode_head.conv_seg.weight"].shape[0],
        "in_channels": first.shape[1],
        "width": first.shape[0],
        "backbone": resnet_name(state, "backbone.context_path.backbone."),
        "upsample": "nearest",
        "fusion": "norm_relu",
        "align_corners": False,
        "head_channels": state["decode_head.convs.0.conv.weight"].shape[0],
        "auxiliary_channels": _auxiliary(state, "auxiliary_head.0.convs.0.conv.weight"),
    }


TORCHSEG_OUTPUTS = {
    "out/returned": Output("forward", log=True),
    "out/aux0": Output("aux_16", resized=True),
    "out/aux1": Output("aux_8", resized=True),
}
LAYOUTS = (
    Layout(
        "bisenet/torchseg",
        "bisenet_resnet18",
        tuple(_torchseg()),
        _torchseg_arguments,
        "https://github.com/ycszen/TorchSeg",
        goldens={
            "realtime/bisenetv1-r18-torchseg": Golden(TORCHSEG_OUTPUTS),
            # the speed variants stay at 1/8
            "realtime/bisenetv1-r18speed-torchseg": Golden(
                {**TORCHSEG_OUTPUTS, "out/returned": Output("logits", log=True)}
            ),
            "realtime/bisenetv1-x39-torchseg": Golden(TORCHSEG_OUTPUTS),
        },
    ),
    Layout(
        "bisenet/coincheung",
        "bisenet_resnet18",
        tuple(_coincheung()),
        _coincheung_arguments,
        "https://github.com/CoinCheung/BiSeNet",
        goldens={
            "realtime/bisenetv1-r18-coincheung": Golden(
                {
                    "out/0": "forward",
                    "out/1": Output("aux_8", resized=True),
                    "out/2": Output("aux_16", resized=True),
                }
            )
        },
    ),
    Layout(
        "bisenet/mmseg",
        "bisenet_resnet18",
        tuple(_mmseg()),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
    ),
)
