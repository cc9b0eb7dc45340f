"""One training run, from its options to its files.  All of it happens here, in this order:

    options -> task (data, model, objective) -> processes, devices, precision -> for every step:
        batch -> losses -> gradients, accumulated and clipped -> optimiser step -> average -> log -> evaluate -> save -> stop

Everything random in a step follows from (seed, step, part of the batch, process), and so does the learning rate; the data
follows from (seed, sample number).  A resumed run therefore needs no saved random state to be equal, bit for bit, to one
that was never stopped: the weights, the optimiser's and the average's state, and the number of the step are enough.

What kind of model is trained, on what, and who scores it is the task's; see `segmentarium.training.tasks`.
"""

from __future__ import annotations

import copy
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from segmentarium.contracts import Model
from segmentarium.files import atomic_write
from segmentarium.layers.conv import depthwise_in_float32
from segmentarium.training import TrainingResult
from segmentarium.training.checkpoints import earlier_run, kept_on_failure, restore, training_state, write_checkpoint
from segmentarium.training.journal import Journal
from segmentarium.training.loaders import worker_count
from segmentarium.training.optimizer import AveragedModel, build_optimizer, rate_factor
from segmentarium.training.options import BEST_WEIGHTS, LAST, LAST_WEIGHTS, TrainingOptions, command_of
from segmentarium.training.preflight import check_fit, divide_batch
from segmentarium.training.stop import StopSignals
from segmentarium.training.tasks import Task, task_for

PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
DATA_SHARE_TO_NAME = 0.3  # of a step's time, from which on the log says that data is the bottleneck
SYNC_STOP_EVERY = 10  # steps between two agreements of several processes to stop


def run(options: TrainingOptions) -> TrainingResult:
    """What `segmentarium.training.train` does, once Lightning is known to be there."""
    folder = Path(options.folder)
    resumed = earlier_run(folder, options)
    task = task_for(options)
    training = Training(task, options)
    first = training.fabric.is_global_zero
    if resumed is not None:
        training.step, training.best = resumed["step"], resumed["best"]
        training.validated_step = resumed["validated_step"]
        if training.step >= options.max_steps:
            return result_of(training)
    lines = [*header(training)]
    if options.check and resumed is None:
        lines += task.check()
    if options.cache:  # before the workers are forked, so that they share it
        task.train_set.preload()
        task.val_set.preload()
    training.start(resumed)
    if first:
        write_json(folder / "options.json", options.as_dict())

    resumed_at = training.step if resumed is not None else None
    with StopSignals() as stop, Journal(folder, options.max_steps, writes=first, resumed_at=resumed_at) as journal:
        training.stop, training.journal = stop, journal
        for line in lines:
            journal.say(line)
        if training.step == 0 and options.weights is not None:
            training.evaluate()  # what the given weights are worth, before they change
        if training.step > 0 and training.step % options.val_every == 0 and training.validated_step != training.step:
            training.evaluate()  # the run was stopped during this evaluation
        training.restart_clock()
        signal = None
        while training.step < options.max_steps and signal is None:
            training.advance()
            step, last = training.step, training.step == options.max_steps
            journal.progress(step)
            if step % options.log_every == 0 or last:
                training.report()
            if step % SYNC_STOP_EVERY == 0 or last or training.fabric.world_size == 1:
                signal = training.agreed_signal()
            if (step % options.val_every == 0 or last) and signal is None:
                training.evaluate()
                signal = training.agreed_signal()
            if step % options.save_every == 0 or last or signal is not None:
                training.save()
    training.fabric.barrier()  # the files are there, for every process
    return result_of(training, signal)


class NonFiniteLossError(ValueError):
    """The loss became NaN or infinite; the message names the files of the batch."""


class Objective(nn.Module):
    """A batch to its losses, by name: what runs in mixed precision, and through which gradients are reduced."""

    def __init__(self, model: Model, compile: bool) -> None:
        super().__init__()
        self.model = model
        self.forward_train = torch.compile(model.forward_train) if compile else model.forward_train

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return self.model.criterion(self.forward_train(*(batch[key] for key in self.model.inputs)), batch)


