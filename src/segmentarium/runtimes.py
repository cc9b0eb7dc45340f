"""ONNX Runtime and OpenVINO, which both report home unless told not to: the only place that imports them.

ONNX Runtime reads ORT_DISABLE_TELEMETRY, which `segmentarium/__init__.py` sets, when it is imported; without it, it keeps a
device id in the home folder and looks up its maker's host after a while.  OpenVINO's converter sends a request while it is
imported, through the package `openvino_telemetry`, and has a stand-in of its own for where that is not installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from segmentarium.onnx_head import check_onnx


def onnx_session(network: str | Path, threads: int) -> Any:
    """An `onnxruntime.InferenceSession` of an .onnx file on the processor, with `threads` threads and no warnings.

    Raises OnnxError for a file that must not be run, before it is.
    """
    import onnxruntime

    check_onnx(Path(network))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def bounded_memory(count: int) -> Iterator[None]:
    """No more than so many bytes of address space may be added inside of the block, where the system can see to that (Linux).

    For the first run of a stranger's network: a few numbers in it may ask for more memory than there is.
    """
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        before = resource.getrlimit(resource.RLIMIT_AS)
    except (ImportError, OSError):
        yield
        return
    wanted = pages * resource.getpagesize() + count
    if before[0] == resource.RLIM_INFINITY or before[0] > wanted:
        resource.setrlimit(resource.RLIMIT_AS, (wanted, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


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
    if Path(network).suffix == ".onnx":
        check_onnx(Path(network))
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
    with _own_signal_stack():
        return core.compile_model(model, "CPU", settings)


class _Stack(ctypes.Structure):
    """C's stack_t."""

    _fields_: ClassVar = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextlib.contextmanager
def _own_signal_stack() -> Iterator[None]:
    """Within it the thread's stack for signals may change; behind it it is the one before.

    On Linux each network that OpenVINO compiles gives the thread a stack for signals, and takes it away when it is deleted,
    back to the one before: after two of them that may be memory that is gone, and the next signal with a handler in Python ends
    the process (seen with OpenVINO 2026.4).
    """
    if sys.platform != "linux":
        yield
        return
    call, before = ctypes.CDLL(None).sigaltstack, _Stack()
    call(None, ctypes.byref(before))
    try:
        yield
    finally:
        if call(ctypes.byref(before), None):  # too small for what the processor's registers hold by now
            call(ctypes.byref(_Stack(None, _DISABLE, 0)), None)


_DISABLE = 2  # SS_DISABLE
