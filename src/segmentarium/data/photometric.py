"""What lamps, lenses and sensors do to a grey picture: SuperPoint's photometric noise, in OpenCV, fast enough to do on the fly.

Six changes in random order (DeTone et al., https://arxiv.org/abs/1712.07629; kinds and amounts: the MIT code by Pautrat and
Sarlin): brightness, contrast, Gaussian noise, single black and white pixels, shade, motion blur.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SHADE_ELLIPSES, SHADE_STEP = 20, 4  # shade is drawn in cells of so many pixels, as it is blurred anyway


@dataclass(frozen=True)
class Photometry:
    """How much changes, of grey values in 0..255; 0, or an empty range, turns a change off.

    brightness   greatest amount added
    contrast     range of the factor about the mean
    noise        greatest deviation of the Gaussian noise
    speckle      greatest share of pixels that become black, and of those that become white
    shade        range of the opacity; below 0 it is light
    softness     range of the width of the shade's blur, in pixels
    motion       greatest length of the motion blur, in pixels
    """

    brightness: float = 50
    contrast: tuple[float, float] = (0.5, 1.5)
    noise: float = 10
    speckle: float = 0.0035
    shade: tuple[float, float] = (-0.5, 0.5)
    softness: tuple[int, int] = (100, 150)
    motion: int = 3

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W) uint8 or float32 of 0..255 -> float32, changed, in 0..255."""
        image = np.array(image, np.float32)
        changes = (self._brighter, self._contrasted, self._noisy, self._speckled, self._shaded, self._moved)
        for number in rng.permutation(len(changes)):
            image = changes[number](image, rng)
            np.clip(image, 0, 255, out=image)
        return image

    def _brighter(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image + np.float32(rng.uniform(-self.brightness, self.brightness))

    def _contrasted(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        mean = image.mean()
        return (image - mean) * np.float32(rng.uniform(*self.contrast)) + mean

    def _noisy(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image + rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, self.noise))

    def _speckled(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        black, white = rng.binomial(image.size, rng.uniform(0, self.speckle), 2)
        places = rng.integers(image.size, size=black + white)
        flat = image.reshape(-1)
        flat[places[:black]], flat[places[black:]] = 0, 255
        return image

    def _shaded(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = (-(-side // SHADE_STEP) for side in image.shape)
        cells = np.zeros((height, width), np.float32)
        axes = np.maximum(np.maximum(rng.random((SHADE_ELLIPSES, 2)), 0.2) * min(height, width) / 4, 1).astype(int)
        centres = rng.integers(0, (width, height), (SHADE_ELLIPSES, 2))
        for axis, centre, angle in zip(
            axes.tolist(), centres.tolist(), (rng.random(SHADE_ELLIPSES) * 90).tolist(), strict=True
        ):
            cv2.ellipse(cells, centre, axis, angle, 0, 360, 1.0, -1)
        blur = max(1, int(rng.integers(*self.softness, endpoint=True)) // SHADE_STEP) | 1
        opacity = np.float32(rng.uniform(*self.shade))
        cells = 1 - opacity * cv2.GaussianBlur(cells, (blur, blur), 0)
        return image * cv2.resize(cells, image.shape[::-1], interpolation=cv2.INTER_LINEAR)

    def _moved(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        length = int(rng.integers(0, (self.motion + 1) // 2)) * 2 + 1 if self.motion > 1 else 1
        if length == 1:
            return image
        places = np.arange(length) - length // 2
        weights = np.exp(-0.5 * (places / rng.uniform(0.3, 1.0) / length * 2) ** 2)
        kernel = np.zeros((length, length), np.float32)
        rows, columns = ((0, 1), (1, 0), (1, 1), (1, -1))[rng.integers(4)]
        kernel[length // 2 + rows * places, length // 2 + columns * places] = weights / weights.sum()
        return cv2.filter2D(image, -1, kernel)


# As published for the drawn shapes at 120×160, and for photographs at 240×320.
OF_SHAPES = Photometry(brightness=75, contrast=(0.3, 1.8), noise=15, shade=(-0.5, 0.8), softness=(50, 100), motion=7)
OF_PICTURES = Photometry()
