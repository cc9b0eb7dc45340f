"""Networks of `segmentarium export` wherever weights go: loaded, segmenting, scored, timed, told apart where they cannot."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from segmentarium.benchmarking.forms import forms_of
from segmentarium.benchmarking.size import counted
from segmentarium.cli.main import main
from segmentarium.comparison.candidates import candidates_of_models
from segmentarium.contracts import Classifier, MaskModel, SegmentationModel
from segmentarium.evaluation import evaluate
from segmentarium.export import to_onnx
from segmentarium.inference import ImageClassifier, Predictor, SegmentPredictor
from segmentarium.inference.engines import build_engine
from segmentarium.registry import create_model, entry
from segmentarium.runtimes import METADATA_KEY, exported_texts, import_openvino
from segmentarium.weights import load, save
from segmentarium.weights.exported import ExportedNetwork

SIZE = (48, 64)


def write_graph(path: Path, kind: str, outputs: dict[str, list[Any]], *nodes: Any) -> Path:
    """An ONNX file of a few operators on "image" (B, 3, H, W), that says of itself what exports say; K = 3."""
    shape = ["batch", 3, "height", "width"]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name, axes in outputs.items()]
    ones = numpy_helper.from_array(np.array([0, 3, 1], np.int64), "three")
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(list(nodes), "graph", inputs, made, [ones])
    proto = helper.make_model(graph, producer_name="segmentarium", opset_imports=[helper.make_opsetid("", 18)])
    proto.ir_version = 9
    told = {"model": "hand", "arguments": {}, "kind": kind, "in_channels": 3, "num_classes": 3, "preprocessing": {}}
    helper.set_model_props(
        proto, {key: json.dumps(value) for key, value in {**told, "classes": ["a", "b", "c"]}.items()}
    )
    path.write_bytes(proto.SerializeToString())
    return path


def as_openvino(network: Path, path: Path) -> Path:
    """The same network as OpenVINO's files, with what it says of itself."""
    openvino = import_openvino()
    model = openvino.convert_model(str(network))
    for key, text in exported_texts(network)[0].items():
        model.set_rt_info(text, [METADATA_KEY, key])
    openvino.save_model(model, str(path), compress_to_fp16=False)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    found = entry("pphumanseg")
    model = create_model("pphumanseg", num_classes=3, **found.tiny_arguments()).eval()
    model.classes = ("nothing", "one", "two")
    written = to_onnx(model, folder / "net.onnx")
    pooled = helper.make_node("GlobalAveragePool", ["image"], ["pooled"])
    classifier = write_graph(
        folder / "classes.onnx",
        "classifier",
        {"logits": ["batch", 3]},
        pooled,
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    )
    masks = write_graph(
        folder / "masks.onnx",
        "mask",
        {"class_logits": ["batch", 3, 4], "mask_logits": ["batch", 3, "h", "w"]},
        pooled,
        helper.make_node("Reshape", ["pooled", "three"], ["once"]),
        helper.make_node("Concat", ["once"] * 4, ["class_logits"], axis=2),
        helper.make_node("AveragePool", ["image"], ["mask_logits"], kernel_shape=[4, 4], strides=[4, 4]),
    )
    return {
        "weights": save(model, folder / "net.safetensors"),
        "onnx": written,
        "openvino": as_openvino(written, folder / "net.xml"),
        "classifier": classifier,
        "masks": masks,
    }


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_the_same_answers_as_its_weights(files: dict[str, Path], form: str) -> None:
    model = load(files[form])
    assert isinstance(model, SegmentationModel)
    assert isinstance(model, ExportedNetwork)
    assert model.classes == ("nothing", "one", "two")
    image = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        assert torch.allclose(model(image), load(files["weights"])(image), atol=1e-4)
    assert copy.deepcopy(model) is model
    assert model.deploy() is model
    found, expected = (Predictor(source)(picture()) for source in (files[form], files["weights"]))
    assert (found.mask == expected.mask).mean() > 0.99
    assert found.facts["engine"].startswith("onnxruntime" if form == "onnx" else "openvino")


def test_a_classifier_classifies(files: dict[str, Path]) -> None:
    assert isinstance(load(files["classifier"]), Classifier)
    found = ImageClassifier(files["classifier"], engine="auto")(picture())
    assert found.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert set(found.classes) == {"a", "b", "c"}
    assert found.facts["engine"].startswith("onnxruntime")


def test_engines_that_cannot_are_refused(files: dict[str, Path]) -> None:
    model = load(files["openvino"])
    assert build_engine(model, "auto").name == "openvino"
    assert build_engine(load(files["onnx"]), "openvino").name == "openvino"
    with pytest.raises(ValueError, match="runs on openvino, not on onnxruntime"):
        build_engine(model, "onnxruntime")
    with pytest.raises(ValueError, match="not on compile"):
        build_engine(model, "compile")
    with pytest.raises(ValueError, match="onnxruntime or openvino, not on onnxruntime in bf16"):
        build_engine(load(files["onnx"]), "onnxruntime", precision="bf16")


