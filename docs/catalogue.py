"""Makes src/segmentarium/weights/published.tsv, the catalogue of published checkpoints, from a table of what was found.

    python docs/catalogue.py checkpoints.tsv

The table has a line for each published file: system, variant, layout (whose keys), task, data_set, input, schedule, metric,
value, address, sha256 (digits in the name or of the file), licence, source.  What this adds is the name of each, and what
neither keys nor shapes tell of it: arguments, and how it was scored.  `segmentarium weights --check` tests the result.
"""

from __future__ import annotations

import ast
import csv
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from segmentarium.weights.data_sets import DATA_SETS

PUBLISHED = Path(__file__).resolve().parent.parent / "src" / "segmentarium" / "weights" / "published.tsv"
COLUMNS = (
    "name", "system", "layout", "task", "data_set", "metric", "value", "address", "digits", "licence",
    "arguments", "test", "note",
)  # fmt: skip

# variants as their publishers call them -> our models; the first that fits a whole variant
MODELS: tuple[tuple[str, str, str], ...] = (
    # pattern of the system, which may ask for the task behind it; of the variant; name
    (r"hrnet", r"(?:hr(\d+s?))", r"fcn_hr\1"),
    (r"hrnet", r"open-mmlab://msra/hrnetv2_(w\d+)_small", r"hrnet_\1_small_v2"),
    (r"hrnet", r"open-mmlab://msra/hrnetv2_(w\d+)", r"hrnet_\1"),
    (r"hrnet (?!keypoints).*", r"w48(?: \(60 classes\))?", r"hrnetv2_w48"),
    (r"hrnet", r"(w\d+)(-dark|-udp)?", r"hrnet_pose_\1"),
    (r"hrnet", r"hrnet[-_](w\d+)-c-small-v1.*", r"hrnet_\1_small"),
    (r"hrnet", r"hrnet[-_](w\d+)-c-small-v2.*", r"hrnet_\1_small_v2"),
    (r"hrnet", r"(hrnet_w\d+_small(?:_v2)?)\..*", r"\1"),
    (r"hrnet", r"hrnet[-_](w\d+).*", r"hrnet_\1"),
    (r"resnest", r"(?:open-mmlab://)?(?:resnest)?(\d+)[ed]?(\..*)?", r"resnest\1"),
    (r"mobilenet_v2", r".*(?:mobilenet_v2|mobilenet-v2)(\..*)?", r"mobilenet_v2"),
    (r"mobilenet_v2", r"mobilenetv2_100.*|1\.0_224", r"mobilenet_v2"),
    (r"mobilenet_v2", r"mobilenetv2_(\d+)\..*", r"mobilenet_v2_\1"),
    (r"mobilenet_v2", r"1\.4_224", r"mobilenet_v2_140"),
    (r"mobilenet_v3", r"(large|small)(-scratch)?", r"lraspp_mobilenet_v3_\1"),
    (r"mobilenet_v3", r"lraspp-large.*", r"lraspp_mobilenet_v3_large"),
    (r"mobilenet_v3", r"mobilenetv3_(large|small)_100\..*", r"mobilenet_v3_\1"),
    (r"mobilenet_v3", r"mobilenetv3_(large|small)_(\d+)\..*", r"mobilenet_v3_\1_\2"),
    (r"mobilenet_v3", r"mobilenet-v3-(large|small)-(\d+)_.*", r"mobilenet_v3_\1_\2"),
    (r"mobilenet_v3", r".*mobilenet[-_]v3[-_](large|small).*", r"mobilenet_v3_\1"),
    (r"xception", r"(?:legacy_)?(xception\d*)[. ].*", r"\1"),
    (r"shufflenet_v1", r"shufflenet-v1-1x", r"shufflenet_v1"),
    (r"shufflenet_v1", r"1\.0x g3", r"shufflenet_v1"),
    (r"shufflenet_v1", r"1\.0x g8", r"shufflenet_v1_g8"),
    (r"shufflenet_v1", r"(\d)\.(\d)x g3", r"shufflenet_v1_\1\g<2>0"),
    (r"shufflenet_v1", r"(\d)\.(\d)x g8", r"shufflenet_v1_g8_\1\g<2>0"),
    (r"shufflenet_v2", r"shufflenet-v2-1x|1\.0x|shufflenet_v2_x1_0.*", r"shufflenet_v2"),
    (r"shufflenet_v2", r"(?:shufflenet_v2_x)?(\d)[._](\d)x?(\..*)?", r"shufflenet_v2_\1\g<2>0"),
    (r"convnext", r"(?:convnext[-_])?(tiny|small|base|large|xlarge).*", r"convnext_\1"),
    (r"convnext", r"t in.*", r"convnext_tiny"),
    (r"convnext", r"s in.*", r"convnext_small"),
    (r"convnext", r"b in.*", r"convnext_base"),
    (r"convnext", r"l in.*", r"convnext_large"),
    (r"convnext", r"xl in.*", r"convnext_xlarge"),
    (r"vit", r"vit_(tiny|small|base|large)_p16_384.*", r"vit_\1_patch16_384"),
    (r"vit|mae", r"vit-(base|large|huge)-p(\d+)_.*(384)px.*", r"vit_\1_patch\2_\3"),
    (r"vit|mae", r"vit-(base|large|huge)-p(\d+)_.*", r"vit_\1_patch\2_224"),
    (r"vit", r"vit_b_(\d+)\.imagenet1k_swag_e2e.*", r"vit_base_patch\1_384"),
    (r"vit", r"vit_b_(\d+)\..*", r"vit_base_patch\1_224"),
    (r"vit", r"vit_l_(\d+)\..*", r"vit_large_patch\1_224"),
    (r"vit", r"vit_h_(\d+)\..*", r"vit_huge_patch\1_224"),
    (r"vit", r"vit-base-patch16-224.*", r"vit_base_patch16_224"),
    (r"vit", r"deit_(tiny|small|base)_(?:distilled_)?patch16_(\d+)\..*", r"vit_\1_patch16_\2"),
    (r"vit|mae", r"(vit_\w+)\..*", r"\1"),
    (r"mae", r"mae_vit-(base|large|huge)-p(\d+)_.*", r"mae_vit_\1"),
    (r"mae classification|mae encoder", r"vit-(base|large)", r"vit_\1_patch16_224"),
    (r"mae classification|mae encoder", r"vit-huge", r"vit_huge_patch14_224"),
    (r"mae", r"vit-(base|large|huge)( with decoder.*)?", r"mae_vit_\1"),
    (r"swin", r"swin[-_](tiny|small|base|large)_patch4_window12.*", r"swin_\1_384"),
    (r"swin", r"swin[-_](tiny|small|base|large).*-?384.*", r"swin_\1_384"),
    (r"swin", r"(?:swin[-_])?(tiny|small|base|large)[-_ ].*|swin[-_](tiny|small|base|large)", r"swin_\1\2"),
    (r"swin", r"swin_([tsb])\..*", r"swin_\1"),
    (r"beit", r"beit_beit-base.*|beit-base-p16_beit-pre.*", r"beit_b"),
    (r"beit", r"beitv2_(base|large)_patch16_224.*", r"beit_\1_v2"),
    (r"beit", r"beit[-_](base|large)[-_](?:p|patch)16[-_](384|512).*", r"beit_\1_\2"),
    (r"beit", r"beit[-_](base|large).*|(base|large) .*", r"beit_\1\2"),
    (r"beit", r"dvae (encoder|decoder)", r"dvae_\1"),
    (r"mlp_mixer", r"mixer_([bl])16.*", r"mlp_mixer_\g<1>16"),
    (r"mlp_mixer", r"mlp-mixer-(base|large)-p16.*", r"mlp_mixer_\g<1>16"),
    (r"lvvit", r"lv-vit-([tsml]) upernet", r"upernet_lvvit_\1"),
    (r"lvvit", r"lv-vit-([tsml])", r"lvvit_\1"),
    (r"eanet", r"eamlp_7_384", r"eamlp_7_384"),
    (r"eanet", r"segmentation", r"eanet"),
    (r"repmlp", r"repmlpnet-(\w\d+)", r"repmlpnet_\1"),
    (r"repmlp", r"repmlp-base_3rdparty-256px", r"repmlpnet_b256"),
    (r"repmlp", r"repmlp-base_3rdparty", r"repmlpnet_b224"),
    (r"ff_only", r"(base|tiny)", r"ff_only_\1"),
    (r"dbb", r"mobilenet", r"dbb_mobilenet_v1"),
    (r"fcn|deeplabv3", r"(?:fcn|deeplabv3)_(\w+)\.coco_with_voc_labels_v1", r"\0_\1"),
    (r"fcn|deeplabv3|deeplabv3plus|pspnet", r"r(\d+)b-d(8|16|32)", r"\0_resnet\1b"),
    (r"fcn", r"fcn-d6_r(\d+b?)-d16", r"fcn_d6_resnet\1"),
    (r"deeplabv3|deeplabv3plus", r"r(\d+)-d16-mg124", r"\0_resnet\1_mg124"),
    (r"deeplabv3|deeplabv3plus", r"r103-dc5.*", r"\0_resnet101_dc5"),
    (r"deeplabv3|deeplabv3plus", r"mobilenet_v2 (?:os16|1\.0)", r"\0_mobilenet_v2"),
    (r"deeplabv3|deeplabv3plus", r"r(\d+) os16", r"\0_resnet\1"),
    (r"ocrnet", r"hrnet-w(\d+).*", r"ocrnet_hr\1"),
    (r"psanet|pspnet", r"r(\d+)_v1c", r"\0_resnet\1"),
    (r"psanet", r"caffe r(\d+)", r"psanet_caffe_resnet\1"),
    (r"bisenet", r"r(\d+)(?:-d32)?(?:-in1k-pre| ohem| real-time)?", r"bisenet_resnet\1"),
    (r"bisenet", r"xception39.*", r"bisenet_xception39"),
    (r"bisenetv2", r"ohem", r"bisenetv2"),
    (r"maskformer|mask2former", r"r(\d+)(?:-d32)?", r"\0_resnet\1"),
    (r"dbb", r"(resnet\d+)", r"dbb_\1"),
    (r"coc", r"(.*)", r"coc_\1"),
    (r"mscan", r"mscan_([tsbl]) .*", r"mscan_\1"),
    (r"resnet", r"(?:open-mmlab://)?resnet(\d+)_v1c", r"resnet\1_v1c"),
    (r"resnet", r"resnetv1([cd])(\d+)", r"resnet\2_v1\1"),
    (r"resnet", r"resnet-?(\d+)(?:[_. ].*)?", r"resnet\1"),
    (r"resnet", r"resnet(\d+)([cds])\..*", r"resnet\1_v1\2"),
    (r"enet", r"", r"enet_2018"),
    (r"erfnet", r"encoder", r"erfnet_encoder"),
    (r"shelfnet", r"r(\d+) .*", r"shelfnet\1"),
    (r"swiftnet", r"rn18 pyramid", r"swiftnet_pyramid"),
    (r"swiftnet", r"rn18 single scale", r"swiftnet"),
    (r"cgnet", r"m3n21.*", r"cgnet"),
    (r"sfnet", r"dfnetv(\d)", r"sfnet_df\1"),
    (r"sfnet", r"(?:r|resnet)(\d+)\b.*", r"sfnet_resnet\1"),
    (r"sfnet", r"lite_r18.*", r"sfnet_lite_resnet18"),
    (r"sfnet", r"lite_stdcv(\d)", r"sfnet_lite_stdc\1"),
    (r"regseg", r"exp48.*", r"regseg"),
    (r"regseg", r"exp53.*", r"regseg_large"),
    (r"stdc", r"stdc(\d)(?: \(backbone\)| backbone)", r"stdcnet\1"),
    (r"stdc", r"stdc(\d).*", r"stdc\1"),
    (r"bisenetv2", r"backbone", r"bisenetv2_backbone"),
    (r"icnet", r"caffe.*", r"icnet"),
    (r"segformer", r"mit[-_](b\d)(?: backbone| \(backbone\)|\.imagenet.*)", r"mit_\1"),
    (r"segformer", r"mit-b0\.\.b5 backbones", r"mit_b0"),
    (r"segformer", r"mit-(b\d)", r"segformer_\1"),
    (r"segnext", r"mscan-([tsbl])", r"segnext_\1"),
    (r"segmenter", r"vit-([tsbl])_(mask|linear)", r"segmenter_\1_\2"),
    (r"segmenter", r"(tiny|small|base|large) mask/16", r"segmenter_\1"),
    (r"segmenter", r"base linear/8", r"segmenter_base8_linear"),
    (r"segmenter", r"base-deit linear/16", r"segmenter_deit_base_linear"),
    (r"segmenter", r"base-deit mask/16", r"segmenter_deit_base"),
    (r"segvit", r"vit-large shrunk", r"segvit_shrunk_vit_large"),
    (r"segvit", r"vit-(base|large)", r"segvit_vit_\1"),
    (r"dpt", r"vit-b16", r"dpt_base"),
    (r"dpt", r"vit_large_patch16_384", r"dpt_large"),
    (r"cac", r"upernet swin-([bl]) in22k", r"cac_upernet_swin_\1_384"),
    (r"cac", r"(\S+) r(\d+)-d8", r"cac_\1_resnet\2"),
    (r"cac", r"(\S+) (\S+)", r"cac_\1_\2"),
    (r"ccnet", r"r101.*", r"ccnet_resnet101"),
    (r"ann", r"r101 ohem", r"ann_authors"),
    (r"ecenet", r"swin-base", r"ecenet_swin_base"),
    (r"maskformer|mask2former", r"r(\d+) \+ 6 enc", r"\0_resnet\1_enc6"),
    (r"maskformer|mask2former", r"r101c", r"\0_resnet101_v1s"),
    (r"maskformer|mask2former", r"swin-([tsbl])\b.*", r"\0_swin_\1"),
    (r"maskformer|mask2former", r"swin-(tiny|small|base|large)\b.*", r"\0_swin_\1"),
    (r"portraitnet", r".*", r"portraitnet"),
    (r"sinet", r"extremec3.*", r"extremec3"),
    (r"sinet", r"cityscapes", r"sinet_street"),
    (r"sinet", r".*", r"sinet"),
    (r"pphumanseg", r".*", r"pphumanseg"),
    (r"superpoint", r".*open re-implementation.*", r"superpoint_open"),
    (r"superpoint", r".*", r"superpoint"),
    (r"mapfusion", r"(\w+) \(base detector\)", r"\1"),
    (r"upernet", r"deit-([bs])16(?:-(ln))?(?:_mln)?", r"upernet_deit_\1_\2"),
    (r"upernet", r"vit-b16(?:-(ln))?(?:_mln)?", r"upernet_vit_base_\1"),
    (r"upernet", r"mae-base", r"upernet_mae_base"),
    (r"upernet", r"swin-([tsbl])\S*window12\S*|swin-(large).*", r"upernet_swin_\1\2_384"),
    (r"upernet", r"swin-([tsbl])\S*", r"upernet_swin_\1"),
    (r"upernet", r"convnext-(\w+) in22k", r"upernet_convnext_\1"),
    (r"gcnet", r"(.*rcnn.*dconv.*)", r"gcnet_\1"),
    (r"gcnet", r"mask-rcnn_(\S+?)-gcb-(r\d+)-c3-c5_fpn", r"mask_rcnn_\1_gcb_\2"),
    (r"gcnet", r"cascade-mask-rcnn_(\S+?)-(r\d+)-gcb-c3-c5_fpn", r"cascade_mask_rcnn_\1_gcb_\2"),
    (r"longtail", r"htc (r50|r101|x101\S*)(?:_fpn)?(.*)", r"htc_\1\2"),
    (r"longtail", r"mask r-cnn (\S+?)(?:-fpn)?(\s.*)?", r"mask_rcnn_\1\2"),
    (r"longtail", r"(cascade-)?mask-rcnn_(r50|r101|x101\S*?)_fpn(.*)", r"\1mask_rcnn_\2\3"),
    (r"pointrend", r"mask r-cnn (\S+?)(?:-caffe)?[- ]fpn", r"pointrend_mask_rcnn_\1"),
    (r"pointrend", r"semantic fpn r101-fpn", r"pointrend_resnet101"),
)  # fmt: skip
# words of variants, where no line above fits
WORDS = (
    (r"\br(?:esnet)?-?(\d+)-d8\b", r"resnet\1"),
    (r"\br(\d+)(b|s|_v1c)?-d(\d+)\b", r"resnet\1\2_d\3"),
    (r"\b(?:r|resnet)(\d+)\b", r"resnet\1"),
    (r"\bresnest-s(\d+)-d8\b", r"resnest\1"),
    (r"\bmobilenet-v2-d8\b", r"mobilenet_v2"),
    (r"-in1k-pre|_in1k-pre|-d8\b|-d32\b", ""),
    (r"\bswin-([tsbl])\b", r"swin_\1"),
    (r"\bmask r-cnn\b", "mask_rcnn"),
)
SIZES = {"t": "tiny", "s": "small", "b": "base", "l": "large", "xl": "xlarge"}
SHORT = {"tiny": "t", "small": "s", "base": "b", "large": "l"}


