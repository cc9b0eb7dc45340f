"""ShelfNet's class presence against EncNet's loss.  Its stored outputs: test_layouts.py."""

from __future__ import annotations

import torch

from segmentarium.losses import ClassPresence
from tests.parity.comparison import golden_state


def test_class_presence(golden):
    _, _, arrays = golden_state(golden, "semantic/encnet-loss")
    logits, target = (torch.from_numpy(arrays[key]) for key in ("out/logits/1", "target/label"))
    loss = 0.2 * ClassPresence()(logits, target)
    assert golden.relative_error(loss.numpy(), arrays["out/losses"][1]) <= 1e-4


def test_class_presence_leaves_out_images_without_labels():
    logits = torch.tensor([[2.0, -1.0, 0.5], [9.0, 9.0, 9.0]], requires_grad=True)
    target = torch.tensor([[[0, 2], [255, 0]], [[255, 255], [255, 255]]])
    loss = ClassPresence()(logits, target)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[0], torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[1].any()
    assert ClassPresence()(logits, torch.full_like(target, 255)) == 0
    foreground = ClassPresence()(torch.tensor([[3.0]]), torch.tensor([[[0, 1]]]))
    torch.testing.assert_close(foreground, torch.nn.functional.softplus(torch.tensor(-3.0)))
