"""SegViT's losses against its authors', whose ignored pixels are outside of every mask."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from segmentarium.registry import create_model
from segmentarium.semantic.segvit import suffixes
from segmentarium.weights.layouts import get_layout
from segmentarium.weights.table import to_theirs
from tests.parity.comparison import TOLERANCE, loaded

THEIRS = {"classes": "loss_ce", "mask": "loss_mask", "dice": "loss_dice"}


@pytest.mark.parametrize(
    ("layout", "golden_name", "count"),
    [("segvit/authors", "transformer/segvit-atm", 3), ("segvit_shrunk/authors", "transformer/segvit-shrunk", 2)],
)
def test_losses(golden: ModuleType, layout: str, golden_name: str, count: int) -> None:
    case = loaded(golden, layout, golden_name)
    model, target = case.model, torch.from_numpy(case.arrays["target/label"])
    ours = model.criterion(case.outputs, {"mask": target})
    theirs = {
        f"{name}{suffix}": float(case.arrays[f"loss/{their}{suffix}"])
        for suffix in suffixes(count)
        for name, their in THEIRS.items()
    }
    assert ours.keys() == theirs.keys()
    other = any(abs(float(ours[name]) - value) > 1e-3 * value for name, value in theirs.items())
    assert other == bool((target == 255).any()), "where there are ignored pixels, ours count nowhere"

    model.decoder.ignored = "background"
    model.set_objective(*model.decoder.objective())
    ours = model.criterion(case.outputs, {"mask": target})
    assert {name: float(loss) for name, loss in ours.items()} == pytest.approx(theirs, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("segvit/authors", "segvit_vit_base"),
        ("segvit/authors", "segvit_vit_large"),
        ("segvit_shrunk/authors", "segvit_shrunk_vit_large"),
    ],
)
def test_published_sizes_are_read_off_their_keys(layout: str, name: str) -> None:
    found = get_layout(layout)
    with torch.device("meta"):
        model = create_model(name, num_classes=7)
        told = found.arguments(to_theirs(model.state_dict(), found.rules))
    published = {
        key: value for key, value in told.items() if key not in ("num_classes", "in_channels", "layers", "stages")
    }
    arguments = {"grid": 40} if "shrunk" in name else {}
    from segmentarium.registry import entry

    assert published == {"width": 512, "heads": 16, **arguments, **entry(name).arguments}
