"""A run that was stopped, in whatever way, ends with the same bits as one that was not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from segmentarium.training import TrainingResult, train
from tests.unit import training_material

pytest.importorskip("lightning", reason="training needs the extra [train]")

STEPS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_material.labelled_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def straight(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The checkpoint of a run that nobody stopped."""
    output = tmp_path_factory.mktemp("straight") / "out"
    return checkpoint(train(options_for(folder, output)))


def options_for(folder: Path, output: Path, **changes: Any) -> Any:
    values = {"max_steps": STEPS, "val_every": 5, "save_every": 5, "log_every": 3, "workers": 1, "batch_size": 4}
    return training_material.quick_options(folder, output, **{**values, **changes})


def checkpoint(result: TrainingResult) -> dict[str, Any]:
    return torch.load(result.checkpoint, weights_only=True)


def assert_bit_equal(one: Any, other: Any, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_bit_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_bit_equal(*pair, f"{where}[{index}]")
    else:
        assert one == other, where


def assert_same_run(one: dict[str, Any], other: dict[str, Any]) -> None:
    for part in ("step", "model", "averaged", "averaged_updates", "optimizer", "best"):
        assert_bit_equal(one[part], other[part], part)


def command(folder: Path, output: Path) -> list[str]:
    return [
        sys.executable, "-m", "segmentarium", "train", "--recipe", "paper", "--model", "pphumanseg",
        "--data", "folder", "--root", str(folder),
        "--output", str(output), "--crop-size", "32", "32", "--batch-size", "4", "--max-steps", str(STEPS),
        "--learning-rate", "0.01", "--val-every", "5", "--save-every", "5", "--log-every", "3", "--workers", "1",
        "--accelerator", "cpu",
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, f"the run ended with {process.returncode} before it wrote {path.name}"
        assert time.monotonic() < end, f"no {path.name} after {seconds} s"
        time.sleep(0.02)


def test_two_equal_runs_are_bit_equal(folder: Path, tmp_path: Path, straight: dict[str, Any]) -> None:
    """Without this the tests below could not mean anything; the number of data workers changes nothing."""
    assert_same_run(checkpoint(train(options_for(folder, tmp_path / "out", workers=2))), straight)


def test_killed_run_resumes_to_the_same_bits(folder: Path, tmp_path: Path, straight: dict[str, Any]) -> None:
    output = tmp_path / "out"
    process = subprocess.Popen(command(folder, output), env=environment(), stdout=subprocess.DEVNULL)
    wait_for(output / "last.ckpt", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed_at = torch.load(output / "last.ckpt", weights_only=True)["step"]
    assert 5 <= killed_at < STEPS
    done = subprocess.run(
        [*command(folder, output), "--resume"], env=environment(), check=True, capture_output=True, text=True
    )
    assert f"/{STEPS}" in done.stdout
    assert_same_run(torch.load(output / "last.ckpt", weights_only=True), straight)
    steps = [line.split(",")[0] for line in (output / "val.csv").read_text(encoding="utf-8").splitlines()[1:]]
    assert steps == ["5", "10", "15", "20"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_clean_stop_saves_and_says_so(
    folder: Path, tmp_path: Path, straight: dict[str, Any], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    from segmentarium.training.loop import Training

    options = options_for(folder, tmp_path / "out", save_every=100)
    report = Training.report

    def report_then_signal(self: Training) -> None:
        report(self)
        if self.step == 9:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "report", report_then_signal)
        result = train(options)
    assert (result.signal, result.steps) == (number, 9)
    assert signal.getsignal(number) is before
    assert checkpoint(result)["step"] == 9
    assert_same_run(checkpoint(train(options.replace(resume=True))), straight)


def test_a_signal_to_the_whole_group_leaves_the_workers_alive(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segmentarium.training.loop import Training

    report, workers = Training.report, []

    def report_then_signal(self: Training) -> None:
        report(self)
        if self.step == 9:  # as a cluster does it
            workers.extend(multiprocessing.active_children())
            subprocess.run(["kill", "-TERM", *(str(worker.pid) for worker in workers)], check=True)
            time.sleep(0.3)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Training, "report", report_then_signal)
    result = train(options_for(folder, tmp_path / "out", save_every=100))
    assert workers
    assert (result.signal, result.steps) == (signal.SIGTERM, 9)
    assert checkpoint(result)["step"] == 9


def test_stop_during_evaluation_does_it_after_resuming(
    folder: Path, tmp_path: Path, straight: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from segmentarium.training.tasks.segmentation import SegmentationTask

    options = options_for(folder, tmp_path / "out", save_every=100)
    evaluate = SegmentationTask.evaluate
    calls = []

    def signal_in_the_second(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return evaluate(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTask, "evaluate", signal_in_the_second)
        result = train(options)
    assert (result.signal, result.steps) == (signal.SIGTERM, 10)
    resumed = train(options.replace(resume=True))
    assert_same_run(checkpoint(resumed), straight)
    rows = (resumed.folder / "val.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["5", "10", "15", "20"]


def test_terminated_command_exits_with_143_and_continues(
    folder: Path, tmp_path: Path, straight: dict[str, Any]
) -> None:
    output = tmp_path / "out"
    process = subprocess.Popen(command(folder, output), env=environment(), stdout=subprocess.PIPE, text=True)
    wait_for(output / "val.csv", process)
    process.terminate()
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    assert f"segmentarium train --resume --output {output}" in text
    # As the command says: the other options come from the run itself.
    words = [sys.executable, "-m", "segmentarium", "train", "--resume", "--output", str(output)]
    subprocess.run(words, env=environment(), check=True, capture_output=True)
    assert_same_run(torch.load(output / "last.ckpt", weights_only=True), straight)


@pytest.mark.slow
def test_accumulation_dropout_and_auxiliary_losses_resume_exactly(folder: Path, tmp_path: Path) -> None:
    """BiSeNet V2 has dropout in its heads; two passes make a step here, and the gradient is clipped."""
    changes: dict[str, Any] = {
        "model": "bisenetv2", "crop_size": (64, 64), "micro_batch": 2, "clip_norm": 1.0, "optimizer": "adamw",
        "learning_rate": 1e-3, "max_steps": 4, "save_every": 2, "val_every": 4, "precision": "bf16",
    }  # fmt: skip
    whole = checkpoint(train(options_for(folder, tmp_path / "whole", **changes)))
    from segmentarium.training.loop import Training

    options = options_for(folder, tmp_path / "parts", **changes)
    with pytest.MonkeyPatch.context() as patch:
        save = Training.save

        def save_then_stop(self: Training) -> None:
            save(self)
            raise RuntimeError("power cut")

        patch.setattr(Training, "save", save_then_stop)
        with pytest.raises(RuntimeError, match="power cut"):
            train(options)
    assert_same_run(checkpoint(train(options.replace(resume=True))), whole)
