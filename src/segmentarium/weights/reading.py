"""Tensors out of files: ours, and those of other training programs, of which nothing is run."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segmentarium.preprocessing import LARGEST, SMALLEST, Preprocessing
from segmentarium.weights.inert import NAMED, read_tensors
from segmentarium.weights.numpy_pickle import read_numpy_pickle

HEADER = "segmentarium"
# where training programs put the state dict, by preference: averaged weights where there are no others
STATES = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "state_dict_ema",
    "model_ema",
    "ema",
    "module",
)
OTHERS = {
    ".caffemodel": "Caffe",
    ".prototxt": "Caffe",
    ".ckpt": "MindSpore or TensorFlow",
    ".h5": "Keras",
}
COUNTED = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)  # of which PyTorch can say whether they are numbers


class CheckpointError(ValueError):
    """A file that is no checkpoint, is damaged, or must not be read."""


def read_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """State dict and our header (None: not our file) of a .safetensors file or a pickled checkpoint.

    Of pickles only tensors are taken: what else they name is not run, and files that name programs are refused.  Raises
    FileNotFoundError, CheckpointError.
    """
    state, header, _ = read_all(path)
    return state, header


def read_all(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any] | None, dict[str, Any]]:
    """The same, and what the training program wrote beside the weights: classes, palette."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        except MemoryError:
            raise
        except SafetensorError as error:
            raise CheckpointError(
                f"{path} is no whole safetensors file ({error}); was the download or copy complete?"
            ) from None
        except Exception as error:  # kinds of tensors that PyTorch has not, names that are none, …
            raise CheckpointError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
        return state, _header(metadata[HEADER], path) if HEADER in metadata else None, {}
    if (what := _is_no_checkpoint(path)) is not None:
        raise CheckpointError(f"{path} is {what}")
    try:
        loaded = _unpickle(path)
    except pickle.UnpicklingError as error:
        if (whose := OTHERS.get(path.suffix)) is not None:
            raise CheckpointError(f"{path} is of {whose}; only PyTorch's and safetensors files can be read") from None
        raise CheckpointError(
            f"{path} holds more than tensors ({_reason(error)}); it could run code when opened and is refused. "
            "Ask for a safetensors file, or save its state_dict() again with torch.save"
        ) from None
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:
        raise CheckpointError(f"{path} is no checkpoint that PyTorch can read: {_reason(error)}") from None
    return unwrap(loaded, path), None, _told(loaded)


