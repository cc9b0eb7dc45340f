"""A keypoint network with all that follows it: suppression, the best so many, their descriptors; one graph, for exports."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.contracts import KeypointModel, Model


class PointDetector(Model):
    """(B, C, H, W) -> keypoints (B, count, 2) x, y in pixels, scores (B, count), best first, descriptors (B, count, D).

    Places beyond the points that were found have score 0.  Batch, height and width stay open in an exported file, and no
    step of it runs over points one by one.

    network   with scores and dense descriptors, such as SuperPoint
    count     the best so many points of a picture
    threshold, radius, border   in place of the network's own
    """

    kind = "keypoints"
    output_names = ("keypoints", "scores", "descriptors")

    def __init__(
        self,
        network: KeypointModel,
        count: int = 1024,
        *,
        threshold: float | None = None,
        radius: int | None = None,
        border: int | None = None,
    ) -> None:
        super().__init__(in_channels=network.in_channels)
        if count < 1:
            raise ValueError(f"count is {count}; give how many points of a picture are wanted, 1 or more")
        if network.joints:
            raise ValueError(f"{network.title} gives heat maps of joints; give a network with scores and descriptors")
        self.network, self.count = network, count
        self.options = {"threshold": threshold, "radius": radius, "border": border}
        self.preprocessing = network.preprocessing
        self.registered_name, self.given_arguments = network.registered_name, network.given_arguments

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores, dense = self.network(image)
        peaks = self.network.peaks(scores, **self.options)  # type: ignore[arg-type]
        width = scores.shape[-1]
        flat = F.pad((scores * peaks).flatten(1), (0, self.count))  # a picture may have fewer pixels than are asked for
        best, index = flat.topk(self.count, dim=1)
        found = best > 0
        row = index // width
        points = torch.stack((index - row * width, row), -1) * found[..., None]
        places = points.to(dense.dtype)
        return places, best, self.network.sample(dense, places) * found[..., None]
