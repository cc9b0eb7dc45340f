"""What an exported file says of itself: the same words in ONNX, torch.export and OpenVINO."""

from __future__ import annotations

import json
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
    """The metadata of a file that `export_model` wrote; {} for a file of another origin.  Raises FileNotFoundError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no exported model at {path}")
    if path.suffix == ".onnx":
        import onnx

        proto = onnx.load(str(path), load_external_data=False)
        if proto.producer_name != METADATA_KEY:
            return {}
        return parsed({entry.key: entry.value for entry in proto.metadata_props}, path)
    if path.suffix == ".pt2":
        extra = {f"{METADATA_KEY}.json": ""}
        torch.export.load(str(path), extra_files=extra)
        return parsed({METADATA_KEY: extra[f"{METADATA_KEY}.json"] or "{}"}, path)[METADATA_KEY]
    if path.suffix == ".xml":
        return parsed(exported_texts(path)[0], path)
    raise ValueError(f"{path.name}: an exported model ends in .onnx, .pt2 or .xml")
