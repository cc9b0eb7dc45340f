"""CAC: what its classifier is made of, what the oracle knows and never reaches, which decoders can have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segmentarium
from segmentarium import create_model, with_cac, with_dbb
from segmentarium.losses import EntropyDistillation
from segmentarium.meta import on_meta
from segmentarium.semantic.cac import context_aware
from segmentarium.semantic.fcn import FCNDecoder
from tests.parity.comparison import exercised

X = torch.linspace(-3, 3, 2 * 12 * 5 * 7).view(2, 12, 5, 7).sin()
LABELS = (torch.arange(2 * 5 * 7) % 11 // 4).view(2, 5, 7)  # 0, 1 and 2 of 4 classes
LABELS[0, :2] = 255


def decoder() -> Any:
    return exercised(context_aware(FCNDecoder)(channels=(12,), strides=(8,), num_classes=4, decoder_channels=8))


def network() -> Any:
    return create_model("fcn", backbone="resnet18", num_classes=3, decoder_channels=8)


def batch() -> dict[str, Tensor]:
    mask = (torch.arange(2 * 48 * 64) % 37 // 13).view(2, 48, 64)
    return {"image": torch.linspace(-9, 9, 2 * 3 * 48 * 64).view(2, 3, 48, 64).sin(), "mask": mask}


# the classifier ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_without_context_it_is_the_plain_classifier_up_to_lengths() -> None:
    made = decoder()
    half = torch.eye(8)[:4]
    made.context[0].weight.copy_(torch.cat([torch.zeros(4, 8), half], 1))  # reads the weights, and no prototype
    made.context[2].weight.copy_(half.T)
    made.context[2].bias.zero_()
    made.classifier.weight.abs_()[:, 4:] = 0  # what a ReLU lets through
    made.classifier.bias.zero_()
    outputs = made.forward_train([X])
    lengths = outputs["feature"].norm(dim=1, keepdim=True) * made.weights.norm(dim=1)[:, None, None]
    torch.testing.assert_close(outputs["logits"], 15 * outputs["plain"] / lengths)
    made.context[0].weight[:, :8].normal_()
    assert not torch.allclose(made([X]), outputs["logits"], atol=1e-2)


@torch.no_grad()
def test_a_picture_s_classifier_is_made_of_its_prototypes() -> None:
    made = decoder()
    outputs = made.forward_train([X])
    share = outputs["plain"].softmax(1)
    for b in range(2):
        feature = outputs["feature"][b]
        for k in range(4):
            prototype = (share[b, k] * feature).sum((1, 2)) / share[b, k].sum()
            classifier = made.context(torch.cat([prototype, made.weights[k]]))
            expected = 15 * F.cosine_similarity(feature, classifier[:, None, None], 0)
            torch.testing.assert_close(outputs["logits"][b, k], expected)
    torch.testing.assert_close(made([X[1:]]), outputs["logits"][1:])  # other pictures of the batch do not matter


def test_a_feature_of_nothing_has_finite_slopes() -> None:
    made = decoder()
    feature = torch.zeros(1, 8, 2, 3, requires_grad=True)
    made.refine(feature, made.classifier(feature)).sum().backward()
    assert feature.grad is not None
    assert feature.grad.isfinite().all()


@torch.no_grad()
def test_dropout_stands_in_front_of_the_guess_alone() -> None:
    made = decoder()
    made.dropout.p = 0.9
    still = made.forward_train([X])
    made.dropout.train()
    torch.manual_seed(0)
    moved = made.forward_train([X])
    assert torch.equal(moved["feature"], still["feature"])
    assert not torch.allclose(moved["plain"], still["plain"])
    # where a dropout stands in a second place, too, it stays
    twice: Any = create_model("ann", backbone="resnet18", num_classes=5, context_aware=True).decoder
    assert isinstance(twice.dropout, nn.Identity)
    assert isinstance(twice.base.dropout, nn.Dropout2d)


# the oracle -------------------------------------------------------------------------------------------------------------


def test_the_oracle_knows_the_means_of_the_batch() -> None:
    made = decoder()
    feature = X[:, :8].clone().requires_grad_()
    scores = made.oracle_scores(feature, LABELS)
    pixels = feature.permute(0, 2, 3, 1)
    prototypes = [pixels[k == LABELS].mean(0) if k < 3 else made.weights[k].detach() for k in range(4)]
    classifier = made.oracle(torch.cat([torch.stack(prototypes), made.weights], 1))
    expected = 15 * F.cosine_similarity(feature[:, None], classifier[None, :, :, None, None], 2)
    torch.testing.assert_close(scores, expected)
    given = [feature, made.classifier.weight, *made.oracle.parameters()]
    slopes = [torch.autograd.grad(x.square().sum(), given, retain_graph=True) for x in (scores, expected)]
    for ours, wanted in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_ignored_pixels_make_no_prototype_and_no_labels_leave_the_weights() -> None:
    made = decoder()
    feature = X[:, :8].clone()
    before = made.oracle_scores(feature, LABELS)
    feature[0, :, :2] += 5
    torch.testing.assert_close(made.oracle_scores(feature, LABELS)[0, :, 2:], before[0, :, 2:])
    nothing = made.oracle_scores(feature, torch.full_like(LABELS, 255))
    classifier = made.oracle(torch.cat([made.weights, made.weights], 1))
    torch.testing.assert_close(
        nothing, 15 * F.cosine_similarity(feature[:, None], classifier[None, :, :, None, None], 2)
    )


def test_the_oracle_is_asked_by_its_two_terms_and_by_nobody_else() -> None:
    model: Any = with_cac(network()).train()
    asked: list[bool] = []
    model.decoder.oracle.register_forward_hook(lambda *_: asked.append(torch.is_grad_enabled()))
    given = batch()
    outputs = model.forward_train(given["image"])
    model.eval()(given["image"])
    assert asked == []
    losses = model.criterion(outputs, given)
    assert list(losses) == ["logits", "aux", "plain", "oracle", "mimic"]
    assert asked == [True, False]  # what is imitated is not moved
    (slope,) = torch.autograd.grad(losses["mimic"], [model.decoder.oracle[0].weight], allow_unused=True)
    assert slope is None


@torch.no_grad()
def test_nothing_of_the_oracle_survives_deploy() -> None:
    model: Any = with_cac(network()).eval()
    image = batch()["image"]
    before = model(image)
    exercised(model.decoder.oracle)
    assert torch.equal(model(image), before)
    deployed = model.deploy()
    torch.testing.assert_close(deployed(image), before, rtol=1e-3, atol=1e-3)
    assert not any("oracle" in name for name, _ in deployed.named_modules())
    assert deployed.objective == ()


# which networks ---------------------------------------------------------------------------------------------------------

TAKE_IT = (
    "fcn", "deeplabv3plus", "upernet_resnet50", "ocrnet_resnet50", "pspnet", "fpn_resnet50", "ccnet_v2", "danet", "encnet",
    "segformer_b0",
)  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", TAKE_IT)
def test_decoders_that_end_with_a_convolution_have_it_by_both_ways(name: str) -> None:
    plain: Any = create_model(name, backbone="resnet18", num_classes=5)
    terms = [term.name for term in plain.objective]
    model = with_cac(plain)
    assert isinstance(model.decoder.dropout, nn.Dropout2d)  # type: ignore[union-attr]
    assert model(torch.zeros(2, 3, 64, 96)).shape == (2, 5, 64, 96)
    outputs = model.forward_train(torch.zeros(2, 3, 64, 96))
    assert outputs.keys() == {name for term in model.objective for name in term.of}
    assert [term.name for term in model.objective] == [*terms, "plain", "oracle", "mimic"]
    with on_meta():
        told: Any = create_model(name, backbone="resnet18", num_classes=5, context_aware=True)
    shapes = ({key: x.shape for key, x in one.state_dict().items()} for one in (model, told))
    assert next(shapes) == next(shapes)
    assert {term.name for term in told.objective} == {term.name for term in model.objective}
    assert (told.training_only, told.align_corners) == (model.training_only, model.align_corners)


@pytest.mark.parametrize("name", ["pointrend_resnet50", "lraspp", "parsenet"])
def test_others_say_why_not(name: str) -> None:
    told = {"backbone": "resnet18", "num_classes": 5}
    with pytest.raises(ValueError, match="does not end with a 1×1 convolution"):
        create_model(name, **told, context_aware=True)
    with pytest.raises(ValueError, match="does not end with a 1×1 convolution"):
        with_cac(create_model(name, **told))  # type: ignore[arg-type]


def test_refusals() -> None:
    with on_meta():
        with pytest.raises(ValueError, match="num_classes is 1"):
            create_model("cac_fcn_mobilenet_v2", num_classes=1)
        with pytest.raises(ValueError, match="has a context-aware classifier already"):
            with_cac(create_model("cac_fcn_mobilenet_v2"))
        with pytest.raises(ValueError, match="no decoder on a backbone"):
            with_cac(create_model("enet", num_classes=3))  # type: ignore[arg-type]
        blocks = network()
        with_dbb(blocks, "decoder.*")
        with pytest.raises(ValueError, match="give with_cac before with_dbb"):
            with_cac(blocks)


@torch.no_grad()
def test_a_trained_network_keeps_its_weights_and_a_file_rebuilds_it(tmp_path: Path) -> None:
    plain = network().eval()
    image = batch()["image"]
    guess = plain.logits(image)
    model = with_cac(plain)
    assert not model.training
    torch.testing.assert_close(model.forward_train(image)["plain"], guess)
    again = segmentarium.load(segmentarium.save(model, tmp_path / "context.safetensors"))
    assert torch.equal(again(image), model(image))
    assert again.given_arguments["context_aware"] is True


# the loss ---------------------------------------------------------------------------------------------------------------


def _naive(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    soft = teacher.softmax(1).permute(0, 2, 3, 1)
    answer = student.log_softmax(1).permute(0, 2, 3, 1)
    means = []
    for k in (int(k) for k in target.unique() if k != 255):
        p, log_q = soft[target == k], answer[target == k]
        entropy = -(p * p.log()).sum(1)
        loss = -(0.5 * p * log_q).sum(1) - 0.5 * log_q[:, k]
        means.append((entropy * loss).sum() / entropy.sum())
    return torch.stack(means).mean()


def test_distillation_is_its_definition_and_ignored_pixels_count_nowhere() -> None:
    student = (3 * X[:, :4]).requires_grad_()
    teacher = 2 * X[:, 4:8]
    loss = EntropyDistillation()(student, teacher, LABELS)
    torch.testing.assert_close(loss, _naive(student, teacher, LABELS))
    (slope,) = torch.autograd.grad(loss, student)
    assert (slope[0, :, :2] == 0).all()
    teacher[0, :, :2] += 7 * X[0, 8:, :2]
    torch.testing.assert_close(EntropyDistillation()(student, teacher, LABELS), loss)
    nothing = EntropyDistillation()(student, teacher, torch.full_like(LABELS, 255))
    assert nothing == 0
    assert (torch.autograd.grad(nothing, student)[0] == 0).all()


def test_a_class_weighs_the_same_however_large_and_sure_pixels_weigh_nothing() -> None:
    student = torch.tensor([[2.0, 2.0, 2.0, -1.0], [0.0, 0.0, 0.0, 0.0]])[None, :, None]
    target = torch.tensor([[[0, 0, 0, 1]]])
    unsure = torch.zeros_like(student)
    once = EntropyDistillation()(student[..., 2:], unsure[..., 2:], target[..., 2:])
    torch.testing.assert_close(EntropyDistillation()(student, unsure, target), once)
    sure = unsure.clone()
    sure[0, 0, 0, 0] = 60.0
    student[0, :, 0, 0] = torch.tensor([-9.0, 9.0])
    torch.testing.assert_close(EntropyDistillation()(student, sure, target), once)


def test_distillation_says_what_it_takes() -> None:
    with pytest.raises(ValueError, match="logits of one shape"):
        EntropyDistillation()(X[:, :4], X[:, :3], LABELS)
    with pytest.raises(ValueError, match="two classes or more"):
        EntropyDistillation()(X[:, :1], X[:, :1], LABELS)
    with pytest.raises(ValueError, match="share is 2"):
        EntropyDistillation(share=2)
