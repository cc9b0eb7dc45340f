"""ConvNeXt against timm, torchvision and transformers, live; mmpretrain's and the authors' tables against timm's through ours."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt
from transformers import ConvNextConfig, ConvNextForImageClassification

from segmentarium.backbones import create_backbone
from segmentarium.backbones.convnext import BLOCKS_A_LAYER, Block
from segmentarium.layers.transformer import LayerScale
from segmentarium.registry import create_model
from tests.parity.comparison import exercised, recognised, relative_error

DIMS, DEPTHS = (8, 16, 24, 32), (1, 2, 3, 1)
IMAGE = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))


def timm_model(**arguments: Any) -> Any:
    return exercised(timm.create_model("convnext_tiny", dims=DIMS, depths=DEPTHS, num_classes=10, **arguments))


@pytest.mark.parametrize(("conv_mlp", "name"), [(False, "convnext/timm"), (True, "convnext/timm_small")])
@torch.inference_mode()
def test_equals_timm(conv_mlp: bool, name: str) -> None:
    theirs = timm_model(conv_mlp=conv_mlp)
    ours = recognised(theirs.state_dict(), name)
    assert relative_error(ours.classify(IMAGE), theirs(IMAGE)) < 1e-4
    for mine, reference in zip(ours(IMAGE), theirs.forward_intermediates(IMAGE, intermediates_only=True), strict=True):
        assert relative_error(mine, reference) < 1e-4


@torch.inference_mode()
def test_equals_torchvision() -> None:
    settings = [CNBlockConfig(a, b, n) for a, b, n in zip(DIMS, (*DIMS[1:], None), DEPTHS, strict=True)]
    theirs = exercised(TorchvisionConvNeXt(settings, num_classes=10))
    ours = recognised(theirs.state_dict(), "convnext/torchvision")
    assert relative_error(ours.classify(IMAGE), theirs(IMAGE)) < 1e-4
    assert relative_error(ours(IMAGE)[-1], theirs.features(IMAGE)) < 1e-4


@torch.inference_mode()
def test_equals_transformers() -> None:
    config = ConvNextConfig(hidden_sizes=list(DIMS), depths=list(DEPTHS), num_labels=10)
    theirs = exercised(ConvNextForImageClassification(config))
    ours = recognised(theirs.state_dict(), "convnext/transformers")
    told = theirs(IMAGE, output_hidden_states=True)
    assert relative_error(ours.classify(IMAGE), told.logits) < 1e-4
    for mine, reference in zip(ours(IMAGE), told.hidden_states[1:], strict=True):
        assert relative_error(mine, reference) < 1e-4


def renamed(
    state: dict[str, Tensor], blocks: tuple[str, str, str], prefix: str, norm: str, head: str
) -> dict[str, Tensor]:
    """A state of timm's under the authors' names, or mmpretrain's, as timm's own converter pairs them."""
    found = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "stem":
            key = ".".join(["downsample_layers.0", *parts[1:]])
        elif parts[2:3] == ["downsample"]:
            key = ".".join(["downsample_layers", parts[1], *parts[3:]])
        elif parts[0] == "stages":
            new = dict(zip(("conv_dw", "mlp.fc1", "mlp.fc2"), blocks, strict=True))
            layer = ".".join(parts[4:-1])
            key = ".".join(["stages", parts[1], parts[3], *([new.get(layer, layer)] if layer else []), parts[-1]])
        elif key.startswith("head.norm"):
            key = f"{norm}.{parts[-1]}"
        elif key.startswith("head.fc"):
            found[f"{head}.{parts[-1]}"] = value
            continue
        found[prefix + key] = value
    return found


authors = partial(renamed, blocks=("dwconv", "pwconv1", "pwconv2"), prefix="", norm="norm", head="head")
mmpretrain = partial(
    renamed,
    blocks=("depthwise_conv", "pointwise_conv1", "pointwise_conv2"),
    prefix="backbone.",
    norm="norm3",
    head="head.fc",
)


@torch.inference_mode()
def test_the_other_tables_give_the_same_scores() -> None:
    theirs = timm_model()
    state = dict(theirs.state_dict())
    for name, rename in (("convnext/authors", authors), ("convnext/mmpretrain", mmpretrain)):
        ours = recognised(rename(state), name)
        assert relative_error(ours.classify(IMAGE), theirs(IMAGE)) < 1e-4
    converted = timm.models.convnext.checkpoint_filter_fn(authors(state), theirs)
    assert all(torch.equal(converted[key], value) for key, value in state.items())


@torch.inference_mode()
def test_mmseg_s_features_are_normed_each_by_its_own() -> None:
    theirs = timm_model()
    state = {
        k: v for k, v in mmpretrain(dict(theirs.state_dict())).items() if not k.startswith(("head", "backbone.norm"))
    }
    for i in (1, 3):
        state |= {f"backbone.norm{i}.weight": torch.rand(DIMS[i]), f"backbone.norm{i}.bias": torch.rand(DIMS[i])}
    ours = recognised(state, "convnext/mmseg")
    assert ours.out_indices == (1, 3)
    assert ours.not_pretrained() == {"norms.1.weight", "norms.1.bias", "norms.3.weight", "norms.3.bias"}
    features = theirs.forward_intermediates(IMAGE, indices=[1, 3], intermediates_only=True)
    for i, mine, plain in zip((1, 3), ours(IMAGE), features, strict=True):
        mean, var = plain.mean(1, keepdim=True), plain.var(1, keepdim=True, unbiased=False)
        weight, bias = (state[f"backbone.norm{i}.{kind}"].view(-1, 1, 1) for kind in ("weight", "bias"))
        assert relative_error(mine, (plain - mean) / (var + 1e-6).sqrt() * weight + bias) < 1e-4


@torch.inference_mode()
def test_a_block_copies_no_map_and_starts_as_the_identity() -> None:
    block = Block(8, 1e-6, 0.0).eval()
    x = torch.randn(1, 8, 9, 11).contiguous(memory_format=torch.channels_last)
    seen = []
    for module in (block.norm, block.mlp, block.mlp.fc2):
        module.register_forward_pre_hook(lambda _, given: seen.append(given[0].is_contiguous()))
    y = block(x)
    assert seen == [True] * 3
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(y, x, atol=1e-4)


@torch.inference_mode()
def test_deploy_folds_the_factors() -> None:
    model = create_model("convnext_tiny", dims=DIMS, depths=DEPTHS, num_classes=5)
    exercised(model)
    deployed = model.deploy()
    assert not any(isinstance(module, LayerScale) for module in deployed.modules())
    assert relative_error(deployed(IMAGE), model(IMAGE)) < 1e-4


def test_layers_are_the_authors_twelve() -> None:
    """Their optimiser's rule for S to XL: three blocks a layer, patches with the blocks behind them."""
    with torch.device("meta"):
        backbone = create_backbone("convnext_small", num_classes=1000)
    assert (backbone.num_layers, BLOCKS_A_LAYER) == (13, 3)
    for name, layer in {
        "stages.0.embedding.proj.weight": 0,
        "stages.0.blocks.2.mlp.fc1.weight": 1,
        "stages.1.embedding.norm.weight": 2,
        "stages.2.embedding.proj.weight": 3,
        "stages.2.blocks.2.scale.gamma": 3,
        "stages.2.blocks.3.scale.gamma": 4,
        "stages.2.blocks.26.norm.bias": 11,
        "stages.3.embedding.proj.bias": 12,
        "stages.3.blocks.0.depthwise.weight": 12,
        "norm.weight": 13,
    }.items():
        assert backbone.layer_of(name) == layer, name
