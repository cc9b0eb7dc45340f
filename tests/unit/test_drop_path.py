"""Stochastic depth keeps the mean, drops whole samples, and does nothing in evaluation."""

from __future__ import annotations

import pytest
import torch

from segmentarium.layers.drop_path import DropPath, drop_path_rates


def test_whole_samples_are_dropped_and_the_mean_is_kept():
    x = torch.ones(4000, 3, 2)
    y = DropPath(0.25)(x)
    samples = y.flatten(1)
    assert torch.equal(samples.amin(1), samples.amax(1))
    assert samples[:, 0].unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert y.mean().item() == pytest.approx(1.0, abs=0.03)


def test_evaluation_and_rate_zero_pass_the_tensor():
    x = torch.randn(2, 3)
    assert DropPath(0.5).eval()(x) is x
    assert DropPath(0.0)(x) is x


def test_rates_grow_linearly_over_all_blocks():
    rates = drop_path_rates(0.1, (2, 1, 3))
    assert [len(stage) for stage in rates] == [2, 1, 3]
    assert [rate for stage in rates for rate in stage] == pytest.approx([0.0, 0.02, 0.04, 0.06, 0.08, 0.1])
    assert drop_path_rates(0.3, (1,)) == [[0.0]]


def test_an_impossible_rate_is_refused():
    with pytest.raises(ValueError, match="give a probability"):
        DropPath(1.0)
