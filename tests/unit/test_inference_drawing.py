"""Overlays, legends and the PNG writer: the same in bands as whole, and readable at any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentarium.inference.drawing import Painter, lay_over, legend, overlay, shares_of, soften
from segmentarium.media.png import PngWriter
from tests.unit.inference_material import picture

PALETTE = ((0, 0, 0), (200, 10, 10), (10, 200, 10))
CLASSES = ("background", "person", "a rather long class name")


def mask(height: int, width: int) -> np.ndarray:
    result = np.zeros((height, width), np.uint8)
    result[height // 3 :, width // 3 :] = 1
    result[height // 2 :, width // 2 :] = 2
    return result


@pytest.mark.parametrize("band", [1, 2, 7, 100])
@pytest.mark.parametrize("longest", [90, 6000])
def test_painting_in_bands_equals_painting_whole(band: int, longest: int) -> None:
    image, classes = picture(60, 90), mask(60, 90)
    whole = Painter((longest, 60), PALETTE).paint(image, classes)
    painter = Painter((longest, 60), PALETTE)
    bands = [painter.paint(image[i : i + band], classes[i : i + band]) for i in range(0, 60, band)]
    assert np.array_equal(np.concatenate(bands), whole)


def test_background_keeps_the_photo_and_classes_take_their_colour() -> None:
    image = picture()
    painted = Painter((90, 60), PALETTE).paint(image, mask(60, 90))
    assert np.array_equal(painted[:15, :25], image[:15, :25])
    np.testing.assert_allclose(painted[50, 80], (image[50, 80].astype(int) + PALETTE[2]) / 2, atol=1)
    assert (painted[30:, 45] > 100).all()  # the contour between 1 and 2, in a light colour
    ignored = np.full((60, 90), 255, np.uint8)
    assert np.array_equal(Painter((90, 60), PALETTE).paint(image, ignored), image)
    unnamed = Painter((90, 60), ((9, 9, 9),)).paint(image, np.zeros((60, 90), np.uint8))
    assert not np.array_equal(unnamed, image)  # a first class in another colour than black is painted


@pytest.mark.parametrize("size", [(1, 1), (20, 15), (60, 40), (90, 60), (640, 480), (4000, 300)])
def test_legends_fit_and_their_letters_stay_readable(size: tuple[int, int]) -> None:
    shares = shares_of(mask(size[1], size[0]), CLASSES)
    box = legend(size, shares, CLASSES, PALETTE)
    if max(size) < 30:
        assert box is None
        return
    if box is not None:
        assert box.width <= size[0]
        assert box.height <= size[1]
        assert box.height >= 9
    if min(size) >= 300:
        assert box is not None
        assert box.height >= 2 * max(size) / 36  # both painted classes


def test_legends_leave_out_what_is_absent_or_unpainted() -> None:
    only_background = {"background": 1.0, "person": 0.0, CLASSES[2]: 0.0005}
    assert legend((640, 480), only_background, CLASSES, PALETTE) is None
    one = legend((640, 480), only_background | {"person": 0.2}, CLASSES, PALETTE)
    two = legend((640, 480), {"background": 0.1, "person": 0.4, CLASSES[2]: 0.5}, CLASSES, PALETTE)
    assert one is not None
    assert two is not None
    assert two.height > one.height
    assert two.getpixel((8, 10)) == (*PALETTE[2], 255)  # the largest first


def test_a_legend_laid_over_in_bands() -> None:
    box = np.asarray(Image.new("RGBA", (20, 10), (200, 100, 0, 128)))
    whole = picture()
    lay_over(whole, box)
    bands = picture()
    for top in range(0, 60, 7):
        lay_over(bands[top : top + 7], box, top)
    assert np.array_equal(whole, bands)
    assert np.array_equal(whole[10:], picture()[10:])


def test_overlay_is_a_picture_of_the_same_size() -> None:
    drawn = overlay(picture(480, 640), mask(480, 640), CLASSES, PALETTE)
    assert drawn.shape == (480, 640, 3)
    assert drawn.dtype == np.uint8


def test_soft_edges_are_clear_and_solid_at_their_ends() -> None:
    np.testing.assert_allclose(soften(np.array([0, 0.05, 0.5, 0.95, 1])), [0, 0, 0.5, 1, 1], atol=1e-6)


@pytest.mark.parametrize(("mode", "channels"), [("P", 1), ("L", 1), ("RGB", 3), ("RGBA", 4)])
@pytest.mark.parametrize("band", [1, 13, 200])
def test_png_files_written_in_bands_are_read_back(tmp_path: Path, mode: str, channels: int, band: int) -> None:
    rng = np.random.default_rng(0)
    shape = (50, 37, channels) if channels > 1 else (50, 37)
    pixels = rng.integers(0, 3 if mode == "P" else 256, shape, dtype=np.uint8)
    with PngWriter(tmp_path / "a.png", 37, 50, mode, PALETTE if mode == "P" else ()) as png:
        for top in range(0, 50, band):
            png.write(pixels[top : top + band])
    image = Image.open(tmp_path / "a.png")
    assert image.mode == mode
    assert np.array_equal(np.asarray(image), pixels)
    if mode == "P":
        assert image.convert("RGB").getpixel((0, 0)) == PALETTE[pixels[0, 0]]


def test_large_png_files_have_several_chunks(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1000, 3), dtype=np.uint8)
    with PngWriter(tmp_path / "a.png", 1000, 1200, "RGB") as png:
        for top in range(0, 1200, 100):
            png.write(noise[top : top + 100])
    assert (tmp_path / "a.png").read_bytes().count(b"IDAT") > 2
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), noise)


def test_png_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode is 'CMYK'"):
        PngWriter(tmp_path / "a.png", 2, 2, "CMYK")
    with pytest.raises(ValueError, match="palette of 0 colours"):
        PngWriter(tmp_path / "a.png", 2, 2, "P")
    with PngWriter(tmp_path / "a.png", 4, 2, "L") as png:
        with pytest.raises(ValueError, match="expected uint8, 4 pixels"):
            png.write(np.zeros((1, 5), np.uint8))
        with pytest.raises(ValueError, match="0 rows were written of 2"):
            png.close()
