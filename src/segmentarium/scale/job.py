"""`batch`: a job from its sources to its report."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch

from segmentarium.checks import check_choice
from segmentarium.contracts import Model, asked_task
from segmentarium.inference.engines import check_engine, exported_network
from segmentarium.inference.predictor import Predictor, Tile, resolve_model
from segmentarium.scale import cluster, local
from segmentarium.scale.listing import find_pictures, parquet_reader
from segmentarium.scale.manifest import Manifest, Part
from segmentarium.scale.outputs import KINDS
from segmentarium.scale.stores import STORES, Store, store_of
from segmentarium.scale.work import STAGES, Settings, Worker
from segmentarium.version import __version__
from segmentarium.weights.exported import files_of

Source = str | PathLike[str]


@dataclass
class BatchReport:
    """What became of a job.

    pictures, done, failed   of the whole job, earlier runs included
    now, workers             pictures of this run, and the processes that did them
    seconds                  of this run, by the clock, the workers' start included
    busy                     stage -> share of this run in which what does it was at it: 1 is never idle
    slowest                  the stage of the greatest share; None where nothing was to be done
    """

    out: str
    pictures: int
    done: int
    failed: int
    now: int
    seconds: float
    per_second: float
    workers: int
    busy: dict[str, float] = field(default_factory=dict)
    slowest: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        told = f"{self.done} of {self.pictures} pictures done, {self.failed} could not be"
        if not self.now:
            return f"{told}; nothing was left to do; see {self.out}"
        return (
            f"{told}; {self.now} in {self.seconds:.1f} s now, {self.per_second:.1f} a second; "
            f"the slowest stage is {self.slowest} ({self.busy[self.slowest or '']:.0%} busy); see {self.out}"
        )


def batch(
    source: Source | Sequence[Source],
    model: Source,
    out: Source,
    *,
    kind: str = "masks",
    workers: int | None = None,
    address: str | None = None,
    task: str | None = None,
    threshold: float | None = None,
    engine: str = "torch",
    precision: str = "fp32",
    device: str | None = None,
    tile: Tile = "auto",
    batch_size: int = 8,
    threads: int | None = None,
    part_size: int = 128,
    column: str | None = None,
    max_pixels: int = 2**27,
    retry: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> BatchReport:
    """Segments very many pictures, and goes on where it stopped: call it again with the same `out`.

    source      folder, glob, picture, Parquet table of paths or bytes, address of a store (s3://, gs://, az://), or a list of
                them; what came into it since the last run is done, too
    model       a name, weights file, folder of a training, exported network or hub address, which each worker loads
    out         a new folder, or that of this job; on a cluster one that all machines see, or an address of a store
    kind        "masks": masks/NAME.png; "rle": rle/PART.jsonl, a line a picture; "parquet": parquet/PART.parquet, a row a picture
    workers     processes, each with a model (default: one a GPU, else one); 0: this process.  With an address: actors at the most
    address     of a Ray cluster: "auto", HOST:PORT, or "local" to start one here; None: processes of this machine
    batch_size  pictures of one size that go through the network together
    threads     of a worker, that read, decode and write (default: 2; with a GPU 8)
    part_size   pictures that are recorded together: what a process that is killed does again, at the most
    column      of tables: where paths or bytes are
    max_pixels  larger pictures are not decoded, and counted among those that could not be done
    retry       does again what could not be done before
    progress    called with pictures done or failed, and all of them

    task, threshold, engine, precision, device and tile are those of `Predictor` and `SegmentPredictor`.

    Writes `report.json`, and `problems.jsonl` with what is wrong with each picture that could not be done; none of them ends the
    job.

    Raises FileNotFoundError and ValueError for sources without pictures, FileExistsError for a folder that holds anything else,
    ValueError for one that holds a job with another model or kind, ImportError for packages that are missing, OSError where
    results cannot be written or a worker fails.
    """
    check_choice("kind", kind, KINDS)
    check_engine(engine, precision)
    for name, value, least in (("workers", workers, 0), ("batch_size", batch_size, 1), ("part_size", part_size, 1)):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; give {least} or more")
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; give 1 or more")
    if not isinstance(model, str | PathLike):
        raise TypeError(
            f"model is a {type(model).__name__}; save it (segmentarium.save) and give the file: workers load it"
        )
    given = [fspath(one) for one in ([source] if isinstance(source, str | PathLike) else source)]
    is_path = len(Path(model).parts) > 1 or Path(model).suffix  # a bare word is a name first
    place = Path(model).absolute() if is_path and Path(model).exists() else None
    loaded = resolve_model(model)
    settings = Settings(
        str(place or model), fspath(out), kind, asked_task(loaded, task), threshold, engine, precision, device, tile, batch_size,
        threads or (8 if _gpus(device) else 2), column, max_pixels,
    )  # fmt: skip
    if kind == "parquet":
        parquet_reader(settings.out)  # not found out behind the first part
    here = Worker(settings, loaded) if workers == 0 and address is None else None
    meaning: Any = loaded
    if settings.task == "semantic":  # refuses what gives no masks
        meaning = here.predictor if here is not None else Predictor(loaded, device="cpu", tile=tile)
    store = Store(settings.out)
    private = [one for one in (*given, settings.out) if one.startswith("memory://")]
    if private and (address is not None or workers != 0):
        raise ValueError(f"{private[0]} is in this process's memory, which no worker sees; give workers=0, or a folder")
    settings = replace(settings, out=store.root)
    manifest = Manifest(store)
    identity = _identity(settings, loaded)
    manifest.check(identity)
    pictures = list(find_pictures(_absolute(given), column, store))
    manifest.start(identity)  # not before: a wrong source leaves no job behind
    known = manifest.parts()
    parts = known + manifest.add(known, pictures, part_size)
    before = manifest.done()
    left = [replace(part, before=before.get(part.number)) for part in parts if _is_left(part, before, retry)]
    told = json.dumps(settings.to_dict())
    records: Iterable[dict[str, Any]] = ()
    if left and address is not None:
        records = cluster.run(told, left, workers or None, address)
    elif left and here is not None:
        records = map(here.do, left)
    elif left:
        records = local.run(told, left, max(1, _gpus(device)) if workers is None else workers)
    started = time.perf_counter()
    total, now = sum(len(part.pictures) for part in parts), 0
    again = {part.number for part in left}
    ready = sum(sum(counts) for number, counts in before.items() if number not in again)
    stages = dict.fromkeys(STAGES, 0.0)
    names: set[str] = set()
    for record in records:
        names.add(record["worker"])
        now += record["done"] + record["failed"]
        for stage in STAGES:
            stages[stage] += record["seconds"][stage]
        if progress is not None:
            progress(ready + now, total)
    seconds = time.perf_counter() - started
    counts = manifest.done().values()
    report = BatchReport(
        store.root, total, sum(good for good, _ in counts), sum(bad for _, bad in counts), now, round(seconds, 3),
        round(now / seconds, 3) if now else 0.0, len(names),
    )  # fmt: skip
    if now:
        own = {"predict": 1}  # reading, decoding and writing share a worker's threads
        shares = {
            stage: taken / (seconds * report.workers * own.get(stage, settings.threads))
            for stage, taken in stages.items()
        }
        report.busy = {stage: round(share, 4) for stage, share in shares.items()}
        report.slowest = max(report.busy, key=lambda stage: report.busy[stage])
    _write(store, manifest, report, meaning)
    return report


def _is_left(part: Part, done: dict[int, tuple[int, int]], retry: bool) -> bool:
    return part.number not in done or (retry and done[part.number][1] > 0)


def _absolute(sources: Sequence[str]) -> list[str]:
    """Paths that mean the same from any folder, so that a later run knows its pictures again."""
    return [one if store_of(one) in STORES or one.startswith("file://") else os.path.abspath(one) for one in sources]


def _identity(settings: Settings, model: Model) -> dict[str, Any]:
    """What two runs of a job must have in common: all that changes a result."""
    digest = hashlib.sha256()  # not `fingerprint`, which a newer PyTorch changes
    if (network := exported_network(model)) is not None:
        for file in files_of(network.file):
            digest.update(file.read_bytes())
    for key, tensor in model.state_dict().items():
        digest.update(key.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    same = ("kind", "task", "threshold", "precision", "tile", "column")
    told = {key: value for key, value in settings.to_dict().items() if key in same}
    return {"verb": "batch", "weights": digest.hexdigest()[:20], **told}


def _gpus(device: str | None) -> int:
    return torch.cuda.device_count() if device is None or device == "cuda" else int(device.startswith("cuda"))


def _write(store: Store, manifest: Manifest, report: BatchReport, model: Any) -> None:
    """The report, what is wrong with each picture, and what the numbers of the masks mean."""
    problems = "".join(json.dumps(one) + "\n" for one in manifest.problems())
    store.write("problems.jsonl", problems.encode())
    meaning = {"classes": list(model.classes), "palette": [list(colour) for colour in model.palette]}
    told = report.as_dict() | {"segmentarium": __version__} | meaning
    store.write("report.json", json.dumps(told, indent=1).encode())
