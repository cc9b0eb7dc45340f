"""Training of mask classifiers: on segments and on classes of pixels, scored by AP, PQ or mIoU, and resumed exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import segmentarium
from segmentarium.losses.segments import Segments
from segmentarium.training import TrainingOptions, train
from segmentarium.training.loaders import _collate
from segmentarium.training.tasks import task_for
from tests.unit import segment_files as files
from tests.unit.mask_material import CLASSES
from tests.unit.training_material import labelled_folder


def objects(root: Path, number: int = 6, size: tuple[int, int] = (64, 64)) -> Path:
    """Bright squares on noise, each an object."""
    random = np.random.default_rng(0)
    values, names = [], []
    for index in range(number):
        value = np.zeros(size, np.int64)
        for one in range(1, 1 + index % 3):  # none in some
            top, left = random.integers(0, size[0] - 20, 2)
            value[top : top + 18, left : left + 18] = one
        values.append(value)
        names.append(f"{index:02d}")
    files.instances(root, values, names, parts=False)
    (root / "val.txt").write_text("\n".join(names[:3]))
    (root / "train.txt").write_text("\n".join(names))
    for name, value in zip(names, values, strict=True):
        noise = random.integers(0, 60, (*size, 3))
        Image.fromarray((noise + 150 * (value > 0)[..., None]).astype(np.uint8)).save(root / "images" / f"{name}.png")
    return root


def options(root: Path, output: Path, **changes: Any) -> TrainingOptions:
    values: dict[str, Any] = {
        "model": "maskformer_resnet50",
        "model_arguments": tiny(),
        "data": "instances",
        "root": str(root),
        "output": str(output),
        "crop_size": (64, 64),
        "batch_size": 2,
        "max_steps": 4,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "val_every": 2,
        "save_every": 2,
        "log_every": 2,
        "workers": 0,
        "schedule": "constant",
        "ema": 0.0,
        "precision": "32",
        "accelerator": "cpu",
    }
    return TrainingOptions(**{**values, **changes})


def tiny(model: str = "maskformer_resnet50") -> dict[str, Any]:
    """The model's small form, as the tests of all models have it."""
    from segmentarium.registry import entry

    small = {"backbone": "resnet18", "backbone_arguments": {"width": 8}}
    return {**entry(model).tiny, **small}


@pytest.mark.parametrize("model", ["maskformer_resnet50", "htc_resnet18"])
def test_a_run_on_objects_and_its_exact_continuation(tmp_path: Path, model: str) -> None:
    root = objects(tmp_path / "data")
    own = {"model": model, "model_arguments": tiny(model)}
    whole = train(options(root, tmp_path / "whole", **own))
    assert set(whole.best) >= {"ap", "ap50", "pq", "sq", "rq", "step"}
    assert (tmp_path / "whole" / "pictures" / "0000002.png").is_file()
    part = options(root, tmp_path / "part", allow_changed_options=True, **own)
    train(part.replace(max_steps=2))
    again = train(part.replace(resume=True))
    assert again.steps == 4
    first, second = (segmentarium.load(run.last_weights) for run in (whole, again))
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert first.classes == ("object",)
    assert first.things == (0,)  # type: ignore[union-attr]
    assert first.palette == ((128, 0, 0),)
    (result,) = segmentarium.predict(str(root / "images" / "02.png"), first, task="instance", threshold=0.0)
    assert result.segments.ids.shape == (64, 64)


def test_what_is_scored_follows_the_data(tmp_path: Path) -> None:
    root = objects(tmp_path / "data")
    assert task_for(options(root, tmp_path)).best_key == "ap"
    panoptic = task_for(options(root, tmp_path, task="panoptic"))
    assert (panoptic.best_key, panoptic.best_name) == ("pq", "PQ")
    pixels = labelled_folder(tmp_path / "pixels")
    semantic = options(pixels, tmp_path / "run", data="folder", max_steps=2)
    assert task_for(semantic).best_key == "miou"
    assert set(train(semantic).best) >= {"miou", "iou"}
    both = train(options(root, tmp_path / "both", task="semantic", max_steps=2))
    assert "miou" in both.best
    with pytest.raises(ValueError, match="cannot be scored as instance; leave task out"):
        task_for(semantic.replace(task="instance"))
    with pytest.raises(ValueError, match="'bisenetv2' is a segmenter, which has no use for task"):
        task_for(options(root, tmp_path, model="bisenetv2", task="instance", model_arguments={}))
    with pytest.raises(
        ValueError, match="is a mask classifier, which has no use for class_mix, loss, class_weight; leave"
    ):
        task_for(options(root, tmp_path, class_mix=0.5, loss="ohem", class_weight="auto"))


