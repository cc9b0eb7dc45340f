"""The predictor: any picture in any form, whole, in tiles or at the model's own scale; results and their files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segmentarium.data.image_io import ImageReadError
from segmentarium.inference import Predictor, Result, predict
from segmentarium.inference.predictor import enlarged
from segmentarium.layers.resize import resize
from segmentarium.media.readers import ArrayRows
from segmentarium.preprocessing import Preprocessing
from segmentarium.registry import create_model
from segmentarium.weights import save
from tests.unit.inference_material import Brightness, picture, write_pictures


def expected(image: np.ndarray, levels: int) -> np.ndarray:
    return np.round(image.mean(2) / 255 * (levels - 1)).astype(np.uint8)


@pytest.mark.parametrize("levels", [1, 2, 5])
@pytest.mark.parametrize("tile", [None, "auto", 32, 64])
def test_classes_are_those_of_the_pixels(levels: int, tile: int | str | None) -> None:
    image = picture(70, 110)
    result = Predictor(Brightness(num_classes=levels), tile=tile)(image)  # type: ignore[arg-type]
    right = expected(image, max(levels, 2))
    assert result.mask.dtype == np.uint8
    assert (result.mask == right).mean() > 0.98  # the rest lies on a boundary between two levels
    assert sum(result.areas.values()) == pytest.approx(1)


def test_every_form_of_a_picture_gives_the_same() -> None:
    image = picture()
    predictor = Predictor(Brightness(num_classes=3))
    mask = predictor(image).mask
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    read_only = image.copy()
    read_only.flags.writeable = False
    forms = [
        Image.fromarray(image), Image.fromarray(image).convert("RGBA"), tensor, tensor[None], tensor / 255, read_only,
        image[::-1][::-1], image.astype(np.uint16) * 257, image.astype(np.float32) / 255,
        np.dstack((image, image[..., :1])),
    ]  # fmt: skip
    for form in forms:
        assert np.array_equal(predictor(form).mask, mask)
    grey = np.asarray(Image.fromarray(image).convert("L"))
    assert np.array_equal(predictor(grey).mask, predictor(np.repeat(grey[..., None], 3, 2)).mask)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((4, 4, 3), np.float32) + 7, "floating-point pictures go from 0 to 1"),
        (np.full((4, 4, 3), np.nan), "floating-point pictures go from 0 to 1"),
        (np.zeros((0, 5, 3), np.uint8), "none of them 0"),
        (np.zeros((2, 2, 3, 4, 5), np.uint8), "shape"),
        (torch.zeros(4, 4), r"give \(C, H, W\)"),
        (np.zeros((4, 4, 7), np.uint8), "takes 3 channels and the picture has 7"),
        (np.zeros((4, 4, 3), np.complex64), "type complex64"),
    ],
)
def test_arrays_that_are_no_pictures_are_named(wrong: object, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Predictor(Brightness())(wrong)


@pytest.mark.parametrize("in_channels", [1, 3, 4])
def test_networks_of_other_channel_numbers(in_channels: int) -> None:
    predictor = Predictor(Brightness(num_classes=2, in_channels=in_channels))
    image = picture()
    if in_channels == 4:
        with pytest.raises(ValueError, match="takes 4 channels and the picture has 3"):
            predictor(image)
        image = np.dstack((image, image[..., 1:2]))
    result = predictor(image)
    assert result.image.shape == (60, 90, 3)
    assert (result.mask[30:] == expected(image[30:, :, 1:2], 2)).mean() > 0.97


def test_every_mode_in_a_folder_and_one_bad_file(tmp_path: Path) -> None:
    files = write_pictures(tmp_path / "in")
    (tmp_path / "in" / "broken.png").write_bytes(files["grey.png"].read_bytes()[:60])
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / "sub").mkdir()
    Image.fromarray(picture()).save(tmp_path / "in" / "sub" / "grey.png")
    errors: list[tuple[str, Exception]] = []
    predictor = Predictor(Brightness(num_classes=2))
    results = {r.name: r for r in predict(tmp_path / "in", predictor, on_error=lambda *e: errors.append(e))}
    assert len(results) == len(files) + 1
    assert "sub/grey" in results
    assert [Path(name).name for name, _ in errors] == ["broken.png"]
    assert results["rotated"].mask.shape == (90, 60)
    assert results["tiny"].mask.shape == (1, 1)
    assert results["narrow"].mask.shape == (70, 3)
    reference = results["plain"].mask
    for name in ("grey", "rgba", "wide", "float", "palette"):
        assert (results[name].mask == reference).mean() > 0.9, name
    with pytest.raises(ImageReadError, match=r"broken\.png"):
        list(predict(tmp_path / "in", predictor))


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    predictor = Predictor(Brightness())
    with pytest.raises(FileNotFoundError, match="does not exist"):
        predict(tmp_path / "nothing.jpg", predictor)
    with pytest.raises(ValueError, match="holds no pictures"):
        predict(tmp_path, predictor)
    with pytest.raises(ValueError, match="no file fits"):
        predict(str(tmp_path / "*.jpg"), predictor)
    with pytest.raises(ValueError, match="list of sources is empty"):
        predict([], predictor)
    with pytest.raises(TypeError, match="source is a float"):
        predict(0.5, predictor)  # type: ignore[arg-type]
    with pytest.raises(ImageReadError, match="cannot be fetched"):
        list(predict("http://127.0.0.1:9/photo.jpg", predictor))
    with pytest.raises(TypeError, match="has its options already"):
        predict(picture(), predictor, tile=64)


def test_globs_and_lists(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    names = [r.name for r in predict(str(tmp_path / "*.jpg"), Brightness())]
    assert names == ["cmyk", "plain", "rotated"]
    assert [r.name for r in predict([picture(), tmp_path / "grey.png"], Brightness())] == ["image", "grey"]


def test_wrong_options_are_named() -> None:
    model = Brightness()
    for options, message in [
        ({"engine": "tensorflow"}, "engine is 'tensorflow'"),
        ({"precision": "int4"}, "precision is 'int4'"),
        ({"tile": 8}, "tile is 8"),
        ({"tile": "big"}, "tile is 'big'"),
        ({"overlap": 0.9}, "overlap is 0.9"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"scales": (0.0,)}, "positive factors"),
        ({"foreground": "cat"}, "foreground is 'cat'; give one of class 0, class 1"),
        ({"foreground": -1}, "foreground is -1"),
        ({"engine": "onnxruntime", "precision": "bf16"}, "onnxruntime computes in fp32"),
    ]:
        with pytest.raises(ValueError, match=message):
            Predictor(model, **options)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="no weights called 'persn'"):
        Predictor("persn")


@pytest.mark.parametrize("tile", [None, 32])
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_probabilities_on_request_flips_and_scales(levels: int, tile: int | None) -> None:
    model = Brightness(num_classes=levels)
    image = picture()
    plain = Predictor(model, tile=tile)(image, keep_probabilities=True)
    assert Predictor(model, tile=tile)(image).probabilities is None
    assert plain.probabilities is not None
    assert plain.probabilities.shape == (max(levels, 2), 60, 90)
    assert plain.probabilities.dtype == np.float16
    np.testing.assert_allclose(plain.probabilities.astype(float).sum(0), 1, atol=2e-3)
    assert (plain.probabilities.argmax(0) == plain.mask).mean() > 0.99
    turned = Predictor(model, tile=tile, flip=True)(image, keep_probabilities=True)
    assert turned.probabilities is not None
    np.testing.assert_allclose(turned.probabilities, plain.probabilities, atol=2e-3)  # a local network sees no mirror
    several = Predictor(model, tile=tile, flip=True, scales=(0.5, 1.0, 1.5))(image)
    assert (several.mask == plain.mask).mean() > 0.95


def test_a_picture_is_seen_at_multiples_of_the_networks_stride() -> None:
    sizes = Preprocessing(long_side=320, multiple=16)
    assert sizes.size_of((600, 400)) == (
        320,
        208,
    )  # 213 ends within a cell, and all that is resized from cells is shifted
    assert sizes.size_of((600, 400), 0.6) == (192, 128)
    assert sizes.size_of((2000, 4)) == (320, 16)
    assert Preprocessing(multiple=32).size_of((375, 500)) == (384, 512)
    assert Preprocessing.from_dict(sizes.as_dict()) == sizes
    with pytest.raises(ValueError, match="multiple is 0; give 1 to"):
        Preprocessing(multiple=0)
    model = Brightness()
    model.preprocessing = replace(model.preprocessing, long_side=64, multiple=16)
    seen = []
    model.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[-2:])))
    result = Predictor(model, flip=True, scales=(1.0, 0.7))(np.zeros((90, 60, 3), np.uint8))
    assert result.mask.shape == (90, 60)
    assert seen[-4:] == [(64, 48), (64, 48), (48, 32), (48, 32)]  # the first shows how many channels it gives


@pytest.mark.parametrize("long_side", [45, 180])
def test_models_see_the_picture_at_their_own_scale(long_side: int) -> None:
    model = Brightness(num_classes=2)
    model.preprocessing = replace(model.preprocessing, long_side=long_side)
    seen = []
    model.scores.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    predictor = Predictor(model)
    seen.clear()
    result = predictor(picture())
    assert seen == [(1, 3, max(32, long_side * 60 // 90), long_side)]
    assert result.mask.shape == (60, 90)
    assert (result.mask == expected(picture(), 2)).mean() > 0.95


@pytest.mark.parametrize(
    ("low", "size"), [((7, 9), (50, 33)), ((1, 1), (5, 4)), ((40, 60), (13, 21)), ((8, 8), (8, 20))]
)
def test_enlarging_in_bands_equals_resizing_the_whole(
    low: tuple[int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmentarium.inference.predictor.BAND_BYTES", 4 * 3 * size[1] * 4)  # four rows a band
    logits = torch.randn(1, 3, *low)
    blocks = list(enlarged(logits, size))
    assert len(blocks) > 1
    assert [block.top for block in blocks] == list(range(0, size[0], 4))
    torch.testing.assert_close(
        torch.cat([block.logits for block in blocks], 2), resize(logits, size), atol=1e-5, rtol=1e-5
    )


def test_two_classes_are_told_by_one_number() -> None:
    predictor = Predictor(Brightness(num_classes=2))
    assert {b.logits.shape[1] for b in predictor.blocks(ArrayRows(picture()))} == {1}
    alpha = predictor(picture()).alpha
    assert alpha is not None
    assert alpha[40, 0] == 0
    assert alpha[40, -1] == 255
    assert (np.diff(alpha[40].astype(int)) >= 0).all()
    assert Predictor(Brightness(num_classes=3))(picture()).alpha is None
    chosen = Predictor(Brightness(num_classes=3), foreground="class 2")(picture()).alpha
    assert chosen is not None
    assert chosen[40, -1] == 255


def test_a_name_or_file_is_loaded_and_stands_in_the_facts(tmp_path: Path) -> None:
    path = save(create_model("pphumanseg"), tmp_path / "model.safetensors")
    (result,) = predict(picture(), path)
    assert result.facts["model"] == str(path)
    assert result.facts["engine"].startswith("torch (")
    assert result.mask.shape == (60, 90)
    assert len(result.classes) == 2


def result_of(levels: int = 3, size: tuple[int, int] = (60, 90), **options: object) -> Result:
    return Predictor(Brightness(num_classes=levels), **options)(picture(*size), name="photo")  # type: ignore[arg-type]


def test_saved_files_hold_what_they_say(tmp_path: Path) -> None:
    result = result_of(2)
    files = result.save(tmp_path / "new" / "folder", ("overlay", "mask", "cutout", "json", "mask"))
    names = ["photo_overlay.png", "photo_mask.png", "photo_cutout.png", "photo.json"]
    assert [file.name for file in files] == names
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == sorted(names)
    mask = Image.open(files[1])
    assert mask.mode == "P"
    assert np.array_equal(np.asarray(mask), result.mask)
    assert tuple(mask.getpalette() or ())[:6] == (0, 0, 0, *result.palette[1])
    cutout = np.asarray(Image.open(files[2]))
    assert np.array_equal(cutout, np.asarray(result.cutout))
    facts = json.loads(files[3].read_text())
    assert (facts["width"], facts["height"]) == (90, 60)
    assert [c["share"] for c in facts["classes"]] == list(result.areas.values())
    assert facts["seconds"] > 0


def test_cutouts_follow_the_edges_of_the_picture() -> None:
    image = np.full((96, 128, 3), (40, 90, 40), np.uint8)
    image[24:, 40:90] = (200, 160, 140)
    truth = image[..., 0] > 100
    rough = np.asarray(Image.fromarray((truth * 255).astype(np.uint8)).resize((16, 12)).resize((128, 96)))
    result = Result(image, (rough > 127).astype(np.uint8), ("rest", "person"), ((0, 0, 0), (9, 9, 9)), alpha=rough)
    cutout = np.asarray(result.cutout)
    assert np.abs(cutout[..., 3] / 255 - truth).mean() < 0.2 * np.abs(rough / 255 - truth).mean()
    solid, clear = cutout[..., 3] == 255, cutout[..., 3] == 0
    assert solid.sum() > 0.9 * truth.sum()
    assert np.abs(cutout[solid][:, :3].astype(int) - image[solid]).max() <= 1
    assert not cutout[clear].any()


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = result_of()
    (path,) = result.save(tmp_path, ("mask",))
    before = path.read_bytes()

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        result.save(tmp_path, ("mask",), overwrite=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_cutouts_and_kinds_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="--foreground CLASS"):
        _ = result_of(3).cutout
    with pytest.raises(ValueError, match=r"picture.*not a list of known kinds"):
        result_of().save("unused", ("picture",))
    with pytest.raises(ValueError, match="not a list of known kinds"):
        result_of().save("unused", "mask")


def test_more_classes_than_a_byte_holds(tmp_path: Path) -> None:
    result = result_of(300)
    assert result.mask.dtype == np.int64
    assert result.mask.max() > 255
    overlay, mask = result.save(tmp_path, ("overlay", "mask"))
    assert Image.open(overlay).size == (90, 60)
    assert np.array_equal(np.asarray(Image.open(mask)), result.mask)
