"""Weights of a part: whose they may be, what fills it, what is left out, and what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.contracts import Preprocessing
from segmentarium.registry import create_model
from segmentarium.weights import (
    HEADER,
    LoadError,
    adapt_input_channels,
    export_layout,
    load,
    load_part,
    read_file,
    save,
)
from tests.parity.comparison import randomise


def backbone_of(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.get_submodule("backbone").state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A ResNet-18 that tells ten classes, normalised in its own way, and its file."""
    torch.manual_seed(0)
    model = randomise(create_model("resnet18", num_classes=10))
    model.preprocessing = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.2, 0.2), 160)
    return model, save(model, tmp_path_factory.mktemp("part") / "resnet18.safetensors")


def test_a_classifier_s_file_has_its_backbone_s_keys_and_rebuilds_it(classifier: tuple[nn.Module, Path]) -> None:
    model, path = classifier
    again = load(path)
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(again(image), model(image))
    assert again.preprocessing == model.preprocessing
    assert again.classes == model.classes


def test_a_classifier_s_file_starts_a_segmenter(
    classifier: tuple[nn.Module, Path], caplog: pytest.LogCaptureFixture
) -> None:
    trained, path = classifier
    model = create_model("pspnet", backbone="resnet18", num_classes=5, backbone_weights=path)
    ours, theirs = backbone_of(model), backbone_of(trained)
    assert same(ours, {key: value for key, value in theirs.items() if not key.startswith("classifier.")})
    assert (model.preprocessing.mean, model.preprocessing.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    assert model.preprocessing.long_side is None  # the scale is the segmenter's
    assert "backbone: images are normalised as for" in caplog.text
    assert "backbone_weights" not in model.given_arguments


def test_the_report_says_what_was_left_out(classifier: tuple[nn.Module, Path]) -> None:
    model = create_model("fcn", backbone="resnet18", num_classes=2, backbone_arguments={"out_indices": (1, 2, 3)})
    report = load_part(model, "backbone", classifier[1])
    assert report.complete
    assert set(report.loaded) == {f"backbone.{key}" for key in backbone_of(model)}
    assert {"classifier.weight", "classifier.bias"} <= set(report.dropped)
    assert "images normalised as the weights': mean (0.5, 0.4, 0.3)" in str(report)


def test_a_segmenter_s_file_starts_another_segmenter(tmp_path: Path) -> None:
    trained = randomise(create_model("fcn", backbone="resnet18", num_classes=3))
    path = save(trained, tmp_path / "fcn.safetensors")
    model = create_model("deeplabv3plus", backbone="resnet18", num_classes=7, output_stride=8, backbone_weights=path)
    assert same(backbone_of(model), backbone_of(trained))
    with pytest.raises(ValueError, match="holds weights of 'fcn', which has no part 'encoder'"):
        load_part(create_model("erfnet", num_classes=2), "encoder", path)


def test_a_public_classifier_starts_a_segmenter(tmp_path: Path) -> None:
    theirs = randomise(torchvision.models.resnet18(weights=None))
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    model = create_model("pspnet", backbone="resnet18", num_classes=5, backbone_weights=tmp_path / "resnet18.pth")
    assert torch.equal(model.backbone.stem[0].conv.weight, theirs.conv1.weight)
    assert torch.equal(model.backbone.layer4[1].conv2.conv.weight, theirs.layer4[1].conv2.weight)


def test_a_public_segmenter_starts_another_one() -> None:
    trained = randomise(create_model("pspnet_resnet50", backbone="resnet18_v1c", num_classes=3))
    model = create_model("fcn", backbone="resnet18_v1c", num_classes=5)
    report = load_part(model, "backbone", export_layout(trained, "pspnet/mmseg"))
    assert report.complete
    assert same(backbone_of(model), backbone_of(trained))


@pytest.mark.parametrize("in_channels", [1, 5])
def test_other_input_channels_are_adapted(classifier: tuple[nn.Module, Path], in_channels: int) -> None:
    trained, path = classifier
    model = create_model("fcn", backbone="resnet18", num_classes=2, in_channels=in_channels)
    report = load_part(model, "backbone", path)
    assert report.adapted == ["backbone.stem.0.conv.weight"]
    expected = adapt_input_channels(trained.backbone.stem[0].conv.weight, in_channels)
    assert torch.equal(model.backbone.stem[0].conv.weight, expected)
    assert len(model.preprocessing.mean) == in_channels


def test_a_larger_network_of_the_family_does_not_fill_a_smaller_one(tmp_path: Path) -> None:
    """ResNet-34 has a tensor for each of ResNet-18's, of its shape; and blocks beside them that would go unnoticed."""
    path = save(create_model("resnet34", num_classes=2), tmp_path / "resnet34.safetensors")
    model = create_model("fcn", backbone="resnet18", num_classes=2)
    before = backbone_of(model)
    with pytest.raises(LoadError, match="does not fit the backbone of 'fcn'") as refused:
        load_part(model, "backbone", path)
    assert "backbone.layer1.2.conv1.conv.weight" in refused.value.report.unexpected
    assert same(backbone_of(model), before)


def test_a_file_that_ends_too_early_does_not_fill_a_pyramid() -> None:
    theirs = torchvision.models.mobilenet_v2(weights=None).state_dict()
    early = {key: value for key, value in theirs.items() if int((key + ".").split(".")[1]) < 14 and "features" in key}
    model = create_model("fcn", backbone="mobilenet_v2", num_classes=2, output_stride=None)
    with pytest.raises(LoadError, match=r"missing in the file: backbone\.stages\.5\.0\.expand\.conv\.weight"):
        load_part(model, "backbone", early, layout="mobilenet_v2/torchvision")
    report = load_part(model, "backbone", early, layout="mobilenet_v2/torchvision", strict=False)
    assert torch.equal(model.backbone.stages[4][0].expand.conv.weight, theirs["features.11.conv.0.0.weight"])
    assert report.missing
    shallow = create_model("fcn", backbone="mobilenet_v2", num_classes=2, backbone_arguments={"out_indices": (1, 2)})
    assert load_part(shallow, "backbone", theirs).complete


def test_the_word_that_works_and_the_part_that_is_not_there(classifier: tuple[nn.Module, Path]) -> None:
    _, path = classifier
    with pytest.raises(ValueError, match="not of 'pspnet'; give them as backbone_weights=, create that model"):
        create_model("pspnet", backbone="resnet18", num_classes=2, weights=path)
    for word in ("pretrained", "encoder_weights"):
        with pytest.raises(TypeError, match=f"no argument '{word}': here it is called 'backbone_weights'"):
            create_model("pspnet", backbone="resnet18", num_classes=2, **{word: True})
    with pytest.raises(ValueError, match=r"ERFNet has no part 'backbone'; its parts: encoder, "):
        create_model("erfnet", num_classes=2, backbone_weights=path)


def test_a_backbone_alone_and_a_classifier_of_other_classes(classifier: tuple[nn.Module, Path]) -> None:
    trained, path = classifier
    alone = create_backbone("resnet18")
    assert load_part(alone, "", path).complete
    assert torch.equal(alone.layer4[0].conv1.conv.weight, trained.backbone.layer4[0].conv1.conv.weight)
    assert alone.preprocessing.mean == (0.5, 0.4, 0.3)
    other = create_model("resnet18", num_classes=4)
    own = other.backbone.classifier.weight.clone()
    report = load_part(other, "backbone", path)
    assert [key for key, _, _ in report.mismatched] == ["backbone.classifier.weight", "backbone.classifier.bias"]
    assert torch.equal(other.backbone.classifier.weight, own)
    assert torch.equal(other.backbone.stem[0].conv.weight, trained.backbone.stem[0].conv.weight)


def test_a_backbone_without_a_classifier_starts_a_classifier(tmp_path: Path) -> None:
    theirs = randomise(torchvision.models.mobilenet_v2(weights=None))
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("classifier.")}
    torch.save(state, tmp_path / "trunk.pth")
    with pytest.raises(ValueError, match="holds the backbone 'mobilenet_v2' without a classifier; give it as"):
        load(tmp_path / "trunk.pth")
    model = create_model("mobilenet_v2", num_classes=6, weights=tmp_path / "trunk.pth")
    assert torch.equal(model.backbone.stem.conv.weight, theirs.features[0][0].weight)
    assert model.num_classes == 6


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, nn.Module]:
    """timm's published models by name, made up: nothing is fetched."""
    made: dict[str, nn.Module] = {}
    create = timm.create_model

    def answer(name: str, *, pretrained: bool = False, **arguments: object) -> nn.Module:
        if not pretrained:
            return create(name, **arguments)
        assert not arguments
        made[name] = randomise(create(name))
        return made[name]

    monkeypatch.setattr(timm, "create_model", answer)
    return made


