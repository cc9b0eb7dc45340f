"""LV-ViT: MixToken, what every patch is held against, and the heads at evaluation; FF-only beside it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segmentarium import create_backbone, create_model
from segmentarium.backbones.lvvit import draw_box, mix_patches
from segmentarium.data.token_labels import token_targets
from segmentarium.losses import MixedLabelCrossEntropy, TokenLabelCrossEntropy

TINY = {"embed_dim": 48, "depth": 2, "heads": 3, "stem": 8, "image_size": 64, "num_classes": 5}


def test_patches_come_from_the_batch_turned_round_and_go_back() -> None:
    patches = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 4, 6, 2)
    mixed = mix_patches(patches, (1, 2, 3, 5))
    expected = patches[..., 0].clone()
    expected[:, 1:3, 2:5] = torch.tensor([2.0, 1.0, 0.0]).view(3, 1, 1)
    assert torch.equal(mixed, expected.unsqueeze(-1).expand(3, 4, 6, 2))
    assert torch.equal(mix_patches(mixed, (1, 2, 3, 5)), patches)


def test_boxes_cover_any_share_and_lie_inside() -> None:
    boxes = [draw_box(10, 14) for _ in range(2000)]
    assert all(0 <= top <= bottom <= 10 and 0 <= left <= right <= 14 for top, left, bottom, right in boxes)
    shares = torch.tensor([(bottom - top) * (right - left) / 140 for top, left, bottom, right in boxes])
    assert shares.max() > 0.6
    assert (shares < 0.05).float().mean() > 0.05
    # centred boxes of an even share would cover a half; what is cut off at the edges and rounded down takes from that
    assert 0.2 < shares.mean() < 0.4


def test_training_scores_patches_under_the_picture_that_they_show() -> None:
    backbone = create_model("lvvit_s", **TINY, drop_path=0.0).backbone
    for parameter in backbone.blocks.parameters():
        torch.nn.init.zeros_(parameter)  # so that patches do not see each other
    torch.nn.init.normal_(backbone.classifier.patches.weight)
    image = torch.randn(2, 3, 64, 96)
    alone = backbone.eval().classify_train(image)
    assert alone["kept"] == 1
    torch.nn.init.zeros_(backbone.positions)
    alone, mixed = backbone.classify_train(image), backbone.classify_train(image, box=(1, 2, 3, 5))
    assert mixed["kept"] == pytest.approx(1 - 6 / 24)
    assert mixed["tokens"].shape == (2, 24, 5)
    assert torch.allclose(mixed["tokens"], alone["tokens"], atol=1e-5)
    torch.nn.init.normal_(
        backbone.positions
    )  # places stay where they are, so a patch of another place scores otherwise
    alone, mixed = backbone.classify_train(image), backbone.classify_train(image, box=(1, 2, 3, 5))
    assert torch.allclose(mixed["tokens"], alone["tokens"], atol=1e-5)
    assert torch.allclose(backbone.classify(image), alone["logits"] + 0.5 * alone["tokens"].amax(1), atol=1e-6)


def test_mix_token_is_of_training_alone_and_may_be_left_out() -> None:
    image = torch.randn(2, 3, 64, 64)
    model = create_model("lvvit_s", **TINY)
    kept = {float(model.train().forward_train(image)["kept"]) for _ in range(8)}
    assert len(kept) > 2
    assert {float(model.eval().forward_train(image)["kept"]) for _ in range(4)} == {1.0}
    plain = create_model("lvvit_s", **TINY, mix_token=False).train()
    assert {float(plain.forward_train(image)["kept"]) for _ in range(4)} == {1.0}


def test_the_class_token_is_held_against_both_pictures() -> None:
    logits, labels = torch.randn(3, 5), torch.tensor([0, 3, 1])
    loss, kept = MixedLabelCrossEntropy(), torch.tensor(0.75)
    expected = 0.75 * F.cross_entropy(logits, labels) + 0.25 * F.cross_entropy(logits, labels.flip(0))
    assert loss(logits, kept, labels) == pytest.approx(float(expected), rel=1e-5)
    shares = F.one_hot(labels, 5).float()
    assert loss(logits, kept, shares) == pytest.approx(float(expected), rel=1e-5)
    whole = torch.tensor(1.0)
    maps = torch.rand(3, 5, 6).softmax(1)
    assert loss(logits, whole, maps) == pytest.approx(float(F.cross_entropy(logits, maps[:, :, 1])), rel=1e-5)


def test_people_count_for_a_half_where_the_annotator_agrees_and_a_tenth_else() -> None:
    maps = torch.zeros(2, 3, 3)
    maps[:, 0, 0] = 1  # people: class 0
    maps[0, :, 1], maps[1, :, 1] = torch.tensor([0.6, 0.4, 0.0]), torch.tensor([0.1, 0.9, 0.0])
    own = MixedLabelCrossEntropy(ground_truth=True)._own(maps, 3)
    assert torch.allclose(own, torch.tensor([[0.8, 0.2, 0.0], [0.19, 0.81, 0.0]]))


def test_without_a_map_every_patch_has_the_picture_s_label() -> None:
    scores, labels = torch.randn(2, 4, 5), torch.tensor([1, 4])
    expected = float(torch.stack([F.cross_entropy(scores[i], labels[i].expand(4)) for i in range(2)]).mean())
    loss = TokenLabelCrossEntropy()
    assert loss(scores, labels) == pytest.approx(expected, rel=1e-5)
    assert loss(scores, F.one_hot(labels, 5).float()) == pytest.approx(expected, rel=1e-5)
    one = TokenLabelCrossEntropy()(torch.randn(2, 4, 1), torch.tensor([0, 1]))
    assert one.isfinite()
    with pytest.raises(ValueError, match="the label has 9 patches and the network 4"):
        loss(scores, torch.rand(2, 5, 11))


def test_label_smoothing_reaches_every_term() -> None:
    model = create_model("lvvit_s", **TINY).eval()
    batch, label = {"image": torch.randn(2, 3, 64, 64)}, torch.tensor([1, 4])
    outputs = model.forward_train(batch["image"])
    model.smooth_labels(0.1)
    smooth = F.one_hot(label, 5) * 0.9 + 0.02
    expected = {
        "class": float(F.cross_entropy(outputs["logits"], smooth)),
        "tokens": float(F.cross_entropy(outputs["tokens"].flatten(0, 1), smooth.repeat_interleave(16, 0))),
    }
    losses = {name: float(loss) for name, loss in model.criterion(outputs, {"label": label}).items()}
    assert losses == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="label_smoothing is 2"):
        model.smooth_labels(2)


def test_positions_go_to_other_sizes_as_the_authors_take_them() -> None:
    backbone = create_backbone("lvvit_s", **{**TINY, "num_classes": None})
    table = backbone.positions.detach()
    square = table[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    larger = F.interpolate(square, (6, 9), mode="bicubic").flatten(2).transpose(1, 2)
    seen = backbone._tokens(torch.zeros(1, 6, 9, 48))
    assert torch.allclose(seen[:, 1:], larger, atol=1e-6)
    assert torch.allclose(seen[:, :1], backbone.class_token + table[:, :1])


def test_a_crop_has_the_labels_of_the_cells_that_it_shows() -> None:
    scores = torch.full((1, 2, 4, 4), 9.0)
    scores[:, 1] = 0
    classes = torch.zeros(1, 2, 4, 4, dtype=torch.int64)
    classes[:, 0, :, 2:] = 1  # the left half is of class 0, the right one of class 1
    classes[:, 1] = 2
    left = torch.tensor([[0.0, 0.0, 0.5, 1.0]])
    targets = token_targets(scores, classes, left, torch.tensor([2]), 3, (2, 1))
    assert targets.shape == (1, 3, 4)
    assert torch.allclose(targets.sum(1), torch.ones(1, 4))
    assert targets[0, :, 0].tolist() == [0, 0, 1]
    assert (targets[0, 0, 1:] > 0.9).all()
    whole = token_targets(scores, classes, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([2]), 3, (1, 2))
    assert whole[0, :2, 2:].argmax(0).tolist() == [0, 1]
    smooth = token_targets(scores, classes, left, torch.tensor([2]), 3, None, smoothing=0.3)
    assert smooth[0, :, 0].tolist() == pytest.approx([0.1, 0.1, 0.8])
    with pytest.raises(ValueError, match="boxes"):
        token_targets(scores, classes, left[0], torch.tensor([2]), 3, None)


def test_ff_only_mixes_channels_and_then_places() -> None:
    backbone = create_backbone("ff_only_tiny", embed_dim=16, depth=1, image_size=32, position_grid=(2, 2)).eval()
    block = backbone.blocks[0]
    assert block.norm2.normalized_shape == (5,)  # over the places, unlike MLP-Mixer
    x = torch.randn(2, 5, 16)
    middle = x + block.channel_mlp(block.norm1(x))
    turned = middle.transpose(1, 2)
    assert torch.allclose(block(x), (turned + block.token_mlp(block.norm2(turned))).transpose(1, 2))


def test_ff_only_says_which_size_it_takes() -> None:
    backbone = create_backbone("ff_only_tiny", embed_dim=16, depth=1, image_size=(32, 48))
    assert backbone(torch.zeros(1, 3, 32, 48))[0].shape == (1, 16, 2, 3)
    with pytest.raises(
        ValueError, match=r"the image is 48×32; this network takes 32×48 only.*build it with image_size"
    ):
        backbone(torch.zeros(1, 3, 48, 32))
    with pytest.raises(ValueError, match=r"image_size is 40×40; give multiples of the patch's side, 16"):
        create_backbone("ff_only_tiny", image_size=40)
