"""DPT live against transformers and segmentation_models_pytorch, and the hybrid's filters in both of their forms."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segmentarium.meta import on_meta
from segmentarium.registry import create_model, entry
from segmentarium.weights import export_layout, load
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.source import open_weights
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, example, exercised, golden_state, randomise, relative_error


@torch.inference_mode()
def test_todays_timm_standardises_filters_otherwise(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "transformer/dpt-hybrid-ade")
    layout = get_layout("dpt/authors")
    arguments = layout.arguments(state)
    arguments["backbone_arguments"] = {**arguments["backbone_arguments"], "filter_eps": (1e-8, 0.0)}
    model = create_model(layout.model, **arguments).eval()
    load_state(model, state, rules=layout.rules)
    output = model(example(golden, description, "image"))
    assert relative_error(output, torch.from_numpy(arrays["out/logits_timm1"])) <= TOLERANCE
    assert relative_error(output, torch.from_numpy(arrays["out/logits"])) > TOLERANCE


def reversed_table(ours: Any, state: dict[str, Tensor], name: str) -> None:
    """The table read backwards gives what it was made of."""
    layout = get_layout(name)
    assert recognise(state) is layout
    back = export_layout(ours, name)
    _, dropped = set(back), state.keys() - back.keys()
    assert all(any(part in key for part in ("layernorm", "residual_layer1", "encoder.model.")) for key in dropped)
    assert all(torch.equal(back[key], state[key]) for key in back)


@pytest.mark.parametrize("readout", ["project", "add", "ignore"])
def test_equals_transformers(tmp_path: Path, readout: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.DPTConfig(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=1,
        intermediate_size=256,
        image_size=96,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 16, 32, 64],
        fusion_hidden_size=16,
        readout_type=readout,
        use_batch_norm_in_fusion_residual=True,
        num_labels=5,
    )
    torch.manual_seed(0)
    theirs = randomise(exercised(transformers.DPTForSemanticSegmentation(config)))
    theirs.save_pretrained(tmp_path)  # the keys of files, which newer versions rename in memory
    stored = open_weights(tmp_path / "model.safetensors")
    ours = create_model(stored.entry.name, **{**stored.arguments, "readout": readout}).eval()
    assert stored.layout is not None
    load_state(ours, stored.state, rules=stored.layout.rules)
    reversed_table(ours, dict(stored.state), "dpt/transformers")
    image = torch.randn(2, 3, 64, 64)  # they take squares, of whole patches twice over
    with torch.inference_mode():
        assert relative_error(ours(image), theirs(image).logits) <= TOLERANCE
        if readout == "project":
            assert torch.equal(load(tmp_path / "model.safetensors")(image), ours(image))


@pytest.mark.parametrize("readout", ["cat", "ignore"])
def test_equals_segmentation_models_pytorch(readout: str) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs: nn.Module = smp.DPT(
        "tu-vit_tiny_patch16_224",
        encoder_weights=None,
        decoder_readout=readout,
        decoder_intermediate_channels=(8, 8, 16, 32),
        decoder_fusion_channels=16,
        encoder_output_indices=[2, 5, 8, 11],
        classes=4,
        dynamic_img_size=True,
    )
    randomise(exercised(theirs))
    state = theirs.state_dict()
    layout = get_layout("dpt/smp")
    arguments = layout.arguments(state)
    ours = create_model(layout.model, **arguments).eval()
    load_state(ours, state, rules=layout.rules)
    assert arguments["readout"] == {"cat": "project"}.get(readout, readout)
    image = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        assert relative_error(ours(image), theirs(image)) <= TOLERANCE
    reversed_table(ours, state, "dpt/smp")


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        ("dpt/smp", "dpt_base", {"interpolation": "bicubic", "antialias": True}),
        ("dpt/mmseg", "dpt_base", {"interpolation": "bicubic", "antialias": False, "norm_eps": 1e-5}),
        ("segmenter/mmseg", "segmenter_base", {"interpolation": "bicubic", "antialias": False, "norm_eps": 1e-6}),
        ("upernet/smp_swin", "upernet_swin_tiny", {"shift_all": False}),
    ],
)
def test_the_variant_s_own_ways_do_not_get_into_others_files(name: str, model: str, expected: dict[str, Any]) -> None:
    """A file whose backbone is the variant's own has that variant's arguments where the layout names none."""
    layout = get_layout(name)
    with on_meta():
        whole = create_model(model).state_dict()
    inference = {key: value for key, value in whole.items() if "auxiliary" not in key}
    state = to_theirs(inference, layout.rules)
    made = entry(layout.model).completed(layout.arguments(state))["backbone_arguments"]
    assert {key: made[key] for key in expected} == expected


def test_mmsegmentations_table() -> None:
    """No package of theirs is here: the names of a whole checkpoint, made from ours, are recognised and come back."""
    ways = {"embed_dim": 64, "depth": 4, "heads": 1, "image_size": 64, "antialias": False, "out_indices": (0, 1, 2, 3)}
    arguments = {"backbone_arguments": ways, "align_corners": False, "supervised": False}
    ours = create_model("dpt_base", num_classes=3, backbone="vit_base_patch16_384", decoder_channels=16, **arguments)
    state = export_layout(ours, "dpt/mmseg")
    assert {
        "backbone.layers.3.attn.attn.in_proj_weight",
        "decode_head.reassemble_blocks.readout_projects.0.0.weight",
        "decode_head.reassemble_blocks.projects.3.conv.bias",
        "decode_head.reassemble_blocks.resize_layers.0.weight",
        "decode_head.convs.0.conv.weight",
        "decode_head.fusion_blocks.1.res_conv_unit1.conv2.bn.running_mean",
        "decode_head.fusion_blocks.0.project.conv.bias",
        "decode_head.project.bn.weight",
        "decode_head.conv_seg.weight",
    } <= state.keys()
    assert not any("fusion_blocks.0.res_conv_unit1" in key or "resize_layers.2" in key for key in state)
    stored = open_weights(state)
    assert stored.layout is not None
    assert stored.layout.name == "dpt/mmseg"
    assert stored.arguments["align_corners"] is False


@pytest.mark.parametrize("name", ["dpt_base", "dpt_large", "dpt_hybrid"])
def test_the_published_checkpoints_are_told_apart(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert open_weights(export_layout(model, "dpt/authors")).entry.name == name
