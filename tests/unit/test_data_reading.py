"""Pictures of every mode become the same 8-bit RGB; label images become class indices or an error that says why."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentarium.data import ImageReadError, LabelError, MaskEncoding, parse_mask_map, read_image, read_mask
from segmentarium.data.mask_io import read_raw_mask
from tests.unit.data_files import stripes, write_image, write_mask

GREY = np.tile(np.linspace(0, 255, 20).astype(np.uint8), (10, 1))
COLOUR = np.stack([GREY, GREY[:, ::-1], np.full_like(GREY, 77)], -1)


def _read(path: Path) -> np.ndarray:
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tif", "ppm"])
def test_rgb_is_unchanged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOUR).save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(_read(path), COLOUR)


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(Image.fromarray(GREY), id="L"),
        pytest.param(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(255 - GREY)]), id="LA"),
        pytest.param(Image.fromarray(GREY.astype(np.uint16) * 257), id="I;16"),
        pytest.param(Image.fromarray(GREY.astype(np.int32) * 257), id="I"),
        pytest.param(Image.fromarray(GREY.astype(np.float32) / 255), id="F"),
    ],
)
def test_grey_of_any_depth_is_repeated(tmp_path: Path, picture: Image.Image) -> None:
    path = tmp_path / ("a.tif" if picture.mode in ("F", "I") else "a.png")
    picture.save(path)
    assert np.array_equal(_read(path), np.stack([GREY] * 3, -1))


def test_floats_outside_the_unit_range_are_stretched_and_nan_is_black(tmp_path: Path) -> None:
    values = np.array([[-1.0, 0.0, 1.0, np.nan]], np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert _read(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 128, 255, 128]


def test_bits_palettes_alpha_and_cmyk(tmp_path: Path) -> None:
    Image.fromarray(GREY > 127).save(tmp_path / "bits.png")
    assert np.array_equal(_read(tmp_path / "bits.png")[..., 0], np.where(GREY > 127, 255, 0))
    palette = Image.fromarray(stripes(0, 1, 2)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "palette.png")
    assert _read(tmp_path / "palette.png")[0, [0, 8, 15]].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    palette.save(tmp_path / "transparent.png", transparency=1)
    assert _read(tmp_path / "transparent.png")[0, 8].tolist() == [40, 50, 60]
    rgba = Image.fromarray(COLOUR)
    rgba.putalpha(Image.fromarray(GREY))
    rgba.save(tmp_path / "rgba.png")
    assert np.array_equal(_read(tmp_path / "rgba.png"), COLOUR)
    flat = Image.new("RGB", (16, 16), (200, 100, 50))
    flat.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    with Image.open(tmp_path / "cmyk.jpg") as opened:
        assert opened.mode == "CMYK"
    assert np.abs(_read(tmp_path / "cmyk.jpg").astype(int) - [200, 100, 50]).max() <= 4


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(_read(tmp_path / "a.png"), np.rot90(COLOUR, turn))


def test_a_stream_is_read_like_a_file(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    assert np.array_equal(np.asarray(read_image(io.BytesIO(path.read_bytes()))), _read(path))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_broken_files_are_named_with_the_reason(tmp_path: Path, suffix: str) -> None:
    whole = write_image(tmp_path / f"whole.{suffix}", size=(64, 64)).read_bytes()
    cases = {
        f"cut.{suffix}": (whole[: len(whole) // 2], "truncated|corrupt|cannot be read"),
        f"empty.{suffix}": (b"", "empty file"),
        f"text.{suffix}": (b"no picture at all" * 9, "not a picture"),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageReadError, match=reason) as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_missing_files_folders_and_huge_pictures(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match="does not exist"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageReadError, match="is a folder"):
        read_image(tmp_path)
    path = write_image(tmp_path / "a.png", size=(20, 30))
    with pytest.raises(ImageReadError, match=r"30 x 20 pixels, more than the 599"):
        read_image(path, max_pixels=599)
    assert read_image(path, max_pixels=600).size == (30, 20)


def test_pillows_pixel_limit_does_not_stop_large_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image(tmp_path / "a.png", size=(20, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(path).size == (30, 20)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_index_masks_of_every_mode(tmp_path: Path) -> None:
    encoding = MaskEncoding(3)
    expected = stripes(0, 1, 2, 255)
    write_mask(tmp_path / "l.png", expected)
    palette = Image.fromarray(expected).convert("P")
    palette.putpalette(list(range(256)) * 3)
    palette.save(tmp_path / "p.png")
    write_mask(tmp_path / "wide.png", expected.astype(np.uint16))
    write_mask(tmp_path / "rgb.png", np.stack([expected] * 3, -1))
    for path in sorted(tmp_path.iterdir()):
        labels = read_mask(path, encoding)
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, expected), path.name
    Image.fromarray(stripes(0, 1).astype(bool)).save(tmp_path / "bits.png")
    assert np.array_equal(read_mask(tmp_path / "bits.png", encoding), stripes(0, 1))


def test_four_bit_grey_is_read_as_written(tmp_path: Path) -> None:
    """Pillow multiplies 4-bit grey by 17; a hand-made PNG of depth 4 shows that it is divided again."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 4, 1, 4, 0, 0, 0, 0)
    pixels = zlib.compress(b"\x00" + bytes([0x01, 0x2F]))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    assert read_raw_mask(tmp_path / "a.png").tolist() == [[0, 1, 2, 15]]


