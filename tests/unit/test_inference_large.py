"""Large pictures: the same files as in memory, from any kind of file, in memory that does not grow with the height."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segmentarium.data.bands import picture_size
from segmentarium.data.image_io import ImageReadError, read_image
from segmentarium.inference import Predictor
from segmentarium.inference.large import segment_file
from segmentarium.media.readers import LargePicture
from tests.unit.inference_material import Brightness, picture, write_pictures

KINDS = ("overlay", "mask", "cutout", "json")


@pytest.fixture(params=["rows", "whole"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With libvips and without."""
    if request.param == "rows":
        pytest.importorskip("pyvips", reason="pyvips is not installed: pip install 'segmentarium[large]'")
    else:
        monkeypatch.setattr("segmentarium.media.readers.importlib.util.find_spec", lambda _: None)
    return request.param


def all_rows(path: Path, band: int = 17) -> np.ndarray:
    rows = LargePicture(path).open()
    return np.concatenate([rows.array(top, min(top + band, rows.height)) for top in range(0, rows.height, band)])


def test_rows_are_the_picture_that_is_read_whole(tmp_path: Path, reading: str) -> None:
    files = write_pictures(tmp_path)
    Image.fromarray(picture()).save(tmp_path / "tiled.tif", compression="tiff_deflate")
    files["tiled.tif"] = tmp_path / "tiled.tif"
    for name, path in files.items():
        expected = np.asarray(read_image(path)).astype(int)
        got = all_rows(path)
        assert got.shape == expected.shape, name
        assert np.abs(got - expected).max() <= 1, name
    assert LargePicture(files["plain.jpg"]).reads_in_rows == (reading == "rows")
    assert not LargePicture(files["cmyk.jpg"]).reads_in_rows


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_rows_of_more_than_eight_bits_go_by_the_bits_that_they_need(tmp_path: Path, reading: str, bits: int) -> None:
    top = 2**bits - 1
    grey = np.linspace(0, top, 40 * 30).round().astype(np.uint16).reshape(30, 40)
    colours = np.stack((grey, grey[::-1], grey[:, ::-1]), 2)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey).save(tmp_path / "grey.tif")
    cv2.imwrite(str(tmp_path / "colours.png"), colours)
    clear = np.full((30, 40, 1), 65535, np.uint16)  # alpha has its own scale
    cv2.imwrite(str(tmp_path / "clear.png"), np.concatenate((colours, clear), 2))
    for name in ("grey.png", "grey.tif", "colours.png", "clear.png"):
        expected = np.asarray(read_image(tmp_path / name)).astype(int)
        assert expected.max() == 255
        got = all_rows(tmp_path / name)
        assert np.abs(got - expected).max() <= 1, name
        assert LargePicture(tmp_path / name).thumbnail(40, 30).max() == 255


def test_rows_overlap_and_go_forwards_only(tmp_path: Path, reading: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture()).save(path)
    rows = LargePicture(path).open()
    for top, bottom in ((0, 20), (0, 5), (10, 30), (10, 30), (25, 60), (59, 60)):
        assert np.array_equal(rows.array(top, bottom), picture()[top:bottom])
        assert np.array_equal(rows.rows(top, bottom)[0].permute(1, 2, 0).numpy(), picture()[top:bottom])
    if reading == "rows":
        with pytest.raises(ValueError, match="rows are read forwards"):
            rows.array(3, 4)


def test_thumbnails(tmp_path: Path, reading: str) -> None:
    Image.fromarray(picture(200, 300)).save(tmp_path / "a.png")
    small = LargePicture(tmp_path / "a.png").thumbnail(30, 20)
    reference = np.asarray(Image.fromarray(picture(200, 300)).resize((30, 20), Image.Resampling.BILINEAR)).astype(int)
    assert small.shape == (20, 30, 3)
    assert np.abs(small - reference).max() < 16
    assert np.abs(small - reference).mean() < 2