def test_what_it_was_is_counted_and_only_its_engines_are_timed(files: dict[str, Path]) -> None:
    image = torch.zeros(1, 3, *SIZE)
    assert counted(load(files["onnx"]), image) == pytest.approx(counted(load(files["weights"]), image))
    every = ["eager", "deploy", "onnxruntime", "openvino", "openvino-bf16"]
    assert forms_of(str(files["weights"]), every) == every
    assert forms_of(str(files["onnx"]), every) == every[2:]
    assert forms_of(str(files["openvino"]), every) == every[3:]
    with pytest.raises(ValueError, match="runs on openvino, not on eager"):
        forms_of(str(files["openvino"]), ["eager"])
    (candidate,) = candidates_of_models([str(files["onnx"])], None)
    assert candidate.label == "net"


def test_it_is_scored(files: dict[str, Path], tmp_path: Path) -> None:
    from segmentarium.data import build_dataset

    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.fromarray(picture()).save(tmp_path / "images" / "a.png")
    Image.fromarray(picture()[..., 0] % 3).save(tmp_path / "masks" / "a.png")
    (tmp_path / "classes.txt").write_text("nothing\none\ntwo\n")
    dataset = build_dataset("folder", tmp_path, "all")
    ours, theirs = (evaluate(str(files[name]), dataset) for name in ("onnx", "weights"))
    assert ours.as_dict()["miou"] == pytest.approx(theirs.as_dict()["miou"], abs=0.01)
    assert repr(ours).count("\n") == 0
    assert len(repr(ours)) < 120


def test_masks_of_a_mask_classifier(files: dict[str, Path]) -> None:
    found = load(files["masks"])
    assert isinstance(found, MaskModel)
    image = torch.rand(2, 3, *SIZE)
    answer = found.forward_masks(image)
    assert torch.allclose(answer.class_logits[..., 0], image.mean((2, 3)), atol=1e-5)
    assert answer.mask_logits.shape == (2, 3, SIZE[0] // 4, SIZE[1] // 4)
    result = SegmentPredictor(files["masks"], task="instance", threshold=0.0)(picture())
    assert result.mask.shape == SIZE
    assert "onnxruntime" in result.facts["engine"]


def test_what_is_none_is_told(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match="`segmentarium export` makes one"):
        load(tmp_path / "none.onnx")
    (tmp_path / "page.onnx").write_text("<html>")
    with pytest.raises(ValueError, match="is no network that can be read"):
        load(tmp_path / "page.onnx")
    with pytest.raises(ValueError, match="leave output_stride out"):
        load(files["onnx"], output_stride=8)
    with pytest.raises(ValueError, match=r"is an ONNX file.*give the checkpoint that it was exported from"):
        create_model("pphumanseg", weights=files["onnx"])
    Image.fromarray(picture()).save(tmp_path / "a.png")
    words = ["segment", str(tmp_path / "a.png"), "--model", str(files["onnx"]), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert "on onnxruntime" in capsys.readouterr().out


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="this system does not say how much memory a process has"
)
def test_the_first_run_has_bounded_memory_whoever_asks(tmp_path: Path) -> None:
    """A few numbers make gigabytes of a small picture's size: refused in a line that names the file, by every engine's way."""
    import resource

    def network(name: str, *factors: int) -> Path:
        numbers = numpy_helper.from_array(np.array(factors, np.int64))
        nodes = (
            helper.make_node("Constant", [], ["factors"], value=numbers),
            helper.make_node("Shape", ["image"], ["shape"]),
            helper.make_node("Mul", ["shape", "factors"], ["large"]),
            helper.make_node("ConstantOfShape", ["large"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
            helper.make_node("Add", ["image", "sum"], ["logits"]),
        )
        return write_graph(tmp_path / name, "segmenter", {"logits": ["batch", 3, "height", "width"]}, *nodes)

    before = resource.getrlimit(resource.RLIMIT_AS)
    harmless, image = load(network("small.onnx", 1, 1, 2, 2)), torch.rand(1, 3, *SIZE)
    assert torch.equal(harmless(image), image)
    hostile = network("large.onnx", 1, 1, 60 + 15 * (os.cpu_count() or 1), 700)  # 2 GB, more than two cores may
    for asked in (load(hostile), build_engine(load(hostile), "onnxruntime")):
        with pytest.raises(ValueError, match=r"large\.onnx fails on an input of 1x3x48x64: ") as found:
            asked(image)
        assert "\n" not in str(found.value)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_training_s_folder_is_a_model(files: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "best.safetensors").write_bytes(files["weights"].read_bytes())
    assert load(run).classes == ("nothing", "one", "two")
    (candidate,) = candidates_of_models([str(run)], None)
    assert candidate.label == "mine"
    from segmentarium.benchmarking.run import known_models
    from segmentarium.cli.export import file_name
    from segmentarium.cli.serve import named_models

    assert known_models([str(run)]) == [str(run)]
    assert file_name(str(run)) == "mine"
    assert named_models(str(run)) == {"mine": str(run)}