def test_colours_are_looked_up(tmp_path: Path) -> None:
    colours = {(0, 0, 0): 0, (128, 64, 128): 1, (255, 255, 255): 255}
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[:, 2:4] = (128, 64, 128)
    picture[:, 4:] = 255
    write_mask(tmp_path / "a.png", picture)
    assert read_mask(tmp_path / "a.png", MaskEncoding(2, colours=colours))[0].tolist() == [0, 0, 1, 1, 255, 255]
    picture[1, 1] = (1, 2, 3)
    write_mask(tmp_path / "b.png", picture)
    with pytest.raises(LabelError, match=r"b\.png has labels outside the classes: \(1, 2, 3\) \(1 px\)") as caught:
        read_mask(tmp_path / "b.png", MaskEncoding(2, colours=colours))
    assert caught.value.counts == {(1, 2, 3): 1}
    with pytest.raises(LabelError, match="no colour belongs to a class"):
        read_mask(tmp_path / "a.png", MaskEncoding(2))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_stray_labels_name_file_values_and_pixels(tmp_path: Path, dtype: type) -> None:
    path = write_mask(tmp_path / "a.png", stripes(0, 1, 7, 7, dtype=dtype))
    with pytest.raises(LabelError, match=re.escape("7 (96 px); expected 0..1, or 255")) as caught:
        read_mask(path, MaskEncoding(2))
    assert caught.value.counts == {7: 96}
    assert str(path) in str(caught.value)
    assert '--mask-map "7:1' in str(caught.value)
    assert np.array_equal(read_mask(path, MaskEncoding(2, mapping={0: 0, 1: 1, 7: 255})), stripes(0, 1, 255, 255))


def test_an_explicit_map_is_complete(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "a.png", stripes(0, 255))
    assert np.array_equal(read_mask(path, MaskEncoding(2, mapping={0: 0, 255: 1})), stripes(0, 1))
    write_mask(path, stripes(0, 1, 255))
    with pytest.raises(LabelError, match="expected one of 0, 255"):
        read_mask(path, MaskEncoding(2, mapping={0: 0, 255: 1}))


def test_mask_maps_as_text() -> None:
    assert parse_mask_map("0:0, 255:1", 2) == {0: 0, 255: 1}
    assert parse_mask_map("7:1,*:same", 2) == {0: 0, 1: 1, 255: 255, 7: 1}
    ignoring = parse_mask_map("5:0,*:255", 1)
    assert ignoring[5] == 0
    assert set(ignoring.values()) == {0, 255}
    instances = MaskEncoding(2, mapping=parse_mask_map("0:0,*:1", 2))
    assert np.unique(instances.decode(stripes(0, 7, 255, 60000, dtype=np.uint16))).tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"sends 1 to 3, 2 to 3, .*…, outside the classes 0\.\.1"):
        MaskEncoding(2, mapping=parse_mask_map("0:0,*:3", 2))
    for wrong in ("", "0", "0=1", "a:b", "*:other", "0:0;1:1"):
        with pytest.raises(ValueError, match="mask map"):
            parse_mask_map(wrong, 2)


