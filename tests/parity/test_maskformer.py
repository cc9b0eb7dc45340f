"""MaskFormer: the loss of the authors, values and matching; whole networks live against transformers; the other layouts' keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from segmentarium import create_model
from segmentarium.contracts import MaskSet
from segmentarium.losses import FocalSetLoss, SetLoss, segments_of
from segmentarium.meta import on_meta
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, as_theirs, example, exercised, randomise, relative_error

NAMES = {"class": "ce", "mask": "mask", "dice": "dice"}


def loss_golden(golden: ModuleType, name: str) -> tuple[dict[str, Tensor], Tensor, dict[str, np.ndarray]]:
    """Outputs by our names, the label maps, and what is stored."""
    description, arrays = golden.load(name)
    outputs = {}
    for given in description["inputs"]:
        layer, what = given.split("_")
        suffix = "" if layer == "pred" else f"_{layer.removeprefix('aux')}"
        outputs[f"{'class' if what == 'logits' else 'mask'}_logits{suffix}"] = example(golden, description, given)
    return outputs, torch.from_numpy(arrays["target/label"]), arrays


def assert_losses(losses: dict[str, Tensor], weights: dict[str, float], arrays: dict[str, np.ndarray]) -> None:
    """The objective's, named and weighted, against the stored, of which "total" is weighted."""
    for layer, suffix in (("last", ""), ("aux_0", "_0"), ("aux_1", "_1")):
        for part, theirs in NAMES.items():
            stored = float(arrays[f"loss/loss_{theirs}{suffix}"])
            assert float(losses[f"{layer} {part}"]) / weights[part] == pytest.approx(stored, rel=TOLERANCE)
    assert float(sum(losses.values())) == pytest.approx(float(arrays["loss/total"]), rel=TOLERANCE)


def assert_matching(loss: SetLoss, outputs: dict[str, Tensor], labels: Tensor, stored: list[np.ndarray]) -> None:
    pictures = [picture._replace(valid=None) for picture in segments_of(labels, 6)]
    both = (outputs["class_logits"], outputs["mask_logits"], pictures)
    for one, pairs in zip(zip(*both, strict=True), stored, strict=True):
        assert np.array_equal(torch.stack(loss.match(*one)).numpy(), pairs)


def test_the_loss_is_the_authors(golden: ModuleType) -> None:
    outputs, labels, arrays = loss_golden(golden, "transformer/maskformer-loss")
    with on_meta():  # for its objective alone
        model = create_model("maskformer_resnet50", num_classes=6, layers=3, ignored="background")
    assert_losses(model.criterion(outputs, {"mask": labels}), {"class": 1.0, "mask": 20.0, "dice": 1.0}, arrays)
    loss = FocalSetLoss({"class": 1.0, "mask": 20.0, "dice": 1.0}, ignored="background")
    assert_matching(loss, outputs, labels, [arrays["match/0"], arrays["match/1"]])
    # and by default ignored pixels count nowhere
    without = FocalSetLoss({"class": 1.0, "mask": 20.0, "dice": 1.0})(
        outputs["class_logits"], outputs["mask_logits"], labels
    )
    assert float(without["mask"]) != pytest.approx(float(arrays["loss/loss_mask"]), rel=5e-4)


# live -------------------------------------------------------------------------------------------------------------------


