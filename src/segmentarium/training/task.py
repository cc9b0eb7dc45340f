"""Per-pixel training as a Lightning module.

Everything random in a step follows from (seed, step, process), and so does the learning rate; the data follows from
(seed, sample number).  A resumed run therefore needs no saved random state to be equal, bit for bit, to one that was
never stopped: the weights, the optimiser's and the average's state, and the number of the step are enough.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from segmentarium.contracts import SegmentationModel
from segmentarium.data import SegmentationDataset
from segmentarium.layers.conv import depthwise_in_float32
from segmentarium.training.loaders import TimedLoader, training_loader
from segmentarium.training.optimizer import AveragedModel, build_optimizer, rate_factor
from segmentarium.training.options import TrainingOptions


def prepare(model: nn.Module, options: TrainingOptions) -> None:
    """Gives the model the memory layout and the layers with which it trains fastest.  Its weights stay."""
    if options.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    depthwise_in_float32(model)


class NonFiniteLossError(ValueError):
    """The loss became NaN or infinite; the message names the files of the batch."""


class SegmentationTask(pl.LightningModule):
    """Optimises `model.criterion(model.forward_train(image), mask)` and keeps the averaged weights.

    step       optimiser steps done since the very start, over all resumptions
    window     sums of each loss since the last `take_window`
    """

    def __init__(self, model: SegmentationModel, dataset: SegmentationDataset, options: TrainingOptions) -> None:
        super().__init__()
        prepare(model, options)  # now, because DDP takes the layout of its buckets from what it is given
        self.model = model
        self.dataset, self.options = dataset, options
        self.step, self.micro_batch, self.accumulation = 0, options.batch_size, 1
        self.best: dict[str, Any] | None = None  # scores of the best evaluation, with its step
        self.validated_step = 0
        self.loader: TimedLoader | None = None
        self.window: dict[str, Tensor] = {}
        self.window_size = 0
        self.unchecked: list[tuple[Tensor, list[str]]] = []
        # Outside the module tree: DDP must not broadcast it, nor the optimiser or the state dict see it.
        self._averaged = [AveragedModel(model, options.ema)] if options.ema else []
        self._compiled: list[Callable[[Tensor], dict[str, Tensor]]] = []

    @property
    def averaged(self) -> AveragedModel | None:
        return self._averaged[0] if self._averaged else None

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and kept: the averaged one, where there is one."""
        return self._averaged[0].model if self._averaged else self.model

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.model, self.options)

    def train_dataloader(self) -> TimedLoader:
        self.loader = training_loader(
            self.dataset,
            self.model.preprocessing,
            self.options,
            micro_batch=self.micro_batch,
            step=self.step,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return self.loader

    def on_fit_start(self) -> None:
        if self._averaged:
            self._averaged[0].model.to(self.device)
        forward = self.model.forward_train
        self._compiled = [torch.compile(forward) if self.options.compile else forward]

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        part = batch_idx % self.accumulation
        seeds = np.random.SeedSequence((self.options.seed, self.step, part, self.global_rank)).generate_state(3)
        torch.manual_seed(int(seeds[0]))
        np.random.seed(int(seeds[1]))
        random.seed(int(seeds[2]))
        factor = rate_factor(self.step, self.options)
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = group["base_lr"] * factor

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        image = batch["image"]
        if self.options.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        losses = self.model.criterion(self._compiled[0](image), batch["mask"])
        loss = torch.stack(list(losses.values())).sum()
        self.unchecked.append((loss.detach(), batch["name"]))
        if self.device.type == "cpu":  # elsewhere asking would make the host wait in every step
            self.check_losses()
        for name, value in {**losses, "loss": loss}.items():
            value = value.detach()
            self.window[name] = self.window[name] + value if name in self.window else value
        self.window_size += 1
        return loss

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.step += 1
        if self._averaged:
            self._averaged[0].update(self.model)

    def check_losses(self) -> None:
        """Raises NonFiniteLossError if a loss since the last check was NaN or infinite."""
        if not self.unchecked:
            return
        values = torch.stack([loss for loss, _ in self.unchecked])
        names = [names for _, names in self.unchecked]
        self.unchecked = []
        if bool(torch.isfinite(values).all()):
            return
        first = int((~torch.isfinite(values)).nonzero()[0])
        raise NonFiniteLossError(
            f"the loss is {values[first].item()} in step {self.step + 1}, in the batch of {', '.join(names[first])}; "
            "no checkpoint was written over the last good one. Look at these files, lower the learning rate, "
            "or use precision 32"
        )

    def check_weights(self) -> None:
        """Raises NonFiniteLossError if a weight is NaN or infinite, as a bad gradient makes it."""
        sums = torch.stack([parameter.detach().float().sum() for parameter in self.evaluated.parameters()])
        if not bool(torch.isfinite(sums).all()):
            raise NonFiniteLossError(
                f"weights are not finite after step {self.step}, though the loss was: a gradient overflowed; "
                "no checkpoint was written over the last good one. Lower the learning rate, or give --clip-norm"
            )

    def take_window(self) -> dict[str, float]:
        """Mean of each loss since the last call."""
        means = {name: (value / self.window_size).item() for name, value in self.window.items()}
        self.window, self.window_size = {}, 0
        return means
