"""One brightness for a whole set of pictures deeper than 8 bits: said once, for the data, and kept with the weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import segmentarium
from segmentarium.cli.evaluate import labelled_data
from segmentarium.cli.main import main, parser_for
from segmentarium.data import build_dataset, check_data
from segmentarium.data.bands import picture_array, read_bands
from segmentarium.data.drawn_labels import DrawnLabels
from segmentarium.data.image_io import load_with_alpha, read_image, to_8_bit
from segmentarium.evaluation import evaluate
from segmentarium.inference.predictor import Predictor
from segmentarium.media.readers import LargePicture
from segmentarium.preprocessing import Preprocessing
from segmentarium.scale.work import Worker
from segmentarium.training import train
from segmentarium.training.tasks import task_for
from segmentarium.web.decoding import Decoders, decode
from segmentarium.web.limits import Limits
from tests.unit import segment_files
from tests.unit.data_files import stripes, write_mask
from tests.unit.training_material import quick_options

VALUE, GREATEST = 500, (900, 1100, 4000)  # what is to be as bright everywhere, and the brightest of each picture
AS_BYTE = round(VALUE * 255 / 4095)
SIZE = (48, 64)


def deep(path: Path, greatest: int, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((*SIZE, channels), VALUE, np.uint16)
    values[0, 0] = greatest
    assert cv2.imwrite(str(path), values)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of three such pictures."""
    for greatest in GREATEST:
        deep(tmp_path / "data" / "images" / f"{greatest}.png", greatest)
        write_mask(tmp_path / "data" / "masks" / f"{greatest}.png", stripes(0, 1, size=SIZE))
    (tmp_path / "data" / "classes.txt").write_text("background\nthing\n")
    return tmp_path / "data"


def shown(pictures: Any) -> list[int]:
    """A usual pixel of each."""
    return [int(np.asarray(one)[9, 9].max()) for one in pictures]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("bits", [None, 12])
