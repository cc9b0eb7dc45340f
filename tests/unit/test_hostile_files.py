"""Files that were made to do harm, or are broken in ways that nobody makes on purpose: each is one line, and nothing is left."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import segmentarium
from segmentarium import files
from segmentarium.data.image_io import ImageReadError, load_with_alpha, read_image
from segmentarium.data.mask_io import LabelError, MaskEncoding
from segmentarium.data.text_files import read_json, read_yaml
from segmentarium.files import atomic_folder, atomic_write, check_targets, shown, write_json, write_png, write_text
from segmentarium.media import sources

# pictures ---------------------------------------------------------------------------------------------------------------


def exif(*entries: tuple[int, int, int, bytes], tail: bytes = b"", order: str = "<") -> bytes:
    """An EXIF block of (tag, type, count, four bytes)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return b"Exif\0\0" + head + b"".join(struct.pack(f"{order}HHI", *e[:3]) + e[3] for e in entries) + bytes(4) + tail


TURNED = (0x0112, 3, 1, b"\6\0\0\0")
DAMAGED = {
    "a type that is none": exif(TURNED, (0x010F, 99, 1, bytes(4))),
    "a place outside": exif(TURNED, (0x010F, 2, 500, b"\xff\xff\xff\x7f")),
    "a fraction of nothing": exif(TURNED, (0x011A, 5, 1, b"\x26\0\0\0"), tail=bytes(8)),
    "a text of numbers": exif(TURNED, (0x010F, 2, 2**31, bytes(4))),
    "a block within itself": exif(TURNED, (0x8769, 4, 1, b"\x08\0\0\0")),
    "fewer entries than said": exif(TURNED, TURNED)[:-16],
    "cut": exif(TURNED, TURNED, TURNED)[:30],
    "big end first": exif((0x0112, 3, 1, b"\0\6\0\0"), order=">"),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("damage", sorted(DAMAGED))
def test_a_damaged_exif_block_spoils_no_pixels(damage: str, kind: str) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 4), "red").save(stream, kind, exif=DAMAGED[damage])
    image = read_image(io.BytesIO(stream.getvalue()))
    assert image.size == (4, 8)  # its note of how it lies could be read
    assert read_image(io.BytesIO(stream.getvalue())).getpixel((0, 0))[0] > 200


def test_formats_that_run_other_programs_are_not_tried(tmp_path: Path) -> None:
    path = tmp_path / "page.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ImageReadError, match=r"page\.jpg is not a picture"):
        read_image(path)


def test_what_is_transparent_is_known(tmp_path: Path) -> None:
    pixels = np.full((4, 6, 4), 255, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "solid.png")
    pixels[:, :2, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "erased.png")
    assert load_with_alpha(tmp_path / "solid.png").shape == (4, 6, 3)
    assert load_with_alpha(tmp_path / "erased.png")[0, :, 3].tolist() == [0, 0, 255, 255, 255, 255]


def test_a_large_colour_mask_takes_no_minute() -> None:
    random = np.random.default_rng(0)
    encoding = MaskEncoding(2, colours={(0, 0, 0): 0, (9, 9, 9): 1})
    raw = random.integers(0, 256, (3000, 4000, 3), dtype=np.uint8)  # 12 million pixels of many colours
    raw[:2000] = 9
    started = time.process_time()
    with pytest.raises(LabelError, match="more") as found:
        encoding.decode(raw, "mask.png")
    assert time.process_time() - started < 2
    assert len(found.value.counts) == 1000
    raw[2000:] = 0
    started = time.process_time()
    labels = encoding.decode(raw)
    assert time.process_time() - started < 2
    assert np.bincount(labels.reshape(-1)).tolist() == [4_000_000, 8_000_000]


def test_errors_are_printable() -> None:
    from segmentarium.wording import problem, said

    assert problem("a\x1b.png", ValueError("bad")) == "a\\x1b.png: bad"
    assert problem("a.png", ValueError("a.png is bad")) == "a.png is bad"
    assert problem("a.png", MemoryError()) == "a.png: there is not enough memory"
    assert said(OSError(28, "No space left on device", "out/a.png")) == "out/a.png: No space left on device"
    assert problem("a.png", PermissionError(13, "may not be written to", ".")) == "a.png: .: may not be written to"
    assert problem("a\nb.png", ValueError("a\nb.png is bad")) == "a\\nb.png: a b.png is bad"
    assert said(MemoryError()) == "there is not enough memory"
    assert said(ValueError("a\x1b[2Jb")) == "a\\x1b[2Jb"


