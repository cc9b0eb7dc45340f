"""One model in one form, measured in a process of its own, so that no case sees another's heap, threads or caches."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from segmentarium.benchmarking.timing import Latency, time_calls
from segmentarium.brief import Brief
from segmentarium.weights.exported import is_exported

_WRITTEN: set[Case] = set()  # networks that are in the engines' cache
ARCHITECTURES = ("segmenter", "mask", "classifier", "keypoints")  # kinds that take one picture


@dataclass(frozen=True)
class Case:
    """What to measure.  `model` is a weights name or file, or a registered architecture (random weights, seed 0)."""

    model: str
    form: str
    size: tuple[int, int] = (512, 1024)
    batch: int = 1
    threads: int = 2
    warmup: int = 3
    repeats: int = 20
    num_classes: int = 19  # of an architecture without weights
    end_to_end: bool = True
    seconds: float | None = None  # after which no further call is measured; None: all `repeats` are
    task: str = (
        "semantic"  # of a mask classifier; where segments are told apart, masks and their classes are what it gives
    )


@dataclass(frozen=True, repr=False)
class Measurement(Brief):
    """What came out; `problem` says why nothing did.  Latencies in milliseconds, memory in 1e6 bytes.

    start        seconds from the model in memory to the form's first answer: tracing, compiling, opening, warming caches
    latency      image tensor -> logits
    end_to_end   bytes of a JPEG file of that size -> class of every pixel: decoding, normalising, network, argmax
    throughput   images a second, from the median latency
    peak_memory  of the whole process during the measured calls; `memory` without what it held before the model was built
    same_class   share of the photo's pixels with the class that the eager form gives; of its key points, that are found again
    """

    case: Case
    parameters: float | None = None
    multiply_adds: float | None = None
    latency: Latency | None = None
    end_to_end: Latency | None = None
    throughput: float | None = None
    peak_memory: float | None = None
    memory: float | None = None
    same_class: float | None = None
    problem: str = ""
    skipped: bool = field(default=False)  # the form is not to be had here: a package or an instruction set is missing
    start: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Measurement:
        values = dict(values)
        values["case"] = Case(**{**values["case"], "size": tuple(values["case"]["size"])})
        for name in ("latency", "end_to_end"):
            values[name] = Latency(**values[name]) if values[name] else None
        return cls(**values)


def build_model(case: Case) -> Any:
    """The case's model in eval mode."""
    import torch

    from segmentarium.export import exported
    from segmentarium.registry import create_model, entry, list_models
    from segmentarium.weights import load

    architecture = any(case.model in list_models(kind=kind) for kind in ARCHITECTURES)
    if architecture and not Path(case.model).exists():
        torch.manual_seed(0)
        arguments: dict[str, Any] = {"num_classes": case.num_classes} if entry(case.model).takes("num_classes") else {}
        return exported(create_model(case.model, **arguments).eval(), case.task)
    return exported(load(case.model), case.task)


def photo_bytes(size: tuple[int, int]) -> bytes:
    """A JPEG file of the project's photo, or photo-like noise, at (height, width)."""
    from PIL import Image

    from segmentarium.export.parity import sample_images

    file = io.BytesIO()
    Image.fromarray(sample_images()[0]).resize((size[1], size[0])).save(file, "JPEG", quality=90)
    return file.getvalue()


def measure(case: Case) -> Measurement:
    """Measures `case` in this process; sets its number of threads.  Raises what building or running the model raises."""
    import numpy as np
    import torch

    from segmentarium.benchmarking.forms import build_form
    from segmentarium.benchmarking.memory import peak_mb, reset_peak, resident_mb
    from segmentarium.benchmarking.size import counted
    from segmentarium.data.image_io import read_image
    from segmentarium.export.parity import answers_of
    from segmentarium.inference.auto import agreement

    torch.set_num_threads(case.threads)
    base = resident_mb()
    model = build_model(case)
    photo = photo_bytes(case.size)

    def decode() -> torch.Tensor:
        pixels = np.array(read_image(io.BytesIO(photo)))  # a copy: Pillow's own memory is read-only
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        if model.in_channels != 3:
            image = image[[index % 3 for index in range(model.in_channels)]]
        return model.preprocessing.normalise(image)[None]

    example = decode().expand(case.batch, -1, -1, -1).contiguous()
    with torch.inference_mode():
        reference = model(example)
    parameters, work = counted(model, example[:1])
    started = time.perf_counter()
    run = build_form(model, case.form)
    first = run(example)
    start = time.perf_counter() - started
    same = agreement(model, first, reference)
    del reference, first
    reset_peak()
    latency = time_calls(lambda: run(example), warmup=case.warmup, repeats=case.repeats, seconds=case.seconds)
    peak = peak_mb()

    def whole() -> np.ndarray:
        logits = run(decode())
        if isinstance(logits, tuple):  # what segments are made of
            return answers_of(logits)
        return (logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(1)).to(torch.uint8).numpy()

    scored = case.end_to_end and model.kind != "keypoints"  # whose points `python -m benchmarks.superpoint` times
    end_to_end = time_calls(whole, warmup=1, repeats=case.repeats, seconds=case.seconds) if scored else None
    return Measurement(
        case=case,
        parameters=parameters,
        multiply_adds=work,
        start=start,
        latency=latency,
        end_to_end=end_to_end,
        throughput=case.batch * 1e3 / latency.p50,
        peak_memory=peak,
        memory=peak - base if peak is not None and base is not None else None,
        same_class=same,
    )


def run_case(case: Case, timeout: float = 1800) -> Measurement:
    """Measures `case` in a process of its own.  A failure becomes the measurement's `problem`, never an exception."""
    ends = time.monotonic() + timeout
    if case.form.startswith(("onnx", "openvino")) and not is_exported(case.model):
        written = Case(case.model, "onnxruntime", num_classes=case.num_classes, task=case.task)
        # traced into the engines' cache by another process: its memory would else count as theirs
        if written not in _WRITTEN:
            _in_process(written, timeout, "write")
            _WRITTEN.add(written)
    return _in_process(case, max(0.0, ends - time.monotonic()), "measure")


def _in_process(case: Case, timeout: float, job: str) -> Measurement:
    start = f"import sys; from {__name__} import worker; sys.exit(worker(*sys.argv[1:]))"
    environment = os.environ | {"OMP_NUM_THREADS": str(case.threads)}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-c", start, job, json.dumps(asdict(case)), str(result)]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            return Measurement(case, problem=f"took longer than {timeout:.0f} s")
        if result.is_file():
            return Measurement.from_dict(json.loads(result.read_text(encoding="utf-8")))
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return Measurement(case, problem=f"the process ended with code {done.returncode}: {last}")


def worker(job: str, case_json: str, result: str) -> int:
    """What the process of a case runs: "measure" writes the measurement to the file `result`, "write" only the network."""
    from segmentarium.cli.memory import keep_freed_memory

    keep_freed_memory()
    values = json.loads(case_json)
    case = Case(**{**values, "size": tuple(values["size"])})
    try:
        if job == "write":
            from segmentarium.inference.engines import onnx_file

            onnx_file(build_model(case))
            return 0
        measurement = measure(case)
    except ImportError as error:
        measurement = Measurement(case, problem=str(error), skipped=True)
    except Exception as error:  # whatever an engine raises is this case's result
        bf16 = case.form.endswith("bf16") and "bfloat16" in str(error)
        message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        measurement = Measurement(case, problem=message or type(error).__name__, skipped=bf16)
    Path(result).write_text(json.dumps(measurement.as_dict()), encoding="utf-8")
    return 0
