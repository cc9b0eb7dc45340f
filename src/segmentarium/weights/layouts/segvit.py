"""SegViT as its authors store it: mmsegmentation's ViT under "backbone.", their heads under "decode_head.".

Keys are those of two stored references.  Heads and taps are in no key: one head for each 32 channels of the decoder, and the
blocks of their configurations for ViT-B (5, 7, 11) and ViT-L (7, 15, 23; shrunk at 8, and 7, 23), for others in equal steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.layouts.vit import MMPRETRAIN_KEYS, mmseg_rules, vit_arguments
from segmentarium.weights.table import Golden, Layout, Output, Rule

HEAD = "decode_head"
STACKED = ("weight", "bias")


def _layer(theirs: str, ours: str, *, masks: bool) -> list[Rule]:
    """One layer of queries: PyTorch's decoder layer, or where it gives masks that with attention of their own."""
    their_cross, cross = f"{theirs}.multihead_attn", f"{ours}.cross_attention"
    rules: list[Rule] = []
    for kind in STACKED:
        rules.append(Rule(f"{theirs}.self_attn.in_proj_{kind}", f"{ours}.self_attention.qkv.{kind}"))
        if not masks:
            rules.append(Rule(f"{their_cross}.in_proj_{kind}", (f"{cross}.q.{kind}", f"{cross}.kv.{kind}")))
    if masks:
        rules += [rest(f"{their_cross}.q", f"{cross}.q"), rest(f"{their_cross}.proj", f"{cross}.proj")]
        rules.append(Rule((f"{their_cross}.k.{{*}}", f"{their_cross}.v.{{*}}"), f"{cross}.kv.{{*}}"))
    else:
        rules.append(rest(f"{their_cross}.out_proj", f"{cross}.proj"))
    return [
        *rules,
        rest(f"{theirs}.self_attn.out_proj", f"{ours}.self_attention.proj"),
        rest(f"{theirs}.linear1", f"{ours}.fc1"),
        rest(f"{theirs}.linear2", f"{ours}.fc2"),
        *(rest(f"{theirs}.norm{i}", f"{ours}.norm{i}") for i in (1, 2, 3)),
    ]


def _stages(count: int, *, masks: bool) -> list[Rule]:
    rules = []
    for i in range(count):
        ours = f"decoder.stages.{i}"
        rules += [
            rest(f"{HEAD}.input_proj_{i + 1}", f"{ours}.project"),
            rest(f"{HEAD}.proj_norm_{i + 1}", f"{ours}.norm"),
            *_layer(f"{HEAD}.decoder_{i + 1}.layers.{{}}", f"{ours}.layers.{{}}", masks=masks),
        ]
    return rules


def _count(state: Mapping[str, Tensor], key: str, first: int = 0) -> int:
    count = 0
    while key.format(count + first) in state:
        count += 1
    return count


def _arguments(state: Mapping[str, Tensor], *, shrunk: bool) -> dict[str, Any]:
    from segmentarium.backbones.vit import SIZES
    from segmentarium.semantic.segvit import BASE, LARGE, PLAIN, SHRUNK

    trunk = vit_arguments(state, **MMPRETRAIN_KEYS)
    channels, depth = trunk.pop("in_channels"), trunk["depth"]
    stages = _count(state, f"{HEAD}.input_proj_{{}}.weight", 1)
    size = next(
        (name for name in ("base", "large") if SIZES[name] == (trunk["embed_dim"], depth, trunk["heads"])), None
    )
    known = {("base", False): BASE, ("large", False): LARGE, ("large", True): SHRUNK}.get((size or "", shrunk))
    if known is not None:
        trunk = {**known, "image_size": trunk["image_size"]}
    elif shrunk:  # at a third of the blocks, as ViT-L
        trunk |= {**PLAIN, "shrink": depth // 3, "out_indices": (depth // 3 - 1, depth - 1)}
    else:
        trunk |= {**PLAIN, "out_indices": tuple(depth * (i + 1) // stages - 1 for i in range(stages))}
    width = state[f"{HEAD}.input_proj_1.weight"].shape[0]
    told: dict[str, Any] = {
        "num_classes": state[f"{HEAD}.atm.class_embed.weight" if shrunk else f"{HEAD}.class_embed.weight"].shape[0] - 1,
        "in_channels": channels,
        "backbone": f"vit_{size or ('large' if shrunk else 'base')}_patch16_384",
        "backbone_arguments": trunk,
        "width": width,
        "heads": max(width // 32, 1),
        "layers": _count(state, f"{HEAD}.decoder_1.layers.{{}}.norm1.weight"),
    }
    if shrunk:
        return told | {"grid": round(state[f"{HEAD}.q.weight"].shape[0] ** 0.5)}
    return told | {"stages": stages}


def _of(shrunk: bool) -> Callable[[Mapping[str, Tensor]], dict[str, Any]]:
    return lambda state: _arguments(state, shrunk=shrunk)


TRUNK = tuple(mmseg_rules("backbone.", "backbone."))
SOURCE = "https://github.com/zbwxp/SegVit"


def _golden(aux: int) -> Golden:
    outputs: dict[str, str | Output] = {
        "out/pred": Output("forward", exp=True),
        "out/pred_logits": "class_logits",
        "out/pred_masks": Output("logits", resized=True),
    }
    for i in range(aux):
        outputs |= {
            f"out/aux_outputs/{i}/pred_logits": f"class_logits_{i}",
            f"out/aux_outputs/{i}/pred_masks": f"masks_{i}",
        }
    # the class token, which no block sees, is a buffer of ours
    return Golden(outputs, {"heads": 6}, computed=("backbone.cls_token",))


LAYOUTS = (
    Layout(
        "segvit/authors",
        "segvit_vit_base",
        (
            *TRUNK,
            *_stages(3, masks=True),
            Rule(f"{HEAD}.q.weight", "decoder.class_tokens"),
            rest(f"{HEAD}.class_embed", "decoder.classify"),
        ),
        _of(shrunk=False),
        SOURCE,
        goldens={"transformer/segvit-atm": _golden(2)},
    ),
    Layout(
        "segvit_shrunk/authors",
        "segvit_shrunk_vit_large",
        (
            *TRUNK,
            *_stages(2, masks=False),
            Rule(f"{HEAD}.q.weight", "decoder.queries.table"),
            Rule(f"{HEAD}.atm.q.weight", "decoder.masks.class_tokens"),
            rest(f"{HEAD}.atm.class_embed", "decoder.masks.classify"),
            *_layer(f"{HEAD}.atm.decoder_1.layers.{{}}", "decoder.masks.layers.{}", masks=True),
        ),
        _of(shrunk=True),
        SOURCE,
        goldens={"transformer/segvit-shrunk": _golden(1)},
    ),
)