def saved(model: Any, folder: Path) -> dict[str, Tensor]:
    """The keys of files, which newer versions rename in memory."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def carried_over(state: dict[str, Tensor], layout_name: str, **told: Any) -> Any:
    """Our network with these weights, by their layout, which is recognised and goes back to the same tensors.

    told   arguments that no key tells
    """
    layout = recognise(state)
    assert layout.name == layout_name
    ours = create_model(layout.model, **{**layout.arguments(state), **told}).eval()
    report = load_state(ours, state, rules=layout.rules)
    assert report.complete
    assert all("criterion" in key or "layernorm" in key or "index" in key for key in report.dropped)
    back = to_theirs(ours.state_dict(), layout.rules)
    assert back.keys() == state.keys() - set(report.dropped)
    assert all(torch.equal(value, state[key]) for key, value in back.items())
    return ours


def assert_equals_transformers(ours: Any, theirs: Any, image: Tensor, layers: Sequence[Any] = ()) -> None:
    """Outputs of every layer, and the semantic scores as its processor makes them.

    layers   of theirs, whose class and mask logits are made of what comes out of each, where it does not give them
    """
    states: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda _m, _given, state: states.append(state)) for layer in layers]
    with torch.inference_mode():
        found, outputs = theirs(pixel_values=image), ours.forward_train(image)
        pixels, norm = found.pixel_decoder_last_hidden_state, theirs.model.transformer_module.decoder.layernorm
        earlier = found.auxiliary_logits or [
            {
                "class_queries_logits": theirs.class_predictor(norm(state)),
                "masks_queries_logits": (theirs.mask_embedder(norm(state)) @ pixels.flatten(2)).unflatten(
                    2, pixels.shape[2:]
                ),
            }
            for state in states[:-1]
        ]
        for hook in hooks:
            hook.remove()
        assert len(earlier) > 1
        assert len(outputs) == 2 * len(earlier) + 2
        assert relative_error(outputs["class_logits"], found.class_queries_logits) <= TOLERANCE
        assert relative_error(outputs["mask_logits"], found.masks_queries_logits) <= TOLERANCE
        for i, layer in enumerate(earlier):
            assert relative_error(outputs[f"class_logits_{i}"], layer["class_queries_logits"]) <= TOLERANCE
            assert relative_error(outputs[f"mask_logits_{i}"], layer["masks_queries_logits"]) <= TOLERANCE
        whole = MaskSet(found.class_queries_logits, found.masks_queries_logits).resized(image.shape[-2:])  # type: ignore
        assert relative_error(ours(image), whole.semantic()) <= TOLERANCE


@pytest.mark.parametrize("trunk", ["swin", "resnet"])
def test_equals_transformers(tmp_path: Path, trunk: str) -> None:
    transformers = pytest.importorskip("transformers")
    out = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
    if trunk == "swin":
        backbone = transformers.SwinConfig(
            embed_dim=32, depths=[2, 1, 2, 1], num_heads=[1, 2, 4, 8], window_size=3, **out
        )
    else:
        backbone = transformers.ResNetConfig(
            embedding_size=16, hidden_sizes=[64, 128, 256, 512], depths=[3, 4, 6, 3], layer_type="bottleneck", **out
        )
    decoder = transformers.DetrConfig(
        d_model=32, decoder_layers=3, decoder_attention_heads=4, decoder_ffn_dim=48, num_queries=5, encoder_layers=0,
    )  # fmt: skip
    config = transformers.MaskFormerConfig(
        fpn_feature_size=32, mask_feature_size=64, backbone_config=backbone, decoder_config=decoder, num_labels=4,
    )  # fmt: skip
    theirs = randomise(exercised(transformers.MaskFormerForInstanceSegmentation(config)))
    ours = carried_over(saved(theirs, tmp_path), "maskformer/transformers", heads=4)
    layers = theirs.model.transformer_module.decoder.layers
    assert_equals_transformers(ours, theirs, torch.randn(2, 3, 96, 64), layers)
    assert_equals_transformers(ours, theirs, torch.randn(1, 3, 97, 129), layers)


# the other layouts, by their keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "model", "arguments"),
    [
        ("maskformer/authors", "maskformer_swin_large", {}),
        ("maskformer/authors", "maskformer_resnet101", {"num_classes": 847}),
        ("maskformer/authors_r101c", "maskformer_resnet101_v1s", {}),
        ("maskformer/authors_encoder", "maskformer_resnet50_enc6", {}),
        ("maskformer/transformers", "maskformer_swin_base", {"num_classes": 133, "things": 80}),
        ("maskformer/transformers", "maskformer_resnet101", {}),
        ("maskformer/mmdet", "maskformer_swin_large", {"num_classes": 133, "things": 80}),
        ("maskformer/mmdet_encoder", "maskformer_resnet50_enc6", {}),
        ("maskformer/mmseg", "maskformer_resnet50", {}),
        ("maskformer/mmseg", "maskformer_swin_small", {}),
    ],
)
def test_published_sizes_are_recognised(layout: str, model: str, arguments: dict[str, Any]) -> None:
    as_theirs(layout, model, {}, **arguments)


def test_files_of_earlier_versions_are_read() -> None:
    """The authors' published files have no "pixel_decoder", mmdetection's of version 2 other names of attention."""
    changes = {
        "maskformer/authors_encoder": {"sem_seg_head.pixel_decoder.": "sem_seg_head."},
        "maskformer/mmdet_encoder": {
            ".self_attn.attn.": ".attentions.0.attn.",
            ".cross_attn.attn.": ".attentions.1.attn.",
            ".ffn.layers.": ".ffns.0.layers.",
        },
        "maskformer/transformers": {"_attn.out_proj.": "_attn.o_proj.", ".fc1.": ".mlp.fc1.", ".fc2.": ".mlp.fc2."},
    }
    for name, replaced in changes.items():
        layout = get_layout(name)
        with on_meta():
            state = to_theirs(create_model(layout.model).state_dict(), layout.rules)
        earlier = {}
        for key, value in state.items():
            for now, then in replaced.items():
                key = key.replace(now, then)
            earlier[key] = value
        assert earlier.keys() != state.keys()
        assert recognise(earlier) is layout
        assert layout.arguments(earlier) == layout.arguments(state)
