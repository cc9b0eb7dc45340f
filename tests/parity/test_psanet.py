"""PSANet against the authors' recorded module and mmsegmentation's recorded head; its layouts by their keys."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from segmentarium.semantic.psanet import PSADecoder
from segmentarium.weights.layouts.psanet import mmseg_head, semseg_module
from segmentarium.weights.table import Rule, load_state, to_theirs
from tests.parity.comparison import TOLERANCE, as_theirs, example, golden_state, randomise, relative_error

MODULES: dict[str, dict[str, Any]] = {
    "semantic/psanet-psa-collect": {"direction": "collect", "shrink": 1, "mask_size": (7, 5)},
    "semantic/psanet-psa-distribute": {"direction": "distribute", "shrink": 1, "mask_size": (7, 5)},
    "semantic/psanet-psa-bidirection": {"mask_size": (9, 13)},
    "semantic/psanet-psa-compact": {"mask_size": (5, 7), "compact": True},
}


def compared(decoder: PSADecoder, golden: ModuleType, name: str, rules: list[Rule], given: str) -> Any:
    """The recorded input and output of `name`, whose tensors `decoder` takes."""
    state, description, outputs = golden_state(golden, name)
    report = load_state(decoder.eval(), state, rules=rules, strict=False)
    left = {key.partition(".")[0] for key in report.missing}
    assert not report.unexpected
    assert not report.mismatched
    assert left <= ({"bottleneck", "classifier"} if given == "x" else set())
    own = sum(p.numel() for key, p in decoder.named_parameters() if key.partition(".")[0] not in left)
    assert own == description["parameters"]
    back = to_theirs(
        {key: value for key, value in decoder.state_dict().items() if key.partition(".")[0] not in left}, rules
    )
    assert all(torch.equal(back[key], value) for key, value in state.items())
    return example(golden, description, given), torch.from_numpy(outputs["out"])


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_module_equals_the_authors(golden: ModuleType, name: str, gradients: bool) -> None:
    told = MODULES[name]
    decoder = PSADecoder(channels=(32,), strides=(8,), num_classes=5, decoder_channels=16, **told)
    x, expected = compared(decoder, golden, name, semseg_module(told.get("direction", "both"), "", ""), "x")
    with torch.set_grad_enabled(gradients):
        assert relative_error(decoder.context(x).detach(), expected) <= TOLERANCE


@pytest.mark.parametrize("gradients", [True, False])
def test_head_equals_mmsegmentation(golden: ModuleType, gradients: bool) -> None:
    decoder = PSADecoder(
        channels=(24,),
        strides=(8,),
        num_classes=5,
        decoder_channels=12,
        mask_size=(9, 13),
        form="mmseg",
        align_corners=False,
    )
    rules = mmseg_head("both", "", "")
    x, expected = compared(decoder, golden, "semantic/psanet-mmseg-head", rules, "c4")
    with torch.set_grad_enabled(gradients):
        assert relative_error(decoder([x]).detach(), expected) <= TOLERANCE


@pytest.mark.parametrize(
    ("layout", "arguments"),
    [
        ("psanet/semseg", {"num_classes": 19}),
        ("psanet/semseg", {"num_classes": 150, "backbone": "resnet101_v1s", "mask_size": (59, 59), "auxiliary": False}),
        ("psanet/mmseg", {"num_classes": 19}),
        ("psanet/mmseg", {"num_classes": 150, "backbone": "resnet101_v1c", "mask_size": (66, 66)}),
    ],
)
def test_keys_are_recognised_and_read_back(layout: str, arguments: dict[str, Any]) -> None:
    as_theirs(layout, "psanet" if layout == "psanet/semseg" else "psanet_resnet50", **arguments)


@torch.inference_mode()
def test_torchseg_collects_twice() -> None:
    """By its definition: both branches weigh the places by what each of them says of all others."""
    decoder: Any = randomise(
        PSADecoder(
            channels=(8,), strides=(8,), num_classes=5, decoder_channels=4, mask_size=(3, 3), compact=True, shrink=1,
            form="torchseg",
        )
    )  # fmt: skip
    x, found = torch.randn(2, 8, 3, 3), []
    for branch in decoder.attention.values():
        reduced = branch.reduce(x)
        scores = branch.mask(branch.hidden(reduced)).flatten(2).softmax(1)
        found.append((reduced.flatten(2) @ scores).unflatten(2, (3, 3)))
    expected = torch.cat([x, decoder.project(torch.cat(found, 1))], 1)
    assert relative_error(decoder.context(x), expected) <= TOLERANCE


def test_torchseg_s_network() -> None:
    told = {"mask_size": (60, 60), "compact": True, "shrink": 1, "form": "torchseg"}
    told |= {"auxiliary_arguments": {"decoder_channels": 1024}, "backbone": "resnet101_v1s"}
    as_theirs("psanet/torchseg", "psanet", num_classes=150, **told)
