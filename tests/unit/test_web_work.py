"""The server's batches, and the options of `segmentarium serve`."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segmentarium.cli.serve import named_models
from segmentarium.web.limits import Limits
from segmentarium.web.work import Batches


def test_pictures_that_wait_are_computed_together() -> None:
    gate, calls = threading.Event(), []

    def run(image: Tensor) -> Tensor:
        calls.append(tuple(image.shape))
        assert gate.wait(10)
        return image.double() * 2

    batches = Batches(run, pixels=3 * 64)
    images = [torch.full((1, 3, 8, 8), float(i)) for i in range(6)] + [torch.full((1, 3, 4, 8), 9.0)]
    results: dict[int, Tensor] = {}
    threads = [threading.Thread(target=lambda i=i: results.update({i: batches(images[i])})) for i in range(7)]
    threads[0].start()
    while not calls:
        time.sleep(0.001)
    for thread in threads[1:]:
        thread.start()
    while len(batches._waiting) < 6:
        time.sleep(0.001)
    gate.set()
    for thread in threads:
        thread.join(10)
    assert all(torch.equal(results[i], images[i].double() * 2) for i in range(7))
    assert sorted(calls) == sorted([(1, 3, 8, 8), (3, 3, 8, 8), (2, 3, 8, 8), (1, 3, 4, 8)])


def test_an_error_of_a_batch_reaches_its_callers() -> None:
    def run(image: Tensor) -> Tensor:
        raise MemoryError("full")

    with pytest.raises(MemoryError, match="full"):
        Batches(run)(torch.zeros(1, 3, 4, 4))


def test_models_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert named_models("person, a/best.safetensors,x=b.pth") == {
        "person": "person",
        "best": "a/best.safetensors",
        "x": "b.pth",
    }
    with pytest.raises(ValueError, match="two models called 'best'"):
        named_models("a/best.safetensors,b/best.safetensors")
    with pytest.raises(ValueError, match="--models is empty"):
        named_models(" , ")
    run = "runs/lr=0.1/best.safetensors"
    assert named_models(f"runs/mine/,{run},x={run}") == {"mine": "runs/mine/", "best": run, "x": run}
    (tmp_path / "lr=0.1.onnx").touch()
    monkeypatch.chdir(tmp_path)
    assert named_models("lr=0.1.onnx") == {"lr=0.1": "lr=0.1.onnx"}  # a file that is there is no name for another


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match="places is 0; give a number above 0"):
        Limits(places=0)
