"""The losses against brute force, and what all of them promise: ignored pixels, void targets, half precision."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.losses import (
    BoundaryAwareFocal,
    CrossEntropy,
    Dice,
    Focal,
    Lovasz,
    OhemCrossEntropy,
    PixelLoss,
    WeightedSum,
    build_loss,
    check_target,
    class_weights,
)

LOSSES = {
    "cross_entropy": CrossEntropy(),
    "cross_entropy_smooth": CrossEntropy(label_smoothing=0.1),
    "cross_entropy_sigmoid": CrossEntropy(activation="sigmoid", label_smoothing=0.1),
    "ohem": OhemCrossEntropy(),
    "ohem_number": OhemCrossEntropy(threshold=0.01, min_kept=37),
    "bootstrapped": OhemCrossEntropy(loss_threshold=0.3, min_kept=100_000),
    "dice": Dice(),
    "dice_all": Dice(classes="all", per_image=True, smooth=0.0),
    "focal": Focal(),
    "focal_root": Focal(gamma=0.5),
    "boundary_focal": BoundaryAwareFocal(bins=(2, 4), alphas=(4, 2, 1)),
    "lovasz": Lovasz(),
    "lovasz_all": Lovasz(classes="all", per_image=True),
    "sum": build_loss("cross_entropy+0.5*dice"),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
channels = pytest.mark.parametrize("num_classes", [1, 2, 5])


def _case(num_classes: int, size: tuple[int, int] = (13, 17), void: float = 0.2) -> tuple[Tensor, Tensor]:
    logits = 2.0 * torch.randn(3, num_classes, *size)
    target = torch.randint(0, max(2, num_classes), (3, *size))
    target[torch.rand(target.shape) < void] = 255
    return logits.requires_grad_(), target


def _gradient(loss: torch.nn.Module, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(logits, target)
    return value, torch.autograd.grad(value, logits)[0]


@every_loss
@channels
def test_ignored_pixels_change_nothing(loss: torch.nn.Module, num_classes: int) -> None:
    logits, target = _case(num_classes)
    void = (target == 255).unsqueeze(1).expand_as(logits)
    value, gradient = _gradient(loss, logits, target)
    other = logits.detach().where(~void, 1e4 * torch.randn_like(logits)).requires_grad_()
    changed, changed_gradient = _gradient(loss, other, target)
    torch.testing.assert_close(changed, value, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(changed_gradient, gradient, rtol=1e-5, atol=1e-9)
    assert not gradient[void].any()
    assert value > 0
    assert torch.isfinite(gradient).all()


@every_loss
@channels
def test_more_ignored_pixels_around_the_images_change_nothing(loss: torch.nn.Module, num_classes: int) -> None:
    if isinstance(loss, BoundaryAwareFocal):
        pytest.skip("the edge of the labelled part is a boundary to this loss, as in its authors' code")
    logits, target = _case(num_classes)
    framed = F.pad(target, (4, 3, 2, 5), value=255)
    torch.testing.assert_close(loss(F.pad(logits, (4, 3, 2, 5), value=3.0), framed), loss(logits, target))


@every_loss
@channels
def test_a_void_target_gives_zero_and_keeps_the_graph(loss: torch.nn.Module, num_classes: int) -> None:
    logits, target = _case(num_classes, void=2.0)
    value, gradient = _gradient(loss, logits, target)
    assert value.item() == 0.0
    assert not gradient.any()


@every_loss
@channels
def test_void_images_of_a_batch_do_not_count(loss: torch.nn.Module, num_classes: int) -> None:
    logits, target = _case(num_classes)
    target[1] = 255
    torch.testing.assert_close(loss(logits, target), loss(logits[[0, 2]], target[[0, 2]]))


@every_loss
@channels
def test_half_precision_is_computed_in_float32(loss: torch.nn.Module, num_classes: int) -> None:
    logits, target = _case(num_classes, size=(64, 64))
    low = (30.0 * logits).detach().bfloat16().requires_grad_()  # saturated: 1 - p vanishes in bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = _gradient(loss, low, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(low.detach().float(), target))
    assert torch.isfinite(gradient).all()


@every_loss
@channels
def test_confident_and_right_is_nearly_no_loss(loss: torch.nn.Module, num_classes: int) -> None:
    _, target = _case(num_classes)
    labels = target.where(target != 255, 0)
    if num_classes == 1:
        logits = 80.0 * (2.0 * labels.unsqueeze(1) - 1.0)
    else:
        logits = 80.0 * (2.0 * F.one_hot(labels, num_classes).permute(0, 3, 1, 2) - 1.0)
    logits.requires_grad_()
    smoothing = any(getattr(part, "label_smoothing", 0.0) for part in loss.modules())
    right, gradient = _gradient(loss, logits, target)
    assert torch.isfinite(gradient).all()
    assert loss(-logits, target) > 0.5
    assert smoothing or right < 1e-5


@every_loss
@channels
def test_compiled_without_a_break_equals_eager(loss: torch.nn.Module, num_classes: int) -> None:
    logits, target = _case(num_classes)
    # The eager backend runs the traced graph as it is: it shows breaks and other branches, without a compiler.
    compiled = torch.compile(loss, fullgraph=True, backend="eager", dynamic=False)
    value, gradient = _gradient(loss, logits, target)
    traced, traced_gradient = _gradient(compiled, logits, target)
    torch.testing.assert_close(traced, value)
    torch.testing.assert_close(traced_gradient, gradient)
    torch.compiler.reset()


@pytest.mark.parametrize("kind", [CrossEntropy, OhemCrossEntropy, Focal, Dice, Lovasz])
@channels
def test_class_weights_are_relative_and_a_weight_of_zero_removes_a_class(
    kind: type[PixelLoss], num_classes: int
) -> None:
    logits, target = _case(num_classes)
    weights = torch.rand(max(2, num_classes)) + 0.5
    plain, weighted = kind()(logits, target), kind(class_weight=weights)(logits, target)
    torch.testing.assert_close(kind(class_weight=3.0 * weights)(logits, target), weighted)
    torch.testing.assert_close(kind(class_weight=torch.ones_like(weights))(logits, target), plain)
    if num_classes > 1 or kind not in (Dice, Lovasz):
        assert abs(weighted - plain) > 1e-5
    nothing, gradient = _gradient(kind(class_weight=torch.zeros_like(weights)), logits, target)
    if num_classes > 1 or kind not in (Dice, Lovasz):
        assert nothing.item() == 0.0
        assert not gradient.any()


def test_class_weights_are_not_saved() -> None:
    assert not CrossEntropy(class_weight=[1.0, 2.0]).state_dict()
    assert dict(CrossEntropy(class_weight=[1.0, 2.0]).named_buffers())["class_weight"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_equals_the_mean_over_labelled_pixels(smoothing: float, weighted: bool) -> None:
    logits, target = _case(5)
    weight = torch.rand(5) if weighted else None
    expected = F.cross_entropy(logits, target, weight, ignore_index=255, label_smoothing=smoothing)
    torch.testing.assert_close(CrossEntropy(weight, label_smoothing=smoothing)(logits, target), expected)


def test_binary_cross_entropy_equals_two_class_softmax() -> None:
    logits, target = _case(1)
    both = torch.cat([torch.zeros_like(logits), logits], dim=1)
    for kind in (CrossEntropy, OhemCrossEntropy, Focal):
        for weight in (None, [1.0, 3.0]):
            loss = kind(class_weight=weight)
            torch.testing.assert_close(loss(logits, target), loss(both, target))


def test_focal_equals_its_formula() -> None:
    logits, target = _case(4)
    total, count = 0.0, 0
    for pixel, label in zip(logits.permute(0, 2, 3, 1).reshape(-1, 4), target.flatten().tolist(), strict=True):
        if label != 255:
            probability = pixel.softmax(0)[label].item()
            total += (1 - probability) ** 2 * -math.log(probability)
            count += 1
    assert Focal()(logits, target).item() == pytest.approx(total / count, rel=1e-5)


def test_focal_without_focus_is_cross_entropy() -> None:
    logits, target = _case(4)
    torch.testing.assert_close(Focal(gamma=0.0)(logits, target), CrossEntropy()(logits, target))


@pytest.mark.parametrize(
    ("classes", "per_image"), [("present", False), ("present", True), ("all", False), ("all", True)]
)
def test_dice_equals_a_loop(classes: str, per_image: bool) -> None:
    logits, target = _case(5)
    target[target == 3] = 0  # an absent class
    groups = [[0], [1], [2]] if per_image else [[0, 1, 2]]
    values = []
    for group in groups:
        probability, labels = logits[group].softmax(1), target[group]
        scores = []
        for index in range(5):
            truth, guess = (labels == index)[labels != 255].float(), probability[:, index][labels != 255]
            if truth.any() or classes == "all":
                scores.append(1 - (2 * (truth * guess).sum() + 1) / (truth.sum() + guess.sum() + 1))
        values.append(torch.stack(scores).mean())
    torch.testing.assert_close(Dice(classes, per_image)(logits, target), torch.stack(values).mean())


def _jaccard_extension(errors: Tensor, truth: Tensor) -> Tensor:
    """The Lovász extension by its definition: the wrong set grows pixel by pixel, Jaccard losses by counting."""
    order = errors.argsort(descending=True).tolist()
    total, before = errors.new_zeros(()), 0.0
    wrong = torch.zeros(len(order), dtype=torch.bool)
    for index in order:
        wrong[index] = True
        guess = truth ^ wrong
        after = 1 - (truth & guess).sum().item() / max(1, (truth | guess).sum().item())
        total, before = total + errors[index].clamp(min=0) * (after - before), after
    return total


@pytest.mark.parametrize("classes", ["present", "all", [0, 4]])
def test_lovasz_equals_its_definition(classes: str | list[int]) -> None:
    logits, target = _case(5, size=(5, 6))
    target[target == 3] = 0
    valid = target != 255
    probability = logits.softmax(1)
    chosen = classes if isinstance(classes, list) else range(5)
    values = [
        _jaccard_extension(((target == index).float() - probability[:, index]).abs()[valid], (target == index)[valid])
        for index in chosen
        if classes != "present" or (target == index).any()
    ]
    value = torch.stack(values).mean()
    torch.testing.assert_close(Lovasz(classes)(logits, target), value)
    torch.testing.assert_close(
        _gradient(Lovasz(classes), logits, target)[1], torch.autograd.grad(value, logits)[0], rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("present", [True, False])
def test_lovasz_hinge_equals_its_definition(present: bool) -> None:
    logits, target = _case(1, size=(5, 6))
    if not present:
        target[target == 1] = 0
    valid = target != 255
    errors = (1 - logits[:, 0] * (2.0 * target - 1))[valid]
    torch.testing.assert_close(Lovasz()(logits, target), _jaccard_extension(errors, (target == 1)[valid]))


def test_lovasz_weights_keep_their_precision_over_millions_of_pixels() -> None:
    from segmentarium.losses.lovasz import jaccard_steps

    truth = torch.rand(1, 3_000_000) < 0.3
    steps = jaccard_steps(truth, torch.ones_like(truth))
    last = int(truth[0].nonzero().max())  # then nothing right is left, and further wrong pixels change nothing
    assert not steps[0, last + 1 :].any()
    assert steps[0, : last + 1].min() > 0  # as a difference of float32 Jaccard indices many of them would be 0
    assert steps.double().sum().item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("threshold", "min_kept"), [(0.7, 1 / 16), (0.05, 1 / 16), (0.05, 50), (1e-6, 1), (0.7, 0), (1e-6, 0)]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_hard_examples_are_those_under_the_threshold_or_the_hardest(
    threshold: float, min_kept: float, weighted: bool
) -> None:
    logits, target = _case(4)
    valid = target != 255
    weight = torch.rand(4) if weighted else torch.ones(4)
    losses = F.cross_entropy(logits, target, ignore_index=255, reduction="none")[valid]
    labels = target[valid]
    order = losses.argsort(descending=True)
    least = int(min_kept * valid.sum()) if isinstance(min_kept, float) else min_kept
    kept = order[: max(least, int((losses > -math.log(threshold)).sum()))]
    expected = (
        (losses[kept] * weight[labels[kept]]).sum() / weight[labels[kept]].sum() if len(kept) else losses.sum() * 0
    )
    loss = OhemCrossEntropy(threshold, min_kept, class_weight=weight if weighted else None)
    torch.testing.assert_close(loss(logits, target), expected)


@pytest.mark.parametrize(("threshold", "kept"), [(0.7, 40), (0.05, 40), (None, 25), (0.05, 10_000)])
def test_ohem_as_mmsegmentation_has_it(threshold: float | None, kept: int) -> None:
    """Its pixel sampler, written out: the hardest of all images together, a number for each, and a mean over every pixel."""
    generator = torch.Generator().manual_seed(3)
    logits = (3 * torch.randn(2, 5, 8, 12, generator=generator)).requires_grad_()
    labels = torch.randint(0, 5, (2, 8, 12), generator=generator)
    labels[:, 2, 3:9] = 255
    valid, weight = labels != 255, torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    chance = logits.detach().softmax(1).gather(1, labels.where(valid, 0)[:, None])[:, 0][valid]
    ordered = chance.sort().values
    if threshold is None:
        hard = chance <= ordered[2 * kept - 1]
    else:
        hard = chance < max(threshold, float(ordered[min(2 * kept, len(ordered) - 1)]))
    plain = F.cross_entropy(logits, labels, weight, ignore_index=255, reduction="none")
    chosen = torch.zeros(labels.shape)
    chosen[valid] = hard.float()
    expected = (plain * chosen).mean()
    loss = OhemCrossEntropy(
        threshold or 0.7,
        kept,
        None if threshold else math.inf,
        class_weight=weight,
        per_image=True,
        average="all",
    )(logits, labels)
    if kept == 10_000:  # with fewer labelled pixels than asked for, the one that is easiest is left out there
        assert 0 <= loss - expected < 0.05 * expected
        return
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, expected))
    torch.testing.assert_close(ours, theirs)


def test_class_weights_by_hand() -> None:
    counts = [60, 30, 10, 0]
    assert class_weights(counts).tolist() == pytest.approx([1 / math.log(1.02 + p) for p in (0.6, 0.3, 0.1, 0.0)])
    assert class_weights(counts, "inverse").tolist() == pytest.approx([100 / (4 * c) for c in (60, 30, 10)] + [2.5])
    assert class_weights(counts, "median_frequency").tolist() == pytest.approx([0.5, 1.0, 3.0, 3.0])
    seen = class_weights(counts, "median_frequency", image_pixels=[100, 100, 20, 0])
    assert seen.tolist() == pytest.approx([0.5 / 0.6, 0.5 / 0.3, 1.0, 0.5 / 0.3])
    assert class_weights(torch.tensor([5, 5]), "median_frequency").tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("counts", "arguments", "message"),
    [
        ([0, 0], {}, "number of pixels of each class"),
        ([-1, 2], {}, "number of pixels of each class"),
        ([1, 2], {"method": "mean"}, "give one of enet, erfnet, median_frequency, inverse"),
        ([1, 2], {"method": "median_frequency", "image_pixels": [1, 1]}, "none under its count"),
        ([1, 2], {"offset": 1.0}, "above 1"),
    ],
)
def test_class_weights_refuse_what_they_cannot_use(counts: list[int], arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_weights(counts, **arguments)


def test_losses_by_name() -> None:
    logits, target = _case(5)
    weight = torch.rand(5)
    total = build_loss("cross_entropy + 0.5*dice", class_weight=weight, label_smoothing=0.1)
    assert isinstance(total, WeightedSum)
    expected = CrossEntropy(weight, label_smoothing=0.1)(logits, target) + 0.5 * Dice(class_weight=weight)(
        logits, target
    )
    torch.testing.assert_close(total(logits, target), expected)
    assert isinstance(build_loss("ohem", min_kept=100), OhemCrossEntropy)
    assert build_loss("Cross-Entropy", ignore_index=254).ignore_index == 254
    torch.testing.assert_close(build_loss("2*focal")(logits, target), 2 * Focal()(logits, target))


def test_class_weights_reach_every_loss_of_a_sum_afterwards() -> None:
    from segmentarium.contracts import SegmentationModel, Term

    logits, target = _case(5)
    weight = torch.rand(5)
    model = SegmentationModel(num_classes=5)
    model.set_objective(Term("logits", 1.0, build_loss("ohem+lovasz")))
    model.set_class_weights(weight)
    expected = OhemCrossEntropy(class_weight=weight)(logits, target) + Lovasz(class_weight=weight)(logits, target)
    torch.testing.assert_close(model.criterion({"logits": logits}, {"mask": target})["logits"], expected)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("dise", {}, ValueError, "unknown loss 'dise'.*did you mean 'dice'"),
        ("cross_entropy+", {}, ValueError, "unknown loss ''"),
        ("x*dice", {}, ValueError, "factor 'x'; give a number above 0"),
        ("-1*dice", {}, ValueError, "factor '-1'"),
        ("ohem", {"treshold": 0.5}, TypeError, "no argument 'treshold'.*did you mean 'threshold'"),
    ],
)
def test_names_that_no_loss_has(name: str, arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_loss(name, **arguments)


@every_loss
def test_labels_outside_the_classes_are_named(loss: torch.nn.Module) -> None:
    logits, target = _case(5)
    target[0, 0, :2] = torch.tensor([7, -3])
    with pytest.raises(ValueError, match=r"labels -3, 7, but logits with 5 channel\(s\) allow 0\.\.4 and 255"):
        loss(logits, target)
    with pytest.raises(ValueError, match=r"labels .*allow 0\.\.1"):
        loss(logits[:, :1], target)


def test_targets_that_do_not_fit() -> None:
    logits, target = _case(5)
    with pytest.raises(ValueError, match="resize the logits to the target first"):
        CrossEntropy()(logits[..., :-1], target)
    with pytest.raises(ValueError, match=r"label map \(B, H, W\)"):
        CrossEntropy()(logits, target.unsqueeze(1))
    with pytest.raises(TypeError, match=r"torch\.float32; give integer labels"):
        CrossEntropy()(logits, target.float())
    with pytest.raises(ValueError, match=r"3 values.*give 5 weights"):
        CrossEntropy(class_weight=[1.0, 2.0, 3.0])(logits, target)
    check_target(logits, target.to(torch.uint8))
    torch.testing.assert_close(Dice()(logits, target.to(torch.uint8)), Dice()(logits, target))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CrossEntropy(class_weight=[1.0, -1.0]), "0 or more for each class"),
        (lambda: CrossEntropy(class_weight="auto"), "one number a class"),
        (lambda: CrossEntropy(label_smoothing=2.0), "share from 0 to 1"),
        (lambda: CrossEntropy(average="mean"), "'valid' or 'all'"),
        (lambda: CrossEntropy(activation="tanh"), "'softmax' or 'sigmoid'"),
        (lambda: OhemCrossEntropy(threshold=0.0), "probability above 0"),
        (lambda: OhemCrossEntropy(min_kept=1.5), "share from 0 to 1"),
        (lambda: Dice(classes="some"), "'present' or 'all'"),
        (lambda: Dice(smooth=-1.0), "0 or more"),
        (lambda: Focal(gamma=-1.0), "0 or more"),
        (lambda: Lovasz(classes="some"), "'present', 'all' or a list"),
        (lambda: Lovasz(classes=[7])(*_case(5)), r"classes 0\.\.4"),
    ],
)
def test_arguments_out_of_range(build, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        build()
