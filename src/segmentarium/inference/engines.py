"""What computes the logits: eager PyTorch, torch.compile, ONNX Runtime or OpenVINO, behind one call.

An engine takes normalised float32 pictures (B, C, H, W) of any size of 32 or more, with what else the model takes, and returns
float32 logits (B, K, H, W), or a tuple of what it gives (`MaskOutputs`, `DensePart`). Every engine runs the model's deploy form.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segmentarium.checks import ENGINES, PRECISIONS
from segmentarium.contracts import MaskOutputs, Model, SegmentationModel, adopt
from segmentarium.files import cache_folder, writable_cache
from segmentarium.inference.gpu import Graphed, in_half
from segmentarium.inference.packing import pack
from segmentarium.memory import memory_errors
from segmentarium.runtimes import onnx_session, openvino_network, runner, tensorrt_session
from segmentarium.weights.exported import ExportedNetwork

NEEDS = {
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "tensorrt": ("onnxruntime", "onnx", "onnxscript"),
}
OF_GPUS = ("cudagraph", "tensorrt")


class Engine:
    """A function from what a model takes to what it gives that knows its name.  `details` says what it really runs on."""

    def __init__(self, name: str, run: Callable[..., Any], details: str) -> None:
        self.name = name
        self.details = details
        self._run = run

    def __call__(self, *inputs: Tensor) -> Any:
        first, *more = self.outputs(*inputs)
        return (first, *more) if more else first

    @memory_errors()
    def outputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Everything that the model gives, in its order.  MemoryError where there is no memory for it."""
        with torch.inference_mode():
            found = self._run(*inputs)
            return tuple(output.float() for output in ((found,) if isinstance(found, Tensor) else found))

    def __str__(self) -> str:
        return f"{self.name} ({self.details})"


def missing_packages(name: str) -> list[str]:
    """The packages that engine `name` needs and that are not installed."""
    return [package for package in NEEDS.get(name, ()) if importlib.util.find_spec(package) is None]


def check_engine(name: str, precision: str) -> None:
    """Raises ValueError for an unknown engine or precision, ImportError for packages that are not installed."""
    if name not in ENGINES:
        raise ValueError(f"engine is {name!r}; give one of {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; give one of {', '.join(PRECISIONS)}")
    if name == "onnxruntime" and precision != "fp32":
        raise ValueError("onnxruntime computes in fp32 here; for bf16 take the engine openvino, torch or compile")
    if name in OF_GPUS and not torch.cuda.is_available():
        raise ImportError(
            f"engine {name!r} needs a GPU of NVIDIA's, and PyTorch sees none here; give torch or openvino"
        )
    if precision == "fp16" and not torch.cuda.is_available():
        raise ImportError("precision fp16 needs a GPU of NVIDIA's, and PyTorch sees none here; give bf16 or fp32")
    if (name, precision) in (("openvino", "fp16"), ("tensorrt", "bf16")):
        raise ValueError(
            f"{name} does not compute in {precision} here; give fp32 or {'bf16' if name == 'openvino' else 'fp16'}"
        )
    if missing := missing_packages(name):
        raise ImportError(
            f"engine {name!r} needs {', '.join(missing)}, which is not installed: pip install 'segmentarium[export]'"
        )


def build_engine(
    model: nn.Module, name: str = "torch", *, precision: str = "fp32", device: torch.device | str | None = None
) -> Engine:
    """The engine `name` for a model; "auto" is chosen by `segmentarium.inference.auto`, which needs a picture.

    precision  "bf16" computes in bfloat16: twice as fast and more on processors with AMX or AVX512-BF16, slower on others.
               "fp16", of GPUs, is autocast: sums and norms stay in float32
    device     of torch and compile, default: the first GPU if there is one, else the processor.  onnxruntime and openvino run
               on the processor, cudagraph and tensorrt on a GPU
    """
    if (written := exported_network(model)) is not None:
        name = written.engine_for(name, precision)
    else:
        check_engine(name, precision)
    if name in ("torch", "compile", "cudagraph"):
        return _torch_engine(
            model, name, precision, default_device("cuda" if name == "cudagraph" and device is None else device)
        )
    if name == "onnxruntime":
        return _onnxruntime_engine(model)
    if name == "openvino":
        return _openvino_engine(model, precision)
    if name == "tensorrt":
        return _tensorrt_engine(model, precision)
    raise ValueError("engine 'auto' is chosen for a picture: call segmentarium.inference.auto.fastest_engine")


