"""Measured parity: the written file, run by its own engine, against eager PyTorch on real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.contracts import Detector3d, MaskSet, Model, Preprocessing
from segmentarium.keypoints.detector import PointDetector
from segmentarium.lidar.dense import DensePart
from segmentarium.runtimes import onnx_session, openvino_network

Image = str | Path | np.ndarray | Tensor
Arrays = tuple[np.ndarray, ...]
Runner = Callable[
    ..., Any
]  # the arrays that the model takes, in its order -> an array, or several where it gives several

TOLERANCE = 1e-4  # relative, in float32
SIZES = ((256, 320), (193, 259))
PHOTO = Path(__file__).resolve().parents[3] / "docs" / "images" / "astronaut.jpg"  # of a checkout


@dataclass(frozen=True)
class Comparison:
    """One engine, one input size.  Errors are maxima over all logits; `same_class` is the share of pixels (of a
    classifier: of images), 0 to 1.  `ties`: by how much, relative to the greatest logit, near ties inside the network may turn
    its outputs; of the errors twice as much is left out where they do."""

    size: tuple[int, int]
    batch: int
    absolute_error: float
    relative_error: float
    same_class: float
    ties: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def natural_noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 with the 1/f spectrum of photographs: what is compared on where no photo is at hand."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1 / max(height, width)
    channels = []
    for _ in range(3):
        spectrum = np.fft.rfft2(generator.standard_normal((height, width))) / frequency
        plane = np.fft.irfft2(spectrum, (height, width))
        channels.append((plane - plane.mean()) / plane.std())
    return np.clip(np.stack(channels, axis=-1) * 55 + 115, 0, 255).astype(np.uint8)


def sample_images() -> list[np.ndarray]:
    """The project's photo, (H, W, 3) uint8, in a checkout; noise with the statistics of photos where only the package is."""
    from segmentarium.data.image_io import read_image

    return [np.asarray(read_image(PHOTO))] if PHOTO.is_file() else [natural_noise(384, 512)]


def as_tensor(image: Image) -> Tensor:
    """A path, an (H, W, 3) or (H, W) uint8 array, or a (C, H, W) tensor, uint8 or in [0, 1] -> (C, H, W) in [0, 1]."""
    if isinstance(image, str | Path):
        from segmentarium.data.image_io import read_image

        image = np.asarray(read_image(image))
    if isinstance(image, np.ndarray):
        array = image if image.ndim == 3 else image[..., None]
        image = torch.from_numpy(np.array(array)).permute(2, 0, 1)  # a copy: Pillow's memory is read-only
    if image.ndim != 3:
        raise ValueError(f"an image for the parity check has shape {tuple(image.shape)}; expected (C, H, W)")
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def network_input(image: Image, size: Sequence[int], preprocessing: Preprocessing, in_channels: int) -> Tensor:
    """(1, in_channels, *size), normalised; channels beyond the image's own repeat it, fewer take the mean."""
    tensor = as_tensor(image)
    if in_channels == 1:
        tensor = tensor.mean(0, keepdim=True)
    elif tensor.shape[0] != in_channels:
        tensor = tensor[[index % tensor.shape[0] for index in range(in_channels)]]
    resized = F.interpolate(tensor[None], size=tuple(size), mode="bilinear", antialias=True, align_corners=False)
    return preprocessing.for_channels(in_channels).normalise(resized)


def classes_of(logits: np.ndarray) -> np.ndarray:
    """(B, K, H, W) -> (B, H, W), and (B, K) -> (B,); one channel is a sigmoid's logit."""
    return logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(1)


