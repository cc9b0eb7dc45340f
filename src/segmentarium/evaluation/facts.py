"""What every report says of how it was measured: model, data, machine, versions, and whether the pictures were trained on."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Mapping
from typing import Any

import torch

from segmentarium.data.seen import share_seen
from segmentarium.inference.network import Network

PACKAGES = ("segmentarium", "torch", "torchvision", "timm", "numpy", "pillow", "onnxruntime", "openvino")


def facts_of(network: Network, source: str, dataset: Any, options: dict[str, Any], started: float) -> dict[str, Any]:
    """The fields that every report of a network has; started: by `time.perf_counter`."""
    info = dataset.info
    return {
        "seconds": time.perf_counter() - started,
        "model": network.facts(source),
        "data": {
            "name": info.name,
            "split": str(getattr(dataset, "split", "")),
            "images_in_split": len(dataset),
            "licence": getattr(info, "licence", "unknown"),
        },
        "options": {**options, "engine": str(network.engine)},
        "machine": machine_of(network.device),
        "versions": versions(),
    }


def trained_on_warning(header: Mapping[str, Any], dataset: Any) -> str:
    """What is to be said of pictures that the weights were trained on; "" where there are none."""
    share = share_seen(header, dataset)
    if not share:
        return ""
    split = f" of split {dataset.split!r}" if getattr(dataset, "split", "") else ""
    number = max(1, round(share * len(dataset)))
    return (
        f"{number:,} of the {len(dataset):,} pictures{split} were trained on ({share:.0%}): the scores say "
        "nothing about other pictures; score it on some that it never saw"
    )


def machine_of(device: torch.device) -> dict[str, Any]:
    """What it ran on."""
    return {
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Of Python and the packages that scores may depend on, those that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
