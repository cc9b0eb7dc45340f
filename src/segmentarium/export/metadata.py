"""What an exported file says of itself: the same words in ONNX, torch.export and OpenVINO."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import torch

from segmentarium.contracts import Model
from segmentarium.runtimes import METADATA_KEY, exported_texts, parsed


def model_metadata(model: Model) -> dict[str, Any]:
    """Model name and arguments, classes, palette, preprocessing, licences, data set, scores; all plain JSON data.

    The input is `(image / 255 - preprocessing.mean) / preprocessing.std`, RGB, channels first.
    """
    from segmentarium.version import __version__

    header = model.weights_header
    metadata: dict[str, Any] = {
        "model": model.title,
        "kind": model.kind,
        "arguments": model.given_arguments,
        "in_channels": model.in_channels,
        **model.labels(),
        "preprocessing": model.preprocessing.as_dict(),
        "licences": header.get("licences", {}),
        "dataset": header.get("dataset"),
        "metrics": header.get("metrics", {}),
        "versions": {"segmentarium": __version__, "torch": torch.__version__},
    }
    return json.loads(json.dumps(metadata))  # lists for tuples, as they come back from a file


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of a file that `export_model` wrote; {} for a file of another origin.

    Raises FileNotFoundError, and ValueError for a damaged file and for one with another suffix.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no exported model at {path}")
    if path.suffix not in (".onnx", ".pt2", ".xml"):
        raise ValueError(f"{path.name}: an exported model ends in .onnx, .pt2 or .xml")
    try:
        texts = _texts(path)
    except (ImportError, OSError):
        raise
    except Exception as error:  # the engines' exceptions have no class of their own above them
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{path} is no exported model that can be read: {said}") from error
    found = parsed(texts, path)
    return found.get(METADATA_KEY, {}) if path.suffix == ".pt2" else found


def _texts(path: Path) -> dict[str, str]:
    """What a file says of itself, as JSON texts; of a .pt2 all in one."""
    if not path.stat().st_size:
        raise ValueError("it is empty (0 bytes)")  # which onnx takes for a network without anything
    if path.suffix == ".onnx":
        import onnx

        proto = onnx.load(str(path), load_external_data=False)
        if proto.producer_name != METADATA_KEY:
            return {}
        return {entry.key: entry.value for entry in proto.metadata_props}
    if path.suffix == ".pt2":
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no zip archive")  # of which PyTorch would log pages
        extra = {f"{METADATA_KEY}.json": ""}
        torch.export.load(str(path), extra_files=extra)
        return {METADATA_KEY: extra[f"{METADATA_KEY}.json"] or "{}"}
    return exported_texts(path)[0]
