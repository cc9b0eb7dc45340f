"""`segmentarium benchmark [MODEL…]`: how fast and how large, on this machine, in every form that is installed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from segmentarium.cli.export import size

ENGINES = "eager,channels-last,deploy,compile,onnxruntime,openvino,openvino-bf16"
GPU_ENGINES = "cuda,cuda-fp16,cuda-compile-fp16,cuda-graph-fp16,tensorrt-fp16"
DEFAULT_ENGINES = "eager,deploy,onnxruntime,openvino"  # torch.compile alone takes half a minute for each model
DEFAULT_MODELS = ("person", "street")
EXAMPLES = (
    ("segmentarium benchmark", "the shipped networks, within three minutes"),
    ("segmentarium benchmark runs/mine --size 720x1280", "what was trained, at its own size"),
    ("segmentarium benchmark bisenetv2 segformer_b0 --minutes 10", "networks without weights"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="*",
        help="weights by name or file, or an architecture (random weights); default: person and street",
    )
    parser.add_argument(
        "--engines",
        default=DEFAULT_ENGINES,
        metavar="A,B",
        help=f"of {ENGINES},\nor all of these; of GPUs {GPU_ENGINES}\n(default: {DEFAULT_ENGINES})",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=3.0,
        help="that it may take; what does not fit is left out, and said (default: 3)",
    )
    parser.add_argument("--size", type=size, default=(512, 1024), metavar="HxW", help="of the input, default 512x1024")
    parser.add_argument("--batch", type=int, default=1, help="default 1")
    parser.add_argument("--threads", type=int, metavar="N", help="of every engine; default: as PyTorch chooses")
    parser.add_argument(
        "--repeats", type=int, default=20, help="measured calls, default 20; 100 or more for a true p99"
    )
    parser.add_argument("--warmup", type=int, default=3, help="calls before those, default 3")
    parser.add_argument("--num-classes", type=int, default=19, metavar="K", help="of an architecture, default 19")
    parser.add_argument("--model-only", action="store_true", help="leave out the time from JPEG file to mask")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for benchmark.csv, benchmark.json and benchmark.png")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def run(options: argparse.Namespace) -> int:
    """0: all measured (forms that are not installed are skipped and say so); 1: a case failed.

    ValueError for wrong usage, FileNotFoundError for an unknown model.
    """
    from rich.console import Console

    from segmentarium.benchmarking import Case, benchmark, machine_facts
    from segmentarium.benchmarking.machine import describe
    from segmentarium.benchmarking.report import remarks, table, write_csv, write_plot, write_report
    from segmentarium.cli.progress import progress
    from segmentarium.cli.tables import show
    from segmentarium.files import check_targets, has_keys

    if options.out is not None:
        targets = [options.out / f"benchmark.{ending}" for ending in ("csv", "json", "png")]
        check_targets(targets, overwrite=options.overwrite, ours=has_keys(targets[1], ("machine", "measurements")))
    facts = machine_facts()
    with progress("measuring") as bar:

        def tell(number: int, count: int, case: Case) -> None:
            bar(number, count, f"{case.model} {case.form}")

        engines = ENGINES if options.engines == "all" else options.engines
        measurements = benchmark(
            options.model or DEFAULT_MODELS,
            forms=[part.strip() for part in engines.split(",") if part.strip()],
            minutes=options.minutes,
            size=options.size,
            batch=options.batch,
            threads=options.threads,
            warmup=options.warmup,
            repeats=options.repeats,
            num_classes=options.num_classes,
            end_to_end=not options.model_only,
            progress=tell,
        )
    if options.json:
        print(json.dumps({"machine": facts, "measurements": [m.as_dict() for m in measurements]}, indent=1))
    else:
        console = Console()
        show(table(measurements))
        for line in remarks(measurements):
            console.print(line, highlight=False)
        console.print(describe(facts), highlight=False)
        if facts["load_average"] and facts["cores"] and facts["load_average"] > facts["cores"] / 2:
            console.print("The machine was busy with other work: take these numbers as a hint only.")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        write_csv(measurements, options.out / "benchmark.csv")
        write_report(measurements, facts, options.out / "benchmark.json")
        if any(m.latency for m in measurements):
            write_plot(measurements, facts, options.out / "benchmark.png")
    return 1 if any(m.problem and not m.skipped for m in measurements) else 0
