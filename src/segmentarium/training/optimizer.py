"""Which parameters learn how fast: optimiser, groups, schedule, and the averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from fnmatch import fnmatch

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from segmentarium.checks import did_you_mean
from segmentarium.contracts import Backbone, Decoder
from segmentarium.training.options import TrainingOptions


def frozen_parts(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Submodules whose dotted path is one of `patterns` ("backbone", "decoder.boxes.*.layers"); their parameters stop learning.

    Raises ValueError for a pattern that is none's path, and where nothing is left to learn.
    """
    found: list[nn.Module] = []
    for pattern in patterns:
        parts = [part for path, part in model.named_modules() if path and fnmatch(path, pattern)]
        if not parts:
            named = [path for path, _ in model.named_modules() if path.count(".") < 2 and path]
            raise ValueError(
                f"freeze has {pattern!r}, which is no part of the model{did_you_mean(pattern, named)}; "
                f"it has {', '.join(named[:12])}"
            )
        found += [part.requires_grad_(False) for part in parts]
    if found and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"freeze {' '.join(patterns)} leaves nothing that could be trained")
    return found


def parameter_groups(model: nn.Module, options: TrainingOptions) -> list[dict]:
    """A group for each pair of rate and decay; `base_lr` is the rate after warm-up.

    Parameters under `backbone.`, but for a classifier's head, learn at a factor of the rate, and with `layer_decay` the slower
    the shallower they stand.  Biases and the parameters of normalisation layers (all that have one dimension or less) are not
    decayed, unless `decay_norm_bias`: decaying them has no use as regularisation, and hurts small networks.  What a backbone
    or a decoder names in `no_weight_decay` never is.
    """
    factor = options.backbone_lr_factor
    if factor is None:
        started = options.weights is not None or options.backbone_weights is not None
        factor = 0.1 if started and options.layer_decay is None else 1.0
    backbones = {f"{path}.": part for path, part in model.named_modules() if isinstance(part, Backbone)}
    if options.layer_decay is not None and not any(part.num_layers for part in backbones.values()):
        raise ValueError(
            f"layer_decay is {options.layer_decay}, but the model has no backbone that says how deep its layers stand; "
            "leave it out, or give backbone_lr_factor for the whole backbone"
        )
    spared = {
        f"{path}.{name}"
        for path, part in model.named_modules()
        if isinstance(part, Backbone | Decoder)
        for name in part.no_weight_decay()
    }
    heads = {prefix + name for prefix, part in backbones.items() for name in head_of(part)}
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = factor if name.startswith("backbone.") and name not in heads else 1.0
        for prefix, part in backbones.items():
            if options.layer_decay is not None and name.startswith(prefix):
                scale *= options.layer_decay ** (part.num_layers - part.depth_of(name.removeprefix(prefix)))
        decayed = (parameter.ndim > 1 or options.decay_norm_bias) and name not in spared
        groups.setdefault((options.learning_rate * scale, decayed), []).append(parameter)
    return [
        {"params": found, "base_lr": rate, "lr": rate, "weight_decay": options.weight_decay if decayed else 0.0}
        for (rate, decayed), found in groups.items()
    ]


def head_of(backbone: Backbone) -> set[str]:
    """Names of the parameters of its classifier; none where it was built without one."""
    if backbone.num_classes is None:
        return set()
    names = [name for name, _ in backbone.named_parameters()]
    own = {name for name in names if name.startswith("classifier.")}  # timm's stands in the body
    deepest = backbone.num_layers
    return own or {name for name in names if deepest and backbone.depth_of(name) == deepest}


def build_optimizer(model: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW, over `parameter_groups`."""
    groups = parameter_groups(model, options)
    # on the processor in one pass over each parameter instead of a dozen; elsewhere PyTorch chooses well
    whole = options.strategy != "fsdp" and all(p.device.type == "cpu" for group in groups for p in group["params"])
    fused = True if whole else None
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.learning_rate, momentum=options.momentum, fused=fused)
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(options.momentum, options.beta2), fused=fused)


def rate_factor(step: int, options: TrainingOptions) -> float:
    """What the base rate is multiplied by in step 0, 1, …: a function of the step alone, so that resuming is exact."""
    warmup = min(options.warmup_steps, options.max_steps)
    if step < warmup:
        return 0.1 + 0.9 * step / warmup
    if options.schedule == "constant":
        return 1.0
    done = min((step - warmup) / max(options.max_steps - warmup, 1), 1.0)
    if options.schedule == "poly":
        return (1.0 - done) ** options.power
    return 0.5 * (1.0 + math.cos(math.pi * done))


class AveragedModel:
    """An exponential moving average of a model's weights and running statistics, kept in float32.

    The decay warms up as (1 + t) / (10 + t), so that the average soon forgets the random start.  Integers (counters, tables of
    indices) are copied; PyTorch's own averaged model would mix them and cut off the fraction.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.updates = 0
        self._pairs: tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]] | None = None

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """After each optimiser step.  Both models must stay on their device from the first call on."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averaged, current, counters = self._matched(model)
        get_ema_multi_avg_fn(decay)(averaged, current, self.updates)
        for mine, theirs in counters:
            mine.copy_(theirs)

    def _matched(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]]:
        if self._pairs is None:  # walking over all modules takes longer than averaging a small model
            mine, theirs = self.model.state_dict(keep_vars=True), model.state_dict(keep_vars=True)
            floating = [key for key, value in mine.items() if value.is_floating_point()]
            counters = [(mine[key], theirs[key]) for key in mine if not mine[key].is_floating_point()]
            self._pairs = [mine[key] for key in floating], [theirs[key] for key in floating], counters
        return self._pairs
