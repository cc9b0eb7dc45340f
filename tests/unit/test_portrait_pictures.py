"""Portraits of pictures: every background, every odd size, files in rows, and what cannot be."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentarium.cli import portrait as command_line
from segmentarium.cli.main import main
from segmentarium.data.image_io import ImageReadError
from segmentarium.inference import Predictor
from segmentarium.matting import Portrait
from segmentarium.media import sources
from tests.unit.inference_material import Brightness
from tests.unit.portrait_material import BEHIND, PERSON, bright_portrait, scene, soft_disc, write_clip


def photo(path: Path, height: int = 120, width: int = 160) -> Path:
    Image.fromarray(scene(soft_disc(height, width, width / 2, height / 2, height / 4))).save(path)
    return path


def test_each_background_of_a_picture() -> None:
    truth = soft_disc(120, 160, 80, 60, 35)
    image = scene(truth, noise=0)
    green = bright_portrait("#00ff00")(image)
    np.testing.assert_array_equal(green.pixels[5, 5], [0, 255, 0])
    np.testing.assert_array_equal(green.pixels[60, 80], image[60, 80])
    assert green.share == pytest.approx(truth.mean(), abs=0.01)
    clear = bright_portrait("transparent")(image)
    assert clear.image.mode == "RGBA"
    np.testing.assert_array_equal(clear.pixels[5, 5], [0, 0, 0, 0])  # gone, not only hidden
    np.testing.assert_array_equal(clear.pixels[60, 80], [*image[60, 80], 255])
    blurred = bright_portrait("blur")(image)
    assert np.abs(blurred.pixels[5, 5] - BEHIND).max() < 14


def test_nobody_is_there() -> None:
    result = bright_portrait("#0000ff")(np.zeros((50, 70, 3), np.uint8))
    assert result.nobody
    assert (result.pixels == [0, 0, 255]).all()
    everything = bright_portrait("blur")(np.full((50, 70, 3), 255, np.uint8))
    assert everything.share == 1
    assert (everything.pixels == 255).all()


def test_nobody_in_what_comes_through_a_pipe_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given, clip = io.BytesIO(), write_clip(tmp_path / "dark.mkv", [np.zeros((48, 64, 3), np.uint8)] * 3)
    Image.new("RGB", (64, 48)).save(given, "PNG")
    monkeypatch.setattr(command_line, "_portrait", lambda *_, **__: bright_portrait("green"))
    for name, content in (("out.png", given.getvalue()), ("out.mp4", clip.read_bytes())):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))  # type: ignore[arg-type]
        assert main(["portrait", "-", "--out", str(tmp_path / name)]) == 0
        assert "nobody found; all of it is background" in capsys.readouterr().err
        assert (tmp_path / name).is_file()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3), (33, 47)])
@pytest.mark.parametrize("background", ["blur", "transparent", "red"])
def test_tiny_and_narrow_pictures(size: tuple[int, int], background: str) -> None:
    for value in (0, 255):
        result = bright_portrait(background)(np.full((*size, 3), value, np.uint8))
        assert result.pixels.shape[:2] == size
        assert result.share == value / 255


def test_twenty_thousand_pixels_wide_in_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segmentarium.matting.picture_files.LARGE", 1_000_000)
    truth = soft_disc(120, 20_000, 10_000, 60, 50)
    Image.fromarray(scene(truth, noise=0)).save(tmp_path / "wide.png")
    portrait = bright_portrait("transparent")
    monkeypatch.setattr(Portrait, "__call__", None)  # the picture is never in memory whole
    share = portrait.file(tmp_path / "wide.png", tmp_path / "out.png")
    assert share < 0.05
    with Image.open(tmp_path / "out.png") as written:
        assert written.size == (20_000, 120)
        assert written.getpixel((10, 60)) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match=r"as \.png"):
        bright_portrait("red").file(tmp_path / "wide.png", tmp_path / "out.jpg")


def test_rows_from_a_file_are_what_memory_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = photo(tmp_path / "photo.png", 300, 400)
    portrait = bright_portrait("blur")
    whole = portrait(path).pixels
    monkeypatch.setattr("segmentarium.matting.picture_files.LARGE", 1000)
    portrait.file(path, tmp_path / "rows.png")
    assert np.abs(np.asarray(Image.open(tmp_path / "rows.png")).astype(int) - whole).mean() < 0.5


def test_files_in_their_formats(tmp_path: Path) -> None:
    path = photo(tmp_path / "photo.png")
    for name in ("a.jpg", "a.png", "a.webp", "a.tif"):
        bright_portrait("red").file(path, tmp_path / name)
        with Image.open(tmp_path / name) as written:
            np.testing.assert_allclose(np.asarray(written.convert("RGB"))[3, 3], [255, 0, 0], atol=6)
            np.testing.assert_allclose(np.asarray(written.convert("RGB"))[60, 80], PERSON, atol=24)
    for name, message in (("b.jpg", "holds no transparency"), ("b.xyz", "pictures are written as")):
        with pytest.raises(ValueError, match=message):
            bright_portrait("transparent").file(path, tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jpg", "a.png", "a.tif", "a.webp", "photo.png"]


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "letter.jpg").write_text("Dear reader, this is text.", encoding="utf-8")
    with pytest.raises(ImageReadError, match=r"letter\.jpg"):
        bright_portrait().file(tmp_path / "letter.jpg", tmp_path / "out.jpg")
    assert not (tmp_path / "out.jpg").exists()


def test_a_model_must_say_who_stays() -> None:
    with pytest.raises(ValueError, match="foreground"):
        Portrait("blur", Predictor(Brightness(num_classes=4)))
    with pytest.raises(TypeError, match="has its options already"):
        Portrait("blur", Predictor(Brightness()), engine="torch")


def test_the_shipped_model_cuts_the_astronaut_out() -> None:
    """A clean edge at the head: the backdrop beside it is gone, the face is whole."""
    path = Path(__file__).resolve().parents[2] / "docs" / "images" / "astronaut.jpg"
    result = Portrait("transparent")(path)
    alpha = result.alpha
    assert alpha[40:140, 190:250].min() > 200  # head and face
    assert alpha[:120, 330:420].max() == 0  # the backdrop right of the head
    assert 0.3 < result.share < 0.75


def test_high_quality_is_another_network_for_photos_and_none_for_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    bright = bright_portrait("green").predictor

    def predictor(model: object, **_: object) -> object:
        made.append(model)
        return bright

    monkeypatch.setattr("segmentarium.matting.portrait.predictor_for", predictor)
    portrait = Portrait("green", quality="high")
    assert made == ["person_large"]
    assert portrait.for_clips() is not portrait
    assert made == ["person_large", "person"]
    standard = Portrait("green")
    assert standard.for_clips() is standard


def test_without_the_large_network_the_standard_one_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bright = bright_portrait("green").predictor

    def predictor(model: object, **_: object) -> object:
        if model == "person_large":
            raise FileNotFoundError("no weights at person_large.safetensors")
        return bright

    monkeypatch.setattr("segmentarium.matting.portrait.predictor_for", predictor)
    assert not Portrait("green", quality="high")(np.full((40, 60, 3), 255, np.uint8)).nobody
    assert "person_large cannot be had (no weights at" in caplog.text
    with pytest.raises(ValueError, match="a model of your own"):
        Portrait("green", "mine.onnx", quality="high")
    with pytest.raises(ValueError, match="give standard or high"):
        Portrait("green", quality="best")  # type: ignore[arg-type]


def test_what_was_erased_stays_erased_on_every_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    image = np.dstack((scene(soft_disc(64, 96, 48, 32, 24)), np.full((64, 96), 255, np.uint8)))
    image[:, :48, 3] = 0
    Image.fromarray(image).save(tmp_path / "half.png")
    data = (tmp_path / "half.png").read_bytes()
    monkeypatch.setattr(sources, "download", lambda _: io.BytesIO(data))
    found = [bright_portrait("transparent")("https://somewhere.org/half.png").pixels]
    words = ["portrait", "--background", "transparent", "--out", "-"]
    assert main([*words, str(tmp_path / "half.png")]) == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))  # type: ignore[type-var]
    assert main([*words, "-"]) == 0
    written = capfdbinary.readouterr().out
    second = written.rindex(b"\x89PNG")
    found += [np.asarray(Image.open(io.BytesIO(part))) for part in (written[:second], written[second:])]
    assert [pixels[..., 3].max() for pixels in (one[:, :48] for one in found)] == [0, 0, 0]
