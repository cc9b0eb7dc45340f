"""SegNeXt with as many updates as in training, against its authors' stored output; mmsegmentation's keys."""

from __future__ import annotations

from types import ModuleType

import torch

from segmentarium.backbones.mscan import VARIANTS as TRUNKS
from segmentarium.meta import on_meta
from segmentarium.registry import create_model
from segmentarium.semantic.segnext import VARIANTS
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import to_theirs
from tests.parity.comparison import TOLERANCE, loaded, relative_error


@torch.inference_mode()
def test_updates_of_training(golden: ModuleType) -> None:
    case = loaded(golden, "segnext/authors", "transformer/segnext-tiny")
    case.model.decoder.hamburger.evaluation_steps = case.model.decoder.hamburger.training_steps
    ours = case.model.logits(case.image)
    assert relative_error(ours, torch.from_numpy(case.arrays["out/low_train_steps"])) <= TOLERANCE


def test_mmsegmentation_has_one_name_less(golden: ModuleType) -> None:
    case = loaded(golden, "segnext/authors", "transformer/segnext-tiny")
    renamed = {key.replace("dwconv.dwconv.", "dwconv."): value for key, value in case.state.items()}
    assert recognise(renamed).name == "segnext/mmseg"


def test_the_sizes_are_told_apart() -> None:
    assert VARIANTS.keys() == TRUNKS.keys()
    for size, (width, rank, *_) in VARIANTS.items():
        for name in ("segnext/authors", "segnext/mmseg"):
            layout = get_layout(name)
            with on_meta():
                state = create_model(f"segnext_{size}", num_classes=3).state_dict()
            told = layout.arguments(to_theirs(state, layout.rules))
            assert (told["backbone"], told["width"], told["rank"]) == (f"mscan_{size}", width, rank)
