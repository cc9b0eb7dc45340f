"""Drawn shapes with exact corners: what MagicPoint, SuperPoint's teacher, learns from; no file is read.

Nine kinds, each with its own rule of what is a point:

    lines               both ends of each; none touches another
    polygon             its corners; flat ones (more than 120°) are taken away before it is drawn
    multiple polygons   theirs; none touches another
    ellipses            none
    star                the tips, and where the branches meet
    checkerboard        every corner of its squares, in perspective
    stripes             both ends of each border between two
    cube                the seven corners that are seen
    noise               none

A picture follows from (seed, split, number) alone.  Drawn four times as large as asked for, without antialiasing, and averaged
down, so that edges of neighbours leave no seam.  Rules and amounts: DeTone et al. (https://arxiv.org/abs/1712.07629, section 4)
and the MIT code by Pautrat and Sarlin, which draws 10,000 pictures a kind beforehand and in which two grey values that meet may
be the same: here what has a corner shows it.

    build_dataset("shapes", "", "train", size=(64, 64))    also a classification set of the nine kinds, without end in practice
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from segmentarium.data.base import ClassificationDataset, DatasetInfo, LabelledPicture, Transform
from segmentarium.data.homographies import inside, warp_points
from segmentarium.data.photometric import OF_SHAPES
from segmentarium.data.splits import PARTS, check_split
from segmentarium.palette import default_palette

SPLITS = PARTS
COUNTS = {"train": 10_000, "val": 40, "test": 500}  # pictures a kind
OVER = 4  # times as large as asked for is what is drawn on
LEAST = 40  # grey values by which what meets differs
SPARED = {"ellipses": 0.3, "stripes": 0.2, "noise": 0.1}  # how often these are kept when a detector is taught

Points = np.ndarray  # (N, 2) float x, y
Point = Sequence[float]
Segment = Sequence[Point]  # both ends


class Drawing(NamedTuple):
    """A drawn picture: image (H, W) uint8; points (N, 2) float32 x, y with pixel centres at whole numbers; the kind's number."""

    image: np.ndarray
    points: np.ndarray
    kind: int


class _Numbered(Sequence[LabelledPicture]):
    """KIND/000017 and so on, one kind after another; none is there before it is asked for."""

    def __init__(self, names: tuple[str, ...], count: int, split: str) -> None:
        self.names, self.length, self.split = names, count, split

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        if not -self.length <= index < self.length:
            raise IndexError(f"there are {self.length} shapes, and number {index} is asked for")
        index %= self.length
        label = index % len(self.names)
        return LabelledPicture(Path(self.names[label], f"{index:06d}"), label, self.split)


