"""LVIS: COCO's pictures with objects of more than a thousand classes, most of them rare.  Versions 0.5 and 1.

    annotations/lvis_v1_{train,val}.json or lvis_v0.5_{train,val}.json, or the same without annotations/, or {train,val}.json
    {train,val}2017/ or images/{train,val}2017/: COCO's pictures; validation of v1 has some of COCO's training set

A. Gupta, P. Dollár, R. Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019,
https://arxiv.org/abs/1908.03195.  Annotations CC BY 4.0.

It is federated: of a picture it is known which classes it shows, of some others that it does not ("negative"), and of some that
not all their objects are labelled ("not exhaustive").  Of all further classes nothing is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from segmentarium.data.base import Sample, Transform, require_folder
from segmentarium.data.class_frequency import frequency_of, object_counts
from segmentarium.data.coco_instances import CocoInstances
from segmentarium.data.segments import refuse
from segmentarium.data.splits import check_split
from segmentarium.losses.federated import answered

VERSIONS = ("v1", "v0.5")
SPLITS = ("train", "val")
LICENCE = "annotations CC BY 4.0; photographs by their Flickr licences"


class LVIS(CocoInstances):
    """Objects of 1,203 classes (v1) or 1,230 (v0.5); every class is a thing.

    A sample also has "answered", bool (K,) numpy: the classes of which the lists say where the picture shows them.

    version: "v1" or "v0.5"; None: the newer of what is there.
    annotations, pictures: as of `CocoInstances`.

    Attributes: frequency, "r", "c" or "f" for each class (in up to 10, up to 100, more training pictures); image_counts and
    instance_counts, training pictures and objects of each class, as the JSON says them.

    Raises:
        FileNotFoundError: no JSON, or its first picture is not there.
        SegmentError: a JSON that is not LVIS's.
    """

    lists_all = False  # it has some of COCO's pictures

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Transform | None = None,
        cache: bool = False,
        annotations: str = "",
        pictures: str = "",
        version: str | None = None,
    ) -> None:
        check_split(split, SPLITS, "lvis")
        root = require_folder(Path(root), "annotations/lvis_v1_train.json and COCO's pictures")
        if version not in (None, *VERSIONS):
            raise ValueError(f"version is {version!r}; LVIS has {' and '.join(VERSIONS)}")
        if not annotations:
            annotations = _annotations(root, split, (version,) if version else VERSIONS)
        self.in_folder = bool(pictures)
        super().__init__(root, split, transform, cache, annotations, pictures)
        path = root / annotations
        lists = ("neg_category_ids", "not_exhaustive_category_ids")
        if missing := [key for key in lists if key not in self.items[0].entry[0]]:
            refuse(path, f"has pictures without {' and '.join(missing)}; it is COCO's form and not LVIS's")
        strange = {
            one for item in self.items for key in lists for one in item.entry[0][key] if one not in self.classes_of
        }
        if strange:
            refuse(path, f"lists categories that it does not define: {', '.join(map(str, sorted(strange)[:5]))}")
        images, instances = object_counts(self)
        self.image_counts = [int(one.get("image_count", images[i])) for i, one in enumerate(self.categories)]
        self.instance_counts = [int(one.get("instance_count", instances[i])) for i, one in enumerate(self.categories)]
        self.frequency = tuple(
            str(one.get("frequency") or frequency_of(number))
            for one, number in zip(self.categories, self.image_counts, strict=True)
        )

    @classmethod
    def evaluation_split(cls, root: Path) -> str:
        return "val"  # its test set has no labels that are published

    def known(self, index: int) -> dict[str, frozenset[int]]:
        """Of picture `index` the classes that it does not show, "negative", and those not labelled throughout, "uncertain"."""
        picture = self.items[index].entry[0]
        negative, uncertain = (
            frozenset(self.classes_of[one] for one in picture[key])
            for key in ("neg_category_ids", "not_exhaustive_category_ids")
        )
        return {"negative": negative, "uncertain": uncertain}

    def _label(self, index: int, arrays: tuple[np.ndarray, ...]) -> Sample:
        lists = self.known(index)
        found = answered([self.shown(index)], [lists["negative"]], self.info.num_classes, [lists["uncertain"]])
        return {**super()._label(index, arrays), "answered": found[0].numpy()}

    @staticmethod
    def facts(root: Path, path: Path) -> tuple[str, str, str]:
        version = next((one for one in VERSIONS if one in path.name), "")
        return f"lvis_{version}".rstrip("_"), LICENCE, "https://www.lvisdataset.org"

    def place(self, root: Path, folder: Path, picture: dict[str, Any]) -> Path:
        """By its address, which has COCO's folder; else by its name, of which v0.5 has the one of 2014, with a prefix."""
        address = str(picture.get("coco_url", "")).rsplit("/", 2)
        if len(address) == 3 and not self.in_folder:
            folder = root / "images" / address[1] if (root / "images" / address[1]).is_dir() else root / address[1]
            return folder / address[2]
        name = str(picture["file_name"]) if "file_name" in picture else address[-1]
        if "/" in name:  # pseudo labels, whose JSON says where the pictures are
            return folder / name
        return folder / (name[-16:] if name.startswith("COCO_") else name)


def _annotations(root: Path, split: str, versions: tuple[str, ...]) -> str:
    """The JSON, below the folder."""
    names = [f"{folder}lvis_{version}_{split}.json" for version in versions for folder in ("annotations/", "")]
    names.append(f"{split}.json")
    found = next((name for name in names if (root / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{root} has none of {', '.join(names)}; name it with annotations=")
    return found
