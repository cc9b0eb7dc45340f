"""A model on an engine: pixels in, logits out, with the time that it took."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch import Tensor, nn

from segmentarium.contracts import Model, adopt
from segmentarium.inference.engines import Engine, build_engine, check_engine, default_device


def with_channels(pixels: Tensor, wanted: int) -> Tensor:
    """uint8 (B, given, H, W) -> uint8 (B, wanted, H, W): grey, RGB and RGBA become what the network takes.  Else ValueError."""
    given = pixels.shape[1]
    if given == wanted:
        return pixels
    if wanted == 3 and given in (1, 4):
        return pixels.expand(-1, 3, -1, -1) if given == 1 else pixels[:, :3]
    if wanted == 1 and given in (3, 4):
        red, green, blue = (pixels[:, i : i + 1].float() for i in range(3))
        return (0.299 * red + 0.587 * green + 0.114 * blue).round_().to(torch.uint8)
    asked = "grey, RGB or RGBA" if wanted == 3 else f"an (H, W, {wanted}) array or a ({wanted}, H, W) tensor"
    raise ValueError(f"the model takes {wanted} channels and the picture has {given}; give {asked}")


class Network:
    """uint8 (B, C, h, w) -> float32 logits: normalised, then through the engine.  `seconds` adds up the engine's time.

    engine     a name ("auto" is measured on the first image), or an engine that was built already
    expected   pictures to come, where that is known: for a few, "auto" measures nothing
    """

    expected: int | None = None

    def __init__(
        self, model: nn.Module, engine: str | Engine, precision: str, device: torch.device | str | None
    ) -> None:
        self.model: Model = adopt(model)
        self.device = default_device(device)
        self.in_channels = self.model.in_channels
        self.preprocessing = self.model.preprocessing.for_channels(self.in_channels)
        self.seconds = 0.0
        self.engine: Engine | None = None
        if isinstance(engine, Engine):
            self.engine = engine
        else:
            check_engine(engine, precision)
            if engine != "auto":
                self.engine = build_engine(self.model, engine, precision=precision, device=self.device)

    def __call__(self, pixels: Tensor) -> Tensor:
        return self.outputs(pixels)[0]

    @torch.inference_mode()
    def outputs(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Everything that the model gives, in its order."""
        # Scaled bytes come from the processor, as in the predictor: CUDA has no antialiased resize of bytes.
        image = self.preprocessing.normalise(pixels.to(self.device))
        if self.engine is None:
            from segmentarium.inference.auto import fastest_engine

            # A copy, as the measurement puts the model into eval mode and onto the device.
            self.engine = fastest_engine(copy.deepcopy(self.model), image, device=self.device, pictures=self.expected)
        started = time.perf_counter()
        found = self.engine.outputs(image)
        if found[0].is_cuda:  # a GPU returns before it is done
            torch.cuda.synchronize(found[0].device)
        self.seconds += time.perf_counter() - started
        return found

    def facts(self, name: str) -> dict[str, Any]:
        """What the report says of the model."""
        return {
            "name": name,
            "system": self.model.title,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "trained_on": self.model.weights_header.get("dataset"),
            "preprocessing": self.preprocessing.as_dict(),
        }
