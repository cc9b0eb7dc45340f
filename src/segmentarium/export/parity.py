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

from segmentarium.contracts import Model, Preprocessing
from segmentarium.keypoints.detector import PointDetector
from segmentarium.runtimes import onnx_session, openvino_network

Image = str | Path | np.ndarray | Tensor
Runner = Callable[[np.ndarray], list[np.ndarray]]  # an input to every output

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


def compare_points(
    outputs: Sequence[np.ndarray], references: Sequence[np.ndarray], size: tuple[int, int]
) -> Comparison:
    """Of (B, K, 2) places, (B, K) scores, 0 where there is no point, and (B, K, D) descriptors: the errors of the points that
    both have; infinite where either lacks more than one in a hundred.  `same_class` is the share that both have.

    Scores may lie closer together than rounding, and the order of points, and which are the last, follow from them.
    """
    common, total, error = 0, 0, 0.0
    for found, expected in zip(zip(*outputs, strict=True), zip(*references, strict=True), strict=True):
        ours, theirs = (
            {tuple(place): (score, described) for place, score, described in zip(*each, strict=True) if score > 0}
            for each in ((given[0].round(2).tolist(), given[1].tolist(), given[2]) for given in (found, expected))
        )
        both = ours.keys() & theirs.keys()
        common, total = common + len(both), total + max(len(ours), len(theirs))
        for place in both:
            error = max(
                error, abs(ours[place][0] - theirs[place][0]), float(np.abs(ours[place][1] - theirs[place][1]).max())
            )
    share = common / max(total, 1)
    error = error if share >= 0.99 or not total else float("inf")
    return Comparison(size, len(references[0]), error, error, share if total else 1.0)


def worst(outputs: Sequence[np.ndarray], references: Sequence[np.ndarray], size: tuple[int, int]) -> Comparison:
    """The errors of the output that is furthest from its reference; an infinite one where their numbers differ."""
    if len(outputs) != len(references):
        return Comparison(size, len(references[0]), float("inf"), float("inf"), 0.0)
    compared = [compare(*pair, size) for pair in zip(outputs, references, strict=True)]
    return max(compared, key=lambda found: found.relative_error)


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
        self.compare = compare_points if isinstance(model, PointDetector) else worst
        self.cases: list[tuple[np.ndarray, list[np.ndarray]]] = []
        model.eval()
        with torch.inference_mode():
            for index, size in enumerate(sizes):
                for image in chosen:
                    example = network_input(image, size, model.preprocessing, model.in_channels)
                    if index % 2:  # every second size as a batch of two
                        example = torch.cat([example, example.flip(-1)])
                    found = model(example.to(device))
                    given = (found,) if isinstance(found, Tensor) else found
                    self.cases.append((example.numpy(), [output.float().cpu().numpy() for output in given]))
        model.train(training)

    def run(self, runner: Runner) -> list[Comparison]:
        return [
            self.compare(runner(example), references, (example.shape[2], example.shape[3]))
            for example, references in self.cases
        ]


def torch_runner(path: Path) -> Runner:
    module = torch.export.load(str(path)).module()

    def run(image: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            found = module(torch.from_numpy(image))
        return [output.numpy() for output in ((found,) if isinstance(found, Tensor) else found)]

    return run


def onnx_runner(path: Path) -> Runner:
    session = onnx_session(path, torch.get_num_threads())
    name = session.get_inputs()[0].name
    return lambda image: [np.asarray(output) for output in session.run(None, {name: image})]


def openvino_runner(path: Path, precision: str = "f32") -> Runner:
    """precision: "f32" or "bf16"."""
    compiled = openvino_network(path, precision, torch.get_num_threads())
    # A copy: OpenVINO hands out a view of a buffer that the next call overwrites.
    return lambda image: [np.array(output) for output in compiled(image).values()]


RUNNERS: dict[str, Callable[[Path], Runner]] = {
    "torch": torch_runner,
    "onnx": onnx_runner,
    "openvino": openvino_runner,
}
