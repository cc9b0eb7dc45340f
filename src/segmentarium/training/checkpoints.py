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
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from segmentarium.data.seen import seen
from segmentarium.files import atomic_write
from segmentarium.training.options import (
    BEST_WEIGHTS,
    LAST,
    LAST_WEIGHTS,
    TrainingOptions,
    changed_options,
    command_of,
)

if TYPE_CHECKING:
    from segmentarium.training.loop import Training

FORMAT = 2


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
    with kept_on_failure(path), atomic_write(path, plain=True) as temporary:
        torch.save(state, temporary)


def write_weights(training: Training, name: str, scores: dict[str, Any]) -> None:
    """The kept model's file, atomically; its header says where it comes from and how good it is."""
    from segmentarium.weights import save

    info = training.task.train_set.info
    if training.seen is None:  # once a run
        training.seen = seen(training.task.train_set, training.model.weights_header.get("seen")) or {}
    facts = {
        "dataset": info.name,
        "licences": {"code": "Apache-2.0", "training data": info.licence},
        "command": command_of(training.options),
        "step": training.step,
        "seen": training.seen,
        "metrics": {key: value for key, value in scores.items() if isinstance(value, float)},
    }
    with kept_on_failure(training.folder / name):
        save(training.kept, training.folder / name, **facts)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of `training_state`, onto the CPU.  Raises ResumeError for a missing, damaged or foreign file."""
    if not path.is_file():
        raise ResumeError(f"nothing to resume: there is no {path}; start the run without --resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ResumeError(f"{path} cannot be read ({str(error).splitlines()[0]}); is it whole?") from error
    if not isinstance(state, dict) or not {"step", "options", "format"} <= state.keys():
        raise ResumeError(f"{path} is no checkpoint of `segmentarium train`; models are given by --weights")
    if state["format"] != FORMAT:
        raise ResumeError(
            f"{path} was written by another version (format {state['format']}, here {FORMAT}), which alone can resume it; "
            f"to train on with this one, start a new run from its weights: --weights {path.parent / LAST_WEIGHTS}"
        )
    return state


def check_options(state: dict[str, Any], options: TrainingOptions) -> None:
    """Raises ResumeError, listing them, if options differ that change the weights that come out."""
    new = options.as_dict()
    if new["micro_batch"] is None:  # what fitted into memory then
        new["micro_batch"] = state["options"].get("micro_batch")
    changed = changed_options(state["options"], new)
    if changed and not options.allow_changed_options:
        lines = [f"  {name}: {old!r} -> {new!r}" for name, (old, new) in changed.items()]
        raise ResumeError(
            "the run to be resumed had other options:\n" + "\n".join(lines) + "\n"
            "give the same as before, or --allow-changed-options to continue with these"
        )


def training_state(training: Training) -> dict[str, Any]:
    """All that continuing needs; the learning rate, the data's order and the random numbers follow from `step`.

    Every process must call it: where the weights are sharded, they come together on the first one.
    """
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    model, optimizer = get_state_dict(training.model, training.optimizer.optimizer, options=whole)
    average = training.average
    return {
        "format": FORMAT,
        "step": training.step,
        "processes": training.fabric.world_size,
        "options": training.options.as_dict(),
        "model": model,
        "optimizer": optimizer,
        "precision": training.fabric.strategy.precision.state_dict(),
        "losses": {name: value.cpu() for name, value in training.model.losses.named_buffers()},
        "averaged": None if average is None else average.model.state_dict(),
        "averaged_updates": 0 if average is None else average.updates,
        "best": training.best,
        "validated_step": training.validated_step,
    }


def restore(training: Training, state: dict[str, Any]) -> None:
    """Puts a `training_state` back into a training that has started.

    ResumeError where the run had another number of processes: samples and rates would be the same, but batch norms would see
    other batches, so that other weights come out.
    """
    before, now = state.get("processes"), training.fabric.world_size
    if before not in (None, now) and not training.options.allow_changed_options:
        raise ResumeError(
            f"the run to be resumed had {before} process(es), and now there are {now}; start as many (--devices, --num-nodes), "
            "or give --allow-changed-options: the same pictures in the same order then go through other passes"
        )
    optimizer = training.optimizer.optimizer
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    set_state_dict(
        training.model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=StateDictOptions(full_state_dict=True),
    )
    memories = dict(training.model.losses.named_buffers())
    for name, value in state.get(
        "losses", {}
    ).items():  # what losses remember of earlier steps is in no file of weights
        if name in memories and memories[name].shape == value.shape:  # with changed options it may be another loss
            memories[name].copy_(value)
    for group, values in zip(optimizer.param_groups, groups, strict=True):
        group.update(values)  # where changed options were allowed, the state must not bring back the old ones
    if state["precision"]:
        training.fabric.strategy.precision.load_state_dict(state["precision"])
    if training.average is not None and state["averaged"] is not None:
        training.average.model.load_state_dict(state["averaged"])
        training.average.updates = state["averaged_updates"]


def earlier_run(folder: Path, options: TrainingOptions) -> dict[str, Any] | None:
    """The state to resume from; None for a new run.  Raises ResumeError where folder and options contradict."""
    if options.resume:
        state = read_checkpoint(folder / LAST)
        check_options(state, options)
        return state
    if (folder / LAST).exists() or (folder / BEST_WEIGHTS).exists():
        raise ResumeError(f"{folder} holds a run already; continue it with --resume, or give another --output")
    return None
