"""Clips keep what they are: times, sound, aspect, colours, mirrors, transparency; cut ones are told, too large ones refused."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segmentarium.matting import reader as reading
from segmentarium.matting.frames import Turn
from segmentarium.matting.reader import Reader
from segmentarium.media.sources import VideoError

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'segmentarium[video]'")
KINDS = {
    "a.mp4": ("libx264", "yuv420p"),
    "a.mkv": ("libx264", "yuv420p"),
    "a.webm": ("libvpx-vp9", "yuv420p"),
    "a.ts": ("libx264", "yuv420p"),
    "a.avi": ("mjpeg", "yuvj420p"),
    "a.gif": ("gif", "rgb8"),
    "a.apng": ("apng", "rgb24"),
}


def film(path: Path, frames: Any, codec: str = "libx264", pixels: str = "yuv420p", **context: Any) -> Path:
    """A clip at ten frames a second; `context` is set on the encoder, colours on the frames, too."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options={"crf": "1"} if codec == "libx264" else {})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        for key, value in context.items():
            setattr(stream.codec_context, key, value)
        for pixels_ in frames:
            frame = av.VideoFrame.from_ndarray(pixels_, format="rgb24")
            matrix = {1: 1, 9: 9}.get(context.get("colorspace", 0))
            if matrix:
                frame = frame.reformat(format=pixels, dst_colorspace=matrix, dst_color_range=1)
            for key, value in context.items():
                if hasattr(frame, key):
                    setattr(frame, key, value)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def noise(count: int = 12, height: int = 48, width: int = 64) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_cut_clip_is_told_and_a_whole_one_is_not(tmp_path: Path, name: str) -> None:
    codec, pixels = KINDS[name]
    path = film(tmp_path / name, noise(), codec, pixels)
    with Reader(str(path), name) as reader:
        assert len(list(reader)) == 12
        assert reader.damage is None
    data = path.read_bytes()
    told = []
    for share in (0.5, 0.8, 0.97):
        path.write_bytes(data[: int(len(data) * share) | 1])  # not at the end of a packet of 188 bytes
        try:
            with Reader(str(path), name) as reader:
                list(reader)
                told.append(reader.damage is not None)
        except VideoError:  # the index of an MP4 stands at its end
            told.append(True)
    assert told == [True] * 3


def test_frames_have_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(tmp_path / "a.mp4", noise(2))
    monkeypatch.setattr(reading, "LARGEST_FRAME", 48 * 64 - 1)
    with (
        pytest.raises(VideoError, match=r"frames of 64 x 48 pixels|cannot be read|no frame"),
        Reader(str(path), "a.mp4") as reader,
    ):
        list(reader)