class Shapes(ClassificationDataset):
    """`dataset[i]` is `{"image", "label", "name"}`, the label being the kind; `drawing(i)` is the same with its points.

    root     of no use: nothing is read
    size     (height, width)
    kinds    names of those that are drawn; None: all nine, in the order of `KINDS`
    count    pictures a kind; None: 10,000 to train, 40 for val, 500 for test
    noise    photometric noise as for training, without which the pictures are clean
    seed     of everything; the splits differ in any case

    Raises ValueError for an unknown split or kind.
    """

    needs_folder = False

    def __init__(
        self,
        root: str | Path = "",
        split: str = "train",
        transform: Transform | None = None,
        cache: bool = False,
        *,
        size: Sequence[int] = (120, 160),
        kinds: Sequence[str] | None = None,
        count: int | None = None,
        noise: bool = False,
        seed: int = 0,
    ) -> None:
        check_split(split, SPLITS, "shapes")
        names = tuple(kinds or KINDS)
        if unknown := [name for name in names if name not in KINDS]:
            raise ValueError(f"there is no kind of shape {unknown[0]!r}; the kinds are {', '.join(KINDS)}")
        info = DatasetInfo(
            "shapes", names, default_palette(len(names)), licence="none needed: drawn by a program", url=""
        )
        items = _Numbered(names, len(names) * (COUNTS[split] if count is None else count), split)
        super().__init__(info, items, transform, cache)
        self.size, self.noise, self.key = (int(size[0]), int(size[1])), noise, (seed, SPLITS.index(split))
        if min(self.size) < 32:
            raise ValueError(f"size is {self.size}; shapes want 32 pixels or more of each side")

    def counts(self) -> list[int]:
        """How many pictures each kind has."""
        return [len(self) // len(self.info.classes)] * len(self.info.classes)

    def drawing(self, index: int) -> Drawing:
        """Picture number `index` of the split, with its points."""
        rng = np.random.default_rng((*self.key, index))
        label = index % len(self.info.classes)
        image, points = draw(rng, self.info.classes[label], self.size)
        if self.noise:
            image = OF_SHAPES(image, rng).round().astype(np.uint8)
        return Drawing(image, points, label)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """The picture as RGB, and its kind."""
        return Image.fromarray(self._arrays(index)[0]), self.items[index].label

    def _arrays(self, index: int) -> tuple[np.ndarray, ...]:
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        arrays = (np.repeat(self.drawing(index).image[..., None], 3, 2),)
        if self._cache is not None:
            self._cache[index] = arrays
        return arrays


def draw(rng: np.random.Generator, kind: str, size: tuple[int, int]) -> tuple[np.ndarray, Points]:
    """One shape of `kind` -> image uint8 of `size` (height, width), clean, and its points (N, 2) float32."""
    if kind == "noise":
        return rng.integers(0, 256, size, np.uint8), np.zeros((0, 2), np.float32)
    canvas = background(rng, (size[0] * OVER, size[1] * OVER))
    points = KINDS[kind](canvas, rng)
    image = cv2.GaussianBlur(cv2.resize(canvas, size[::-1], interpolation=cv2.INTER_AREA), (3, 3), 0.45)
    points = (points + 0.5) / OVER - 0.5
    return image, points[inside(points, size)].astype(np.float32)


def draw_any(rng: np.random.Generator, size: tuple[int, int], kinds: Sequence[str] | None = None) -> Drawing:
    """A shape of any kind, each as often as a detector is taught it: ellipses, stripes and noise less."""
    names = list(KINDS if kinds is None else kinds)
    shares = np.array([SPARED.get(name, 1.0) for name in names])
    number = int(rng.choice(len(names), p=shares / shares.sum()))
    return Drawing(*draw(rng, names[number], size), number)


def background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Soft patches of grey: (height, width) uint8."""
    step = 2 * OVER  # pixels of the canvas to a cell: it is blurred over 1/6 to 1/2 of the height
    height, width = (max(8, side // step) for side in size)
    cells = np.full((height, width), rng.integers(256), np.uint8)
    centres = rng.integers(0, (width, height), (100, 2)).tolist()
    radii = rng.integers(1, max(2, width // 20), 100, endpoint=True).tolist()
    for centre, radius, grey in zip(centres, radii, rng.integers(0, 256, 100).tolist(), strict=True):
        cv2.circle(cells, centre, radius, grey, -1)
    blur = int(rng.integers(max(2, height // 6), max(3, height // 2), endpoint=True))
    return cv2.resize(cv2.blur(cells, (blur, blur)), size[::-1], interpolation=cv2.INTER_LINEAR)


def unlike(rng: np.random.Generator, *greys: float) -> int:
    """A grey value that differs from those by `LEAST`, or as much as one of 16 draws can."""
    tried = rng.integers(0, 256, 16).tolist()
    distance = [min(abs(grey - other) for other in greys) for grey in tried]
    return tried[next((i for i, far in enumerate(distance) if far >= LEAST), distance.index(max(distance)))]


def _lines(canvas: np.ndarray, rng: np.random.Generator) -> Points:
    side, mean = min(canvas.shape), _mean(canvas)
    drawn: list[Segment] = []
    for line in (rng.random((int(rng.integers(1, 10)), 2, 2)) * canvas.shape[::-1]).astype(int).tolist():
        thickness = _thickness(rng, side)
        apart = 4 * thickness + side / 40
        if math.dist(*line) < side / 10 or any(_nearest(line, other) < apart for other in drawn):
            continue
        cv2.line(canvas, line[0], line[1], unlike(rng, mean), thickness)
        drawn.append(line)
    return np.array(drawn, np.float64).reshape(-1, 2)


def _polygon(canvas: np.ndarray, rng: np.random.Generator) -> Points:
    side = min(canvas.shape)
    radius = max(rng.random() * side / 2, side / 10)
    centre = radius + rng.random(2) * (np.array(canvas.shape[::-1]) - 2 * radius)
    return _filled(canvas, _corners(rng, centre, radius), unlike(rng, _mean(canvas)))


def _multiple_polygons(canvas: np.ndarray, rng: np.random.Generator) -> Points:
    mean, found = _mean(canvas), [np.zeros((0, 2))]
    for centre, radius in _apart(rng, canvas.shape, 30):
        found.append(_filled(canvas, _corners(rng, centre, radius), unlike(rng, mean)))
    return np.concatenate(found)


def _ellipses(canvas: np.ndarray, rng: np.random.Generator) -> Points:
    mean = _mean(canvas)
    for centre, radius in _apart(rng, canvas.shape, 20):
        axes = (radius * np.array([1, rng.uniform(0.3, 1)])).astype(int).tolist()
        cv2.ellipse(
            canvas, np.rint(centre).astype(int).tolist(), axes, rng.random() * 360, 0, 360, unlike(rng, mean), -1
        )
    return np.zeros((0, 2))


def _star(canvas: np.ndarray, rng: np.random.Generator) -> Points:
    side, mean = min(canvas.shape), _mean(canvas)
    radius = max(rng.random() * side / 2, side / 5)
    centre = np.rint(radius + rng.random(2) * (np.array(canvas.shape[::-1]) - 2 * radius))
    branches = int(rng.integers(3, 6))
    # in the middle part of its slice, so that no two branches lie on top of each other
    angles = (np.arange(branches) + rng.uniform(0.15, 0.85, branches)) * 2 * math.pi / branches
    lengths = np.maximum(rng.random(branches), 0.4) * radius
    tips = np.rint(centre + lengths[:, None] * np.stack((np.cos(angles), np.sin(angles)), 1))
    grey, thickness = unlike(rng, mean), _thickness(rng, side)
    for tip in tips:
        cv2.line(canvas, centre.astype(int).tolist(), tip.astype(int).tolist(), grey, thickness)
    return np.concatenate((centre[None], tips))


def _checkerboard(canvas: np.ndarray, rng: np.random.Generator) -> Points:
    rows, columns = rng.integers(3, 7, 2).tolist()
    side = min(canvas.shape[0] // rows, canvas.shape[1] // columns)
    return _grid(canvas, rng, np.arange(rows + 1) * side, np.arange(columns + 1) * side)


def _stripes(canvas: np.ndarray, rng: np.random.Generator) -> Points:
    height, width = canvas.shape
    count = int(rng.integers(5, 13))
    shares = rng.uniform(0.5, 1.5, count)  # none so thin that its ends are one point
    borders = np.append(0.0, np.cumsum(shares / shares.sum())) * width * rng.uniform(1.0, 1.5)
    return _grid(canvas, rng, np.array([0.0, height * rng.uniform(0.5, 1.2)]), borders)


def _cube(canvas: np.ndarray, rng: np.random.Generator) -> Points:
    side, mean = min(canvas.shape), _mean(canvas)
    lengths = side * rng.uniform(0.2, 0.55, 3)
    turns = rng.uniform(math.pi / 10, 0.5 * math.pi - math.pi / 10, 3)  # so that three faces are seen
    rotation = _about(0, turns[0]) @ _about(1, turns[1]) @ _about(2, turns[2] + rng.integers(4) * math.pi / 2)
    signs = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    corners = signs * lengths @ rotation.T
    flat = corners[:, :2]
    shown = np.array(canvas.shape[::-1]) - np.ptp(flat, 0)  # the room that is left to shift it
    flat = np.rint(flat - flat.min(0) + np.maximum(shown, 0) * rng.random(2) + np.minimum(shown, 0) * 0.5)
    greys: list[int] = []
    for axis in range(3):
        towards = 0.5 * np.sign(rotation[2, axis])  # the face of this axis that looks at us
        face = np.flatnonzero(signs[:, axis] == towards)[[0, 1, 3, 2]]
        greys.append(unlike(rng, mean, *greys))
        cv2.fillPoly(canvas, [flat[face].astype(np.int32)], greys[-1])
    hidden = (signs == -0.5 * np.sign(rotation[2])).all(1)
    return flat[~hidden]


KINDS: dict[str, Callable[[np.ndarray, np.random.Generator], Points]] = {
    "lines": _lines,
    "polygon": _polygon,
    "multiple polygons": _multiple_polygons,
    "ellipses": _ellipses,
    "star": _star,
    "checkerboard": _checkerboard,
    "stripes": _stripes,
    "cube": _cube,
    "noise": lambda canvas, rng: np.zeros((0, 2)),  # `draw` makes it at the asked size
}


def _mean(canvas: np.ndarray) -> float:
    return cv2.mean(canvas)[0]


def _thickness(rng: np.random.Generator, side: int) -> int:
    return max(OVER, int(rng.integers(max(1, side // 100), max(2, side // 50), endpoint=True)))


def _about(axis: int, angle: float) -> np.ndarray:
    """Rotation about an axis of space."""
    first, second = (i for i in range(3) if i != axis)
    turn = np.eye(3)
    turn[[first, second], [first, second]] = math.cos(angle)
    turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
    return turn


def _apart(rng: np.random.Generator, size: tuple[int, ...], tries: int) -> list[tuple[np.ndarray, float]]:
    """Circles (centre, radius) that lie in the picture and touch no other."""
    side, found = min(size), []
    radii = np.maximum(rng.random(tries) * side / 2, side / 10)
    radii *= np.where(rng.random(tries) < 0.5, 0.5, 1.0).clip(side / 10 / radii)  # small ones too, or few find a place
    for radius, place in zip(radii.tolist(), rng.random((tries, 2)), strict=True):
        centre = radius + place * (np.array(size[::-1]) - 2 * radius)
        if all(np.hypot(*(centre - other)) > radius + far + side / 40 for other, far in found):
            found.append((centre, radius))
    return found


def _corners(rng: np.random.Generator, centre: np.ndarray, radius: float) -> Points:
    """The corners of a polygon within a circle: simple, none flat or a needle, no side shorter than a tenth of the diameter."""
    for _ in range(20):
        count = int(rng.integers(3, 8))
        turns = ((np.arange(count) + rng.random(count)) * 2 * math.pi / count).tolist()
        lengths = (np.maximum(rng.random(count), 0.4) * radius).tolist()
        ring = [(turn, far * math.cos(turn), far * math.sin(turn)) for turn, far in zip(turns, lengths, strict=True)]
        while len(ring) >= 3 and (bad := _bad_corner(ring, radius / 5)) is not None:
            ring.pop(bad)
        # seen from the centre, no side of a good one takes half a turn: so no two sides cross
        wide = any(
            (b[0] - a[0]) % (2 * math.pi) > 0.95 * math.pi for a, b in zip(ring, ring[1:] + ring[:1], strict=True)
        )
        if len(ring) == 3 or (len(ring) > 3 and not wide):
            return np.rint(centre + np.array(ring)[:, 1:])
    turns = (rng.random() + np.arange(3) / 3) * 2 * math.pi
    return np.rint(centre + radius * np.stack((np.cos(turns), np.sin(turns)), 1))


def _bad_corner(ring: list[tuple[float, float, float]], least: float) -> int | None:
    """The first corner that is flat (above 120°), a needle, or nearer than `least` to the one before."""
    for i, (_, x, y) in enumerate(ring):
        (_, before, above), (_, after, below) = ring[i - 1], ring[(i + 1) % len(ring)]
        far, near = math.hypot(before - x, above - y), math.hypot(after - x, below - y)
        if far < least or near < least:
            return i
        if not -0.5 < ((before - x) * (after - x) + (above - y) * (below - y)) / (far * near) < 0.95:
            return i
    return None


def _filled(canvas: np.ndarray, corners: Points, grey: int) -> Points:
    cv2.fillPoly(canvas, [corners.astype(np.int32)], grey)
    return corners


def _nearest(line: Segment, other: Segment) -> float:
    """How near two segments come to each other, in pixels; 0 where they cross."""
    (a, b), (c, d) = line, other

    def side(p: Point, q: Point, r: Point) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    def distance(point: Point, start: Point, end: Point) -> float:
        along = (end[0] - start[0], end[1] - start[1])
        share = (point[0] - start[0]) * along[0] + (point[1] - start[1]) * along[1]
        share = min(1.0, max(0.0, share / max(along[0] ** 2 + along[1] ** 2, 1e-9)))
        return math.hypot(start[0] + share * along[0] - point[0], start[1] + share * along[1] - point[1])

    if side(a, b, c) * side(a, b, d) <= 0 and side(c, d, a) * side(c, d, b) <= 0:
        return 0.0
    return min(distance(a, c, d), distance(b, c, d), distance(c, a, b), distance(d, a, b))


def _grid(canvas: np.ndarray, rng: np.random.Generator, rows: np.ndarray, columns: np.ndarray) -> Points:
    """A grid of grey cells, seen from the side -> its points; those of stripes, one row of cells, are their ends."""
    corners = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2).astype(np.float64)
    corners += (np.array(canvas.shape[::-1]) - corners.max(0)) * (rng.random(2) if len(rows) > 2 else 0.5)
    points = np.rint(_seen_askew(rng, corners, canvas.shape))
    places = points.reshape(len(rows), len(columns), 2).astype(np.int32)
    mean = _mean(canvas)
    greys = np.full((len(rows) + 1, len(columns) + 1), mean)  # of the cells, with the background around them
    for i in range(len(rows) - 1):
        for j in range(len(columns) - 1):
            outside = (mean,) if i in (0, len(rows) - 2) or j in (0, len(columns) - 2) else ()
            greys[i + 1, j + 1] = unlike(rng, greys[i, j + 1], greys[i + 1, j], *outside)
            cell = places[[i, i, i + 1, i + 1], [j, j + 1, j + 1, j]]
            cv2.fillPoly(canvas, [cell], greys[i + 1, j + 1])
    return points


def _seen_askew(rng: np.random.Generator, points: Points, size: tuple[int, ...]) -> Points:
    """Points under a random affine map and then a perspective one, drawn again until nothing is folded or squeezed."""
    height, width = size
    third = min(size) / 3
    middle = np.array([width, height]) / 2
    plane = (middle + third * np.array([[1, 1], [1, -1], [-1, 1]])).astype(np.float32)
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float32)
    for _ in range(10):
        amount = max(size) * (0.05 + 0.15 * rng.random(2)) * (1.0, 0.5)
        moved = plane + rng.uniform(-amount[0], amount[0], (3, 2)).astype(np.float32)
        turned = np.concatenate((cv2.getAffineTransform(plane, moved), [[0, 0, 1]]))
        moved = corners + rng.uniform(-amount[1], amount[1], (4, 2)).astype(np.float32)
        matrix = cv2.getPerspectiveTransform(corners, moved) @ turned
        around = warp_points((points + np.array([[[0, 0]], [[1, 0]], [[0, 1]]])).reshape(-1, 2), matrix).reshape(
            3, -1, 2
        )
        if not np.isfinite(around).all():
            continue
        along, across = around[1] - around[0], around[2] - around[0]
        area = along[:, 0] * across[:, 1] - along[:, 1] * across[:, 0]
        if (
            area.min() > 0.25
            and np.linalg.norm(along, axis=1).min() > 0.35
            and np.linalg.norm(across, axis=1).min() > 0.35
        ):
            return around[0]
    return points
