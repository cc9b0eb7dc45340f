"""The same architecture here and in segmentation-models-pytorch, transformers and torchvision, side by side in one run.

    python -m benchmarks.peers [--quick] [--only NAME …] [--threads 2] [--rounds 7] [--out DIR]

Each pair runs in a process of its own: our model takes the peer's weights through the key table, then the peer and all our
forms are timed in alternating rounds on one photo, and the ratio is the median over the rounds of their quotients, so that
a disturbance meets both.  A ratio is the peer's time over ours: above 1, ours is faster.

The peer gives logits at the image's size, as ours do: where its own forward stops at a quarter, the resize that its users
need is part of it.  Forty training steps on the photo first give it weights with which agreement means something.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from segmentarium.benchmarking.timing import alternate, ratio

ENGINES = ("deploy", "compile", "onnxruntime", "openvino", "openvino-bf16")
SAME_CLASS = 0.995  # share of pixels that an engine must give the peer's class to count as the same model
GOALS = {"eager": 1.0, "engine": 2.5}
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
    "problem",
)


@dataclass(frozen=True)
class Peer:
    """A public implementation.  `build` gives the network, `logits` reads (B, K, h, w) out of what it returns."""

    name: str
    build: Callable[[], nn.Module]
    ours: str  # the registered name, used where no key table fits
    size: tuple[int, int]
    quick_size: tuple[int, int] = (128, 256)
    logits: Callable[[object], Tensor] = field(default=lambda output: output)  # type: ignore[assignment,return-value]


def _smp(name: str, encoder: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import segmentation_models_pytorch as smp

        return getattr(smp, name)(encoder, encoder_weights=None, classes=19)

    return build


def _transformers(hidden: tuple[int, ...], decoder: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        config = SegformerConfig(hidden_sizes=list(hidden), decoder_hidden_size=decoder, num_labels=19)
        return SegformerForSemanticSegmentation(config)

    return build


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision.models import segmentation

        return getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=19)

    return build


PEERS = (
    Peer(
        "smp DeepLabV3+ MobileNetV2", _smp("DeepLabV3Plus", "mobilenet_v2"), "deeplabv3plus_mobilenet_v2", (512, 1024)
    ),
    Peer("smp DeepLabV3+ ResNet-50", _smp("DeepLabV3Plus", "resnet50"), "deeplabv3plus", (512, 1024)),
    Peer("smp SegFormer-B0", _smp("Segformer", "mit_b0"), "segformer_b0", (512, 512)),
    Peer(
        "transformers SegFormer-B0",
        _transformers((32, 64, 160, 256), 256),
        "segformer_b0",
        (512, 512),
        logits=lambda output: output.logits,  # type: ignore[attr-defined]
    ),
    Peer(
        "transformers SegFormer-B1",
        _transformers((64, 128, 320, 512), 256),
        "segformer_b1",
        (512, 512),
        logits=lambda output: output.logits,  # type: ignore[attr-defined]
    ),
    Peer(
        "torchvision FCN ResNet-50",
        _torchvision("fcn_resnet50"),
        "fcn",
        (512, 1024),
        logits=lambda output: output["out"],  # type: ignore[index]
    ),
)


def photo(size: tuple[int, int], batch: int = 1) -> Tensor:
    """(B, 3, *size): normalised crops of scikit-image's astronaut."""
    from skimage.data import astronaut

    from segmentarium.contracts import Preprocessing
    from segmentarium.export.parity import network_input

    picture = astronaut()
    crops = [picture[start:, start:] for start in range(0, 32 * batch, 32)]
    return torch.cat([network_input(crop, size, Preprocessing(), 3) for crop in crops])


