"""`segmentarium models`: what is registered, with its card."""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern of names, e.g. 'segformer*'")
    parser.add_argument("--family", help="backbones, semantic, realtime, portrait")
    parser.add_argument("--kind", choices=("segmenter", "backbone"))
    parser.add_argument("--json", action="store_true", help="the whole cards as JSON")


def run(options: argparse.Namespace) -> int:
    from segmentarium.registry import list_models, model_card
    from segmentarium.weights.catalogue import CATALOGUE

    names = list_models(options.pattern, family=options.family, kind=options.kind)
    cards = [model_card(name) for name in names]
    for card in cards:
        card["weights"] = [w.alias or w.name for w in CATALOGUE if w.model == card["name"]]
    if options.json:
        print(json.dumps(cards, indent=1))
        return 0
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(Column("name", no_wrap=True), "year", "M parameters", "GFLOPs", "published", "weights here")
    table.caption = (
        "parameters and FLOPs (1e9 multiply-adds) are counted here, without what only training uses; "
        "in brackets the published ones"
    )
    for card in cards:
        counted = card["counted"] or {"parameters": None, "flops": None, "flops_size": card["flops_size"]}
        size = "×".join(map(str, counted["flops_size"] or ()))
        flops = _both(counted["flops"], card["flops"], ".1f")
        table.add_row(
            card["name"],
            str(card["paper"]["year"]),
            _both(counted["parameters"], card["parameters"], ".2f"),
            f"{flops} at {size}" if flops else "",
            "\n".join(f"{score:g} {what}" for what, score in card["scores"].items()),
            ", ".join(card["weights"]),
        )
    console = Console()
    # into a pipe or a file goes the whole table: 80 columns would break every cell
    (console if console.is_terminal else Console(width=200)).print(table)
    return 0


def _both(counted: float | None, published: float | None, form: str) -> str:
    """ "0.35 (0.37)": counted, and published."""
    words = [] if counted is None else [f"{counted:{form}}"]
    return " ".join([*words, *([] if published is None else [f"({published:{form}})"])])
