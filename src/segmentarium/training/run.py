"""A run from its options to its files."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from segmentarium.contracts import SegmentationModel
from segmentarium.data import SegmentationDataset
from segmentarium.data.base import DatasetInfo
from segmentarium.registry import create_model
from segmentarium.training.callbacks import Journal, RunControl, StopSignals, write_json
from segmentarium.training.checkpoints import (
    BEST_WEIGHTS,
    LAST,
    LAST_WEIGHTS,
    ResumeError,
    check_options,
    read_checkpoint,
)
from segmentarium.training.loaders import training_dataset, worker_count
from segmentarium.training.objective import set_objective
from segmentarium.training.options import TrainingOptions, command_of
from segmentarium.training.preflight import check_data, check_fit, divide_batch
from segmentarium.training.result import TrainingResult
from segmentarium.training.task import SegmentationTask

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

# Warnings of Lightning about what is meant to be so here: few workers, no validation loop of its own, …
IRRELEVANT = (
    ".*does not have many workers.*",
    ".*val_dataloader.*",
    ".*LeafSpec.*",
    ".*GPU available but not used.*",
    ".*`logger=False`.*",
)


def run(options: TrainingOptions) -> TrainingResult:
    """What `segmentarium.training.train` does, once Lightning is known to be there."""
    folder = Path(options.folder)
    resumed = _earlier_run(folder, options)
    train_set = training_dataset(options)
    val_set = training_dataset(options, options.val_split)
    torch.manual_seed(options.seed)
    model = build_model(options, train_set.info)
    set_objective(model, train_set, options)

    trainer = _trainer(options, folder)
    micro_batch, accumulation = divide_batch(options, trainer.world_size)
    check_fit(model, options, micro_batch, trainer.world_size)
    trainer.accumulate_grad_batches = accumulation

    task = SegmentationTask(model, train_set, options)
    task.micro_batch, task.accumulation = micro_batch, accumulation
    if resumed is not None:
        task.step, task.best, task.validated_step = resumed["step"], resumed["best"], resumed["validated_step"]
    result = TrainingResult(
        folder, task.step, folder / BEST_WEIGHTS, folder / LAST_WEIGHTS, folder / LAST, task.best or {}
    )
    if task.step >= options.max_steps:
        return result
    lines = header(model, train_set, val_set, options, micro_batch, accumulation, trainer.world_size)
    if options.check and resumed is None:
        lines += [*check_data(train_set, options.train_split), *check_data(val_set, options.val_split)]
    if options.cache:  # before the workers are forked, so that they share it
        train_set.preload()
        val_set.preload()

    if trainer.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "options.json", options.as_dict())
    journal = Journal(
        folder, options.max_steps, writes=trainer.is_global_zero, logger=_tensorboard(options), resumed_at=task.step
    )
    for line in lines:
        journal.say(line)
    # A fresh trainer counts from 0; the task counts on.
    trainer.fit_loop.epoch_loop.max_steps = options.max_steps - task.step
    with StopSignals() as stop:
        control = RunControl(folder, journal, stop, val_set, _facts(options, train_set.info), resumed)
        trainer.callbacks.append(control)  # type: ignore[attr-defined]
        with quiet_lightning():
            trainer.fit(task)
    return dataclasses.replace(result, steps=task.step, best=task.best or {}, signal=stop.received)


def build_model(options: TrainingOptions, info: DatasetInfo) -> SegmentationModel:
    """The options' model with the data set's classes.  Raises ValueError where the two do not fit."""
    if info.num_classes == 1:
        raise ValueError(
            f"data set {info.name!r} has one class, {info.classes[0]!r}, so that every pixel would be right; "
            "name the background as a class of its own"
        )
    arguments = {"num_classes": info.num_classes, **options.model_arguments}
    model = create_model(options.model, weights=options.weights, **arguments)
    if not isinstance(model, SegmentationModel):
        raise ValueError(f"{options.model!r} is no segmenter but a {type(model).__name__}; see `segmentarium models`")
    if max(model.num_classes, 2) != info.num_classes:
        raise ValueError(
            f"the model has {model.num_classes} classes, but data set {info.name!r} has {info.num_classes} "
            f"({', '.join(info.classes[:6])}{', …' if info.num_classes > 6 else ''}); leave num_classes out"
        )
    model.classes, model.palette = info.classes, info.palette
    changes = {name: value for name in ("mean", "std", "long_side") if (value := getattr(options, name)) is not None}
    model.preprocessing = type(model.preprocessing)(**{**model.preprocessing.as_dict(), **changes})
    return model


def header(
    model: SegmentationModel,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset,
    options: TrainingOptions,
    micro_batch: int,
    accumulation: int,
    processes: int,
) -> list[str]:
    """The lines that a run begins with."""
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    height, width = options.crop_size
    return [
        f"model      {options.model}, {parameters:.3f} M parameters with training-only parts, {model.num_classes} classes",
        f"data       {train_set.info.name}: {len(train_set)} images in {options.train_split!r}, "
        f"{len(val_set)} in {options.val_split!r}",
        *train_set.notes,
        f"batch      {options.batch_size} effective = {micro_batch} in a pass × {accumulation} accumulated "
        f"× {processes} process(es); crops of {height}×{width}",
        f"optimiser  {options.optimizer}, rate {options.learning_rate:g}, {options.schedule} over "
        f"{options.max_steps} steps ({options.max_steps * options.batch_size / len(train_set):.0f} epochs), "
        f"precision {options.precision}, EMA {options.ema:g}",
        f"machine    {torch.get_num_threads()} threads, {worker_count(options, processes)} data workers; "
        f"output in {options.folder}",
    ]


def _earlier_run(folder: Path, options: TrainingOptions) -> dict[str, Any] | None:
    """The state to resume from; None for a new run.  Raises ResumeError where folder and options contradict."""
    if options.resume:
        state = read_checkpoint(folder / LAST)
        check_options(state, options)
        return state
    if (folder / LAST).exists() or (folder / BEST_WEIGHTS).exists():
        raise ResumeError(f"{folder} holds a run already; continue it with --resume, or give another --output")
    return None


def _trainer(options: TrainingOptions, folder: Path) -> pl.Trainer:
    devices: Any = options.devices
    if devices.lstrip("-").isdigit():
        devices = int(devices)
    processes_on_cpu = options.accelerator == "cpu" or not (
        torch.cuda.is_available() or torch.backends.mps.is_available()
    )
    if devices == "auto" and processes_on_cpu:
        devices = 1
    with quiet_lightning():
        return pl.Trainer(
            default_root_dir=folder,
            accelerator=options.accelerator,
            devices=devices,
            num_nodes=options.num_nodes,
            strategy=options.strategy,
            precision=PRECISIONS[options.precision],  # type: ignore[arg-type]
            max_epochs=-1,
            max_steps=options.max_steps,
            gradient_clip_val=options.clip_norm,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            benchmark=torch.cuda.is_available(),
            sync_batchnorm=not processes_on_cpu,  # only where there is a process group; the layer exists on GPUs only
        )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's tips, and with a second Ctrl-C as the KeyboardInterrupt that it is, not as an exit code."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in IRRELEVANT:
                warnings.filterwarnings("ignore", message)
            yield
    except SystemExit as exit_call:
        if isinstance(exit_call.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        logger.setLevel(level)


def _tensorboard(options: TrainingOptions) -> Any:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(options.folder, name="", version="tensorboard")


def _facts(options: TrainingOptions, info: DatasetInfo) -> dict[str, Any]:
    """What the weights' header says of where they come from."""
    return {
        "dataset": info.name,
        "licences": {"code": "Apache-2.0", "training data": info.licence},
        "command": command_of(options),
    }
