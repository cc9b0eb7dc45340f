"""What was erased in a picture or clip stays so in what is cut out of it, wherever it comes from and whatever cuts it out."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segmentarium.data.image_io import load_with_alpha, read_image
from segmentarium.inference import Predictor, predict
from segmentarium.inference.large import segment_file
from segmentarium.inference.segment_map import painted_instances
from segmentarium.inference.segment_result import SegmentResult
from segmentarium.matting import reader as reading
from segmentarium.matting.frames import alpha_of, layout_of
from segmentarium.matting.picture_files import convert
from segmentarium.matting.reader import Reader
from segmentarium.media.sources import expand
from segmentarium.rle import patch
from tests.unit.inference_material import Brightness
from tests.unit.portrait_material import bright_portrait

HEIGHT, WIDTH = 48, 64
EDGE = WIDTH // 2


def half_erased(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(H, W, 4): light all over, which `Brightness` takes for the foreground, and erased to the left."""
    pixels = np.full((height, width, 4), 220, np.uint8)
    pixels[..., 3] = 255
    pixels[:, : width // 2, 3] = 0
    return pixels


def assert_half(alpha: np.ndarray, slack: int = 0) -> None:
    """The left half is clear, the right one solid, but for what a codec leaves."""
    assert alpha[:, : EDGE - 2].max() <= slack
    assert alpha[:, EDGE + 2 :].min() >= 250


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def forms(folder: Path) -> dict[str, Any]:
    """The picture in every form that a source has."""
    pixels = half_erased()
    image = Image.fromarray(pixels)
    palette = Image.fromarray((pixels[..., 3] == 255).astype(np.uint8))
    palette.putpalette([200, 210, 220, 220, 220, 220])
    for name, picture in {"a.png": image, "a.webp": image, "a.tif": image, "grey.png": image.convert("LA")}.items():
        picture.save(folder / name, **({"lossless": True, "exact": True} if name == "a.webp" else {}))
    palette.save(folder / "palette.png", transparency=0)
    palette.save(folder / "palette.gif", transparency=0)
    turned = Image.Exif()
    turned[0x0112] = 3
    Image.fromarray(np.ascontiguousarray(pixels[::-1, ::-1])).save(folder / "turned.png", exif=turned)
    files = {path.name: str(path) for path in folder.iterdir()}
    return files | {
        "bytes": encoded(image),
        "open file": io.BytesIO(encoded(image)),
        "image": image,
        "premultiplied image": image.convert("RGBa"),
        "array": pixels,
        "tensor": torch.from_numpy(pixels).permute(2, 0, 1),
    }


def test_cut_outs_of_a_source_in_any_form(tmp_path: Path) -> None:
    predictor = Predictor(Brightness())
    for name, form in forms(tmp_path).items():
        for result in (*predict(form, predictor), *([] if name == "open file" else [predictor(form)])):
            cut = np.asarray(result.cutout)
            assert (result.mask == 1).all() or name == "premultiplied image", name
            assert_half(cut[..., 3])
            assert not cut[:, :EDGE][cut[:, :EDGE, 3] == 0].any(), name
            assert result.image.shape == (HEIGHT, WIDTH, 3), name
    assert predictor(half_erased()[..., :3]).own_alpha is None
    solid = half_erased()
    solid[..., 3] = 255
    assert predictor(solid).own_alpha is None


def test_the_verb_cuts_out_no_more_than_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: Any
) -> None:
    from segmentarium.cli.main import main

    photo = (
        Image.open(Path(__file__).resolve().parents[2] / "docs/images/astronaut.jpg").resize((256, 256)).convert("RGBA")
    )
    alpha = np.full((256, 256), 255, np.uint8)
    alpha[:, :128] = 0
    photo.putalpha(Image.fromarray(alpha))
    photo.save(tmp_path / "photo.png")
    words = ["--model", "person", "--kinds", "cutout"]
    assert main(["segment", str(tmp_path / "photo.png"), *words, "--out", str(tmp_path)]) == 0
    capsysbinary.readouterr()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO((tmp_path / "photo.png").read_bytes())))
    assert main(["segment", "-", *words, "--out", "-"]) == 0
    piped = Image.open(io.BytesIO(capsysbinary.readouterr().out))
    for found in (Image.open(tmp_path / "photo_cutout.png"), piped):
        cut = np.asarray(found)
        assert not cut[:, :128].any()
        assert (cut[:, 128:, 3] == 255).mean() > 0.1


