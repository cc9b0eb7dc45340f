"""ResNeXt beside torchvision's, with random weights."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.resnet import Bottleneck, ResNet

from tests.parity.comparison import TOLERANCE, randomise, recognised, relative_error


@pytest.mark.parametrize(("groups", "width"), [(32, 4), (4, 8)])
@torch.no_grad()
def test_class_scores_are_equal(groups: int, width: int) -> None:
    torch.manual_seed(0)
    theirs = randomise(ResNet(Bottleneck, [3, 4, 6, 3], num_classes=7, groups=groups, width_per_group=width))
    ours = recognised(theirs.state_dict(), "resnext/torchvision")
    image = torch.randn(1, 3, 65, 97)
    assert relative_error(ours.classify(image), theirs(image)) <= TOLERANCE
