"""What a batch's report says of its time."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from segmentarium.scale import work
from segmentarium.scale.manifest import Part
from segmentarium.scale.work import Settings, Worker
from tests.unit.inference_material import Brightness, picture


def test_reading_a_table_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.fromarray(picture()).save(content, "png")

    def slowly(source: str, column: str | None, numbers: list[int]) -> Iterator[tuple[int, bytes]]:
        for number in numbers:
            time.sleep(0.1)
            yield number, content.getvalue()

    monkeypatch.setattr(work, "row_bytes", slowly)
    worker = Worker(Settings("bright", str(tmp_path), device="cpu"), Brightness())
    told = worker.do(Part(0, tuple(("t.parquet", f"t-{number}", number) for number in range(3))))
    assert told["done"] == 3
    assert told["seconds"]["read"] >= 0.3
