"""Tasks: all that differs between kinds of training.  The loop is what they share."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lightning.fabric import Fabric

from segmentarium.contracts import Model
from segmentarium.training.loaders import TimedLoader
from segmentarium.training.options import KINDS, TrainingOptions


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    scores   plain data, for the header of the weights and the result of the run
    row      numbers of the log; None: nothing to measure
    line     the same in words
    doubt    why the scores look as if something were wrong with the labels, or None
    """

    scores: dict[str, Any]
    row: Mapping[str, float | None]
    line: str
    doubt: str | None = None


class Task(Protocol):
    """What is trained on what, and who says whether it got better.

    options               may be replaced until `model` is called: what was left open is closed by what `train_set` holds
    train_set, val_set    data sets: `info` has their name, classes and licence; `notes` lines to read; `preload()` reads all
    crop_size             (height, width) of what the model sees in training
    best_key, best_name   the score that decides which weights are kept, the greater the better; and what it is called
    shares                whether that is a share, which is said in percent
    """

    best_key: str
    best_name: str
    shares: bool
    options: TrainingOptions
    train_set: Any
    val_set: Any

    @property
    def crop_size(self) -> tuple[int, int]: ...

    def __init__(self, options: TrainingOptions) -> None:
        """Opens the data sets.  Raises what they raise for a folder that does not fit."""
        ...

    def check(self) -> Iterator[str]:
        """Looks at the first labels: raises for what cannot be trained on, yields a line for what is worth knowing."""
        ...

    def model(self) -> Model:
        """The options' model for these data, with its objective.  Raises ValueError where the two do not fit."""
        ...

    def batches(self, model: Model, fabric: Fabric, micro_batch: int, step: int) -> TimedLoader:
        """This process's endless batches, from where step `step` begins: what `model.inputs` and its terms read, and "name"."""
        ...

    def evaluate(self, model: Model, fabric: Fabric, batch_size: int, stopped: Callable[[], bool]) -> Evaluation | None:
        """Scores the model, each of several processes on its part and all with the same result; the model stays as it is.

        `stopped` is asked before each batch: None if it says so.
        """
        ...

    def draw(self, model: Model, fabric: Fabric, path: Path) -> None:
        """Writes a picture of what the model makes of the first few validation samples."""
        ...


def refuse_unused(options: TrainingOptions, names: Iterable[str], why: str) -> None:
    """Raises ValueError where options of `names` are set, of which the task makes nothing.

    why   the model or the data set and what it is, such as "'pointpillars' finds boxes in point clouds"
    """
    if unused := options.said(names):
        raise ValueError(f"{why}, and has no use for {', '.join(unused)}; leave that out")


def task_for(options: TrainingOptions) -> Task:
    """The task that trains the options' kind of model.  Raises ValueError where there is none."""
    from segmentarium.registry import entry
    from segmentarium.training import TASKS

    name = options.model
    kind = entry(name if name.startswith("timm:") else name.partition(".")[0]).kind
    if kind not in TASKS:
        raise ValueError(
            f"{name!r} is no {' or '.join(TASKS)} but a {kind}; see `segmentarium models` for what can be trained"
        )
    if foreign := options.foreign(kind):
        word = KINDS[kind].removesuffix("s")
        raise ValueError(f"{name!r} is a {word}, which has no use for {', '.join(foreign)}; leave that out")
    module, task = TASKS[kind]
    return getattr(importlib.import_module(f"{__name__}.{module}"), task)(options)
