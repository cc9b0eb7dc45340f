"""What the contracts promise, held against every registered model.  A model needs no line here: registering enrols it.

Every variant: what shapes and counts can say, on the meta device.  One of each system, in its tiny form: everything else.
"""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import segmentarium
from segmentarium.benchmarking.size import parameters_millions
from segmentarium.contracts import KeypointModel, MaskSet, Preprocessing
from segmentarium.contracts import LabelledModel as Model
from segmentarium.export import export_formats
from segmentarium.inference.packing import pack
from segmentarium.layers.resize import resize
from segmentarium.losses import CrossEntropy, LabelCrossEntropy
from segmentarium.meta import on_meta
from segmentarium.registry import create_model, entry, known
from tests.conformance.subjects import (
    CLASSES,
    CLASSIFIERS,
    LABELLED,
    MASKS,
    MODELS,
    SEGMENTERS,
    batch_for,
    build,
    counted,
    enrolled,
    fresh,
    given,
    in_turn,
    inputs,
    least_classes,
    losses_of,
    names_of_classes,
    one_of_each,
    output_shape,
    outputs_of,
    photo,
    relative_error,
    size_for,
    trained_like,
)

ODD = (97, 129)
SMALL = one_of_each(MODELS)
SMALL_SEGMENTERS = one_of_each(SEGMENTERS + MASKS)
ONE_OF_EACH_PAPER = one_of_each(MODELS, lambda found: (found.kind, found.card.paper))  # for what takes long
ONE_OF_EACH_ROOM = one_of_each(MODELS, lambda found: (found.kind, found.family))
STEPS = 60


# every variant, on the meta device ------------------------------------------------------------------------------------


WAYS = [(1, 1), (7, 3), (7, 4)]


@pytest.mark.parametrize(("name", "num_classes", "in_channels"), in_turn(MODELS, WAYS, "in_channels"))
def test_builds_with_any_classes_and_channels(name: str, num_classes: int, in_channels: int) -> None:
    num_classes = max(num_classes, least_classes(name))
    with on_meta():
        model = create_model(name, **counted(name, num_classes), in_channels=in_channels).eval()
        with torch.no_grad():
            output = model(*model.example(2, ODD))
    assert given(output)[0].shape == (2, *output_shape(model, num_classes, ODD))
    assert model.in_channels == in_channels
    assert len(model.preprocessing.mean) == in_channels
    if isinstance(model, KeypointModel):
        assert len(model.joints) == (num_classes if entry(name).takes("num_joints") else 0)
    else:
        assert len(model.classes) == names_of_classes(model, num_classes)
    assert model.kind == entry(name).kind


PUBLISHED = {what: [n for n in MODELS if getattr(entry(n).card, what) is not None] for what in ("parameters", "flops")}


@pytest.mark.parametrize("name", enrolled(PUBLISHED["parameters"], "parameters"))
def test_parameters_as_published(name: str) -> None:
    card, counted = entry(name).card, known()[name]["parameters"]  # which tests/unit/test_docs.py holds true
    if card.parameters_of == "training":
        with on_meta():
            counted = parameters_millions(build(name))
    assert counted == pytest.approx(card.parameters, rel=0.02, abs=0.005)


@pytest.mark.parametrize("name", enrolled(PUBLISHED["flops"], "flops"))
def test_flops_as_published(name: str) -> None:
    card, row = entry(name).card, known()[name]  # which tests/unit/test_docs.py holds true
    assert card.flops_size is not None
    assert row["flops_size"] == list(card.flops_size)
    assert row["flops"] == pytest.approx(card.flops, rel=0.03)


# one of each system -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", enrolled(SMALL, "odd_sizes"))
@torch.inference_mode()
def test_odd_sizes(name: str) -> None:
    model = trained_like(name)
    for size in (ODD, (64, 33)):
        found = given(model(inputs(model, *size)))
        assert found[0].shape == (1, *output_shape(model, CLASSES, size))
        assert all(output.isfinite().all() and output.float().std() > 0 for output in found)
        read = {name for term in model.objective for name in term.of}
        assert outputs_of(model, batch_for(model, *size)).keys() == read >= {supervised(model)}


def supervised(model: Model) -> str:
    """The name of its class scores in training, or of what else it is known by."""
    if model.kind in ("mask", "instances"):
        return {"mask": "class_logits", "instances": "class_logits_0"}[model.kind]
    return "logits" if model.output_names[0] == "scores" else model.output_names[0]