def compare(
    output: np.ndarray,
    reference: np.ndarray,
    size: tuple[int, ...] | None = None,
    slack: np.ndarray | float = 0.0,
) -> Comparison:
    """The errors of `output` against `reference`, both (B, K, …), of images of that size (None: the reference's).

    slack   of an error, how much is left out; broadcast over the reference

    A non-finite output counts as an infinite error, and so does a reference or slack that is none to measure by.
    """
    height, width = size or reference.shape[2:]
    size, batch = (height, width), len(reference)
    if output.shape != reference.shape or not all(np.isfinite(each).all() for each in (output, reference, slack)):
        return Comparison(size, batch, float("inf"), float("inf"), 0.0)
    absolute = float((np.abs(output - reference) - slack).max().clip(0))
    largest = max(float(np.abs(reference).max()), 1e-12)
    same = float((classes_of(output) == classes_of(reference)).mean())
    return Comparison(size, batch, absolute, absolute / largest, same, float(np.max(slack)) / largest)


def compare_points(outputs: Arrays, references: Arrays, size: tuple[int, int]) -> Comparison:
    """Of (B, K, 2) places, (B, K) scores, 0 where there is no point, and (B, K, D) descriptors: the errors of the points that
    both have; infinite where either lacks more than one in a hundred, or an error is NaN.  `same_class` is the share that both
    have.

    Scores may lie closer together than rounding, and the order of points, and which are the last, follow from them.
    """
    common, total, errors = 0, 0, [0.0]
    for found, expected in zip(zip(*outputs, strict=True), zip(*references, strict=True), strict=True):
        ours, theirs = (
            {tuple(place): (score, described) for place, score, described in zip(*each, strict=True) if score > 0}
            for each in ((given[0].round(2).tolist(), given[1].tolist(), given[2]) for given in (found, expected))
        )
        both = ours.keys() & theirs.keys()
        common, total = common + len(both), total + max(len(ours), len(theirs))
        for place in both:
            errors += [abs(ours[place][0] - theirs[place][0]), np.abs(ours[place][1] - theirs[place][1]).max()]
    share, worst = common / max(total, 1), float(np.max(errors))  # `max` passes over NaN
    error = worst if np.isfinite(worst) and (share >= 0.99 or not total) else float("inf")
    return Comparison(size, len(references[0]), error, error, share if total else 1.0)


def compare_instances(output: Arrays, reference: Arrays, size: tuple[int, int]) -> Comparison:
    """The same of boxes, labels, scores and masks: of what `reference` found, each is held against what `output` found of its
    class in its place, as rounding may change their order.

    Errors are of boxes as shares of the image, of scores and of masks; `same_class` is the share of instances that have their
    like.  Less than nine of ten have: an infinite error.  One that lies at a threshold may be found by one engine alone.
    """
    kind = (size[0], size[1]), len(reference[0])
    if any(a.shape != b.shape for a, b in zip(output, reference, strict=True)):
        return Comparison(*kind, float("inf"), float("inf"), 0.0)
    worst, found, wanted = 0.0, 0, 0
    for mine, theirs in zip(zip(*output, strict=True), zip(*reference, strict=True), strict=True):
        (boxes, labels, scores, masks), (boxes_, labels_, scores_, masks_) = mine, theirs
        for i in np.flatnonzero(labels_ >= 0):
            apart = np.abs(boxes - boxes_[i]).max(1) / max(size) + (labels != labels_[i])
            j = int(apart.argmin())
            errors = (apart[j], abs(scores[j] - scores_[i]), np.abs(masks[j] - masks_[i]).max())
            wanted += 1
            if apart[j] < 0.01:
                found, worst = found + 1, float(np.max([worst, *errors]))  # `max` passes over NaN
    if found < 0.9 * wanted or not np.isfinite(worst):
        worst = float("inf")
    return Comparison(*kind, worst, worst, found / max(wanted, 1))


