"""The heads that look at one region each: its class and box, and its mask.

Box head: two fully connected layers (FPN, 1612.03144), or convolutions first.  Mask head: four 3×3 convolutions, one transposed,
and a mask for each class (Mask R-CNN, 1703.06870); of a hybrid task cascade (1901.07518), with the mask feature of the stage
before added to what the region shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pkgutil import resolve_name
from typing import Any

from torch import Tensor, nn

from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier, init_convs
from segmentarium.layers.roi_align import RoIAlign

Norm = Callable[[int], nn.Module] | None


class BoxClassifier(nn.Module):
    """Features of regions (N, channels) -> scores (N, width), and what they say of the classes.

    Another way to classify is a subclass that is named in `CLASSIFIERS`: it may have another `width`, and says by
    `probabilities` what its scores mean.  Its loss (`CLASS_LOSSES`) takes the scores as they are.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.scores = init_classifier(nn.Linear(channels, num_classes + 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels) -> (N, width); here one score a class, and the last of nothing"""
        return self.scores(x)

    def probabilities(self, scores: Tensor) -> Tensor:
        """(N, width) -> (N, K + 1), float32, the last of nothing"""
        return scores.float().softmax(-1)


class ClassCrossEntropy(nn.Module):
    """(N, K + 1) scores, (N,) labels, K for nothing -> their mean cross entropy."""

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(scores, labels)


# name -> where it is: what scores a region's classes, (channels, num_classes, **arguments) -> BoxClassifier
CLASSIFIERS: dict[str, str] = {
    "linear": "segmentarium.instances.heads:BoxClassifier",
    "eql": "segmentarium.instances.class_scores:eql_scores",
    "eqlv2": "segmentarium.instances.class_scores:eqlv2_scores",
    "seesaw": "segmentarium.instances.class_scores:seesaw_scores",
    "bags": "segmentarium.instances.class_scores:bags_scores",
}
# name -> what these scores are trained by, (**arguments) -> module: (scores (N, width), labels (N,)) -> scalar
CLASS_LOSSES: dict[str, str] = {
    "cross_entropy": "segmentarium.instances.heads:ClassCrossEntropy",
    "eql": "segmentarium.losses:EqualizationLoss",
    "federated": "segmentarium.losses:FederatedLoss",
    "eqlv2": "segmentarium.losses:EqualizationLossV2",
    "seesaw": "segmentarium.losses:SeesawLoss",
    "bags": "segmentarium.losses:BalancedGroups",
}
# name -> what gives a region's masks, (channels, masks, **arguments) -> module: (N, channels, m, m) -> (N, masks, m, m)
MASK_CLASSIFIERS: dict[str, str] = {
    "linear": "segmentarium.instances.heads:mask_classifier",
    "cosine": "segmentarium.layers.cosine:CosineConv1x1",
}
# name -> what these are trained by, () -> module: (logits (P, m, m), targets, weights) -> scalar
MASK_LOSSES: dict[str, str] = {
    "cross_entropy": "segmentarium.instances.losses:MaskCrossEntropy",
    "balanced": "segmentarium.instances.good_mask:BalancedMaskLoss",
}
# name -> what cuts out the regions that mask heads see, (strides, size, **arguments) -> RoIAlign: by the box's scale, or also by
# the share of it that the mask fills
MASK_REGIONS: dict[str, str] = {
    "scale": "segmentarium.layers.roi_align:RoIAlign",
    "share": "segmentarium.instances.good_mask:RoIAlignByShare",
}


def named(table: Mapping[str, str], what: str, name: str, *given: Any, **arguments: Any) -> nn.Module:
    """The module that `name` stands for in one of these tables."""
    if name not in table:
        raise ValueError(f"{what} is {name!r}; give {' or '.join(map(repr, table))}")
    return resolve_name(table[name])(*given, **arguments)


def mask_regions(name: str, strides: Sequence[int], size: int, **arguments: Any) -> RoIAlign:
    """What cuts out the regions that mask heads see."""
    found = named(MASK_REGIONS, "mask_levels", name, strides, size, **arguments)
    assert isinstance(found, RoIAlign)
    return found


def mask_classifier(channels: int, masks: int) -> nn.Conv2d:
    """A 1×1 convolution."""
    return init_classifier(nn.Conv2d(channels, masks, 1))


class BoxHead(nn.Module):
    """Regions (N, channels, size, size) -> scores of their classes (N, width), and deltas of their boxes (N, 4 · boxes).

    boxes       that are told of each region: 1, or one for each class
    convs       3×3 convolutions before the fully connected layers
    layers      fully connected layers
    classifier  what scores the classes of features
    """

    def __init__(
        self,
        channels: int,
        size: int,
        boxes: int,
        classifier: Callable[[int], BoxClassifier],
        *,
        hidden: int = 1024,
        convs: int = 0,
        layers: int = 2,
        norm: Norm = None,
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(ConvNormAct(channels, channels, norm=norm) for _ in range(convs)))
        init_convs(self.convs, mode="fan_out")
        widths = [channels * size * size, *[hidden] * layers]
        self.layers = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(layers))
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.weight)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
        self.classifier = classifier(hidden)
        self.deltas = init_classifier(nn.Linear(hidden, 4 * boxes), std=0.001)

    def features(self, x: Tensor) -> Tensor:
        """(N, channels, size, size) -> (N, hidden): what both layers see"""
        x = self.convs(x).flatten(1)
        for layer in self.layers:
            x = nn.functional.relu(layer(x))
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.features(x)
        return self.classifier(x), self.deltas(x)


class MaskHead(nn.Module):
    """Regions (N, channels, s, s) -> mask logits (N, masks, 2s, 2s).

    previous  the mask feature of the stage before is taken in (figure 2d of HTC)
    """

    def __init__(
        self,
        channels: int,
        masks: int,
        classifier: Callable[[int, int], nn.Module] = mask_classifier,
        *,
        width: int = 256,
        convs: int = 4,
        norm: Norm = None,
        previous: bool = False,
    ) -> None:
        super().__init__()
        self.previous = ConvNormAct(width, channels, 1, norm=None) if previous else None
        self.convs = nn.Sequential(*(ConvNormAct(width if i else channels, width, norm=norm) for i in range(convs)))
        self.enlarge = nn.ConvTranspose2d(width, width, 2, 2)
        init_convs(self.previous, self.convs, self.enlarge, mode="fan_out")
        self.classifier = classifier(width, masks)

    def features(self, x: Tensor, previous: Tensor | None = None) -> Tensor:
        """(N, channels, s, s), and the stage before's (N, width, s, s) -> (N, width, s, s)"""
        if self.previous is not None:
            assert previous is not None
            x = x + self.previous(previous)
        return self.convs(x)

    def masks(self, features: Tensor) -> Tensor:
        """(N, width, s, s) -> (N, masks, 2s, 2s) logits"""
        return self.classifier(nn.functional.relu(self.enlarge(features)))

    def forward(self, x: Tensor) -> Tensor:
        return self.masks(self.features(x))
