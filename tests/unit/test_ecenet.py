"""ECENet: masks are scores, embeddings are read off them; diversity falls when channels part; what is left at inference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segmentarium import create_model
from segmentarium.losses import Diversity
from segmentarium.losses.diversity import most_seen
from segmentarium.meta import on_meta
from segmentarium.semantic import ecenet
from segmentarium.semantic.ecenet import ClassExtraction, ECEDecoder, SemanticAttention
from tests.parity.comparison import exercised

SIZES = {"channels": (8, 16, 24), "strides": (4, 8, 16)}
FEATURES = [
    torch.linspace(-5, 5, 2 * c * 256 // s**2).view(2, c, 16 // s, 16 // s).sin() for c, s in ((8, 1), (16, 2), (24, 4))
]
LABELS = torch.zeros(2, 6, 6, dtype=torch.long)


def decoder(num_classes: int = 5, **told: Any) -> Any:
    return exercised(ECEDecoder(**SIZES, num_classes=num_classes, width=8, **told))


# diversity --------------------------------------------------------------------------------------------------------------


def looking(places: list[int], sharpness: float = 50.0) -> Tensor:
    """A channel for each place of a 3×4 map that it looks at."""
    x = torch.zeros(1, len(places), 12)
    x[0, range(len(places)), places] = sharpness
    return x.unflatten(2, (3, 4))


def test_diversity_falls_from_one_place_to_places_of_their_own() -> None:
    loss, labels = Diversity([4]), LABELS[:1]
    values = [
        float(loss(most_seen(looking(places)), labels))
        for places in ([5] * 4, [5, 5, 5, 0], [5, 5, 1, 0], [8, 5, 1, 0])
    ]
    assert values == pytest.approx([3 / 4, 2 / 4, 1 / 4, 0], abs=1e-6)


def test_following_its_slope_parts_the_channels() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 4, 5, requires_grad=True)
    loss = Diversity([6])
    values = []
    for _ in range(30):
        value = loss(most_seen(x), LABELS)
        values.append(float(value.detach()))
        with torch.no_grad():
            x -= 100 * torch.autograd.grad(value, x)[0]
    assert values[-1] < values[0] / 2


def test_levels_count_alike_and_pictures_without_labels_do_not() -> None:
    levels = [most_seen(torch.randn(2, c, 3, 4)) for c in (4, 6)]
    labels = LABELS.clone()
    labels[1] = 255
    expected = sum(1 - x[0].sum() / c for x, c in zip(levels, (4, 6), strict=True)) / 2
    torch.testing.assert_close(Diversity([4, 6])(*levels, labels), expected)
    assert Diversity([4, 6])(*levels, torch.full_like(labels, 255)) == 0
    with pytest.raises(ValueError, match="1 levels are given, and channels of 2"):
        Diversity([4, 6])(levels[0], labels)


# masks and embeddings ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_masks_are_the_mean_scores_and_pixels_ask_those_unlike_themselves() -> None:
    block = exercised(SemanticAttention(8, 2, query_act=False))
    low, classes = FEATURES[0][:, :8], torch.randn(2, 5, 8)
    out, masks = block(low, classes)
    x = low.permute(0, 2, 3, 1)
    query = block.query(block.norm_low(x).permute(0, 3, 1, 2)).flatten(2).unflatten(1, (2, 4)).transpose(2, 3)
    key, value = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in block.kv(block.norm_high(classes)).chunk(2, -1))
    scores = query @ key.transpose(2, 3) / 2  # (B, heads, HW, K)
    torch.testing.assert_close(masks, scores.mean(1).transpose(1, 2).unflatten(2, low.shape[2:]), rtol=1e-4, atol=1e-5)
    weights = (scores.amax(3, keepdim=True) - scores).softmax(3)
    answer = block.proj((weights @ value).transpose(1, 2).flatten(2)).unflatten(1, low.shape[2:])
    x = x + answer
    expected = x + block.ffn(block.norm_ffn(x))
    torch.testing.assert_close(out, expected.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_class_is_read_off_its_own_mask() -> None:
    extract = exercised(ClassExtraction(8, 3))
    masks = FEATURES[0][:, :5]
    found = extract(masks)
    assert found.shape == (2, 5, 8)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(extract(masks[:, order]), found[:, order])
    other = masks.clone()
    other[:, 2] += 1
    assert ((extract(other) - found).abs().amax((0, 2)) > 1e-3).tolist() == [False, False, True, False, False]


@torch.no_grad()
def test_the_answer_adds_what_each_class_says_of_itself() -> None:
    made = decoder()
    full = made(FEATURES)
    made.classifier.weight.zero_()
    made.classifier.bias.zero_()
    own = made(FEATURES)
    assert (own > 0).all()
    assert (own < 1).all()
    made.answer.weight.zero_()
    made.answer.bias.copy_(torch.tensor([0.0, 0, 0, 0, 50]))  # all classes say they were the last one
    assert made(FEATURES)[:, :4].abs().max() < 1e-6
    assert not torch.allclose(full, own)


def test_sides_of_the_finest_grid_are_odd() -> None:
    cells = [decoder(k, ratio=r).extract[0].embed.in_features - 50 for k, r in ((5, 1.0), (9, 1.0), (5, 2.0))]
    assert cells == [9, 9, 25]


# training and inference -------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_nothing_that_only_training_needs_is_computed_at_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("ecenet_swin_base", backbone="resnet18", num_classes=4, width=16).eval()
    image = torch.linspace(-9, 9, 3 * 64 * 96).view(1, 3, 64, 96).sin()
    outputs = model.forward_train(image)
    assert outputs.keys() == {"logits", "masks", *(f"seen_{i}" for i in range(4))}

    def refuse(x: Tensor) -> Tensor:
        raise AssertionError("computed at inference")

    monkeypatch.setattr(ecenet, "most_seen", refuse)
    deployed = model.deploy()
    torch.testing.assert_close(deployed(image), model(image), rtol=1e-3, atol=1e-4)
    assert deployed.objective == ()
    assert len(deployed.losses) == 0


def test_ignored_pixels_count_nowhere() -> None:
    made = decoder()
    outputs = {name: x.detach().requires_grad_() for name, x in made.forward_train(FEATURES).items()}
    target = (torch.arange(2 * 256) % 23 // 5).view(2, 16, 16)
    target[0, :, :9] = 255
    terms = {term.name: term for term in made.objective()}
    for name, output in (("logits", "logits"), ("mask", "masks"), ("dice", "masks")):
        (slope,) = torch.autograd.grad(terms[name].loss(outputs[output], target), outputs[output])
        assert (slope[0, :, :, :9] == 0).all(), name
        assert slope[0, :, :, 9:].abs().max() > 0, name


def test_refusals() -> None:
    with on_meta():
        with pytest.raises(ValueError, match="num_classes is 1"):
            create_model("ecenet_swin_base", num_classes=1)
        with pytest.raises(ValueError, match="there is one feature"):
            ECEDecoder(channels=(8,), strides=(16,), num_classes=3)
        with pytest.raises(ValueError, match="cannot be shared by 3 heads"):
            SemanticAttention(8, 3, query_act=True)
