"""SINet and its encoder as the authors store them; `published` serves ExtremeC3Net, of the same repository, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.contracts import Preprocessing
from segmentarium.weights.table import Golden, Layout, Rule

SOURCE = "https://github.com/clovaai/ext_portrait_segmentation"
PERSON: dict[str, Any] = {"classes": ["background", "person"], "palette": [[0, 0, 0], [255, 64, 64]]}


def norm_act(theirs: str, ours: str, bgr: int | None = None) -> list[Rule]:
    """Batch norm and PReLU, called bn and act."""
    return [
        Rule(f"{theirs}.bn.{{}}", f"{ours}.norm.{{}}", bgr=bgr),
        Rule(f"{theirs}.act.{{}}", f"{ours}.act.{{}}", bgr=bgr),
    ]


def down(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.conv.0.{{}}", f"{ours}.depthwise.{{}}"),
        Rule(f"{theirs}.conv.1.dense.{{*}}", f"{ours}.weigh.{{*}}"),
        Rule(f"{theirs}.conv.2.{{}}", f"{ours}.pointwise.conv.{{}}"),
        *norm_act(theirs, f"{ours}.pointwise"),
    ]


def _squeeze(theirs: str, ours: str) -> list[Rule]:
    rules = [Rule(f"{theirs}.c1.conv.{{}}", f"{ours}.reduce.{{}}"), *norm_act(f"{theirs}.BR", f"{ours}.join")]
    for index in (0, 1):
        branch, mine = f"{theirs}.d{index + 1}", f"{ours}.branches.{index}"
        rules += [
            Rule(f"{branch}.conv.0.{{}}", f"{mine}.depthwise.conv.{{}}"),
            Rule(f"{branch}.conv.1.{{}}", f"{mine}.depthwise.norm.{{}}"),
            Rule(f"{branch}.act_conv1x1.0.{{}}", f"{mine}.depthwise.act.{{}}"),
            Rule(f"{branch}.act_conv1x1.1.{{}}", f"{mine}.pointwise.{{}}"),
            Rule(f"{branch}.bn.{{}}", f"{mine}.up.norm.{{}}"),
        ]
    return rules


def _encoder(theirs: str) -> list[Rule]:
    rules = [
        Rule(f"{theirs}level1.conv.{{}}", "encoder.stem.conv.{}", bgr=1),
        *norm_act(f"{theirs}level1", "encoder.stem"),
        Rule(f"{theirs}classifier.conv.{{}}", "encoder.classifier.{}"),
    ]
    for level in (2, 3):
        rules += down(f"{theirs}level{level}_0", f"encoder.down{level}")
        rules += _squeeze(f"{theirs}level{level}.{{}}", f"encoder.level{level}.{{}}")
        rules += norm_act(f"{theirs}BR{level}", f"encoder.join{level}")
    return rules


def _rules() -> list[Rule]:
    return [
        *_encoder("encoder."),
        Rule("bn_3.{}", "up_coarse.norm.{}"),
        Rule("bn_2.{}", "up_fine.norm.{}"),
        Rule("level2_C.conv.{}", "detail.conv.{}"),
        *norm_act("level2_C", "detail"),
        Rule("classifier.1.{}", "classifier.{}"),
    ]


def arguments_of(stem: Tensor, num_classes: int, in_channels: int = 3) -> dict[str, Any]:
    """Such networks take blue, green and red first, and there is no other way to read a layout with other channels."""
    if stem.shape[1] != in_channels:
        raise ValueError(f"the first convolution takes {stem.shape[1]} channels; this layout is one of {in_channels}")
    return {"num_classes": num_classes} | ({"in_channels": in_channels} if in_channels != 3 else {})


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return arguments_of(state["encoder.level1.conv.weight"], state["bn_3.weight"].shape[0])


def _encoder_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return arguments_of(state["level1.conv.weight"], state["classifier.conv.weight"].shape[0])


def published(state: Mapping[str, Tensor], num_classes: int) -> dict[str, Any]:
    """Both networks were trained on EG1800: values of 0 to 255 less a mean, over a deviation, and then over 255.

    They saw the photographs squeezed to 224×224.  With its shape kept, 3:4, a photograph has as many pixels at 192×256.
    """
    facts: dict[str, Any] = {
        "preprocessing": Preprocessing(
            mean=(132.35703 / 255, 115.69884 / 255, 107.304565 / 255), std=(68.29726, 65.1337, 63.97182), long_side=256
        ).as_dict()
    }
    if num_classes <= 2:
        facts |= {
            **PERSON,
            "dataset": "portrait",
            "licences": {"code": "MIT", "weights": "MIT", "data": "photographs of EG1800: research use"},
        }
    return facts


LAYOUTS = (
    Layout(
        "sinet/clovaai",
        "sinet",
        tuple(_rules()),
        _arguments,
        SOURCE,
        lambda state: published(state, state["bn_3.weight"].shape[0]),
        {"portrait/sinet": Golden({"out": "forward"})},
    ),
    Layout(
        "sinet_encoder/clovaai",
        "sinet_encoder",
        tuple(_encoder("")),
        _encoder_arguments,
        SOURCE,
        lambda state: published(state, state["classifier.conv.weight"].shape[0]),
        {"portrait/sinet-encoder": Golden({"out": "logits"})},
    ),
)
