"""RepMLPNet against stored outputs of the authors' code; the other layouts against our own weights.  The network is a golden
of its layout (test_layouts.py)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from segmentarium.backbones import create_backbone
from segmentarium.backbones.repmlp import RepMLPBlock, RepMLPNet
from segmentarium.contracts import Classifier
from segmentarium.registry import create_model
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.layouts.repmlp import block_rules
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, example, golden_state, loaded, randomise, relative_error

SMALL: dict[str, Any] = {
    "channels": [8, 16, 32, 64],
    "depths": [1, 2, 1, 1],
    "share_sets": [1, 2, 4, 8],
    "img_size": [64, 96],
    "num_classes": 5,
}


@torch.no_grad()
def test_the_authors_block(golden: ModuleType) -> None:
    """On a map of 2×3 parts, which are not square, with three local convolutions."""
    state, description, arrays = golden_state(golden, "backbone/repmlp-block")
    block = RepMLPBlock(8, (3, 4), 2, (1, 3, 5), reduction=2).eval()
    rules = block_rules("", "")
    assert load_state(block, state, rules=rules).complete
    back = to_theirs(block.state_dict(), rules)
    assert all(key.endswith("num_batches_tracked") for key in back.keys() - state.keys())
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())
    assert sum(p.numel() for p in block.parameters()) == description["parameters"]
    x = example(golden, description, "x")
    assert relative_error(block(x), torch.from_numpy(arrays["out/train_form"])) < TOLERANCE
    block.reparameterize()
    assert relative_error(block(x), torch.from_numpy(arrays["out/deploy"])) < TOLERANCE
    injected = to_theirs(block.state_dict(), rules)
    for key in ("fc3.weight", "fc3.bias"):
        assert relative_error(injected[key], torch.from_numpy(arrays[f"out/{key.replace('.', '_')}"])) < TOLERANCE
    deployed = RepMLPBlock(8, (3, 4), 2, (1, 3, 5), reduction=2, deployed=True).eval()
    assert load_state(deployed, injected, rules=rules).complete
    assert torch.equal(deployed(x), block(x))


@torch.no_grad()
def test_without_local_convolutions_the_norm_moves_into_the_matrix_all_the_same() -> None:
    model = create_model("repmlpnet_t224", **SMALL, kernels=())
    assert isinstance(model, Classifier)
    image = torch.randn(2, 3, 64, 96)
    expected = randomise(model.eval())(image)
    deployed = model.deploy()
    assert relative_error(deployed(image), expected) < TOLERANCE
    assert not any("fc_norm" in key for key in deployed.state_dict())
    layout = get_layout("repmlp/authors")
    told = [layout.arguments(to_theirs(one.backbone.state_dict(), layout.rules)) for one in (model, deployed)]
    assert [(one["kernels"], one["deployed"]) for one in told] == [([], False), ([1, 3], True)]


@torch.no_grad()
def test_the_network_s_injected_matrices_and_deployed_form(golden: ModuleType) -> None:
    case = loaded(golden, "repmlp/authors", "backbone/repmlpnet-small")
    block = case.model.stages[2][0].block
    matrix, bias = block.matrix_and_bias()
    stored = {name: torch.from_numpy(case.arrays[f"out/fc3_{name}"]) for name in ("weight", "bias")}
    assert relative_error(matrix, stored["weight"].flatten(1)) < TOLERANCE
    assert relative_error(bias, stored["bias"]) < TOLERANCE
    deployed = Classifier(case.model).deploy()
    assert relative_error(deployed(case.image), torch.from_numpy(case.arrays["out/deploy"])) < TOLERANCE
    norms = [name for name, part in deployed.named_modules() if isinstance(part, nn.BatchNorm2d)]
    assert all(name.endswith("norm1") or name == "backbone.norm" for name in norms)


@pytest.mark.parametrize("name", ["repmlp/authors", "repmlp/mmpretrain"])
@pytest.mark.parametrize("deployed", [False, True])
@torch.no_grad()
def test_files_as_trained_and_as_converted(name: str, deployed: bool) -> None:
    ours = randomise(RepMLPNet(**SMALL, deployed=deployed))
    layout = get_layout(name)
    theirs = to_theirs(ours.state_dict(), layout.rules)
    assert recognise(theirs) is layout
    arguments = layout.arguments(theirs)
    assert arguments == {**SMALL, "kernels": [1, 3], "deployed": deployed, "in_channels": 3}
    again = RepMLPNet(**arguments).eval()
    assert load_state(again, theirs, rules=layout.rules).complete
    image = torch.randn(1, 3, 64, 96)
    assert torch.equal(again.classify(image), ours.classify(image))


def test_mmpretrain_s_names() -> None:
    """Written down from its code, since the package is not at hand."""
    layout = get_layout("repmlp/mmpretrain")
    theirs = to_theirs(RepMLPNet(**SMALL).state_dict(), layout.rules)
    unit = "backbone.stages.1.1."
    assert {key.removeprefix(unit) for key in theirs if key.startswith(unit) and key.endswith("weight")} == {
        "norm1.weight",
        "norm2.weight",
        "repmlp_block.gp.conv1.conv.weight",
        "repmlp_block.gp.conv2.conv.weight",
        "repmlp_block.fc3.weight",
        "repmlp_block.fc3_bn.weight",
        "repmlp_block.repconv1.conv.weight",
        "repmlp_block.repconv1.bn.weight",
        "repmlp_block.repconv3.conv.weight",
        "repmlp_block.repconv3.bn.weight",
        "ffn_block.ffn_fc1.conv.weight",
        "ffn_block.ffn_fc1.bn.weight",
        "ffn_block.ffn_fc2.conv.weight",
        "ffn_block.ffn_fc2.bn.weight",
    }
    outside = {key for key in theirs if not key.startswith("backbone.stages.") and key.endswith("weight")}
    assert outside == {
        "backbone.patch_embed.projection.weight",
        "backbone.patch_embed.norm.weight",
        *(f"backbone.downsample_layers.{i}.{part}.weight" for i in range(3) for part in ("conv", "bn")),
        "backbone.final_norm.weight",
        "head.fc.weight",
    }
    assert theirs[f"{unit}repmlp_block.fc3.weight"].shape == (2 * 96, 96, 1, 1)


def test_parts_that_do_not_fit_are_refused_by_their_sizes() -> None:
    backbone = create_backbone("repmlpnet_t224", img_size=64).eval()
    assert backbone.fixed_size == (64, 64)
    with torch.no_grad():
        assert backbone(torch.randn(1, 3, 64, 128))[3].shape == (1, 512, 2, 4)
        with pytest.raises(ValueError, match=r"the image is 97×129; this RepMLPNet takes 64×64 and whole multiples"):
            backbone(torch.randn(1, 3, 97, 129))
    with pytest.raises(ValueError, match=r"img_size is 100×100; .* multiples of 32"):
        create_backbone("repmlpnet_t224", img_size=100)


@torch.no_grad()
def test_parts_know_of_each_other_by_the_gates_alone() -> None:
    block = randomise(RepMLPBlock(8, (4, 4), 8))
    assert isinstance(block, RepMLPBlock)
    x = torch.randn(1, 8, 4, 8)
    other = torch.cat([x[..., :4], torch.randn(1, 8, 4, 4)], 3)
    ours, changed = (block(image) / block.gates(image) for image in (x, other))
    assert torch.allclose(ours[..., :4], changed[..., :4], atol=1e-5)
    assert not torch.allclose(block(x)[..., :4], block(other)[..., :4], atol=1e-5)


@torch.no_grad()
def test_channels_of_a_share_set_use_one_matrix() -> None:
    block = RepMLPBlock(6, (2, 2), 2, ()).eval()
    x = torch.randn(1, 6, 2, 2)
    given = block(x) / block.gates(x)
    for channel in range(6):
        matrix = block.fc.weight.view(2, 4, 4)[channel % 2]
        assert torch.allclose(given[0, channel].flatten(), matrix @ x[0, channel].flatten(), atol=1e-4)
