"""The six transforms, each against the layers that it replaces."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.reparameterize import (
    add_branches,
    average_kernel,
    concatenate,
    fuse_norm,
    merge_pointwise,
    pad_kernel,
)
from tests.parity.comparison import randomise, relative_error

IMAGE = torch.linspace(-2, 2, 2 * 8 * 9 * 11, dtype=torch.float64).view(2, 8, 9, 11).sin()


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@torch.no_grad()
def test_a_norm_moves_into_the_convolution() -> None:
    norm = randomise(nn.BatchNorm2d(6)).double()
    kernel = drawn(6, 8, 3, 3)
    assert isinstance(norm, nn.BatchNorm2d)
    expected = norm(F.conv2d(IMAGE, kernel, padding=1))
    assert relative_error(F.conv2d(IMAGE, *fuse_norm(kernel, norm), padding=1), expected) < 1e-12


def test_a_sum_of_convolutions_is_one() -> None:
    branches = [(drawn(6, 8, 3, 3), drawn(6)) for _ in range(3)]
    expected = torch.stack([F.conv2d(IMAGE, *branch) for branch in branches]).sum(0)
    assert relative_error(F.conv2d(IMAGE, *add_branches(branches)), expected) < 1e-12


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_pointwise_and_a_spatial_convolution_are_one(groups: int) -> None:
    first, first_bias = drawn(16, 8 // groups, 1, 1), drawn(16)
    second, second_bias = drawn(12, 16 // groups, 3, 5), drawn(12)
    inner = F.conv2d(IMAGE, first, first_bias, groups=groups)
    expected = F.conv2d(inner, second, second_bias, stride=2, dilation=(2, 1), groups=groups)
    kernel, bias = merge_pointwise(first, first_bias, second, second_bias, groups)
    merged = F.conv2d(IMAGE, kernel, bias, stride=2, dilation=(2, 1), groups=groups)
    assert relative_error(merged, expected) < 1e-12


def test_outputs_side_by_side_are_those_of_one() -> None:
    branches = [(drawn(width, 8, 3, 3), drawn(width)) for width in (2, 5)]
    expected = torch.cat([F.conv2d(IMAGE, *branch) for branch in branches], 1)
    assert relative_error(F.conv2d(IMAGE, *concatenate(branches)), expected) < 1e-12


@pytest.mark.parametrize(("groups", "size"), [(1, (3, 3)), (4, (3, 1)), (8, (2, 4))])
def test_an_average_is_a_convolution(groups: int, size: tuple[int, int]) -> None:
    kernel = average_kernel(8, size, groups, IMAGE)
    assert kernel.shape == (8, 8 // groups, *size)
    averaged = F.conv2d(IMAGE, kernel, stride=2, groups=groups)
    assert relative_error(averaged, F.avg_pool2d(IMAGE, size, 2)) < 1e-12


@pytest.mark.parametrize(("small", "large"), [((1, 1), (3, 3)), ((1, 3), (7, 5)), ((1, 1), (4, 2))])
def test_a_small_kernel_is_a_large_one_with_zeros_around_it(small: tuple[int, int], large: tuple[int, int]) -> None:
    kernel = drawn(6, 8, *small)
    padded = pad_kernel(kernel, large)
    assert padded.shape == (6, 8, *large)
    assert padded.count_nonzero() == kernel.count_nonzero()
    before = [(b - a) // 2 for a, b in zip(small, large, strict=True)]
    shifted = IMAGE[:, :, before[0] :, before[1] :]
    ours = F.conv2d(IMAGE, padded)
    theirs = F.conv2d(shifted, kernel)[:, :, : ours.shape[2], : ours.shape[3]]
    assert relative_error(ours, theirs) < 1e-12
