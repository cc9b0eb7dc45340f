"""Mix Transformer and SegFormer as NVlabs, mmsegmentation, transformers and segmentation-models-pytorch (smp) store them.

The encoders' ImageNet files have the same keys without "backbone." and with a classifier; smp's are NVlabs'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.table import Golden, Keys, Layout, Rule, outputs_of

STAGES = range(4)


def _nvlabs_encoder(theirs: str, ours: str) -> list[Rule]:
    rules = []
    for i in STAGES:
        stage, block = f"{ours}stages.{i}", f"{ours}stages.{i}.blocks.{{}}"
        their_block = f"{theirs}block{i + 1}.{{}}"
        rules += [
            rest(f"{theirs}patch_embed{i + 1}", f"{stage}.embedding"),
            rest(f"{theirs}norm{i + 1}", f"{stage}.norm"),
            rest(f"{their_block}.norm1", f"{block}.norm1"),
            rest(f"{their_block}.norm2", f"{block}.norm2"),
            rest(f"{their_block}.attn.sr", f"{block}.attention.reduce"),
            rest(f"{their_block}.attn", f"{block}.attention"),
            rest(f"{their_block}.mlp.dwconv.dwconv", f"{block}.ffn.dwconv"),
            rest(f"{their_block}.mlp", f"{block}.ffn"),
        ]
    return rules


def _mmseg_encoder(theirs: str, ours: str) -> list[Rule]:
    rules = []
    for i in STAGES:
        stage, block = f"{ours}stages.{i}", f"{ours}stages.{i}.blocks.{{}}"
        their_stage, their_block = f"{theirs}layers.{i}", f"{theirs}layers.{i}.1.{{}}"
        rules += [
            rest(f"{their_stage}.0.projection", f"{stage}.embedding.proj"),
            rest(f"{their_stage}.0.norm", f"{stage}.embedding.norm"),
            rest(f"{their_stage}.2", f"{stage}.norm"),
            rest(f"{their_block}.norm1", f"{block}.norm1"),
            rest(f"{their_block}.norm2", f"{block}.norm2"),
        ]
        for kind in ("weight", "bias"):
            stack: Keys = (f"{block}.attention.q.{kind}", f"{block}.attention.kv.{kind}")
            rules += [Rule(f"{their_block}.attn.attn.in_proj_{kind}", stack)]
        rules += [
            rest(f"{their_block}.attn.attn.out_proj", f"{block}.attention.proj"),
            rest(f"{their_block}.attn.sr", f"{block}.attention.reduce"),
            rest(f"{their_block}.attn.norm", f"{block}.attention.norm"),
            rest(f"{their_block}.ffn.layers.1", f"{block}.ffn.dwconv"),
        ]
        for index, name in ((0, "fc1"), (4, "fc2")):  # 1×1 convolutions there
            layer = f"{their_block}.ffn.layers.{index}"
            rules += [
                Rule(f"{layer}.weight", f"{block}.ffn.{name}.weight", theirs_ndim=4),
                Rule(f"{layer}.bias", f"{block}.ffn.{name}.bias"),
            ]
    return rules


def _transformers_encoder(ours: str) -> list[Rule]:
    theirs = "segformer.encoder"
    their_block, block = f"{theirs}.block.{{}}.{{}}", f"{ours}stages.{{}}.blocks.{{}}"
    rules = [
        rest(f"{theirs}.patch_embeddings.{{}}.proj", f"{ours}stages.{{}}.embedding.proj"),
        rest(f"{theirs}.patch_embeddings.{{}}.layer_norm", f"{ours}stages.{{}}.embedding.norm"),
        rest(f"{theirs}.layer_norm.{{}}", f"{ours}stages.{{}}.norm"),
        rest(f"{their_block}.layer_norm_1", f"{block}.norm1"),
        rest(f"{their_block}.layer_norm_2", f"{block}.norm2"),
        rest(f"{their_block}.attention.self.query", f"{block}.attention.q"),
        rest(f"{their_block}.attention.self.sr", f"{block}.attention.reduce"),
        rest(f"{their_block}.attention.self.layer_norm", f"{block}.attention.norm"),
        rest(f"{their_block}.attention.output.dense", f"{block}.attention.proj"),
        rest(f"{their_block}.mlp.dense1", f"{block}.ffn.fc1"),
        rest(f"{their_block}.mlp.dwconv.dwconv", f"{block}.ffn.dwconv"),
        rest(f"{their_block}.mlp.dense2", f"{block}.ffn.fc2"),
    ]
    key, value = f"{their_block}.attention.self.key", f"{their_block}.attention.self.value"
    return [*rules, Rule((f"{key}.{{*}}", f"{value}.{{*}}"), f"{block}.attention.kv.{{*}}")]


def _nvlabs() -> list[Rule]:
    rules = _nvlabs_encoder("backbone.", "backbone.")
    rules += [rest(f"decode_head.linear_c{i + 1}.proj", f"decoder.project.{i}") for i in STAGES]
    return [
        *rules,
        rest("decode_head.linear_fuse.conv", "decoder.fuse"),
        rest("decode_head.linear_fuse.bn", "decoder.norm"),
        rest("decode_head.linear_pred", "decoder.classifier"),
        Rule("decode_head.conv_seg.{*}", None),  # made by their base class, never used
    ]


def _mmseg() -> list[Rule]:
    return [
        *_mmseg_encoder("backbone.", "backbone."),
        rest("decode_head.convs.{}.conv", "decoder.project.{}.conv"),
        rest("decode_head.convs.{}.bn", "decoder.project.{}.norm"),
        rest("decode_head.fusion_conv.conv", "decoder.fuse"),
        rest("decode_head.fusion_conv.bn", "decoder.norm"),
        rest("decode_head.conv_seg", "decoder.classifier"),
    ]


def _smp() -> list[Rule]:
    """Its levels count from the deepest on."""
    return [
        *_nvlabs_encoder("encoder.", "backbone."),
        *(rest(f"decoder.mlp_stage.{3 - i}.linear", f"decoder.project.{i}") for i in STAGES),
        rest("decoder.fuse_stage.0", "decoder.fuse"),
        rest("decoder.fuse_stage.1", "decoder.norm"),
        rest("segmentation_head.0", "decoder.classifier"),
    ]


def _transformers() -> list[Rule]:
    return [
        *_transformers_encoder("backbone."),
        rest("decode_head.linear_c.{}.proj", "decoder.project.{}"),
        rest("decode_head.linear_fuse", "decoder.fuse"),
        rest("decode_head.batch_norm", "decoder.norm"),
        rest("decode_head.classifier", "decoder.classifier"),
    ]


StageKeys = tuple[list[str], list[str]]  # where the four stages' patch convolutions are, and their blocks


def _size(state: Mapping[str, Tensor], keys: StageKeys) -> str:
    """ "b0" to "b5".

    The count of heads is in no shape, so that encoders other than the paper's cannot be told and are refused.
    """
    from segmentarium.backbones.mit import VARIANTS

    embeddings, blocks = keys
    dims = tuple(state[f"{key}.weight"].shape[0] for key in embeddings)
    depths = tuple(len({key[len(p) :].split(".")[0] for key in state if key.startswith(p)}) for p in blocks)
    for size, (known_dims, known_depths, _) in VARIANTS.items():
        if (dims, depths) == (known_dims, known_depths):
            return size
    raise ValueError(f"channels {dims} with {depths} blocks are no Mix Transformer of the paper (B0 to B5)")


def _encoder(
    name: str,
    rules: Sequence[Rule],
    keys: StageKeys,
    norm_eps: tuple[float, float],
    source: str,
    head: str = "head.weight",
    others: tuple[str, ...] = (),
) -> Layout:
    def arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
        from segmentarium.backbones.mit import VARIANTS

        embed_dims, depths, _ = VARIANTS[_size(state, keys)]
        in_channels = state[f"{keys[0][0]}.weight"].shape[1]
        return {
            "embed_dims": embed_dims,
            "depths": depths,
            "in_channels": in_channels,
            "norm_eps": norm_eps,
            "num_classes": outputs_of(state, head),
        }

    return Layout(name, "mit_b0", tuple(rules), arguments, source, others=others)


def _segmenter(
    name: str,
    rules: Sequence[Rule],
    keys: StageKeys,
    norm_eps: tuple[float, float],
    source: str,
    *,
    classifier: str,
    fuse: str,
    projection: str = "linear",
    goldens: Mapping[str, Golden] | None = None,
    **more: Any,
) -> Layout:
    """more: arguments that no key tells"""

    def arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "num_classes": state[f"{classifier}.weight"].shape[0],
            "in_channels": state[f"{keys[0][0]}.weight"].shape[1],
            "backbone": f"mit_{_size(state, keys)}",
            "backbone_arguments": {"norm_eps": norm_eps},
            "embed_dim": state[f"{fuse}.weight"].shape[0],
            "projection": projection,
            **more,
        }

    return Layout(name, "segformer_b0", tuple(rules), arguments, source, goldens=goldens or {})


def _within(prefix: str, keys: StageKeys) -> StageKeys:
    embeddings, blocks = ([f"{prefix}{key}" for key in part] for part in keys)
    return embeddings, blocks


# Epsilons of the layer norms: of blocks and stages, of embeddings and reduced keys
NVLABS_EPS, MMSEG_EPS, TRANSFORMERS_EPS = (1e-6, 1e-5), (1e-6, 1e-6), (1e-5, 1e-5)
NVLABS_SOURCE = "https://github.com/NVlabs/SegFormer"
MMSEG_SOURCE = "https://github.com/open-mmlab/mmsegmentation"
TRANSFORMERS_SOURCE = "https://github.com/huggingface/transformers"
NVLABS_KEYS = [f"patch_embed{i + 1}.proj" for i in STAGES], [f"block{i + 1}." for i in STAGES]
MMSEG_KEYS = [f"layers.{i}.0.projection" for i in STAGES], [f"layers.{i}.1." for i in STAGES]
TRANSFORMERS_KEYS = (
    [f"segformer.encoder.patch_embeddings.{i}.proj" for i in STAGES],
    [f"segformer.encoder.block.{i}." for i in STAGES],
)
OUTPUTS = {"out/low": "logits", "out/logits": "forward"}

LAYOUTS = (
    _segmenter(
        "segformer/nvlabs",
        _nvlabs(),
        _within("backbone.", NVLABS_KEYS),
        NVLABS_EPS,
        NVLABS_SOURCE,
        classifier="decode_head.linear_pred",
        fuse="decode_head.linear_fuse.conv",
        goldens={"transformer/segformer-b0-nvlabs": Golden(OUTPUTS, dropped=("decode_head.conv_seg.*",))},
    ),
    _segmenter(
        "segformer/mmseg",
        _mmseg(),
        _within("backbone.", MMSEG_KEYS),
        MMSEG_EPS,
        MMSEG_SOURCE,
        classifier="decode_head.conv_seg",
        fuse="decode_head.fusion_conv.conv",
        projection="conv",
        goldens={"transformer/segformer-b0-mmseg": Golden(OUTPUTS)},
    ),
    _segmenter(
        "segformer/transformers",
        _transformers(),
        TRANSFORMERS_KEYS,
        TRANSFORMERS_EPS,
        TRANSFORMERS_SOURCE,
        classifier="decode_head.classifier",
        fuse="decode_head.linear_fuse",
    ),
    _segmenter(
        "segformer/smp",
        _smp(),
        _within("encoder.", NVLABS_KEYS),
        NVLABS_EPS,
        "https://github.com/qubvel-org/segmentation_models.pytorch",
        classifier="segmentation_head.0",
        fuse="decoder.fuse_stage.0",
        align_corners=True,  # of the last upsampling
    ),
    _encoder(
        "mit/nvlabs",
        [*_nvlabs_encoder("", ""), Rule("head.{}", "classifier.{}")],
        NVLABS_KEYS,
        NVLABS_EPS,
        NVLABS_SOURCE,
        others=("https://github.com/qubvel-org/segmentation_models.pytorch",),
    ),
    _encoder("mit/mmseg", _mmseg_encoder("", ""), MMSEG_KEYS, MMSEG_EPS, MMSEG_SOURCE),
    _encoder(
        "mit/transformers",
        [*_transformers_encoder(""), Rule("classifier.{}", "classifier.{}")],
        TRANSFORMERS_KEYS,
        TRANSFORMERS_EPS,
        TRANSFORMERS_SOURCE,
        "classifier.weight",
    ),
)
