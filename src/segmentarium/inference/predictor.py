"""`Predictor`: a model, an engine and a way to cut pictures; `predict`: everything from a source to results."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from os import PathLike, fspath
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from segmentarium.contracts import (
    Classifier,
    InstanceModel,
    KeypointModel,
    MaskModel,
    Model,
    SegmentationModel,
    adopt,
)
from segmentarium.data.bands import read_bands
from segmentarium.inference.drawing import soften
from segmentarium.inference.engines import Engine, build_engine, check_engine, default_device
from segmentarium.inference.network import with_channels
from segmentarium.inference.result import Result
from segmentarium.inference.tta import augmented, indices, scaled
from segmentarium.inference.windows import Blend, Block, Rows, auto_tile, overlap_in_pixels, sliding, stream, whole
from segmentarium.layers.resize import resized_rows
from segmentarium.matting.finder import ForegroundFinder, foreground_class
from segmentarium.media import sources
from segmentarium.media.readers import ArrayRows
from segmentarium.media.sources import displayed, own_alpha

WHOLE_LIMIT = 2**21  # pixels: Cityscapes' 2048 x 1024 is still computed whole under tile="auto"
BAND_BYTES = 2**24  # of logits that are brought back to the picture's size at a time

ModelSource = str | PathLike[str] | nn.Module
Tile = int | Literal["auto"] | None


class Predictor(ForegroundFinder):
    """Segments pictures with one model.

        predictor = Predictor("person", engine="auto")
        result = predictor(picture)

    model       a name of the catalogue ("person", "street"), a file, a folder, "hf:OWNER/NAME", or a module
    engine      "torch", "compile", "onnxruntime", "openvino", or "auto": the fastest that is installed and gives at
                least 99.5 % of the first picture's pixels the same class as eager PyTorch
    precision   "fp32" or "bf16"; with "auto" the engine decides
    tile        largest side of a tile in pixels, None: always the whole picture, "auto": whole up to 2 megapixels
    overlap     of the tiles: pixels (int) or share of the tile (float)
    flip        averages with the mirrored picture; scales: averages over these sizes (of each tile, where there are tiles)
    foreground  the class that cut-outs keep, by name or index; default: class 1 of a model with two
    batch_size  tiles at a time

    Models whose `preprocessing` has a size see the picture at that size, and tiles are counted there; where it has a tile, "auto"
    is that, as in the published protocol.
    """

    def __init__(
        self,
        model: ModelSource,
        *,
        engine: str = "torch",
        precision: str = "fp32",
        device: torch.device | str | None = None,
        tile: Tile = "auto",
        overlap: int | float = 0.125,
        blend: Blend = "cosine",
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        foreground: str | int | None = None,
        batch_size: int = 1,
    ) -> None:
        check_engine(engine, precision)
        if isinstance(tile, str) and tile != "auto":
            raise ValueError(f'tile is {tile!r}; give a number of pixels, "auto" or None')
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give 1 or more")
        self.device = default_device(device)
        found = resolve_model(model)
        self.model_name = str(model) if isinstance(model, str | PathLike) else found.title
        if not isinstance(found, SegmentationModel | MaskModel):
            other = {
                Classifier: "use `segmentarium classify` (in Python ImageClassifier, or predict)",
                KeypointModel: "use `segmentarium keypoints` (in Python KeypointFinder, or predict)",
                InstanceModel: "give --task instance (in Python SegmentPredictor, or predict with task='instance')",
            }
            raise TypeError(
                f"{self.model_name} is a {found.kind}: it gives no class for every pixel, so it cannot segment"
                + next((f": {text}" for kind, text in other.items() if isinstance(found, kind)), "")
            )
        self.model = found
        self.in_channels = found.in_channels
        self.preprocessing = found.preprocessing.for_channels(self.in_channels)
        self.classes, self.palette = found.classes, found.palette
        if isinstance(found, MaskModel) and len(self.classes) == 1:  # its one logit tells it from all else
            self.classes, self.palette = ("background", *self.classes), ((0, 0, 0), *self.palette)
        overlap_in_pixels(tile if isinstance(tile, int) else auto_tile(len(self.classes)), overlap)
        self.foreground = foreground_class(foreground, self.classes)
        self.tile, self.overlap, self.batch_size = tile, overlap, batch_size
        self.blend: Blend = blend
        self._spread = True
        if tile == "auto" and self.preprocessing.tile is not None:  # as the weights' publication scored them
            self.tile, self.overlap = (
                self.preprocessing.tile,
                self.preprocessing.tile - (self.preprocessing.stride or 0),
            )
            self.blend, self._spread = "mean", False
        self.flip, self.scales = flip, tuple(scales)
        self._engine: Engine | None = None
        self._forward: Callable[[Tensor], Tensor] = augmented(
            self._logits, flip=flip, scales=self.scales, multiple=self.preprocessing.multiple
        )
        mean, std = torch.tensor(self.preprocessing.mean), torch.tensor(self.preprocessing.std)
        self._factor, self._offset = (1 / (255 * std)).view(-1, 1, 1), (mean / std).view(-1, 1, 1)
        if engine != "auto":
            self._engine = build_engine(self.model, engine, precision=precision, device=self.device)

    @property
    def engine(self) -> Engine | None:
        """What computes; None before the first picture of engine="auto"."""
        return self._engine

    def __call__(
        self, image: Any, *, name: str = "image", path: Any = None, keep_probabilities: bool = False
    ) -> Result:
        """The result of one picture: PIL image, (H, W), (H, W, 3 or 4) array, (C, H, W) tensor, a file's bytes, an open file;
        path: read it.

        keep_probabilities  keeps (K, H, W) float16: 2 K bytes a pixel
        """
        if isinstance(image, str | PathLike):
            image, name, path = sources.read_one(image, self.preprocessing.bits)
        started = time.perf_counter()
        array, channels = sources.to_array(image, self.preprocessing.bits), self.model.in_channels
        if path is not None and channels > 3 and array.shape[2] != channels:  # more bands than are shown
            array = read_bands(path, channels, self.preprocessing.bits)
        height, width = array.shape[:2]
        mask = np.empty((height, width), np.uint8 if len(self.classes) <= 256 else np.int64)
        alpha = None if self.foreground is None else np.empty((height, width), np.uint8)
        kept = np.empty((len(self.classes), height, width), np.float16) if keep_probabilities else None
        for block in self.blocks(ArrayRows(array)):
            tall, wide = block.logits.shape[-2:]
            where = (slice(block.top, block.top + tall), slice(block.left, block.left + wide))
            mask[where] = indices(block.logits)[0].cpu().numpy()
            if alpha is not None:
                alpha[where] = self.alpha(block.logits)
            if kept is not None:
                kept[:, *where] = class_probabilities(block.logits)[0].half().cpu().numpy()
        facts = self.facts(time.perf_counter() - started)
        own = own_alpha(array, path) if channels < 4 else None  # to a network of four channels the fourth is a band
        return Result(displayed(array), mask, self.classes, self.palette, name, path, alpha, kept, facts, own)

    def masks(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The class indices (H, W) of several pictures (H, W, C) uint8 of one size, which go through the network together; of
        pictures that are cut into tiles, the tiles of one do.

        ValueError for pictures of different sizes, or with channels that the model does not take.
        """
        if len({image.shape for image in images}) > 1:
            raise ValueError(f"pictures of {len({image.shape for image in images})} shapes; give those of one together")
        if not images:
            return []
        size = (images[0].shape[0], images[0].shape[1])
        small = self.model_size(size)
        if self._tile_for(*small) is not None:
            return [self(image).mask for image in images]
        views = torch.cat([_Channels(ArrayRows(image), self.in_channels).rows(0, size[0]) for image in images])
        logits = whole(self._forward_reduced, scaled(views, small))
        found = []
        for one in logits.split(1):
            mask = np.empty(size, np.uint8 if len(self.classes) <= 256 else np.int64)
            for block in [Block(0, 0, one)] if small == size else enlarged(one, size):
                mask[block.top : block.top + block.logits.shape[-2]] = indices(block.logits)[0].cpu().numpy()
            found.append(mask)
        return found

    def facts(self, seconds: float) -> dict[str, Any]:
        return {
            "model": self.model_name,
            "engine": str(self._engine),
            "tile": self.tile,
            "flip": self.flip,
            "scales": list(self.scales),
            "seconds": round(seconds, 4),
        }

    def blocks(self, image: Rows, thumbnail: Callable[[int, int], np.ndarray] | None = None) -> Iterator[Block]:
        """Logits (1, K, h, w) at the picture's size, block by block from top to bottom, each pixel once.

        image      uint8 rows, of 1, 3 or 4 channels
        thumbnail  (width, height) -> (H, W, 3): shrinks the picture without reading `image`

        Of two classes only the difference of their logits is given: K = 1, as of a model with one sigmoid logit.
        """
        size = (image.height, image.width)
        small = self.model_size(size)
        if small == size:
            yield from self._blocks(_Channels(image, self.in_channels))
            return
        if thumbnail is not None:
            shrunk = ArrayRows(thumbnail(small[1], small[0]))
            view = _Channels(shrunk, self.in_channels).rows(0, small[0])
        else:
            view = scaled(_Channels(image, self.in_channels).rows(0, image.height), small)
        yield from enlarged(self._scores(view), size)

    def _predict(self, view: np.ndarray) -> np.ndarray:
        rows = _Channels(ArrayRows(view), self.in_channels).rows(0, view.shape[0])
        with torch.inference_mode():
            return self._of_foreground(self._scores(rows)).numpy()

    @contextlib.contextmanager
    def threads(self, count: int) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _of_foreground(self, logits: Tensor) -> Tensor:
        """(h, w) float32: probability of the foreground, of logits (1, K, h, w)."""
        assert self.foreground is not None
        if logits.shape[1] == 1:
            return torch.sigmoid(logits[0, 0] if self.foreground == 1 else -logits[0, 0]).cpu()
        return torch.softmax(logits, 1)[0, self.foreground].cpu()

    def _tile_for(self, height: int, width: int) -> int | None:
        """The tile of a picture of this size; None: compute it whole."""
        if self.tile == "auto":
            return auto_tile(len(self.classes)) if height * width > WHOLE_LIMIT else None
        tile = cast("int | None", self.tile)
        return None if tile is None or max(height, width) <= tile else tile

    def _scores(self, view: Tensor) -> Tensor:
        tile = self._tile_for(*view.shape[-2:])
        if tile is None:
            return whole(self._forward_reduced, view)
        return sliding(
            self._forward_reduced,
            view,
            tile,
            self.overlap,
            self.blend,
            batch_size=self.batch_size,
            spread=self._spread,
        )

    def _blocks(self, image: Rows) -> Iterator[Block]:
        tile = self._tile_for(image.height, image.width)
        if tile is None:
            yield Block(0, 0, whole(self._forward_reduced, image.rows(0, image.height)))
        else:
            yield from stream(
                self._forward_reduced,
                image,
                tile,
                self.overlap,
                self.blend,
                batch_size=self.batch_size,
                spread=self._spread,
            )

    def _forward_reduced(self, image: Tensor) -> Tensor:
        logits = self._forward(image)
        return logits[:, 1:] - logits[:, :1] if logits.shape[1] == 2 else logits

    def _logits(self, image: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> logits of the engine; picks the engine where it is still open."""
        # (image / 255 - mean) / std in two passes over memory
        pixels = image.to(torch.float32, memory_format=torch.channels_last)
        pixels = pixels.mul_(self._factor).sub_(self._offset)
        if self._engine is None:
            from segmentarium.inference.auto import fastest_engine

            self._engine = fastest_engine(self.model, pixels, device=self.device, pictures=self.expected)
        return self._engine(pixels)

    def alpha(self, logits: Tensor) -> np.ndarray:
        """(h, w) uint8: how far pixels belong to the foreground, of a block's logits (1, K, h, w)."""
        return (soften(self._of_foreground(logits).numpy()) * 255 + 0.5).astype(np.uint8)


class _Channels:
    """Rows of a picture with as many channels as the network takes."""

    def __init__(self, image: Rows, in_channels: int) -> None:
        self.height, self.width = image.height, image.width
        self._image, self._wanted = image, in_channels

    def rows(self, top: int, bottom: int) -> Tensor:
        return with_channels(self._image.rows(top, bottom), self._wanted)


def class_probabilities(logits: Tensor) -> Tensor:
    """Logits (B, K, h, w) -> (B, max(K, 2), h, w): one sigmoid logit becomes the two classes it tells apart."""
    if logits.shape[1] == 1:
        positive = torch.sigmoid(logits)
        return torch.cat((1 - positive, positive), 1)
    return torch.softmax(logits, 1)


def enlarged(logits: Tensor, size: tuple[int, int]) -> Iterator[Block]:
    """Logits (1, K, h, w) brought to `size` (H, W) bilinearly, in bands of full width that stay below 16 MB.

    The same as `layers.resize.resize` of the whole, which at K = 19 would take 30 GB for 20,000 x 20,000 pixels.
    """
    height, width = size
    band = max(1, BAND_BYTES // (4 * logits.shape[1] * width))
    for top in range(0, height, band):
        yield Block(top, 0, resized_rows(logits, size, top, min(top + band, height)))


def resolve_model(model: ModelSource) -> Model:
    """A module adopted (in eval mode); a name, file, folder or hub address loaded."""
    if isinstance(model, nn.Module):
        return adopt(model).eval()
    from segmentarium.weights import load

    return load(fspath(model))
