"""DFANet: the paper's two variants against their description.  Its stored outputs: test_layouts.py."""

from __future__ import annotations

import pytest
import torch

from segmentarium.realtime.dfanet import DFANet, FullyConnectedAttention
from segmentarium.registry import create_model


@pytest.mark.parametrize(("name", "widths"), [("dfanet_a", (48, 96, 192)), ("dfanet_b", (32, 64, 128))])
def test_the_papers_variants(name, widths):
    with torch.device("meta"):
        model = create_model(name, num_classes=3).eval()
        image = torch.empty(1, 3, 129, 193)
        seen = []
        for network in model.networks:
            network.register_forward_hook(lambda _module, _given, maps: seen.append([tuple(x.shape[1:]) for x in maps]))
        with torch.no_grad():
            assert model(image).shape == (1, 3, 129, 193)
    for network in model.networks:
        for stage, width, blocks in zip(("enc2", "enc3", "enc4"), widths, (4, 6, 4), strict=True):
            convs = [[conv.pointwise.conv.out_channels for conv in block.convs] for block in getattr(network, stage)]
            assert convs == blocks * [[width // 4, width // 4, width]]
    # 1/4, 1/8, 1/16 of the first network; each following one begins where the one before it did, at half the size
    sizes = {4: (33, 49), 8: (17, 25), 16: (9, 13), 32: (5, 7), 64: (3, 4)}
    for maps, strides in zip(seen, ((4, 8, 16, 16), (8, 16, 32, 32), (16, 32, 64, 64)), strict=True):
        channels = (*widths, widths[-1])
        assert maps == [(c, *sizes[stride]) for c, stride in zip(channels, strides, strict=True)]
    assert len(model.decoder.deep) == 3


def test_each_network_is_fed_by_the_one_before():
    model = DFANet(num_classes=2, form="paper", widths=(8, 8, 8), depths=(1, 1, 1))
    given = []
    for network in model.networks:
        for stage in ("enc2", "enc3", "enc4"):
            getattr(network, stage).register_forward_pre_hook(
                lambda _module, x, network=network, stage=stage: given.append((network, stage, x[0].detach()))
            )
    made = []
    for network in model.networks:
        network.register_forward_hook(lambda _module, _x, maps: made.append([x.detach() for x in maps]))
    model(torch.randn(2, 3, 64, 64))
    inputs = [{stage: x for network, stage, x in given if network is wanted} for wanted in model.networks]
    for before, maps, now in zip(made, made[1:], inputs[1:], strict=False):
        assert torch.equal(now["enc2"][:, :8], before[0])  # sub-network: its shallow map beside its attention map
        assert torch.equal(now["enc3"], torch.cat([maps[0], before[1]], 1))  # sub-stage
        assert torch.equal(now["enc4"], torch.cat([maps[1], before[2]], 1))


def test_the_papers_form_learns_and_deploys():
    model = DFANet(num_classes=3, form="paper", widths=(8, 12, 16), depths=(1, 2, 1))
    image, target = torch.randn(2, 3, 129, 97), torch.randint(0, 3, (2, 129, 97))
    loss = model.criterion(model.forward_train(image), {"mask": target})["logits"]
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    deployed = model.eval().deploy()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in deployed.modules())
    with torch.inference_mode():
        expected = model(image)
        assert (deployed(image) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_attention_weighs_channels_by_their_means():
    attention = FullyConnectedAttention(4, bias=True)
    x = torch.rand(2, 4, 5, 7) + 0.1
    ratio = attention(x) / x
    assert torch.allclose(ratio, ratio[:, :, :1, :1].expand_as(ratio), atol=1e-6)
    assert ((ratio > 0) & (ratio < 1)).all()


@pytest.mark.parametrize(("argument", "value"), [("form", "xception"), ("widths", (48, 96, 190))])
def test_impossible_variants_are_named(argument, value):
    with pytest.raises(ValueError, match=argument):
        DFANet(**{argument: value})
