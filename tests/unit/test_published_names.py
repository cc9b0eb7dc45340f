"""A name of the catalogue, for every system and publisher that it holds: what is made of a file of theirs is the model that the
file was made from, with its classes and the preprocessing of its publication.

The files are made by the key tables read backwards.  Most are only thought of, with every tensor filled by a number of its own,
so that networks of any size cost nothing; some are written, fetched from a server on this machine, and compared by outputs.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segmentarium.meta import on_meta
from segmentarium.registry import entry, known
from segmentarium.weights import export_layout, load, source
from segmentarium.weights.fetch import direct, take
from segmentarium.weights.published import Published, class_names, list_published, published
from segmentarium.weights.source import bare, open_weights
from segmentarium.weights.store import describe
from segmentarium.weights.table import fit
from tests.parity.comparison import exercised, randomise
from tests.unit.published_material import Files, classes_of, made_of, serving


def rows() -> list[Published]:
    """Of each system and publisher, and of each paper's file that its models are in, the smallest model that is named in full."""
    smallest: dict[tuple[str, ...], tuple[tuple[bool, float], Published]] = {}
    for row in list_published():
        size = known()[row.model or ""].get("parameters") or float("inf")
        rank = (not row.name.startswith(f"{row.model}."), size)
        key = (row.system, row.layout, known()[row.model or ""]["module"])
        if key not in smallest or rank < smallest[key][0]:
            smallest[key] = rank, row
    return [row for _, row in smallest.values()]


