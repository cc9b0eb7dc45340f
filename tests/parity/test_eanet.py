"""External attention against its authors' stored outputs: the two blocks alone.  The networks: test_layouts.py."""

from __future__ import annotations

from types import ModuleType

import torch

from segmentarium.layers.external_attention import ExternalAttention, MultiHeadExternalAttention
from segmentarium.weights.layouts.eanet import attention_rules, multi_head_rules
from segmentarium.weights.table import load_state
from tests.parity.comparison import TOLERANCE, example, golden_state, relative_error


@torch.inference_mode()
def test_the_block_on_a_map(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "backbone/external-attention")
    block = ExternalAttention(32).eval()
    assert load_state(block, state, rules=attention_rules("", "")).complete
    assert sum(p.numel() for p in block.parameters()) == description["parameters"]
    x, expected = example(golden, description, "x"), torch.from_numpy(arrays["out"])
    assert relative_error(block(x), expected) <= TOLERANCE
    block.reparameterize()
    assert relative_error(block(x), expected) <= TOLERANCE


@torch.inference_mode()
def test_the_heads(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "backbone/multi-head-external-attention")
    layer = MultiHeadExternalAttention(48, 4)
    assert load_state(layer, state, rules=multi_head_rules("", "")).complete
    assert sum(p.numel() for p in layer.parameters()) == description["parameters"]
    assert relative_error(layer(example(golden, description, "x")), torch.from_numpy(arrays["out"])) <= TOLERANCE
