"""What the data doctor finds of one picture and its labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segmentarium.data.bands import bands_of, deep_colours, tiff_array
from segmentarium.data.base import Item, LabelledPicture, PictureDataset, SegmentationDataset
from segmentarium.data.contact_sheet import Thumbnail, thumbnail
from segmentarium.data.image_io import ImageReadError, depth_of, is_rotated, open_image, to_8_bit, to_upright_rgb
from segmentarium.data.mask_io import LabelError, is_lossy, read_raw_mask
from segmentarium.data.pictures import Picture
from segmentarium.data.segments import VOID, SegmentDataset, SegmentItem, label_map
from segmentarium.data.stored import open_file
from segmentarium.labels import IGNORE_INDEX


@dataclass(frozen=True)
class Problem:
    """One finding. `kind` is a short word that groups findings; `file` is empty for one about the whole set."""

    level: Literal["error", "warning"]
    kind: str
    file: str
    message: str


@dataclass
class Finding:
    """What is kept of one picture, and of its mask."""

    item: Item | LabelledPicture | SegmentItem | Picture
    sound: bool = False  # the picture and its label can be used
    size: str = ""
    image_mode: str = ""
    mask_mode: str = ""
    counts: np.ndarray | None = None  # (256,) pixels of each label; of segments (K + 1,), the last where nothing counts
    segments: np.ndarray | None = None  # (K,) of each class
    crowds: int = 0
    colour_sums: np.ndarray | None = None  # (2, 3) sum and sum of squares of RGB in 0..1
    digest: bytes = b""
    rotated: bool = False  # the picture, by its EXIF block
    white: float = 0.0  # of counts deeper than 8 bits, what becomes white where no bits are given for all pictures
    stray: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    picture: Thumbnail | None = None

    def error(self, kind: str, file: Path, message: str) -> None:
        self.problems.append(Problem("error", kind, str(file), message))

    def warning(self, kind: str, file: Path, message: str) -> None:
        self.problems.append(Problem("warning", kind, str(file), message))


def examine(dataset: PictureDataset, index: int, show: bool) -> Finding:
    """What is found of one picture and its labels; `show`: with a small copy of both."""
    item = dataset.items[index]
    finding = Finding(item)
    image = _examine_image(finding, dataset.bands, dataset.bits)
    mask, caption = None, "no usable mask"
    if isinstance(dataset, SegmentationDataset):
        of_labels = _examine_mask if dataset.label_images else _examine_drawn
        mask = of_labels(item, image, dataset, finding)
        finding.sound = image is not None and (item.mask is None or mask is not None)
    elif isinstance(dataset, SegmentDataset):
        if image is not None:
            mask = _examine_segments(dataset, item, image, finding)
            finding.sound = all(problem.level == "warning" for problem in finding.problems)
    else:
        caption = dataset.info.classes[item.label] if isinstance(item, LabelledPicture) else ""
        finding.sound = image is not None
    if show and image is not None:
        finding.picture = thumbnail(image, mask, dataset.info.palette, dataset.name(index), caption)
    return finding


def _examine_image(finding: Finding, bands: int, bits: int | None) -> np.ndarray | None:
    item = finding.item
    try:
        if (there := bands_of(item.image)) not in (0, 1, 3, bands):
            finding.warning(
                "bands",
                item.image,
                f"{there} bands, of which {bands} are read; --set in_channels={there} trains on all",
            )
        if there > 3:
            finding.image_mode = f"{there} bands"
            values = tiff_array(item.image)
            if values.dtype != np.uint8:
                _examine_depth(finding, values, bits)
            array = to_8_bit(values, bits)
            image = np.ascontiguousarray(array[..., :3])
        else:
            with open_image(item.image) as opened:
                finding.image_mode = opened.mode
                finding.rotated = is_rotated(opened)
                if (
                    opened.mode in ("RGBA", "LA", "PA")
                    and bands != 4
                    and np.asarray(opened.getchannel("A")).min() < 255
                ):
                    text = "its transparency is left out, and the colours beneath are read as they are stored"
                    finding.warning("transparent", item.image, text)
                if (frames := getattr(opened, "n_frames", 1)) > 1 and bands == 3:
                    finding.warning("pages", item.image, f"{frames} pages or frames, of which the first is read")
                deep = np.asarray(opened) if opened.mode[0] in "IF" else deep_colours(item.image, opened)
                if deep is not None:
                    _examine_depth(finding, deep, bits)
                image = np.asarray(to_upright_rgb(opened, item.image, bits))
    except (ImageReadError, ImportError) as error:
        finding.error("unreadable picture", item.image, str(error))
        return None
    with open_file(item.image) as file:
        finding.digest = hashlib.file_digest(file, "blake2b").digest()[:16]  # type: ignore[arg-type]
    finding.size = f"{image.shape[1]} x {image.shape[0]}"
    histogram = np.stack([np.bincount(image[..., c].reshape(-1), minlength=256) for c in range(3)], 1)
    levels = np.arange(256)[:, None] / 255
    finding.colour_sums = np.stack([(histogram * levels).sum(0), (histogram * levels**2).sum(0)])
    return image


def _examine_depth(finding: Finding, values: np.ndarray, said: int | None) -> None:
    """said: the bits that are given for all pictures"""
    low, high = values.min(), values.max()
    if said is not None:
        finding.image_mode += f", 0 to {2**said - 1} is black to white"
        if low < 0 or high >= 2**said:
            text = f"values from {low:g} to {high:g}, of which those outside of 0 to {2**said - 1} are black or white"
            finding.warning("depth", finding.item.image, text)
    elif (bits := depth_of(values)) is None:
        share = values.dtype.kind == "f" and low >= 0 and high <= 1
        finding.image_mode += ", 0 to 1" if share else ", stretched"
        finding.white = 0.0 if share or low < 0 else float(high)
    else:
        finding.white = 2.0**bits - 1
        finding.image_mode += f", {bits} bits used: 0 to {2**bits - 1} is black to white"


def _examine_drawn(
    item: Any, image: np.ndarray | None, dataset: SegmentationDataset, finding: Finding
) -> np.ndarray | None:
    """Outlines as classes of pixels."""
    try:
        mask = dataset.read_label(item)
    except ImageReadError as error:
        finding.error("unreadable labels", item.mask, str(error))
        return None
    except ValueError as error:
        finding.error("labels", item.mask, str(error))
        return None
    if image is not None and mask.shape != image.shape[:2]:
        finding.error(
            "size", item.mask, f"the labels are of {mask.shape[1]} x {mask.shape[0]} pixels, not {finding.size}"
        )
        return None
    finding.counts = np.bincount(mask.reshape(-1), minlength=256)
    return mask


def _examine_mask(
    item: Item, image: np.ndarray | None, dataset: SegmentationDataset, finding: Finding
) -> np.ndarray | None:
    if item.mask is None:
        return None
    encoding = dataset.encoding
    try:
        if item.mask.suffix == ".npy":
            finding.mask_mode = "array"
        else:
            with open_image(item.mask) as opened:
                finding.mask_mode = opened.mode
                if finding.rotated and not is_rotated(opened):
                    finding.warning(
                        "rotated", item.image, "the picture is turned by its EXIF block; its mask must be upright"
                    )
        raw = read_raw_mask(item.mask, encoding)
    except ImageReadError as error:
        finding.error("unreadable mask", item.mask, str(error))
        return None
    except LabelError as error:
        finding.error("labels", item.mask, str(error))
        return None
    if is_lossy(item.mask):
        finding.warning("lossy mask", item.mask, "JPEG changes values at the outlines; save label images as PNG")
    if image is not None and raw.shape[:2] != image.shape[:2]:
        size = f"{raw.shape[1]} x {raw.shape[0]}"
        finding.error("size", item.mask, f"the mask is {size}, its picture {finding.size}; save both in the same size")
        return None
    try:
        mask = encoding.decode(raw, item.mask)
    except LabelError as error:
        finding.error("labels", item.mask, str(error))
        finding.stray = {str(value): count for value, count in error.counts.items()}
        return None
    finding.counts = np.bincount(mask.reshape(-1), minlength=256)
    if finding.counts[:IGNORE_INDEX].sum() == 0:
        finding.warning("void mask", item.mask, "no pixel has a class; the picture teaches nothing")
    return mask


def _examine_segments(
    dataset: SegmentDataset, item: SegmentItem, image: np.ndarray, finding: Finding
) -> np.ndarray | None:
    """The picture's map of classes; None where its labels cannot be read, or where it has more classes than bytes have values."""
    file = str(item.image)

    def tell(level: Any, kind: str, message: str) -> None:
        finding.problems.append(Problem(level, kind, file, message))

    try:
        ids, table = dataset.examine(item, image.shape[0], image.shape[1], tell)
    except ImageReadError as error:
        finding.error("unreadable labels", item.image, str(error))
        return None
    classes = dataset.info.num_classes
    pixels = np.bincount(ids[ids > 0], minlength=len(table) + 1)[1:]
    finding.counts = np.append(np.bincount(table["label"], pixels, classes), (ids == VOID).any(0).sum()).astype(
        np.int64
    )
    finding.segments = np.bincount(table["label"][~table["crowd"]], minlength=classes)
    finding.crowds = int(table["crowd"].sum())
    if not finding.segments.sum():
        tell("warning", "no segment", "the picture has no segment" + (" but crowds" if finding.crowds else ""))
    # a single class, too, is class 0 here, by which the sheet has its colour, and nothing beside it
    return label_map(ids, table["label"], max(classes, 2)) if classes < IGNORE_INDEX else None
