"""DALL-E's dVAE: OpenAI's encoder and decoder, which are two files with the same keys, and FLAVA's codebook of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.table import Layout, Rule


def _rules(part: str, group: str = "", branch: str = "", kinds: tuple[str, str] = ("w", "b")) -> tuple[Rule, ...]:
    """part: "encoder" or "decoder"; group, branch: what theirs has between a group and its blocks, a branch and its layers"""
    theirs, ours = f"blocks.group_{{}}.{group}block_{{}}", f"{part}.groups.{{}}.{{}}"
    names = {
        "blocks.input": f"{part}.stem",
        f"{theirs}.id_path": f"{ours}.shortcut",
        f"{theirs}.res_path.{branch}conv_{{}}": f"{ours}.convs.{{}}",
        "blocks.output.conv": f"{part}.output",
    }
    return tuple(
        Rule(f"{name}.{kind}", f"{mine}.{own}")
        for name, mine in names.items()
        for kind, own in zip(kinds, ("weight", "bias"), strict=True)
    )


def _arguments(state: Mapping[str, Tensor], encoder: bool, group: str = "", kind: str = "w") -> dict[str, Any]:
    first, last = state[f"blocks.input.{kind}"], state[f"blocks.output.conv.{kind}"]
    if (first.shape[-1] > 1) != encoder:
        raise ValueError(
            f"the first kernel is {first.shape[-1]} wide; an encoder's is wider than 1, a decoder's is not"
        )
    start = f"blocks.group_1.{group}block_"
    blocks = {key[len(start) :].partition(".")[0] for key in state if key.startswith(start)}
    if encoder:
        own = {"width": first.shape[0], "vocabulary": last.shape[0], "in_channels": first.shape[1]}
    else:
        own = {"width": last.shape[1], "vocabulary": first.shape[1], "in_channels": last.shape[0] // 2}
        own["start"] = first.shape[0]
    return own | {"blocks": len(blocks)}


OPENAI, KINDS = "https://github.com/openai/DALL-E", ("weight", "bias")
LAYOUTS = (
    Layout("dvae/encoder", "dvae_encoder", _rules("encoder"), partial(_arguments, encoder=True), OPENAI),
    Layout("dvae/decoder", "dvae_decoder", _rules("decoder"), partial(_arguments, encoder=False), OPENAI),
    Layout(
        "dvae/flava",
        "dvae_encoder",
        _rules("encoder", "group.", "path.", KINDS),
        partial(_arguments, encoder=True, group="group.", kind="weight"),
        "https://github.com/huggingface/transformers",
    ),
)