# text -------------------------------------------------------------------------------------------------------------------


def test_yaml_and_json_are_bounded(tmp_path: Path) -> None:
    def written(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
    )
    deep, loop = "[" * 5000 + "]" * 5000, "a: &a [*a]\n"
    for name, text in {"laughs": laughs, "deep": deep, "loop": loop, "long": "- x\n" * 300_000, "bad": "a: ["}.items():
        with pytest.raises(ValueError, match=rf"{name}\.yaml"):
            read_yaml(written(f"{name}.yaml", text))
    assert read_yaml(written("good.yaml", "base: &b [1, 2]\nclasses: *b\n")) == {"base": [1, 2], "classes": [1, 2]}
    for name, text in {"deep": "[" * 100_000, "bad": "{"}.items():
        with pytest.raises(ValueError, match=rf"{name}\.json is no JSON"):
            read_json(written(f"{name}.json", text))


def test_a_list_of_one_endless_name_is_refused_at_once(tmp_path: Path) -> None:
    from segmentarium.data.class_table import read_classes

    (tmp_path / "classes.txt").write_text("a " * 500_000)
    started = time.process_time()
    with pytest.raises(ValueError, match="a line of 999,999 letters"):
        read_classes(tmp_path / "classes.txt")
    assert time.process_time() - started < 1


ODD = os.fsdecode(b"\xff\xfe[/]\x1b<b>.png")


def test_names_that_are_no_text_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from segmentarium.cli.main import main

    for part in ("images", "masks"):
        (tmp_path / "set" / part).mkdir(parents=True)
        Image.new("L", (8, 8), 0).save(tmp_path / "set" / part / "ok.png")
    try:
        (tmp_path / "set" / "images" / ODD).write_bytes(b"no picture")
        (tmp_path / "set" / "masks" / ODD).write_bytes(b"no mask")
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    (tmp_path / "set" / "classes.txt").write_text("a\nb\n")
    out = tmp_path / "report"
    told = main(
        ["check-data", "--data", "folder", "--root", str(tmp_path / "set"), "--split", "all", "--out", str(out)]
    )
    said = capsys.readouterr()
    assert told == 1, said
    report = json.loads((out / "report.json").read_text())
    assert any("\udcff" in problem["file"] for problem in report["problems"])
    assert "\x1b<b>" not in said.out + said.err
    assert shown(ODD) == "\\udcff\\udcfe[/]\\x1b<b>.png"


# files ------------------------------------------------------------------------------------------------------------------


def test_who_may_read_a_file_is_said_by_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "private", "x")
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / "a").write_text("x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "report.json").symlink_to(tmp_path / "precious")
    write_json(tmp_path / "report.json", {"a": 1})
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "report.json").is_symlink()


KILLED = """
import os, sys, time
from pathlib import Path
from segmentarium.files import atomic_folder, atomic_write
os.chdir(sys.argv[1])
with atomic_write(Path("result.bin")) as a, atomic_folder(Path("frames")) as b:
    a.write_bytes(b"half"); (b / "0.png").write_bytes(b"half")
    print("ready", flush=True); time.sleep(600)
"""


def test_what_a_killed_process_left_is_removed_and_nobody_else_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl", reason="this system has no locks of files")
    monkeypatch.setattr(files, "_YOUNG", -1.0)
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with atomic_write(tmp_path / "other") as part:
            part.write_text("x")
        assert len(list(tmp_path.glob(".*.part"))) == 2  # its owner lives
        process.kill()
        process.wait(10)
    files._swept.clear()
    write_text(tmp_path / "result.bin", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "result.bin"]


KILLED_PLAIN = """
import sys, time
from pathlib import Path
from segmentarium.files import atomic_write
with atomic_write(Path(sys.argv[1]), plain=True) as temporary:
    temporary.write_bytes(b"half")
    print("ready", flush=True); time.sleep(600)
"""


