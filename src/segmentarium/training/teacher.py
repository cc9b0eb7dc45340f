"""A trained model beside the one that learns: its class scores are a second target (Hinton et al., 2015)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segmentarium.contracts import LabelledModel, SegmentationModel, Term
from segmentarium.layers.resize import resize
from segmentarium.losses import Consistency
from segmentarium.training.options import TrainingOptions
from segmentarium.weights import load


def with_teacher(model: Any, options: TrainingOptions) -> Teacher | None:
    """The options' teacher, and the term of the objective that holds the model's scores against the teacher's; None: no teacher.

    Raises ValueError where the two do not score the same classes.
    """
    if options.teacher is None:
        return None
    found = load(options.teacher)
    if not isinstance(found, SegmentationModel) or found.classes != model.classes:
        what = ", ".join(found.classes[:6]) if isinstance(found, LabelledModel) else f"nothing: it is a {found.kind}"
        raise ValueError(
            f"teacher {options.teacher!r} scores {what}, but the data have {', '.join(model.classes[:6])}; "
            "give a segmenter that was trained on these classes"
        )
    weight = options.teacher_weight * len(model.classes)  # the loss is a mean over classes as well
    term = Term("teacher", weight, Consistency(), of=("logits", "teacher"), at="output", classes=False)
    model.set_objective(*model.objective, term)
    return Teacher(found.deploy(), model)


class Teacher(nn.Module):
    """A model that is ready for inference, for pictures that were normalised for another."""

    ratio: Tensor
    shift: Tensor

    def __init__(self, model: SegmentationModel, pupil: SegmentationModel) -> None:
        super().__init__()
        self.model = model
        ours, theirs = model.preprocessing, pupil.preprocessing
        ratio = [s / o for s, o in zip(theirs.std, ours.std, strict=True)]
        shift = [(t - o) / s for t, o, s in zip(theirs.mean, ours.mean, ours.std, strict=True)]
        self.register_buffer("ratio", torch.tensor(ratio).view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(-1, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, C, H, W), normalised for the pupil -> logits (B, K, *size)"""
        logits = self.model(image * self.ratio + self.shift)
        return resize(logits.float(), size, align_corners=self.model.align_corners)
