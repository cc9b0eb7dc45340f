"""Where a batch finds its pictures: tables, and addresses that are not asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segmentarium.scale.listing import find_pictures
from segmentarium.scale.stores import store_of


def test_tables_that_are_none_or_have_no_pictures_are_named(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    file = tmp_path / "t.parquet"

    def listed(content: Any) -> list[Any]:
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            parquet.write_table(pa.table(content), file)
        return list(find_pictures([str(file)]))

    for content in (b"", b"PAR1 and no more"):
        with pytest.raises(ValueError, match=r"t\.parquet cannot be read as a Parquet table; leave it out"):
            listed(content)
    with pytest.raises(ValueError, match=r"t\.parquet has no column of paths or bytes; it has number"):
        listed({"number": [1]})
    with pytest.raises(ValueError, match="holds no pictures, and no Parquet table with any"):
        listed({"image": pa.array([], pa.binary())})
    categories = pa.array(["a.png", "b.png"]).dictionary_encode()
    assert [name for _, name, _ in listed({"path": categories})] == ["a", "b"]


@pytest.mark.parametrize(
    "address", ["http://a/b.png", "simplecache::s3://a/b.png", "zip://a.png::s3://b", "ssh://a/b.png"]
)
def test_addresses_that_are_not_asked(address: str) -> None:
    with pytest.raises(ValueError, match="is at no place that is read here"):
        store_of(address)


def test_a_table_names_no_host_and_no_place_outside(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    parquet.write_table(
        pa.table({"url": ["a/b.png", "../../c.png", "s3://bucket/d.png", "/e/\nf.png"]}), tmp_path / "t.parquet"
    )
    found = list(find_pictures([str(tmp_path / "t.parquet")]))
    assert [name for _, name, _ in found] == ["a/b", "c", "bucket/d", "e/_f"]
    assert [source for source, _, _ in found][:3] == [
        str(tmp_path / "a/b.png"),
        str(tmp_path / "../../c.png"),
        "s3://bucket/d.png",
    ]
    parquet.write_table(pa.table({"url": ["http://inside/secret"]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="is at no place that is read here"):
        list(find_pictures([str(tmp_path / "t.parquet")]))
