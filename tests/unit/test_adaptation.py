"""Homographic adaptation: views come back to where they were, and a folder is gone on with; SuperPoint's recipe, in small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import segmentarium
from segmentarium.cli.main import main
from segmentarium.contracts import KeypointModel
from segmentarium.data import build_dataset
from segmentarium.data.homographies import sample_homography
from segmentarium.data.points import read_points
from segmentarium.inference.adaptation import Adaptation, adapted_scores, label_pictures, pictures, warp
from segmentarium.preprocessing import Preprocessing
from segmentarium.training import TrainingOptions, load_recipe, staged, train
from segmentarium.weights import save

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "superpoint.py"
SMALL = {"widths": [4, 4, 8, 8], "head_width": 16, "descriptor_size": 16}


class Bright(KeypointModel):
    """Scores are grey values."""

    def __init__(self) -> None:
        super().__init__(in_channels=1)
        self.preprocessing = Preprocessing((0.0,), (1.0,))
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(image)
        return image[:, 0], F.avg_pool2d(image, 8)


def soft(size: tuple[int, int] = (64, 96)) -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = cv2.resize(rng.random((8, 12)).astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
    return noise.clip(0, 1)


def test_a_warp_is_opencv_s() -> None:
    image, rng = soft(), np.random.default_rng(1)
    matrices = np.stack([sample_homography(rng, image.shape) for _ in range(4)])
    ours = warp(torch.from_numpy(image).expand(4, 1, -1, -1), matrices)[:, 0].numpy()
    for found, matrix in zip(ours, matrices, strict=True):
        known = cv2.erode(cv2.warpPerspective(np.ones_like(image), matrix, image.shape[::-1]), np.ones((3, 3))) == 1
        theirs = cv2.warpPerspective(image, matrix, image.shape[::-1])
        assert np.abs(found - theirs)[known].max() < 0.02  # OpenCV's places are whole 1/32 of pixels


def test_scores_that_follow_the_picture_are_unchanged_by_adaptation() -> None:
    """What is warped there comes back to its place, and of each pixel only the views count that have it in their frame."""
    model, image, rng = Bright(), torch.from_numpy(soft())[None], np.random.default_rng(2)
    views = [sample_homography(rng, (64, 96)) for _ in range(20)]
    found = adapted_scores(model, image, views, batch_size=3)
    assert sum(map(len, model.seen)) == 21
    inner = (found - image[0])[8:-8, 8:-8].abs()
    assert inner.max() < 0.06
    assert inner.mean() < 0.01
    # a view's edges are the picture's: there, as published, all but the first view give nothing, and are counted
    assert found[0, 40:60].max() < 0.3 * image[0, 0, 40:60].max()
    alone = adapted_scores(model, image, [])
    assert (alone == image[0]).all()


def folder(root: Path, number: int = 5) -> Path:
    rng = np.random.default_rng(0)
    for i in range(number):
        path = root / ("val" if i == number - 1 else "train") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = cv2.resize(rng.integers(0, 256, (12, 16), np.uint8), (133, 99), interpolation=cv2.INTER_NEAREST)
        Image.fromarray(grey).convert("RGB" if i % 2 else "L").save(path)
    return root


def small_model() -> Any:
    torch.manual_seed(0)
    return segmentarium.create_model("superpoint_small", **SMALL).eval()


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_a_folder_is_gone_on_with_where_it_was_stopped(tmp_path: Path) -> None:
    found, settings = pictures(folder(tmp_path / "photos")), Adaptation(homographies=3, long_side=96, threshold=0.0155)
    model = small_model()
    whole = dict(label_pictures(model, found, tmp_path / "whole", settings))
    assert list(whole) == ["train/0", "train/1", "train/2", "train/3", "val/4"]

    stopped = label_pictures(model, found, tmp_path / "stopped", settings)
    assert [next(stopped)[0] for _ in range(2)] == ["train/0", "train/1"]
    stopped.close()
    assert len(list((tmp_path / "stopped" / "points").rglob("*.npz"))) == 2
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "stopped").rglob("*.npz")}
    assert dict(label_pictures(model, found, tmp_path / "stopped", settings)) == whole
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")

    assert segmentarium.adapt(model, tmp_path / "photos", tmp_path / "whole", settings) == whole
    with pytest.raises(ValueError, match="finds no points"):
        segmentarium.adapt(torch.nn.Identity(), tmp_path / "photos", tmp_path / "whole")  # type: ignore[arg-type]

    dataset = build_dataset("points", tmp_path / "whole", "train")
    image, points = dataset.load(0)
    assert image.size == (96, 64)  # 71 rows, cut to whole cells
    assert len(points) == whole["train/0"] > 0
    assert (points.min(0) >= 4).all()
    assert (points.max(0) < (92, 60)).all()
    scores = read_points(tmp_path / "whole" / "points" / "train" / "0.npz")[1]
    assert (np.diff(scores) <= 0).all()
    assert scores.min() > 0.0155
    assert len(build_dataset("points", tmp_path / "whole", "val")) == 1


def test_pictures_that_cannot_be_labelled_leave_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path / "photos", 2)
    (root / "train" / "broken.png").write_bytes(b"no picture")
    Image.new("L", (9, 9)).save(root / "train" / "tiny.png")
    model = small_model()
    with pytest.raises(ValueError, match=r"broken\.png"):
        list(label_pictures(model, pictures(root), tmp_path / "strict", Adaptation(homographies=1)))
    save(model, tmp_path / "points.safetensors")
    words = ["adapt", str(root), "--model", str(tmp_path / "points.safetensors"), "--out", str(tmp_path / "out")]
    assert main([*words, "--homographies", "1", "--threshold", "0"]) == 1
    said = capsys.readouterr()
    assert " points in 2 pictures;" in said.out
    assert "broken.png is not a picture" in said.err
    assert "tiny.png: a picture of 9 × 9 pixels is too small" in said.err
    assert len(list((tmp_path / "out" / "points").rglob("*.npz"))) == 2
    for path in (root / "train" / "0.png", root / "val" / "1.png"):
        path.unlink()
    assert main([*words[:-1], str(tmp_path / "none")]) == 2


def test_a_folder_of_other_weights_is_not_mixed_with(tmp_path: Path) -> None:
    found, settings = pictures(folder(tmp_path / "photos", 2)), Adaptation(homographies=1, threshold=0.0)
    out, model = tmp_path / "out", small_model()
    first = dict(label_pictures(model, found, out, settings))
    with torch.no_grad():
        model.detector[0].conv.weight.mul_(-3)
    with pytest.raises(ValueError, match="was labelled otherwise \\(weights: "):
        next(label_pictures(model, found, out, settings))
    before = contents(out)
    assert dict(label_pictures(model, found, out, settings, overwrite=True)).keys() == first.keys()
    assert contents(out)["points/train/0.npz"] != before["points/train/0.npz"]
    assert list(label_pictures(model, found, out, settings))  # it is theirs now
    with pytest.raises(ValueError, match="homographies is 0"):
        Adaptation(homographies=0)
    Image.new("L", (64, 64)).save(tmp_path / "photos" / "train" / "0.webp")
    with pytest.raises(ValueError, match="one file of points"):
        pictures(tmp_path / "photos")


def test_one_command_labels_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segmentarium.save(small_model(), tmp_path / "weights.safetensors")
    words = [
        "adapt", str(folder(tmp_path / "photos")), "--model", str(tmp_path / "weights.safetensors"),
        "--out", str(tmp_path / "out"), "--homographies", "2", "--long-side", "64", "--threshold", "0",
    ]  # fmt: skip
    assert main(words) == 0
    assert "points in 5 pictures" in capsys.readouterr().out
    assert main(words) == 0
    assert main([*words, "--seed", "1"]) == 2
    assert "seed: 0 -> 1" in capsys.readouterr().err
    assert main([*words, "--seed", "1", "--overwrite"]) == 0


def quick(stage: TrainingOptions, output: Path, photos: Path) -> TrainingOptions:
    """A stage of the recipe with few numbers."""
    changes: dict[str, Any] = {
        "output": str(output), "model_arguments": SMALL, "max_steps": 4, "batch_size": 2, "input_size": (32, 48), "workers": 0,
        "val_every": 4, "save_every": 2, "warmup_steps": 1, "ema": 0.5, "log_every": 2, "precision": "32", "accelerator": "cpu",
    }  # fmt: skip
    if stage.adapt:
        adapted = {**stage.adapt, "homographies": 2, "long_side": 96, "threshold": 0.0}
        return stage.replace(**changes, adapt=adapted, root=str(photos))
    return stage.replace(**changes, data_arguments={"count": 2})


def test_superpoint_s_recipe_from_nothing_to_weights(tmp_path: Path) -> None:
    """Shapes, adaptation, both heads, and again; stopped in the second adaptation, it goes on there."""
    photos = folder(tmp_path / "photos")
    recipe = load_recipe(RECIPE)
    assert [bool(stage.adapt) for stage in recipe] == [False, True, True, True]
    recipe = recipe[:-1]  # the third round is as the second
    stages = [quick(stage, tmp_path / "run", photos) for stage in recipe]
    first, *_ = staged(stages)
    shapes = train(first)
    assert 0 <= shapes.best["ap"] <= 1

    result = train([stage.replace(resume=True) for stage in stages])  # the first is done
    assert result.folder == tmp_path / "run-3"
    assert set(result.best) == {"step", "repeatability", "matching", "homography"}
    for number in (2, 3):
        labelled = tmp_path / f"run-{number}" / "labelled"
        assert len(build_dataset("points", labelled, "train")) == 4
    assert "descriptors" in (tmp_path / "run-3" / "train.csv").read_text("utf-8").splitlines()[0]

    weights: list[Any] = [segmentarium.load(tmp_path / f"run-{number}" / "last.safetensors") for number in (1, 2, 3)]
    heads = [dict(model.named_parameters())["descriptor.0.conv.weight"] for model in weights]
    assert not torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[1], heads[2])
    assert weights[2].weights_header["licences"]["training data"].startswith("CC BY")
    grey = torch.from_numpy(soft())[None]
    assert weights[2].eval().detect(grey, threshold=0.0).descriptors.shape[1] == 16


def test_a_run_on_points_resumes_bit_for_bit(tmp_path: Path) -> None:
    segmentarium.save(small_model(), tmp_path / "weights.safetensors")
    stage = quick(load_recipe(RECIPE)[1], tmp_path / "whole", folder(tmp_path / "photos"))
    stage = stage.replace(weights=str(tmp_path / "weights.safetensors"), schedule="constant")
    train(stage)
    parts = stage.replace(output=str(tmp_path / "parts"))
    train(parts.replace(max_steps=2))
    train(parts.replace(resume=True, allow_changed_options=True))
    one, other = (segmentarium.load(tmp_path / name / "last.safetensors").state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert (tmp_path / "parts" / "train.csv").read_text().count("\n") == 3


def test_what_cannot_be_trained_on_points(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos")
    base = TrainingOptions(model="superpoint_small", output=str(tmp_path / "run"), data="shapes", input_size=(32, 48))
    unused: dict[str, Any] = {"mean": (0.5,), "std": (0.5,), "backbone_weights": "imagenet", "flip": False, "turn": 9.0}
    with pytest.raises(ValueError, match="no use for mean, std, backbone_weights, flip; leave that out"):
        train(base.replace(**unused))
    unused = dict.fromkeys(("mean", "std"), (0.5,)) | {"backbone_weights": "imagenet"}
    with pytest.raises(
        ValueError, match="point clouds, and has no use for mean, std, backbone_weights; leave that out"
    ):
        train(
            TrainingOptions(
                model="pointpillars", data="kitti", root=str(photos), output=str(tmp_path / "run"), **unused
            )
        )
    with pytest.raises(ValueError, match="multiples of 8"):
        train(base.replace(input_size=(30, 48)))
    with pytest.raises(ValueError, match="give --weights"):
        train(base.replace(data="points", root=str(photos), adapt={"homographies": 2}))
    with pytest.raises(ValueError, match="has no joints; give --data coco_keypoints"):
        train(base.replace(model="hrnet_pose_w32"))
    with pytest.raises(ValueError, match="adapt has no option 'homography'; did you mean 'homographies'"):
        train(base.replace(data="points", root=str(photos), adapt={"homography": 2}, weights="w.safetensors"))
