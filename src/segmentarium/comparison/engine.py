"""Trains or loads, scores and times each candidate; finished phases are not done again."""

from __future__ import annotations

import csv
import gc
import shlex
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from segmentarium.comparison.budget import Budget, plan
from segmentarium.comparison.candidates import Candidate
from segmentarium.comparison.outcome import Comparison, Outcome
from segmentarium.comparison.records import Record, claim_folder
from segmentarium.comparison.time_left import TimeLeft
from segmentarium.files import write_text
from segmentarium.training.options import LAST, LAST_WEIGHTS, TrainingOptions, command_of

ENGINES = ("eager", "deploy", "onnxruntime", "openvino")
Say = Callable[[str], None]
Bar = Callable[[str, int | None], AbstractContextManager[Callable[..., None]]]


def _no_bar(words: str, total: int | None) -> AbstractContextManager[Callable[..., None]]:
    return nullcontext(lambda *_: None)


class Stopped(Exception):
    """A signal asked to stop; what is done is on disk."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions:
    """What all candidates share.

    data, root, data_arguments   the data set; split: what is scored, pictured, and whose first image gives the size
    budget      of each training
    size        (height, width) to time at; None: that of the first image
    engines     forms of `segmentarium benchmark`; the fastest that agrees counts as the model's latency
    threads     of the timing; None: as PyTorch chooses
    pictures    images shown side by side, spread over the split
    limit       score only the first so many images
    device      of the scoring; None: the first GPU, else the processor.  Timing is always on the processor
    task        what mask classifiers are scored by: "semantic", "instance", "panoptic"; None: by the data.  Where segments are
                told apart, what is timed is the network, up to its masks and their classes
    """

    data: str
    root: str
    split: str
    budget: Budget
    output: Path
    data_arguments: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    engines: tuple[str, ...] = ENGINES
    threads: int | None = None
    repeats: int = 20
    pictures: int = 4
    limit: int | None = None
    boundary_ratio: float = 0.02
    device: str | None = None
    task: str | None = None
    command: str = ""

    def __post_init__(self) -> None:
        from segmentarium.benchmarking.forms import check_forms

        check_forms(list(self.engines))
        for name, least in (("repeats", 1), ("pictures", 0), ("limit", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; give {least} or more")

    def identity(self) -> dict[str, Any]:
        """What must not change between two starts; the candidates and the engines may become more."""
        return {
            "data": self.data,
            "root": str(Path(self.root).resolve()),
            "data_arguments": self.data_arguments,
            "split": self.split,
            "budget": str(self.budget),
            "size": self.size,
            "threads": self.threads,
            "repeats": self.repeats,
            "pictures": self.pictures,
            "limit": self.limit,
            "boundary_ratio": self.boundary_ratio,
            "task": self.task,
        }


def compare(
    candidates: Sequence[Candidate], options: ComparisonOptions, say: Say = print, bar: Bar = _no_bar
) -> Comparison:
    """Runs what is not done yet, and writes comparison.html, .json, .csv and .md into the output folder.

    say   is told in a line what begins and what came of it, with the time left
    bar   is opened with a few words and a number of parts while models are scored and timed, and told how many are done

    A candidate that fails is reported in its `problem`, and tried again by the next start; the others go on.

    Raises what the data set raises for a folder that does not fit, ChangedOptionsError where the folder holds a comparison
    with other options, and Stopped after SIGINT or SIGTERM.
    """
    from segmentarium.benchmarking import machine_facts
    from segmentarium.comparison.page import write_page
    from segmentarium.comparison.pictures import chosen, shown
    from segmentarium.data import build_dataset
    from segmentarium.evaluation.score import chosen_task
    from segmentarium.evaluation.segments import LabelMaps
    from segmentarium.registry import entry

    dataset: Any = build_dataset(options.data, options.root, options.split, **options.data_arguments)
    if not len(dataset):
        raise ValueError(f"split {options.split!r} of {options.root} has no images; there is nothing to score")
    for train_split in {stage.train_split for candidate in candidates for stage in candidate.stages}:
        build_dataset(options.data, options.root, train_split, **options.data_arguments)  # says now what is wrong
    for note in dataset.notes:
        say(note)
    told = options.task
    if told is None and all(made.stages and entry(made.stages[-1].model).kind == "segmenter" for made in candidates):
        told = "semantic"  # none of them tells segments apart
    wanted = chosen_task(told, dataset)
    if dataset.task == "segments" and wanted == "semantic":
        dataset = LabelMaps(dataset)
    elif dataset.task != "segments" and wanted != "semantic":
        raise ValueError(
            f"task is {wanted!r}, and data set {dataset.info.name!r} tells no segments apart; leave task out, or give data of "
            "segments (instances, coco_panoptic, …)"
        )
    claim_folder(options.output, options.identity())
    records = [Record(options.output / "candidates" / candidate.label) for candidate in candidates]
    for record, candidate in zip(records, candidates, strict=True):
        record.claim(candidate)

    outcomes = [Outcome(candidate.label, candidate.origin) for candidate in candidates]
    width, height = dataset.load(0)[0].size
    left = TimeLeft.of(candidates, records, options)
    run = _Run(options, dataset, options.size or (height, width), say, bar, left, wanted)
    comparison = Comparison(
        outcomes,
        data={
            "name": dataset.info.name,
            "task": wanted if dataset.task == "segments" else dataset.task,
            "split": options.split,
            "images": len(dataset) if options.limit is None else min(options.limit, len(dataset)),
            "classes": list(dataset.info.classes),
            "palette": [list(colour) for colour in dataset.info.palette],
            "licence": dataset.info.licence,
        },
        options={**options.identity(), "budget_sentence": options.budget.sentence, "engines": list(options.engines)},
        machine=machine_facts(),
        command=options.command,
        forms=options.engines,
    )
    indices = chosen(len(dataset), options.pictures)
    with _stopped_by(signal.SIGTERM):
        for phase in (run.train_and_score, run.time):  # all are timed in one go, so that the machine is in one state
            for number, (candidate, record, outcome) in enumerate(zip(candidates, records, outcomes, strict=True), 1):
                phase(candidate, record, outcome, f"[{number}/{len(candidates)}] {candidate.label}")
                comparison.pictures = shown(dataset, indices, options.output, outcomes)
                write_page(comparison, options.output)
    return comparison


class _Run:
    """The phases of one comparison."""

    def __init__(
        self,
        options: ComparisonOptions,
        dataset: Any,
        size: tuple[int, int],
        say: Say,
        bar: Bar,
        left: TimeLeft,
        task: str,
    ) -> None:
        self.options, self.dataset, self.size, self.task = options, dataset, size, task
        self.say, self.bar, self.left = say, bar, left

    def train_and_score(self, candidate: Candidate, record: Record, outcome: Outcome, name: str) -> None:
        """Fills training, scores, facts, weights; or problem."""
        phase = "training" if candidate.stages else "loading"
        try:
            if candidate.stages:
                with self.left.part("training", record.read("training") is None):
                    outcome.training = self._trained(candidate, record, name)
                outcome.weights = str(self.options.output / outcome.training["weights"])
            else:
                outcome.weights = candidate.weights
            phase = "evaluation"
            with self.left.part("evaluation", record.read("evaluation") is None):
                self._score(candidate, record, outcome, name)
            (record.folder / "problem.txt").unlink(missing_ok=True)  # of an earlier start
        except (KeyboardInterrupt, Stopped):
            raise
        except Exception as error:  # whatever one candidate raises must not end the others
            self.left.without("evaluation", int(phase != "evaluation"))
            self.left.without("timing", len(self.options.engines))
            self._fail(record, outcome, phase, error, name)
        finally:
            _free_memory()

    def _trained(self, candidate: Candidate, record: Record, name: str) -> dict[str, Any]:
        from segmentarium.training import staged, train

        done = record.read("training")
        if done is not None:
            return done
        planned = record.read("plan")
        if planned is None:
            if self.options.budget.kind == "time":
                self.say(f"{name}: measuring the time of a step")
            stages, measured = plan(candidate.stages, self.options.budget)
            planned = {"stages": [stage.as_dict() for stage in stages], "seconds_per_step": measured}
            record.write("plan", planned)
        output = str(record.folder.resolve() / "training")
        stages = [
            # what may change between two starts, as it is wanted now
            TrainingOptions.from_dict(values).replace(
                output=output, cache=now.cache, workers=now.workers, check=now.check
            )
            for values, now in zip(planned["stages"], candidate.stages, strict=True)
        ]
        stages = staged(stages)
        for number, stage in enumerate(stages, 1):
            folder = Path(stage.folder)
            resume = (folder / LAST).is_file()
            if not resume:  # nothing to resume from: files of a start that was killed before its first checkpoint
                shutil.rmtree(folder, ignore_errors=True)
            of = f", stage {number} of {len(stages)}" if len(stages) > 1 else ""
            self.say(f"{name}: {'going on with' if resume else 'training'} {stage.max_steps} steps{of}{self.left}")
            result = train(stage.replace(resume=resume))
            if result.signal is not None:
                raise Stopped(result.signal)
        runs = [Path(stage.folder) for stage in stages]
        shown = f"runs/{candidate.label}"
        done = {
            "weights": str((runs[-1] / LAST_WEIGHTS).relative_to(self.options.output.resolve())),
            "steps": sum(stage.max_steps for stage in stages),
            "seconds": sum(map(training_seconds, runs)),
            "seconds_per_step": planned["seconds_per_step"],
            "commands": [
                f"{command_of(stage)} --output {shlex.quote(stage.folder)}".replace(output, shown) for stage in stages
            ],
        }
        record.write("training", done)
        return done

    def _score(self, candidate: Candidate, record: Record, outcome: Outcome, name: str) -> None:
        from segmentarium.comparison.facts import facts_of
        from segmentarium.comparison.pictures import chosen, predict_pictures
        from segmentarium.evaluation import evaluate
        from segmentarium.weights import load

        done = record.read("evaluation")
        if done is None:
            self.say(f"{name}: scoring {outcome.weights} on {self.options.split!r}{self.left}")
            model = load(outcome.weights)
            started = time.perf_counter()
            with self.bar("scoring", None) as tell:
                report = evaluate(
                    model,
                    self.dataset,
                    task=None if self.task == "semantic" else self.task,
                    boundary_ratio=self.options.boundary_ratio or None,
                    worst=0,
                    limit=self.options.limit,
                    device=self.options.device,
                    progress=tell,
                )
            predict_pictures(
                model,
                self.dataset,
                chosen(len(self.dataset), self.options.pictures),
                record.folder,
                self.options.device,
                self.task,
            )
            scores = report.as_dict()
            if report.warning:
                scores["notes"].append(report.warning)
            done = {"scores": scores, "facts": facts_of(model, self.size, self.dataset.info.name)}
            record.write("evaluation", done)
            found = "  ".join(map(" ".join, report.headline()))
            self.say(f"{name}: {found} ({time.perf_counter() - started:.0f} s)")
        outcome.scores, outcome.facts = done["scores"], done["facts"]

    def time(self, candidate: Candidate, record: Record, outcome: Outcome, name: str) -> None:
        """Fills speed, form after form; what was measured by an earlier start stays."""
        import torch

        from segmentarium.benchmarking import Case, machine_facts, run_case
        from segmentarium.benchmarking.forms import forms_of

        if outcome.scores is None:
            return
        measured = record.read("timing") or {"forms": {}}
        threads = self.options.threads or torch.get_num_threads()
        try:
            forms = forms_of(outcome.weights, self.options.engines)
        except ValueError as error:  # an exported network, and none of its engines was asked for
            self._fail(record, outcome, "timing", error, name)
            return
        self.left.without("timing", len(self.options.engines) - len(forms))
        for form in forms:
            earlier = measured["forms"].get(form)
            if earlier is None or (earlier["problem"] and not earlier["skipped"]):
                self.say(f"{name}: timing {form}{self.left}")
                case = Case(
                    outcome.weights,
                    form,
                    tuple(outcome.facts["size"]),
                    threads=threads,
                    repeats=self.options.repeats,
                    end_to_end=False,
                    task=self.task,
                )
                with self.left.part("timing"):
                    found = run_case(case)
                measured["forms"][form] = {
                    "p50": found.latency and found.latency.p50,
                    "p90": found.latency and found.latency.p90,
                    "same_class": found.same_class,
                    "peak_memory": found.peak_memory,
                    "problem": found.problem,
                    "skipped": found.skipped,
                }
                measured |= {"threads": threads, "machine": machine_facts()}
                record.write("timing", measured)
            outcome.speed[form] = measured["forms"][form]
        failed = [f"{f}: {s['problem']}" for f, s in outcome.speed.items() if s["problem"] and not s["skipped"]]
        if failed:
            outcome.problem["timing"] = "; ".join(failed)

    def _fail(self, record: Record, outcome: Outcome, phase: str, error: Exception, name: str) -> None:
        message = str(error.args[0] if isinstance(error, KeyError) and error.args else error) or type(error).__name__
        outcome.problem[phase] = message
        # the whole story, for whoever looks for it
        write_text(record.folder / "problem.txt", "".join(traceback.format_exception(error)))
        self.say(f"{name}: {phase} failed: {message}")


def training_seconds(folder: Path) -> float:
    """Wall-clock seconds of all steps of a run, over all its resumptions, from its log."""
    before, seconds = 0.0, 0.0
    with (folder / "train.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            seconds += (float(row["step"]) - before) * float(row["step_seconds"])
            before = float(row["step"])
    return seconds


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _stopped_by(number: int) -> Iterator[None]:
    """Lets a signal end the work at once, as Ctrl-C does; training has rules of its own while it runs."""

    def stop(received: int, _: FrameType | None) -> None:
        raise Stopped(received)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, stop)
    try:
        yield
    finally:
        signal.signal(number, before)
