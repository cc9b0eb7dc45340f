"""Very many pictures: every result once and whole, whenever the process ends, and one bad picture ends nothing."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segmentarium
from segmentarium.cli.main import main
from segmentarium.inference import Predictor
from segmentarium.rle import decode
from segmentarium.runtimes import import_ray
from segmentarium.scale import BatchReport
from segmentarium.scale.job import _identity, batch
from segmentarium.scale.manifest import Manifest, Part
from segmentarium.scale.stores import Store
from segmentarium.scale.work import Settings, Worker
from segmentarium.weights import load
from segmentarium.weights.exported import ExportedSegmenter
from tests.unit.inference_material import picture

ROOT = Path(__file__).resolve().parents[2]
SIZES = ((40, 60), (40, 60), (60, 40), (40, 60), (60, 40), (33, 70))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = segmentarium.create_model("pphumanseg", num_classes=2)
    return str(segmentarium.save(model, tmp_path_factory.mktemp("weights") / "w.safetensors"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of three sizes, one of them grey and in a folder of its own, and one file that is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for number, size in enumerate(SIZES):
        turned = np.roll(picture(*size), 7 * number, 1)
        name = f"more/{number}.png" if number == 5 else f"{number}.png"
        Image.fromarray(turned if number != 5 else turned[..., 0]).save(folder / name)
    (folder / "bad.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def expected(weights: str, photos: Path) -> dict[str, np.ndarray]:
    """Name -> mask, as `Predictor` gives it."""
    predictor = Predictor(load(weights), device="cpu")
    paths = sorted(photos.rglob("*.png"))
    return {path.relative_to(photos).with_suffix("").as_posix(): predictor(path).mask for path in paths}


@pytest.fixture
def quick(weights: str) -> Callable[..., BatchReport]:
    """A job in this process, in parts of two."""

    def run(source: Any, out: Any, **options: Any) -> BatchReport:
        return batch(source, weights, out, **{"workers": 0, "part_size": 2, "device": "cpu", **options})

    return run


def masks(out: Path) -> dict[str, np.ndarray]:
    place = out / "masks"
    found = [path for path in sorted(place.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(place).with_suffix("").as_posix(): np.asarray(Image.open(path)) for path in found}


def rows(out: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for path in sorted((out / "rle").glob("*.jsonl")) for line in path.read_text().splitlines()
    ]


def of_runs(row: dict[str, Any]) -> np.ndarray:
    """The label map of a row; every pixel is in exactly one class."""
    labels, times = np.zeros((row["height"], row["width"]), np.uint8), np.zeros((row["height"], row["width"]), int)
    for one in row["segments"]:
        runs = one.get("segmentation") or {"size": labels.shape, "counts": one["counts"]}
        mask = decode(runs)
        assert mask.sum() == one["area"]
        labels[mask] = one["label"]
        times += mask
    assert (times == 1).all()
    return labels


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Pictures of one size together give the classes that each gives alone, but for a pixel on the edge."""
    assert found.keys() == expected.keys()
    for name, mask in found.items():
        assert mask.shape == expected[name].shape
        assert (mask == expected[name]).mean() > 0.999


# results ----------------------------------------------------------------------------------------------------------------