def unwrap(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The state dict inside a checkpoint: under "state_dict", "model", … or bare; DataParallel's "module." removed.

    What stands among the tensors and is none (a version, a name) is left out.
    """
    for key in STATES:
        if isinstance(loaded, Mapping) and isinstance(inner := loaded.get(key), Mapping) and _tensors(inner):
            loaded = inner
    state = _tensors(loaded) if isinstance(loaded, Mapping) else {}
    if not state:
        raise CheckpointError(f"{path} holds no state dict: expected a mapping of names to tensors")
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _tensors(mapping: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in mapping.items() if isinstance(key, str) and isinstance(value, Tensor)}


def check_numbers(state: Mapping[str, Tensor], label: str) -> None:
    """CheckpointError for weights that are no numbers; infinity stands in masks of attention."""
    for key, tensor in state.items():
        if tensor.dtype in COUNTED and bool(tensor.isnan().any()):
            raise CheckpointError(
                f"{label}: {key} holds values that are no numbers (NaN); its training went astray, or the file is damaged"
            )


def _header(text: str, path: Path) -> dict[str, Any]:
    """The header of a file, whose facts are what they must be; CheckpointError for what is not."""
    try:
        header = json.loads(text)
        facts = [isinstance(header["model"], str), isinstance(header["arguments"], dict)]
        for kind in ("classes", "joints"):
            if kind in header:
                facts += [isinstance(header[kind], list), all(isinstance(name, str) for name in header[kind])]
        sides = header.get("input_size", (SMALLEST, SMALLEST))
        facts += [len(sides) == 2, *(isinstance(side, int) and SMALLEST <= side <= LARGEST for side in sides)]
        if "things" in header:
            facts += [all(isinstance(index, int) and 0 <= index < len(header["classes"]) for index in header["things"])]
        if "palette" in header:
            palette = header["palette"]
            facts += [len(palette) == len(header["classes"])]
            facts += [len(colour) == 3 and all(value in range(256) for value in colour) for colour in palette]
        if "preprocessing" in header:
            Preprocessing.from_dict(header["preprocessing"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} has a header that is none of ours ({type(error).__name__}: {error})") from None
    if not all(facts):
        raise CheckpointError(
            f"{path} has a header whose model, arguments, classes, joints, input_size, things or palette are none"
        )
    return header


def _told(loaded: Any) -> dict[str, Any]:
    """Classes and palette that mmengine and mmcv write beside the weights, where they are what they must be."""
    meta = loaded.get("meta") if isinstance(loaded, Mapping) else None
    if not isinstance(meta, Mapping):
        return {}
    inner = meta.get("dataset_meta")  # mmengine's; mmcv's stands outside
    said: Mapping[Any, Any] = inner if isinstance(inner, Mapping) else meta
    classes = said.get("CLASSES", said.get("classes"))
    palette = said.get("PALETTE", said.get("palette"))
    found: dict[str, Any] = {}
    if isinstance(classes, list | tuple) and classes and all(isinstance(name, str) for name in classes):
        found["classes"] = [" ".join(name.split()) for name in classes]
        with suppress(TypeError, ValueError):
            colours = [[int(value) for value in colour] for colour in palette]
            if len(colours) == len(classes) and all(len(c) == 3 and set(c) <= set(range(256)) for c in colours):
                found["palette"] = colours
    return found


def _unpickle(path: Path) -> Any:
    """What a pickle holds; arrays of detectron2's and Paddle's are tensors.  UnpicklingError for one that names programs."""
    if path.suffix in (".pkl", ".pdparams"):  # PyTorch's files may be called .pkl too: archives, or a number first
        with suppress(pickle.UnpicklingError):
            if isinstance(loaded := read_numpy_pickle(path), Mapping):
                return _from_paddle(loaded) if path.suffix == ".pdparams" else loaded
    return read_tensors(path)


def _from_paddle(loaded: Mapping[str, Any]) -> dict[str, Tensor]:
    """Paddle's state dict with PyTorch's names for the running statistics."""
    state = {key: value for key, value in loaded.items() if isinstance(value, Tensor)}
    names = {"_mean": "running_mean", "_variance": "running_var"}
    return {".".join([*(parts := key.split("."))[:-1], names.get(parts[-1], parts[-1])]): state[key] for key in state}


def _is_no_checkpoint(path: Path) -> str | None:
    """What a file is that people have in a checkpoint's place, and what to do about it; None: it may be one."""
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if not head:
        return "an empty file; was the download or copy complete?"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the weights themselves: `git lfs pull` fetches them"
    if path.suffix == ".xml" and b"<net " in text:
        return "OpenVINO's description of a network; load() runs it, and weights are in the checkpoint that it was exported from"
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "a web page, not weights: the address asked for a confirmation or a login; download it in the browser"
    if path.suffix == ".onnx" or (
        head[:1] == b"\x08" and any(name in head for name in (b"pytorch", b"onnx", b"tf2onnx"))
    ):
        return "an ONNX file, which holds a network but not under PyTorch's names; give the checkpoint that it was exported from"
    return None


def _reason(error: Exception) -> str:
    """What PyTorch says, in a line and without its advice to do without its safety."""
    if (named := NAMED.search(str(error))) is not None:
        return f"it names {named[1]}"
    said = " ".join(str(error).split())
    return "no plain pickle of tensors" if "weights_only" in said else said or type(error).__name__
