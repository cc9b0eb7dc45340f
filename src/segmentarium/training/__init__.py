"""Training: what is optimised and how.  `train(TrainingOptions(...))` is all of `segmentarium train`."""

from __future__ import annotations

from pathlib import Path

from segmentarium.training.options import TrainingOptions
from segmentarium.training.result import TrainingResult

__all__ = ["TrainingOptions", "TrainingResult", "load_recipe", "train"]


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
    import runpy

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no recipe at {path}")
    function = runpy.run_path(str(path)).get("recipe")
    if not callable(function):
        raise ValueError(f"{path} is no recipe: it has no function recipe() that returns TrainingOptions")
    options = function()
    if not isinstance(options, TrainingOptions):
        raise ValueError(f"{path}: recipe() returned {type(options).__name__}, not TrainingOptions")
    return options
