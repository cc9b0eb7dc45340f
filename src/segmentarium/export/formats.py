"""One trace of the deploy form, written as torch.export, ONNX or OpenVINO with dynamic batch, height and width."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from segmentarium.contracts import Model, adopt
from segmentarium.export.metadata import METADATA_KEY, model_metadata
from segmentarium.files import check_targets, part_folder
from segmentarium.runtimes import import_openvino

# format -> suffix of its main file; OpenVINO's weights lie beside it in a .bin
FORMATS = {"onnx": ".onnx", "torch": ".pt2", "openvino": ".xml"}
OPSET = 20  # the first with an exact bilinear Resize and what torch's exporter targets

# Two images (a batch of one would be taken for a constant) of odd sides, which are multiples of no stride: what a model
# decides by such a size holds for every other.
TRACE_SIZE = (2, 129, 193)


class ExportError(ValueError):
    """A model that cannot be expressed in the wanted format."""


class _SplitPReLU(nn.Module):
    """PReLU as ReLU(x) - slope · ReLU(-x): the same numbers, bit for bit.

    ONNX Runtime has no fast kernel for PRelu, and leaves its blocked layout for it: CGNet's blocks take a third of the time
    so written, and OpenVINO takes the time of its own PRelu.
    """

    slope: Tensor

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.register_buffer("slope", slope.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) -> the same shape"""
        slope = self.slope.reshape(1, -1, *(1,) * (x.ndim - 2))
        return F.relu(x) - slope * F.relu(-x)


def deploy_form(model: nn.Module) -> Model:
    """The model's inference copy, in float32 on the CPU, in the operators that engines are fast at."""
    deployed = adopt(model).deploy().float().cpu()
    for parent in list(deployed.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, nn.PReLU):
                setattr(parent, name, _SplitPReLU(child.weight))
    return deployed


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters talk about their own internals; the measured parity says what matters."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@dataclass(frozen=True)
class Traced:
    """A model's graph, with the names of what it takes and gives, and of the inputs' open axes."""

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: tuple[tuple[str, ...], ...]


def trace(model: Model) -> Traced:
    """The graph of `model(*inputs)` with batch, height and width left open.  ExportError where the model has none."""
    import sympy
    from torch.utils._sympy.value_ranges import ValueRanges

    batch, *size = TRACE_SIZE
    example = model.example(batch, (size[0], size[1]))
    # Named ranges would ask for a proof that no guard excludes a size; the parity check measures it instead.
    axes = tuple(model.open_axes[min(i, len(model.open_axes) - 1)] for i in range(len(example)))
    dynamic = tuple(
        {dim: Dim.DYNAMIC for dim, name in enumerate(names) if name and not (model.fixed_size and dim)}
        for names in axes
    )
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(model, example, dynamic_shapes=dynamic)
    except Exception as error:  # torch.export raises whatever the traced code or its own passes raise
        raise ExportError(f"torch.export cannot trace {type(model).__name__}: {_first_lines(error)}") from error
    # A map that may shrink to a single row makes the tracer demand more of the image than any operator does (65 rows, say,
    # for one at stride 64); 2 is how it writes "any".
    for symbol, bounds in program.range_constraints.items():
        program.range_constraints[symbol] = ValueRanges(min(bounds.lower, sympy.Integer(2)), bounds.upper)
    program.example_inputs = None  # or the example travels in the file
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # and local paths with it
        _leave_alone(node)
    program.graph_module.recompile()
    return Traced(program, model.inputs, model.output_names, axes)


# Operators whose result shares no memory with what they are given.
_FRESH = {
    "add",
    "avg_pool2d",
    "adaptive_avg_pool2d",
    "batch_norm",
    "cat",
    "conv2d",
    "conv_transpose2d",
    "div",
    "linear",
}
_FRESH |= {"matmul", "mul", "relu", "silu", "sub"}


def _leave_alone(node: torch.fx.Node) -> None:
    """Lets an operator that would change what it is given in place, which nobody else reads, make something new.

    In a file that is the same; but what PyTorch does to learn the shapes of an operator in place, with open sizes, takes most of
    an export's time.
    """
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.name.endswith("_"):
        return
    plain = getattr(
        getattr(torch.ops.aten, schema.name.removeprefix("aten::")[:-1], None), schema.overload_name or "default", None
    )
    given = node.args[0]
    if plain is None or not isinstance(given, torch.fx.Node) or len(given.users) > 1:
        return
    if getattr(given.target, "__name__", "").partition(".")[0] in _FRESH:
        node.target = plain


def write_torch(traced: Traced, path: Path, metadata: Mapping[str, Any], opset: int = OPSET) -> None:
    """A .pt2 archive for `torch.export.load`; the metadata is its extra file "segmentarium.json"."""
    with _quiet():
        torch.export.save(traced.program, path, extra_files={f"{METADATA_KEY}.json": json.dumps(metadata)})


