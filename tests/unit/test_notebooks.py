"""The notebooks run from top to bottom: in tiny form, with their parameters replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
PHOTO = NOTEBOOKS.parent / "images" / "astronaut.jpg"

# notebook -> what stands in place of its parameters
TINY: dict[str, dict[str, Any]] = {
    "1_cut_out": {"PHOTO": str(PHOTO), "OUT": "out"},
    "2_train_on_a_folder": {
        "PICTURES": 12,
        "SIZE": 64,
        "STEPS": 2,
        "MODEL": "pphumanseg",
        "ARGUMENTS": {},
    },
    "3_compare_and_deploy": {"MODELS": [], "PARITY": ((64, 96),), "OUT": "out"},
    "4_one_block_in_your_code": {},
}


def cells(name: str) -> list[dict[str, Any]]:
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text("utf-8"))["cells"]


def test_every_notebook_is_run_and_kept_without_outputs() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(TINY)
    for name in TINY:
        assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells(name))
        assert cells(name)[0]["cell_type"] == "markdown"


@pytest.mark.parametrize("name", TINY)
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "3_compare_and_deploy":  # each case is a process, and imports PyTorch
        from segmentarium import benchmarking

        monkeypatch.setattr(benchmarking, "benchmark", lambda models, **_: [])
    space: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate(cells(name)):
        if cell["cell_type"] != "code":
            continue
        code = "".join(cell["source"])
        exec(compile(code, f"{name}, cell {number}", "exec"), space)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert set(TINY[name]) <= set(space), "parameters that the notebook does not have"
            space.update(TINY[name])
    made = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    if name == "1_cut_out":
        assert {
            "cutout.png",
            "blur.png",
            "green.png",
            "image_mask.png",
            "image_coco.json",
            "image_labelme.json",
        } == made
        assert 0.2 < space["found"].areas["person"] < 0.8
    if name == "2_train_on_a_folder":
        assert "000_mask.png" in made
        assert space["score"].images > 0
    if name == "3_compare_and_deploy":
        assert space["report"].passed
        assert "person.onnx" in made
