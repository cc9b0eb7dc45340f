"""`segmentarium segment` as a user calls it: files, messages, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentarium.cli import segment
from segmentarium.cli.main import main
from segmentarium.media.sources import Item
from segmentarium.registry import create_model
from segmentarium.weights import save

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A portrait network of two classes and a street network of five, untrained."""
    folder = tmp_path_factory.mktemp("weights")
    portrait = save(create_model("pphumanseg"), folder / "portrait.safetensors")
    street = save(create_model("pphumanseg", num_classes=5), folder / "street.safetensors")
    return {"portrait": str(portrait), "street": str(street)}


def photo(path: Path, size: tuple[int, int] = (80, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_a_photo_gives_overlay_mask_cutout_and_json(
    tmp_path: Path, weights: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = photo(tmp_path / "photo.jpg")
    assert main(["segment", str(path), "--model", weights["portrait"], "--out", str(tmp_path / "out")]) == 0
    assert names(tmp_path / "out") == ["photo.json", "photo_cutout.png", "photo_mask.png", "photo_overlay.png"]
    assert Image.open(tmp_path / "out" / "photo_cutout.png").mode == "RGBA"
    assert Image.open(tmp_path / "out" / "photo_mask.png").size == (80, 60)
    assert "1 of 1 done" in capsys.readouterr().out
    assert "torch (" in json.loads((tmp_path / "out" / "photo.json").read_text())["engine"]


def test_one_bad_file_is_reported_and_the_rest_go_on(
    tmp_path: Path, weights: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "in" / "a.png")
    photo(tmp_path / "in" / "c.png")
    (tmp_path / "in" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    words = [
        "segment",
        str(tmp_path / "in"),
        "--model",
        weights["street"],
        "--out",
        str(tmp_path / "out"),
        "--kinds",
        "mask",
    ]
    assert main(words) == 1
    assert names(tmp_path / "out") == ["_inputs.json", "a_mask.png", "c_mask.png"]
    told = capsys.readouterr()
    assert "b.png" in told.err
    assert "2 of 3 done" in told.out


def test_a_folder_that_is_interrupted_has_the_list_of_what_was_done(
    tmp_path: Path, weights: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        photo(tmp_path / "in" / f"{name}.png")
    do = segment._Job.do

    def interrupted(job: segment._Job, item: Item) -> list[Path]:
        if item.name == "c":
            raise KeyboardInterrupt
        return do(job, item)

    monkeypatch.setattr(segment._Job, "do", interrupted)
    words = ["segment", str(tmp_path / "in"), "--model", weights["street"], "--kinds", "mask"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 130
    inputs = json.loads((tmp_path / "out" / "_inputs.json").read_text())["inputs"]
    assert [Path(one["source"]).name for one in inputs] == ["a.png", "b.png"]


def test_nothing_done_is_exit_code_2(
    tmp_path: Path, weights: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    assert (
        main(["segment", str(tmp_path / "bad.jpg"), "--model", weights["street"], "--out", str(tmp_path / "out")]) == 2
    )
    assert "none of 1 inputs" in capsys.readouterr().err
    assert not names(tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["EMPTY"], "holds no pictures or videos"),
        (["nowhere.jpg"], "nowhere.jpg does not exist"),
        (["PHOTO", "--kinds", "mask,drawing"], "drawing"),
        (["PHOTO", "--kinds", "cutout"], "give foreground=CLASS (--foreground CLASS)"),
        (["PHOTO", "--tile", "huge"], "--tile is 'huge'"),
        (["PHOTO", "--tile", "7"], "tile is 7; give 32 pixels or more"),
        (["PHOTO", "--overlap", "x"], "--overlap is 'x'"),
        (["PHOTO", "--scales", "1,a"], "--scales is 'a'"),
        (["PHOTO", "--foreground", "cat"], "foreground is 'cat'"),
        (["PHOTO", "--model", "strete"], "no weights called 'strete'"),
    ],
)
def test_mistakes_are_named_and_end_in_exit_code_2(
    words: list[str], message: str, tmp_path: Path, weights: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": str(tmp_path / "empty"), "PHOTO": str(photo(tmp_path / "photo.png"))}
    words = [places.get(word, word) for word in words]
    assert main(["segment", "--model", weights["street"], "--out", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not names(tmp_path / "out")


def test_tiles_flips_scales_and_a_foreground(tmp_path: Path, weights: dict[str, str]) -> None:
    path = photo(tmp_path / "photo.png", (150, 100))
    words = [
        "segment",
        str(path),
        "--model",
        weights["street"],
        "--tile",
        "64",
        "--overlap",
        "16",
        "--flip",
        "--scales",
        "0.5,1",
    ]
    assert main([*words, "--foreground", "3", "--batch-size", "2", "--out", str(tmp_path / "out")]) == 0
    assert names(tmp_path / "out") == ["photo.json", "photo_cutout.png", "photo_mask.png", "photo_overlay.png"]
    facts = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert (facts["tile"], facts["flip"], facts["scales"]) == (64, True, [0.5, 1.0])


def test_large_pictures_take_the_way_in_rows(
    tmp_path: Path, weights: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = photo(tmp_path / "photo.png", (150, 100))
    words = ["segment", str(path), "--model", weights["street"], "--tile", "64", "--kinds", "mask,overlay"]
    assert main([*words, "--out", str(tmp_path / "memory")]) == 0
    monkeypatch.setattr("segmentarium.media.readers.LARGE", 1000)
    monkeypatch.setattr("segmentarium.inference.result.Result.save", _of_a_picture_in_memory)
    assert main([*words, "--out", str(tmp_path / "rows")]) == 0
    monkeypatch.setattr("segmentarium.media.readers.importlib.util.find_spec", lambda _: None)
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    assert "pip install 'segmentarium[large]'" in capsys.readouterr().err
    one, other = (np.asarray(Image.open(tmp_path / f / "photo_mask.png")) for f in ("memory", "rows"))
    assert (one == other).mean() > 0.999


def _of_a_picture_in_memory(*_: object, **__: object) -> None:
    raise AssertionError("the picture was in memory whole")


def test_same_names_in_several_folders_do_not_overwrite_each_other(tmp_path: Path, weights: dict[str, str]) -> None:
    photo(tmp_path / "in" / "a" / "x.png")
    photo(tmp_path / "in" / "b" / "X.png", (40, 50))
    words = [
        "segment",
        str(tmp_path / "in"),
        "--model",
        weights["street"],
        "--kinds",
        "mask",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 0
    sizes = {Image.open(p).size for p in (tmp_path / "out").rglob("*.png")}
    assert sizes == {(80, 60), (40, 50)}


def test_a_video_beside_a_photo(tmp_path: Path, weights: dict[str, str]) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'segmentarium[video]'")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for value in (0, 120, 250):
            pixels = np.full((48, 64, 3), value, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    path = photo(tmp_path / "photo.png")
    words = [
        "segment",
        str(tmp_path / "clip.mp4"),
        str(path),
        "--model",
        weights["portrait"],
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*words, "--kinds", "overlay,mask"]) == 0
    written = ["clip_mask.mkv", "clip_overlay.mp4", "photo_mask.png", "photo_overlay.png"]
    assert names(tmp_path / "out") == ["_inputs.json", *written]


@pytest.mark.slow
def test_the_program_itself(tmp_path: Path, weights: dict[str, str]) -> None:
    """In a process of its own, where the allocator setting of the command line is in force."""
    path = photo(tmp_path / "photo.png")
    run = subprocess.run(
        [sys.executable, "-m", "segmentarium", "segment", str(path), "--model", weights["portrait"], "--out", "out"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "see out" in run.stdout
    assert len(names(tmp_path / "out")) == 4


def test_a_filter_reads_bytes_and_writes_bytes(
    tmp_path: Path, weights: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    import io
    from types import SimpleNamespace

    data = photo(tmp_path / "photo.png").read_bytes()
    for kinds, mode in (([], "RGBA"), (["--kinds", "mask"], "P")):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        assert main(["segment", "-", "--model", weights["portrait"], *kinds]) == 0
        found = Image.open(io.BytesIO(capsysbinary.readouterr().out))
        assert (found.mode, found.size) == (mode, (80, 60))
    words = [
        "segment",
        str(tmp_path / "photo.png"),
        "--model",
        weights["portrait"],
        "--out",
        "-",
        "--kinds",
        "mask,json",
    ]
    assert main(words) == 2
    assert b"gives one file" in capsysbinary.readouterr().err


def test_results_lie_as_their_pictures_do_and_are_listed(tmp_path: Path, weights: dict[str, str]) -> None:
    photo(tmp_path / "in" / "a.png")
    photo(tmp_path / "in" / "day" / "a.png")
    (tmp_path / "in" / "day" / "b.png").write_bytes(b"no picture")
    words = ["segment", str(tmp_path / "in"), "--model", weights["portrait"], "--kinds", "mask", "--out"]
    assert main([*words, str(tmp_path / "out")]) == 1
    assert names(tmp_path / "out") == ["_inputs.json", "a_mask.png", "day"]
    assert names(tmp_path / "out" / "day") == ["a_mask.png"]
    told = {
        Path(one["source"]).relative_to(tmp_path / "in").as_posix(): one
        for one in json.loads((tmp_path / "out" / "_inputs.json").read_text())["inputs"]
    }
    assert told["day/a.png"]["files"] == [str(tmp_path / "out" / "day" / "a_mask.png")]
    assert "problem" in told["day/b.png"]


def test_a_folder_is_watched(tmp_path: Path, weights: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from segmentarium.media import sources

    folder = tmp_path / "in"
    photo(folder / "first.png")
    looks = iter(range(9))

    def sleep(_: float) -> None:
        look = next(looks)
        if look == 1:
            photo(folder / "later.png")
        if look == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(sources.time, "sleep", sleep)
    out = folder / "out"
    words = ["segment", str(folder), "--model", weights["portrait"], "--kinds", "mask", "--out", str(out), "--watch"]
    assert main(words) == 0
    assert names(out) == ["_inputs.json", "first_mask.png", "later_mask.png"]
    (out / "first_mask.png").unlink()
    looks = iter(range(2, 9))
    assert main(words) == 0
    assert names(out) == ["_inputs.json", "later_mask.png"]  # what was done before is left out


def test_bytes_and_open_files_are_pictures(tmp_path: Path, weights: dict[str, str]) -> None:
    import io

    from segmentarium import predict

    path = photo(tmp_path / "photo.png")
    data = path.read_bytes()
    with path.open("rb") as file:
        given = [path, data, bytearray(data), io.BytesIO(data), file]
        found = list(predict(given, weights["portrait"]))
    assert all((one.mask == found[0].mask).all() for one in found)
    assert [one.name for one in found] == ["photo", "image", "image-2", "image-3", "photo-2"]
    with pytest.raises(TypeError, match="open it for bytes"), path.with_suffix(".txt").open("w+") as text:
        predict(text, weights["portrait"])
    with pytest.raises(ValueError, match="is empty"):
        list(predict(b"", weights["portrait"]))
