"""MaskFormer as its authors, transformers, mmdetection and mmsegmentation store it.

The authors' published files are of an earlier version of their code, whose pixel decoder stands one name higher; both are read,
and the later one is written.  mmdetection's and mmsegmentation's attention and feed-forward layers have the names of version 3,
or of version 2; both are read, and the former are written.  These two tables rest on their code, as no such file is at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.preprocessing import Preprocessing
from segmentarium.weights.layouts.mask_trunks import (
    attention,
    authors_rules,
    authors_trunk,
    openmmlab_rules,
    openmmlab_trunk,
    split_attention,
    things_of,
    transformers_trunk,
    transformers_trunk_rules,
)
from segmentarium.weights.layouts.parts import conv_bn, neighbours, rest
from segmentarium.weights.table import Golden, Layout, Rule

HALVES = ("self_attention", "cross_attention", "feed_forward")
LAYER, ENCODER = "decoder.layers.{}", "decoder.pixels.encoder.{}"
UNUSED = Rule("criterion.empty_weight", None)  # the weights of the classes in the loss


def feed_forward(theirs: str, ours: str, first: str = "linear1", second: str = "linear2") -> list[Rule]:
    return [rest(f"{theirs}.{first}", f"{ours}.mlp.fc1"), rest(f"{theirs}.{second}", f"{ours}.mlp.fc2")]


def count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many layers stand under a prefix that ends in a dot."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def either(state: Mapping[str, Tensor], *keys: str) -> str:
    """The key that is there; KeyError where none is."""
    for key in keys:
        if key in state:
            return key
    raise KeyError(keys[0])


def read_sizes(
    state: Mapping[str, Tensor], classes: str, queries: str, fine: str, layers: str, hidden: str
) -> dict[str, Any]:
    """By the keys of the class layer, the queries and the convolution of the fine map; prefixes of the decoder's layers, and of
    the inner weight of the first one's feed-forward network."""
    num_classes = state[classes].shape[0] - 1
    return {
        "num_classes": num_classes,
        **things_of(num_classes),
        "queries": state[queries].shape[0],
        "width": state[queries].shape[1],
        "mask_channels": state[fine].shape[0],
        "layers": count(state, layers),
        "hidden": state[hidden].shape[0],
    }


# the authors ------------------------------------------------------------------------------------------------------------


def _authors_pixels(theirs: str) -> list[Rule]:
    """detectron2's convolutions have their norm inside."""
    pairs = [(f"{theirs}.layer_4", "decoder.pixels.coarsest")]
    pairs += [(f"{theirs}.adapter_{i + 1}", f"decoder.pixels.laterals.{i}") for i in range(3)]
    pairs += [(f"{theirs}.layer_{i + 1}", f"decoder.pixels.outputs.{i}") for i in range(3)]
    rules = []
    for name, ours in pairs:
        rules += [Rule(f"{name}.weight", f"{ours}.conv.weight"), Rule(f"{name}.norm.{{}}", f"{ours}.norm.{{}}")]
    layer = f"{theirs}.transformer.encoder.layers.{{}}"
    return [
        *rules,
        rest(f"{theirs}.mask_features", "decoder.pixels.fine"),
        *attention(f"{layer}.self_attn", f"{ENCODER}.attention.attention"),
        *feed_forward(layer, f"{ENCODER}.feed_forward"),
        rest(f"{layer}.norm1", f"{ENCODER}.attention.norm"),
        rest(f"{layer}.norm2", f"{ENCODER}.feed_forward.norm"),
    ]


def _authors_rules(*, encoder: bool, deep: bool = False) -> tuple[Rule, ...]:
    """encoder: the projection to the transformer's width stands in the pixel decoder, else with the queries."""
    head, layer = "sem_seg_head.predictor", "sem_seg_head.predictor.transformer.decoder.layers.{}"
    project = [f"{head}.input_proj"]
    if encoder:
        project = ["sem_seg_head.pixel_decoder.input_proj", "sem_seg_head.input_proj"]
    return (
        *authors_rules(deep=deep),
        *(rest(name, "decoder.pixels.project") for name in project),
        *_authors_pixels("sem_seg_head.pixel_decoder"),
        *_authors_pixels("sem_seg_head"),
        *attention(f"{layer}.self_attn", f"{LAYER}.self_attention.attention"),
        *attention(f"{layer}.multihead_attn", f"{LAYER}.cross_attention.attention"),
        *feed_forward(layer, f"{LAYER}.feed_forward"),
        *(rest(f"{layer}.norm{i + 1}", f"{LAYER}.{half}.norm") for i, half in enumerate(HALVES)),
        rest(f"{head}.transformer.decoder.norm", "decoder.norm"),
        Rule(f"{head}.query_embed.weight", "decoder.queries"),
        rest(f"{head}.class_embed", "decoder.head.classifier"),
        *(rest(f"{head}.mask_embed.layers.{i}", f"decoder.head.embed.{2 * i}") for i in range(3)),
        UNUSED,
    )


