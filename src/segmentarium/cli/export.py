"""`segmentarium export MODEL…`: the deploy form as a file, with its parity measured."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmentarium.cli.train import add_data_options

if TYPE_CHECKING:
    from torch import nn

    from segmentarium.export import ExportReport

FORMATS = ("onnx", "torch", "openvino")
SMALL = ((128, 160), (97, 131))  # for --all: each size is a multiple of the strides, and one that is of none

EXAMPLES = (
    ("segmentarium export runs/mine --format onnx,openvino --out deploy", ""),
    ("segmentarium export bisenetv2 --random-weights --size 512x1024", "a network without weights"),
    ("segmentarium export runs/mine --int8 --data folder --root DIR", "weights and activations of eight bits, scored"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="*", help="weights by name or file; with --random-weights, an architecture")
    parser.add_argument("--format", default="onnx", metavar="A,B", help="of onnx, torch, openvino (default onnx)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="default: exported; with --all: nothing is kept, only measured"
    )
    parser.add_argument(
        "--all", action="store_true", help="every registered segmenter, small; implies --random-weights"
    )
    parser.add_argument("--random-weights", action="store_true", help="MODEL names an architecture, untrained (seed 0)")
    parser.add_argument(
        "--num-classes", type=int, metavar="K", help="of a model with random weights; default: the card's"
    )
    parser.add_argument("--in-channels", type=int, metavar="C", help="of a model with random weights; default 3")
    parser.add_argument(
        "--size", action="append", type=size, metavar="HxW", help="to measure parity at; may be given several times"
    )
    parser.add_argument(
        "--points",
        type=int,
        metavar="N",
        help="of a key point model: with suppression in the file, which gives the best N points with their descriptors",
    )
    parser.add_argument(
        "--dense",
        action="store_true",
        help="of a detector in point clouds: what comes behind its pillars alone, for devices that cannot scatter",
    )
    parser.add_argument("--images", nargs="+", type=Path, metavar="FILE", help="to measure parity on")
    parser.add_argument(
        "--task",
        choices=("semantic", "instance", "panoptic"),
        help="of mask classifiers: semantic writes scores of the classes, the others class_logits and mask_logits\n"
        "(default: what the model is for)",
    )
    parser.add_argument(
        "--opset",
        type=int,
        help="ONNX operator set, of onnx and openvino; refused where the model cannot have it (default: 20)",
    )
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="relative error that is still equal, default 1e-4"
    )
    group = parser.add_argument_group("int8", "eight bits, calibrated on your pictures, with scores before and after")
    add = group.add_argument
    add(
        "--int8",
        action="store_true",
        help="writes NAME.int8.onnx or .xml (with NNCF: the extra int8), and its scores beside it",
    )
    add(
        "--data",
        default="folder",
        help="as of evaluate: camvid, cityscapes, folder, …; of key points hpatches (default folder)",
    )
    add("--root", type=Path, help="where the data set lies")
    add("--split", help="that is scored (default: test where it has labels, else val); calibrated on is train")
    add("--mask-map", help='of a folder: raw value to class, e.g. "0:0,255:1"')
    add_data_options(group)
    add("--int8-pictures", type=int, metavar="N", help="calibrated on (default 64)")
    add("--int8-limit", type=int, metavar="N", help="scores only so many pictures")
    add(
        "--int8-loss",
        type=float,
        metavar="SHARE",
        help="share that may be lost of mIoU and boundary IoU, of key points of repeatability and matching score; more is "
        "refused (default 0.02)",
    )
    add(
        "--int8-range",
        choices=("auto", "full", "reduced"),
        default="auto",
        help="reduced: weights of 7 bits, for x86 processors without VNNI, which saturate with 8 (auto: as this one needs)",
    )


def size(text: str) -> tuple[int, int]:
    """ "512x1024" -> (512, 1024): height, width."""
    try:
        height, width = (int(part) for part in text.lower().replace("×", "x").split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"size is {text!r}; give height x width in pixels, e.g. 512x1024") from None
    if min(height, width) < 32:
        raise argparse.ArgumentTypeError(f"size is {text!r}; both sides must be 32 pixels or more")
    return height, width


def run(options: argparse.Namespace) -> int:
    """0: all written (or measured) with parity; 1: some model failed.  ValueError for wrong usage."""
    formats = tuple(part.strip() for part in options.format.split(",") if part.strip())
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(
            f"--format is {options.format!r}; give one or more of {', '.join(FORMATS)}, with commas between"
        )
    if bool(options.model) == options.all:
        raise ValueError("give the models to export, or --all for every registered segmenter, not both or neither")
    if options.int8:
        return int8_each(options, formats, options.out or Path("exported"))
    if given := [name for name in ("root", "int8_loss", "int8_pictures") if getattr(options, name) is not None]:
        raise ValueError(f"--{given[0].replace('_', '-')} is for --int8; add it, or leave that out")
    if options.all and options.out is None:
        with tempfile.TemporaryDirectory() as folder:
            return export_each(options, formats, Path(folder))
    return export_each(options, formats, options.out or Path("exported"))


def with_points(model: nn.Module, count: int) -> nn.Module:
    """The model with what finds its best points.  ValueError for one that has none."""
    from segmentarium.contracts import KeypointModel
    from segmentarium.keypoints.detector import PointDetector

    if not isinstance(model, KeypointModel):
        raise ValueError("--points is for models of key points, such as superpoint; leave it out")
    return PointDetector(model, count).eval()


def dense_part(model: nn.Module) -> nn.Module:
    """Of a detector in steps what comes behind its pillars.  ValueError for another model."""
    from segmentarium.contracts import Detector3d
    from segmentarium.lidar.dense import DensePart

    if not isinstance(model, Detector3d):
        raise ValueError("--dense is for detectors in point clouds, such as pointpillars; leave it out")
    return DensePart(model).eval()


def export_each(options: argparse.Namespace, formats: tuple[str, ...], folder: Path) -> int:
    """Exports every model of the command line to `folder`, prints the parity, returns the exit code."""
    from rich import box
    from rich.table import Table

    from segmentarium.cli.progress import progress
    from segmentarium.cli.tables import show
    from segmentarium.export import ExportError, export_formats
    from segmentarium.export.formats import OPSET
    from segmentarium.export.parity import SIZES
    from segmentarium.registry import list_models

    if options.opset is not None and not {"onnx", "openvino"} & set(formats):
        raise ValueError(f"--opset is of ONNX, and --format is {options.format}; leave it out")
    names = list_models(kind="segmenter") if options.all else options.model
    settings = {
        "formats": formats,
        "opset": options.opset or OPSET,
        "sizes": options.size or (SMALL if options.all else SIZES),
        "images": options.images,
        "tolerance": options.tolerance,
        "overwrite": options.overwrite,
        "task": options.task,
    }
    table = Table("model", "format", "rel. error", "same class", "MB", "s", "result", box=box.SIMPLE, pad_edge=False)
    table.columns[0].no_wrap = True
    failed: list[str] = []
    with progress("exporting", len(names) * len(formats)) as tell:
        for number, name in enumerate(names):
            tell(number * len(formats), words=f"exporting {name}")
            model = build(name, options)
            if options.points is not None:
                model = with_points(model, options.points)
            if options.dense:
                model = dense_part(model)
            try:
                for place, report in enumerate(export_formats(model, folder / file_name(name), **settings), 1):
                    tell(number * len(formats) + place)
                    table.add_row(*row(name, report))
                    line = (
                        f"{name} {report.format}: {report.relative_error:.1e}"
                        if options.all
                        else f"{report.path}\n{report}"
                    )
                    print(line)
            except ExportError as error:
                if options.debug:
                    raise
                failed.append(name)
                print(f"segmentarium export: {name}: {error}", file=sys.stderr)
                table.add_row(name, "", "", "", "", "", "[red]failed[/red]")
    show(table)
    if failed:
        print(f"segmentarium export: {len(failed)} of {len(names)} failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def int8_each(options: argparse.Namespace, formats: tuple[str, ...], folder: Path) -> int:
    """Writes every model of the command line in int8, prints what that costs, returns the exit code."""
    from segmentarium.cli.evaluate import check_data_options, labelled_data
    from segmentarium.cli.progress import progress
    from segmentarium.data.catalogue import list_splits
    from segmentarium.export import ExportError
    from segmentarium.quantization import LOSS, PICTURES, export_int8
    from segmentarium.quantization.writers import WRITERS

    if wrong := [name for name in formats if name not in WRITERS]:
        raise ValueError(f"--format is {wrong[0]}; int8 is written as {' or '.join(WRITERS)}")
    if options.random_weights or options.all:
        raise ValueError("int8 is calibrated and scored: it needs weights, not --random-weights or --all")
    if options.task not in (None, "semantic") or options.points is not None or options.dense:
        raise ValueError(
            "int8 is for networks that give a class for each pixel, or scores and descriptors of points; leave out --task, "
            "--points and --dense"
        )
    check_data_options(options)
    settings: dict[str, Any] = {
        "images": options.images,
        "tolerance": options.tolerance,
        "overwrite": options.overwrite,
    }
    settings |= {"opset": options.opset} if options.opset else {}
    settings |= {"sizes": options.size} if options.size else {}
    failed = 0
    for name in options.model:
        model = build(name, options)
        data = labelled_data(options, model)
        calibration = None
        if data.split != "train" and "train" in list_splits(options.data):
            calibration = labelled_data(argparse.Namespace(**{**vars(options), "split": "train"}), model)
        for format in formats:
            with progress(f"{name} in int8") as tell:
                try:
                    report = export_int8(
                        model,
                        folder / f"{file_name(name)}.int8",
                        data,
                        calibration,
                        format=format,
                        pictures=PICTURES if options.int8_pictures is None else options.int8_pictures,
                        loss=LOSS if options.int8_loss is None else options.int8_loss,
                        reduced_range={"auto": None, "full": False, "reduced": True}[options.int8_range],
                        limit=options.int8_limit,
                        progress=lambda what, done, total: tell(done, total, words=f"scoring {what}"),
                        **settings,
                    )
                except ExportError as error:
                    if options.debug:
                        raise
                    failed += 1
                    print(f"segmentarium export: {name}: {error}", file=sys.stderr)
                    continue
            print(f"{report.path}\n{report}")
    return 1 if failed else 0


def row(name: str, report: ExportReport) -> tuple[str, ...]:
    same = min(comparison.same_class for comparison in report.comparisons)
    return (
        name,
        report.format,
        f"{report.relative_error:.1e}",
        f"{same:.3%}",
        f"{report.megabytes:.1f}",
        f"{report.seconds:.0f}",
        "equal",
    )


def build(name: str, options: argparse.Namespace) -> nn.Module:
    """The model of the command line: weights by name or file, or an architecture with random weights."""
    from segmentarium.registry import entry, list_models

    if not (options.random_weights or options.all):
        if name in list_models() and not Path(name).exists():
            raise ValueError(
                f"{name!r} is an architecture without weights; give a weights name or a file, or add --random-weights"
            )
        if options.num_classes or options.in_channels:
            raise ValueError("--num-classes and --in-channels go with --random-weights; weights bring their own")
        from segmentarium.weights import load

        return load(name)
    import torch

    from segmentarium.registry import create_model

    torch.manual_seed(0)
    arguments: dict[str, Any] = {}
    if entry(name).takes("num_classes"):
        arguments["num_classes"] = options.num_classes or entry(name).card.num_classes or 19
    if options.in_channels:
        arguments["in_channels"] = options.in_channels
    return create_model(name, **arguments).eval()


def file_name(name: str) -> str:
    """ "runs/best.safetensors" -> "best", "hf:owner/street" -> "street"; the names of the catalogue stay."""
    path = Path(name.removeprefix("hf:"))
    return path.stem if path.suffix in (".safetensors", ".pth", ".pt", ".ckpt", ".bin") else path.name
