"""A detector on scans: what it takes of them, boxes as JSON, and pictures of points, map and boxes."""

from __future__ import annotations

import colorsys
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from segmentarium.contracts import Boxes3d, Detector3d
from segmentarium.data.image_io import read_image
from segmentarium.data.scans import Scan, collate_scans, inputs_of
from segmentarium.files import atomic_write, check_targets, write_json
from segmentarium.inference.engines import Engine, build_engine
from segmentarium.layers.turned_boxes import corners, corners_3d
from segmentarium.lidar.dense import DensePart

PIXELS = 1200  # of the longer side of a picture from above
NEAR = 0.5  # metres: what lies nearer to a camera is not drawn
EDGES = (
    [(i, (i + 1) % 4) for i in range(4)] + [(i + 4, (i + 1) % 4 + 4) for i in range(4)] + [(i, i + 4) for i in range(4)]
)
LAYER_COLOURS = {"drivable": (52, 52, 60), "lane": (66, 66, 78), "crossing": (96, 84, 60), "lane_line": (128, 128, 128)}

Colour = tuple[int, int, int]


class MapMissingError(ValueError):
    """A detector reads a map, and where the lidar stood on it is not known."""


def map_of(model: Detector3d, scan: Scan) -> np.ndarray:
    """The layers that the model reads, (C, H, W), drawn for the scan; zeros, "known" too, where there is no map of the place.

    MapMissingError for a scan that has a map and no pose.
    """
    if scan.place is None:
        return np.zeros((len(model.layers), *model.map_size), np.float32)
    if scan.pose is None:
        raise MapMissingError(
            f"{scan.name or 'the scan'} has a map and no pose: where the lidar stood on it is not known"
        )
    return scan.place.raster(scan.pose, model.area, model.map_size, model.layers)


def model_inputs(model: Detector3d, scans: Sequence[Scan]) -> tuple[torch.Tensor, ...]:
    """What `forward` takes, on the model's device."""
    raster = (lambda scan: map_of(model, scan)) if "map" in model.inputs else None
    batch = collate_scans([{"name": scan.name, **inputs_of(scan, model.in_channels, raster)} for scan in scans])
    device = next(model.parameters()).device
    return tuple(batch[key].to(device) for key in model.inputs)


@dataclass
class ScanDetector:
    """A detector with its settings; `seconds` inside it so far.

    threshold   least score; None: the model's own
    engine      what computes behind the pillars ("torch", "compile", "onnxruntime", "openvino"), of the deploy form; None: the
                model as it is
    precision   of an engine: "bf16" for its convolutions alone; boxes are made of what they give in float32
    """

    model: Detector3d
    threshold: float | None = None
    engine: str | None = None
    precision: str = "fp32"
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.model, Detector3d):
            raise TypeError(f"{self.model.title} is a {self.model.kind}, which finds no boxes in point clouds")
        self.model = self.model.eval()
        self._run: Engine | None = None
        if self.engine is not None:
            device = next(self.model.parameters()).device
            self._run = build_engine(
                DensePart(self.model, decoded=False), self.engine, precision=self.precision, device=device
            )
        elif self.precision != "fp32":
            raise ValueError(f"precision is {self.precision!r} and goes with an engine; say which")

    @cached_property
    def _dense(self) -> DensePart:
        return DensePart(self.model if self._run is None else self.model.deploy(), decoded=False)

    @torch.inference_mode()
    def maps(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the model takes -> what the heads of a detector in steps give (`DensePart`)."""
        points, *others = inputs
        canvas = self._dense.network.canvas(points)
        if self._run is None:
            return self._dense(canvas, *others)
        return tuple(x.to(points.device) for x in self._run.outputs(canvas, *others))

    @torch.inference_mode()
    def candidates(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the model takes -> boxes, labels, scores of its candidates."""
        return self.model(*inputs) if self._run is None else self._dense.read(self.maps(*inputs))

    def __call__(self, scans: Sequence[Scan]) -> list[Boxes3d]:
        inputs = model_inputs(self.model, scans)
        started = time.perf_counter()
        found = self.model.chosen(*self.candidates(*inputs), threshold=self.threshold)
        self.seconds += time.perf_counter() - started
        return [Boxes3d(one.boxes.cpu(), one.labels.cpu(), one.scores.cpu()) for one in found]


def as_json(found: Boxes3d, classes: Sequence[str], name: str = "") -> dict[str, Any]:
    """Plain data: of each box its class, score, centre, size (length, width, height), angle, and speed where there is one."""
    rows = []
    for box, label, score in zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True):
        row: dict[str, Any] = {"class": classes[label], "score": round(score, 4)}
        row |= {
            "centre": [round(v, 3) for v in box[:3]],
            "size": [round(v, 3) for v in box[3:6]],
            "angle": round(box[6], 4),
        }
        rows.append(row | ({"speed": [round(v, 3) for v in box[7:9]]} if len(box) >= 9 else {}))
    return {"scan": name, "unit": "metres, radians, in the lidar's frame", "boxes": rows}


