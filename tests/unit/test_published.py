"""Published checkpoints by name: the catalogue, fetching from a server of our own, and what becomes of a file."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import segmentarium
from segmentarium.weights import CheckpointError, fetch, load
from segmentarium.weights import published as catalogue
from segmentarium.weights.inert import read_tensors
from segmentarium.weights.published import Published, class_names, imagenet_trunk, list_published, published
from tests.unit.published_material import Files, serving

NAME = "bisenetv2.cityscapes-mmseg"
PATH = "/mmsegmentation/bisenetv2.pth"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Files]]:
    yield from serving(monkeypatch, tmp_path)


def checkpoint(folder: Path, **more: Any) -> tuple[bytes, torch.nn.Module]:
    """A small network's file as mmsegmentation writes it."""
    torch.manual_seed(0)
    model = segmentarium.create_model("bisenetv2", num_classes=19, pointwise_bias=True, boosters="mmseg").eval()
    state = segmentarium.weights.export_layout(model, "bisenetv2/mmseg")
    path = folder / "made.pth"
    torch.save({"state_dict": state, **more}, path)
    return path.read_bytes(), model


@pytest.fixture
def row(server: type[Files], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """The row of NAME with a file of ours behind its address."""
    data, _ = checkpoint(tmp_path)
    found = replace(
        published()[NAME],
        address=f"https://download.openmmlab.com{PATH}",
        digits=hashlib.sha256(data).hexdigest()[:8],
    )
    server.files[f"/download.openmmlab.com{PATH}"] = data
    monkeypatch.setitem(published(), NAME, found)
    return found


# the table -------------------------------------------------------------------------------------------------------------


def test_names_are_unique_and_say_model_data_set_and_source() -> None:
    rows = published()
    assert len(rows) > 1300
    for name in (
        "deeplabv3plus_resnet50.cityscapes-mmseg",
        "segformer_b0.ade20k-transformers",
        "resnet50.imagenet-timm",
    ):
        assert rows[name].name == name
    best = [row for name, row in rows.items() if name.startswith("pspnet_resnet50.ade20k-mmseg")]
    assert rows["pspnet_resnet50.ade20k-mmseg"].value == max(row.value for row in best)


def test_every_row_of_a_system_that_is_here_can_become_a_model() -> None:
    by_module = {}
    for row in list_published():
        by_module.setdefault((row.model, row.layout, tuple(row.arguments.items().__repr__())), row)
    failed = {row.name: why for row in list(by_module.values())[::7] if (why := catalogue.unresolved(row))}
    assert not failed
    assert len(list_published()) > 1200


def test_lists_are_narrowed() -> None:
    assert all(row.task == "panoptic" for row in list_published(task="panoptic"))
    assert {row.data_set for row in list_published(data_set="ade20k")} >= {"ADE20K"}
    free = list_published("mask2former", commercial=True)
    assert all(row.commercial for row in free)
    assert len(free) < len(list_published("mask2former"))
    assert len(list_published(known=False)) == len(published())


def test_classes_stand_in_the_published_order() -> None:
    from segmentarium.data import catalogue as sets

    for data_set, name in (("Cityscapes", "cityscapes"), ("VOC 2012 aug", "voc"), ("COCO-Stuff 164k", "coco_stuff")):
        found = class_names(data_set, len(info_of(sets, name).classes))
        assert found is not None
        ours = info_of(sets, name).classes
        same = [a.replace("-other", "").replace(" ", "") for a in found["classes"]]
        assert len(same) == len(ours)
        assert sum(a == b.replace("-other", "").replace(" ", "") for a, b in zip(same, ours, strict=True)) > 0.7 * len(
            ours
        )
    assert class_names("Cityscapes", 20) is None  # another list, or a void class
    assert class_names("ImageNet-1k", 1000)["classes"][0] == "tench"  # type: ignore[index]
    assert len(class_names("COCO 2017", 133, panoptic=True)["palette"]) == 133  # type: ignore[index]


def info_of(sets: Any, name: str) -> Any:
    import importlib

    module = importlib.import_module(f"segmentarium.data.{name}")
    return next(value for key, value in vars(module).items() if key.endswith("INFO") or key == "INFO")


def test_imagenet_names_the_weights_of_a_trunk() -> None:
    assert imagenet_trunk("resnet50") == "resnet50.imagenet-torchvision"
    assert imagenet_trunk("timm:resnet18") == "timm:resnet18"
    with pytest.raises(KeyError, match="no ImageNet weights are published for 'df1'"):
        imagenet_trunk("df1")


# fetching --------------------------------------------------------------------------------------------------------------


def test_a_name_becomes_the_model_that_the_file_was_made_from(row: Published, tmp_path: Path) -> None:
    _, model = checkpoint(tmp_path)
    loaded: Any = load(NAME)
    picture = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(picture), model(picture), rtol=0, atol=1e-6)
    assert loaded.classes[:2] == ("road", "sidewalk")
    assert loaded.weights_header["dataset"] == "Cityscapes"
    made = segmentarium.create_model(NAME)
    assert made.registered_name == "bisenetv2"


