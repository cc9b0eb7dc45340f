"""The kinds of models: what each takes and gives."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.checks import check_choice
from segmentarium.contracts.backbone import Backbone
from segmentarium.contracts.instance_set import InstanceSet
from segmentarium.contracts.model import Batch, LabelledModel, Model
from segmentarium.contracts.results import Boxes3d, Instances, Keypoints, MaskSet
from segmentarium.layers.resize import resize
from segmentarium.layers.turned_boxes import suppress, suppress_near
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
    if isinstance(model, InstanceModel):
        if task not in (None, "instance"):
            raise ValueError(
                f"{model.title} finds objects and leaves the rest alone: give task='instance', not {task!r}"
            )
        return "instance"
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
    def detect(
        self,
        image: Tensor,
        *,
        count: int | None = None,
        threshold: float | None = None,
        radius: int | None = None,
        border: int | None = None,
        subpixel: bool = False,
    ) -> Keypoints:
        """A normalised picture (C, H, W), or a batch of it alone -> its keypoints, best first; pixel centres at whole numbers.

        count       the best so many; None: all
        threshold, radius, border   in place of the model's own
        subpixel    places between the pixels, at the top of a parabola through the logarithms of a point's score and its
                    neighbours'

        A picture smaller than a cell has none.
        """
        if image.ndim == 4 and len(image) != 1:
            raise ValueError(f"detect takes one picture, and got {len(image)}; their keypoints differ in number")
        image = image if image.ndim == 4 else image[None]
        if min(image.shape[-2:]) < self.stride:
            size = torch.tensor((image.shape[-1], image.shape[-2]), device=image.device)
            return Keypoints(image.new_zeros(0, 2), image.new_zeros(0), image.new_zeros(0, 0), size)
        options = {"count": count, "threshold": threshold, "radius": radius, "border": border, "subpixel": subpixel}
        return self.read(*self(image), **options)

    @torch.no_grad()
    def read(
        self,
        scores: Tensor,
        dense: Tensor,
        *,
        count: int | None = None,
        threshold: float | None = None,
        radius: int | None = None,
        border: int | None = None,
        subpixel: bool = False,
    ) -> Keypoints:
        """What `forward` gave of one picture, on any engine -> its keypoints, as `detect`."""
        peaks = self.peaks(scores, threshold=threshold, radius=radius, border=border)
        y, x = peaks[0].nonzero(as_tuple=True)
        best = scores[0, y, x].argsort(descending=True, stable=True)[:count]
        points = torch.stack((x[best], y[best]), 1)
        found = scores[0, y[best], x[best]]
        places = between_pixels(scores[0], points) if subpixel else points.to(dense.dtype)
        size = torch.tensor((scores.shape[-1], scores.shape[-2]), device=scores.device)
        return Keypoints(places, found, self.sample(dense, places[None])[0], size)

    def peaks(
        self, scores: Tensor, *, threshold: float | None = None, radius: int | None = None, border: int | None = None
    ) -> Tensor:
        """(B, H, W) scores -> bool: which pixels are keypoints, the border counted from the last whole cell."""
        threshold = self.threshold if threshold is None else threshold
        radius, border = self.radius if radius is None else radius, self.border if border is None else border
        height, width = (side // self.stride * self.stride for side in scores.shape[-2:])
        y, x = (torch.arange(side, device=scores.device) for side in scores.shape[-2:])
        inside = ((y >= border) & (y < height - border))[:, None] & ((x >= border) & (x < width - border))
        return local_maxima(scores, radius) & inside & (scores > threshold)

    def sample(
        self, dense: Tensor, points: Tensor, *, first: tuple[int, int] = (0, 0), cells: tuple[int, int] | None = None
    ) -> Tensor:
        """(B, D, h, w) descriptors of cells and (B, N, 2) x, y in pixels -> (B, N, D) of length 1, bilinear between the cells.

        first   column and row of the picture's cells at which `dense` begins, where it is a part of them
        cells   how many columns and rows the whole picture has; None: those of `dense`
        """
        height, width = dense.shape[-2:]
        across, down = (width, height) if cells is None else cells
        x, y = points.to(dense.dtype).unbind(-1)
        column = self.cell(x + first[0] * self.stride, across) - first[0]
        row = self.cell(y + first[1] * self.stride, down) - first[1]
        grid = torch.stack(((2 * column + 1) / width - 1, (2 * row + 1) / height - 1), -1)
        return F.normalize(F.grid_sample(dense, grid[:, None], align_corners=False)[:, :, 0].mT, dim=-1)

    def cell(self, place: Tensor, cells: int) -> Tensor:
        """Pixels along a side of so many cells -> which cell's middle lies there, with fractions between them."""
        return (place + 0.5) / self.stride - 0.5


