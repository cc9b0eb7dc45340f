"""ECENet as its authors' port to MindSpore names its tensors, on mmsegmentation's Swin.

The head's keys are those of a stored reference, the backbone's are read in the port's code.  The one public file is a MindSpore
checkpoint: bring its tensors into a torch file under the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import conv_bn, neighbours, rest
from segmentarium.weights.layouts.swin import mmseg_rules, swin_arguments
from segmentarium.weights.table import Layout, Rule


def _pointwise(theirs: str, ours: str) -> list[Rule]:
    """A 1×1 convolution, linear here."""
    return [Rule(f"{theirs}.weight", f"{ours}.weight", theirs_ndim=4), Rule(f"{theirs}.bias", f"{ours}.bias")]


def reconstruction_rules(theirs: str, ours: str) -> list[Rule]:
    """Prefixes ending in a dot."""
    return [
        *neighbours(f"{theirs}primary", f"{ours}common"),
        *neighbours(f"{theirs}cheap", f"{ours}diverse"),
        rest(f"{theirs}layer_channel_slct", f"{ours}gate"),
        rest(f"{theirs}conv_out", f"{ours}join"),
    ]


def head_rules(theirs: str = "decode_head.", ours: str = "decoder.") -> list[Rule]:
    """Prefixes ending in a dot."""
    block, mine = f"{theirs}transfer.{{}}", f"{ours}attend.{{}}"
    ghost, doubling = f"{theirs}ghost_up_layers.{{}}.layers.{{}}", f"{ours}enlarge.{{}}.{{}}"
    update, renewed = f"{theirs}gated_tokens.{{}}", f"{ours}update.{{}}"
    names = {
        "dynamic_layer": "split",
        "input_layer": "input",
        "update_gate": "gate",
        "norm_in": "norm_gate",
        "norm_out": "norm_new",
        "fc_layer": "mix",
        "fc_norm": "norm",
    }
    return [
        *reconstruction_rules(f"{theirs}layer_slcts.{{}}.", f"{ours}reconstruct.{{}}."),
        rest(f"{theirs}norms", f"{ours}norms"),
        rest(f"{theirs}laterals", f"{ours}laterals"),
        rest(f"{theirs}learner", f"{ours}first_masks"),
        rest(f"{theirs}token_emb.{{}}.cls_learner", f"{ours}extract.{{}}.embed"),
        rest(f"{block}.norm_low", f"{mine}.norm_low"),
        rest(f"{block}.norm_high", f"{mine}.norm_high"),
        rest(f"{block}.cross_attn.q.depthwise_conv.conv", f"{mine}.query.0.conv"),
        rest(f"{block}.cross_attn.q.pointwise_conv.conv", f"{mine}.query.1.conv"),
        rest(f"{block}.cross_attn.kv", f"{mine}.kv"),
        *_pointwise(f"{block}.cross_attn.proj", f"{mine}.proj"),
        rest(f"{block}.norm_mlp", f"{mine}.norm_ffn"),
        *_pointwise(f"{block}.mlp.0", f"{mine}.ffn.fc1"),
        rest(f"{block}.mlp.1", f"{mine}.ffn.dwconv"),
        *_pointwise(f"{block}.mlp.4", f"{mine}.ffn.fc2"),
        *(rest(f"{update}.{name}", f"{renewed}.{our_name}") for name, our_name in names.items()),
        *conv_bn(f"{ghost}.primary", f"{doubling}.primary"),
        *conv_bn(f"{ghost}.cheap", f"{doubling}.cheap"),
        *conv_bn(f"{theirs}proj", f"{ours}fuse"),
        rest(f"{theirs}trans", f"{ours}answer"),
        rest(f"{theirs}conv_seg", f"{ours}classifier"),
    ]


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Whether queries are activated no key tells: they are, as in the port."""
    head, trunk = "decode_head.", "backbone."
    inner = {key.removeprefix(trunk): value for key, value in state.items() if key.startswith(trunk)}
    own = swin_arguments(inner, "stages.{}.blocks", "attn.w_msa", "patch_embed.projection") | {"shift_all": True}
    channels = own.pop("in_channels")
    own.pop("num_classes")
    classes, width, *_ = state[f"{head}conv_seg.weight"].shape
    side = round((state[f"{head}token_emb.0.cls_learner.weight"].shape[1] - 50) ** 0.5)
    return {
        "num_classes": classes,
        "width": width,
        "heads": width // state[f"{head}learner.0.weight"].shape[1],
        "ratio": 1.0 if side - int(classes**0.5) in (0, 1) else side / classes**0.5,
        "backbone": "swin_b_384",
        "in_channels": channels,
        "backbone_arguments": own,
    }


LAYOUTS = (
    Layout(
        "ecenet/authors",
        "ecenet_swin_base",
        (*mmseg_rules("backbone.", "backbone."), *head_rules()),
        _arguments,
        "https://gitee.com/mindspore/models",
    ),
)
