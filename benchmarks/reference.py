"""Our real-time and other models against the public implementations of `reference_latency.json`, by its own method.

    python -m benchmarks.reference [MODEL …] [--reference FILE] [--threads 2] [--rounds 7]
        [--engines onnxruntime,openvino,openvino-bf16] [--csv FILE]

The file gives t(implementation) / t(yardstick), the yardstick being torchvision's LR-ASPP with MobileNetV3-Large at the
same size, measured in alternating rounds in one process.  Here the same is measured of ours, so that the quotient of the two
ratios compares implementations across machines: above 1, ours is faster.  As there: float32, batch 1, random weights and
input, two warm-up forwards with one under the FLOP counter between them, 7 rounds, glibc keeping freed memory (set in the
environment of the processes that this program starts, one for each model).

"eager" is contiguous, as the file's; "channels-last" and "deploy" are what else the same PyTorch can do; the engines run the
exported network.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segmentarium.benchmarking.timing import alternate, ratio

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference_latency.json"
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
ENGINES = ("onnxruntime", "openvino", "openvino-bf16")
COLUMNS: tuple[str, ...] = (
    "model",
    "size",
    "form",
    "ms",
    "yardstick_ms",
    "ratio",
    "public",
    "public_ratio",
    "faster",
    "problem",
)


@dataclass(frozen=True)
class Entry:
    """One of our models as the public implementations were built, and their names in the file."""

    model: str
    size: tuple[int, int]
    public: tuple[str, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    num_classes: int = 19

    @property
    def name(self) -> str:
        words = [self.model, *map(str, self.arguments.values())]
        return f"{' '.join(words)} @{'x'.join(map(str, self.size))}"


ENTRIES = (
    Entry("bisenetv2", (512, 1024), ("BiSeNetV2 (CoinCheung)", "BiSeNetV2 (mmseg)")),
    Entry("bisenet_xception39", (512, 1024), ("BiSeNetV1-X39 (TorchSeg)",)),
    Entry("bisenet_resnet18", (512, 1024), ("BiSeNetV1-R18 (TorchSeg)",)),
    Entry(
        "bisenet_resnet18",
        (512, 1024),
        ("BiSeNetV1-R18 (CoinCheung)",),
        {"upsample": "nearest", "fusion": "norm", "align_corners": False, "head_channels": 256},
    ),
    Entry("stdc1", (512, 1024), ("STDC1-Seg",)),
    Entry("stdc2", (512, 1024), ("STDC2-Seg",)),
    Entry("regseg", (512, 1024), ("RegSeg exp48_decoder26",)),
    Entry("regseg_large", (512, 1024), ("RegSeg exp53_decoder29",)),
    Entry("icnet", (513, 1025), ("ICNet (caffe port)",)),
    Entry("icnet_resnet18", (512, 1024), ("ICNet-R18 (mmseg)",)),
    Entry("icnet_resnet50", (512, 1024), ("ICNet-R50 (mmseg)",)),
    Entry("fast_scnn", (512, 1024), ("Fast-SCNN",), {"form": "tramac"}),
    Entry("fast_scnn", (512, 1024), ("Fast-SCNN (mmseg)",), {"form": "mmseg"}),
    Entry("contextnet", (512, 1024), ("ContextNet",)),
    Entry("cgnet", (512, 1024), ("CGNet",)),
    Entry("dfanet", (512, 1024), ("DFANet",)),
    Entry("swiftnet", (512, 1024), ("SwiftNet-RN18",)),
    Entry("swiftnet_pyramid", (512, 1024), ("SwiftNet-RN18 pyramid",)),
    Entry("shelfnet18", (512, 1024), ("ShelfNet18",)),
    Entry("shelfnet34", (512, 1024), ("ShelfNet34",)),
    Entry("shelfnet50", (512, 1024), ("ShelfNet50",)),
    Entry("sfnet_resnet18", (512, 1024), ("SFNet-R18",)),
    Entry("sfnet_lite_resnet18", (512, 1024), ("SFNet-Lite-R18",)),
    Entry("fanet18", (512, 1024), ("FANet-18", "FANet-18 (no normalisation)")),
    Entry("fanet34", (512, 1024), ("FANet-34",)),
    Entry("enet", (512, 1024), ("ENet",)),
    Entry("enet_2018", (512, 1024), ("ENet (2018 revision)",)),
    Entry("erfnet", (512, 1024), ("ERFNet",)),
    Entry("pphumanseg", (256, 256), ("PP-HumanSeg-Lite (Paddle)",), num_classes=2),
    Entry("sinet", (256, 256), ("SINet",), num_classes=2),
    Entry("extremec3", (256, 256), ("ExtremeC3Net",), num_classes=1),
    Entry("portraitnet", (256, 256), ("PortraitNet (no edge output)",), num_classes=2),
    Entry("segformer_b0", (512, 512), ("SegFormer-B0 (NVlabs)", "transformers SegFormer-B0", "smp Segformer mit_b0")),
    Entry("segformer_b0", (512, 1024), ("SegFormer-B0 (NVlabs) @512x1024", "smp Segformer mit_b0 @512x1024")),
    Entry("segformer_b1", (512, 512), ("SegFormer-B1 (NVlabs)",)),
    Entry("segformer_b2", (512, 512), ("SegFormer-B2 (NVlabs)", "transformers SegFormer-B2")),
    Entry(
        "deeplabv3plus",
        (512, 1024),
        ("smp DeepLabV3Plus resnet50",),
        {"backbone": "resnet50", "output_stride": 16, "form": "smp"},
    ),
    Entry("fcn", (512, 1024), ("torchvision fcn_resnet50",)),
    Entry("pspnet", (513, 1025), ("PSPNet-R50 (semseg)",)),
)


def find(table: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The file's record of a public implementation, whichever its section."""
    return next((section[name] for section in table.values() if isinstance(section, dict) and name in section), None)


