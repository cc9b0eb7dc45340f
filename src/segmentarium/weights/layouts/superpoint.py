"""SuperPoint as Magic Leap, rpautrat, eric-yyjau and transformers store it.

LightGlue, hloc and glue-factory hold Magic Leap's keys; glue-factory's open extractor has rpautrat's.  transformers' matchers
(SuperGlue, LightGlue) bring their detector along under a prefix: it is taken out of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import conv_bn, neighbours
from segmentarium.weights.table import Golden, Layout, Rule


def _plain(names: Mapping[str, str]) -> tuple[Rule, ...]:
    """Convolutions without norms: theirs -> ours."""
    return tuple(Rule(f"{theirs}.{{}}", f"{ours}.conv.{{}}") for theirs, ours in names.items())


HEADS = {
    f"conv{head}{unit}": f"{ours}.{i}"
    for head, ours in (("P", "detector"), ("D", "descriptor"))
    for i, unit in enumerate("ab")
}
ENCODER = {f"conv{stage + 1}{unit}": f"encoder.{stage}.{i}" for stage in range(4) for i, unit in enumerate("ab")}


def _transformers(prefix: str = "") -> dict[str, str]:
    units = dict(enumerate("ab"))
    names = {f"encoder.conv_blocks.{{}}.conv_{unit}": f"encoder.{{}}.{i}" for i, unit in units.items()}
    names |= {f"keypoint_decoder.conv_score_{unit}": f"detector.{i}" for i, unit in units.items()}
    names |= {f"descriptor_decoder.conv_descriptor_{unit}": f"descriptor.{i}" for i, unit in units.items()}
    return {prefix + theirs: ours for theirs, ours in names.items()}


def _yyjau() -> list[Rule]:
    rules: list[Rule] = []
    for stage, name in enumerate(("inc.conv.conv", *(f"down{i}.mpconv.1.conv" for i in (1, 2, 3)))):
        for unit in range(2):
            rules += neighbours(name, f"encoder.{stage}.{unit}", 3 * unit)
    for theirs, ours in HEADS.items():
        norm = theirs.replace("conv", "bn")
        rules += [Rule(f"{theirs}.{{}}", f"{ours}.conv.{{}}"), Rule(f"{norm}.{{}}", f"{ours}.norm.{{}}")]
    return rules


def _arguments(
    state: Mapping[str, Tensor], first: str, stages: tuple[str, ...], head: str, last: str, form: str
) -> dict[str, Any]:
    """What the shapes of these convolutions say; the usual widths are left unsaid."""
    read: dict[str, Any] = {
        "widths": [state[f"{stage}.weight"].shape[0] for stage in stages],
        "head_width": state[f"{head}.weight"].shape[0],
        "descriptor_size": state[f"{last}.weight"].shape[0],
        "in_channels": state[f"{first}.weight"].shape[1],
    }
    usual = {"widths": [64, 64, 128, 128], "head_width": 256, "descriptor_size": 256, "in_channels": 1}
    return {"form": form} | {name: value for name, value in read.items() if value != usual[name]}


def _of_transformers(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Any]:
    stages = tuple(f"{prefix}encoder.conv_blocks.{i}.conv_a" for i in range(4))
    decoder = f"{prefix}descriptor_decoder.conv_descriptor_"
    return _arguments(state, stages[0], stages, f"{decoder}a", f"{decoder}b", "magicleap")


AUTHORS = "https://github.com/magicleap/SuperPointPretrainedNetwork"
TRANSFORMERS = "https://github.com/huggingface/transformers"
MATCHER = "keypoint_detector."
LAYOUTS = (
    Layout(
        "superpoint/magicleap",
        "superpoint",
        _plain(ENCODER | HEADS),
        partial(
            _arguments,
            first="conv1a",
            stages=tuple(f"conv{i}a" for i in (1, 2, 3, 4)),
            head="convDa",
            last="convDb",
            form="magicleap",
        ),
        AUTHORS,
        goldens={"keypoint/superpoint-dense": Golden({"out/0": "logits", "out/1": "descriptors"})},
        others=("https://github.com/cvg/LightGlue",),
    ),
    Layout(
        "superpoint/rpautrat",
        "superpoint_open",
        (
            *conv_bn("backbone.{}.{}", "encoder.{}.{}"),
            *conv_bn("detector.{}", "detector.{}"),
            *conv_bn("descriptor.{}", "descriptor.{}"),
        ),
        partial(
            _arguments,
            first="backbone.0.0.conv",
            stages=tuple(f"backbone.{i}.0.conv" for i in range(4)),
            head="descriptor.0.conv",
            last="descriptor.1.conv",
            form="open",
        ),
        "https://github.com/rpautrat/SuperPoint",
        goldens={"keypoint/superpoint-open": Golden({"out/semi": "logits", "out/desc": "descriptors"})},
    ),
    Layout(
        "superpoint/yyjau",
        "superpoint",
        tuple(_yyjau()),
        partial(
            _arguments,
            first="inc.conv.conv.0",
            stages=("inc.conv.conv.0", *(f"down{i}.mpconv.1.conv.0" for i in (1, 2, 3))),
            head="convDa",
            last="convDb",
            form="yyjau",
        ),
        "https://github.com/eric-yyjau/pytorch-superpoint",
    ),
    Layout("superpoint/transformers", "superpoint", _plain(_transformers()), _of_transformers, TRANSFORMERS),
    Layout(
        "superpoint/transformers_matching",
        "superpoint",
        (*_plain(_transformers(MATCHER)), Rule("{*}", None)),
        partial(_of_transformers, prefix=MATCHER),
        TRANSFORMERS,
    ),
)
