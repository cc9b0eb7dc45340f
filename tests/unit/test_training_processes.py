"""Two processes on the processor: what one process computes, stopped together, resumed exactly, whole or sharded."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from segmentarium.data import build_dataset
from segmentarium.evaluation import evaluate
from segmentarium.training import train
from segmentarium.weights import load
from tests.unit import training_material, training_process

pytest.importorskip("lightning", reason="training needs the extra [train]")

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_material.labelled_folder(tmp_path_factory.mktemp("data"), number=7, void_border=False)


def options_for(folder: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Whole pictures without a pixel of void, so that the mean over a batch is that of the means over its parts."""
    values: dict[str, Any] = {
        "model": "tiny_for_tests", "crop_size": (48, 64), "scale": (1.0, 1.0), "max_class_ratio": 1.0, "batch_size": 8,
        "max_steps": STEPS, "learning_rate": 0.1, "clip_norm": 1.0, "precision": "32", "ema": 0.5, "log_every": 1,
        "val_every": 12, "save_every": 100,
    }  # fmt: skip
    return training_material.quick_options(folder, output, **{**values, **changes}).as_dict()


def in_processes(jobs: list[dict[str, Any]]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.unit.training_process", json.dumps(jobs)]
    done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def column(run: Path, name: str, file: str = "train.csv") -> list[float]:
    with (run / file).open(encoding="utf-8") as rows:
        return [float(row[name]) for row in csv.DictReader(rows)]


WHOLE = {"strategy": "ddp"}
SHARDED = {"strategy": "fsdp", "ema": 0.0}


@pytest.fixture(scope="module")
def runs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """STRATEGY/stopped, by a signal to one of the two processes, and resumed; STRATEGY/straight, which nobody stopped."""
    place = tmp_path_factory.mktemp("runs")
    jobs = []
    for changes in (WHOLE, SHARDED):
        begun = options_for(folder, place / changes["strategy"] / "stopped", devices="2", **changes)
        jobs += [{"options": begun, "signal_in": 3}, {"options": {**begun, "resume": True}}]
        jobs += [{"options": {**begun, "output": str(place / changes["strategy"] / "straight")}}]
    in_processes(jobs)
    return place


def assert_stopped_together(run: Path) -> None:
    """In the next step in which they ask each other."""
    for rank in (0, 1):
        first, second = (
            json.loads((run / f"said-{resumed}-{rank}.json").read_text("utf-8")) for resumed in (False, True)
        )
        assert first == {"steps": 10, "signal": signal.SIGTERM}
        assert second == {"steps": STEPS, "signal": None}


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = (torch.load(run / "last.ckpt", weights_only=True) for run in (one, other))
    assert ours["model"].keys() == theirs["model"].keys()
    assert all(torch.equal(value, theirs["model"][key]) for key, value in ours["model"].items())
    momenta = [
        {key: value["momentum_buffer"] for key, value in run["optimizer"]["state"].items()} for run in (ours, theirs)
    ]
    assert momenta[0].keys() == momenta[1].keys() == ours["model"].keys()
    assert all(torch.equal(value, momenta[1][key]) for key, value in momenta[0].items())


def assert_like_one_process(run: Path, folder: Path, place: Path, **changes: Any) -> None:
    """Losses, scores and weights of two processes against those of one, with twice the batch in a pass."""
    alone = train(training_process.TrainingOptions.from_dict(options_for(folder, place / "alone", **changes)))
    assert column(run, "loss") == pytest.approx(column(alone.folder, "loss"), abs=1e-5)
    assert column(run, "miou", "val.csv") == pytest.approx(column(alone.folder, "miou", "val.csv"), abs=1e-4)
    ours, theirs = (load(where / "last.safetensors").state_dict() for where in (run, alone.folder))
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], atol=1e-5, rtol=1e-4)


def test_two_processes_are_one_of_twice_the_batch_and_stop_together(folder: Path, runs: Path, tmp_path: Path) -> None:
    stopped, straight = runs / "ddp" / "stopped", runs / "ddp" / "straight"
    assert_stopped_together(stopped)
    assert_same_weights(stopped, straight)
    assert column(stopped, "loss") == column(straight, "loss")
    assert_like_one_process(straight, folder, tmp_path)
    # Seven pictures, scored by two processes: what one evaluation of the file gives.
    report = evaluate(load(straight / "last.safetensors"), build_dataset("folder", folder, "val"), batch_size=4)
    assert column(straight, "miou", "val.csv")[-1] == pytest.approx(report.miou, abs=1e-6)


def test_sharded_weights_train_alike(folder: Path, runs: Path, tmp_path: Path) -> None:
    """Lightning's own FSDP strategy refuses the processor; PyTorch's `fully_shard`, which is used here, does not."""
    stopped, straight = runs / "fsdp" / "stopped", runs / "fsdp" / "straight"
    assert_stopped_together(stopped)
    assert_same_weights(stopped, straight)
    assert_like_one_process(straight, folder, tmp_path, ema=0.0)


def test_sharded_weights_are_not_averaged(folder: Path, tmp_path: Path) -> None:
    options = training_process.TrainingOptions.from_dict(options_for(folder, tmp_path / "out", strategy="fsdp"))
    with pytest.raises(ValueError, match="give --ema 0"):
        train(options)
