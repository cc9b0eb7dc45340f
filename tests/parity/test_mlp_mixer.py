"""MLP-Mixer against timm, live; mmpretrain's table against timm's through ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.mlp_mixer import MlpMixer
from torch import nn

from segmentarium.backbones import create_backbone
from segmentarium.backbones.mlp_mixer import MixerBlock
from tests.parity.comparison import exercised, recognised, relative_error

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
NAMES = [
    ("stem.proj.", "patch_embed.projection."),
    ("blocks.", "layers."),
    ("mlp_tokens.fc1.", "token_mix.layers.0.0."),
    ("mlp_tokens.fc2.", "token_mix.layers.1."),
    ("mlp_channels.fc1.", "channel_mix.layers.0.0."),
    ("mlp_channels.fc2.", "channel_mix.layers.1."),
    ("norm1.", "ln1."),
    ("norm2.", "ln2."),
]


def timm_mixer() -> Any:
    return exercised(MlpMixer(num_classes=10, img_size=64, patch_size=16, num_blocks=3, embed_dim=32))


@torch.inference_mode()
def test_equals_timm() -> None:
    theirs = timm_mixer()
    ours = recognised(theirs.state_dict(), "mlp_mixer/timm", out_indices=(0, 1, 2))
    assert relative_error(ours.classify(IMAGE), theirs(IMAGE)) < 1e-4
    plain = theirs.forward_intermediates(IMAGE, indices=[0, 1], intermediates_only=True)
    (normed,) = theirs.forward_intermediates(IMAGE, indices=[2], intermediates_only=True, norm=True)
    for mine, reference in zip(ours(IMAGE), [*plain, normed], strict=True):
        assert relative_error(mine, reference) < 1e-4
    assert [tuple(tokens.shape) for _, tokens in ours.forward_tokens(IMAGE, (1,))] == [(2, 0, 32)]


@torch.inference_mode()
def test_mmpretrain_s_table_gives_the_same_but_for_its_epsilon() -> None:
    theirs = timm_mixer()
    state = {}
    for key, value in theirs.state_dict().items():
        if key.startswith("head."):
            state[key.replace("head.", "head.fc.")] = value
            continue
        for given, wanted in NAMES:
            key = key.replace(given, wanted)
        state["backbone." + ("ln1" + key[4:] if key.startswith("norm.") else key)] = value
    ours = recognised(state, "mlp_mixer/mmpretrain")
    assert {m.eps for m in ours.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}
    for module in theirs.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    assert relative_error(ours.classify(IMAGE), theirs(IMAGE)) < 1e-4


@torch.inference_mode()
def test_places_are_mixed_alike_in_all_channels() -> None:
    """The first network sees one channel at a time: a change of one channel's input, norm aside, stays in that channel."""
    block = exercised(MixerBlock(6, 5, 4, 8, 0.0, 1e-6))
    block.norm1, block.channel_mlp = nn.Identity(), nn.Identity()
    block.norm2 = nn.Identity()
    x = torch.randn(1, 5, 6)
    changed = x.clone()
    changed[0, 2, 3] += 1
    difference = (block(changed) - block(x)).abs().amax((0, 1))
    assert (difference > 0).tolist() == [False, False, False, True, False, False]
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.allclose(block(x)[..., order], block(x[..., order]), atol=1e-6)


def test_another_size_is_refused_and_another_grid_can_be_built() -> None:
    mixer = create_backbone("mlp_mixer_s32", depth=1)
    assert mixer.fixed_size == (224, 224)
    with pytest.raises(
        ValueError, match=r"the image is 64×64; this MLPMixer takes 224×224 only.*build it with image_size"
    ):
        mixer(IMAGE)
    assert create_backbone("mlp_mixer_s32", depth=1, image_size=(64, 96))(torch.zeros(1, 3, 64, 96))[0].shape[-2:] == (
        2,
        3,
    )
    with pytest.raises(ValueError, match="image_size is 100×100; give multiples of the patch's side, 32"):
        create_backbone("mlp_mixer_s32", image_size=100)