def plain(value: Any) -> Any:
    """As a file's header would hold it."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_a_name_becomes_the_model_that_its_file_is_of(row: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    made = made_of(row)
    monkeypatch.setattr(source, "locate", lambda *given, **told: Path("theirs.pth"))
    monkeypatch.setattr(source, "read_all", lambda path: (made.state, None, {}))
    stored = open_weights(row.name)
    assert stored.layout is made.layout
    assert plain(stored.all_arguments) == plain(made.entry.completed(made.arguments))
    assert stored.entry.module == entry(row.model or "").module

    fitting, report = fit(stored.shapes(), stored.state, stored.rules)
    assert report.complete, str(report)
    assert not report.adapted
    for key, tensor in fitting.items():
        corners = tensor[(0,) * tensor.ndim], tensor[(-1,) * tensor.ndim]
        assert [float(corner) for corner in corners] == [made.numbers[key]] * 2, key
    if stored.headless:
        return
    with on_meta():
        model = stored.entry.model(**stored.arguments)
    missing, unexpected = bare(model).load_state_dict(fitting, strict=False, assign=True)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    describe(model, stored.header)
    if row.pixels is not None:
        assert (model.preprocessing.mean, model.preprocessing.std) == row.pixels
    for name, value in row.test.items():
        assert getattr(model.preprocessing, name) == value
    named = class_names(row.data_set, model.labels().get("num_classes"), panoptic=row.task == "panoptic")
    if classes_of(row) and model.kind not in ("keypoints", "pretrainer"):
        assert named is not None
    if named is not None and "classes" not in made.layout.facts(made.state):
        assert model.classes == tuple(named["classes"])


def test_pictures_are_normalised_as_their_publishers_say() -> None:
    """timm states it for every file; the others by their documentation, on 0..255."""
    from timm.models import get_pretrained_cfg

    told = [row for row in list_published(layout="timm") if row.pixels]
    assert len(told) > 50
    for row in told:
        config = get_pretrained_cfg(row.address.removeprefix("hf:timm/"))
        assert config is not None
        assert row.pixels == (pytest.approx(config.mean, abs=1e-3), pytest.approx(config.std, abs=1e-3)), row.name
    half, imagenet = ([127.5] * 3, [127.5] * 3), ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    for name, pixels in {
        "cgnet.cityscapes-mmseg": ([72.39, 82.91, 73.16], [1, 1, 1]),
        "cgnet.cityscapes-wutianyirosun": ([72.39, 82.91, 73.16], [1, 1, 1]),
        "dpt_base.ade20k-mmseg": imagenet,
        "dpt_large.ade20k-isl-org": half,
        "enet_2018.camvid-davidtvs": ([0, 0, 0], [255, 255, 255]),
        "segmenter_base.ade20k-mmseg": half,
        "segmenter_deit_base.ade20k-rstrudel": imagenet,
        "swiftnet.cityscapes-orsic": ([73.15, 82.9, 72.3], [47.67, 48.49, 47.73]),
        "vit_base_patch16_224.imagenet-facebookresearch": imagenet,
    }.items():
        found = published()[name].pixels
        assert found is not None
        assert [[255 * value for value in values] for values in found] == [
            pytest.approx(values) for values in pixels
        ], name


# written and fetched ---------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Files]]:
    yield from serving(monkeypatch, tmp_path)


def torch_file(held: Any, **options: Any) -> bytes:
    written = BytesIO()
    torch.save(held, written, **options)
    return written.getvalue()


def paddle_zip(state: Mapping[str, Tensor]) -> bytes:
    """An archive with a `.pdparams` inside."""
    names = {"running_mean": "_mean", "running_var": "_variance"}
    arrays = {}
    for key, tensor in state.items():
        stem, _, last = key.rpartition(".")
        if last != "num_batches_tracked":
            arrays[f"{stem}.{names.get(last, last)}"] = tensor.numpy()
    written = BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("human/model.pdparams", pickle.dumps(arrays, protocol=2))
        archive.writestr("human/readme.txt", "")
    return written.getvalue()


# name of a row -> the file of a state dict as its publisher writes it
FILES = {
    "cgnet.cityscapes-mmseg": lambda state: torch_file({"meta": {"epoch": 1}, "state_dict": state}),
    "enet_2018.camvid-davidtvs": lambda state: torch_file({"state_dict": state, "miou": 0.5}),
    "erfnet.cityscapes-mmseg": lambda state: torch_file({"state_dict": state}, _use_new_zipfile_serialization=False),
    "portraitnet.human-prior-dong-x16": lambda state: torch_file({"epoch": 1, "state_dict": state}),
    "pphumanseg.human-paddlepaddle": paddle_zip,
    "shufflenet_v2_050.imagenet-torchvision": torch_file,
    "sinet.eg1800-clovaai": torch_file,
    "superpoint_open.coco-rpautrat": torch_file,
}


@pytest.mark.parametrize("name", FILES)
def test_a_fetched_file_computes_what_its_model_did(
    name: str, server: type[Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = published()[name]
    made = made_of(row)
    model: Any = exercised(randomise(made.entry.model(**made.arguments)))
    data = FILES[name](export_layout(model, made.layout.name))
    monkeypatch.setitem(published(), name, replace(row, digits=hashlib.sha256(data).hexdigest()[:8]))
    server.files[f"/{direct(row.address).removeprefix('https://')}"] = data
    loaded: Any = load(name, accept_licence=True)
    example = tuple(torch.rand_like(tensor) for tensor in model.example(1, (64, 96)))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(*example), model(*example))
    assert loaded.weights_header["licences"]["weights"] == row.licence


def test_a_file_from_behind_a_page_is_loaded_by_its_name(server: type[Files], tmp_path: Path) -> None:
    row = published()["cgnet.cityscapes-wutianyirosun"]
    made = made_of(row)
    model: Any = exercised(randomise(made.entry.model(**made.arguments)))
    state = {f"module.{key}": tensor for key, tensor in export_layout(model, made.layout.name).items()}
    path = tmp_path / "model.pth"
    torch.save({"epoch": 1, "model": state}, path)
    take(row, path, accept_licence=True)
    loaded: Any = load(row.name)
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(image), model(image))
    assert loaded.classes[0] == "road"
    assert not server.asked
