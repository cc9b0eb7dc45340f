"""PSANet as the authors' semseg, mmsegmentation and TorchSeg store it.

TorchSeg's table rests on its code.  The keys of semseg's module and of mmsegmentation's head are those of stored references; the
rest of semseg's network is that of its PSPNet.  A checkpoint tells the entries of its mask, not its sides: of a mask that is not
square, give `mask_size`.  Whether it is compact, "collect" or "distribute" where there is one branch, and how much the map is
shrunk, no key tells: the published ones are as the defaults, TorchSeg's compact.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import (
    conv_bn,
    mmseg_on_other_backbones,
    mmseg_resnet_arguments,
    mmseg_resnet_segmenter,
    neighbours,
    rest,
)
from segmentarium.weights.layouts.pspnet import TORCHSEG, torchseg_arguments, torchseg_trunk
from segmentarium.weights.layouts.resnet import block_rules, resnet_name
from segmentarium.weights.table import Layout, Rule


def _branches(direction: str) -> dict[str, str]:
    """What theirs puts behind a name -> our branch.  With one branch nothing stands there, whichever it is."""
    return {"": "collect", "_p": "distribute"} if direction == "both" else {"": direction}


def mmseg_head(direction: str = "both", theirs: str = "decode_head.", ours: str = "decoder.") -> list[Rule]:
    rules = []
    for mark, branch in _branches(direction).items():
        mine = f"{ours}attention.{branch}"
        rules += [
            *conv_bn(f"{theirs}reduce{mark}", f"{mine}.reduce"),
            *conv_bn(f"{theirs}attention{mark}.0", f"{mine}.hidden"),
            rest(f"{theirs}attention{mark}.1", f"{mine}.mask"),
        ]
    return [
        *rules,
        *conv_bn(f"{theirs}proj", f"{ours}project"),
        *conv_bn(f"{theirs}bottleneck", f"{ours}bottleneck"),
        rest(f"{theirs}conv_seg", f"{ours}classifier"),
    ]


def semseg_module(direction: str = "both", theirs: str = "psa.", ours: str = "decoder.") -> list[Rule]:
    """The authors' module, without what classifies its result."""
    rules = []
    for mark, branch in _branches(direction).items():
        mine = f"{ours}attention.{branch}"
        rules += [
            *neighbours(f"{theirs}reduce{mark}", f"{mine}.reduce"),
            *neighbours(f"{theirs}attention{mark}", f"{mine}.hidden"),
            rest(f"{theirs}attention{mark}.3", f"{mine}.mask"),
        ]
    return rules + neighbours(f"{theirs}proj", f"{ours}project")


def _semseg() -> list[Rule]:
    rules = block_rules("", "backbone.")
    for i in range(3):
        rules += neighbours("layer0", f"backbone.stem.{i}", 3 * i)
    rules += semseg_module()
    rules += [*neighbours("cls", "decoder.bottleneck"), rest("cls.4", "decoder.classifier")]
    return rules + neighbours("aux", "auxiliary.aux.convs.0") + [rest("aux.4", "auxiliary.aux.classifier")]


def _mask(weight: Tensor) -> tuple[int, int]:
    side = isqrt(weight.shape[0])
    if side**2 != weight.shape[0]:
        raise ValueError(f"the mask has {weight.shape[0]} entries, which is no square; give mask_size=(height, width)")
    return side, side


def _semseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["cls.4.weight"].shape[0],
        "in_channels": state["layer0.0.weight"].shape[1],
        "backbone": resnet_name(state, deep_stem="layer0.6.weight"),
        "auxiliary": "aux.4.weight" in state,
        "mask_size": _mask(state["psa.attention.3.weight"]),
        "direction": "both" if "psa.attention_p.3.weight" in state else "collect",
        "decoder_channels": state["psa.reduce.0.weight"].shape[0],
    }


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return mmseg_resnet_arguments(state) | {
        "mask_size": _mask(state["decode_head.attention.1.weight"]),
        "direction": "both" if "decode_head.attention_p.1.weight" in state else "collect",
        "decoder_channels": state["decode_head.reduce.conv.weight"].shape[0],
    }


def _torchseg() -> list[Rule]:
    rules = []
    for branch in ("collect", "distribute"):
        theirs, mine = f"psa_layer.{branch}", f"decoder.attention.{branch}"
        rules += [
            *conv_bn(f"{theirs}_reduction", f"{mine}.reduce"),
            *conv_bn(f"{theirs}_attention.0", f"{mine}.hidden"),
            rest(f"{theirs}_attention.1.conv", f"{mine}.mask"),
        ]
    return [*rules, *conv_bn("psa_layer.proj", "decoder.project"), *torchseg_trunk("psa_layer")]


def _torchseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return torchseg_arguments(state, "psa_layer") | {
        "mask_size": _mask(state["psa_layer.collect_attention.1.conv.weight"]),
        "compact": True,
        "shrink": 1,
        "form": "torchseg",
    }


MMSEG = "psanet_resnet50"
LAYOUTS = (
    Layout("psanet/semseg", "psanet", tuple(_semseg()), _semseg_arguments, "https://github.com/hszhao/semseg"),
    Layout(
        "psanet/mmseg",
        MMSEG,
        mmseg_resnet_segmenter(mmseg_head()),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
    ),
    Layout("psanet/torchseg", "psanet", tuple(_torchseg()), _torchseg_arguments, TORCHSEG),
    *mmseg_on_other_backbones("psanet", MMSEG, mmseg_head(), _mmseg_arguments),
)
