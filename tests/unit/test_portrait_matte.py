"""Mattes against a known alpha; colours at the edge; backgrounds; flicker."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from segmentarium.matting import composite, fit_matte, guided, parse_background
from segmentarium.matting.backgrounds import BLUR, Blur, Colour, Picture, Rows, Transparent, covering_box
from segmentarium.matting.cutout import guide_of, without_holes
from segmentarium.matting.finder import scaled
from segmentarium.matting.guided import apply, box, coefficients
from segmentarium.matting.matte import resized
from segmentarium.matting.motion import Motion, warp
from segmentarium.matting.temporal import TemporalFilter
from segmentarium.metrics import Flicker
from tests.unit.portrait_material import BEHIND, PERSON, bright_portrait, rough, scene, soft_disc


def uniform(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.parametrize("radius", [1, 4, 9, 40])
def test_box_is_the_mean_of_its_window(radius: int) -> None:
    planes = uniform(2, 17, 23)
    found = box(planes, radius)
    for y, x in ((0, 0), (8, 11), (16, 22), (3, 20)):
        window = planes[:, max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        np.testing.assert_allclose(found[:, y, x], window.mean((1, 2)), rtol=1e-5, atol=1e-5)


def test_a_linear_function_of_the_colours_passes_the_guided_filter() -> None:
    guide = uniform(3, 30, 40)
    target = 0.3 * guide[0] - 0.2 * guide[1] + 0.4 * guide[2] + 0.1
    found = apply(coefficients(guide, target, 4, 1e-8), guide)
    np.testing.assert_allclose(found, target, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="of the same size"):
        coefficients(guide, target[1:], 4, 1e-4)


@pytest.mark.parametrize("size", [(120, 160), (121, 157)])
def test_wide_windows_on_a_smaller_copy_give_nearly_the_same(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = soft_disc(*size, 75, 60, 35)
    guide, target = guide_of(scene(truth)), resized(rough(truth), size)
    found = [apply(coefficients(guide, target, radius, 1e-3), guide) for radius in (5, 8)]
    monkeypatch.setattr(guided, "LEAST_RADIUS", 100)
    exact = [apply(coefficients(guide, target, radius, 1e-3), guide) for radius in (5, 8)]
    changed = float(np.abs(exact[0] - exact[1]).mean())
    for ours, theirs in zip(found, exact, strict=True):
        difference = float(np.abs(ours - theirs).mean())
        assert 0 < difference < min(0.01, changed)


@pytest.mark.parametrize("scale", [1, 2])
def test_the_matte_is_nearer_to_the_truth_than_the_mask(scale: int) -> None:
    """Of a picture as large as the guide, and of one of twice its size."""
    size = (240 * scale, 320 * scale)
    truth = soft_disc(*size, 150 * scale, 120 * scale, 70 * scale, 2.0 * scale)
    image = scene(truth)
    small = truth[::scale, ::scale]
    mask = rough(small)
    guide = guide_of(scaled(image, (240, 320)))
    found = fit_matte(guide, mask, size).alpha(image) / 255
    before = float(np.abs(resized(mask, size) - truth).mean())
    after = float(np.abs(found - truth).mean())
    assert after < 0.25 * before
    assert np.abs((found > 0.5) ^ (truth > 0.5)).mean() < 0.004


def test_decontaminated_colours_are_nearer_to_the_person() -> None:
    truth = soft_disc(240, 320, 150, 120, 70, 3.0)
    image = scene(truth, noise=2)
    matte = fit_matte(guide_of(image), rough(truth), (240, 320))
    alpha, own = matte.rows(image)
    edge = (truth > 0.2) & (truth < 0.8) & (alpha > 0)
    wave = 12 * np.sin(np.arange(320) / 7)[None, :, None] * np.cos(np.arange(240) / 9)[:, None, None]
    person = PERSON + wave
    mixed = np.abs(image - person)[edge].mean()
    clean = np.abs(own - person)[edge].mean()
    assert clean < 0.6 * mixed
    np.testing.assert_array_equal(own[alpha == 255][::50], image[alpha == 255][::50])
    over_green = composite(own, alpha, (0, 255, 0)).astype(float)
    wanted = truth[..., None] * person + (1 - truth[..., None]) * np.array([0, 255, 0])
    naive = composite(image, (truth * 255).astype(np.uint8), (0, 255, 0)).astype(float)
    assert np.abs(over_green - wanted)[edge].mean() < np.abs(naive - wanted)[edge].mean() * 1.5


def test_rows_are_the_rows_of_the_whole() -> None:
    truth = soft_disc(300, 200, 90, 140, 70)
    image = scene(truth)
    matte = fit_matte(guide_of(image), rough(truth), (300, 200))
    alpha, own = matte.rows(image)
    parts = [matte.rows(image[top : top + 37], top) for top in range(0, 300, 37)]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), alpha)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), own)
    with pytest.raises(ValueError, match="are not of a picture"):
        matte.rows(image, 1)


def test_holes_are_filled_where_the_network_is_unsure() -> None:
    probability = np.full((40, 60), 0.01, np.float32)
    probability[10:40, 10:50] = 0.9
    probability[15:20, 15:20] = 0.3  # a thing that is held
    probability[15:20, 30:35] = 0.3  # behind a bent arm
    probability[17, 32] = 0.01
    probability[35:40, 20:25] = 0.3  # open towards the border
    expected = probability.copy()
    expected[15:20, 15:20] = 1
    np.testing.assert_array_equal(without_holes(probability), expected)
    np.testing.assert_array_equal(without_holes(probability[:3, :4]), probability[:3, :4])


def test_composite_rounds_exactly() -> None:
    random = np.random.default_rng(0)
    image, behind = (random.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(2))
    alpha = random.integers(0, 256, (40, 50), dtype=np.uint8)
    wanted = np.round((image * (alpha[..., None] / 255.0)) + behind * (1 - alpha[..., None] / 255.0))
    assert np.abs(composite(image, alpha, behind) - wanted).max() <= 0.5 + 1e-9
    np.testing.assert_array_equal(composite(image, np.full((40, 50), 255, np.uint8), behind), image)
    np.testing.assert_array_equal(composite(image, np.zeros((40, 50), np.uint8), (1, 2, 3))[0, 0], [1, 2, 3])
    with pytest.raises(ValueError, match="alpha"):
        composite(image, alpha[1:], behind)


def test_the_person_leaves_no_halo_in_the_blur() -> None:
    truth = soft_disc(240, 320, 160, 120, 70, 1.0)
    image = scene(truth, noise=0)
    result = bright_portrait("blur:4")(image)
    ring = (soft_disc(240, 320, 160, 120, 90) > 0.5) & (soft_disc(240, 320, 160, 120, 75) < 0.5)
    plain = np.asarray(Image.fromarray(image).reduce(8).resize((320, 240), Image.Resampling.BILINEAR))
    assert np.abs(result.pixels[ring] - BEHIND).mean() < 8
    assert np.abs(result.pixels[ring] - BEHIND).mean() < 0.5 * np.abs(plain[ring] - BEHIND).mean()
    assert np.std(result.pixels[:60, :60].astype(float), axis=(0, 1)).max() < 4  # the wave of 12 is gone


def test_backgrounds_are_understood(tmp_path) -> None:
    Image.new("RGB", (8, 4), (9, 8, 7)).save(tmp_path / "room.png")
    assert parse_background("blur") == Blur(BLUR)
    assert parse_background("blur:3.5") == Blur(3.5)
    assert parse_background("transparent") == Transparent()
    assert parse_background("#102030") == Colour((16, 32, 48)) == parse_background((16, 32, 48))
    picture = parse_background(str(tmp_path / "room.png"))
    assert isinstance(picture, Picture)
    assert picture.pixels.shape == (4, 8, 3)
    for wrong in ("blurr", "blur:0", "blur:x", (1, 2), (1, 2, 300)):
        with pytest.raises(ValueError, match="background is"):
            parse_background(wrong)
    with pytest.raises(FileNotFoundError, match=r"room\.jpg does not exist"):
        parse_background("room.jpg")


def test_an_image_covers_the_picture_from_its_centre() -> None:
    assert covering_box((400, 100), (100, 100)) == (150, 0, 250, 100)
    assert covering_box((100, 400), (200, 100)) == (0, 175, 100, 225)
    room = np.zeros((100, 400, 3), np.uint8)
    room[:, 150:200, 0], room[:, 200:250, 1] = 250, 250
    image = np.zeros((60, 60, 3), np.uint8)
    result = bright_portrait(room)(image)
    np.testing.assert_allclose(result.pixels[5:-5, 5:25].mean((0, 1)), [250, 0, 0], atol=3)
    np.testing.assert_allclose(result.pixels[5:-5, -25:-5].mean((0, 1)), [0, 250, 0], atol=3)
    matte = bright_portrait().matte(image)
    rows = Rows(Picture(room), matte)
    np.testing.assert_allclose(np.concatenate([rows.rows(0, 23), rows.rows(23, 60)]), rows.rows(0, 60), atol=1)


def test_flow_finds_a_shift() -> None:
    texture = cv2.resize((255 * uniform(20, 34)).astype(np.uint8), (144, 81), interpolation=cv2.INTER_CUBIC)
    moved = np.roll(texture, (2, 5), (0, 1))
    found = Motion().flow(texture, moved)
    np.testing.assert_allclose(found[20:60, 30:110].mean((0, 1)), (-5, -2), rtol=0, atol=0.4)
    left, before = (cv2.absdiff(one, moved)[10:-10, 10:-10].mean() for one in (warp(texture, found), texture))
    assert left < 0.2 * before


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (15, 200), (16, 16), (17, 90), (40, 2)])
def test_frames_of_any_size_have_a_flow(size: tuple[int, int]) -> None:
    frame = (255 * uniform(*size)).astype(np.uint8)
    assert Motion().flow(frame, frame).shape == (*size, 2)
    steady, mask = TemporalFilter(), uniform(*size)
    for number in range(3):
        np.testing.assert_allclose(steady(lambda: mask, frame, number / 30), mask, atol=0.01)


def test_the_filter_over_time_halves_flicker_and_does_not_lag() -> None:
    steady, raw, filtered = TemporalFilter(), Flicker(), Flicker()
    errors, random = [], np.random.default_rng(0)
    for number in range(16):
        truth = soft_disc(144, 192, 60 + 2.5 * number, 70 + number, 34)
        grey = scene(truth, seed=number, noise=2).mean(2).astype(np.uint8)
        small = cv2.resize(truth, (96, 72), interpolation=cv2.INTER_AREA)
        noise = cv2.resize(random.normal(size=(9, 12)).astype(np.float32), (96, 72))
        mask = (small + 0.25 * noise).clip(0, 1)
        found = steady(lambda mask=mask: mask, grey, number / 30)
        raw.update(mask, truth=small)
        filtered.update(found, truth=small)
        errors.append([float(((one > 0.5) != (small > 0.5)).mean()) for one in (mask, found)])
    assert filtered.compute() < 0.5 * raw.compute()
    before, after = np.mean(errors[4:], axis=0)
    assert after < 0.8 * before


def test_a_cut_and_a_long_pause_forget_the_old_mask() -> None:
    steady = TemporalFilter()
    first, second = (255 * uniform(2, 40, 60)).astype(np.uint8)
    nothing, all_of_it = np.zeros((20, 30), np.float32), np.ones((20, 30), np.float32)
    steady(lambda: nothing, first, 0.0)
    np.testing.assert_array_equal(steady(lambda: all_of_it, second, 0.04), all_of_it)  # another scene
    np.testing.assert_allclose(steady(lambda: nothing, second, 5.0), nothing, rtol=0, atol=1e-6)


def test_the_network_rests_while_motion_explains_the_frames() -> None:
    steady, looks = TemporalFilter(), []

    def masks(first: int, last: int, ball: int | None = None) -> np.ndarray:
        found = np.zeros(0)
        for number in range(first, last):
            truth = soft_disc(144, 192, 60 + number, 70, 34)
            if ball is not None:
                truth = np.maximum(truth, soft_disc(144, 192, ball, 30, 20))
            grey = scene(truth, seed=0, noise=1).mean(2).astype(np.uint8)

            def look(truth: np.ndarray = truth, number: int = number) -> np.ndarray:
                looks.append(number)
                return truth

            found = steady(look, grey, number / 30)
        return found

    mask = masks(0, 9)
    assert looks == [0, 3, 6]  # two of three frames are the moved mask
    truth = soft_disc(144, 192, 68, 70, 34) > 0.5
    assert ((mask > 0.5) & truth).sum() / ((mask > 0.5) | truth).sum() > 0.96
    masks(9, 11)
    looks.clear()
    assert masks(11, 12, ball=150)[30, 150] > 0.5  # something new is seen at once
    assert looks == [11]


def test_flicker_counts_what_stands_still() -> None:
    flicker = Flicker()
    frame = np.full((4, 4, 3), 100, np.uint8)
    other = frame.copy()
    other[:, 2:] = 200  # moves: does not count
    flicker.update(np.zeros((4, 4), np.uint8), frame)
    alpha = np.zeros((4, 4), np.uint8)
    alpha[:, 1:] = 255
    flicker.update(alpha, other)
    assert flicker.compute() == pytest.approx(0.5)
    assert Flicker().compute() == 0
    with pytest.raises(ValueError, match="one of them"):
        flicker.update(alpha)
