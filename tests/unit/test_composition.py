"""Which networks stand on which backbones."""

from __future__ import annotations

import pytest

from segmentarium.composition import OF_TIMM, combinations
from segmentarium.registry import known


def test_a_pair_is_yes_or_a_reason() -> None:
    found = combinations("*net*", ["resnet18", "mit_b0"])
    assert found["pspnet"] == {"resnet18": "yes", "mit_b0": "yes"}
    assert found["icnet_resnet18"]["resnet18"] == "yes"
    assert "the cascade cuts a ResNet in two" in found["icnet_resnet18"]["mit_b0"]
    assert "erfnet" not in found, "has no backbone to choose"
    assert "pspnet_resnet50" not in found, "the same network on another backbone"


def test_an_unknown_backbone_is_no_reason_but_an_error() -> None:
    with pytest.raises(KeyError, match="no backbone is called 'resnet81'"):
        combinations("fcn", ["resnet81"])


def test_without_a_choice_each_family_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from segmentarium import composition

    monkeypatch.setattr(composition, "_stands", lambda name, backbone: "yes")
    asked = list(combinations("fcn")["fcn"])
    assert combinations("fcn", ["resnet18"], kind="mask") == {}
    families = {facts["module"] for facts in known().values() if facts["kind"] == "classifier"}
    assert len(asked) == len(families) + len(OF_TIMM)
    assert "resnet18" in asked
    assert asked[-len(OF_TIMM) :] == list(OF_TIMM)
