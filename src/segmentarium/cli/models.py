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
    table.caption = "published figures; FLOPs are 1e9 multiply-adds"
    for card in cards:
        size = "×".join(map(str, card["flops_size"])) if card["flops_size"] else ""
        table.add_row(
            card["name"],
            str(card["paper"]["year"]),
            f"{card['parameters']:.2f}" if card["parameters"] else "",
            f"{card['flops']:.1f} at {size}" if card["flops"] else "",
            "\n".join(f"{score:g} {what}" for what, score in card["scores"].items()),
            ", ".join(card["weights"]),
        )
    Console().print(table)
    return 0
