"""int8: calibrated on what the network sees, scored before it is kept, refused where it costs too much, of 7 bits where asked."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from PIL import Image
from torch import Tensor, nn

import segmentarium.quantization as quantization
from segmentarium.cli.main import main
from segmentarium.contracts import Preprocessing, SegmentationModel, Term
from segmentarium.data import SegmentationDataset, build_dataset
from segmentarium.evaluation import evaluate
from segmentarium.export import read_metadata
from segmentarium.losses import CrossEntropy
from segmentarium.quantization import QuantizationError, export_int8, saturates
from segmentarium.quantization.calibration import spread_evenly, what_it_sees
from segmentarium.runtimes import import_openvino
from segmentarium.weights import load

SIZE = (48, 64)
SMALL = {"sizes": ((48, 64),)}


class Colours(SegmentationModel):
    """Tells red and blue things from what is behind them, by three convolutions; there is a way around the second, which sees all
    at half its size."""

    def __init__(self, num_classes: int = 3, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.first = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, num_classes, 3, padding=1)
        self.set_objective(Term("logits", 1.0, CrossEntropy()))

    def forward(self, image: Tensor) -> Tensor:
        seen = F.relu(self.first(image))
        half = self.second(F.avg_pool2d(seen, 2))
        return self.last(F.relu(seen + F.interpolate(half, size=image.shape[-2:])))


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture with a red and a blue rectangle on noisy grey, and its labels."""
    random = np.random.default_rng(seed)
    picture = random.integers(60, 180, (*SIZE, 1)).repeat(3, 2) + random.integers(-20, 20, (*SIZE, 3))
    mask = np.zeros(SIZE, np.uint8)
    for label, colour in ((1, (220, 40, 40)), (2, (40, 60, 230))):
        top, left = random.integers(0, 24), random.integers(0, 32)
        place = np.s_[top : top + 20, left : left + 28]
        picture[place], mask[place] = np.array(colour) + random.integers(-30, 30, (20, 28, 3)), label
    return picture.clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataset:
    root = tmp_path_factory.mktemp("drawn")
    for split, seeds in (("train", range(6)), ("val", range(6, 10))):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for seed in seeds:
            for kind, pixels in zip(("images", "masks"), drawn(seed), strict=True):
                Image.fromarray(pixels).save(root / kind / split / f"{seed}.png")
    (root / "classes.txt").write_text("behind\nred\nblue\n", encoding="utf-8")
    return build_dataset("folder", root, "val")  # type: ignore[return-value]


@pytest.fixture(scope="module")
def model() -> Colours:
    """Trained for a second."""
    torch.manual_seed(0)
    model = Colours()
    model.classes = ("behind", "red", "blue")
    pictures, masks = zip(*(drawn(seed) for seed in range(6)), strict=True)
    images = model.preprocessing.normalise(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))
    labels = torch.from_numpy(np.stack(masks)).long()
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimiser.step()
    return model.eval()


def weights_of(file: Path) -> list[np.ndarray]:
    """Of a file's convolutions, those of eight bits."""
    found = [numpy_helper.to_array(one) for one in onnx.load(str(file)).graph.initializer]
    return [one for one in found if one.dtype == np.int8 and one.ndim == 4]


def test_the_file_is_int8_and_its_scores_stand_beside_it(
    model: Colours, data: SegmentationDataset, tmp_path: Path
) -> None:
    report = export_int8(model, tmp_path / "net.int8", data, reduced_range=False, **SMALL)
    file = tmp_path / "net.int8.onnx"
    assert report.path == file
    assert report.before["miou"] > 0.9
    assert {one.shape[:2] for one in weights_of(file)} == {(16, 16), (3, 16)}  # not the one that sees the picture
    assert [int(np.abs(one.astype(int)).max()) for one in weights_of(file)] == [127, 127]
    # what is kept beside it is what `evaluate` says of the file, and of the network that it is made of
    told = json.loads((tmp_path / "net.int8.onnx.score.json").read_text(encoding="utf-8"))
    scored = evaluate(load(file), data)
    assert told["after"]["miou"] == pytest.approx(scored.miou)  # type: ignore[union-attr]
    assert told["after"]["boundary_iou"] == pytest.approx(scored.boundary_iou)  # type: ignore[union-attr]
    assert told["before"]["miou"] == pytest.approx(evaluate(model, data).miou, abs=1e-3)  # type: ignore[union-attr]
    assert told["loss"]["miou"] == pytest.approx(1 - told["after"]["miou"] / told["before"]["miou"])
    assert told["passed"]
    assert told["calibrated_on"] == 4
    # it says of itself what every export says, and what was done to it
    facts = read_metadata(file)
    assert facts["classes"] == ["behind", "red", "blue"]
    assert facts["quantization"] == {"bits": 8, "data": data.info.name, "pictures": 4, "reduced_range": False}
    # an earlier one of ours is replaced, another's file is not
    (tmp_path / "net.int8.onnx.score.json").unlink()
    with pytest.raises(FileExistsError):
        export_int8(model, file, data, **SMALL)


