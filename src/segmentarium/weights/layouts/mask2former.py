"""Mask2Former as its authors, transformers, mmdetection and mmsegmentation store it.

What `maskformer.py` here says of versions holds of these files too; queries that the authors' earliest files call static are the
learned features.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.mask_trunks import (
    attention,
    authors_rules,
    authors_trunk,
    openmmlab_rules,
    openmmlab_trunk,
    split_attention,
    transformers_trunk,
    transformers_trunk_rules,
)
from segmentarium.weights.layouts.maskformer import (
    OPENMMLAB,
    UNUSED,
    authors_facts,
    conv_gn,
    count,
    either,
    feed_forward,
    golden,
    openmmlab_head,
    openmmlab_layer,
    openmmlab_sizes,
    read_sizes,
)
from segmentarium.weights.layouts.parts import neighbours, rest
from segmentarium.weights.table import Layout, Rule

LAYER, ENCODER = "decoder.layers.{}", "decoder.pixels.encoder.{}"
LEVELS = range(3)
OFFSETS = "self_attn.sampling_offsets.weight"


def _deformable(theirs: str, ours: str) -> list[Rule]:
    names = {
        "sampling_offsets": "offsets",
        "attention_weights": "weights",
        "value_proj": "value",
        "output_proj": "proj",
    }
    return [rest(f"{theirs}.{name}", f"{ours}.{own}") for name, own in names.items()]


# the authors ------------------------------------------------------------------------------------------------------------


def _authors_pixels(theirs: str) -> list[Rule]:
    layer = f"{theirs}.transformer.encoder.layers.{{}}"
    rules = [rule for i in LEVELS for rule in neighbours(f"{theirs}.input_proj.{i}", f"decoder.pixels.project.{i}")]
    for name, ours in (("adapter_1", "laterals.0"), ("layer_1", "outputs.0")):
        rules.append(Rule(f"{theirs}.{name}.weight", f"decoder.pixels.{ours}.conv.weight"))
        rules.append(rest(f"{theirs}.{name}.norm", f"decoder.pixels.{ours}.norm"))
    return [
        *rules,
        Rule(f"{theirs}.transformer.level_embed", "decoder.pixels.level"),
        *_deformable(f"{layer}.self_attn", f"{ENCODER}.attention"),
        *feed_forward(layer, f"{ENCODER}.feed_forward"),
        rest(f"{layer}.norm1", f"{ENCODER}.norm"),
        rest(f"{layer}.norm2", f"{ENCODER}.feed_forward.norm"),
        rest(f"{theirs}.mask_features", "decoder.pixels.fine"),
    ]


def _authors_rules() -> tuple[Rule, ...]:
    head = "sem_seg_head.predictor"
    crossing, own, feeding = (
        f"{head}.transformer_{name}_layers.{{}}" for name in ("cross_attention", "self_attention", "ffn")
    )
    return (
        *authors_rules(),
        *_authors_pixels("sem_seg_head.pixel_decoder"),
        *_authors_pixels("sem_seg_head"),
        *attention(f"{crossing}.multihead_attn", f"{LAYER}.cross_attention.attention"),
        *attention(f"{own}.self_attn", f"{LAYER}.self_attention.attention"),
        *feed_forward(feeding, f"{LAYER}.feed_forward"),
        rest(f"{crossing}.norm", f"{LAYER}.cross_attention.norm"),
        rest(f"{own}.norm", f"{LAYER}.self_attention.norm"),
        rest(f"{feeding}.norm", f"{LAYER}.feed_forward.norm"),
        rest(f"{head}.decoder_norm", "decoder.norm"),
        Rule(f"{head}.query_feat.weight", "decoder.features"),
        Rule(f"{head}.static_query.weight", "decoder.features"),
        Rule(f"{head}.query_embed.weight", "decoder.queries"),
        Rule(f"{head}.level_embed.weight", "decoder.level"),
        rest(f"{head}.class_embed", "decoder.head.classifier"),
        *(rest(f"{head}.mask_embed.layers.{i}", f"decoder.head.embed.{2 * i}") for i in range(3)),
        UNUSED,
    )


def _encoder(state: Mapping[str, Tensor], layers: str, attention: str, *inner: str) -> dict[str, Any]:
    """Of the pixel decoder, by its layers' prefix; below it: the key of the offsets, of four points in each of three levels, and
    that of a feed-forward network's inner weight, or what it is in another version."""
    return {
        "encoder_layers": count(state, layers),
        "heads": state[f"{layers}0.{attention}"].shape[0] // (len(LEVELS) * 4 * 2),
        "encoder_hidden": state[either(state, *(f"{layers}0.{key}" for key in inner))].shape[0],
    }


def _authors_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    head = "sem_seg_head.predictor."
    pixels = (
        "sem_seg_head.pixel_decoder." if "sem_seg_head.pixel_decoder.mask_features.weight" in state else "sem_seg_head."
    )
    return {
        **read_sizes(
            state,
            f"{head}class_embed.weight",
            f"{head}query_embed.weight",
            f"{pixels}mask_features.weight",
            f"{head}transformer_ffn_layers.",
            f"{head}transformer_ffn_layers.0.linear1.weight",
        ),
        **_encoder(state, f"{pixels}transformer.encoder.layers.", OFFSETS, "linear1.weight"),
        **authors_trunk(state),
    }


# transformers -----------------------------------------------------------------------------------------------------------


