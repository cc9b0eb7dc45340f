"""Tables of columns, as Argoverse 2 keeps them: .feather by pyarrow, or the same as .npz or .json beside where it would lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segmentarium.data.text_files import read_json


def read_table(path: str | Path) -> dict[str, np.ndarray]:
    """Column -> values.  ImportError without pyarrow for a .feather file, ValueError for one that cannot be read."""
    path = Path(path)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    if path.suffix == ".json":
        rows = read_json(path)
        return {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}
    try:
        from pyarrow import ArrowInvalid, feather
    except ImportError as error:
        raise ImportError(
            f"{path.name} is a table that pyarrow reads, which is not installed: pip install pyarrow"
        ) from error
    try:
        table = feather.read_table(path)
    except (ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    return {name: table.column(name).to_numpy() for name in table.column_names}


def find_table(folder: Path, name: str) -> Path:
    """The table `name` of a folder, as .feather, .npz or .json; FileNotFoundError where there is none."""
    found = next((p for suffix in (".feather", ".npz", ".json") if (p := folder / f"{name}{suffix}").is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{folder} has no {name}.feather (nor {name}.npz or {name}.json)")
    return found
