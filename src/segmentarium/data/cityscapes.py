"""Cityscapes: road scenes from fifty cities, 2048x1024, scored on 19 classes.

M. Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016,
https://arxiv.org/abs/1604.01685.

Layout, as published: `leftImg8bit/<split>/<city>/<name>_leftImg8bit.png` and
`gtFine/<split>/<city>/<name>_gtFine_labelIds.png` (34 ids) or `…_labelTrainIds.png` (0..18, 255). The ids are the ones
that come with the set and are preferred; the train ids, which its scripts make, are read where no others exist.
"""

from __future__ import annotations

from pathlib import Path

from segmentarium.data.base import DatasetInfo, Item, SegmentationDataset, Transform, require_folder
from segmentarium.data.mask_io import RGB, MaskEncoding
from segmentarium.data.splits import check_split
from segmentarium.labels import IGNORE_INDEX

SPLITS = ("train", "val", "trainval", "test")

# id in the label images, name, colour; in the order of the train ids
_CLASSES: tuple[tuple[int, str, RGB], ...] = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)

INFO = DatasetInfo(
    name="cityscapes",
    classes=tuple(name for _, name, _ in _CLASSES),
    palette=tuple(colour for _, _, colour in _CLASSES),
    licence="non-commercial research, no redistribution",
    url="https://www.cityscapes-dataset.com/",
)


class Cityscapes(SegmentationDataset):
    """Cityscapes with fine labels in 19 classes; `split` is train, val, trainval or test (labels not published)."""

    def __init__(
        self, root: str | Path, split: str = "train", transform: Transform | None = None, cache: bool = False
    ) -> None:
        check_split(split, SPLITS, INFO.name)
        root = Path(root)
        pictures = pictures_of(root, split)
        kind = next((k for k in ("labelIds", "labelTrainIds") if label_file(root, pictures[0], k).is_file()), None)
        if kind is None and split != "test":
            raise FileNotFoundError(
                f"{label_file(root, pictures[0], 'labelIds')} does not exist, nor does …_labelTrainIds.png"
            )
        items = [Item(path, None if kind is None else label_file(root, path, kind)) for path in pictures]
        super().__init__(INFO, items, _encoding(kind), transform, cache)


def class_ids() -> tuple[int, ...]:
    """The set's own id of each of the 19 classes."""
    return tuple(value for value, _, _ in _CLASSES)


def pictures_of(root: Path, split: str) -> list[Path]:
    """The pictures of a split, of all cities; FileNotFoundError where there are none."""
    parts = ("train", "val") if split == "trainval" else (split,)
    folders = [require_folder(root / "leftImg8bit" / part, "a folder a city") for part in parts]
    pictures = [path for folder in folders for path in sorted(folder.glob("*/*_leftImg8bit.png"))]
    if not pictures:
        raise FileNotFoundError(f"{root / 'leftImg8bit'} has no <city>/<name>_leftImg8bit.png in {', '.join(parts)}")
    return pictures


def label_file(root: Path, picture: Path, kind: str) -> Path:
    """Where the label image of a kind ("labelIds", "instanceIds", …) of a picture lies."""
    name = picture.name.replace("_leftImg8bit.png", f"_gtFine_{kind}.png")
    return root / "gtFine" / picture.parent.parent.name / picture.parent.name / name


def _encoding(kind: str | None) -> MaskEncoding:
    if kind == "labelTrainIds":
        return MaskEncoding(len(_CLASSES))
    void = dict.fromkeys([*range(34), 255], IGNORE_INDEX)  # -1, the licence plate, is stored as 255
    return MaskEncoding(len(_CLASSES), void | {value: index for index, (value, _, _) in enumerate(_CLASSES)})