def settle(model: nn.Module, logits: Callable[[object], Tensor], steps: int = 40) -> None:
    """A few training steps on four broad bands of brightness, so that logits have margins as those of a trained network have.

    With weights as constructed a network is chaotic: rounding alone turns half of its classes, and agreement says nothing.
    """
    images = photo((128, 128), batch=4)
    brightness = nn.functional.avg_pool2d(images.mean(1, keepdim=True), 33, 1, 16, count_include_pad=False)[:, 0]
    bands = torch.quantile(brightness, torch.linspace(0, 1, 5)[1:-1])
    target = torch.bucketize(brightness, bands)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    model.train()
    for _ in range(steps):
        output = nn.functional.interpolate(logits(model(images)), target.shape[-2:], mode="bilinear")
        optimizer.zero_grad()
        nn.functional.cross_entropy(output, target).backward()
        optimizer.step()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:  # the running averages lag behind the last steps: take them anew, exactly
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        model(images)
    for norm in norms:
        norm.momentum = 0.1
    model.eval().requires_grad_(False)


def counterpart(peer: Peer, theirs: nn.Module) -> tuple[nn.Module, bool]:
    """Our model with the peer's weights and True; with weights of its own and False where no key table fits."""
    from segmentarium.registry import create_model
    from segmentarium.weights import load

    with tempfile.TemporaryDirectory() as folder:
        if hasattr(theirs, "save_pretrained") and type(theirs).__module__.startswith("transformers"):
            theirs.save_pretrained(folder)  # type: ignore[operator]  # keys of files, which it renames in memory
            path = Path(folder) / "model.safetensors"
        else:
            path = Path(folder) / "model.pth"
            torch.save(theirs.state_dict(), path)
        try:
            return load(path), True
        except ValueError:
            return create_model(peer.ours, num_classes=19).eval(), False


def measure(peer: Peer, size: tuple[int, int], rounds: int, engines: tuple[str, ...]) -> list[dict[str, object]]:
    """One row a form of ours."""
    from segmentarium.benchmarking.forms import build_form
    from segmentarium.export.parity import compare
    from segmentarium.layers.resize import resize

    torch.manual_seed(0)
    theirs = peer.build()
    settle(theirs, peer.logits)
    ours, same_weights = counterpart(peer, theirs)
    image = photo(size)

    def eager(model: nn.Module, layout: torch.memory_format) -> Callable[[], Tensor]:
        import copy

        network = copy.deepcopy(model).eval().to(memory_format=layout)
        given = image.contiguous(memory_format=layout)

        def run() -> Tensor:
            with torch.inference_mode():
                output = network(given)
                return resize(peer.logits(output) if model is theirs else output, given.shape[-2:])

        return run

    runs: dict[str, Callable[[], Tensor]] = {
        "peer eager": eager(theirs, torch.contiguous_format),
        "peer channels-last": eager(theirs, torch.channels_last),
        "eager": eager(ours, torch.contiguous_format),
        "channels-last": eager(ours, torch.channels_last),
    }
    rows: list[dict[str, object]] = []
    for name in engines:
        try:
            engine = build_form(ours, name)
            engine(image)
        except (ImportError, ValueError) as error:  # a package or an instruction set that is not here
            rows.append({"form": name, "problem": str(error)})
            continue
        runs[name] = lambda engine=engine: engine(image)
    theirs_out, ours_out = runs["peer eager"]().numpy(), runs["eager"]().numpy()
    seconds = alternate(runs, rounds=rounds)
    for name in runs:
        if name == "peer eager":
            continue
        against = "peer channels-last" if name == "channels-last" else "peer eager"
        row: dict[str, object] = {
            "form": name,
            "peer_ms": statistics.median(seconds[against]) * 1e3,
            "ours_ms": statistics.median(seconds[name]) * 1e3,
            "ratio": ratio(seconds[against], seconds[name]),
            "ratio_to_eager": ratio(seconds["peer eager"], seconds[name]),
        }
        # where no key table fits, an engine can still be held against our own eager form
        reference = theirs_out if same_weights or name.startswith("peer") else ours_out
        agreement = compare(runs[name]().numpy(), reference)
        row |= {"same_class": agreement.same_class, "relative_error": agreement.relative_error}
        if not same_weights and not name.startswith("peer"):
            row["problem"] = "own weights"
        rows.append(row)
    return [{"peer": peer.name, "size": "×".join(map(str, size)), **row} for row in rows]