def test_encodings_reject_impossible_classes() -> None:
    for number in (0, -1, 256):
        with pytest.raises(ValueError, match="num_classes"):
            MaskEncoding(number)
    with pytest.raises(ValueError, match=r"outside the classes 0\.\.1"):
        MaskEncoding(2, mapping={0: 0, 255: 2})


def test_one_sigmoid_class_has_the_labels_0_and_1() -> None:
    assert MaskEncoding(1).decode(stripes(0, 1, 255)).max() == 255
    with pytest.raises(LabelError):
        MaskEncoding(1).decode(stripes(0, 2))


def _palette_file(path: Path, indices: np.ndarray, *colours: tuple[int, int, int]) -> Path:
    image = Image.fromarray(indices).convert("P")
    image.putpalette([value for colour in colours for value in colour])
    image.save(path)
    return path


def test_a_palette_in_another_order_is_read_by_its_colours(tmp_path: Path) -> None:
    """Painting programs order a palette as they like; what a viewer shows is what the classes are."""
    sky, tree, car = (10, 120, 250), (20, 90, 20), (200, 0, 0)
    encoding = MaskEncoding(3, colours={sky: 0, tree: 1, car: 2})
    expected = stripes(0, 0, 1, 2)
    for number, order in enumerate(([sky, tree, car], [car, sky, tree], [tree, car, sky])):
        indices = np.array([order.index(colour) for colour in (sky, tree, car)], np.uint8)[expected]
        path = _palette_file(tmp_path / f"{number}.png", indices, *order)
        assert np.array_equal(read_mask(path, encoding), expected)
    # colours that no class has say nothing, so the indices count
    other = _palette_file(tmp_path / "other.png", expected, (0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert np.array_equal(read_mask(other, encoding), expected)
    # a mask map speaks of the values in the file
    mapped = MaskEncoding(3, {0: 0, 1: 1, 2: 2}, {sky: 0, tree: 1, car: 2})
    assert np.array_equal(read_mask(tmp_path / "1.png", mapped), np.array([1, 2, 0])[expected])


def test_a_palette_that_contradicts_the_classes_is_refused(tmp_path: Path) -> None:
    encoding = MaskEncoding(2, colours={(0, 0, 0): 0, (9, 9, 200): 1})
    path = _palette_file(tmp_path / "a.png", stripes(0, 1, 1), (9, 9, 200), (50, 60, 70))
    with pytest.raises(
        LabelError, match=r"index 0 has the colour \(9, 9, 200\) of class 1, while the colour of index 1"
    ):
        read_mask(path, encoding)


def test_grey_files_in_the_greys_of_classes(tmp_path: Path) -> None:
    encoding = MaskEncoding(3, colours={(0, 0, 0): 0, (90, 90, 90): 1, (255, 255, 255): 2})
    write_mask(tmp_path / "a.png", stripes(0, 90, 255))
    assert np.array_equal(read_mask(tmp_path / "a.png", encoding), stripes(0, 1, 2))
    write_mask(tmp_path / "b.png", stripes(0, 0, 255))
    with pytest.raises(LabelError, match=r"255 \(60 px\), which is both the colour of class 2 and the value to ignore"):
        read_mask(tmp_path / "b.png", encoding)
    assert np.unique(read_mask(tmp_path / "b.png", MaskEncoding(3, {0: 0, 255: 2}, encoding.colours))).tolist() == [
        0,
        2,
    ]
    write_mask(tmp_path / "c.png", stripes(0, 1, 255))  # 1 is the colour of no class: these are indices
    assert np.unique(read_mask(tmp_path / "c.png", encoding)).tolist() == [0, 1, 255]


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_a_mask_is_turned_as_its_picture_is(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.zeros((6, 4), np.uint8)
    upright[:2, 0] = 1
    back = {2: np.fliplr(upright), 3: np.rot90(upright, 2), 6: np.rot90(upright), 8: np.rot90(upright, -1)}[orientation]
    Image.fromarray(np.ascontiguousarray(back)).save(tmp_path / "mask.png", exif=exif)
    Image.fromarray(np.ascontiguousarray(back) * 255).save(tmp_path / "picture.png", exif=exif)
    assert np.array_equal(read_mask(tmp_path / "mask.png", MaskEncoding(2)), upright)
    assert np.array_equal(_read(tmp_path / "picture.png")[..., 0], upright * 255)
