"""Training: what is optimised and how.  `train(TrainingOptions(...))` is all of `segmentarium train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segmentarium.training.options import TrainingOptions
from segmentarium.training.result import TrainingResult

__all__ = ["TrainingOptions", "TrainingResult", "load_recipe", "load_stages", "train"]


def train(options: TrainingOptions) -> TrainingResult:
    """Trains a model and keeps the best weights; see `TrainingOptions`.

    Raises ImportError without the extra packages of training, ValueError and FileNotFoundError for options, data or
    checkpoints that do not fit, NonFiniteLossError (a ValueError) when the loss or a weight becomes NaN or infinite,
    CheckpointWriteError (an OSError) when the disk is full.
    """
    try:
        import lightning.pytorch  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(
            f"training needs Lightning ({error}); install it by: pip install 'segmentarium[train]'"
        ) from error
    from segmentarium.training.run import run

    return run(options)


def load_recipe(path: str | Path) -> TrainingOptions:
    """The options that the function `recipe()` of a Python file returns.  The file is executed: it is code."""
    stages = load_stages(path)
    if len(stages) > 1:
        raise ValueError(
            f"{path} trains in {len(stages)} stages, each from the weights of the one before; "
            f"run it by: segmentarium compare --recipes {path} --out DIR"
        )
    return stages[0]


def load_stages(path: str | Path) -> list[TrainingOptions]:
    """The options of each stage of a recipe: `recipe()` returns one TrainingOptions, or several for several stages.

    A recipe may import modules that lie beside it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no recipe at {path}")
    function = _run_beside(path).get("recipe")
    if not callable(function):
        raise ValueError(f"{path} is no recipe: it has no function recipe() that returns TrainingOptions")
    found: Any = function()
    stages = list(found) if isinstance(found, list | tuple) else [found]
    wrong = [type(stage).__name__ for stage in stages if not isinstance(stage, TrainingOptions)]
    if wrong or not stages:
        raise ValueError(f"{path}: recipe() returned {wrong[0] if wrong else 'no stage'}, not TrainingOptions")
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
