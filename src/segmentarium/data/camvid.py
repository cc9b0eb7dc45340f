"""CamVid: road scenes from a car in Cambridge.

G. J. Brostow, J. Fauqueur, R. Cipolla, "Semantic object classes in video: A high-definition ground truth database",
Pattern Recognition Letters 30 (2009). The 11 classes and the split into 367/101/233 pictures are those of
V. Badrinarayanan, A. Kendall, R. Cipolla, "SegNet", https://arxiv.org/abs/1511.00561.

Layouts that are read, told apart by what lies in the folder:

    images/ labels/ train.txt val.txt test.txt         480x360, class index a pixel, 11 = void
    train/ trainannot/ … train.txt …                   the same as SegNet's authors published it
    701_StillsRaw_full/ LabeledApproved_full/          the original 960x720, 32 colours in <name>_L.png
    images/ labels/ (with <name>_L.png)                the same in other folders
    train/ train_labels/ …                             the same, divided by folder

Without list files or split folders the published split follows from the names of the sequences.
"""

from __future__ import annotations

from pathlib import Path

from segmentarium.data.base import (
    DatasetInfo,
    Item,
    SegmentationDataset,
    Transform,
    index_by_stem,
)
from segmentarium.data.image_io import IMAGE_SUFFIXES
from segmentarium.data.mask_io import RGB, MaskEncoding
from segmentarium.data.splits import check_split
from segmentarium.data.text_files import read_list
from segmentarium.labels import IGNORE_INDEX

SPLITS = ("train", "val", "trainval", "test")

INFO = DatasetInfo(
    name="camvid",
    classes=(
        "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
    ),
    palette=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
    licence="research use (University of Cambridge); SegNet's version CC BY-NC 4.0",
    url="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
)  # fmt: skip

# The 32 classes of the original, by the class of the 11 that takes them in.
ORIGINAL_COLOURS: dict[str, dict[str, RGB]] = {
    "Sky": {"Sky": (128, 128, 128)},
    "Building": {
        "Building": (128, 0, 0), "Bridge": (0, 128, 64), "Wall": (64, 192, 0), "Tunnel": (64, 0, 64),
        "Archway": (192, 0, 128),
    },
    "Pole": {"Column_Pole": (192, 192, 128), "TrafficCone": (0, 0, 64)},
    "Road": {"Road": (128, 64, 128), "LaneMkgsDriv": (128, 0, 192), "LaneMkgsNonDriv": (192, 0, 64)},
    "Pavement": {"Sidewalk": (0, 0, 192), "ParkingBlock": (64, 192, 128), "RoadShoulder": (128, 128, 192)},
    "Tree": {"Tree": (128, 128, 0), "VegetationMisc": (192, 192, 0)},
    "SignSymbol": {"SignSymbol": (192, 128, 128), "Misc_Text": (128, 128, 64), "TrafficLight": (0, 64, 64)},
    "Fence": {"Fence": (64, 64, 128)},
    "Car": {
        "Car": (64, 0, 128), "SUVPickupTruck": (64, 128, 192), "Truck_Bus": (192, 128, 192), "Train": (192, 64, 128),
        "OtherMoving": (128, 64, 64),
    },
    "Pedestrian": {
        "Pedestrian": (64, 64, 0), "Child": (192, 128, 64), "CartLuggagePram": (64, 0, 192), "Animal": (64, 128, 64),
    },
    "Bicyclist": {"Bicyclist": (0, 128, 192), "MotorcycleScooter": (192, 0, 192)},
    "void": {"Void": (0, 0, 0)},
}  # fmt: skip

_VOID = len(INFO.classes)  # index 11 in the label images of SegNet's version
_IMAGE_FOLDERS = ("images", "701_StillsRaw_full")
_LABEL_FOLDERS = ("labels", "LabeledApproved_full", "masks")


class CamVid(SegmentationDataset):
    """CamVid in 11 classes; `split` is train, val, trainval or test."""

    @classmethod
    def evaluation_split(cls, root: Path) -> str:
        return "test"

    def __init__(
        self, root: str | Path, split: str = "train", transform: Transform | None = None, cache: bool = False
    ) -> None:
        check_split(split, SPLITS, INFO.name)
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is not a folder; give the folder of CamVid as root")
        parts = ("train", "val") if split == "trainval" else (split,)
        items = [item for part in parts for item in _items(root, part)]
        super().__init__(INFO, items, _encoding(), transform, cache)


def _encoding() -> MaskEncoding:
    index = {name: i for i, name in enumerate(INFO.classes)} | {"void": IGNORE_INDEX}
    colours = {rgb: index[label] for label, members in ORIGINAL_COLOURS.items() for rgb in members.values()}
    values = {i: i for i in range(_VOID)} | {_VOID: IGNORE_INDEX, IGNORE_INDEX: IGNORE_INDEX}
    return MaskEncoding(len(INFO.classes), mapping=values, colours=colours)


def _items(root: Path, split: str) -> list[Item]:
    images, labels = _folders(root, split)
    pictures, masks = index_by_stem(images, IMAGE_SUFFIXES), index_by_stem(labels, IMAGE_SUFFIXES)
    if (root / f"{split}.txt").is_file():
        names = [Path(name).stem for name in read_list(root / f"{split}.txt")]
    elif images.name == split:
        names = list(pictures)
    else:
        names = [name for name in pictures if published_split(name) == split]
    items, missing = [], []
    for name in names:
        mask = masks.get(name) or masks.get(f"{name}_L")
        if name in pictures and mask is not None:
            items.append(Item(pictures[name], mask))
        else:
            missing.append(name)
    if missing or not items:
        lost = f"{len(missing)} of them have no picture or no label image: {', '.join(missing[:5])}" if missing else ""
        raise FileNotFoundError(f"CamVid {split} in {images} and {labels}: {len(names)} names; {lost or 'none found'}")
    return items


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    for images in (root / name for name in _IMAGE_FOLDERS):
        for labels in (root / name for name in _LABEL_FOLDERS):
            if images.is_dir() and labels.is_dir():
                return images, labels
    for labels in (root / f"{split}annot", root / f"{split}_labels"):
        if (root / split).is_dir() and labels.is_dir():
            return root / split, labels
    found = ", ".join(sorted(p.name for p in root.iterdir())[:12]) or "nothing"
    raise FileNotFoundError(
        f"{root} has no layout of CamVid: expected images/ and labels/, 701_StillsRaw_full/ and LabeledApproved_full/, "
        f"{split}/ and {split}annot/, or {split}/ and {split}_labels/; found {found}"
    )


def published_split(name: str) -> str:
    """The split of SegNet's authors to which a frame belongs, from its name (`0016E5_08001`).

    Val is one stretch of sequence 0016E5, filmed at 15 labels a second; 0001TP is cut in half between train and test.
    """
    sequence, _, frame = name.partition("_")
    number = int("".join(filter(str.isdigit, frame)) or 0)
    if sequence == "Seq05VD" or (sequence == "0001TP" and number > 8520):
        return "test"
    return "val" if sequence == "0016E5" and 7959 <= number <= 8159 else "train"
