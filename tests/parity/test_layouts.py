"""Every stored reference that a layout names: loaded strictly, compared, recognised, reversed, deployed.

A system's own file beside this one has what is more than that: mechanisms, losses, live references.
"""

from __future__ import annotations

import json
import math
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import pytest
import torch

from segmentarium.contracts import Backbone, Classifier, MaskSet
from segmentarium.layers.resize import resize
from segmentarium.registry import entry, list_models
from segmentarium.weights.layouts import layouts, recognise
from segmentarium.weights.table import Output, to_theirs
from tests.parity.comparison import TOLERANCE, Loaded, loaded, relative_error

CASES = [(layout.name, name) for layout in layouts().values() for name in layout.goldens]
# whole networks; a backbone's features and class scores are compared above, and its own file deploys it
NETWORKS = [case for case in CASES if entry(layouts()[case[0]].model).kind != "classifier"]
# heads that theirs uses in training alone, and its stored outputs are those of inference
NOT_STORED = {
    "semantic/pspnet-semseg-r50": {"aux"},
    "semantic/spnet-r50": {"aux"},
    "transformer/dpt-base-add": {"aux"},
    "transformer/dpt-hybrid-ade": {"aux"},
}
# stored arrays from within the network: its own file compares them
WITHIN = {
    "keypoint/superpoint-open": {"out/desc_raw"},
    "transformer/segnext-tiny": {"out/low_train_steps"},
    "realtime/regseg-exp48-decoder26": {"out/body4", "out/body8", "out/body16"},
    "backbone/lvvit-s-eval": {"out/tokens"},
    "backbone/repmlpnet-small": {"out/fc3_weight", "out/fc3_bias"},
    "transformer/dpt-hybrid-ade": {"out/logits_timm1"},
}
# the release's windows are for one size, larger than what deploy observes
ONE_SIZE = {"realtime/icnet-caffe-full"}


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, golden: ModuleType) -> Loaded:
    return loaded(golden, *request.param)


def over(cases: list[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, indirect=True, ids=[name for _, name in cases])


@over(CASES)
def test_all_is_loaded_and_every_output_is_equal(case: Loaded) -> None:
    told = case.layout.goldens[case.name]
    assert case.report.complete
    assert set(case.report.dropped) == {key for key in case.state if any(fnmatch(key, p) for p in told.dropped)}
    assert all(any(fnmatch(key, pattern) for key in case.state) for pattern in told.dropped)
    unused = sum(case.state[key].numel() for key in case.report.dropped if key.endswith(("weight", "bias")))
    shapes = {key: shape for key, shape, _ in case.description["state"]}
    unused += sum(math.prod(shapes[key]) for key in told.computed)
    constants = [k for k in case.state if k.endswith(("weight", "bias")) and any(fnmatch(k, p) for p in told.frozen)]
    parameters = sum(parameter.numel() for parameter in case.model.parameters())
    assert parameters == case.description["parameters"] - unused + sum(case.state[key].numel() for key in constants)

    stored = {name for name in case.arrays if name == "out" or name.startswith("out/")}
    assert stored == told.outputs.keys() | WITHIN.get(case.name, set())
    for array, output in told.outputs.items():
        assert case.error(array, output) <= TOLERANCE, array


@over(NETWORKS)
def test_nothing_that_is_supervised_is_left_uncompared(case: Loaded) -> None:
    told, outputs = case.layout.goldens[case.name].outputs, case.outputs
    compared = {output.name if isinstance(output, Output) else output for output in told.values()}
    # PortraitNet gives the logits of a copy in other light, which in inference is the image
    size = case.image.shape[-2:]
    if case.model.kind == "mask":
        assert outputs.keys() == compared
        masks = MaskSet(outputs["class_logits"], outputs["mask_logits"]).resized((size[0], size[1]))
        assert torch.equal(outputs["forward"], masks.semantic())
        return
    if isinstance(outputs["forward"], tuple):  # scores made of logits, and what is supervised
        assert outputs.keys() - {"forward"} == compared
        return
    main = case.model.output_names[0]
    same = {name for name, output in outputs.items() if torch.equal(output, outputs[main])}
    assert outputs.keys() - compared - same - {main, "forward"} == NOT_STORED.get(case.name, set())
    if {"forward", main} <= compared:  # what is returned may be more than the output that is supervised under that name
        return
    whole = outputs[main]
    if case.model.kind == "segmenter":
        whole = resize(whole, size, align_corners=case.model.align_corners)
    assert torch.equal(outputs["forward"], whole)


@over(CASES)
def test_recognised_and_reversible(case: Loaded) -> None:
    assert recognise(case.state).name == case.layout.name
    back = to_theirs(case.model.state_dict(), case.layout.rules)
    kept = {key: value for key, value in case.state.items() if key not in case.report.dropped}
    assert all(key.endswith("num_batches_tracked") for key in back.keys() - kept.keys())
    assert all(torch.equal(back[key], value) for key, value in kept.items())


@over([case for case in CASES if case[1] not in ONE_SIZE])
@torch.inference_mode()
def test_the_deployed_form_is_equal(case: Loaded) -> None:
    if isinstance(case.model, Backbone):
        if case.model.num_classes is None:
            return  # a trunk alone: the classifier's golden deploys it
        deployed = Classifier(case.model).eval().deploy()
        assert relative_error(deployed(case.image), case.outputs["classify"]) <= TOLERANCE
        return
    deployed = case.model.deploy()
    found, expected = deployed(case.image), case.outputs["forward"]
    both = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
    assert all(relative_error(one, other) <= TOLERANCE for one, other in both)
    names = {name for name, _ in deployed.named_modules()}
    assert not names & {*case.model.training_only, "losses.logits"}


def test_every_golden_is_run_or_its_system_is_not_here_yet(golden: ModuleType) -> None:
    """A golden is named by a layout or by a test; what is left belongs to systems that are not registered.  -rP lists it."""
    named = {name for layout in layouts().values() for name in layout.goldens}
    written = "\n".join(path.read_text("utf-8") for path in Path(__file__).parents[1].rglob("test_*.py"))
    words = {word.rstrip("0123456789") for name in list_models() for word in name.split("_")}
    forgotten = []
    for path in sorted(golden.HERE.glob("*/*.json")):
        name, system = f"{path.parent.name}/{path.stem}", path.stem.split("-")[0]
        if name in named or f'{name}"' in written or f'"{path.stem}"' in written:
            continue
        reference = json.loads(path.read_text("utf-8"))["reference"]
        if system.rstrip("0123456789") in words:
            forgotten.append(name)
        print(f"not run: {name}: no system called {system!r} here; its reference is {str(reference)[:90]}")
    assert not forgotten
    assert named <= {f"{path.parent.name}/{path.stem}" for path in golden.HERE.glob("*/*.json")}