class Training:
    """What a run holds: a model, what changes it, and how good it was.

    step             optimiser steps done since the very start, over all resumptions
    kept             the model that is evaluated and saved: the averaged one, or a copy of the one that is trained
    best             scores of the best evaluation, with its step
    """

    stop: StopSignals
    journal: Journal

    def __init__(self, task: Task, options: TrainingOptions) -> None:
        """Builds the model and checks that all fits; `start` then starts the processes and the data."""
        self.task, self.options = task, options
        self.folder = Path(options.folder)
        self.step = self.validated_step = 0
        self.best: dict[str, Any] | None = None
        self.unchecked: list[tuple[Tensor, list[str]]] = []  # losses, and the files of their batches
        self.window: list[dict[str, Tensor]] = []  # losses since the last report
        self.logged_step, self.logged_at, self.logged_wait = 0, 0.0, 0.0
        self.bottleneck_named = False
        self.fabric = fabric_of(options)
        torch.manual_seed(options.seed)
        self.model = task.model()
        self.micro_batch, self.passes = divide_batch(options, self.fabric.world_size)
        check_fit(self.model, options, self.micro_batch, self.fabric.world_size)

    def start(self, resumed: dict[str, Any] | None = None) -> None:
        """Starts the processes, moves the model to its device, and begins to read the data where `step` begins."""
        fabric, options, model = self.fabric, self.options, self.model
        fabric.launch()
        torch.backends.cudnn.benchmark = True
        if options.channels_last:  # before DDP takes the layout of its buckets from it
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        depthwise_in_float32(model)
        model.to(fabric.device).train()
        self.average = AveragedModel(model, options.ema) if options.ema else None
        self.kept = copy.deepcopy(model).eval() if self.average is None else self.average.model
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.objective = fabric.setup_module(Objective(model, options.compile))
        self.optimizer: Any = fabric.setup_optimizers(build_optimizer(model, options))
        if resumed is not None:
            restore(self, resumed)
        self.loader = self.task.batches(
            model,
            micro_batch=self.micro_batch,
            step=self.step,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        self.batches = iter(self.loader)

    def advance(self) -> None:
        """One optimiser step, on `batch_size` samples over all processes."""
        factor = rate_factor(self.step, self.options)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        for part in range(self.passes):
            batch = self.on_device(next(self.batches))
            self.seed(part)
            with self.fabric.no_backward_sync(self.objective, enabled=part < self.passes - 1):
                losses = self.objective(batch)
                loss = torch.stack(list(losses.values())).sum()
                self.note(losses, loss, batch["name"])
                self.fabric.backward(loss / self.passes)
        if self.options.clip_norm is not None:
            self.fabric.clip_gradients(
                self.objective, self.optimizer, max_norm=self.options.clip_norm, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.model)
        self.step += 1

    def seed(self, part: int) -> None:
        """All that is random in one pass (dropout) follows from where it stands."""
        words = np.random.SeedSequence((self.options.seed, self.step, part, self.fabric.global_rank)).generate_state(3)
        torch.manual_seed(int(words[0]))
        np.random.seed(int(words[1]))
        random.seed(int(words[2]))

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch = self.fabric.to_device(batch)
        for key in self.model.inputs if self.options.channels_last else ():
            if batch[key].ndim == 4:
                batch[key] = batch[key].contiguous(memory_format=torch.channels_last)
        return batch

    def note(self, losses: dict[str, Tensor], loss: Tensor, names: list[str]) -> None:
        """Keeps the losses of a pass for the next report and the next check."""
        self.window.append({name: value.detach() for name, value in {**losses, "loss": loss}.items()})
        self.unchecked.append((loss.detach(), names))
        if self.fabric.device.type == "cpu":  # elsewhere asking would make the host wait in every step
            self.check_losses()

    def check_losses(self) -> None:
        """Raises NonFiniteLossError if a loss since the last check was NaN or infinite."""
        if not self.unchecked:
            return
        values = torch.stack([loss for loss, _ in self.unchecked])
        names = [names for _, names in self.unchecked]
        self.unchecked = []
        if bool(torch.isfinite(values).all()):
            return
        first = int((~torch.isfinite(values)).nonzero()[0])
        raise NonFiniteLossError(
            f"the loss is {values[first].item()} in step {self.step + 1}, in the batch of {', '.join(names[first])}; "
            "no checkpoint was written over the last good one. Look at these files, lower the learning rate, "
            "or use precision 32"
        )

    def refresh(self) -> None:
        """Brings the kept model up to date, and raises NonFiniteLossError if a loss or a weight is NaN or infinite."""
        self.check_losses()
        if self.average is None:
            self.kept.load_state_dict(get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True)))
        if self.fabric.world_size > 1:  # batch norm keeps what each process saw; the first one's is saved
            for buffer in self.kept.buffers():
                torch.distributed.broadcast(buffer, 0)
        sums = torch.stack([parameter.float().sum() for parameter in self.kept.parameters()])
        if not bool(torch.isfinite(sums).all()):
            raise NonFiniteLossError(
                f"weights are not finite after step {self.step}, though the loss was: a gradient overflowed; "
                "no checkpoint was written over the last good one. Lower the learning rate, or give --clip-norm"
            )

    def restart_clock(self) -> None:
        self.logged_step, self.logged_at, self.logged_wait = self.step, time.perf_counter(), self.loader.waited

    def report(self) -> None:
        """Mean losses over all processes since the last report, rate, speed; and where the time goes if not to the network."""
        self.check_losses()
        means = torch.stack([torch.stack([losses[name] for losses in self.window]).mean() for name in self.window[0]])
        losses = dict(zip(self.window[0], self.fabric.all_reduce(means, reduce_op="mean").tolist(), strict=True))  # type: ignore[union-attr]
        self.window = []
        steps, seconds = self.step - self.logged_step, time.perf_counter() - self.logged_at
        waited = self.loader.waited - self.logged_wait
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        speed = steps * self.options.batch_size / seconds
        values = {
            **losses,
            "learning_rate": rate,
            "samples_per_second": speed,
            "step_seconds": seconds / steps,
            "data_seconds": waited / steps,
        }
        self.journal.write("train", self.step, values)
        news = f"loss {losses['loss']:.4f}  rate {rate:.2e}  {speed:.1f} samples/s  step {seconds / steps:.3f} s"
        self.journal.progress(self.step, f"{news} (data {waited / steps:.3f} s)")
        if waited > DATA_SHARE_TO_NAME * seconds and not self.bottleneck_named:
            self.bottleneck_named = True
            self.journal.say(
                f"bottleneck: data. {waited / seconds:.0%} of each step is spent waiting for it; "
                "try more --workers, --cache, smaller images on disk, or fewer augmentations"
            )
        self.restart_clock()

    def evaluate(self) -> None:
        """Scores the kept model; saves it as best.safetensors if none was better."""
        started = time.perf_counter()
        self.refresh()
        fabric, options, key = self.fabric, self.options, self.task.best_key
        found = self.task.evaluate(
            self.kept,
            device=fabric.device,
            batch_size=self.micro_batch,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            stopped=lambda: self.stop.received is not None and fabric.world_size == 1,
        )
        if found is None:  # it is done after resuming
            return
        self.validated_step = self.step
        better = self.best is None or found.scores[key] > self.best[key]
        if better:
            self.best = {"step": self.step, **found.scores}
        seconds = time.perf_counter() - started
        self.journal.write("val", self.step, found.row)
        self.journal.say(
            f"step {self.step}: {options.val_split} {found.line}  ({seconds:.1f} s){'  best so far' if better else ''}"
        )
        if found.doubt and self.step == 0:
            self.journal.say(f"warning: the weights that training starts from score next to nothing: {found.doubt}")
        if fabric.is_global_zero:
            if better:
                self.save_weights(BEST_WEIGHTS, found.scores)
            if options.images_every and self.step // options.val_every % options.images_every == 0:
                self.task.draw(self.kept, self.folder / "pictures" / f"{self.step:07d}.png", fabric.device)
        self.logged_at += time.perf_counter() - started  # evaluation is no part of a step's time

    def save(self) -> None:
        """last.ckpt and last.safetensors, unless a loss or a weight is not finite."""
        self.refresh()
        state = training_state(self)
        if self.fabric.is_global_zero:
            write_checkpoint(self.folder / LAST, state)
            self.save_weights(LAST_WEIGHTS, {})

    def save_weights(self, name: str, scores: dict[str, Any]) -> None:
        """The kept model's file, with where it comes from and how good it is in its header."""
        from segmentarium.weights import save

        info = self.task.train_set.info
        facts = {
            "dataset": info.name,
            "licences": {"code": "Apache-2.0", "training data": info.licence},
            "command": command_of(self.options),
            "step": self.step,
            "metrics": {key: value for key, value in scores.items() if isinstance(value, float)},
        }
        with kept_on_failure(self.folder / name):
            save(self.kept, self.folder / name, **facts)

    def agreed_signal(self) -> int | None:
        """The signal that asked to stop, whichever process received it; all of them must ask."""
        received = self.stop.received or 0
        if self.fabric.world_size > 1:
            everywhere: Any = self.fabric.all_reduce(torch.tensor(received, device=self.fabric.device), reduce_op="max")
            received = int(everywhere)
        return received or None


