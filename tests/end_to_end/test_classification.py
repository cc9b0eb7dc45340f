"""A classifier from a folder of pictures to an exported file: trained, evaluated, used, and a backbone in the end."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import segmentarium
from segmentarium.cli.main import main
from segmentarium.contracts import Classifier
from segmentarium.runtimes import onnx_session

SHAPES = ("bar", "disc", "frame")


def drawn(shape: str, random: np.random.Generator) -> Image.Image:
    """32 x 32 pixels: a shape of some colour, somewhere on dark noise."""
    picture = Image.fromarray(random.integers(0, 60, (32, 32, 3), dtype=np.uint8))
    pen = ImageDraw.Draw(picture)
    left, top = random.integers(2, 12, 2).tolist()
    colour = tuple(random.integers(140, 255, 3).tolist())
    box = (left, top, left + 16, top + 16)
    if shape == "disc":
        pen.ellipse(box, fill=colour)
    elif shape == "frame":
        pen.rectangle(box, outline=colour, width=2)
    else:
        pen.rectangle((left, top, left + 4, top + 18), fill=colour)
    return picture


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, random = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    for part, number in (("train", 24), ("val", 8)):
        for shape in SHAPES:
            folder = root / part / shape
            folder.mkdir(parents=True)
            for index in range(number):
                drawn(shape, random).save(folder / f"{index:02d}.png")
    return root


@pytest.fixture(scope="module")
def weights(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best weights of a short run."""
    out = tmp_path_factory.mktemp("run") / "shapes"
    command = (
        f"train --data imagefolder --root {root} --output {out} --model resnet18 --set width=8 --accelerator cpu "
        "--max-steps 40 --batch-size 24 --optimizer adamw --learning-rate 0.01 --ema 0.9 --label-smoothing 0.05 "
        "--val-every 40 --log-every 20 --workers 0 --precision 32"
    )
    assert main(command.split()) == 0
    return out / "best.safetensors"


def test_the_run_learns_and_evaluate_says_so(
    weights: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "report"
    words = ["evaluate", "--model", str(weights), "--data", "imagefolder", "--root", str(root), "--device", "cpu"]
    assert main([*words, "--batch-size", "8", "--out", str(out)]) == 0
    assert "top-1" in capsys.readouterr().out
    found = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert found["top1"] > 0.9
    assert found["images"] == np.sum(found["confusion"]) == 24
    assert list(found["accuracy"]) == list(SHAPES)
    assert found["model"]["preprocessing"]["crop_size"] == found["options"]["size"] == 32  # as the file says
    rows = list(csv.DictReader((weights.parent / "val.csv").open(encoding="utf-8")))
    assert float(rows[-1]["top1"]) == pytest.approx(found["top1"], abs=1e-6)  # validation is evaluate
    assert (weights.parent / "pictures" / "0000040.png").is_file()


def test_the_classes_are_the_same_from_every_door(weights: Path, root: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    words = ["classify", str(root / "val"), "--model", str(weights), "--out", str(tmp_path), "--top", "2"]
    assert main([*words, "--device", "cpu"]) == 0
    with (tmp_path / "classes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    right = [row["class_1"] == Path(row["source"]).parent.name for row in rows]
    assert len(rows) == 24
    assert np.mean(right) > 0.9
    assert all(float(row["probability_1"]) >= float(row["probability_2"]) for row in rows)
    assert main(["export", str(weights), "--out", str(tmp_path)]) == 0
    path = tmp_path / "best.onnx"
    metadata = segmentarium.export.read_metadata(path)
    assert metadata["classes"] == list(SHAPES)
    assert metadata["preprocessing"]["crop_size"] == 32
    session = onnx_session(path, 1)
    mean, std = (np.array(metadata["preprocessing"][key], np.float32)[:, None, None] for key in ("mean", "std"))
    for row in rows[::5]:
        pixels = np.asarray(Image.open(row["source"]).convert("RGB"), np.float32).transpose(2, 0, 1) / 255
        (scores,) = session.run(None, {session.get_inputs()[0].name: ((pixels - mean) / std)[None]})
        assert SHAPES[int(scores[0].argmax())] == row["class_1"]


def test_the_file_is_a_classifier_and_a_backbone(weights: Path) -> None:
    model = segmentarium.load(weights).eval()
    assert isinstance(model, Classifier)
    assert model.classes == SHAPES
    backbone = segmentarium.create_backbone("resnet18", width=8).eval()
    segmentarium.weights.load_part(backbone, "", weights)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        deepest = backbone(image)[-1]
        torch.testing.assert_close(model.backbone(image)[-1], deepest)
    under = segmentarium.create_model(
        "pspnet", backbone="resnet18", backbone_arguments={"width": 8}, num_classes=4, backbone_weights=weights
    )
    taken = under.backbone.state_dict()
    assert all(torch.equal(taken[key], value) for key, value in backbone.state_dict().items() if key in taken)
    assert under.preprocessing.mean == model.preprocessing.mean
