"""ONNX Runtime, OpenVINO, NNCF and Ray, which report home unless told not to: the only place that imports them.

ONNX Runtime reads ORT_DISABLE_TELEMETRY, which `segmentarium/__init__.py` sets, when it is imported; without it, it keeps a
device id in the home folder and looks up its maker's host after a while.  OpenVINO's converter and NNCF send requests
through the package `openvino_telemetry`, and have stand-ins of their own for where that is not installed.  Ray reports
from the machine that starts a cluster, unless RAY_USAGE_STATS_ENABLED is 0 there, which `segmentarium/__init__.py` sets, too; of
a cluster that others started, what they set counts.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from segmentarium.buffers import Buffers
from segmentarium.memory import memory_errors
from segmentarium.onnx_head import check_onnx

if TYPE_CHECKING:
    import numpy as np

METADATA_KEY = "segmentarium"  # who wrote a file, in ONNX; the group of what it says of itself, in OpenVINO
OF_ALL = ("in_channels", "preprocessing")  # that every file of ours says
FACTS = (*OF_ALL, "classes", "num_classes")  # … of a network with classes
MOST_CLASSES = 65_536
SHAPES = 64  # of inputs, whose outputs' shapes are remembered
TENSORRT = "TensorrtExecutionProvider"
_DISABLE = 2  # C's SS_DISABLE

# Bytes that a network may take to be opened, or to be run for the first time, beside four times its file: threads reserve much
# that they never use.  Honest networks take tens to hundreds for each number of a picture.
ROOM, ROOM_OF_A_THREAD, ROOM_OF_A_NUMBER = 2**30, 2**28, 2**12
_bounding = threading.RLock()


def onnx_session(network: str | Path, threads: int) -> Any:
    """An `onnxruntime.InferenceSession` of an .onnx file on the processor, with `threads` threads and no warnings.

    Raises OnnxError for a file that must not be run, before it is; opened in bounded memory (`room_of`).
    """
    import onnxruntime

    check_onnx(Path(network))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # its threads else go on spinning after a run, and what comes next on these cores takes twice as long
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with bounded_memory(room_of(Path(network))):
        return onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])


def tensorrt_session(network: Path, precision: str, cache: Path) -> Any:
    """An ONNX Runtime session on TensorRT, what that cannot run on CUDA.  ImportError where this ONNX Runtime has none.

    cache  a folder for the engines that TensorRT builds, which takes it minutes
    """
    import onnxruntime

    if TENSORRT not in onnxruntime.get_available_providers():
        raise ImportError(
            "engine 'tensorrt' needs an ONNX Runtime with TensorRT, which is not installed: pip install onnxruntime-gpu tensorrt"
        )
    check_onnx(network)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    settings = {
        "trt_fp16_enable": precision == "fp16",
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(cache),
    }
    providers = [(TENSORRT, settings), "CUDAExecutionProvider", "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(network), options, providers=providers)
    if TENSORRT not in session.get_providers():
        raise ImportError("engine 'tensorrt': TensorRT is part of this ONNX Runtime but does not start here")
    return session


def onnx_quantization() -> Any:
    """The module `onnxruntime.quantization`, with its `shape_inference`.  ImportError without it or the package onnx."""
    import onnxruntime.quantization.shape_inference

    return onnxruntime.quantization


def room_of(network: Path, *given: np.ndarray) -> int:
    """Bytes that the network of a file may take to be opened, or to be run for the first time on what it is given."""
    threads = (os.cpu_count() or 1) * ROOM_OF_A_THREAD
    written = network.stat().st_size + (network.with_suffix(".bin").stat().st_size if network.suffix == ".xml" else 0)
    return ROOM + threads + 4 * written + ROOM_OF_A_NUMBER * sum(array.size for array in given)


@contextlib.contextmanager
def bounded_memory(count: int) -> Iterator[None]:
    """No more than so many bytes of address space may be added inside of the block, where the system can see to that (Linux).

    For the first run of a stranger's network: a few numbers in it may ask for more memory than there is.  The limit is the whole
    process's: threads that come here wait for each other.
    """
    with _bounding:
        yield from _bounded(count)


def _bounded(count: int) -> Iterator[None]:
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


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Within it an import of `openvino_telemetry` fails, as if it were not installed."""
    there = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["openvino_telemetry"]  # who wants it for something else finds it
        if there is not None:
            sys.modules["openvino_telemetry"] = there


def import_openvino() -> Any:
    """The package `openvino`, imported without its telemetry."""
    with _without_telemetry():
        import openvino
    return openvino


def import_nncf() -> Any:
    """The package `nncf`, which quantises for OpenVINO, imported without its telemetry.  ImportError without it."""
    try:
        with _without_telemetry():
            import nncf  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "int8 for OpenVINO needs NNCF, which is not installed: pip install 'segmentarium[int8]'; without it --format onnx "
            "writes int8 that both engines run"
        ) from error
    return nncf