def model_of(row: dict[str, str]) -> str:
    """The name of our model: a registered one, or the system and what its trunk is called."""
    system, variant = row["system"], row["variant"].lower().strip()
    for systems, pattern, name in MODELS:
        asked = (
            f"{system} {'encoder' if row['schedule'] == 'encoder only' else row['task']}" if " " in systems else system
        )
        if re.fullmatch(systems, asked) and (match := re.fullmatch(pattern, variant)):
            found = re.sub(
                r"\\g<(\d)>|\\(\d)", lambda m: system if (m[1] or m[2]) == "0" else match[int(m[1] or m[2])] or "", name
            )
            return tidy(found)
    for pattern, word in WORDS:
        variant = re.sub(pattern, word, variant)
    return tidy(f"{system}_{variant}")


def tidy(name: str) -> str:
    """Lower case, words between single underscores; sizes as our models have them."""
    name = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    parts = name.split("_")
    if parts[0] in ("swin", "beit") and len(parts) > 1:
        parts[1] = SHORT.get(parts[1], parts[1])
    elif parts[0] in ("mlp", "repmlpnet") and len(parts) > 2:
        parts[2] = re.sub(r"^(base|large)", lambda m: SHORT[m[0]], parts[2])
    elif parts[0] in ("upernet", "cac", "maskformer", "mask2former", "segmenter") and len(parts) > 1:
        parts = [SIZES.get(part, part) if index else part for index, part in enumerate(parts)]
        if parts[-1] == "mask":
            parts.pop()
    return "_".join(parts)


