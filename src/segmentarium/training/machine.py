"""Devices, processes and precision: Lightning Fabric, as the options want it."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard

from segmentarium.training.options import TrainingOptions

# it repeats what the options say, once through each handler; the second package, which the first imports, takes its messages over
for _package in ("lightning.fabric", "lightning.pytorch"):
    logging.getLogger(_package).setLevel(logging.WARNING)

PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def precision_here(accelerator: str) -> str:
    """What is taken where nobody says: "bf16" where the GPU, or else the processor, multiplies in it, "32" elsewhere."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    if accelerator != "cpu" and torch.backends.mps.is_available():
        return "32"
    # names of PyTorch's own; where they are gone, the processor is taken for one of today's
    asked = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    known = [ask() for ask in asked if ask is not None]
    return "bf16" if any(known) or not known else "32"


def fabric_of(options: TrainingOptions) -> Fabric:
    """The processor counts as one device, unless a number of processes is given."""
    devices: Any = int(options.devices) if options.devices.lstrip("-").isdigit() else options.devices
    on_processor = options.accelerator == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if devices == "auto" and on_processor:
        devices = 1
    return Fabric(
        accelerator=options.accelerator,
        devices=devices,
        num_nodes=options.num_nodes,
        # Fabric's own "fsdp" flattens the parameters, so that none could be told from a bias, and refuses the processor.
        strategy=ModelParallelStrategy(sharded) if options.strategy == "fsdp" else options.strategy,
        precision=PRECISIONS[options.precision],
    )


def sharded(module: nn.Module, _: Any) -> nn.Module:
    """Divides parameters, gradients and the optimiser's state among all processes; whole only while a batch runs.

    As one group: only the outermost forward is sure to be called as a module's.
    """
    fully_shard(module)
    return module
