"""Files are what they hold: photos of phones, clips of every container, animations of which one frame is taken, and numbers."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from segmentarium.data.finding import head_of, is_clip, is_picture, pictures_below
from segmentarium.data.image_io import ImageReadError, load_with_alpha, picture_shape, read_image
from segmentarium.inference import Predictor, predict
from segmentarium.matting.reader import Reader
from segmentarium.media.readers import LargePicture
from segmentarium.media.sources import Item, expand, to_array
from tests.unit.inference_material import Brightness, picture

# Four greys (30, 90, 150, 210 by rows, 96 x 64 pixels), the lower half erased, stored as a phone does that lies on its side: an
# `irot` box that turns them and, beside it, EXIF that says so once more.  By pillow-heif 1.8.1, which encodes:
#     image.save("turned.heic", quality=60, exif=exif.tobytes())  # exif[0x0112] = 6
HEIC = Path(__file__).with_name("turned.heic")


def expand_one(path: Path) -> Item:
    (item,) = expand(path)
    return item


def corners(pixels: np.ndarray) -> list[int]:
    """The greys of the quarters, by rows."""
    height, width = pixels.shape[:2]
    return [
        round(float(pixels[y, x, :3].mean()))
        for y in (height // 4, 3 * height // 4)
        for x in (width // 4, 3 * width // 4)
    ]


@pytest.mark.parametrize("name", ["photo.heic", "photo.HEIF", "photo", "photo.jpg"])
def test_a_phone_s_photo_is_read_turned_once(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pi_heif", reason="pi-heif is not installed: pip install 'segmentarium[heic]'")
    path = tmp_path / name
    path.write_bytes(HEIC.read_bytes())
    assert [item.kind for item in (expand_one(path), *expand(tmp_path))] == ["picture"] * 2
    assert pictures_below(tmp_path) == [path]
    assert picture_shape(path) == (64, 96)
    for pixels in (load_with_alpha(path), load_with_alpha(io.BytesIO(HEIC.read_bytes())), expand_one(path).load()):  # type: ignore[misc]
        assert pixels.shape == (96, 64, 4)
        assert np.abs(np.array(corners(pixels)) - [150, 30, 210, 90]).max() <= 2
        assert pixels[:, :30, 3].max() <= 2  # what was the lower half lies to the left
        assert pixels[:, 34:, 3].min() >= 250
    assert np.array_equal(np.asarray(read_image(path)), load_with_alpha(path)[..., :3])
    assert np.array_equal(LargePicture(path).open().array(0, 96), load_with_alpha(path)[..., :3])
    (result,) = predict(path, Predictor(Brightness()))
    assert np.asarray(result.cutout)[:, :30, 3].max() <= 2


def test_a_phone_s_photo_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    path = tmp_path / "photo.heic"
    path.write_bytes(HEIC.read_bytes())
    Image.fromarray(picture()).save(tmp_path / "plain.png")
    with pytest.raises(
        ImageReadError, match=r"photo\.heic is a HEIC or HEIF picture.*pip install 'segmentarium\[heic\]'"
    ):
        read_image(path)
    told: list[str] = []
    results = predict(tmp_path, Predictor(Brightness()), on_error=lambda name, error: told.append(str(error)))
    assert [result.name for result in results] == ["plain"]
    assert len(told) == 1


def test_a_damaged_photo_of_a_phone_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif", reason="pi-heif is not installed: pip install 'segmentarium[heic]'")
    (tmp_path / "photo.heic").write_bytes(HEIC.read_bytes()[:300])
    with pytest.raises(ImageReadError, match=r"photo\.heic cannot be read as a picture|photo\.heic is truncated"):
        read_image(tmp_path / "photo.heic")


def boxed(brand: bytes, *others: bytes) -> bytes:
    content = b"ftyp" + brand + bytes(4) + b"".join(others)
    return (len(content) + 4).to_bytes(4, "big") + content + b"\0\0\0\x08meta"


def test_brands_say_what_a_box_holds() -> None:
    for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis"):
        assert is_picture(boxed(brand, b"mif1", b"heic")), brand
        assert not is_clip(boxed(brand, b"mif1", b"heic")), brand
    for brand in (b"isom", b"mp42", b"qt  ", b"M4V ", b"3gp6"):
        assert is_clip(boxed(brand, b"isom", b"mp41")), brand
        assert not is_picture(boxed(brand, b"isom", b"mp41")), brand


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
@pytest.mark.parametrize("brand", [None, b"mif1", b"msf1"])
def test_avif_is_pillow_s(tmp_path: Path, brand: bytes | None) -> None:
    path = tmp_path / "a.bin"
    Image.fromarray(picture()).save(path, "AVIF", quality=95)
    if brand is not None:
        data = path.read_bytes()
        path.write_bytes(data[:8] + brand + data[12:])
    assert expand_one(path).kind == "picture"
    assert np.abs(np.asarray(read_image(path)).astype(int) - picture()).mean() < 3


@pytest.mark.parametrize("kind", ["PPM", "AVIF", "HEIF"])
def test_any_picture_goes_through_portrait_s_pipe(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: Any, kind: str
) -> None:
    from segmentarium.cli.main import main

    if kind == "HEIF":
        pytest.importorskip("pi_heif", reason="pi-heif is not installed: pip install 'segmentarium[heic]'")
        data = HEIC.read_bytes()
    elif kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    else:
        stream = io.BytesIO()
        Image.fromarray(picture(96, 64)).save(stream, kind)
        data = stream.getvalue()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(data))))  # type: ignore[arg-type]
    assert main(["portrait", "-", "--background", "green"]) == 0
    assert Image.open(io.BytesIO(capsysbinary.readouterr().out)).size == (64, 96)


# clips

CLIPS = {
    "mp4": ("libx264", "yuv420p"), "mov": ("libx264", "yuv420p"), "3gp": ("libx264", "yuv420p"), "avi": ("mjpeg", "yuvj420p"),
    "matroska": ("libx264", "yuv420p"), "webm": ("libvpx", "yuv420p"), "ogg": ("libvpx", "yuv420p"),
    "flv": ("libx264", "yuv420p"),
    "asf": ("wmv2", "yuv420p"), "mpegts": ("mpeg2video", "yuv420p"), "m2ts": ("mpeg2video", "yuv420p"),
    "mpeg": ("mpeg2video", "yuv420p"), "m4v": ("mpeg4", "yuv420p"), "ivf": ("libvpx", "yuv420p"), "nut": ("mpeg4", "yuv420p"),
    "mxf": ("mpeg2video", "yuv422p"), "rm": ("rv20", "yuv420p"), "wtv": ("mpeg2video", "yuv420p"), "h264": ("libx264", "yuv420p"),
    "dv": ("dvvideo", "yuv420p"), "yuv4mpegpipe": ("wrapped_avframe", "yuv420p"),
}  # fmt: skip


@pytest.mark.parametrize("container", sorted(CLIPS))
def test_clips_are_known_in_every_container_that_is_read(tmp_path: Path, container: str) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'segmentarium[video]'")
    codec, pixels = CLIPS[container]
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = tmp_path / "clip"
    options = {"mpegts_m2ts_mode": "1"} if container == "m2ts" else {}
    with av.open(str(path), "w", format={"m2ts": "mpegts"}.get(container, container), options=options) as file:
        stream: Any = file.add_stream(codec, rate=25)
        stream.width, stream.height = (720, 576) if container == "dv" else (176, 144)
        stream.pix_fmt = pixels
        frame = av.VideoFrame.from_ndarray(picture(stream.height, stream.width), format="rgb24").reformat(format=pixels)
        for _ in range(4):
            frame.pts = None
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert expand_one(path).kind == "video"
    assert [item.kind for item in expand(tmp_path)] == ["video"]
    assert not is_picture(head_of(path))
    with Reader(str(path), "clip") as reader:
        assert len(list(reader)) >= 3
    assert reader.damage is None


def test_old_films_begin_with_other_boxes_and_texts_are_none() -> None:
    for name in (b"moov", b"mdat", b"wide", b"free", b"skip"):
        assert is_clip(b"\0\0\0\x08" + name + bytes(64)), name
    assert is_clip(b"OggS\0\x02" + bytes(22) + b"\x01\x2a\x80theora\x03\x02\x01" + bytes(30))
    for data in (
        b"The free software that begins so is a text",
        b"but skip this",
        (b"G" + b"NU GENERAL PUBLIC LICENSE " * 8)[:189] + b"G" + b"o on" * 300,
        b"OggS\0\x02" + bytes(22) + b"\x01\x1e\x01vorbis" + bytes(30),  # sound
    ):
        assert not is_clip(data), data
        assert not is_picture(data), data


# animations


def animated(path: Path, count: int = 3) -> Path:
    frames = [Image.fromarray(np.roll(picture(), 7 * number, 1)) for number in range(count)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    return path


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "avif"])
def test_that_one_frame_is_taken_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture, ending: str) -> None:
    if ending == "avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    path = animated(tmp_path / f"a.{ending}")
    line = "of its 3 frames the first is taken"
    with caplog.at_level(logging.WARNING):
        (result,) = predict(path, Predictor(Brightness()))
        assert caplog.messages == [f"{path}: {line}"]
        (streamed,) = predict(path.read_bytes(), Predictor(Brightness()))
        assert caplog.messages[1:] == [f"<bytes>: {line}"]
    first = np.asarray(Image.open(path).convert("RGB"))
    assert np.array_equal(result.image, first)
    assert np.array_equal(streamed.image, first)


def test_a_still_picture_tells_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for ending in ("gif", "png", "webp", "jpg"):
        Image.fromarray(picture()).save(tmp_path / f"a.{ending}")
    pages = [Image.fromarray(picture())] * 2
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    assert len(list(predict(tmp_path, Predictor(Brightness())))) == 5
    assert caplog.messages == []


def test_an_animation_is_a_portrait_s_clip_whatever_it_is_called(tmp_path: Path) -> None:
    from segmentarium.cli.portrait import _animated

    for ending, kind in {"gif": "video", "png": "video", "webp": "picture"}.items():
        path = animated(tmp_path / f"a.{ending}").rename(tmp_path / f"{ending}.bin")
        assert _animated(expand_one(path)).kind == kind


# numbers


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64, np.uint32, np.uint64])
def test_whole_numbers_are_taken_as_those_of_files(tmp_path: Path, kind: Any) -> None:
    predictor = Predictor(Brightness(num_classes=5))
    for values in (picture(), picture().astype(np.uint16) * 4, picture().astype(np.int32) - 100):
        if values.min() < 0 and np.dtype(kind).kind == "u":
            continue
        given = values.astype(kind)
        grey = np.ascontiguousarray(given[..., 0])
        Image.fromarray(grey.astype(np.int32)).save(tmp_path / "grey.tif")
        wanted = np.asarray(read_image(tmp_path / "grey.tif"))
        assert np.array_equal(to_array(grey)[..., 0], wanted[..., 0])
        assert np.array_equal(to_array(Image.fromarray(grey.astype(np.int32))), wanted)
        mask = predictor(given).mask
        if kind in (np.int16, np.int32, np.int64):
            assert np.array_equal(predictor(torch.from_numpy(given).permute(2, 0, 1)).mask, mask)
        if values.dtype == np.uint8:
            assert np.array_equal(mask, predictor(values).mask)


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(TypeError, match="type complex64; give whole numbers, or floating point"):
        to_array(np.zeros((4, 4, 3), np.complex64))
