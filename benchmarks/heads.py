"""Every decoder of the library on the same stored features: same pictures, seeds and steps, each with its own objective.

    python -m benchmarks.heads [--root ../shared/data/camvid] [--out runs/heads] [--heads 'psp*' ccnet …] [--table]

One trunk (`recipes/trunk.py`: ResNet-18, output stride 8) is trained once, its four features of every picture, and of every
picture mirrored, are kept as float16, and each decoder is trained on whole pictures with all its widths brought to 64.  Rows
below a decoder's are the same decoder with one mechanism changed: what that costs or brings is the paper's claim, small.

So that all of it, two seeds, fits into an hour of one core, the pictures have half their size (CamVid: 180×240, maps of 23×30)
and a decoder learns for 300 steps of four pictures, 1.3 times the views; scores are those of small pictures, lower than at whole
size, and a decoder that learns slowly is shown as it is then.

Each run is a line of OUT/heads.jsonl; started again, the program does what is missing, and times all heads anew, in turns.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import inspect
import json
import logging
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.stored import HeadTask, Store, milliseconds, presence_auc, score_head, train_head, write_store
from segmentarium import create_model
from segmentarium.benchmarking.machine import describe, machine_facts
from segmentarium.composition import EncoderDecoder
from segmentarium.data import build_dataset
from segmentarium.files import write_json
from segmentarium.registry import Entry, entry, known
from segmentarium.training import TrainingOptions, load_recipe, train
from segmentarium.training.options import LAST
from segmentarium.weights.source import locate, open_weights

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "trunk.py"
BASELINE = "fcn"
STRIDE = 8  # of the trunk
SHRINK = 2  # sides of the pictures are divided by it: a quarter of the time
WIDTH = 64  # of every head: a quarter of the trunk's channels, as most take by themselves
BATCH = 4  # whole pictures
LOG, TIMES = "heads.jsonl", "times.json"  # in the folder of the results


@dataclass(frozen=True)
class Row:
    """A line of the table.

    name       in the table and the log
    model      registered name of the decoder
    arguments  of it
    without    terms of its objective that are left out
    against    the row that it is held against
    """

    name: str
    model: str
    arguments: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    against: str = BASELINE


# modules of `semantic` that give no row of their own: decoders made for plain transformers, and a classifier, which is a change
LEFT_OUT = ("dpt", "segmenter", "segvit", "segvitv2", "cac")

# what a decoder cannot take from its registered form here
OWN: dict[str, dict[str, Any]] = {
    "psanet": {"mask_size": [23, 29]},  # of a map of 23 × 30 places, halved
}

# what a decoder has beside its mechanism -> the row that has that, too
AGAINST = dict.fromkeys(("dnlnet", "gcnet", "nonlocal"), "fcn: two convolutions")

# decoders whose classifier is made anew for each picture, as CAC's authors publish them
CONTEXT_AWARE = ("fcn", "deeplabv3plus", "ocrnet_resnet50", "upernet_resnet50")

# what is changed, of which decoder, its arguments, the terms that are left out; of a decoder that is not there, nothing.
CHANGES: tuple[tuple[str, str, dict[str, Any], tuple[str, ...]], ...] = (
    ("two convolutions", "fcn", {"convs": 2, "concatenate": True}, ()),
    *(("context-aware classifier", name, {"context_aware": True}, ()) for name in CONTEXT_AWARE),
    ("no L2 norms", "parsenet", {"normalise": False}, ()),
    ("one pass", "ccnet", {"recurrence": 1}, ()),
    ("category-consistent loss", "ccnet", {"consistent": True}, ()),
    ("rates 1, 1, 1", "deeplabv3", {"rates": [1, 1, 1]}, ()),
    ("rates 6, 12, 18", "deeplabv3", {"rates": [6, 12, 18]}, ()),
    ("multigrid 1, 2, 1", "deeplabv3_cascade_resnet50", {"multigrid": [1, 2, 1]}, ()),
    ("rates 1, 1, 1", "deeplabv3plus", {"rates": [1, 1, 1]}, ()),
    ("no presence loss", "encnet", {"presence": False}, ()),
    ("no loss on regions", "ocrnet_resnet50", {}, ("coarse",)),
    ("no losses on branches", "danet", {}, ("position", "channel")),
    ("the mean alone", "pspnet", {"bins": [1]}, ()),
    ("mean for attention", "gcnet", {"pooling": "average"}, ()),
    ("keys from the mean", "ann", {"bins": [1]}, ()),
    ("no subdivision", "pointrend_resnet50", {"steps": 0}, ()),
    ("8 units", "eanet", {"units": 8}, ()),
    ("collect alone", "psanet", {"direction": "collect"}, ()),
    ("distribute alone", "psanet", {"direction": "distribute"}, ()),
    ("dot product", "nonlocal", {"form": "dot_product"}, ()),
    ("one word", "segnext_t", {"rank": 1}, ()),
    ("no diversity loss", "ecenet_swin_base", {}, ("diversity",)),
    ("no mask losses", "ecenet_swin_base", {}, ("mask", "dice")),
)


def decoders() -> list[Entry]:
    """Every decoder of maps, in its first form on a ResNet, or else in its first form."""
    found: dict[Any, list[Entry]] = {}
    for name, told in known().items():
        room, _, module = told["module"].partition(".")
        if room == "semantic" and module not in LEFT_OUT:
            one = entry(name)
            if getattr(one.build, "func", None) is EncoderDecoder:
                found.setdefault(one.build, []).append(one)
    on_resnet = [
        [one for one in forms if str(one.arguments.get("backbone", "resnet")).startswith("resnet")]
        for forms in found.values()
    ]
    return [(chosen or forms)[0] for chosen, forms in zip(on_resnet, found.values(), strict=True)]


def narrowed(decoder: Entry) -> dict[str, Any]:
    """Its own widths, brought to 64: `width` and `decoder_channels` in any case, others that are greater."""
    found = {}
    for name, parameter in inspect.signature(decoder.build).parameters.items():
        value = decoder.arguments.get(name, parameter.default)
        greater = isinstance(value, int) and value > WIDTH
        if name in ("width", "decoder_channels") or (greater and name.endswith(("_channels", "_width", "_dim"))):
            found[name] = WIDTH
    return found


def rows() -> list[Row]:
    """The baseline, the other decoders, each followed by its changed forms."""
    plain = {
        one.name: Row(
            one.name, one.name, {**narrowed(one), **OWN.get(one.name, {})}, against=AGAINST.get(one.name, BASELINE)
        )
        for one in decoders()
    }
    found = []
    for name in (BASELINE, *sorted(plain.keys() - {BASELINE})):
        found.append(plain[name])
        for what, model, arguments, without in CHANGES:
            if model == name:
                merged = {**plain[name].arguments, **arguments}
                found.append(Row(f"{name}: {what}", name, merged, without, against=name))
    return found


def features(options: argparse.Namespace) -> tuple[Store, Store, str]:
    """Of the training and the test pictures, made where they are not there yet, and the name of both."""
    trunk = options.trunk or trained_trunk(options)
    made_of = {
        "trunk": hashlib.blake2b(locate(trunk).read_bytes(), digest_size=16).hexdigest(),
        "stride": STRIDE,
        "shrink": SHRINK,
        "data": [options.data, options.train_split, options.test_split, options.pictures],
    }
    name = hashlib.blake2b(json.dumps(made_of).encode(), digest_size=6).hexdigest()
    model: Any = create_model(open_weights(trunk).entry.name, weights=trunk, output_stride=STRIDE)
    model = model.deploy().to(memory_format=torch.channels_last)
    train_set, test_set = (
        write_store(
            model,
            build_dataset(options.data, options.root, split),
            options.out / f"features-{name}" / split,
            mirrored=mirrored,
            shrink=SHRINK,
            limit=options.pictures,
        )
        for split, mirrored in ((options.train_split, True), (options.test_split, False))
    )
    return train_set, test_set, name


def trained_trunk(options: argparse.Namespace) -> str:
    """Trains it by the recipe, or goes on, or does nothing where it is done."""
    folder = options.out / "trunk"
    (recipe,) = load_recipe(RECIPE)
    result = train(recipe.replace(root=options.root, output=str(folder), resume=(folder / LAST).is_file()))
    if result.signal is not None:
        raise SystemExit(128 + result.signal)
    return str(result.last_weights)


def training_options(row: Row, seed: int, steps: int) -> TrainingOptions:
    return TrainingOptions(
        model=row.model,
        model_arguments=row.arguments,
        max_steps=steps,
        batch_size=BATCH,
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=0.01,
        warmup_steps=min(20, steps),
        clip_norm=1.0,
        ema=0.98,
        seed=seed,
        accelerator="cpu",
        channels_last=False,  # of tensors, and the features are a list of them
        workers=0,
    )


def run(row: Row, seed: int, steps: int, train_set: Store, test_set: Store) -> dict[str, Any]:
    """Trains and scores one head."""
    started = time.process_time()
    trained, loss = train_head(HeadTask(training_options(row, seed, steps), train_set, row.without))
    model = trained.deploy().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return {
        **score_head(model, test_set),
        "presence_auc": presence_auc(trained, test_set),
        "loss": loss,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "cpu_seconds": time.process_time() - started,
    }


def identity(row: Row, steps: int, name: str) -> dict[str, Any]:
    """What two runs of one row and seed share if their results are one."""
    told = asdict(row) | {"steps": steps, "batch": BATCH, "features": name, "without": list(row.without)}
    del told["against"]
    return told


def finished(log: Path) -> list[dict[str, Any]]:
    """Lines of the log; one that was cut off is none."""
    found = []
    for line in log.read_text("utf-8").splitlines() if log.is_file() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def read_times(out: Path) -> dict[str, float]:
    path = out / TIMES
    return json.loads(path.read_text("utf-8"))["ms"] if path.is_file() else {}


def table(chosen: Sequence[Row], seeds: Sequence[int], steps: int, name: str, out: Path) -> Iterator[str]:
    """Markdown: of each row the mean over the seeds, in brackets least and greatest."""
    lines, times = finished(out / LOG), read_times(out)
    done = {
        row.name: [line for line in lines if line["run"] == identity(row, steps, name) and line["seed"] in seeds]
        for row in chosen
    }
    yield "| head | mIoU | against | difference | pixels right | boundary IoU | parameters (M) | ms |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in chosen:
        runs = done[row.name]
        if not runs:
            continue
        other = done.get(row.against, []) if row.against != row.name else []
        difference = f"{100 * (mean(runs, 'miou') - mean(other, 'miou')):+.2f}" if other else ""
        least, greatest = (100 * bound(run["miou"] for run in runs) for bound in (min, max))
        yield (
            f"| {row.name} | {100 * mean(runs, 'miou'):.2f} ({least:.2f}–{greatest:.2f}) "
            f"| {row.against if other else ''} | {difference} | {100 * mean(runs, 'aacc'):.2f} "
            f"| {100 * mean(runs, 'boundary_iou'):.2f} | {runs[0]['parameters'] / 1e6:.3f} "
            f"| {f'{times[row.name]:.1f}' if row.name in times else ''} |"
        )
    for row in chosen:
        told = [run for run in done[row.name] if run["presence_auc"] is not None]
        if told:
            yield f"\n{row.name}: which classes a picture shows, area under the curve {mean(told, 'presence_auc'):.3f}"


def mean(runs: Sequence[dict[str, Any]], key: str) -> float:
    return sum(run[key] for run in runs) / len(runs)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", default=["*"], help="names of rows, or shell patterns of them")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=Path("runs/heads"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", default="camvid")
    parser.add_argument("--root", default="../shared/data/camvid")
    parser.add_argument("--train-split", default="trainval")
    parser.add_argument("--test-split", default="test")
    parser.add_argument(
        "--trunk", help="weights of a network whose backbone serves as the trunk (default: trained here)"
    )
    parser.add_argument("--pictures", type=int, help="of each split, at most (default: all)")
    parser.add_argument("--table", action="store_true", help="print what is done, and do nothing")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # a line for every head
    chosen = [row for row in rows() if any(fnmatch.fnmatch(row.name, pattern) for pattern in options.heads)]
    print(describe(machine_facts()))
    train_set, test_set, name = features(options)
    print(
        f"features {name}: {len(train_set)} views for training, {len(test_set)} pictures for the test, "
        f"{train_set.gigabytes + test_set.gigabytes:.2f} GB",
        flush=True,
    )
    log = options.out / LOG
    known_runs = [(line["run"], line["seed"]) for line in finished(log)]
    failed = []
    for seed in options.seeds if not options.table else ():
        for row in chosen:
            told = identity(row, options.steps, name)
            if (told, seed) in known_runs:
                continue
            try:
                found = run(row, seed, options.steps, train_set, test_set)
            except Exception:  # the others go on, and the next start tries it again
                failed.append(f"{row.name}, seed {seed}")
                traceback.print_exc()
                continue
            cut_off = log.is_file() and not log.read_bytes().endswith(b"\n")
            with log.open("a", encoding="utf-8") as file:
                file.write("\n" * cut_off + json.dumps({"run": told, "seed": seed, **found}) + "\n")
            print(f"{row.name}, seed {seed}: mIoU {100 * found['miou']:.2f}, {found['cpu_seconds']:.0f} s", flush=True)
    if not options.table:
        there = {line["run"]["name"] for line in finished(log)}
        tasks = {
            row.name: HeadTask(training_options(row, 0, 1), test_set, row.without)
            for row in chosen
            if row.name in there
        }
        write_json(
            options.out / TIMES, {"machine": machine_facts(), "ms": read_times(options.out) | milliseconds(tasks)}
        )
    print(*table(chosen, options.seeds, options.steps, name, options.out), sep="\n")
    print(*(f"failed: {what}" for what in failed), sep="\n", end="" if not failed else "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
