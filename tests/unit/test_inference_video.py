"""Videos: every frame, at its time, in all forms of output; damaged ones are named."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from segmentarium.inference import Predictor, predict
from segmentarium.inference import video as module
from segmentarium.inference.video import segment_video
from segmentarium.media.sources import VideoError, expand
from tests.unit.inference_material import Brightness

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'segmentarium[video]'")
FRAMES = 12


def frame(number: int, height: int = 64, width: int = 96) -> np.ndarray:
    """White from the left, wider with every frame."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : 8 * (number + 1) // 2] = 255
    return pixels


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30000, 1001), options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(number), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def frames_of(path: Path, layout: str) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [f.to_ndarray(format=layout) for f in container.decode(video=0)]


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(f.time or 0) for f in container.decode(video=0)]


def test_round_trip_of_a_clip(clip: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    predictor = Predictor(Brightness())
    (item,) = expand(clip)
    result = segment_video(
        predictor, item, tmp_path / "out", ("overlay", "mask", "cutout", "json"), progress=lambda *p: seen.append(p)
    )
    assert seen == [(i + 1, FRAMES) for i in range(FRAMES)]
    assert [f.name for f in result.files] == ["clip_overlay.mp4", "clip_mask.mkv", "clip_cutout.webm", "clip.json"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(f.name for f in result.files)
    masks = frames_of(result.files[1], "gray")
    assert len(masks) == FRAMES
    for number, mask in enumerate(masks):
        assert set(np.unique(mask)) <= {0, 1}  # without loss
        assert (mask == frame(number)[..., 0] // 255).mean() > 0.97
    overlay = frames_of(result.files[0], "rgb24")
    assert len(overlay) == FRAMES
    assert np.abs(overlay[3][60, 80].astype(int)).max() < 20  # background stays
    assert overlay[-1][60, 5, 0] > overlay[-1][60, 5, 1] + 30  # the person turns reddish
    for file in result.files[:3]:
        np.testing.assert_allclose(times_of(file), [i * 1001 / 30000 for i in range(FRAMES)], atol=2e-3)
    facts = json.loads(result.files[3].read_text())
    assert facts["frames"] == FRAMES
    assert facts["classes"][1]["share"] == pytest.approx(
        np.mean([frame(i).mean() / 255 for i in range(FRAMES)]), abs=0.02
    )


def test_odd_sizes_lose_one_row_or_column_in_the_overlay_only(tmp_path: Path) -> None:
    path = tmp_path / "odd.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 51, 35, "bgr0"
        for number in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(number, 35, 51), format="rgb24")))
        container.mux(stream.encode(None))
    result = segment_video(Predictor(Brightness()), expand(path)[0], tmp_path / "out", ("overlay", "mask"))
    assert frames_of(result.files[0], "rgb24")[0].shape == (34, 50, 3)
    assert frames_of(result.files[1], "gray")[0].shape == (35, 51)


def test_predict_gives_every_frame(clip: Path) -> None:
    results = list(predict(clip, Brightness()))
    assert [r.name for r in results] == [f"clip_{i:06d}" for i in range(FRAMES)]
    assert [r.facts["frame"] for r in results] == list(range(FRAMES))
    shares = [r.areas["class 1"] for r in results]
    assert shares == sorted(shares)
    assert shares[-1] > shares[0]


def test_leaving_the_loop_early_ends_the_decoder(clip: Path) -> None:
    for result in predict(clip, Brightness()):
        assert result.facts["frame"] == 0
        break


def test_damaged_videos_are_named_and_leave_nothing(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[:200])
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("noise.mp4", "cut.mp4", "empty.mp4"):
        with pytest.raises(VideoError, match=name):
            segment_video(
                Predictor(Brightness()), expand(tmp_path / name)[0], tmp_path / "out", ("overlay", "mask", "json")
            )
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_an_error_while_encoding_reaches_the_caller(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module._Writer, "_encodable", full_disk)
    with pytest.raises(OSError, match="No space left"):
        segment_video(Predictor(Brightness()), expand(clip)[0], tmp_path / "out", ("overlay",))
    assert not list((tmp_path / "out").iterdir())


def test_what_cannot_be_is_said_first(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--foreground"):
        segment_video(Predictor(Brightness(num_classes=4)), expand(clip)[0], tmp_path, ("cutout",))


def test_a_webcam_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'segmentarium[video]'")
    (item,) = expand(97)
    assert item.kind == "webcam"
    with pytest.raises(VideoError, match="webcam 97 cannot be opened"):
        segment_video(Predictor(Brightness()), item, tmp_path)


def test_a_webcam_is_recorded_until_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'segmentarium[video]'")

    class Camera:
        def __init__(self, _: int) -> None:
            self.number = 0

        def isOpened(self) -> bool:
            return True

        def get(self, _: int) -> float:
            return 30.0

        def read(self) -> tuple[bool, np.ndarray]:
            self.number += 1
            return True, frame(self.number % FRAMES)[..., ::-1]

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Camera)

    def stop_after_five(done: int, total: int | None) -> None:
        assert total is None
        if done == 5:
            raise KeyboardInterrupt

    (item,) = expand("3")
    result = segment_video(Predictor(Brightness()), item, tmp_path, ("overlay", "json"), progress=stop_after_five)
    assert result.frames == 5
    assert len(frames_of(result.files[0], "rgb24")) == 5
