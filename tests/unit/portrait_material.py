"""Made pictures and clips of which the true alpha is known, and a network that sees it badly."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segmentarium.inference import Predictor
from segmentarium.matting import Portrait
from tests.unit.inference_material import Brightness

PERSON = np.array([205, 185, 170], np.float32)
BEHIND = np.array([40, 60, 95], np.float32)


def soft_disc(height: int, width: int, x: float, y: float, radius: float, softness: float = 2.0) -> np.ndarray:
    """(H, W) float32 alpha: 1 inside, falling to 0 over a few pixels."""
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(columns - x, rows - y)
    return np.clip((radius - distance) / (2 * softness) + 0.5, 0, 1).astype(np.float32)


def scene(alpha: np.ndarray, seed: int = 0, noise: float = 4.0) -> np.ndarray:
    """(H, W, 3) uint8: a light, textured person over a dark, textured background, mixed by alpha."""
    random = np.random.default_rng(seed)
    height, width = alpha.shape
    wave = 12 * np.sin(np.arange(width) / 7)[None, :, None] * np.cos(np.arange(height) / 9)[:, None, None]
    share = alpha[..., None]
    mixed = share * (PERSON + wave) + (1 - share) * (BEHIND - wave) + random.normal(0, noise, (height, width, 3))
    return np.clip(mixed, 0, 255).round().astype(np.uint8)


def rough(alpha: np.ndarray, seed: int = 0, factor: int = 8, noise: float = 0.08) -> np.ndarray:
    """What a small network makes of it: an eighth of the size, blurred, off by a pixel, noisy."""
    height, width = (side // factor for side in alpha.shape)
    coarse = np.roll(cv2.blur(cv2.resize(alpha, (width, height), interpolation=cv2.INTER_AREA), (3, 3)), 1, 1)
    random = np.random.default_rng(seed)
    return (coarse + noise * random.normal(size=coarse.shape)).clip(0, 1).astype(np.float32)


def bright_portrait(background: Any = "green", **options: Any) -> Portrait:
    """Takes what is bright for the person."""
    return Portrait(background, Predictor(Brightness()), **options)


def write_clip(
    path: Path,
    frames: list[np.ndarray],
    *,
    times: list[int] | None = None,
    sound: str | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
) -> Path:
    """A clip at 25 frames a second, or with `times` in milliseconds; sound: the codec of a tone, or None."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options={"crf": "12"} if codec == "libx264" else {})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        tone: Any = container.add_stream(sound, rate=48_000) if sound else None
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if tone is not None:
            wave = (8000 * np.sin(np.arange(48_000 * len(frames) // 25) / 20)).astype(np.int16)[None]
            samples = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            samples.sample_rate, samples.pts = 48_000, 0
            container.mux(tone.encode(samples))
            container.mux(tone.encode(None))
    return path


def moving(count: int, height: int = 96, width: int = 128) -> list[np.ndarray]:
    """Frames of a disc that moves to the right by two pixels a frame."""
    return [scene(soft_disc(height, width, 40 + 2 * i, 50, 24), seed=i, noise=1) for i in range(count)]
