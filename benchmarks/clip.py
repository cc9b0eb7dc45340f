"""A 10-second 720p clip through `segmentarium portrait`, by the clock, beside the least that could be: decoding and encoding it.

    python -m benchmarks.clip [--background blur] [--engine NAME] [--rounds 3] [--noise 0] [PHOTO]

The clip is PHOTO (default: the astronaut of docs/images) swaying before a grey wall, 30 frames a second, H.264, made here;
`--noise` adds a sensor's, of that standard deviation.  The floor is the same clip through the same reader and the same encoder
with nothing between.  Each round runs the command and the floor one after the other, and both twice: as processes of their own,
start included, and the frames alone, in a process that has started.  The first round has an empty cache folder, as on a new
machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

PHOTO = Path(__file__).resolve().parents[1] / "docs" / "images" / "astronaut.jpg"
WIDTH, HEIGHT, RATE, SECONDS = 1280, 720, 30, 10
SWAY, PERIOD = 60, 20  # pixels to either side, frames a radian


def make_clip(photo: Path, out: Path, noise: float = 0.0) -> None:
    import av

    person = np.asarray(Image.open(photo).convert("RGB").resize((HEIGHT, HEIGHT)))
    random = np.random.default_rng(0)
    with av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(RATE * SECONDS):
            pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
            left = (WIDTH - HEIGHT) // 2 + int(SWAY * np.sin(i / PERIOD))
            pixels[:, left : left + HEIGHT] = person
            if noise:
                grain = random.normal(0, noise, (HEIGHT, WIDTH, 1)).astype(np.float32)
                pixels = (pixels + grain).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def floor(source: Path, out: Path) -> int:
    """Decodes and encodes, as `portrait` does; the number of frames."""
    from segmentarium.matting.frames import layout_of
    from segmentarium.matting.reader import Reader, first_frame
    from segmentarium.matting.writers import OPAQUE, FileWriter
    from segmentarium.media.stages import Prefetcher

    count = 0
    with Reader(str(source), str(source)) as reader:
        frame, items = first_frame(reader)
        writer = FileWriter(out, OPAQUE[".mp4"], reader, layout_of(frame, reader.aspect))
        with Prefetcher(items) as decoded:
            for item in decoded:
                writer.frame(item)
                count += 1
        writer.finish()
    return count


def part(kind: str, source: Path, out: Path, words: list[str]) -> None:
    """What a process of its own does: the floor, or either's frames alone, whose seconds it prints."""
    if kind == "floor":
        floor(source, out)
        return
    from segmentarium.matting import Portrait

    background, *engine = words
    portrait = Portrait(background, **({"engine": engine[0]} if engine else {}))
    portrait.clip(source, out, overwrite=True)  # what is loaded late is loaded
    for run in (lambda: floor(source, out), lambda: portrait.clip(source, out, overwrite=True)):
        started = time.perf_counter()
        run()
        print(time.perf_counter() - started)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", type=Path, default=PHOTO)
    parser.add_argument("--background", default="blur")
    parser.add_argument("--engine", help="default: that of the command")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--noise", type=float, default=0.0, help="of the sensor: standard deviation in levels (default 0)"
    )
    options = parser.parse_args()
    from segmentarium.benchmarking.machine import describe, machine_facts

    print(describe(machine_facts()))
    words = [options.background, *([options.engine] if options.engine else [])]
    found: dict[str, list[float]] = {name: [] for name in ("command", "its floor", "frames", "their floor")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip, out = folder / "clip.mp4", folder / "out.mp4"
        make_clip(options.photo, clip, options.noise)
        command = [sys.executable, "-m", "segmentarium", "portrait", str(clip), "--background", options.background]
        command += ["--engine", options.engine] if options.engine else []
        command += ["--out", str(folder / "out"), "--overwrite"]
        here = [sys.executable, "-m", "benchmarks.clip", "--part"]
        for i in range(options.rounds):
            environment = os.environ | ({"SEGMENTARIUM_CACHE": str(folder / "cache")} if i == 0 else {})
            for name, line in (("command", command), ("its floor", [*here, "floor", str(clip), str(out)])):
                started = time.perf_counter()
                done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
                found[name].append(time.perf_counter() - started)
                if name == "command":
                    print(f"{found[name][-1]:.2f} s  {(done.stdout + done.stderr).strip().splitlines()[0]}")
            line = [*here, "frames", str(clip), str(out), *words]
            done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
            for name, value in zip(("their floor", "frames"), done.stdout.split()[-2:], strict=True):
                found[name].append(float(value))
    count = RATE * SECONDS
    for name, least in (("command", "its floor"), ("frames", "their floor")):
        ours, floors = statistics.median(found[name]), statistics.median(found[least])
        ratio = statistics.median(a / b for a, b in zip(found[name], found[least], strict=True))
        what = "start included" if name == "command" else "frames alone"
        print(
            f"{what:<15} {ours:.2f} s, {count / ours:.0f} frames a second; floor {floors:.2f} s; {ratio:.2f} of the floor"
        )
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        part(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:])
    else:
        raise SystemExit(main())
