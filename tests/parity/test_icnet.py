"""ICNet's pyramid and its guidance by labels.  Its stored outputs: test_layouts.py."""

from __future__ import annotations

import pytest
import torch

from segmentarium.backbones.resnet import ResNet
from segmentarium.realtime.icnet import SumPyramid, _spreading
from segmentarium.registry import create_model


def test_the_pyramid_as_one_matrix_for_each_axis():
    """What is exported equals what runs, maps smaller than the pyramid included."""
    generator = torch.Generator().manual_seed(0)
    for height, width in ((7, 9), (3, 5), (13, 1), (12, 18)):
        x = torch.randn(2, 4, height, width, generator=generator)
        out = x + x.mean((2, 3), keepdim=True)
        for bins in (2, 3, 6):
            out = out + _spreading(height, bins, x) @ x @ _spreading(width, bins, x).T
        torch.testing.assert_close(SumPyramid("size")(x), out)


def test_release_windows_want_the_release_s_size():
    with pytest.raises(ValueError, match="1025×2049"):
        SumPyramid("release").eval()(torch.randn(1, 4, 17, 33))


def test_cascade_label_guidance_scales_the_labels():
    model = create_model("icnet", num_classes=3)
    target = torch.zeros(1, 64, 64, dtype=torch.long)
    target[:, :, 32:] = 1
    target[:, :32] = 255
    outputs = {}
    for name, size in (("logits", 16), ("aux_8", 8), ("aux_16", 4)):
        logits = torch.zeros(1, 3, size, size)
        logits[:, 0, :, : size // 2] = logits[:, 1, :, size // 2 :] = 20.0
        logits[:, 2, : size // 2] = 90.0  # wrong where nothing is labelled
        outputs[name] = logits
    # at its own size every pixel is right; upsampled logits would be wrong along the border
    assert all(loss < 1e-6 for loss in model.criterion(outputs, {"mask": target}).values())
    uniform = {name: torch.zeros_like(logits) for name, logits in outputs.items()}
    losses = model.criterion(uniform, {"mask": target})
    assert losses["aux_8"] == pytest.approx(0.4 * float(losses["logits"]))
    assert losses["aux_16"] == pytest.approx(0.16 * float(losses["logits"]))


@pytest.mark.parametrize("backbone", ["mit_b0", "timm:resnet18", "resnet5", ResNet(depth=18)])
def test_a_backbone_that_cannot_be_cut_is_refused(backbone):
    with pytest.raises(ValueError, match="the cascade cuts a ResNet in two"):
        create_model("icnet_resnet18", backbone=backbone)