def source_of(layout: str) -> str:
    """Whose checkpoint, as one word: a framework, or the authors' account."""
    if not layout.startswith("official:"):
        return layout
    owner = re.split(r"[/ ]", layout.removeprefix("official:"))[0]
    return re.sub(r"[^a-z0-9]+", "-", owner.lower()).strip("-")


def arguments_of(row: dict[str, str]) -> dict[str, Any]:
    """What the keys and shapes of such a file do not tell."""
    variant, found = row["variant"], {}
    if row["layout"] == "mmseg" and row["task"] == "semantic":
        if "769" in row["input"]:
            found["align_corners"] = True
        if (match := re.search(r"-d(16|32)\b", variant)) and row["system"] not in (
            "bisenet",
            "maskformer",
            "mask2former",
        ):
            found["output_stride"] = int(match[1])
        if "mg124" in variant:
            found["backbone_arguments"] = {"multigrid": [1, 2, 4]}
        if "fcn-d6" in variant:
            found["dilation"] = 6
    return found


def test_of(row: dict[str, str]) -> dict[str, Any]:
    """How the value was measured: `short_side`, `long_side` at most, `tile` and `stride` of a window."""
    system, data_set, size = row["system"], row["data_set"], row["input"]
    sides = [int(side) for side in re.findall(r"\d+", size)[:2]]
    if row["task"] != "semantic" or not sides:
        return {}
    side, test = min(sides), {}
    if row["layout"] == "mmseg" or row["layout"].startswith(("official:NVlabs", "official:rstrudel")):
        if "769" in size:
            test |= {"tile": 769, "stride": 513}
        elif data_set.startswith("Pascal Context"):
            test |= {"tile": 480, "stride": 320}
        elif system == "segformer" and data_set == "Cityscapes":
            test |= {"tile": 1024, "stride": 768}
        elif system == "segmenter":
            test |= {"tile": side, "stride": {512: 480, 640: 608}.get(side, side * 3 // 4)}
        elif system == "upernet" and row["variant"].startswith(("convnext", "mae", "beit", "deit", "vit")):
            test |= {"tile": side, "stride": 341 if side == 512 else 426}
    if data_set.startswith("ADE20K"):
        test |= {"short_side": 640 if side == 640 else 512, "long_side": 2560 if side == 640 else 2048}
    return test


def score_of(row: dict[str, str]) -> float:
    """For choosing the best of a group: errors count backwards."""
    try:
        value = float(row["value"].split("/")[0])
    except ValueError:
        return float("-inf")
    return -value if "error" in row["metric"] else value


def tags(row: dict[str, str]) -> list[str]:
    """What tells rows of one model, data set and source apart, in the order in which it is added to the name."""
    crop = re.search(r"\d+x\d+|\d+", row["input"])
    square = re.sub(r"^(\d+)x\1$", r"\1", crop[0]) if crop else ""
    schedule = re.search(r"(\d+)k it|(\d+)x\b|(\d+) ?e(?:pochs)?\b", row["schedule"])
    long = (
        ""
        if not schedule
        else f"{schedule[1]}k"
        if schedule[1]
        else f"{schedule[2]}x"
        if schedule[2]
        else f"{schedule[3]}e"
    )
    amp = "amp" if "amp" in row["schedule"] else ""
    own = row["variant"].rpartition(".")[2] if row["layout"] in ("timm", "torchvision") else row["variant"]
    own = re.sub(r"[^a-z0-9]+", "-", own.lower().removeprefix("imagenet1k_")).strip("-")
    words = [word for word in own.split("-") if word not in model_of(row).split("_")]
    own = "-".join(words)
    return [row["task"], square, long, amp, own]


def named(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Gives each row its name: the best of a group the short one, the others with as much more as tells them apart."""
    groups = defaultdict(list)
    for row in rows:
        data_set = DATA_SETS[row["data_set"]].short
        stem = (
            f"{model_of(row)}.{data_set}-{source_of(row['layout'])}"
            if data_set
            else f"{model_of(row)}.{source_of(row['layout'])}"
        )
        groups[stem].append(row)
    taken: set[str] = set()
    for stem, group in groups.items():
        group.sort(key=score_of, reverse=True)
        for index, row in enumerate(group):
            name = stem
            more = tags(row)
            differing = [i for i in range(len(more)) if len({tags(other)[i] for other in group}) > 1]
            for i in differing if index else ():
                if more[i] and name in taken | {stem}:
                    name = f"{name}-{more[i]}"
            count = 2
            unnumbered = name
            while name in taken:
                name, count = f"{unnumbered}-{count}", count + 1
            taken.add(name)
            row["name"] = name
    return sorted(rows, key=lambda row: row["name"])


# ours -> module of mmsegmentation or mmdetection, and its class
LISTS = {
    "cityscapes": ("mmseg/datasets/cityscapes.py", "CityscapesDataset"),
    "bdd100k": ("mmseg/datasets/bdd100k.py", "BDD100KDataset"),
    "ade20k": ("mmseg/datasets/ade.py", "ADE20KDataset"),
    "voc": ("mmseg/datasets/voc.py", "PascalVOCDataset"),
    "context60": ("mmseg/datasets/pascal_context.py", "PascalContextDataset"),
    "context59": ("mmseg/datasets/pascal_context.py", "PascalContextDataset59"),
    "cocostuff": ("mmseg/datasets/coco_stuff.py", "COCOStuffDataset"),
    "loveda": ("mmseg/datasets/loveda.py", "LoveDADataset"),
    "potsdam": ("mmseg/datasets/potsdam.py", "PotsdamDataset"),
    "vaihingen": ("mmseg/datasets/isprs.py", "ISPRSDataset"),
    "isaid": ("mmseg/datasets/isaid.py", "iSAIDDataset"),
    "mapillary": ("mmseg/datasets/mapillary.py", "MapillaryDataset_v1"),
    "mapillary2": ("mmseg/datasets/mapillary.py", "MapillaryDataset_v2"),
    "lip": ("mmseg/datasets/lip.py", "LIPDataset"),
    "coco": ("mmdet/datasets/coco.py", "CocoDataset"),
    "coco-panoptic": ("mmdet/datasets/coco_panoptic.py", "CocoPanopticDataset"),
    "lvis05": ("mmdet/datasets/lvis.py", "LVISV05Dataset"),
    "lvis1": ("mmdet/datasets/lvis.py", "LVISV1Dataset"),
}  # fmt: skip


def write_class_lists(folder: Path) -> None:
    """Names and colours of the classes of data sets that others published, in their order."""
    found = {}
    for name, (module, kind) in LISTS.items():
        tree = ast.parse((folder / module).read_text("utf-8"))
        body = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == kind).body
        told = next(
            node.value for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "METAINFO"
        )
        if isinstance(told, ast.Call):
            told = ast.Dict([ast.Constant(word.arg) for word in told.keywords], [word.value for word in told.keywords])
        said = {ast.literal_eval(key): value for key, value in zip(told.keys, told.values, strict=True) if key}
        classes = [" ".join(word.split()) for word in ast.literal_eval(said["classes"])]
        found[name] = {"classes": classes}
        if "palette" in said and isinstance(said["palette"], ast.List):
            palette = ast.literal_eval(said["palette"])
            if len(palette) == len(classes):
                found[name]["palette"] = [bytes(colour).hex() for colour in palette]
    lines = ",\n".join(
        f" {json.dumps(name)}: {json.dumps(said, separators=(',', ':'), ensure_ascii=False)}"
        for name, said in found.items()
    )
    PUBLISHED.with_name("class_lists.json").write_text(f"{{\n{lines}\n}}\n", "utf-8")
    print({name: (len(said["classes"]), "palette" in said) for name, said in found.items()})


def main(table: str) -> None:
    with open(table, encoding="utf-8", newline="") as file:
        rows = named(list(csv.DictReader(file, delimiter="\t")))
    with PUBLISHED.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
        writer.writerow(COLUMNS)
        for row in rows:
            page = re.search(r"\(page (\S+?)\)", row["source"])
            address = f"page:{page[1]}" if row["address"] == "drive" and page else row["address"]
            short = {
                key: json.dumps(value, separators=(",", ":")) if value else ""
                for key, value in (("arguments", arguments_of(row)), ("test", test_of(row)))
            }
            note = ", ".join(filter(None, (row["variant"], row["input"], row["schedule"])))
            writer.writerow([
                row["name"], row["system"], row["layout"], row["task"], row["data_set"], row["metric"], row["value"], address,
                row["sha256"], row["licence"], short["arguments"], short["test"], note,
            ])  # fmt: skip
    print(f"{len(rows)} rows, {PUBLISHED.stat().st_size} bytes")


if __name__ == "__main__":
    if sys.argv[1] == "--classes":
        write_class_lists(Path(sys.argv[2]))
    else:
        main(sys.argv[1])