def test_a_plain_segmenter_learns_objects_as_classes_of_pixels_kept_in_memory(tmp_path: Path) -> None:
    model = {"model": "fast_scnn", "model_arguments": {}}
    run = train(options(objects(tmp_path / "data"), tmp_path / "run", **model, cache=True, max_steps=2))
    assert 0 <= run.best["miou"] <= 1


def test_points_of_the_loss_may_be_many_when_weights_are_read(tmp_path: Path) -> None:
    given = {**tiny("mask2former_resnet50"), "drawn": 12544}
    made = segmentarium.create_model("mask2former_resnet50", **given)
    found = segmentarium.load(segmentarium.save(made, tmp_path / "many.safetensors"))
    assert found.state_dict().keys() == made.state_dict().keys()


def test_what_does_not_fit_is_told_before_the_run(tmp_path: Path) -> None:
    root = objects(tmp_path / "data")
    (root / "classes.txt").write_text("cat\n")
    task = task_for(options(root, tmp_path))
    assert list(task.check()) == []
    task.val_set.info = files_info()
    with pytest.raises(ValueError, match="have other classes"):
        list(task.check())
    with pytest.raises(ValueError, match=r"the model has 3 classes, but data set 'data' has 1"):
        task_for(options(root, tmp_path, model_arguments={**tiny(), "num_classes": 3})).model()
    for path in (root / "instances").iterdir():
        Image.fromarray(np.zeros((64, 64), np.uint16)).save(path)
    lines = list(task_for(options(root, tmp_path)).check())
    assert len(lines) == 2
    assert "no segment at all" in lines[0]


def files_info() -> Any:
    from segmentarium.data.segments import segment_info

    return segment_info("other", CLASSES)


def test_crops_of_segments_are_not_redrawn_by_their_classes(tmp_path: Path) -> None:
    given = options(objects(tmp_path / "data"), tmp_path / "run", max_class_ratio=0.9)
    with pytest.raises(
        ValueError, match="of whose crops none is redrawn, and has no use for max_class_ratio; leave that"
    ):
        task_for(given)
    task_for(given.replace(max_class_ratio=1.0))  # never, as it is


def test_batches_hold_as_many_segments_as_each_picture_has() -> None:
    samples = [
        {
            "image": torch.full((3, 4, 4), float(count)),
            "segments": Segments(torch.zeros(count, dtype=torch.int64), torch.ones(count, 4, 4, dtype=torch.bool)),
            "name": str(count),
        }
        for count in (0, 3)
    ]
    batch = _collate(samples)
    assert batch["image"].shape == (2, 3, 4, 4)
    assert [len(one.labels) for one in batch["segments"]] == [0, 3]
    assert all(isinstance(one, Segments) for one in batch["segments"])
    assert batch["name"] == ["0", "3"]


def test_a_detector_is_scored_by_what_it_finds(tmp_path: Path) -> None:
    root = objects(tmp_path / "data")
    given = {"model": "mask_rcnn_resnet18", "model_arguments": tiny("mask_rcnn_resnet18")}
    assert task_for(options(root, tmp_path, **given)).best_key == "ap"
    assert task_for(options(root, tmp_path, task="instance", **given)).best_key == "ap"
    with pytest.raises(ValueError, match="which are scored by AP: leave task"):
        task_for(options(root, tmp_path, task="panoptic", **given))
    model = segmentarium.create_model("mask_rcnn_resnet18", num_classes=1, **tiny("mask_rcnn_resnet18"))
    found = next(segmentarium.predict(str(root / "images" / "02.png"), model))
    assert found.facts["task"] == "instance"
