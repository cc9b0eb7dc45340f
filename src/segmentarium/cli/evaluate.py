"""`segmentarium evaluate`: a model's scores on a data set, as a table, JSON and an HTML report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from segmentarium.cli.engines import add_computing
from segmentarium.cli.train import add_data_options

EXAMPLES = (
    ("segmentarium evaluate --model runs/mine --data folder --root DIR --out report", ""),
    ("segmentarium evaluate --model street --data camvid --root DIR --flip", ""),
    ("segmentarium evaluate --model deploy/best.onnx --data folder --root DIR", "an exported network"),
    ("segmentarium evaluate --model superpoint.free --data hpatches --root DIR --beside", "OpenCV's key points, too"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--model",
        required=True,
        help="a name of the catalogue (street, person), a file, the folder of a training, an exported .onnx or .xml, or\n"
        "hf:OWNER/NAME",
    )
    add("--layout", help="key table of another project's checkpoint, where its keys alone do not tell")
    add(
        "--data",
        required=True,
        help="camvid, cityscapes, …, folder (images/ and masks/), imagefolder (a folder a class), or of segments\n"
        "coco_panoptic, coco_instances, instances (images/ and instances/), labelme, cvat, yolo, …; of points hpatches,\n"
        "of joints coco_keypoints",
    )
    add(
        "--task",
        choices=("semantic", "instance", "panoptic"),
        help="of mask classifiers: semantic (mIoU), instance (AP), panoptic (PQ); default: by the data, panoptic where\n"
        "some classes are no objects, instance where all are, semantic where a class is known of every pixel only",
    )
    add("--root", type=Path, help="where the data set lies (shapes are drawn, and lie nowhere)")
    add(
        "--split",
        help="default: test where it has labels, else val; all: every picture of a folder, those of train too",
    )
    add("--mask-map", help='of a folder: raw value to class, e.g. "0:0,255:1"')
    add_data_options(parser)
    add("--num-classes", type=int, help="score the first N logits only (N: classes of the data), leave out the others")
    add(
        "--mode",
        choices=("whole", "slide"),
        help="of segmenters: whole images, or blended windows; default: as published",
    )
    add("--tile", type=int, help="with --mode slide: largest side of a window, in pixels (default 1024)")
    add("--overlap", type=_overlap, help="with --mode slide: a share of windows (0.25, the default) or pixels (128)")
    add("--flip", action="store_true", help="of segmenters: average with the mirrored image")
    add("--scales", type=_scales, default=(1.0,), help="of segmenters: average over scales, e.g. 0.75,1,1.25")
    add_computing(parser)
    add("--batch-size", type=int, default=1, help="images, or windows, to one call (default 1)")
    add(
        "--boundary-ratio",
        type=float,
        default=0.02,
        help="of segmenters: boundary IoU's distance / diagonal (default 0.02); 0: skip",
    )
    add("--size", type=int, help="of classifiers: side of the square they see (default: as the file says, or 224)")
    add(
        "--crop-ratio",
        type=float,
        help="of classifiers: share of the shorter side it shows (default: the file's, or 0.875)",
    )
    add(
        "--beside",
        nargs="*",
        metavar="NAME",
        help="of points: OpenCV's in the same run, of sift, orb, harris, fast, shi_tomasi; without a name: all of them",
    )
    add("--worst", type=int, default=8, help="how many of the worst images the report shows (default 8)")
    add("--limit", type=int, help="stop after so many images")
    add("--json", type=Path, metavar="FILE", help="write the numbers there")
    add("--out", type=Path, metavar="DIR", help="write report.html, report.json, confusion.png and worst/ there")


def run(options: argparse.Namespace) -> int:
    if options.json is not None and options.json.is_dir():
        raise ValueError(f"--json {options.json} is a folder; give a file")
    check_data_options(options)
    from rich.console import Console
    from rich.markup import escape

    from segmentarium.cli.progress import progress
    from segmentarium.cli.tables import show
    from segmentarium.evaluation import evaluate
    from segmentarium.evaluation.base import check_json, check_output
    from segmentarium.weights import load

    if options.out is not None:
        check_output(options.out, overwrite=options.overwrite)
    if options.json is not None:
        check_json(options.json, overwrite=options.overwrite)
    beside = _beside(options.beside)
    model = load(options.model, layout=options.layout)
    dataset = labelled_data(options, model)
    with progress("evaluating") as tell:
        report = evaluate(
            model,
            dataset,
            task=options.task,
            mode=options.mode,
            tile=options.tile,
            overlap=options.overlap,
            flip=options.flip,
            scales=options.scales,
            engine=options.engine,
            precision=options.precision,
            device=options.device,
            batch_size=options.batch_size,
            num_classes=options.num_classes,
            boundary_ratio=options.boundary_ratio or None,
            size=options.size,
            crop_ratio=options.crop_ratio,
            beside=beside,
            worst=options.worst if options.out is not None else min(options.worst, 3),
            limit=options.limit,
            progress=tell,
        )
    report.model["name"] = options.model
    report.data["root"] = str(options.root)
    show(report.table())
    print(report.summary())
    errors = Console(stderr=True)
    for note in report.notes:
        errors.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)
    if options.json is not None:
        report.write_json(options.json, overwrite=options.overwrite)
    if options.out is not None:
        print(report.save(options.out, overwrite=options.overwrite))
    return 0


def check_data_options(options: argparse.Namespace) -> None:
    """Raises for --data, --root and --mask-map that do not fit, before weights are read, or fetched."""
    from segmentarium.data.catalogue import needs_folder, own_classes, takes_patterns

    if options.mask_map is not None and not own_classes(options.data):
        raise ValueError(f"--mask-map is for --data folder and shards; {options.data} knows its labels")
    if options.root is None:
        if needs_folder(options.data):
            raise ValueError("no --root is given; give the folder where the data set lies")
        options.root = Path()
    if not options.root.is_dir() and not takes_patterns(options.data):
        raise FileNotFoundError(f"--root {options.root} is not a folder; give the one where the data set lies")


def labelled_data(options: argparse.Namespace, model: Any) -> Any:
    """The data set of --data, --root, --split and its options, with the model's classes where the folder names none."""
    from segmentarium.contracts import InstanceModel, LabelledModel, MaskModel, SegmentationModel
    from segmentarium.data import build_dataset, evaluation_split
    from segmentarium.data.class_table import class_file
    from segmentarium.data.drawn_labels import tool_layout

    extra: dict[str, Any] = dict(options.data_arguments)
    if options.mask_map is not None:
        extra["mask_map"] = options.mask_map
    if options.data.lower() == "folder" and getattr(model, "in_channels", 3) not in (1, 3):
        extra.setdefault("bands", model.in_channels)
    if isinstance(model, LabelledModel) and model.preprocessing.bits is not None:
        extra.setdefault("bits", model.preprocessing.bits)
    nameless = options.data.lower() == "folder" and class_file(options.root) is None and not tool_layout(options.root)
    taken = nameless and "classes" not in extra and isinstance(model, SegmentationModel | MaskModel | InstanceModel)
    if taken:
        extra["classes"] = model.classes
    split = options.split or evaluation_split(options.data, options.root)
    dataset = build_dataset(options.data, options.root, split, **extra)
    if taken:
        dataset.notes.append(
            f"{options.root} names no classes; its labels are taken for the model's: {', '.join(model.classes)}"
        )
    return dataset


def _beside(names: list[str] | None) -> tuple[str, ...]:
    """OpenCV's detectors that are asked for."""
    if names is None:
        return ()
    from segmentarium.checks import check_choice
    from segmentarium.matching.classical import NAMES

    for name in names:
        check_choice("beside", name, NAMES)
    return tuple(names) or NAMES


def _overlap(text: str) -> int | float:
    """ "128" is pixels, "0.25" a share of the window."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither pixels (128) nor a share of the window (0.25)") from None


def _scales(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of scales; write e.g. 0.75,1,1.25") from None
