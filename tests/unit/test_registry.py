"""Names to models: what is listed, what is built, and what an unknown name or a wrong spelling is answered with."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from torch import nn

import segmentarium
from segmentarium import registry
from segmentarium.backbones import create_backbone
from segmentarium.index import MODULES
from segmentarium.registry import Card, Paper, create_model, entry, list_models, model_card, register, variant_of

SOURCE = Path(segmentarium.__file__).parent
ROOMS = ("backbones", "semantic", "realtime", "portrait")


def test_the_index_is_what_the_files_register() -> None:
    for name in list_models():
        entry(name)
    registered: dict[str, set[str]] = {}
    for name, found in registry._ENTRIES.items():
        registered.setdefault(found.build.__module__.removeprefix("segmentarium."), set()).add(name)
    assert registered == {module: set(names) for module, names in MODULES.items()}


def test_every_file_that_registers_is_in_the_index() -> None:
    registering = set()
    for room in ROOMS:
        for path in (SOURCE / room).glob("*.py"):
            calls = (node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call))
            if any(isinstance(function, ast.Name) and function.id == "register" for function in calls):
                registering.add(f"{room}.{path.stem}")
    assert registering == set(MODULES)


def test_no_name_twice_and_none_with_a_dot() -> None:
    names = [name for module in MODULES.values() for name in module]
    assert len(names) == len(set(names))
    assert all(name == name.lower() and "." not in name and "-" not in name for name in names)


def test_registering_a_name_twice_is_an_error() -> None:
    found = entry("pphumanseg")
    with pytest.raises(ValueError, match=r"'pphumanseg' is registered twice: by segmentarium\.portrait\.pphumanseg"):
        register("pphumanseg", found.build, found.card)


def test_list_models_by_pattern_family_and_kind() -> None:
    assert list_models("segformer_b?") == [f"segformer_b{i}" for i in range(6)]
    assert list_models("nothing*") == []
    assert list_models("pp*", family="portrait") == ["pphumanseg"]
    assert "pphumanseg" not in list_models(family="realtime")
    assert list_models("bisenetv2_*", family="realtime") == ["bisenetv2_large"]
    backbones, segmenters = list_models(kind="backbone"), list_models(kind="segmenter")
    assert "resnet18" in backbones
    assert "bisenetv2" in segmenters
    assert sorted(backbones + segmenters) == list_models()
    assert all(entry(name).kind == "backbone" for name in backbones)
    assert all(entry(name).kind == "segmenter" for name in segmenters)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("bisenet_v2", "bisenetv2"),
        ("segformer-b0", "segformer_b0"),
        ("deeplabv3+", "deeplabv3plus"),
        ("ResNet50", "resnet50"),
    ],
)
def test_an_unknown_name_says_what_was_meant(wrong: str, meant: str) -> None:
    with pytest.raises(KeyError, match=rf"no model is called '{wrong.replace('+', '[+]')}'; did you mean .*'{meant}'"):
        create_model(wrong)


def test_a_name_like_none_is_answered_with_all() -> None:
    with pytest.raises(KeyError, match=r"'zzz'; known: .*bisenetv2, "):
        create_model("zzz")


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("bisenetv2", "classes", "num_classes"),
        ("segformer_b0", "num_labels", "num_classes"),
        ("bisenetv2", "in_chans", "in_channels"),
        ("deeplabv3plus", "encoder_name", "backbone"),
        ("segformer_b0", "encoder", "backbone"),
        ("pphumanseg", "pretrained", "weights"),
        ("deeplabv3plus", "encoder_weights", "backbone_weights"),
        ("resnet18", "channels", "in_channels"),
    ],
)
def test_the_other_spelling_is_answered_with_ours(name: str, wrong: str, right: str) -> None:
    with pytest.raises(TypeError, match=rf"{name} has no argument '{wrong}': here it is called '{right}'"):
        create_model(name, **{wrong: 3})


def test_an_unknown_argument_says_what_was_meant() -> None:
    with pytest.raises(TypeError, match=r"has no argument 'num_clases'; did you mean 'num_classes'"):
        create_model("bisenetv2", num_clases=3)
    with pytest.raises(TypeError, match=r"has no argument 'output_strid'.*'output_stride'"):
        create_backbone("resnet18", output_strid=8)


@pytest.mark.parametrize(("argument", "value"), [("num_classes", 0), ("num_classes", -3), ("in_channels", 0)])
def test_impossible_numbers_say_what_to_give(argument: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"{argument} is {value}; give the number of .*1 or more"):
        create_model("pphumanseg", **{argument: value})


def test_an_unknown_backbone_says_what_was_meant_and_that_timm_is_open() -> None:
    with pytest.raises(KeyError, match=r"no backbone is called 'resnet51'; did you mean .*'resnet50'.*timm:NAME"):
        create_backbone("resnet51")
    with pytest.raises(KeyError, match="no backbone is called 'bisenetv2'"):
        create_backbone("bisenetv2")


def test_a_module_is_a_backbone_if_it_says_channels_and_strides() -> None:
    module = nn.Conv2d(3, 8, 3)
    with pytest.raises(TypeError, match=r"Conv2d is no backbone: it needs \.channels and \.strides"):
        create_backbone(module)
    module.channels, module.strides = (8,), (1,)
    assert create_backbone(module) is module


def test_two_sources_of_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="give one of them"):
        create_model("bisenetv2.camvid", weights="other.safetensors")


def test_a_model_remembers_what_made_it() -> None:
    model = create_model("segformer_b0", num_classes=5, embed_dim=64)
    assert model.registered_name == "segformer_b0"
    assert model.given_arguments == {"num_classes": 5, "embed_dim": 64}


def test_variant_of_finds_the_name_that_arguments_make() -> None:
    found, rest = variant_of(entry("bisenetv2"), {"width": 2.0, "depth": 3, "num_classes": 7})
    assert (found.name, rest) == ("bisenetv2_large", {"num_classes": 7})
    found, rest = variant_of(entry("bisenetv2"), {"width": 1.5})
    assert (found.name, rest) == ("bisenetv2", {"width": 1.5})


def test_model_card_is_plain_data() -> None:
    card = model_card("segformer_b0")
    assert card["name"] == "segformer_b0"
    assert card["kind"] == "segmenter"
    assert card["paper"]["year"] == 2021
    assert card["paper"]["url"] == "https://arxiv.org/abs/2105.15203"
    assert isinstance(card["parameters"], float)
    with pytest.raises(KeyError, match="did you mean"):
        model_card("segformer_b9")


def test_every_card_is_complete() -> None:
    limits = {
        "parameters", "flops", "in_channels", "odd_sizes", "gradients", "void", "learning", "deploy", "export", "compile",
        "autocast", "channels_last", "round_trip", "one_class", "batch_of_one",
    }  # fmt: skip
    assert all(f'"{key}"' in (Card.__doc__ or "") for key in limits)
    for name in list_models():
        card = entry(name).card
        assert isinstance(card.paper, Paper)
        assert card.paper.title
        assert card.paper.authors
        assert card.paper.venue
        assert card.paper.url.startswith("https://")
        assert 1990 < card.paper.year < 2100
        assert bool(card.paper.code) == bool(card.paper.code_licence), name
        assert card.family == next(module for module, names in MODULES.items() if name in names).split(".")[0]
        assert (card.flops is None) == (card.flops_size is None), name
        assert card.flops is None or card.num_classes is not None or card.family == "backbones", name
        assert set(card.limits) <= limits, name
        assert all(score > 0 for score in card.scores.values())
