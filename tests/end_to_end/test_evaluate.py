"""`segmentarium evaluate` from the command line to the files it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentarium import create_model, save
from segmentarium.cli.main import main
from segmentarium.data import build_dataset, evaluation_split


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained two-class model in a file of ours."""
    model = create_model("pphumanseg", num_classes=2)
    model.classes = ("background", "person")
    return save(model, tmp_path_factory.mktemp("weights") / "untrained.safetensors", dataset="none")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of two sizes with masks, divided by nothing."""
    root = tmp_path / "data"
    random = np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for i, (height, width) in enumerate([(64, 80), (64, 80), (70, 61)]):
        target = np.zeros((height, width), np.uint8)
        target[16:48, 20:40] = 1
        target[:4] = 255
        Image.fromarray(random.integers(0, 255, (height, width, 3)).astype(np.uint8)).save(root / f"images/p{i}.jpg")
        Image.fromarray(target).save(root / f"masks/p{i}.png")
    (root / "classes.txt").write_text("background 0 0 0\nperson 255 64 64\n")
    return root


def test_a_plain_folder_is_scored(
    weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = tmp_path / "deep" / "numbers.json"
    words = ["evaluate", "--model", str(weights), "--data", "folder", "--root", str(folder), "--device", "cpu"]
    code = main([*words, "--split", "all", "--json", str(numbers)])
    printed = capsys.readouterr().out
    assert code == 0
    found = json.loads(numbers.read_text(encoding="utf-8"))
    assert found["images"] == 3
    assert list(found["iou"]) == ["background", "person"]
    assert found["miou"] == pytest.approx(sum(found["iou"].values()) / 2)
    assert 0 <= found["boundary_iou"] <= 1
    assert found["seconds"] > 0
    assert found["data"] == found["data"] | {"split": "all", "root": str(folder)}
    assert found["pixels"] == 2 * 60 * 80 + 66 * 61
    assert found["ignored_pixels"] == 2 * 4 * 80 + 4 * 61
    assert f"mIoU {100 * found['miou']:.2f}" in printed
    assert "person" in printed
    assert list(numbers.parent.iterdir()) == [numbers]  # nothing half-written beside it


def test_a_folder_that_names_no_classes_has_the_model_s(
    weights: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--model", str(weights), "--data", "folder", "--root", str(folder), "--split", "all"]
    assert main(words) == 0
    scored = capsys.readouterr().out
    (folder / "classes.txt").unlink()
    assert main(words) == 0
    again = capsys.readouterr()
    assert again.out.split(" in ")[0] == scored.split(" in ")[0]
    assert "taken for the model's: background, person" in again.err.replace("\n", " ")


def test_the_report_folder_and_every_option(
    weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "report"
    words = ["evaluate", "--model", str(weights), "--data", "folder", "--root", str(folder), "--split", "all"]
    words += [
        "--mode",
        "slide",
        "--tile",
        "48",
        "--overlap",
        "0.25",
        "--flip",
        "--scales",
        "0.5,1",
        "--batch-size",
        "2",
    ]
    words += ["--boundary-ratio", "0", "--limit", "2", "--worst", "1", "--num-classes", "2", "--device", "cpu"]
    code = main([*words, "--out", str(out)])
    assert code == 0
    assert str(out / "report.html") in capsys.readouterr().out.replace("\n", "")
    found = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert found["images"] == 2
    assert found["boundary_iou"] is None
    assert found["options"]["protocol"] == "multi-scale (0.5, 1) + flip, slide, windows of 48 px with 25% overlap"
    assert len(list((out / "worst").iterdir())) == 1
    assert "untrained" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "stret"}, "no weights called 'stret'"),
        ({"--data": "camvit"}, "did you mean 'camvid'"),
        ({"--root": "nowhere"}, "--root nowhere is not a folder"),
        ({"--split": "holdout"}, "no split 'holdout'"),
        ({"--num-classes": "5"}, "num_classes is 5, but the data have 2 classes"),
        ({"--limit": "0"}, "limit is 0"),
        ({"--mode": "slide", "--tile": "8"}, "tile is 8"),
    ],
)
def test_errors_are_one_sentence_and_exit_code_2(
    weights: Path, folder: Path, change: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--model": str(weights), "--data": "folder", "--root": str(folder), "--split": "all", "--device": "cpu"}
    options = given | change
    assert main(["evaluate", *(word for pair in options.items() for word in pair)]) == 2
    assert message in capsys.readouterr().err


def test_a_bad_label_stops_with_its_file(
    weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.full((64, 80), 7, np.uint8)).save(folder / "masks/p1.png")
    numbers = tmp_path / "numbers.json"
    words = ["evaluate", "--model", str(weights), "--data", "folder", "--root", str(folder), "--json", str(numbers)]
    assert main([*words, "--split", "all"]) == 2
    error = capsys.readouterr().err
    assert "p1.png" in error
    assert "7 (5,120 px)" in error
    assert not numbers.exists()


def test_numbers_that_are_no_numbers_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--model", "street", "--data", "camvid", "--root", "."]
    for extra, message in (
        (["--scales", "big"], "0.75,1,1.25"),
        (["--overlap", "a lot"], "share of the window"),
        (["--engine", "tensorflow"], "choose from 'torch', 'compile', 'onnxruntime', 'openvino', 'auto'"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(words + extra)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_the_default_split_of_a_folder(tmp_path: Path) -> None:
    assert evaluation_split("folder", tmp_path) == "val"
    (tmp_path / "images" / "test").mkdir(parents=True)
    assert evaluation_split("folder", tmp_path) == "val"  # pictures of a test without labels
    (tmp_path / "test.txt").write_text("a\n", encoding="utf-8")
    assert evaluation_split("folder", tmp_path) == "test"


def test_an_undivided_folder_is_scored_on_what_was_not_trained_on(
    weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3, 20):
        for part, suffix in (("images", "jpg"), ("masks", "png")):
            (folder / part / f"p{i}.{suffix}").write_bytes((folder / part / f"p0.{suffix}").read_bytes())
    numbers = tmp_path / "numbers.json"
    words = ["evaluate", "--model", str(weights), "--data", "folder", "--root", str(folder), "--json", str(numbers)]
    assert main([*words, "--device", "cpu"]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    val, train = (build_dataset("folder", folder, split) for split in ("val", "train"))
    found = json.loads(numbers.read_text(encoding="utf-8"))
    assert (found["data"]["split"], found["images"]) == ("val", len(val))
    assert not {item.image for item in val.items} & {item.image for item in train.items}
    line = f"folder data is not divided: {len(train)} train, {len(val)} val"
    assert line in printed
    assert "this is 'val'" in printed
    assert line in found["notes"][0]


def test_published_data_sets_are_scored_on_their_test_split(shared: Path, weights: Path, tmp_path: Path) -> None:
    root = shared / "data" / "portrait"
    numbers = tmp_path / "portrait.json"
    words = ["evaluate", "--model", str(weights), "--data", "portrait", "--root", str(root), "--limit", "2"]
    assert main([*words, "--json", str(numbers)]) == 0
    found = json.loads(numbers.read_text(encoding="utf-8"))
    assert (found["data"]["name"], found["data"]["split"], found["images"]) == ("eg1800", "test", 2)
    assert found["data"]["images_in_split"] == len((root / "test.txt").read_text().split())