def test_a_playlist_is_no_clip(tmp_path: Path) -> None:
    film(tmp_path / "secret.ts", noise(3))
    for name, text in {
        "a.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "b.mp4": "ffconcat version 1.0\nfile secret.ts\n",
        "c.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError, match=f"{name} cannot be read as a video"):
            Reader(str(tmp_path / name), name)


def shown_as(path: Path, matrix: tuple[int, ...]) -> Path:
    """The same MP4 with another display matrix."""
    data = bytearray(path.read_bytes())
    place = data.find(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
    return path


ONE = 65536
MATRICES = {
    "mirrored": ((-ONE, 0, 0, 0, ONE, 0, 64 * ONE, 0, 1 << 30), Turn(mirrored=True)),
    "flipped": ((ONE, 0, 0, 0, -ONE, 0, 0, 48 * ONE, 1 << 30), Turn(flipped=True)),
    "turned": ((0, ONE, 0, -ONE, 0, 0, 48 * ONE, 0, 1 << 30), Turn(exchanged=True, mirrored=True)),
    "exchanged": ((0, ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), Turn(exchanged=True)),
}


def corners() -> np.ndarray:
    """(48, 64, 3): another grey in each quarter."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    for i, (rows, columns) in enumerate([(0, 0), (0, 32), (24, 0), (24, 32)]):
        pixels[rows : rows + 24, columns : columns + 32] = 30 + 60 * i
    return pixels


def quarters(pixels: np.ndarray) -> list[int]:
    """Which grey each quarter has, by rows."""
    height, width = pixels.shape[:2]
    places = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return [round((float(pixels[place].mean()) - 30) / 60) for place in places]


SEEN = {"mirrored": [1, 0, 3, 2], "flipped": [2, 3, 0, 1], "turned": [2, 0, 3, 1], "exchanged": [0, 2, 1, 3]}


@pytest.mark.parametrize("name", sorted(MATRICES))
def test_mirrors_and_turns_are_as_players_show_them(tmp_path: Path, name: str) -> None:
    from segmentarium.inference.video import open_frames
    from segmentarium.matting.frames import layout_of, planes_of, turn_of
    from segmentarium.media.sources import expand

    matrix, turn = MATRICES[name]
    path = shown_as(film(tmp_path / "a.mp4", [corners()] * 2), matrix)
    with open_frames(expand(path)[0]) as frames:
        assert quarters(next(iter(frames))) == SEEN[name]
    with Reader(str(path), "a", with_sound=False) as reader:
        frame = next(iter(reader))
        assert turn_of(frame) == turn
        layout = layout_of(frame)
        assert (layout.width, layout.height) == ((48, 64) if turn.exchanged else (64, 48))
        assert quarters(planes_of(frame, layout)[0][..., None]) == SEEN[name]


def tags(path: Path) -> tuple[Any, ...]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        aspect = stream.sample_aspect_ratio or Fraction(1)
        return int(frame.colorspace), int(frame.color_range), int(frame.color_primaries), int(frame.color_trc), aspect


HLG = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": 18, "sample_aspect_ratio": Fraction(4, 3)}
HD = {"colorspace": 1, "color_range": 1, "color_primaries": 1, "color_trc": 1}


@pytest.mark.parametrize("given", [HLG, HD], ids=["hlg", "hd"])
def test_colours_and_aspect_survive_both_verbs(tmp_path: Path, given: dict[str, Any]) -> None:
    from segmentarium.inference import Predictor
    from segmentarium.inference.video import segment_video
    from segmentarium.media.sources import expand
    from tests.unit.inference_material import Brightness
    from tests.unit.portrait_material import bright_portrait

    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:] = (218, 28, 13)
    path = film(tmp_path / "a.mp4", [pixels] * 3, **given)
    colours = [given[key] for key in ("colorspace", "color_range", "color_primaries", "color_trc")]
    expected = (*colours, given.get("sample_aspect_ratio", 1))
    assert tags(path) == expected
    bright_portrait("blur").clip(path, tmp_path / "p.mp4")
    assert tags(tmp_path / "p.mp4") == expected
    (overlay,) = segment_video(Predictor(Brightness()), expand(path)[0], tmp_path, ("overlay",)).files
    assert tags(overlay) == expected
    for file in (path, tmp_path / "p.mp4", overlay):  # nothing is painted: brightness and colour are the source's
        with av.open(str(file)) as container:
            frame = next(container.decode(video=0))
            seen = [float(np.frombuffer(plane, np.uint8)[0]) for plane in frame.planes]
        if file == path:
            first = seen
        assert np.abs(np.array(seen) - first).max() <= 2


def test_what_is_transparent_stays_so(tmp_path: Path) -> None:
    from PIL import Image

    from tests.unit.portrait_material import bright_portrait

    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("prores_ks", rate=10, options={"profile": "4444"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuva444p10le"
        pixels = np.full((48, 64, 4), 255, np.uint8)
        pixels[:, :24, 3] = 0
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        container.mux(stream.encode(None))
    portrait = bright_portrait("transparent")
    portrait.clip(tmp_path / "a.mov", tmp_path / "frames")
    alpha = np.asarray(Image.open(tmp_path / "frames" / "000000.png"))[..., 3]
    assert alpha[:, :22].max() <= 4
    assert alpha[:, 30:].min() >= 250
    result = portrait(pixels)
    assert result.pixels[:, :24].max() == 0
    assert result.pixels[:, 30:, 3].min() >= 250
    green = bright_portrait("green")(pixels)
    assert tuple(green.pixels[10, 5]) == (0, 128, 0)


def test_a_full_disk_leaves_no_part_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segmentarium.matting import writers
    from tests.unit.portrait_material import bright_portrait

    count = 0
    drawn = writers.rgba

    def full(frame: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(28, "No space left on device")
        return drawn(frame)

    monkeypatch.setattr(writers, "rgba", full)
    with pytest.raises(OSError, match="No space left"):
        bright_portrait("transparent").clip(film(tmp_path / "a.mp4", noise(6)), tmp_path / "frames")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_errors_of_encoders_name_the_file(tmp_path: Path) -> None:
    from segmentarium.matting.writers import encoding

    with pytest.raises(VideoError, match=r"b\.mp4 cannot be encoded"), encoding(tmp_path / "b.mp4"):
        raise av.error.PatchWelcomeError(1, "not yet implemented")
    with pytest.raises(OSError, match="full") as found, encoding(tmp_path / "b.mp4"):
        raise av.error.OSError(28, "full")
    assert not isinstance(found.value, ValueError)


def test_an_overlay_has_the_sound_where_it_was(tmp_path: Path) -> None:
    from segmentarium.inference import Predictor
    from segmentarium.inference.video import segment_video
    from segmentarium.media.sources import expand
    from tests.unit.inference_material import Brightness
    from tests.unit.portrait_material import write_clip

    path = write_clip(tmp_path / "a.mp4", noise(20), sound="aac")
    (overlay,) = segment_video(Predictor(Brightness()), expand(path)[0], tmp_path, ("overlay",)).files

    def heard(file: Path) -> tuple[float, float]:
        with av.open(str(file)) as container:
            frames = list(container.decode(audio=0))
            return float(frames[0].time), sum(frame.samples for frame in frames) / frames[0].sample_rate

    assert heard(overlay) == pytest.approx(heard(path), abs=0.03)
