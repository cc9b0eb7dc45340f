"""SegNeXt as its authors and mmsegmentation store it.

The authors' keys are those of a stored reference; mmsegmentation's code has one name less in MSCAN's feed-forward network and
the same names in the decoder.  How many words the factorisation has is in no key: 16 where it is 256 wide, 64 where it is wider,
as both configure it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.weights.layouts.mscan import mscan_arguments, mscan_rules
from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.table import Golden, Layout, Rule


def _conv_gn(theirs: str, ours: str) -> list[Rule]:
    """mmcv's ConvModule with group norm."""
    return [rest(f"{theirs}.conv", f"{ours}.conv"), rest(f"{theirs}.gn", f"{ours}.norm")]


def _rules(dwconv: str) -> tuple[Rule, ...]:
    head, ours = "decode_head", "decoder"
    return (
        *mscan_rules("backbone.", "backbone.", dwconv=dwconv),
        *_conv_gn(f"{head}.squeeze", f"{ours}.squeeze"),
        rest(f"{head}.hamburger.ham_in.conv", f"{ours}.hamburger.project_in"),
        *_conv_gn(f"{head}.hamburger.ham_out", f"{ours}.hamburger.project_out"),
        *_conv_gn(f"{head}.align", f"{ours}.align"),
        rest(f"{head}.conv_seg", f"{ours}.classifier"),
    )


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    from segmentarium.backbones.mscan import VARIANTS

    trunk = mscan_arguments(state, "backbone.")
    width, filters = state["decode_head.squeeze.conv.weight"].shape[:2]
    known = {(dims, depths): size for size, (dims, depths, *_) in VARIANTS.items()}
    size = known.get((trunk["embed_dims"], trunk["depths"]))
    levels = next((n for n in (3, 4, 2, 1) if sum(trunk["embed_dims"][-n:]) == filters), None)
    if levels is None:
        raise ValueError(f"{filters} channels before the Hamburger are those of no features of {trunk['embed_dims']}")
    return {
        "num_classes": state["decode_head.conv_seg.weight"].shape[0],
        "in_channels": state["backbone.patch_embed1.proj.0.weight"].shape[1],
        "backbone": f"mscan_{size or 't'}",
        "width": width,
        "rank": 16 if width <= 256 else 64,
        **({} if levels == 3 else {"levels": levels}),
        **({} if size else {"backbone_arguments": trunk}),
    }


def _words(model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """The reference was run with words of its own in place of those that it draws."""
    (words,) = inputs["bases"]
    model.get_buffer("decoder.hamburger.start").copy_(F.normalize(words.abs(), dim=0))


LAYOUTS = (
    Layout(
        "segnext/authors",
        "segnext_t",
        _rules("dwconv.dwconv"),
        _arguments,
        "https://github.com/Visual-Attention-Network/SegNeXt",
        goldens={
            "transformer/segnext-tiny": Golden({"out/low": "logits", "out/logits": "forward"}, prepare=_words),
        },
    ),
    Layout("segnext/mmseg", "segnext_t", _rules("dwconv"), _arguments, "https://github.com/open-mmlab/mmsegmentation"),
)
