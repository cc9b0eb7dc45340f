"""Pascal-Context: every pixel of VOC 2010's photographs in 59 classes, or 60 with the background.

R. Mottaghi et al., "The Role of Context for Object Detection and Semantic Segmentation in the Wild", CVPR 2014.

Layout, as mmsegmentation has it made of the published annotations: `JPEGImages/<name>.jpg`,
`SegmentationClassContext/<name>.png` (0 = background, 1 to 59 the frequent classes by name) and
`ImageSets/SegmentationContext/{train,val}.txt`, in the given folder or in `VOCdevkit/VOC2010` or `VOC2010` under it.
Of the 60 classes the background is the first; of the 59 it is none, and counts nowhere.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from segmentarium.data.base import DatasetInfo, Item, SegmentationDataset, Transform, inner_folder, require_folder
from segmentarium.data.mask_io import MaskEncoding
from segmentarium.data.splits import check_split
from segmentarium.data.text_files import read_list
from segmentarium.labels import IGNORE_INDEX
from segmentarium.palette import default_palette

SPLITS = ("train", "val")

_NAMES = """
aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building, bus, cabinet, car, cat, ceiling,
chair, cloth, computer, cow, cup, curtain, dog, door, fence, floor, flower, food, grass, ground, horse, keyboard, light,
motorbike, mountain, mouse, person, plate, platform, pottedplant, road, rock, sheep, shelves, sidewalk, sign, sky, snow,
sofa, table, track, train, tree, truck, tvmonitor, wall, water, window, wood
"""

INFO = DatasetInfo(
    name="pascal_context",
    classes=("background", *(name.strip() for name in _NAMES.replace("\n", " ").split(","))),
    palette=default_palette(60),
    licence="photographs by Flickr's terms of use; for research",
    url="https://cs.stanford.edu/~roozbeh/pascal-context/",
)
INFO_59 = replace(INFO, name="pascal_context59", classes=INFO.classes[1:], palette=INFO.palette[1:])


class PascalContext(SegmentationDataset):
    """In 60 classes; `split` is train or val."""

    facts = INFO

    def __init__(
        self, root: str | Path, split: str = "train", transform: Transform | None = None, cache: bool = False
    ) -> None:
        check_split(split, SPLITS, self.facts.name)
        root = inner_folder(inner_folder(root, "VOCdevkit", "JPEGImages"), "VOC2010", "JPEGImages")
        images = require_folder(root / "JPEGImages", "the photographs of VOC 2010")
        masks = require_folder(root / "SegmentationClassContext", "label images")
        names = [Path(name).stem for name in read_list(root / "ImageSets" / "SegmentationContext" / f"{split}.txt")]
        missing = [name for name in names if not (masks / f"{name}.png").is_file()]
        if missing:
            raise FileNotFoundError(
                f"{masks} has no label image for {len(missing)} of {len(names)} names: {', '.join(missing[:5])}"
            )
        classes = self.facts.num_classes
        first = 60 - classes  # the label that is class 0
        mapping = {label: label - first if label >= first else IGNORE_INDEX for label in range(60)}
        items = [Item(images / f"{name}.jpg", masks / f"{name}.png") for name in names]
        super().__init__(self.facts, items, MaskEncoding(classes, mapping), transform, cache)


class PascalContext59(PascalContext):
    """In 59 classes, the background ignored."""

    facts = INFO_59