def local_maxima(scores: Tensor, radius: int, rounds: int = 2) -> Tensor:
    """(B, H, W) -> bool: greater than all within `radius` pixels; then, `rounds` times, the same among those that no peak
    suppresses, as a lower peak counts once the one that hid it from its neighbours is itself suppressed."""
    if radius < 0:
        raise ValueError(f"the radius is {radius}; give pixels, 0 or more")

    def greatest(x: Tensor) -> Tensor:
        # of rows, then of columns: the same as of squares, and many times faster
        x = F.max_pool2d(x[:, None], (1, 2 * radius + 1), stride=1, padding=(0, radius))
        return F.max_pool2d(x, (2 * radius + 1, 1), stride=1, padding=(radius, 0))[:, 0]

    peaks = scores == greatest(scores)
    for _ in range(rounds):
        hidden = greatest(peaks.float()) > 0
        rest = scores.masked_fill(hidden, 0)
        peaks = peaks | ((rest == greatest(rest)) & ~hidden)
    return peaks


def between_pixels(scores: Tensor, points: Tensor) -> Tensor:
    """Moves local maxima (N, 2) x, y of scores (H, W) by up to half a pixel: along either axis to the top of the parabola through
    the logarithms of three scores, which is exact for a Gaussian.  Points at the picture's edge stay."""
    height, width = scores.shape
    x, y = points.long().unbind(1)
    inner = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    cx, cy = x.clamp(1, max(width - 2, 1)), y.clamp(1, max(height - 2, 1))
    logs = scores.float().clamp(min=1e-12).log()

    def top(before: Tensor, here: Tensor, behind: Tensor) -> Tensor:
        curved = before - 2 * here + behind
        return torch.where(curved < 0, 0.5 * (before - behind) / curved, 0.0).clamp(-0.5, 0.5)

    if min(height, width) < 3:
        return points.float()
    here = logs[cy, cx]
    moved = torch.stack(
        (top(logs[cy, cx - 1], here, logs[cy, cx + 1]), top(logs[cy - 1, cx], here, logs[cy + 1, cx])), 1
    )
    return points + moved * inner[:, None]


