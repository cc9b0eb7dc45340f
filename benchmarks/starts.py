"""Does every segmenter start to learn with what `segmentarium train` takes by itself?  A few steps of each on real pictures.

    python -m benchmarks.starts --data ../shared/data [--out runs/starts] [--steps 200] [--crop 96] [--minutes 60]
                                [--only 'bisenet*' …] [--all] [--sets nuclei camvid] [--table]

Nuclei are taken as two classes, background and nucleus; CamVid with its eleven.  Optimiser, rate, warm-up and batch are those of
the defaults (`training/defaults.py` and the network's card); crops are small so that a network takes minutes on one core, unless
`--crop 0` takes the default's.  Scored are the averaged weights, as always, on every second picture of val (of CamVid every
fifth).

    ok        mIoU above that of the best single class everywhere, and a last loss below the first
    level     mIoU of the best single class: that is its answer everywhere
    below     mIoU below it
    rising    the last loss is not below the first
    diverged  the loss or a weight is no longer finite
    refused   the network says why it cannot be trained so

One network a system, the smallest, unless `--all`; the cheapest first.  Each run is a line of OUT/starts.jsonl and is not run
again: stop it whenever you like.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segmentarium.data import build_dataset
from segmentarium.data.camvid import INFO as CAMVID
from segmentarium.registry import entry, known, list_models
from segmentarium.training import train

LOG = "starts.jsonl"
EVERY = {"nuclei": 2, "camvid": 5}  # of the pictures of val
GOOD = "ok"


# data --------------------------------------------------------------------------------------------------------------------


def prepared(source: Path, name: str, folder: Path, every: int) -> Path:
    """A plain folder of the data set's train pictures and of some of its val ones; made once."""
    if (folder / "classes.txt").is_file():
        return folder
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for split, step in (("train", 1), ("val", every)):
        names = (source / f"{split}.txt").read_text(encoding="utf-8").split()[::step]
        for one in names:
            picture = next((source / "images").glob(f"{one}.*"))
            link = folder / "images" / picture.name
            if not link.exists():
                link.symlink_to(picture.resolve())
            Image.fromarray(_labels(source, name, one)).save(folder / "masks" / f"{one}.png")
        (folder / f"{split}.txt").write_text("".join(f"{one}\n" for one in names), encoding="utf-8")
    classes = ("background", "nucleus") if name == "nuclei" else CAMVID.classes
    (folder / "classes.txt").write_text("".join(f"{one}\n" for one in classes), encoding="utf-8")
    return folder


def _labels(source: Path, name: str, one: str) -> np.ndarray:
    if name == "nuclei":
        return (np.asarray(Image.open(source / "instances" / f"{one}.png")) > 0).astype(np.uint8)
    labels = np.asarray(Image.open(source / "labels" / f"{one}.png"))
    return np.where(labels < len(CAMVID.classes), labels, 255).astype(np.uint8)


def constant_score(root: Path) -> float:
    """mIoU in percent of the one class that is best as the answer everywhere."""
    data = build_dataset("folder", root, "val")
    counts = sum(np.bincount(data.load(i)[1].reshape(-1), minlength=256) for i in range(len(data)))
    counts = np.asarray(counts)[: data.info.num_classes]
    return 100 * float(counts.max() / counts.sum()) / int((counts > 0).sum())


# networks ----------------------------------------------------------------------------------------------------------------


def cost(name: str) -> float:
    """Multiply-adds a pixel, as the registry counted them."""
    facts = known()[name]
    height, width = facts["flops_size"]
    return facts["flops"] / (height * width)


def networks(patterns: Sequence[str], every_variant: bool) -> list[str]:
    """The cheapest segmenter of each system, or all that fit the patterns; the cheapest first."""
    names = sorted(list_models(kind="segmenter"), key=cost)
    if patterns:
        return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if every_variant:
        return names
    found: dict[tuple[str, str], str] = {}
    for name in names:
        build: Any = entry(name).build
        cls = getattr(build, "args", (build,))[0]
        found.setdefault((known()[name]["module"], cls.__name__), name)
    return list(found.values())


# runs --------------------------------------------------------------------------------------------------------------------


