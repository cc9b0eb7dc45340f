"""What each loss of long tails is for, and what all of them promise."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from segmentarium.losses import (
    BalancedGroups,
    EqualizationLoss,
    EqualizationLossV2,
    FederatedLoss,
    RegionLoss,
    SeesawLoss,
    answered,
    asked_classes,
    build_label_loss,
    group_by_instances,
    init_rare,
    known_of,
)

COUNTS = [5000, 400, 60, 8, 2, 0]
C = len(COUNTS)


def _losses(background: bool) -> list[RegionLoss]:
    return [
        EqualizationLoss([count / 5000 for count in COUNTS], 0.01, background),
        EqualizationLossV2(C, background=background),
        SeesawLoss(C, background=background),
        BalancedGroups(group_by_instances(COUNTS), others=1e9, background=background),
        FederatedLoss(COUNTS, number=C, background=background),
    ]


every = pytest.mark.parametrize(
    "loss",
    [*_losses(True), *_losses(False)],
    ids=lambda loss: f"{type(loss).__name__}{'' if loss.background else ' of pictures'}",
)


def _case(loss: RegionLoss, rows: int = 40) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, loss.width, requires_grad=True), torch.randint(0, loss.num_labels, (rows,))


def _value(loss: RegionLoss, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    value = copy.deepcopy(loss)(logits, labels)
    return value, torch.autograd.grad(value, logits)[0]


@every
def test_rows_to_ignore_count_nowhere(loss: RegionLoss) -> None:
    logits, labels = _case(loss)
    ignored = torch.arange(len(labels)) % 3 == 0
    labels[ignored] = torch.where(torch.rand(int(ignored.sum())) < 0.5, -1, 255)
    value, gradient = _value(loss, logits, labels)
    kept, own = _value(loss, logits[~ignored].detach().requires_grad_(), labels[~ignored])
    torch.testing.assert_close(value, kept)
    torch.testing.assert_close(gradient[~ignored], own)
    assert not gradient[ignored].any()
    assert value > 0


@every
def test_nothing_to_learn_gives_zero_and_no_rows_are_fine(loss: RegionLoss) -> None:
    logits, labels = _case(loss)
    value, gradient = _value(loss, logits, torch.full_like(labels, 255))
    assert value.item() == 0
    assert not gradient.any()
    assert copy.deepcopy(loss)(logits[:0], labels[:0]).item() == 0


@every
def test_half_precision_is_computed_in_single(loss: RegionLoss) -> None:
    logits, labels = _case(loss)
    with torch.autocast("cpu", torch.bfloat16):
        value = copy.deepcopy(loss)(logits.detach().bfloat16(), labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, copy.deepcopy(loss)(logits.detach().bfloat16().float(), labels))


@every
def test_probabilities_are_those_that_the_loss_makes_right(loss: RegionLoss) -> None:
    """Free logits that learn one label each name it; what is certain of the background is no class."""
    labels = torch.arange(loss.num_labels)
    logits = torch.zeros(len(labels), loss.width, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.3)
    for _ in range(120):
        optimizer.zero_grad()
        loss(logits, labels).backward()
        optimizer.step()
    found = loss.probabilities(logits.detach())
    assert found.shape == (len(labels), loss.num_labels)
    assert found.min() >= 0
    assert found.max() <= 1
    classes = found[:C, :C]
    assert torch.equal(classes.argmax(1), torch.arange(C))
    if loss.background:
        assert (found[C, :C] < 0.1).all()


@every
def test_logits_and_labels_that_do_not_fit_are_refused(loss: RegionLoss) -> None:
    logits, labels = _case(loss)
    with pytest.raises(ValueError, match=str(loss.width)):
        loss(logits[:, 1:], labels)
    with pytest.raises(ValueError, match=f"{loss.num_labels}; give 0"):
        loss(logits, torch.full_like(labels, loss.num_labels))
    with pytest.raises(TypeError, match="mixup"):
        loss(logits, labels.float())


def test_class_255_of_many_is_a_class() -> None:
    loss = SeesawLoss(300)
    logits = torch.randn(4, 302, requires_grad=True)
    labels = torch.tensor([255, 255, -1, 300])
    _, gradient = _value(loss, logits, labels)
    assert gradient[0].any()
    assert not gradient[2].any()


def test_one_class_is_told_from_the_background_and_alone_is_refused() -> None:
    for loss in (
        EqualizationLoss([0.5]),
        EqualizationLossV2(1),
        SeesawLoss(1),
        BalancedGroups([0]),
        FederatedLoss([4]),
    ):
        logits, labels = _case(loss)
        assert torch.isfinite(_value(loss, logits, labels)[1]).all()
    with pytest.raises(ValueError, match="nothing to tell apart"):
        SeesawLoss(1, background=False)


def test_equalization_spares_rare_classes_the_no_of_other_objects_alone() -> None:
    loss = EqualizationLoss([0.5, 0.001], 0.01)
    logits = torch.zeros(3, 2, requires_grad=True)
    _, gradient = _value(loss, logits, torch.tensor([0, 1, 2]))
    assert gradient[0, 1] == 0  # a frequent object says nothing of the rare class
    assert gradient[1, 1] < 0  # a rare one does,
    assert gradient[2, 1] > 0  # and so does the background
    assert gradient[1, 0] > 0  # a rare object says "no" to the frequent class


def test_equalization_v2_raises_the_yes_of_a_class_that_had_mostly_no() -> None:
    loss = EqualizationLossV2(2)
    loss(torch.zeros(10, 3), torch.tensor([0] * 9 + [1]))
    yes, no = loss.weights()
    assert yes[1] > 4.9  # 1 + alpha
    assert no[1] < 0.01
    assert yes[0] < 1.1
    assert no[0] > 0.95
    assert yes[2] == no[2] == 1  # the background
    before = loss.ratio.clone()
    loss.eval()(torch.zeros(10, 3), torch.tensor([1] * 10))
    assert torch.equal(loss.ratio, before)  # scoring does not change it


def test_seesaw_presses_rare_classes_less_but_mistakes_more() -> None:
    counts = torch.tensor([1000.0, 1, 0])
    even = SeesawLoss(2, counts=counts).eval()
    logits = torch.zeros(1, 4, requires_grad=True)
    frequent = _value(even, logits, torch.tensor([0]))[1][0, 1]
    rare = _value(even, logits, torch.tensor([1]))[1][0, 0]
    assert 0 < frequent < 0.01 < rare
    torch.testing.assert_close(frequent / (1 - frequent), torch.tensor(1e-3**0.8), rtol=1e-4, atol=0)
    sure = torch.tensor([[0.0, 3.0, 0, 0]], requires_grad=True)  # a frequent object that looks like the rare class
    plain = _value(SeesawLoss(2, q=0, counts=counts).eval(), sure, torch.tensor([0]))[1][0, 1]
    assert _value(even, sure, torch.tensor([0]))[1][0, 1] > 10 * plain


def test_groups_compete_inside_only() -> None:
    loss = BalancedGroups(group_by_instances(COUNTS), others=0.0)
    # ≥ 1000; 100 to 999; 10 to 99; below 10 the last three
    assert loss.sizes == [2, 4, 2, 2, 2]
    logits = torch.randn(1, loss.width, requires_grad=True)
    _, gradient = _value(loss, logits, torch.tensor([3]))
    touched = [bool(part.any()) for part in gradient.split(loss.sizes, 1)]
    assert touched == [True, True, False, False, False]
    probabilities = loss.probabilities(logits)
    torch.testing.assert_close(probabilities[0, C], logits[0, :2].softmax(0)[0])


def test_others_are_drawn_in_proportion_and_follow_the_generator() -> None:
    loss = BalancedGroups(group_by_instances(COUNTS), others=3.0)
    labels = torch.tensor([0] * 50 + [1] * 4 + [3] * 2 + [C] * 30 + [-1] * 5)
    valid = labels >= 0
    torch.manual_seed(3)
    weights = loss.draw(labels.where(valid, 0), valid)
    own = (loss.table[:, labels.where(valid, 0)] > 0) & valid
    assert weights.sum(1).tolist() == [86, 8, 0, 16, 86]  # all; 2 + 6; none of its own; 4 + 12; 50 and all others
    assert not weights[:, ~valid].any()
    assert weights[1:][own[1:] & own[1:].any(1, keepdim=True)].all()
    torch.manual_seed(3)
    assert torch.equal(loss.draw(labels.where(valid, 0), valid), weights)


@pytest.mark.parametrize("loss", [_losses(True)[0], _losses(True)[1], _losses(True)[2], _losses(True)[4]])
def test_questions_without_an_answer_teach_nothing(loss: RegionLoss) -> None:
    answers = answered([{0}, {1, 2}], [{3}, {0}], C, [set(), {2}])
    assert answers.tolist() == [
        [True, False, False, True, False, False],
        [True, True, False, False, False, False],
    ]
    picture = torch.tensor([0, 0, 1, 1])
    labels = torch.tensor([0, C, 2, 1])
    known = known_of(labels, picture, answers)
    assert known[2, 2]  # what a row shows is known, wherever else the class may be
    logits = torch.randn(4, loss.width, requires_grad=True)
    (gradient,) = torch.autograd.grad(copy.deepcopy(loss)(logits, labels, known), logits)
    assert not gradient[:, :C][~known].any()
    assert gradient[0, 0] != 0


def test_asked_classes_are_those_of_the_batch_and_others_by_their_chance() -> None:
    shares = torch.tensor([1.0, 1, 0, 1, 1])
    asked = torch.stack([asked_classes(torch.tensor([2, 2, -1, 5]), shares, 3) for _ in range(50)])
    assert asked[:, 2].all()
    assert (asked.sum(1) == 3).all()
    assert asked[:, [0, 1, 3, 4]].any(0).all()
    assert asked_classes(torch.tensor([0]), shares, 99).tolist() == [True, True, False, True, True]


def test_label_losses_by_name() -> None:
    counts = [900, 90, 10]
    assert build_label_loss("eql:0.05", counts).frequencies.tolist() == pytest.approx([0.9, 0.09, 0.01])
    assert build_label_loss("seesaw", counts).width == 3
    with pytest.raises(ValueError, match="did you mean 'seesaw'"):
        build_label_loss("sesaw", counts)
    with pytest.raises(ValueError, match="only eql"):
        build_label_loss("seesaw:2", counts)
    for told in ("abc", "nan", "0", "-1", "5"):
        with pytest.raises(ValueError, match=f"loss 'eql:{told}' has '{told}' for the share .* as in eql:0.01"):
            build_label_loss(f"eql:{told}", counts)


def test_a_start_where_every_class_is_improbable() -> None:
    classifier = init_rare(nn.Linear(8, 4))
    torch.testing.assert_close(classifier.bias.sigmoid(), torch.full((4,), 0.001), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["eql", "federated", "eqlv2", "seesaw", "bags"])
def test_all_are_built_without_numbers(name: str) -> None:
    """As a network is before a file's tensors are compared with it."""
    from segmentarium.instances.class_scores import long_tail_arguments
    from segmentarium.instances.heads import CLASS_LOSSES, CLASSIFIERS, named
    from segmentarium.meta import on_meta

    told = long_tail_arguments(name, COUNTS, COUNTS, 6000)
    with on_meta():
        classifier = named(
            CLASSIFIERS, "classifier", told["classifier"], 8, num_classes=C, **told["classifier_arguments"]
        )
        loss = named(CLASS_LOSSES, "class_loss", name, **told["class_loss_arguments"])
    assert isinstance(loss, RegionLoss)
    assert loss.width == classifier.state_dict()["scores.weight"].shape[0]
    assert classifier.state_dict()["scores.weight"].is_meta
