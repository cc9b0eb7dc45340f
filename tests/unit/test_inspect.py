"""`segmentarium inspect`: another project's checkpoint recognised, what no key tells named, and converted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import segmentarium
from segmentarium.cli.main import main
from segmentarium.weights import export_layout, inspect_weights

ARGUMENTS = {"num_classes": 5, "backbone": "resnet18_v1c", "decoder_channels": 16}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as mmsegmentation writes one, from eight GPUs."""
    torch.manual_seed(0)
    model = segmentarium.create_model("pspnet", **ARGUMENTS)
    state = {f"module.{key}": value for key, value in export_layout(model, "pspnet/mmseg").items()}
    file = tmp_path_factory.mktemp("theirs") / "pspnet.pth"
    torch.save({"meta": {"epoch": 3}, "state_dict": state}, file)
    return file


def test_says_what_was_read_and_what_was_assumed(theirs: Path) -> None:
    found = inspect_weights(theirs)
    assert found.model.startswith("pspnet")
    assert found.report.complete
    assert not found.headless
    assert found.layout.startswith("pspnet/mmseg (")
    assert ARGUMENTS.items() <= found.read.items()
    assert found.assumed.keys().isdisjoint(found.read)
    assert "output_stride" in found.assumed  # dilation leaves no trace in a weight's shape
    assert "nothing here tells" in str(found)


def test_loading_tells_the_same(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segmentarium.load(theirs)
    assert capsys.readouterr().out == ""
    segmentarium.load(theirs, verbose=True)
    assert capsys.readouterr().out == f"{inspect_weights(theirs)}\n"


def test_converts_and_overwrites_nothing(theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ours.safetensors"
    assert main(["inspect", str(theirs), "--convert", str(out)]) == 0
    assert "by the key table pspnet/mmseg" in capsys.readouterr().out
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(segmentarium.load(out)(image), segmentarium.load(theirs)(image))
    assert inspect_weights(out).layout == ""
    assert inspect_weights(out).assumed == {}
    assert main(["load-check", str(theirs), "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["inspect", str(theirs), "--convert", str(tmp_path / "ours.pth")]) == 2


def test_tensors_that_do_not_fit_are_named_and_nothing_is_written(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(theirs, weights_only=True)["state_dict"]
    del state["module.decode_head.conv_seg.bias"]
    torch.save(state, tmp_path / "broken.pth")
    words = [
        "inspect",
        str(tmp_path / "broken.pth"),
        "--layout",
        "pspnet/mmseg",
        "--convert",
        str(tmp_path / "x.safetensors"),
    ]
    assert main(words) == 1
    assert "missing in the file: decoder.classifier.bias" in capsys.readouterr().out
    assert not (tmp_path / "x.safetensors").exists()


def test_what_no_key_tells_can_be_told(theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ours.safetensors"
    assert (
        main(
            [
                "inspect",
                str(theirs),
                "--model-arguments",
                "output_stride=16",
                "align_corners=true",
                "--convert",
                str(out),
            ]
        )
        == 0
    )
    assert "output_stride=16" in capsys.readouterr().out.partition("assumed")[0]
    made = segmentarium.load(out)
    assert made.given_arguments["output_stride"] == 16  # type: ignore[attr-defined]
    assert made.align_corners
    assert (
        main(
            [
                "inspect",
                str(theirs),
                "--model-arguments",
                "outputstride=16",
                "--convert",
                str(tmp_path / "x.safetensors"),
            ]
        )
        == 2
    )
    assert "'outputstride'" in capsys.readouterr().err


def test_a_file_is_read_once(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segmentarium.weights import source

    read, seen = source.read_all, []
    monkeypatch.setattr(source, "read_all", lambda path: seen.append(path) or read(path))
    assert main(["inspect", str(theirs), "--convert", str(tmp_path / "ours.safetensors")]) == 0
    assert len(seen) == 1
