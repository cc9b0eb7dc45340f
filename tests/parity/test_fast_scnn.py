"""Fast-SCNN's forms.  Its stored outputs: test_layouts.py."""

from __future__ import annotations

import pytest
import torch

from segmentarium.realtime.fast_scnn import FastSCNN


@pytest.mark.parametrize("form", ["paper", "mmseg", "tramac"])
def test_every_form_learns_at_odd_sizes_and_deploys(form):
    model = FastSCNN(num_classes=4, form=form)
    image, target = torch.randn(2, 3, 65, 97), torch.randint(0, 4, (2, 65, 97))
    losses = model.criterion(model.forward_train(image), {"mask": target})
    assert losses.keys() == {"logits", "aux_8"} | ({"aux_32"} if form != "tramac" else set())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    deployed = model.deploy()
    assert not hasattr(deployed, "auxiliary")
    with torch.inference_mode():
        expected = model(image)
        assert (deployed(image) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_mmsegs_loss_is_a_binary_cross_entropy_for_each_class():
    model = FastSCNN(num_classes=3, form="mmseg", auxiliary=False)
    logits, target = torch.randn(1, 3, 8, 8), torch.randint(0, 3, (1, 8, 8))
    answers = torch.nn.functional.one_hot(target, 3).permute(0, 3, 1, 2).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, answers)
    assert torch.allclose(model.criterion({"logits": logits}, {"mask": target})["logits"], expected)


def test_an_unknown_form_is_named():
    with pytest.raises(ValueError, match="keras"):
        FastSCNN(form="keras")
