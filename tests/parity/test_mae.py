"""MAE against the authors' stored outputs and, live, transformers: predictions, losses and gradients; mmpretrain's table."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from segmentarium.pretraining.mae import fixed_positions
from segmentarium.registry import create_model, entry, variant_of
from segmentarium.weights import load, load_part
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import (
    TOLERANCE,
    example,
    exercised,
    golden_state,
    gradients_in_files,
    relative_error,
)


def published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of published files for what transformers 5 writes."""
    return {key.replace("decoder_encoder.layer.", "decoder_layers."): value for key, value in state.items()}


def carried_over(state: dict[str, Tensor], name: str, **inner: Any) -> Any:
    """Our network with these weights by the layout `name`, which is recognised and whose table reads back the same."""
    layout = recognise(state)
    assert layout.name == name
    arguments = layout.arguments(state)
    arguments["backbone_arguments"] |= inner
    ours = create_model(layout.model, **arguments).eval()
    assert load_state(ours, state, rules=layout.rules).complete
    back = to_theirs(ours.state_dict(), layout.rules)
    state = published(state)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in back)
    return ours


@pytest.mark.parametrize("normalise", [False, True])
@torch.inference_mode()
def test_equals_the_authors(golden: ModuleType, normalise: bool) -> None:
    state, description, arrays = golden_state(golden, "backbone/mae-tiny")
    state |= {"pos_embed": fixed_positions((8, 8), 48, 1), "decoder_pos_embed": fixed_positions((8, 8), 32, 1)}
    layout = recognise(state)
    assert layout.name == "mae/authors"
    arguments = layout.arguments(state)
    assert arguments["backbone_arguments"]["patch"] == 8
    arguments["backbone_arguments"] |= {"heads": 4}
    ours: Any = create_model(layout.model, **{**arguments, "decoder_heads": 4}, normalise=normalise).eval()
    assert load_state(ours, state, rules=layout.rules).complete
    assert sum(p.numel() for p in ours.parameters()) == description["parameters"]
    back = to_theirs(ours.state_dict(), layout.rules)
    assert back.keys() == state.keys()
    image, noise = (example(golden, description, name) for name in description["inputs"])
    outputs = ours.forward_train(image, noise)
    assert relative_error(outputs["prediction"], torch.from_numpy(arrays["out/pred"])) <= TOLERANCE
    assert relative_error(ours.encode(image, noise)[0], torch.from_numpy(arrays["out/latent"])) <= TOLERANCE
    assert torch.equal(outputs["hidden"].float(), torch.from_numpy(arrays["out/mask"]))
    (loss,) = ours.criterion(outputs, {"image": image}).values()
    assert float(loss) == pytest.approx(float(arrays["out/loss"][int(normalise)]), rel=TOLERANCE)
    assert torch.equal(ours.deploy()(image, noise), outputs["prediction"])


def transformers_mae(**more: Any) -> Any:
    config = ViTMAEConfig(
        hidden_size=192, num_hidden_layers=2, num_attention_heads=3, intermediate_size=768, image_size=64, patch_size=16,
        decoder_hidden_size=64, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=256,
        **more,
    )  # fmt: skip
    return exercised(ViTMAEForPreTraining(config))


@pytest.mark.parametrize("normalise", [False, True])
def test_equals_transformers_to_the_gradients(tmp_path: Path, normalise: bool) -> None:
    theirs = transformers_mae(norm_pix_loss=normalise)
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    ours = carried_over(state, "mae/transformers")
    assert recognise(published(state)).name == "mae/transformers"
    ours.losses["pixels"].normalise = normalise
    image, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 16)
    told = theirs(image, noise=noise)
    outputs = ours.forward_train(image, noise)
    assert torch.equal(outputs["hidden"].float(), told.mask)
    assert relative_error(outputs["prediction"], told.logits) <= TOLERANCE
    (loss,) = ours.criterion(outputs, {"image": image}).values()
    assert float(loss) == pytest.approx(float(told.loss), rel=TOLERANCE)
    told.loss.backward()
    loss.backward()
    gradients = published(gradients_in_files(theirs, tmp_path))
    found = {key: torch.zeros_like(p) if p.grad is None else p.grad for key, p in ours.named_parameters()}
    mine = to_theirs(found, get_layout("mae/transformers").rules)
    assert mine.keys() == gradients.keys()
    largest = max(float(value.abs().max()) for value in gradients.values())
    # the key's bias has none but rounding, and the fixed tables have none
    assert all(float((mine[key] - value).abs().max()) <= TOLERANCE * largest for key, value in gradients.items())
    assert sum(float(value.abs().max()) > 0.001 * largest for value in mine.values()) > 0.7 * len(mine)

    wide = torch.randn(
        1, 3, 48, 128
    )  # another grid: the encoder's table is interpolated alike, the decoder's is not in theirs
    drawn = torch.rand(1, 24)
    with torch.no_grad():
        reference = theirs.vit(wide, noise=drawn, interpolate_pos_encoding=True).last_hidden_state
        assert relative_error(ours.encode(wide, drawn)[0], reference) <= TOLERANCE


@torch.inference_mode()
def test_a_file_of_transformers_is_a_network_and_a_trunk(tmp_path: Path) -> None:
    """Whole, by `load`; under another network, where its colours follow."""
    theirs = transformers_mae(mask_ratio=0.0)
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    ours: Any = load(file)
    assert ours.preprocessing.mean == (0.485, 0.456, 0.406)
    state = load_file(file)
    size = {"embed_dim": 192, "depth": 2, "heads": 3, "image_size": 64, "norm_eps": 1e-12}
    network: Any = create_model(
        "segmenter_base", backbone="vit_tiny_patch16_224", backbone_arguments=size, num_classes=3
    ).eval()
    assert network.preprocessing.mean == (0.5, 0.5, 0.5)
    report = load_part(network, "backbone", file)
    assert {key.partition(".")[0] for key in report.dropped} == {"decoder"}
    assert torch.equal(network.backbone.positions, state["vit.embeddings.position_embeddings"])
    assert network.preprocessing.mean == (0.485, 0.456, 0.406)
    image = torch.randn(2, 3, 64, 64)
    told = theirs.vit(image, noise=torch.arange(16.0).expand(2, -1)).last_hidden_state
    ((grid, token),) = network.backbone.forward_tokens(image, (1,))
    assert relative_error(torch.cat([token, grid.flatten(2).transpose(1, 2)], 1), told) <= TOLERANCE


@pytest.mark.parametrize("name", ["mae", "mae_large", "mae_huge"])
@pytest.mark.parametrize("project", ["authors", "transformers", "mmpretrain"])
def test_published_sizes_are_recognised_by_name(name: str, project: str) -> None:
    layout = get_layout(f"mae/{project}")
    with torch.device("meta"):
        model = create_model(name)
    state = to_theirs(model.state_dict(), layout.rules)
    assert recognise(state) is layout
    found, left = variant_of(entry(layout.model), layout.arguments(state))
    assert found.name == name
    assert left["backbone_arguments"].keys() <= {"norm_eps", "antialias"}


def test_an_encoder_s_file_alone_is_a_vit_s(golden: ModuleType) -> None:
    """As the authors publish it for fine-tuning."""
    state, _, _ = golden_state(golden, "backbone/mae-tiny")
    alone = {key: value for key, value in state.items() if not key.startswith("decoder") and key != "mask_token"}
    alone["pos_embed"] = F.pad(fixed_positions((8, 8), 48, 0), (0, 0, 1, 0))
    assert recognise(alone).name == "vit/timm"
