"""`segmentarium weights`: checkpoints by name: which there are, what they reach, fetched, kept, removed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

EXAMPLES = (
    ("segmentarium weights 'segformer*' --data-set cityscapes", ""),
    ("segmentarium weights --kept", "what lies on this machine"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="of the names, as in a shell, or a part of them")
    parser.add_argument("--task", help="semantic, panoptic, instance, classification, pretraining, keypoints")
    parser.add_argument("--data-set", metavar="NAME", help="or a part of its name: cityscapes, ade20k, coco, imagenet")
    parser.add_argument(
        "--layout", metavar="NAME", help="whose files: mmseg, torchvision, timm, transformers, official"
    )
    parser.add_argument(
        "--commercial", action="store_true", help="only those whose licence is known and allows such use"
    )
    parser.add_argument("--all", action="store_true", help="also those of systems that are not in this library yet")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--get", metavar="NAME", help="fetch one, check it and keep it; every verb takes its name as --model"
    )
    group.add_argument("--where", metavar="NAME", help="print the path of the kept file")
    group.add_argument("--remove", metavar="NAME", help="delete the kept file")
    group.add_argument("--kept", action="store_true", help="only those that are on this machine")
    group.add_argument(
        "--check", action="store_true", help="build each one's model without numbers; exit code 1 if one fails"
    )
    parser.add_argument("--file", type=Path, metavar="PATH", help="with --get: a file that you downloaded by hand")
    parser.add_argument(
        "--accept-licence", action="store_true", help="with --get: consent to a licence that is not free"
    )


def run(options: argparse.Namespace) -> int:
    from segmentarium.weights.published import list_published

    if options.file and not options.get:
        raise ValueError("--file is the file of --get NAME; give both")
    if options.get:
        return _get(options)
    if options.where or options.remove:
        return _kept(options)
    rows = list_published(
        options.pattern,
        task=options.task,
        data_set=options.data_set,
        layout=options.layout,
        commercial=options.commercial,
        known=not options.all,
    )
    if not rows:
        raise KeyError(_nothing(options))
    if options.check:
        return _check(rows)
    from segmentarium.weights.fetch import rows_kept

    sizes = rows_kept({row.name: row for row in rows})
    if options.kept:
        rows = [row for row in rows if row.name in sizes]
    if options.json:
        print(json.dumps([_plain(row, sizes.get(row.name)) for row in rows], indent=1, ensure_ascii=False))
        return 0
    _table(rows, sizes)
    return 0


def _nothing(options: argparse.Namespace) -> str:
    """Which of the wishes no checkpoint fits, and what it may have meant."""
    from segmentarium.checks import did_you_mean
    from segmentarium.weights import catalogue
    from segmentarium.weights.names import no_weights
    from segmentarium.weights.published import list_published

    if catalogue.find(options.pattern):
        return (
            f"{options.pattern!r} lies in this package, and is no file that is fetched; `segmentarium models` lists it"
        )
    rows = list_published(options.pattern, known=not options.all)
    if not rows:
        return f"no published weights are called {options.pattern!r}{no_weights(options.pattern)}"
    for name in ("task", "data_set", "layout"):
        given = getattr(options, name)
        if given and not list_published(options.pattern, known=not options.all, **{name: given}):
            word, there = name.replace("_", "-"), sorted({getattr(row, name) for row in rows} - {""})
            return f"of the {len(rows)} checkpoints none fits --{word} {given}{did_you_mean(given, there)}"
    return f"none of the {len(rows)} checkpoints fits all of that; ask for less"


def _plain(row: Any, size: int | None) -> dict[str, Any]:
    facts = ("name", "system", "layout", "task", "data_set", "metric", "value", "licence", "note")
    said = {key: getattr(row, key) for key in facts}
    return said | {"commercial": row.commercial, "page": row.page, "address": row.address, "bytes": size}


def _table(rows: list[Any], sizes: dict[str, int]) -> None:
    """Names first: they are what one types; at 80 columns the rest is folded, never cut."""
    from rich.table import Table

    from segmentarium.cli.tables import show

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    for title in ("data set", "score", "licence"):
        table.add_column(title, overflow="fold")
    for row in rows:
        score = f"{row.value} {row.metric}" if row.value else ""
        marks = ["by hand"] if row.page else []
        if row.name in sizes:
            marks.append(f"kept, {sizes[row.name] / 2**20:.0f} MB")
        licence = row.licence or "none stated"
        table.add_row(row.name, row.data_set, score, f"{licence} ({', '.join(marks)})" if marks else licence)
    show(table)
    free = sum(row.commercial for row in rows)
    print(f"\n{len(rows)} checkpoints, {free} of them under a licence that is known and free")


def _get(options: argparse.Namespace) -> int:
    from segmentarium.weights.fetch import fetch, take
    from segmentarium.weights.inspection import inspect_weights
    from segmentarium.weights.published import named

    row = named(options.get)
    if options.file:
        path = take(row, options.file, accept_licence=options.accept_licence)
    else:
        path = fetch(row, accept_licence=options.accept_licence)
    print(path)
    if not row.layouts:
        print(f"no key table reads files of {row.layout} for {row.system} here yet")
        return 0
    found = inspect_weights(row.name)
    print(found)
    return 0 if found.report.complete else 1


def _kept(options: argparse.Namespace) -> int:
    from segmentarium.weights.fetch import folder_of, origin_of, remove
    from segmentarium.weights.published import named

    name = named(options.where or options.remove).name
    said = origin_of(name)
    if options.where:
        if said is None:
            print(f"{name} is not on this machine", file=sys.stderr)
            return 1
        print(folder_of(name) / said["file"])
        return 0
    print(f"{remove(name) / 2**20:.1f} MB freed")
    return 0


def _check(rows: list[Any]) -> int:
    """Whether each row names a model that can be built with what the catalogue adds to its file."""
    from segmentarium.weights.published import unresolved

    failed = {row.name: why for row in rows if (why := unresolved(row))}
    for name, why in failed.items():
        print(f"{name}: {why}")
    print(f"{len(rows)} checkpoints, {len(failed)} unresolved")
    return 1 if failed else 0
