"""ExtremeC3Net against the outputs of the authors' code, with made and with their trained weights."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

import segmentarium
from segmentarium.losses import CrossEntropy, Lovasz
from segmentarium.registry import create_model
from tests.parity.comparison import as_theirs, golden_state

LAYOUT = "extremec3/clovaai"


def test_the_published_checkpoint_gives_the_authors_mask(golden, shared, caplog):
    _, arrays = golden.load("portrait/extremec3-trained")
    caplog.set_level("INFO", "segmentarium")
    model = segmentarium.load(shared / "checkpoints" / "extremec3_eg1800.pth")
    assert f"layout {LAYOUT}" in caplog.text
    assert model.num_classes == 1
    assert model.classes == ("background", "person")
    pixels = torch.from_numpy(arrays["target/image_rgb"]).permute(2, 0, 1)
    with torch.inference_mode():
        logits = model(model.preprocessing.normalise(pixels)[None])[0]
    reference = arrays["out"]
    assert golden.relative_error(logits[:, ::4, ::4].numpy().reshape(reference.shape), reference) <= 1e-4
    assert np.array_equal(np.packbits((logits[0] > 0).numpy()), arrays["out/mask_bits"])


def test_the_first_stage_is_the_coarse_path_with_a_classifier(golden, tmp_path):
    """By the code: its 1×1 convolution, without a bias, on what the second stage's encoder gives; whose weights these are."""
    state, _, _ = golden_state(golden, "portrait/extremec3")
    state = {
        key.removeprefix("encoder."): value
        for key, value in state.items()
        if key.startswith("encoder.") and not key.endswith("tracked")
    }
    state["Coarseclassifier.conv.weight"] = torch.randn(2, 112, 1, 1)
    torch.save(state, tmp_path / "stage1.pth")
    first = segmentarium.load(tmp_path / "stage1.pth")
    assert first.registered_name == "extremec3_encoder"
    whole = create_model("extremec3", weights=str(tmp_path / "stage1.pth")).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        feature = whole.encoder(image)
        assert feature.shape == (1, 112, 16, 24)
        scores = F.conv2d(feature, state["Coarseclassifier.conv.weight"])
        torch.testing.assert_close(first.logits(image), scores)
        larger = F.interpolate(scores, scale_factor=4, mode="bilinear", align_corners=True)
        torch.testing.assert_close(first(image), larger)
    assert whole.num_classes == 2


def test_other_depths_are_read_off_the_keys():
    as_theirs(LAYOUT, "extremec3", blocks=(2, 3))
    as_theirs("extremec3_encoder/clovaai", "extremec3_encoder", blocks=(1, 8), num_classes=2)


def test_parameters_are_those_of_the_paper():
    assert sum(p.numel() for p in create_model("extremec3").parameters()) == 37738


def test_the_objective_follows_the_number_of_logits():
    one, two = create_model("extremec3"), create_model("extremec3", num_classes=2)
    assert isinstance(one.losses["logits"], Lovasz)
    assert isinstance(two.losses["logits"], CrossEntropy)
    for model in (one, two):
        assert [(term.name, term.weight, term.of) for term in model.objective] == [
            ("logits", 1.0, ("logits",)),
            ("boundary", 0.5, ("logits",)),
        ]
