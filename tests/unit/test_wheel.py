"""What a wheel would hold, of what git keeps: `tests/wheel.py` builds, installs and uses one."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from tests import wheel

ROOT = Path(__file__).resolve().parents[2]


def kept() -> dict[str, int]:
    """File below src/segmentarium -> bytes."""
    done = subprocess.run(["git", "ls-files", "-z", "src"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]
    return {name.removeprefix("src/segmentarium/"): (ROOT / name).stat().st_size for name in names}


def test_it_is_typed_and_not_too_large() -> None:
    files = kept()
    assert {"py.typed", "models.json", "weights/published.tsv", "weights/files/person.onnx"} <= set(files)
    # weights hardly get smaller in an archive, text to a fifth
    weights = sum(size for name, size in files.items() if name.startswith("weights/files/"))
    assert weights + (sum(files.values()) - weights) / 3 < wheel.LARGEST
    assert {Path(name).suffix for name in files} <= {
        ".py", ".json", ".tsv", ".safetensors", ".onnx", ".html", ".js", ".css", ".svg", ".typed", ".txt", ".md",
    }  # fmt: skip


def test_every_extra_is_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(project["optional-dependencies"]) == set(wheel.NEEDS)


def test_an_extra_that_is_missing_is_named() -> None:
    """Every message that tells to install an extra names one that there is."""
    import re

    extras = set(wheel.NEEDS)
    named = {
        extra
        for path in (ROOT / "src").rglob("*.py")
        for found in re.findall(r"segmentarium\[([\w,]+)\]", path.read_text("utf-8"))
        for extra in found.split(",")
    }
    assert named <= extras
    assert set(wheel.SAYS_SO) <= named