def test_a_fourth_band_that_is_no_alpha_erases_nothing(tmp_path: Path) -> None:
    Image.fromarray(half_erased()).save(tmp_path / "alpha.tif")
    content = (tmp_path / "alpha.tif").read_bytes()
    extra = b"\x52\x01\x03\x00\x01\x00\x00\x00"  # the tag that says what the fourth band is: alpha, or nobody knows
    (tmp_path / "infrared.tif").write_bytes(content.replace(extra + b"\x02", extra + b"\x00"))
    pytest.importorskip("pyvips", reason="pyvips is not installed: pip install 'segmentarium[large]'")
    predictor = Predictor(Brightness())
    assert_half(np.asarray(predictor(tmp_path / "alpha.tif").cutout)[..., 3])
    assert np.asarray(predictor(tmp_path / "infrared.tif").cutout)[..., 3].min() >= 250
    assert Predictor(Brightness(in_channels=4))(half_erased()).own_alpha is None


def test_cut_outs_of_segments() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:40, 12:52] = True
    found = painted_instances([(0, 0.9, patch(mask))], mask.shape)
    pixels = half_erased()
    result = SegmentResult(
        pixels[..., :3], mask.astype(np.uint8), ("thing",), ((9, 9, 9),), segments=found, own_alpha=pixels[..., 3]
    )
    (segment,) = found.segments
    alpha = np.asarray(result.cut_out(segment))[..., 3]
    whole = np.zeros_like(pixels[..., 3])
    whole[6:44, 8:56] = alpha
    assert np.array_equal(whole == 255, mask & (pixels[..., 3] == 255))
    assert set(np.unique(whole)) == {0, 255}


@pytest.mark.parametrize("rows", [True, False], ids=["rows", "whole"])
@pytest.mark.parametrize("name", ["a.png", "grey.png", "deep.png", "a.webp", "palette.png", "turned.png"])
def test_pictures_that_are_read_in_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rows: bool) -> None:
    if rows:
        pytest.importorskip("pyvips", reason="pyvips is not installed: pip install 'segmentarium[large]'")
    else:
        monkeypatch.setattr("segmentarium.media.readers.importlib.util.find_spec", lambda _: None)
    if name == "deep.png":
        import cv2

        cv2.imwrite(str(tmp_path / name), half_erased().astype(np.uint16) * 257)
    else:
        forms(tmp_path)
    segment_file(Predictor(Brightness()), tmp_path / name, tmp_path / "out", ("cutout", "overlay"))
    cut = np.asarray(Image.open(tmp_path / "out" / f"{Path(name).stem}_cutout.png"))
    assert_half(cut[..., 3])
    monkeypatch.setattr("segmentarium.matting.picture_files.LARGE", 1)
    convert(bright_portrait("transparent"), tmp_path / name, tmp_path / "portrait.png")
    assert_half(np.asarray(Image.open(tmp_path / "portrait.png"))[..., 3])
    convert(bright_portrait("#00ff00"), tmp_path / name, tmp_path / "green.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "green.png"))[10, 10], (0, 255, 0))


def test_deep_colours_with_alpha_are_those_without(tmp_path: Path) -> None:
    import cv2

    deep = half_erased().astype(np.uint16) * 4  # ten bits in a file of sixteen
    deep[..., 3] = half_erased()[..., 3].astype(np.uint16) * 257
    deep[20:, :, :3] //= 2
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    found = load_with_alpha(tmp_path / "a.png")
    assert np.array_equal(found[..., :3], np.asarray(read_image(tmp_path / "a.png")))
    assert np.array_equal(found[..., 3], half_erased()[..., 3])


# clips


def film(path: Path, codec: str = "libvpx-vp9", pixels: str = "yuva420p", count: int = 4) -> Path:
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'segmentarium[video]'")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options={"auto-alt-ref": "0"} if "vpx" in codec else {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.codec_context.color_primaries = stream.codec_context.color_trc = 1
        for _ in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(half_erased(), format="rgba")))
        container.mux(stream.encode(None))
    return path