def openvino_network(network: str | Path, precision: str, threads: int, *, channels_last: bool = False) -> Any:
    """An `openvino.CompiledModel` of an .onnx or .xml file on the processor, for single pictures, compiled in bounded memory.

    precision      "f32" or "bf16"; left to itself OpenVINO takes bf16 on processors that have it
    channels_last  its inputs of four dimensions are given as (B, H, W, C), and not turned first; outputs stay (B, C, H, W), for
                   OpenVINO (2026.4) turns them before it turns them back

    Raises ValueError where OpenVINO cannot compile it so: not every network of eight bits, for one, in bf16.
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
    try:
        with memory_errors(), _own_signal_stack(), bounded_memory(room_of(Path(network))):
            return core.compile_model(model, "CPU", settings)
    except RuntimeError as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        other = "fp32" if precision == "bf16" else "another engine"
        raise ValueError(
            f"{Path(network).name}: OpenVINO {openvino.__version__.partition('-')[0]} cannot compile it in {precision}: {why}; "
            f"take {other}"
        ) from error


def import_ray() -> Any:
    """The package `ray` with `ray.data`, imported without reports of its use.  ImportError where it is not installed.

    Under `uv run` Ray would send the folder that the user stands in to the cluster, pictures and all, and start its workers by
    `uv run` in a copy of it, where none comes up unless that folder is a project with Ray.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "many machines need Ray, which is not installed: pip install 'segmentarium[scale]'; without an address the same job "
            "runs on this machine alone"
        ) from error
    return ray


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


def runner(network: Any, file: Path, *, dense: bool = False) -> Callable[..., list[np.ndarray]]:
    """Arrays, contiguous, in the order of its inputs -> all that a session of ONNX Runtime or a compiled network of OpenVINO
    gives.

    file   it is of: the first call may take no more memory than `room_of` says, and ValueError names it where the network fails
    dense  the shapes of its outputs follow from those of its inputs, as scores of pixels do and boxes do not: from the second
           call of a shape on it writes into memory that is there (`buffers.py`), and nothing is copied
    """
    run, tried = _asked(network, dense), False

    def careful(*given: np.ndarray) -> list[np.ndarray]:
        nonlocal tried
        try:
            with contextlib.nullcontext() if tried else bounded_memory(room_of(file, *given)):
                found = run(*given)
        except Exception as error:  # the engines' exceptions have no class of their own above them
            said = " ".join(str(error).split())[:300] or type(error).__name__
            shapes = " and ".join("x".join(map(str, array.shape)) for array in given)
            raise ValueError(f"{file} fails on an input of {shapes}: {said}") from None
        tried = True
        return found

    return careful


def _asked(network: Any, dense: bool) -> Callable[..., list[np.ndarray]]:
    if hasattr(network, "get_inputs"):
        names = [put.name for put in network.get_inputs()]

        def ask(*given: np.ndarray) -> list[np.ndarray]:
            return network.run(None, dict(zip(names, given, strict=True)))

        on_processor = network.get_providers() == ["CPUExecutionProvider"]
        return _known_shapes(ask, partial(_fill_onnx, network)) if dense and on_processor else ask
    request, tensor = network.create_infer_request(), import_openvino().Tensor

    def ask_openvino(*given: np.ndarray) -> list[np.ndarray]:
        nonlocal request
        if dense:  # one whose outputs were given can no longer tell another shape
            request = network.create_infer_request()
        request.infer(list(given), share_inputs=True)
        return [request.get_output_tensor(i).data.copy() for i in range(len(network.outputs))]

    def fill_openvino(given: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
        for i, array in enumerate(outputs):
            request.set_output_tensor(i, tensor(array, shared_memory=True))
        request.infer(list(given), share_inputs=True)

    return _known_shapes(ask_openvino, fill_openvino) if dense else ask_openvino


def _fill_onnx(session: Any, given: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
    binding = session.io_binding()
    for put, array in zip(session.get_inputs(), given, strict=True):
        binding.bind_cpu_input(put.name, array)
    for put, array in zip(session.get_outputs(), outputs, strict=True):
        binding.bind_output(put.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    session.run_with_iobinding(binding)


def _known_shapes(
    ask: Callable[..., list[np.ndarray]],
    fill: Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], None],
) -> Callable[..., list[np.ndarray]]:
    """Asks for what it has not seen the shape of, and has the others written into arrays of its own."""
    buffers = Buffers()
    known: dict[tuple[tuple[int, ...], ...], list[tuple[tuple[int, ...], np.dtype]]] = {}

    def run(*given: np.ndarray) -> list[np.ndarray]:
        shapes = tuple(array.shape for array in given)
        if shapes not in known:
            found = ask(*given)
            if len(known) >= SHAPES:
                known.clear()
            known[shapes] = [(array.shape, array.dtype) for array in found]
            return found
        outputs = [buffers.take(*form) for form in known[shapes]]
        fill(given, outputs)
        return outputs

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


def parsed(texts: Mapping[str, str], file: Path) -> dict[str, Any]:
    """What a file says of itself, out of its JSON texts.  ValueError for what is none."""
    found = {}
    for key, text in texts.items():
        try:
            found[key] = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}: its {key} is no JSON ({type(error).__name__})") from None
    return found


def exported_facts(texts: Mapping[str, str], file: Path, keys: Collection[str] = FACTS) -> dict[str, Any]:
    """The same of a network of `segmentarium export`, of these keys: FACTS among them, or OF_ALL of a network without classes.

    Raises ValueError for a file of another origin, and for facts that cannot be: anybody may have written them.
    """
    if missing := sorted(set(keys) - set(texts)):
        raise ValueError(f"{file} does not say its {', '.join(missing)}: it was not written by `segmentarium export`")
    facts = parsed({key: texts[key] for key in keys}, file)
    if not isinstance(facts["preprocessing"], dict | None):
        raise ValueError(f"{file}: its preprocessing is no object of JSON")
    if "classes" not in keys:
        return facts
    names, count = facts["classes"], facts["num_classes"]
    if type(count) is not int or not 1 <= count <= MOST_CLASSES:
        raise ValueError(f"{file} says that it has {str(count)[:40]} classes; expected 1 to {MOST_CLASSES}")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{file}: its classes are no list of names")
    if names and len(names) not in (count, max(2, count)):
        raise ValueError(f"{file} names {len(names)} classes and says that it has {count}")
    return facts
