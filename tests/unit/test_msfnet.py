"""MSFNet has no public code: each of its mechanisms is held against what the paper says of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from segmentarium.losses.class_boundary import ClassBoundary
from segmentarium.realtime.msfnet import MSFNet, MultiFeatureFusion, SpatialAwarePooling
from segmentarium.registry import create_model, entry

STRIDES, CHANNELS = (4, 8, 16, 32), (3, 5, 7, 9)


def small() -> MSFNet:
    torch.manual_seed(0)
    model = create_model("msfnet", num_classes=4, channels=16)
    assert isinstance(model, MSFNet)
    return model


def stages(height: int, width: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(1, c, -(-height // s), -(-width // s), generator=generator, requires_grad=True)
        for c, s in zip(CHANNELS, STRIDES, strict=True)
    ]


# spatial-aware pooling --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_a_window_has_two_strides_and_a_pixel(stride: int) -> None:
    x = torch.zeros(1, 1, 64, 64)
    x[..., 32, 32] = 1.0
    (pooled,) = SpatialAwarePooling([stride])(x)
    assert pooled.shape[-2:] == (64 // stride, 64 // stride)
    seen = pooled[0, 0].nonzero().tolist()
    # the pixel is the centre of a window, and on the edge of the windows next to it: windows overlap
    centre = 32 // stride
    assert seen == [[y, x] for y in range(centre - 1, centre + 2) for x in range(centre - 1, centre + 2)]
    assert pooled.max() == pytest.approx(1 / (2 * stride + 1) ** 2)


def test_pooling_takes_the_mean_of_what_is_inside_the_image() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 13, 18, generator=generator)
    own, pooled = SpatialAwarePooling([1, 4])(x)
    assert own is x
    assert pooled.shape[-2:] == (4, 5)
    for i in range(4):
        for j in range(5):
            window = x[..., max(4 * i - 4, 0) : 4 * i + 5, max(4 * j - 4, 0) : 4 * j + 5]
            torch.testing.assert_close(pooled[..., i, j], window.mean((2, 3)))


# multi-feature fusion ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 96), (97, 129)])
def test_each_resolution_joins_all_stages_that_are_not_coarser(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    fusion = MultiFeatureFusion(CHANNELS, STRIDES, (8, 16, 32), 6).eval()
    features = stages(*size)
    fused = fusion(features)
    assert [tuple(f.shape[-2:]) for f in fused] == [tuple(f.shape[-2:]) for f in features[1:]]
    for feature, used in zip(fused, ([1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]), strict=True):
        gradients = torch.autograd.grad(feature.sum(), features, allow_unused=True, retain_graph=True)
        assert [int(g is not None and bool(g.abs().max() > 0)) for g in gradients] == used


def test_fusion_is_one_convolution_over_the_pooled_stages() -> None:
    torch.manual_seed(0)
    fusion = MultiFeatureFusion(CHANNELS, STRIDES, (8, 16, 32), 6).eval()
    features = stages(64, 96)
    pooled = [F.avg_pool2d(x, 2 * s + 1, s, s, count_include_pad=False) for x, s in zip(features, (4, 2), strict=False)]
    torch.testing.assert_close(fusion(features)[1], fusion.fusions[1](torch.cat([*pooled, features[2]], 1)))


# class boundary supervision ---------------------------------------------------------------------------------------------


def test_two_independent_branches_start_from_the_fused_features_and_end_at_an_eighth() -> None:
    model = small().eval()
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    outputs = model.forward_train(image)
    assert outputs["logits"].shape == (1, 4, 8, 12)
    assert outputs["boundary"].shape == (1, 1, 8, 12)
    assert not {id(p) for p in model.decoder.parameters()} & {id(p) for p in model.boundary.parameters()}
    for branch, output in ((model.decoder, "logits"), (model.boundary, "boundary")):
        other = model.boundary if branch is model.decoder else model.decoder
        wanted = [*branch.parameters(), *other.parameters(), *model.fusion.parameters()]
        gradients = torch.autograd.grad(outputs[output].square().sum(), wanted, allow_unused=True, retain_graph=True)
        count = len(list(branch.parameters()))
        assert all(g is not None for g in gradients[:count])
        assert all(g is None for g in gradients[count : 2 * count])
        assert all(g is not None for g in gradients[2 * count :])  # both train what they share


def test_the_boundary_branch_is_gone_after_training() -> None:
    model = small().eval()
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    deployed = model.deploy()
    assert not [key for key in deployed.state_dict() if key.startswith(("boundary", "losses"))]
    with torch.inference_mode():
        torch.testing.assert_close(deployed(image), model(image), rtol=1e-4, atol=1e-4)


def test_boundary_targets_are_the_band_around_a_change_of_class() -> None:
    target = torch.zeros(1, 16, 32, dtype=torch.long)
    target[..., 16:] = 7
    target[..., 30:] = 255  # the border to what is not labelled is none
    columns = torch.zeros(32, dtype=torch.bool)
    columns[16 - 2 : 16 + 2] = True  # a window of five pixels reaches two to either side
    right = torch.where(columns, 30.0, -30.0).expand(1, 1, 16, 32)
    loss = ClassBoundary(size=5)
    assert loss(right, target) < 1e-6
    for column in (13, 14, 17, 18):
        wrong = right.clone()
        wrong[..., column] *= -1
        assert loss(wrong, target) > 0.5
    unlabelled = right.clone()
    unlabelled[..., 30:] *= -1
    assert loss(unlabelled, target) < 1e-6


def test_boundaries_weigh_as_much_as_everything_else() -> None:
    target = torch.zeros(1, 16, 64, dtype=torch.long)
    target[..., 32:] = 1
    logits = torch.zeros(1, 1, 16, 64)
    band = torch.zeros(64, dtype=torch.bool)
    band[31:33] = True
    certain = torch.where(band, 40.0, 0.0).expand_as(logits)
    loss = ClassBoundary(size=3)
    assert loss(logits, target) == pytest.approx(0.6931, abs=1e-4)
    assert loss(certain, target) == pytest.approx(0.6931 / 2, abs=1e-4)
    uniform = torch.zeros_like(target)
    assert loss(logits, uniform) == pytest.approx(0.6931 / 2, abs=1e-4)  # no boundary: the other half alone


def test_boundary_loss_says_what_it_wants() -> None:
    with pytest.raises(ValueError, match="odd"):
        ClassBoundary(size=4)
    with pytest.raises(ValueError, match="one boundary logit"):
        ClassBoundary()(torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long))


# the objective, the size ------------------------------------------------------------------------------------------------


def test_the_losses_are_summed_with_their_weights() -> None:
    model = create_model("msfnet", num_classes=4, channels=16, boundary_weight=0.25, boundary_size=5)
    assert isinstance(model, MSFNet)
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (2, 4, 6), generator=generator).repeat_interleave(16, 1).repeat_interleave(16, 2)
    outputs = {
        "logits": torch.randn(2, 4, 64, 96, generator=generator),
        "boundary": torch.randn(2, 1, 64, 96, generator=generator),
    }
    losses = model.criterion(outputs, {"mask": target})
    torch.testing.assert_close(losses["logits"], F.cross_entropy(outputs["logits"], target))
    torch.testing.assert_close(losses["boundary"], 0.25 * ClassBoundary(5)(outputs["boundary"], target))
    model.set_class_weights(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    weighted = model.criterion(outputs, {"mask": target})
    expected = F.cross_entropy(outputs["logits"], target, weight=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    torch.testing.assert_close(weighted["logits"], expected)
    torch.testing.assert_close(weighted["boundary"], losses["boundary"])


def test_the_size_that_the_docstring_states() -> None:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = create_model("msfnet", num_classes=19).eval()
        model(torch.empty(1, 3, 512, 1024))
    parameters = sum(p.numel() for key, p in model.named_parameters() if not key.startswith("boundary")) / 1e6
    published = entry("msfnet").card.flops
    assert published is not None
    assert counter.get_total_flops() / 2e9 == pytest.approx(published, rel=0.02)
    assert counter.get_total_flops() / 2e9 == pytest.approx(23.9, abs=0.05)
    assert parameters == pytest.approx(13.3, abs=0.05)


def test_a_dilated_backbone_is_refused() -> None:
    from segmentarium.backbones import create_backbone

    with pytest.raises(ValueError, match="4, 8, 16, 32"):
        create_model("msfnet", backbone=create_backbone("resnet18", output_stride=8))
