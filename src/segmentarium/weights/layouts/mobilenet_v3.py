"""MobileNetV3 as torchvision, timm, mmpretrain and mmsegmentation store it; the tables serve larger networks too.

Those of mmpretrain and mmsegmentation rest on their code: no file of theirs was at hand.  timm's "tf_mobilenetv3_…" have the
keys of its own weights: load them with norm_eps=1e-3 and same_padding=True.  The minimalistic ones are known by what they lack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.backbones.mobilenet_v2 import divisible_by_8
from segmentarium.backbones.mobilenet_v3 import ROWS
from segmentarium.preprocessing import Preprocessing
from segmentarium.weights.layouts.mobilenet_v2 import unit
from segmentarium.weights.layouts.parts import conv_bn
from segmentarium.weights.table import Layout, Rule, outputs_of, to_ours

WIDTHS = (1.0, 0.75, 0.5)
TIMM_STAGES = {"large": (1, 2, 3, 4, 2, 3), "small": (1, 2, 3, 2, 3)}  # blocks of each


def _convs(arch: str, block: int) -> list[str]:
    """Ours in a block, in order; squeeze-and-excitation where the published network has it."""
    _, widened, _, excite, _, _ = ROWS[arch][block]
    inputs = ROWS[arch][block - 1][2] if block else widened
    return [*(["expand"] if widened != inputs else []), "depthwise", *(["excite"] if excite else []), "project"]


def torchvision_rules(arch: str, theirs: str = "features.", ours: str = "") -> list[Rule]:
    """Prefixes ending in a dot; without the classifier."""
    count = len(ROWS[arch])
    rules = unit(f"{theirs}0.0", f"{theirs}0.1", f"{ours}stem")
    for block in range(count):
        for i, name in enumerate(_convs(arch, block)):
            place, mine = f"{theirs}{block + 1}.block.{i}", f"{ours}blocks.{block}.{name}"
            if name == "excite":
                rules += [
                    Rule(f"{place}.fc1.{{}}", f"{mine}.reduce.{{}}"),
                    Rule(f"{place}.fc2.{{}}", f"{mine}.expand.{{}}"),
                ]
            else:
                rules += unit(f"{place}.0", f"{place}.1", mine)
    return rules + unit(f"{theirs}{count + 1}.0", f"{theirs}{count + 1}.1", f"{ours}head")


def timm_rules(arch: str) -> list[Rule]:
    """Without the classifier."""
    rules = unit("conv_stem", "bn1", "stem")
    stages = TIMM_STAGES[arch]
    places = [(stage, block) for stage, blocks in enumerate(stages) for block in range(blocks)]
    for number, (stage, block) in enumerate(places):
        theirs, ours = f"blocks.{stage}.{block}", f"blocks.{number}"
        widens = "expand" in _convs(arch, number)
        names = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
        if not widens:
            names = {"depthwise": "conv_dw", "project": "conv_pw"}
        for i, (mine, conv) in enumerate(names.items()):
            rules += unit(f"{theirs}.{conv}", f"{theirs}.bn{i + 1}", f"{ours}.{mine}")
        rules += [Rule(f"{theirs}.se.conv_{part}.{{}}", f"{ours}.excite.{part}.{{}}") for part in ("reduce", "expand")]
    last = f"blocks.{len(stages)}.0"
    return rules + unit(f"{last}.conv", f"{last}.bn1", "head")


def mmseg_rules(arch: str, theirs: str = "", ours: str = "") -> list[Rule]:
    """mmpretrain's and mmsegmentation's, prefixes ending in a dot; without the classifier."""
    count = len(ROWS[arch])
    rules = [*conv_bn(f"{theirs}layer0", f"{ours}stem"), *conv_bn(f"{theirs}layer{count + 1}", f"{ours}head")]
    for block in range(count):
        place, mine = f"{theirs}layer{block + 1}", f"{ours}blocks.{block}"
        for conv, name in (("expand_conv", "expand"), ("depthwise_conv", "depthwise"), ("linear_conv", "project")):
            rules += conv_bn(f"{place}.{conv}", f"{mine}.{name}")
        for conv, name in (("conv1", "reduce"), ("conv2", "expand")):
            rules.append(Rule(f"{place}.se.{conv}.conv.{{}}", f"{mine}.excite.{name}.{{}}"))
    return rules


def arguments_of(arch: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Width, form and input channels, read off our keys of a whole row of blocks."""
    rows = ROWS[arch]
    before_tail = max(i for i, row in enumerate(rows) if row[-1] == 2) - 1  # the last block of stride 16
    channels = {i: tensors[f"blocks.{i}.project.conv.weight"].shape[0] for i in (before_tail, len(rows) - 1)}
    width = {divisible_by_8(rows[before_tail][2] * width): width for width in WIDTHS}[channels[before_tail]]
    return {
        "width": width,
        "minimal": not any(".excite." in key for key in tensors),
        "reduced_tail": channels[len(rows) - 1] < divisible_by_8(rows[-1][2] * width),
        "in_channels": tensors["stem.conv.weight"].shape[1],
    }


TENSORFLOW = {"norm_eps": 1e-3, "same_padding": True}


def _arguments(arch: str, rules: Sequence[Rule], also: dict[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    state[str(rules[0].theirs).replace("{}", "weight")]  # the stem's: another network's keys end here
    tensors, _, _ = to_ours(state, rules, {})
    read = arguments_of(arch, tensors)
    minimal = TENSORFLOW if read["minimal"] else {}  # only the authors' exist
    return read | {"num_classes": outputs_of(tensors, "classifier.weight")} | also | minimal


def _facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The authors' networks take values from -1 to 1."""
    if any(".se." in key for key in state):
        return {}
    return {"preprocessing": Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).as_dict()}


def _classifier(hidden: str, classifier: str, ndim: int | None = None) -> list[Rule]:
    return [Rule(f"{hidden}.{{}}", "hidden.0.{}", theirs_ndim=ndim), Rule(f"{classifier}.{{}}", "classifier.{}")]


def _layouts(arch: str) -> list[Layout]:
    name, openmmlab = f"mobilenet_v3_{arch}", "https://github.com/open-mmlab"
    tables = {
        "torchvision": (
            [*torchvision_rules(arch), *_classifier("classifier.0", "classifier.3")],
            {},
            "https://github.com/pytorch/vision",
        ),
        "timm": (
            [*timm_rules(arch), *_classifier("conv_head", "classifier", 4)],
            {"norm_eps": 1e-5},
            "https://github.com/huggingface/pytorch-image-models",
        ),
        "mmpretrain": (
            [*mmseg_rules(arch, "backbone."), *_classifier("head.layers.0.fc", "head.layers.1.fc")],
            {},
            f"{openmmlab}/mmpretrain",
        ),
        "mmseg": (
            mmseg_rules(arch),
            {"same_padding": True, "contract_dilation": False},
            f"{openmmlab}/mmsegmentation",
        ),
    }
    return [
        Layout(
            f"{name}/{whose}",
            name,
            tuple(rules),
            partial(_arguments, arch, tuple(rules), also),
            source,
            _facts if whose == "timm" else lambda state: {},
        )
        for whose, (rules, also, source) in tables.items()
    ]


LAYOUTS = tuple(layout for arch in ROWS for layout in _layouts(arch))
