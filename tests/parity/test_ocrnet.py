"""OCRNet's heads against the stored outputs of mmsegmentation and of HRNet's authors; whole checkpoints by their keys."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from segmentarium.meta import on_meta
from segmentarium.registry import create_model
from segmentarium.semantic.ocrnet import OCRDecoder
from segmentarium.weights.layouts import get_layout
from segmentarium.weights.layouts.ocrnet import authors_heads, mmseg_heads
from segmentarium.weights.source import open_weights
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, example, golden_state, relative_error


def compared(decoder: OCRDecoder, features: list[Tensor], coarse: Tensor, logits: Tensor) -> None:
    """In its own form and in the deployed one."""
    outputs = decoder.forward_train(features)
    assert relative_error(outputs["coarse"], coarse) <= TOLERANCE
    assert relative_error(outputs["logits"], logits) <= TOLERANCE
    assert torch.equal(decoder(features), outputs["logits"])
    decoder.attention.reparameterize()
    assert relative_error(decoder(features), logits) <= TOLERANCE


@torch.inference_mode()
def test_mmsegmentation_s_heads(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "semantic/ocrnet-r50-heads")
    decoder = OCRDecoder(
        channels=(16, 32), strides=(8, 8), num_classes=5, width=24, key_channels=12, coarse_width=12
    ).eval()
    rules = mmseg_heads("", "")
    assert load_state(decoder, state, rules=rules).complete
    assert sum(p.numel() for p in decoder.parameters()) == description["parameters"]
    back = to_theirs(decoder.state_dict(), rules)
    assert all(torch.equal(back[key], value) for key, value in state.items())
    coarse, logits = (torch.from_numpy(arrays[f"out/head{i}"]) for i in (0, 1))
    compared(decoder, [example(golden, description, name) for name in ("c3", "c4")], coarse, logits)


@torch.inference_mode()
def test_the_authors_heads(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "semantic/ocrnet-official-heads")
    decoder = OCRDecoder(
        channels=(40,), strides=(4,), num_classes=5, joined=True, width=24, key_channels=12, bias=True
    ).eval()
    rules = authors_heads("", "")
    assert load_state(decoder, state, rules=rules).complete
    assert sum(p.numel() for p in decoder.parameters()) == description["parameters"]
    back = to_theirs(decoder.state_dict(), rules)
    assert all(torch.equal(back[key], value) for key, value in state.items())
    coarse, logits = (torch.from_numpy(arrays[f"out/{i}"]) for i in (0, 1))
    compared(decoder, [example(golden, description, "feats")], coarse, logits)


@pytest.mark.parametrize(
    ("name", "layout", "arguments"),
    [
        ("ocrnet", "ocrnet/authors", {}),
        ("ocrnet", "ocrnet/authors_trained", {}),
        ("ocrnet", "ocrnet/openseg_hrnet", {"coarse_kernel": 3, "attention_bias": True}),
        (
            "ocrnet_resnet101",
            "ocrnet/openseg",
            {
                "backbone": "resnet101_v1s",
                "coarse_width": 512,
                "bias": True,
                "attention_bias": True,
                "align_corners": True,
                "dropout": 0.05,
            },
        ),
        ("ocrnet_resnet101", "ocrnet/mmseg", {}),
        ("ocrnet_hr18s", "ocrnet/mmseg_hrnet", {}),
        ("ocrnet_hr48", "ocrnet/mmseg_hrnet", {}),
    ],
)
def test_whole_checkpoints_are_recognised(name: str, layout: str, arguments: dict) -> None:
    with on_meta():
        model = create_model(name, num_classes=7, **arguments)
    theirs = to_theirs(model.state_dict(), get_layout(layout).rules)
    stored = open_weights(theirs)
    assert stored.layout is get_layout(layout)
    assert {key: value.shape for key, value in stored.shapes().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    if not arguments:
        assert stored.entry.name == name


def test_published_parameters() -> None:
    with on_meta():
        models: list[Any] = [create_model(f"ocrnet_{name}", num_classes=19) for name in ("resnet50", "hr18")]
    resnet, hrnet = (model.decoder for model in models)
    assert sum(p.numel() for p in resnet.coarse.parameters()) == 2_364_691
    assert sum(p.numel() for p in resnet.parameters()) == 2_364_691 + 10_632_211
    assert round(sum(p.numel() for p in hrnet.parameters()) / 1e6, 4) == 2.5178
