"""Who is in the picture, decided for whole regions: nobody is half there because the network was in doubt."""

from __future__ import annotations

import math
from typing import Literal

import cv2
import numpy as np

People = Literal["all", "largest"] | int
Hold = Literal["keep", "drop"]

SURE = 0.75  # probability that a region must reach somewhere to be a person; else all of it is dropped
LASTING = 0.6  # the same of a region that was a person a frame ago
CORE = 0.02  # of the region's pixels that must be so sure
# probabilities of what may be held and is no body
DOUBT = {"keep": (0.12, 0.5), "drop": (0.5, 0.8)}
RATHER = 0.25  # that a part which is kept reaches somewhere
HELD = 0.1  # of the persons' area: a larger part in doubt is no thing, but a body that the network knows badly
SOFT = 0.012  # of the picture's longer side: how far from a region's border alpha may lie between 0 and 1


def decided(probability: np.ndarray, people: People = "all", before: np.ndarray | None = None) -> np.ndarray:
    """`probability` (h, w) float32, 0..1, of a person, made 1 inside of people and 0 elsewhere, but for a soft band along edges.

    A region is what hangs together above one half.  It is kept if part of it is `SURE`, and dropped whole if none is: what is
    in doubt all over is no ghost then.  Within `SOFT` of its border the probability stays as it is, so that hair and motion
    blur stay soft.

    people   "all" regions, the "largest", or so many of the largest; people who touch are one region
    before   what was decided of the last frame of a clip, (h, w): who was there stays with less, so that nobody flickers
    """
    check_people(people)
    result = np.zeros(probability.shape, np.float32)
    whole, band = probability, max(2.0, SOFT * max(probability.shape))
    if (place := _around(whole > 0.5, band)) is None:
        return result
    probability, before = whole[place], None if before is None else before[place]
    inside = (probability > 0.5).view(np.uint8)
    count, found = cv2.connectedComponents(inside, connectivity=8)  # its statistics would take eight times as long
    labels = np.asarray(found, np.int32)
    area = np.bincount(labels.ravel(), minlength=count).astype(np.float64)
    sure = np.bincount(labels[probability > SURE], minlength=count)
    if before is not None:
        stays = np.bincount(labels[before > 0.5], minlength=count) > 0.5 * area
        sure = np.where(stays, np.bincount(labels[probability > LASTING], minlength=count), sure)
    area[sure < np.maximum(1, CORE * area)] = 0
    area[0] = 0  # what is no region
    kept = area > 0
    if people != "all":
        kept[np.argsort(-area)[1 if people == "largest" else people :]] = False
    person = inside.view(bool) if kept[1:].all() else kept[labels]
    part = result[place]
    np.minimum(probability, 0.5, out=part)
    np.copyto(part, probability, where=person)
    part[_distance(person) > band] = 1
    part[_distance(~person) > band] = 0
    return result


def _around(inside: np.ndarray, band: float) -> tuple[slice, slice] | None:
    """The box of what is inside (h, w), with a margin as wide as the soft band reaches; None: nothing is."""
    margin, box = math.ceil(band) + 1, []
    for axis in (1, 0):
        found = np.flatnonzero(inside.any(axis))
        if not len(found):
            return None
        box.append(slice(max(0, int(found[0]) - margin), int(found[-1]) + 1 + margin))
    return box[0], box[1]


def with_held(probability: np.ndarray, hold: Hold) -> np.ndarray:
    """`probability` (h, w) float32, 0..1, with the things that people hold made theirs, or cut from them.

    The network knows person and background; bags, balls and flags are what it is in doubt about beside a person.  Such a part
    counts if it is thicker than the soft band along edges, so that these stay where they are.

    hold  "keep": what is rather no person, and touches one, is taken in, whole as far as the network is in any doubt;
          "drop": what is rather a person, and small beside all that is, is left out
    """
    low, high = DOUBT[hold]
    person = (probability > 0.5).astype(np.uint8)
    radius = max(1, round(SOFT * max(probability.shape)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))

    def thick(least: float) -> np.ndarray:
        return cv2.morphologyEx(((probability > least) & (probability <= high)).astype(np.uint8), cv2.MORPH_OPEN, disc)

    count, found, facts, _ = cv2.connectedComponentsWithStats(thick(low), connectivity=8)
    parts = found.astype(np.intp)
    if hold == "drop":
        things = facts[:, cv2.CC_STAT_AREA] <= HELD * person.sum()
    else:
        things, touching = np.zeros((2, count), bool)
        things[parts[thick(RATHER) > 0]] = True
        touching[parts[cv2.dilate(person, disc) > 0]] = True
        things &= touching
    things[0] = False  # what is no part
    return np.where(things[parts], np.float32(0.25 if hold == "drop" else SURE), probability)


def check_hold(hold: Hold | None) -> None:
    """Raises ValueError for what `with_held` does not know; None: held things stay as the network says."""
    if hold is not None and hold not in DOUBT:
        raise ValueError(f"hold is {hold!r}; give keep or drop")


def check_people(people: People) -> None:
    """Raises ValueError for what `decided` does not know."""
    if people not in ("all", "largest") and not (isinstance(people, int) and people >= 1):
        raise ValueError(f"people is {people!r}; give all, largest, or a number of 1 or more")


def _distance(mask: np.ndarray) -> np.ndarray:
    """How far each pixel of a mask (h, w) is from the nearest that is not in it, in pixels; the picture's border is none."""
    if mask.all():  # OpenCV has no answer where there is nothing to be far from
        return np.full(mask.shape, np.inf, np.float32)
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
