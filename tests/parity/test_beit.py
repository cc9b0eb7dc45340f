"""BEiT live against timm and transformers, and against unilm's stored pretraining."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from segmentarium.backbones import create_backbone
from segmentarium.contracts import Classifier
from segmentarium.registry import create_model, entry, variant_of
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import Rule, load_state, to_theirs
from tests.parity.comparison import TOLERANCE, example, golden_state, gradients_in_files, relative_error, stir

SMALL: dict[str, Any] = {"embed_dim": 64, "depth": 3, "heads": 4}


def carried_over(state: Mapping[str, Tensor], layout_name: str) -> Any:
    """Our network with these weights, by their layout, which must be recognised and go back to the same tensors."""
    layout = recognise(state)
    assert layout.name == layout_name
    ours: Any = create_backbone(layout.model, **layout.arguments(state)).eval()
    report = load_state(ours, state, rules=layout.rules)
    back = to_theirs(ours.state_dict(), layout.rules)
    assert back.keys() == state.keys() - set(report.dropped)
    assert all(torch.equal(back[key], state[key]) for key in back)
    return ours


@pytest.mark.parametrize("shared", [False, True])
@torch.no_grad()
def test_equals_timm(shared: bool) -> None:
    theirs = timm.models.Beit(
        img_size=64, embed_dim=64, depth=3, num_heads=4, num_classes=5, init_values=0.1,
        use_abs_pos_emb=False, use_rel_pos_bias=not shared, use_shared_rel_pos_bias=shared,
    )  # fmt: skip
    stir(theirs)
    indices = {f"blocks.{i}.attn.relative_position_index": torch.zeros(17, 17, dtype=torch.int64) for i in range(3)}
    ours = carried_over(theirs.state_dict() | indices, "beit/unilm")  # whose files have them
    image = torch.randn(2, 3, 64, 64)
    assert relative_error(ours.classify(image), theirs(image)) <= TOLERANCE
    taps = theirs.forward_intermediates(image, indices=[0, 2], return_prefix_tokens=True, intermediates_only=True)
    for (mine, prefix), (reference, class_token) in zip(ours.forward_tokens(image, (0, 2)), taps, strict=True):
        assert relative_error(mine, reference) <= TOLERANCE
        assert relative_error(prefix, class_token) <= TOLERANCE


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
@torch.no_grad()
def test_equals_transformers_at_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    """Theirs interpolates a table as ours does, for whole patches."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BeitConfig(
        image_size=64, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256, num_labels=5,
        use_relative_position_bias=True, use_absolute_position_embeddings=False, use_mask_token=False,
    )  # fmt: skip
    theirs = stir(transformers.BeitForImageClassification(config))
    theirs.save_pretrained(tmp_path)  # the keys of files, which newer versions rename in memory
    ours = carried_over(load_file(tmp_path / "model.safetensors"), "beit/transformers")
    image = torch.randn(2, 3, *size)
    reference = theirs(image, output_hidden_states=True)
    assert relative_error(ours.classify(image), reference.logits) <= TOLERANCE
    for i, (feature, prefix) in enumerate(ours.forward_tokens(image, (0, 1, 2))):
        tokens = torch.cat([prefix, feature.flatten(2).transpose(1, 2)], 1)
        assert relative_error(tokens, reference.hidden_states[i + 1]) <= TOLERANCE


def pretraining(state: Mapping[str, Tensor], layout_name: str, **inner: Any) -> Any:
    """Our pretraining network with these weights, by their layout, which must be recognised and go back to the same tensors."""
    layout = recognise(state)
    assert layout.name == layout_name
    arguments = layout.arguments(state)
    arguments["backbone_arguments"] |= inner
    ours: Any = create_model(layout.model, **arguments).eval()
    report = load_state(ours, state, rules=layout.rules)
    assert report.complete
    back = to_theirs(ours.state_dict(), layout.rules)
    assert back.keys() == state.keys() - set(report.dropped)
    assert all(torch.equal(back[key], state[key]) for key in back)
    return ours


