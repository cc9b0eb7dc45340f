"""A model as a file for elsewhere: deploy form -> torch.export, ONNX or OpenVINO, with parity measured before it is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from segmentarium.brief import Brief
from segmentarium.contracts import Detector3d, MaskModel, MaskOutputs, Model, adopt, asked_task
from segmentarium.export.formats import (
    FORMATS,
    OPSET,
    WRITERS,
    ExportError,
    deploy_form,
    staged,
    target,
    to_onnx,
    to_openvino,
    to_torch,
    trace,
)
from segmentarium.export.metadata import model_metadata, read_metadata
from segmentarium.export.parity import RUNNERS, SIZES, TOLERANCE, Comparison, Image, ParityCheck, PointsCheck
from segmentarium.files import check_targets, has_keys
from segmentarium.weights.exported import ExportedNetwork

__all__ = [
    "FORMATS",
    "ExportError",
    "ExportReport",
    "ParityError",
    "export_formats",
    "export_model",
    "exported",
    "read_metadata",
    "to_onnx",
    "to_openvino",
    "to_torch",
]


@dataclass(frozen=True, repr=False)
class ExportReport(Brief):
    """What was written and how far it is from eager PyTorch.  `megabytes` counts every file of the format."""

    path: Path
    format: str
    comparisons: tuple[Comparison, ...]
    tolerance: float
    metadata: dict[str, Any]
    images: str  # what it was measured on
    seconds: float
    megabytes: float

    @property
    def relative_error(self) -> float:
        """The largest over all images and sizes; NaN, which is within no tolerance, where one is NaN."""
        return float(np.max([comparison.relative_error for comparison in self.comparisons]))  # `max` passes over NaN

    @property
    def passed(self) -> bool:
        return self.relative_error <= self.tolerance

    def told(self) -> str:
        return f"{str(self.path)!r}, {self.format}, relative error {self.relative_error:.1e}, {self.megabytes:.1f} MB"

    def as_dict(self) -> dict[str, Any]:
        return {
            "file": self.path.name,
            "format": self.format,
            "passed": self.passed,
            "tolerance": self.tolerance,
            "relative_error": self.relative_error,
            "images": self.images,
            "comparisons": [comparison.as_dict() for comparison in self.comparisons],
            "metadata": self.metadata,
        }

    def __str__(self) -> str:
        lines = [f"{'size':>11}  {'batch':>5}  {'max abs. error':>14}  {'relative':>9}  {'same class':>10}"]
        for row in self.comparisons:
            size = "×".join(map(str, row.size))
            lines.append(
                f"{size:>11}  {row.batch:>5}  {row.absolute_error:>14.2e}  {row.relative_error:>9.1e}  {row.same_class:>10.4%}"
            )
        if ties := max(row.ties for row in self.comparisons):
            lines.append(
                f"near ties inside the network turn up to {ties:.1e} of the greatest logit, which are left out"
            )
        return "\n".join(lines)


class ParityError(ExportError):
    """The engine's outputs differ from PyTorch's by more than the tolerance; `report` has the numbers."""

    def __init__(self, report: ExportReport) -> None:
        self.report = report
        super().__init__(
            f"{report.path.name} was not written: its outputs differ from eager PyTorch by {report.relative_error:.1e} "
            f"(relative), more than the tolerance {report.tolerance:.0e}\n{report}"
        )


def export_formats(
    model: nn.Module,
    path: str | Path,
    *,
    formats: Sequence[str] = ("onnx",),
    opset: int = OPSET,
    sizes: Sequence[tuple[int, int]] = SIZES,
    images: Sequence[Image] | None = None,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
    task: str | None = None,
) -> Iterator[ExportReport]:
    """Like `export_model` for several formats ("onnx", "torch", "openvino"), traced and referenced once.

    Yields each format's report when its file stands; what came before a failing format is kept.
    """
    targets = [target(path, format) for format in formats]
    photos = [Path(image) for image in images or () if isinstance(image, str | Path)]
    for final, _ in targets:
        written = [final, _parity_file(final), *([final.with_suffix(".bin")] if final.suffix == ".xml" else [])]
        check_targets(
            written, photos, overwrite=overwrite, ours=has_keys(_parity_file(final), ("comparisons", "tolerance"))
        )
    model = exported(model, task)
    if isinstance(model, Detector3d) and images is not None:
        raise ValueError(f"{model.title} takes points, and is measured on such; leave images out")
    check = PointsCheck(model) if isinstance(model, Detector3d) else ParityCheck(model, images, sizes)
    traced = trace(deploy_form(model))
    metadata = model_metadata(model)
    for final, format in targets:
        started = time.perf_counter()
        with staged(final) as temporary:
            WRITERS[format](traced, temporary, metadata, opset)
            megabytes = sum(file.stat().st_size for file in temporary.parent.iterdir()) / 1e6
            comparisons = tuple(check.run(RUNNERS[format](temporary)))
            seconds = time.perf_counter() - started
            report = ExportReport(final, format, comparisons, tolerance, metadata, check.source, seconds, megabytes)
            if not report.passed:
                raise ParityError(report)
            _parity_file(temporary).write_text(json.dumps(report.as_dict(), indent=1), encoding="utf-8")
        yield report


def exported(model: nn.Module, task: str | None) -> Model:
    """What is written of a model: of a mask classifier its masks and their classes, where `task` tells segments apart."""
    model = adopt(model)
    if isinstance(model, ExportedNetwork):
        raise ExportError(f"{model.file} is an exported network already; export the weights that it is made of")
    told = asked_task(model, task) != "semantic"
    return MaskOutputs(model) if told and isinstance(model, MaskModel) else model


def _parity_file(path: Path) -> Path:
    return path.with_name(path.name + ".parity.json")


def export_model(
    model: nn.Module,
    path: str | Path,
    *,
    format: str | None = None,
    opset: int = OPSET,
    sizes: Sequence[tuple[int, int]] = SIZES,
    images: Sequence[Image] | None = None,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
    task: str | None = None,
) -> ExportReport:
    """Writes the model's deploy form with dynamic batch, height and width, after measuring it against eager PyTorch.

    path       of the file; the suffix (.onnx, .pt2, .xml) is added where it lacks
    format     "onnx", "torch" or "openvino"; None: by the suffix, ONNX without one
    sizes      (height, width) pairs at which parity is measured, every second one with a batch of two
    images     to measure on: paths, (H, W, 3) uint8 arrays or (C, H, W) tensors in [0, 1];
               None: the project's photo in a checkout, else noise with the statistics of photos
    tolerance  max |difference| / max |logit| that is still equal
    overwrite  files that are there are replaced; else only those of an earlier export, and FileExistsError for others
    task       of a mask classifier: "semantic" gives "scores" of the classes at the picture's size, "instance" and "panoptic" its
               "class_logits" and "mask_logits"; None: as the model says (`MaskModel.task`)

    A mask classifier that decides where its queries look is compared by margin: what near ties of these decisions turn in PyTorch
    itself is no error of an engine; the table has how much that is.

    Beside the file, `NAME.parity.json` keeps the table.  Nothing is written, and nothing of an earlier export replaced,
    where the model cannot be expressed (ExportError) or its outputs differ (ParityError).
    """
    path, format = target(path, format)
    settings = {"opset": opset, "sizes": sizes, "images": images, "tolerance": tolerance, "overwrite": overwrite}
    return next(export_formats(model, path, formats=(format,), task=task, **settings))
