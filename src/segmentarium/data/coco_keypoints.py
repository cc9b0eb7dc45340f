"""Persons with joints, in COCO's JSON: one sample a person, cut out of the picture as the HRNet authors' pose code cuts.

    annotations/person_keypoints_{train,val}2017.json     pictures in {train,val}2017/ or images/{train,val}2017/
    keypoints_{train,val}.json                            pictures in images/

Names of the joints are the JSON's; any number of them goes.  Persons without a labelled joint, crowds and boxes without an area
are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from segmentarium.data.base import DatasetInfo, PictureDataset, Sample, Transform, require_folder
from segmentarium.data.splits import check_split
from segmentarium.data.text_files import read_json
from segmentarium.data.transforms import IMAGENET_MEAN, IMAGENET_STD, ToModelInput
from segmentarium.palette import default_palette

SPLITS = ("train", "val")
LICENCE = "CC BY 4.0 (COCO's annotations); pictures: each its own"
MARGIN = 1.25  # of a box, so that the crop shows what is around it
HALF_MARGIN = 1.5  # of the box of half a body's joints
MANY = 8  # half bodies are of persons with more labelled joints


class Person(NamedTuple):
    """One person of a picture.

    picture   the picture's id, which its persons share
    box       x, y, width, height in pixels
    joints    (J, 3) float32: x, y in pixels, and 1 where the joint is labelled, hidden ones too, else 0
    area      of the person's outline in pixels, which says how exact a joint must be
    """

    image: Path
    picture: int
    number: int
    box: tuple[float, float, float, float]
    joints: np.ndarray
    area: float


class CocoKeypoints(PictureDataset):
    """`dataset[i]` is `{"image", "joints", "box", "name"}`: joints (J, 3), box (4,) float32 x, y, width, height.

    `info.classes` are the names of the joints.

    Raises:
        FileNotFoundError: no JSON, or a picture of it is not there.
        ValueError: no such split, or a JSON without names of joints, without persons, or without their boxes or the pictures'
            sizes.
    """

    task = "keypoints"
    items: Sequence[Person]

    def __init__(
        self, root: str | Path, split: str = "train", transform: Transform | None = None, cache: bool = False
    ) -> None:
        root = require_folder(Path(root), "annotations/person_keypoints_train2017.json or keypoints_train.json")
        check_split(split, SPLITS, "coco_keypoints")
        path = _annotations(root, split)
        content = read_json(path)
        category = next((c for c in content.get("categories", ()) if c.get("keypoints")), None)
        if category is None:
            raise ValueError(f"{path} names no joints: none of its categories has a list 'keypoints'")
        joints, official = tuple(category["keypoints"]), path.name.startswith("person_keypoints")
        super().__init__(
            DatasetInfo(
                f"{root.resolve().name} keypoints",
                joints,
                default_palette(len(joints)),
                licence=LICENCE if official else "your own",
                url="https://cocodataset.org" if official else "",
            ),
            transform,
            cache,
        )
        self.items = _persons(content, category["id"], len(joints), _pictures(root, split), path)
        if not self.items:
            raise ValueError(f"{path} has no person with a labelled joint")

    def name(self, index: int) -> str:
        """The picture's file name and the person's number."""
        return f"{self.items[index].image.stem}-{self.items[index].number}"

    def load(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The whole picture, and the person's joints (J, 3); raises ImageReadError for a file that cannot be read."""
        return Image.fromarray(self._arrays(index)[0]), self.items[index].joints

    def _label(self, index: int, arrays: tuple[np.ndarray, ...]) -> Sample:
        person = self.items[index]
        return {"joints": torch.from_numpy(person.joints.copy()), "box": torch.tensor(person.box, dtype=torch.float32)}