@pytest.mark.parametrize("levels", [2, 5])
@pytest.mark.parametrize("long_side", [None, 70])
def test_files_are_those_of_the_picture_in_memory(
    tmp_path: Path, levels: int, long_side: int | None, reading: str
) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(picture(150, 210)).save(path)
    model = Brightness(num_classes=levels)
    model.preprocessing = replace(model.preprocessing, long_side=long_side)
    predictor = Predictor(model, tile=64, foreground=1)
    done: list[float] = []
    written = segment_file(predictor, path, tmp_path / "large", KINDS, progress=done.append)
    assert [file.name for file in written.files] == [
        "photo_overlay.png",
        "photo_mask.png",
        "photo_cutout.png",
        "photo.json",
    ]
    assert done == sorted(done)
    assert done[-1] == 1
    result = predictor(path)
    result.save(tmp_path / "memory", KINDS)
    # in rows there is no matte: the cut-out has the network's own soft edge
    for kind, wanted in (("mask", result.mask), ("cutout", np.dstack((result.image, result.alpha)))):
        one = np.asarray(Image.open(tmp_path / "large" / f"photo_{kind}.png")).astype(int)
        assert (np.abs(one - wanted).reshape(150, 210, -1).max(2) <= 2).mean() > 0.99, kind
    assert Image.open(tmp_path / "large" / "photo_mask.png").getpalette() is not None
    overlays = [np.asarray(Image.open(tmp_path / f / "photo_overlay.png")).astype(int) for f in ("large", "memory")]
    assert (np.abs(overlays[0] - overlays[1]).max(2) <= 2).mean() > 0.95
    facts = json.loads((tmp_path / "large" / "photo.json").read_text())
    assert (facts["width"], facts["height"]) == (210, 150)
    for entry in facts["classes"]:
        assert entry["share"] == pytest.approx(result.areas[entry["name"]], abs=0.01)


def test_a_damaged_file_leaves_nothing_behind(tmp_path: Path, reading: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    for name in ("cut.png", "cut.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(ImageReadError):
            segment_file(Predictor(Brightness(), tile=64), tmp_path / name, tmp_path / "out", KINDS)
    assert not list((tmp_path / "out").glob("*"))
    assert not list((tmp_path / "out").glob(".*.part"))
    with pytest.raises(ImageReadError, match="does not exist"):
        picture_size(tmp_path / "absent.png")


def test_what_cannot_be_is_said_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--foreground"):
        segment_file(Predictor(Brightness(num_classes=4)), tmp_path / "no.png", tmp_path, ("cutout",))
    with pytest.raises(ValueError, match="300 classes"):
        segment_file(Predictor(Brightness(num_classes=300)), tmp_path / "no.png", tmp_path, ("mask",))


PEAK = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from segmentarium.inference import Predictor
from segmentarium.inference.large import segment_file
from tests.unit.inference_material import Brightness
torch.set_num_threads(1)
predictor = Predictor(Brightness(num_classes=19), device="cpu")
peaks = []
for path in sys.argv[2:]:
    segment_file(predictor, path, sys.argv[1])
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(*peaks)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_height(tmp_path: Path) -> None:
    pytest.importorskip("pyvips", reason="pyvips is not installed: pip install 'segmentarium[large]'")
    flat = np.zeros((2000, 4000, 3), np.uint8)
    Image.fromarray(flat).save(tmp_path / "low.jpg")
    Image.fromarray(np.concatenate([flat] * 4)).save(tmp_path / "high.jpg")
    root = Path(__file__).resolve().parents[2]
    files = [str(tmp_path / name) for name in ("low.jpg", "high.jpg")]
    run = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "out"), *files],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    low, high = map(float, run.stdout.split())
    # Pixels (72 MB), classes and 19 logits (1,824 MB) of the additional rows would all show.
    assert high - low < 60, f"{low:.0f} MB for 8 megapixels, {high:.0f} MB for 32"
    assert Image.open(tmp_path / "out" / "high_mask.png").size == (4000, 8000)
