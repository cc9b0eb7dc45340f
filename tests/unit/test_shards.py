"""Shards: tars and tables hold the same samples as a folder, in an order that keeps near what lies near, each once."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmentarium import comparison
from segmentarium.cli.main import main
from segmentarium.data import (
    ImageReadError,
    InfiniteSampler,
    TrainingStream,
    build_dataset,
    check_data,
    parquet_shards,
)
from segmentarium.data.catalogue import list_datasets
from segmentarium.data.parquet_shards import row_group
from segmentarium.data.seen import seen, share_seen
from segmentarium.data.shards import shards_of
from segmentarium.data.splits import hash_split
from segmentarium.data.stored import ShardError
from segmentarium.registry import create_model
from segmentarium.training.preflight import check_labels
from segmentarium.weights import save

CLASSES = "sky 0 0 255\nroad 128 64 128\n"


def png(pixels: np.ndarray, format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


def sample(number: int) -> dict[str, bytes]:
    random = np.random.default_rng(number)
    picture, mask = random.integers(0, 256, (32, 40, 3), np.uint8), random.integers(0, 2, (32, 40), np.uint8)
    return {"jpg": png(picture, "JPEG"), "mask.png": png(mask)}


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_table(path: Path, rows: list[dict[str, Any]], group: int) -> Path:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve samples as a folder, as three tars of four, and as a table with four row groups."""
    root = tmp_path_factory.mktemp("shards")
    for kind in ("plain/images", "plain/masks", "tars", "tables"):
        (root / kind).mkdir(parents=True)
        (root / kind.split("/")[0] / "classes.txt").write_text(CLASSES, encoding="utf-8")
    samples = {f"s{number:02d}": sample(number) for number in range(12)}
    for key, files in samples.items():
        (root / "plain/images" / f"{key}.jpg").write_bytes(files["jpg"])
        (root / "plain/masks" / f"{key}.png").write_bytes(files["mask.png"])
    for shard in range(3):
        keys = list(samples)[4 * shard : 4 * shard + 4]
        members = {f"./{key}.{ending}": content for key in keys for ending, content in samples[key].items()}
        write_tar(root / "tars" / f"part-{shard:03d}.tar", members)
    rows = [{"key": k, "image": {"bytes": f["jpg"], "path": None}, "mask": f["mask.png"]} for k, f in samples.items()]
    write_table(root / "tables" / "part.parquet", rows, 3)
    return root


@pytest.mark.parametrize(("name", "place"), [("webdataset", "tars/part-{000..002}.tar"), ("parquet", "tables")])
def test_they_are_read_as_a_folder_is(root: Path, name: str, place: str) -> None:
    plain, shards = build_dataset("folder", root / "plain", "all"), build_dataset(name, root / place, "all")
    assert [shards.name(i) for i in range(12)] == [plain.name(i) for i in range(12)]
    assert shards.info.classes == plain.info.classes
    for index in (0, 5, 11):
        for ours, theirs in zip(shards.load(index), plain.load(index), strict=True):
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    # the same division wherever a set lies, and what was trained on is known
    part = build_dataset(name, root / place, "val")
    assert {part.name(i) for i in range(len(part))} == {
        key for key in map(plain.name, range(12)) if hash_split(key) == "val"
    }
    assert not list(check_labels(shards, "all"))  # type: ignore[arg-type]
    if name == "webdataset":
        assert share_seen({"seen": seen(plain)}, shards) == 1
    report = check_data(shards)
    assert (report.pictures, report.readable, report.ok) == (12, 12, True)


@pytest.mark.parametrize(("name", "place"), [("webdataset", "tars"), ("parquet", "tables")])
def test_they_travel_to_other_processes(root: Path, name: str, place: str) -> None:
    shards = build_dataset(name, root / place, "all")
    there = pickle.loads(pickle.dumps(shards))
    assert np.array_equal(there.load(7)[1], shards.load(7)[1])  # type: ignore[attr-defined]


