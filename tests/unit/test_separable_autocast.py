"""bf16 training on the processor: the gradient of a dilated depthwise convolution is the same every time."""

from __future__ import annotations

import torch

from segmentarium.layers.conv import SeparableConv


def test_dilated_gradient_is_repeatable_under_autocast():
    conv = SeparableConv(64, 32, dilation=6).to(memory_format=torch.channels_last)
    x = torch.randn(4, 64, 22, 30).contiguous(memory_format=torch.channels_last)
    gradients = []
    for _ in range(6):
        conv.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = conv(x)
        assert y.dtype == torch.bfloat16
        y.float().square().mean().backward()
        gradient = conv.depthwise.conv.weight.grad
        assert gradient is not None
        assert gradient.isfinite().all()
        gradients.append(gradient.clone())
    # the wrong ones were off by a tenth and more
    largest = gradients[0].abs().max()
    assert all((other - gradients[0]).abs().max() <= 1e-3 * largest for other in gradients[1:])
