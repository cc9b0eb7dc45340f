"""The same architecture here and in other packages, side by side in one run: segmentation-models-pytorch, transformers and
torchvision for segmenters, timm for most backbones as classifiers.

    python -m benchmarks.peers [--quick] [--kind classifier] [--only NAME …] [--threads 2] [--rounds 7] [--out DIR]

Each pair runs in a process of its own: our model takes the peer's weights through the key table, then the peer and all our
forms are timed in alternating rounds on one photo, and the ratio is the median over the rounds of their quotients, so that
a disturbance meets both.  A ratio is the peer's time over ours: above 1, ours is faster.

A segmenter's peer gives logits at the image's size, as ours do: where its own forward stops at a quarter, the resize that its
users need is part of it.  Agreement is of pixels.  A classifier is timed at 224×224, one picture; agreement is of its top class
on photographs that its last layer was not fitted on.  A training step of it is forward, cross entropy, backward and AdamW on
four pictures in channels-last memory, as the library trains, without stochastic depth.

With --out, peers of a file that is already there are not measured again (--again): a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peer_networks import PEERS, Peer, counterpart, fit_classifier, photo, photographs, settle
from segmentarium.benchmarking.timing import alternate, ratio

ENGINES = ("deploy", "compile", "onnxruntime", "openvino", "openvino-bf16")
SAME_CLASS = (
    0.995  # share of pixels, or photographs, that an engine must give the peer's class to count as the same model
)
SCATTER = 0.03  # by which a ratio of two equal programs may be off one
GOALS = {"eager": 1.0, "deploy": 1.3, "engine": 2.5, "training": 1.0, "memory": 1.0}
FITTED, COMPARED, BATCH = 30, 20, 4  # photographs, and pictures of a training step
COLUMNS: tuple[str, ...] = (
    "peer",
    "size",
    "form",
    "peer_ms",
    "ours_ms",
    "ratio",
    "ratio_to_eager",
    "same_class",
    "relative_error",
    "peer_mb",
    "ours_mb",
    "problem",
)
TEXT = ("peer", "size", "form", "problem")  # columns; the others are numbers


def measure(peer: Peer, size: tuple[int, int], rounds: int, engines: tuple[str, ...]) -> list[dict[str, Any]]:
    """One row a form of ours."""
    from segmentarium.benchmarking.forms import build_form
    from segmentarium.export.parity import compare
    from segmentarium.layers.resize import resize

    torch.manual_seed(0)
    theirs = peer.build()
    classifier = peer.kind == "classifier"
    if classifier:
        fit_classifier(theirs, *photographs("train", FITTED, size))
        images, _ = photographs("test", COMPARED, size)
    else:
        settle(theirs, peer.logits)
        images = photo(size)
    ours, same_weights = counterpart(peer, theirs)
    image = images[:1]
    ours.eval()

    def eager(model: nn.Module, layout: torch.memory_format) -> Callable[[Tensor], Tensor]:
        network = copy.deepcopy(model).to(memory_format=layout)  # type: ignore[call-overload]

        def run(given: Tensor) -> Tensor:
            with torch.inference_mode():
                output = network(given.contiguous(memory_format=layout))
                output = peer.logits(output) if model is theirs else output
                return output if classifier else resize(output, given.shape[-2:])

        return run

    runs: dict[str, Callable[[Tensor], Tensor]] = {
        "peer eager": eager(theirs, torch.contiguous_format),
        "peer channels-last": eager(theirs, torch.channels_last),
        "eager": eager(ours, torch.contiguous_format),
        "channels-last": eager(ours, torch.channels_last),
    }
    rows: list[dict[str, Any]] = []
    for name in engines:
        try:
            engine = build_form(ours, name)
            engine(image)
        except (ImportError, ValueError) as error:  # a package or an instruction set that is not here
            rows.append({"form": name, "problem": str(error)})
            continue
        runs[name] = engine
    answers = {
        name: torch.cat([run(part) for part in images.split(1)]).float().numpy()
        for name, run in runs.items()
        if name != "peer channels-last"
    }
    seconds = alternate({name: lambda run=run: run(image) for name, run in runs.items()}, rounds=rounds)
    for name in runs:
        if name.startswith("peer"):
            continue
        against = "peer channels-last" if name == "channels-last" else "peer eager"
        row: dict[str, Any] = {
            "form": name,
            "peer_ms": statistics.median(seconds[against]) * 1e3,
            "ours_ms": statistics.median(seconds[name]) * 1e3,
            "ratio": ratio(seconds[against], seconds[name]),
            "ratio_to_eager": ratio(seconds["peer eager"], seconds[name]),
        }
        # where no key table fits, an engine can still be held against our own eager form
        reference = answers["peer eager" if same_weights else "eager"]
        agreement = compare(answers[name], reference, size)
        row |= {"same_class": agreement.same_class, "relative_error": agreement.relative_error}
        if not same_weights:
            row["problem"] = "own weights"
        rows.append(row)
    if classifier:
        rows.append({"form": "training step", **training(peer, theirs, ours, images[:BATCH], max(rounds // 2, 3))})
    return [{"peer": peer.name, "size": "×".join(map(str, size)), **row} for row in rows]


def training(peer: Peer, theirs: nn.Module, ours: Any, images: Tensor, rounds: int) -> dict[str, Any]:
    """A step of both, of what they have in common."""
    from segmentarium.layers.drop_path import DropPath

    batch = {"image": images.contiguous(memory_format=torch.channels_last), "label": torch.arange(len(images))}
    for module in ours.modules():
        if isinstance(module, DropPath):
            module.rate = 0.0

    def loss_of_theirs() -> Tensor:
        return F.cross_entropy(peer.logits(theirs(batch["image"])), batch["label"])

    def loss_of_ours() -> Tensor:
        return torch.stack(list(ours.criterion(ours.forward_train(batch["image"]), batch).values())).sum()

    def step_of(network: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
        network.train().requires_grad_(True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(network.parameters(), 1e-4)

        def step() -> None:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

        return step

    steps = {"theirs": step_of(theirs, loss_of_theirs), "ours": step_of(ours, loss_of_ours)}
    seconds = alternate(steps, warmup=1, rounds=rounds)
    return {
        "peer_ms": statistics.median(seconds["theirs"]) * 1e3,
        "ours_ms": statistics.median(seconds["ours"]) * 1e3,
        "ratio": ratio(seconds["theirs"], seconds["ours"]),
    }


def memory(peer: Peer, side: str) -> float:
    """1e6 bytes that two passes over one picture take in this process, which has done nothing before, weights among them."""
    from segmentarium.benchmarking.memory import peak_mb, reset_peak, resident_mb
    from segmentarium.meta import on_meta
    from segmentarium.registry import create_model

    assert peer.memory_at is not None
    image = torch.zeros(1, 3, *peer.memory_at)
    with on_meta():  # so that what both import is there before
        peer.build()
        create_model(peer.ours)
    reset_peak()
    before = resident_mb() or 0.0
    if side == "ours":
        network: nn.Module = create_model(peer.ours)
    else:
        network = peer.build() if peer.sized is None else peer.sized(peer.memory_at[0])
    network.eval()
    with torch.inference_mode():
        for _ in range(2):
            network(image)
    return (peak_mb() or 0.0) - before


def verdict(rows: list[dict[str, Any]]) -> list[str]:
    """Per peer: the eager ratio, the fastest engine that agrees with the peer, the training step and memory, against the goals;
    then the deployed forms' geometric mean."""
    lines = []
    for name in dict.fromkeys(str(row["peer"]) for row in rows):
        mine = {
            str(row["form"]): row for row in rows if row["peer"] == name and (row.get("ratio") or row.get("ours_mb"))
        }
        if "channels-last" not in mine:
            lines.append(
                f"{name}: not measured: " + "; ".join(str(r.get("problem")) for r in rows if r["peer"] == name)
            )
            continue
        text = f"{name}: eager, both channels-last, {_met(mine['channels-last']['ratio'], 'eager')}"
        agreeing = {
            form: row["ratio_to_eager"]
            for form, row in mine.items()
            if form in ENGINES and row["same_class"] >= SAME_CLASS
        }
        if agreeing:
            best = max(agreeing, key=agreeing.__getitem__)
            text += f"; {best} against the peer's eager form {_met(agreeing[best], 'engine')}"
        if "training step" in mine:
            text += f"; training step {_met(mine['training step']['ratio'], 'training')}"
        if "memory" in mine:
            text += f"; memory {_met(mine['memory']['ratio'], 'memory')}"
        lines.append(text)
    classifiers = {peer.name for peer in PEERS if peer.kind == "classifier"}
    for what, names in (("segmenters", None), ("classifiers", classifiers)):
        deployed = [
            row["ratio_to_eager"]
            for row in rows
            if row["form"] == "deploy" and row.get("ratio") and (row["peer"] in classifiers) == (names is not None)
        ]
        if len(deployed) > 1:
            mean = statistics.geometric_mean(deployed)
            lines.append(
                f"{len(deployed)} {what}, deployed, against the peers' eager forms, geometric mean {_met(mean, 'deploy')}"
            )
    return lines


