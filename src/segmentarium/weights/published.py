"""Checkpoints that others published, by name: "pspnet_resnet50.cityscapes-mmseg".

A name is MODEL.DATASET-SOURCE; the best of a group has the short one, the others say crop and schedule.  The list is a table,
`published.tsv`, which `docs/catalogue.py` makes; it holds what neither keys nor shapes of a file tell: arguments, classes,
how the published value was measured.  A row can be loaded once a key table reads files of its source into its model.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from segmentarium.brief import Brief
from segmentarium.checks import did_you_mean
from segmentarium.registry import known
from segmentarium.weights.data_sets import DATA_SETS
from segmentarium.weights.layouts import layouts

HERE = Path(__file__).resolve().parent
# publisher in the table -> who is behind the key tables of such files
REPOSITORIES = {
    "mmseg": "open-mmlab/mmsegmentation",
    "mmdet": "open-mmlab/mmdetection",
    "mmpose": "open-mmlab/mmpose",
    "mmpretrain": "open-mmlab/mmpretrain",
    "mmdet3d": "open-mmlab/mmdetection3d",
    "torchvision": "pytorch/vision",
    "transformers": "huggingface/transformers",
    "timm": "huggingface/pytorch-image-models",
    "smp": "qubvel-org/segmentation_models.pytorch",
}
# numbers in 0..255; ours are in 0..1.  Where nothing stands here, the layout or the model's default says it
Pixels = tuple[tuple[float, ...], tuple[float, ...]]
IMAGENET: Pixels = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
HALF: Pixels = ((127.5,) * 3, (127.5,) * 3)
PIXELS: dict[str, Pixels] = {
    # the authors subtract the means of blue, green and red from red, green and blue; CamVid's are not known
    "cgnet official:wutianyiRosun/CGNet Cityscapes": ((72.39, 82.91, 73.16), (1.0, 1.0, 1.0)),
    "cgnet mmseg": ((72.39, 82.91, 73.16), (1.0, 1.0, 1.0)),
    "enet official:davidtvs/PyTorch-ENet": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "erfnet official:Eromera/erfnet_pytorch": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "swiftnet official:orsic/swiftnet": ((73.15, 82.90, 72.3), (47.67, 48.49, 47.73)),
    "beit": HALF,
    "dpt": HALF,
    "dpt mmseg": IMAGENET,
    "mae": IMAGENET,
    "mlp_mixer": HALF,
    "segmenter": HALF,
    "vit timm": HALF,
}
AS_IMAGENET = re.compile(r"deit|beitv2")  # variants that normalise so whatever others of their system do
DATA_SET_PIXELS = {  # CoinCheung's networks: of each data set its own, in 0..1
    "Cityscapes": ((0.3257, 0.3690, 0.3223), (0.2112, 0.2148, 0.2115)),
    "COCO-Stuff": ((0.4696, 0.4464, 0.4072), (0.2747, 0.2701, 0.2852)),
    "ADE20K": ((0.4934, 0.4682, 0.4311), (0.2568, 0.2551, 0.2742)),
}
# what a model must be for rows of these tasks
KINDS = {
    "classification": ("classifier",),
    "pretraining": ("pretrainer", "classifier"),
    "semantic": ("segmenter", "mask"),
    "instance": ("mask", "instances"),
    "panoptic": ("mask",),
    "detection 3-D": ("detector3d",),
}
DEFORMABLE = re.compile(r"\bd(?:conv|cn)\b")  # trunks with deformable convolutions, which no backbone here has
NOT_FREE = re.compile(
    r"non-?commercial|by-nc|academic|nvidia|not read|no licence|no tag|no model card|^unstated$|^$|other \(",
    re.IGNORECASE,
)


@dataclass(frozen=True, repr=False)
class Published(Brief):
    """One published checkpoint.

    layout     whose file: a framework, or "official:OWNER/REPOSITORY"
    value      the published score in `metric`, as its source writes it; "": none is stated
    address    where the file lies: an address, "hf:OWNER/NAME", or "page:ADDRESS" that a person must open
    digits     of its SHA-256: the first few or all; "?" behind them: they stand in the name and may be another file's
    arguments  of the model that leave no trace in keys and shapes
    test       how the value was measured: short_side, long_side, tile, stride (`Preprocessing`)
    note       variant, crop and schedule as the publisher names them
    """

    name: str
    system: str
    layout: str
    task: str
    data_set: str
    metric: str
    value: str
    address: str
    digits: str
    licence: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    test: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def page(self) -> str | None:
        """The page that a person must open; None: the file can be fetched."""
        if self.address == "drive":
            return f"the page of {self.layout.removeprefix('official:')}"
        return self.address.removeprefix("page:") if self.address.startswith("page:") else None

    @property
    def commercial(self) -> bool:
        """Whether the licence is known and allows commercial use."""
        return NOT_FREE.search(self.licence) is None

    @cached_property
    def model(self) -> str | None:
        """The registered model that it is one of, as far as the name tells; None: the system is not here."""
        base = self.name.partition(".")[0]
        words = base.split("_")
        for count in range(len(words), 0, -1):
            if (found := "_".join(words[:count])) in known():
                return found
        return next((name for name in known() if name.startswith(f"{words[0]}_")), None)

    @cached_property
    def layouts(self) -> tuple[str, ...]:
        """The key tables that come into question: those into models of its module, if one is of files from its source."""
        if self.model is None or not self.own_layouts or DEFORMABLE.search(self.note):
            return ()
        kind = known()[self.model]["kind"]
        return layouts_into(known()[self.model]["module"]) if kind in KINDS.get(self.task, (kind,)) else ()

    @cached_property
    def own_layouts(self) -> tuple[str, ...]:
        """Those of them that are of files from its source."""
        source = REPOSITORIES.get(self.layout, self.layout.removeprefix("official:")).lower()
        into = layouts_into(known()[self.model]["module"]) if self.model else ()
        return tuple(
            name
            for name in into
            if any(source in text.lower() for text in (layouts()[name].source, *layouts()[name].others))
        )

    def header(self, num_classes: int | None) -> dict[str, Any]:
        """What a file of ours would say of it: classes, palette, mean and std of pictures, dataset, metrics, licences, test.

        num_classes   of the model; a list of names that has other many is not its
        """
        said: dict[str, Any] = {"dataset": self.data_set or None, "licences": {"weights": self.licence}}
        if self.value:
            said["metrics"] = {self.metric: self.value}
        if (pixels := self.pixels) is not None:
            said["preprocessing"] = dict(zip(("mean", "std"), pixels, strict=True))
        if self.test:
            said["test"] = dict(self.test)
        if (named := class_names(self.data_set, num_classes, panoptic=self.task == "panoptic")) is not None:
            said |= named
        return said

    @property
    def pixels(self) -> Pixels | None:
        """Mean and standard deviation that its pictures, in 0..1, are normalised by; None: as the layout or the model says."""
        if self.layout == "official:CoinCheung/BiSeNet":
            return DATA_SET_PIXELS.get(self.data_set)
        of = (f"{self.system} {self.layout} {self.data_set}", f"{self.system} {self.layout}", self.system)
        found = IMAGENET if AS_IMAGENET.search(self.note) else next((PIXELS[key] for key in of if key in PIXELS), None)
        if found is None:
            return None
        return tuple(n / 255 for n in found[0]), tuple(n / 255 for n in found[1])


@cache
def layouts_into(module: str) -> tuple[str, ...]:
    """Names of the key tables of the models of a module ("backbones.resnet")."""
    return tuple(name for name, layout in layouts().items() if known()[layout.model]["module"] == module)


@cache
def class_lists() -> dict[str, dict[str, Any]]:
    """Data set -> classes (names in order) and, where it has one, palette (colours as six hexadecimal digits)."""
    return json.loads((HERE / "class_lists.json").read_text("utf-8"))


def class_names(data_set: str, num_classes: int | None, *, panoptic: bool = False) -> dict[str, Any] | None:
    """Classes and palette, as headers of ours hold them, of a data set by its published name; None: not known, or others."""
    if data_set == "ImageNet-1k" and num_classes == 1000:
        from timm.data.imagenet_info import ImageNetInfo

        info = ImageNetInfo("imagenet-1k")
        return {"classes": [info.index_to_description(index).split(",")[0] for index in range(1000)]}
    name = DATA_SETS[data_set].classes if data_set in DATA_SETS else ""
    if panoptic and name == "coco":
        name = "coco-panoptic"
    if not name:
        return None
    said = class_lists()[name]
    classes = said["classes"]
    if name == "mapillary" and num_classes == len(classes) - 1:
        classes = classes[:-1]  # the last is what nobody labelled
    if len(classes) != num_classes:
        return None
    found: dict[str, Any] = {"classes": classes}
    if "palette" in said:
        found["palette"] = [list(bytes.fromhex(colour)) for colour in said["palette"][: len(classes)]]
    return found


@cache
def published() -> dict[str, Published]:
    """All that the table holds, by name."""
    with (HERE / "published.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    found = {}
    for row in rows:
        told = {key: json.loads(row[key]) if row[key] else {} for key in ("arguments", "test")}
        found[row["name"]] = Published(**{**row, **told})
    return found


def named(name: str) -> Published:
    """The row of this name; ValueError that tells near ones."""
    if name not in published():
        raise ValueError(f"no published weights are called {name!r}{did_you_mean(name, list(published()))}")
    return published()[name]


def list_published(
    pattern: str = "*",
    *,
    task: str | None = None,
    data_set: str | None = None,
    layout: str | None = None,
    commercial: bool = False,
    known: bool = True,
) -> list[Published]:
    """The published checkpoints that can be named here, by name.

    pattern      of the name, as in a shell, or a part of it
    task         "semantic", "panoptic", "instance", "classification", "pretraining", "keypoints"
    data_set     or a part of its name, in any case; layout: the same of the source
    commercial   only those whose licence is known and allows commercial use
    known        only those whose system is in this library
    """
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return [
        row
        for row in published().values()
        if fnmatch(row.name, wanted)
        and task in (None, row.task)
        and (data_set or "").lower() in row.data_set.lower()
        and (layout or "").lower() in row.layout.lower()
        and (row.commercial or not commercial)
        and (row.layouts or not known)
    ]


def imagenet_trunk(backbone: str) -> str:
    """The name of published weights, trained on ImageNet's thousand classes, of a backbone of ours; timm's of timm's.

    Those of free licences that can be fetched come first, then frameworks before authors.  Raises KeyError where none are known.
    """
    if backbone.startswith("timm:"):
        return backbone
    rows = [row for row in published().values() if row.name.startswith(f"{backbone}.imagenet-") and row.layouts]
    if not rows:
        raise KeyError(
            f"no ImageNet weights are published for {backbone!r}; give backbone_weights a file, or 'timm:NAME'"
        )
    order = ("torchvision", "timm", "transformers", "mmpretrain")

    def rank(row: Published) -> tuple[bool, bool, int, int]:
        place = order.index(row.layout) if row.layout in order else len(order)
        return row.page is not None, not row.commercial, place, len(row.name)

    return min(rows, key=rank).name


@cache
def _buildable(model: str, told: str) -> str:
    """Why a model cannot be built without numbers with these further arguments; "": it can."""
    from segmentarium.meta import on_meta
    from segmentarium.registry import entry

    found = entry(model)
    arguments = {key: value for key, value in json.loads(told).items() if found.takes(key)}
    if missing := json.loads(told).keys() - arguments.keys():
        return f"{model} takes no {', '.join(sorted(missing))}"
    try:
        with on_meta():
            found.make(**found.completed(arguments))
    except Exception as error:  # whatever stands in the table
        return f"{model} cannot be built: {error}"
    return ""


def unresolved(row: Published) -> str:
    """Why a row cannot become a model, given its file; "": it can."""
    from segmentarium.weights.fetch import direct, on_list

    if not row.layouts or row.model is None:
        return "no key table reads it"
    if row.page is None and not row.address.startswith("hf:") and not on_list(direct(row.address)):
        return f"{row.address} is of no listed host"
    return _buildable(row.model, json.dumps(dict(row.arguments)))
