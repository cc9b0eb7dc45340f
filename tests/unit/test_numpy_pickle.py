"""detectron2's pickles of arrays: read as they are, and nothing in them is run."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segmentarium.weights.numpy_pickle import read_numpy_pickle
from segmentarium.weights.reading import CheckpointError, read_file


def arrays() -> dict[str, np.ndarray]:
    return {
        "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "a.turned": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "a.count": np.array(7, dtype=np.int64),
        "a.half": np.arange(3, dtype=np.float16),
        "a.big": np.arange(3, dtype=">i4"),
        "a.bytes": np.arange(250, 256, dtype=np.uint8),
        "a.empty": np.zeros((0, 3), dtype=np.float32),
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    stored = {"model": collections.OrderedDict(arrays()), "__author__": "somebody", "matching_heuristics": True}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps(stored, protocol))
    loaded = read_numpy_pickle(path)
    assert loaded["__author__"] == "somebody"
    state, header = read_file(path)
    assert header is None
    assert state.keys() == arrays().keys()
    for key, array in arrays().items():
        expected = torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
        assert torch.equal(state[key], expected.reshape(array.shape))
        assert state[key].dtype == expected.dtype


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


class Subclass(np.ndarray):
    pass


@pytest.mark.parametrize(
    "stored",
    [
        {"model": {"a": Harmful()}},
        {"model": {"a": np.array([Harmful()], dtype=object)}},
        {"model": {"a": np.zeros(2, dtype=[("x", "f4")])}},
        {"model": {"a": np.zeros(2).view(Subclass)}},
        {"model": {"a": np.array(["text"])}},
    ],
    ids=["a call", "objects", "records", "a subclass", "text"],
)
def test_everything_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: Any) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(stored))
    with pytest.raises(pickle.UnpicklingError):
        read_numpy_pickle(path)
    with pytest.raises(CheckpointError, match="could run code when opened and is refused"):
        read_file(path)
    assert not (tmp_path / "harm").exists()


def test_sizes_must_be_those_of_the_bytes(tmp_path: Path) -> None:
    data = pickle.dumps({"a": np.zeros(4, np.float32)}, 2)
    assert b"(K\x04" in data or b"K\x04\x85" in data
    path = tmp_path / "large.pkl"
    path.write_bytes(data.replace(b"K\x04\x85", b"K\x7f\x85"))
    with pytest.raises(pickle.UnpicklingError, match="16 bytes for an array of shape"):
        read_numpy_pickle(path)


def test_pytorch_s_files_of_that_name_are_read_too(tmp_path: Path) -> None:
    for new in (True, False):
        path = tmp_path / f"{new}.pkl"
        torch.save({"model": {"a": torch.ones(2)}}, path, _use_new_zipfile_serialization=new)
        assert torch.equal(read_file(path)[0]["a"], torch.ones(2))
    path.write_bytes(b"\x80\x02}q")
    with pytest.raises(CheckpointError):
        read_file(path)