def test_a_file_is_fetched_once_and_known_by_its_hash(row: Published, server: type[Files], tmp_path: Path) -> None:
    path = fetch.fetch(row, progress=False)
    assert fetch.fetch(row, progress=False) == path
    assert len(server.asked) == 1
    said = fetch.origin_of(NAME)
    assert said is not None
    assert said["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(fetch.FetchError, match=r"bytes, and had .* when it was fetched"):
        fetch.fetch(row, progress=False)
    assert fetch.remove(NAME) > 0
    assert fetch.origin_of(NAME) is None


def test_changed_bytes_of_the_same_length_are_noticed(row: Published) -> None:
    path = fetch.fetch(row, progress=False)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    with pytest.raises(fetch.FetchError, match="is another file than was fetched"):
        fetch.fetch(row, progress=False)


def test_a_cut_download_goes_on_where_it_was(row: Published, server: type[Files]) -> None:
    server.cut_after = 1000
    with pytest.raises(fetch.FetchError, match="they are kept, and the next attempt goes on"):
        fetch.fetch(row, progress=False)
    path = fetch.fetch(row, progress=False)
    assert server.asked[-1][1] == "bytes=1000-"
    assert path.read_bytes() == server.files[f"/download.openmmlab.com{PATH}"]


def test_another_hash_is_refused_where_digits_are_the_files_own(row: Published) -> None:
    with pytest.raises(fetch.FetchError, match="was not kept"):
        fetch.fetch(replace(row, digits="0" * 64), progress=False)
    assert fetch.origin_of(NAME) is None
    with pytest.raises(fetch.FetchError, match="was not kept"):
        fetch.fetch(replace(row, digits="00000000", layout="torchvision"), progress=False)
    with pytest.warns(UserWarning, match="00000000… is published"):
        fetch.fetch(replace(row, digits="00000000"), progress=False)
    fetch.remove(NAME)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fetch.fetch(replace(row, digits="00000000?"), progress=False)


@pytest.mark.parametrize(
    "address",
    [
        "https://download.oz1z1penmmlab.com/a.pth",
        "http://download.openmmlab.com/a.pth",
        "https://user@download.openmmlab.com/a.pth",
        "https://download.openmmlab.com:8443/a.pth",
        "file:///etc/passwd",
        "https://githubusercontent.com.evil.example/a.pth",
    ],
)
def test_other_hosts_are_never_asked(row: Published, server: type[Files], address: str) -> None:
    with pytest.raises(fetch.FetchError, match="is no listed host"):
        fetch.fetch(replace(row, address=address), progress=False)
    assert not server.asked


def test_redirects_lead_to_listed_hosts_alone(row: Published, server: type[Files]) -> None:
    server.redirects[f"/download.openmmlab.com{PATH}"] = "https://evil.example/a.pth"
    with pytest.raises(fetch.FetchError, match=r"redirects to evil\.example"):
        fetch.fetch(row, progress=False)
    assert fetch.on_list("https://release-assets.githubusercontent.com/a", redirected=True)
    assert not fetch.on_list("https://release-assets.githubusercontent.com/a")


def test_a_licence_that_is_not_free_is_asked_for_once(row: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = replace(row, licence="CC-BY-NC-4.0")
    monkeypatch.setitem(published(), NAME, bound)
    with pytest.raises(fetch.LicenceError, match=r"CC-BY-NC-4\.0.*--accept-licence"):
        load(NAME)
    load(NAME, accept_licence=True)
    load(NAME)
    assert not replace(row, licence="unstated").commercial
    assert not replace(row, licence="").commercial
    assert replace(row, licence="Apache-2.0").commercial


def test_offline_says_so_and_uses_what_is_there(row: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENTARIUM_OFFLINE", "1")
    with pytest.raises(fetch.FetchError, match="told to be offline"):
        fetch.fetch(row, progress=False)
    monkeypatch.delenv("SEGMENTARIUM_OFFLINE")
    path = fetch.fetch(row, progress=False)
    monkeypatch.setenv("SEGMENTARIUM_OFFLINE", "1")
    assert fetch.fetch(row, progress=False) == path


def test_a_page_is_named_and_its_file_taken(row: Published, tmp_path: Path) -> None:
    behind = replace(row, address="page:https://drive.example/x")
    with pytest.raises(fetch.FetchError, match=r"https://drive\.example/x.*--file PATH"):
        fetch.fetch(behind, progress=False)
    taken = fetch.take(behind, tmp_path / "made.pth")
    assert fetch.fetch(behind, progress=False) == taken


def test_a_wrong_file_does_not_take_the_place_of_the_kept_one(row: Published, tmp_path: Path) -> None:
    kept = fetch.take(row, tmp_path / "made.pth")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "made.pth").write_bytes(b"another network")
    with pytest.raises(fetch.FetchError, match="when it was first fetched"):
        fetch.take(row, tmp_path / "other" / "made.pth")
    assert fetch.fetch(row, progress=False) == kept


def test_what_is_called_an_archive_and_is_none_is_not_kept(row: Published, tmp_path: Path) -> None:
    (tmp_path / "made.zip").write_bytes(b"<html>log in</html>")
    with pytest.raises(fetch.FetchError, match=r"made\.zip is no archive that can be read"):
        fetch.take(replace(row, digits=""), tmp_path / "made.zip")
    assert list(fetch.folder_of(row.name).iterdir()) == []


def test_two_processes_fetch_one_file(row: Published, server: type[Files], tmp_path: Path) -> None:
    program = (
        "import sys, json; from dataclasses import replace; from segmentarium.weights import fetch;"
        "from segmentarium.weights.published import published;"
        f"row = replace(published()[{NAME!r}], address={row.address!r}, digits={row.digits!r});"
        "print(fetch.fetch(row, progress=False))"
    )
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=120)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert len(set(answers)) == 1
    assert len(server.asked) == 1


def test_a_model_s_other_files_are_not_waited_for(row: Published) -> None:
    from filelock import FileLock

    other = fetch.folder_of(f"{NAME.partition('.')[0]}.other-mmseg")
    other.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(1) as pool, FileLock(fetch._lock_of(other.name)):
        assert pool.submit(fetch.fetch, row, progress=False).result(timeout=20).is_file()


# what the table adds ---------------------------------------------------------------------------------------------------


def test_arguments_that_keys_do_not_tell_come_from_the_table(server: type[Files], tmp_path: Path) -> None:
    name = "fcn_d6_resnet50.cityscapes-mmseg"
    row = published()[name]
    assert row.arguments == {"output_stride": 16, "dilation": 6}
    torch.manual_seed(0)
    tiny: dict[str, Any] = {"num_classes": 19, "backbone": "resnet18_v1c", "decoder_channels": 8}
    model = segmentarium.create_model("fcn_resnet50", **{**tiny, **row.arguments}).eval()
    path = tmp_path / "d6.pth"
    torch.save({"state_dict": segmentarium.weights.export_layout(model, "fcn/mmseg")}, path)
    server.files[f"/{row.address.removeprefix('https://')}"] = path.read_bytes()
    with pytest.warns(UserWarning, match="is published"):  # the digits are those of their file
        loaded = load(name)
    picture = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(picture), model(picture))
        told = load(path, output_stride=16, dilation=6)
        torch.testing.assert_close(told(picture), model(picture))
        assumed = load(path)
        assert not torch.allclose(assumed(picture), model(picture), rtol=0.01, atol=0)


