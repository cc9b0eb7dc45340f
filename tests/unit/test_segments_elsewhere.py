"""Segments beyond PyTorch: exported masks and their classes, engines, near ties, the server, the comparison; what is asked of a
model where nobody says."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import segmentarium
from segmentarium.cli.main import main
from segmentarium.contracts import MaskModel, MaskOutputs, asked_task
from segmentarium.export import ExportReport, export_model, exported, read_metadata
from segmentarium.export.parity import compare
from segmentarium.inference import SegmentPredictor
from segmentarium.masks.mask2former import inside
from segmentarium.registry import create_model, entry
from segmentarium.rle import decode
from segmentarium.weights import save
from segmentarium.weights.layouts.mask_trunks import things_of
from tests.unit.mask_material import QUERIES, Colours, painted
from tests.unit.test_training_masks import objects

SCENE = ((4, 30, 0, 60, 90), (0, 5, 5, 25, 30), (2, 35, 50, 55, 80))


def tiny(name: str = "mask2former_resnet50", **arguments: Any) -> MaskModel:
    """The model's small form with scores that are not all alike, in eval mode."""
    torch.manual_seed(0)
    small = {"backbone": "resnet18", "backbone_arguments": {"width": 8}}
    model: Any = create_model(name, num_classes=3, **{**entry(name).tiny, **small, **arguments})
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


# what is asked for ------------------------------------------------------------------------------------------------------


def test_a_model_says_what_it_is_for(tmp_path: Path) -> None:
    tasks = {None: "semantic", 3: "instance", 1: "panoptic", 0: "semantic"}
    for things, task in tasks.items():
        model = tiny("maskformer_resnet50", things=things)
        again = segmentarium.load(save(model, tmp_path / f"{things}.safetensors"))
        assert isinstance(again, MaskModel)
        assert (model.task, again.task, again.things) == (task, task, model.things)
    assert asked_task(tiny("maskformer_resnet50", things=3), "panoptic") == "panoptic"
    assert asked_task(create_model("pphumanseg", num_classes=2), None) == "semantic"
    with pytest.raises(ValueError, match="pphumanseg is a segmenter, which tells no segments apart"):
        asked_task(create_model("pphumanseg", num_classes=2), "instance")
    with pytest.raises(ValueError, match="task is 'things'"):
        asked_task(model, "things")
    assert [things_of(count) for count in (133, 80, 150)] == [{"things": 80}, {"things": 80}, {}]
    assert SegmentPredictor(tiny("maskformer_resnet50")).task == "panoptic"


# export and engines -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[MaskModel, ExportReport]:
    """A model and its export, as ONNX: tracing takes longer than all the rest here."""
    pytest.importorskip("onnxscript")
    model = tiny(things=1, layers=1)
    sizes = ((64, 96), (97, 65))
    return model, export_model(model, tmp_path_factory.mktemp("masks") / "m.onnx", sizes=sizes)


