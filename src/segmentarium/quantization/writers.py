"""A float32 file and what its network sees -> an int8 file, by ONNX Runtime's and OpenVINO's own tools."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from segmentarium.export.formats import ExportError
from segmentarium.runtimes import METADATA_KEY, import_nncf, import_openvino, onnx_quantization

Write = Callable[[Path, Path, Iterator[np.ndarray], Mapping[str, Any], bool], None]


def onnx_writer() -> Write:
    """quantize_static: pairs of QuantizeLinear and DequantizeLinear around operators, weights by channel.  ImportError without
    the package onnx."""
    try:
        import onnx

        tools = onnx_quantization()
    except ImportError as error:
        raise ImportError(f"int8 needs {error.name or 'onnx'}: pip install 'segmentarium[export]'") from error

    class Reader(tools.CalibrationDataReader):
        def __init__(self, name: str, seen: Iterator[np.ndarray]) -> None:
            self.name, self.seen = name, seen

        def get_next(self) -> dict[str, np.ndarray] | None:
            given = next(self.seen, None)
            return None if given is None else {self.name: given}

    def write(source: Path, out: Path, seen: Iterator[np.ndarray], metadata: Mapping[str, Any], reduced: bool) -> None:
        name = onnx.load(str(source), load_external_data=False).graph.input[0].name
        with TemporaryDirectory(prefix="int8") as folder, _quiet():
            prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "made.onnx"
            try:
                tools.shape_inference.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
                tools.quantize_static(
                    str(prepared),
                    str(made),
                    Reader(name, seen),
                    quant_format=tools.QuantFormat.QDQ,
                    per_channel=True,
                    reduce_range=reduced,
                    activation_type=tools.QuantType.QUInt8,  # with QInt8 weights what x86 multiplies
                    weight_type=tools.QuantType.QInt8,
                )
            except (ValueError, RuntimeError, TypeError, AttributeError, KeyError) as error:
                raise ExportError(f"ONNX Runtime cannot quantise the network: {_line(error)}") from error
            proto = onnx.load(str(made))
        proto.producer_name = METADATA_KEY
        del proto.metadata_props[:]
        for key, value in metadata.items():
            entry = proto.metadata_props.add()
            entry.key, entry.value = key, json.dumps(value)
        onnx.save(proto, str(out))

    return write


def openvino_writer() -> Write:
    """NNCF's `quantize`.  ImportError where it is not installed."""
    nncf, openvino = import_nncf(), import_openvino()

    def write(source: Path, out: Path, seen: Iterator[np.ndarray], metadata: Mapping[str, Any], reduced: bool) -> None:
        model = openvino.Core().read_model(str(source))
        fix = nncf.OverflowFix.ENABLE if reduced else nncf.OverflowFix.DISABLE
        with TemporaryDirectory(prefix="int8") as folder, _quiet():
            files: list[Path] = []  # it goes over them several times
            for number, given in enumerate(seen):
                files.append(Path(folder) / f"{number}.npy")
                np.save(files[-1], given)
            try:
                made = nncf.quantize(
                    model,
                    nncf.Dataset(files, np.load),
                    preset=nncf.QuantizationPreset.MIXED,
                    subset_size=len(files),
                    advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
                )
            except Exception as error:  # its exceptions have no class of their own above them
                raise ExportError(f"NNCF cannot quantise the network: {_line(error)}") from error
        for key, value in metadata.items():
            made.set_rt_info(json.dumps(value), [METADATA_KEY, key])
        openvino.save_model(made, str(out), compress_to_fp16=False)

    return write


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Their progress and their advice are about their own steps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


WRITERS: dict[str, Callable[[], Write]] = {"onnx": onnx_writer, "openvino": openvino_writer}
