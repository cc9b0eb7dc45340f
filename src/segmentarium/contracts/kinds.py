"""The kinds of models: what each takes and gives."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.checks import check_choice
from segmentarium.contracts.backbone import Backbone
from segmentarium.contracts.model import LabelledModel, Model
from segmentarium.contracts.results import Instances, Keypoints, MaskSet
from segmentarium.layers.resize import resize
from segmentarium.losses import LabelCrossEntropy
from segmentarium.palette import default_palette

TASKS = ("semantic", "instance", "panoptic")  # what masks and their classes are read for
SURE = 0.01  # how near to 0 and 1 a score of one class counts: further on, its logit would only magnify rounding


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


class MaskModel(ColouredModel):
    """(B, C, H, W) -> (B, K, H, W) semantic scores at the image's size, of masks and their classes.

    A subclass gives `forward_masks`, at a resolution of its choice.  The scores are sums of probabilities, no logits.  A class
    is a kind of segment and none stands for "nothing", so `num_classes=1` has one name; there `forward` gives a sigmoid logit,
    as everywhere with one class: greater than 0 where the score is greater than a half.

    things   classes whose segments are told apart, by index, or how many of the first classes; None: nobody says, and all may
             be.  Those of the others are one segment a picture
    """

    kind = "mask"
    output_names = ("scores",)

    def __init__(self, *, num_classes: int, in_channels: int = 3, things: int | Collection[int] | None = None) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.classes = self.classes[:num_classes]
        self.palette = default_palette(num_classes + 1)[1:]  # black is left to what is no segment
        told = range(things) if isinstance(things, int) else things
        self._things: tuple[int, ...] | None = None if told is None else tuple(sorted(set(told)))
        if any(index not in range(num_classes) for index in self.things):
            raise ValueError(f"things is {things}; give indices of the {num_classes} classes, or how many of the first")

    @property
    def things(self) -> tuple[int, ...]:
        """Indices of the classes whose segments are told apart."""
        return tuple(range(self.num_classes)) if self._things is None else self._things

    @things.setter
    def things(self, indices: Collection[int]) -> None:
        self._things = tuple(sorted(set(indices)))

    @property
    def task(self) -> str:
        """What it is used for where nobody says: "instance" where all classes are told apart, "panoptic" where some are,
        "semantic" where none is or nobody has said."""
        return "semantic" if self._things is None else task_of(self._things, self.num_classes)

    def labels(self) -> dict[str, Any]:
        return super().labels() | ({} if self._things is None else {"things": list(self._things)})

    def shifted(self) -> Iterator[None]:
        """While one goes through it, what the network decides by a comparison is decided a little above and a little below."""
        yield from ()

    def near_ties(self, *inputs: Tensor) -> list[Any]:
        return [self(*inputs) for _ in self.shifted()]

    def forward_masks(self, image: Tensor) -> MaskSet:
        """(B, C, H, W) -> class_logits (B, Q, K + 1), mask_logits (B, Q, h, w)"""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        scores = self.forward_masks(image).at((height, width)).semantic()
        return scores if self.num_classes > 1 else scores.clamp(SURE, 1 - SURE).logit()


def task_of(things: Collection[int], num_classes: int) -> str:
    """What segments of `num_classes` classes are for, of which `things` are told apart: "instance" where all are, "panoptic"
    where some are, "semantic" where none is."""
    return "semantic" if not things else "instance" if len(things) == num_classes else "panoptic"


def asked_task(model: Model, task: str | None) -> str:
    """ "semantic", "instance" or "panoptic": as asked for, else what the model is used for.

    Raises ValueError for another word, and where a model that gives no masks is asked to tell segments apart.
    """
    check_choice("task", task, (*TASKS, None))
    if isinstance(model, MaskModel):
        return model.task if task is None else task
    if task not in (None, "semantic"):
        raise ValueError(f"{model.title} is a {model.kind}, which tells no segments apart: leave task ({task!r}) out")
    return "semantic"


class MaskOutputs(ColouredModel):
    """A mask classifier whose `forward` gives its masks: (B, C, H, W) -> class logits (B, Q, K + 1), the last of them "no
    object", and mask logits (B, Q, h, w).

    What is exported where segments are told apart by others; `network` is the mask classifier itself.
    """

    kind = "mask"
    output_names = ("class_logits", "mask_logits")

    def __init__(self, network: MaskModel) -> None:
        super().__init__(num_classes=network.num_classes, in_channels=network.in_channels)
        self.network = network
        self.classes, self.palette, self.fixed_size = network.classes, network.palette, network.fixed_size
        self.preprocessing, self.weights_header = network.preprocessing, network.weights_header
        self.registered_name, self.given_arguments = network.registered_name, network.given_arguments
        self.train(network.training)

    @property
    def title(self) -> str:
        return self.network.title

    def labels(self) -> dict[str, Any]:
        return self.network.labels()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network.forward_masks(image)
        return found.class_logits, found.mask_logits

    def near_ties(self, *inputs: Tensor) -> list[Any]:
        return [self(*inputs) for _ in self.network.shifted()]

    def deploy(self) -> MaskOutputs:  # type: ignore[override]
        return MaskOutputs(self.network.deploy())


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
    """(B, C, H, W) -> what it predicts of the picture, so that its backbone learns without labels.

    The backbone stands under "backbone.", as in every model, and leaves by `load_part(model, "backbone", file)`.
    """

    kind = "pretrainer"
    output_names = ("prediction",)
    counted_at = (224, 224)

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(in_channels=backbone.in_channels)
        self.backbone = backbone
        self.fixed_size = backbone.fixed_size
        self.preprocessing = backbone.preprocessing.for_channels(backbone.in_channels)


class KeypointModel(Model):
    """(B, C, H, W) -> scores (B, H, W), one a pixel, and descriptors (B, D, h, w) of cells of `stride` pixels.

    A subclass gives `forward`; where its keypoints are found by other means (heat maps of joints), `detect` too.

    threshold   a keypoint's score is greater
    radius      pixels around a keypoint within which there is no second
    border      pixels along the edges where there is none
    joints      names of keypoints that are told apart by their place in the list; (): there are none such
    """

    kind = "keypoints"
    output_names = ("scores", "descriptors")
    stride: ClassVar[int] = 8
    threshold: float = 0.005
    radius: int = 4
    border: int = 4
    joints: tuple[str, ...] = ()

    def labels(self) -> dict[str, Any]:
        return {"joints": list(self.joints)} if self.joints else {}

    @torch.no_grad()
    def detect(self, image: Tensor, *, count: int | None = None) -> Keypoints:
        """A normalised picture (C, H, W), or a batch of it alone -> its keypoints; the best `count`, if one is given."""
        if image.ndim == 4 and len(image) != 1:
            raise ValueError(f"detect takes one picture, and got {len(image)}; their keypoints differ in number")
        image = image if image.ndim == 4 else image[None]
        scores, dense = self(image)
        height, width = scores.shape[-2:]
        inside = torch.zeros_like(scores[0], dtype=torch.bool)
        inside[self.border : height - self.border, self.border : width - self.border] = True
        peaks = local_maxima(scores, self.radius)[0] & inside & (scores[0] > self.threshold)
        y, x = peaks.nonzero(as_tuple=True)
        best = scores[0, y, x].argsort(descending=True)[:count]
        points = torch.stack((x[best], y[best]), 1).float()
        size = torch.tensor((width, height), device=image.device)
        return Keypoints(points, scores[0, y[best], x[best]], self.sample(dense, points), size)

    def sample(self, dense: Tensor, points: Tensor) -> Tensor:
        """(1, D, h, w) descriptors of cells and (N, 2) x, y in pixels -> (N, D) of length 1, bilinear between the cells."""
        size = torch.tensor(dense.shape[:-3:-1], device=dense.device) * self.stride
        grid = ((points + 0.5) / size * 2 - 1).to(dense.dtype)
        return F.normalize(F.grid_sample(dense, grid[None, None], align_corners=False)[0, :, 0].T, dim=1)


def local_maxima(scores: Tensor, radius: int, rounds: int = 2) -> Tensor:
    """(B, H, W) -> bool: greater than all within `radius` pixels; then, `rounds` times, the same among those that no peak
    suppresses, as a lower peak counts once the one that hid it from its neighbours is itself suppressed."""

    def greatest(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2 * radius + 1, stride=1, padding=radius)

    peaks = scores == greatest(scores)
    for _ in range(rounds):
        hidden = greatest(peaks.float()) > 0
        rest = scores.masked_fill(hidden, 0)
        peaks = peaks | ((rest == greatest(rest)) & ~hidden)
    return peaks


class InstanceModel(LabelledModel):
    """(B, C, H, W) -> boxes (B, N, 4), labels (B, N), scores (B, N), masks (B, N, H, W): N places a picture, best first.

    boxes    x0, y0, x1, y1 in pixels of the image
    labels   int64 class indices; -1: the place is empty
    scores   in [0, 1]
    masks    probabilities at the image's size

    A subclass gives `forward`.  A class is a kind of thing; the background is none, so `num_classes=1` has one name.
    """

    kind = "instances"
    output_names = ("boxes", "labels", "scores", "masks")

    def __init__(self, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.classes = self.classes[:num_classes]

    @torch.no_grad()
    def detect(self, image: Tensor, *, threshold: float = 0.5, inside: float = 0.5) -> list[Instances]:
        """(B, C, H, W), normalised -> the instances of each picture with scores from `threshold` on.

        inside   probability from which on a pixel belongs to a mask
        """
        found = []
        for boxes, labels, scores, masks in zip(*self(image), strict=True):
            kept = (labels >= 0) & (scores >= threshold)
            found.append(Instances(labels[kept], scores[kept], boxes[kept], masks[kept] >= inside))
        return found


class Detector3d(LabelledModel):
    """Points (B, N, F) in the lidar's frame -> boxes (B, M, 7), labels (B, M), scores (B, M): M places a scan, best first.

    points   x, y, z in metres and F - 3 further values, such as the reflectance; points outside `area` fill up a batch
    boxes    x, y, z of the centre, length, width, height in metres, angle about z in radians
    labels   int64 class indices; -1: the place is empty
    map      (B, map_channels, H, W), drawn over `area`'s x and y, for a subclass whose `inputs` are ("points", "map")

    A subclass gives `forward`.
    """

    kind = "detector3d"
    inputs = ("points",)
    output_names = ("boxes", "labels", "scores")
    example_points: ClassVar[int] = 2048

    def __init__(
        self,
        *,
        num_classes: int,
        area: tuple[float, float, float, float, float, float],
        in_channels: int = 4,
        map_channels: int = 0,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        if in_channels < 3:
            raise ValueError(f"in_channels is {in_channels}; a point has x, y and z at least: give 3 or more")
        if any(low >= high for low, high in zip(area[:3], area[3:], strict=True)):
            raise ValueError(f"area is {area}; give least x, y, z and greatest x, y, z in metres")
        if bool(map_channels) != ("map" in self.inputs):
            raise ValueError(
                f"map_channels is {map_channels}, and {type(self).__name__} takes {', '.join(self.inputs)}"
            )
        self.classes = self.classes[:num_classes]
        self.area, self.map_channels = area, map_channels

    def example(self, batch: int = 1, size: tuple[int, int] = (64, 64)) -> tuple[Tensor, ...]:
        """Points on a diagonal of the area, further values 0; where the model takes a map, zeros of (batch, channels, *size)."""
        like = next(self.parameters(), torch.zeros(()))
        area = torch.tensor(self.area, device=like.device, dtype=like.dtype)
        along = torch.linspace(0.01, 0.99, self.example_points, device=like.device, dtype=like.dtype)[:, None]
        points = F.pad(area[:3] + along * (area[3:] - area[:3]), (0, self.in_channels - 3)).expand(batch, -1, -1)
        raster = torch.zeros(batch, self.map_channels, *size, device=like.device, dtype=like.dtype)
        return (points, raster) if "map" in self.inputs else (points,)
