"""Where the blocks of a backbone's stages stand, and how another block is put behind them without renaming anything.

Which modules are a stage's blocks is observed, as `deploy()` observes norms: a forward pass shows who gives maps of the feature's
channels and size; of these, the children of a list or row of modules with two or more convolutions or linear layers are blocks.
A new block hangs on one of them as a forward hook, which copies, exports and compiles with its module; its weights stand beside
the trunk's, under "inserted.".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from segmentarium.layers.norm import channels_first, channels_last

if TYPE_CHECKING:
    from segmentarium.contracts.backbone import Backbone

At = Literal["every", "last"] | int | Sequence[int]
PROBED = (96, 160)  # pixels: divisible by the usual strides, and no square


@dataclass(frozen=True)
class Place:
    """A module of a backbone behind which a block can stand.

    name      its path in the backbone
    channels  of the maps that it gives
    last      they are (B, H, W, C); False: (B, C, H, W)
    """

    name: str
    channels: int
    last: bool


class Behind:
    """The hook: what a module gives goes through a block.  An object, so that a copy of both finds the copied block."""

    def __init__(self, block: nn.Module, last: bool) -> None:
        self.block, self.last = block, last

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return channels_last(self.block(channels_first(output))) if self.last else self.block(output)


def hooked(model: nn.Module) -> int:
    """How many inserted blocks a model runs through."""
    return sum(isinstance(hook, Behind) for module in model.modules() for hook in module._forward_hooks.values())


def places(backbone: Backbone, stage: int, at: At = "every", after: str = "") -> list[Place]:
    """The blocks of a stage that `at` names, in their order, or in each the submodule `after`.

    Raises ValueError for a stage without blocks that give maps, and for an index or a submodule that is not there.
    """
    if not 0 <= stage < len(backbone.all_channels):
        raise ValueError(
            f"stage is {stage}; {type(backbone).__name__} has the features 0 to {len(backbone.all_channels) - 1}, of strides "
            f"{', '.join(map(str, backbone.all_strides))}"
        )
    shapes = _observe(backbone)
    channels, stride = backbone.all_channels[stage], backbone.all_strides[stage]
    height, width = (-(-side // stride) for side in backbone.fixed_size or PROBED)
    layouts = {(channels, height, width): False, (height, width, channels): True}
    fitting = [name for name, shape in shapes.items() if shape in layouts and _is_block(backbone, name)]
    found = [name for name in fitting if not any(other.startswith(f"{name}.") for other in fitting)]
    if not found:
        raise ValueError(
            f"{type(backbone).__name__} has no blocks that give maps of {channels} channels at stride {stride}, behind which "
            "another could stand (a plain transformer's give tokens); give another stage"
        )
    if after and any(f"{name}.{after}" not in shapes for name in found):
        children = ", ".join(name for name, _ in backbone.get_submodule(found[0]).named_children())
        raise ValueError(f"after is {after!r}, which is no part of these blocks that gives a map; theirs: {children}")
    whole = [Place(name, channels, layouts[shapes[name]]) for name in found]
    if isinstance(at, str):
        if at not in ("every", "last"):
            raise ValueError(f'at is {at!r}; give "every", "last", or the numbers of blocks')
        chosen = whole if at == "every" else whole[-1:]
    else:
        numbers = [at] if isinstance(at, int) else list(at)
        if not numbers or any(not -len(whole) <= number < len(whole) for number in numbers):
            raise ValueError(f"at is {at}; the stage has the blocks 0 to {len(whole) - 1}")
        chosen = [whole[number] for number in numbers]
    if not after:
        return chosen
    return [Place(f"{p.name}.{after}", shapes[f"{p.name}.{after}"][-1 if p.last else 0], p.last) for p in chosen]


def put_behind(backbone: Backbone, place: Place, block: nn.Module) -> None:
    """Hangs the block on the module at `place`: its keys are "inserted." and that path, with underscores for dots."""
    if not hasattr(backbone, "inserted"):
        backbone.inserted = nn.ModuleDict()
    name = place.name.replace(".", "_")
    assert isinstance(backbone.inserted, nn.ModuleDict)
    if name in backbone.inserted:
        raise ValueError(f"a block stands behind {place.name} already; give another place, or one block that does both")
    like = next(backbone.parameters())
    backbone.inserted[name] = block.to(like.device, like.dtype).train(backbone.training)
    backbone.get_submodule(place.name).register_forward_hook(Behind(block, place.last))


@torch.no_grad()
def _observe(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """Path of each module that gives one map -> its shape without the batch, in the order of running."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            shapes[name] = tuple(output.shape[1:])

    like = next(backbone.parameters())
    handles = [
        module.register_forward_hook(lambda _m, _i, output, name=name: note(name, output))
        for name, module in backbone.named_modules()
    ]
    training = [module for module in backbone.modules() if module.training]
    try:
        size = backbone.fixed_size or PROBED
        backbone.eval().embed(torch.zeros(1, backbone.in_channels, *size, device=like.device, dtype=like.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    return shapes


def _is_block(backbone: nn.Module, name: str) -> bool:
    parent, module = backbone.get_submodule(name.rpartition(".")[0]), backbone.get_submodule(name)
    if not isinstance(parent, nn.Sequential | nn.ModuleList) or isinstance(module, nn.Sequential):
        return False
    return sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in module.modules()) > 1