def _met(value: float, goal: str) -> str:
    wanted = GOALS[goal]
    within = wanted - SCATTER if wanted == 1.0 else wanted
    word = "reached" if value >= wanted else "reached within scatter" if value >= within else "missed"
    return f"{value:.2f} (goal {wanted:g} {word})"


def run_one(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures one peer in processes of its own."""
    peer = next(peer for peer in PEERS if peer.name == name)
    found = _apart(name, options)
    if not isinstance(found, list):
        return [{"peer": name, "form": "all", "problem": found}]
    if peer.memory_at is None:
        return found
    row: dict[str, Any] = {"peer": name, "size": "×".join(map(str, peer.memory_at)), "form": "memory"}
    sides = {side: _apart(name, options, "--memory", side) for side in ("peer", "ours")}
    if all(isinstance(value, float) for value in sides.values()):
        row |= {f"{side}_mb": value for side, value in sides.items()} | {"ratio": sides["peer"] / sides["ours"]}
    else:
        row["problem"] = "; ".join(str(value) for value in sides.values())
    return [*found, row]


def _apart(name: str, options: argparse.Namespace, *more: str) -> Any:
    """What a process of its own found; the last line of its trouble."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "rows.json"
        words = ["--one", name, "--result", str(result), "--threads", str(options.threads)]
        words += ["--rounds", str(options.rounds), "--engines", options.engines, *more]
        words += ["--quick"] if options.quick else []
        done = subprocess.run([sys.executable, "-m", __spec__.name, *words], text=True, stderr=subprocess.PIPE)
        if done.returncode == 0:
            return json.loads(result.read_text(encoding="utf-8"))
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def cells(row: dict[str, Any]) -> list[str]:
    """A row as text, in the order of `COLUMNS`."""
    forms = {"same_class": ".3%", "relative_error": ".1e", "ratio": ".2f", "ratio_to_eager": ".2f"}
    texts = []
    for column in COLUMNS:
        value = row.get(column)
        texts.append(format(value, forms.get(column, ".1f")) if isinstance(value, float) else str(value or ""))
    return texts


def write(rows: list[dict[str, Any]], facts: dict[str, Any], folder: Path, options: argparse.Namespace) -> None:
    """peers.csv and peers.md in `folder`."""
    from segmentarium.benchmarking.machine import describe

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "peers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    command = "python -m benchmarks.peers " + " ".join(options.words)
    notes = [f"- {line}" for line in verdict(rows)]
    head = [
        "# Against the peers",
        "",
        f"`{command.strip()}`, {options.threads} threads, {options.rounds} rounds; {describe(facts)}",
        "",
    ]
    (folder / "peers.md").write_text("\n".join([*head, *notes, "", *lines, ""]), encoding="utf-8")


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows of a peers.csv that is there; none of peers that failed as a whole."""
    file = folder / "peers.csv"
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    return [
        {key: value if key in TEXT else float(value) for key, value in row.items() if value}
        for row in rows
        if row["form"] != "all"
    ]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small images: shows that it works, says little of speed")
    parser.add_argument("--kind", choices=("segmenter", "classifier"), help="default: both")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join(repr(peer.name) for peer in PEERS)}")
    parser.add_argument("--engines", default=",".join(ENGINES), metavar="A,B")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, metavar="DIR", help="for peers.csv and peers.md; what is in them is kept")
    parser.add_argument("--again", action="store_true", help="measure also what is in them")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--memory", choices=("peer", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    options.words = list(sys.argv[1:] if words is None else words)
    by_name = {peer.name: peer for peer in PEERS}
    engines = tuple(part for part in options.engines.split(",") if part)
    if options.one:
        from segmentarium.cli.memory import keep_freed_memory

        torch.set_num_threads(options.threads)
        peer = by_name[options.one]
        if options.memory:
            found: Any = memory(peer, options.memory)
        else:
            keep_freed_memory()
            found = measure(peer, peer.quick_size if options.quick else peer.size, options.rounds, engines)
        options.result.write_text(json.dumps(found), encoding="utf-8")
        return 0

    from rich.console import Console
    from rich.table import Table

    from segmentarium.benchmarking.forms import check_forms
    from segmentarium.benchmarking.machine import describe, machine_facts

    names = options.only or [peer.name for peer in PEERS if options.kind in (None, peer.kind)]
    unknown = [name for name in names if name not in by_name]
    if unknown:
        parser.error(f"no peer is called {unknown[0]!r}; known: {', '.join(by_name)}")
    check_forms([*engines] or ["eager"])
    facts = machine_facts()
    rows = read(options.out) if options.out else []
    if options.again:
        rows = [row for row in rows if row["peer"] not in names]
    there = {row["peer"] for row in rows}
    console = Console(width=None if sys.stdout.isatty() else 150)
    for name in names:
        if name in there:
            console.print(f"{name}: already in {options.out / 'peers.csv'}", highlight=False)
            continue
        started = time.perf_counter()
        rows += run_one(name, options)
        console.print(f"{name}: {time.perf_counter() - started:.0f} s", highlight=False)
        if options.out:
            write(rows, facts, options.out, options)
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)
    for line in verdict(rows):
        console.print(line, highlight=False)
    console.print(describe(facts), highlight=False)
    if options.out:
        write(rows, facts, options.out, options)
    return 1 if any(row.get("form") == "all" for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
