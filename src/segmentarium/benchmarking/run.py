"""Several models in several forms, one after the other: all of `segmentarium benchmark` but its table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from segmentarium.benchmarking.case import ARCHITECTURES, Case, Measurement, run_case
from segmentarium.benchmarking.forms import PROCESSOR, check_forms, forms_of

STARTING = 10.0  # seconds, without which no process is begun: it imports PyTorch and builds the model


def benchmark(
    models: Sequence[str] = (),
    *,
    forms: Sequence[str] = PROCESSOR,
    size: tuple[int, int] = (512, 1024),
    batch: int = 1,
    threads: int | None = None,
    warmup: int = 3,
    repeats: int = 20,
    num_classes: int = 19,
    end_to_end: bool = True,
    minutes: float | None = None,
    progress: Callable[[int, int, Case], None] | None = None,
) -> list[Measurement]:
    """Latency, throughput, memory and size of models on this machine's processor, each case in a process of its own.

    models        weights by name or file, or architectures, which get random weights; none: the shipped weights
    forms         "eager", "channels-last", "deploy", "deploy-bf16", "compile", "onnxruntime", "openvino", "openvino-bf16", and of
                  GPUs "cuda", "cuda-fp16", "cuda-compile-fp16", "cuda-graph-fp16", "tensorrt-fp16"
    size          (height, width) of the input; `batch` of them at a time
    threads       of every engine; None: as PyTorch chooses
    repeats       measured calls, after `warmup` others
    num_classes   of an architecture
    end_to_end    measure the time from JPEG file to classes too
    minutes       that all of it may take: each case its share, of which calls are measured for a quarter, and what time
                  does not suffice for is left out and says so; None: as long as it takes
    progress      called as (number, of how many, case) before each case

    A form that is not installed, or fails, is a measurement with a `problem`.  Raises ValueError for wrong usage,
    FileNotFoundError and KeyError for unknown models.
    """
    import torch

    for name, value in (("batch", batch), ("repeats", repeats), ("num_classes", num_classes)):
        if value < 1:
            raise ValueError(f"{name} is {value}; give 1 or more")
    threads = threads or torch.get_num_threads()
    cases = [
        Case(model, form, size, batch, threads, warmup, repeats, num_classes, end_to_end)
        for model in known_models(models)
        for form in forms_of(model, check_forms(list(forms)))
    ]
    measurements = []
    ends = None if minutes is None else time.monotonic() + 60 * minutes
    for number, case in enumerate(cases):
        if progress is not None:
            progress(number, len(cases), case)
        if ends is None:
            measurements.append(run_case(case))
            continue
        left = ends - time.monotonic()
        if left < STARTING:
            said = f"left out: the {minutes:g} minutes are over; give more (--minutes), or fewer models and engines"
            measurements.append(Measurement(case, problem=said, skipped=True))
            continue
        share = left / (len(cases) - number)
        done = run_case(replace(case, seconds=max(1.0, share / 4)), timeout=left)
        measurements.append(replace(done, case=case, skipped=done.skipped or done.problem.startswith("took longer")))
    return measurements


def known_models(given: Sequence[str]) -> list[str]:
    """The given models, each of which exists; without any, the shipped weights."""
    from segmentarium.registry import entry, list_models
    from segmentarium.weights import locate
    from segmentarium.weights.catalogue import CATALOGUE

    if not given:
        return [weights.alias or weights.name for weights in CATALOGUE]
    for name in given:
        if any(name in list_models(kind=kind) for kind in ARCHITECTURES):
            continue
        try:
            locate(name)
        except FileNotFoundError:
            if not Path(name).suffix:
                entry(name)  # says which architecture was meant
            raise
    return list(given)
