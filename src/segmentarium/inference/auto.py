"""The engine "auto": measured on the picture at hand, remembered for this machine, these weights and this size."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segmentarium.contracts import KeypointModel
from segmentarium.files import cache_folder, write_json
from segmentarium.inference.engines import (
    Engine,
    build_engine,
    exported_network,
    fingerprint,
    missing_packages,
    onnx_file,
)

AGREEMENT = 0.995  # share of the pixels that must get the class that eager PyTorch gives them
POINTS = 0.95  # share of the best points, of those that are named by their place
BEST = 500  # points that are compared
ROUNDS = 5
SECONDS = 1.5  # at most, for the rounds of one engine
WORTHWHILE = 3000  # pictures; for fewer, exporting and measuring takes longer than a faster engine can save

PATIENCE = 60.0  # seconds, for a first forward of an engine that may not come back

# torch.compile is left out: each process would spend half a minute on compiling before the first picture.
CANDIDATES = (("torch", "fp32"), ("torch", "bf16"), ("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))


def fastest_engine(
    model: nn.Module, image: Tensor, *, device: torch.device | str | None = None, pictures: int | None = None
) -> Engine:
    """The fastest installed engine that agrees with eager PyTorch on `image`, normalised (B, C, H, W).

    The measurement is kept in `engines.json` of the cache folder and used again for pictures of about that size (to 64
    pixels); delete the file to measure anew.  On a GPU the engine is torch, in the faster precision that agrees.
    """
    device = torch.device(device or "cpu")
    if exported_network(model) is not None:
        return build_engine(model)
    key = _key(model, image, device)
    measured = _read_cache().get(key)
    if measured is not None and measured["engine"] in dict(CANDIDATES) and not missing_packages(measured["engine"]):
        try:
            return build_engine(model, measured["engine"], precision=measured["precision"], device=device)
        except (ImportError, RuntimeError, ValueError, OSError):
            pass  # another installation than the one that was measured: measure this one
    if pictures is not None and pictures < WORTHWHILE:
        return build_engine(model, "torch", precision="fp32", device=device)
    best, table = measure(model, image, device)
    _write_cache(key, {"engine": best[0], "precision": best[1], "measured": table})
    return build_engine(model, best[0], precision=best[1], device=device)


def measure(model: nn.Module, image: Tensor, device: torch.device) -> tuple[tuple[str, str], list[dict[str, Any]]]:
    """((engine, precision) of the fastest that agrees, one row a candidate: seconds, share of equal pixels, or the error)."""
    with torch.inference_mode():
        reference = model.eval().to(device)(image.to(device))
    table: list[dict[str, Any]] = []
    best, best_seconds = ("torch", "fp32"), float("inf")
    for name, precision in CANDIDATES:
        if missing_packages(name) or (device.type != "cpu" and name != "torch"):
            continue
        row: dict[str, Any] = {"engine": name, "precision": precision}
        table.append(row)
        try:
            if (name, precision) == ("openvino", "bf16"):
                check_answers(model, tuple(image.shape))
            engine = build_engine(model, name, precision=precision, device=device)
            same = agreement(model, engine(image), reference)
            row |= {"seconds": round(_seconds(engine, image), 6), "agreement": round(same, 6)}
        except Exception as error:  # an engine that cannot run this model is no candidate, whatever it raises
            row["error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            continue
        if same >= (POINTS if isinstance(model, KeypointModel) else AGREEMENT) and row["seconds"] < best_seconds:
            best, best_seconds = (name, precision), row["seconds"]
    return best, table


def agreement(model: nn.Module, outputs: Any, reference: Any) -> float:
    """The share of pixels (of a classifier: of pictures; of masks: of their cells) with the class of the reference; of a
    network of key points, that of its best points that are points here, too, no more than a pixel away.

    0 where an output is NaN: its greatest would be class 0, which is often the right one."""
    from segmentarium.export.parity import answers_of, arrays_of

    if any(np.isnan(one).any() for one in arrays_of(outputs)):
        return 0.0
    if not isinstance(model, KeypointModel):
        return float((answers_of(outputs) == answers_of(reference)).mean())
    ours, theirs = (found[0] if isinstance(found, tuple) else found for found in (outputs, reference))
    if model.joints:
        ours, theirs = (found.float().cpu().flatten(2).argmax(2) for found in (ours, theirs))
        return float((ours == theirs).float().mean())
    scores, (theirs, ours) = theirs.float().cpu(), (model.peaks(found.float()).cpu() for found in (theirs, ours))
    kept = (scores * theirs).flatten()
    best = kept.topk(min(BEST, len(kept))).values
    wanted = theirs & (scores >= best[-1]) if best[-1] > 0 else theirs
    near = torch.nn.functional.max_pool2d(ours[:, None].float(), 3, 1, 1)[:, 0] > 0
    return float(near[wanted].float().mean()) if wanted.any() else float(not ours.any())


def check_answers(model: nn.Module, shape: tuple[int, ...], *, seconds: float = PATIENCE) -> None:
    """One forward of OpenVINO in bf16 in a process of its own; TimeoutExpired if none comes back, RuntimeError if it fails.

    Seen with OpenVINO 2026.4 and ExtremeC3Net: the forward never ends and cannot be cancelled.
    """
    done = subprocess.run(
        [sys.executable, "-c", _FORWARD, str(onnx_file(model)), *map(str, shape)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["OpenVINO failed"])[-1])


_FORWARD = """
import sys, numpy
from segmentarium.runtimes import openvino_network
network = openvino_network(sys.argv[1], "bf16", 0)
network(numpy.zeros([int(length) for length in sys.argv[2:]], numpy.float32))
"""


def _seconds(engine: Engine, image: Tensor) -> float:
    """Median time of one call, after a warm-up."""
    engine(image)
    times: list[float] = []
    while len(times) < ROUNDS and (len(times) < 2 or sum(times) < SECONDS):
        started = time.perf_counter()
        found = engine(image)
        (found[0] if isinstance(found, tuple) else found).cpu()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _key(model: nn.Module, image: Tensor, device: torch.device) -> str:
    batch, _, height, width = image.shape
    size = f"{batch}x{round(height / 64) * 64}x{round(width / 64) * 64}"
    return f"{_processor()} {os.cpu_count()} cores {torch.get_num_threads()} threads {device} | {fingerprint(model)} | {size}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cache_file() -> Path:
    return cache_folder() / "engines.json"


def _read_cache() -> dict[str, Any]:
    try:
        cache = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent or damaged: measured again
        return {}
    return cache if isinstance(cache, dict) else {}


def _write_cache(key: str, entry: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # a read-only home: measured again the next time
        write_json(_cache_file(), _read_cache() | {key: entry})
