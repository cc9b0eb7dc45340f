"""SuperPoint here and in transformers: points and descriptors of a 480×640 picture, in one run with the same weights.

    python -m benchmarks.superpoint [--size 480 640] [--count 1024] [--threads 2] [--rounds 7] [--engines A,B]
                                    [--weights FILE] [--files FILE …]

Timed is all from a picture to its points' places, scores and descriptors, in alternating rounds; a ratio is the median over
the rounds of theirs over ours.  "end to end" starts at uint8 RGB as a camera gives it, as `KeypointFinder` does.  "points" is
the share of the 500 best points of transformers that are found within a pixel.  Without weights they are drawn by lot, with a
detector whose scores are spread as widely as a trained one's, so that suppression has as much to do.  "superpoint.free" is the
narrower network whose weights are shipped, which finds points of its own; frames a second are told of both.  `--files` are
networks that `segmentarium export` wrote, such as it in eight bits.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from segmentarium.benchmarking.machine import describe, machine_facts
from segmentarium.benchmarking.timing import alternate, ratio
from segmentarium.contracts import KeypointModel, Keypoints
from segmentarium.inference.auto import BEST
from segmentarium.inference.points import KeypointFinder
from segmentarium.registry import create_model
from segmentarium.weights import export_layout, load

ENGINES = ("torch", "torch bf16", "onnxruntime", "openvino", "openvino bf16")
GOALS = {"eager": 1.0, "engine": 3.0, "frames": 30.0}


def pictures(size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8: scikit-image's astronaut, as a camera would give it."""
    from skimage.data import astronaut
    from skimage.transform import resize

    return np.asarray(255 * resize(astronaut(), size, anti_aliasing=True), np.uint8)


def ours_and_theirs(weights: str | None, count: int) -> tuple[KeypointModel, torch.nn.Module]:
    """Our network of Magic Leap's form, and transformers' with the same weights."""
    from transformers import SuperPointConfig, SuperPointForKeypointDetection

    if weights:
        model = load(weights)
    else:
        torch.manual_seed(0)
        model = create_model("superpoint").eval()
        with torch.no_grad():
            last = model.get_submodule("detector.1.conv")
            last.weight.mul_(4.0)  # type: ignore[union-attr,operator]
    assert isinstance(model, KeypointModel)
    theirs = SuperPointForKeypointDetection(SuperPointConfig(max_keypoints=count)).eval()
    theirs.load_state_dict(export_layout(model, "superpoint/transformers"))
    return model, theirs


def agreement(found: Keypoints, points: Tensor, scores: Tensor, border: Tensor) -> float:
    """The share of their best points, those at the border on the right and below left out, that we have within a pixel."""
    within = (points < border).all(1)
    best = points[within][scores[within].argsort(descending=True)[:BEST]]
    return float((torch.cdist(best, found.keypoints.float()).amin(1) <= 1.5).float().mean())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=2, type=int, default=(480, 640), metavar=("H", "W"))
    parser.add_argument("--count", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", default=",".join(ENGINES), metavar="A,B", help="may be empty")
    parser.add_argument("--weights", help="of Magic Leap's form (default: by lot)")
    parser.add_argument("--files", nargs="+", default=(), metavar="FILE", help="exported networks, timed beside")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    size = (options.size[0], options.size[1])
    model, theirs = ours_and_theirs(options.weights, options.count)
    picture = pictures(size)
    finders = {"end to end": KeypointFinder(copy.deepcopy(model), count=options.count)}
    for name in filter(None, options.engines.split(",")):
        engine, _, precision = name.partition(" ")
        try:
            finders[f"end to end, {name}"] = KeypointFinder(
                copy.deepcopy(model), engine=engine, precision=precision or "fp32", count=options.count
            )
        except (ImportError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
    grey = torch.from_numpy(picture).float().mean(2)[None, None] / 255
    coloured = grey.expand(1, 3, *size)

    @torch.inference_mode()
    def peer() -> tuple[Tensor, Tensor]:
        found = theirs(coloured)
        return found.keypoints[0] * torch.tensor([size[1], size[0]]), found.scores[0]

    runs: dict[str, Callable[[], object]] = {
        "transformers": peer,
        "eager": torch.inference_mode()(lambda: model.detect(grey, count=options.count)),
        **{name: (lambda finder=finder: finder.find(picture)) for name, finder in finders.items()},
    }
    points, scores = peer()
    narrow = {}
    for name in finders:
        engine, _, precision = name.removeprefix("end to end").removeprefix(", ").partition(" ")
        narrow[f"superpoint.free, {name}"] = KeypointFinder(
            "superpoint.free", engine=engine or "torch", precision=precision or "fp32", count=options.count
        )
    narrow |= {file: KeypointFinder(file, count=options.count) for file in options.files}
    runs |= {name: (lambda finder=finder: finder.find(picture)) for name, finder in narrow.items()}
    border = torch.tensor((size[1] // 8, size[0] // 8)) * 8 - 4
    seconds = alternate(runs, rounds=options.rounds)
    print("| form | ms | theirs over ours | frames a second | points |\n|---|---|---|---|---|")
    quotient = {name: ratio(seconds["transformers"], seconds[name]) for name in runs}
    for name, run in runs.items():
        found = run()
        same = f"{agreement(found, points, scores, border):.1%}" if isinstance(found, Keypoints) else "100.0%"
        milliseconds = 1e3 * statistics.median(seconds[name])
        points_told = "–" if name in narrow else same
        print(f"| {name} | {milliseconds:.1f} | {quotient[name]:.2f} | {1e3 / milliseconds:.1f} | {points_told} |")
    best, fast = (max(these, key=lambda name: quotient[name]) for these in (finders, narrow))
    frames, narrow_frames = (1 / statistics.median(seconds[name]) for name in (best, fast))
    for what, goal, value in (
        ("eager", "eager", quotient["eager"]),
        ("engine", "engine", quotient[best]),
        ("frames", "frames", frames),
        (f"frames of {fast}", "frames", narrow_frames),
    ):
        print(f"{what}: {value:.2f}, goal {GOALS[goal]:g} {'reached' if value >= GOALS[goal] else 'missed'}")
    print(describe(machine_facts()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