def started(name: str, root: Path, folder: Path, steps: int, crop: int, constant: float) -> dict[str, Any]:
    """Trains one network from random weights; what came of it."""
    options: dict[str, Any] = {"crop_size": (crop, crop)} if crop else {}
    began = time.perf_counter()
    row: dict[str, Any] = {"constant": round(constant, 2)}
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
    try:
        result = train(
            model=name,
            data="folder",
            root=str(root),
            output=str(folder),
            max_steps=steps,
            val_every=steps,
            save_every=steps,
            log_every=max(1, steps // 20),
            images_every=0,
            check=False,
            workers=0,
            **options,
        )
    except ValueError as error:  # a loss that is not finite is one
        finite = type(error).__name__ != "NonFiniteLossError"
        row |= {"verdict": "refused" if finite else "diverged", "said": " ".join(str(error).split())[:300]}
    else:
        with (folder / "train.csv").open(encoding="utf-8", newline="") as file:
            losses = [float(line["loss"]) for line in csv.DictReader(file)]
        score = 100 * float(result.best["miou"])
        taken = json.loads((folder / "options.json").read_text(encoding="utf-8"))
        apart = score - constant
        verdict = (
            "level" if abs(apart) < 0.01 else "below" if apart < 0 else GOOD if losses[-1] < losses[0] else "rising"
        )
        row |= {
            "miou": round(score, 2),
            "first_loss": round(losses[0], 4),
            "last_loss": round(losses[-1], 4),
            **{key: taken[key] for key in ("optimizer", "learning_rate", "weight_decay", "batch_size", "crop_size")},
            "verdict": verdict,
        }
    row["seconds"] = round(time.perf_counter() - began, 1)
    shutil.rmtree(folder, ignore_errors=True)
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as markdown, those that failed first."""
    lines = [
        "| data | network | steps | optimiser | loss | mIoU | one class | s | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["verdict"] == GOOD, row["data"], row["model"])):
        how = f"{row['optimizer']} {row['learning_rate']:g}" if "optimizer" in row else ""
        loss = f"{row['first_loss']:.3g} → {row['last_loss']:.3g}" if "last_loss" in row else ""
        said = row["verdict"] + (f": {row['said'][:80]}" if "said" in row else "")
        cells = (
            row["data"],
            row["model"],
            row["steps"],
            how,
            loss,
            row.get("miou", ""),
            row["constant"],
            row["seconds"],
            said,
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder that holds nuclei/ and camvid/"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/starts"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--crop", type=int, default=96, help="side of the crops; 0: what training takes by itself")
    parser.add_argument("--minutes", type=float, help="begin no run after so many")
    parser.add_argument("--only", nargs="+", default=(), metavar="PATTERN", help="networks by name")
    parser.add_argument("--all", action="store_true", help="every variant, not one a system")
    parser.add_argument("--sets", nargs="+", choices=tuple(EVERY), default=tuple(EVERY))
    parser.add_argument("--table", action="store_true", help="print what is there, and run nothing")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    log = given.out / LOG
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    if given.table:
        print(table(rows))
        return int(any(row["verdict"] != GOOD for row in rows))
    done = {(row["data"], row["model"], row["steps"], row["crop"]) for row in rows}
    began = time.monotonic()
    roots = {name: prepared(given.data / name, name, given.out / name, EVERY[name]) for name in given.sets}
    constants = {name: constant_score(root) for name, root in roots.items()}
    chosen = networks(given.only, given.all)
    for number, model in enumerate(chosen, 1):
        for name, root in roots.items():
            if (name, model, given.steps, given.crop) in done:
                continue
            if given.minutes is not None and time.monotonic() - began > 60 * given.minutes:
                print(f"{given.minutes:g} minutes are over; the same command goes on")
                return 0
            facts = {"data": name, "model": model, "steps": given.steps, "crop": given.crop}
            found = started(model, root, given.out / "run", given.steps, given.crop, constants[name])
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**facts, **found}) + "\n")
            print(
                f"{number}/{len(chosen)} {name} {model}: {found['verdict']}, mIoU {found.get('miou')}, {found['seconds']} s",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