def write_onnx(traced: Traced, path: Path, metadata: Mapping[str, Any], opset: int = OPSET) -> None:
    """One .onnx file with the weights inside; each metadata value is a JSON string in `metadata_props`."""
    _need("onnx", "onnxscript")
    try:
        with _quiet():
            exported = torch.onnx.export(
                traced.program,
                (),
                dynamo=True,
                opset_version=opset,
                input_names=traced.inputs,
                output_names=traced.outputs,
                verbose=False,
            )
    except Exception as error:
        raise ExportError(f"the ONNX exporter failed: {_first_lines(error)}") from error
    assert exported is not None
    proto = exported.model_proto
    got = next(one.version for one in proto.opset_import if not one.domain)
    if got != opset:
        raise ExportError(
            f"operator set {opset} was asked for, and the exporter gives {got} of this model: it has operators that need it; "
            f"give --opset {got} (in Python opset={got})"
        )
    proto.producer_name = METADATA_KEY
    graph = proto.graph
    # Where each node came from in the Python source: of no use outside, a third of a small file, and full of local paths.
    for thing in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del thing.metadata_props[:]
        thing.doc_string = ""
    for key, value in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    names = {
        dim.dim_param: name
        for put, axes in zip(graph.input, traced.axes, strict=False)
        for dim, name in zip(put.type.tensor_type.shape.dim, axes, strict=False)
        if dim.dim_param
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: names.get(word.group(), word.group()), dim.dim_param)
    path.write_bytes(proto.SerializeToString())


def write_openvino(traced: Traced, path: Path, metadata: Mapping[str, Any], opset: int = OPSET) -> None:
    """An .xml with its .bin, converted from ONNX in float32; the metadata is in `rt_info` under "segmentarium"."""
    _need("openvino")
    openvino = import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        intermediate = Path(folder) / "model.onnx"
        write_onnx(traced, intermediate, {}, opset)
        try:
            model = openvino.convert_model(str(intermediate))
        except Exception as error:
            raise ExportError(f"OpenVINO cannot convert the model: {_first_lines(error)}") from error
        for key, value in metadata.items():
            model.set_rt_info(json.dumps(value), [METADATA_KEY, key])
        openvino.save_model(model, str(path), compress_to_fp16=False)


WRITERS = {"onnx": write_onnx, "torch": write_torch, "openvino": write_openvino}


def target(path: str | Path, format: str | None) -> tuple[Path, str]:
    """The final path and the format, each completing the other: "a.onnx" is ONNX, ("a", "torch") is "a.pt2"."""
    path = Path(path)
    by_suffix = {suffix: name for name, suffix in FORMATS.items()}
    if format is None:
        format = by_suffix.get(path.suffix, "onnx")
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; give one of {', '.join(FORMATS)}")
    if path.suffix in by_suffix and by_suffix[path.suffix] != format:
        raise ValueError(
            f"{path.name} is a name of format {by_suffix[path.suffix]!r}, not {format!r}; give one of them"
        )
    if path.suffix not in by_suffix:
        path = path.with_name(path.name + FORMATS[format])
    return path, format


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yields `path`'s name inside a temporary folder beside it; what was written there moves out only if no error occurred.

    OpenVINO's .bin moves before its .xml and the parity table first of all, so that a complete model never lacks either.
    """
    with part_folder(path) as folder:
        yield folder / path.name
        for written in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
            written.replace(path.parent / written.name)


def _write(model: nn.Module, path: str | Path, format: str, opset: int = OPSET, *, overwrite: bool = False) -> Path:
    final, format = target(path, format)
    check_targets([final], overwrite=overwrite)
    model = adopt(model)
    traced = trace(deploy_form(model))
    with staged(final) as temporary:
        WRITERS[format](traced, temporary, model_metadata(model), opset)
    return final


def to_onnx(model: nn.Module, path: str | Path, *, opset: int = OPSET, overwrite: bool = False) -> Path:
    """Writes the model's deploy form as one ONNX file, unchecked (`export_model` measures parity); returns its path.

    Input "image" (batch, C, height, width) float32, normalised; output "logits" (batch, K, height, width).
    """
    return _write(model, path, "onnx", opset, overwrite=overwrite)


def to_openvino(model: nn.Module, path: str | Path, *, opset: int = OPSET, overwrite: bool = False) -> Path:
    """Writes the model's deploy form as OpenVINO .xml and .bin, unchecked; returns the path of the .xml."""
    return _write(model, path, "openvino", opset, overwrite=overwrite)


def to_torch(model: nn.Module, path: str | Path, *, overwrite: bool = False) -> Path:
    """Writes the model's deploy form as a torch.export archive (.pt2), unchecked; returns its path."""
    return _write(model, path, "torch", overwrite=overwrite)


def _need(*packages: str) -> None:
    from importlib.util import find_spec

    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ImportError(f"this needs {' and '.join(missing)}: pip install 'segmentarium[export]'")


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).strip().splitlines()[:3]) or type(error).__name__
