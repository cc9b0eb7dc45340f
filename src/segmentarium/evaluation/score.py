"""`evaluate`: one pass over a data set, in memory that does not depend on the number of its images."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from segmentarium.contracts import SegmentationModel, adopt
from segmentarium.evaluation.classes import match_classes
from segmentarium.evaluation.diagnosis import label_warning
from segmentarium.evaluation.report import Report, check_output
from segmentarium.evaluation.samples import LabelledImages, with_logits
from segmentarium.evaluation.tally import Tally
from segmentarium.inference.engines import Engine
from segmentarium.inference.network import Network
from segmentarium.inference.tta import augmented
from segmentarium.inference.windows import sliding, whole

Mode = Literal["whole", "slide"]
PACKAGES = ("segmentarium", "torch", "torchvision", "timm", "numpy", "pillow", "onnxruntime", "openvino")


def evaluate(
    model: nn.Module | str | Path,
    dataset: LabelledImages,
    *,
    mode: Mode = "whole",
    tile: int = 1024,
    overlap: int | float = 0.25,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    engine: str | Engine = "torch",
    precision: str = "fp32",
    device: torch.device | str | None = None,
    batch_size: int = 1,
    num_classes: int | None = None,
    boundary_ratio: float | None = 0.02,
    worst: int = 8,
    limit: int | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    readers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Scores of a model on labelled images, at the labels' own resolution.

    model           a model, or what `load` takes: a catalogue name, a file
    mode            "whole" images, or "slide": windows of at most `tile` pixels a side that share `overlap` (pixels as int,
                    a share of the tile as float) with their neighbours and are blended
    flip, scales    averages the probabilities of the mirrored image and of several scales
    engine          "torch", "compile", "onnxruntime", "openvino", "auto", or an engine that was built already
    batch_size      images (mode "whole") or windows ("slide") to one call; images share a call where they have one size
    num_classes     takes the first so many logits and leaves further ones out; must be the number of the data's classes
    boundary_ratio  distance of the boundary IoU as a share of the image's diagonal; None leaves it out
    worst           how many of the worst images the report shows
    limit           stops after so many images
    output          a folder for report.json, report.html and pictures
    overwrite       files there are replaced; else only those of an earlier report, and FileExistsError for others
    readers         threads that read ahead
    progress        called with (images done, images in all)

    The logits are brought to the label's size before the greatest is taken. Pixels labelled 255 count nowhere.

    Raises ValueError for options or classes that do not fit, an empty data set, or logits that are not finite (naming the
    image); what the data set raises for a file that cannot be read; ImportError for an engine that is not installed.
    """
    _check(mode, batch_size, limit, len(dataset))
    if isinstance(model, str | Path):
        from segmentarium.weights import load

        source, model = str(model), load(model)
    else:
        model = adopt(model)
        source = model.title
    if not isinstance(model, SegmentationModel):
        raise TypeError(f"{source} gives no class for every pixel: it is a {model.kind}; label maps cannot score it")
    if output is not None:
        check_output(output, overwrite=overwrite)
    info = dataset.info
    match = match_classes(model.num_classes, model.classes, info.classes, info.palette, num_classes)
    network = Network(model, engine, precision, device)
    forward = augmented(network, flip=flip, scales=scales)
    once = partial(whole, forward)
    if mode == "slide":
        once = partial(sliding, forward, tile=tile, overlap=overlap, batch_size=batch_size)

    started = time.perf_counter()
    total = len(dataset) if limit is None else min(limit, len(dataset))
    tally: Tally | None = None
    together = batch_size if mode == "whole" else 1
    for batch, logits in with_logits(network, once, dataset, range(total), together, max(readers, 1)):
        if tally is None:
            tally = Tally(match, boundary_ratio, worst, logits.device)
        tally.add(batch, logits)
        if progress is not None:
            progress(tally.images, total)
    assert tally is not None  # there is at least one image
    seconds = time.perf_counter() - started

    summary: dict[str, Any] = tally.matrix.summary(match.names)
    edges: dict[str, Any] = tally.boundary.summary(match.names) if tally.boundary is not None else {}
    confusion = tally.matrix.counts.cpu().numpy()
    notes = [*getattr(dataset, "notes", ()), *match.notes]
    if tally.void == tally.images:
        notes.append("no image has a labelled pixel: there is nothing to score")
    if (warning := label_warning(confusion, summary["miou"], match.names)) is not None:
        notes.append(warning)
    report = Report(
        miou=summary["miou"],
        macc=summary["macc"],
        aacc=summary["aacc"],
        iou=summary["iou"],
        acc=summary["accuracy"],
        boundary_iou=edges.get("boundary_iou"),
        boundary_iou_by_class=edges.get("boundary_iou_by_class"),
        confusion=confusion,
        palette=match.palette,
        images=tally.images,
        void=tally.void,
        pixels=int(confusion.sum()),
        ignored=tally.ignored,
        seconds=seconds,
        model_seconds=network.seconds,
        model=network.facts(source),
        data={
            "name": info.name,
            "split": str(getattr(dataset, "split", "")),
            "images_in_split": len(dataset),
            "licence": getattr(info, "licence", "unknown"),
        },
        options={
            "protocol": protocol(mode, tile, overlap, flip, scales),
            "mode": mode,
            "tile": tile if mode == "slide" else None,
            "overlap": overlap if mode == "slide" else None,
            "flip": flip,
            "scales": list(scales),
            "engine": str(network.engine),
            "batch_size": batch_size,
            "num_classes": num_classes,
            "boundary_ratio": boundary_ratio,
            "limit": limit,
        },
        machine=_machine(network.device),
        versions=_versions(),
        notes=notes,
        worst=tally.worst.images(),
    )
    if output is not None:
        report.save(output, overwrite=overwrite)
    return report


def protocol(mode: str, tile: int, overlap: int | float, flip: bool, scales: Sequence[float]) -> str:
    """The field's words for how it was done: "single scale, whole image", "multi-scale (0.75, 1) + flip, slide …"."""
    scale = "single scale" if len(scales) == 1 else f"multi-scale ({', '.join(f'{s:g}' for s in scales)})"
    if len(scales) == 1 and scales[0] != 1:
        scale += f" {scales[0]:g}"
    shared = f"{overlap} px" if isinstance(overlap, int) else f"{overlap:.0%}"
    window = "whole image" if mode == "whole" else f"slide, windows of {tile} px with {shared} overlap"
    return f"{scale}{' + flip' if flip else ''}, {window}"


def _check(mode: str, batch_size: int, limit: int | None, length: int) -> None:
    if mode not in ("whole", "slide"):
        raise ValueError(f'mode is {mode!r}; give "whole" or "slide"')
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give 1 or more")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; give the number of images to score, 1 or more")
    if length < 1:
        raise ValueError("the data set is empty: there is nothing to score")


def _machine(device: torch.device) -> dict[str, Any]:
    return {
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
