"""Training: what is optimised and how.  `train(TrainingOptions(...))` is all of `segmentarium train`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segmentarium.training.options import BEST_WEIGHTS, LAST, LAST_WEIGHTS, TrainingOptions

__all__ = ["TrainingOptions", "TrainingResult", "load_recipe", "load_recipes", "staged", "train"]


# kind of model that can be trained -> module of its task in `training.tasks`, and its class there
TASKS = {
    "segmenter": ("segmentation", "SegmentationTask"),
    "mask": ("masks", "MaskTask"),
    "instances": ("masks", "InstanceTask"),
    "classifier": ("classification", "ClassificationTask"),
    "keypoints": ("keypoints", "keypoint_task"),
    "pretrainer": ("pretraining", "PretrainingTask"),
    "detector3d": ("boxes3d", "Boxes3dTask"),
}


@dataclass(frozen=True)
class TrainingResult:
    """Where the files of a run lie, and how good its best weights are.

    best       scores of the best evaluation, with its "step" (of a segmenter "miou", "macc", "aacc" in 0..1 and "iou" by
               class); empty: none yet
    best_line  the score that decided, in words
    signal     the signal that stopped the run early, or None
    """

    folder: Path
    steps: int
    best: dict[str, Any] = field(default_factory=dict)
    best_line: str = ""
    signal: int | None = None

    @property
    def best_weights(self) -> Path:
        return self.folder / BEST_WEIGHTS

    @property
    def last_weights(self) -> Path:
        return self.folder / LAST_WEIGHTS

    @property
    def checkpoint(self) -> Path:
        return self.folder / LAST


def train(
    options: TrainingOptions | Sequence[TrainingOptions] | None = None, *, fit: Collection[str] = (), **values: Any
) -> TrainingResult:
    """Trains a model and keeps the best weights; see `TrainingOptions`.

    By keywords alone, `train(model="bisenetv2", data="folder", root="DIR")`, what is not said is taken by the pictures, the
    network and the machine, as `training/defaults.py` says; a record is taken as it is, but for keywords beside it, and for the
    names in `fit`, which are open in the same way.

    Several options are stages, trained one after the other as `staged` says; with `resume`, those that are done are left as
    they are, one that was begun goes on, and the others begin.  The result is that of the last stage that was trained.

    Raises ImportError without the extra packages of training, ValueError and FileNotFoundError for options, data or
    checkpoints that do not fit, NonFiniteLossError (a ValueError) when the loss or a weight becomes NaN or infinite,
    CheckpointWriteError (an OSError) when the disk is full.
    """
    try:
        import lightning.fabric  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(
            f"training needs Lightning ({error}); install it by: pip install 'segmentarium[train]'"
        ) from error
    from segmentarium.training.loop import run

    if options is None:
        from segmentarium.training.defaults import open_options

        options, fit = open_options(values)
    elif values:
        stages = [options] if isinstance(options, TrainingOptions) else options
        options = [stage.changed(values) for stage in stages]
    if not isinstance(options, TrainingOptions) and len(options) == 1:
        (options,) = options
    first, *later = [options] if isinstance(options, TrainingOptions) else staged(options)
    result = run(first, fit)
    for stage in later:
        if result.signal is not None:
            break
        result = run(stage.replace(resume=stage.resume and (Path(stage.folder) / LAST).is_file()))
    return result


def staged(stages: Sequence[TrainingOptions]) -> list[TrainingOptions]:
    """The stages of a recipe, each from the last weights of the one before, unless it names others.

    Each has a folder of its own: where several name the same, FOLDER-1, FOLDER-2, …
    """
    if not stages:
        raise ValueError("there is no stage to train; give the options of one or more")
    shared = len({stage.folder for stage in stages}) < len(stages)
    found: list[TrainingOptions] = []
    for number, stage in enumerate(stages, 1):
        if shared:
            stage = stage.replace(output=f"{stage.folder}-{number}")
        if found and stage.weights is None:
            stage = stage.replace(weights=str(Path(found[-1].folder) / LAST_WEIGHTS))
        found.append(stage)
    return found


def load_recipe(path: str | Path) -> list[TrainingOptions]:
    """The options of each stage of a file's one recipe; see `load_recipes`, which says what it raises."""
    found = load_recipes(path)
    if len(found) != 1:
        raise ValueError(
            f"{path} holds {len(found)} recipes ({', '.join(list(found)[:6])}, …), and one can be trained at a time; "
            f"train them all: segmentarium compare --recipes {path}"
        )
    return next(iter(found.values()))


def load_recipes(path: str | Path) -> dict[str, list[TrainingOptions]]:
    """The recipes of a Python file: name -> the options of each stage.

    Its function `recipe()` returns one TrainingOptions, or several, and is called as the file; or `recipes()` returns such by
    name.  The file is executed: it is code.  It may import modules that lie beside it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no recipe at {path}")
    functions = _run_beside(path)
    one, several = functions.get("recipe"), functions.get("recipes")
    if callable(one):
        return {path.stem: _stages(one(), f"{path}: recipe()")}
    if not callable(several):
        raise ValueError(f"{path} is no recipe: it has no function recipe() that returns TrainingOptions")
    named: Any = several()
    return {name: _stages(found, f"{path}: recipes()[{name!r}]") for name, found in named.items()}


def _stages(found: Any, what: str) -> list[TrainingOptions]:
    stages = list(found) if isinstance(found, list | tuple) else [found]
    wrong = [type(stage).__name__ for stage in stages if not isinstance(stage, TrainingOptions)]
    if wrong or not stages:
        raise ValueError(f"{what} returned {wrong[0] if wrong else 'no stage'}, not TrainingOptions")
    return stages


def _run_beside(path: Path) -> dict[str, Any]:
    """Executes a file that may import its neighbours, which are forgotten afterwards: other folders have others."""
    import runpy
    import sys

    folder = str(path.resolve().parent)
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        return runpy.run_path(str(path))
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - before:
            if str(Path(getattr(sys.modules[name], "__file__", None) or "").parent) == folder:
                del sys.modules[name]
