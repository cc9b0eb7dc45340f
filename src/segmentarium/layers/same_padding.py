"""Padding as TensorFlow's "SAME": networks that came from there see a grid that depends on the size of the map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SameConv2d(nn.Conv2d):
    """A convolution of stride 2 with an odd kernel whose outputs stand where TensorFlow puts them.

    ceil(H / 2) rows come out, as with symmetric padding; above an even number of rows one less is padded, so that the windows
    begin one pixel further down.  The same holds for columns.
    """

    def forward(self, input: Tensor) -> Tensor:
        height, width = input.shape[-2:]
        rows, columns = (size // 2 for size in self.kernel_size)
        padded = F.pad(input, (columns - 1 + width % 2, columns, rows - 1 + height % 2, rows))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def pad_as_tensorflow(model: nn.Module) -> None:
    """Makes every strided convolution of `model` with a kernel above 1×1 a `SameConv2d`, in place; its weights stay.  At stride
    1 both paddings are the same."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2) and module.kernel_size > (1, 1):
            module.__class__ = SameConv2d
