"""What a picture becomes: a file of its mask, a line of JSON with its masks as runs, or a row of a Parquet table."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from segmentarium.files import png_bytes
from segmentarium.inference.result import RGB, index_image
from segmentarium.rle import encode, patch

# kind -> where its files lie, %s a picture's name or a part's number
PLACES = {"masks": "masks/%s.png", "rle": "rle/%s.jsonl", "parquet": "parquet/%s.parquet"}
KINDS = tuple(PLACES)


def mask_file(mask: np.ndarray, palette: Sequence[RGB]) -> bytes:
    """A PNG of class indices (H, W) with the classes' colours."""
    return png_bytes(index_image(mask, palette))


def class_segments(mask: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The pixels of each class that occurs in (H, W) class indices; together they are the whole picture, but for void (255)."""
    height, width = mask.shape
    return [
        _segment(index, classes, patch(mask == index).full(height, width), None)
        for index in np.unique(mask).tolist()
        if index < len(classes)
    ]


def result_segments(result: Any) -> list[dict[str, Any]]:
    """The segments of a `SegmentResult`, each with its score."""
    size = result.mask.shape
    return [_segment(one.index, result.classes, one.patch.full(*size), one.score) for one in result.pieces()]


def _segment(index: int, classes: Sequence[str], mask: np.ndarray, score: float | None) -> dict[str, Any]:
    box = patch(mask)
    tall, wide = box.mask.shape
    return {
        "label": int(index),
        "class": classes[index],
        "score": None if score is None else round(float(score), 6),
        "area": int(mask.sum()),
        "bbox": [box.left, box.top, wide, tall],
        "counts": encode(mask)["counts"],
    }


def lines(rows: Sequence[dict[str, Any]]) -> bytes:
    """A line of JSON a picture; a mask is {"size", "counts"}, as pycocotools reads it."""
    told = []
    for row in rows:
        size = [row["height"], row["width"]]
        segments = [
            {key: value for key, value in one.items() if key != "counts"}
            | {"segmentation": {"size": size, "counts": one["counts"]}}
            for one in row["segments"]
        ]
        told.append(json.dumps(row | {"segments": segments}))
    return "".join(f"{line}\n" for line in told).encode()


def table(rows: Sequence[dict[str, Any]]) -> bytes:
    """A Parquet file, a row a picture: source, name, height, width, segments (label, class, score, area, bbox, counts).

    ImportError where pyarrow is not installed.
    """
    from segmentarium.scale.listing import parquet_reader

    parquet = parquet_reader("the results")
    import pyarrow as pa

    segment = pa.struct(
        {
            "label": pa.int32(), "class": pa.string(), "score": pa.float32(), "area": pa.int64(),
            "bbox": pa.list_(pa.int32(), 4), "counts": pa.string(),
        }.items()
    )  # fmt: skip
    schema = pa.schema(
        {
            "source": pa.string(), "name": pa.string(), "height": pa.int32(), "width": pa.int32(),
            "segments": pa.list_(segment),
        }.items()
    )  # fmt: skip
    plain = [row | {key: _text(row[key]) for key in ("source", "name")} for row in rows]
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(plain, schema), file, compression="zstd")
    return file.getvalue()


def _text(name: str) -> str:
    """A file name that is no UTF-8 as text."""
    return name.encode("utf-8", "backslashreplace").decode()