@torch.no_grad()
def test_hidden_patches_are_foreseen_as_by_unilm(golden: ModuleType) -> None:
    """On a grid that is no square: the scores of all patches, of the hidden ones, and the loss."""
    state, description, arrays = golden_state(golden, "backbone/beit-mim-shared-bias")
    ours = pretraining(state, "beit_mim/unilm")
    assert ours.backbone.grid == (4, 6)
    assert sum(p.numel() for p in ours.parameters()) == description["parameters"]
    masked = example(golden, description, "mask_noise") > -0.2
    image = example(golden, description, "x")
    outputs = ours.forward_train(image, masked)
    assert relative_error(outputs["logits"], torch.from_numpy(arrays["out/masked"])) <= TOLERANCE
    assert relative_error(ours(image, masked), torch.from_numpy(arrays["out/all"])) <= TOLERANCE
    (loss,) = ours.criterion(outputs, {"tokens": torch.from_numpy(arrays["target/labels"])}).values()
    assert float(loss) == pytest.approx(float(arrays["out/loss"][0]), rel=TOLERANCE)
    assert relative_error(ours.deploy()(image, masked), ours(image, masked)) <= TOLERANCE


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
def test_hidden_patches_are_foreseen_as_by_transformers_to_the_gradients(
    tmp_path: Path, size: tuple[int, int], shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    transformers = pytest.importorskip("transformers")
    # what it keeps for all its models another test may have made in inference mode, where nothing learns
    kept = transformers.models.beit.modeling_beit.BeitRelativePositionBias
    monkeypatch.setattr(
        kept, "generate_relative_position_index", staticmethod(kept.generate_relative_position_index.__wrapped__)
    )
    config = transformers.BeitConfig(
        image_size=64, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256, vocab_size=20,
        use_shared_relative_position_bias=shared, use_relative_position_bias=not shared, drop_path_rate=0.0,
        use_absolute_position_embeddings=False, use_mask_token=True,
    )  # fmt: skip
    with torch.no_grad():
        theirs = stir(transformers.BeitForMaskedImageModeling(config))
        for token in (theirs.beit.embeddings.cls_token, theirs.beit.embeddings.mask_token):
            token.normal_()  # a norm of zeros has a slope that its epsilon decides
    theirs.save_pretrained(tmp_path)  # the keys of files, which newer versions rename in memory
    ours = pretraining(load_file(tmp_path / "model.safetensors"), "beit_mim/transformers", heads=4)
    count = size[0] * size[1] // 256
    image, masked, tokens = torch.randn(2, 3, *size), torch.rand(2, count) < 0.4, torch.randint(20, (2, count))
    told = theirs(image, bool_masked_pos=masked, labels=tokens[masked])
    outputs = ours.forward_train(image, masked)
    assert relative_error(ours(image, masked), told.logits) <= TOLERANCE
    assert relative_error(outputs["logits"], told.logits[masked]) <= TOLERANCE
    (loss,) = ours.criterion(outputs, {"tokens": tokens}).values()
    assert float(loss) == pytest.approx(float(told.loss), rel=TOLERANCE)
    told.loss.backward()
    loss.backward()
    gradients = gradients_in_files(theirs, tmp_path)
    mine = to_theirs({key: p.grad for key, p in ours.named_parameters()}, get_layout("beit_mim/transformers").rules)
    assert mine.keys() == gradients.keys()
    largest = max(float(value.abs().max()) for value in gradients.values())
    assert all(float((mine[key] - value).abs().max()) <= TOLERANCE * largest for key, value in gradients.items())
    assert all(float(value.abs().max()) > 0 for value in mine.values())


@pytest.mark.parametrize("name", ["beit_mim", "beit_mim_large"])
@pytest.mark.parametrize("project", ["unilm", "transformers", "mmpretrain"])
def test_published_sizes_of_pretraining_are_recognised_by_name(name: str, project: str) -> None:
    layout = get_layout(f"beit_mim/{project}")
    with torch.device("meta"):
        state = to_theirs(create_model(name).state_dict(), layout.rules)
        if project == "mmpretrain":  # whose files hold the tokenizer
            state["target_generator.blocks.input.w"] = torch.empty(256, 3, 7, 7)
    assert recognise(state) is layout
    found, left = variant_of(entry(layout.model), layout.arguments(state))
    assert found.name == name
    assert left["backbone_arguments"] == {}
    assert left["vocabulary"] == 8192


def test_openmmlab_s_files_are_recognised() -> None:
    """The trunk of a square grid alone, as mmsegmentation converts it, and mmpretrain's classifier."""
    ours = create_backbone("beit_b", **SMALL, image_size=64, num_classes=5)
    state = to_theirs(ours.state_dict(), get_layout("beit/mmpretrain").rules)
    assert {"backbone.cls_token", "backbone.ln2.weight", "head.fc.bias"} <= state.keys()
    assert carried_over(state, "beit/mmpretrain").num_classes == 5
    trunk = {key.removeprefix("backbone."): state[key] for key in state if ".layers" in key or "embed" in key}
    carried_over(trunk | {"cls_token": state["backbone.cls_token"]}, "beit/mmseg")


@torch.no_grad()
def test_absolute_places_and_a_bias_of_keys_equal_timm() -> None:
    """timm's has both apart: places with all tables at zero, and what a bias of keys adds is nothing after the softmax."""
    theirs = stir(
        timm.models.Beit(
            img_size=64,
            embed_dim=64,
            depth=3,
            num_heads=4,
            num_classes=5,
            init_values=0.1,
            use_abs_pos_emb=True,
            use_rel_pos_bias=True,
        )
    )
    theirs.pos_embed.data.normal_()
    state = theirs.state_dict()
    ours: Any = create_backbone("beit_b", **SMALL, image_size=64, num_classes=5, absolute=True, key_bias=True).eval()
    for block in ("0", "1", "2"):
        own = f"blocks.{block}.attn."
        key_bias = torch.randn(64)
        state[f"{own}qkv.bias"] = torch.cat([state.pop(f"{own}q_bias"), key_bias, state.pop(f"{own}v_bias")])
    rules = [
        Rule("pos_embed", "places"),
        Rule("blocks.{}.attn.qkv.bias", "blocks.{}.attention.qkv.bias"),
        *get_layout("beit/unilm").rules,
    ]
    assert load_state(ours, state, rules=rules).complete
    image = torch.randn(2, 3, 64, 64)
    assert relative_error(ours.classify(image), theirs(image)) <= TOLERANCE
    assert relative_error(Classifier(ours).eval().deploy()(image), theirs(image)) <= TOLERANCE
    wide = create_backbone("beit_b", **SMALL, image_size=96, absolute=True)
    assert wide.carry("places", ours.places).shape == wide.places.shape == (1, 37, 64)


def test_the_sizes_are_told_apart() -> None:
    layout = get_layout("beit/unilm")
    for name in ("beit_b", "beit_b_384", "beit_l", "beit_l_384", "beit_l_512"):
        with torch.device("meta"):
            state = create_backbone(name, num_classes=3).state_dict()
            arguments = layout.arguments(to_theirs(state, layout.rules))
        assert variant_of(entry("beit_b"), arguments)[0].name == name
