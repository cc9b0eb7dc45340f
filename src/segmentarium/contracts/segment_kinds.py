"""The kinds of models that tell segments apart: mask classifiers, and detectors with masks."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from segmentarium.checks import check_choice
from segmentarium.contracts.instance_set import InstanceSet
from segmentarium.contracts.kinds import ColouredModel
from segmentarium.contracts.model import LabelledModel, Model
from segmentarium.contracts.results import Instances, MaskSet
from segmentarium.palette import default_palette

TASKS = ("semantic", "instance", "panoptic")  # what masks and their classes are read for
SURE = 0.01  # how near to 0 and 1 a score of one class counts: further on, its logit would only magnify rounding


class MaskModel(ColouredModel):
    """(B, C, H, W) -> (B, K, H, W) semantic scores at the image's size, of masks and their classes.

    A subclass gives `forward_masks`, at a resolution of its choice.  The scores are sums of probabilities, no logits.  A class
    is a kind of segment and none stands for "nothing", so `num_classes=1` has one name; there `forward` gives a sigmoid logit,
    as everywhere with one class: greater than 0 where the score is greater than a half.

    things   classes whose segments are told apart, by index, or how many of the first classes; None: nobody says, and all may
             be.  Those of the others are one segment a picture
    """

    kind = "mask"
    output_names = ("scores",)

    def __init__(self, *, num_classes: int, in_channels: int = 3, things: int | Collection[int] | None = None) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.classes = self.classes[:num_classes]
        self.palette = default_palette(num_classes + 1)[1:]  # black is left to what is no segment
        told = range(things) if isinstance(things, int) else things
        self._things: tuple[int, ...] | None = None if told is None else tuple(sorted(set(told)))
        if any(index not in range(num_classes) for index in self.things):
            raise ValueError(f"things is {things}; give indices of the {num_classes} classes, or how many of the first")

    @property
    def things(self) -> tuple[int, ...]:
        """Indices of the classes whose segments are told apart."""
        return tuple(range(self.num_classes)) if self._things is None else self._things

    @things.setter
    def things(self, indices: Collection[int]) -> None:
        self._things = tuple(sorted(set(indices)))

    @property
    def task(self) -> str:
        """What it is used for where nobody says: "instance" where all classes are told apart, "panoptic" where some are,
        "semantic" where none is or nobody has said."""
        return "semantic" if self._things is None else task_of(self._things, self.num_classes)

    def labels(self) -> dict[str, Any]:
        return super().labels() | ({} if self._things is None else {"things": list(self._things)})

    def shifted(self) -> Iterator[None]:
        """While one goes through it, what the network decides by a comparison is decided a little above and a little below."""
        yield from ()

    def near_ties(self, *inputs: Tensor) -> list[Any]:
        return [self(*inputs) for _ in self.shifted()]

    def forward_masks(self, image: Tensor) -> MaskSet:
        """(B, C, H, W) -> class_logits (B, Q, K + 1), mask_logits (B, Q, h, w)"""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        scores = self.forward_masks(image).at((height, width)).semantic()
        return scores if self.num_classes > 1 else scores.clamp(SURE, 1 - SURE).logit()


def task_of(things: Collection[int], num_classes: int) -> str:
    """What segments of `num_classes` classes are for, of which `things` are told apart: "instance" where all are, "panoptic"
    where some are, "semantic" where none is."""
    return "semantic" if not things else "instance" if len(things) == num_classes else "panoptic"


def asked_task(model: Model, task: str | None) -> str:
    """ "semantic", "instance" or "panoptic": as asked for, else what the model is used for.

    Raises ValueError for another word, and where a model that gives no masks is asked to tell segments apart.
    """
    check_choice("task", task, (*TASKS, None))
    if isinstance(model, MaskModel):
        return model.task if task is None else task
    if isinstance(model, InstanceModel):
        if task not in (None, "instance"):
            raise ValueError(
                f"{model.title} finds objects and leaves the rest alone: give task='instance', not {task!r}"
            )
        return "instance"
    if task not in (None, "semantic"):
        raise ValueError(f"{model.title} is a {model.kind}, which tells no segments apart: leave task ({task!r}) out")
    return "semantic"


class MaskOutputs(ColouredModel):
    """A mask classifier whose `forward` gives its masks: (B, C, H, W) -> class logits (B, Q, K + 1), the last of them "no
    object", and mask logits (B, Q, h, w).

    What is exported where segments are told apart by others; `network` is the mask classifier itself.
    """

    kind = "mask"
    output_names = ("class_logits", "mask_logits")

    def __init__(self, network: MaskModel) -> None:
        super().__init__(num_classes=network.num_classes, in_channels=network.in_channels)
        self.network = network
        self.classes, self.palette, self.fixed_size = network.classes, network.palette, network.fixed_size
        self.preprocessing, self.weights_header = network.preprocessing, network.weights_header
        self.registered_name, self.given_arguments = network.registered_name, network.given_arguments
        self.train(network.training)

    def labels(self) -> dict[str, Any]:
        return self.network.labels()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network.forward_masks(image)
        return found.class_logits, found.mask_logits

    def near_ties(self, *inputs: Tensor) -> list[Any]:
        return [self(*inputs) for _ in self.network.shifted()]

    def deploy(self) -> MaskOutputs:  # type: ignore[override]
        return MaskOutputs(self.network.deploy())


class InstanceModel(LabelledModel):
    """(B, C, H, W) -> boxes (B, N, 4), labels (B, N), scores (B, N), masks (B, N, H, W): N places a picture, best first.

    boxes    x0, y0, x1, y1 in pixels of the image
    labels   int64 class indices; -1: the place is empty
    scores   in [0, 1]
    masks    probabilities at the image's size

    `things` are the classes that have instances, by index; stuff, which data may label besides, is learned by branches for it.
    A subclass gives `forward_instances`, and as it chooses by what is labelled which boxes it learns from, its `forward_train`
    takes the segments of each picture besides.  A class is a kind of thing; the background is none, so `num_classes=1` has one
    name.
    """

    kind = "instances"
    output_names = ("boxes", "labels", "scores", "masks")
    train_inputs = ("segments",)

    def __init__(self, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.classes = self.classes[:num_classes]
        self.palette: tuple[tuple[int, int, int], ...] = default_palette(num_classes + 1)[1:]  # black is nobody's
        self.things: tuple[int, ...] = tuple(range(num_classes))

    def labels(self) -> dict[str, Any]:
        palette = [list(colour) for colour in self.palette]
        return super().labels() | {"palette": palette, "things": list(self.things)}

    def forward_instances(self, image: Tensor) -> InstanceSet:
        """(B, C, H, W) -> boxes (B, N, 4), labels (B, N), scores (B, N), masks (B, N, m, m) in their boxes"""
        raise NotImplementedError

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        height, width = image.shape[-2:]
        found = self.forward_instances(image)
        return found.boxes, found.labels, found.scores, found.pasted((height, width))

    @torch.no_grad()
    def detect(self, image: Tensor, *, threshold: float = 0.5, inside: float = 0.5) -> list[Instances]:
        """(B, C, H, W), normalised -> the instances of each picture with scores from `threshold` on.

        inside   probability from which on a pixel belongs to a mask
        """
        height, width = image.shape[-2:]
        return self.forward_instances(image).instances((height, width), threshold=threshold, inside=inside)
