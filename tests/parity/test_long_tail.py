"""Losses and sampling of long tails against the values and gradients of the public implementations."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segmentarium.data.repeat_factors import image_factors
from segmentarium.losses import BalancedGroups, EqualizationLoss, EqualizationLossV2, SeesawLoss, group_by_instances

TOLERANCE = 1e-5


class Golden:
    """A stored reference: its inputs as tensors, and comparison with its outputs."""

    def __init__(self, golden: ModuleType, name: str) -> None:
        self.golden = golden
        self.description, self.arrays = golden.load(f"longtail/{name}")

    def logits(self) -> Tensor:
        shape = tuple(self.description["inputs"]["logits"])
        return torch.from_numpy(self.golden.example_input("logits", shape)).requires_grad_()

    def target(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[f"target/{name}"])

    def same(self, found: Tensor | np.ndarray, name: str) -> None:
        array = found.detach().numpy() if isinstance(found, Tensor) else found
        assert array.shape == self.arrays[name].shape
        assert self.golden.relative_error(array, self.arrays[name]) <= TOLERANCE


def _gradient(loss: Tensor, logits: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, logits, retain_graph=True)
    return found


def test_equalization(golden: ModuleType) -> None:
    stored = Golden(golden, "eql")
    logits, labels = stored.logits(), stored.target("labels")
    loss = EqualizationLoss(stored.target("frequencies"))
    value = loss(logits, labels)
    stored.same(value, "out/loss")
    stored.same(_gradient(value, logits), "grad/loss/logits")
    stored.same(loss.probabilities(logits), "out/probs")
    stored.same(EqualizationLoss(stored.target("frequencies"), threshold=0.0)(logits, labels), "out/sigmoid_bce")


def test_equalization_v2_over_three_steps(golden: ModuleType) -> None:
    stored = Golden(golden, "eqlv2")
    logits, labels = stored.logits(), stored.target("labels")
    loss = EqualizationLossV2(10)
    for step in range(3):
        stored.same(loss(logits[step], labels[step]), f"out/loss/{step}")
    for ours, theirs in (("positive", "pos_grad"), ("negative", "neg_grad"), ("ratio", "pos_neg")):
        stored.same(getattr(loss, ours), f"out/{theirs}")
    # which step's logits the probabilities are of is not said
    errors = [
        golden.relative_error(loss.probabilities(one).detach().numpy(), stored.arrays["out/probs"]) for one in logits
    ]
    assert min(errors) <= TOLERANCE


def test_seesaw(golden: ModuleType) -> None:
    stored = Golden(golden, "seesaw")
    logits, labels = stored.logits(), stored.target("labels")
    loss = SeesawLoss(12, counts=stored.target("cum_samples_before"))
    parts = loss.parts(logits, labels, torch.ones_like(labels, dtype=torch.bool))
    stored.same(parts["classes"], "out/loss_cls_classes")
    stored.same(parts["object"], "out/loss_cls_objectness")
    stored.same(loss.counts, "out/cum_samples")
    stored.same(loss.probabilities(logits), "out/scores")
    value = loss.eval()(logits, labels)
    stored.same(value, "out/total")
    stored.same(_gradient(value, logits), "grad/total/logits")


@pytest.mark.parametrize("name", ["bags", "bags-sampled"])
def test_balanced_groups(golden: ModuleType, name: str) -> None:
    stored = Golden(golden, name)
    logits, theirs = stored.logits(), stored.target("labels")
    loss = BalancedGroups(
        group_by_instances(stored.target("instance_counts")), others=1.0 if name == "bags-sampled" else 8.0
    )
    labels = (theirs - 1) % 13  # the background stands first there, last here
    assert torch.equal(loss.table.roll(1, 1), stored.target("label2binlabel"))
    assert loss.sizes == stored.target("pred_slice")[:, 1].tolist()

    weights = stored.target("bin_weights")
    parts = loss.parts(logits, labels, weights)
    for number, part in enumerate(parts):
        stored.same(part, f"out/loss_cls_bin{number}")
    stored.same(parts.sum(), "out/total")
    stored.same(_gradient(parts.sum(), logits), "grad/total/logits")
    stored.same(loss.probabilities(logits).roll(1, 1), "out/scores")
    drawn = loss.draw(labels)
    assert torch.equal(drawn.sum(1), weights.sum(1))  # as many rows of each, drawn otherwise
    assert torch.equal(drawn[(loss.table[:, labels] > 0)], weights[loss.table[:, labels] > 0])


def test_repeat_factors(golden: ModuleType) -> None:
    stored = Golden(golden, "rfs")
    shown: list[Any] = [np.flatnonzero(row) for row in stored.arrays["target/instances"]]
    stored.same(image_factors(shown, 0.05), "out/repeat_factors")


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_cosine_classifiers_equal_their_definition(power: float) -> None:
    from segmentarium.layers.cosine import CosineConv1x1, CosineLinear

    layer = CosineLinear(6, 4, power=power)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(3, 6)
    lengths = x.norm(dim=1)[:, None] * layer.weight.norm(dim=1)
    expected = 20 * (x @ layer.weight.T) / lengths**power + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-3, atol=1e-3)
    plane = CosineConv1x1(6, 4, power=power)
    plane.load_state_dict({"weight": layer.weight[:, :, None, None], "bias": layer.bias})
    torch.testing.assert_close(plane(x[:, :, None, None].expand(-1, -1, 2, 3))[:, :, 1, 2], layer(x))
    if power == 1:  # the length of neither a feature nor a class's weights says anything
        with torch.no_grad():
            before = layer(x)
            layer.weight *= torch.tensor([1.0, 10, 0.1, 3])[:, None]
            torch.testing.assert_close(layer(7 * x), before, rtol=1e-3, atol=1e-3)
