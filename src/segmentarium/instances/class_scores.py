"""What scores a region's classes where the classes have a long tail: the last layer that each loss of `losses/` wants.

In a detector they are chosen by name: `classifier="bags"` with `class_loss="bags"`, and what the data say of the classes;
`long_tail_arguments` makes these arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from segmentarium.instances.heads import BoxClassifier
from segmentarium.layers.cosine import CosineLinear
from segmentarium.layers.init import init_classifier
from segmentarium.losses import (
    BalancedGroups,
    EqualizationLoss,
    EqualizationLossV2,
    RegionLoss,
    SeesawLoss,
    group_by_instances,
    init_rare,
)


class RegionScores(BoxClassifier):
    """As wide as a loss wants it, and read as the loss says.

    loss     it is not trained by this one, but read by it
    cosine   by the angle between feature and weights (seesaw's paper)
    rare     every class starts improbable, as sigmoids should
    """

    def __init__(self, channels: int, loss: RegionLoss, *, cosine: bool = False, rare: bool = False) -> None:
        nn.Module.__init__(self)
        self.num_classes, self.meaning = loss.num_classes, loss
        if cosine:
            self.scores = CosineLinear(channels, loss.width)
        else:
            layer = nn.Linear(channels, loss.width)
            self.scores = init_rare(layer) if rare else init_classifier(layer)
            if rare and loss.width > loss.num_classes:
                nn.init.zeros_(layer.bias[loss.num_classes :])  # of what is no class

    def probabilities(self, scores: Tensor) -> Tensor:
        return self.meaning.probabilities(scores)


def eql_scores(channels: int, num_classes: int, cosine: bool = False) -> RegionScores:
    """K sigmoids: of `EqualizationLoss` and `FederatedLoss`."""
    return RegionScores(channels, EqualizationLoss([0.0] * num_classes), cosine=cosine, rare=True)


def eqlv2_scores(channels: int, num_classes: int, cosine: bool = False) -> RegionScores:
    """K + 1 sigmoids: of `EqualizationLossV2`."""
    return RegionScores(channels, EqualizationLossV2(num_classes), cosine=cosine, rare=True)


def seesaw_scores(channels: int, num_classes: int, cosine: bool = True) -> RegionScores:
    """K + 2 scores: of `SeesawLoss`; normalised, as published."""
    return RegionScores(channels, SeesawLoss(num_classes), cosine=cosine)


def bags_scores(channels: int, num_classes: int, groups: Sequence[int], cosine: bool = False) -> RegionScores:
    """A softmax for each group: of `BalancedGroups`.  groups: of each class its group."""
    if len(groups) != num_classes:
        raise ValueError(f"groups are of {len(groups)} classes, and there are {num_classes}")
    return RegionScores(channels, BalancedGroups(groups), cosine=cosine)


LONG_TAIL = ("eql", "federated", "eqlv2", "seesaw", "bags")


def long_tail_arguments(
    name: str,
    images: Sequence[int],
    instances: Sequence[int],
    pictures: int,
    threshold: float | None = None,
) -> dict[str, Any]:
    """A detector's arguments for "eql", "eqlv2", "seesaw", "bags" or "federated", of what its training data have.

    images      that show each class
    instances   objects of each class
    pictures    of the training data
    threshold   of "eql": share of the pictures below which a class is rare; None: published for LVIS v0.5
    """
    count = len(images)
    groups = group_by_instances(instances)
    shares = [round(number / max(pictures, 1), 6) for number in images]
    if name not in LONG_TAIL:
        raise ValueError(f"there is no loss of long tails {name!r}; give {', '.join(LONG_TAIL)}")
    told: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
        "eql": ("eql", {}, {"frequencies": shares} | ({} if threshold is None else {"threshold": threshold})),
        "federated": ("eql", {}, {"counts": shares, "number": min(50, count)}),
        "eqlv2": ("eqlv2", {}, {"num_classes": count}),
        "seesaw": ("seesaw", {}, {"num_classes": count}),
        "bags": ("bags", {"groups": groups}, {"groups": groups}),
    }
    classifier, classifier_arguments, arguments = told[name]
    found = {"classifier": classifier, "classifier_arguments": classifier_arguments}
    return found | {"class_loss": name, "class_loss_arguments": arguments}
