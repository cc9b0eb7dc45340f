"""The run's files: `last.ckpt` holds all that continuing needs, `best.safetensors` and `last.safetensors` the weights.

Each is written beside its final name and renamed, so that a kill or a full disk leaves the previous one whole.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from segmentarium.files import atomic_write
from segmentarium.training.options import TrainingOptions, changed_options

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from segmentarium.training.task import SegmentationTask

LAST, LAST_WEIGHTS, BEST_WEIGHTS = "last.ckpt", "last.safetensors", "best.safetensors"


class CheckpointWriteError(OSError):
    """A checkpoint could not be written; the previous one is whole."""


class ResumeError(ValueError):
    """The run cannot be continued as asked."""


@contextmanager
def kept_on_failure(path: Path) -> Iterator[None]:
    """Turns what an atomic write of `path` may raise into a CheckpointWriteError that says what is left."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # PyTorch's writer: RuntimeError on a full disk
        kept = "the previous one is whole" if path.exists() else "there is none before it"
        raise CheckpointWriteError(f"{path} could not be written ({error}); {kept}. Is the disk full?") from error


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """torch.save, atomically.  Raises CheckpointWriteError."""
    with kept_on_failure(path), atomic_write(path) as temporary:
        torch.save(state, temporary)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of `training_state`, onto the CPU.  Raises ResumeError for a missing, damaged or foreign file."""
    if not path.is_file():
        raise ResumeError(f"nothing to resume: there is no {path}; start the run without --resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ResumeError(f"{path} cannot be read ({str(error).splitlines()[0]}); is it whole?") from error
    if not isinstance(state, dict) or not {"step", "options", "optimizer_states"} <= state.keys():
        raise ResumeError(f"{path} is no checkpoint of `segmentarium train`; models are given by --weights")
    return state


def check_options(state: dict[str, Any], options: TrainingOptions) -> None:
    """Raises ResumeError, listing them, if options differ that change the weights that come out."""
    changed = changed_options(state["options"], options.as_dict())
    if changed and not options.allow_changed_options:
        lines = [f"  {name}: {old!r} -> {new!r}" for name, (old, new) in changed.items()]
        raise ResumeError(
            "the run to be resumed had other options:\n" + "\n".join(lines) + "\n"
            "give the same as before, or --allow-changed-options to continue with these"
        )


def training_state(trainer: Trainer, task: SegmentationTask) -> dict[str, Any]:
    """All that continuing needs; the learning rate, the data's order and the random numbers follow from `step`."""
    averaged = task.averaged
    return {
        "format": 1,
        "step": task.step,
        "options": task.options.as_dict(),
        "state_dict": trainer.strategy.lightning_module_state_dict(),
        "optimizer_states": [trainer.strategy.optimizer_state(optimizer) for optimizer in trainer.optimizers],
        "precision_state": trainer.precision_plugin.state_dict(),
        "averaged": None if averaged is None else averaged.model.state_dict(),
        "averaged_updates": 0 if averaged is None else averaged.updates,
        "sampler": {"seed": task.options.seed, "position": task.step * task.options.batch_size},
        "best": task.best,
        "validated_step": task.validated_step,
    }


def restore(trainer: Trainer, task: SegmentationTask, state: dict[str, Any]) -> None:
    """Puts a `training_state` back, once Lightning has set up model and optimiser."""
    trainer.strategy.load_model_state_dict(state, strict=True)
    rates = [
        [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
        for optimizer in trainer.optimizers
    ]
    trainer.strategy.load_optimizer_state_dict(state)
    for optimizer, groups in zip(trainer.optimizers, rates, strict=True):
        for group, values in zip(optimizer.param_groups, groups, strict=True):
            group.update(values)  # where changed options were allowed, the state must not bring back the old ones
    if state["precision_state"]:
        trainer.precision_plugin.load_state_dict(state["precision_state"])
    if task.averaged is not None and state["averaged"] is not None:
        task.averaged.model.load_state_dict(state["averaged"])
        task.averaged.updates = state["averaged_updates"]
