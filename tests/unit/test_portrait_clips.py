"""Clips: times, sound, alpha, backgrounds, damaged ends, pipes, and being stopped."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmentarium.matting import clip as clip_module
from segmentarium.matting.clip import FrameWorker, _steps, convert_clip, mask_size, window_of
from segmentarium.matting.frames import Layout, layout_of, plane_array, rgb_to_planes
from segmentarium.matting.reader import Reader
from segmentarium.media.sources import VideoError
from segmentarium.media.stages import Consumer, Prefetcher
from tests.unit.portrait_material import BEHIND, PERSON, bright_portrait, moving, soft_disc, write_clip

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'segmentarium[video]'")
COUNT = 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", moving(COUNT), sound="aac")


def frames_of(path: Path, layout: str = "rgb24") -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format=layout) for frame in container.decode(video=0)]


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


def sound_of(path: Path) -> tuple[str, list[bytes]] | None:
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        return stream.codec_context.name, [bytes(packet) for packet in container.demux(stream) if packet.size]


def test_a_clip_keeps_person_times_and_sound(clip: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    result = bright_portrait("#00c800").clip(clip, tmp_path / "out.mp4", progress=lambda *now: seen.append(now))
    assert (result.frames, result.damage, result.interrupted) == (COUNT, None, False)
    assert seen == [(i + 1, COUNT) for i in range(COUNT)]
    assert times_of(tmp_path / "out.mp4") == times_of(clip)
    assert sound_of(tmp_path / "out.mp4") == sound_of(clip)
    for number, (frame, source) in enumerate(zip(frames_of(tmp_path / "out.mp4"), frames_of(clip), strict=True)):
        inside = soft_disc(96, 128, 40 + 2 * number, 50, 18) == 1
        outside = soft_disc(96, 128, 40 + 2 * number, 50, 32) == 0
        assert np.abs(frame[inside].astype(int) - source[inside]).mean() < 4
        assert np.abs(frame[outside].astype(int) - [0, 200, 0]).mean() < 6
    assert result.share == pytest.approx(np.pi * 24**2 / (96 * 128), abs=0.02)


def test_a_variable_frame_rate_stays_variable(tmp_path: Path) -> None:
    times = [0, 40, 55, 200, 1000, 1003, 1500, 1540]
    source = write_clip(tmp_path / "vfr.mkv", moving(len(times)), times=times)
    bright_portrait("blur").clip(source, tmp_path / "out.mp4")
    np.testing.assert_allclose(times_of(tmp_path / "out.mp4"), np.array(times) / 1000, atol=1e-3)
    assert sound_of(tmp_path / "out.mp4") is None  # no sound is fine


def test_transparent_webm_has_alpha_and_sound_in_its_own_codec(clip: Path, tmp_path: Path) -> None:
    bright_portrait("transparent").clip(clip, tmp_path / "out.webm")
    name, packets = sound_of(tmp_path / "out.webm") or ("", [])
    assert name == "opus"
    assert len(packets) > 10
    decoder: Any = av.CodecContext.create("libvpx-vp9", "r")  # FFmpeg's own decoder leaves the alpha out
    with av.open(str(tmp_path / "out.webm")) as container:
        stream = container.streams.video[0]
        decoded = [frame for packet in container.demux(stream) for frame in decoder.decode(packet)]
    assert len(decoded) == COUNT
    assert decoded[0].format.name == "yuva420p"
    pixels = decoded[3].to_ndarray(format="rgba")
    assert pixels[50, 46, 3] > 245
    assert pixels[5, 120, 3] < 10
    assert np.abs(pixels[50, 46, :3].astype(int) - PERSON).max() < 25


def test_transparent_prores_and_png(clip: Path, tmp_path: Path) -> None:
    bright_portrait("transparent").clip(clip, tmp_path / "out.mov")
    with av.open(str(tmp_path / "out.mov")) as container:
        assert container.streams.video[0].codec_context.name == "prores"
        pixels = next(container.decode(video=0)).to_ndarray(format="rgba")
    assert pixels[50, 40, 3] > 250
    assert pixels[5, 120, 3] < 5
    bright_portrait("transparent").clip(clip, tmp_path / "frames", alpha_format="png")
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == [*(f"{i:06d}.png" for i in range(COUNT)), "times.txt"]
    first = Image.open(tmp_path / "frames" / "000000.png")
    assert first.mode == "RGBA"
    assert first.getpixel((120, 5)) == (0, 0, 0, 0)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "frames" / "times.txt"), times_of(clip), atol=1e-5)


def test_a_video_behind_is_repeated(clip: Path, tmp_path: Path) -> None:
    colours = [(200, 0, 0)] * 3 + [(0, 0, 200)] * 3
    behind = write_clip(tmp_path / "behind.mp4", [np.full((64, 200, 3), one, np.uint8) for one in colours])
    bright_portrait(str(behind)).clip(clip, tmp_path / "out.mp4")
    corners = [frame[4:12, -12:-4].mean((0, 1)) for frame in frames_of(tmp_path / "out.mp4")]
    for number, corner in enumerate(corners):
        np.testing.assert_allclose(corner, colours[number % 6], atol=25)


def test_an_image_behind_keeps_its_colours(clip: Path, tmp_path: Path) -> None:
    room = np.full((50, 90, 3), (180, 90, 30), np.uint8)
    bright_portrait(room).clip(clip, tmp_path / "out.mp4")
    np.testing.assert_allclose(frames_of(tmp_path / "out.mp4")[5][4:12, -12:-4].mean((0, 1)), [180, 90, 30], atol=5)


def test_the_blur_of_a_clip_hides_what_is_behind(clip: Path, tmp_path: Path) -> None:
    bright_portrait("blur:5").clip(clip, tmp_path / "out.mp4")
    frame = frames_of(tmp_path / "out.mp4")[0].astype(float)
    assert np.abs(frame[:, -30:].mean((0, 1)) - BEHIND).max() < 10
    ring = (soft_disc(96, 128, 40, 50, 36) > 0.5) & (soft_disc(96, 128, 40, 50, 30) < 0.5)
    assert np.abs(frame[ring] - BEHIND).mean() < 14


@pytest.mark.parametrize("layout", [Layout(2, 2, "601", False), Layout(2, 2, "709", True)])
def test_planes_are_what_ffmpeg_makes_of_the_colour(layout: Layout) -> None:
    grey = rgb_to_planes(np.full((2, 2, 3), 255, np.uint8), layout)
    assert (grey[0][0, 0], grey[1][0, 0], grey[2][0, 0]) == (255 if layout.full else 235, 128, 128)
    black = rgb_to_planes(np.zeros((2, 2, 3), np.uint8), layout)
    assert black[0][0, 0] == (0 if layout.full else 16)


def test_a_broken_tail_keeps_what_came_before(tmp_path: Path) -> None:
    """Matroska has its head in front, as phones' and cameras' streams have."""
    source = write_clip(tmp_path / "whole.mkv", moving(40), sound="aac")
    data = source.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    result = bright_portrait("blur").clip(tmp_path / "cut.mkv", tmp_path / "out.mp4")
    assert 5 < result.frames < 40
    assert len(frames_of(tmp_path / "out.mp4")) == result.frames


def test_a_shorter_clip_than_promised_is_told(tmp_path: Path) -> None:
    source = tmp_path / "front.mp4"
    with av.open(str(source), "w", container_options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "5", "crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for frame in moving(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    data = source.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    result = bright_portrait("red").clip(tmp_path / "cut.mp4", tmp_path / "out.mp4")
    assert result.damage is not None
    assert "cut.mp4" in result.damage
    assert 5 < len(frames_of(tmp_path / "out.mp4")) == result.frames < 30


def test_what_is_no_clip_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("noise.mp4", "empty.mp4"):
        with pytest.raises(VideoError, match=name):
            bright_portrait().clip(tmp_path / name, tmp_path / "out" / "x.mp4")
    assert not (tmp_path / "out").exists()


def test_targets_are_checked_first(clip: Path, tmp_path: Path) -> None:
    for background, name in (("red", "a.txt"), ("transparent", "a.mp4"), ("red", "folder")):
        with pytest.raises(ValueError, match="clips are written as"):
            bright_portrait(background).clip(clip, tmp_path / name)
    with pytest.raises(ValueError, match="'gifv'"):
        bright_portrait("transparent").clip(clip, tmp_path / "a.webm", alpha_format="gifv")


def test_an_animated_gif_is_a_clip(tmp_path: Path) -> None:
    frames = [Image.fromarray(frame) for frame in moving(5)]
    frames[0].save(
        tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[100, 300, 100, 50, 200], loop=0
    )
    result = bright_portrait("#00c800").clip(tmp_path / "a.gif", tmp_path / "out.mp4")
    assert result.frames == 5
    np.testing.assert_allclose(np.diff(times_of(tmp_path / "out.mp4")), [0.1, 0.3, 0.1, 0.05], atol=0.011)


def test_odd_and_tiny_frames(tmp_path: Path) -> None:
    for height, width in ((35, 51), (1, 1), (2, 9)):
        source = write_clip(
            tmp_path / f"{width}.mkv", [np.full((height, width, 3), 255, np.uint8)] * 3, codec="ffv1", pixels="bgr0"
        )
        bright_portrait("blur").clip(source, tmp_path / "out.mp4", overwrite=True)
        frames = frames_of(tmp_path / "out.mp4")
        assert len(frames) == 3
        assert frames[0].shape == (max(2, height - height % 2), max(2, width - width % 2), 3)
        assert frames[0].min() > 240


def test_stopping_completes_the_file(clip: Path, tmp_path: Path) -> None:
    count = [0]

    def after_five() -> bool:
        count[0] += 1
        return count[0] == 5

    result = bright_portrait().clip(clip, tmp_path / "out.mp4", stop=after_five)
    assert result.interrupted
    assert len(frames_of(tmp_path / "out.mp4")) == result.frames == 5

    def interrupt(done: int, _: int | None) -> None:
        if done == 4:
            raise KeyboardInterrupt

    result = bright_portrait().clip(clip, tmp_path / "two.mp4", progress=interrupt)
    assert result.interrupted
    assert len(frames_of(tmp_path / "two.mp4")) == result.frames == 4


def test_y4m_in_y4m_out_and_png_out() -> None:
    head = b"YUV4MPEG2 W128 H96 F30000:1001 Ip A1:1 C420mpeg2\n"
    body = b""
    for frame in moving(4):
        planes = rgb_to_planes(frame, Layout(128, 96, "601", False))
        body += b"FRAME\n" + b"".join(plane.tobytes() for plane in planes)
    out = io.BytesIO()
    result = convert_clip(bright_portrait("red"), io.BytesIO(head + body), out)
    assert result.frames == 4
    with av.open(io.BytesIO(out.getvalue()), format="yuv4mpegpipe") as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 4
    np.testing.assert_allclose(frames[1][5, 120], [255, 0, 0], atol=4)
    out = io.BytesIO()
    convert_clip(bright_portrait("transparent"), io.BytesIO(head + body), out)
    assert out.getvalue().count(b"\x89PNG\r\n\x1a\n") == 4


@pytest.mark.parametrize("background", ["blur", "blur:8", "#204060", "transparent"])
def test_the_window_of_the_person_gives_what_the_whole_frame_gives(
    background: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_clip(tmp_path / "wide.mp4", moving(3, 144, 256))

    def planes() -> list[np.ndarray]:
        portrait, found = bright_portrait(background), []
        with Reader(str(source), "clip") as reader:
            frames = [frame for frame in reader if hasattr(frame, "planes")]
            layout = layout_of(frames[0])
            worker = FrameWorker(portrait, layout)
            for step in _steps(reader, iter(frames), layout, mask_size(portrait, layout)):
                frame, share = worker.composite(worker.segment(step))
                found += [plane_array(plane).astype(int) for plane in frame.planes] + [np.array([[share * 1000]])]
        return found

    narrow = planes()
    monkeypatch.setattr(clip_module, "MARGIN", 10**6)
    for one, other in zip(narrow, planes(), strict=True):
        assert np.abs(one - other).max() <= 3
        assert np.abs(one - other).mean() < 0.1


def test_windows_are_even_in_the_frame_and_hold_the_person() -> None:
    probability = np.zeros((180, 320), np.float32)
    assert window_of(probability, (720, 1280)) is None
    probability[100:120, 200:210] = 0.5
    window = window_of(probability, (720, 1280))
    assert window is not None
    assert window.small == (slice(84, 136), slice(184, 226))
    assert window.large == (slice(336, 544), slice(736, 904))
    assert window.halved == (slice(168, 272), slice(368, 452))
    odd = window_of(probability, (480, 854))  # 854 / 320 is no whole number: all columns, and rows by threes
    assert odd is not None
    assert odd.large == (slice(224, 368), slice(0, 854))
    assert all(edge.start % 2 == edge.stop % 2 == 0 for edge in odd.large)


def test_queues_are_short_and_errors_arrive() -> None:
    given = []
    with Prefetcher(given.append(i) or i for i in range(1000)) as ahead:
        assert next(iter(ahead)) == 0
    assert len(given) < 12

    def fails(_: int) -> None:
        raise OSError("full")

    behind = Consumer(fails)
    with behind:
        behind.put(1)
        with pytest.raises(OSError, match="full"):
            behind.finish()


def test_an_error_of_the_encoder_leaves_no_file(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("segmentarium.matting.writers.FileWriter.frame", full_disk)
    with pytest.raises(OSError, match="No space left"):
        bright_portrait().clip(clip, tmp_path / "out" / "x.mp4")
    assert not list((tmp_path / "out").iterdir())


def test_a_webcam_live_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'segmentarium[video]'")
    from segmentarium.matting.clip import live

    class FakeCamera:
        def __init__(self, number: int) -> None:
            self.there, self.frames = number == 0, iter(moving(6))

        def isOpened(self) -> bool:
            return self.there

        def get(self, _: int) -> float:
            return 30.0

        def read(self) -> tuple[bool, Any]:
            frame = next(self.frames, None)
            return frame is not None, None if frame is None else np.ascontiguousarray(frame[..., ::-1])

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    result = bright_portrait("red").clip(0, tmp_path / "out.mp4")
    assert result.frames == len(frames_of(tmp_path / "out.mp4")) == 6
    with pytest.raises(VideoError, match="webcam 7 cannot be opened"):
        bright_portrait("red").clip(7, tmp_path / "no.mp4")
    shown: list[np.ndarray] = []
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "destroyWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, frame: shown.append(frame))
    monkeypatch.setattr(cv2, "waitKey", lambda _: -1)
    assert live(bright_portrait("red"), 0, "window").frames == len(shown) == 6
    np.testing.assert_allclose(shown[2][5, 120], [0, 0, 255], atol=4)
    with pytest.raises(ValueError, match="shows no transparency"):
        live(bright_portrait("transparent"), 0, "window")


def test_missing_windows_and_virtual_cameras_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'segmentarium[video]'")
    from segmentarium.matting.writers import PreviewWindow, VirtualCamera

    def no_window(*_: object) -> None:
        raise cv2.error("not implemented")

    monkeypatch.setattr(cv2, "namedWindow", no_window)
    with pytest.raises(ImportError, match="--to files"):
        PreviewWindow()
    monkeypatch.setitem(__import__("sys").modules, "pyvirtualcam", None)
    with pytest.raises(ImportError, match="pip install pyvirtualcam"):
        VirtualCamera(64, 48, 30.0)


@pytest.mark.parametrize("delay", [0, 90])
def test_a_clip_whose_clock_runs_begins_at_zero(tmp_path: Path, delay: int) -> None:
    """A transport stream recorded nine hours after the clock was set; the sound, or the picture, may come first."""
    clock, rate = 30_000, 48_000
    source = tmp_path / "recorded.ts"
    with av.open(str(source), "w", format="mpegts") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "12"})
        video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        tone = container.add_stream("mp2", rate=rate)
        wave = (8000 * np.sin(np.arange(rate // 2) / 20)).astype(np.int16)[None]
        samples = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        samples.sample_rate, samples.pts, samples.time_base = rate, clock * rate, Fraction(1, rate)
        for number, frame in enumerate(moving(COUNT)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = 1000 * clock + delay + 40 * number, Fraction(1, 1000)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        container.mux(tone.encode(samples))
        container.mux(tone.encode(None))
    assert min(times_of(source)) >= clock
    with av.open(str(source)) as container:
        starts = {stream.type: float(stream.start_time * stream.time_base) for stream in container.streams}
    bright_portrait("blur").clip(source, tmp_path / "out.mkv")
    expected = np.array(times_of(source)) - min(starts.values())
    np.testing.assert_allclose(times_of(tmp_path / "out.mkv"), expected, atol=2e-3)
    assert expected[0] < 0.2
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert container.duration < 0.8e6
        first = next(container.decode(audio=0))
        assert float(first.time) == pytest.approx(starts["audio"] - min(starts.values()), abs=2e-3)
    bright_portrait("transparent").clip(source, tmp_path / "frames", alpha_format="png")
    np.testing.assert_allclose(np.loadtxt(tmp_path / "frames" / "times.txt"), expected, atol=1e-4)
