"""RegSeg as its author stores it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.table import Golden, Layout, Rule


def _block(theirs: str, ours: str) -> list[Rule]:
    rules = [Rule(f"{theirs}.conv2.convs.{{}}.weight", f"{ours}.conv2.convs.{{}}.weight")]
    for i in (1, 2, 3):
        rules += [
            Rule(f"{theirs}.conv{i}.weight", f"{ours}.conv{i}.conv.weight"),
            Rule(f"{theirs}.bn{i}.{{*}}", f"{ours}.conv{i}.norm.{{*}}"),
        ]
    rules += [
        Rule(f"{theirs}.se.conv1.{{*}}", f"{ours}.excite.reduce.{{*}}"),
        Rule(f"{theirs}.se.conv2.{{*}}", f"{ours}.excite.expand.{{*}}"),
        Rule(f"{theirs}.shortcut.conv.weight", f"{ours}.shortcut.1.conv.weight"),
        Rule(f"{theirs}.shortcut.bn.{{*}}", f"{ours}.shortcut.1.norm.{{*}}"),
    ]
    return rules


def _rules(first_stage: str) -> tuple[Rule, ...]:
    """first_stage: what the author calls the blocks at 1/4; a single one stands in no Sequential."""
    rules = _block(f"body.stage4{first_stage}", "encoder.stage4.{}" if first_stage else "encoder.stage4.0")
    rules += _block("body.stage8.{}", "encoder.stage8.{}") + _block("body.stage16.{}", "encoder.stage16.{}")
    for theirs, ours in (("stem", "encoder.stem"), ("decoder.{}", "decoder.{}")):
        rules += [
            Rule(f"{theirs}.conv.weight", f"{ours}.conv.weight"),
            Rule(f"{theirs}.bn.{{*}}", f"{ours}.norm.{{*}}"),
        ]
    return (Rule("decoder.classifier.{*}", "decoder.classifier.{*}"), *rules)


def _arguments(first_stage: str) -> Callable[[Mapping[str, Tensor]], dict[str, Any]]:
    def read(state: Mapping[str, Tensor]) -> dict[str, Any]:
        if f"body.stage4{first_stage}.conv1.weight" not in state:
            raise KeyError(f"body.stage4{first_stage}.conv1.weight")
        return {
            "num_classes": state["decoder.classifier.weight"].shape[0],
            "in_channels": state["stem.conv.weight"].shape[1],
        }

    return read


SOURCE = "https://github.com/RolandGao/RegSeg"
LAYOUTS = (
    Layout(
        "regseg/exp48_decoder26",
        "regseg",
        _rules(""),
        _arguments(""),
        SOURCE,
        goldens={
            "realtime/regseg-exp48-decoder26": Golden({"out/logits": "forward"}),
            "realtime/regseg-exp48-decoder26-large": Golden({"out/logits4": "logits"}),
        },
    ),
    Layout("regseg/exp53_decoder29", "regseg_large", _rules(".{}"), _arguments(".0"), SOURCE),
)