def test_seven_bits_where_a_processor_saturates(
    model: Colours, data: SegmentationDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "saturates", lambda: True)
    report = export_int8(model, tmp_path / "seven.onnx", data, **SMALL)
    assert report.reduced_range
    assert "no VNNI" in str(report)
    assert max(int(np.abs(one.astype(int)).max()) for one in weights_of(report.path)) <= 64


def test_who_saturates(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {
        "without": "flags : avx2 avx512f",
        "with": "flags : avx512f avx512_vnni",
        "client": "flags : avx2 avx_vnni",
    }
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    for kind, expected in (("without", True), ("with", False), ("client", False)):
        monkeypatch.setattr(Path, "read_text", lambda *_, text=flags[kind], **__: text)
        assert saturates() is expected
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not saturates()


def test_what_costs_too_much_is_not_written(
    model: Colours, data: SegmentationDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ranges found on nothing but grey cut off what red and blue are told by
    grey = iter([np.full((1, 3, *SIZE), 0.01, np.float32)])
    monkeypatch.setattr(quantization, "what_it_sees", lambda *_: grey)
    with pytest.raises(QuantizationError, match="more than 5 % of a score") as caught:
        export_int8(model, tmp_path / "net.onnx", data, loss=0.05, **SMALL)
    assert caught.value.report.loss["miou"] > 0.05
    assert not list(tmp_path.iterdir())


def test_the_network_is_calibrated_on_what_evaluation_shows_it(data: SegmentationDataset) -> None:
    model = Colours()
    model.preprocessing = Preprocessing(long_side=56)
    seen = list(what_it_sees(model, data, spread_evenly(data, 3)))
    assert [one.shape for one in seen] == [(1, 3, 42, 56)] * 3
    model.preprocessing = Preprocessing(tile=32, stride=32)
    windows = list(what_it_sees(model, data, [0]))
    assert [one.shape for one in windows] == [(1, 3, 32, 32)] * 4
    whole = model.preprocessing.normalise(torch.from_numpy(np.array(data.load(0)[0])).permute(2, 0, 1)[None])
    assert np.array_equal(windows[0], whole[..., :32, :32].numpy())
    assert spread_evenly(data, 2) == [0, 3]
    assert spread_evenly(data, 99) == [0, 1, 2, 3]


@pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="NNCF is not installed (the extra int8)")
def test_openvino(
    model: Colours, data: SegmentationDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = export_int8(model, tmp_path / "net.xml", data, **SMALL)
    assert capsys.readouterr().out == ""
    assert report.loss["miou"] < 0.02
    # what two convolutions are given; neither the one that sees the picture nor the sum around the second
    layers = import_openvino().Core().read_model(str(tmp_path / "net.xml")).get_ordered_ops()
    given = [
        (layer.get_type_name(), {source.get_node().get_type_name() for source in layer.input_values()})
        for layer in layers
    ]
    assert ["FakeQuantize" in inputs for kind, inputs in given if kind == "Convolution"] == [False, True, True]
    assert not any("FakeQuantize" in inputs for kind, inputs in given if kind == "Add")
    assert evaluate(load(tmp_path / "net.xml"), data).miou == pytest.approx(report.after["miou"])  # type: ignore[union-attr]


def test_an_empty_calibration_set_is_refused(model: Colours, data: SegmentationDataset, tmp_path: Path) -> None:
    empty = copy.copy(data)
    empty.items = ()
    with pytest.raises(ValueError, match="of 0 pictures to calibrate on"):
        export_int8(model, tmp_path / "net.onnx", data, empty, **SMALL)


@pytest.mark.skipif(importlib.util.find_spec("nncf") is not None, reason="NNCF is installed")
def test_openvino_without_its_tool(model: Colours, data: SegmentationDataset, tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"segmentarium\[int8\]"):
        export_int8(model, tmp_path / "net.xml", data)
    assert not list(tmp_path.iterdir())


def test_the_command(
    data: SegmentationDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {}
    monkeypatch.setattr(quantization, "export_int8", lambda *args, **words: given.update(words, args=args) or _Told())
    monkeypatch.setattr("segmentarium.cli.export.build", lambda *_: Colours())
    root = str(data.items[0].image.parents[2])
    words = ["export", "net", "--int8", "--root", root, "--out", str(tmp_path), "--int8-loss", "0.1"]
    assert main([*words, "--int8-range", "reduced", "--int8-pictures", "5"]) == 0
    _, path, scored, calibration = given["args"]
    assert (path, scored.split, calibration.split) == (tmp_path / "net.int8", "val", "train")
    assert (given["loss"], given["reduced_range"], given["pictures"], given["format"]) == (0.1, True, 5, "onnx")
    assert "lost: nothing" in capsys.readouterr().out
    assert main([*words, "--format", "torch"]) == 2
    assert main([*words, "--task", "instance"]) == 2
    assert main(["export", "net", "--root", root]) == 2
    assert "--int8" in capsys.readouterr().err


class _Told:
    path = "net.int8.onnx"

    def __str__(self) -> str:
        return "lost: nothing"
