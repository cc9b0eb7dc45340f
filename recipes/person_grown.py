"""The shipped model person, last part: person_bodies grows by two blocks, to 0.95 M parameters, and learns from person_large.

    python recipes/person_bodies_data.py --root DIR --out runs/person_grown_data --portraits 2 --scenes 2
    python recipes/person_grown.py
    segmentarium train --recipe recipes/person_grown.py

Run as a program it writes the model where the first stage starts: person_bodies with one more block at 1/8 and one at 1/16
whose last norms are zero, so that it still gives what person_bodies gives.  The first stage shows people eight times larger and
smaller, grey, blurred and in bad light; the second, pictures nearly as they are in use.  The last averaged weights are the
result.  Cost and result: docs/results.md.
"""

from pathlib import Path
from typing import Any

import torch
from person import MODEL, person

import segmentarium
from segmentarium.training import TrainingOptions

GROWN: dict[str, Any] = {
    **MODEL,
    "backbone_arguments": {"out_indices": [1, 2, 3], "blocks": [1, 2, 3, 3, 4]},
    "rates": [2, 4, 8],
}
START = "runs/person_grown_start.safetensors"


def recipe() -> list[TrainingOptions]:
    wide = person(
        root="runs/person_grown_data",
        weights=START,
        output="runs/person_grown",
        cache=False,
        compile=False,
        teacher="person_large",
        long_side=320,
        crop_size=(256, 256),
        scale=(0.5, 4.0),
        even_scales=True,
        rotate=12.0,
        degrade=0.1,
        class_mix=0.25,
        max_steps=600,
        learning_rate=1.5e-3,
        backbone_lr_factor=0.5,
        warmup_steps=30,
        ema=0.998,
        val_every=200,
        save_every=50,
        workers=1,
    )
    in_use = wide.replace(
        weights=None,
        crop_size=(320, 272),
        scale=(0.85, 1.6),
        rotate=8.0,
        degrade=0.05,
        class_mix=0.15,
        max_steps=1100,
        learning_rate=1.2e-3,
        warmup_steps=20,
        val_every=275,
    )
    return [wide, in_use]


def write_start() -> None:
    """person_bodies with two more blocks that do nothing yet."""
    torch.manual_seed(0)
    small = segmentarium.load("person_bodies")
    grown = segmentarium.create_model("deeplabv3plus", num_classes=2, **GROWN)
    missing = grown.load_state_dict(small.state_dict(), strict=False).missing_keys
    for name, value in grown.named_parameters():
        if name in missing and name.endswith("project.norm.weight"):
            torch.nn.init.zeros_(value)
    grown.classes, grown.palette, grown.preprocessing = small.classes, small.palette, small.preprocessing
    picture = torch.rand(1, 3, 160, 128)
    with torch.inference_mode():
        torch.testing.assert_close(grown.eval()(picture), small.eval()(picture))
    Path(START).parent.mkdir(parents=True, exist_ok=True)
    segmentarium.save(grown, START)


if __name__ == "__main__":
    write_start()
