"""Backbones under MaskFormer and Mask2Former, as the authors (detectron2), transformers and the OpenMMLab packages store them.

A table here has lines for both families, ResNet and Swin; a file has keys of one.  The authors' ResNet rests on stored networks
and their Swin on Microsoft's, whose keys it has; transformers' rest on the package, those of mmdetection and mmsegmentation
on their code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.layouts.resnet import detectron2_conv, resnet_name, resnet_rules
from segmentarium.weights.layouts.swin import microsoft_rules, mmseg_rules, swin_arguments, transformers_rules
from segmentarium.weights.table import Rule

STAGES = range(4)
# of a published size: channels, blocks, window -> our name
SWINS = {
    (96, (2, 2, 6, 2), 7): "swin_t",
    (96, (2, 2, 18, 2), 7): "swin_s",
    (128, (2, 2, 18, 2), 12): "swin_b_384",
    (192, (2, 2, 18, 2), 12): "swin_l_384",
}
COCO = {133: 80, 80: 80}  # classes -> things, which are the first; no other number of classes tells


def things_of(num_classes: int) -> dict[str, Any]:
    """The argument, where the number of classes says it."""
    return {"things": COCO[num_classes]} if num_classes in COCO else {}


def _swin(found: dict[str, Any]) -> dict[str, Any]:
    """Of what `swin_arguments` reads, the arguments of a network on that Swin; all of these shift maps that one window covers."""
    channels = found.pop("in_channels")
    found.pop("num_classes")
    always = {"shift_all": True, "drop_path": 0.3}
    name = SWINS.get((found["embed_dim"], found["depths"], found["window"]))
    if name is not None and found["out_indices"] == tuple(STAGES):
        return {"backbone": name, "in_channels": channels, "backbone_arguments": always}
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}
    return {"backbone": "swin_t", "in_channels": channels, "backbone_arguments": {**lists, **always}}


def _resnet(
    state: Mapping[str, Tensor], blocks: str, first: int, third: str, stem: str, deep: str = ""
) -> dict[str, Any]:
    """Of a ResNet.

    blocks       prefix of a stage's blocks, {} for its number, which begins with `first`
    third        the third convolution of a block, below that prefix and "0."
    stem, deep   the first convolution, and the third one of a deep stem
    """
    prefixes = {blocks.format(first + i): f"layer{i + 1}." for i in STAGES}
    keys = {
        f"{ours}{key[len(p) :]}": value
        for p, ours in prefixes.items()
        for key, value in state.items()
        if key.startswith(p)
    }
    if f"{blocks.format(first)}0.{third}" in state:
        keys["layer1.0.conv3.weight"] = state[f"{blocks.format(first)}0.{third}"]
    if deep:
        keys[deep] = state[deep]
    found: dict[str, Any] = {
        "backbone": resnet_name(keys, deep_stem=deep or None),
        "in_channels": state[stem].shape[1],
    }
    if not deep and (width := state[stem].shape[0]) != 64:
        found["backbone_arguments"] = {"width": width}
    return found


# the authors ------------------------------------------------------------------------------------------------------------


def authors_rules(*, deep: bool = False) -> list[Rule]:
    """detectron2's ResNet, with one convolution as stem or, `deep`, with three, and the authors' Swin."""
    stems = [f"conv1_{i + 1}" for i in range(3)] if deep else ["conv1"]
    rules = []
    for theirs, ours in (
        *((f"stem.{name}", f"stem.{i}") for i, name in enumerate(stems)),
        *((f"res{i + 2}.{{}}.conv{{}}", f"layer{i + 1}.{{}}.conv{{}}") for i in STAGES),
        *((f"res{i + 2}.{{}}.shortcut", f"layer{i + 1}.{{}}.shortcut") for i in STAGES),
    ):
        rules += detectron2_conv(f"backbone.{theirs}", f"backbone.{ours}")
    return [*rules, *microsoft_rules("backbone.", "backbone.", dense=True)]


def authors_trunk(state: Mapping[str, Tensor], *, deep: bool = False) -> dict[str, Any]:
    if not deep and "backbone.patch_embed.proj.weight" in state:
        inner = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
        return _swin(swin_arguments(inner))
    stem = "backbone.stem.conv1_1.weight" if deep else "backbone.stem.conv1.weight"
    return _resnet(state, "backbone.res{}.", 2, "conv3.weight", stem, "backbone.stem.conv1_3.weight" if deep else "")


# transformers -----------------------------------------------------------------------------------------------------------

ENCODER = "model.pixel_level_module.encoder."


def transformers_trunk_rules(swin: str) -> list[Rule]:
    """Of files.  swin: where the Swin stands below the encoder: "" or "model." """
    block, ours = f"{ENCODER}encoder.stages.{{}}.layers.{{}}", "backbone.layer{}.{}"
    rules: list[Rule] = []
    for i in STAGES:
        theirs, mine = block.replace("{}", str(i), 1), ours.replace("{}", str(i + 1), 1)
        parts = [(f"{theirs}.layer.{k}", f"{mine}.conv{k + 1}") for k in range(3)]
        for part, own in (*parts, (f"{theirs}.shortcut", f"{mine}.shortcut")):
            rules += [rest(f"{part}.convolution", f"{own}.conv"), rest(f"{part}.normalization", f"{own}.norm")]
    stem = f"{ENCODER}embedder.embedder"
    rules += [
        rest(f"{stem}.convolution", "backbone.stem.0.conv"),
        rest(f"{stem}.normalization", "backbone.stem.0.norm"),
    ]
    rules += [rest(f"{ENCODER}hidden_states_norms.{i}", f"backbone.norms.{i}") for i in STAGES if swin]
    rules += [Rule(f"{ENCODER}{swin or 'swin.'}layernorm.{{}}", None)]  # of the deepest feature's classifier
    return [*rules, *transformers_rules(f"{ENCODER}{swin}", "backbone.", dense=True)]


def transformers_trunk(state: Mapping[str, Tensor], swin: str) -> dict[str, Any]:
    if f"{ENCODER}{swin}embeddings.patch_embeddings.projection.weight" in state:
        norm = f"{ENCODER}hidden_states_norms.{{}}"
        return _swin(
            swin_arguments(
                state if swin else _counted_from_zero(state),
                stage=f"{ENCODER}{swin}encoder.layers.{{}}.blocks",
                attention="attention.self",
                embedding=f"{ENCODER}{swin}embeddings.patch_embeddings.projection",
                norm=norm,
            )
        )
    stem = f"{ENCODER}embedder.embedder.convolution.weight"
    return _resnet(state, f"{ENCODER}encoder.stages.{{}}.layers.", 0, "layer.2.convolution.weight", stem)


def _counted_from_zero(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Its norms of features are called stage1 to stage4."""
    prefix = f"{ENCODER}hidden_states_norms."
    return dict(state) | {
        f"{prefix}{i}.weight": state[key] for i in STAGES if (key := f"{prefix}stage{i + 1}.weight") in state
    }


