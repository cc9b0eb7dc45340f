"""ExtremeC3Net against the outputs of the authors' code, with made and with their trained weights."""

from __future__ import annotations

import numpy as np
import torch

import segmentarium
from segmentarium.losses import CrossEntropy, Lovasz
from segmentarium.registry import create_model

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
