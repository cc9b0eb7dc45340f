"""LR-ASPP's mechanisms: the gate, its windows and what is left of them on small maps, which feature is the fine one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segmentarium.registry import create_model
from segmentarium.semantic import lraspp
from segmentarium.semantic.lraspp import LiteASPP, LRASPPDecoder, LRASPPJoinDecoder, windowed_average


@pytest.mark.parametrize("size", [(70, 95), (49, 48), (3, 60)])
def test_windows_made_inside_a_graph_are_those_of_pooling(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(2, 3, *size)
    expected = F.avg_pool2d(x, (min(49, size[0]), min(49, size[1])), (16, 20))
    assert torch.equal(windowed_average(x, 49), expected)
    monkeypatch.setattr(lraspp.torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(windowed_average(x, 49), expected)


@torch.inference_mode()
def test_a_map_within_one_window_is_gated_by_its_whole_mean() -> None:
    windows, whole = LiteASPP(6, 4, 49).eval(), LiteASPP(6, 4, None).eval()
    whole.load_state_dict(windows.state_dict())
    x = torch.randn(2, 6, 30, 49)
    torch.testing.assert_close(windows(x), whole(x))
    large = torch.randn(2, 6, 80, 49)
    assert not torch.allclose(windows(large), whole(large), atol=1e-3)


@torch.inference_mode()
def test_scores_of_two_maps_are_added() -> None:
    decoder = LRASPPDecoder(channels=(4, 6, 8, 10), strides=(4, 8, 16, 16), num_classes=3).eval()
    assert decoder.fine == 1
    features = [torch.randn(1, c, 32 // s * 4, 32 // s * 4) for c, s in zip((4, 6, 8, 10), (4, 8, 16, 16), strict=True)]
    fine_alone = decoder.fine_classifier(features[1])
    x = F.interpolate(decoder.aspp(features[3]), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(decoder(features), fine_alone + decoder.classifier(x))
    decoder.aspp.gate.weight.zero_()  # every channel at a half
    half = decoder.aspp.conv(features[3]) / 2
    torch.testing.assert_close(decoder.aspp(features[3]), half)


def test_another_backbone_is_not_told_what_mobilenet_v3_is() -> None:
    """The variants tell their own backbone how its implementation is built."""
    with torch.device("meta"):
        own = create_model("lraspp", num_classes=3)
        other = create_model("lraspp", num_classes=3, backbone="resnet18")
        paper = create_model("lraspp", num_classes=3, backbone="mobilenet_v3_small", pool_size=49)
    assert own.backbone.taps == [0, 2, 4, 7]
    assert other.backbone.strides == (4, 8, 16, 16)
    assert paper.backbone.taps == [0, 1, 3, 8]
    assert paper.decoder.aspp.pool_size == 49


def test_the_joining_form_needs_finer_features() -> None:
    with pytest.raises(ValueError, match=r"asks for 2 features beside the deepest; this backbone has 2 features"):
        LRASPPJoinDecoder(channels=(8, 16), strides=(8, 16), num_classes=3)
