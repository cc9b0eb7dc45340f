"""`PoseFinder`: the joints of persons by one network of heat maps, and skeletons drawn on the picture."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segmentarium.inference.network import Network, with_channels
from segmentarium.inference.point_drawing import draw_skeleton
from segmentarium.inference.point_files import PointResult
from segmentarium.inference.predictor import ModelSource, resolve_model
from segmentarium.keypoints.heatmaps import in_picture, mirror_pairs, mirrored, peaks, refined
from segmentarium.keypoints.hrnet_pose import HRNetPose
from segmentarium.media import sources
from segmentarium.media.sources import displayed

SURE = 0.2  # a joint's score from which on it is drawn, and counts in its pose's
PUBLISHED = (256, 192)  # (height, width) of a person's crop


@dataclass(repr=False)
class Poses(PointResult):
    """The persons of one picture.

    image   (H, W, 3) uint8 RGB
    joints  (P, J, 2) x, y in pixels;  scores (P, J);  boxes (P, 4) x, y, width, height: where the persons were looked for
    names   of the joints
    """

    endings: ClassVar = {"overlay": "_poses.png", "json": ".json"}

    image: np.ndarray
    joints: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    names: tuple[str, ...]
    name: str = "image"
    path: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def told(self) -> str:
        height, width = self.image.shape[:2]
        return f"{self.name!r}, {width}×{height}, {len(self.joints)} persons of {len(self.names)} joints"

    @property
    def overlay(self) -> Image.Image:
        """The picture with a skeleton for each person."""
        drawn = self.image
        for joints, scores in zip(self.joints, self.scores, strict=True):
            drawn = draw_skeleton(drawn, joints, scores, self.names, SURE)
        return Image.fromarray(drawn)

    def as_dict(self) -> dict[str, Any]:
        """What the JSON file holds: of each person its box and each joint's place and score, by name."""
        persons = []
        for box, joints, scores in zip(self.boxes.tolist(), self.joints.tolist(), self.scores.tolist(), strict=True):
            told = {n: {"x": x, "y": y, "score": s} for n, (x, y), s in zip(self.names, joints, scores, strict=True)}
            persons.append({"box": box, "joints": told})
        height, width = self.image.shape[:2]
        source = str(self.path) if self.path else None
        return {"name": self.name, "source": source, "width": width, "height": height, "persons": persons, **self.facts}

    def made_of(self) -> tuple[Path | None, ...]:
        return (self.path,)


class PoseFinder:
    """Finds persons' joints with one model, in boxes that are known; without boxes the whole picture is one person's.

        finder = PoseFinder("pose.safetensors")
        finder(picture, boxes=[(40, 10, 120, 300)]).overlay

    model   weights of a network of heat maps, or the network
    size    (height, width) at which it sees a person; None: as its file says, else 256×192
    flip    the heat maps are averaged with those of the mirrored picture, as the published scores were measured
    """

    gives = Poses

    def __init__(
        self,
        model: ModelSource,
        *,
        engine: str = "torch",
        precision: str = "fp32",
        device: torch.device | str | None = None,
        size: tuple[int, int] | None = None,
        flip: bool = False,
    ) -> None:
        found = resolve_model(model)
        self.model_name = str(model) if isinstance(model, str | PathLike) else found.title
        if not isinstance(found, HRNetPose):
            raise TypeError(f"{self.model_name} is a {found.kind}: it gives no joints; give one such as hrnet_pose_w32")
        self.model = found
        self.network = Network(found, engine, precision, device)
        self.size = found.fixed_size or size or found.input_size or PUBLISHED
        self.flip, self.pairs = flip, mirror_pairs(found.joints)

    def __call__(
        self, image: Any, *, boxes: Sequence[Sequence[float]] | None = None, name: str = "image", path: Any = None
    ) -> Poses:
        """The joints of the persons in the boxes (x, y, width, height in pixels) of one picture, or path: read it."""
        if isinstance(image, str | PathLike):
            image, name, path = sources.read_one(image)
        started = time.perf_counter()
        array = sources.to_array(image)
        height, width = array.shape[:2]
        given = [(0.0, 0.0, float(width), float(height))] if boxes is None else boxes
        places = torch.tensor([list(box) for box in given], dtype=torch.float32).reshape(-1, 4)
        if (places[:, 2:] <= 0).any() or not places.isfinite().all():
            raise ValueError(
                f"boxes are {places.tolist()}; give x, y, width and height in pixels, the last two above 0"
            )
        joints, scores = self.find(array, places)
        facts = {
            "model": self.model_name,
            "engine": str(self.network.engine),
            "flip": self.flip,
            "seconds": round(time.perf_counter() - started, 4),
        }
        return Poses(
            displayed(array), joints.numpy(), scores.numpy(), places.numpy(), self.model.joints, name, path, facts
        )

    @torch.inference_mode()
    def find(self, array: np.ndarray, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """(H, W, C) uint8 and boxes (P, 4) -> joints (P, J, 2) in the picture's pixels, scores (P, J), on the processor."""
        if not len(boxes):
            return torch.zeros(0, len(self.model.joints), 2), torch.zeros(0, len(self.model.joints))
        # imports torchvision, which segmenters do without
        from segmentarium.data.coco_keypoints import crop_matrix, shown_box

        centres, widths = shown_box(boxes, self.size)
        found = []
        for centre, width in zip(centres, widths, strict=True):  # one by one: memory does not grow with the persons
            matrix = crop_matrix(centre, float(width), self.size)
            crop = cv2.warpAffine(np.ascontiguousarray(array), matrix.numpy(), self.size[::-1], flags=cv2.INTER_LINEAR)
            crop = crop.reshape(*self.size, -1)
            pixels = with_channels(torch.from_numpy(crop).permute(2, 0, 1)[None], self.model.in_channels)
            maps = self.network(pixels).cpu()
            if self.flip:
                other = mirrored(self.network(pixels.flip(-1)).cpu(), self.pairs)
                maps = (maps + torch.cat((other[..., :1], other[..., :-1]), -1)) / 2
            found.append(maps)
        maps = torch.cat(found)
        cells, scores = peaks(maps)
        return in_picture(refined(maps, cells), centres, widths, maps.shape[-2:]), scores
