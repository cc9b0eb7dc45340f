"""Classifiers: scored as a count by hand, used by every engine, trained with what the data offer."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from segmentarium import ImageClassifier, Predictor, build_dataset, create_model, evaluate, predict, save
from segmentarium.cli.main import main
from segmentarium.contracts import Backbone, Classifier, Preprocessing
from segmentarium.evaluation import ClassificationReport
from segmentarium.inference.classifier import seen_square
from tests.unit.data_files import write_folder
from tests.unit.portrait_material import moving, write_clip

COLOURS = ("red", "green", "blue")


class Colour(Backbone):
    """Scores of the picture's mean red, green and blue: the right answer is known."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__(in_channels=in_channels, num_classes=3)
        self.preprocessing = Preprocessing((0.0,) * in_channels, (1.0,) * in_channels)
        self.layer = nn.Conv2d(in_channels, 3, 1, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(10 * torch.eye(3)[:, :in_channels, None, None])
        self.describe((3,), (1,), (0,), head=nn.Identity())

    def pyramid(self, image: Tensor) -> list[Tensor]:
        return [self.layer(image)]


def colour_model(**options: Any) -> Classifier:
    model = Classifier(Colour(**options)).eval()
    model.classes = COLOURS
    return model


def plain(colour: str, size: tuple[int, int] = (40, 48), strength: int = 255) -> Image.Image:
    """(height, width) of one colour."""
    return Image.new("RGB", size[::-1], tuple(strength if name == colour else 0 for name in COLOURS))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two pictures of each colour; in "red" a third one, which is blue, though not quite."""
    root = tmp_path / "colours"
    for name in COLOURS:
        (root / "val" / name).mkdir(parents=True)
        for index in range(2):
            plain(name, (40 + index, 48)).save(root / "val" / name / f"{index}.png")
    plain("blue", strength=128).save(root / "val" / "red" / "wrong.png")
    return root


def test_the_scores_are_those_of_a_count_by_hand(root: Path) -> None:
    dataset = build_dataset("imagefolder", root, "val")
    report = evaluate(colour_model(), dataset, size=32, batch_size=3, worst=2)
    assert isinstance(report, ClassificationReport)
    order = [report.classes.index(name) for name in COLOURS]  # the data's are in alphabetical order: matched by name
    assert report.classes == ("blue", "green", "red")
    assert report.confusion[np.ix_(order, order)].tolist() == [[2, 0, 1], [0, 2, 0], [0, 0, 2]]
    assert report.top1 == pytest.approx(6 / 7)
    assert report.top5 == 1
    assert report.accuracy == pytest.approx({"blue": 1, "green": 1, "red": 2 / 3})
    assert report.macc == pytest.approx((1 + 1 + 2 / 3) / 3)
    (wrong,) = report.worst
    assert (wrong.label, wrong.prediction, wrong.name) == ("red", "blue", "red/wrong")
    shares = np.exp([0, 0, 10 * 128 / 255])
    assert wrong.probability == pytest.approx(shares[2] / shares.sum(), rel=1e-4)
    assert report.summary().startswith("top-1 85.71   mAcc 88.89\n7 images in ")  # no top-5 of three classes
    assert report.rows()[2] == ("red", "66.67", "42.86")


def test_the_report_is_one_page_and_one_json(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    weights = save(create_model("resnet18", width=8, num_classes=3), tmp_path / "any.safetensors")
    words = ["evaluate", "--model", str(weights), "--data", "imagefolder", "--root", str(root), "--device", "cpu"]
    out = tmp_path / "report"
    assert main([*words, "--size", "32", "--crop-ratio", "0.8", "--out", str(out)]) == 0
    found = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert found["options"] == found["options"] | {"size": 32, "crop_ratio": 0.8}
    assert found["images"] == 7
    assert len(found["worst"]) == 7 - round(7 * found["top1"])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "one crop of 32×32 pixels out of the middle, 0.8 of the shorter side" in page
    assert page.count("taken for") == len(found["worst"]) == len(list((out / "worst").iterdir()))
    assert main([*words, "--out", str(out)]) == 0  # an earlier report is renewed
    assert "top-1" in capsys.readouterr().out


def test_the_other_task_s_data_and_options_are_refused(root: Path, tmp_path: Path) -> None:
    maps = build_dataset("folder", write_folder(tmp_path / "maps", ["a", "b"], 0, 1), "all")
    pictures = build_dataset("imagefolder", root, "val")
    segmenter = create_model("pphumanseg", num_classes=2)
    with pytest.raises(TypeError, match="is a classifier, but data set 'maps' is of segmentation"):
        evaluate(colour_model(), maps)
    with pytest.raises(TypeError, match="pphumanseg is a segmenter, but data set 'colours' is of classification"):
        evaluate(segmenter, pictures)
    with pytest.raises(ValueError, match="is a classifier, for which there is no mode and no flip; leave it out"):
        evaluate(colour_model(), pictures, mode="slide", flip=True)
    with pytest.raises(ValueError, match="is a classifier, which tells no segments apart"):
        evaluate(colour_model(), pictures, task="panoptic")
    with pytest.raises(ValueError, match="is a segmenter, for which there is no size"):
        evaluate(segmenter, maps, size=32)
    with pytest.raises(TypeError, match=r"is a classifier.*segmentarium classify"):
        Predictor(colour_model())
    with pytest.raises(TypeError, match=r"person is a segmenter.*segmentarium segment"):
        ImageClassifier("person")


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino", "auto"])
def test_every_engine_gives_the_classes_in_order(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine != "torch":
        pytest.importorskip("onnxscript")
        pytest.importorskip("openvino")
    monkeypatch.setenv("SEGMENTARIUM_CACHE", str(tmp_path))
    monkeypatch.setattr("segmentarium.inference.auto.CANDIDATES", (("torch", "fp32"), ("onnxruntime", "fp32")))
    result = ImageClassifier(colour_model(), size=32, engine=engine, device="cpu")(plain("green"))
    assert result.top(1) == [("green", pytest.approx(np.exp(10) / (np.exp(10) + 2), rel=1e-5))]
    assert sorted(result.classes) == sorted(COLOURS)
    assert result.probabilities.sum() == pytest.approx(1)
    if engine == "auto":  # agreement is on the class
        (measured,) = json.loads((tmp_path / "engines.json").read_text(encoding="utf-8")).values()
        assert {row["agreement"] for row in measured["measured"] if "agreement" in row} == {1.0}


def test_pictures_of_every_kind_are_classified(tmp_path: Path) -> None:
    model = colour_model()
    red = np.asarray(plain("red"))
    sources = [
        red,
        torch.from_numpy(red.copy()).permute(2, 0, 1),
        plain("blue").convert("RGBA"),
        plain("red").convert("L"),
    ]
    results = list(predict(sources, model, size=32))
    assert [result.classes[0] for result in results[:3]] == ["red", "red", "blue"]
    assert results[3].probabilities == pytest.approx([1 / 3] * 3, abs=1e-3)  # grey
    assert [result.name for result in results] == ["image", "image-2", "image-3", "image-4"]
    (path,) = results[0].save(tmp_path, top=2)
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert [entry["name"] for entry in saved["classes"]] == list(results[0].classes[:2])
    assert (saved["width"], saved["height"], saved["size"]) == (48, 40, 32)
    with pytest.raises(FileExistsError):
        results[0].save(tmp_path)
    grey = Classifier(Colour(in_channels=1)).eval()
    assert ImageClassifier(grey, size=32)(plain("red")).classes[0] == "class 0"


def test_classify_tells_one_picture_as_json_and_several_as_a_table(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create_model("resnet18", width=8, num_classes=3)
    model.preprocessing = Preprocessing(crop_size=48, crop_ratio=0.9)
    model.classes = COLOURS
    weights, out = str(save(model, tmp_path / "any.safetensors")), tmp_path / "out"
    words = ["--model", weights, "--device", "cpu", "--top", "2"]
    assert main(["classify", str(root / "val" / "red" / "0.png"), *words, "--out", str(out)]) == 0
    found = json.loads((out / "0.json").read_text(encoding="utf-8"))
    assert len(found["classes"]) == 2
    assert (found["size"], found["crop_ratio"]) == (48, 0.9)  # as the file says
    (root / "val" / "red" / "broken.png").write_bytes(b"no picture")
    assert main(["classify", str(root), *words, "--out", str(out)]) == 1
    with (out / "classes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    assert list(rows[0]) == ["name", "source", "class_1", "probability_1", "class_2", "probability_2"]
    assert "broken.png" in capsys.readouterr().err
    assert main(["classify", str(root), *words, "--out", str(out)]) == 2  # the table is there already
    assert "is there already" in capsys.readouterr().err


def test_a_clip_that_is_cut_off_is_told_and_ends_in_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av")
    clip, out = write_clip(tmp_path / "cut.mkv", moving(8)), tmp_path / "out"
    clip.write_bytes(clip.read_bytes()[: int(clip.stat().st_size * 0.8)])
    weights = str(save(create_model("resnet18", width=8, num_classes=3), tmp_path / "any.safetensors"))
    assert main(["classify", str(clip), "--model", weights, "--size", "32", "--out", str(out)]) == 1
    assert "cut.mkv was cut off after" in capsys.readouterr().err
    assert len((out / "classes.csv").read_text(encoding="utf-8").splitlines()) > 2


def test_the_square_is_the_user_s_then_the_network_s_then_the_file_s() -> None:
    model = colour_model()
    assert seen_square(model) == (224, None)
    model.preprocessing = Preprocessing(crop_size=96, crop_ratio=0.95)
    assert seen_square(model) == (96, 0.95)
    assert seen_square(model, 64, 0.5) == (64, 0.5)
    model.fixed_size = (160, 160)
    assert seen_square(model) == (160, 0.95)
    with pytest.raises(ValueError, match="size is 64, but Classifier takes 160×160 only"):
        seen_square(model, 64)
    with pytest.raises(ValueError, match="crop_size is 8; give 32 to"):
        Preprocessing(crop_size=8)
    for fixed in (None, (160, 160)):
        model.fixed_size = fixed
        with pytest.raises(ValueError, match="size is 0; give the side in pixels, 1 or more"):
            seen_square(model, 0)


def test_training_takes_mixtures_and_smoothed_labels(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from segmentarium import TrainingOptions
    from segmentarium.training.loop import Training
    from segmentarium.training.optimizer import parameter_groups
    from segmentarium.training.tasks import task_for

    options = TrainingOptions(
        model="resnet18", model_arguments={"width": 8}, data="imagefolder", root=str(root), train_split="val",
        batch_size=4, workers=0, accelerator="cpu", precision="32", output=str(tmp_path / "run"), size=48,
        mixup=0.2, cutmix=1.0, label_smoothing=0.1, rand_augment=1, erase=0.5, jitter=0.2, crop_ratio=0.9,
    )  # fmt: skip
    training = Training(task_for(options), options)
    training.start()
    batch = next(training.batches)
    assert batch["image"].shape == (4, 3, 48, 48)
    assert batch["label"].shape == (4, 3)
    torch.testing.assert_close(batch["label"].sum(1), torch.ones(4))
    training.advance()
    assert training.model.losses["cross_entropy"].label_smoothing == 0.1
    assert training.model.preprocessing == Preprocessing(crop_size=48, crop_ratio=0.9)
    slow = options.replace(backbone_lr_factor=0.1)
    rates = {id(p): group["base_lr"] for group in parameter_groups(training.model, slow) for p in group["params"]}
    head = training.model.backbone.classifier
    assert {rates[id(p)] for p in head.parameters()} == {slow.learning_rate}
    assert len({rate for rate in rates.values() if rate != slow.learning_rate}) == 1


def test_classifiers_are_compared(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("matplotlib")
    from segmentarium import benchmarking
    from segmentarium.benchmarking.case import measure

    monkeypatch.setattr(benchmarking, "run_case", lambda case, timeout=0: measure(case))
    weights = save(colour_named_resnet(), tmp_path / "other.safetensors")
    out = tmp_path / "compared"
    words = [
        "compare",
        "--data",
        "imagefolder",
        "--root",
        str(root),
        "--models",
        f"df1,other={weights}",
        "--budget",
        "2steps",
    ]
    words += ["--train-split", "val", "--batch-size", "2", "--workers", "0", "--accelerator", "cpu", "--device", "cpu"]
    words += ["--engines", "eager,deploy", "--repeats", "1", "--pictures", "2", "--out", str(out)]
    assert main(words) == 0
    found = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert {model["label"] for model in found["models"]} == {"df1", "other"}
    assert all(
        0 <= model["scores"]["top1"] <= 1 and model["facts"]["size"] == [40, 40] for model in found["models"][:1]
    )
    head, *rows = list(csv.reader((out / "comparison.csv").open(encoding="utf-8")))
    assert head[:4] == ["model", "top1", "top5", "macc"]
    assert len(rows) == 2
    page = (out / "comparison.html").read_text(encoding="utf-8")
    assert "top-1" in page
    assert "accuracy by class" in page
    assert "mIoU" not in page


def colour_named_resnet() -> Classifier:
    model = create_model("resnet18", width=8, num_classes=3)
    assert isinstance(model, Classifier)
    model.classes = ("blue", "green", "red")
    model.preprocessing = Preprocessing(crop_size=40)
    return model
