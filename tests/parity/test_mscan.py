"""MSCAN: its mechanisms, and mmsegmentation's layout, which has no stored reference, against the authors', which has."""

from __future__ import annotations

import torch

from segmentarium.backbones import create_backbone
from segmentarium.backbones.mscan import STRIPS, Block, StripAttention
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import golden_state, randomise, relative_error


def test_mmsegmentation_leaves_one_name_out(golden) -> None:
    state, _, _ = golden_state(golden, "backbone/mscan-t")
    theirs = {key.replace("dwconv.dwconv", "dwconv"): value for key, value in state.items()}
    theirs |= {"head.weight": torch.randn(10, 256), "head.bias": torch.randn(10)}
    layout = recognise(theirs)
    assert layout.name == "mscan/mmseg"
    arguments = layout.arguments(theirs)
    assert arguments["num_classes"] == 10
    ours = create_backbone("mscan_t", **arguments).eval()
    load_state(ours, theirs, rules=layout.rules)
    assert ours.state_dict().keys() == create_backbone("mscan_t", num_classes=10).state_dict().keys()
    back = to_theirs(ours.state_dict(), layout.rules)
    assert all(torch.equal(back[key], value) for key, value in theirs.items())
    assert get_layout("mscan/authors").rules != layout.rules


@torch.no_grad()
def test_a_deployed_block_is_equal_and_has_neither_norms_nor_scales() -> None:
    block = randomise(Block(16, 4, 0.0))
    assert isinstance(block, Block)
    block.scale1.uniform_(-1, 1)
    block.scale2.uniform_(-1, 1)
    x = torch.randn(2, 16, 13, 9)
    expected = block(x)
    block.reparameterize()
    assert relative_error(block(x), expected) < 1e-5
    assert not any("norm" in name or "scale" in name for name, _ in block.named_parameters())
    block.reparameterize()  # a second time changes nothing
    assert relative_error(block(x), expected) < 1e-5


@torch.no_grad()
def test_a_strip_sees_a_window_of_its_length() -> None:
    """One pixel moves what lies within 10 + 2 rows and columns of it (the 21-strips behind the 5×5), and no farther."""
    attention = StripAttention(4).eval()
    x = torch.zeros(1, 4, 41, 41)
    dot = x.clone()
    dot[..., 20, 20] = 1.0
    gate = [
        attention.mix(attention.local(y) + sum(strip(attention.local(y)) for strip in attention.strips))
        for y in (x, dot)
    ]
    moved = (gate[0] != gate[1]).any(1)[0].nonzero()
    reach = max(STRIPS) // 2 + 2
    assert moved.min() == 20 - reach
    assert moved.max() == 20 + reach