def _transformers_rules() -> tuple[Rule, ...]:
    pixels, module = "model.pixel_level_module.decoder", "model.transformer_module"
    encoder, layer = f"{pixels}.encoder.layers.{{}}", f"{module}.decoder.layers.{{}}"
    return (
        *transformers_trunk_rules(""),
        *(r for i in LEVELS for r in neighbours(f"{pixels}.input_projections.{i}", f"decoder.pixels.project.{i}")),
        *neighbours(f"{pixels}.adapter_1", "decoder.pixels.laterals.0"),
        *neighbours(f"{pixels}.layer_1", "decoder.pixels.outputs.0"),
        Rule(f"{pixels}.level_embed", "decoder.pixels.level"),
        *_deformable(f"{encoder}.self_attn", f"{ENCODER}.attention"),
        *feed_forward(encoder, f"{ENCODER}.feed_forward", "fc1", "fc2"),
        rest(f"{encoder}.self_attn_layer_norm", f"{ENCODER}.norm"),
        rest(f"{encoder}.final_layer_norm", f"{ENCODER}.feed_forward.norm"),
        rest(f"{pixels}.mask_projection", "decoder.pixels.fine"),
        *attention(f"{layer}.cross_attn", f"{LAYER}.cross_attention.attention"),
        *split_attention(f"{layer}.self_attn", f"{LAYER}.self_attention.attention"),
        *feed_forward(layer, f"{LAYER}.feed_forward", "fc1", "fc2"),
        rest(f"{layer}.cross_attn_layer_norm", f"{LAYER}.cross_attention.norm"),
        rest(f"{layer}.self_attn_layer_norm", f"{LAYER}.self_attention.norm"),
        rest(f"{layer}.final_layer_norm", f"{LAYER}.feed_forward.norm"),
        rest(f"{module}.decoder.layernorm", "decoder.norm"),
        Rule(f"{module}.queries_features.weight", "decoder.features"),
        Rule(f"{module}.queries_embedder.weight", "decoder.queries"),
        Rule(f"{module}.level_embed.weight", "decoder.level"),
        rest("class_predictor", "decoder.head.classifier"),
        *(
            rest(f"{module}.decoder.mask_predictor.mask_embedder.{i}.0", f"decoder.head.embed.{2 * i}")
            for i in range(3)
        ),
        UNUSED,
    )


def _transformers_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    pixels, layers = "model.pixel_level_module.decoder.", "model.transformer_module.decoder.layers."
    return {
        **read_sizes(
            state,
            "class_predictor.weight",
            "model.transformer_module.queries_embedder.weight",
            f"{pixels}mask_projection.weight",
            layers,
            f"{layers}0.fc1.weight",
        ),
        **_encoder(state, f"{pixels}encoder.layers.", OFFSETS, "fc1.weight"),
        **transformers_trunk(state, ""),
    }


# OpenMMLab --------------------------------------------------------------------------------------------------------------


def _openmmlab_rules(head: str) -> tuple[Rule, ...]:
    pixels = f"{head}.pixel_decoder"
    layer = f"{pixels}.encoder.layers.{{}}"
    return (
        *openmmlab_rules(),
        *conv_gn(f"{pixels}.input_convs.{{}}", "decoder.pixels.project.{}"),
        *conv_gn(f"{pixels}.lateral_convs.{{}}", "decoder.pixels.laterals.{}"),
        *conv_gn(f"{pixels}.output_convs.{{}}", "decoder.pixels.outputs.{}"),
        Rule(f"{pixels}.level_encoding.weight", "decoder.pixels.level"),
        *_deformable(f"{layer}.self_attn", f"{ENCODER}.attention"),
        *_deformable(f"{layer}.attentions.0", f"{ENCODER}.attention"),
        *feed_forward(f"{layer}.ffn.layers", f"{ENCODER}.feed_forward", "0.0", "1"),
        *feed_forward(f"{layer}.ffns.0.layers", f"{ENCODER}.feed_forward", "0.0", "1"),
        rest(f"{layer}.norms.0", f"{ENCODER}.norm"),
        rest(f"{layer}.norms.1", f"{ENCODER}.feed_forward.norm"),
        rest(f"{pixels}.mask_feature", "decoder.pixels.fine"),
        *openmmlab_layer(
            f"{head}.transformer_decoder.layers.{{}}",
            LAYER,
            {"cross_attn": "cross_attention", "self_attn": "self_attention", "ffn": "feed_forward"},
        ),
        rest(f"{head}.transformer_decoder.post_norm", "decoder.norm"),
        Rule(f"{head}.query_feat.weight", "decoder.features"),
        Rule(f"{head}.query_embed.weight", "decoder.queries"),
        Rule(f"{head}.level_embed.weight", "decoder.level"),
        *openmmlab_head(head),
    )


def _openmmlab_arguments(state: Mapping[str, Tensor], head: str) -> dict[str, Any]:
    layers = f"{head}.pixel_decoder.encoder.layers."
    offsets = either(state, f"{layers}0.{OFFSETS}", f"{layers}0.attentions.0.sampling_offsets.weight")
    inner = ("ffn.layers.0.0.weight", "ffns.0.layers.0.0.weight")
    encoder = _encoder(state, layers, offsets.removeprefix(f"{layers}0."), *inner)
    return {**openmmlab_sizes(state, head), **encoder, **openmmlab_trunk(state)}


MODEL = "mask2former_resnet50"
LAYOUTS = (
    Layout(
        "mask2former/authors",
        MODEL,
        _authors_rules(),
        _authors_arguments,
        "https://github.com/facebookresearch/Mask2Former",
        authors_facts,
        goldens={"transformer/mask2former-r50": golden(9)},
    ),
    Layout(
        "mask2former/transformers",
        MODEL,
        _transformers_rules(),
        _transformers_arguments,
        "https://github.com/huggingface/transformers",
    ),
    *(
        Layout(f"mask2former/{name}", MODEL, _openmmlab_rules(head), partial(_openmmlab_arguments, head=head), source)
        for name, head, source in OPENMMLAB
    ),
)
