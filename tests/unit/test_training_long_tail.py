"""Training on a long tail: sampling, losses and frozen parts as options of the one loop, resumed exactly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from segmentarium.training import TrainingOptions, train
from tests.unit import training_material

pytest.importorskip("lightning", reason="training needs the extra [train]")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve red, three green and one blue picture; two of each to score."""
    root = tmp_path_factory.mktemp("tail")
    random = np.random.default_rng(0)
    for split, numbers in (("train", (12, 3, 1)), ("val", (2, 2, 2))):
        for channel, (name, number) in enumerate(zip(("red", "green", "blue"), numbers, strict=True)):
            (root / split / name).mkdir(parents=True)
            for index in range(number):
                pixels = random.integers(0, 90, (32, 32, 3), dtype=np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


def _options(root: Path, output: Path, **changes: Any) -> TrainingOptions:
    values = {"model": "mobilenet_v3_small", "data": "imagefolder", "size": 32, "weights": None}
    options = training_material.quick_options(root, output)
    options = options.replace(crop_size=(512, 512), max_steps=4, val_every=4, save_every=2, log_every=4)
    return options.replace(**{**values, **changes})


def test_repeat_sampling_visits_rare_classes_more_often(root: Path, tmp_path: Path) -> None:
    from lightning.fabric import Fabric

    from segmentarium.training.tasks import task_for

    seen = {}
    for sampling in ("uniform", "repeat"):
        options = _options(root, tmp_path, sampling=sampling, repeat_threshold=0.5, batch_size=16)
        task = task_for(options)
        batches = iter(task.batches(task.model(), Fabric(accelerator="cpu"), 16, 0))
        labels = torch.cat([next(batches)["label"] for _ in range(6)])
        seen[sampling] = Counter(labels.tolist())
    # in the order of the folders: blue, green, red; factors 8 ** 0.5, (8 / 3) ** 0.5 and 1
    assert seen["uniform"] == {0: 6, 1: 18, 2: 72}
    expected = np.array([8**0.5, 3 * (8 / 3) ** 0.5, 12])
    np.testing.assert_allclose([seen["repeat"][i] for i in range(3)], 96 * expected / expected.sum(), atol=4)


def test_losses_with_a_memory_resume_exactly(root: Path, tmp_path: Path) -> None:
    options = _options(root, tmp_path / "whole", loss="eqlv2", sampling="repeat", repeat_threshold=0.3)
    options = options.replace(schedule="constant")
    train(options)
    parts = options.replace(output=str(tmp_path / "parts"))
    train(parts.replace(max_steps=2))
    train(parts.replace(resume=True, allow_changed_options=True))
    states = [torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "parts")]
    assert states[0]["losses"].keys() == states[1]["losses"].keys()
    assert any(value.any() for value in states[0]["losses"].values())
    for part in ("losses", "model"):
        for key, value in states[0][part].items():
            assert torch.equal(value, states[1][part][key]), key
    weights = load_file(tmp_path / "whole" / "last.safetensors")
    assert not any("losses" in key for key in weights)  # they are no part of the network


def test_frozen_parts_keep_weights_and_statistics(root: Path, tmp_path: Path) -> None:
    start = train(_options(root, tmp_path / "start", max_steps=2, val_every=2)).last_weights
    options = _options(root, tmp_path / "frozen", weights=str(start), freeze=("backbone.*",), ema=0.0)
    with pytest.raises(ValueError, match="nothing that could be trained"):
        train(options)
    before = load_file(start)
    names = sorted({key.split(".")[0] for key in before})
    kept = [name for name in names if not name.startswith("classifier")]
    assert len(kept) < len(names)
    result = train(options.replace(freeze=tuple(f"backbone.{name}" for name in kept)))
    after = load_file(result.last_weights)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all(key.startswith("classifier") for key in changed)
    with pytest.raises(ValueError, match="no part of the model"):
        train(options.replace(freeze=("backbones",), output=str(tmp_path / "none")))


def test_what_does_not_go_with_a_loss_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave mixup"):
        train(_options(root, tmp_path, loss="eql", mixup=0.2))
    with pytest.raises(ValueError, match="unknown loss of pictures"):
        train(_options(root, tmp_path, loss="dice"))


def test_label_maps_are_sampled_and_joined_too(tmp_path: Path) -> None:
    folder = training_material.labelled_folder(tmp_path / "data")
    options = training_material.quick_options(
        folder, tmp_path / "out", sampling="repeat", repeat_threshold=1.0, mosaic=0.5, max_steps=2, val_every=2
    )
    assert train(options).steps == 2


def test_both_stages_of_a_detector_each_with_what_the_data_count(tmp_path: Path) -> None:
    """Equalisation loss first; then a new classifier in groups and masks seen by share, with all else but these frozen."""
    import segmentarium
    import segmentarium.instances.lvis2020
    from tests.unit.segment_files import coco

    coco(tmp_path / "data")
    small = {**segmentarium.instances.lvis2020.TINY, "backbone": "resnet18", "backbone_arguments": {"width": 8}}
    first = {"class_loss": "eql", "mask_levels": "scale", "mask_loss": "cross_entropy"}
    second = {"class_loss": "bags", "mask_levels": "share", "mask_loss": "balanced"}
    kept = ("backbone", "decoder.pyramid", "decoder.rpn", "decoder.boxes.*.layers", "decoder.semantic")
    options = training_material.quick_options(tmp_path / "data", tmp_path / "out", data="coco_instances")
    options = options.replace(
        model="good_mask_resnet18",
        train_split="all",
        val_split="all",
        crop_size=(64, 64),
        sampling="repeat",
        mosaic=0.5,
        rotate=10.0,
        batch_size=2,
        max_steps=2,
        val_every=2,
        ema=0.0,
        precision="32",
    )
    stages = [
        options.replace(model_arguments={**small, **first}),
        options.replace(model_arguments={**small, **second}, freeze=kept),
    ]
    with pytest.warns(UserWarning, match="another shape"):  # the classifier
        result = train(stages)
    before = load_file(tmp_path / "out-1" / "last.safetensors")
    after = load_file(result.last_weights)
    assert before.keys() == after.keys()
    prefixes = ("backbone.", "decoder.pyramid.", "decoder.rpn.", "decoder.semantic.")
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith(prefixes))
    assert any(not torch.equal(before[key], after[key]) for key in before if key.startswith("decoder.masks."))
    told = segmentarium.load(tmp_path / "out-1" / "last.safetensors").given_arguments["class_loss_arguments"]
    assert told["frequencies"] == [1.0, 1.0]  # both classes in the one picture
    model = segmentarium.load(result.last_weights)
    assert model.given_arguments["classifier_arguments"] == {"groups": [0, 0]}
    assert after["decoder.boxes.0.classifier.scores.weight"].shape[0] == 2 + 3 + 1 + 1 + 1
