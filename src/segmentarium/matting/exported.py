"""A network that was exported as ONNX, without PyTorch: ready in half a second, where importing PyTorch takes several."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from segmentarium.matting.finder import ForegroundFinder, foreground_class
from segmentarium.media.stages import cores
from segmentarium.onnx_head import OnnxError
from segmentarium.preprocessing import SMALLEST, Preprocessing
from segmentarium.runtimes import bounded_memory, exported_facts, onnx_session, room_of
from segmentarium.weights import catalogue

SUFFIX = ".onnx"


def exported_file(model: Any) -> Path | None:
    """The ONNX file that `model` names, or that the package ships beside the weights of that name; None: there is none."""
    if not isinstance(model, str | PathLike):
        return None
    text = fspath(model)
    if text.endswith(SUFFIX):
        return Path(text)
    known = catalogue.find(text)
    return catalogue.FILES / known.exported if known is not None and known.exported else None


class ExportedPredictor(ForegroundFinder):
    """Finds the foreground of pictures with a network of `segmentarium export`, through ONNX Runtime on the processor.

    model       an .onnx file, or a name of the catalogue whose network the package ships as such ("person")
    foreground  the class that is looked for, by name or index; default: class 1 of a model with two

    What `Predictor` has for portraits, and no more.  FileNotFoundError where there is no such file, ValueError for a file
    that says nothing of its classes, or whose network does not take RGB.
    """

    def __init__(self, model: str | PathLike[str], *, foreground: str | int | None = None) -> None:
        path = exported_file(model)
        if path is None or not path.is_file():
            raise FileNotFoundError(f"no exported network at {model}; `segmentarium export` makes one")
        self.model_name = fspath(model)
        self._path = path
        self._session = self._open(cores())
        facts = self._facts()
        wanted = facts["preprocessing"]
        try:
            self.preprocessing = Preprocessing.from_dict(wanted) if wanted else Preprocessing()
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"{path} says how pictures are prepared, but not in a way that can be: {error}") from None
        if len(self.preprocessing.mean) != 3:
            raise ValueError(f"{path} prepares pictures of {len(self.preprocessing.mean)} channels; expected 3")
        self._count = max(2, facts["num_classes"])
        self.classes = tuple(facts["classes"]) or tuple(f"class {i}" for i in range(self._count))
        self.foreground = foreground_class(foreground, self.classes)
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.preprocessing.mean, self.preprocessing.std))
        self._factor, self._offset = 1 / (255 * std), mean / std
        with bounded_memory(room_of(path)):  # activations of so small pictures are nothing beside it
            for side in (SMALLEST, 2 * SMALLEST):  # what cannot run, or runs at one size alone, is told now
                self._run(np.zeros((1, 3, SMALLEST, side), np.float32))

    def _open(self, threads: int) -> Any:
        try:
            return onnx_session(self._path, threads)
        except OnnxError:
            raise
        except Exception as error:  # its exceptions have no class of their own above them
            raise ValueError(f"{self._path} is no ONNX network that can be read: {error}") from error

    def _facts(self) -> dict[str, Any]:
        facts = exported_facts(self._session.get_modelmeta().custom_metadata_map, self._path)
        if facts["in_channels"] != 3:
            raise ValueError(
                f"{self._path} takes {facts['in_channels']} channels; expected 3: give the weights it is made of"
            )
        return facts

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        """(1, 3, H, W) float32 -> logits (K, H, W).  ValueError where the network fails, or gives something else."""
        try:
            outputs = self._session.run(None, {self._session.get_inputs()[0].name: pixels})
        except Exception as error:  # its exceptions have no class of their own above them
            said = " ".join(str(error).split())[:300]
            raise ValueError(f"{self._path} fails on a picture of {pixels.shape[2:]} pixels: {said}") from None
        logits = np.asarray(outputs[0]) if outputs else np.empty(0)
        shape: tuple[int, ...] = tuple(logits.shape)
        as_asked = logits.ndim == 4 and shape[0] == 1 and shape[2:] == pixels.shape[2:]
        if not as_asked or shape[1] not in (self._count, 1) or logits.dtype.kind != "f":
            raise ValueError(
                f"{self._path} gives {shape} of a picture {pixels.shape}; expected scores of {self._count} classes, "
                "at the picture's size"
            )
        return logits[0].astype(np.float32, copy=False)

    @contextlib.contextmanager
    def threads(self, count: int) -> Iterator[None]:
        before, self._session = self._session, self._open(count)
        try:
            yield
        finally:
            self._session = before

    def facts(self, seconds: float) -> dict[str, Any]:
        return {"model": self.model_name, "engine": "onnxruntime", "seconds": round(seconds, 4)}

    def _predict(self, view: np.ndarray) -> np.ndarray:
        height, width = view.shape[:2]
        pixels = np.multiply(view.transpose(2, 0, 1), self._factor, dtype=np.float32)
        pixels -= self._offset
        if min(height, width) < SMALLEST:
            pixels = np.pad(pixels, ((0, 0), (0, max(0, SMALLEST - height)), (0, max(0, SMALLEST - width))), "edge")
        logits = self._run(pixels[None])
        assert self.foreground is not None
        return _probability(logits[:, :height, :width], self.foreground)


def _probability(logits: np.ndarray, index: int) -> np.ndarray:
    """(K, h, w) -> (h, w): softmax of one class, or the sigmoid of a single logit."""
    if len(logits) <= 2:
        one = logits[1] - logits[0] if len(logits) == 2 else logits[0]
        return 0.5 + 0.5 * np.tanh(one * np.float32(0.5 if index == 1 else -0.5))  # unlike exp it cannot overflow
    powers = np.exp(logits - logits.max(0))
    return powers[index] / powers.sum(0)
