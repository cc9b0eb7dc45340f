"""SINet against the outputs and losses of the authors' code, with made and with their trained weights."""

from __future__ import annotations

import numpy as np
import torch

import segmentarium
from segmentarium.losses import CrossEntropy, Lovasz
from segmentarium.losses.boundary_band import OnBoundary, boundary_band
from segmentarium.registry import create_model


def test_losses_and_gradients_equal_the_authors(golden):
    description, arrays = golden.load("portrait/sinet-loss")
    logits = torch.from_numpy(golden.example_input("logits", tuple(description["inputs"]["logits"]))).requires_grad_()
    mask, edge = (torch.from_numpy(arrays[f"target/{name}"]) for name in ("mask", "edge"))
    size = 5 if torch.equal(boundary_band(mask, 5), edge != 255) else 15
    assert torch.equal(boundary_band(mask, size), edge != 255)
    for name, loss, given in (("ce", CrossEntropy(), logits), ("lovasz", Lovasz(), logits[:, 1:])):
        whole, band = loss(given, mask), 0.5 * OnBoundary(loss, size)(given, mask)
        found = {name: whole, f"{name}_edge": band, f"{name}_total": whole + band}
        for key, value in found.items():
            assert golden.relative_error(value.detach().numpy(), arrays[f"out/{key}"]) <= 1e-4
        (gradient,) = torch.autograd.grad(whole + band, logits)
        assert golden.relative_error(gradient.numpy(), arrays[f"grad/{name}_total/logits"]) <= 1e-4


def test_the_published_checkpoint_gives_the_authors_mask(golden, shared, caplog):
    _, arrays = golden.load("portrait/sinet-trained")
    caplog.set_level("INFO", "segmentarium")
    model = segmentarium.load(shared / "checkpoints" / "sinet_eg1800.pth")
    assert "layout sinet/clovaai" in caplog.text
    assert model.classes == ("background", "person")
    pixels = torch.from_numpy(arrays["target/image_rgb"]).permute(2, 0, 1)
    with torch.inference_mode():
        logits = model(model.preprocessing.normalise(pixels)[None])[0]
    assert golden.relative_error(logits[:, ::4, ::4].numpy(), arrays["out"]) <= 1e-4
    assert np.array_equal(np.packbits((logits[1] > logits[0]).numpy()), arrays["out/mask_bits"])


def test_parameters_are_those_of_the_paper():
    parameters = sum(p.numel() for p in create_model("sinet").parameters())
    assert parameters == 86910


def test_one_logit_lets_detail_pass_where_it_is_unsure():
    model = create_model("sinet", num_classes=1).eval()
    image = torch.randn(1, 3, 64, 64)
    before = model(image)
    model.detail.conv.weight.data.mul_(2)
    assert not torch.equal(model(image), before)


def test_the_encoder_s_file_starts_the_network(tmp_path):
    first = create_model("sinet_encoder")
    path = segmentarium.save(first, tmp_path / "encoder.safetensors")
    model = create_model("sinet", weights=str(path))
    given = first.state_dict()
    assert all(
        torch.equal(value, model.state_dict()[key]) for key, value in given.items() if key.startswith("encoder.")
    )
