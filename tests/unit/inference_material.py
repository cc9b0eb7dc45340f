"""Small networks whose right answer is known, and pictures of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segmentarium.contracts import Preprocessing, SegmentationModel


class Brightness(SegmentationModel):
    """Class by brightness: of K classes the one nearest to K - 1 times the mean of the channels; purely local."""

    def __init__(self, *, num_classes: int = 2, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.preprocessing = Preprocessing((0.0,) * in_channels, (1.0,) * in_channels)
        self.scores = nn.Conv2d(in_channels, num_classes, 1)
        with torch.no_grad():
            level = torch.linspace(0, 1, num_classes) if num_classes > 1 else torch.tensor([1.0])
            # -(x - l)^2 without x^2: 2 l x - l^2; one logit: x - 1/2
            self.scores.weight.copy_((40 * level / in_channels).view(-1, 1, 1, 1).expand_as(self.scores.weight))
            self.scores.bias.copy_(-20 * level**2)

    def forward(self, image: Tensor) -> Tensor:
        return self.scores(image)


def picture(height: int = 60, width: int = 90) -> np.ndarray:
    """(height, width, 3) uint8: black on the left, white on the right, colours between."""
    ramp = np.linspace(0, 255, width).round().astype(np.uint8)
    image = np.empty((height, width, 3), np.uint8)
    image[:] = ramp[None, :, None]
    image[: height // 4, :, 0] //= 2
    return image


def write_pictures(folder: Path) -> dict[str, Path]:
    """The picture in the modes that cameras, scanners and drawing programs write."""
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture())
    rotated = Image.Exif()
    rotated[0x0112] = 6
    modes = {
        "grey.png": image.convert("L"),
        "palette.png": image.quantize(16),
        "rgba.png": image.convert("RGBA"),
        "bits.png": image.convert("1"),
        "wide.png": Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257),
        "cmyk.jpg": image.convert("CMYK"),
        "plain.jpg": image,
        "float.tif": Image.fromarray(np.asarray(image.convert("L")).astype(np.float32) / 255),
        "tiny.png": image.resize((1, 1)),
        "narrow.png": image.resize((3, 70)),
    }
    for name, picture_ in modes.items():
        picture_.save(folder / name)
    image.save(folder / "rotated.jpg", exif=rotated)
    return {name: folder / name for name in [*modes, "rotated.jpg"]}
