"""PortraitNet against the outputs and losses of the authors' code."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segmentarium.losses import CrossEntropy
from segmentarium.losses.boundary_band import boundary_band
from segmentarium.losses.consistency import Consistency
from segmentarium.portrait.portraitnet import BoundaryFocal, TextureEnhancement
from segmentarium.registry import create_model
from segmentarium.weights import load
from segmentarium.weights.layouts import get_layout
from segmentarium.weights.table import to_theirs
from tests.parity.comparison import exercised, randomise


def test_losses_and_gradients_equal_the_authors(golden, monkeypatch):
    description, arrays = golden.load("portrait/portraitnet-loss")
    logits = {
        name: torch.from_numpy(golden.example_input(name, tuple(shape))).requires_grad_()
        for name, shape in description["inputs"].items()
    }
    mask, edge = (torch.from_numpy(arrays[f"target/{name}"]) for name in ("mask", "edge"))
    monkeypatch.setattr(BoundaryFocal, "edges", lambda self, target: edge)  # their drawn contour
    found = {
        "mask": CrossEntropy()(logits["mask"], mask),
        "mask_ori": CrossEntropy()(logits["mask_ori"], mask),
        "kl": Consistency()(logits["mask"], logits["mask_ori"], mask),
        "focal": BoundaryFocal()(logits["edge"], mask),
    }
    found["stability"], found["edge"] = 2 * found["kl"], 0.1 * found["focal"]
    found["total"] = found["mask"] + found["mask_ori"] + found["stability"] + found["edge"]
    for name, value in found.items():
        assert golden.relative_error(value.detach().numpy(), arrays[f"out/{name}"]) <= 1e-4
    gradients = torch.autograd.grad(found["total"], list(logits.values()))
    for name, gradient in zip(logits, gradients, strict=True):
        assert golden.relative_error(gradient.numpy(), arrays[f"grad/total/{name}"]) <= 1e-4


def test_the_objective_has_the_published_weights():
    model = create_model("portraitnet")
    weights = {term.name: term.weight for term in model.objective}
    assert weights == {"logits": 1.0, "original": 1.0, "consistency": 2.0, "boundary": 0.1}


def test_the_band_is_the_contour_of_the_authors(golden):
    """They draw a line 4 pixels wide along the contour; the band is the morphological gradient of that width."""
    _, arrays = golden.load("portrait/portraitnet-loss")
    mask, edge = (torch.from_numpy(arrays[f"target/{name}"]) for name in ("mask", "edge"))
    band = boundary_band(mask, 5)
    drawn = (edge == 1) & (mask != 255)
    assert (band & drawn).sum() / (band | drawn).sum() > 0.7


def test_other_light_is_drawn_for_each_image_in_training_alone():
    model = create_model("portraitnet")
    image = model.preprocessing.normalise(torch.rand(3, 3, 40, 48))
    enhance = TextureEnhancement().train()
    first, second = enhance(image, model.preprocessing), enhance(image, model.preprocessing)
    assert not torch.equal(first, second)
    low, high = (model.preprocessing.normalise(torch.full((3, 1, 1), v)) for v in (0.0, 1.0))
    assert ((first >= low - 1e-5) & (first <= high + 1e-5)).all()
    unchanged = TextureEnhancement((1, 1), (1, 1), (1, 1), 0.0).train()
    torch.testing.assert_close(unchanged(image, model.preprocessing), image, atol=1e-5, rtol=0)
    assert torch.equal(enhance.eval()(image, model.preprocessing), image)
    darker = TextureEnhancement((0.5, 0.5), (1, 1), (1, 1), 0.0).train()(image, model.preprocessing)
    std, mean = (torch.tensor(v).view(-1, 1, 1) for v in (model.preprocessing.std, model.preprocessing.mean))
    torch.testing.assert_close(darker * std + mean, (image * std + mean) / 2)


def test_the_image_teaches_its_copy_and_not_the_reverse():
    model = create_model("portraitnet").train()
    image = model.preprocessing.normalise(torch.rand(2, 3, 64, 64))
    outputs = model.forward_train(image)
    assert not torch.equal(outputs["logits"], outputs["original"])
    for name in ("logits", "original"):
        outputs[name].retain_grad()
    model.criterion(outputs, {"mask": torch.zeros(2, 64, 64, dtype=torch.long)})["consistency"].backward()
    assert outputs["logits"].grad.abs().max() > 0
    assert outputs["original"].grad is None


def test_transposed_convolutions_start_as_bilinear_upsampling():
    up = create_model("portraitnet").decoder[0].up
    x = torch.randn(1, 96, 5, 6)
    bilinear = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
    inside = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(up(x, (10, 12))[inside], bilinear[inside])


def test_nothing_of_training_is_deployed():
    deployed = create_model("portraitnet").deploy()
    assert not [name for name, _ in deployed.named_modules() if "boundary" in name or "enhance" in name]


def test_teacher_and_student_score_the_same_classes():
    with pytest.raises(ValueError, match="give logits of one shape"):
        Consistency()(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))


def test_the_network_for_video_sees_the_person_before_behind_the_colours(tmp_path):
    """Theirs takes blue, green, red and the mask of the frame before, which is not normalised; ours red first."""
    model = exercised(randomise(create_model("portraitnet", in_channels=4, boundary=False)))
    state = to_theirs(model.state_dict(), get_layout("portraitnet/dong-x16_video").rules)
    torch.save({"state_dict": state}, tmp_path / "video.tar")
    loaded = load(tmp_path / "video.tar")
    assert loaded.in_channels == 4
    assert loaded.classes == ("background", "person")
    picture, person = torch.rand(1, 3, 64, 64), torch.rand(1, 1, 64, 64)
    image = loaded.preprocessing.normalise(torch.cat([picture, person], 1))
    blue_first = (255 * picture.flip(1) - torch.tensor([103.94, 116.78, 123.68]).view(-1, 1, 1)) * 0.017
    with torch.inference_mode():
        theirs = F.conv2d(torch.cat([blue_first, person], 1), state["stage0.0.weight"], stride=2, padding=1)
        torch.testing.assert_close(loaded.encoder.stem.conv(image), theirs, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(loaded(image), model(image))
