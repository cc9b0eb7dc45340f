"""From a folder of pictures to a segmenter: pretrained, stopped, resumed to the same bits, put under a decoder by one option."""

from __future__ import annotations

import csv
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segmentarium.cli.main import main
from segmentarium.registry import create_model
from segmentarium.training import TrainingOptions, train
from segmentarium.weights import load
from tests.end_to_end.test_train_resume import assert_same_run
from tests.unit import training_material

pytest.importorskip("lightning", reason="training needs the extra [train]")

VIT = {"embed_dim": 32, "depth": 2, "heads": 2, "patch": 8}
BEIT = {"embed_dim": 32, "depth": 2, "heads": 2}
QUICK = {
    "data": "pictures", "size": 32, "batch_size": 4, "max_steps": 6, "learning_rate": 1e-3, "optimizer": "adamw", "val_every": 3,
    "save_every": 3, "log_every": 1, "workers": 0, "accelerator": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, number in (("train", 6), ("val", 5)):
        (root / part).mkdir()
        for index in range(number):
            coarse = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((60, 48), Image.Resampling.BICUBIC).save(root / part / f"{index}.png")
    (root / "train" / "broken.jpg").write_bytes(b"broken")
    return root


@pytest.fixture(scope="module")
def words(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a dVAE."""
    output = tmp_path_factory.mktemp("runs") / "dvae"
    small = {"width": 8, "blocks": 1, "vocabulary": 16, "start": 8}
    train(options_for(pictures, output, model="dvae", model_arguments=small))
    return output


def options_for(pictures: Path, output: Path, **changes: Any) -> TrainingOptions:
    values: dict[str, Any] = {**QUICK, "root": str(pictures), "output": str(output), "model": "mae"}
    if changes.get("model", "mae") == "mae":
        small = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
        values["model_arguments"] = {"backbone": "vit_tiny_patch16_224", "backbone_arguments": VIT, **small}
    elif changes["model"] == "beit_mim":
        values |= {"model_arguments": {"backbone_arguments": BEIT}, "size": 64, "jitter": 0.4}
    return TrainingOptions(**{**values, **changes})


def column(run: Path, name: str, file: str = "val.csv") -> list[float]:
    with (run / file).open(encoding="utf-8") as rows:
        return [float(row[name]) for row in csv.DictReader(rows)]


@pytest.mark.parametrize("method", ["mae", "beit_mim", "dvae"])
def test_a_stopped_run_resumes_to_the_same_bits_and_draws_what_it_makes(
    pictures: Path, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from segmentarium.training.loop import Training

    changes: dict[str, Any] = {"model": method}
    if method == "beit_mim":
        changes["tokenizer"] = str(words)
    if method == "dvae":
        changes["model_arguments"] = {"width": 8, "blocks": 1, "vocabulary": 16, "start": 8}
    whole = train(options_for(pictures, tmp_path / "whole", **changes))
    options = options_for(pictures, tmp_path / "parts", **changes)
    report = Training.report

    def report_then_signal(self: Training) -> None:
        report(self)
        if self.step == 4:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "report", report_then_signal)
        stopped = train(options)
    assert (stopped.steps, stopped.signal) == (4, signal.SIGINT)
    resumed = train(options.replace(resume=True))
    one, other = (torch.load(result.checkpoint, weights_only=True) for result in (whole, resumed))
    assert_same_run(one, other)
    for step in (3, 6):
        sheet = Image.open(whole.folder / "pictures" / f"{step:07d}.png")
        rows = {"mae": 3, "beit_mim": 3, "dvae": 2}[method]
        assert sheet.size == (5 * 132, rows * 144)
    assert all(np.isfinite(column(whole.folder, load(whole.last_weights).best_score)))  # type: ignore[arg-type]


def test_the_words_to_be_foreseen_are_the_tokenizer_s(pictures: Path, words: Path, tmp_path: Path) -> None:
    from lightning.fabric import Fabric

    from segmentarium.training.tasks.pretraining import PretrainingTask

    task = PretrainingTask(options_for(pictures, tmp_path, model="beit_mim", tokenizer=str(words)))
    model = task.model()
    assert model.vocabulary == 16
    assert model.backbone.grid == (4, 4)  # tables of the size that is asked for
    fabric = Fabric(accelerator="cpu", devices=1)
    batch = next(iter(task.batches(model, fabric, 4, 0)))
    assert batch["tokens"].shape == batch["masked"].shape == (4, 16)
    assert "token_image" not in batch
    shown = task._shown(model, fabric, [2], 1)
    view = task._view(model, area=None, flip=0.0, jitter=0.0)
    small = view.of(task.val_set.sample(2), np.random.default_rng(0))["token_image"]
    assert small.shape == (3, 32, 32)
    tokenizer: Any = load(words)
    assert torch.equal(shown["tokens"][0], tokenizer.tokens(tokenizer.preprocessing.normalise(small[None])).flatten())


def test_what_does_not_go_together_is_refused_in_words(pictures: Path, words: Path, tmp_path: Path) -> None:
    def model(**changes: Any) -> Any:
        from segmentarium.training.tasks import task_for

        return task_for(options_for(pictures, tmp_path, **changes)).model()

    with pytest.raises(ValueError, match=r"image_size is 30×30; give multiples of the patch's side, 8"):
        model(size=30)
    with pytest.raises(ValueError, match=r"learns the tokens of a tokenizer; give --tokenizer"):
        model(model="beit_mim")
    with pytest.raises(ValueError, match=r"mae learns no tokens"):
        model(tokenizer=str(words))
    with pytest.raises(ValueError, match=r"is a pretrainer, which has no use for crop_size"):
        model(crop_size=(32, 32))


def test_in_one_line_from_the_verb_to_a_decoder(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "mae"
    line = [
        "pretrain", "--method", "mae", "--data", str(pictures), "--backbone", "vit_tiny", "--size", "32", "--output", str(run),
        "--set", f"backbone_arguments={VIT}", "decoder_dim=16", "decoder_depth=1", "decoder_heads=2", "--max-steps", "2",
        "--batch-size", "4", "--val-every", "2", "--workers", "0", "--accelerator", "cpu",
    ]  # fmt: skip
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "best explained" in said
    assert "1 picture left out that cannot be read: train/broken.jpg" in said
    assert main(["pretrain", "--method", "mea", "--data", str(pictures)]) == 2
    assert "no method is called 'mea'; did you mean 'mae'" in capsys.readouterr().err

    folder = training_material.labelled_folder(tmp_path / "labelled", number=3)
    learnt: Any = load(run)
    for name, more in (("upernet_vit_base", {"decoder_channels": 16}), ("segmenter_small_linear", {})):
        arguments = {"backbone": "vit_tiny_patch16_224", "backbone_arguments": {**VIT, "image_size": (32, 48)}, **more}
        options = training_material.quick_options(
            folder, tmp_path / name, model=name, model_arguments=arguments, backbone_weights=str(run), max_steps=1,
            optimizer="adamw", layer_decay=0.75, crop_size=(32, 48), learning_rate=1e-4, ema=0.0,
        )  # fmt: skip
        fresh: Any = create_model(name, num_classes=2, backbone_weights=run, **arguments)
        for key, tensor in learnt.backbone.state_dict().items():
            if key.startswith(("blocks.", "embedding.")):
                assert torch.equal(fresh.backbone.state_dict()[key], tensor), key
        assert fresh.backbone.positions.shape == (1, 1 + 4 * 6, 32)
        assert fresh.backbone.positions.requires_grad
        assert train(options).steps == 1


def test_layers_of_a_pretrained_backbone_learn_the_slower_the_shallower_they_stand(tmp_path: Path) -> None:
    from segmentarium.training.optimizer import parameter_groups

    for backbone, inner in (("vit_tiny_patch16_224", VIT), ("beit_b", BEIT)):
        model = create_model("upernet_vit_base", num_classes=2, backbone=backbone, backbone_arguments=inner)
        options = TrainingOptions(learning_rate=1.0, layer_decay=0.5, backbone_weights="some")
        rate_of = {id(p): group["lr"] for group in parameter_groups(model, options) for p in group["params"]}
        rates = {name: rate_of[id(parameter)] for name, parameter in model.named_parameters()}
        found = {rates[f"backbone.{name}"] for name in ("class_token", "embedding.proj.weight")}
        assert found == {0.5**3}
        assert [rates[f"backbone.blocks.{i}.mlp.fc1.weight"] for i in (0, 1)] == [0.25, 0.5]
        assert {rate for name, rate in rates.items() if name.startswith("decoder.")} == {1.0}


@pytest.mark.slow
def test_two_processes_pretrain_as_one_of_twice_the_batch(pictures: Path, tmp_path: Path) -> None:
    """The same pictures with the same masks; five validation pictures, scored by two processes."""
    from tests.unit.test_training_processes import in_processes

    options = options_for(pictures, tmp_path / "two", devices="2", strategy="ddp", precision="32", ema=0.0)
    in_processes([{"options": options.as_dict()}])
    alone = train(options.replace(output=str(tmp_path / "one"), devices="1", strategy="auto"))
    two = tmp_path / "two"
    assert column(two, "loss", "train.csv") == pytest.approx(column(alone.folder, "loss", "train.csv"), abs=1e-5)
    assert column(two, "explained") == pytest.approx(column(alone.folder, "explained"), abs=1e-5)
    ours, theirs = (load(place / "last.safetensors").state_dict() for place in (two, alone.folder))
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], atol=1e-4, rtol=1e-3)  # after Adam's steps, whose sums differ
