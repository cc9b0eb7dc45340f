"""What PP-HumanSeg leaves out of its authors' network.  Its stored outputs: test_layouts.py."""

from __future__ import annotations

import torch

from segmentarium.registry import create_model
from tests.parity.comparison import loaded


def test_only_the_unused_branches_are_dropped(golden):
    report = loaded(golden, "pphumanseg/paddleseg", "portrait/pphumanseg-lite").report
    used = ("block1.0.", "block2.0.")
    assert all("._depthwise_separable_0." in key and not key.startswith(used) for key in report.dropped)
    assert len(report.dropped) == 10 * (3 + 7)


def test_parameters_are_those_of_the_paper():
    parameters = sum(p.numel() for p in create_model("pphumanseg").parameters())
    assert round(parameters / 1e6, 2) == 0.13


def test_one_logit_can_say_background():
    model = create_model("pphumanseg", num_classes=1).eval()
    assert model(torch.randn(1, 3, 64, 64)).min() < 0
