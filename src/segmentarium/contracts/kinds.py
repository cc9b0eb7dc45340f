"""The kinds of models of pictures: what each takes and gives.

Those that find segments are in `segment_kinds.py`, those that find points and boxes in `point_kinds.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from segmentarium.contracts.backbone import Backbone
from segmentarium.contracts.model import Batch, LabelledModel, Model
from segmentarium.layers.resize import resize
from segmentarium.losses import LabelCrossEntropy
from segmentarium.palette import default_palette


class ColouredModel(LabelledModel):
    """Whatever paints every pixel of the image with a class: RGB colours in 0..255, one a class."""

    def __init__(self, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.palette: tuple[tuple[int, int, int], ...] = default_palette(len(self.classes))

    def labels(self) -> dict[str, Any]:
        return super().labels() | {"palette": [list(colour) for colour in self.palette]}


class SegmentationModel(ColouredModel):
    """(B, C, H, W) -> (B, K, H, W) logits at the image's size: a class for every pixel.

    A subclass gives `logits`, at a resolution of its choice, and where it supervises more, `forward_train`.
    """

    kind = "segmenter"

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
    counted_at = (224, 224)

    def __init__(self, backbone: Backbone) -> None:
        if backbone.num_classes is None:
            raise ValueError(f"{type(backbone).__name__} has no classifier; build it with num_classes")
        super().__init__(num_classes=backbone.num_classes, in_channels=backbone.in_channels)
        self.backbone = backbone
        self.fixed_size = backbone.fixed_size
        self.preprocessing = backbone.preprocessing.for_channels(backbone.in_channels)
        self.set_objective(*backbone.objective())

    def forward(self, image: Tensor) -> Tensor:
        return self.backbone.classify(image)

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        return self.backbone.classify_train(image)

    def smooth_labels(self, share: float) -> None:
        """Spreads this share of each target, 0..1, evenly over all classes, in every loss on labels."""
        checked = LabelCrossEntropy(share).label_smoothing
        for loss in self.losses.modules():
            if isinstance(loss, LabelCrossEntropy):
                loss.label_smoothing = checked


class Pretrainer(Model):
    """(B, C, H, W) -> what it predicts of the picture, so that a part of it learns without labels.

    Its backbone, where it has one, stands under "backbone.", as in every model, and leaves by
    `load_part(model, "backbone", file)`.  What is random of a picture, such as which patches are hidden, is an input: `draw`
    gives it of one picture, so that the picture's number decides it whatever the number of workers.

    best_score   of `scores`, the greater the better: which weights are kept
    """

    kind = "pretrainer"
    output_names = ("prediction",)
    open_axes = (("batch", "", "height", "width"), ("batch", "patches"))
    counted_at = (224, 224)
    best_score: ClassVar[str] = ""

    def __init__(self, backbone: Backbone | None = None, *, in_channels: int = 3) -> None:
        super().__init__(in_channels=in_channels if backbone is None else backbone.in_channels)
        if backbone is not None:
            self.backbone = backbone
            self.fixed_size = backbone.fixed_size
            self.preprocessing = backbone.preprocessing.for_channels(backbone.in_channels)

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> dict[str, Tensor]:
        """Of one picture of `size` = (height, width): what `inputs` has beside the image, drawn; without a batch's dimension."""
        return {}

    def example(self, batch: int = 1, size: tuple[int, int] = (64, 64)) -> tuple[Tensor, ...]:
        """Zeros for the image, and what `draw` gives for each picture, the same each time."""
        (image,) = super().example(batch, size)
        rng = np.random.default_rng(0)
        drawn = [self.draw(rng, (image.shape[-2], image.shape[-1])) for _ in range(batch)]
        more = [torch.stack([one[name] for one in drawn]).to(image.device) for name in self.inputs[1:]]
        return (image, *(x.to(image.dtype) if x.is_floating_point() else x for x in more))

    def tally(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Outputs of `forward_train` and the batch -> sums that can be added up over batches and processes, of which `summary`
        makes the scores."""
        raise NotImplementedError(f"{type(self).__name__} says nothing of how it is scored")

    def summary(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """What `tally` gave, added up, -> scores by name, those of a trivial predictor among them."""
        raise NotImplementedError(f"{type(self).__name__} says nothing of how it is scored")

    def scores(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, float]:
        """Of one batch alone."""
        return self.summary(self.tally(outputs, batch))

    def reconstruct(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Outputs of `forward_train` and the batch -> pictures to look at, (B, C, H, W) in [0, 1]: "input", "masked" where
        something is hidden, "predicted"."""
        raise NotImplementedError(f"{type(self).__name__} says nothing of how its predictions are drawn")

    def unnormalised(self, image: Tensor) -> Tensor:
        """(B, C, H, W), as the network takes it -> in [0, 1]"""
        mean, std = (
            torch.tensor(x, device=image.device).view(-1, 1, 1)
            for x in (self.preprocessing.mean, self.preprocessing.std)
        )
        return (image.float() * std + mean).clamp(0, 1)
