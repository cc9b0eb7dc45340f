"""Networks whose encoder is trained first: the second stage starts from the first one's file."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from segmentarium.contracts import Preprocessing, SegmentationModel
from segmentarium.losses import CrossEntropy, Dice, class_weights
from segmentarium.registry import create_model
from segmentarium.weights import save
from segmentarium.weights.table import LoadError
from tests.parity.comparison import randomise
from tests.unit import training_material

PAIRS = [("enet_encoder", "enet"), ("erfnet_encoder", "erfnet"), ("extremec3_encoder", "extremec3")]


def first_stage(name: str, path: Path, **arguments: object) -> SegmentationModel:
    model = randomise(create_model(name, **{"num_classes": 3, **arguments}))
    assert isinstance(model, SegmentationModel)
    model.classes = ("road", "car", "tree")
    model.preprocessing = Preprocessing((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    save(model, path)
    return model


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_encoder_arrives_and_the_rest_is_new(first: str, second: str, tmp_path: Path) -> None:
    stage = first_stage(first, tmp_path / "first.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = create_model(second, weights=str(tmp_path / "first.safetensors"))
    assert isinstance(model, SegmentationModel)
    assert model.registered_name == second
    assert (model.num_classes, model.classes, model.preprocessing) == (3, stage.classes, stage.preprocessing)
    ours, theirs = model.state_dict(), stage.state_dict()
    encoder = [key for key in ours if key.startswith("encoder.")]
    assert len(encoder) > 100
    assert all(torch.equal(ours[key], theirs[key]) for key in encoder)
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        assert torch.equal(model.eval().encoder(image)[0], stage.eval().encoder(image)[0])


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_second_stage_may_have_other_classes(first: str, second: str, tmp_path: Path) -> None:
    stage = first_stage(first, tmp_path / "first.safetensors")
    model = create_model(second, weights=str(tmp_path / "first.safetensors"), num_classes=5)
    assert isinstance(model, SegmentationModel)
    assert model.classes == tuple(f"class {i}" for i in range(5))
    assert model.preprocessing == stage.preprocessing


def test_arguments_of_the_first_stage_hold_for_the_second(tmp_path: Path) -> None:
    stage = first_stage("enet_encoder", tmp_path / "first.safetensors", encoder_act="relu")
    model = create_model("enet", weights=str(tmp_path / "first.safetensors"))
    assert model.encoder.state_dict().keys() == stage.encoder.state_dict().keys()
    assert model.given_arguments["encoder_act"] == "relu"


def test_a_first_stage_of_another_form_is_refused(tmp_path: Path) -> None:
    first_stage("enet_encoder", tmp_path / "first.safetensors", form="paper")
    with pytest.raises(ValueError, match="is a first stage with form='paper', but 'enet_2018' has form='port-2018'"):
        create_model("enet_2018", weights=str(tmp_path / "first.safetensors"))
    first_stage("enet_encoder", tmp_path / "other.safetensors")
    with pytest.raises(LoadError, match="does not fit the encoder of 'enet_2018'"):
        create_model("enet_2018", weights=str(tmp_path / "other.safetensors"))


def test_a_second_stage_is_no_first_one(tmp_path: Path) -> None:
    save(create_model("erfnet", num_classes=3), tmp_path / "second.safetensors")
    with pytest.raises(ValueError, match="holds weights of 'erfnet', not of 'erfnet_encoder'"):
        create_model("erfnet_encoder", weights=str(tmp_path / "second.safetensors"))
    first_stage("enet_encoder", tmp_path / "first.safetensors")
    with pytest.raises(ValueError, match="holds weights of 'enet_encoder', not of 'erfnet'"):
        create_model("erfnet", weights=str(tmp_path / "first.safetensors"))


def test_labels_come_to_the_logits() -> None:
    model = create_model("enet_encoder", num_classes=3)
    logits = torch.randn(2, 3, 4, 6, requires_grad=True)
    target = torch.randint(0, 3, (2, 4, 6))
    target[0, 0] = 255
    large = target.repeat_interleave(8, 1).repeat_interleave(8, 2)

    def loss(mask: torch.Tensor) -> torch.Tensor:
        return model.criterion({"logits": logits}, {"mask": mask})["logits"]

    assert torch.equal(loss(large), CrossEntropy()(logits, target))
    assert torch.equal(loss(target), CrossEntropy()(logits, target))
    void = loss(torch.full((2, 33, 49), 255))
    void.backward()
    assert void == 0
    assert logits.grad is not None


def test_both_stages_train(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="training needs the extra [train]")
    from segmentarium.training import train

    folder = training_material.labelled_folder(tmp_path / "data", number=4)
    short = {"max_steps": 2, "val_every": 2, "save_every": 2, "log_every": 1, "batch_size": 2, "ema": 0.0}
    options = training_material.quick_options(
        folder, tmp_path / "1", model="enet_encoder", class_weight="enet:1.2", **short
    )
    first = train(options)
    second = train(
        training_material.quick_options(
            folder, tmp_path / "2", model="enet", class_weight="enet", weights=str(first.last_weights), **short
        )
    )
    assert (first.steps, second.steps) == (2, 2)
    stages = [create_model("enet", weights=str(path)) for path in (first.last_weights, second.last_weights)]
    before, after = (stage.state_dict()["encoder.stage3.0.reduce.conv.weight"] for stage in stages)
    assert 0 < (after - before).abs().max() < 0.1  # two steps away from where the first stage ended


def test_options_reach_a_loss_at_the_output_s_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning", reason="training needs the extra [train]")
    from segmentarium.data import build_dataset
    from segmentarium.training import TrainingOptions
    from segmentarium.training.objective import set_objective
    from segmentarium.training.preflight import count_labels

    monkeypatch.setenv("SEGMENTARIUM_CACHE", str(tmp_path))
    dataset = build_dataset("folder", training_material.labelled_folder(tmp_path / "data", number=2), "train")
    model = create_model("erfnet_encoder", num_classes=2)
    assert isinstance(model, SegmentationModel)
    set_objective(model, dataset, TrainingOptions(class_weight="enet:1.2", loss="dice"))
    loss = model.losses["logits"]
    assert isinstance(loss, Dice)
    assert loss.class_weight is not None
    counts = count_labels(dataset)
    assert torch.equal(loss.class_weight, class_weights(counts, offset=1.2))
    set_objective(model, dataset, TrainingOptions(class_weight="erfnet"))
    assert torch.equal(loss.class_weight, class_weights(counts, "erfnet"))
    with pytest.raises(ValueError, match="give none, auto, a formula"):
        set_objective(model, dataset, TrainingOptions(class_weight="rare"))
    with pytest.raises(ValueError, match="method 'inverse' has none"):
        set_objective(model, dataset, TrainingOptions(class_weight="inverse:2"))
