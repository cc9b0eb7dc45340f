"""`segmentarium portrait` as a user calls it: files, pipes, messages, exit codes, and the signal that ends a clip."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from segmentarium.cli.main import main
from segmentarium.registry import create_model
from segmentarium.weights import save
from tests.unit.portrait_material import moving, scene, soft_disc, write_clip

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'segmentarium[video]'")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save(create_model("pphumanseg"), tmp_path_factory.mktemp("weights") / "portrait.safetensors"))


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene(soft_disc(60, 80, 40, 30, 20))).save(path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_folder_of_everything(tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    photo(tmp_path / "in" / "a.jpg")
    photo(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "c.jpg").write_text("this is a text", encoding="utf-8")
    write_clip(tmp_path / "in" / "d.mp4", moving(4), sound="aac")
    frames = [Image.fromarray(frame) for frame in moving(3)]
    frames[0].save(tmp_path / "in" / "e.gif", save_all=True, append_images=frames[1:], duration=100)
    words = ["portrait", str(tmp_path / "in"), "--model", weights, "--engine", "torch", "--out", str(tmp_path / "out")]
    assert main([*words, "--background", "navy"]) == 1
    told = capsys.readouterr().err
    assert "c.jpg" in told
    assert "4 of 5 done" in told
    assert "d.mp4: 4 frames" in told
    assert names(tmp_path / "out") == ["_inputs.json", "a.jpg", "b.png", "d.mp4", "e.mp4"]
    with av.open(str(tmp_path / "out" / "d.mp4")) as container:
        assert len(container.streams.audio) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.jpg"], "nowhere.jpg does not exist"),
        (["PHOTO", "--background", "blurred"], "background is 'blurred'"),
        (["PHOTO", "--background", "beach.jpg"], "background beach.jpg does not exist"),
        (["PHOTO", "--out", "x.txt"], "pictures are written as"),
        (["PHOTO", "--background", "transparent", "--out", "x.jpg"], "holds no transparency"),
        (["PHOTO", "PHOTO", "--out", "x.png"], "is one file and there are 2 sources"),
        (["PHOTO", "--to", "window"], "is for a webcam"),
        (["-", "PHOTO"], "give it as the only source"),
        (["PHOTO", "--model", "persn"], "no weights called 'persn'"),
    ],
)
def test_mistakes_are_named(
    words: list[str],
    message: str,
    tmp_path: Path,
    weights: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = photo(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    assert main(["portrait", "--model", weights, *(str(path) if word == "PHOTO" else word for word in words)]) == 2
    assert message in capsys.readouterr().err
    assert names(tmp_path) == ["photo.jpg"]


def run(*words: str, given: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "segmentarium", "portrait", "-", "--engine", "torch", *words]
    return subprocess.run(command, input=given, capture_output=True, check=False, timeout=300)


def test_a_picture_through_a_pipe(tmp_path: Path, weights: str) -> None:
    given = photo(tmp_path / "a.jpg").read_bytes()
    done = run("--model", weights, "--background", "transparent", given=given)
    assert done.returncode == 0, done.stderr
    (tmp_path / "out.png").write_bytes(done.stdout)
    with Image.open(tmp_path / "out.png") as image:
        assert (image.mode, image.size) == ("RGBA", (80, 60))


def test_sigterm_leaves_a_clip_that_plays(tmp_path: Path, weights: str) -> None:
    clip = write_clip(tmp_path / "clip.mp4", moving(30) * 10)
    command = [sys.executable, "-m", "segmentarium", "portrait", str(clip), "--model", weights, "--engine", "torch"]
    process = subprocess.Popen([*command, "--out", "out"], cwd=tmp_path, stderr=subprocess.PIPE, env=os.environ)
    until = time.monotonic() + 200
    while time.monotonic() < until and process.poll() is None:
        if (tmp_path / "out").exists() and list((tmp_path / "out").iterdir()):
            break  # the file was opened: frames are on their way
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=200)
    assert process.returncode == 130, told
    assert names(tmp_path / "out") == ["clip.mp4"]
    with av.open(str(tmp_path / "out" / "clip.mp4")) as container:
        count = sum(1 for _ in container.decode(video=0))
    assert 0 < count < 300