def _annotations(root: Path, split: str) -> Path:
    names = (
        f"annotations/person_keypoints_{split}2017.json",
        f"annotations/person_keypoints_{split}.json",
        f"keypoints_{split}.json",
    )
    found = next((root / name for name in names if (root / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{root} has none of {', '.join(names)}")
    return found


def _pictures(root: Path, split: str) -> Path:
    names = (f"{split}2017", f"images/{split}2017", f"images/{split}", split, "images")
    found = next((root / name for name in names if (root / name).is_dir()), None)
    if found is None:
        raise FileNotFoundError(f"{root} has no folder of pictures; expected one of {', '.join(names)}")
    return found


def _persons(content: dict[str, Any], category: int, joints: int, folder: Path, path: Path) -> list[Person]:
    pictures = {picture["id"]: picture for picture in content["images"]}
    persons = []
    for entry in content["annotations"]:
        if entry["category_id"] != category or entry.get("iscrowd") or not any(entry.get("keypoints", ())):
            continue
        points = np.array(entry["keypoints"], np.float32)
        if points.size != 3 * joints:
            raise ValueError(
                f"{path}: annotation {entry['id']} has {points.size} numbers for {joints} joints; give three each"
            )
        points = points.reshape(joints, 3)
        points[:, 2] = points[:, 2] > 0
        points *= points[:, 2:]
        what = f"annotation {entry.get('id')}"
        _check_there(entry, ("id", "image_id", "bbox"), what, path)
        if entry["image_id"] not in pictures:
            raise ValueError(f"{path}: {what} is of picture {entry['image_id']!r}, which is not among its images")
        picture = pictures[entry["image_id"]]
        _check_there(picture, ("file_name", "width", "height"), f"picture {picture['id']}", path)
        box = _inside(entry["bbox"], picture["width"], picture["height"])
        area = float(entry.get("area", entry["bbox"][2] * entry["bbox"][3]))  # of the box where no outline was measured
        if box is None or area <= 0 or not points[:, 2].any():
            continue
        image = folder / picture["file_name"]
        if not image.is_file():
            raise FileNotFoundError(f"{image} is not there, but {path.name} has it")
        persons.append(Person(image, picture["id"], entry["id"], box, points, area))
    return persons


def _check_there(record: dict[str, Any], names: Sequence[str], what: str, path: Path) -> None:
    """Raises ValueError where a record of a JSON, called `what`, lacks one of `names`."""
    if absent := [name for name in names if name not in record]:
        raise ValueError(f"{path}: {what} has no {' and no '.join(map(repr, absent))}; write it, as COCO does")


def _inside(box: Sequence[float], width: int, height: int) -> tuple[float, float, float, float] | None:
    """The part of a box that lies in the picture, up to the last pixel; None where there is none."""
    x, y = max(0.0, box[0]), max(0.0, box[1])
    right, low = min(width - 1.0, x + max(0.0, box[2] - 1)), min(height - 1.0, y + max(0.0, box[3] - 1))
    return (x, y, right - x, low - y) if right >= x and low >= y else None


def shown_box(box: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes (..., 4) x, y, width, height -> what a crop of `size` (height, width) shows: its centre (..., 2) and its width
    (...), a quarter more than the narrowest of that shape around the box."""
    ratio = size[1] / size[0]
    return box[..., :2] + box[..., 2:] / 2, torch.maximum(box[..., 2], box[..., 3] * ratio) * MARGIN


def crop_matrix(centre: Tensor, width: float, size: tuple[int, int], degrees: float = 0.0) -> Tensor:
    """(2, 3) float32: from pixels of the picture to those of a crop of `size` (height, width) that shows `width` pixels around
    `centre`, turned by `degrees`."""
    angle = torch.deg2rad(torch.tensor(degrees))
    cosine, sine = angle.cos(), angle.sin()
    turn = torch.stack((cosine, sine, -sine, cosine)).view(2, 2) * (size[1] / width)
    shift = torch.tensor((size[1] / 2, size[0] / 2)) - turn @ centre
    return torch.cat((turn, shift[:, None]), 1)


class PersonCrop:
    """Cuts a person out of a sample: image (3, *size), joints moved along.

    size     (height, width)
    scale    the box grows or shrinks by a normal factor of this deviation, by no more than it
    rotate   degrees of deviation of the rotation, in 6 of 10 samples, by no more than twice as much
    flip     probability of a mirror, in which `pairs` of joints change places
    half     probability of showing half a body alone, of a person with more than 8 labelled joints: the joints `lower`, or the
             others
    """

    def __init__(
        self,
        size: tuple[int, int],
        *,
        scale: float = 0.0,
        rotate: float = 0.0,
        flip: float = 0.0,
        pairs: Sequence[tuple[int, int]] = (),
        half: float = 0.0,
        lower: Sequence[int] = (),
    ) -> None:
        self.size, self.scale, self.rotate, self.flip, self.pairs = size, scale, rotate, flip, pairs
        self.half, self.lower = half, list(lower)

    def half_body(self, joints: Tensor) -> tuple[Tensor, Tensor] | None:
        """What a crop of half a body shows, as `shown_box`; None where its joints have no extent.

        The upper half where a normal number is below 0.5, the lower one elsewhere, each only with more than two joints: so the
        authors draw it.
        """
        below = torch.zeros(len(joints), dtype=torch.bool)
        below[self.lower] = True
        seen = joints[:, 2] > 0
        upper, lower = joints[seen & ~below, :2], joints[seen & below, :2]
        wanted = bool(torch.randn(()) < 0.5)
        chosen = upper if (wanted and len(upper) > 2) or len(lower) <= 2 else lower
        if len(chosen) < 2:
            return None
        sides = chosen.amax(0) - chosen.amin(0)
        width = torch.maximum(sides[0], sides[1] * (self.size[1] / self.size[0])) * HALF_MARGIN
        return (chosen.mean(0), width) if width > 0 else None

    def __call__(self, sample: Sample) -> Sample:
        centre, width = shown_box(sample["box"], self.size)
        if self.half and self.lower and (sample["joints"][:, 2] > 0).sum() > MANY and torch.rand(()) < self.half:
            centre, width = self.half_body(sample["joints"]) or (centre, width)
        factor, degrees = 1.0, 0.0
        if self.scale:
            factor += self.scale * float(torch.randn(()).clamp(-1, 1))
        if self.rotate and torch.rand(()) <= 0.6:
            degrees = self.rotate * float(torch.randn(()).clamp(-2, 2))
        matrix = crop_matrix(centre, float(width) * factor, self.size, degrees)
        pixels = sample["image"].as_subclass(Tensor).permute(1, 2, 0).contiguous().numpy()
        crop = torch.from_numpy(cv2.warpAffine(pixels, matrix.numpy(), self.size[::-1], flags=cv2.INTER_LINEAR))
        joints = sample["joints"].clone()
        joints[:, :2] = joints[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        if self.flip and torch.rand(()) < self.flip:
            crop = crop.flip(1)
            joints[:, 0] = self.size[1] - 1 - joints[:, 0]
            for left, right in self.pairs:
                joints[[left, right]] = joints[[right, left]]
        joints[:, :2] *= joints[:, 2:] > 0
        return {**sample, "image": tv_tensors.Image(crop.permute(2, 0, 1)), "joints": joints}


def keypoint_transform(
    size: tuple[int, int],
    *,
    scale: float = 0.0,
    rotate: float = 0.0,
    flip: float = 0.0,
    pairs: Sequence[tuple[int, int]] = (),
    half: float = 0.0,
    lower: Sequence[int] = (),
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Transform:
    """`PersonCrop`, normalised: what a network of joints takes.  As it stands for evaluation; published for training at 256×192:
    scale 0.35, rotate 45, flip 0.5, half 0.3."""
    crop = PersonCrop(size, scale=scale, rotate=rotate, flip=flip, pairs=pairs, half=half, lower=lower)
    return v2.Compose([crop, ToModelInput(mean, std)])
