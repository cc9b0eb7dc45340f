"""A 10-second 720p clip through `segmentarium portrait`, by the clock: start, decoding, network, matte and encoding.

    python -m benchmarks.clip [--background blur] [--engine NAME] [--rounds 3] [PHOTO]

The clip is PHOTO (default: the astronaut of docs/images) swaying before a grey wall, 30 frames a second, H.264, made here.  The
first round has an empty cache folder, as on a new machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from segmentarium.benchmarking.machine import describe, machine_facts

PHOTO = Path(__file__).resolve().parents[1] / "docs" / "images" / "astronaut.jpg"
WIDTH, HEIGHT, RATE, SECONDS = 1280, 720, 30, 10
SWAY, PERIOD = 60, 20  # pixels to either side, frames a radian


def make_clip(photo: Path, out: Path) -> None:
    import av

    person = np.asarray(Image.open(photo).convert("RGB").resize((HEIGHT, HEIGHT)))
    with av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(RATE * SECONDS):
            pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
            left = (WIDTH - HEIGHT) // 2 + int(SWAY * np.sin(i / PERIOD))
            pixels[:, left : left + HEIGHT] = person
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", type=Path, default=PHOTO)
    parser.add_argument("--background", default="blur")
    parser.add_argument("--engine", help="default: that of the command")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(describe(machine_facts()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_clip(options.photo, folder / "clip.mp4")
        words = ["portrait", str(folder / "clip.mp4"), "--background", options.background]
        words += ["--engine", options.engine] if options.engine else []
        command = [sys.executable, "-m", "segmentarium", *words, "--out", str(folder / "out"), "--overwrite"]
        for i in range(options.rounds):
            environment = os.environ | ({"SEGMENTARIUM_CACHE": str(folder / "cache")} if i == 0 else {})
            started = time.perf_counter()
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            print(f"{time.perf_counter() - started:.2f} s  {(done.stdout + done.stderr).strip().splitlines()[0]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