def _authors_arguments(state: Mapping[str, Tensor], *, encoder: bool, deep: bool = False) -> dict[str, Any]:
    head = "sem_seg_head.predictor."
    pixels = (
        "sem_seg_head.pixel_decoder." if "sem_seg_head.pixel_decoder.mask_features.weight" in state else "sem_seg_head."
    )
    layers = f"{head}transformer.decoder.layers."
    found = read_sizes(
        state,
        f"{head}class_embed.weight",
        f"{head}query_embed.weight",
        f"{pixels}mask_features.weight",
        layers,
        f"{layers}0.linear1.weight",
    )
    if encoder:
        found["encoder_layers"] = count(state, f"{pixels}transformer.encoder.layers.")
    return {**found, **authors_trunk(state, deep=deep)}


# transformers -----------------------------------------------------------------------------------------------------------


def _transformers_rules() -> tuple[Rule, ...]:
    pixels, module = "model.pixel_level_module.decoder", "model.transformer_module"
    layer = f"{module}.decoder.layers.{{}}"
    norms = ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")
    rules = neighbours(f"{pixels}.fpn.stem", "decoder.pixels.coarsest")
    for i in range(3):  # coarsest first
        rules += neighbours(f"{pixels}.fpn.layers.{i}.proj", f"decoder.pixels.laterals.{2 - i}")
        rules += neighbours(f"{pixels}.fpn.layers.{i}.block", f"decoder.pixels.outputs.{2 - i}")
    return (
        *transformers_trunk_rules("model."),
        *rules,
        rest(f"{pixels}.mask_projection", "decoder.pixels.fine"),
        rest(f"{module}.input_projection", "decoder.pixels.project"),
        *split_attention(f"{layer}.self_attn", f"{LAYER}.self_attention.attention"),
        *split_attention(f"{layer}.encoder_attn", f"{LAYER}.cross_attention.attention"),
        *feed_forward(layer, f"{LAYER}.feed_forward", "fc1", "fc2"),
        *feed_forward(f"{layer}.mlp", f"{LAYER}.feed_forward", "fc1", "fc2"),  # version 5, in memory
        *(rest(f"{layer}.{norm}", f"{LAYER}.{half}.norm") for norm, half in zip(norms, HALVES, strict=True)),
        rest(f"{module}.decoder.layernorm", "decoder.norm"),
        Rule(f"{module}.queries_embedder.weight", "decoder.queries"),
        rest("class_predictor", "decoder.head.classifier"),
        *(rest(f"mask_embedder.{i}.0", f"decoder.head.embed.{2 * i}") for i in range(3)),
        UNUSED,
    )


def _transformers_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    layers = "model.transformer_module.decoder.layers."
    hidden = either(state, f"{layers}0.fc1.weight", f"{layers}0.mlp.fc1.weight")
    return {
        **read_sizes(
            state,
            "class_predictor.weight",
            "model.transformer_module.queries_embedder.weight",
            "model.pixel_level_module.decoder.mask_projection.weight",
            layers,
            hidden,
        ),
        **transformers_trunk(state, "model."),
    }


# OpenMMLab --------------------------------------------------------------------------------------------------------------


def openmmlab_layer(theirs: str, ours: str, halves: dict[str, str]) -> list[Rule]:
    """A transformer layer.  halves: theirs of version 3 -> ours, in the order in which they run."""
    rules, attentions = [], 0
    for i, (name, half) in enumerate(halves.items()):
        rules.append(rest(f"{theirs}.norms.{i}", f"{ours}.{half}.norm"))
        if name == "ffn":
            rules += feed_forward(f"{theirs}.ffn.layers", f"{ours}.{half}", "0.0", "1")
            rules += feed_forward(f"{theirs}.ffns.0.layers", f"{ours}.{half}", "0.0", "1")
        else:
            rules += attention(f"{theirs}.{name}.attn", f"{ours}.{half}.attention")
            rules += attention(f"{theirs}.attentions.{attentions}.attn", f"{ours}.{half}.attention")
            attentions += 1
    return rules


def conv_gn(theirs: str, ours: str) -> list[Rule]:
    """mmcv's ConvModule with group norm."""
    return [conv_bn(theirs, ours)[0], rest(f"{theirs}.gn", f"{ours}.norm")]