def test_bytes_are_read_as_files(tmp_path: Path, channels: int, bits: int | None) -> None:
    for ending in ("png", "tif"):
        file = deep(tmp_path / f"a.{ending}", 900, channels)
        with file.open("rb") as opened:
            pixels = load_with_alpha(opened, bits)
        assert np.array_equal(pixels, load_with_alpha(file, bits))
        assert shown([pixels[..., :3]]) == [AS_BYTE if bits else round(VALUE * 255 / 1023)]
        assert np.array_equal(decode(file.read_bytes(), Limits(), bits=bits), pixels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_value_is_as_bright_in_every_picture_where_bits_are_given(channels: int, ending: str, tmp_path: Path) -> None:
    files = [deep(tmp_path / f"{greatest}.{ending}", greatest, channels) for greatest in GREATEST]
    assert shown(map(read_image, files)) == [125, 31, 31]
    assert shown(read_image(path, bits=12) for path in files) == [AS_BYTE] * 3
    assert shown(picture_array(path, bits=12) for path in files) == [AS_BYTE] * 3
    assert shown(picture_array(path, alpha=True, bits=12) for path in files) == [AS_BYTE] * 3
    assert shown(read_bands(path, channels, 12) for path in files) == [AS_BYTE] * 3
    assert shown(LargePicture(path, 12).open().array(0, 48) for path in files) == [AS_BYTE] * 3


def test_what_is_beyond_the_bits_is_black_or_white() -> None:
    values = np.array([-5, 0, 2048, 4095, 70000], np.int32)
    assert to_8_bit(values, 12).tolist() == [0, 0, 128, 255, 255]
    assert to_8_bit(values.astype(np.float32), 12).tolist() == [0, 0, 128, 255, 255]
    assert to_8_bit(np.array([7], np.uint8), 12).tolist() == [7]
    for bits in (7, 33, 12.0, "12", True):
        with pytest.raises(ValueError, match=r"bits is .*; give how many the pictures' values have, 8 to 32"):
            Preprocessing(bits=bits)  # type: ignore[arg-type]


def test_data_sets_of_every_kind_take_bits(root: Path, tmp_path: Path) -> None:
    assert shown(build_dataset("folder", root, "all").load(i)[0] for i in range(3)) == [31, 31, 125]
    for cache in (False, True):
        data = build_dataset("folder", root, "all", cache=cache, bits=12)
        assert shown(data.load(i)[0] for i in range(3)) == [AS_BYTE] * 3
    grey = build_dataset("folder", root, "all", bits=12, bands=1)
    assert shown(grey.load(i)[0] for i in range(3)) == [AS_BYTE] * 3
    segment_files.labelme(tmp_path / "tool")
    values = np.full(segment_files.SIZE, VALUE, np.uint16)
    cv2.imwrite(str(tmp_path / "tool" / "a.png"), values)
    objects: Any = build_dataset("labelme", tmp_path / "tool", "all", bits=12)
    maps = build_dataset("folder", tmp_path / "tool", "all", bits=12)
    assert shown(one.load(0)[0] for one in (objects, maps, DrawnLabels([objects]))) == [AS_BYTE] * 3
    deep(tmp_path / "classes" / "train" / "ant" / "0.png", 900)
    assert shown([build_dataset("imagefolder", tmp_path / "classes", bits=12).load(0)[0]]) == [AS_BYTE]
    with pytest.raises(ValueError, match="bits is 4;"):
        build_dataset("folder", root, "all", bits=4)
    with pytest.raises(ValueError, match="has no option 'bits'"):
        build_dataset("hpatches", root, "all", bits=12)


def test_check_data_says_that_pictures_have_several_depths(root: Path, tmp_path: Path) -> None:
    (told,) = [one for one in check_data(build_dataset("folder", root, "all")).warnings if one.kind == "depth"]
    assert told.message == (
        "white is not the same value in all pictures: 1023 (in 1), 4095 (in 2); say how many bits their values have, such as "
        "--data-set-options bits=12"
    )
    words = ["check-data", str(root), "--out", str(tmp_path / "out"), "--data-set-options"]
    assert main([*words, "bits=12"]) == 0
    report = check_data(build_dataset("folder", root, "all", bits=12))
    assert [one.kind for one in report.warnings] == ["few"]
    assert report.image_modes == {"I;16, 0 to 4095 is black to white": 3}
    report = check_data(build_dataset("folder", root, "all", bits=10))
    assert sorted(Path(one.file).stem for one in report.warnings if one.kind == "depth") == ["1100", "4000"]


def test_weights_remember_the_bits_and_prediction_goes_by_them(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: Any = {"train_split": "all", "val_split": "all", "max_steps": 2, "data_arguments": {"bits": 12}}
    options = quick_options(root, tmp_path / "run", **changes)
    weights = train(options).last_weights
    model = segmentarium.load(weights)
    assert model.preprocessing.bits == 12
    file = root / "images" / "900.png"
    values = np.asarray(Image.open(file))
    for given in (file, file.read_bytes(), Image.open(file), values, values.astype(np.int32)):
        assert shown(result.image for result in segmentarium.predict(given, model)) == [AS_BYTE]
    assert shown([Predictor(model)(file).image, Predictor(model)(values).image]) == [AS_BYTE] * 2
    seen: list[np.ndarray] = []
    once = Predictor.__call__
    monkeypatch.setattr(
        Predictor, "__call__", lambda self, image, **more: seen.append(image) or once(self, image, **more)
    )
    words = ["segment", str(file), "--model", str(weights), "--kinds", "mask"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert shown(seen) == [AS_BYTE]

    # evaluate reads the data so, too; where Python is told otherwise, it says so
    given = parser_for("evaluate").parse_args(
        ["--model", "x", "--data", "folder", "--root", str(root), "--split", "all"]
    )
    assert labelled_data(given, model).bits == 12
    report = evaluate(model, build_dataset("folder", root, "all"), boundary_ratio=None)
    assert any("the model learnt from such of 12; give the data set bits=12" in note for note in report.notes)
    assert not any("deep" in note for note in evaluate(model, labelled_data(given, model), boundary_ratio=None).notes)

    # what is trained further sees pictures as it is told now
    again = task_for(options.replace(weights=str(weights), data_arguments={})).model()
    assert again.preprocessing.bits is None


def test_batch_and_serve_decode_by_the_bits(root: Path) -> None:
    file = root / "images" / "900.png"
    worker: Any = SimpleNamespace(
        predictor=SimpleNamespace(preprocessing=Preprocessing(bits=12)), settings=SimpleNamespace(max_pixels=2**20)
    )
    assert shown(Worker._decoded(worker, str(file), "a", one) for one in (None, file.read_bytes())) == [AS_BYTE] * 2
    pool = Decoders(Limits(workers=1))
    try:
        found = [pool.decode(file.read_bytes(), bits=bits) for bits in (None, 12, None)]
    finally:
        pool.close()
    assert shown(found) == [125, AS_BYTE, 125]


def test_bands_of_more_than_eight_bits(tmp_path: Path) -> None:
    pyvips = pytest.importorskip("pyvips")
    values = np.full((*SIZE, 5), VALUE, np.uint16)
    values[0, 0] = 900
    pyvips.Image.new_from_array(values).write_to_file(str(tmp_path / "a.tif"))
    assert shown(read_bands(tmp_path / "a.tif", 5, bits) for bits in (None, 12)) == [125, AS_BYTE]
    assert shown([picture_array(tmp_path / "a.tif", bits=12)]) == [AS_BYTE]
