"""CGNet's blocks.  Its stored outputs: test_layouts.py."""

from __future__ import annotations

import pytest
import torch

from segmentarium.realtime.cgnet import CGNet, ContextGuidedBlock, LocalAndSurrounding
from segmentarium.weights.layouts import get_layout
from tests.parity.comparison import golden_state, randomise


@pytest.mark.parametrize(
    ("layout", "name", "blocks"),
    [("cgnet/official", "cgnet", (3, 21)), ("cgnet/official-dropout", "cgnet-m2n3-odd", (2, 3))],
)
def test_the_counts_of_blocks_are_read_off_the_keys(golden, layout, name, blocks):
    state, *_ = golden_state(golden, f"realtime/{name}")
    assert get_layout(layout).arguments(state)["blocks"] == blocks


def test_the_joint_norm_is_split_over_its_convolutions():
    joint = randomise(LocalAndSurrounding(8, 2))
    x = torch.randn(2, 8, 11, 13)
    with torch.inference_mode():
        expected = joint(x)
    joint.reparameterize()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in joint.modules())
    with torch.inference_mode():
        assert torch.allclose(joint(x), expected, atol=1e-5)


def test_a_block_adds_its_weighed_joint_feature_to_its_input():
    block = randomise(ContextGuidedBlock(16, 2, 8))
    x = torch.randn(2, 16, 9, 7)
    with torch.inference_mode():
        joint = block.joint(block.conv(x))
        weights = block.context(joint)
        assert weights.shape == (2, 16, 1, 1)
        assert torch.allclose(block(x), x + joint * weights, atol=1e-6)


def test_a_stage_needs_its_down_block():
    with pytest.raises(ValueError, match=r"\(0, 3\)"):
        CGNet(blocks=(0, 3))
