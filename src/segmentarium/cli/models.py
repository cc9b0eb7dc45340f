"""`segmentarium models`: what is registered, with its card."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern of names, e.g. 'segformer*'")
    parser.add_argument("--family", help="backbones, semantic, realtime, portrait")
    parser.add_argument("--kind", choices=("segmenter", "backbone"))
    parser.add_argument(
        "--measure", action="store_true", help="count parameters and FLOPs of ours, too (seconds a model)"
    )
    parser.add_argument("--json", action="store_true", help="the whole cards as JSON")


def run(options: argparse.Namespace) -> int:
    from segmentarium.registry import list_models, model_card
    from segmentarium.weights.catalogue import CATALOGUE

    names = list_models(options.pattern, family=options.family, kind=options.kind)
    cards = [model_card(name) for name in names]
    for card in cards:
        card["weights"] = [w.alias or w.name for w in CATALOGUE if w.model == card["name"]]
        if options.measure:
            card["measured"] = _measure(card["name"])
    if options.json:
        print(json.dumps(cards, indent=1))
        return 0
    from rich.console import Console
    from rich.table import Column, Table

    columns = [Column("name", no_wrap=True), "year", "M parameters", "GFLOPs", "published", "weights here"]
    if options.measure:
        columns[4:4] = ["counted here: M parameters", "GFLOPs"]
    table = Table(*columns)
    table.caption = "published figures; FLOPs are 1e9 multiply-adds"
    for card in cards:
        size = "×".join(map(str, card["flops_size"])) if card["flops_size"] else ""
        row = [
            card["name"],
            str(card["paper"]["year"]),
            f"{card['parameters']:.2f}" if card["parameters"] else "",
            f"{card['flops']:.1f} at {size}" if card["flops"] else "",
            "\n".join(f"{score:g} {what}" for what, score in card["scores"].items()),
            ", ".join(card["weights"]),
        ]
        if options.measure:
            counted = card["measured"]
            size = "×".join(map(str, counted["size"]))
            row[4:4] = [f"{counted['parameters']:.2f}", f"{counted['flops']:.1f} at {size}"]
        table.add_row(*row)
    console = Console()
    # into a pipe or a file goes the whole table: 80 columns would break every cell
    (console if console.is_terminal else Console(width=200)).print(table)
    return 0


def _measure(name: str) -> dict[str, Any]:
    """Parameters (1e6) and FLOPs (1e9 multiply-adds) of inference, at the published size or 512×1024 (backbones: 224×224)."""
    import torch

    from segmentarium.benchmarking.size import meta_model, multiply_adds, parameters_millions
    from segmentarium.registry import entry

    found = entry(name)
    size = found.card.flops_size or ((224, 224) if found.card.family == "backbones" else (512, 1024))
    model = meta_model(found)
    flops = multiply_adds(model, torch.zeros(1, getattr(model, "in_channels", 3), *size, device="meta"))
    return {"parameters": parameters_millions(model, training_only=False), "flops": flops, "size": list(size)}
