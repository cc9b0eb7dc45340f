"""BSN's ideas, one by one: there is no public code to compare with, so each is held against what the paper says of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.portrait.bsn import (
    GRID,
    AttributeLoss,
    BoundarySensitive,
    BSNDecoder,
    global_kernel,
    hides_neck,
    soft_labels,
)
from segmentarium.registry import create_model


def disc(radius: int = 12) -> Tensor:
    """(1, 48, 48): a disc in the middle."""
    y, x = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    return (((y - 24) ** 2 + (x - 24) ** 2) < radius**2).long()[None]


def portrait(neck: int) -> Tensor:
    """(1, 64, 48): a head 16 wide, shoulders 40 wide, and between them `neck` columns."""
    mask = torch.zeros(1, 64, 48, dtype=torch.long)
    mask[:, 8:28, 16:32] = 1
    mask[:, 28:36, 24 - neck // 2 : 24 + neck // 2] = 1
    mask[:, 36:, 4:44] = 1
    return mask


# soft labels ----------------------------------------------------------------------------------------------------------


def test_soft_labels_are_the_labels_off_the_boundary_and_three_shares_on_it() -> None:
    mask = disc()
    soft = soft_labels(mask, torch.ones_like(mask, dtype=torch.bool), 2, 9)
    assert soft.shape == (1, 3, 48, 48)
    torch.testing.assert_close(soft.sum(1), torch.ones(1, 48, 48))
    # the contour dilated by the window: outside, the label itself
    dilated = F.max_pool2d(mask.float(), 9, 1, 4)
    eroded = -F.max_pool2d(-mask.float(), 9, 1, 4)
    band = (dilated != eroded)[0]
    assert torch.equal(soft[0, 2] > 0, band)
    torch.testing.assert_close(soft[0, :2, ~band], F.one_hot(mask[0], 2).permute(2, 0, 1)[:, ~band].float())
    # most of a boundary where both have the same share, and never more than half of it
    assert 0.45 < soft[0, 2].max() <= 0.5
    row = soft[0, :, 24, 24:]  # from the middle outwards
    assert (row[1].diff() <= 1e-6).all()
    assert (row[0].diff() >= -1e-6).all()
    assert 10 <= int(row[2].argmax()) <= 13


def test_a_straight_edge_has_the_shares_that_were_chosen() -> None:
    mask = torch.zeros(1, 20, 20, dtype=torch.long)
    mask[..., 10:] = 1
    soft = soft_labels(mask, torch.ones_like(mask, dtype=torch.bool), 2, 9)[0, :, 10]
    share = 5 / 9  # of column 10's window is person
    torch.testing.assert_close(soft[:, 10], torch.tensor([(1 - share) * share, share * share, 1 - share]))


def test_ignored_pixels_take_no_part_in_the_shares() -> None:
    mask = disc()
    valid = torch.ones_like(mask, dtype=torch.bool)
    valid[..., 24:] = False
    soft = soft_labels(mask, valid, 2, 9)
    assert (soft[..., 24:] == 0).all()
    torch.testing.assert_close(soft[..., :24].sum(1), torch.ones(1, 48, 24))
    assert soft[0, 2, 24, 23] == 0  # beside ignored pixels, but only person is seen


# the global kernel ----------------------------------------------------------------------------------------------------


def test_the_kernel_is_greatest_where_half_of_the_masks_agree() -> None:
    person = torch.tensor([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
    kernel = global_kernel(torch.stack([1 - person, person])[:, None])[0]
    torch.testing.assert_close(kernel, 1 + 4 * person * (1 - person))
    assert kernel.argmax() == 3
    torch.testing.assert_close(kernel, kernel.flip(0))
    torch.testing.assert_close(global_kernel(torch.full((5, 1, 1), 0.2)), torch.tensor([[2.0]]))


def test_the_mean_is_that_of_the_training_masks_and_stays_with_the_weights() -> None:
    loss = BoundarySensitive(2).train()
    masks = torch.cat([disc(8), disc(12), disc(16), disc(20)])
    for pair in masks.split(2):
        loss(torch.zeros(2, 3, 48, 48), pair)
    mean = masks.float().mean(0, keepdim=True)[:, None]
    torch.testing.assert_close(loss.mean_mask()[1], F.adaptive_avg_pool2d(mean, GRID)[0, 0])
    before = loss.seen.clone()
    loss.eval()(torch.zeros(2, 3, 48, 48), masks[:2])
    assert torch.equal(loss.seen, before)
    assert "losses.logits.seen" in create_model("bsn", backbone="resnet18").state_dict()


def test_an_error_costs_more_where_outlines_run() -> None:
    loss = BoundarySensitive(2).eval()
    loss.observe(torch.cat([disc(8), disc(16)]), torch.ones(2, 48, 48, dtype=torch.bool))
    truth = torch.zeros(1, 48, 48, dtype=torch.long)

    def cost(row: int, column: int) -> float:
        logits = torch.zeros(1, 3, 48, 48)
        logits[:, 0] = 9
        logits[:, :, row, column] = torch.tensor([0.0, 9.0, 0.0])
        return float(loss(logits, truth))

    assert cost(24, 36) > 1.8 * cost(2, 2)  # between the radii, against a corner
    assert cost(24, 24) == pytest.approx(cost(2, 2), rel=1e-3)  # all masks agree in the middle too


def test_before_any_mask_all_pixels_weigh_the_same() -> None:
    loss = BoundarySensitive(2).eval()
    assert torch.equal(global_kernel(loss.mean_mask()), torch.ones(GRID, GRID))
    logits = torch.randn(1, 3, 48, 48)
    soft = soft_labels(disc(), torch.ones(1, 48, 48, dtype=torch.bool), 2, 9)
    floor = -soft.xlogy(soft).sum(1).mean()
    torch.testing.assert_close(loss(logits, disc()), F.cross_entropy(logits, soft) - floor)
    perfect = (soft + 1e-9).log()
    assert loss(perfect, disc()) == pytest.approx(0, abs=1e-5)


# the attribute --------------------------------------------------------------------------------------------------------


def test_the_mask_says_whether_there_is_a_neck() -> None:
    masks = torch.cat([portrait(8), portrait(16), torch.zeros(1, 64, 48, dtype=torch.long)])
    valid = torch.ones_like(masks, dtype=torch.bool)
    assert hides_neck(masks, valid).tolist() == [0, 1, 255]
    shoulders_only = portrait(8)
    shoulders_only[:, :36] = 0
    assert hides_neck(shoulders_only, valid[:1]).tolist() == [1]


def test_the_classifier_learns_from_the_masks_or_from_labels() -> None:
    model = create_model("bsn", backbone="resnet18").train()
    image, target = torch.randn(2, 3, 64, 48), torch.cat([portrait(8), portrait(16)])
    outputs = model.forward_train(image)
    assert outputs["attribute"].shape == (2, 2)
    losses = model.criterion(outputs, {"mask": target})
    torch.testing.assert_close(losses["attribute"], 0.1 * AttributeLoss()(outputs["attribute"], torch.tensor([0, 1])))
    told = create_model("bsn", backbone="resnet18", attribute_label=True)
    labelled = told.criterion(outputs, {"mask": target, "attribute": torch.tensor([1, 255])})
    expected = 0.1 * F.cross_entropy(outputs["attribute"][:1], torch.tensor([1]))
    torch.testing.assert_close(labelled["attribute"], expected)
    losses["attribute"].backward()
    assert next(model.backbone.parameters()).grad.abs().max() > 0  # the features are shared


# the network ----------------------------------------------------------------------------------------------------------


def test_the_decoder_sums_four_fields_of_view() -> None:
    decoder = BSNDecoder(channels=(16,), strides=(8,), num_classes=2)
    x = torch.randn(1, 16, 9, 11)
    rates = [conv.dilation[0] for conv in decoder.classifiers]
    assert rates == [6, 12, 18, 24]
    scores = torch.stack([conv(x) for conv in decoder.classifiers]).sum(0)
    torch.testing.assert_close(decoder.scores([x]), scores)
    assert torch.equal(decoder([x]), decoder.scores([x])[:, :2])


@pytest.mark.parametrize(("num_classes", "outputs"), [(1, 3), (2, 3), (4, 5)])
def test_the_boundary_and_the_attribute_are_not_deployed(num_classes: int, outputs: int) -> None:
    model = create_model("bsn", backbone="resnet18", num_classes=num_classes).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert model.forward_train(image)["logits"].shape[1] == outputs
        deployed = model.deploy()
        assert deployed.decoder.classifiers[0].out_channels == num_classes
        torch.testing.assert_close(deployed(image), model(image), atol=1e-4, rtol=1e-4)
    assert not [key for key in deployed.state_dict() if "attribute" in key or "seen" in key]
