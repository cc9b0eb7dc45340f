"""One budget for all: minutes, steps, what each recipe says, or no training at all."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Literal

from segmentarium.training.options import TrainingOptions

UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
RESERVE = 0.05  # of a budget in time: for checkpoints and slower moments of the machine
PROBE_SHARE, PROBE_SECONDS, PROBE_STEPS = (
    0.1,
    20.0,
    6,
)  # the step time is measured for so long, and so many steps at least
SAVE_SECONDS = 45.0  # between two checkpoints


@dataclass(frozen=True)
class Budget:
    """How long each candidate is trained.

    kind     "time" (amount: seconds), "steps", "recipe" (what each recipe says) or "none" (everything is loaded)
    """

    kind: Literal["time", "steps", "recipe", "none"]
    amount: float = 0.0
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> Budget:
        """ "5m", "90s", "1.5h", "2000steps", "recipe" or "none".  Raises ValueError for anything else."""
        word = text.strip().lower().replace(" ", "")
        if word in ("none", "recipe"):
            return cls("none" if word == "none" else "recipe", text=word)
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|min|h)", word)
        if found and float(found[1]) > 0:
            return cls("time", float(found[1]) * UNITS[found[2]], word)
        found = re.fullmatch(r"(\d+)steps?", word)
        if found and int(found[1]) > 0:
            return cls("steps", int(found[1]), word)
        raise ValueError(
            f"budget is {text!r}; give time (5m, 90s, 1.5h) or steps (2000steps) for each model, or none: train nothing"
        )

    def __str__(self) -> str:
        return self.text

    @property
    def sentence(self) -> str:
        """For the head of the page."""
        if self.kind == "time":
            return f"each trained for {self.text} of wall-clock time"
        if self.kind == "steps":
            return f"each trained for {self.amount:.0f} steps"
        return "each trained as its recipe says" if self.kind == "recipe" else "nothing trained: loaded weights"


def plan(stages: tuple[TrainingOptions, ...], budget: Budget) -> tuple[tuple[TrainingOptions, ...], list[float]]:
    """The stages of a candidate with the steps that the budget allows, and the measured seconds a step (time budgets).

    Several stages divide the budget as their own steps are divided.  Raises ValueError where not one step fits.
    """
    if budget.kind == "recipe":
        return stages, []
    total = sum(stage.max_steps for stage in stages)
    planned, measured = [], []
    for stage in stages:
        share = stage.max_steps / total
        save_every = stage.save_every
        if budget.kind == "time":
            seconds = budget.amount * share
            step = seconds_per_step(stage, min(PROBE_SECONDS, PROBE_SHARE * seconds))
            measured.append(step)
            steps = int(seconds * (1 - RESERVE) / step)
            if steps < 1:
                raise ValueError(
                    f"a step of {stage.model} takes {step:.2f} s, so that none fits into {seconds:g} s; "
                    "give a longer budget, a smaller crop or a smaller batch"
                )
            save_every = max(1, round(SAVE_SECONDS / step))
        else:
            steps = max(1, round(budget.amount * share))
        planned.append(shortened(stage, steps, save_every))
    return tuple(planned), measured


def shortened(stage: TrainingOptions, steps: int, save_every: int) -> TrainingOptions:
    """The same with another number of steps: a warm-up that fits, and evaluated once, at the end."""
    return stage.replace(
        max_steps=steps,
        warmup_steps=min(stage.warmup_steps, steps // 10),
        val_every=steps,
        save_every=save_every,
        log_every=min(stage.log_every, max(1, steps // 20)),
    )


def seconds_per_step(options: TrainingOptions, seconds: float = PROBE_SECONDS) -> float:
    """Wall-clock seconds of an optimiser step with these options here, data included.

    Trains a copy for about `seconds`; the mean is over the second half of the steps, when the workers' queue, which was
    filled before the first step, no longer flatters the data's share.
    """
    import torch

    from segmentarium.training.loop import Training
    from segmentarium.training.tasks import task_for

    options = options.replace(devices="1", num_nodes=1, strategy="auto")
    training = Training(task_for(options), options)
    training.start()
    ends: list[float] = []
    started = time.perf_counter()
    while True:
        training.advance()
        if training.fabric.device.type == "cuda":
            torch.cuda.synchronize(training.fabric.device)
        ends.append(time.perf_counter())
        passed = ends[-1] - started
        if passed > seconds and (len(ends) > PROBE_STEPS or (len(ends) > 2 and passed > 2 * seconds)):
            break
    half = len(ends) // 2
    return (ends[-1] - ends[half]) / (len(ends) - 1 - half)
