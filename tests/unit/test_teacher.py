"""Learning from a larger model's scores: same classes, the same picture, and nothing of it in what comes out."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

import segmentarium
from segmentarium.preprocessing import Preprocessing
from segmentarium.training import TrainingOptions, train
from segmentarium.training.teacher import Teacher, with_teacher
from tests.unit import training_material

pytest.importorskip("lightning", reason="training needs the extra [train]")


def segmenter(classes: tuple[str, ...] = ("background", "box")) -> segmentarium.Model:
    torch.manual_seed(0)
    model = segmentarium.create_model("pphumanseg", num_classes=len(classes))
    model.classes = classes
    return model.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    segmentarium.save(segmenter(), file)
    return file


def test_teacher_sees_the_picture_as_it_wants_it() -> None:
    teacher, pupil = segmenter(), segmenter()
    teacher.preprocessing = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
    picture = torch.rand(1, 3, 48, 64)
    with torch.inference_mode():
        expected = teacher(teacher.preprocessing.normalise(picture))
        given = Teacher(teacher, pupil)(pupil.preprocessing.normalise(picture), expected.shape[-2:])
    torch.testing.assert_close(given, expected)


def test_term_falls_to_nothing_for_a_pupil_that_says_the_same(saved: Path) -> None:
    model = segmenter()
    teacher = with_teacher(model, TrainingOptions(teacher=str(saved), teacher_weight=3.0))
    assert teacher is not None
    image, mask = torch.rand(2, 3, 48, 64), torch.zeros(2, 48, 64, dtype=torch.long)
    outputs = model.forward_train(image)

    def value(logits: torch.Tensor) -> float:
        given = {**outputs, "teacher": logits}
        return float(model.criterion(given, {"mask": mask})["teacher"].detach())

    assert value(outputs["logits"]) == pytest.approx(0, abs=1e-6)
    other = 5 * torch.randn(outputs["logits"].shape)
    ours, theirs = outputs["logits"].detach().log_softmax(1), other.log_softmax(1)
    divergence = (theirs.exp() * (theirs - ours)).sum(1).mean()  # a mean over pixels
    assert value(other) == pytest.approx(3 * float(divergence), rel=1e-4)


def test_run_with_a_teacher_leaves_the_pupil_alone(saved: Path, tmp_path: Path) -> None:
    folder = training_material.labelled_folder(tmp_path / "data")
    options = training_material.quick_options(folder, tmp_path / "out", teacher=str(saved))
    train(options)
    with (tmp_path / "out" / "train.csv").open(encoding="utf-8") as file:
        assert all(float(row["teacher"]) > 0 for row in csv.DictReader(file))
    kept = segmentarium.load(tmp_path / "out" / "last.safetensors")
    assert kept.state_dict().keys() == segmenter().state_dict().keys()


def test_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    segmentarium.save(segmenter(("sky", "sea")), tmp_path / "sea.safetensors")
    with pytest.raises(ValueError, match="scores sky, sea, but the data have background, box"):
        with_teacher(segmenter(), TrainingOptions(teacher=str(tmp_path / "sea.safetensors")))
