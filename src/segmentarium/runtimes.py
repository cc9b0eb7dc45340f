"""ONNX Runtime and OpenVINO, which both report home unless told not to: the only place that imports them.

ONNX Runtime reads ORT_DISABLE_TELEMETRY, which `segmentarium/__init__.py` sets, when it is imported; without it, it keeps a
device id in the home folder and looks up its maker's host after a while.  OpenVINO's converter sends a request while it is
imported, through the package `openvino_telemetry`, and has a stand-in of its own for where that is not installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


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


def openvino_network(network: str | Path, precision: str, threads: int, *, channels_last: bool = False) -> Any:
    """An `openvino.CompiledModel` of an .onnx or .xml file on the processor, for single pictures.

    precision      "f32" or "bf16"; left to itself OpenVINO takes bf16 on processors that have it
    channels_last  its inputs of four dimensions are given as (B, H, W, C), and not turned first
    """
    openvino = import_openvino()
    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = core.read_model(str(network))
    if channels_last:
        from openvino.preprocess import PrePostProcessor

        steps = PrePostProcessor(model)
        for number, given in enumerate(model.inputs):
            if given.get_partial_shape().rank.get_length() == 4:
                steps.input(number).tensor().set_layout(openvino.Layout("NHWC"))
                steps.input(number).model().set_layout(openvino.Layout("NCHW"))
        model = steps.build()
    return core.compile_model(model, "CPU", settings)
