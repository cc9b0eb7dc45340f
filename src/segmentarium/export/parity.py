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
from segmentarium.runtimes import onnx_session, openvino_network

Image = str | Path | np.ndarray | Tensor
Outputs = np.ndarray | tuple[np.ndarray, ...]
Runner = Callable[[np.ndarray], Outputs]

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


def compare_instances(output: Outputs, reference: Outputs, size: tuple[int, ...]) -> Comparison:
    """The same of boxes, labels, scores and masks: of what `reference` found, each is held against what `output` found of its
    class in its place, as rounding may change their order.

    Errors are of boxes as shares of the image, of scores and of masks; `same_class` is the share of instances that have their
    like.  Less than nine of ten have: an infinite error.  One that lies at a threshold may be found by one engine alone.
    """
    kind = (size[0], size[1]), len(reference[0])
    if len(output) != 4 or any(a.shape != b.shape for a, b in zip(output, reference, strict=True)):
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
                found, worst = found + 1, max(worst, *map(float, errors))
    if found < 0.9 * wanted or not np.isfinite(worst):
        worst = float("inf")
    return Comparison(*kind, worst, worst, found / max(wanted, 1))


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
        self.compare: Any = compare_instances if model.kind == "instances" else compare
        self.cases: list[tuple[np.ndarray, Outputs]] = []
        model.eval()
        with torch.inference_mode():
            for index, size in enumerate(sizes):
                for image in chosen:
                    example = network_input(image, size, model.preprocessing, model.in_channels)
                    if index % 2:  # every second size as a batch of two
                        example = torch.cat([example, example.flip(-1)])
                    given = model(example.to(device))
                    several = given if isinstance(given, tuple) else (given,)
                    self.cases.append((example.numpy(), _outputs([one.float().cpu().numpy() for one in several])))
        model.train(training)

    def run(self, runner: Runner) -> list[Comparison]:
        return [
            self.compare(runner(example), reference, (example.shape[2], example.shape[3]))
            for example, reference in self.cases
        ]


def _outputs(found: Sequence[Any]) -> Outputs:
    """What a network gives: an array, or several."""
    arrays = tuple(np.asarray(one) for one in found)
    return arrays if len(arrays) > 1 else arrays[0]


def torch_runner(path: Path) -> Runner:
    module = torch.export.load(str(path)).module()

    def run(image: np.ndarray) -> Outputs:
        with torch.inference_mode():
            found = module(torch.from_numpy(image))
            return _outputs(found if isinstance(found, tuple) else (found,))

    return run


def onnx_runner(path: Path) -> Runner:
    session = onnx_session(path, torch.get_num_threads())
    name = session.get_inputs()[0].name
    return lambda image: _outputs(session.run(None, {name: image}))


def openvino_runner(path: Path, precision: str = "f32") -> Runner:
    """precision: "f32" or "bf16"."""
    compiled = openvino_network(path, precision, torch.get_num_threads())
    # A copy: OpenVINO hands out a view of a buffer that the next call overwrites.
    return lambda image: _outputs([np.array(one) for one in compiled(image).values()])


RUNNERS: dict[str, Callable[[Path], Runner]] = {
    "torch": torch_runner,
    "onnx": onnx_runner,
    "openvino": openvino_runner,
}
