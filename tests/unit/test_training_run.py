"""Short runs on a made-up folder: files, scores, and everything that should be refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import segmentarium
from segmentarium.training import TrainingOptions, train
from tests.unit import training_material

pytest.importorskip("lightning", reason="training needs the extra [train]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_material.labelled_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run of six steps."""
    output = tmp_path_factory.mktemp("run") / "out"
    train(training_material.quick_options(folder, output))
    return output


def copy_of(finished: Path, to: Path) -> Path:
    import shutil

    shutil.copytree(finished, to)
    return to


def test_run_leaves_weights_that_rebuild_their_model(finished: Path) -> None:
    model = segmentarium.load(finished / "best.safetensors")
    header = model.weights_header
    assert model.classes == ("background", "box")
    assert header["dataset"] is not None
    assert 0 <= header["metrics"]["miou"] <= 1
    assert header["command"].startswith("segmentarium train --model pphumanseg")
    assert model(torch.zeros(1, 3, 48, 64)).shape == (1, 2, 48, 64)


def test_lightning_says_nothing_of_what_the_options_say(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    from segmentarium.training.machine import fabric_of

    fabric_of(training_material.quick_options(folder, folder / "none", precision="bf16"))
    assert caplog.messages == []


def test_run_logs_to_csv_tensorboard_and_pictures(finished: Path) -> None:
    with (finished / "train.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert all(float(row["loss"]) > 0 and float(row["samples_per_second"]) > 0 for row in rows)
    with (finished / "val.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["3", "6"]
    assert "iou box" in rows[0]
    assert list((finished / "tensorboard").glob("events.*"))
    with Image.open(finished / "pictures" / "0000006.png") as picture:
        assert picture.size == (3 * 64, 4 * 48)  # image, target, prediction; four rows


def test_scores_of_the_log_are_those_of_the_kept_weights(finished: Path, folder: Path) -> None:
    """Counted here pixel by pixel, from the file that was saved."""
    from segmentarium.data import build_dataset

    model = segmentarium.load(finished / "last.safetensors")
    dataset = build_dataset("folder", folder, "val")
    hit, union = np.zeros(2), np.zeros(2)
    for index in range(len(dataset)):
        image, mask = dataset.load(index)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        with torch.no_grad():
            classes = model(model.preprocessing.normalise(pixels)[None]).argmax(1)[0].numpy()
        for k in range(2):
            counted = mask != 255
            hit[k] += ((mask == k) & (classes == k) & counted).sum()
            union[k] += (((mask == k) | (classes == k)) & counted).sum()
    with (finished / "val.csv").open(encoding="utf-8") as file:
        logged = float(list(csv.DictReader(file))[-1]["miou"])
    assert logged == pytest.approx((hit / union).mean(), abs=1e-4)


def test_validation_is_evaluate(finished: Path, folder: Path) -> None:
    """To the last digit that the log keeps: the same network, size rule and count, whatever lies together in a batch."""
    from segmentarium.data import build_dataset
    from segmentarium.evaluation import evaluate

    report = evaluate(segmentarium.load(finished / "last.safetensors"), build_dataset("folder", folder, "val"))
    with (finished / "val.csv").open(encoding="utf-8") as file:
        row = list(csv.DictReader(file))[-1]
    for name, value in (("miou", report.miou), ("aacc", report.aacc), ("iou box", report.iou["box"])):
        assert float(row[name]) == pytest.approx(value, abs=1e-5)


def test_training_learns_the_box(folder: Path, tmp_path: Path) -> None:
    options = training_material.quick_options(
        folder,
        tmp_path / "out",
        max_steps=30,
        ema=0.8,
        optimizer="adamw",
        scale=(0.9, 1.1),
        val_every=30,
        save_every=30,
    )
    assert train(options).best["miou"] > 0.7


def test_existing_run_is_not_overwritten(finished: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"holds a run already; continue it with --resume"):
        train(training_material.quick_options(folder, finished))


def test_a_place_that_cannot_be_written_to_is_told_before_the_data_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is no folder"):
        train(training_material.quick_options(tmp_path / "no data", tmp_path / "file" / "run"))


def test_nothing_to_resume(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to resume"):
        train(training_material.quick_options(folder, tmp_path, resume=True))


def test_damaged_checkpoint_is_named(finished: Path, folder: Path, tmp_path: Path) -> None:
    output = copy_of(finished, tmp_path / "out")
    whole = (output / "last.ckpt").read_bytes()
    (output / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be read"):
        train(training_material.quick_options(folder, output, resume=True))


def test_resume_with_changed_options_lists_them(finished: Path, folder: Path, tmp_path: Path) -> None:
    output = copy_of(finished, tmp_path / "out")
    changed = {"resume": True, "max_steps": 8, "learning_rate": 0.02}
    with pytest.raises(ValueError, match=r"learning_rate: 0\.01 -> 0\.02"):
        train(training_material.quick_options(folder, output, **changed))
    result = train(training_material.quick_options(folder, output, **changed, allow_changed_options=True))
    assert result.steps == 8


def test_resume_with_another_number_of_processes(finished: Path, folder: Path, tmp_path: Path) -> None:
    output = copy_of(finished, tmp_path / "out")
    state = torch.load(output / "last.ckpt", weights_only=True)
    assert state["processes"] == 1
    torch.save(state | {"processes": 2, "step": 3}, output / "last.ckpt")
    changed = {"resume": True}
    with pytest.raises(ValueError, match=r"had 2 process\(es\), and now there are 1; start as many"):
        train(training_material.quick_options(folder, output, **changed))
    result = train(training_material.quick_options(folder, output, **changed, allow_changed_options=True))
    assert result.steps == 6


def test_resuming_a_finished_run_changes_nothing(finished: Path, folder: Path, tmp_path: Path) -> None:
    output = copy_of(finished, tmp_path / "out")
    before = (output / "last.ckpt").read_bytes()
    assert train(training_material.quick_options(folder, output, resume=True)).steps == 6
    assert (output / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("file write failed")])
def test_full_disk_leaves_the_previous_checkpoint(
    finished: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    output = copy_of(finished, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in output.glob("*.*t*") if path.suffix in (".ckpt", ".safetensors")}

    def half_written(_: Any, path: Path) -> None:
        path.write_bytes(b"half a file")
        raise error

    monkeypatch.setattr(torch, "save", half_written)
    options = training_material.quick_options(
        folder, output, max_steps=9, val_every=100, resume=True, allow_changed_options=True
    )
    with pytest.raises(OSError, match=r"last\.ckpt could not be written.*previous one is whole"):
        train(options)
    assert (output / "last.ckpt").read_bytes() == before["last.ckpt"]
    assert (output / "last.safetensors").read_bytes() == before["last.safetensors"]
    assert not list(output.glob("*.part")) + list(output.glob(".*.part"))


def test_non_finite_loss_names_files_and_keeps_the_checkpoint(finished: Path, folder: Path, tmp_path: Path) -> None:
    output = copy_of(finished, tmp_path / "out")
    before = (output / "last.ckpt").read_bytes()
    options = training_material.quick_options(
        folder, output, max_steps=20, learning_rate=1e30, save_every=10, resume=True, allow_changed_options=True
    )
    with pytest.raises(ValueError, match=r"the loss is (nan|inf).* in step \d+, in the batch of (\d\d(, )?){4}; "):
        train(options)
    assert (output / "last.ckpt").read_bytes() == before


def test_weights_that_overflow_are_not_saved(finished: Path, folder: Path, tmp_path: Path) -> None:
    """An infinite gradient spoils the weights in a step whose loss was still finite."""
    output = copy_of(finished, tmp_path / "out")
    before = {name: (output / name).read_bytes() for name in ("last.ckpt", "last.safetensors", "best.safetensors")}
    options = training_material.quick_options(
        folder, output, max_steps=7, learning_rate=float("inf"), resume=True, allow_changed_options=True
    )
    with pytest.raises(ValueError, match="weights are not finite after step 7"):
        train(options)
    assert {name: (output / name).read_bytes() for name in before} == before


def test_batch_of_one_with_batch_norm_is_refused_before_training(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch normalisation, which needs two or more"):
        train(training_material.quick_options(folder, tmp_path / "out", batch_size=1))
    with pytest.raises(ValueError, match="batch normalisation"):
        train(training_material.quick_options(folder, tmp_path / "out", batch_size=4, micro_batch=1))
    assert not (tmp_path / "out").exists()


def test_void_only_data_trains_to_nothing_but_does_not_break(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = training_material.labelled_folder(tmp_path / "void", number=4, void=True)
    result = train(
        training_material.quick_options(
            root, tmp_path / "out", max_steps=3, data_arguments={"mask_map": "0:0,1:1,255:255"}
        )
    )
    assert result.steps == 3
    assert "no labelled pixel at all" in capsys.readouterr().out
    state = segmentarium.load(result.last_weights).state_dict()
    assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())


def test_classes_of_model_and_data_must_agree(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the model has 5 classes, but data set .* has 2 \(background, box\)"):
        train(training_material.quick_options(folder, tmp_path / "out", model_arguments={"num_classes": 5}))
    with pytest.raises(ValueError, match="num_classes is 0"):
        train(training_material.quick_options(folder, tmp_path / "out", model_arguments={"num_classes": 0}))


def test_one_sigmoid_logit_serves_two_classes(folder: Path, tmp_path: Path) -> None:
    options = training_material.quick_options(folder, tmp_path / "out", model_arguments={"num_classes": 1}, max_steps=3)
    assert len(train(options).best["iou"]) == 2


def test_labels_outside_the_classes_are_found_before_training(tmp_path: Path) -> None:
    root = training_material.labelled_folder(tmp_path / "data", number=4)
    Image.fromarray(np.full((48, 64), 7, np.uint8)).save(root / "masks" / "train" / "02.png")
    with pytest.raises(ValueError, match=r"02\.png.*7"):
        train(training_material.quick_options(root, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_missing_root_and_another_kind_s_options_and_data_are_explained(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder is given"):
        train(TrainingOptions(data="folder", output=str(tmp_path / "out")))
    options = training_material.quick_options(folder, tmp_path / "out", model="mobilenet_v2", model_arguments={})
    with pytest.raises(ValueError, match="'mobilenet_v2' is a classifier, which has no use for crop_size"):
        train(options)
    with pytest.raises(ValueError, match="has a class for each pixel, none for each picture; give --data imagefolder"):
        train(options.replace(crop_size=TrainingOptions().crop_size))
    with pytest.raises(ValueError, match="'pphumanseg' is a segmenter, which has no use for mixup, label_smoothing"):
        train(options.replace(model="pphumanseg", mixup=0.2, label_smoothing=0.1))


@pytest.mark.parametrize("text", ["auto", "1,3"])
def test_class_weights_reach_the_loss(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    from segmentarium.data import build_dataset
    from segmentarium.losses import PixelLoss, class_weights
    from segmentarium.training.objective import set_objective

    monkeypatch.setenv("SEGMENTARIUM_CACHE", str(tmp_path))
    dataset = build_dataset("folder", folder, "train")
    expected = torch.tensor([1.0, 3.0])
    if text == "auto":
        masks = np.stack([dataset.load(index)[1] for index in range(len(dataset))])
        expected = class_weights([int((masks == k).sum()) for k in range(2)])
    for _ in range(2):  # the second time from the cache
        model = segmentarium.create_model("pphumanseg", num_classes=2)
        set_objective(model, dataset, TrainingOptions(class_weight=text, loss="ohem+0.5*dice"))
        outputs = model.forward_train(torch.rand(2, 3, 32, 32))
        loss = sum(model.criterion(outputs, {"mask": torch.ones(2, 32, 32, dtype=torch.int64)}).values())
        assert torch.isfinite(torch.as_tensor(loss))
        scored, others = (
            [
                loss.class_weight
                for term in model.objective
                if term.classes is classes
                for loss in term.loss.modules()
                if isinstance(loss, PixelLoss)
            ]
            for classes in (True, False)
        )
        assert scored
        assert all(torch.equal(weight, expected) for weight in scored)
        assert others == [None]  # connectivity is no matter of classes
    assert bool(list(tmp_path.glob("label-counts-*.json"))) == (text == "auto")


def test_class_weights_that_are_none_are_explained(folder: Path) -> None:
    from segmentarium.data import build_dataset
    from segmentarium.training.objective import parse_class_weight

    dataset: Any = build_dataset("folder", folder, "train")
    for text in ("enet:abc", "auto:nan"):
        with pytest.raises(
            ValueError, match=f"class_weight is '{text}', and the offset .* is no number; give one above 1"
        ):
            parse_class_weight(text, dataset)
    for text in ("1,-2", "1,inf", "nan,1", "0,0"):
        with pytest.raises(ValueError, match=f"class_weight is '{text}'; give finite numbers of 0 or more"):
            parse_class_weight(text, dataset)
    weights = parse_class_weight("0,2", dataset)
    assert weights is not None
    assert weights.tolist() == [0, 2]


def test_wrong_number_of_class_weights(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="class_weight has 3 numbers"):
        train(training_material.quick_options(folder, tmp_path / "out", class_weight="1,2,3"))


def test_fine_tuning_scores_the_given_weights_first(
    finished: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = training_material.quick_options(
        folder, tmp_path / "out", weights=str(finished / "last.safetensors"), max_steps=2
    )
    train(options)
    text = capsys.readouterr().out
    assert "step 0: val mIoU" in text
    assert "step 2: val mIoU" in text


def test_recipe_of_two_stages_goes_on_in_the_right_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json
    import signal

    from segmentarium.cli.main import main
    from segmentarium.training.loop import Training

    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from tests.unit.training_material import quick_options\n"
        "def recipe():\n"
        f"    first = quick_options({str(folder)!r}, 'elsewhere', max_steps=2, save_every=1)\n"
        "    return [first, first.replace(max_steps=4, learning_rate=0.005)]\n",
        encoding="utf-8",
    )
    words = ["train", "--recipe", str(recipe), "--output", str(tmp_path / "run"), "--val-every", "2"]
    advance = Training.advance

    def stopped_in_the_second(training: Training) -> None:
        advance(training)
        if training.options.weights is not None and training.step == 1:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "advance", stopped_in_the_second)
        assert main(words) == 128 + signal.SIGTERM
    assert "stopped in step 1; continue with: the same and --resume" in capsys.readouterr().out
    first, second = tmp_path / "run-1", tmp_path / "run-2"
    done = (first / "last.ckpt").read_bytes()
    assert main([*words, "--resume"]) == 0
    assert (first / "last.ckpt").read_bytes() == done
    assert torch.load(second / "last.ckpt", weights_only=True)["step"] == 4
    options = json.loads((second / "options.json").read_text(encoding="utf-8"))
    assert options["weights"] == str(first / "last.safetensors")
    assert options["val_every"] == 2
    assert f"{second}/best.safetensors" in capsys.readouterr().out


def test_checkpoint_of_another_version_is_refused_in_words(finished: Path, folder: Path, tmp_path: Path) -> None:
    output = copy_of(finished, tmp_path / "out")
    state = torch.load(output / "last.ckpt", weights_only=True)
    torch.save({**state, "format": 1}, output / "last.ckpt")
    with pytest.raises(ValueError, match=r"another version \(format 1, here 2\).*--weights .*last\.safetensors"):
        train(training_material.quick_options(folder, output, resume=True))
