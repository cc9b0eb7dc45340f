"""int8: a network's file with weights and activations of eight bits, calibrated on the user's own pictures, and scored.

Post-training quantisation by the engines' own tools: ONNX Runtime's `quantize_static` and, for OpenVINO, NNCF.  What eight bits
cost is measured before the file is kept: mIoU and boundary IoU of the float32 network and of the int8 one, of key points their
repeatability and matching score, both by the engine that will run it, stand beside the file; where more is lost than is allowed
there is no file.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from segmentarium.brief import Brief
from segmentarium.contracts import KeypointModel
from segmentarium.data import SegmentationDataset
from segmentarium.data.hpatches import HPatches
from segmentarium.evaluation import Report, evaluate
from segmentarium.evaluation.keypoints import PairReport
from segmentarium.export import ExportError, export_model
from segmentarium.export.formats import staged, target
from segmentarium.files import check_targets, has_keys, write_json
from segmentarium.quantization.calibration import spread_evenly, what_it_sees
from segmentarium.quantization.writers import WRITERS
from segmentarium.weights import load
from segmentarium.weights.exported import files_of

__all__ = ["QuantizationError", "QuantizationReport", "export_int8", "saturates"]

PICTURES = 64  # calibrated on, where nobody says
LOSS = 0.02  # share of a score that may be lost
HEADS = {  # what is compared: of segmenters the first two, of key points the others
    "miou": "mIoU",
    "boundary_iou": "boundary IoU",
    "repeatability": "repeatability",
    "matching": "matching score",
}


@dataclass(frozen=True, repr=False)
class QuantizationReport(Brief):
    """What was written, and what eight bits cost.

    before, after   of the float32 and the int8 network: "miou" and "boundary_iou", 0..1, and of each class "iou"; of key points
                    "repeatability" and "matching", 0..1; "megabytes", and "seconds" of the network a picture, or pair of them
    allowed         share of a score that may be lost
    reduced_range   weights have seven bits; `range_reason`: why, or why not
    """

    path: Path
    format: str
    before: dict[str, Any]
    after: dict[str, Any]
    allowed: float
    reduced_range: bool
    range_reason: str
    calibrated_on: int
    data: dict[str, Any]
    seconds: float

    @property
    def loss(self) -> dict[str, float]:
        """Of each measure the share that is lost; below 0 where it has grown."""
        return {name: 1 - self.after[name] / self.before[name] for name in self._measures if self.before[name]}

    @property
    def _measures(self) -> list[str]:
        return [name for name in HEADS if name in self.before]

    @property
    def passed(self) -> bool:
        return max(self.loss.values()) <= self.allowed

    def told(self) -> str:
        lost = ", ".join(f"{name} {100 * share:+.2f} %" for name, share in zip(self.loss, self._changes(), strict=True))
        return f"{str(self.path)!r}, int8, {lost}, {self.after['megabytes']:.1f} MB"

    def _changes(self) -> list[float]:
        return [-share for share in self.loss.values()]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": self.path.name, "loss": self.loss, "passed": self.passed}

    def __str__(self) -> str:
        heads = [HEADS[name] for name in self._measures]
        rows = ["  ".join([f"{'':>6}", *(f"{head:>6}" for head in heads), f"{'MB':>6}", f"{'ms':>7}"])]
        for name, found in (("fp32", self.before), ("int8", self.after)):
            scores = [
                f"{100 * found[one]:>{max(6, len(head))}.2f}" for one, head in zip(self._measures, heads, strict=True)
            ]
            rows.append(
                "  ".join([f"{name:>6}", *scores, f"{found['megabytes']:>6.1f}", f"{1000 * found['seconds']:>7.1f}"])
            )
        lost = ", ".join(f"{100 * share:.1f} % of the {HEADS[name]}" for name, share in self.loss.items())
        rows.append(f"lost: {lost} (allowed: {100 * self.allowed:g} %); {self.range_reason}")
        return "\n".join(rows)


class QuantizationError(ExportError):
    """Eight bits cost more than is allowed; `report` has the numbers."""

    def __init__(self, report: QuantizationReport) -> None:
        self.report = report
        super().__init__(
            f"{report.path.name} was not written: eight bits cost more than {100 * report.allowed:g} % of a score; allow more "
            f"(--int8-loss), calibrate on more pictures (--int8-pictures), or keep float32\n{report}"
        )


def export_int8(
    model: nn.Module | str | Path,
    path: str | Path,
    data: SegmentationDataset | HPatches,
    calibration: SegmentationDataset | HPatches | None = None,
    *,
    format: str | None = None,
    pictures: int = PICTURES,
    loss: float = LOSS,
    reduced_range: bool | None = None,
    limit: int | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    **settings: Any,
) -> QuantizationReport:
    """Writes the deploy form of a segmenter, or of a network of key points, in int8, after scoring it against the float32 one;
    beside it NAME.score.json.

    path           of the file; .onnx or .xml is added where it lacks
    data           labelled pictures that both are scored on; of key points pairs of pictures (`data.hpatches`)
    calibration    pictures on which the range of each activation is found, of which the labels are not read; None: `data`
    format         "onnx" or "openvino"; None: by the suffix, ONNX without one
    pictures       how many are calibrated on, evenly spread over the set
    loss           share of a score that may be lost, 0..1, of mIoU and boundary IoU, or repeatability and matching score; more
                   raises QuantizationError
    reduced_range  weights of seven bits, which no processor saturates at; None: where this one would, see `saturates`
    limit          scores only so many pictures
    progress       called with what is done ("fp32", "int8"), pictures done and in all
    settings       of `export_model`, for the float32 network in between: opset, sizes, images, tolerance

    Raises ImportError where the tool is not installed, ValueError for other models and data, ExportError and ParityError as
    `export_model` does; nothing is written then, and nothing of an earlier export replaced.
    """
    final, format = target(path, format)
    if format not in WRITERS:
        raise ValueError(f"format is {format!r}; int8 is written as {' or '.join(WRITERS)}")
    if not 0 <= loss < 1:
        raise ValueError(
            f"loss is {loss}; give the share of the score that may be lost, 0 to 1 (0.02: two in a hundred)"
        )
    if isinstance(model, str | Path):
        model = load(model)
    points = isinstance(model, KeypointModel)
    seen = data if calibration is None else calibration  # an empty set is none to leave for the other
    indices = spread_evenly(seen, pictures, HPatches if points else SegmentationDataset)
    check_targets(
        [final, _score_file(final), *([final.with_suffix(".bin")] if format == "openvino" else [])],
        overwrite=overwrite,
        ours=has_keys(_score_file(final), ("before", "after")),
    )
    started = time.perf_counter()
    write = WRITERS[format]()  # the tool is there, or said to be missing, before anything is computed
    reduced, reason = _range(reduced_range)
    task = None if points else "semantic"
    with TemporaryDirectory(prefix="int8") as folder, staged(final) as temporary:
        whole = export_model(model, Path(folder) / f"float{final.suffix}", format=format, task=task, **settings)
        told = {"data": seen.info.name, "pictures": len(indices), "reduced_range": reduced}
        metadata = {**whole.metadata, "quantization": {"bits": 8, **told}}
        write(whole.path, temporary, what_it_sees(model, seen, indices), metadata, reduced)
        score = {"limit": limit, "progress": progress}
        before, after = _scores("fp32", whole.path, data, **score), _scores("int8", temporary, data, **score)
        facts = {"name": data.info.name, "split": str(data.split), "pictures": before.pop("pictures")}
        after.pop("pictures")
        report = QuantizationReport(
            final, format, before, after, loss, reduced, reason, len(indices), facts, time.perf_counter() - started
        )
        if not report.loss:
            raise ValueError(
                f"the float32 network scores 0 on {data.info.name}: there is nothing that eight bits could cost"
            )
        if not report.passed:
            raise QuantizationError(report)
        write_json(_score_file(temporary), report.as_dict())
    return report


def saturates() -> bool:
    """Whether this processor's products of eight bits may exceed the sixteen that they are added up in: x86 without VNNI."""
    if platform.machine().lower() not in ("x86_64", "amd64", "x86", "i386", "i686"):
        return False
    flags = Path("/proc/cpuinfo")
    if flags.is_file():
        words = set(flags.read_text(encoding="utf-8", errors="replace").split())
        return not words & {"avx512_vnni", "avx_vnni"}
    return not torch.cpu._is_vnni_supported()


def _range(wanted: bool | None) -> tuple[bool, str]:
    if wanted is not None:
        return wanted, f"weights have {7 if wanted else 8} bits, as asked for"
    if saturates():
        return True, "weights have 7 bits: this processor has no VNNI, and would saturate with 8"
    return (
        False,
        "weights have 8 bits: for x86 processors without VNNI, which saturate, give them 7 (--int8-range reduced)",
    )


def _scores(name: str, file: Path, data: Any, limit: int | None, progress: Any) -> dict[str, Any]:
    tell = None if progress is None else lambda done, total: progress(name, done, total)
    report = evaluate(load(file), data, worst=0, limit=limit, progress=tell)
    assert isinstance(report, Report | PairReport)
    size = sum(one.stat().st_size for one in files_of(file)) / 1e6
    scores = report.scores()
    measured = {name: scores[name] or 0.0 for name in HEADS if name in scores}
    classes = {"iou": scores["iou"]} if "iou" in scores else {}
    seconds = report.model_seconds / max(report.images, 1)
    return {**measured, **classes, "megabytes": size, "seconds": seconds, "pictures": report.images}


def _score_file(path: Path) -> Path:
    return path.with_name(path.name + ".score.json")
