"""Measured parity: the written file, run by its own engine, against eager PyTorch on real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.contracts import Detector3d, Model, Preprocessing
from segmentarium.runtimes import onnx_session, openvino_network

Image = str | Path | np.ndarray | Tensor
Runner = Callable[..., list[np.ndarray]]  # a model's inputs -> all that it gives

TOLERANCE = 1e-4  # relative, in float32
SIZES = ((256, 320), (193, 259))
PHOTO = Path(__file__).resolve().parents[3] / "docs" / "images" / "astronaut.jpg"  # of a checkout


@dataclass(frozen=True)
class Comparison:
    """One engine, one input size.  Errors are maxima over all logits; `same_class` is the share of pixels (of a
    classifier: of images), 0 to 1."""

    size: tuple[int, int]
    batch: int
    absolute_error: float
    relative_error: float
    same_class: float

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


def compare(output: np.ndarray, reference: np.ndarray, size: tuple[int, ...] | None = None) -> Comparison:
    """The errors of `output` against `reference`, both (B, K, …), of images of that size (None: the reference's).

    A non-finite output counts as an infinite error.
    """
    height, width = size or reference.shape[2:]
    size, batch = (height, width), len(reference)
    if output.shape != reference.shape or not np.isfinite(output).all():
        return Comparison(size, batch, float("inf"), float("inf"), 0.0)
    absolute = float(np.abs(output - reference).max())
    relative = absolute / max(float(np.abs(reference).max()), 1e-12)
    return Comparison(size, batch, absolute, relative, float((classes_of(output) == classes_of(reference)).mean()))


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
        self.cases: list[tuple[np.ndarray, np.ndarray]] = []
        model.eval()
        with torch.inference_mode():
            for index, size in enumerate(sizes):
                for image in chosen:
                    example = network_input(image, size, model.preprocessing, model.in_channels)
                    if index % 2:  # every second size as a batch of two
                        example = torch.cat([example, example.flip(-1)])
                    self.cases.append((example.numpy(), model(example.to(device)).float().cpu().numpy()))
        model.train(training)

    def run(self, runner: Runner) -> list[Comparison]:
        return [
            compare(runner(example)[0], reference, (example.shape[2], example.shape[3]))
            for example, reference in self.cases
        ]


class PointsCheck:
    """The same for a detector in point clouds: points evenly in its area and a little beyond, and any map.

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
            given = [points]
            if "map" in model.inputs:
                given.append(torch.rand(batch, model.map_channels, *model.map_size, generator=generator))
            with torch.inference_mode():
                found = model(*(x.to(device) for x in given))
            self.cases.append(([x.numpy() for x in given], [x.cpu().numpy() for x in found]))
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

    def run(*given: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            found = module(*map(torch.from_numpy, given))
        return [tensor.numpy() for tensor in (found if isinstance(found, tuple) else (found,))]

    return run


def onnx_runner(path: Path) -> Runner:
    session = onnx_session(path, torch.get_num_threads())
    names = [given.name for given in session.get_inputs()]
    return lambda *given: [np.asarray(x) for x in session.run(None, dict(zip(names, given, strict=True)))]


def openvino_runner(path: Path, precision: str = "f32") -> Runner:
    """precision: "f32" or "bf16"."""
    compiled = openvino_network(path, precision, torch.get_num_threads())
    # A copy: OpenVINO hands out a view of a buffer that the next call overwrites.
    return lambda *given: [np.array(x) for x in compiled(list(given)).values()]


RUNNERS: dict[str, Callable[[Path], Runner]] = {
    "torch": torch_runner,
    "onnx": onnx_runner,
    "openvino": openvino_runner,
}
