"""One list of all names: models, weights of the catalogue, published checkpoints, systems.  What a wrong one may have meant.

Every door answers from here: a model's name where weights are wanted, an alias of weights where a model is, a system that has
several models, and what is merely misspelt.
"""

from __future__ import annotations

from collections.abc import Iterable

from segmentarium.checks import did_you_mean
from segmentarium.registry import known
from segmentarium.weights import catalogue

SHOWN = 3  # names of one kind in an answer


def systems() -> dict[str, list[str]]:
    """System (the name of its file) -> its models, in their order."""
    found: dict[str, list[str]] = {}
    for name, facts in known().items():
        found.setdefault(facts["module"].rpartition(".")[2], []).append(name)
    return found


def no_model(name: str) -> str:
    """What is to be said of `name` where a model was asked for and none is called so: how the sentence ends."""
    own = catalogue.find(name)
    if own is not None:
        return f": it names weights, of {own.model}; give load({name!r}), or create_model({own.name!r})"
    if name in systems():
        return f": it is a system, whose models are {_listed(systems()[name], 12)}"
    return _near(name, [*known(), *systems(), *catalogue.list_weights()])


def no_weights(name: str) -> str:
    """The same where weights were asked for and `name` is neither of the catalogue, nor published, nor a file."""
    from segmentarium.weights.published import published  # whose key tables import PyTorch

    models = [name] if name in known() else systems().get(name, [])
    if not models:
        return _near(name, [*catalogue.list_weights(), *published(), *known(), *systems()])
    what = "a model" if name in known() else "a system"
    offered = [*_of_models(models, catalogue.list_weights()), *_of_models(models, published())]
    train = f"train it (`segmentarium train --model {models[0]}`)"
    if not offered:
        return f": it is {what} without weights; {train} and give its file"
    return f": it is {what}; {train}, or give weights of it: {_listed(offered)}"


def _of_models(models: list[str], weights: Iterable[str]) -> list[str]:
    return [name for name in weights if name.partition(".")[0] in models]


def _listed(names: list[str], shown: int = SHOWN) -> str:
    more = f", … ({len(names)} in all)" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + more


def _near(name: str, names: Iterable[str]) -> str:
    answer = did_you_mean(name, list(names))
    return answer if "did you mean" in answer else "; `segmentarium models` and `segmentarium weights` list all names"
