"""Trains a tiny network, once for each options: `python -m tests.unit.training_process JSON`, in as many processes as they say.

JSON: a list of {"options": TrainingOptions as plain data, "signal_in": the step in which the last process gets a SIGTERM}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from segmentarium.contracts import SegmentationModel, Term
from segmentarium.losses import CrossEntropy
from segmentarium.registry import entry, register
from segmentarium.training import TrainingOptions, train


class Tiny(SegmentationModel):
    """Normalises each picture by itself, so that what is computed of one does not depend on those beside it."""

    def __init__(self, *, num_classes: int = 2, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.body = nn.Sequential(nn.Conv2d(in_channels, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU())
        self.classifier = nn.Conv2d(8, num_classes, 1)
        self.set_objective(Term("logits", 1.0, CrossEntropy()))

    def logits(self, image: Tensor) -> Tensor:
        return self.classifier(self.body(image))


register("tiny_for_tests", Tiny, replace(entry("pphumanseg").card, parameters=None, limits={}))


def main() -> None:
    from segmentarium.training.loop import Training

    advance = Training.advance
    signal_in: int | None = None

    def advance_then_signal(training: Training) -> None:
        advance(training)
        fabric = training.fabric
        if training.step == signal_in and fabric.global_rank == fabric.world_size - 1:
            signal.raise_signal(signal.SIGTERM)

    Training.advance = advance_then_signal  # type: ignore[method-assign]
    for job in json.loads(sys.argv[1]):
        signal_in = job.get("signal_in")
        result = train(TrainingOptions.from_dict(job["options"]))
        said = {"steps": result.steps, "signal": result.signal}
        name = f"said-{job['options']['resume']}-{os.environ.get('LOCAL_RANK', '0')}.json"
        (Path(job["options"]["output"]) / name).write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main()
