"""Pascal VOC 2012 segmentation: 20 classes of things and the background.

M. Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective", IJCV 111 (2015).

Layout, as published: `JPEGImages/<name>.jpg`, `SegmentationClass/<name>.png` (palette PNG, 255 = void) and
`ImageSets/Segmentation/{train,val,trainval,test}.txt`, in the given folder or in `VOCdevkit/VOC2012` or `VOC2012`
under it. `trainaug` reads the larger training list of B. Hariharan et al., "Semantic Contours from Inverse Detectors",
ICCV 2011, from `SegmentationClassAug/`. Label images saved in the colours of the palette are read too.
"""

from __future__ import annotations

from pathlib import Path

from segmentarium.data.base import (
    DatasetInfo,
    Item,
    SegmentationDataset,
    Transform,
    inner_folder,
    require_folder,
)
from segmentarium.data.mask_io import MaskEncoding
from segmentarium.data.splits import check_split
from segmentarium.data.text_files import read_list
from segmentarium.labels import IGNORE_INDEX
from segmentarium.palette import default_palette

SPLITS = ("train", "val", "trainval", "trainaug", "test")

INFO = DatasetInfo(
    name="voc",
    classes=(
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    ),
    palette=default_palette(21),
    licence="photographs by Flickr's terms of use; for research",
    url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
)  # fmt: skip

_VOID_COLOUR = (224, 224, 192)


class PascalVOC(SegmentationDataset):
    """VOC 2012 in 21 classes; `split` is train, val, trainval, trainaug or test (labels not published)."""

    def __init__(
        self, root: str | Path, split: str = "train", transform: Transform | None = None, cache: bool = False
    ) -> None:
        check_split(split, SPLITS, INFO.name)
        root = inner_folder(inner_folder(root, "VOCdevkit", "JPEGImages"), "VOC2012", "JPEGImages")
        images = require_folder(root / "JPEGImages", "the photographs of VOC")
        masks = root / ("SegmentationClassAug" if split == "trainaug" else "SegmentationClass")
        names = [Path(name).stem for name in read_list(root / "ImageSets" / "Segmentation" / f"{split}.txt")]
        if split != "test":
            require_folder(masks, "label images")
            missing = [name for name in names if not (masks / f"{name}.png").is_file()]
            if missing:
                raise FileNotFoundError(
                    f"{masks} has no label image for {len(missing)} of {len(names)} names: {', '.join(missing[:5])}"
                )
        items = [Item(images / f"{name}.jpg", None if split == "test" else masks / f"{name}.png") for name in names]
        colours = {rgb: index for index, rgb in enumerate(INFO.palette)} | {_VOID_COLOUR: IGNORE_INDEX}
        super().__init__(INFO, items, MaskEncoding(21, colours=colours), transform, cache)
