"""The processes that do a batch: who ends with whom, who does whose part, who has which GPU."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segmentarium.scale import local
from segmentarium.scale.manifest import Part
from tests.unit import batch_process

ROOT = Path(__file__).resolve().parents[2]


def test_another_process_does_the_part_of_one_that_ended(tmp_path: Path) -> None:
    parts = [Part(number, ((f"{number}.png", str(number), None),)) for number in range(5)]
    settings = json.dumps({"folder": str(tmp_path)})
    records = list(local.run(settings, parts, 2, batch_process.serve))
    assert sorted(record["part"] for record in records) == [0, 1, 2, 3, 4]
    assert (tmp_path / "died").exists()
    assert all((tmp_path / f"{number}.txt").read_text() == "done\n" for number in range(5))
    with pytest.raises(ChildProcessError, match="a worker ended while it began, with code 3"):
        list(local.run(settings, parts, 1, batch_process.hopeless))


ORPHAN = """
import sys
from segmentarium.scale import local
from segmentarium.scale.manifest import Part
from tests.unit import batch_process
list(local.run("", [Part(0, ())], 1, batch_process.endless))
"""


def test_workers_end_with_the_process_that_started_them() -> None:
    """In the middle of a part, which the next run does: else both would write its pictures."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.kill()
        assert process.communicate(timeout=60) == ("", None)  # its end is there when the worker has ended, too


@pytest.mark.parametrize(
    ("device", "taken"),
    [(None, ["cuda:0", "cuda:1", "cuda:0"]), ("cuda", ["cuda:0", "cuda:1", "cuda:0"]), ("cpu", ["cpu"] * 3)],
)
def test_workers_take_the_gpus_in_turn(device: str | None, taken: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(local.signal, "signal", lambda *_: None)
    monkeypatch.setattr("segmentarium.scale.work.worker_of", lambda text: told.append(json.loads(text)["device"]))
    for number in range(3):
        ours, theirs = multiprocessing.Pipe()
        ours.close()
        local.serve(theirs, json.dumps({"device": device}), number, 3)
    assert told == taken