@pytest.mark.parametrize("name", enrolled(SMALL, "gradients"))
def test_every_parameter_gets_a_finite_gradient(name: str) -> None:
    model = trained_like(name).train()
    losses = losses_of(model, batch_for(model, *ODD))
    assert list(losses) == [name for term in model.objective for name in term.names]
    assert all(loss.ndim == 0 and loss.dtype == torch.float32 and loss > 0 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    without = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    infinite = [key for key, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    assert infinite == []
    moving = [bool(p.grad.abs().max() > 0) for p in model.parameters() if p.grad is not None]
    assert sum(moving) > 0.85 * len(moving)  # some stand before layers that begin at 0


@pytest.mark.parametrize("name", enrolled(SMALL_SEGMENTERS, "void"))
def test_ignored_pixels_alone_give_zero(name: str) -> None:
    model = fresh(name)
    batch = batch_for(model, *ODD)
    losses = losses_of(model, batch | {"mask": torch.full_like(batch["mask"], 255)})
    assert all(loss == 0 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None or bool((p.grad == 0).all()) for p in model.parameters())


@pytest.mark.parametrize("name", enrolled(ONE_OF_EACH_PAPER, "learning"))
def test_its_own_objective_teaches_the_classes(name: str) -> None:
    """A few dozen steps on one picture and its mirror image halve the cross entropy of class scores, or the loss of joints,
    points or boxes."""
    model = fresh(name)
    batch = batch_for(model, 128, 128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history: list[float] = []
    for _ in range(STEPS):
        outputs = outputs_of(model, batch)
        terms = model.criterion(outputs, batch)
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        whole = terms.get("points", loss)  # of points alone where descriptors are learnt too
        direct = model.kind in ("keypoints", "instances")
        found = float(whole.detach()) if direct else cross_entropy(model, class_scores(model, outputs), batch)
        history.append(found)
        if max(history[-2:]) <= history[0] / 2:
            return
    pytest.fail(f"the error did not halve: {history[::6]}")


def class_scores(model: Model, outputs: dict[str, Tensor]) -> Tensor:
    """The logits of a training pass; of masks, the logarithm of what is said of each class at each pixel."""
    if model.kind != "mask":
        return outputs["logits"]
    return MaskSet(outputs["class_logits"], outputs["mask_logits"]).semantic().clamp(min=1e-6).log()


@torch.no_grad()
def cross_entropy(model: Model, logits: Tensor, batch: dict[str, Tensor]) -> float:
    """Of every labelled pixel or picture, whatever the objective makes of it."""
    if model.kind == "classifier":
        return float(LabelCrossEntropy()(logits, batch["label"]))
    target = batch["mask"]
    logits = resize(logits[:, : model.num_classes].float(), target.shape[-2:], align_corners=model.align_corners)
    return float(CrossEntropy()(logits, target))


@pytest.mark.parametrize("name", enrolled(SMALL, "deploy"))
@torch.no_grad()
def test_deploy_is_equal_and_smaller(name: str) -> None:
    model = trained_like(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    deployed = model.deploy()
    for size in (ODD, (64, 96)):
        image = inputs(model, *size)
        assert relative_error(deployed(image), model(image)) <= 1e-4
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    left = [key for key, _ in deployed.named_parameters()]
    assert [key for key in left for path in model.training_only if key.startswith(f"{path}.")] == []
    assert deployed.objective == ()
    assert not any(p.requires_grad for p in deployed.parameters())
    assert norms_after_convolutions(deployed, inputs(model, *ODD)) == []
    if pack(deployed):  # last, as it changes it for good
        image = inputs(model, *ODD)
        assert relative_error(deployed(image), model(image)) <= 1e-4


def norms_after_convolutions(model: nn.Module, image: torch.Tensor) -> list[str]:
    outputs: dict[int, tuple[torch.Tensor, int]] = {}
    found: list[str] = []

    def remember(_module: nn.Module, _given: tuple, output: torch.Tensor) -> None:
        outputs[id(output)] = (output, output._version)

    def look(name: str, given: torch.Tensor) -> None:
        _, version = outputs.get(id(given), (given, -1))
        if version == given._version:  # else something was added to it in place
            found.append(name)

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(remember)
        elif isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _m, given, name=name: look(name, given[0]))
    model(image)
    return found


@pytest.mark.parametrize("name", enrolled(ONE_OF_EACH_PAPER, "export"))
def test_exports_with_open_batch_height_and_width(name: str, tmp_path: Path) -> None:
    """To ONNX, which comes from the program that torch.export makes; of one of each room that program is written, too."""
    # the second size goes through as a batch of two
    model, sizes, formats = trained_like(name), (ODD, (64, 160)), ("onnx", "torch")[: 1 + (name in ONE_OF_EACH_ROOM)]
    reports = [*export_formats(model, tmp_path / "model", formats=formats, sizes=sizes, images=[photo(160, 160)[0]])]
    assert [report.format for report in reports] == [*formats]
    for report in reports:
        assert [(row.size, row.batch) for row in report.comparisons] == [
            (size_for(model, *ODD), 1),
            (size_for(model, 64, 160), 2),
        ]
        assert report.relative_error <= 1e-4
    if model.kind != "instances":  # which bring what was pooled from each level back into the order of the boxes
        # what is changed in place behind a slice would be one, and engines take longer for it than for the convolutions before
        graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
        assert "ScatterND" not in {node.op_type for node in graph.node}


@pytest.mark.parametrize("name", enrolled(one_of_each(MASKS), "export"))
def test_masks_and_their_classes_are_exported(name: str, tmp_path: Path) -> None:
    """What segments are made of elsewhere; near ties in the attention are no errors of the engine."""
    settings = {"sizes": (ODD, (64, 160)), "images": [photo(160, 160)[0]], "task": "instance"}
    (report,) = export_formats(trained_like(name), tmp_path / "model", formats=("onnx",), **settings)  # type: ignore[arg-type]
    assert report.relative_error <= 1e-4


@pytest.mark.parametrize("name", enrolled(ONE_OF_EACH_PAPER, "compile"))
@torch.inference_mode()
def test_compiles_as_one_graph(name: str) -> None:
    torch._dynamo.reset()
    model = trained_like(name)
    image = inputs(model, *ODD)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert relative_error(compiled(image), model(image)) <= 1e-5


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
@torch.inference_mode()
def test_inductor_gives_the_same_logits() -> None:
    torch._dynamo.reset()
    model = trained_like("pphumanseg").deploy()
    image = inputs(model, 64, 96)
    compiled = torch.compile(model, fullgraph=True)
    assert relative_error(compiled(image), model(image)) <= 1e-4


@pytest.mark.parametrize("name", enrolled(SMALL, "autocast"))
def test_half_precision_is_finite(name: str) -> None:
    model = trained_like(name).train()
    batch = batch_for(model, 64, 96)
    image = batch["image"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(model, batch)
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    model.eval()
    with torch.inference_mode():
        exact = model(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(image)
    assert all(output.isfinite().all() for output in given(half))
    if model.kind != "instances":  # whose answer hangs on thresholds
        assert relative_error(tuple(output.float() for output in given(half)), given(exact)) < 0.1


@pytest.mark.parametrize("name", enrolled(SMALL, "channels_last"))
@torch.inference_mode()
def test_memory_format_changes_nothing(name: str) -> None:
    model = trained_like(name)
    image = inputs(model, *ODD, 2)
    expected = model(image)
    model.to(memory_format=torch.channels_last)
    assert relative_error(model(image.contiguous(memory_format=torch.channels_last)), expected) <= 1e-4


@pytest.mark.parametrize("name", enrolled(SMALL, "round_trip"))
@torch.inference_mode()
def test_a_file_rebuilds_its_model(name: str, tmp_path: Path) -> None:
    model = trained_like(name)
    names = "joints" if model.kind == "keypoints" else "classes"
    setattr(model, names, ("road", "Gehweg", "人", "void"))
    facts = [names, "preprocessing", "registered_name", "given_arguments"]
    if model.kind in ("mask", "instances"):
        model.things = (1, 3)
        facts.append("things")
    if model.kind in ("segmenter", "mask", "instances"):
        model.palette = ((1, 2, 3), (4, 5, 6), (7, 8, 9), (255, 255, 255))
        facts.append("palette")
    model.preprocessing = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 480).for_channels(model.in_channels)
    path = segmentarium.save(model, tmp_path / "model.safetensors", dataset="photo", metrics={"score": 0.5})
    again = segmentarium.load(path)
    assert type(again) is type(model)
    assert not again.training
    image = inputs(model, *ODD)
    assert all(torch.equal(one, other) for one, other in zip(given(again(image)), given(model(image)), strict=True))
    assert [getattr(again, fact) for fact in facts] == [getattr(model, fact) for fact in facts]
    assert again.weights_header["metrics"] == {"score": 0.5}


@pytest.mark.parametrize("name", enrolled(one_of_each(LABELLED), "one_class"))
def test_one_class_is_a_sigmoid(name: str) -> None:
    model = fresh(name, num_classes=1)
    batch = batch_for(model, 64, 96)
    losses = losses_of(model, batch)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total > 0
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    # the foreground's logit is asked to rise where the label is 1 and to fall where it is 0
    outputs = {
        key: value.detach().requires_grad_(value.is_floating_point()) for key, value in outputs_of(model, batch).items()
    }
    torch.stack(list(model.criterion(outputs, batch).values())).sum().backward()
    main = outputs["mask_logits" if model.kind == "mask" else supervised(model)]
    assert main.grad is not None
    if main.shape[1] == 1 or model.kind in ("mask", "instances"):
        assert main.grad.min() < 0 < main.grad.max()


@pytest.mark.parametrize("name", enrolled(SMALL, "batch_of_one"))
def test_a_batch_of_one_trains(name: str) -> None:
    model = fresh(name)
    losses = losses_of(model, batch_for(model, 64, 96, 1))
    assert all(loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_models_take_the_common_arguments() -> None:
    for name in MODELS:
        parameters = inspect.signature(entry(name).build).parameters
        assert {*counted(name, 1), "in_channels"} <= parameters.keys(), name
        assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters.values()), name


def test_every_classifier_is_a_backbone_with_the_same_weights() -> None:
    for name in one_of_each(CLASSIFIERS):
        model = create_model(name, **entry(name).tiny)
        backbone = segmentarium.create_backbone(name, **entry(name).tiny)
        # the norms of features for dense use come anew
        shared = {key: value for key, value in backbone.state_dict().items() if key not in backbone.not_pretrained()}
        ours = {key.removeprefix("backbone."): value.shape for key, value in model.state_dict().items()}
        assert {key: value.shape for key, value in shared.items()}.items() <= ours.items(), name