@dataclass(frozen=True)
class Case:
    """What is given to the engines, and what PyTorch makes of it: of each output what is left out of its errors, too.

    kind  of the model: of "instances" and "points" what was found is held against its like, whatever their order
    """

    given: Arrays
    outputs: Arrays
    slacks: tuple[np.ndarray | float, ...]
    kind: str

    def compared(self, found: Arrays) -> Comparison:
        """The worst of all outputs; of masks, `same_class` is of the class that they and their classes give each cell."""
        height, width = self.given[0].shape[2:]
        if len(found) != len(self.outputs):
            return Comparison((height, width), len(self.given[0]), float("inf"), float("inf"), 0.0)
        if self.kind in ("instances", "points"):
            return (compare_points if self.kind == "points" else compare_instances)(
                found, self.outputs, (height, width)
            )
        rows = [
            compare(output, reference, (height, width), slack)
            for output, reference, slack in zip(found, self.outputs, self.slacks, strict=True)
        ]
        worst = max(rows, key=lambda row: row.relative_error)
        if self.kind == "mask" and len(rows) == 2:
            same = float((_mask_classes(found) == _mask_classes(self.outputs)).mean())
            worst = replace(worst, same_class=same)
        return replace(worst, ties=max(row.ties for row in rows))


def answers_of(found: Any) -> np.ndarray:
    """What a model's outputs come to: the class of every pixel, or of each cell of its masks, or of a picture."""
    arrays = arrays_of(found)
    return classes_of(arrays[0]) if len(arrays) == 1 else _mask_classes(arrays)


def _mask_classes(found: Arrays) -> np.ndarray:
    scores = MaskSet(torch.from_numpy(found[0]), torch.from_numpy(found[1])).semantic().numpy()
    return classes_of(scores - 0.5 * (scores.shape[1] == 1))


def arrays_of(found: Any) -> Arrays:
    """A tensor, an array, or a tuple of them -> float32 arrays."""
    several = found if isinstance(found, tuple | list) else (found,)
    return tuple(np.asarray(one.float().cpu() if isinstance(one, Tensor) else one) for one in several)


class ParityCheck:
    """Eager PyTorch's answers for a set of images at several sizes, computed once, to hold every format against."""

    def __init__(self, model: Model, images: Sequence[Image] | None, sizes: Sequence[tuple[int, int]]) -> None:
        if not sizes:
            raise ValueError("sizes is empty; give at least one (height, width) to measure parity at")
        chosen = list(images) if images is not None else sample_images()
        default = PHOTO.name if PHOTO.is_file() else "noise with the spectrum of photos"
        self.source = default if images is None else f"{len(chosen)} given"
        if not chosen:
            raise ValueError("images is empty; give at least one image to measure parity on")
        if model.fixed_size is not None:
            sizes = (model.fixed_size,) * 2  # one image, and a batch
        training = model.training
        device = next(model.parameters()).device
        self.cases: list[Case] = []
        model.eval()
        with torch.inference_mode():
            for index, size in enumerate(sizes):
                for image in chosen:
                    example = network_input(image, size, model.preprocessing, model.in_channels)
                    if index % 2:  # every second size as a batch of two
                        example = torch.cat([example, example.flip(-1)])
                    height, width = example.shape[-2:]
                    given = (example.to(device), *model.example(len(example), (height, width))[1:])
                    self.cases.append(_case(model, given))
        model.train(training)

    def run(self, runner: Runner) -> list[Comparison]:
        return [case.compared(arrays_of(runner(*case.given))) for case in self.cases]


def _case(model: Model, given: tuple[Tensor, ...]) -> Case:
    """What the model gives, and how far near ties turn it: of each query or class of a picture, the most."""
    outputs = arrays_of(model(*given))
    slacks: list[np.ndarray | float] = [0.0] * len(outputs)
    for other in model.near_ties(given[0]):
        for i, (output, turned) in enumerate(zip(outputs, arrays_of(other), strict=True)):
            moved = 2 * np.abs(turned - output).max(tuple(range(2, output.ndim)), keepdims=True)
            slacks[i] = np.maximum(slacks[i], moved)
    kind = "points" if isinstance(model, PointDetector) else model.kind
    return Case(tuple(one.cpu().numpy() for one in given), outputs, tuple(slacks), kind)


