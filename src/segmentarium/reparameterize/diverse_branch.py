"""Diverse Branch Block: a convolution trained as an Inception-like unit, and folded back (Ding et al., CVPR 2021, 2103.13425).

Four branches, each with norms, are added up: the k×k convolution; a 1×1; a 1×1 then an average over k×k; a 1×1 then a k×k.
Without its non-linearities each is a convolution again, and so is their sum (`transforms.py`).

What the public code (DingXiaoH/DiverseBranchBlock, Apache-2.0) does and the paper does not say: the first 1×1 of the last
branch learns what is added to the identity; a depthwise block has no 1×1 branch, averages its input as it is, and is twice as
wide inside its last branch; the border of a padded inner map is what the norm makes of zero by its running statistics, in
training too.  Its block asserts a padding of k // 2 and square kernels, and leaves kernels of 7 and more alone.

What we add: any padding, stride, dilation (of the average too), non-square and even kernels, biases, borders that are not
zero.  `with_dbb` puts blocks into networks that stand already, with their weights or without.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.contracts import Classifier, Model
from segmentarium.layers.conv import sound_gradients
from segmentarium.layers.depthwise import DepthwiseConv2d
from segmentarium.layers.pooling import PooledBatchNorm
from segmentarium.layers.shared_conv import SharedConv
from segmentarium.reparameterize.transforms import (
    add_branches,
    average_kernel,
    fuse_norm,
    merge_pointwise,
    pad_kernel,
)

LEAST_SPREAD = 1e-4  # variance from which on the first branch is scaled, so that kernels of zeros can learn


def _two(sides: Sequence[int]) -> tuple[int, int]:
    rows, columns = sides
    return rows, columns


class NearIdentity(nn.Module):
    """A grouped 1×1 convolution that starts as the identity: its weight (C, C / groups, 1, 1) is what is added to that."""

    identity: Tensor

    def __init__(self, like: Tensor, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(
            torch.zeros(channels, channels // groups, 1, 1, dtype=like.dtype, device=like.device)
        )
        self.register_buffer("identity", average_kernel(channels, (1, 1), groups, like), persistent=False)

    def kernel(self) -> Tensor:
        return self.weight + self.identity

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel(), groups=self.groups)


class DiverseBranch(nn.Module):
    """The block in place of a convolution, whose kernel its first branch takes over; a bias comes with `start_as`.

    It starts as the authors' does: every norm scales by 1, so that all branches count alike.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        made: dict = {"bias": False, "device": conv.weight.device, "dtype": conv.weight.dtype}
        inputs, outputs, groups = conv.in_channels, conv.out_channels, conv.groups
        self.in_channels, self.out_channels, self.groups = inputs, outputs, groups
        self.kernel_size, self.stride, self.dilation = map(_two, (conv.kernel_size, conv.stride, conv.dilation))
        self.kind, self.padding, self.padding_mode = type(conv), conv.padding, conv.padding_mode
        # of zeros, the same on both sides, around the maps of each branch; what is otherwise goes around the input
        framed = self.kind not in TAKEN or self.padding_mode != "zeros" or conv.padding == "same"
        self.frame = conv._reversed_padding_repeated_twice if framed else None
        self.inner = (0, 0) if framed or isinstance(conv.padding, str) else _two(conv.padding)
        self.depthwise = groups == inputs == outputs

        def norm(channels: int) -> nn.BatchNorm2d:
            return PooledBatchNorm(channels, device=made["device"], dtype=made["dtype"])

        self.origin = nn.Conv2d(
            inputs, outputs, self.kernel_size, self.stride, self.inner, self.dilation, groups, **made
        )
        if self.kind is DepthwiseConv2d:
            self.origin.__class__ = DepthwiseConv2d
        with torch.no_grad():
            self.origin.weight.copy_(conv.weight)
        self.origin_norm = norm(outputs)
        if not self.depthwise:
            self.point = nn.Conv2d(inputs, outputs, 1, self.stride, groups=groups, **made)
            self.point_norm = norm(outputs)
            sound_gradients(self.point)
            self.average_conv = nn.Conv2d(inputs, outputs, 1, groups=groups, **made)
            self.average_inner = norm(outputs)
        self.average_norm = norm(outputs)
        width = 2 * inputs if self.depthwise else inputs
        if self.depthwise:
            self.chain_widen = nn.Conv2d(inputs, width, 1, groups=groups, **made)
        else:
            self.chain_identity = NearIdentity(conv.weight, width, groups)
        self.chain_inner = norm(width)
        self.chain_conv = nn.Conv2d(width, outputs, self.kernel_size, self.stride, 0, self.dilation, groups, **made)
        self.chain_norm = norm(outputs)

    @torch.no_grad()
    def start_as(self, conv: nn.Conv2d, mean: Tensor, variance: Tensor) -> None:
        """Makes the block's function the convolution's: in evaluation exactly, in training as far as its outputs have the
        `mean` and `variance` (C,).  The other branches' last norms scale by 0, and learn."""
        variance = variance.clamp(min=LEAST_SPREAD)
        assert self.origin_norm.running_mean is not None
        assert self.origin_norm.running_var is not None
        self.origin_norm.weight.copy_((variance + self.origin_norm.eps).sqrt())
        self.origin_norm.running_var.copy_(variance)
        self.origin_norm.bias.copy_(mean)
        self.origin_norm.running_mean.copy_(mean if conv.bias is None else mean - conv.bias)
        for last in (self.average_norm, self.chain_norm, *(() if self.depthwise else (self.point_norm,))):
            nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> what the convolution's shape says"""
        if self.frame is not None:
            x = self._framed(x)
        y = self.origin_norm(self.origin(x))
        if self.depthwise:
            y += self.average_norm(self._average(x, self.inner))
            inner = self.chain_widen(x)
        else:
            y += self.point_norm(self.point(self._under_the_centre(x)))
            averaged = self._padded(self.average_inner(self.average_conv(x)), self.average_inner)
            y += self.average_norm(self._average(averaged, (0, 0)))
            inner = self.chain_identity(x)
        y += self.chain_norm(self.chain_conv(self._padded(self.chain_inner(inner), self.chain_inner)))
        return y

    def _framed(self, x: Tensor) -> Tensor:
        if self.kind not in TAKEN:  # timm's, by the size of the map
            from timm.layers.padding import pad_same

            return pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        assert self.frame is not None
        return F.pad(x, tuple(self.frame), "constant" if self.padding_mode == "zeros" else self.padding_mode)

    def _under_the_centre(self, x: Tensor) -> Tensor:
        """What the centre of the k×k kernel passes over, so that a 1×1 of its stride sees the same."""
        frame: list[int] = []
        for size, padding, dilation in zip(self.kernel_size, self.inner, self.dilation, strict=True):
            before = padding - (size - 1) // 2 * dilation
            frame = [before, padding - (size - 1 - (size - 1) // 2) * dilation, *frame]  # the last dimension first
        return F.pad(x, frame) if any(frame) else x

    def _padded(self, x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        """A border around a normalised map of what the norm makes of zero."""
        rows, columns = self.inner
        if not (rows or columns):
            return x
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = norm.weight.detach(), norm.bias.detach()
        border = bias - norm.running_mean * weight * torch.rsqrt(norm.running_var + norm.eps)
        border = border.to(x.dtype)[:, None, None]
        x = F.pad(x, (columns, columns, rows, rows))
        if rows:
            x[:, :, :rows] = border
            x[:, :, -rows:] = border
        if columns:
            x[..., :columns] = border
            x[..., -columns:] = border
        return x

    def _average(self, x: Tensor, padding: Sequence[int]) -> Tensor:
        if max(self.dilation) == 1:
            if any(2 * width > size for width, size in zip(padding, self.kernel_size, strict=True)):
                x, padding = F.pad(x, (padding[1], padding[1], padding[0], padding[0])), (0, 0)
            return F.avg_pool2d(x, self.kernel_size, self.stride, tuple(padding))
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):  # see DepthwiseConv2d
            with torch.autocast("cpu", enabled=False):
                return self._average(x.float(), padding)
        channels = x.shape[1]
        kernel = average_kernel(channels, self.kernel_size, channels, x)
        return F.conv2d(x, kernel, None, self.stride, tuple(padding), self.dilation, channels)

    def kernel_and_bias(self) -> tuple[Tensor, Tensor]:
        """Of the one convolution that the block is in evaluation."""
        average, average_bias = fuse_norm(
            average_kernel(self.out_channels, self.kernel_size, self.groups, self.origin.weight), self.average_norm
        )
        branches = [fuse_norm(self.origin.weight, self.origin_norm)]
        if not self.depthwise:
            point, point_bias = fuse_norm(self.point.weight, self.point_norm)
            branches.append((pad_kernel(point, self.kernel_size), point_bias))
            first, first_bias = fuse_norm(self.average_conv.weight, self.average_inner)
            average, average_bias = merge_pointwise(first, first_bias, average, average_bias, self.groups)
        first = self.chain_widen.weight if self.depthwise else self.chain_identity.kernel()
        chain = (*fuse_norm(first, self.chain_inner), *fuse_norm(self.chain_conv.weight, self.chain_norm))
        branches += [(average, average_bias), merge_pointwise(*chain, self.groups)]
        return add_branches(branches)

    @torch.no_grad()
    def reparameterize(self) -> nn.Conv2d:
        """The convolution that stands in the block's place at inference."""
        kernel, bias = self.kernel_and_bias()
        conv = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            self.dilation,
            self.groups,
            padding_mode=self.padding_mode,  # type: ignore[arg-type]
            device=kernel.device,
            dtype=kernel.dtype,
        )
        conv.__class__ = self.kind
        conv.weight.copy_(kernel)
        assert conv.bias is not None
        conv.bias.copy_(bias)
        return conv.train(self.training)


TAKEN = (nn.Conv2d, DepthwiseConv2d)


@dataclass(frozen=True)
class Blocks:
    """What `with_dbb` did.

    replaced   names of the convolutions that blocks stand in place of
    left       names of the k×k convolutions that were left alone -> why
    """

    replaced: tuple[str, ...]
    left: dict[str, str]

    def __str__(self) -> str:
        whole = len(self.replaced) + len(self.left)
        lines = [f"Diverse Branch Blocks in place of {len(self.replaced)} of {whole} k×k convolutions"]
        for why in dict.fromkeys(self.left.values()):
            names = [name for name in self.left if self.left[name] == why]
            lines.append(
                f"left alone: {', '.join(names[:3])}{f' and {len(names) - 3} more' if names[3:] else ''}: {why}"
            )
        return "\n".join(lines)


def with_dbb(model: nn.Module, only: str = "*") -> Blocks:
    """Puts Diverse Branch Blocks in place of the k×k convolutions (k > 1) of any network, in place; says which.

    model   ours, timm's, or any other.  One that `create_model` made is saved and loaded with its blocks (`dbb=True` among
            its arguments makes the same); so give it whole, not a part of it
    only    shell patterns of the convolutions' names, with commas between them, e.g. "backbone.*,decoder.fuse*"

    A block starts as the convolution that it replaces: with its weights, in evaluation the very same function; in training
    its outputs have the mean and spread that the norm behind the convolution has seen, or those that its kernel gives inputs
    of variance 1.  That norm stays.  Deployed, a block is one convolution with a bias: as large as the plain network is
    where a norm follows, else larger by biases that the plain convolutions lack.

    Left alone: transposed convolutions; those that stand in several places, or share their weights; those that compute their
    kernels or are folded by code of their own.  Raises ValueError where no block stands in the model afterwards.
    """
    root = model.backbone if isinstance(model, Classifier) else model
    found = _Standing(root)
    replaced, left = [], {}
    patterns = only.split(",")
    for name, conv in found.convolutions():
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
        why = found.objection(name, conv)
        if why is not None:
            left[name] = why
            continue
        assert isinstance(conv, nn.Conv2d)
        block = DiverseBranch(conv)
        if not conv.weight.is_meta:  # there are no numbers, and asking for some makes PyTorch import its compiler
            block.start_as(conv, *found.outputs_of(name, conv))
        root.set_submodule(name, block.train(conv.training))
        replaced.append(name)
    done = Blocks(tuple(replaced), left)
    if not any(isinstance(module, DiverseBranch) for module in root.modules()):
        raise ValueError(f"{type(model).__name__} has no k×k convolution that a block can replace ({only}):\n{done}")
    if isinstance(model, Model):
        before = model.given_arguments.get("dbb", False)
        said = True if before is True or only == "*" else ",".join([before, only] if before else [only])
        model.given_arguments = {**model.given_arguments, "dbb": said}
    return done


class _Standing:
    """The convolutions of a network, and what stands around them."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.modules = dict(root.named_modules())
        self.places = Counter(id(module) for _, module in root.named_modules(remove_duplicate=False))
        # a module that stands in two places has one weight
        self.weights = Counter(id(p) for module in self.modules.values() for p in module._parameters.values())

    def convolutions(self) -> list[tuple[str, nn.Conv2d | nn.ConvTranspose2d]]:
        """The k×k ones with k > 1, but for those inside of blocks."""
        blocks = tuple(f"{name}." for name, module in self.modules.items() if isinstance(module, DiverseBranch))
        return [
            (name, module)
            for name, module in self.modules.items()
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
            and max(module.kernel_size) > 1
            and not f"{name}.".startswith(blocks)
        ]

    def objection(self, name: str, conv: nn.Module) -> str | None:
        """Why a convolution cannot be replaced; None: it can."""
        if isinstance(conv, nn.ConvTranspose2d):
            return "a transposed convolution"
        parts = name.split(".")
        above = [self.modules[".".join(parts[:depth])] for depth in range(len(parts))]
        if self.places[id(conv)] > 1 or isinstance(above[-1], SharedConv):
            return "it serves in several places, each with a norm of its own or none"
        if self.weights[id(conv.weight)] > 1:
            return "it shares its weights with another"
        same_padding = type(conv).__name__ == "Conv2dSame" and type(conv).__module__.startswith("timm.")
        if (type(conv) not in TAKEN and not same_padding) or conv._forward_pre_hooks:
            return f"a {type(conv).__name__}, which computes its kernel or its input in a way of its own"
        for module in above:
            foreign = not type(module).__module__.startswith("segmentarium.")
            if foreign and callable(getattr(module, "reparameterize", None)):
                return f"a part of {type(module).__name__}, which folds its own branches"
        if not name:
            return "it is the whole model, in whose place nothing can be put"
        return None

    def outputs_of(self, name: str, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """Mean and variance (C,) of what the convolution gives, as far as they can be known."""
        parent, _, own = name.rpartition(".")
        siblings = self.modules[parent]._modules
        behind = [*siblings.values(), None][list(siblings).index(own) + 1]
        if isinstance(behind, nn.BatchNorm2d) and behind.num_features == conv.out_channels:
            mean, variance = behind.running_mean, behind.running_var
            if mean is not None and variance is not None:
                return mean, variance
        mean = torch.zeros_like(conv.weight[:, 0, 0, 0]) if conv.bias is None else conv.bias
        return mean.detach(), conv.weight.detach().flatten(1).square().sum(1)
