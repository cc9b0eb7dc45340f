"""`segmentarium compare`: several models under one budget, or a folder of recipes, on one page; see docs/compare.md."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from segmentarium.cli.export import size
from segmentarium.cli.train import add_training_options, given_options

# Not options of a comparison: each candidate's own, or decided by the budget and the state on disk.
NOT_SHARED = (
    "model", "model_arguments", "weights", "size", "max_steps", "val_every", "images_every", "output", "resume",
    "allow_changed_options",
)  # fmt: skip

EXAMPLES = (
    ("segmentarium compare --data folder --root DIR --models bisenetv2,segformer_b0 --budget 10m --out compare", ""),
    (
        "segmentarium compare --data camvid --root DIR --models street,mine=runs/mine --out compare",
        "what is trained already",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--models",
        metavar="A,B",
        help="registered names (trained), NAME=WEIGHTS, names of shipped weights, or files (loaded)",
    )
    add("--recipes", nargs="+", metavar="PLACE", help="recipe files, or folders of them, to train and compare")
    add(
        "--budget",
        help="of each training: time (5m, 90s, 1.5h), steps (2000steps), or none: nothing is trained.\n"
        "Default: of recipes, what they say; of models, none",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="for the page and all files; a second start goes on there",
    )
    add("--split", help="to score on; default: test where it has labels, else val")
    add(
        "--size",
        dest="timed_size",  # `size` is an option of training, which recipes give
        type=size,
        metavar="HxW",
        help="of the input when timing; default: that of the split's first image",
    )
    add("--engines", default=None, metavar="A,B", help="forms to time, default eager,deploy,onnxruntime,openvino")
    add("--threads", type=int, metavar="N", help="of the timing; default: as PyTorch chooses")
    add("--repeats", type=int, default=20, help="timed calls of each form, default 20")
    add("--pictures", type=int, default=4, metavar="N", help="images shown side by side, default 4")
    add("--limit", type=int, help="score the first so many images only")
    add("--boundary-ratio", type=float, default=0.02, help="boundary IoU: distance / diagonal (default 0.02); 0: skip")
    add("--device", help="of the scoring: cpu, cuda, …; default: the first GPU, else cpu. Timing is on the processor")
    group = parser.add_argument_group(
        "training",
        "the same for all; what is not given is of the recipe, or AdamW at 0.001, batch 8, crops of 70 % of a side",
    )
    add_training_options(group, NOT_SHARED)


def run(options: argparse.Namespace) -> int:
    """0: all done; 1: some candidate failed, as the page says; 128 + signal: stopped, goes on with the same command."""
    from segmentarium.cli.progress import progress
    from segmentarium.cli.tables import show
    from segmentarium.comparison import Budget, ComparisonOptions, compare
    from segmentarium.comparison.engine import ENGINES, Stopped
    from segmentarium.data import evaluation_split

    if not options.models and not options.recipes:
        raise ValueError("there is nothing to compare; give --models A,B or --recipes FOLDER")
    changes = given_options(options)
    # The budget of recipes is their own where none is given; models by name have none.
    budget = Budget.parse(options.budget or ("recipe" if options.recipes else "none"))
    if budget.kind == "recipe" and not options.recipes:
        raise ValueError("budget recipe is for --recipes; give time (5m) or steps (2000steps)")
    candidates, data = _candidates(options, budget, changes)
    engines = [part.strip() for part in options.engines.split(",") if part.strip()] if options.engines else ENGINES
    shared = ComparisonOptions(
        **data,
        split=options.split or evaluation_split(data["data"], data["root"]),
        budget=budget,
        output=options.out,
        size=options.timed_size,
        engines=tuple(engines),
        threads=options.threads,
        repeats=options.repeats,
        pictures=options.pictures,
        limit=options.limit,
        boundary_ratio=options.boundary_ratio,
        device=options.device,
        task=None if changes.get("task", "auto") == "auto" else changes["task"],
        command=shlex.join(["segmentarium", *options.words]),
    )
    try:
        comparison = compare(candidates, shared, lambda line: print(line, flush=True), progress)
    except (Stopped, KeyboardInterrupt) as stop:
        number = stop.number if isinstance(stop, Stopped) else 2
        print("segmentarium compare: stopped; the same command goes on from here", file=sys.stderr)
        return 128 + number
    show(comparison.table())
    print(options.out / "comparison.html")
    for outcome in comparison.failed:
        for phase, text in outcome.problem.items():
            print(f"segmentarium compare: {outcome.label}: {phase} failed: {text}", file=sys.stderr)
    return 1 if comparison.failed else 0


def _candidates(options: argparse.Namespace, budget: Any, changes: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The candidates, and the data set that all of them share: {"data", "root", "data_arguments"}."""
    from segmentarium.comparison.candidates import (
        candidates_of_models,
        candidates_of_recipes,
        distinct,
        standard_options,
    )

    if budget.kind == "none" and options.recipes:
        raise ValueError("budget none trains nothing, and recipes are there to be trained; compare weights by --models")
    candidates = candidates_of_recipes(options.recipes, changes) if options.recipes else []
    data = {name: changes[name] for name in ("data", "root", "data_arguments") if name in changes}
    sets = [{name: getattr(stage, name) for name in ("data", "root")} for c in candidates for stage in c.stages]
    if any(one != sets[0] for one in sets):
        raise ValueError("the recipes are of several data sets; give --data and --root for all of them")
    if sets:
        data = {**sets[0], "data_arguments": candidates[0].stages[0].data_arguments}
    from segmentarium.data.catalogue import needs_folder, takes_patterns

    if data.get("data") and not data.get("root") and not needs_folder(data["data"]):
        data["root"] = "."
    for name in ("data", "root"):
        if not data.get(name):
            raise ValueError(
                f"no --{name} is given; compare needs a data set and its folder (--data camvid --root DIR)"
            )
    if not Path(data["root"]).is_dir() and not takes_patterns(data["data"]):
        raise FileNotFoundError(
            f"root {data['root']} is not a folder; give the one where the data set lies (--root DIR)"
        )
    if options.models:
        items = [item.strip() for item in options.models.split(",") if item.strip()]
        trains = budget.kind in ("time", "steps")
        base = standard_options({**changes, **data}) if trains else None
        candidates += candidates_of_models(items, base, {*changes})
    return distinct(candidates), data
