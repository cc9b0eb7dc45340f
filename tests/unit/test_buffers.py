"""Outputs of networks in memory that is used again, but never while somebody holds it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from segmentarium.buffers import COPIES, Buffers
from segmentarium.export import export_model
from segmentarium.registry import create_model
from segmentarium.runtimes import onnx_session, openvino_network, runner

FLOAT = np.dtype(np.float32)
SHAPE = (2, 512, 512)


def test_an_array_comes_again_when_nobody_holds_it() -> None:
    buffers = Buffers()
    first = buffers.take(SHAPE, FLOAT)
    place = first.ctypes.data
    view = first[1:, ::2]
    del first
    second = buffers.take(SHAPE, FLOAT)
    assert second.ctypes.data != place  # a view holds it
    tensor = torch.from_numpy(view)[0].T
    del view
    assert buffers.take(SHAPE, FLOAT).ctypes.data not in (place, second.ctypes.data)  # a tensor of it, too
    del tensor
    again = {buffers.take(SHAPE, FLOAT).ctypes.data for _ in range(2)}
    assert second.ctypes.data not in again
    assert buffers.take(SHAPE[1:], FLOAT).shape == SHAPE[1:]


def test_what_is_kept_is_bounded() -> None:
    buffers = Buffers()
    held = [buffers.take(SHAPE, FLOAT) for _ in range(2 * COPIES)]
    assert len({array.ctypes.data for array in held}) == 2 * COPIES
    assert len(buffers._kept) == COPIES
    small = [buffers.take((3,), FLOAT) for _ in range(3)]
    assert all(not any(array is one for one in buffers._kept) for array in small)
    for side in range(1000, 8000, 100):
        buffers.take((side, side), FLOAT)
    assert sum(array.nbytes for array in buffers._kept) <= 2**28


def test_threads_never_get_one_array_at_a_time() -> None:
    buffers = Buffers()

    def work(value: int) -> bool:
        array = buffers.take(SHAPE, FLOAT)
        array.fill(value)
        return bool((array == value).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = create_model("pphumanseg", num_classes=7).eval()
    return export_model(model, tmp_path_factory.mktemp("buffers") / "net.onnx", sizes=((160, 192),)).path


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_dense_outputs_are_the_same_and_stay(engine: str, file: Path) -> None:
    network = onnx_session(file, 1) if engine == "onnxruntime" else openvino_network(file, "f32", 1)
    plain, dense = runner(network, file), runner(network, file, dense=True)
    pictures = [
        np.random.default_rng(seed).random((1, 3, *size), np.float32) for seed, size in enumerate([(160, 192)] * 4)
    ]
    pictures[2:2] = [np.zeros((1, 3, 192, 160), np.float32), np.ones((1, 3, 320, 256), np.float32)] * 2
    expected = [plain(picture)[0] for picture in pictures]
    found = [dense(picture)[0] for picture in pictures]  # all are held
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=1e-5)
    places = set()
    for picture, other in zip(pictures, expected, strict=True):
        answer = dense(picture)[0]
        np.testing.assert_allclose(answer, other, atol=1e-5)
        places.add(answer.ctypes.data)
        del answer
    assert len(places) < len(pictures)
