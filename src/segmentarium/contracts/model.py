"""`Model`, what every network is whatever it gives; `Term`, one part of its objective."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from segmentarium.contracts.insertion import hooked
from segmentarium.layers.fusion import fold_batch_norm, reparameterize
from segmentarium.layers.resize import labels_at, resize
from segmentarium.losses import PixelLoss
from segmentarium.preprocessing import Preprocessing

# "image" (B, C, H, W), "mask" (B, H, W), "segments" (one `Segments` a picture), "label" (B,), … as the task has them
Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Term:
    """One part of a paper's objective: `weight` times `loss` of the outputs `of`, held against `on`.

    name     of the part, as the log has it
    weight   of the loss; where it gives several, because they share what is dear (a matching): of each, by its name
    loss     module: (outputs in the order of `of`, target) -> float32 scalar, or a mapping of such
    of       names of the outputs of `forward_train` that it reads
    on       key of the batch that it is held against, of several keys the first that the batch has; None: the loss takes the
             outputs alone
    at       "target": outputs are brought to the target's height and width; "output": labels to the output's, by nearest
             neighbour; "as is"
    classes  the outputs score the classes: class weights reach the loss, and a run may put another loss in its place
    beside   further keys of the batch that the loss takes behind the target
    """

    name: str
    weight: float | Mapping[str, float]
    loss: nn.Module
    of: tuple[str, ...] = ("logits",)
    on: str | tuple[str, ...] | None = "mask"
    at: Literal["target", "output", "as is"] = "target"
    classes: bool = True
    beside: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of its losses in the log: its own, or with each part's behind it."""
        return (self.name,) if isinstance(self.weight, int | float) else tuple(f"{self.name} {p}" for p in self.weight)

    def target(self, batch: Batch) -> Any:
        """What it is held against; KeyError where the batch has none of it."""
        return self._in(batch, (self.on,) if isinstance(self.on, str) else self.on or ())

    def further(self, batch: Batch) -> list[Any]:
        """What its loss takes behind the target; KeyError where the batch lacks some of it."""
        return [self._in(batch, (key,)) for key in self.beside]

    def _in(self, batch: Batch, keys: tuple[str, ...]) -> Any:
        found = next((key for key in keys if key in batch), None)
        if found is None:
            raise KeyError(
                f"the batch has {', '.join(batch)}; the term {self.name!r} is held against {' or '.join(keys)}"
            )
        return batch[found]

    def weighted(self, found: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What its loss gave -> name of each in the log: weighted."""
        if isinstance(self.weight, int | float):
            assert isinstance(found, Tensor)
            return {self.name: self.weight * found}
        assert not isinstance(found, Tensor)
        weights = self.weight.items()
        return {name: weight * found[part] for name, (part, weight) in zip(self.names, weights, strict=True)}


class Model(nn.Module):
    """What every network is, whatever it gives.

        model(*inputs)                    what is exported, compiled and timed
        model.forward_train(*inputs)      all that the paper supervises, by name, each at its own resolution; of a model with
                                          `train_inputs` it takes these, too
        model.criterion(outputs, batch)   the paper's own objective: name of each term -> weighted scalar
        model.deploy()                    a copy for inference: same outputs, less work

    A subclass says `kind` by its parent, lists in `training_only` the dotted paths of the submodules that `forward` never
    uses ("auxiliary", "decoder.edge"), and calls `set_objective`.
    """

    kind: ClassVar[str] = ""
    inputs: ClassVar[tuple[str, ...]] = ("image",)  # keys of a batch that forward and forward_train take
    train_inputs: tuple[str, ...] = ()  # further ones, which forward_train alone takes: pairs, labels
    # of each input, the last for all further ones, names of the axes that an exported file leaves open; "": the axis is fixed
    open_axes: ClassVar[tuple[tuple[str, ...], ...]] = (("batch", "", "height", "width"),)
    output_names: ClassVar[tuple[str, ...]] = ("logits",)  # of what forward gives, in an exported file
    counted_at: ClassVar[tuple[int, int]] = (512, 1024)  # (H, W) of its published work, unless the card has another
    # its inputs, all of four dimensions, lie so in memory: engines take them as they are
    channels_last: ClassVar[bool] = False
    fixed_size: tuple[int, int] | None = None  # the only (height, width) that it takes; None: any of 32 or more
    training_only: tuple[str, ...] = ()
    align_corners: bool = False  # how outputs are brought to the image's and the target's size
    registered_name: str = ""  # set by create_model, with what it was given, so that a file can rebuild the model
    objective: tuple[Term, ...] = ()

    def __init__(self, *, in_channels: int = 3) -> None:
        super().__init__()
        if in_channels < 1:
            raise ValueError(f"in_channels is {in_channels}; give the number of input channels, 1 or more")
        self.in_channels = in_channels
        self.preprocessing = Preprocessing().for_channels(in_channels)
        self.given_arguments: dict[str, Any] = {}
        self.weights_header: dict[str, Any] = {}  # of the file that the weights came from
        self.losses = nn.ModuleDict()

    @property
    def title(self) -> str:
        """What reports call it: its registered name, else that of its class."""
        return self.registered_name or type(self).__name__

    def __repr__(self) -> str:
        """One line; `str(model)` and `print(model)` give every layer, as of any module."""
        classes = self.labels().get("num_classes")
        of = f" of {classes} {'class' if classes == 1 else 'classes'}" if classes else ""
        size = sum(p.numel() for p in self.parameters()) / 1e6
        return f"<{self.title}: {self.kind}{of}, {self.in_channels} channels in, {size:.2f} M parameters>"

    def __str__(self) -> str:
        return nn.Module.__repr__(self)

    def example(self, batch: int = 1, size: tuple[int, int] = (64, 64)) -> tuple[Tensor, ...]:
        """What `forward` takes, on the model's device: zeros of (batch, in_channels, *size), or of its fixed size.

        Counting, export, deploy and the documentation ask here and need not know the kind.
        """
        like = next(self.parameters(), torch.zeros(()))
        size = self.fixed_size or size
        return (torch.zeros(batch, self.in_channels, *size, device=like.device, dtype=like.dtype),)

    def forward_train(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Every supervised output by name."""
        raise NotImplementedError(f"{type(self).__name__} says nothing of how it is trained")

    def near_ties(self, *inputs: Tensor) -> list[Any]:
        """What `forward` gives as well where it decides by a comparison that rounding may turn; []: it decides nothing so."""
        return []

    def at_step(self, step: int, steps: int) -> None:
        """Called before each step of a training, and before each evaluation: 0, 1, … of `steps`; for weights of terms and
        temperatures that follow a schedule.  A function of the two alone, so that resuming is exact."""

    def labels(self) -> dict[str, Any]:
        """What a file says of the classes that it scores, as plain data; {} for a model without classes."""
        return {}

    def set_objective(self, *terms: Term) -> None:
        """The parts of the objective; their losses become submodules, so that buffers and class weights move along."""
        names = [term.name for term in terms]
        if len(set(names)) < len(names):
            raise ValueError(f"the terms are called {', '.join(names)}; give each a name of its own")
        self.objective = terms
        self.losses = nn.ModuleDict({term.name: term.loss for term in terms})

    def criterion(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Outputs of `forward_train` and the batch -> name of each loss (`Term.names`): weighted, a scalar."""
        if isinstance(batch, Tensor):
            raise TypeError("criterion takes a batch, such as {'mask': labels}, not the labels alone")
        losses: dict[str, Tensor] = {}
        for term in self.objective:
            losses |= term.weighted(self.losses[term.name](*self._read(term, outputs, batch)))
        return losses

    def _read(self, term: Term, outputs: Mapping[str, Tensor], batch: Batch) -> list[Tensor]:
        """What the term's loss takes, at one size."""
        given = [outputs[name] for name in term.of]
        if term.on is None:
            return given
        target = term.target(batch)
        if term.at == "target":
            size = target.shape[-2:]
            given = [resize(output.float(), size, align_corners=self.align_corners) for output in given]
        elif term.at == "output":
            target = labels_at(target, given[0].shape[-2:])
        return [*given, target, *term.further(batch)]

    @torch.inference_mode(False)  # so that the copy's tensors are ordinary ones wherever it is made
    def deploy(self) -> Self:
        """A copy for inference: training-only branches gone, blocks re-parameterised, batch norm folded into the convolutions."""
        model = copy.deepcopy(self).eval()
        model.set_objective()
        for path in self.training_only:
            parent, _, name = path.rpartition(".")
            owner = model.get_submodule(parent)
            if hasattr(owner, name):  # built without it, or deployed before
                delattr(owner, name)
        inserted = hooked(model)
        reparameterize(model)
        fold_batch_norm(model, model.example())
        if hooked(model) < inserted:
            raise ValueError(
                "a block was inserted behind a module that deploy() takes away, such as a norm of its own; "
                "insert it behind the whole block, or behind a convolution"
            )
        return model.requires_grad_(False)


class LabelledModel(Model):
    """Whatever scores a fixed list of classes.  One class is one sigmoid logit: background and foreground."""

    def __init__(self, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(in_channels=in_channels)
        if num_classes < 1:
            raise ValueError(
                f"num_classes is {num_classes}; give the number of classes, 1 or more (1: one sigmoid logit)"
            )
        self.num_classes = num_classes
        self.classes: tuple[str, ...] = tuple(f"class {i}" for i in range(max(num_classes, 2)))

    def labels(self) -> dict[str, Any]:
        return {"num_classes": self.num_classes, "classes": list(self.classes)}

    def set_class_weights(self, weights: Tensor | None) -> None:
        """(K,) weights for every loss on class scores that takes class weights, or None; moved to the model's device."""
        if weights is not None:
            weights = torch.as_tensor(weights, dtype=torch.float32)
            labels = max(self.num_classes, 2)
            if weights.shape != (labels,):
                raise ValueError(
                    f"class weights have shape {tuple(weights.shape)}; give ({labels},), one for each of {labels} labels"
                )
            weights = weights.to(next(self.parameters(), weights).device)
        for term in self.objective:
            for loss in self.losses[term.name].modules() if term.classes else ():
                if isinstance(loss, PixelLoss):
                    loss.class_weight = weights