def measure(entry: Entry, rounds: int, engines: Sequence[str]) -> list[dict[str, Any]]:
    """Rows without the public numbers: milliseconds of each form and of the yardstick, and the ratio of the rounds."""
    from torch.utils.flop_counter import FlopCounterMode
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    from segmentarium.benchmarking.forms import build_form
    from segmentarium.registry import create_model

    torch.manual_seed(0)
    model = create_model(entry.model, num_classes=entry.num_classes, **entry.arguments).eval()
    yardstick = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=19).eval()
    image = torch.randn(1, 3, *entry.size)

    def forward(network: nn.Module, layout: torch.memory_format) -> Callable[[], Any]:
        network.to(memory_format=layout)
        given = image.contiguous(memory_format=layout)

        def run() -> Tensor | dict[str, Tensor]:
            with torch.inference_mode():
                return network(given)

        return run

    def engine(name: str) -> Callable[[], Any]:
        built = build_form(model, name)
        return lambda: built(image)

    forms: dict[str, Callable[[], Callable[[], Any]]] = {
        "eager": lambda: forward(model, torch.contiguous_format),
        "channels-last": lambda: forward(copy.deepcopy(model), torch.channels_last),
        "deploy": lambda: forward(model.deploy(), torch.channels_last),  # type: ignore[operator]
        **{name: partial(engine, name) for name in engines},
    }
    shared = {"model": entry.model, "size": "×".join(map(str, entry.size))}
    rows: list[dict[str, Any]] = []
    for name, build in forms.items():
        try:
            run, measure_stick = build(), forward(yardstick, torch.contiguous_format)
            run()
            with FlopCounterMode(display=False):
                run()
        except Exception as error:  # one engine's failure is a row of its own
            rows.append({**shared, "form": name, "problem": f"{type(error).__name__}: {error}".splitlines()[0]})
            continue
        seconds = alternate({"ours": run, "yardstick": measure_stick}, warmup=1, rounds=rounds)
        rows.append(
            {
                **shared,
                "form": name,
                "ms": statistics.median(seconds["ours"]) * 1e3,
                "yardstick_ms": statistics.median(seconds["yardstick"]) * 1e3,
                "ratio": ratio(seconds["ours"], seconds["yardstick"]),
            }
        )
    return rows


def compared(rows: list[dict[str, Any]], entry: Entry, table: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each form and public implementation; `faster` is the public ratio over ours."""
    found = [(name, record["ratio"]) for name in entry.public if (record := find(table, name)) is not None]
    if not found:
        return rows
    return [
        {**row, "public": name, "public_ratio": public, "faster": public / row["ratio"]}
        for row in rows
        for name, public in found
        if "ratio" in row
    ] + [row for row in rows if "ratio" not in row]


def run_one(entry: Entry, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures one entry in a process of its own, whose allocator keeps freed memory."""
    environment = os.environ | ALLOCATOR | {"OMP_NUM_THREADS": str(options.threads)}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "rows.json"
        words = ["--one", entry.name, "--result", str(result), "--threads", str(options.threads)]
        words += ["--rounds", str(options.rounds), "--engines", options.engines]
        command = [sys.executable, "-m", __spec__.name, *words]
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
        if done.returncode == 0:
            return json.loads(result.read_text(encoding="utf-8"))
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return [{"model": entry.model, "size": "×".join(map(str, entry.size)), "problem": last}]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*", help=f"of {', '.join(dict.fromkeys(entry.model for entry in ENTRIES))}")
    parser.add_argument("--reference", type=Path, default=REFERENCE, metavar="FILE", help=f"default {REFERENCE}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", default=",".join(ENGINES), metavar="A,B", help="'' for none")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    engines = tuple(part for part in options.engines.split(",") if part)
    if options.one:
        torch.set_num_threads(options.threads)
        entry = next(entry for entry in ENTRIES if entry.name == options.one)
        options.result.write_text(json.dumps(measure(entry, options.rounds, engines)), encoding="utf-8")
        return 0

    from rich.console import Console
    from rich.table import Table

    from segmentarium.benchmarking.machine import describe, machine_facts

    unknown = set(options.model) - {entry.model for entry in ENTRIES}
    if unknown:
        parser.error(f"no entry for {', '.join(sorted(unknown))}")
    console = Console(width=None if sys.stdout.isatty() else 150)
    table: dict[str, Any] = {}
    if options.reference.is_file():
        table = json.loads(options.reference.read_text(encoding="utf-8"))
    else:
        console.print(f"no {options.reference}: only our own ratios to the yardstick follow")
    facts = machine_facts()
    rows: list[dict[str, Any]] = []
    for entry in ENTRIES:
        if not options.model or entry.model in options.model:
            console.print(f"measuring {entry.name}", highlight=False)
            rows += compared(run_one(entry, options), entry, table)
    shown = Table(*COLUMNS)
    for row in rows:
        values = [row.get(column) for column in COLUMNS]
        shown.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v or "") for v in values))
    console.print(shown)
    console.print(describe(facts), highlight=False)
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    return 1 if any(row.get("problem") for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
