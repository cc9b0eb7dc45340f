"""The kinds of models: what each takes and gives."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from segmentarium.contracts.backbone import Backbone
from segmentarium.contracts.model import LabelledModel, Term
from segmentarium.layers.resize import resize
from segmentarium.losses import LabelCrossEntropy
from segmentarium.palette import default_palette


class SegmentationModel(LabelledModel):
    """(B, C, H, W) -> (B, K, H, W) logits at the image's size: a class for every pixel.

    A subclass gives `logits`, at a resolution of its choice, and where it supervises more, `forward_train`.
    """

    kind = "segmenter"

    def __init__(self, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.palette: tuple[tuple[int, int, int], ...] = default_palette(len(self.classes))

    def labels(self) -> dict[str, Any]:
        return super().labels() | {"palette": [list(colour) for colour in self.palette]}

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, h, w)"""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        return resize(self.logits(image), image.shape[-2:], align_corners=self.align_corners)

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.logits(image)}


class Classifier(LabelledModel):
    """(B, C, H, W) -> (B, K) logits: a backbone that was built with `num_classes`, and its own head."""

    kind = "classifier"

    def __init__(self, backbone: Backbone) -> None:
        if backbone.num_classes is None:
            raise ValueError(f"{type(backbone).__name__} has no classifier; build it with num_classes")
        super().__init__(num_classes=backbone.num_classes, in_channels=backbone.in_channels)
        self.backbone = backbone
        self.fixed_size = backbone.fixed_size
        self.preprocessing = backbone.preprocessing.for_channels(backbone.in_channels)
        self.set_objective(Term("cross_entropy", 1.0, LabelCrossEntropy(), on="label", at="as is"))

    def forward(self, image: Tensor) -> Tensor:
        return self.backbone.classify(image)

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.backbone.classify(image)}
