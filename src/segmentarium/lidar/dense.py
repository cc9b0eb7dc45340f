"""Of a detector, what comes behind the pillars, as a model of its own: for devices without scattering, and for engines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segmentarium.contracts import Detector3d
from segmentarium.lidar.bev import BevDetector
from segmentarium.lidar.mapfusion import MapFusion


class DensePart(Detector3d):
    """Canvas (B, C, ny, nx), as `network.canvas(points)` makes it, and the map where the detector reads one -> its candidates:
    boxes, labels, scores.

    decoded   False: what the heads give instead, in the order of `network.map_names`, and `read` makes boxes of it: convolutions
              bear bfloat16, a box's metres do not
    """

    open_axes = (("batch", "", "", ""), ("batch", "", "height", "width"))
    channels_last = True  # as pillars are scattered

    def __init__(self, network: Detector3d, *, decoded: bool = True) -> None:
        if not isinstance(network, BevDetector | MapFusion):
            raise TypeError(f"{type(network).__name__} has no pillars to begin behind; give a detector in steps")
        self.inputs = ("canvas", *network.inputs[1:])  # type: ignore[misc]
        super().__init__(
            num_classes=network.num_classes,
            area=network.area,
            in_channels=network.in_channels,
            map_channels=network.map_channels,
        )
        self.network, self.decoded = network, decoded
        self.classes, self.layers, self.map_size = network.classes, network.layers, network.map_size
        self.threshold, self.overlap, self.most = network.threshold, network.overlap, network.most
        self.radii, self.groups = network.radii, network.groups
        self.weights_header = network.weights_header
        self.registered_name, self.given_arguments = network.registered_name, network.given_arguments
        if not decoded:
            self.output_names = network.map_names  # type: ignore[misc]
        self.train(network.training)

    @property
    def title(self) -> str:
        return f"{self.network.title} behind its pillars"

    def extra_repr(self) -> str:
        return f"decoded={self.decoded}, area={self.area}"

    def example(self, batch: int = 1, size: tuple[int, int] = (64, 64)) -> tuple[Tensor, ...]:
        """A canvas of zeros, and as the detector's, where it takes a map."""
        points, *others = self.network.example(batch, size)
        detector = self.network.detector if isinstance(self.network, MapFusion) else self.network
        canvas = points.new_zeros(batch, detector.canvas_channels, *detector.grid.shape[1:])
        return (canvas, *others)

    def forward(self, canvas: Tensor, raster: Tensor | None = None) -> Any:
        maps = self.network.dense(*((canvas,) if raster is None else (canvas, raster)))
        return self.network.decode(maps) if self.decoded else tuple(maps[name] for name in self.network.map_names)

    def read(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """What `forward` gave without decoding, on any engine -> candidates."""
        return self.network.decode(dict(zip(self.network.map_names, maps, strict=True)))

    @torch.inference_mode(False)
    def deploy(self) -> DensePart:  # type: ignore[override]
        return DensePart(self.network.deploy(), decoded=self.decoded)
