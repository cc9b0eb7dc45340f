"""`segmentarium models`: what is registered, and which networks stand on which backbones."""

from __future__ import annotations

import argparse
import json

from segmentarium.cli.tables import show

EXAMPLES = (
    ("segmentarium models", "all"),
    ("segmentarium models bisenet", "of one system"),
    ("segmentarium models --kind classifier --json", ""),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from segmentarium.registry import known

    rows = known().values()
    families = sorted({row["module"].partition(".")[0] for row in rows})
    parser.add_argument(
        "pattern", nargs="?", default="*", help="shell pattern of names, e.g. 'segformer*', or a system, e.g. bisenet"
    )
    parser.add_argument("--family", choices=families, help="the room of the model's file: %(choices)s")
    parser.add_argument("--kind", choices=sorted({row["kind"] for row in rows}), help="what it gives: %(choices)s")
    parser.add_argument("--json", action="store_true", help="all that is listed, and more, as JSON")
    parser.add_argument(
        "--combinations",
        action="store_true",
        help="which networks stand on which backbones, each pair built without weights, and why the others do not",
    )


def run(options: argparse.Namespace) -> int:
    if options.combinations:
        return _combinations(options)
    from segmentarium.registry import known, list_models
    from segmentarium.weights.catalogue import CATALOGUE

    names = list_models(options.pattern, **_wanted(options))
    if not names and not any(sign in options.pattern for sign in "*?["):
        from segmentarium.weights.names import no_model, systems

        names = [name for name in systems().get(options.pattern, ()) if name in list_models("*", **_wanted(options))]
        if not names and not list_models(options.pattern) and options.pattern not in systems():
            raise KeyError(f"no model is called {options.pattern!r}{no_model(options.pattern)}")
    if not names:
        raise KeyError(f"no model fits {options.pattern!r}{_wishes(options)}; `segmentarium models` lists all")
    rows = [
        {"name": name, **known()[name], "weights": [w.alias or w.name for w in CATALOGUE if w.model == name]}
        for name in names
    ]
    if options.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    from rich.table import Column, Table

    table = Table(Column("name", no_wrap=True), "kind", "paper", "M parameters", "GFLOPs", "published", "weights here")
    table.caption = (
        "parameters and FLOPs (1e9 multiply-adds) are counted here, without what only training uses; "
        "in brackets the published ones"
    )
    for row in rows:
        table.add_row(
            row["name"],
            row["kind"],
            f"{row['venue']} {row['year']}",
            _both(row["parameters"], row["published"]["parameters"], ".2f"),
            f"{_both(row['flops'], row['published']['flops'], '.1f')} at {'×'.join(map(str, row['flops_size']))}",
            "\n".join(f"{score:g} {what}" for what, score in row["scores"].items()),
            ", ".join(row["weights"]),
        )
    show(table)
    return 0


def _wanted(options: argparse.Namespace) -> dict[str, str | None]:
    return {"family": options.family, "kind": options.kind}


def _wishes(options: argparse.Namespace) -> str:
    return "".join(f" with --{name} {value}" for name, value in _wanted(options).items() if value)


def _combinations(options: argparse.Namespace) -> int:
    from segmentarium.cli.memory import import_torch

    import_torch()
    from segmentarium.composition import combinations

    found = combinations(options.pattern, **_wanted(options))
    if not found:
        raise KeyError(f"no network on a backbone fits {options.pattern!r}{_wishes(options)}")
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return 0
    from rich.table import Column, Table

    backbones = list(next(iter(found.values())))
    table = Table(Column("network", no_wrap=True), *(backbone.removeprefix("timm:") for backbone in backbones))
    reasons = {"yes": 0}
    for name, row in found.items():
        for text in row.values():
            reasons.setdefault(text, len(reasons))
        table.add_row(name, *("yes" if text == "yes" else f"({reasons[text]})" for text in row.values()))
    show(table)
    for reason, number in list(reasons.items())[1:]:
        print(f"({number}) {reason}")
    return 0


def _both(counted: float, published: float | None, form: str) -> str:
    """ "0.35 (0.37)": counted, and published."""
    return f"{counted:{form}}" + ("" if published is None else f" ({published:{form}})")
