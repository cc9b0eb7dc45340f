"""Mask R-CNN here and torchvision's, with the same random weights on the same pictures: inference, training step, memory.

    python -m benchmarks.instances [--size 480x640] [--batch 1] [--depth 50] [--rounds 5] [--engines]

Both take turns, and a ratio is the median over the rounds of their quotient in each.  Both see pictures at their own size, which
is a multiple of 32, so that theirs pads nothing; ours answers with masks in the picture's pixels as theirs does.  Memory is the
peak of a process that does nothing else, less what it held before the first call.  The heads are scaled so that some hundred
boxes are found: networks of random weights else find none, or as many as are allowed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segmentarium.benchmarking.machine import describe, machine_facts
from segmentarium.benchmarking.memory import peak_mb, reset_peak, resident_mb
from segmentarium.contracts.results import boxes_around
from segmentarium.losses import Segments
from segmentarium.registry import entry
from segmentarium.weights.layouts import get_layout
from segmentarium.weights.table import load_state

OBJECTS = 12  # of each picture that is trained on


def both(depth: int, size: tuple[int, int]) -> tuple[Any, Any]:
    """torchvision's and ours, of the same weights."""
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d
    trunk = resnet_fpn_backbone(backbone_name=f"resnet{depth}", weights=None, norm_layer=norm, trainable_layers=5)
    theirs = MaskRCNN(trunk, 91, min_size=min(size), max_size=max(size))
    with torch.no_grad():
        theirs.roi_heads.box_predictor.cls_score.weight.mul_(3)
        theirs.rpn.head.cls_logits.weight.mul_(20)
    layout = get_layout("mask_rcnn/torchvision")
    ours = entry(layout.model).build(**{**entry(layout.model).arguments, **layout.arguments(theirs.state_dict())})
    load_state(ours, theirs.state_dict(), rules=layout.rules)
    theirs.backbone.eval()  # its norms as ours: a batch of few pictures has no statistics worth keeping
    theirs.backbone.train = lambda mode=True: theirs.backbone
    return theirs, ours


def calls(which: str, what: str, depth: int, size: tuple[int, int], batch: int) -> Callable[[], Any]:
    """What is measured: "theirs" or "ours", "inference" or "training"."""
    theirs, ours = both(depth, size)
    image = torch.rand((batch, 3, *size), generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    corners = (torch.rand((OBJECTS, 2), generator=generator) * torch.tensor([s - 64 for s in size])).long().tolist()
    masks = torch.zeros((OBJECTS, *size), dtype=torch.bool)
    for mask, (top, left) in zip(masks, corners, strict=True):
        mask[top : top + 60, left : left + 60] = True
    labels = torch.arange(OBJECTS)
    if which == "theirs":
        targets = [{"boxes": boxes_around(masks), "labels": labels + 1, "masks": masks.byte()}] * batch
        if what == "inference":
            theirs.eval()
            return torch.no_grad()(lambda: theirs(list(image)))
        theirs.train()
        return lambda: _step(theirs, list(theirs(list(image), targets).values()))
    seen = ours.preprocessing.normalise(image)
    if what == "inference":
        deployed = ours.eval().deploy()
        return lambda: deployed.detect(seen, threshold=0.0)
    ours.train()
    segments = [Segments(labels, masks)] * batch
    return lambda: _step(
        ours, list(ours.criterion(ours.forward_train(seen, segments), {"segments": segments}).values())
    )


def _step(model: torch.nn.Module, losses: list[Tensor]) -> None:
    model.zero_grad()
    torch.stack(losses).sum().backward()


def peak_of(which: str, what: str, depth: int, size: tuple[int, int], batch: int) -> float:
    """MB that the calls need beyond what stood before, in a process of its own."""
    given = [which, what, str(depth), f"{size[0]}x{size[1]}", str(batch)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.instances", "--alone", *given], check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def alone(which: str, what: str, depth: str, size: str, batch: str) -> None:
    call = calls(which, what, int(depth), parsed(size), int(batch))
    reset_peak()
    before = resident_mb()
    for _ in range(2):
        call()
    print(peak_mb() - before)


def parsed(size: str) -> tuple[int, int]:
    height, width = map(int, size.split("x"))
    return height, width


def onnx_call(depth: int, size: tuple[int, int], batch: int) -> Callable[[], Any]:
    """Ours as an exported file."""
    from segmentarium.export import export_model
    from segmentarium.runtimes import onnx_session

    _, ours = both(depth, size)
    seen = ours.preprocessing.normalise(torch.rand((batch, 3, *size), generator=torch.Generator().manual_seed(1)))
    with tempfile.TemporaryDirectory() as folder:
        # random scores lie too close together for parity
        settings = {"sizes": [size], "tolerance": math.inf}
        path = export_model(ours.eval(), Path(folder) / "model.onnx", **settings).path
        session = onnx_session(path, torch.get_num_threads())
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: seen.numpy()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="480x640", help="height x width, multiples of 32 (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--depth", type=int, default=50, help="of the ResNet (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", action="store_true", help="in bf16, and the exported network, too")
    parser.add_argument("--memory", action="store_true", help="peak memory, too")
    parser.add_argument(
        "--processor-time", action="store_true", help="count the process's own seconds: on a busy machine"
    )
    parser.add_argument("--alone", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(*options.alone)
        return
    size, found = parsed(options.size), {}
    clock = time.process_time if options.processor_time else time.perf_counter
    print(describe(machine_facts()))
    for what in ("inference", "training"):
        measured = {which: calls(which, what, options.depth, size, options.batch) for which in ("theirs", "ours")}
        if what == "inference" and options.engines:
            measured["bf16"] = torch.autocast("cpu", torch.bfloat16)(measured["ours"])
            measured["onnxruntime"] = onnx_call(options.depth, size, options.batch)
        times: dict[str, list[float]] = {which: [] for which in measured}
        for turn in range(options.rounds + 1):  # the first warms up
            for which, call in measured.items():
                started = clock()
                call()
                spent = clock() - started
                if turn:
                    times[which].append(spent)
        for which, spent in times.items():
            ratio = statistics.median(theirs / mine for theirs, mine in zip(times["theirs"], spent, strict=True))
            found[f"{what}, {which}"] = {
                "ms": round(1000 * statistics.median(spent)),
                "theirs over it": round(ratio, 2),
            }
            if options.memory and which in ("theirs", "ours"):
                peak = peak_of(which, what, options.depth, size, options.batch)
                found[f"{what}, {which}"]["MB"] = round(peak)
            print(f"{what}, {which}: {json.dumps(found[f'{what}, {which}'])}")


if __name__ == "__main__":
    main()
