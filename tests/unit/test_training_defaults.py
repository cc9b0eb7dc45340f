"""What a run takes where nobody says, what it costs, when it stops, and which pictures its weights have seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segmentarium
from segmentarium.data import build_dataset
from segmentarium.data.seen import seen, share_seen
from segmentarium.evaluation import evaluate
from segmentarium.evaluation.html import page
from segmentarium.training import TrainingOptions, train
from segmentarium.training.defaults import FITTED, crop_for, fitted, open_options
from segmentarium.training.loop import Training
from segmentarium.training.machine import precision_here
from segmentarium.training.probe import Probe, duration, fitting, measure
from segmentarium.training.tasks import task_for
from tests.unit import training_material


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_material.labelled_folder(tmp_path_factory.mktemp("data"), size=(100, 140))


def options_for(folder: Path, **values: object) -> TrainingOptions:
    options, names = open_options({"model": "pphumanseg", "data": "folder", "root": str(folder), **values})
    return fitted(options, names, task_for(options))[0]


def test_what_nobody_said_is_taken_by_the_pictures(folder: Path) -> None:
    options = options_for(folder)
    assert options.crop_size == (64, 96)  # 70 % of 100 x 140, in steps of 32
    assert (options.batch_size, options.max_steps, options.val_every) == (8, 250, 25)  # 2,000 crops at least
    assert (options.optimizer, options.learning_rate, options.clip_norm, options.warmup_steps) == (
        "adamw",
        1e-3,
        1.0,
        25,
    )


def test_what_was_said_stays(folder: Path) -> None:
    options = options_for(folder, crop_size=(32, 32), max_steps=70, optimizer="sgd")
    assert (options.crop_size, options.max_steps, options.optimizer) == ((32, 32), 70, "sgd")
    assert (options.learning_rate, options.weight_decay) == (
        TrainingOptions().learning_rate,
        TrainingOptions().weight_decay,
    )
    assert options.warmup_steps == 7
    with pytest.raises(ValueError, match=r"no training option 'steps'.*max_steps"):
        train(model="pphumanseg", steps=3)


def test_a_network_and_its_backbone_say_what_they_need(folder: Path) -> None:
    assert options_for(folder, model="segmenter_tiny").learning_rate < 1e-3
    assert options_for(folder, model="pspnet", model_arguments={"backbone": "swin_t"}).learning_rate < 1e-3
    assert options_for(folder, model="pspnet", model_arguments={"backbone": "resnet18"}).learning_rate == 1e-3
    for name, rate in (("convnext_atto", 3e-4), ("vit_tiny_patch16_224", 3e-4), ("resnet18", 1e-3)):
        assert options_for(folder, model="pspnet", model_arguments={"backbone": f"timm:{name}"}).learning_rate == rate


def test_crops_follow_the_longer_side_that_is_asked_for(folder: Path) -> None:
    assert crop_for(build_dataset("folder", folder, "train"), long_side=280) == (128, 192)


def test_a_pass_takes_what_memory_holds(folder: Path, tmp_path: Path) -> None:
    options = training_material.quick_options(folder, tmp_path, batch_size=12)
    training = Training(task_for(options), options)
    found = measure(training)
    assert found.seconds > 0
    assert found.kept > 32 * 32 * 3 * 4
    assert training.model.training == Training(task_for(options), options).model.training  # as if nothing had been
    crop = Probe(1.0, 0.0, kept=1000, weights=0)
    assert [fitting(crop, free, 12, training.model) for free in (10**6, 12_000, 0)] == [12, 6, 2]
    assert [duration(number) for number in (40, 700, 9000)] == ["40 s", "12 min", "2.5 h"]


def has(monkeypatch: pytest.MonkeyPatch, *, bf16: bool) -> None:
    """A processor that multiplies in bfloat16, or one that does not."""
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)


def test_half_precision_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for bf16, taken in ((True, "bf16"), (False, "32")):
        has(monkeypatch, bf16=bf16)
        assert precision_here("cpu") == taken


def test_keywords_train_and_patience_stops(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, bf16=False)
    said = {
        "max_steps": 60,
        "val_every": 2,
        "patience": 1,
        "learning_rate": 1e-9,
        "ema": 0.0,
        "batch_size": 2,
        "crop_size": (32, 32),
    }
    result = train(
        model="pphumanseg", data="folder", root=str(folder), output=str(tmp_path / "run"), workers=0, accelerator="cpu",
        images_every=0, **said,
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert result.steps < 60
    assert result.signal is None
    assert f"no evaluation was better than that of step {result.best['step']} (patience 1)" in printed
    assert "time       about" in printed
    assert f"machine    cpu, {torch.get_num_threads()} threads, 0 data workers" in printed
    assert "precision 32" in printed
    assert "taken      adamw, gradient clipped to 1" in printed
    assert f"mIoU {100 * result.best['miou']:.2f}" in result.best_line
    stored = (tmp_path / "run" / "options.json").read_text()
    assert '"optimizer": "adamw"' in stored
    again = train(output=str(tmp_path / "run"), resume=True)  # all else as it was begun; tired already
    assert again.steps == result.steps


def test_pictures_that_were_trained_on_are_told(folder: Path, tmp_path: Path) -> None:
    result = train(training_material.quick_options(folder, tmp_path / "run", train_split="val", val_split="val"))
    model = segmentarium.load(result.last_weights)
    report = evaluate(model, build_dataset("folder", folder, "val"), boundary_ratio=None)
    assert "8 of the 8 pictures of split 'val' were trained on (100%)" in report.warning
    assert report.as_dict()["warning"] == report.warning
    assert report.warning in str(report.table().caption)
    assert 'role="alert"' in page(report, b"")
    clean = evaluate(model, build_dataset("folder", folder, "train"), boundary_ratio=None)
    assert clean.warning == ""
    assert clean.table().caption is None


def test_a_sketch_tells_the_share_of_many_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segmentarium.data.seen.KEPT", 64)
    for index in range(150):
        (tmp_path / f"{index}.png").write_bytes(bytes(index % 7 + 1))

    class Data:
        def __init__(self, numbers: range) -> None:
            from segmentarium.data.base import Item

            self.items = [Item(tmp_path / f"{i}.png", None) for i in numbers]

    sketch = seen(Data(range(120)), seen(Data(range(10))))
    assert sketch is not None
    assert sketch["pictures"] == 120
    assert len(sketch["hashes"]) == 64 * 12
    assert share_seen({"seen": sketch}, Data(range(120))) == 1
    assert share_seen({"seen": sketch}, Data(range(120, 150))) == 0
    assert share_seen({"seen": sketch}, Data(range(90, 150))) == pytest.approx(0.5, abs=0.25)
    assert share_seen({"seen": {"hashes": 3}}, Data(range(5))) == 0  # a header that anybody wrote


def test_pictures_that_no_file_holds_are_fitted_too() -> None:
    class Drawn:
        def __len__(self) -> int:
            return 3

        def load(self, index: int) -> tuple[Image.Image, np.ndarray]:
            return Image.new("RGB", (1000, 90)), np.zeros((90, 1000), np.uint8)

    assert crop_for(Drawn()) == (64, 512)


def test_the_command_line_says_what_is_open() -> None:
    import argparse

    from segmentarium.cli.train import add_arguments

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    helps = {action.dest: action.help or "" for action in parser._actions}
    assert all("by the data and the network" in helps[name] for name in FITTED)
    assert "recipe paper: sgd" in helps["optimizer"]