def test_assumptions_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = segmentarium.create_model("fcn_resnet50", num_classes=2, backbone="resnet18_v1c", decoder_channels=8)
    path = tmp_path / "theirs.pth"
    torch.save(segmentarium.weights.export_layout(model, "fcn/mmseg"), path)
    with caplog.at_level("WARNING", "segmentarium"):
        load(path)
    assert "its keys do not tell" in caplog.text
    assert "dilation=1" in caplog.text
    with pytest.raises(TypeError, match="no argument 'outputstride'"):
        load(path, outputstride=16)


def test_published_windows_are_the_default(row: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(published(), NAME, replace(row, test={"tile": 64, "stride": 43, "short_side": 64}))
    loaded = load(NAME)
    assert loaded.preprocessing.size_of((128, 256)) == (64, 128)
    from segmentarium.inference import Predictor

    predictor = Predictor(loaded)
    assert (predictor.tile, predictor.overlap, predictor.blend) == (64, 21, "mean")


def test_classes_in_the_file_come_first(server: type[Files], row: Published, tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(19)]
    data, _ = checkpoint(tmp_path, meta={"CLASSES": names, "PALETTE": [[i, i, i] for i in range(19)]})
    server.files[f"/download.openmmlab.com{PATH}"] = data
    with pytest.warns(UserWarning, match="is published"):
        loaded: Any = load(NAME)
    assert loaded.classes == tuple(names)
    assert loaded.palette[3] == (3, 3, 3)


# reading without executing ---------------------------------------------------------------------------------------------


class Left:
    """What a training program leaves beside its weights; pickled under another name."""

    def __init__(self) -> None:
        self.values = [1.0, 2.0]


def as_foreign(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)


@pytest.mark.parametrize("zipped", [True, False])
def test_foreign_objects_beside_the_weights_are_left_out(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "theirs.pth"
    state = {"a.weight": torch.arange(4.0)}
    torch.save({"state_dict": state, "left": Left(), "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    loaded = read_tensors(path)
    torch.testing.assert_close(loaded["state_dict"]["a.weight"], state["a.weight"])
    assert type(loaded["left"]).__name__ == "Inert"


class Harm:
    def __init__(self, call: Any, *given: Any) -> None:
        self.call, self.given = call, given

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.given


@pytest.mark.parametrize("zipped", [True, False])
def test_programs_in_a_file_are_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "ran"
    for harm in (
        Harm(os.system, f"touch {mark}"),
        Harm(exec, f"open({str(mark)!r}, 'w')"),
        Harm(subprocess.call, ["touch", str(mark)]),
    ):
        path = tmp_path / "harm.pth"
        torch.save({"state_dict": {"a": torch.zeros(1)}, "x": harm}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match="could run code when opened and is refused"):
            segmentarium.weights.read_file(path)
        assert not mark.exists()


def test_a_module_that_was_saved_whole_gives_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "module.pkl"
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(module, path)
    state, header = segmentarium.weights.read_file(path)
    assert header is None
    assert state.keys() == module.state_dict().keys()
    torch.testing.assert_close(state["0.weight"], module.state_dict()["0.weight"])


@pytest.mark.parametrize("seed", range(20))
def test_damaged_files_end_in_words(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "theirs.pth"
    torch.save(
        {"state_dict": {"a.weight": torch.arange(64.0)}, "left": Left()},
        path,
        _use_new_zipfile_serialization=seed % 2 == 0,
    )
    data = bytearray(path.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    for place in torch.randint(0, len(data), (8,), generator=generator).tolist():
        data[place] = int(torch.randint(0, 256, (1,), generator=generator))
    path.write_bytes(data[: len(data) if seed % 3 else len(data) // 2])
    with suppress(CheckpointError):  # nothing else may come out
        segmentarium.weights.read_file(path)


def test_containers_of_other_loops_are_opened(tmp_path: Path) -> None:
    state = {"a.weight": torch.ones(2), "a.bias": torch.zeros(2)}
    path = tmp_path / "x.pth"
    for held in ({"state_dict_ema": state}, {"ema": state, "epoch": 1}, {"module": state}, {**state, "version": 3}):
        torch.save(held, path)
        assert segmentarium.weights.read_file(path)[0].keys() == state.keys()
    paddle = tmp_path / "x.pdparams"
    import numpy as np

    paddle.write_bytes(
        pickle.dumps({"bn._mean": np.ones(2, np.float32), "StructuredToParameterName@@": {"a": "b"}}, protocol=2)
    )
    assert list(segmentarium.weights.read_file(paddle)[0]) == ["bn.running_mean"]
    caffe = tmp_path / "x.caffemodel"
    caffe.write_bytes(b"\x0a\x04name")
    with pytest.raises(CheckpointError, match="Caffe"):
        segmentarium.weights.read_file(caffe)


# the command -----------------------------------------------------------------------------------------------------------


def test_the_command_lists_fetches_and_removes(
    row: Published, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from segmentarium.cli.main import main

    assert main(["weights", "bisenetv2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert NAME in [one["name"] for one in rows]
    assert main(["weights", "--get", NAME]) == 0
    assert "bisenetv2/mmseg" in capsys.readouterr().out
    assert main(["weights", "--kept"]) == 0
    assert NAME in capsys.readouterr().out
    assert main(["weights", "--where", NAME]) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()
    assert main(["weights", "--remove", NAME]) == 0
    assert main(["weights", "--where", NAME]) == 1
    capsys.readouterr()
    assert main(["weights", "--get", "bisenetv2.cityscape-mmseg"]) == 2
    assert NAME in capsys.readouterr().err
