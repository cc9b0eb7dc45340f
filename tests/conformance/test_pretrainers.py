"""What the contracts promise of models that learn without labels, held against every registered one: those without classes."""

from __future__ import annotations

import copy
import inspect
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import segmentarium
from segmentarium.contracts import Preprocessing, Pretrainer
from segmentarium.export import export_formats
from segmentarium.meta import on_meta
from segmentarium.registry import create_model, entry
from tests.conformance.subjects import PRETRAINERS, enrolled, one_of_each, photo, relative_error

ODD = (97, 129)
EACH = one_of_each(PRETRAINERS, lambda found: (found.build, found.arguments.get("parts")))
SMALL = [
    name for name in EACH if "parts" not in entry(name).arguments
]  # the others are parts of one, and do not learn alone


@cache
def _made(name: str) -> Pretrainer:
    torch.manual_seed(0)
    model = create_model(name, **entry(name).tiny_arguments())
    assert isinstance(model, Pretrainer)
    return model


def made(name: str) -> Pretrainer:
    return copy.deepcopy(_made(name))


def inputs(model: Pretrainer, size: tuple[int, int], batch: int = 2) -> tuple[Tensor, ...]:
    """The photograph and its mirror image, with what is drawn beside it."""
    first, *more = model.example(batch, size)
    if model.inputs[0] != "image":
        return (first, *more)
    image = model.preprocessing.normalise(photo(*size))
    return (torch.cat([image, image.flip(-1)])[:batch], *more)


def batch_for(model: Pretrainer, size: tuple[int, int], batch: int = 2) -> dict[str, Tensor]:
    """What `inputs` has by name, and words for those that foresee words."""
    given = dict(zip(model.inputs, inputs(model, size, batch), strict=True))
    if "masked" in given:
        given["tokens"] = torch.arange(given["masked"].numel()).reshape(given["masked"].shape) % 5
    return given


