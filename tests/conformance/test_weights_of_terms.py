"""What the terms of an objective weigh, and what is dropped in training: as published, a row for each registered network.

The numbers come from papers, notes of stored references and public configurations, not from the networks here.  A network with
several terms, with a weight other than 1, or that drops something fails without a row: its paper's are written down first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, NamedTuple

import pytest
from torch import nn

from segmentarium.backbones import create_backbone
from segmentarium.layers.drop_path import DropPath
from segmentarium.meta import on_meta
from segmentarium.registry import create_model, list_models

Weights = Mapping[str, float | Mapping[str, float]]
MAIN = {"logits": 1.0}
FCN = {**MAIN, "aux": 0.4}  # PSPNet, section 3.3, and all configurations of mmsegmentation
OCR = {**MAIN, "coarse": 0.4}  # of its authors' configurations, and mmsegmentation's
CAC = {"plain": 1.0, "oracle": 1.0, "mimic": 1.0}  # unit weights in all of its authors' heads
ATM = {
    f"{part}{stage}": weight
    for stage in ("_0", "_1", "")
    for part, weight in (("classes", 1.0), ("mask", 20.0), ("dice", 1.0))
}


def equal(*names: str, weight: float = 1.0) -> dict[str, float]:
    """The main logits with 1, and each of these with `weight`."""
    return {**MAIN, **dict.fromkeys(names, weight)}


def matched(layers: int, **parts: float) -> Weights:
    """The last layer of a mask classifier and each one before it."""
    return {"last": parts, **{f"aux_{i}": parts for i in range(layers - 1)}}


def cascade(*stages: float, **more: float) -> Weights:
    """Proposals, and what each stage of a detector says of them."""
    heads = {f"{part}_{i}": weight for i, weight in enumerate(stages) for part in ("class", "box", "mask")}
    return {"objectness": 1.0, "proposals": 1.0, **heads, **more}


# shell patterns of names -> term -> weight
WEIGHTS: dict[str, Weights] = {
    "ann* ccnet ccnet_resnet* dnlnet* gcnet* nonlocal* psanet* pspnet* spnet* upernet_*": FCN,
    "fcn fcn_resnet* deeplabv3_mobilenet* deeplabv3_resnet* deeplabv3plus*": FCN,
    "ccnet_v2": {**FCN, "consistency": 1.0},  # α = β = 1; γ = 0.001 is inside
    "danet": equal("position", "channel"),
    "danet_resnet*": {**FCN, "position": 1.0, "channel": 1.0},
    "dpt_*": {**MAIN, "aux": 0.2},  # section 4.2
    "ecenet_*": {**MAIN, "mask": 5.0, "dice": 2.0, "diversity": 0.2},
    "encnet": {**MAIN, "presence": 0.2, "aux": 0.2},
    "encnet_resnet*": {**FCN, "presence": 0.2},
    "ocrnet*": OCR,
    "pointrend_*": equal("points"),
    "cac_ocrnet_*": {**OCR, **CAC},
    "cac_deeplabv3plus_* cac_fcn_* cac_upernet_*": {**FCN, **CAC},
    "segvit_* segvitv2_vit_base": ATM,
    "segvitv2_shrunk_*": {**ATM, "edges": 0.4},
    "bisenet_*": equal("aux_8", "aux_16"),
    "bisenetv2*": equal("aux_4", "aux_8", "aux_16", "aux_32"),
    "contextnet*": equal("aux_8", weight=0.4),  # nobody trains that head in public: Fast-SCNN's
    "fast_scnn": equal("aux_8", "aux_32", weight=0.4),
    "fanet*": equal("aux_16", "aux_32", weight=0.5),
    "icnet": {**MAIN, "aux_8": 0.4, "aux_16": 0.16},
    "icnet_resnet*": equal("aux_8", "aux_16", weight=0.4),
    "msfnet": {**MAIN, "boundary": 0.5},  # not published: ours
    "sfnet_df*": equal("aux_0", "aux_1"),
    "sfnet_resnet*": equal("aux_0", "aux_1", "aux_2"),
    "shelfnet18 shelfnet34": equal("aux_16", "aux_32"),
    "shelfnet50 shelfnet101": {**MAIN, "aux_16": 0.5, "presence": 0.2},
    "stdc1 stdc2": equal("aux_8", "aux_16", "detail_8"),
    "bsn": {**MAIN, "attribute": 0.1},  # not published: ours
    "extremec3* sinet sinet_encoder": equal("boundary", weight=0.5),
    "sinet_street": equal("encoder", weight=0.25),
    "portraitnet": {**MAIN, "original": 1.0, "consistency": 2.0, "boundary": 0.1},
    "pphumanseg": equal("connectivity", weight=0.1),
    "maskformer_*": matched(6, **{"class": 1.0, "mask": 20.0, "dice": 1.0}),
    "mask2former_*": matched(10, **{"class": 2.0, "mask": 5.0, "dice": 5.0}),
    "mask_rcnn_*": cascade(1.0),
    "cascade_mask_rcnn_*": cascade(1.0, 0.5, 0.25),
    "htc_* good_mask_*": cascade(1.0, 0.5, 0.25, semantic=0.2),
    "superpoint": {"points": 1.0, "warped points": 1.0, "descriptors": 1e-4},  # the paper's λ
    "superpoint_open superpoint_small": {"points": 1.0, "warped points": 1.0, "descriptors": 1e4},
    "centerpoint_pillar": {"centres": {"heatmap": 1.0, "box": 0.25}},
    "pointpillars": {"anchors": {"class": 1.0, "box": 2.0, "direction": 0.2}},
    "mapfusion_centerpoint": {"centres": {"heatmap": 1.0, "box": 0.25}, "map": 1.0},  # the map's is not published: ours
    "mapfusion_pointpillars": {"anchors": {"class": 1.0, "box": 2.0, "direction": 0.2}, "map": 1.0},
    "lvvit_*": {"class": 1.0, "tokens": 1.0},
    "dvae": {"likelihood": 1.0, "words": 1.0},  # what the second weighs goes by the step
}


class Rates(NamedTuple):
    """path: highest rate of stochastic depth; units: probabilities of the dropouts."""

    path: float
    units: frozenset[float]


def rates(path: float = 0.0, *units: float) -> Rates:
    return Rates(path, frozenset(units))


# shell patterns of names -> what is dropped.  mmsegmentation drops 0.1 of the channels before each classifier
DROPPED: dict[str, Rates] = {
    "ann ann_resnet* cac_deeplabv3plus_* cac_fcn_* ccnet* danet* dnlnet* encnet* gcnet* nonlocal* psanet* pspnet*": rates(
        0, 0.1
    ),
    "deeplabv3_resnet* deeplabv3plus* fcn fcn_resnet* fpn_* lraspp_* ocrnet_resnet* spnet* upernet_resnet*": rates(
        0, 0.1
    ),
    "ann_authors ocrnet": rates(0, 0.05),
    "deeplabv3_mobilenet*": rates(0, 0.5, 0.1),  # torchvision's
    "dpt_* eanet*": rates(0, 0.1),
    "parsenet": rates(0, 0.1),  # not published of the dilated form: ours
    "segformer_*": rates(0.1, 0.1),
    "segnext_t segnext_s segnext_b": rates(0.1, 0.1),
    "segnext_l": rates(0.3, 0.1),
    "segmenter_*_linear": rates(0.1),
    "segmenter_tiny segmenter_small segmenter_base segmenter_large segmenter_deit_base": rates(0.1, 0.1),
    "segvit_vit_base segvitv2_vit_base": rates(0.1, 0.1),
    "segvit_shrunk_* segvit_vit_large segvitv2_shrunk_*": rates(0.3, 0.1),
    "cac_upernet_swin_* ecenet_swin_* upernet_swin_*": rates(0.3, 0.1),
    "upernet_convnext_small": rates(0.3, 0.1),
    "upernet_convnext_tiny upernet_convnext_base upernet_convnext_*large": rates(0.4, 0.1),
    "upernet_beit_base upernet_vit_base_ln": rates(0.1, 0.1),
    "upernet_beit_large": rates(0.2, 0.1),
    "upernet_vit_base": rates(0, 0.1),
    "bisenetv2* contextnet* fast_scnn icnet_resnet* sfnet*": rates(0, 0.1),
    "enet*": rates(0, 0.01, 0.1),
    "erfnet*": rates(0, 0.03, 0.3),
    "shelfnet18": rates(0, 0.1),
    "shelfnet50 shelfnet101": rates(0, 0.25, 0.1),
    "maskformer_resnet*": rates(0, 0.1),
    "maskformer_swin_*": rates(0.3, 0.1),
    "mask2former_swin_*": rates(0.3),
    "beit_* coc_* mit_* mscan_t mscan_s mscan_b": rates(0.1),
    "mscan_l": rates(0.3),
    "convnext_atto convnext_femto convnext_pico convnext_nano convnext_xlarge": rates(0.1),  # in no table: ours
    "convnext_tiny": rates(0.1),
    "convnext_small": rates(0.4),
    "convnext_base convnext_large": rates(0.5),
    "swin_t swin_l*": rates(0.2),
    "swin_s": rates(0.3),
    "swin_b*": rates(0.5),
    "lvvit_t* lvvit_s*": rates(0.1),
    "lvvit_m*": rates(0.2),
    "lvvit_l*": rates(0.3),
    "eamlp_* ff_only_*": rates(0.1, 0.1),
    "efficientnet_lite0 efficientnet_lite1 mobilenet_v2* mobilenet_v3_* stdcnet*": rates(0, 0.2),
    "efficientnet_lite2 efficientnet_lite3 efficientnet_lite4": rates(0, 0.3),
    "xception": rates(0, 0.5),
}


def dropped(model: nn.Module) -> Rates:
    paths = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    units = [module.p for module in model.modules() if isinstance(module, nn.Dropout | nn.Dropout2d)]
    return rates(max(paths, default=0.0), *(p for p in units if p))


@cache
def found() -> dict[str, tuple[Weights, Rates]]:
    """Of each registered network."""
    with on_meta():
        models = ((name, create_model(name)) for name in list_models())
        return {name: ({term.name: term.weight for term in m.objective}, dropped(m)) for name, m in models}


def rows_of(name: str, table: Iterable[str]) -> list[str]:
    return [row for row in table if any(fnmatchcase(name, pattern) for pattern in row.split())]


def held_against(table: Mapping[str, Any], part: int, plain: Callable[[Any], bool]) -> tuple[list[str], dict[str, Any]]:
    """-> the names that have no row, or several, and need one; and what is not as its row says."""
    written = {name: rows_of(name, table) for name in found()}
    missing = [name for name, rows in written.items() if len(rows) > 1 or (not rows and not plain(found()[name][part]))]
    wrong = {
        name: (found()[name][part], table[rows[0]])
        for name, rows in written.items()
        if len(rows) == 1 and not _same(found()[name][part], table[rows[0]])
    }
    return missing, wrong


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Rates):
        return abs(one.path - other.path) < 1e-9 and one.units == other.units
    return one == other


def test_terms_weigh_what_is_published() -> None:
    missing, wrong = held_against(WEIGHTS, 0, lambda weights: list(weights.values()) in ([], [1.0]))
    assert missing == [], "write down what each of their terms weighs, and by whom it is said"
    assert wrong == {}


def test_as_much_is_dropped_as_published() -> None:
    missing, wrong = held_against(DROPPED, 1, lambda drops: drops == rates())
    assert missing == [], "write down what is dropped of them in training, and by whom it is said"
    assert wrong == {}


@pytest.mark.parametrize("table", [WEIGHTS, DROPPED], ids=["weights", "dropped"])
def test_every_pattern_is_of_a_network(table: Mapping[str, Any]) -> None:
    patterns = [pattern for row in table for pattern in row.split()]
    assert [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in found())] == []


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_large", "efficientnet_lite3", "xception", "stdcnet1"])
def test_dropout_before_a_classifier_is_of_classifiers_alone(name: str) -> None:
    with on_meta():
        assert dropped(create_backbone(name)) == rates()
        assert dropped(create_model(name, num_classes=3)).units
