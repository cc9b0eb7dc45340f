"""Networks from elsewhere, taken in at one door."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn

from segmentarium.contracts.kinds import SegmentationModel
from segmentarium.contracts.model import Model


def adopt(module: nn.Module) -> Model:
    """A network from elsewhere, (B, C, H, W) -> (B, K, h, w), as a segmentation model; one of ours stays as it is."""
    return module if isinstance(module, Model) else AdoptedModel(module)


class AdoptedModel(SegmentationModel):
    """Somebody else's module, with what it says of itself: in_channels, num_classes, classes, palette, preprocessing.

    Where it says nothing, it takes three channels, normalised as ImageNet's, and its classes are counted by running it once.
    """

    def __init__(self, module: nn.Module) -> None:
        in_channels = int(getattr(module, "in_channels", 3))
        num_classes = getattr(module, "num_classes", None) or _count_classes(module, in_channels)
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.module = module
        self.classes = tuple(getattr(module, "classes", self.classes))
        self.palette = tuple(getattr(module, "palette", self.palette))
        self.preprocessing = getattr(module, "preprocessing", self.preprocessing)
        self.train(module.training)

    @property
    def title(self) -> str:
        return type(self.module).__name__

    def logits(self, image: Tensor) -> Tensor:
        return self.module(image)

    def deploy(self) -> Self:
        """A copy that nobody else holds; its layers stay as they are, since we do not know what they rely on."""
        return copy.deepcopy(self).eval().requires_grad_(False)


@torch.no_grad()
def _count_classes(module: nn.Module, in_channels: int) -> int:
    like = next(module.parameters(), torch.zeros(()))
    training = module.training
    output = module.eval()(torch.zeros(1, in_channels, 64, 64, device=like.device, dtype=like.dtype))
    module.train(training)
    if not isinstance(output, Tensor) or output.ndim != 4:
        raise TypeError(
            f"{type(module).__name__} gives no map of class scores (B, K, h, w); it cannot be used as a segmenter"
        )
    return output.shape[1]