def test_timm_s_weights_fill_a_backbone_of_ours(published: dict[str, nn.Module]) -> None:
    model = create_model("pspnet", backbone="resnet18", num_classes=2, backbone_weights="timm:resnet18")
    assert torch.equal(model.backbone.stem[0].conv.weight, published["resnet18"].conv1.weight)


def test_timm_s_weights_fill_timm_s_backbone_with_their_normalisation(
    published: dict[str, nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    name = "vit_tiny_patch16_224"
    with caplog.at_level(logging.WARNING, "segmentarium"):
        model = create_model(
            "segformer_b0", backbone=f"timm:{name}", num_classes=2, embed_dim=16, backbone_weights=f"timm:{name}"
        )
    theirs = published[name].state_dict()
    ours = backbone_of(model)
    assert torch.equal(ours["body.patch_embed.proj.weight"], theirs["patch_embed.proj.weight"])
    assert all(torch.equal(value, theirs[key.removeprefix("body.")]) for key, value in ours.items())
    assert model.preprocessing.mean == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="the backbone is timm's 'vit_tiny_patch16_224'; 'timm:resnet18' are weights"):
        load_part(model, "backbone", "timm:resnet18")


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224"])
def test_files_from_when_timm_wrapped_its_features_still_load(tmp_path: Path, name: str) -> None:
    """Their keys were those of timm's `features_only`: flattened in some, under "model." in others."""
    from safetensors.torch import save_file

    model = randomise(create_model("segformer_b0", backbone=f"timm:{name}", num_classes=2, embed_dim=16))
    path = save(model, tmp_path / "model.safetensors")
    wrapped = timm.create_model(name, features_only=True).state_dict()
    state, header = read_file(path)
    flat = {key.replace(".", "_"): key for key in state}
    renamed = {
        f"backbone.body.{key}": state[flat[f"backbone_body_{key.removeprefix('model.').replace('.', '_')}"]]
        for key in wrapped
    }
    assert all(key not in state for key in renamed)
    others = {key: value for key, value in state.items() if not key.startswith("backbone.")}
    save_file({**others, **renamed}, tmp_path / "old.safetensors", metadata={HEADER: json.dumps(header)})
    old = load(tmp_path / "old.safetensors")
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(old(image), model(image))
