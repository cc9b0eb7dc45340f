"""Deploy form: re-parameterised blocks fused, batch norm folded into the convolution before it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def reparameterize(model: nn.Module) -> None:
    """Calls `reparameterize()` on every submodule that has it (blocks whose branches collapse at inference), in place.

    Inner ones come first.  A block that returns a module is replaced by it.
    """
    made: dict[nn.Module, nn.Module | None] = {}
    for parent in reversed(list(model.modules())):
        for name, child in list(parent._modules.items()):
            method = getattr(child, "reparameterize", None)
            if child is None or not callable(method):
                continue
            if child not in made:
                given = method()
                made[child] = given if isinstance(given, nn.Module) else None
            if (instead := made[child]) is not None:
                setattr(parent, name, instead)


@torch.no_grad()
def fold_joined(norm: nn.BatchNorm2d, convs: Iterable[nn.Conv2d]) -> None:
    """Folds a batch norm over concatenated maps into the convolutions that made them, given in their order, in place.

    `fold_batch_norm` does not see such a norm, because the concatenation stands before it.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    start = 0
    for conv in convs:
        part = slice(start, start + conv.out_channels)
        mean, var, weight, bias = (t[part] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, mean, var, norm.eps, weight, bias)
        start = part.stop


def _foldable(conv: nn.Module | None) -> bool:
    # the weights of a transposed convolution in groups hold its outputs along two dimensions
    if conv is None or conv._forward_hooks:
        return False
    return isinstance(conv, nn.Conv2d) or (isinstance(conv, nn.ConvTranspose2d) and conv.groups == 1)


@torch.inference_mode(False)  # tensors of inference mode count no versions
@torch.no_grad()
def fold_batch_norm(
    model: nn.Module, example: Tensor | tuple[Tensor, ...], only: Collection[nn.Module] | None = None
) -> int:
    """Folds each batch norm that directly follows a convolution into it, in place; returns how many.
    `only` leaves all norms but these as they are.

    Which norm follows which convolution is seen by running `example`, its input or inputs, through it, so it works for any model,
    timm's too.  These stay as they are: a convolution that feeds two norms, or a norm only in some of its calls; a norm
    fed by two convolutions; a norm whose input was changed in place after the convolution, or by a hook of somebody else.
    """
    # id of an output -> its convolution, the tensor (kept alive, so that the id stays its own) and its version
    produced: dict[int, tuple[nn.Module, Tensor, int]] = {}
    norms_of: dict[nn.Module, set[nn.Module]] = {}
    convs_of: dict[nn.Module, set[nn.Module | None]] = {}
    calls: dict[nn.Module, int] = {}

    def after_conv(module: nn.Module, _inputs: tuple, output: Tensor) -> None:
        produced[id(output)] = (module, output, output._version)
        calls[module] = calls.get(module, 0) + 1

    def before_norm(module: nn.Module, inputs: tuple) -> None:
        conv, _, version = produced.get(id(inputs[0]), (None, None, 0))
        if conv is not None and version != inputs[0]._version:
            conv = None
        convs_of.setdefault(module, set()).add(conv)
        calls[module] = calls.get(module, 0) + 1
        if conv is not None:
            norms_of.setdefault(conv, set()).add(module)

    handles = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            handles.append(module.register_forward_hook(after_conv))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(before_norm))
    try:
        model(*example) if isinstance(example, tuple) else model(example)
    finally:
        for handle in handles:
            handle.remove()

    folded: dict[nn.Module, nn.Module] = {}
    for norm, convs in convs_of.items():
        if only is not None and norm not in only:
            continue
        conv = next(iter(convs))
        if len(convs) != 1 or conv is None or not _foldable(conv):
            continue
        if len(norms_of[conv]) != 1 or calls[conv] != calls[norm]:
            continue
        assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        tensors = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        transposed = isinstance(conv, nn.ConvTranspose2d)
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *tensors, transpose=transposed)
        # timm's BatchNormAct2d, a batch norm too, carries the activation that follows it
        activation = getattr(norm, "act", None)
        folded[norm] = activation if isinstance(activation, nn.Module) else nn.Identity()
        folded[norm]._forward_hooks.update(norm._forward_hooks)
    for parent in model.modules():
        for name, child in list(parent._modules.items()):  # named_children leaves out a module's second name
            if child in folded:
                setattr(parent, name, folded[child])
    return len(folded)
