"""The data sets that others published weights for, by the names that they give them: all that is said of each, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DataSet:
    """One data set, in the words of this library.

    short     in names of weights: "pspnet_resnet50.cityscapes-mmseg"
    classes   its list in class_lists.json; "": there is none
    readers   what `--data` calls it, by task, "" for all others; {}: nothing here reads it
    """

    short: str
    classes: str = ""
    readers: Mapping[str, str] = field(default_factory=dict)

    def reader(self, task: str) -> str | None:
        """What `--data` calls it where weights of this task are scored; None: nothing reads it."""
        return self.readers.get(task, self.readers.get(""))


_CITYSCAPES = {"": "cityscapes", "panoptic": "cityscapes_panoptic", "instance": "cityscapes_instances"}
_COCO = {"panoptic": "coco_panoptic", "instance": "coco_instances"}
DATA_SETS: dict[str, DataSet] = {
    "": DataSet(""),
    "ADE20K": DataSet("ade20k", "ade20k", {"": "ade20k", "panoptic": "ade20k_panoptic"}),
    "ADE20K-Full": DataSet("ade20k-full"),
    "BDD100K": DataSet("bdd100k", "bdd100k"),
    "COCO 2017": DataSet("coco", "coco", _COCO),
    "COCO 2017 with VOC labels": DataSet("voc", "voc"),
    "COCO keypoints": DataSet("coco", readers={"": "coco_keypoints"}),
    "COCO keypoints + AIC (combine)": DataSet("coco-aic"),
    "COCO keypoints + AIC (merge)": DataSet("coco-aic-merge"),
    "COCO-Stuff": DataSet("cocostuff", "cocostuff"),
    "COCO-Stuff 10k": DataSet("cocostuff10k", "cocostuff"),
    "COCO-Stuff 164k": DataSet("cocostuff", "cocostuff", {"": "coco_stuff"}),
    "CamVid": DataSet("camvid", readers={"": "camvid"}),
    "Cityscapes": DataSet("cityscapes", "cityscapes", _CITYSCAPES),
    "EG1800": DataSet("eg1800", readers={"": "eg1800"}),
    "ImageNet-1k": DataSet("imagenet", readers={"": "imagenet"}),
    "ImageNet-21k": DataSet("imagenet21k"),
    "ImageNet-22k": DataSet("imagenet22k"),
    "KITTI": DataSet("kitti"),
    "LIP": DataSet("lip", "lip"),
    "LVIS v0.5": DataSet("lvis05", "lvis05"),
    "LVIS v1": DataSet("lvis1", "lvis1"),
    "LoveDA": DataSet("loveda", "loveda"),
    "MS COCO": DataSet("coco", "coco", _COCO),
    "Mapillary Vistas": DataSet("mapillary", "mapillary"),
    "PP-HumanSeg14K": DataSet("humanseg14k"),
    "Pascal Context": DataSet("context60", "context60", {"": "pascal_context"}),
    "Pascal Context (60)": DataSet("context60", "context60", {"": "pascal_context"}),
    "Pascal Context 59": DataSet("context59", "context59", {"": "pascal_context59"}),
    "Potsdam": DataSet("potsdam", "potsdam"),
    "Supervise-Portrait": DataSet("portraits"),
    "VOC 2012": DataSet("voc", "voc", {"": "voc"}),
    "VOC 2012 aug": DataSet("voc", "voc", {"": "voc"}),
    "Vaihingen": DataSet("vaihingen", "vaihingen"),
    "human": DataSet("human"),
    "human (large-scale, tested on mini Supervisely Person)": DataSet("human"),
    "human + prior channel": DataSet("human-prior"),
    "iSAID": DataSet("isaid", "isaid"),
    "nuScenes": DataSet("nuscenes"),
    "synthetic shapes": DataSet("shapes"),
}
