"""Non-local and disentangled non-local heads as mmsegmentation stores them.

The heads' keys are those of stored references.  Whether products are scaled, the temperature, and whether a block with θ and φ is
a dot product, no key tells: the published ones are as the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.danet import linear_rules
from segmentarium.weights.layouts.parts import (
    conv_bn,
    mmseg_on_other_backbones,
    mmseg_resnet_arguments,
    mmseg_resnet_segmenter,
    rest,
)
from segmentarium.weights.table import Layout, Rule

NAMES = {"g.conv": "value", "theta.conv": "query", "phi.conv": "key"}


def block_rules(theirs: str, ours: str) -> list[Rule]:
    """mmcv's block, also the disentangled one's part of it, prefixes ending in a dot."""
    return [
        *linear_rules({f"{theirs}{key}": name for key, name in NAMES.items()}, ours),
        *linear_rules({f"{theirs}concat_project.conv": "pair"}, ours),
        *linear_rules({f"{theirs}conv_mask": "unary"}, ours),
        *conv_bn(f"{theirs}conv_out", f"{ours}project"),
    ]


def mmseg_head(block: str, theirs: str = "decode_head.", ours: str = "decoder.") -> list[Rule]:
    """Of the head whose block is called `block`: "nl_block", or "dnl_block" where it is disentangled."""
    return [
        *conv_bn(f"{theirs}convs.0", f"{ours}convs.0"),
        *block_rules(f"{theirs}{block}.", f"{ours}convs.1."),
        *conv_bn(f"{theirs}convs.1", f"{ours}convs.2"),
        *conv_bn(f"{theirs}conv_cat", f"{ours}concatenate"),
        rest(f"{theirs}conv_seg", f"{ours}classifier"),
    ]


def _arguments(block: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    inner, channels = state[f"decode_head.{block}.g.conv.weight"].shape[:2]
    return {**mmseg_resnet_arguments(state), "decoder_channels": channels, "reduction": channels // inner}


def _form_and_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """A dot product has the keys of the embedded form, which is the published one."""
    block = "decode_head.nl_block."
    form = "embedded_gaussian" if f"{block}theta.conv.weight" in state else "gaussian"
    if f"{block}concat_project.conv.weight" in state:
        form = "concatenation"
    return {**_arguments("nl_block", state), "form": form}


_dnl_arguments = partial(_arguments, "dnl_block")
SOURCE = "https://github.com/open-mmlab/mmsegmentation"
_NONLOCAL, _DNL = mmseg_head("nl_block"), mmseg_head("dnl_block")
LAYOUTS = (
    Layout("nonlocal/mmseg", "nonlocal", mmseg_resnet_segmenter(_NONLOCAL), _form_and_arguments, SOURCE),
    *mmseg_on_other_backbones("nonlocal", "nonlocal", _NONLOCAL, _form_and_arguments),
    Layout("dnlnet/mmseg", "dnlnet", mmseg_resnet_segmenter(_DNL), _dnl_arguments, SOURCE),
    *mmseg_on_other_backbones("dnlnet", "dnlnet", _DNL, _dnl_arguments),
)
