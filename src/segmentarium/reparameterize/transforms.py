"""The six transforms by which branches become one convolution (Ding et al., CVPR 2021, arXiv 2103.13425, section 3.2).

Kernels are (O, I / groups, kh, kw), biases (O,).  What they say holds for networks in evaluation, where a norm is a scale and a
shift; gradients pass through all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fuse_norm(kernel: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """I. A convolution without a bias, then a batch norm -> kernel and bias of one convolution."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return kernel * scale[:, None, None, None], norm.bias - norm.running_mean * scale


def add_branches(branches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """II. The sum of convolutions of one shape -> (kernel, bias) of one."""
    kernels, biases = zip(*branches, strict=True)
    return torch.stack(kernels).sum(0), torch.stack(biases).sum(0)


def merge_pointwise(
    first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """III. A 1×1 convolution (M, I / groups, 1, 1), then a k×k (O, M / groups, kh, kw), both in `groups` -> one k×k.

    It holds where the k×k sees, beyond the border, what the 1×1 makes of zeros: `first_bias`, not 0.
    """
    pointwise = first.reshape(groups, -1, first.shape[1])  # (groups, M / groups, I / groups)
    spatial = second.reshape(groups, -1, *second.shape[1:])  # (groups, O / groups, M / groups, kh, kw)
    kernel = torch.einsum("gomyx,gmi->goiyx", spatial, pointwise)
    bias = torch.einsum("gomyx,gm->go", spatial, first_bias.reshape(groups, -1))
    return kernel.flatten(0, 1), bias.flatten() + second_bias


def concatenate(branches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """IV. The outputs of convolutions of one input, one after the other along the channels -> (kernel, bias) of one."""
    kernels, biases = zip(*branches, strict=True)
    return torch.cat(kernels), torch.cat(biases)


def average_kernel(channels: int, size: Sequence[int], groups: int, like: Tensor) -> Tensor:
    """V. An average over `size` (height, width), padding counted -> the kernel of a convolution from `channels` to as many
    in `groups`, of `like`'s type and device."""
    width = channels // groups
    own = like.new_zeros(groups, width, width)
    own.diagonal(dim1=1, dim2=2).fill_(1 / (size[0] * size[1]))
    return own.flatten(0, 1)[:, :, None, None].expand(-1, -1, *size)


def pad_kernel(kernel: Tensor, size: Sequence[int]) -> Tensor:
    """VI. A small kernel as one of `size` (height, width): zeros around it, where both are odd as many on each side."""
    missing_y, missing_x = size[0] - kernel.shape[2], size[1] - kernel.shape[3]
    return F.pad(kernel, (missing_x // 2, missing_x - missing_x // 2, missing_y // 2, missing_y - missing_y // 2))
