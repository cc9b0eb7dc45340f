"""ONNX Runtime and OpenVINO, which both report home unless told not to: the only place that imports them.

ONNX Runtime reads ORT_DISABLE_TELEMETRY, which `segmentarium/__init__.py` sets, when it is imported; without it, it keeps a
device id in the home folder and looks up its maker's host after a while.  OpenVINO's converter sends a request while it is
imported, through the package `openvino_telemetry`, and has a stand-in of its own for where that is not installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

METADATA_KEY = "segmentarium"  # who wrote a file, in ONNX; the group of what it says of itself, in OpenVINO


def onnx_session(network: str | Path, threads: int) -> Any:
    """An `onnxruntime.InferenceSession` of an .onnx file on the processor, with `threads` threads and no warnings."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])


def import_openvino() -> Any:
    """The package `openvino`, imported without its telemetry."""
    there = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] - an import of it fails, as if it were not installed
    try:
        import openvino
    finally:
        del sys.modules["openvino_telemetry"]  # who wants it for something else finds it
        if there is not None:
            sys.modules["openvino_telemetry"] = there
    return openvino


def openvino_network(network: str | Path, precision: str, threads: int) -> Any:
    """An `openvino.CompiledModel` of an .onnx or .xml file on the processor, for single pictures.

    precision  "f32" or "bf16"; left to itself OpenVINO takes bf16 on processors that have it
    """
    core = import_openvino().Core()
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    return core.compile_model(core.read_model(str(network)), "CPU", settings)


def runner(network: Any) -> Callable[[np.ndarray], list[np.ndarray]]:
    """(B, C, H, W) float32, contiguous -> all that a session of ONNX Runtime or a compiled network of OpenVINO gives."""
    if hasattr(network, "get_inputs"):
        name = network.get_inputs()[0].name
        return lambda image: network.run(None, {name: image})
    request = network.create_infer_request()

    def run(image: np.ndarray) -> list[np.ndarray]:
        request.infer([image], share_inputs=True)
        return [request.get_output_tensor(i).data.copy() for i in range(len(network.outputs))]

    return run


def exported_texts(network: Path) -> tuple[dict[str, str], tuple[int | None, ...], int]:
    """Of an .onnx or .xml file: what it says of itself, as JSON texts ({}: it is not of `segmentarium export`); the shape of its
    first input, None where that is open; how many outputs it has."""
    if network.suffix.lower() == ".xml":
        model = import_openvino().Core().read_model(str(network))
        ours = METADATA_KEY in model.get_rt_info()
        # OpenVINO gives a group back as a plain dict, but its values as its own OVAny
        group = model.get_rt_info([METADATA_KEY]).value if ours else {}
        texts = {key: model.get_rt_info([METADATA_KEY, key]).astype(str) for key in group}
        shape = tuple(axis.get_length() if axis.is_static else None for axis in model.inputs[0].partial_shape)
        return texts, shape, len(model.outputs)
    session = onnx_session(network, 1)
    facts = session.get_modelmeta()
    axes = session.get_inputs()[0].shape
    shape = tuple(axis if isinstance(axis, int) else None for axis in axes)
    texts = dict(facts.custom_metadata_map) if facts.producer_name == METADATA_KEY else {}
    return texts, shape, len(session.get_outputs())