def test_a_process_that_is_killed_while_it_writes_leaves_nothing(tmp_path: Path) -> None:
    handle = files._nameless(tmp_path)
    if handle is None:
        pytest.skip("this system has no files without names")
    os.close(handle)
    write_text(tmp_path / "last.ckpt", "the one before")
    command = [sys.executable, "-c", KILLED_PLAIN, str(tmp_path / "last.ckpt")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        process.wait(10)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert (tmp_path / "last.ckpt").read_text() == "the one before"


@pytest.mark.parametrize("way", ["linked", "copied", "named"])
def test_what_has_no_name_until_it_is_whole_is_as_other_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """By every writer that is told so: the rights of the umask, replaced when whole, nothing there after an error."""

    def forbidden(*given: Any, **named: Any) -> None:
        raise PermissionError

    if way == "copied":
        monkeypatch.setattr(os, "link", forbidden)
    if way == "named":
        monkeypatch.setattr(files, "_nameless", lambda folder: None)
    elif (handle := files._nameless(tmp_path)) is None:
        pytest.skip("this system has no files without names")
    else:
        os.close(handle)
    model = segmentarium.create_model("fast_scnn", num_classes=2)
    before = os.umask(0o027)
    try:
        for _ in range(2):
            segmentarium.save(model, tmp_path / "model.safetensors")
            write_png(tmp_path / "mask.png", Image.new("L", (4, 4), 7))
            with atomic_write(tmp_path / "last.ckpt", plain=True) as temporary:
                torch.save({"step": 5}, temporary)
    finally:
        os.umask(before)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o640 for path in tmp_path.iterdir())
    assert segmentarium.load(tmp_path / "model.safetensors").num_classes == 2
    assert Image.open(tmp_path / "mask.png").getpixel((0, 0)) == 7
    assert torch.load(tmp_path / "last.ckpt") == {"step": 5}

    def fails() -> None:
        with atomic_write(tmp_path / "mask.png", plain=True) as temporary:
            temporary.write_bytes(b"half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fails()
    assert Image.open(tmp_path / "mask.png").getpixel((0, 0)) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "mask.png", "model.safetensors"]


def test_every_picture_is_opened_by_the_one_reader() -> None:
    """Which lists formats at every open, and whose errors name the file."""
    found = {}
    for path in Path(segmentarium.__file__).parent.rglob("*.py"):
        opened = re.findall(r"(?:\bImage\.open|cv2\.imread|mpimg\.imread|iio\.imread)\([^\n]*", path.read_text("utf-8"))
        found |= {path.name: opened} if opened else {}
    assert found.keys() == {"image_io.py", "bands.py"}
    assert all("formats=" in line for lines in found.values() for line in lines)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def fails() -> None:
        with atomic_folder(tmp_path / "frames") as folder:
            (folder / "0.png").write_bytes(b"x")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fails()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "notes.txt").write_text("mine")
    with atomic_folder(tmp_path / "frames") as folder:
        (folder / "0.png").write_bytes(b"x")
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == ["0.png", "notes.txt"]
    assert len(list(tmp_path.iterdir())) == 1


def test_places_are_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="file"):
        check_targets([tmp_path / "file" / "deep" / "report.json"])
    with pytest.raises(IsADirectoryError, match="is a folder"):
        check_targets([tmp_path], overwrite=True)
    monkeypatch.setattr(os, "access", lambda *_: False)  # as a read-only folder answers
    with pytest.raises(PermissionError, match="may not be written to"):
        check_targets([tmp_path / "new" / "report.json"])
    monkeypatch.setenv("SEGMENTARIUM_CACHE", str(tmp_path / "home"))
    kept = files.writable_cache()
    assert kept.is_dir()
    assert tmp_path not in kept.parents


# addresses --------------------------------------------------------------------------------------------------------------


