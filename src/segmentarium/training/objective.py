"""The loss of a run where the options change the model's own: another loss by name, and class weights."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from segmentarium.contracts import LabelledModel
from segmentarium.data import SegmentationDataset
from segmentarium.losses import build_loss, class_weights
from segmentarium.losses.weighting import METHODS
from segmentarium.training.options import TrainingOptions
from segmentarium.training.preflight import count_labels


def set_objective(model: LabelledModel, dataset: SegmentationDataset, options: TrainingOptions) -> None:
    """Puts the options' loss and class weights on the model."""
    if options.loss is not None:
        replace_loss(model, options.loss)
    weights = parse_class_weight(options.class_weight, dataset)
    if weights is not None:
        model.set_class_weights(weights)


def replace_loss(model: LabelledModel, name: str) -> None:
    """Every loss on class scores becomes `build_loss(name)`; losses on boundaries or details, and all weights, stay."""
    terms = [replace(term, loss=build_loss(name)) if term.classes else term for term in model.objective]
    model.set_objective(*terms)


def parse_class_weight(text: str, dataset: SegmentationDataset) -> Tensor | None:
    """ "none", "auto", a formula ("erfnet", "enet:1.2" for another offset), or one number a class -> (K,) or None.

    Raises ValueError for anything else, and for numbers that are negative, not finite, or all 0.
    """
    if text == "none":
        return None
    method, _, offset = text.partition(":")
    if method in ("auto", *METHODS):
        try:
            number = float(offset) if offset else None
        except ValueError:
            number = math.nan
        if number is not None and not math.isfinite(number):
            raise ValueError(
                f"class_weight is {text!r}, and the offset {offset!r} is no number; give one above 1, such as enet:1.2"
            )
        name: Any = "enet" if method == "auto" else method
        return class_weights(count_labels(dataset), name, offset=number)
    try:
        weights = torch.tensor([float(word) for word in text.split(",")])
    except ValueError:
        formulas = ", ".join(METHODS)
        raise ValueError(
            f"class_weight is {text!r}; give none, auto, a formula ({formulas}), or numbers such as 1,2.5,1"
        ) from None
    if len(weights) != dataset.info.num_classes:
        raise ValueError(
            f"class_weight has {len(weights)} numbers, but data set {dataset.info.name!r} has "
            f"{dataset.info.num_classes} classes; give one for each: {', '.join(dataset.info.classes)}"
        )
    if not bool(((weights >= 0) & weights.isfinite()).all() and weights.any()):
        raise ValueError(f"class_weight is {text!r}; give finite numbers of 0 or more, one of them above 0")
    return weights
