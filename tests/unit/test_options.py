"""docs/options.tsv, which the systems' pages show: what it calls ours is there."""

from __future__ import annotations

import csv
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from segmentarium import losses
from segmentarium.registry import Entry, entry, known, registered

TABLE = Path(__file__).resolve().parents[2] / "docs" / "options.tsv"
ROWS = list(csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def _arguments(built: Entry) -> Iterator[str]:
    yield from inspect.signature(built.build).parameters
    if built.takes("backbone") and built.arguments.get("backbone"):
        for name in inspect.signature(entry(built.arguments["backbone"]).build).parameters:
            yield f"backbone_arguments.{name}"


@pytest.mark.parametrize("system", sorted({row["system"] for row in ROWS}))
def test_what_is_offered_is_there_and_what_is_left_out_says_why(system: str) -> None:
    ours = {name for built in registered(system) for name in _arguments(built)} | set(known())
    for row in (row for row in ROWS if row["system"] == system):
        assert row["code"], row
        assert row["option"], row
        if not row["here"]:
            assert row["note"].startswith("left out"), row
        for name in filter(None, row["here"].split(", ")):
            loss, _, argument = name.partition(".")
            if hasattr(losses, loss):
                assert argument in inspect.signature(getattr(losses, loss)).parameters, name
            else:
                assert name in ours, f"{system}: {name}"


def test_each_real_time_network_and_portrait_network_with_public_code_has_its_options() -> None:
    without = {"realtime.msfnet", "portrait.bsn"}  # nobody published code of them
    networks = {facts["module"] for facts in known().values() if facts["module"].startswith(("realtime.", "portrait."))}
    assert networks - without <= {row["system"] for row in ROWS}
