"""ENet as davidtvs/PyTorch-ENet stores it, in its present form and in that of March 2018."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.table import Golden, Layout, Rule

# The eight bottlenecks of stages 2 and 3 by their names there.
KINDS = ("regular", "dilated", "asymmetric", "dilated", "regular", "dilated", "asymmetric", "dilated")


def _unit(theirs: str, ours: str, first: int = 0) -> list[Rule]:
    """Convolution, norm and activation, neighbours in a Sequential."""
    parts = zip(range(first, first + 3), ("conv", "norm", "act"), strict=True)
    return [Rule(f"{theirs}.{index}.{{}}", f"{ours}.{part}.{{}}") for index, part in parts]


def _bottleneck(theirs: str, ours: str, out: str) -> list[Rule]:
    if theirs.startswith("asymmetric"):
        middle = _unit(f"{theirs}.ext_conv2", f"{ours}.conv.0") + _unit(f"{theirs}.ext_conv2", f"{ours}.conv.1", 3)
    else:
        middle = _unit(f"{theirs}.ext_conv2", f"{ours}.conv")
    return [
        *_unit(f"{theirs}.ext_conv1", f"{ours}.reduce"),
        *middle,
        *_unit(f"{theirs}.ext_conv3", f"{ours}.expand"),
        Rule(f"{theirs}.{out}.{{}}", f"{ours}.act.{{}}"),
    ]


def _up(theirs: str, ours: str, out: str) -> list[Rule]:
    rules = [*_unit(f"{theirs}.main_conv1", f"{ours}.main"), *_unit(f"{theirs}.ext_conv1", f"{ours}.reduce")]
    if out == "out_prelu":
        names = ("ext_conv2.0", "ext_conv2.1", "ext_conv2.2", "ext_conv3")
    else:
        names = ("ext_tconv1", "ext_tconv1_bnorm", "ext_tconv1_activation", "ext_conv2")
    for name, part in zip(names, ("up", "up_norm", "up_act"), strict=False):
        rules.append(Rule(f"{theirs}.{name}.{{}}", f"{ours}.{part}.{{}}"))
    return [*rules, *_unit(f"{theirs}.{names[3]}", f"{ours}.expand"), Rule(f"{theirs}.{out}.{{}}", f"{ours}.act.{{}}")]


def _rules(out: str) -> tuple[Rule, ...]:
    """out: what the activation after a sum is called."""
    rules = [
        Rule("initial_block.main_branch.{}", "encoder.initial.conv.{}"),
        Rule("initial_block.batch_norm.{}", "encoder.initial.norm.{}"),
        Rule(f"initial_block.{out}.{{}}", "encoder.initial.act.{}"),
    ]
    for stage in (1, 2):
        rules += _bottleneck(f"downsample{stage}_0", f"encoder.down{stage}", out)
    for index in range(4):
        rules += _bottleneck(f"regular1_{index + 1}", f"encoder.stage1.{index}", out)
    for stage, first in ((2, 1), (3, 0)):
        for index, kind in enumerate(KINDS):
            rules += _bottleneck(f"{kind}{stage}_{index + first}", f"encoder.stage{stage}.{index}", out)
    for index in range(2):
        rules += _bottleneck(f"regular4_{index + 1}", f"stage4.{index}", out)
    rules += _bottleneck("regular5_1", "stage5", out)
    rules += _up("upsample4_0", "up4", out) + _up("upsample5_0", "up5", out)
    return (*rules, Rule("transposed_conv.{}", "classifier.{}"))


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["transposed_conv.weight"].shape[1],
        "in_channels": state["initial_block.main_branch.weight"].shape[1],
    }


def _port_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    # a ReLU has nothing to store, so the keys of the two activations say which of them are PReLU
    acts = {"encoder_act": "initial_block.out_activation.weight", "decoder_act": "upsample4_0.out_activation.weight"}
    return _sizes(state) | {act: "prelu" if key in state else "relu" for act, key in acts.items()}


# The checkpoint `save/ENet_default` of PyTorch-ENet's commit 921e40c: its last layer, and what it was trained on.
CAMVID_LAST_LAYER = "a09d46553167e8077e1214174ed70db9f57e1d0ea7b8536e170ac05824932572"
CAMVID = {
    "sky": (128, 128, 128), "building": (128, 0, 0), "pole": (192, 192, 128), "road": (128, 64, 128),
    "pavement": (60, 40, 222), "tree": (128, 128, 0), "sign symbol": (192, 128, 128), "fence": (64, 64, 128),
    "car": (64, 0, 128), "pedestrian": (64, 64, 0), "bicyclist": (0, 128, 192), "unlabelled": (0, 0, 0),
}  # fmt: skip


def _facts_2018(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The classes of the one checkpoint that its authors published; twelve channels of another file may be anything."""
    last = state["transposed_conv.weight"].detach().cpu().float().contiguous()
    if hashlib.sha256(last.numpy().tobytes()).hexdigest() != CAMVID_LAST_LAYER:
        return {}
    return {
        "dataset": "camvid",
        "classes": list(CAMVID),
        "palette": [list(colour) for colour in CAMVID.values()],
        "licences": {"code": "MIT", "weights": "MIT"},
        "metrics": {"test miou": 0.533},
    }


SOURCE = "https://github.com/davidtvs/PyTorch-ENet"
LAYOUTS = (
    Layout(
        "enet/pytorch-enet",
        "enet",
        _rules("out_activation"),
        _port_arguments,
        SOURCE,
        goldens={name: Golden({"out": "forward"}) for name in ("realtime/enet", "realtime/enet-relu-odd")},
    ),
    Layout(
        "enet/pytorch-enet-2018",
        "enet_2018",
        _rules("out_prelu"),
        _sizes,
        SOURCE,
        _facts_2018,
        goldens={"realtime/enet-2018": Golden({"out": "forward"})},
    ),
)