def test_a_pass_has_every_sample_once_and_keeps_shards_together(root: Path) -> None:
    shards: Any = build_dataset("webdataset", root / "tars", "all", shuffle=4)
    stream = TrainingStream(shards, None)
    samplers = [InfiniteSampler(len(stream), 3, 0, rank, 3, order=shards.order) for rank in range(3)]
    keys = [key for three in zip(*(zip(s, range(8), strict=False) for s in samplers), strict=True) for key, _ in three]
    assert [counter for counter, _ in keys] == list(range(24))
    passes = [[index for _, index in keys[:12]], [index for _, index in keys[12:]]]
    assert all(sorted(one) == list(range(12)) for one in passes)
    assert passes[0] != passes[1]
    for one in passes:  # four at a time come from one shard, in a random order
        assert [len({index // 4 for index in one[i : i + 4]}) for i in (0, 4, 8)] == [1, 1, 1]
        assert any(one[i : i + 4] != sorted(one[i : i + 4]) for i in (0, 4, 8))
    # a run that goes on in the middle of a pass, with another number of processes, sees what it had not seen
    later = InfiniteSampler(len(stream), 3, 7, order=shards.order)
    assert [key for key, _ in zip(later, range(17), strict=False)] == keys[7:]
    wide: Any = build_dataset("webdataset", root / "tars", "all")
    assert len({index // 4 for index in wide.order(np.random.default_rng(0))[:4].tolist()}) > 1


def test_what_a_process_keeps_of_tables_is_bounded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import segmentarium.data.parquet_shards as module

    one = Path(root / "tables/part.parquet").stat().st_size // 4
    monkeypatch.setattr(module, "ROOM", int(2.5 * one))
    module._kept.clear()
    tables: Any = build_dataset("parquet", root / "tables", "all")
    assert tables.listing.room < 6  # samples that are shuffled with each other fill half of it
    for index in tables.order(np.random.default_rng(0)).tolist():
        tables.load(index)
        assert sum(table.nbytes for table in module._kept.values()) <= 2.5 * one


def test_parts_by_the_names_of_shards(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(CLASSES, encoding="utf-8")
    for number, name in enumerate(("train-0.tar", "train-1.tar", "validation/0.tar")):
        write_tar(tmp_path / name, {f"s{number}.{ending}": content for ending, content in sample(number).items()})
    assert [len(build_dataset("webdataset", tmp_path, split)) for split in ("train", "val", "all")] == [2, 1, 3]
    with pytest.raises(FileNotFoundError, match="divided into train, val, but has no shards for 'test'"):
        build_dataset("webdataset", tmp_path, "test")
    assert [p.name for p in shards_of(tmp_path / "train-{0..1}.tar", (".tar",))] == ["train-0.tar", "train-1.tar"]
    assert [p.name for p in shards_of(tmp_path / "t*-{1,0}.tar", (".tar",))] == ["train-1.tar", "train-0.tar"]
    with pytest.raises(FileNotFoundError, match=r"train-2\.tar is not there"):
        shards_of(tmp_path / "train-{0..2}.tar", (".tar",))


def test_damaged_and_foreign_shards_are_named(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(CLASSES, encoding="utf-8")
    whole = write_tar(tmp_path / "a.tar", {f"s.{ending}": content for ending, content in sample(0).items()})
    cut = tmp_path / "cut/b.tar"
    cut.parent.mkdir()
    cut.write_bytes(whole.read_bytes()[:900])
    with pytest.raises(ShardError, match=r"b\.tar.*cut off"):
        build_dataset("webdataset", cut, "all")
    (tmp_path / "cut/c.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(ShardError, match=r"c\.tar cannot be read as a tar"):
        build_dataset("webdataset", tmp_path / "cut/c.tar", "all")
    members = {"x.jpg": sample(1)["jpg"], "y.jpg": b"no picture", "y.mask.png": sample(2)["mask.png"]}
    unlabelled = write_tar(tmp_path / "d.tar", members)
    with pytest.raises(ShardError, match=r"1 samples .* have no label image, .*d\.tar/x\.jpg"):
        build_dataset("webdataset", unlabelled, "all", classes=2)
    left: Any = build_dataset("webdataset", unlabelled, "all", classes=2, strict=False)
    problems = {problem.kind: problem.file for problem in check_data(left).errors}
    assert problems["no mask"].endswith("d.tar/x.jpg")
    assert problems["unreadable picture"].endswith("d.tar/y.jpg")
    with pytest.raises(ImageReadError, match=r"d\.tar/y\.jpg is not a picture"):
        left.load(0)
    with pytest.raises(ShardError, match="has txt; expected one picture"):
        build_dataset("webdataset", write_tar(tmp_path / "e.tar", {"x.txt": b"?"}), "all")
    lost: Any = build_dataset("webdataset", whole, "all")
    whole.write_bytes(whole.read_bytes()[:600])
    with pytest.raises(ImageReadError, match=r"a\.tar/s\.jpg.*cut off"):
        lost.load(0)


def test_a_class_a_picture(tmp_path: Path) -> None:
    members = {}
    for number in range(6):
        members |= {f"{number}.jpg": sample(number)["jpg"], f"{number}.cls": str(number % 3).encode()}
    tars: Any = build_dataset("webdataset_classes", write_tar(tmp_path / "train-0.tar", members), "train")
    assert (tars.counts(), tars.info.num_classes) == ([2, 2, 2], 3)
    rows = [{"image": members[f"{number}.jpg"], "label": number % 3} for number in range(6)]
    tables: Any = build_dataset("parquet_classes", write_table(tmp_path / "train-0.parquet", rows, 4), "train")
    for index in range(6):
        assert tars.load(index)[1] == tables.load(index)[1] == index % 3
        assert np.array_equal(np.asarray(tars.load(index)[0]), np.asarray(tables.load(index)[0]))
    with pytest.raises(ShardError, match="classes 0 to 2, and 2 are named"):
        build_dataset("webdataset_classes", tmp_path / "train-0.tar", "train", classes=2)
    with pytest.raises(ShardError, match=r"2\.cls is no number"):
        build_dataset("webdataset_classes", write_tar(tmp_path / "x.tar", members | {"2.cls": b"cat"}), "all")


def test_classes_in_tables_are_read_without_their_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, ...]] = []

    def counted(shard: Path, number: int, columns: tuple[str, ...]) -> Any:
        read.append(columns)
        return row_group(shard, number, columns)

    monkeypatch.setattr(parquet_shards, "row_group", counted)
    rows = [{"image": sample(number)["jpg"], "label": number % 3} for number in range(6)]
    tables: Any = build_dataset("parquet_classes", write_table(tmp_path / "train-0.parquet", rows, 4), "train")
    assert set(read) == {("label",)}
    assert tables.load(5)[1] == 2


def test_the_commands_take_patterns(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(root / "tars/part-{000..002}.tar")
    assert main(["check-data", place, "--data", "webdataset", "--out", str(tmp_path / "report")]) == 0
    assert "12" in capsys.readouterr().out
    model = str(save(create_model("pphumanseg", num_classes=2), tmp_path / "model.safetensors"))
    opened: list[Any] = []

    def compared(_: Any, options: Any, *__: Any) -> None:
        opened.append(build_dataset(options.data, options.root, options.split))
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "compare", compared)
    words = ["compare", "--models", model, "--out", str(tmp_path / "compared"), "--root", place]
    assert main([*words, "--data", "webdataset"]) == 130
    assert len(opened[0]) == sum(hash_split(f"s{number:02d}") == "val" for number in range(12))
    assert main([*words, "--data", "folder"]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert {"webdataset", "parquet", "webdataset_classes", "parquet_classes"} <= set(list_datasets())