def test_masks_of_a_folder(
    quick: Callable[..., BatchReport], photos: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    said: list[tuple[int, int]] = []
    report = quick(photos, tmp_path / "out", batch_size=3, progress=lambda *counts: said.append(counts))
    assert (report.pictures, report.done, report.failed, report.now) == (7, 6, 1, 7)
    assert said == [(2, 7), (4, 7), (6, 7), (7, 7)]
    assert set(report.busy) == {"read", "decode", "predict", "write"}
    assert report.slowest == max(report.busy, key=lambda stage: report.busy[stage])
    assert_same(masks(tmp_path / "out"), expected)
    (problem,) = (json.loads(line) for line in (tmp_path / "out" / "problems.jsonl").read_text().splitlines())
    assert problem["source"] == str(photos / "bad.jpg")
    assert "is not a picture that can be read" in problem["problem"]
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (told["done"], told["failed"], len(told["classes"])) == (6, 1, 2)


def test_again_does_what_has_come_and_nothing_else(
    quick: Callable[..., BatchReport], expected: dict[str, np.ndarray], photos: Path, tmp_path: Path
) -> None:
    """The results may lie in the folder of the pictures: they are none."""
    for name in ("0.png", "2.png"):
        (tmp_path / name).write_bytes((photos / name).read_bytes())
    (tmp_path / "bad.png").write_bytes(b"")
    out = tmp_path / "out"
    assert quick(tmp_path, out).done == 2
    before = {path: path.stat().st_mtime_ns for path in (out / "masks").rglob("*.png")}
    assert quick(tmp_path, out).now == 0
    (tmp_path / "1.png").write_bytes((photos / "1.png").read_bytes())
    again = quick(tmp_path, out)
    assert (again.now, again.done, again.failed) == (1, 3, 1)
    (tmp_path / "bad.png").write_bytes((photos / "3.png").read_bytes())
    assert quick(tmp_path, out).now == 0
    once_more = quick(tmp_path, out, retry=True)
    assert (once_more.done, once_more.failed) == (4, 0)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (out / "problems.jsonl").read_text() == ""
    assert len(list((out / "_batch" / "done").iterdir())) == 3
    assert_same(masks(out), {**{name: expected[name] for name in "012"}, "bad": expected["3"]})


def test_runs_in_lines(
    quick: Callable[..., BatchReport], photos: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    quick(str(photos / "**" / "*.png"), tmp_path / "out", kind="rle", part_size=4)
    found = rows(tmp_path / "out")
    assert [row["source"] for row in found] == [str(photos / f"{name}.png") for name in sorted(expected)]
    assert_same({row["name"]: of_runs(row) for row in found}, expected)


def test_tables_in_and_out(
    quick: Callable[..., BatchReport], photos: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Paths, bytes, and bytes as Hugging Face keeps them; rows without a picture are told by their number."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    names = sorted(expected)
    contents = [(photos / f"{name}.png").read_bytes() for name in names]
    tables = {
        "paths": {"path": [str(photos / f"{name}.png") for name in names], "other": list(range(6))},
        "bytes": {"other": list(range(7)), "data": [*contents, None]},
        "struct": {"image": [{"bytes": content, "path": None} for content in contents]},
    }
    for name, columns in tables.items():
        parquet.write_table(pa.table(columns), tmp_path / f"{name}.parquet", row_group_size=3)
        out = tmp_path / name
        options = {"column": "data"} if name == "bytes" else {}
        report = quick(tmp_path / f"{name}.parquet", out, kind="parquet", part_size=4, **options)
        assert report.done == 6
        read = parquet.read_table(out / "parquet").to_pylist()
        assert len(list((out / "parquet").iterdir())) == 2
        assert_same({names[i]: of_runs(row) for i, row in enumerate(read)}, expected)
        if name != "paths":
            assert [row["name"] for row in read] == [f"{name}-{i:06d}" for i in range(6)]
            assert read[4]["source"] == f"{tmp_path / name}.parquet#4"
    assert "row 6 has no bytes" in (tmp_path / "bytes" / "problems.jsonl").read_text()
    with pytest.raises(ValueError, match="has no column 'picture' of paths or bytes; it has data"):
        quick(tmp_path / "bytes.parquet", tmp_path / "none", column="picture")


def test_a_row_without_a_path_is_told_and_one_without_bytes_is_read_from_its_path(
    quick: Callable[..., BatchReport], photos: Path, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    (tmp_path / "a.png").write_bytes((photos / "0.png").read_bytes())
    parquet.write_table(pa.table({"path": ["a.png", "", None]}), tmp_path / "paths.parquet")
    images = [{"bytes": None, "path": text} for text in ("a.png", "missing.png", "http://inside/secret", None)]
    parquet.write_table(pa.table({"image": images}), tmp_path / "struct.parquet")
    for name, failed in (("paths", [1, 2]), ("struct", [1, 2, 3])):
        report = quick(tmp_path / f"{name}.parquet", tmp_path / name, part_size=4)
        assert (report.done, report.failed) == (1, len(failed))
        told = [json.loads(line) for line in (tmp_path / name / "problems.jsonl").read_text().splitlines()]
        assert [one["name"] for one in told] == [f"{name}-{row:06d}" for row in failed]
        assert f"row {failed[-1]} has no bytes and no path" in told[-1]["problem"]


def test_a_store(
    quick: Callable[..., BatchReport], photos: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.put(str(photos), "/bucket/photos", recursive=True)
    system.pipe_file("/bucket/photos/notes.txt", b"no picture")
    report = quick("memory://bucket/photos", "memory://bucket/photos/out")
    assert (report.done, report.failed) == (6, 1)
    assert quick("memory://bucket/photos", "memory://bucket/photos/out").now == 0
    system.get("/bucket/photos/out/masks", str(tmp_path / "masks"), recursive=True)
    assert_same(masks(tmp_path), expected)
    with pytest.raises(ValueError, match="which no worker sees; give workers=0"):
        quick("memory://bucket/photos", tmp_path / "other", workers=1)
    system.rm("/bucket", recursive=True)


def test_s3(
    quick: Callable[..., BatchReport], photos: Path, expected: dict[str, np.ndarray], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A server on this machine that speaks as Amazon's."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto's server is not installed").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        import s3fs  # pyright: ignore[reportMissingImports]

        system = s3fs.S3FileSystem()
        system.mkdir("bucket")
        system.put(str(photos), "bucket/photos", recursive=True)
        report = quick("s3://bucket/photos", "s3://bucket/out")
        assert (report.done, report.failed) == (6, 1)
        assert quick("s3://bucket/photos", "s3://bucket/out").now == 0
        system.invalidate_cache()
        system.get("bucket/out/masks", str(tmp_path / "masks"), recursive=True)
        assert_same(masks(tmp_path), expected)
    finally:
        server.stop()


# the end of a process -----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The end of a process, as far as the code in it can tell: nothing catches it."""


@pytest.mark.parametrize("kind", ["masks", "rle"])
def test_a_job_may_end_at_every_file(
    kind: str, quick: Callable[..., BatchReport], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each file that it writes, one after the other; then to the end: every result once, whole, as without any end."""
    writes, at = 0, -1
    write = Store.write

    def counted(self: Store, name: str, content: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes == at:
            raise Killed
        write(self, name, content)

    def files(out: Path) -> dict[str, bytes]:
        return {
            str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != "report.json"
        }

    source = [photos / "0.png", photos / "1.png", photos / "bad.jpg"]
    monkeypatch.setattr(Store, "write", counted)
    quick(source, tmp_path / "whole", kind=kind)
    straight, total = files(tmp_path / "whole"), writes
    assert total >= 10
    for at in range(1, total + 1):
        out, writes = tmp_path / str(at), 0
        with pytest.raises(Killed):
            quick(source, out, kind=kind)
        before = {p: p.stat().st_mtime_ns for p in out.glob("masks/*.png")}
        writes = total + 1  # no further end
        report = quick(source, out, kind=kind)
        assert (report.done, report.failed) == (2, 1)
        assert files(out) == straight
        assert {p: p.stat().st_mtime_ns for p in before} == before  # none is written twice


KILLED = """
import os, pathlib, signal, sys
from segmentarium.scale.job import batch
replace, count = pathlib.Path.replace, 0
def killed(self, target):
    global count
    count += pathlib.Path(target).suffix == ".png"
    if count == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
pathlib.Path.replace = killed
batch(sys.argv[1], sys.argv[2], sys.argv[3], workers=0, part_size=3, device="cpu")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_process_that_is_killed_in_the_middle_of_a_file(
    weights: str, photos: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", KILLED, str(photos), weights, str(out)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -9, done.stderr
    there = {path: path.stat().st_mtime_ns for path in (out / "masks").rglob("*.png") if not path.name.startswith(".")}
    assert len(there) == 3
    report = batch(photos, weights, out, workers=0, part_size=3, device="cpu")
    assert (report.done, report.failed) == (6, 1)
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert_same(masks(out), expected)


def test_a_picture_that_ends_its_process_is_passed_over(
    weights: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = Worker._decoded

    def ends(self: Worker, source: str, name: str, content: bytes | None) -> np.ndarray:
        if name == "2":
            raise Killed
        return decoded(self, source, name, content)

    monkeypatch.setattr(Worker, "_decoded", ends)
    worker = Worker(Settings(weights, str(tmp_path / "out"), device="cpu"))
    part = Part(0, tuple((str(photos / f"{i}.png"), str(i), None) for i in range(4)))
    for _ in range(3):  # once with all, twice with care
        with pytest.raises(Killed):
            worker.do(part)
    record = worker.do(part)
    assert (record["done"], record["failed"]) == (3, 1)
    assert record["problems"][0]["name"] == "2"
    assert "the process that worked on it ended, 2 times" in record["problems"][0]["problem"]
    assert masks(tmp_path / "out").keys() == {"0", "1", "3"}
    assert Manifest(worker.manifest.store).done() == {0: (3, 1)}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_among_the_pictures_is_not_waited_for(
    quick: Callable[..., BatchReport], photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes((photos / "0.png").read_bytes())
    for name in ("pipe.png", "pipe"):  # by its ending it is a picture; the other one is looked into
        os.mkfifo(tmp_path / name)
    report = quick(tmp_path, tmp_path / "out")
    assert (report.done, report.failed) == (1, 1)
    assert "it is a folder, pipe or device; expected a file" in (tmp_path / "out" / "problems.jsonl").read_text()


def test_the_verb_with_two_processes(
    weights: str, photos: Path, expected: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["batch", str(photos), "--model", weights, "--out", str(tmp_path), "--device", "cpu", "--part-size", "2"]
    assert main([*words, "--workers", "2"]) == 1  # one file is no picture
    assert "6 of 7 pictures done, 1 could not be; 7 in " in capsys.readouterr().out
    assert_same(masks(tmp_path), expected)
    assert main(words) == 1
    assert "nothing was left to do" in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (the extra [scale])")
def test_ray(
    weights: str, photos: Path, expected: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else its workers wait for whatever this machine does beside
    report = batch(photos, weights, tmp_path, address="local", workers=2, threads=1, part_size=2, device="cpu")
    assert (report.done, report.failed) == (6, 1)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert_same(masks(tmp_path), expected)


def test_ray_is_not_to_send_the_working_folder_under_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, kept in ((None, "0"), ("1", "1")):
        monkeypatch.delenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", raising=False)
        if given:
            monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", given)
        with contextlib.suppress(ImportError):
            import_ray()
        assert os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == kept


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_an_address_without_ray_says_what_to_install(
    quick: Callable[..., BatchReport], photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ImportError, match=r"pip install 'segmentarium\[scale\]'; without an address the same job runs"):
        quick(photos, tmp_path / "out", address="auto", workers=1)


# what is refused --------------------------------------------------------------------------------------------------------


def test_a_folder_of_another_job_or_of_none(quick: Callable[..., BatchReport], photos: Path, tmp_path: Path) -> None:
    quick(photos / "0.png", tmp_path / "out")
    with pytest.raises(ValueError, match="holds another job \\(kind: 'masks' there, 'rle' asked\\)"):
        quick(photos, tmp_path / "out", kind="rle")
    with pytest.raises(ValueError, match=r"holds another job .*weights"):
        batch(photos, "person", tmp_path / "out", workers=0, part_size=2, device="cpu")
    with pytest.raises(FileExistsError, match="holds files that are of no batch"):
        quick(photos, photos)
    with pytest.raises(TypeError, match="save it"):
        batch(photos, segmentarium.create_model("pphumanseg"), tmp_path / "new")  # pyright: ignore[reportArgumentType]


def test_another_training_as_openvino_is_another_job(tmp_path: Path) -> None:
    """Its .xml may be the same: the weights lie in the .bin beside it."""
    network = ExportedSegmenter(num_classes=2)
    network.file = tmp_path / "m.xml"
    network.file.write_text("<net/>")
    found = []
    for weights in (b"of one training", b"of another one"):
        network.file.with_suffix(".bin").write_bytes(weights)
        found.append(_identity(Settings(str(network.file), str(tmp_path)), network)["weights"])
    assert found[0] != found[1]


def test_a_source_without_pictures_leaves_nothing_behind(
    quick: Callable[..., BatchReport], photos: Path, tmp_path: Path
) -> None:
    """So that the right one may be given with another kind."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        quick(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert quick(photos / "0.png", tmp_path / "out", kind="rle").done == 1


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_results_are_no_pictures_by_whatever_links_they_are_reached(
    quick: Callable[..., BatchReport], photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "0.png").write_bytes((photos / "0.png").read_bytes())
    (tmp_path / "link").symlink_to("real")
    assert quick(tmp_path / "real", tmp_path / "link" / "out").done == 1
    assert quick(tmp_path / "real", tmp_path / "link" / "out").now == 0
    assert quick(tmp_path / "link", tmp_path / "real" / "out").now == 1  # the same picture by another name, no more


def test_names_are_unique_and_large_pictures_are_not_decoded(
    quick: Callable[..., BatchReport], photos: Path, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    for name in ("a.png", "A.PNG", "a.bmp"):
        Image.open(photos / "0.png").save(given / name)
    report = quick(given, tmp_path / "out", max_pixels=40 * 60)
    assert report.done == 3
    assert {name.lower() for name in masks(tmp_path / "out")} == {"a", "a-2", "a-3"}
    small = quick(given, tmp_path / "small", max_pixels=40 * 60 - 1)
    assert (small.done, small.failed) == (0, 3)
    assert "60 x 40 pixels are more than" in (tmp_path / "small" / "problems.jsonl").read_text()


def test_a_folder_named_as_a_mask(quick: Callable[..., BatchReport], photos: Path, tmp_path: Path) -> None:
    (tmp_path / "given" / "a.png").mkdir(parents=True)
    for name in ("a.bmp", "a.png/b.png"):
        Image.open(photos / "0.png").save(tmp_path / "given" / name)
    assert quick(tmp_path / "given", tmp_path / "out").done == 2
    assert masks(tmp_path / "out").keys() == {"a", "a.png_/b"}


def test_pictures_together_are_pictures_alone(weights: str) -> None:
    predictor = Predictor(load(weights), device="cpu")
    images = [np.roll(picture(50, 70), 9 * i, 1) for i in range(3)]
    for mask, image in zip(predictor.masks(images), images, strict=True):
        assert (mask == predictor(image).mask).mean() > 0.999
    predictor.tile = 32
    assert all(np.array_equal(m, predictor(i).mask) for m, i in zip(predictor.masks(images), images, strict=True))
    assert predictor.masks([]) == []
    with pytest.raises(ValueError, match="pictures of 2 shapes"):
        predictor.masks([picture(50, 70), picture(50, 71)])