class InstanceModel(LabelledModel):
    """(B, C, H, W) -> boxes (B, N, 4), labels (B, N), scores (B, N), masks (B, N, H, W): N places a picture, best first.

    boxes    x0, y0, x1, y1 in pixels of the image
    labels   int64 class indices; -1: the place is empty
    scores   in [0, 1]
    masks    probabilities at the image's size

    `things` are the classes that have instances, by index; stuff, which data may label besides, is learned by branches for it.
    A subclass gives `forward_instances`, and as it chooses by what is labelled which boxes it learns from, its `forward_train`
    takes the segments of each picture besides.  A class is a kind of thing; the background is none, so `num_classes=1` has one
    name.
    """

    kind = "instances"
    output_names = ("boxes", "labels", "scores", "masks")
    train_inputs = ("segments",)

    def __init__(self, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.classes = self.classes[:num_classes]
        self.palette: tuple[tuple[int, int, int], ...] = default_palette(num_classes + 1)[1:]  # black is nobody's
        self.things: tuple[int, ...] = tuple(range(num_classes))

    def labels(self) -> dict[str, Any]:
        palette = [list(colour) for colour in self.palette]
        return super().labels() | {"palette": palette, "things": list(self.things)}

    def forward_instances(self, image: Tensor) -> InstanceSet:
        """(B, C, H, W) -> boxes (B, N, 4), labels (B, N), scores (B, N), masks (B, N, m, m) in their boxes"""
        raise NotImplementedError

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        height, width = image.shape[-2:]
        found = self.forward_instances(image)
        return found.boxes, found.labels, found.scores, found.pasted((height, width))

    @torch.no_grad()
    def detect(self, image: Tensor, *, threshold: float = 0.5, inside: float = 0.5) -> list[Instances]:
        """(B, C, H, W), normalised -> the instances of each picture with scores from `threshold` on.

        inside   probability from which on a pixel belongs to a mask
        """
        height, width = image.shape[-2:]
        return self.forward_instances(image).instances((height, width), threshold=threshold, inside=inside)


class Detector3d(LabelledModel):
    """Points (B, N, F) in the lidar's frame -> boxes (B, M, 7), labels (B, M), scores (B, M): M places a scan, best first.

    points   x, y, z in metres and F - 3 further values, such as the reflectance; points outside `area` fill up a batch
    boxes    x, y, z of the centre, length, width, height in metres, angle about z in radians; (B, M, 9) of a model that gives
             the speed along x and y, too
    labels   int64 class indices; -1: the place is empty
    map      (B, map_channels, H, W), drawn over `area`'s x and y, row 0 at the least y, for a subclass whose `inputs` are
             ("points", "map")

    A subclass gives `forward`: candidates, many of the same object, in a number that does not depend on the points, so that the
    whole of it is one graph.  `detect` leaves one an object.

    threshold   least score
    overlap     shared area over joint area, from above, beyond which the better of two boxes of a group suppresses the other
    radii       of each class: metres between centres that suppress instead; None: overlap does
    groups      of each class: the group whose boxes suppress each other; None: each class is one
    most        boxes of a scan at most
    """

    layers: tuple[str, ...] = ()  # of the map, by name, and the (H, W) at which it is best drawn
    map_size: tuple[int, int] = (64, 64)
    threshold: float = 0.1
    overlap: float = 0.2
    radii: tuple[float, ...] | None = None
    groups: tuple[int, ...] | None = None
    most: int = 500
    kind = "detector3d"
    inputs = ("points",)
    open_axes = (("batch", "points", ""), ("batch", "", "height", "width"))
    output_names = ("boxes", "labels", "scores")
    example_points: ClassVar[int] = 2048
    counted_at = (256, 256)  # of the map, where there is one

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

    @torch.no_grad()
    def detect(
        self, points: Tensor, *others: Tensor, threshold: float | None = None, most: int | None = None
    ) -> list[Boxes3d]:
        """What `forward` takes -> the boxes of each scan, best first, one an object.

        threshold, most   instead of the model's own
        """
        least, most = self.threshold if threshold is None else threshold, self.most if most is None else most
        found = []
        for boxes, labels, scores in zip(*self(points, *others), strict=True):
            kept = (labels >= 0) & (scores >= least) & boxes.isfinite().all(1)
            boxes, labels, scores = boxes[kept].float(), labels[kept], scores[kept].float()
            groups = labels if self.groups is None else labels.new_tensor(self.groups)[labels]
            if self.radii is None:
                best = suppress(boxes, scores, self.overlap, groups)[:most]
            else:
                best = suppress_near(boxes, scores, scores.new_tensor(self.radii)[labels], groups)[:most]
            found.append(Boxes3d(boxes[best], labels[best], scores[best]))
        return found
