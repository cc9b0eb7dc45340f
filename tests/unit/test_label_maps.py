"""Label maps: what an annotator says of a picture's cells, gone on with where it stopped, and what patches are told of it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from segmentarium.contracts import SegmentationModel
from segmentarium.data import TrainingStream, build_dataset
from segmentarium.data.classification import changes
from segmentarium.data.label_maps import LabelMaps, LabelMapView
from segmentarium.data.token_labels import token_targets
from segmentarium.inference.annotation import annotate, scores_places
from segmentarium.registry import create_model
from segmentarium.training import TrainingOptions, train

pytest.importorskip("lightning", reason="training needs the extra [train]")

LVVIT: dict[str, Any] = {"embed_dim": 32, "depth": 1, "heads": 2, "stem": 8, "image_size": 32}


class Brightness(SegmentationModel):
    """Class 1 where it is bright, class 0 where it is dark."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__(num_classes=num_classes)
        self.weight = torch.nn.Parameter(torch.ones(1))

    def logits(self, image: Tensor) -> Tensor:
        bright = image.mean(1, keepdim=True) * self.weight
        return torch.cat([-bright, bright], 1) * 4


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that are dark on one side and bright on the other, in two classes: on which."""
    root = tmp_path_factory.mktemp("halves")
    for part in ("train", "val"):
        for name, bright in (("left", slice(0, 32)), ("right", slice(32, 64))):
            (root / part / name).mkdir(parents=True)
            for index in range(3):
                pixels = np.zeros((48, 64, 3), np.uint8)
                pixels[:, bright] = 255
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
    return root


def test_a_map_tells_what_each_cell_shows_and_a_stopped_run_goes_on(halves: Path, tmp_path: Path) -> None:
    dataset, done = build_dataset("imagefolder", halves, "train"), []
    maps = annotate(Brightness(), dataset, tmp_path / "maps", cells=4, size=32, progress=lambda *now: done.append(now))  # type: ignore[arg-type]
    assert done[-1] == (6, 6)
    scores, classes = maps.read("left/0")
    assert scores.shape == classes.shape == (2, 4, 4)
    assert (scores[0] >= scores[1]).all()
    assert classes[0].tolist() == [[1, 1, 0, 0]] * 4
    assert maps.read("right/1")[1][0].tolist() == [[0, 0, 1, 1]] * 4
    times = {name: maps.path(name).stat().st_mtime_ns for name in ("left/0", "left/1")}
    maps.path("left/1").unlink()
    annotate(Brightness(), dataset, tmp_path / "maps", cells=4, size=32)  # type: ignore[arg-type]
    assert maps.path("left/0").stat().st_mtime_ns == times["left/0"]
    assert maps.path("left/1").stat().st_mtime_ns != times["left/1"]
    with pytest.raises(ValueError, match=r"made otherwise \(cells 4, now 5\)"):
        annotate(Brightness(), dataset, tmp_path / "maps", cells=5, size=32)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="can be asked by pixels only"):
        annotate(Brightness(), dataset, tmp_path / "other", way="crops")  # type: ignore[arg-type]
    maps.path("left/2").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"2\.npz cannot be read"):
        maps.read("left/2")
    with pytest.raises(ValueError, match="tell 2 classes"):
        LabelMaps(tmp_path / "maps", ("left", "right", "middle"))


def test_a_classifier_is_asked_place_by_place_or_crop_by_crop(halves: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    dataset = build_dataset("imagefolder", halves, "val")
    resnet = create_model("resnet18", num_classes=2).eval()
    assert scores_places(resnet)  # type: ignore[arg-type]
    maps = annotate(resnet, dataset, tmp_path / "dense", size=64)  # type: ignore[arg-type]
    scores, classes = maps.read("left/0")
    assert scores.shape == (2, 2, 2)
    pixels = F.interpolate(dataset.sample(0)["image"][None].float(), (64, 64), mode="bilinear", antialias=True)
    whole = resnet(resnet.preprocessing.normalise(pixels.round() / 255))[0]
    mean = (
        torch.zeros_like(scores).scatter(0, classes, scores).mean((1, 2))
    )  # a linear layer's mean is that of the mean
    assert torch.allclose(mean, whole, atol=2e-3)
    transformer = create_model("lvvit_s", num_classes=2, **LVVIT).eval()
    assert not scores_places(transformer)  # type: ignore[arg-type]
    maps = annotate(transformer, dataset, tmp_path / "crops", cells=3, size=32, batch_size=4)  # type: ignore[arg-type]
    scores, classes = maps.read("right/2")
    assert scores.shape == (2, 3, 3)
    crop = F.interpolate(
        dataset.sample(5)["image"][None, :, 12:36, 16:48].float(), (32, 32), mode="bilinear", antialias=True
    )
    middle = transformer(transformer.preprocessing.normalise(crop.round() / 255))[0]
    assert torch.allclose(torch.zeros(2).scatter(0, classes[:, 1, 1], scores[:, 1, 1]), middle, atol=5e-3)
    with pytest.raises(ValueError, match="scores 3 classes"):
        annotate(create_model("resnet18", num_classes=3), dataset, tmp_path / "none")  # type: ignore[arg-type]


def test_patches_are_told_what_they_show_in_any_crop_mirrored_or_not(halves: Path, tmp_path: Path) -> None:
    dataset = build_dataset("imagefolder", halves, "train")
    maps = annotate(Brightness(), dataset, tmp_path, cells=16, size=64)  # type: ignore[arg-type]
    last = changes(0, 9, 0.0, 0.0, (0, 0, 0), (1, 1, 1))
    stream = TrainingStream(dataset, LabelMapView(maps, 32, area=(0.2, 1.0), flip=0.5, changes=last), seed=0)  # type: ignore[arg-type]
    told = 0
    for number in range(24):
        sample: dict[str, Any] = stream[number, number % 6]
        scores, classes, box = (sample[key][None] for key in ("scores", "classes", "box"))
        target = token_targets(scores, classes, box, torch.tensor([sample["label"]]), 2, (4, 4))[0]
        shown = F.avg_pool2d(sample["image"].as_subclass(Tensor), 8).mean(0).flatten()
        for patch, brightness in enumerate(shown.tolist()):
            if 0.02 < brightness < 0.98:
                continue
            told += 1
            assert int(target[:, 2 + patch].argmax()) == round(brightness)
    assert told > 200


def test_a_network_learns_from_them(halves: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    annotate(Brightness(), build_dataset("imagefolder", halves, "train"), maps, cells=8, size=32)  # type: ignore[arg-type]
    assert json.loads((maps / "annotator.json").read_text("utf-8"))["way"] == "pixels"
    options = TrainingOptions(
        model="lvvit_s", model_arguments=LVVIT, data="imagefolder", root=str(halves), output=str(tmp_path / "run"), size=32,
        batch_size=4, max_steps=3, val_every=3, log_every=1, workers=0, accelerator="cpu", token_labels=str(maps),
        label_smoothing=0.1, optimizer="adamw", learning_rate=1e-3,
    )  # fmt: skip
    result = train(options)
    rows = (result.folder / "train.csv").read_text("utf-8").splitlines()
    assert {"class", "tokens"} <= set(rows[0].split(","))
    for changed, said in (
        ({"model": "resnet18", "model_arguments": {}}, "resnet18 does not learn from label maps"),
        ({"cutmix": 1.0}, "MixToken mixes"),
        ({"token_labels": str(tmp_path)}, "holds no label maps"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            train(options.replace(output=str(tmp_path / "other"), **changed))


def test_the_squares_of_camvid_and_their_maps_tell_the_same_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    camvid, out = tmp_path / "camvid", tmp_path / "tiles"
    for folder in ("images", "labels"):
        (camvid / folder).mkdir(parents=True)
    for part, label in (("train", 8), ("val", 0), ("test", 3)):
        Image.new("RGB", (480, 360), (20 * label, 0, 0)).save(camvid / "images" / f"{part}.webp")
        Image.new("L", (480, 360), label).save(camvid / "labels" / f"{part}.png")
        (camvid / f"{part}.txt").write_text(f"{part}\n", encoding="utf-8")
    recipe = Path(__file__).parents[2] / "recipes/pretraining/camvid_tiles.py"
    monkeypatch.setattr("sys.argv", ["camvid_tiles.py", "--camvid", str(camvid), "--out", str(out)])
    runpy.run_path(str(recipe), run_name="__main__")
    squares = build_dataset("imagefolder", out, "train")
    assert len(squares) == 12
    maps = LabelMaps(out / "maps", squares.info.classes)
    scores, classes = maps.read("Car/train_0_0")
    best = classes.gather(0, scores.argmax(0, keepdim=True))
    assert best.unique().tolist() == [squares.info.classes.index("Car")]
