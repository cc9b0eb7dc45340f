"""EG1800: portrait photographs with a hand-made mask of the person.

X. Shen, A. Hertzmann, J. Jia, S. Paris, B. Price, E. Shechtman, I. Sachs, "Automatic Portrait Segmentation for Image
Stylization", Computer Graphics Forum 35 (Eurographics 2016).

Layout: `images/<name>.*`, `masks/<name>.png` (0 background, 1 person; 255 also means person, as in the authors'
files), `train.txt`, `val.txt`, `test.txt` with names. The photographs show private persons: research use only.
"""

from __future__ import annotations

from pathlib import Path

from segmentarium.data.base import (
    DatasetInfo,
    Item,
    SegmentationDataset,
    Transform,
    index_by_stem,
    require_folder,
)
from segmentarium.data.image_io import IMAGE_SUFFIXES
from segmentarium.data.mask_io import MaskEncoding
from segmentarium.data.splits import check_split
from segmentarium.data.text_files import read_list

SPLITS = ("train", "val", "trainval", "test")

INFO = DatasetInfo(
    name="eg1800",
    classes=("background", "person"),
    palette=((0, 0, 0), (255, 64, 64)),
    licence="research use; the photographs belong to their authors on Flickr",
    url="http://xiaoyongshen.me/webpage_portrait/index.html",
)


class EG1800(SegmentationDataset):
    """EG1800 in two classes; `split` is train, val, trainval or test."""

    @classmethod
    def evaluation_split(cls, root: Path) -> str:
        return "test"

    def __init__(
        self, root: str | Path, split: str = "train", transform: Transform | None = None, cache: bool = False
    ) -> None:
        check_split(split, SPLITS, INFO.name)
        root = Path(root)
        pictures = index_by_stem(require_folder(root / "images", "the photographs of EG1800"), IMAGE_SUFFIXES)
        masks = index_by_stem(require_folder(root / "masks", "the masks of EG1800"), IMAGE_SUFFIXES)
        parts = ("train", "val") if split == "trainval" else (split,)
        names = [Path(name).stem for part in parts for name in read_list(root / f"{part}.txt")]
        missing = [name for name in names if name not in pictures or name not in masks]
        if missing:
            raise FileNotFoundError(
                f"{root}: {len(missing)} of the {len(names)} names of split {split!r} have no photograph in images/ "
                f"or no mask in masks/: {', '.join(missing[:5])}"
            )
        items = [Item(pictures[name], masks[name]) for name in names]
        super().__init__(INFO, items, MaskEncoding(2, mapping={0: 0, 1: 1, 255: 1}), transform, cache)
