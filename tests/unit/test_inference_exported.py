"""Exported networks without PyTorch: the same answers, and clear words for files that are none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentarium.cli.main import main
from segmentarium.export import export_model
from segmentarium.inference import Predictor
from segmentarium.matting import Portrait
from segmentarium.matting.exported import ExportedPredictor, exported_file
from segmentarium.matting.finder import average_views, scaled
from segmentarium.matting.portrait import predictor_for
from segmentarium.registry import create_model
from segmentarium.weights import catalogue
from tests.unit.inference_material import Brightness
from tests.unit.portrait_material import bright_portrait, scene, soft_disc

PHOTO = Path(__file__).resolve().parents[2] / "docs" / "images" / "astronaut.jpg"


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.asarray(Image.open(PHOTO).convert("RGB"))


def test_what_the_package_ships_is_the_network_of_its_weights(photo: np.ndarray) -> None:
    """Fails where weights were replaced and their export was not."""
    shipped = [entry for entry in catalogue.CATALOGUE if entry.exported]
    assert [entry.alias for entry in shipped] == ["person"]
    for entry in shipped:
        ours, theirs = ExportedPredictor(entry.alias), Predictor(entry.name)
        assert (ours.classes, ours.preprocessing) == (theirs.classes, theirs.preprocessing)
        assert ours.foreground == theirs.foreground
        for picture in (photo, photo[:300, :77]):
            views = {"flip": True, "scales": (1.2, 0.6)}
            np.testing.assert_allclose(
                ours.probability(picture, **views), theirs.probability(picture, **views), atol=1e-4
            )


@pytest.mark.parametrize(("classes", "foreground"), [(1, 1), (2, "class 0"), (4, 2)])
def test_any_exported_network_finds_its_foreground(
    classes: int, foreground: int | str, photo: np.ndarray, tmp_path: Path
) -> None:
    model = Brightness(num_classes=classes)
    path = export_model(model, tmp_path / "bright.onnx").path
    for picture in (photo, photo[:1, :1], photo[:3, :200]):  # the network wants 32 pixels
        ours = ExportedPredictor(path, foreground=foreground).probability(picture)
        np.testing.assert_allclose(ours, Predictor(model, foreground=foreground).probability(picture), atol=1e-5)


def test_threads_are_limited_for_a_while(photo: np.ndarray) -> None:
    predictor = ExportedPredictor("person")
    before = predictor.probability(photo)
    with predictor.threads(1):
        np.testing.assert_allclose(predictor.probability(photo), before, atol=1e-5)
    np.testing.assert_allclose(predictor.probability(photo), before, atol=1e-5)


def test_portraits_import_no_torch(tmp_path: Path) -> None:
    Image.fromarray(scene(soft_disc(60, 80, 40, 30, 20))).save(tmp_path / "a.png")
    script = (
        "import sys; from segmentarium.cli.main import main; "
        f"assert main(['portrait', {str(tmp_path / 'a.png')!r}, '--out', {str(tmp_path / 'b.png')!r}]) == 0; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'torchvision', 'timm', 'onnx'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert (done.stdout.strip(), (tmp_path / "b.png").is_file()) == ("[]", True), done.stderr


def test_two_rooms_import_no_torch() -> None:
    source = Path(catalogue.__file__).parents[1]
    modules = [
        f"segmentarium.{room}.{path.stem}" for room in ("media", "matting") for path in (source / room).glob("[!_]*.py")
    ]
    assert "segmentarium.matting.cutout" in modules
    script = (
        f"import importlib, sys; [importlib.import_module(name) for name in {modules}]; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip() == "False", done.stderr


def test_the_exported_network_is_taken_where_nothing_asks_for_another(tmp_path: Path) -> None:
    assert isinstance(Portrait().predictor, ExportedPredictor)
    assert isinstance(predictor_for("person", foreground="background"), ExportedPredictor)
    assert isinstance(predictor_for("person", engine="torch"), Predictor)
    given = bright_portrait().predictor
    assert predictor_for(given) is given
    with pytest.raises(TypeError, match="has its options already; engine"):
        predictor_for(given, engine="torch")
    assert exported_file("street") is None
    assert exported_file(tmp_path / "x.onnx") == tmp_path / "x.onnx"
    with pytest.raises(ValueError, match="precision can be given with the weights"):
        predictor_for("x.onnx", precision="bf16")


def test_files_that_are_no_exported_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    with pytest.raises(FileNotFoundError, match=r"no exported network at .*gone\.onnx"):
        ExportedPredictor(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("a text", encoding="utf-8")
    with pytest.raises(ValueError, match=r"text\.onnx is no ONNX network"):
        ExportedPredictor(tmp_path / "text.onnx")
    foreign = onnx.load(str(exported_file("person")))
    del foreign.metadata_props[:]
    onnx.save(foreign, str(tmp_path / "foreign.onnx"))
    assert (
        main(["portrait", str(PHOTO), "--model", str(tmp_path / "foreign.onnx"), "--out", str(tmp_path / "o.png")]) == 2
    )
    assert "does not say its classes" in capsys.readouterr().err
    assert not (tmp_path / "o.png").exists()
    grey = export_model(create_model("pphumanseg", in_channels=1), tmp_path / "grey.onnx").path
    with pytest.raises(ValueError, match="takes 1 channels; expected 3"):
        ExportedPredictor(grey)
    with pytest.raises(ValueError, match="foreground is 'cat'; give one of background, person"):
        ExportedPredictor("person", foreground="cat")


def test_views_are_averaged() -> None:
    ramp = np.tile(np.linspace(0, 255, 40).astype(np.uint8)[None, :, None], (30, 1, 3))
    seen: list[tuple[int, ...]] = []

    def look(view: np.ndarray) -> np.ndarray:
        seen.append(view.shape)
        return view[..., 0].astype(np.float32) / 255

    found = average_views(look, ramp, (15, 20), flip=True, views=[(15, 20), (30, 40)])
    assert seen == [(15, 20, 3)] * 2 + [(30, 40, 3)] * 2
    np.testing.assert_allclose(found, scaled(ramp, (15, 20))[..., 0] / 255, atol=0.02)
    assert scaled(ramp[..., :2], (15, 20)).shape == (15, 20, 2)
