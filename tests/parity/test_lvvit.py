"""LV-ViT against its authors' stored outputs: tokens, the training pass with a MixToken box, losses, targets."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from segmentarium.contracts import Classifier
from segmentarium.data.token_labels import token_targets
from segmentarium.losses import LabelCrossEntropy
from segmentarium.registry import entry
from segmentarium.weights.layouts import get_layout
from segmentarium.weights.table import load_state
from tests.parity.comparison import TOLERANCE, example, golden_state, loaded, relative_error


@torch.inference_mode()
def test_tokens(golden: ModuleType) -> None:
    case = loaded(golden, "lvvit/authors", "backbone/lvvit-s-eval")
    ((grid, first),) = case.model.forward_tokens(case.image, (15,))
    tokens = torch.cat([first, grid.flatten(2).transpose(1, 2)], 1)[0]
    assert relative_error(tokens, torch.from_numpy(case.arrays["out/tokens"])) <= TOLERANCE


def test_mix_token_and_losses(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "backbone/lvvit-s-mixtoken-loss")
    layout = get_layout("lvvit/authors")
    target = torch.from_numpy(arrays["target/target"])
    top, left, bottom, right = arrays["target/box"].tolist()
    totals = []
    for token_weight, ground_truth in ((1.0, False), (0.5, True)):
        arguments = {**layout.arguments(state), "token_weight": token_weight, "ground_truth": ground_truth}
        backbone = entry(layout.model).build(**arguments)
        load_state(backbone, state, rules=layout.rules)
        model = Classifier(backbone).eval()
        image = example(golden, description, "x")
        with torch.inference_mode():
            outputs = backbone.classify_train(image, (top, left, bottom, right))
            totals.append(float(torch.stack(list(model.criterion(outputs, {"label": target}).values())).sum()))
    assert relative_error(outputs["logits"], torch.from_numpy(arrays["out/x_cls"])) <= TOLERANCE
    assert relative_error(outputs["tokens"], torch.from_numpy(arrays["out/x_aux"])) <= TOLERANCE
    totals.append(float(LabelCrossEntropy()(outputs["logits"], target[:, :, 1])))
    assert totals == pytest.approx(arrays["out/loss"].tolist(), rel=TOLERANCE)


def test_targets(golden: ModuleType) -> None:
    _, arrays = golden.load("backbone/tokenlabel-targets")
    maps = torch.from_numpy(arrays["target/label_maps"])
    boxes, labels = maps[:, 2, 0, 0, :4], maps[:, 2, 0, 0, 5].long()

    def targets(size: int | None, smoothing: float) -> Tensor:
        return token_targets(maps[:, 0], maps[:, 1].long(), boxes, labels, 8, size, smoothing=smoothing)

    smoothed = targets(4, 0.1)
    mixed = 0.7 * smoothed + 0.3 * smoothed.flip(0)
    for name, ours in (("size4_smoothed", smoothed), ("size1", targets(None, 0.0)), ("mixed", mixed)):
        theirs = torch.from_numpy(np.asarray(arrays[f"out/{name}"]))
        assert relative_error(ours, theirs) <= TOLERANCE, name
