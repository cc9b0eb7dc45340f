"""Names to models: what is listed, what is built, and what an unknown name or a wrong spelling is answered with."""

from __future__ import annotations

import pytest
from torch import nn

from segmentarium.backbones import create_backbone
from segmentarium.registry import Card, Paper, create_model, entry, known, list_models, model_card, register, variant_of


def test_every_listed_name_is_registered_by_its_module() -> None:
    for name, facts in known().items():
        found = entry(name)
        assert (found.name, found.module, found.kind) == (name, facts["module"], facts["kind"])


def test_names_can_be_typed_and_carry_a_tag() -> None:
    assert all(name == name.lower() and "." not in name and "-" not in name for name in known())


def test_registering_a_name_twice_is_an_error() -> None:
    found = entry("pphumanseg")
    with pytest.raises(
        ValueError, match=r"'pphumanseg' is registered twice: by portrait\.pphumanseg and .*test_registry"
    ):
        register("pphumanseg", found.build, found.card)


def test_list_models_by_pattern_family_and_kind() -> None:
    assert list_models("segformer_b?") == [f"segformer_b{i}" for i in range(6)]
    assert list_models("nothing*") == []
    assert list_models("pp*", family="portrait") == ["pphumanseg"]
    assert "pphumanseg" not in list_models(family="realtime")
    assert list_models("bisenetv2_*", family="realtime") == ["bisenetv2_large"]
    classifiers, segmenters = list_models(kind="classifier"), list_models(kind="segmenter")
    assert "resnet18" in classifiers
    assert "bisenetv2" in segmenters
    assert classifiers == list_models(family="backbones")
    kinds = {facts["kind"] for facts in known().values()}
    assert sorted(name for kind in kinds for name in list_models(kind=kind)) == list_models()


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


def test_a_name_like_none_is_answered_with_where_all_are() -> None:
    with pytest.raises(KeyError, match=r"'zzz'; `segmentarium models` and `segmentarium weights` list all names"):
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
        ("deeplabv3plus", "pretrained", "backbone_weights"),
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


def test_a_module_is_a_backbone_if_it_is_derived_from_it() -> None:
    with pytest.raises(TypeError, match=r"Conv2d is no backbone: derive it from segmentarium\.contracts\.Backbone"):
        create_backbone(nn.Conv2d(3, 8, 3))
    own = create_backbone("resnet18", width=8)
    assert create_backbone(own) is own


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


def test_what_leaves_no_trace_in_weights_tells_no_variants_apart() -> None:
    """Each is found with its own stochastic depth, and with another where that is given."""
    read = {"embed_dim": 128, "depths": (2, 2, 18, 2)}
    assert entry("swin_t").arguments["drop_path"] != entry("swin_b").arguments["drop_path"]
    assert variant_of(entry("swin_t"), read) == (entry("swin_b"), {})
    assert variant_of(entry("swin_t"), {**read, "drop_path": 0.1}) == (entry("swin_b"), {"drop_path": 0.1})


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
        "autocast", "channels_last", "round_trip", "one_class", "batch_of_one", "start",
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
        assert (card.flops is None) == (card.flops_size is None), name
        assert card.flops is None or card.num_classes is not None or not entry(name).takes("num_classes"), name
        assert set(card.limits) <= limits, name
        assert all(score > 0 for score in card.scores.values())
