"""What a crop costs here, found out before the first step: memory, by which batches are divided into passes, and time."""

from __future__ import annotations

import contextlib
import copy
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from segmentarium.layers.conv import sound_gradients
from segmentarium.training.loaders import worker_count

if TYPE_CHECKING:
    from segmentarium.training.loop import Training

CROPS = 2  # of a probe: batch normalisation needs two
WORTH = 50  # steps from which on a run is worth a probe
USED = 0.8  # of the memory that is free
BESIDE = 1.5  # what a pass needs for what is kept for the way back: gradients of the features, work space
COPIES = 4  # of the weights, beside the model and its average: gradient, two of the optimiser, one spare
TWICE = 3.0  # seconds below which a first pass, which also makes ready, is followed by a second


@dataclass(frozen=True)
class Probe:
    """seconds of a crop in the network, and to prepare it; bytes that a crop keeps until the way back; bytes of the weights"""

    seconds: float
    data_seconds: float
    kept: int
    weights: int


def measure(training: Training) -> Probe:
    """One pass forward and back with real crops, on a copy of the model: the run itself begins as if nothing had been."""
    from segmentarium.training.loop import Objective

    task, fabric, device = copy.copy(training.task), training.fabric, training.fabric.device
    task.options = task.options.replace(workers=0)
    model = copy.deepcopy(training.model)
    if training.options.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sound_gradients(model)
    model.to(device).train()
    model.at_step(0, training.options.max_steps)
    if training.teacher is not None:
        training.teacher.to(device).eval()
    objective = Objective(model, training.teacher, compile=False)
    weights = sum(one.numel() * one.element_size() for one in model.parameters())
    crops = min(CROPS, training.micro_batch)
    with torch.random.fork_rng():
        started = time.perf_counter()
        batch = fabric.to_device(next(iter(task.batches(model, fabric, crops, 0))))
        data_seconds = time.perf_counter() - started
        with fabric.autocast():
            kept, seconds = _pass(objective, batch, device)
            if seconds < TWICE:
                kept, seconds = _pass(objective, batch, device)
    del objective, model, batch
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return Probe(seconds / crops, data_seconds / crops, kept // crops, weights)


def _pass(objective: nn.Module, batch: dict[str, Any], device: torch.device) -> tuple[int, float]:
    """(bytes kept for the way back, seconds) of one."""
    own = {one.untyped_storage().data_ptr() for one in (*objective.parameters(), *objective.buffers())}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    started = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = torch.stack(list(objective(batch).values())).sum()
    loss.backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    objective.zero_grad(set_to_none=True)
    return sum(storages.values()), time.perf_counter() - started


def fitting(probe: Probe, free: int, wanted: int, model: nn.Module) -> int:
    """The most crops of a pass, of which `wanted` are a multiple, that fit into so many bytes.

    Two at least under batch normalisation.
    """
    room = USED * free - COPIES * probe.weights
    most = max(int(room / (BESIDE * max(probe.kept, 1))), 1)
    norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    least = 2 if norm and wanted > 1 else 1
    divisors = [number for number in range(least, wanted + 1) if wanted % number == 0]
    return max((number for number in divisors if number <= most), default=divisors[0])


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process may still take on a device; None where nobody tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))))
    with contextlib.suppress(OSError, ValueError):  # of a container
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(found) if found else None


def prepare(training: Training) -> list[str]:
    """Divides the batch by memory where nobody said how, and estimates the time: lines for the log."""
    options, lines = training.options, []
    probe = measure(training)
    free = free_memory(training.fabric.device)
    if options.micro_batch is None and free is not None:
        fits = fitting(probe, free, training.micro_batch, training.model)
        if fits < training.micro_batch:
            wanted = BESIDE * probe.kept * training.micro_batch / 2**30
            lines.append(
                f"memory     {training.micro_batch} crops would keep {wanted:.1f} GB of "
                f"{free / 2**30:.1f} GB that are free: {fits} in a pass"
            )
            training.divide(fits)
    workers = max(worker_count(options), 1)
    cores = os.cpu_count() or 1
    data = probe.data_seconds / workers if training.fabric.device.type != "cpu" or cores > workers + 1 else 0.0
    step = options.batch_size * max(probe.seconds, data)
    lines.append(
        f"time       about {duration(step * options.max_steps)} for {options.max_steps} steps of {step:.2g} s, by two crops; "
        "evaluations come on top"
    )
    return lines


def duration(seconds: float) -> str:
    """ "40 s", "12 min", "3.5 h" """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
