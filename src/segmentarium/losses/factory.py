"""Losses by name: `build_loss("cross_entropy+0.5*dice")` of pixels, `build_label_loss("eql", counts)` of whole pictures."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from segmentarium.checks import did_you_mean
from segmentarium.losses.base import PixelLoss
from segmentarium.losses.boundary_focal import BoundaryAwareFocal
from segmentarium.losses.connectivity import Connectivity
from segmentarium.losses.cross_entropy import CrossEntropy
from segmentarium.losses.dice import Dice
from segmentarium.losses.equalization import EqualizationLoss
from segmentarium.losses.equalization_v2 import EqualizationLossV2
from segmentarium.losses.federated import FederatedLoss
from segmentarium.losses.focal import Focal
from segmentarium.losses.label_cross_entropy import LabelCrossEntropy
from segmentarium.losses.lovasz import Lovasz
from segmentarium.losses.ohem import OhemCrossEntropy
from segmentarium.losses.seesaw import SeesawLoss

LOSSES: dict[str, type[PixelLoss]] = {
    "cross_entropy": CrossEntropy,
    "ohem": OhemCrossEntropy,
    "dice": Dice,
    "focal": Focal,
    "boundary_focal": BoundaryAwareFocal,
    "lovasz": Lovasz,
    "connectivity": Connectivity,
}

LABEL_LOSSES = ("cross_entropy", "eql", "eqlv2", "seesaw", "federated")


class WeightedSum(nn.Module):
    """Several losses of the same logits and target, each times its weight.

    Args:
        terms: pairs of a weight and a loss.
    """

    def __init__(self, terms: list[tuple[float, PixelLoss]]) -> None:
        super().__init__()
        self.weights = tuple(weight for weight, _ in terms)
        self.losses = nn.ModuleList(loss for _, loss in terms)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """A float32 scalar, as each of the losses gives it."""
        total = self.weights[0] * self.losses[0](logits, target)
        for weight, loss in zip(self.weights[1:], self.losses[1:], strict=True):
            total = total + weight * loss(logits, target)
        return total

    def extra_repr(self) -> str:
        return f"weights={self.weights}"


def build_loss(name: str, **arguments: Any) -> nn.Module:
    """A loss by name, or a weighted sum of several.

    Args:
        name: cross_entropy, ohem, dice, focal, boundary_focal, lovasz or connectivity; joined by "+", each with an
            optional factor: "cross_entropy+dice", "ohem+0.5*lovasz".
        **arguments: for the losses; in a sum, each goes to those that have it (class_weight and ignore_index: all).

    Returns:
        A module `loss(logits (B, K, H, W), target (B, H, W)) -> float32 scalar`.

    Raises:
        ValueError: an unknown name or a bad factor.
        TypeError: an argument that none of the losses has.
    """
    terms = [_parse(term, name) for term in name.split("+")]
    accepted = {argument: None for _, loss in terms for argument in inspect.signature(loss).parameters}
    for argument in arguments:
        if argument not in accepted:
            raise TypeError(f"loss {name!r} has no argument {argument!r}{did_you_mean(argument, list(accepted))}")
    built = []
    for weight, loss in terms:
        own = {key: value for key, value in arguments.items() if key in inspect.signature(loss).parameters}
        built.append((weight, loss(**own)))
    return built[0][1] if len(built) == 1 and built[0][0] == 1.0 else WeightedSum(built)


def build_label_loss(name: str, counts: Sequence[int]) -> nn.Module:
    """A loss of pictures with one class each, by name.

    Args:
        name: of `LABEL_LOSSES`; those of long tails without their background.  "eql:0.01" counts classes with less than a
            hundredth of the pictures as rare, instead of the published 1.77e-3.
        counts: training pictures of each class.

    Returns:
        A module `loss(logits (B, K), labels (B,)) -> float32 scalar`.

    Raises:
        ValueError: an unknown name, or a number that is no share.
    """
    key, _, told = name.strip().lower().partition(":")
    if key not in LABEL_LOSSES:
        raise ValueError(f"unknown loss of pictures {key!r}{did_you_mean(key, list(LABEL_LOSSES))}")
    if told and key != "eql":
        raise ValueError(
            f"loss {name!r} has the number {told!r}; only eql takes one, the share below which a class is rare"
        )
    if key == "eql":
        total = max(sum(counts), 1)
        try:
            rare = {"threshold": float(told)} if told else {}
        except ValueError:
            rare = {"threshold": math.nan}
        if rare and not 0 < rare["threshold"] < 1:
            raise ValueError(
                f"loss {name!r} has {told!r} for the share of pictures below which a class is rare; give a number between "
                "0 and 1, as in eql:0.01"
            )
        return EqualizationLoss([count / total for count in counts], **rare, background=False)
    if key == "federated":
        return FederatedLoss(list(counts), background=False)
    classes = {"eqlv2": EqualizationLossV2, "seesaw": SeesawLoss}
    return classes[key](len(counts), background=False) if key in classes else LabelCrossEntropy()


def _parse(term: str, name: str) -> tuple[float, type[PixelLoss]]:
    factor, star, key = term.rpartition("*")
    key = key.strip().lower().replace("-", "_")
    try:
        weight = float(factor) if star else 1.0
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"loss {name!r} has the factor {factor.strip()!r}; give a number above 0, as in 0.5*dice")
    if key not in LOSSES:
        raise ValueError(f"unknown loss {key!r}{did_you_mean(key, list(LOSSES))}")
    return weight, LOSSES[key]
