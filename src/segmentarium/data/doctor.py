"""The data doctor: reads every file of a data set once and says what would go wrong in training.

Errors are what training would stumble over: files that cannot be read, pictures without a mask, masks of another
size, labels outside the classes, segments without a category. Warnings are what makes a result worse without stopping
anything: unused classes, masks without a labelled pixel, pictures that occur twice (worst in two parts of a set, or in
two classes), label images in a lossy format; of pictures without labels, small ones and other files; of segments,
polygons that have two points or leave the picture, segments without a pixel, objects that overlap.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segmentarium.data.base import ClassificationDataset, Item, LabelledPicture, PictureDataset, SegmentationDataset
from segmentarium.data.class_frequency import by_frequency, histogram
from segmentarium.data.contact_sheet import Thumbnail, contact_sheet
from segmentarium.data.examination import Finding, Problem, examine
from segmentarium.data.pictures import Picture, Pictures
from segmentarium.data.segments import SegmentDataset, SegmentItem
from segmentarium.files import check_targets, has_keys, write_json, write_png
from segmentarium.labels import IGNORE_INDEX

SHEET_PICTURES = 12
_FEW_PICTURES = 10


@dataclass(frozen=True)
class ClassStatistics:
    """One class: its pixels (None where pictures have one class each), its share of all labelled pixels or pictures,
    the pictures that show it, suggested weights, and the segments of it (None where there are none)."""

    index: int
    name: str
    pixels: int | None
    share: float
    images: int
    weight_median_frequency: float | None
    weight_enet: float | None
    segments: int | None = None


@dataclass
class Report:
    """What `check_data` found. Sizes are "width x height"; mean and std are of RGB values in 0..1.

    frequency: "rare", "common", "frequent" -> names of classes; histogram: range of pictures -> how many classes.
    """

    name: str
    task: str
    pictures: int
    readable: int
    classes: list[ClassStatistics]
    ignored_share: float
    sizes: dict[str, int]
    image_modes: dict[str, int]
    mask_modes: dict[str, int]
    stray_labels: dict[str, dict[str, int]]
    mean: list[float] | None
    std: list[float] | None
    problems: list[Problem]
    notes: list[str] = field(default_factory=list)
    frequency: dict[str, list[str]] = field(default_factory=dict)
    histogram: dict[str, int] = field(default_factory=dict)
    sheet: Image.Image | None = field(default=None, repr=False)

    @property
    def errors(self) -> list[Problem]:
        return [p for p in self.problems if p.level == "error"]

    @property
    def warnings(self) -> list[Problem]:
        return [p for p in self.problems if p.level == "warning"]

    @property
    def ok(self) -> bool:
        """No errors; warnings do not count."""
        return not self.errors

    @property
    def unused_classes(self) -> list[str]:
        return [c.name for c in self.classes if not c.images]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the contact sheet, as plain values for JSON."""
        values = {k: v for k, v in self.__dict__.items() if k not in ("sheet", "classes", "problems")}
        return {
            **values,
            "ok": self.ok,
            "classes": [asdict(c) for c in self.classes],
            "unused_classes": self.unused_classes,
            "problems": [asdict(p) for p in self.problems],
        }

    def save(self, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write `report.json` and, if a picture could be read, `contact_sheet.png`; returns their paths.

        Raises what `check_output` raises.
        """
        folder = Path(folder)
        check_output(folder, overwrite=overwrite)
        written = [folder / "report.json"]
        write_json(written[0], self.as_dict(), indent=2)
        if self.sheet is not None:
            written.append(folder / "contact_sheet.png")
            write_png(written[1], self.sheet)
        return written


def check_output(folder: Path, *, overwrite: bool = False) -> None:
    """FileExistsError where a file of the report's names is there that is of no earlier report, unless `overwrite`."""
    targets = (folder / "report.json", folder / "contact_sheet.png")
    check_targets(targets, overwrite=overwrite, ours=has_keys(targets[0], ("stray_labels", "problems")))


def check_data(
    dataset: PictureDataset, on_progress: Callable[[int, int], None] | None = None, threads: int | None = None
) -> Report:
    """Read every picture and mask of a data set and report on them.

    Of pictures with one class each, split "all" also finds what is in train and in val or test.

    Memory does not grow with the size of the pictures' total: of each file only its counts are kept, and a few small
    pictures for the contact sheet. `on_progress(done, total)` is called after each file; files are read in threads.
    """
    if dataset.task in ("keypoints", "pairs"):
        what = "joints or points" if dataset.task == "keypoints" else "homographies"
        raise ValueError(
            f"data set {dataset.info.name!r} has {what}; only masks, segments and classes are examined here"
        )
    total = len(dataset)
    shown = set(np.linspace(0, total - 1, min(SHEET_PICTURES, total)).astype(int).tolist()) if total else set()
    tally = _Tally(dataset)
    with ThreadPoolExecutor(threads or min(4, os.cpu_count() or 1)) as pool:
        findings = pool.map(lambda i: examine(dataset, i, i in shown), range(total))
        for done, finding in enumerate(findings, 1):
            tally.add(finding)
            if on_progress is not None:
                on_progress(done, total)
    report = tally.report(total)
    report.notes = list(dataset.notes)
    images = [one.images for one in report.classes]
    report.frequency = by_frequency(dataset.info.classes, images, dataset.frequency)
    report.histogram = histogram(images)
    if isinstance(dataset, SegmentDataset):
        segments = int(tally.segments.sum())
        report.notes.append(
            f"{segments:,} segments, {segments / max(total, 1):.1f} a picture, and {tally.crowds} crowds"
        )
    return report


class _Tally:
    """Running sums over the findings."""

    def __init__(self, dataset: PictureDataset) -> None:
        self.info, self.task = dataset.info, dataset.task
        self.problems: list[Problem] = []
        self.sizes, self.image_modes, self.mask_modes = Counter(), Counter(), Counter()
        self.stray: dict[str, dict[str, int]] = {}
        # labels are bytes, of which the last counts nowhere; segments may have more classes
        self.void = dataset.info.num_classes if isinstance(dataset, SegmentDataset) else IGNORE_INDEX
        self.pixels = np.zeros(self.void + 1, np.int64)
        self.images = np.zeros(self.void + 1, np.int64)  # pictures that contain each label
        self.image_pixels = np.zeros(self.void + 1, np.int64)  # labelled pixels of those pictures
        self.segments = np.zeros(self.void, np.int64)
        self.crowds = 0
        self.colour_sums, self.colour_pixels = np.zeros((2, 3)), 0
        self.readable = 0
        self.whites: Counter[float] = Counter()  # of deep pictures: what becomes white in how many
        self.seen: dict[bytes, Item | LabelledPicture | SegmentItem | Picture] = {}
        self.pictures: list[Thumbnail] = []
        text = "no label names the picture; it is left out"
        self.problems += [Problem("warning", "not listed", str(path), text) for path in dataset.unlisted]
        if isinstance(dataset, SegmentationDataset):
            self._unpaired(dataset)
        elif isinstance(dataset, ClassificationDataset):
            self.labels = np.array(dataset.counts())
        elif isinstance(dataset, Pictures):
            self._left_out(dataset)

    def _left_out(self, dataset: Pictures) -> None:
        self.problems += [Problem("error", "unreadable picture", str(path), why) for path, why in dataset.unreadable]
        self.problems += [
            Problem(
                "warning", "small picture", str(path), f"{width} x {height} pixels show next to nothing; it is left out"
            )
            for path, width, height in dataset.small
        ]
        self.problems += [
            Problem("warning", "other file", str(path), "no picture; it is passed over") for path in dataset.others
        ]

    def _unpaired(self, dataset: SegmentationDataset) -> None:
        self.problems += [Problem("error", "no mask", str(p), "the picture has no mask") for p in dataset.missing_masks]
        self.problems += [
            Problem("warning", "no picture", str(p), "the mask has no picture") for p in dataset.stray_masks
        ]
        self.problems += [
            Problem("warning", "other file", str(p), "neither picture nor mask; it is passed over")
            for p in dataset.left_out
        ]
        for image, mask in dataset.second_masks:
            text = f"{image.name} has a mask already; unite the masks of a picture in one file"
            self.problems.append(Problem("error", "second mask", str(mask), text))

    def add(self, finding: Finding) -> None:
        self.problems += finding.problems
        if finding.size:
            self.sizes[finding.size] += 1
            self.image_modes[finding.image_mode] += 1
        if finding.white:
            self.whites[finding.white] += 1
        if finding.mask_mode:
            self.mask_modes[finding.mask_mode] += 1
        for value, count in finding.stray.items():
            total = self.stray.setdefault(value, {"pixels": 0, "files": 0})
            total["pixels"] += count
            total["files"] += 1
        if finding.counts is not None:
            self.pixels += finding.counts
            self.images += finding.counts > 0
            self.image_pixels += (finding.counts > 0) * finding.counts[: self.void].sum()
        if finding.segments is not None:
            self.segments += finding.segments
            self.crowds += finding.crowds
        if finding.colour_sums is not None:
            width, height = map(int, finding.size.split(" x "))
            self.colour_sums += finding.colour_sums
            self.colour_pixels += width * height
        self.readable += finding.sound
        if finding.picture is not None:
            self.pictures.append(finding.picture)
        if finding.digest:
            first = self.seen.setdefault(finding.digest, finding.item)
            if first.image != finding.item.image:
                self.problems.append(self._duplicate(finding.item, first))

    def _duplicate(self, item: Any, first: Any) -> Problem:
        kind, text = "duplicate", f"the same file as {first.image}"
        if isinstance(item, LabelledPicture) and isinstance(first, LabelledPicture):
            if item.part != first.part:
                kind = "in two parts"
                text += (
                    f"; one is in {first.part}, one in {item.part}, so that the score is partly of what was trained on"
                )
            if item.label != first.label:
                kind = "in two classes"
                text += f"; one is {self.info.classes[first.label]}, one {self.info.classes[item.label]}"
        return Problem("warning", kind, str(item.image), text)

    def report(self, total: int) -> Report:
        classes = self._picture_classes() if self.task == "classification" else self._classes()
        labelled, ignored = int(self.pixels[: self.void].sum()), int(self.pixels[self.void])
        if not total:
            what = "labelled pictures" if self.info.labelled else "pictures"
            self.problems.append(Problem("error", "empty", "", f"the data set has no {what}"))
        elif total < _FEW_PICTURES:
            self.problems.append(Problem("warning", "few", "", f"only {total} pictures; expect no model to generalise"))
        if len(self.whites) > 1:
            most = max(self.whites)
            seen = ", ".join(f"{white:g} (in {count})" for white, count in sorted(self.whites.items())[:4])
            text = (
                f"white is not the same value in all pictures: {seen}{', …' if len(self.whites) > 4 else ''}; say how many bits "
                f"their values have, such as --data-set-options bits={max(8, math.ceil(math.log2(most + 1)))}"
            )
            self.problems.append(Problem("warning", "depth", "", text))
        if labelled or self.task == "classification":
            unused = [c.name for c in classes if not c.images]
            if len(unused) == len(classes) - 1 > 0:
                only = next(c.name for c in classes if c.images)
                text = f"all labels are {only!r}: a network would learn to say nothing else; is the colour or value map right?"
                self.problems.append(Problem("warning", "one class", "", text))
            if unused:
                text = f"{len(unused)} of {len(classes)} classes never occur: {', '.join(unused)}"
                self.problems.append(Problem("warning", "unused classes", "", text))
        mean = std = None
        if self.colour_pixels:
            average = self.colour_sums[0] / self.colour_pixels
            mean = average.round(4).tolist()
            std = np.sqrt((self.colour_sums[1] / self.colour_pixels - average**2).clip(0)).round(4).tolist()
        return Report(
            name=self.info.name,
            task=self.task,
            pictures=total,
            readable=self.readable,
            classes=classes,
            ignored_share=ignored / max(labelled + ignored, 1),
            sizes=dict(self.sizes.most_common()),
            image_modes=dict(self.image_modes.most_common()),
            mask_modes=dict(self.mask_modes.most_common()),
            stray_labels=self.stray,
            mean=mean,
            std=std,
            problems=self.problems,
            sheet=contact_sheet(self.pictures, self.info) if self.pictures else None,
        )

    def _picture_classes(self) -> list[ClassStatistics]:
        total = max(int(self.labels.sum()), 1)
        return [
            ClassStatistics(i, name, None, count / total, count, None, None)
            for i, (name, count) in enumerate(zip(self.info.classes, self.labels.tolist(), strict=True))
        ]

    def _classes(self) -> list[ClassStatistics]:
        number = self.info.num_classes
        pixels = self.pixels[:number]
        median = enet = None
        if pixels.sum():
            from segmentarium.losses import class_weights

            median = class_weights(pixels.tolist(), "median_frequency", self.image_pixels[:number].tolist()).tolist()
            enet = class_weights(pixels.tolist(), "enet").tolist()
        return [
            ClassStatistics(
                index=i,
                name=name,
                pixels=int(pixels[i]),
                share=float(pixels[i] / max(pixels.sum(), 1)),
                images=int(self.images[i]),
                weight_median_frequency=None if median is None else round(median[i], 4),
                weight_enet=None if enet is None else round(enet[i], 4),
                segments=int(self.segments[i]) if self.task == "segments" else None,
            )
            for i, name in enumerate(self.info.classes)
        ]


def group_problems(problems: Sequence[Problem]) -> Iterator[tuple[str, str, list[Problem]]]:
    """(level, kind, problems) of each kind, errors first, the most frequent kind first."""
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.level, problem.kind), []).append(problem)
    for (level, kind), members in sorted(groups.items(), key=lambda g: (g[0][0] != "error", -len(g[1]))):
        yield level, kind, members
