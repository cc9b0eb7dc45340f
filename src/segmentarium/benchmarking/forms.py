"""The ways to run one model: eager PyTorch as it is, channels-last, the deploy form, and the engines of prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

# form -> (engine, precision) of segmentarium.inference; None: eager PyTorch, made here
FORMS: dict[str, tuple[str, str] | None] = {
    "eager": None,
    "channels-last": None,
    "deploy": ("torch", "fp32"),
    "deploy-bf16": ("torch", "bf16"),
    "compile": ("compile", "fp32"),
    "onnxruntime": ("onnxruntime", "fp32"),
    "openvino": ("openvino", "fp32"),
    "openvino-bf16": ("openvino", "bf16"),
    # on a GPU of NVIDIA's; the time of a call includes the way of the picture there and of the scores back
    "cuda": ("torch", "fp32"),
    "cuda-fp16": ("torch", "fp16"),
    "cuda-compile-fp16": ("compile", "fp16"),
    "cuda-graph-fp16": ("cudagraph", "fp16"),
    "tensorrt-fp16": ("tensorrt", "fp16"),
}
PROCESSOR = tuple(name for name in FORMS if not name.startswith(("cuda", "tensorrt")))


def check_forms(names: list[str]) -> list[str]:
    """The names, each known; ValueError names the others."""
    unknown = [name for name in names if name not in FORMS]
    if unknown or not names:
        raise ValueError(f"engines are {', '.join(names) or 'none'}; give one or more of {', '.join(FORMS)}")
    return names


def forms_of(model: str, names: Sequence[str]) -> list[str]:
    """Those of `names` in which a model can run: of an exported network its engines' alone, of weights all.

    ValueError where none is left.
    """
    from segmentarium.weights.exported import ENGINES, is_exported

    if not is_exported(model):
        return list(names)
    able = ENGINES[Path(model).suffix.lower()]
    kept = [name for name in names if (FORMS[name] or ("",))[0] in able]
    if not kept:
        raise ValueError(f"{model} is an exported network and runs on {' or '.join(able)}, not on {', '.join(names)}")
    return kept


def build_form(model: nn.Module, name: str) -> Callable[[Tensor], Tensor]:
    """image (B, C, H, W) float32, contiguous -> logits (B, K, H, W).

    "eager" is the model as trained; "channels-last" the same with weights and image in that layout; "deploy" and the rest
    run the deploy form.  Raises ImportError for a missing package and ValueError for a precision the processor lacks.
    """
    check_forms([name])
    engine = FORMS[name]
    if engine is not None:
        from segmentarium.inference.engines import build_engine

        if name in PROCESSOR:
            return build_engine(model, engine[0], precision=engine[1], device="cpu")
        if not torch.cuda.is_available():
            raise ImportError(f"{name} needs a GPU of NVIDIA's, and PyTorch sees none here")
        run_there = build_engine(model, engine[0], precision=engine[1], device="cuda")
        return lambda image: run_there.outputs(image)[0].cpu()
    layout = torch.channels_last if name == "channels-last" else torch.contiguous_format
    network = model.eval().to(memory_format=layout)

    def run(image: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(image.contiguous(memory_format=layout))

    return run
