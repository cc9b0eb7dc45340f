"""One training run, from its options to its files.  All of it happens here, in this order:

    options -> task (data, model, objective) -> processes, devices, precision -> for every step:
        batch -> losses -> gradients, accumulated and clipped -> optimiser step -> average -> log -> evaluate -> save -> stop

Everything random in a step follows from (seed, step, part of the batch, process), and so does the learning rate; the data
follows from (seed, sample number).  A resumed run therefore needs no saved random state to be equal, bit for bit, to one
that was never stopped: the weights, the optimiser's and the average's state, and the number of the step are enough.

What kind of model is trained, on what, and who scores it is the task's; see `segmentarium.training.tasks`.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from segmentarium.contracts import Model
from segmentarium.files import check_targets, write_json
from segmentarium.layers.conv import sound_gradients
from segmentarium.training import TrainingResult
from segmentarium.training.checkpoints import earlier_run, restore, training_state, write_checkpoint, write_weights
from segmentarium.training.defaults import fitted
from segmentarium.training.journal import Journal, header
from segmentarium.training.linear import quicken
from segmentarium.training.machine import fabric_of, precision_here
from segmentarium.training.optimizer import AveragedModel, build_optimizer, frozen_parts, rate_factor
from segmentarium.training.options import BEST_WEIGHTS, LAST, LAST_WEIGHTS, TrainingOptions
from segmentarium.training.preflight import check_fit, divide_batch
from segmentarium.training.probe import WORTH, prepare
from segmentarium.training.stop import StopSignals
from segmentarium.training.tasks import Task, task_for
from segmentarium.training.teacher import Teacher, with_teacher

SYNC_STOP_EVERY = 10  # steps between two agreements of several processes to stop


def run(options: TrainingOptions, fit: Collection[str] = ()) -> TrainingResult:
    """What `segmentarium.training.train` does, once Lightning is known to be there."""
    folder = Path(options.folder)
    check_targets([folder / LAST], overwrite=True)  # before the data is looked at, not after the first steps
    resumed = earlier_run(folder, options)
    if resumed is not None and options.micro_batch is None:
        options = options.replace(micro_batch=resumed["options"].get("micro_batch"))
    if "precision" in fit and resumed is None:
        options = options.replace(precision=precision_here(options.accelerator))
    task = task_for(options)
    taken, fabric = "", fabric_of(options)
    if fit and resumed is None:
        options, taken = fitted(options, fit, task, fabric.world_size, fabric.device.type)
        task.options = task.options.replace(**{name: getattr(options, name) for name in fit})
    training = Training(task, options, fabric)
    if resumed is not None:
        training.step, training.best, training.validated_step = (resumed[k] for k in ("step", "best", "validated_step"))
        if training.step >= options.max_steps:
            return training.result()
    lines = [*header(training), *filter(None, [taken])]
    if options.check and resumed is None:
        lines += task.check()
        if options.max_steps >= WORTH and training.fabric.world_size == 1:
            lines += prepare(training)
    if options.cache:  # before the workers are forked, so that they share it
        task.train_set.preload()
        task.val_set.preload()
    training.start(resumed)
    if training.fabric.is_global_zero:
        write_json(folder / "options.json", training.options.as_dict())

    with (
        contextlib.closing(training.batches),
        StopSignals() as stop,
        Journal(training, continued=resumed is not None) as journal,
    ):
        training.stop, training.journal = stop, journal
        for line in lines:
            journal.say(line)
        if training.step == 0 and options.weights is not None:
            training.evaluate()  # what the given weights are worth, before they change
        if training.step > 0 and training.step % options.val_every == 0 and training.validated_step != training.step:
            training.evaluate()  # the run was stopped during this evaluation
        journal.start_clock(training)
        signal = None
        while training.step < options.max_steps and signal is None and not training.tired:
            training.advance()
            step, last = training.step, training.step == options.max_steps
            journal.bar.update(journal.row, completed=step)
            if step % options.log_every == 0 or last:
                training.report()
            if step % SYNC_STOP_EVERY == 0 or last or training.fabric.world_size == 1:
                signal = training.agreed_signal()
            if (step % options.val_every == 0 or last) and signal is None:
                training.evaluate()
                signal = training.agreed_signal()
            if step % options.save_every == 0 or last or signal is not None or training.tired:
                training.save()
        if training.tired and training.best is not None:
            journal.say(
                f"stopped: no evaluation was better than that of step {training.best['step']} (patience {options.patience})"
            )
    training.fabric.barrier()  # the files are there, for every process
    return training.result(signal)


class NonFiniteLossError(ValueError):
    """The loss became NaN or infinite; the message names the files of the batch."""


class Objective(nn.Module):
    """A batch to its losses, by name: what runs in mixed precision, and through which gradients are reduced."""

    def __init__(self, model: Model, teacher: Teacher | None, compile: bool) -> None:
        super().__init__()
        self.model = model
        self.teacher = (teacher,)  # in a tuple: neither trained, nor reduced, nor sharded
        self.forward_train = torch.compile(model.forward_train) if compile else model.forward_train

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        outputs = self.forward_train(*(batch[key] for key in (*self.model.inputs, *self.model.train_inputs)))
        for teacher in filter(None, self.teacher):
            outputs = {**outputs, "teacher": teacher(batch["image"], outputs["logits"].shape[-2:])}
        return self.model.criterion(outputs, batch)


class Training:
    """What a run holds: a model, what changes it, and how good it was.

    step     optimiser steps done since the very start, over all resumptions
    kept     the model that is evaluated and saved: the averaged one, or a copy of the one that is trained
    best     scores of the best evaluation, with its step
    seen     which pictures are trained on, for the header of the weights
    window   losses of each pass since the last report; unchecked: their sums since the last check, with the files' names
    """

    stop: StopSignals
    journal: Journal
    kept: Model

    def __init__(self, task: Task, options: TrainingOptions, fabric: Fabric | None = None) -> None:
        """Builds the model and checks that all fits; `start` then starts the processes and the data."""
        self.task, self.options, self.folder = task, options, Path(options.folder)
        self.step = self.validated_step = 0
        self.best: dict[str, Any] | None = None
        self.seen: dict[str, Any] | None = None
        self.window: list[dict[str, Tensor]] = []
        self.unchecked: list[tuple[Tensor, list[str]]] = []
        self.fabric = fabric or fabric_of(options)
        torch.manual_seed(options.seed)
        self.model = task.model()
        self.teacher = with_teacher(self.model, options)
        self.frozen = frozen_parts(self.model, options.freeze)
        self.micro_batch, self.passes = divide_batch(options, self.fabric.world_size)
        check_fit(self.model, options, self.micro_batch, self.fabric.world_size)

    def divide(self, micro_batch: int) -> None:
        """Other passes, before `start`; a resumed run has the same."""
        self.options = self.options.replace(micro_batch=micro_batch)
        self.task.options = self.task.options.replace(micro_batch=micro_batch)
        self.micro_batch, self.passes = divide_batch(self.options, self.fabric.world_size)

    @property
    def tired(self) -> bool:
        """Whether the last evaluations, as many as `patience` says, brought nothing better."""
        if not self.options.patience or self.best is None:
            return False
        return self.validated_step - self.best["step"] >= self.options.patience * self.options.val_every

    def start(self, resumed: dict[str, Any] | None = None) -> None:
        """Starts the processes, moves the model to its device, and begins to read the data where `step` begins."""
        fabric, options, model = self.fabric, self.options, self.model
        fabric.launch()
        torch.backends.cudnn.benchmark = True
        # Sharding takes contiguous weights only; DDP takes the layout of its buckets from what it is given.
        self.channels_last = options.channels_last and options.strategy != "fsdp"
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        sound_gradients(model)
        if fabric.device.type == "cpu" and options.strategy != "fsdp":
            quicken(model)
        if self.teacher is not None:
            self.teacher.to(fabric.device).eval()
        model.to(fabric.device).train()
        for part in self.frozen:
            part.eval()  # their statistics stay, too
        self.average = AveragedModel(model, options.ema) if options.ema else None
        self.kept = copy.deepcopy(model).eval() if self.average is None else self.average.model  # type: ignore[assignment]
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(model)  # in place
        self.objective = fabric.setup_module(Objective(model, self.teacher, options.compile))
        self.optimizer: Any = fabric.setup_optimizers(build_optimizer(model, options))
        if resumed is not None:
            restore(self, resumed)
        self.loader = self.task.batches(model, fabric, self.micro_batch, self.step)
        self.batches = iter(self.loader)

    def advance(self) -> None:
        """One optimiser step, on `batch_size` samples over all processes."""
        factor = rate_factor(self.step, self.options)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        self.model.at_step(self.step, self.options.max_steps)
        for part in range(self.passes):
            batch = self.fabric.to_device(next(self.batches))
            for key in (*self.model.inputs, *self.model.train_inputs) if self.channels_last else ():
                if isinstance(batch[key], Tensor) and batch[key].ndim == 4:
                    batch[key] = batch[key].contiguous(memory_format=torch.channels_last)
            seed_all(self.options.seed, self.step, part, self.fabric.global_rank)
            with self.fabric.no_backward_sync(self.objective, enabled=part < self.passes - 1):
                losses = self.objective(batch)
                loss = torch.stack(list(losses.values())).sum()
                self.window.append({name: value.detach() for name, value in {**losses, "loss": loss}.items()})
                self.unchecked.append((loss.detach(), batch["name"]))
                if self.fabric.device.type == "cpu":  # elsewhere asking would make the host wait in every step
                    self.check_losses()
                self.fabric.backward(loss / self.passes)
        if self.options.clip_norm is not None:
            norm = self.options.clip_norm
            self.fabric.clip_gradients(self.objective, self.optimizer, max_norm=norm, error_if_nonfinite=False)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.model)
        self.step += 1

    def report(self) -> None:
        """To the log: mean losses over all processes since the last report."""
        self.check_losses()
        means = torch.stack([torch.stack([losses[name] for losses in self.window]).mean() for name in self.window[0]])
        reduced: Any = self.fabric.all_reduce(means, reduce_op="mean")
        self.journal.report(self, dict(zip(self.window[0], reduced.tolist(), strict=True)))
        self.window = []

    def evaluate(self) -> None:
        """Scores the kept model; saves it as best.safetensors if none was better."""
        self.refresh()
        fabric, key = self.fabric, self.task.best_key
        with self.journal.pause() as seconds:  # evaluation is no part of a step's time
            alone = fabric.world_size == 1  # several processes go to the end together
            found = self.task.evaluate(
                self.kept, fabric, self.micro_batch, stopped=lambda: alone and self.stop.received is not None
            )
            if found is None:  # it is done after resuming
                return
            self.validated_step = self.step
            better = self.best is None or found.scores[key] > self.best[key]
            if better:
                self.best = {"step": self.step, **found.scores}
            self.journal.evaluated(self, found, better, seconds())
            if not fabric.is_global_zero:
                return
            if better:
                write_weights(self, BEST_WEIGHTS, found.scores)
            every = self.options.images_every
            if every and self.step // self.options.val_every % every == 0:
                self.task.draw(self.kept, fabric, self.folder / "pictures" / f"{self.step:07d}.png")

    def save(self) -> None:
        """last.ckpt and last.safetensors, unless a loss or a weight is not finite."""
        self.refresh()
        state = training_state(self)
        if self.fabric.is_global_zero:
            write_checkpoint(self.folder / LAST, state)
            write_weights(self, LAST_WEIGHTS, {})

    def agreed_signal(self) -> int | None:
        """The signal that asked to stop, whichever process received it; all of them must ask."""
        received = torch.tensor(self.stop.received or 0, device=self.fabric.device)
        reduced: Any = self.fabric.all_reduce(received, reduce_op="max")
        return int(reduced) or None

    def refresh(self) -> None:
        """Brings the kept model up to date, and raises NonFiniteLossError if a loss or a weight is NaN or infinite."""
        self.check_losses()
        if self.average is None:
            self.kept.load_state_dict(get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True)))
        self.kept.at_step(self.step, self.options.max_steps)
        if self.fabric.world_size > 1:  # batch norm keeps what each process saw; the first one's is saved
            for buffer in self.kept.buffers():
                torch.distributed.broadcast(buffer, 0)
        sums = torch.stack([parameter.detach().float().sum() for parameter in self.kept.parameters()])
        if not bool(torch.isfinite(sums).all()):
            raise NonFiniteLossError(
                f"weights are not finite after step {self.step}, though the loss was: a gradient overflowed; "
                "no checkpoint was written over the last good one. Lower the learning rate, or give --clip-norm"
            )

    def check_losses(self) -> None:
        """Raises NonFiniteLossError if a loss since the last check was NaN or infinite."""
        unchecked, self.unchecked = self.unchecked, []
        finite = torch.isfinite(torch.stack([loss for loss, _ in unchecked])).tolist() if unchecked else [True]
        if not all(finite):
            loss, names = unchecked[finite.index(False)]
            raise NonFiniteLossError(
                f"the loss is {loss.item()} in step {self.step + 1}, in the batch of {', '.join(names)}; "
                "no checkpoint was written over the last good one. Look at these files, lower the learning rate, "
                "or use precision 32"
            )

    def result(self, signal: int | None = None) -> TrainingResult:
        best, task = self.best or {}, self.task
        score = f"{100 * best[task.best_key]:.2f}" if best and task.shares else f"{best.get(task.best_key, 0):.4f}"
        line = f"{task.best_name} {score} in step {best['step']}" if best else ""
        return TrainingResult(self.folder, self.step, best, line, signal)


def seed_all(*numbers: int) -> None:
    """All that is random from here on (dropout) follows from these numbers."""
    words = np.random.SeedSequence(numbers).generate_state(3)
    torch.manual_seed(int(words[0]))
    np.random.seed(int(words[1]))
    random.seed(int(words[2]))