def test_masks_and_their_classes_are_exported(written: tuple[MaskModel, ExportReport]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    _, report = written
    assert report.passed
    assert all(row.same_class > 0.99 for row in report.comparisons)
    metadata = read_metadata(report.path)
    assert (metadata["model"], metadata["kind"], metadata["things"]) == ("mask2former_resnet50", "mask", [0])
    session = onnxruntime.InferenceSession(str(report.path), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["class_logits", "mask_logits"]
    assert [given.type for given in session.get_inputs()] == ["tensor(float)"]
    classes, masks = session.run(None, {session.get_inputs()[0].name: np.zeros((3, 3, 70, 130), np.float32)})
    assert classes.shape == (3, 6, 4)
    assert masks.shape == (3, 6, 18, 33)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_give_the_same_segments(
    engine: str, written: tuple[MaskModel, ExportReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(engine)
    model, report = written
    monkeypatch.setattr("segmentarium.inference.engines.onnx_file", lambda _: report.path)
    image = painted((60, 90), *SCENE)
    eager = SegmentPredictor(model, task="instance", threshold=0.0)
    other = SegmentPredictor(model, task="instance", threshold=0.0, engine=engine)
    assert isinstance(other.network.model, MaskOutputs)
    found = [predictor.network(torch.from_numpy(image).permute(2, 0, 1)[None]) for predictor in (eager, other)]
    assert torch.allclose(found[0].class_logits, found[1].class_logits, atol=1e-4)
    assert torch.allclose(found[0].mask_logits, found[1].mask_logits, atol=1e-3)
    first, second = eager(image).segments, other(image).segments
    assert [one.label for one in first.segments] == [one.label for one in second.segments]
    assert sum(one.area for one in first.segments) == pytest.approx(sum(one.area for one in second.segments), rel=1e-3)
    assert other.engine.startswith(engine)


def test_the_fastest_engine_is_one_that_agrees(
    written: tuple[MaskModel, ExportReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    model, report = written
    monkeypatch.setattr("segmentarium.inference.engines.onnx_file", lambda _: report.path)
    monkeypatch.setattr("segmentarium.inference.auto.CANDIDATES", (("torch", "fp32"), ("onnxruntime", "fp32")))
    monkeypatch.setattr("segmentarium.inference.auto._cache_file", lambda: tmp_path / "engines.json")
    predictor = SegmentPredictor(model, engine="auto")
    assert (predictor.engine, predictor.task) == ("auto", "panoptic")
    predictor(painted((60, 90), *SCENE))
    assert predictor.engine.split()[0] in ("torch", "onnxruntime")
    (measured,) = json.loads((tmp_path / "engines.json").read_text()).values()
    assert [row["agreement"] > 0.99 for row in measured["measured"]] == [True, True]


def test_scores_are_exported_where_nothing_is_told_apart() -> None:
    model = tiny("maskformer_resnet50", things=1)
    assert exported(model, "semantic") is model
    outputs = exported(model, None)
    assert isinstance(outputs, MaskOutputs)
    assert outputs.labels()["things"] == [0]
    with torch.no_grad():
        classes, masks = outputs.deploy()(*outputs.example(2, (64, 64)))
    assert (classes.shape, masks.shape) == ((2, 6, 4), (2, 6, 16, 16))
    segmenter = create_model("pphumanseg", num_classes=2)
    assert exported(segmenter, None) is segmenter
    with pytest.raises(ValueError, match="tells no segments apart"):
        exported(segmenter, "panoptic")


def test_near_ties_are_no_errors_of_an_engine() -> None:
    """Where queries look is decided by a sign: what another sign gives in PyTorch itself is left out of the errors."""
    pixels = torch.tensor([1e-7, -1.0]).view(1, 1, 1, 2)
    seen = [inside(torch.ones(1, 1, 1), pixels, shift).flatten().tolist() for shift in (-1e-5, None, 1e-5)]
    assert seen == [[True, False], [True, False], [True, True]]  # nowhere: it looks everywhere
    model = tiny()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(image)
        ties = model.near_ties(image)
        assert len(ties) == len(MaskOutputs(model).near_ties(image)) == 2
        assert torch.equal(model(image), expected)
        with_shift = []
        for _ in model.shifted():
            model.decoder.shift *= 1e4  # type: ignore[union-attr, operator] - so far that it must show
            with_shift.append(model(image))
        assert model.decoder.shift == 0  # type: ignore[union-attr]
        assert not torch.allclose(with_shift[0], expected, atol=1e-3)
    assert tiny("maskformer_resnet50").near_ties(image) == []
    reference = np.array([[[1.0, -4.0], [2.0, 0.0]]], np.float32)
    output = reference + np.array([[[0.5], [0.0]]], np.float32)
    slack = np.array([[[0.5], [0.0]]], np.float32)
    assert compare(output, reference, (2, 2)).relative_error == pytest.approx(0.125)
    row = compare(output, reference, (2, 2), slack)
    assert (row.relative_error, row.ties) == (0, pytest.approx(0.125))
    assert compare(reference + 0.5, reference, (2, 2), slack).relative_error == pytest.approx(0.125)


def test_the_export_verb_knows_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("segmentarium.export.export_formats", lambda *_, task, **__: asked.append(task) or [])
    file = save(tiny("maskformer_resnet50"), tmp_path / "m.safetensors")
    for words in ((), ("--task", "instance")):
        assert main(["export", str(file), *words]) == 0
    assert asked == [None, "instance"]


# server -----------------------------------------------------------------------------------------------------------------


def test_the_server_answers_segments() -> None:
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("fastapi")
    from segmentarium.web.app import create_app
    from segmentarium.web.work import SharedPredictor, shared

    image = painted((60, 90), *SCENE)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    models = {"cats": shared(Colours()), "map": SharedPredictor(create_model("pphumanseg", num_classes=4).eval())}
    app = create_app(models)

    async def ask(**fields: str) -> Any:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.post("/v1/segment", data=fields, files={"file": ("x.png", file.getvalue())})

    async def listed() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            return (await client.get("/v1/models")).json()

    found = asyncio.run(ask(format="json")).json()
    assert (found["task"], found["model"], len(found["segments"])) == ("panoptic", "cats", 3)
    cat = next(one for one in found["segments"] if one["class"] == "cat")
    assert np.array_equal(decode(cat["segmentation"]), (image == QUERIES[0][1]).all(2))
    assert cat["box"] == [5, 5, 30, 25]
    answer = asyncio.run(ask())
    assert answer.headers["x-segments"] == "3"
    ids = np.asarray(Image.open(io.BytesIO(answer.content))).astype(int) @ (1, 256, 65536)
    assert sorted(np.unique(ids).tolist()) == [0, 1, 2, 3]
    assert (ids == cat["number"]).sum() == cat["area"] == 500
    drawn = asyncio.run(ask(format="overlay", task="instance", threshold="0.1"))
    assert (drawn.headers["x-segments"], Image.open(io.BytesIO(drawn.content)).size) == ("2", (90, 60))
    assert asyncio.run(ask(task="instance", threshold="0.99")).headers["x-segments"] == "0"
    semantic = Image.open(io.BytesIO(asyncio.run(ask(task="semantic")).content))
    assert np.asarray(semantic)[10, 10] == 0
    assert semantic.mode == "P"
    for fields, message in (
        ({"task": "things"}, "task is 'things'"),
        ({"threshold": "2"}, "threshold is '2'; give a share"),
        ({"model": "map", "task": "panoptic"}, "model map tells no segments apart"),
    ):
        refused = asyncio.run(ask(**fields))
        assert refused.status_code == 422
        assert message in refused.json()["detail"]
    assert {one["name"]: one["tasks"] for one in asyncio.run(listed())} == {
        "cats": ["panoptic", "semantic", "instance"],
        "map": ["semantic"],
    }


def test_pictures_of_several_callers_share_a_pass() -> None:
    pytest.importorskip("fastapi")
    from segmentarium.web.work import Batches

    def run(image: Tensor) -> tuple[Tensor, Tensor]:
        return image.mean((1, 2, 3)), image[:, :1]

    one, other = torch.rand(1, 3, 4, 4), torch.rand(2, 3, 4, 4)
    batches = Batches(run)
    calls = [type("Call", (), {"image": image, "result": None, "error": None})() for image in (one, other)]
    batches._compute(calls)  # type: ignore[arg-type]
    assert [len(call.result[0]) for call in calls] == [1, 2]
    assert torch.equal(calls[1].result[1], other[:, :1])
    assert batches.sizes == {3: 1}


# comparison -------------------------------------------------------------------------------------------------------------


def test_models_are_compared_by_their_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning")
    from segmentarium import benchmarking
    from segmentarium.benchmarking.case import Case, measure

    cases: list[Case] = []

    def here(case: Case, timeout: float = 0) -> Any:
        cases.append(case)
        return measure(case)

    monkeypatch.setattr(benchmarking, "run_case", here)
    root = objects(tmp_path / "data")
    torch.manual_seed(0)
    small = {**entry("maskformer_resnet50").tiny, "backbone": "resnet18", "backbone_arguments": {"width": 8}}
    one: Any = create_model("maskformer_resnet50", num_classes=1, **small)
    one.classes = ("object",)
    files = [save(one, tmp_path / f"{name}.safetensors") for name in ("a", "b")]
    models = ",".join(map(str, files))
    words = ["compare", "--data", "instances", "--root", str(root), "--models", models, "--split", "val"]
    words += ["--engines", "eager,deploy", "--repeats", "1", "--pictures", "2", "--device", "cpu"]
    for task, key in (("auto", "ap"), ("panoptic", "pq"), ("semantic", "miou")):
        out = tmp_path / task
        assert main([*words, "--out", str(out), *(() if task == "auto" else ("--task", task))]) == 0
        content = json.loads((out / "comparison.json").read_text())
        assert [key in one["scores"] for one in content["models"]] == [True, True]
        assert all(one["best_form"] for one in content["models"])
        header = (out / "comparison.csv").read_text().splitlines()[0]
        assert f",{key}," in header
        assert "<img" in (out / "comparison.html").read_text()
    assert {case.task for case in cases} == {"instance", "panoptic", "semantic"}
