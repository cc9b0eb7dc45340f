"""A model on an engine: pixels in, logits out, with the time that it took."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from segmentarium.contracts import InstanceModel, InstanceSet, MaskModel, MaskOutputs, MaskSet, Model, adopt
from segmentarium.inference.engines import Engine, build_engine, check_engine, default_device, deployed, device_name
from segmentarium.memory import memory_errors


def with_channels(pixels: Tensor, wanted: int) -> Tensor:
    """uint8 (B, given, H, W) -> uint8 (B, wanted, H, W): grey, RGB and RGBA become what the network takes.  Else ValueError."""
    given = pixels.shape[1]
    if given == wanted:
        return pixels
    if wanted == 3 and given in (1, 4):
        return pixels.expand(-1, 3, -1, -1) if given == 1 else pixels[:, :3]
    if wanted == 1 and given in (3, 4):
        red, green, blue = (pixels[:, i : i + 1] for i in range(3))
        grey = red.float().mul_(0.299)
        return grey.add_(green, alpha=0.587).add_(blue, alpha=0.114).round_().to(torch.uint8)
    asked = "grey, RGB or RGBA" if wanted == 3 else f"an (H, W, {wanted}) array or a ({wanted}, H, W) tensor"
    raise ValueError(f"the model takes {wanted} channels and the picture has {given}; give {asked}")


class Network:
    """uint8 (B, C, h, w) -> float32 logits, or what else the model gives: normalised, then through the engine.  `seconds` adds
    up the engine's time.

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

    def __call__(self, pixels: Tensor) -> Any:
        first, *more = self.outputs(pixels)
        return (first, *more) if more else first

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


class MaskNetwork(Network):
    """uint8 (B, C, h, w) -> `MaskSet`, read at the pictures' size: as `Network`, of a mask classifier."""

    def __init__(
        self,
        model: MaskModel,
        engine: str | Engine = "torch",
        precision: str = "fp32",
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(MaskOutputs(model), engine, precision, device)

    def __call__(self, pixels: Tensor) -> MaskSet:
        height, width = pixels.shape[-2:]
        class_logits, mask_logits = self.outputs(pixels)
        return MaskSet(class_logits, mask_logits).at((height, width))


class InstanceNetwork(Network):
    """uint8 (B, C, h, w) -> `InstanceSet`: as `Network`, of a detector with masks.

    Raises ValueError for engines of exported networks, which give masks of the picture's size.
    """

    def __init__(
        self,
        model: InstanceModel,
        engine: str = "torch",
        precision: str = "fp32",
        device: torch.device | str | None = None,
    ) -> None:
        if engine not in ("torch", "compile"):
            raise ValueError(f"engine is {str(engine)!r}; of a detector give 'torch' or 'compile'")
        check_engine(engine, precision)
        if precision == "fp16":
            raise ValueError("precision is 'fp16'; a detector computes in fp32 or bf16")
        self.dtype, where = torch.bfloat16 if precision == "bf16" else torch.float32, default_device(device)
        network: Any = deployed(model).to(where, self.dtype)
        find = network.to(memory_format=torch.channels_last).forward_instances
        self._find: Callable[[Tensor], InstanceSet] = torch.compile(find) if engine == "compile" else find
        details = f"{device_name(where)}, {precision}, channels-last"
        super().__init__(model, Engine(engine, self._find, details), precision, where)

    @memory_errors()
    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> InstanceSet:
        image = self.preprocessing.normalise(pixels.to(self.device)).to(self.dtype)
        started = time.perf_counter()
        found = self._find(image.contiguous(memory_format=torch.channels_last))
        if image.is_cuda:  # a GPU returns before it is done
            torch.cuda.synchronize(image.device)
        self.seconds += time.perf_counter() - started
        return found


def segment_network(
    model: MaskModel | InstanceModel,
    engine: str | Engine = "torch",
    precision: str = "fp32",
    device: torch.device | str | None = None,
) -> MaskNetwork | InstanceNetwork:
    """What tells segments apart, on an engine."""
    made = InstanceNetwork if isinstance(model, InstanceModel) else MaskNetwork
    return made(model, engine, precision, device)  # type: ignore[arg-type]
