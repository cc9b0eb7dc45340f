"""The shipped model person, further: `person.py`'s network grows by two blocks, to 0.95 M, and learns from person_large.

    python recipes/person_bodies_data.py --root DIR --out runs/person_grown_data --portraits 2 --scenes 2
    python recipes/person_grown.py
    segmentarium train --recipe recipes/person_grown.py

Run as a program it writes the model where the first stage starts: that of `person.py` with one more block at 1/8 and one at 1/16
whose last norms are zero, so that it still gives the same.  The stages are those of `person_everywhere.py`;
`person_average.py` goes on.  Cost and result: docs/results.md.
"""

from pathlib import Path
from typing import Any

import torch
from person import MODEL, NEAR
from person_everywhere import everywhere

import segmentarium
from segmentarium.training import TrainingOptions

GROWN: dict[str, Any] = {
    **MODEL,
    **NEAR,
    "backbone_arguments": {"out_indices": [1, 2, 3], "blocks": [1, 2, 3, 3, 4]},
}
START = "runs/person_grown_start.safetensors"


def recipe() -> list[TrainingOptions]:
    return everywhere(
        (600, 1100),
        root="runs/person_grown_data",
        weights=START,
        output="runs/person_grown",
        teacher="person_large",
        rotate=12.0,
    )


def write_start() -> None:
    """Two more blocks that do nothing yet."""
    torch.manual_seed(0)
    small = segmentarium.load("runs/person-7/last.safetensors")
    grown: Any = segmentarium.create_model("deeplabv3plus", num_classes=2, **GROWN)
    missing = grown.load_state_dict(small.state_dict(), strict=False).missing_keys
    for name, value in grown.named_parameters():
        if name in missing and name.endswith("project.norm.weight"):
            torch.nn.init.zeros_(value)
    for fact in ("classes", "palette", "preprocessing"):
        setattr(grown, fact, getattr(small, fact))
    picture = torch.rand(1, 3, 160, 128)
    with torch.inference_mode():
        torch.testing.assert_close(grown.eval()(picture), small.eval()(picture))
    Path(START).parent.mkdir(parents=True, exist_ok=True)
    segmentarium.save(grown, START)


if __name__ == "__main__":
    write_start()
