"""Segmenter's sliding windows, its variant.yml, and mmsegmentation's linear decoder."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from segmentarium.inference.windows import sliding
from segmentarium.layers.resize import resize
from segmentarium.registry import create_model
from segmentarium.weights import CheckpointError, export_layout, load
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.source import open_weights
from segmentarium.weights.table import load_state
from tests.parity.comparison import TOLERANCE, example, golden_state, relative_error

WINDOW, STRIDE, PICTURE = 48, 32, (70, 120)


@torch.inference_mode()
def test_sliding_windows_equal_the_authors(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "transformer/segmenter-sliding")
    layout = recognise(state)
    assert layout.name == "segmenter/authors"
    model = create_model(layout.model, **layout.arguments(state)).eval()
    assert load_state(model, state, rules=layout.rules).complete

    def probabilities(image: Tensor, flipped: bool = False) -> Tensor:
        if min(image.shape[-2:]) < WINDOW:
            ratio = WINDOW / min(image.shape[-2:])
            image = resize(image, tuple(int(side * ratio) for side in image.shape[-2:]))
        logits = sliding(model, image, WINDOW, WINDOW - STRIDE, "mean", spread=False)
        logits = resize(logits, PICTURE)
        return (logits.flip(-1) if flipped else logits).softmax(1)[0]

    image = example(golden, description, "image")
    single = probabilities(image)
    assert relative_error(single, torch.from_numpy(arrays["out/single"])) <= TOLERANCE
    mean = (single + probabilities(image.flip(-1), flipped=True) + probabilities(resize(image, (40, 70)))) / 3
    assert relative_error(mean, torch.from_numpy(arrays["out/multi"])) <= TOLERANCE


VARIANT = """
dataset_kwargs: {dataset: cityscapes, normalization: deit}
inference_kwargs: {im_size: 1024, window_size: 768, window_stride: 512}
net_kwargs:
  backbone: deit_tiny
  image_size: !!python/tuple
  - 128
  - 32
  n_heads: 4
  normalization: deit
"""


def small() -> tuple[Any, dict[str, Tensor]]:
    model = create_model(
        "segmenter_base",
        num_classes=4,
        depth=1,
        backbone="vit_base_patch16_384",
        backbone_arguments={
            "embed_dim": 64,
            "depth": 1,
            "heads": 1,
            "image_size": 64,
            "norm_eps": 1e-5,
            "interpolation": "bilinear",
            "antialias": False,
        },
    ).eval()
    state = dict(export_layout(model, "segmenter/authors"))
    return model, state | {"encoder.head.weight": torch.zeros(1000, 64), "encoder.head.bias": torch.zeros(1000)}


def test_the_file_beside_a_checkpoint_is_read(tmp_path: Path) -> None:
    model, state = small()
    file = tmp_path / "checkpoint.pth"
    torch.save({"model": state, "epoch": 3, "n_cls": 4}, file)
    alone = load(file)
    image = torch.randn(1, 3, 50, 70)
    with torch.inference_mode():
        assert torch.equal(alone(image), model(image))
    assert alone.preprocessing.mean == (0.5, 0.5, 0.5)

    (tmp_path / "variant.yml").write_text(VARIANT)
    stored = open_weights(file)
    told = stored.arguments["backbone_arguments"]
    assert (told["image_size"], told["heads"]) == ((128, 32), 4)  # as many patches as 64×64
    assert stored.header["dataset"] == "cityscapes"
    assert "768 every 512" in stored.header["notes"]
    assert load(file).preprocessing.mean == pytest.approx((0.485, 0.456, 0.406))


@pytest.mark.parametrize("text", ["!!python/object/apply:os.getcwd []", "- 1", "net_kwargs: {image_size: [1}"])
def test_a_file_beside_it_that_is_another_is_refused(tmp_path: Path, text: str) -> None:
    _, state = small()
    torch.save(state, tmp_path / "checkpoint.pth")
    (tmp_path / "variant.yml").write_text(text)
    with pytest.raises(CheckpointError, match=r"variant\.yml is not what segmenter/authors writes"):
        open_weights(tmp_path / "checkpoint.pth")


def test_a_distillation_token_tells_deit() -> None:
    with torch.device("meta"):
        model = create_model("segmenter_deit_base_linear", num_classes=5)
    state = export_layout(model, "segmenter_linear/authors")
    stored = open_weights(state)
    assert state["encoder.pos_embed"].shape[1] == 2 + 32 * 32
    assert stored.entry.name == "segmenter_deit_base_linear"
    assert stored.header["preprocessing"]["mean"][0] == pytest.approx(0.485)


@pytest.mark.parametrize("name", ["tiny", "small", "base", "large", "deit_base", "base8_linear"])
def test_the_published_checkpoints_are_told_apart(name: str) -> None:
    with torch.device("meta"):
        model = create_model(f"segmenter_{name}")
    state = export_layout(model, f"segmenter{'_linear' if 'linear' in name else ''}/authors")
    assert open_weights(state).entry.name == f"segmenter_{name}"


@torch.inference_mode()
def test_mmsegmentations_linear_decoder() -> None:
    layout = get_layout("segmenter_linear/mmseg")
    ways = {"embed_dim": 64, "depth": 1, "heads": 1, "image_size": 64, "antialias": False}
    ours = create_model(layout.model, num_classes=4, backbone="vit_base_patch16_384", backbone_arguments=ways).eval()
    state = export_layout(ours, layout.name)
    assert state["decode_head.conv_seg.weight"].shape == (4, 64, 1, 1)
    assert recognise(state) is layout
    image = torch.randn(1, 3, 64, 96)
    feature = ours.features(image)[-1]
    theirs = torch.nn.functional.conv2d(
        feature, state["decode_head.conv_seg.weight"], state["decode_head.conv_seg.bias"]
    )
    assert torch.allclose(ours.logits(image), theirs, atol=1e-5)