class PointsCheck:
    """The same for a detector in point clouds: points evenly in its area and a little beyond, or the canvas that is made of them,
    and any map.

    Scores are compared in their order; a box has its like where one of the same class is near: candidates whose scores differ by
    less than rounding may change places.
    """

    source = "points drawn evenly"
    LIKE = 0.99  # share of boxes that must have their like; those of equal scores at the list's end may be others

    def __init__(self, model: Detector3d) -> None:
        generator = torch.Generator().manual_seed(0)
        device = next(model.parameters()).device
        low, high = torch.tensor(model.area[:3]), torch.tensor(model.area[3:])
        training = model.training
        model.eval()
        self.cases: list[tuple[list[np.ndarray], list[np.ndarray]]] = []
        for batch, count in ((1, 3000), (2, 1777)):
            points = torch.rand(batch, count, model.in_channels, generator=generator)
            points[..., :3] = low - 1 + points[..., :3] * (high - low + 2)
            given = [points.to(device)]
            if "map" in model.inputs:
                given.append(torch.rand(batch, model.map_channels, *model.map_size, generator=generator).to(device))
            with torch.inference_mode():
                if isinstance(model, DensePart):
                    given[0] = model.network.canvas(given[0]).contiguous()
                found = model(*given)
            self.cases.append(([x.cpu().numpy() for x in given], [x.cpu().numpy() for x in found]))
        model.train(training)

    def run(self, runner: Runner) -> list[Comparison]:
        rows = []
        for given, (boxes, labels, scores) in self.cases:
            size, batch = (given[0].shape[1], given[0].shape[2]), len(boxes)
            ours = runner(*given)
            alike = [
                a.shape == b.shape and bool(np.isfinite(a).all())
                for a, b in zip(ours, (boxes, labels, scores), strict=True)
            ]
            if not all(alike):
                rows.append(Comparison(size, batch, float("inf"), float("inf"), 0.0))
                continue
            away = np.abs(ours[2] - scores).max()
            share = float(
                np.mean([_have_their_like(*scan) for scan in zip(ours[0], ours[1], boxes, labels, strict=True)])
            )
            relative = float(away / max(np.abs(scores).max(), 1e-12)) if share >= self.LIKE else float("inf")
            rows.append(Comparison(size, batch, float(away), relative, share))
        return rows


def _have_their_like(boxes: np.ndarray, labels: np.ndarray, others: np.ndarray, other_labels: np.ndarray) -> float:
    """The share of boxes (N, 7+) that one of the others is like, to a thousandth of its numbers."""
    away = np.abs(boxes[:, None] - others[None]) <= 1e-3 * np.maximum(np.abs(others[None]), 1)
    return float((away.all(-1) & (labels[:, None] == other_labels[None])).any(1).mean())


def torch_runner(path: Path) -> Runner:
    module = torch.export.load(str(path)).module()

    def run(*given: np.ndarray) -> Any:
        with torch.inference_mode():
            return _one_or_all(arrays_of(module(*map(torch.from_numpy, given))))

    return run


def onnx_runner(path: Path) -> Runner:
    session = onnx_session(path, torch.get_num_threads())
    names = [entry.name for entry in session.get_inputs()]
    return lambda *given: _one_or_all(session.run(None, dict(zip(names, given, strict=True))))


def openvino_runner(path: Path, precision: str = "f32") -> Runner:
    """precision: "f32" or "bf16"."""
    compiled = openvino_network(path, precision, torch.get_num_threads())
    # A copy: OpenVINO hands out a view of a buffer that the next call overwrites.
    return lambda *given: _one_or_all([np.array(found) for found in compiled(given).to_tuple()])


def _one_or_all(found: Sequence[np.ndarray]) -> Any:
    return found[0] if len(found) == 1 else tuple(found)


RUNNERS: dict[str, Callable[[Path], Runner]] = {
    "torch": torch_runner,
    "onnx": onnx_runner,
    "openvino": openvino_runner,
}
