"""One list of names: what a wrong one is answered with, whichever door it came through."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from segmentarium.cli.main import main
from segmentarium.registry import create_model, known
from segmentarium.weights import load, locate
from segmentarium.weights.catalogue import CATALOGUE
from segmentarium.weights.names import systems


@pytest.mark.parametrize(
    ("door", "name", "answer"),
    [
        (create_model, "person", r"it names weights, of deeplabv3plus; give load\('person'\)"),
        (create_model, "bisenet", r"it is a system, whose models are 'bisenet_"),
        (create_model, "bisenet_v2", r"did you mean .*'bisenetv2'"),
        (create_model, "persn", r"did you mean .*'person'"),
        (load, "bisenetv2", r"it is a model; train it .*or give weights of it: 'bisenetv2\."),
        (load, "bisenet", r"it is a system; train it .* give weights of it: 'bisenet_"),
        (load, "strete", r"neither a file, .*did you mean .*'street'"),
        (load, "bisenetv2.cityscape-mmseg", r"did you mean .*'bisenetv2\.cityscapes-mmseg"),
        (load, "qqqqqqqq", r"`segmentarium weights` list all names"),
    ],
)
def test_a_name_of_another_kind_is_told_apart(door: Callable[[str], object], name: str, answer: str) -> None:
    with pytest.raises((KeyError, FileNotFoundError), match=answer):
        door(name)


def test_every_system_and_every_name_of_the_catalogue_is_known() -> None:
    assert {name for names in systems().values() for name in names} == set(known())
    for entry in CATALOGUE:
        assert locate(entry.name).is_file()
        assert entry.model in known()


def test_the_verbs_answer_alike(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", str(tmp_path), "--model", "bisenetv2"]) == 2  # there is no picture; that is said first
    picture = tmp_path / "a.png"
    from PIL import Image

    Image.new("RGB", (40, 40)).save(picture)
    capsys.readouterr()
    assert main(["segment", str(picture), "--model", "bisenetv2", "--out", str(tmp_path / "out")]) == 2
    assert "it is a model; train it" in capsys.readouterr().err
    assert main(["models", "bisenet"]) == 0
    assert "bisenet_" in capsys.readouterr().out
    assert main(["models", "bisenett"]) == 2
    assert "did you mean" in capsys.readouterr().err
