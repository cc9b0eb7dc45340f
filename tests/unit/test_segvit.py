"""SegViT: the attention is the mask, and shrinking keeps the weights and gives the whole grid back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segmentarium.backbones.vit import VisionTransformer, every_second
from segmentarium.layers.query_decoder import CrossAttention
from segmentarium.losses import ClassMaskDice, ClassMaskFocal, ClassOrNone
from segmentarium.losses.class_masks import ClassMaskLoss
from segmentarium.registry import create_model, entry
from segmentarium.semantic.segvit import GridQueries, SegViTDecoder, ShrunkSegViTDecoder, semantic_logits

SMALL = {"embed_dim": 16, "depth": 4, "heads": 2, "image_size": 64, "class_token": False, "pool": "mean"}


def decoder(**arguments: object) -> SegViTDecoder:
    given = {"channels": (8, 8, 8), "strides": (16, 16, 16), "num_classes": 3, "width": 16, "heads": 2, "layers": 2}
    return SegViTDecoder(**{**given, **arguments}).eval()


def test_scores_are_the_mean_over_the_heads_of_what_the_softmax_takes() -> None:
    attention, queries, memory = CrossAttention(12, 3), torch.randn(2, 4, 12), torch.randn(2, 7, 12)
    out, scores = attention.with_scores(queries, memory)
    key, value = attention.kv(memory).chunk(2, -1)
    per_head = [
        (q @ k.mT / 2, v)  # √(12 / 3)
        for q, k, v in zip(*(x.split(4, -1) for x in (attention.q(queries), key, value)), strict=True)
    ]
    assert torch.allclose(scores, torch.stack([score for score, _ in per_head]).mean(0), atol=1e-5)
    expected = attention.proj(torch.cat([score.softmax(-1) @ v for score, v in per_head], -1))
    assert torch.allclose(out, expected, atol=1e-5)
    assert torch.allclose(attention(queries, memory), out, atol=1e-6)


def test_masks_of_the_stages_are_summed_deepest_first() -> None:
    model, features = decoder(), [torch.randn(1, 8, 3, 5) for _ in range(3)]
    masks = [masks for _, masks in model.every_stage(features)]
    tokens, first = model.stages[0].with_scores(model.class_tokens[None], features[2])
    _, second = model.stages[1].with_scores(tokens, features[1])
    assert torch.equal(masks[0], first.unflatten(2, (3, 5)))
    assert torch.allclose(masks[1] - masks[0], second.unflatten(2, (3, 5)), atol=1e-5)


def test_features_of_several_strides_meet_at_the_finest() -> None:
    model = decoder(channels=(4, 6, 8), strides=(8, 16, 32))
    features = [torch.randn(1, c, s, 2 * s) for c, s in ((4, 8), (6, 4), (8, 2))]
    assert model.forward_train(features)["logits"].shape == (1, 3, 8, 16)
    assert model(features).shape == (1, 3, 64, 128)


def test_the_answer_is_the_logarithm_of_the_published_score() -> None:
    answers, masks = torch.randn(2, 4, 5), torch.randn(2, 4, 3, 6)
    published = torch.einsum("bqc,bqhw->bchw", answers.softmax(-1)[..., :-1], masks.sigmoid())
    assert torch.allclose(semantic_logits(answers, masks, binary=False).exp(), published, atol=1e-6)
    answers, masks = torch.randn(2, 1, 2), torch.randn(2, 1, 3, 6)
    published = answers.softmax(-1)[..., :1, None] * masks.sigmoid()
    assert torch.allclose(semantic_logits(answers, masks, binary=True).sigmoid(), published, atol=1e-5)


def test_a_block_that_shrinks_gives_what_it_gave_for_the_tokens_that_stay() -> None:
    torch.manual_seed(0)
    plain = VisionTransformer(**SMALL, out_indices=(1, 2)).eval()
    shrunk = VisionTransformer(**SMALL, shrink=2, out_indices=(1, 2, 3)).eval()
    shrunk.load_state_dict(plain.state_dict())
    assert shrunk.strides == (16, 32, 32)
    image = torch.randn(2, 3, 80, 112)  # 5 × 7 patches
    before, behind, deepest = shrunk(image)
    assert (before.shape[2:], behind.shape[2:], deepest.shape[2:]) == ((5, 7), (3, 4), (3, 4))
    whole = plain(image)
    assert torch.equal(before, whole[0])
    assert torch.allclose(behind, whole[1][..., ::2, ::2], atol=1e-5)


def test_prefix_tokens_stay() -> None:
    tokens = torch.arange(1 + 3 * 5).float().reshape(1, -1, 1)
    assert every_second(tokens, (3, 5), 1).flatten().tolist() == [0, 1, 3, 5, 11, 13, 15]
    model = VisionTransformer(**{**SMALL, "class_token": True, "pool": "token"}, shrink=1, num_classes=3).eval()
    assert model.classify(torch.randn(1, 3, 64, 48)).shape == (1, 3)


def test_a_class_token_that_no_block_sees_is_kept_and_changes_nothing() -> None:
    model = VisionTransformer(**{**SMALL, "class_token": "unseen"}).eval()
    image = torch.randn(1, 3, 64, 64)
    before = model(image)[-1]
    assert model.positions.shape[1] == 17
    model.class_token.fill_(7.0)
    with torch.no_grad():
        model.positions[:, 0] = 7.0
    assert torch.equal(model(image)[-1], before)
    assert "class_token" in model.state_dict()
    assert "class_token" not in dict(model.named_parameters())


def test_the_shrunk_form_gives_the_whole_grid_back() -> None:
    model = create_model("segvit_shrunk_vit_large", num_classes=3, **entry("segvit_shrunk_vit_large").tiny_arguments())
    image = torch.randn(1, 3, 40, 56)
    shallow, deep = model.features(image)
    assert deep.shape[2] * deep.shape[3] * 2 < shallow.shape[2] * shallow.shape[3]
    queries, size = model.decoder.upsampled([shallow, deep])
    assert (size, queries.shape[1]) == ((5, 7), 35)
    assert model.forward_train(image)["logits"].shape == (1, 3, 5, 7)
    assert model(image).shape == (1, 3, 40, 56)


def test_queries_of_another_grid_are_interpolated_and_carried() -> None:
    queries = GridQueries((4, 4), 6)
    assert torch.equal(queries((4, 4), 2)[1], queries.table)
    assert queries((3, 7), 1).shape == (1, 21, 6)
    assert GridQueries((2, 3), 6).carry("table", queries.table).shape == (6, 6)


# losses ---------------------------------------------------------------------------------------------------------------


def masks_and_target() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    target = torch.randint(0, 2, (2, 8, 8))
    target[:, :2] = 255
    return torch.randn(2, 3, 8, 8), target


@pytest.mark.parametrize("loss", [ClassMaskFocal, ClassMaskDice])
def test_ignored_pixels_count_nowhere_or_are_outside(loss: type[ClassMaskLoss]) -> None:
    masks, target = masks_and_target()
    other = masks.clone()
    other[:, :, :2] += 3
    assert torch.allclose(loss()(other, target), loss()(masks, target))
    cropped = loss()(masks[:, :, 2:], target[:, 2:])
    assert torch.allclose(loss()(masks, target), cropped)
    background = loss(ignored="background")
    assert background(other, target) > background(masks, target) + 1e-3


@pytest.mark.parametrize("loss", [ClassMaskFocal, ClassMaskDice])
def test_masks_of_absent_classes_are_free(loss: type[ClassMaskLoss]) -> None:
    masks, target = masks_and_target()
    masks.requires_grad_()
    loss()(masks, target).backward()
    assert masks.grad is not None
    assert masks.grad[:, 2].abs().max() == 0
    assert masks.grad[:, :2].abs().amax((2, 3)).min() > 0


def test_the_focal_loss_is_the_definition() -> None:
    masks, target = torch.randn(1, 1, 2, 3), torch.tensor([[[0, 0, 1], [1, 0, 1]]])
    p = masks.sigmoid()[0, 0]
    expected = torch.where(target[0] == 0, 0.25 * (1 - p) ** 2 * -p.log(), 0.75 * p**2 * -(1 - p).log()).mean()
    assert torch.allclose(ClassMaskFocal()(masks, target), expected)


def test_classes_must_say_whether_they_are_there() -> None:
    _, target = masks_and_target()
    right = torch.full((2, 3, 4), -9.0)
    for query, answer in ((0, 0), (1, 1), (2, 3)):
        right[:, query, answer] = 9.0
    assert ClassOrNone()(right, target) < 1e-6
    assert ClassOrNone()(right.flip(2), target) > 5
    logits = torch.randn(2, 3, 4)
    weights = torch.tensor([1.0, 1.0, 1.0, 0.1])
    wanted = torch.tensor([[0, 1, 3], [0, 1, 3]])
    assert torch.allclose(ClassOrNone()(logits, target), F.cross_entropy(logits.mT, wanted, weights))


def test_a_picture_without_labels_counts_nowhere() -> None:
    logits, masks = torch.randn(2, 3, 4), torch.randn(2, 3, 4, 4)
    target = torch.zeros(2, 8, 8, dtype=torch.long)
    target[1] = 255
    assert torch.allclose(ClassOrNone()(logits, target), ClassOrNone()(logits[:1], target[:1]))
    assert ClassOrNone(ignored="background")(logits, target) != ClassOrNone()(logits, target)
    assert ClassMaskDice()(masks, target[1:].expand(2, -1, -1)) == 0


def test_labels_of_other_tasks_are_outside() -> None:
    masks, target = torch.randn(1, 2, 4, 4), torch.randint(0, 7, (1, 4, 4))
    target[0, 0, :2] = torch.tensor([5, 6])
    ours = ClassMaskDice(first=5)(masks, target)
    renamed = torch.where(target >= 5, target - 5, 2)
    with_third = ClassMaskDice()(torch.cat([masks, torch.full((1, 1, 4, 4), -20.0)], 1), renamed)
    third = ClassMaskDice()(torch.full((1, 1, 4, 4), -20.0), (renamed - 2).abs())
    assert torch.allclose(ours * 2, with_third * 3 - third, atol=1e-4)


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ValueError, match="stages is 4; this backbone has 3 features"):
        decoder(stages=4)
    with pytest.raises(ValueError, match="16 channels cannot be shared by 3 heads"):
        decoder(heads=3)
    with pytest.raises(ValueError, match="the backbone has one feature"):
        ShrunkSegViTDecoder(channels=(8,), strides=(16,), num_classes=2)
    with pytest.raises(ValueError, match="ignored is 'negative'"):
        decoder(ignored="negative").objective()
    with pytest.raises(ValueError, match="shrink is 4; give a block, 0 to 3"):
        VisionTransformer(**SMALL, shrink=4)
    with pytest.raises(ValueError, match="class_token is 'no'"):
        VisionTransformer(**{**SMALL, "class_token": "no"})
