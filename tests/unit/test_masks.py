"""Mask classification: where queries look, what they answer, one class, things, learning, and what is left after deploy()."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segmentarium import create_model
from segmentarium.contracts import MaskModel
from segmentarium.layers.attention import MultiHeadAttention
from segmentarium.layers.deformable_attention import (
    DeformableAttention,
    at_levels,
    cell_places,
    read_bags,
    read_grids,
)
from segmentarium.layers.post_norm import AttentionHalf
from segmentarium.layers.sine_positions import sine_positions
from segmentarium.losses import Segments
from segmentarium.masks.mask2former import inside
from segmentarium.registry import entry
from segmentarium.training.optimizer import parameter_groups
from segmentarium.training.options import TrainingOptions
from tests.conformance.subjects import photo

NAMES = ("maskformer_resnet50", "maskformer_resnet50_enc6", "mask2former_resnet50")


def tiny(name: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return create_model(name, **{**entry(name).tiny_arguments(), "num_classes": 3, **arguments}).eval()


# deformable attention ---------------------------------------------------------------------------------------------------

SIZES = [(3, 4), (5, 8)]


def sampled() -> tuple[Tensor, Tensor, Tensor]:
    """Values, places in and outside the maps, weights: two pictures, three heads, three points."""
    cells = sum(height * width for height, width in SIZES)
    value = torch.randn(2, cells, 3, 4, requires_grad=True)
    places = (9 * torch.rand(2, 6, 3, 2, 3, 2) - 2).requires_grad_()
    weight = torch.randn(2, 6, 3, 2, 3, requires_grad=True)
    return value, places, weight


def test_both_forms_of_reading_are_one() -> None:
    given = sampled()
    with torch.no_grad():
        given[1][0, 0, 0, 0, 0] = torch.tensor((1.0, 2.0))  # on a pixel's very centre
        given[1][0, 0, 0, 1, 0] = torch.tensor((-0.25, 4.5))  # between the border and what is outside
    found = []
    for form in (read_bags, read_grids):
        read = form(given[0], SIZES, given[1].unbind(-1), given[2])
        weights = torch.linspace(-1, 1, read.numel()).view(read.shape)
        found.append((read.detach(), *torch.autograd.grad((read * weights).sum(), given)))
    for bags, grids in zip(*found, strict=True):
        torch.testing.assert_close(bags, grids, rtol=1e-4, atol=1e-5)


def test_a_head_reads_the_pixel_that_it_points_at() -> None:
    value = torch.arange(52.0).view(1, 52, 1, 1)  # the level of 3×4 cells, then that of 5×8
    places = torch.tensor([[[[[[2.0, 1.0]], [[7.0, 4.0]]]]]])  # of each level: column and row
    weight = torch.tensor([[[[[1.0], [0.0]]]]])
    assert read_bags(value, SIZES, places.unbind(-1), weight).item() == 1 * 4 + 2
    assert read_bags(value, SIZES, places.unbind(-1), 1 - weight).item() == 12 + 4 * 8 + 7


def test_at_first_heads_look_along_rays_and_points_count_alike() -> None:
    layer = DeformableAttention(16, 4, levels=2, points=3)
    offsets = layer.offsets(torch.randn(1, 1, 16)).view(4, 2, 3, 2)
    torch.testing.assert_close(offsets[:, 0, 0], torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(offsets[:, :, 2], 3 * offsets[:, :, 0])
    places = at_levels(cell_places(SIZES, offsets), SIZES)
    assert places.shape == (1, 52, 2, 2)
    torch.testing.assert_close(places[0, 0, 0], torch.zeros(2))  # a cell is at its own place on its own level
    torch.testing.assert_close(places[0, 12 + 8 * 4 + 7, 1], torch.tensor((7.0, 4.0)))
    constant = layer(torch.randn(1, 52, 16), places, torch.ones(1, 52, 16), SIZES)
    middle = 12 + 8 * 2 + 3  # where some points lie inside every map
    assert constant[0, middle].isfinite().all()


@pytest.mark.parametrize("graph", [False, True])
def test_offsets_in_another_order_lead_to_the_same_places(graph: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: graph)
    torch.manual_seed(0)
    layer = DeformableAttention(16, 4, levels=2, points=3)
    nn.init.normal_(layer.offsets.weight, std=0.2)
    nn.init.normal_(layer.weights.weight)
    tokens = torch.randn(2, 52, 16)
    places = at_levels(cell_places(SIZES, tokens), SIZES)
    with torch.no_grad():
        expected = layer(tokens, places, tokens, SIZES)
        for _ in range(2):  # the second does nothing
            layer.reparameterize()
            torch.testing.assert_close(layer(tokens, places, tokens, SIZES), expected)


def test_positions_are_unlike_and_the_same_at_every_size() -> None:
    small, large = sine_positions((4, 6), 32, torch.zeros(1)), sine_positions((8, 12), 32, torch.zeros(1))
    assert small.shape == (1, 24, 32)
    assert torch.cdist(small[0], small[0]).fill_diagonal_(1).min() > 0.1
    torch.testing.assert_close(small[0, -1], large[0, -1], atol=1e-4, rtol=0)  # the last corner
    with pytest.raises(ValueError, match="give a multiple of 4"):
        sine_positions((2, 2), 6, torch.zeros(1))


# masked attention -------------------------------------------------------------------------------------------------------


def test_a_query_sees_its_mask_alone_and_everything_where_that_is_empty() -> None:
    pixels = torch.zeros(1, 2, 2, 3)
    pixels[0, 0] = torch.tensor([[1.0, -1, -1], [2.0, -3, 0.5]])
    pixels[0, 1] = -1.0
    seen = inside(torch.eye(2)[None], pixels)
    assert seen.tolist() == [[[[True, False, False, True, False, True], [True] * 6]]]


def test_what_a_query_may_not_see_changes_nothing() -> None:
    half = AttentionHalf(8, 2).eval()
    x, positions, keys, values = torch.randn(1, 3, 8), torch.randn(1, 3, 8), torch.randn(1, 5, 8), torch.randn(1, 5, 8)
    seen = torch.tensor([[True, False, True, False, True], [False, True, True, True, True], [True] * 5])[None, None]
    other_keys, other_values = keys.clone(), values.clone()
    other_keys[:, 1], other_values[:, 1] = 9.0, -9.0  # the second, which the first query may not see
    before, after = half(x, positions, keys, values, seen), half(x, positions, other_keys, other_values, seen)
    torch.testing.assert_close(before[:, 0], after[:, 0])
    assert (before[:, 1:] - after[:, 1:]).abs().amax(2).min() > 1e-3


def test_the_network_attends_inside_the_masks_of_the_layer_before() -> None:
    """Seen at the attention: what a query is allowed is where its mask of the layer before is likely, brought to the level's
    size; the levels come in turn, coarsest first."""
    model = tiny("mask2former_resnet50", layers=4)
    allowed: list[Tensor] = []
    for layer in model.decoder.layers:
        layer.cross_attention.attention.register_forward_pre_hook(lambda _m, given: allowed.append(given[3]))
    outputs = model.forward_train(model.preprocessing.normalise(photo(128, 96)))
    assert [seen.shape[-1] for seen in allowed] == [4 * 3, 8 * 6, 16 * 12, 4 * 3]
    for i, size in enumerate([(4, 3), (8, 6), (16, 12), (4, 3)]):
        masks = nn.functional.interpolate(outputs[f"mask_logits_{i}"], size, mode="bilinear").flatten(2)
        sure = masks.abs() > 1e-4 * masks.abs().max()
        likely = masks > 0
        expected = likely | ~likely.any(-1, keepdim=True)
        assert torch.equal(allowed[i][:, 0][sure], expected[sure])


# queries ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_queries_in_another_order_answer_in_that_order(name: str) -> None:
    model = tiny(name)
    image = model.preprocessing.normalise(photo(96, 64))
    before = model.forward_masks(image)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for learned in ("queries", "features"):
        if isinstance(getattr(model.decoder, learned, None), nn.Parameter):
            getattr(model.decoder, learned).data = getattr(model.decoder, learned).data[order]
    after = model.forward_masks(image)
    torch.testing.assert_close(after.class_logits, before.class_logits[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.mask_logits, before.mask_logits[:, order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.semantic(), before.semantic(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_inference_gives_the_last_layer(name: str) -> None:
    model = tiny(name)
    image = model.preprocessing.normalise(photo(96, 64))
    masks, outputs = model.forward_masks(image), model.forward_train(image)
    assert torch.equal(masks.class_logits, outputs["class_logits"])
    assert torch.equal(masks.mask_logits, outputs["mask_logits"])
    assert masks.mask_logits.shape == (1, 6, 24, 16)
    supervised = len(model.decoder.layers) + (name.startswith("mask2former"))
    assert len(outputs) == 2 * supervised
    assert [term.name for term in model.objective] == ["last", *(f"aux_{i}" for i in range(supervised - 1))]
    assert model.objective[0].names == ("last class", "last mask", "last dice")
    assert model.deploy().objective == ()


# one class, things ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_one_class_is_a_kind_of_thing(name: str) -> None:
    model = tiny(name, num_classes=1)
    image = model.preprocessing.normalise(photo(96, 64))
    assert (model.classes, len(model.palette), model.things) == (("class 0",), 1, (0,))
    with torch.inference_mode():
        masks = model.forward_masks(image)
        assert masks.class_logits.shape == (1, 6, 2)
        score = masks.resized((96, 64)).semantic()
        logit = model(image)
    assert logit.shape == (1, 1, 96, 64)
    assert torch.equal(logit > 0, score > 0.5)
    target = [Segments(torch.tensor([0]), torch.rand(1, 96, 64) > 0.5)]
    losses = model.criterion(model.forward_train(image), {"segments": target})
    assert all(loss.isfinite() for loss in losses.values())


def test_things_are_told_by_number_or_by_index() -> None:
    assert tiny("mask2former_resnet50").things == (0, 1, 2)
    assert tiny("mask2former_resnet50", things=2).things == (0, 1)
    model: MaskModel = tiny("mask2former_resnet50", things=[2, 0])
    assert model.things == (0, 2)
    assert model.labels()["things"] == [0, 2]
    for wrong in (4, [3], [-1]):
        with pytest.raises(ValueError, match="give indices of the 3 classes, or how many of the first"):
            tiny("mask2former_resnet50", things=wrong)


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(ValueError, match="width is 40, queries 6, layers 2; give a multiple of 32"):
        tiny("maskformer_resnet50", width=40)
    with pytest.raises(ValueError, match="levels is 3; this backbone has 2 features no finer than 1/4"):
        tiny("mask2former_resnet50", backbone_arguments={"width": 16, "out_indices": [3, 4]})
    with pytest.raises(ValueError, match="cannot be shared by 3 heads"):
        MultiHeadAttention(32, 3)


# training ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["maskformer_resnet50", "mask2former_resnet50"])
def test_it_learns_two_things_of_one_class_apart(name: str) -> None:
    """Two bright squares on noise, one class: after some steps two queries answer, each with the mask of one."""
    model = tiny(name, num_classes=1, dropout=0.0) if name.startswith("maskformer") else tiny(name, num_classes=1)
    generator = torch.Generator().manual_seed(0)
    image = 0.3 * torch.randn(1, 3, 64, 96, generator=generator)
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    masks[0, 8:32, 8:40] = masks[1, 32:56, 56:88] = True
    image[0, :, masks.any(0)] += 2.0
    target = {"segments": [Segments(torch.tensor([0, 0]), masks)]}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(60):
        loss = torch.stack(list(model.criterion(model.forward_train(image), target).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.inference_mode():
        found = model.forward_masks(image).resized((64, 96))
    sure = found.class_logits[0].softmax(-1)[:, 0] > 0.5
    assert int(sure.sum()) == 2
    answers = found.mask_logits[0, sure] > 0
    overlap = torch.stack([(answers & mask).sum((1, 2)) / (answers | mask).sum((1, 2)) for mask in masks])
    assert sorted(overlap.argmax(1).tolist()) == [0, 1]
    assert overlap.amax(1).min() > 0.7


def test_queries_are_spared_by_weight_decay() -> None:
    model = tiny("mask2former_resnet50")
    options = TrainingOptions(data="folder", root=".", model="mask2former_resnet50")
    decayed = {id(p) for group in parameter_groups(model, options) if group["weight_decay"] for p in group["params"]}
    spared = {name for name, p in model.named_parameters() if p.ndim > 1 and id(p) not in decayed}
    assert spared == {"decoder.features", "decoder.queries", "decoder.level", "decoder.pixels.level"}