# OpenMMLab --------------------------------------------------------------------------------------------------------------


def openmmlab_rules() -> list[Rule]:
    return [*resnet_rules("backbone.", "backbone."), *mmseg_rules("backbone.", "backbone.")]


def openmmlab_trunk(state: Mapping[str, Tensor]) -> dict[str, Any]:
    if "backbone.patch_embed.projection.weight" in state:
        inner = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
        return _swin(swin_arguments(inner, "stages.{}.blocks", "attn.w_msa", "patch_embed.projection"))
    return _resnet(state, "backbone.layer{}.", 1, "conv3.weight", "backbone.conv1.weight")


# what the tables share --------------------------------------------------------------------------------------------------


def attention(theirs: str, ours: str) -> list[Rule]:
    """torch.nn.MultiheadAttention -> `layers.attention.MultiHeadAttention`."""
    stack = tuple(f"{ours}.{name}.{{}}" for name in ("query", "key", "value"))
    return [Rule(f"{theirs}.in_proj_{{}}", stack), rest(f"{theirs}.out_proj", f"{ours}.proj")]


def split_attention(theirs: str, ours: str, out: tuple[str, ...] = ("out_proj", "o_proj")) -> list[Rule]:
    """transformers' attention, whose projections stand apart; the last one's name depends on the version."""
    rules = [rest(f"{theirs}.{name[0]}_proj", f"{ours}.{name}") for name in ("query", "key", "value")]
    return [*rules, *(rest(f"{theirs}.{name}", f"{ours}.proj") for name in out)]
