"""COCO-Stuff 164k: 80 classes of things and 91 of stuff on the pictures of COCO 2017.

H. Caesar, J. Uijlings, V. Ferrari, "COCO-Stuff: Thing and Stuff Classes in Context", CVPR 2018,
https://arxiv.org/abs/1612.03716.

Layout: pictures in `train2017/` and `val2017/` (or in those folders under `images/`); label images, the published
"stuffthingmaps", in `stuffthingmaps/{train2017,val2017}/` or `annotations/{train2017,val2017}/`. A pixel is the
COCO id less one: 0..181 with 11 gaps, 255 unlabelled; the 171 classes are those ids in order. Label images that were
already renumbered (`<name>_labelTrainIds.png`, 0..170) are read as they are, where no others lie in the folder.

The set's own colours are drawn anew by each of its tools; here they are the bit-interleaved ones of Pascal VOC.
"""

from __future__ import annotations

from pathlib import Path

from segmentarium.data.base import (
    DatasetInfo,
    Item,
    SegmentationDataset,
    Transform,
    index_by_stem,
    pair_folders,
    require_folder,
)
from segmentarium.data.image_io import IMAGE_SUFFIXES
from segmentarium.data.mask_io import MaskEncoding
from segmentarium.data.splits import check_split
from segmentarium.labels import IGNORE_INDEX
from segmentarium.palette import default_palette

SPLITS = ("train", "val")

_THINGS = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush
"""

_STUFF = """
banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other,
ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence,
floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other,
grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin,
net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road,
rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw,
structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other,
wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
"""

# COCO ids (from 1) of things that were planned and never labelled, and so have no class.
_UNUSED_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91})
_IDS = tuple(i for i in range(1, 183) if i not in _UNUSED_IDS)
_TRAIN_IDS = "_labelTrainIds"

INFO = DatasetInfo(
    name="coco_stuff",
    classes=tuple(name.strip() for name in f"{_THINGS},{_STUFF}".replace("\n", " ").split(",")),
    palette=default_palette(len(_IDS) + 1)[1:],  # black is left to void
    licence="annotations CC BY 4.0; photographs by their Flickr licences",
    url="https://github.com/nightrome/cocostuff",
)


class CocoStuff(SegmentationDataset):
    """COCO-Stuff in 171 classes; `split` is train or val."""

    def __init__(
        self, root: str | Path, split: str = "train", transform: Transform | None = None, cache: bool = False
    ) -> None:
        check_split(split, SPLITS, INFO.name)
        root, part = Path(root), f"{split}2017"
        images = root / "images" / part if (root / "images" / part).is_dir() else root / part
        require_folder(images, "the pictures of COCO 2017, also looked for in images/")
        maps = root / "stuffthingmaps" / part
        masks = maps if maps.is_dir() else root / "annotations" / part
        require_folder(masks, f"label images, also looked for in {maps}")
        renumbered = {
            n.removesuffix(_TRAIN_IDS): p for n, p in index_by_stem(masks, {".png"}).items() if _TRAIN_IDS in n
        }
        pictures = index_by_stem(images, IMAGE_SUFFIXES)
        if renumbered and not (pictures.keys() & index_by_stem(masks, {".png"}).keys()):
            items = [Item(pictures[name], mask) for name, mask in renumbered.items() if name in pictures]
            encoding = MaskEncoding(len(_IDS))
        else:
            items = pair_folders(images, masks)
            mapping = {coco_id - 1: index for index, coco_id in enumerate(_IDS)} | {IGNORE_INDEX: IGNORE_INDEX}
            encoding = MaskEncoding(len(_IDS), mapping)
        super().__init__(INFO, items, encoding, transform, cache)