@contextmanager
def answering(answer: bytes, *, drip: float = 0.0) -> Iterator[str]:
    """The address of a server that answers everyone with these bytes, one at a time where it drips."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listening:
            client, _ = listening.accept()
            with client:
                client.recv(4096)
                try:
                    for part in [answer] if not drip else [answer[i : i + 1] for i in range(len(answer))]:
                        client.sendall(part)
                        time.sleep(drip)
                except OSError:
                    pass

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/a.png"


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nno",
        b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/a\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/hostname\r\n\r\n",
        b"HTTP/1.1 999 \r\n\r\n",
        b"",
    ],
)
def test_an_address_that_answers_nonsense_is_one_line(answer: bytes) -> None:
    with answering(answer) as address, pytest.raises(ImageReadError, match="cannot be fetched") as found:
        sources.download(address)
    assert "\n" not in str(found.value)


def test_an_address_that_drips_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "WHOLE_TIMEOUT", 0.5)
    started = time.monotonic()
    with (
        answering(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000, drip=0.1) as address,
        pytest.raises(ImageReadError, match=r"within 0\.5 seconds"),
    ):
        sources.download(address)
    assert time.monotonic() - started < 10


# ONNX -------------------------------------------------------------------------------------------------------------------


def network(
    path: Path, nodes: list[Any], *, initializers: Any = (), shape: Any = (1, 3, "h", "w"), **facts: Any
) -> Path:
    """An ONNX file with the metadata of ours; `facts` are texts."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'segmentarium[export]'")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("logits", kind, None)],
        initializer=list(initializers),
    )
    model = helper.make_model(graph, producer_name="segmentarium", opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    said = {"classes": '["a", "b"]', "num_classes": "2", "in_channels": "3", "preprocessing": "null"} | facts
    helper.set_model_props(model, said)
    path.write_bytes(model.SerializeToString())
    return path


def test_networks_that_cannot_be_run_are_one_line(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'segmentarium[export]'")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'segmentarium[export]'")
    from segmentarium.matting.exported import ExportedPredictor

    node, tensor = onnx.helper.make_node, onnx.helper.make_tensor
    ends = [tensor(name, onnx.TensorProto.INT64, [1], [value]) for name, value in (("s", 0), ("e", 2), ("x", 1))]
    good = [node("Slice", ["image", "s", "e", "x"], ["logits"])]
    huge = tensor("n", onnx.TensorProto.INT64, [2], [2**20, 2**20])
    made = node("ConstantOfShape", ["n"], ["c"]), node("ReduceSum", ["c"], ["d"], keepdims=0)
    fill = [*made, node("Add", ["image", "d"], ["logits"])]
    outside = tensor("n", onnx.TensorProto.FLOAT, [1], [1.0])
    outside.ClearField("float_data")
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="/etc/hostname")
    add = [node("Add", ["image", "n"], ["logits"])]
    bad = {
        "fixed": network(tmp_path / "fixed.onnx", good, initializers=ends, shape=(1, 3, 32, 32)),
        "scalar": network(tmp_path / "scalar.onnx", [node("ReduceSum", ["image"], ["logits"], keepdims=0)]),
        "classes": network(tmp_path / "classes.onnx", [node("Identity", ["image"], ["logits"])]),
        "fill": network(tmp_path / "fill.onnx", fill, initializers=[huge]),
        "outside": network(tmp_path / "outside.onnx", add, initializers=[outside]),
        "many": network(tmp_path / "many.onnx", good, initializers=ends, num_classes="1000000000", classes="[]"),
        "deep": network(tmp_path / "deep.onnx", good, initializers=ends, preprocessing="[" * 100_000),
        "side": network(
            tmp_path / "side.onnx", good, initializers=ends,
            preprocessing='{"mean": [0, 0, 0], "std": [1, 1, 1], "long_side": 1000000000}',
        ),
        "names": network(tmp_path / "names.onnx", good, initializers=ends, classes='[1, {"a": 2}]'),
    }  # fmt: skip
    for name, path in bad.items():
        with pytest.raises(ValueError, match=rf"{name}\.onnx") as found:
            ExportedPredictor(path, foreground=1)
        assert "\n" not in str(found.value)
    told = {"kind": '"segmenter"', "num_classes": "1000000000", "classes": "[]"}
    with pytest.raises(ValueError, match="says that it has 1000000000 classes"):
        segmentarium.load(network(tmp_path / "model.onnx", good, initializers=ends, **told))
    fine = network(tmp_path / "fine.onnx", good, initializers=ends, another_program='no JSON {"')
    assert ExportedPredictor(fine).classes == ("a", "b")
    for cut in (b"", b"\x08", fine.read_bytes()[:-40], os.urandom(200)):
        (tmp_path / "cut.onnx").write_bytes(cut)
        with pytest.raises(ValueError, match=r"cut\.onnx"):
            ExportedPredictor(tmp_path / "cut.onnx")
