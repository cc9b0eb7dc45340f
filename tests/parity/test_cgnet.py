"""CGNet's blocks, and mmsegmentation's network of them.  Its stored outputs: test_layouts.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from segmentarium.preprocessing import Preprocessing
from segmentarium.realtime.cgnet import CGNet, ContextGuidedBlock, LocalAndSurrounding
from segmentarium.registry import create_model
from segmentarium.weights import load
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import to_theirs
from tests.parity.comparison import TOLERANCE, exercised, golden_state, randomise, relative_error


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


def mmsegmentation(state: dict[str, torch.Tensor], image: torch.Tensor, blocks: tuple[int, int]) -> torch.Tensor:
    """Its network, as its code computes it, from its own keys -> logits at 1/8."""

    def norm(x, name):
        return F.batch_norm(x, *(state[f"{name}.{part}"] for part in STATISTICS), eps=1e-3)

    def act(x, name):
        return F.prelu(x, state[f"{name}.weight"])

    def unit(x, name, stride, padding):
        x = F.conv2d(x, state[f"{name}.conv.weight"], stride=stride, padding=padding)
        return act(norm(x, f"{name}.bn"), f"{name}.activate")

    def block(x, name, dilation, down):
        y = unit(x, f"{name}.conv1x1", 2 if down else 1, 1 if down else 0)
        depthwise = {"f_loc": 1, "f_sur": dilation}
        joint = [
            F.conv2d(y, state[f"{name}.{key}.weight"], padding=rate, dilation=rate, groups=y.shape[1])
            for key, rate in depthwise.items()
        ]
        y = act(norm(torch.cat(joint, 1), f"{name}.bn"), f"{name}.activate")
        if down:
            y = F.conv2d(y, state[f"{name}.bottleneck.weight"])
        first, second = ((state[f"{name}.f_glo.fc.{i}.weight"], state[f"{name}.f_glo.fc.{i}.bias"]) for i in (0, 2))
        weights = F.linear(F.linear(y.mean((2, 3)), *first).relu(), *second).sigmoid()
        y = y * weights[..., None, None]
        return y if down else x + y

    def joined(maps, number):
        name = f"backbone.norm_prelu_{number}"
        return act(norm(torch.cat(maps, 1), f"{name}.0"), f"{name}.1")

    half = F.avg_pool2d(image, 3, 2, 1)
    quarter = F.avg_pool2d(half, 3, 2, 1)
    x = image
    for i in range(3):
        x = unit(x, f"backbone.stem.{i}", 1 if i else 2, 1)
    x = joined([x, half], 0)
    for level, dilation in ((1, 2), (2, 4)):
        x = down = block(x, f"backbone.level{level}.0", dilation, True)
        for number in range(1, blocks[level - 1]):
            x = block(x, f"backbone.level{level}.{number}", dilation, False)
        x = joined([x, down, quarter] if level == 1 else [down, x], level)
    return F.conv2d(x, state["decode_head.conv_seg.weight"], state["decode_head.conv_seg.bias"])


STATISTICS = ("running_mean", "running_var", "weight", "bias")


def test_mmsegmentation_s_network_computes_the_same():
    model = exercised(randomise(CGNet(num_classes=5, blocks=(3, 5), head_bias=True)))
    state = to_theirs(model.state_dict(), get_layout("cgnet/mmseg").rules)
    assert recognise(state).name == "cgnet/mmseg"
    assert get_layout("cgnet/mmseg").arguments(state) == {
        "num_classes": 5,
        "in_channels": 3,
        "blocks": (3, 5),
        "head_bias": True,
    }
    image = torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        assert relative_error(model.logits(image), mmsegmentation(state, image, (3, 5))) <= TOLERANCE


@pytest.mark.parametrize("name", ["cgnet/official", "cgnet/official-dropout", "cgnet/mmseg"])
def test_files_take_pictures_of_0_to_255_minus_a_mean(name: str, tmp_path: Path) -> None:
    """As published; a network that learns here is normalised as all others are."""
    layout = get_layout(name)
    model = create_model("cgnet", num_classes=5, head_bias=name == "cgnet/mmseg")
    torch.save(to_theirs(model.state_dict(), layout.rules), tmp_path / "theirs.pth")
    loaded = load(tmp_path / "theirs.pth")
    white = loaded.preprocessing.normalise(torch.ones(3, 1, 1)).flatten()
    torch.testing.assert_close(white, 255 - torch.tensor((72.39, 82.91, 73.16)), rtol=0, atol=1e-3)
    assert model.preprocessing == Preprocessing()