def exported_network(model: nn.Module) -> ExportedNetwork | None:
    """The network of a file that a model is, which PyTorch cannot run; None: it is an ordinary one."""
    inner = model.network if isinstance(model, MaskOutputs) else model
    return inner if isinstance(inner, ExportedNetwork) else None


def default_device(device: torch.device | str | None = None) -> torch.device:
    """What is asked for, else a GPU if there is one.  ValueError for a device that PyTorch does not know or has not here."""
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}; give one of PyTorch's, such as cpu or cuda:0") from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device is {device!r}, and PyTorch sees {torch.cuda.device_count()} GPUs here; give cpu, or leave it out"
        )
    return place


def is_dense(model: nn.Module) -> bool:
    """Whether the shapes of its outputs follow from those of its inputs."""
    return isinstance(adopt(model), SegmentationModel)


def deployed(model: nn.Module) -> Model:
    """The deploy form of a model; of a module from elsewhere a copy in eval mode."""
    return adopt(model).deploy()


def _torch_engine(model: nn.Module, name: str, precision: str, device: torch.device) -> Engine:
    """Eager, compiled, or replayed as a CUDA graph."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    network: Any = deployed(model).to(device, dtype).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if name == "torch" and device.type == "cpu":
        pack(network)
    forward: Any = torch.compile(network) if name == "compile" else network
    if precision == "fp16":
        forward = in_half(forward, device)
    if name == "cudagraph":
        forward = Graphed(forward)

    def run(*maps: Tensor) -> Any:
        return forward(*(x.to(device=device, dtype=dtype, memory_format=torch.channels_last) for x in maps))

    how = {"torch": "", "compile": "torch.compile, ", "cudagraph": "CUDA graphs, "}[name]
    return Engine(name, run, f"{how}{device_name(device)}, {precision}, channels-last")


def _onnxruntime_engine(model: nn.Module) -> Engine:
    threads = torch.get_num_threads()
    file = onnx_file(model)
    session = onnx_session(file, threads)
    return _session_engine("onnxruntime", file, session, f"fp32, {threads} threads", dense=is_dense(model))


def _session_engine(name: str, file: Path, session: Any, how: str, *, dense: bool = False) -> Engine:
    """Of a session of ONNX Runtime, on whichever of its providers."""
    answers = runner(session, file, dense=dense)

    def run(*maps: Tensor) -> list[Tensor]:
        return [torch.from_numpy(found) for found in answers(*(x.contiguous().cpu().numpy() for x in maps))]

    return Engine(name, run, f"{session.get_providers()[0]}, {how}")


def _openvino_engine(model: nn.Module, precision: str) -> Engine:
    threads = torch.get_num_threads()
    file, last = onnx_file(model), adopt(model).channels_last
    compiled = openvino_network(file, "bf16" if precision == "bf16" else "f32", threads, channels_last=last)
    answers = runner(compiled, file, dense=is_dense(model))

    def run(*maps: Tensor) -> list[Tensor]:
        given = [x.permute(0, 2, 3, 1) for x in maps] if last else maps
        return [torch.from_numpy(found) for found in answers(*(x.contiguous().cpu().numpy() for x in given))]

    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if precision == "bf16" and hint != "bf16":
        raise ValueError("this processor has no bfloat16 that OpenVINO can use; leave precision at fp32")
    return Engine("openvino", run, f"CPU, {precision}, {threads} threads")


def _tensorrt_engine(model: nn.Module, precision: str) -> Engine:
    folder = writable_cache() / "tensorrt"
    folder.mkdir(parents=True, exist_ok=True)
    file = onnx_file(model)
    return _session_engine("tensorrt", file, tensorrt_session(file, precision, folder), precision)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def fingerprint(model: nn.Module) -> str:
    """Hexadecimal digest of what the network computes: its structure, its weights, and PyTorch's version."""
    from segmentarium.version import __version__

    layers = [f"{name} {type(layer).__name__}({layer.extra_repr()})" for name, layer in model.named_modules()]
    digest = hashlib.sha256("\n".join([__version__, torch.__version__, *layers]).encode())
    for key, tensor in model.state_dict().items():
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:20]


def onnx_file(model: nn.Module) -> Path:
    """The deploy form of the model as ONNX, in the cache folder; written when it is not there yet.  Of a network that came from a
    file, that file, which may be OpenVINO's."""
    from segmentarium.export import to_onnx

    if (written := exported_network(model)) is not None:
        return written.file
    name = f"{fingerprint(model)}.onnx"
    kept = (cache_folder() / name, writable_cache() / name)
    return next((path for path in kept if path.is_file()), None) or to_onnx(model, kept[1])
