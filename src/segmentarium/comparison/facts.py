"""What a model is, whatever it was trained on: size, work, and what its paper says."""

from __future__ import annotations

from typing import Any

from segmentarium.contracts import Classifier, Model


def facts_of(model: Model, size: tuple[int, int], data: str) -> dict[str, Any]:
    """Parameters (1e6) and multiply-adds (1e9) of inference at `size`, and the card's scores on the data set `data`.

    size: (height, width) of the data's images; a model with a `long_side` of its own, and a classifier, is counted at what it
    sees of them.
    """
    from segmentarium.benchmarking.size import counted
    from segmentarium.inference.classifier import seen_square
    from segmentarium.registry import model_card

    if isinstance(model, Classifier):
        side, _ = seen_square(model)
        size = side, side
    size = model.preprocessing.size_of(size)
    name = model.registered_name
    parameters, work = counted(model, *model.example(1, size), training_only=False)
    card = model_card(name) if name else {"scores": {}, "paper": {}}
    return {
        "system": model.title,
        "parameters": parameters,
        "multiply_adds": work,
        "size": list(size),
        "published": {what: score for what, score in card["scores"].items() if data.lower() in what.lower()},
        "paper": card["paper"].get("url", ""),
        "trained_on": model.weights_header.get("dataset"),
        "licences": model.weights_header.get("licences", {}),
    }
