"""Fixtures that every test may use: where the reference material lies, and quiet, repeatable torch."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"


if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores; threads that wait for each other cost them half
    os.environ["OMP_NUM_THREADS"] = "1"  # for the commands that tests start
    torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A worker that is done takes tests from the other's queue: the slow ones lie side by side in few files."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference outputs, checkpoints and data sets beside the checkout; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared folder beside the checkout: reference outputs and data sets are not here")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> ModuleType:
    """The module `golden.py` of the reference folder: load, state_dict, example_input, relative_error."""
    spec = importlib.util.spec_from_file_location("golden", shared / "golden" / "golden.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
