"""`segmentarium check-data FOLDER`: what is wrong with a data set, before training finds out."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmentarium.cli.train import add_data_options

if TYPE_CHECKING:
    from rich.console import Console

    from segmentarium.data.base import PictureDataset
    from segmentarium.data.doctor import Report

_SHOWN = 5  # files named of each kind of problem

EXAMPLES = (
    ("segmentarium check-data DIR", "a folder with images/ and masks/"),
    ("segmentarium check-data DIR --data camvid --split val", ""),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `check-data`."""
    parser.add_argument(
        "folder",
        type=Path,
        help="the data set's folder; a plain one holds images/ and masks/; of shards a pattern, too",
    )
    parser.add_argument(
        "--data",
        default="folder",
        metavar="NAME",
        help="its layout: folder (default), imagefolder, pictures (without labels), instances, camvid, …",
    )
    parser.add_argument("--split", help="train, val, test …; default: all where a set has that, else train")
    parser.add_argument("--classes", metavar="A,B,…", help="names of the classes of a plain folder")
    parser.add_argument("--num-classes", type=int, metavar="K", help="number of the classes of a plain folder")
    parser.add_argument(
        "--mask-map",
        metavar="MAP",
        help='raw values to classes, e.g. "0:0,255:1" or "0:0,*:1"; 255 on the right means ignore',
    )
    add_data_options(parser)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="for report.json and contact_sheet.png; default runs/check-data/FOLDER"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """0: no errors (there may be warnings); 1: errors in the data.

    Raises:
        FileNotFoundError, ValueError, KeyError: there is nothing to check, or the options do not fit.
    """
    from rich.console import Console

    from segmentarium.cli.progress import progress
    from segmentarium.data.doctor import check_data, check_output
    from segmentarium.data.mask_io import LabelError

    try:
        dataset = _dataset(args)
    except LabelError as error:
        print(f"segmentarium check-data: {error}", file=sys.stderr)
        return 1
    out = args.out or Path("runs") / "check-data" / re.sub(r"[^\w.-]+", "-", args.folder.resolve().name)
    check_output(out, overwrite=args.overwrite)
    with progress("reading", len(dataset)) as tell:
        report = check_data(dataset, tell)
    written = report.save(out, overwrite=args.overwrite)
    if args.json:
        print(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        console = Console()
        _show(report, console)
        console.print("written: " + ", ".join(map(str, written)), soft_wrap=True, highlight=False)
    return 0 if report.ok else 1


def _dataset(args: argparse.Namespace) -> PictureDataset:
    from segmentarium.data.catalogue import build_dataset, list_splits, own_classes

    options: dict[str, Any] = {}
    more = dict(args.data_arguments)
    if args.classes is not None:
        options["classes"] = [name.strip() for name in args.classes.split(",") if name.strip()]
        if args.num_classes is not None and args.num_classes != len(options["classes"]):
            raise ValueError(
                f"--num-classes {args.num_classes}, but --classes names {len(options['classes'])}; give one"
            )
    elif args.num_classes is not None:
        options["classes"] = args.num_classes
    if args.mask_map is not None:
        options["mask_map"] = args.mask_map
    split = args.split or ("all" if "all" in list_splits(args.data) else "train")
    if own_classes(args.data):
        return build_dataset(args.data, args.folder, split, **{"strict": False, **options, **more})
    if options:
        raise ValueError(
            f"--classes, --num-classes and --mask-map are for plain folders and shards; {args.data} has its own"
        )
    return build_dataset(args.data, args.folder, split, **more)


def _show(report: Report, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    from segmentarium.data.doctor import group_problems

    segmentation, segments = report.task not in ("classification", "pictures"), report.task == "segments"
    unit = "pairs" if segmentation else "pictures"
    for note in report.notes:
        console.print(escape(note), soft_wrap=True, highlight=False)
    console.print(f"[bold]{escape(report.name)}[/]: {report.pictures} {unit}, {report.readable} of them sound")
    for title, counts in (
        ("sizes", report.sizes),
        ("picture modes", report.image_modes),
        ("mask modes", report.mask_modes),
    ):
        if counts:
            shown = ", ".join(f"{key} ({number})" for key, number in list(counts.items())[:6])
            more = f" and {len(counts) - 6} more" if len(counts) > 6 else ""
            console.print(f"{title}: {shown}{more}", highlight=False)
    if report.mean and report.std:
        console.print(f"mean {report.mean}, std {report.std}", highlight=False)
    table = Table("", "class", title_justify="left")
    weighted = ("pixels %", "weight (median frequency)", "weight (ENet)") if segmentation else ("images %",)
    for name in (*(("segments",) if segments else ()), "images", *weighted):
        table.add_column(name, justify="right")
    for row in report.classes:
        weights = (row.weight_median_frequency, row.weight_enet)
        cells = [f"{w:.2f}" if w is not None else "-" for w in weights] if segmentation else []
        counts = [str(row.segments)] if segments else []
        table.add_row(str(row.index), escape(row.name), *counts, str(row.images), f"{100 * row.share:.3f}", *cells)
    if report.classes:
        console.print(table)
    _show_frequency(report, console)
    if segmentation:
        console.print(f"ignored: {100 * report.ignored_share:.2f} % of all pixels", highlight=False)
    for level, kind, problems in group_problems(report.problems):
        colour = "red" if level == "error" else "yellow"
        console.print(f"[{colour}]{level}: {kind} ({len(problems)})[/]")
        for problem in problems[:_SHOWN]:
            named = problem.file and not problem.message.startswith(problem.file)
            text = f"{problem.file}: {problem.message}" if named else problem.message
            console.print(f"  {escape(text)}", soft_wrap=True, highlight=False)
        if len(problems) > _SHOWN:
            console.print(f"  … and {len(problems) - _SHOWN} more; all of them are in report.json", highlight=False)
    if report.stray_labels:
        total = sorted(report.stray_labels.items(), key=lambda item: -item[1]["pixels"])[:10]
        shown = ", ".join(f"{value} ({n['pixels']:,} px in {n['files']} files)" for value, n in total)
        console.print(f"[red]labels outside the classes:[/] {escape(shown)}", soft_wrap=True, highlight=False)
    console.print("[green]no errors[/]" if report.ok else f"[red]{len(report.errors)} errors[/]")


def _show_frequency(report: Report, console: Console) -> None:
    """How many pictures show how many classes, and which classes are rare."""
    from rich.markup import escape

    most = max(report.histogram.values(), default=0)
    if len(report.classes) < 2 or not most:
        return
    console.print("classes by the pictures that show them", highlight=False)
    for pictures, number in report.histogram.items():
        bar = "█" * -(-number * 30 // most)
        console.print(f"  {pictures:>13}  {number:>5}  {bar}", highlight=False)
    counts = ", ".join(f"{len(names)} {which}" for which, names in report.frequency.items())
    rare = report.frequency["rare"]
    more = f" and {len(rare) - 20} more" if len(rare) > 20 else ""
    shown = f"; rare: {', '.join(rare[:20])}{more}" if rare else ""
    console.print(f"{counts}{escape(shown)}", soft_wrap=True, highlight=False)