def losses_of(model: Pretrainer, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return model.criterion(model.forward_train(*(batch[name] for name in model.inputs)), batch)


@pytest.mark.parametrize("in_channels", [1, 3, 4])
@pytest.mark.parametrize("name", PRETRAINERS)
def test_builds_with_any_channels(name: str, in_channels: int) -> None:
    with on_meta(), torch.no_grad():
        model = create_model(name, in_channels=in_channels).eval()
        output = model(*model.example(2, ODD))
    assert len(output) == 2
    assert len(model.preprocessing.mean) == model.in_channels == in_channels
    assert model.kind == entry(name).kind == "pretrainer"
    assert all(
        p.kind is inspect.Parameter.KEYWORD_ONLY for p in inspect.signature(entry(name).build).parameters.values()
    )


@pytest.mark.parametrize("name", SMALL)
def test_what_is_random_is_drawn_of_one_picture(name: str) -> None:
    model = made(name)
    one, same, other = (model.draw(np.random.default_rng(seed), ODD) for seed in (3, 3, 4))
    assert list(one) == list(model.inputs[1:])
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert all(not torch.equal(one[key], other[key]) for key in one)
    first, again = model.example(2, ODD), model.example(2, ODD)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("name", enrolled(SMALL, "gradients"))
def test_every_parameter_learns_and_scores_are_finite(name: str) -> None:
    model = made(name).train()
    model.at_step(50, 100)
    batch = batch_for(model, ODD)
    outputs = model.forward_train(*(batch[key] for key in model.inputs))
    assert outputs.keys() == {key for term in model.objective for key in term.of}
    losses = model.criterion(outputs, batch)
    assert list(losses) == [key for term in model.objective for key in term.names]
    assert all(loss.ndim == 0 and loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    learning = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert [key for key, p in learning.items() if p.grad is None or not p.grad.isfinite().all()] == []
    assert sum(bool(p.grad.abs().max() > 0) for p in learning.values() if p.grad is not None) > 0.9 * len(learning)
    scores = model.scores(outputs, batch)
    assert model.best_score in scores
    assert all(np.isfinite(score) for score in scores.values())
    assert any(key.startswith("trivial") for key in scores)


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_sums_over_batches_are_those_of_all(name: str) -> None:
    model = made(name).eval()
    both = batch_for(model, ODD)

    def sums(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return model.tally(model.forward_train(*(batch[key] for key in model.inputs)), batch)

    apart = [sums({key: value[i : i + 1] for key, value in both.items()}) for i in range(2)]
    added = {key: apart[0][key] + apart[1][key] for key in apart[0]}
    assert model.summary(added) == pytest.approx(model.summary(sums(both)), rel=1e-4)


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_pictures_to_look_at_have_the_picture_s_size(name: str) -> None:
    model = made(name).eval()
    batch = batch_for(model, ODD)
    pictures = model.reconstruct(model.forward_train(*(batch[key] for key in model.inputs)), batch)
    assert {"input", "predicted"} <= pictures.keys() <= {"input", "masked", "predicted"}
    for picture in pictures.values():
        assert picture.shape == (2, 3, *ODD)
        assert picture.min() >= 0
        assert picture.max() <= 1
    assert torch.allclose(pictures["input"][:1], photo(*ODD), atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_its_own_objective_is_learned(name: str) -> None:
    """A few dozen steps on two pictures halve the distance to the loss of the trivial predictor, or better it."""
    model = made(name).train()
    batch = batch_for(model, (96, 96))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    history = []
    for step in range(60):
        model.at_step(step, 60)
        loss = torch.stack(list(losses_of(model, batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0] - 0.2 * abs(history[0]), history[::10]


@pytest.mark.parametrize("name", enrolled(EACH, "deploy"))
@torch.no_grad()
def test_deploy_is_equal_and_keeps_nothing_of_training(name: str) -> None:
    model = made(name).eval()
    deployed = model.deploy()
    for size in (ODD, (64, 96)):
        given = inputs(model, size)
        assert relative_error(deployed(*given), model(*given)) <= 1e-4
    assert deployed.objective == ()
    assert not any(p.requires_grad for p in deployed.parameters())
    assert not any(key.startswith("losses") for key, _ in deployed.named_modules() if key != "losses")


@pytest.mark.parametrize("name", enrolled(SMALL, "export"))
def test_exports_with_open_batch_height_and_width(name: str, tmp_path: Path) -> None:
    model = made(name).eval()
    # the second size goes through as a batch of two
    (report,) = export_formats(model, tmp_path / "model", sizes=(ODD, (64, 160)), images=[photo(160, 160)[0]])
    assert [(row.size, row.batch) for row in report.comparisons] == [(ODD, 1), ((64, 160), 2)]
    assert report.relative_error <= 1e-4


@pytest.mark.parametrize("name", enrolled(SMALL, "compile"))
@torch.inference_mode()
def test_compiles_as_one_graph(name: str) -> None:
    torch._dynamo.reset()
    model = made(name).eval()
    given = inputs(model, ODD)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert relative_error(compiled(*given), model(*given)) <= 1e-5


@pytest.mark.parametrize("name", enrolled(SMALL, "autocast"))
def test_half_precision_is_finite(name: str) -> None:
    model = made(name).train()
    model.at_step(50, 100)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(model, batch_for(model, (64, 96)))
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("name", enrolled(EACH, "round_trip"))
@torch.inference_mode()
def test_a_file_rebuilds_its_model(name: str, tmp_path: Path) -> None:
    model = made(name).eval()
    model.preprocessing = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 480)
    again = segmentarium.load(segmentarium.save(model, tmp_path / "model.safetensors", metrics={"score": 0.5}))
    assert type(again) is type(model)
    given = inputs(model, ODD)
    assert torch.equal(again(*given), model(*given))
    facts = ("preprocessing", "registered_name", "given_arguments")
    assert [getattr(again, fact) for fact in facts] == [getattr(model, fact) for fact in facts]
    assert again.weights_header["metrics"] == {"score": 0.5}
