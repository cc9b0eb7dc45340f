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