def fabric_of(options: TrainingOptions) -> Fabric:
    """Devices, processes and precision.  The processor is one device, unless a number of processes is given."""
    devices: Any = int(options.devices) if options.devices.lstrip("-").isdigit() else options.devices
    on_processor = options.accelerator == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if devices == "auto" and on_processor:
        devices = 1
    return Fabric(
        accelerator=options.accelerator,
        devices=devices,
        num_nodes=options.num_nodes,
        strategy=ModelParallelStrategy(sharded) if options.strategy == "fsdp" else options.strategy,
        precision=PRECISIONS[options.precision],
    )


def sharded(objective: nn.Module, _: Any) -> nn.Module:
    """Divides parameters, gradients and the optimiser's state among all processes; whole only while a batch runs.

    As one group: only the outermost forward is sure to be called as a module.
    """
    from torch.distributed.fsdp import fully_shard

    return fully_shard(objective)


def header(training: Training) -> list[str]:
    """The lines that a run begins with."""
    options, task, info = training.options, training.task, training.task.train_set.info
    processes = training.fabric.world_size
    parameters = sum(parameter.numel() for parameter in training.model.parameters()) / 1e6
    height, width = options.crop_size
    return [
        f"model      {options.model}, {parameters:.3f} M parameters with training-only parts, {len(info.classes)} classes",
        f"data       {info.name}: {len(task.train_set)} images in {options.train_split!r}, "
        f"{len(task.val_set)} in {options.val_split!r}",
        f"batch      {options.batch_size} effective = {training.micro_batch} in a pass × {training.passes} accumulated "
        f"× {processes} process(es); crops of {height}×{width}",
        f"optimiser  {options.optimizer}, rate {options.learning_rate:g}, {options.schedule} over "
        f"{options.max_steps} steps ({options.max_steps * options.batch_size / len(task.train_set):.0f} epochs), "
        f"precision {options.precision}, EMA {options.ema:g}",
        f"machine    {torch.get_num_threads()} threads, {worker_count(options, processes)} data workers; "
        f"output in {options.folder}",
    ]


def result_of(training: Training, signal: int | None = None) -> TrainingResult:
    folder, best, task = training.folder, training.best or {}, training.task
    line = f"{task.best_name} {best[task.best_key]:.4f} in step {best['step']}" if best else ""
    return TrainingResult(
        folder, training.step, folder / BEST_WEIGHTS, folder / LAST_WEIGHTS, folder / LAST, best, line, signal
    )


def write_json(path: Path, values: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