def verdict(rows: list[dict[str, object]]) -> list[str]:
    """Per peer: the eager ratio, and the fastest engine that agrees with the peer, against the goals."""
    lines = []
    for name in dict.fromkeys(str(row["peer"]) for row in rows):
        mine = {str(row["form"]): row for row in rows if row["peer"] == name and row.get("ratio")}
        if "channels-last" not in mine:
            lines.append(
                f"{name}: not measured: " + "; ".join(str(r.get("problem")) for r in rows if r["peer"] == name)
            )
            continue
        eager = float(mine["channels-last"]["ratio"])  # type: ignore[arg-type]
        agreeing = {
            form: float(row["ratio_to_eager"])  # type: ignore[arg-type]
            for form, row in mine.items()
            if form in ENGINES and float(row["same_class"]) >= SAME_CLASS  # type: ignore[arg-type]
        }
        text = f"{name}: eager, both channels-last, {eager:.2f} ({_met(eager, 'eager')})"
        if agreeing:
            best = max(agreeing, key=agreeing.__getitem__)
            text += f"; {best} against the peer's eager form {agreeing[best]:.2f} ({_met(agreeing[best], 'engine')})"
        lines.append(text)
    return lines


def _met(value: float, goal: str) -> str:
    return f"goal {GOALS[goal]:g} {'reached' if value >= GOALS[goal] else 'missed'}"


def run_one(name: str, options: argparse.Namespace) -> list[dict[str, object]]:
    """Measures one peer in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "rows.json"
        words = [
            "--one",
            name,
            "--result",
            str(result),
            "--threads",
            str(options.threads),
            "--rounds",
            str(options.rounds),
        ]
        words += ["--engines", options.engines, *(["--quick"] if options.quick else [])]
        done = subprocess.run([sys.executable, "-m", __spec__.name, *words], text=True, stderr=subprocess.PIPE)
        if done.returncode == 0:
            return json.loads(result.read_text(encoding="utf-8"))
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return [{"peer": name, "form": "all", "problem": last}]


def cells(row: dict[str, object]) -> list[str]:
    """A row as text, in the order of `COLUMNS`."""
    forms = {"same_class": ".3%", "relative_error": ".1e", "ratio": ".2f", "ratio_to_eager": ".2f"}
    texts = []
    for column in COLUMNS:
        value = row.get(column)
        texts.append(format(value, forms.get(column, ".1f")) if isinstance(value, float) else str(value or ""))
    return texts


def write(rows: list[dict[str, object]], facts: dict[str, object], folder: Path, options: argparse.Namespace) -> None:
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


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small images: shows that it works, says little of speed")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join(repr(peer.name) for peer in PEERS)}")
    parser.add_argument("--engines", default=",".join(ENGINES), metavar="A,B")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, metavar="DIR", help="for peers.csv and peers.md")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    options.words = list(sys.argv[1:] if words is None else words)
    by_name = {peer.name: peer for peer in PEERS}
    engines = tuple(part for part in options.engines.split(",") if part)
    if options.one:
        from segmentarium.cli.memory import keep_freed_memory

        keep_freed_memory()
        torch.set_num_threads(options.threads)
        peer = by_name[options.one]
        rows = measure(peer, peer.quick_size if options.quick else peer.size, options.rounds, engines)
        options.result.write_text(json.dumps(rows), encoding="utf-8")
        return 0

    from rich.console import Console
    from rich.table import Table

    from segmentarium.benchmarking.forms import check_forms
    from segmentarium.benchmarking.machine import describe, machine_facts

    names = options.only or list(by_name)
    unknown = [name for name in names if name not in by_name]
    if unknown:
        parser.error(f"no peer is called {unknown[0]!r}; known: {', '.join(by_name)}")
    check_forms([*engines] or ["eager"])
    facts = machine_facts()
    rows = []
    console = Console(width=None if sys.stdout.isatty() else 150)
    for name in names:
        started = time.perf_counter()
        rows += run_one(name, options)
        console.print(f"{name}: {time.perf_counter() - started:.0f} s", highlight=False)
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
