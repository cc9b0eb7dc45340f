"""README's commands, as somebody types them, on a folder of 140 pictures: what they say, what comes of them, how long it takes.

    python -m benchmarks.first_run [--data ../shared/data] [--out runs/first] [--pictures 140] [--max-steps 3]

The folder is made of the data set "nuclei": images/ and masks/ (0 background, 1 nucleus), undivided, and classes.txt.  Then

    segmentarium check-data FOLDER
    segmentarium train --root FOLDER --output RUN             no option but the data and where the run goes
    segmentarium evaluate --model RUN --data folder --root FOLDER
    segmentarium segment FOLDER/images/… --model RUN

are run one after the other, each in a process of its own.  Asked for: 75 mIoU on val within ten minutes of two cores, the split's
name in what `evaluate` says, and a drawn picture.  Exit code 1 where one of these is missing; with --max-steps the score is not
asked for.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ASKED, MINUTES = 75.0, 10.0


def made(source: Path, folder: Path, pictures: int) -> Path:
    """A plain, undivided folder of so many pictures, spread over the data set; made once."""
    if (folder / "classes.txt").is_file():
        return folder
    names = sorted(path.stem for path in (source / "images").glob("*.png"))
    chosen = [names[int(place)] for place in np.linspace(0, len(names) - 1, min(pictures, len(names)))]
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name in chosen:
        Image.open(source / "images" / f"{name}.png").save(folder / "images" / f"{name}.png")
        instances = np.asarray(Image.open(source / "instances" / f"{name}.png"))
        Image.fromarray((instances > 0).astype(np.uint8)).save(folder / "masks" / f"{name}.png")
    (folder / "classes.txt").write_text("background\nnucleus\n", encoding="utf-8")
    return folder


def typed(*words: str | Path) -> tuple[str, float]:
    """Runs a verb -> what it printed, and its seconds.  Ends the program where it fails."""
    print("$ segmentarium", *words, flush=True)
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "segmentarium", *map(str, words)], capture_output=True, text=True)
    seconds = time.perf_counter() - began
    said = done.stdout + done.stderr
    print(
        "".join(f"    {line}\n" for line in said.splitlines()[-12:])
        + f"    {seconds:.0f} s, exit code {done.returncode}",
        flush=True,
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    return said, seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder that holds nuclei/")
    parser.add_argument("--out", type=Path, default=Path("runs/first"))
    parser.add_argument("--pictures", type=int, default=140)
    parser.add_argument("--max-steps", type=int, help="to see whether all of it works")
    given = parser.parse_args()
    folder, run = made(given.data / "nuclei", given.out / "nuclei", given.pictures), given.out / "run"
    typed("check-data", folder, "--out", given.out / "check")
    steps = ["--max-steps", str(given.max_steps)] if given.max_steps else []
    _, seconds = typed("train", "--root", folder, "--output", run, *steps)
    with (run / "val.csv").open(encoding="utf-8", newline="") as file:
        score = 100 * max(float(row["miou"]) for row in csv.DictReader(file))
    said, _ = typed(
        "evaluate", "--model", run, "--data", "folder", "--root", folder, "--out", given.out / "report", "--overwrite"
    )
    picture = next((folder / "images").iterdir())
    typed("segment", picture, "--model", run, "--out", given.out / "drawn", "--overwrite")
    drawn = given.out / "drawn" / f"{picture.stem}_overlay.png"
    found = {
        f"mIoU on val {score:.2f}, {ASKED:g} asked for": bool(given.max_steps) or score >= ASKED,
        f"training {seconds / 60:.1f} minutes, {MINUTES:g} at most": bool(given.max_steps) or seconds <= 60 * MINUTES,
        "evaluate names the split": any(f"{split!r}" in said or f" {split}" in said for split in ("val", "test")),
        f"drawn: {drawn}": drawn.is_file(),
    }
    for what, met in found.items():
        print("met    " if met else "MISSED ", what)
    return int(not all(found.values()))


if __name__ == "__main__":
    sys.exit(main())