def _openmmlab_rules(head: str, *, encoder: bool) -> tuple[Rule, ...]:
    pixels = f"{head}.pixel_decoder"
    rules = conv_gn(f"{pixels}.{'encoder_out_proj' if encoder else 'last_feat_conv'}", "decoder.pixels.coarsest")
    return (
        *openmmlab_rules(),
        *rules,
        rest(f"{pixels}.encoder_in_proj" if encoder else f"{head}.decoder_input_proj", "decoder.pixels.project"),
        *conv_gn(f"{pixels}.lateral_convs.{{}}", "decoder.pixels.laterals.{}"),
        *conv_gn(f"{pixels}.output_convs.{{}}", "decoder.pixels.outputs.{}"),
        rest(f"{pixels}.mask_feature", "decoder.pixels.fine"),
        *openmmlab_layer(f"{pixels}.encoder.layers.{{}}", ENCODER, {"self_attn": "attention", "ffn": "feed_forward"}),
        *openmmlab_layer(
            f"{head}.transformer_decoder.layers.{{}}",
            LAYER,
            {"self_attn": "self_attention", "cross_attn": "cross_attention", "ffn": "feed_forward"},
        ),
        rest(f"{head}.transformer_decoder.post_norm", "decoder.norm"),
        Rule(f"{head}.query_embed.weight", "decoder.queries"),
        *openmmlab_head(head),
    )


def openmmlab_head(head: str) -> list[Rule]:
    """Classes and masks."""
    masks = [rest(f"{head}.mask_embed.{2 * i}", f"decoder.head.embed.{2 * i}") for i in range(3)]
    return [rest(f"{head}.cls_embed", "decoder.head.classifier"), *masks]


def openmmlab_sizes(state: Mapping[str, Tensor], head: str) -> dict[str, Any]:
    layers = f"{head}.transformer_decoder.layers."
    hidden = either(state, f"{layers}0.ffn.layers.0.0.weight", f"{layers}0.ffns.0.layers.0.0.weight")
    return read_sizes(
        state,
        f"{head}.cls_embed.weight",
        f"{head}.query_embed.weight",
        f"{head}.pixel_decoder.mask_feature.weight",
        layers,
        hidden,
    )


def _openmmlab_arguments(state: Mapping[str, Tensor], head: str, *, encoder: bool) -> dict[str, Any]:
    found = openmmlab_sizes(state, head)
    if encoder:
        found["encoder_layers"] = count(state, f"{head}.pixel_decoder.encoder.layers.")
    return {**found, **openmmlab_trunk(state)}


FPN, ENCODED = "maskformer_resnet50", "maskformer_resnet50_enc6"
AUTHORS = "https://github.com/facebookresearch/MaskFormer"
OPENMMLAB = (
    ("mmdet", "panoptic_head", "https://github.com/open-mmlab/mmdetection"),
    ("mmseg", "decode_head", "https://github.com/open-mmlab/mmsegmentation"),
)


def authors_facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Of both zoos."""
    return {"preprocessing": Preprocessing().as_dict(), "licences": {"weights": "CC-BY-NC-4.0"}}


def golden(earlier: int) -> Golden:
    """A stored network of theirs, with a ResNet whose norms are constants, and so many supervised layers before the last."""
    outputs = {"out/pred_logits": "class_logits", "out/pred_masks": "mask_logits", "out/sem_seg": "forward"}
    for i in range(earlier):
        outputs[f"out/aux_outputs/{i}/pred_logits"] = f"class_logits_{i}"
        outputs[f"out/aux_outputs/{i}/pred_masks"] = f"mask_logits_{i}"
    constant = "criterion.empty_weight"
    return Golden(outputs, dropped=(constant,), frozen=("backbone.*.norm.*", constant))


LAYOUTS = (
    Layout(
        "maskformer/authors",
        FPN,
        _authors_rules(encoder=False),
        partial(_authors_arguments, encoder=False),
        AUTHORS,
        authors_facts,
        goldens={"transformer/maskformer-r50": golden(5)},
    ),
    Layout(
        "maskformer/authors_r101c",
        "maskformer_resnet101_v1s",
        _authors_rules(encoder=False, deep=True),
        partial(_authors_arguments, encoder=False, deep=True),
        AUTHORS,
        authors_facts,
    ),
    Layout(
        "maskformer/authors_encoder",
        ENCODED,
        _authors_rules(encoder=True),
        partial(_authors_arguments, encoder=True),
        AUTHORS,
        authors_facts,
    ),
    Layout(
        "maskformer/transformers",
        FPN,
        _transformers_rules(),
        _transformers_arguments,
        "https://github.com/huggingface/transformers",
    ),
    *(
        Layout(
            f"maskformer/{name}{'_encoder' if encoder else ''}",
            ENCODED if encoder else FPN,
            _openmmlab_rules(head, encoder=encoder),
            partial(_openmmlab_arguments, head=head, encoder=encoder),
            source,
        )
        for name, head, source in OPENMMLAB
        for encoder in (False, True)
    ),
)
