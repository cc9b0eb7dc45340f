"""A float32 file and what its network sees -> an int8 file, by ONNX Runtime's and OpenVINO's own tools.

Two things keep their precision, for eight bits of them change most classes and save next to no time.  The layers that see the
picture: one scale for three normalised colours is coarser than the picture's own eight bits.  And, in OpenVINO, the sums of
residual blocks, which would be rounded again in each.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from segmentarium.export.formats import ExportError
from segmentarium.runtimes import METADATA_KEY, import_nncf, import_openvino, onnx_quantization

Write = Callable[[Path, Path, Iterator[np.ndarray], Mapping[str, Any], bool], None]
WITH_WEIGHTS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Convolution", "GroupConvolution"}  # as either format says


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
        with TemporaryDirectory(prefix="int8") as folder, _quiet():
            prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "made.onnx"
            try:
                tools.shape_inference.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
                graph = onnx.load(str(prepared), load_external_data=False).graph
                tools.quantize_static(
                    str(prepared),
                    str(made),
                    Reader(graph.input[0].name, seen),
                    quant_format=tools.QuantFormat.QDQ,
                    per_channel=True,
                    nodes_to_exclude=_first_of_onnx(graph),
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
                    ignored_scope=nncf.IgnoredScope(names=_first_of_openvino(model), types=["Add"], validate=False),
                    advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
                )
            except Exception as error:  # its exceptions have no class of their own above them
                raise ExportError(f"NNCF cannot quantise the network: {_line(error)}") from error
        for key, value in metadata.items():
            made.set_rt_info(json.dumps(value), [METADATA_KEY, key])
        openvino.save_model(made, str(out), compress_to_fp16=False)

    return write


def _first_of_onnx(graph: Any) -> list[str]:
    readers: dict[str, list[str]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node.name)
    after = {node.name: (node.op_type, [one for out in node.output for one in readers[out]]) for node in graph.node}
    return first_layers(readers[graph.input[0].name], after)


def _first_of_openvino(model: Any) -> list[str]:
    def readers(step: Any) -> list[str]:
        return [one.get_node().get_friendly_name() for out in step.outputs() for one in out.get_target_inputs()]

    after = {step.get_friendly_name(): (step.get_type_name(), readers(step)) for step in model.get_ops()}
    return first_layers(readers(model.inputs[0].get_node()), after)


def first_layers(begin: Iterable[str], steps: Mapping[str, tuple[str, Sequence[str]]]) -> list[str]:
    """Names of the layers that see the picture itself, if shrunk or cut up: on each way the first that has weights.

    begin   what reads the picture
    steps   name -> kind of step, names of those that read what it gives
    """
    waiting, seen, found = list(begin), set[str](), []
    while waiting:
        name = waiting.pop()
        kind, after = steps[name]
        if name in seen or kind in ("Shape", "ShapeOf"):  # whose readers learn a size, and see nothing
            continue
        seen.add(name)
        if kind in WITH_WEIGHTS:
            found.append(name)
        else:
            waiting += after
    return sorted(found)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Their advice is about their own steps; their progress is nothing for a pipe to read."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(before)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


WRITERS: dict[str, Callable[[], Write]] = {"onnx": onnx_writer, "openvino": openvino_writer}
