"""SegFormer against the outputs of NVlabs' and mmsegmentation's code, and live against transformers and smp."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch

from segmentarium.backbones import create_backbone
from segmentarium.registry import create_model
from segmentarium.semantic.segformer import AllMLPDecoder
from segmentarium.weights import export_layout, load
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state, to_ours, to_theirs
from tests.parity.comparison import TOLERANCE, exercised, loaded, randomise, recognised, relative_error


@pytest.mark.parametrize("implementation", ["nvlabs", "mmseg"])
def test_the_encoder_alone_is_recognised(golden, implementation):
    whole = loaded(golden, f"segformer/{implementation}", f"transformer/segformer-b0-{implementation}")
    model, state = whole.model, whole.state
    alone = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    layout = recognise(alone)
    assert layout.name == f"mit/{implementation}"
    ours, unexpected, _ = to_ours(alone, layout.rules, {k: v.shape for k, v in model.backbone.state_dict().items()})
    assert not unexpected
    assert all(torch.equal(ours[key], value) for key, value in model.backbone.state_dict().items())


def transformers_config(size: str):
    transformers = pytest.importorskip("transformers")
    if size == "b0":
        return transformers.SegformerConfig(num_labels=5)
    return transformers.SegformerConfig(hidden_sizes=[64, 128, 320, 512], num_labels=5)


@pytest.mark.parametrize("size", ["b0", "b1"])
def test_equals_transformers(tmp_path, size):
    config = transformers_config(size)
    from transformers import SegformerForSemanticSegmentation

    theirs = SegformerForSemanticSegmentation(config).eval()
    with torch.no_grad():
        for name, tensor in theirs.state_dict().items():  # nothing at its neutral value, where mistakes hide
            if tensor.ndim == 1:
                tensor.add_(0.2 * torch.rand_like(tensor) * (1 if "var" in name else torch.randn_like(tensor).sign()))
    theirs.save_pretrained(tmp_path)  # the keys of files, which newer versions rename in memory
    ours = load(tmp_path / "model.safetensors")
    assert ours.registered_name == f"segformer_{size}"
    image = torch.randn(2, 3, 97, 129)
    with torch.inference_mode():
        reference = theirs(image).logits
        output = ours.forward_train(image)["logits"]
    assert output.shape == reference.shape == (2, 5, 25, 33)
    assert (output - reference).abs().max() / reference.abs().max() <= 1e-4


@torch.inference_mode()
def test_equals_smp():
    """Scores at the image's size, features of the encoder alone, and the same keys back."""
    theirs = randomise(exercised(smp.Segformer("mit_b0", encoder_weights=None, classes=5)))
    state = theirs.state_dict()
    layout = recognise(state)
    assert layout.name == "segformer/smp"
    arguments = layout.arguments(state)
    assert (arguments["backbone"], arguments["embed_dim"], arguments["num_classes"]) == ("mit_b0", 256, 5)
    ours = create_model("segformer_b0", **arguments).eval()
    load_state(ours, state, rules=layout.rules)
    back = to_theirs(ours.state_dict(), layout.rules)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())
    image = torch.randn(1, 3, 64, 96)
    assert relative_error(ours(image), theirs(image)) <= TOLERANCE
    encoder = recognised(theirs.encoder.state_dict(), "mit/nvlabs")
    for mine, reference in zip(encoder(image), theirs.encoder(image)[2:], strict=True):
        assert relative_error(mine, reference) <= TOLERANCE


def test_the_sizes_are_told_apart():
    for size in ("b0", "b1", "b2", "b3", "b4", "b5"):
        with torch.device("meta"):
            model = create_model(f"segformer_{size}", num_classes=3, backbone_arguments={"norm_eps": (1e-6, 1e-5)})
        arguments = get_layout("segformer/nvlabs").arguments(export_layout(model, "segformer/nvlabs"))
        assert arguments["backbone"] == f"mit_{size}"
        assert arguments["num_classes"] == 3
        assert arguments["embed_dim"] == (256 if size in ("b0", "b1") else 768)


@pytest.mark.parametrize("projection", ["linear", "conv"])
def test_deploy_form_of_the_decoder_is_equal(projection):
    decoder = AllMLPDecoder(
        channels=(8, 12, 16), strides=(4, 8, 16), num_classes=4, embed_dim=24, projection=projection
    ).eval()
    for module in decoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    features = [torch.randn(2, 8, 25, 33), torch.randn(2, 12, 13, 17), torch.randn(2, 16, 7, 9)]
    with torch.inference_mode():
        reference = decoder(features)
        decoder.reparameterize()
        output = decoder(features)
    assert (output - reference).abs().max() / reference.abs().max() <= 1e-5
    assert decoder.fuse is None


def test_any_backbone_fits_under_the_decoder():
    backbone = create_backbone("mit_b0", in_channels=4, embed_dims=(8, 16, 20, 32), depths=(1, 1, 1, 1))
    model = create_model("segformer_b0", num_classes=3, in_channels=4, backbone=backbone).eval()
    assert model(torch.randn(1, 4, 33, 47)).shape == (1, 3, 33, 47)