def alphas(path: Path) -> list[np.ndarray]:
    with Reader(str(path), path.name) as reader:
        found = [alpha_of(frame, layout_of(frame)) for frame in reader]
    assert reader.damage is None
    assert all(alpha is not None for alpha in found)
    return [alpha for alpha in found if alpha is not None]


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libvpx"])
@pytest.mark.parametrize("name", ["a.webm", "a.mkv"])
def test_webm_is_read_with_its_alpha(tmp_path: Path, codec: str, name: str) -> None:
    found = alphas(film(tmp_path / name, codec))
    assert len(found) == 4
    for alpha in found:
        assert_half(alpha, 4)
    with Reader(str(tmp_path / name), name) as reader:
        layout = layout_of(next(iter(reader)))
    assert (layout.primaries, layout.transfer) == (1, 1)  # which stand in the container alone


def test_an_opaque_clip_has_its_usual_decoder(tmp_path: Path) -> None:
    with Reader(str(film(tmp_path / "a.webm", pixels="yuv420p")), "a.webm") as reader:
        (frame, *_) = list(reader)
    assert frame.format.name == "yuv420p"


def test_portraits_of_portraits(tmp_path: Path) -> None:
    portrait = bright_portrait("transparent")
    portrait.clip(film(tmp_path / "a.mov", "prores_ks", "yuva444p10le"), tmp_path / "once.webm")
    assert_half(alphas(tmp_path / "once.webm")[0], 4)
    portrait.clip(tmp_path / "once.webm", tmp_path / "twice.webm")
    assert_half(alphas(tmp_path / "twice.webm")[0], 4)
    bright_portrait("#0000ff").clip(tmp_path / "once.webm", tmp_path / "blue.mp4")
    with Reader(str(tmp_path / "blue.mp4"), "blue.mp4") as reader:
        pixels = next(iter(reader)).to_ndarray(format="rgb24")
    assert np.abs(pixels[:, : EDGE - 4].astype(int) - (0, 0, 255)).max() < 12
    assert np.abs(pixels[:, EDGE + 4 :].astype(int) - 220).max() < 12


@pytest.mark.parametrize(
    ("name", "codec", "pixels"), [("a.webm", "libvpx-vp9", "yuva420p"), ("a.mov", "prores_ks", "yuva444p10le")]
)
def test_clips_that_are_segmented(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    from segmentarium.inference.video import segment_video

    path, predictor = film(tmp_path / name, codec, pixels), Predictor(Brightness())
    (file,) = segment_video(predictor, expand(path)[0], tmp_path / "out", ("cutout",)).files
    for alpha in alphas(file):
        assert_half(alpha, 4)
    for result in predict(path, predictor):
        assert_half(np.asarray(result.cutout)[..., 3], 4)


def test_a_build_without_the_decoder_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = film(tmp_path / "a.webm")
    monkeypatch.setattr(reading, "WITH_ALPHA", {"vp9": "nobody's"})
    with caplog.at_level(logging.WARNING), Reader(str(path), "a.webm") as reader:
        assert len(list(reader)) == 4
    assert caplog.messages == ["a.webm: its transparency is not read: this PyAV has no nobody's"]
