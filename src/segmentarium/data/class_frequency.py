"""Which classes are rare, common and frequent, as LVIS has it: by how many pictures show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segmentarium.data.segments import SegmentDataset

RARE, COMMON = 10, 100  # pictures, at most
NAMES = {"r": "rare", "c": "common", "f": "frequent"}


def frequency_of(images: int) -> str:
    """ "r" for a class that up to 10 pictures show, "c" up to 100, "f" beyond."""
    return "r" if images <= RARE else "c" if images <= COMMON else "f"


def object_counts(dataset: SegmentDataset) -> tuple[list[int], list[int]]:
    """Of each class how many pictures show it, and how many objects it has; crowds are none."""
    images, instances = [0] * dataset.info.num_classes, [0] * dataset.info.num_classes
    for index in range(len(dataset)):
        labels = dataset.objects(index)
        for label in labels:
            instances[label] += 1
        for label in set(labels):
            images[label] += 1
    return images, instances


def by_frequency(
    classes: Sequence[str], images: Sequence[int], told: Sequence[str] | None = None
) -> dict[str, list[str]]:
    """ "rare", "common" and "frequent" -> the classes, without those that nothing shows.

    told   "r", "c" or "f" for each class, where the data set says it; else the pictures decide
    """
    found: dict[str, list[str]] = {name: [] for name in NAMES.values()}
    for place, (name, number) in enumerate(zip(classes, images, strict=True)):
        if told is not None:
            found[NAMES[told[place]]].append(name)
        elif number:
            found[NAMES[frequency_of(number)]].append(name)
    return found


def histogram(images: Sequence[int]) -> dict[str, int]:
    """Range of pictures ("0", "1", "2 to 10", "11 to 100", …) -> how many classes have so many; without empty ends."""
    edges = [0, 1, RARE]
    while edges[-1] < max(images, default=0):
        edges.append(10 * edges[-1])
    lows = [0, *(edge + 1 for edge in edges[:-1])]
    found = {
        f"{low:,}" if low == high else f"{low:,} to {high:,}": sum(low <= number <= high for number in images)
        for low, high in zip(lows, edges, strict=True)
    }
    filled = [name for name, number in found.items() if number]
    names = list(found)
    return {name: found[name] for name in names[names.index(filled[0]) : names.index(filled[-1]) + 1]} if filled else {}
