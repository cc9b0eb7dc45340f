"""CAC as its authors store it: mmsegmentation's networks, with two small networks beside the classifier.

The key of the head is that of a stored reference; the rest is as in mmsegmentation, on which their code stands.  Its heads are
`weights/layouts/fcn.py` and its like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts import deeplabv3plus, fcn, ocrnet, upernet
from segmentarium.weights.layouts.parts import mmseg_fcn_head, rest
from segmentarium.weights.table import Keys, Layout, Rule

SOURCE = "https://github.com/tianzhuotao/CAC"
PLAIN = {layout.name: layout for module in (deeplabv3plus, fcn, ocrnet, upernet) for layout in module.LAYOUTS}


def context_rules(theirs: str = "decode_head.", ours: str = "decoder.") -> list[Rule]:
    """What is new beside a plain head, whose classifier moves; prefixes ending in a dot."""
    return [
        rest(f"{theirs}conv_seg", f"{ours}classifier"),
        rest(f"{theirs}proj", f"{ours}context"),
        rest(f"{theirs}apd_proj", f"{ours}oracle"),
    ]


def _deeper(keys: Keys | None) -> Keys | None:
    """Where a key of a plain decoder's stands now."""
    if isinstance(keys, str):
        return f"decoder.base.{keys.removeprefix('decoder.')}" if keys.startswith("decoder.") else keys
    return None if keys is None else tuple(str(_deeper(key)) for key in keys)


def _layout(name: str, model: str, head: str = "decode_head.", more: Sequence[Rule] = ()) -> Layout:
    """The table of a plain network, its head one level deeper.

    head   the prefix of the head that has the context
    more   lines before the others
    """
    plain = PLAIN[name]

    def arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
        found = {
            "backbone_arguments": {},
            **plain.arguments(state),
        }  # those of the model's own backbone hold for no other
        if more:
            width = state["auxiliary_head.convs.0.conv.weight"].shape[0]
            found |= {"auxiliary": True, "auxiliary_arguments": {"decoder_channels": width}}
        return found

    return replace(
        plain,
        name=f"cac/{name.replace('/mmseg', '')}",
        model=f"cac_{model}",
        rules=(*more, *context_rules(head), *(replace(rule, ours=_deeper(rule.ours)) for rule in plain.rules)),
        arguments=arguments,
        source=SOURCE,
        goldens={},
    )


AUXILIARY = mmseg_fcn_head("auxiliary_head.", "auxiliary.aux.")  # which the plain network on MobileNetV2 leaves out
LAYOUTS = (
    _layout("fcn/mmseg", "fcn_mobilenet_v2"),
    _layout("fcn/mmseg_mobilenet_v2", "fcn_mobilenet_v2", more=AUXILIARY),
    _layout("deeplabv3plus/mmseg", "deeplabv3plus_resnet50"),
    _layout("ocrnet/mmseg_hrnet", "ocrnet_hr18", head="decode_head.1."),
    _layout("upernet/mmseg_swin", "upernet_swin_tiny"),
)