def colours(count: int) -> list[Colour]:
    """RGB for each class, vivid, so that they stand out from a dark ground, a grey map and points of blue to yellow: orange, and
    from there on by the golden angle."""
    shades = [colorsys.hsv_to_rgb((30 + 137.5 * i) % 360 / 360, 0.85, 1.0) for i in range(count)]
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in shades]


def from_above(
    scan: Scan,
    area: Sequence[float],
    found: Boxes3d | None = None,
    *,
    classes: Sequence[str] = (),
    labelled: bool = True,
    pixels: int = PIXELS,
) -> np.ndarray:
    """(H, W, 3) uint8 RGB of the area, x to the right and y upwards: the map, points by their height, the sensor as a cross, the
    scan's own boxes white and thin, what was found in colour, the fainter the lower its score, with a stroke to the front.

    classes   names for a legend below, with how many were found, and a bar of ten metres; (): neither
    """
    wide, high = area[3] - area[0], area[4] - area[1]
    scale = pixels / max(wide, high)
    size = (max(1, round(high * scale)), max(1, round(wide * scale)))
    picture = np.full((*size, 3), 18, np.uint8)
    if scan.place is not None and scan.pose is not None:
        drawn = scan.place.raster(scan.pose, area, size, tuple(LAYER_COLOURS))[:, ::-1]
        for share, colour in zip(drawn, LAYER_COLOURS.values(), strict=True):
            picture[:] = (picture + (np.array(colour) - picture.astype(float)) * share[..., None]).astype(np.uint8)

    def places(xy: np.ndarray) -> np.ndarray:
        """Metres (..., 2) -> pixels, y downwards."""
        return (xy - np.array((area[0], area[4]))) * np.array((scale, -scale))

    points = scan.points[np.isfinite(scan.points[:, :3]).all(1), :3]
    place = np.floor(places(points[:, :2])).astype(int)
    inside = ((place >= 0) & (place < np.array(size[::-1]))).all(1)
    share = np.clip((points[inside, 2] - area[2]) / (area[5] - area[2]), 0, 1)
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]
    order = np.argsort(share)  # the highest last: what is seen from above
    column, row = place[inside][order].T
    shade = table[(share[order] * 255).astype(np.uint8)]
    for right, down in itertools.product(range(max(1, pixels // 600)), repeat=2):
        picture[np.minimum(row + down, size[0] - 1), np.minimum(column + right, size[1] - 1)] = shade

    def draw(boxes: torch.Tensor, shades: Sequence[Colour], width: int) -> None:
        for shape, shade in zip(places(corners(boxes[:, :7].double()).numpy()), shades, strict=True):
            front, middle = shape[[0, 3]].mean(0), shape.mean(0)
            for line, closed in ((shape, True), (np.stack((middle, front)), False)):
                # OpenCV counts from the middle of a pixel, in 1/16
                whole = np.round((line - 0.5) * 16).astype(np.int32)
                cv2.polylines(picture, [whole], closed, shade, width, cv2.LINE_AA, 4)

    if area[0] <= 0 <= area[3] and area[1] <= 0 <= area[4]:
        x, y = map(int, places(np.zeros(2)))
        cv2.drawMarker(picture, (x, y), (255, 255, 255), cv2.MARKER_CROSS, max(7, pixels // 60), 1, cv2.LINE_AA)
    if labelled and len(scan.boxes):
        draw(torch.from_numpy(scan.boxes), [(255, 255, 255)] * len(scan.boxes), 1)
    palette = colours(max(len(classes), int(found.labels.max()) + 1 if found is not None and len(found) else 0))
    if found is not None and len(found):
        order = found.scores.argsort()
        weight = 0.35 + 0.65 * found.scores[order].clamp(0, 1).numpy()
        base = np.array([palette[label] for label in found.labels[order].tolist()])
        shades = (60 + (base - 60) * weight[:, None]).round().astype(int).tolist()
        draw(found.boxes[order], [(r, g, b) for r, g, b in shades], max(2, pixels // 500))
    if not classes:
        return picture
    counts = [0 if found is None else int((found.labels == i).sum()) for i in range(len(classes))]
    entries = [
        (f"{name}: {count}", palette[i]) for i, (name, count) in enumerate(zip(classes, counts, strict=True)) if count
    ]
    if labelled and len(scan.boxes):
        entries.append((f"labelled: {len(scan.boxes)}", (255, 255, 255)))
    return _with_legend(picture, entries, 10 * scale)


def _with_legend(picture: np.ndarray, entries: Sequence[tuple[str, Colour]], ten_metres: float) -> np.ndarray:
    """A strip below the picture: a bar of ten metres, and words in colours, in as many lines as they need."""
    width = picture.shape[1]
    font = ImageFont.load_default(max(10, width // 65))
    line, gap = round(font.size * 1.6), round(font.size)  # type: ignore[union-attr]
    places, x, y = [], round(ten_metres) + 5 * gap, 0
    for text, colour in entries:
        long = round(font.getlength(text))
        if x + long > width - gap and x > gap:
            x, y = gap, y + line
        places.append((x, y, text, colour))
        x += long + 2 * gap
    strip = Image.new("RGB", (width, y + line), (18, 18, 18))
    pen = ImageDraw.Draw(strip)
    middle = line // 2
    pen.line((gap, middle, gap + round(ten_metres), middle), (200, 200, 200), 2)
    pen.text((round(ten_metres) + 1.5 * gap, middle), "10 m", (200, 200, 200), font, "lm")
    for x, y, text, colour in places:
        pen.text((x, y + middle), text, colour, font, "lm")
    return np.concatenate((picture, np.asarray(strip)))


def in_camera(picture: np.ndarray, matrix: np.ndarray, boxes: torch.Tensor, palette: Sequence[Colour]) -> np.ndarray:
    """A copy of the picture (H, W, 3) with the edges of boxes (N, 7) in the lidar's frame, a colour each; what lies behind the
    camera is cut off.

    matrix   (3, 4): pixels times depth from x, y, z, 1
    """
    result = picture.copy()
    for shape, colour in zip(corners_3d(boxes[:, :7].double()).numpy(), palette, strict=True):
        seen = np.c_[shape, np.ones(8)] @ np.asarray(matrix, np.float64)[:3].T
        for a, b in EDGES:
            start, end = seen[a], seen[b]
            if max(start[2], end[2]) <= NEAR:
                continue
            if min(start[2], end[2]) < NEAR:  # the part in front
                behind, front = (start, end) if start[2] < end[2] else (end, start)
                start, end = front + (behind - front) * (front[2] - NEAR) / (front[2] - behind[2]), front
            ends = np.clip([start[:2] / start[2], end[:2] / end[2]], -30000, 30000).round().astype(int)
            cv2.line(result, tuple(map(int, ends[0])), tuple(map(int, ends[1])), colour, 2, cv2.LINE_AA)
    return result


def save_scan(
    scan: Scan,
    found: Boxes3d,
    classes: Sequence[str],
    area: Sequence[float],
    folder: str | Path,
    *,
    overwrite: bool = False,
    pixels: int = PIXELS,
) -> list[Path]:
    """Writes NAME.json, NAME_above.png and, for each camera, NAME_camera.png; returns their paths.

    FileExistsError where they are there already, unless `overwrite`.
    """
    folder = Path(folder)
    name = (scan.name or "scan").replace("/", "_")
    paths = [folder / f"{name}.json", folder / f"{name}_above.png"]
    paths += [folder / f"{name}_camera{i or ''}.png" for i in range(len(scan.cameras))]
    check_targets(paths, overwrite=overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(paths[0], as_json(found, classes, scan.name))
    pictures = [from_above(scan, area, found, classes=classes, pixels=pixels)]
    palette = colours(len(classes))
    for camera in scan.cameras:
        chosen = [palette[label] for label in found.labels.tolist()]
        pictures.append(in_camera(np.asarray(read_image(camera.path)), camera.matrix, found.boxes, chosen))
    for path, picture in zip(paths[1:], pictures, strict=True):
        with atomic_write(path) as temporary:
            done, data = cv2.imencode(".png", picture[..., ::-1])
            assert done
            temporary.write_bytes(data.tobytes())
    return paths
