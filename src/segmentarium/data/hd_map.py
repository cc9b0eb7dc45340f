"""Maps of places, and what a detector sees of them: layers drawn in the frame of the lidar.

Argoverse 2's vector maps with their ground heights, and nuScenes' map expansion (JSON).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segmentarium.data.text_files import read_json

LAYERS = ("drivable", "lane", "lane_line", "crossing", "ground", "known")
FINER = 4  # drawn so many times as fine, and averaged: edges that cross a cell count by their share
LINE = 0.3  # metres
REMEMBERED = 256

Outline = tuple[np.ndarray, list[np.ndarray]]  # (K, 3) corners, and the holes'


@dataclass(frozen=True)
class Ground:
    """Heights (H, W) in metres, not a number where unknown; place -> column, row: scale * (rotation @ (x, y) + shift)."""

    heights: np.ndarray
    rotation: np.ndarray
    shift: np.ndarray
    scale: float

    def at(self, places: np.ndarray) -> np.ndarray:
        """(..., 2) x, y -> heights (...), linear between the four around; not a number outside."""
        spot = (self.scale * (places @ self.rotation.T + self.shift)).astype(np.float32)
        flat = spot.reshape(1, -1, 2) if spot.ndim < 3 else spot
        found = cv2.remap(
            self.heights,
            flat[..., 0],
            flat[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=np.nan,
        )
        return found.reshape(spot.shape[:-1])


@dataclass
class PlaceMap:
    """The vector map of a place, in its own coordinates (metres).

    areas    layer -> outlines; lines: layer -> polylines (K, 3)
    ground   heights, where they are known
    """

    areas: dict[str, list[Outline]]
    lines: dict[str, list[np.ndarray]]
    ground: Ground | None = None
    name: str = ""
    _drawn: OrderedDict[Any, np.ndarray] = field(default_factory=OrderedDict, repr=False)

    def raster(
        self,
        pose: np.ndarray | None,
        area: Sequence[float],
        size: tuple[int, int],
        layers: Sequence[str] = LAYERS,
    ) -> np.ndarray:
        """(len(layers), H, W) float32 over the least and greatest x and y of `area` (6 numbers, metres, in the lidar's frame),
        row 0 at the least y.

        drivable, lane, lane_line, crossing   share of the cell that is covered, 0 to 1
        ground                                height of the ground in the lidar's frame, metres; 0 where unknown
        known                                 1 where the map says something: everywhere, or where the ground's height is known

        The last rasters are remembered.  Raises ValueError without a pose, or for a layer that is none.
        """
        if pose is None:
            raise ValueError(f"where the lidar stood on the map {self.name} is not known: the scan has no pose")
        unknown = [name for name in layers if name not in LAYERS]
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is no layer of a map; give some of {', '.join(LAYERS)}")
        key = (np.asarray(pose, np.float64).tobytes(), tuple(area), tuple(size), tuple(layers))
        if key in self._drawn:
            self._drawn.move_to_end(key)
            return self._drawn[key]
        result = np.stack([self._layer(name, np.asarray(pose, np.float64), area, size) for name in layers])
        result.flags.writeable = False
        self._drawn[key] = result
        if len(self._drawn) > REMEMBERED:
            self._drawn.popitem(last=False)
        return result

    def _layer(self, name: str, pose: np.ndarray, area: Sequence[float], size: tuple[int, int]) -> np.ndarray:
        if name in ("ground", "known"):
            return self._height(name, pose, area, size)
        back = np.linalg.inv(pose)
        fine = (size[0] * FINER, size[1] * FINER)
        low = np.array(area[:2])
        scale = np.array((fine[1] / (area[3] - area[0]), fine[0] / (area[4] - area[1])))

        def cells(corners: np.ndarray) -> np.ndarray:
            local = corners @ back[:3, :3].T + back[:3, 3]
            # OpenCV counts from the middle of a pixel, in 1/16
            return np.round(((local[:, :2] - low) * scale - 0.5) * 16).astype(np.int32)

        picture = np.zeros(fine, np.uint8)
        for outline, holes in self.areas.get(name, ()):
            shape = [cells(part) for part in (outline, *holes)]
            if _meets(shape[0], fine):
                own = np.zeros(fine, np.uint8) if holes else picture
                cv2.fillPoly(own, shape, 1, shift=4)
                picture = picture | own
        width = max(1, round(LINE * float(scale.mean())))
        for line in self.lines.get(name, ()):
            shape = [cells(line)]
            if _meets(shape[0], fine):
                cv2.polylines(picture, shape, False, 1, width, shift=4)
        return cv2.resize(picture.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)

    def _height(self, name: str, pose: np.ndarray, area: Sequence[float], size: tuple[int, int]) -> np.ndarray:
        height, width = size
        if self.ground is None:
            return np.full(size, float(name == "known"), np.float32)
        x = area[0] + (np.arange(width) + 0.5) / width * (area[3] - area[0])
        y = area[1] + (np.arange(height) + 0.5) / height * (area[4] - area[1])
        local = np.stack((*np.meshgrid(x, y), np.zeros(size)), -1)
        places = local @ pose[:3, :3].T + pose[:3, 3]
        found = self.ground.at(places[..., :2])
        known = np.isfinite(found)
        if name == "known":
            return known.astype(np.float32)
        places[..., 2] = np.where(known, found, 0)
        back = np.linalg.inv(pose)
        return np.where(known, places @ back[2, :3] + back[2, 3], 0).astype(np.float32)


def _meets(shape: np.ndarray, size: tuple[int, int]) -> bool:
    low, high = shape.min(0) / 16, shape.max(0) / 16
    return bool(len(shape) > 1 and (high >= 0).all() and low[0] < size[1] and low[1] < size[0])


def _corners(points: Sequence[dict[str, float]]) -> np.ndarray:
    return np.array([(p["x"], p["y"], p.get("z", 0.0)) for p in points], np.float64).reshape(-1, 3)


def argoverse_map(folder: str | Path) -> PlaceMap:
    """The map of an Argoverse 2 log: its folder "map".  FileNotFoundError where there is none; ground heights may be missing."""
    folder = Path(folder)
    path = next(iter(sorted(folder.glob("log_map_archive_*.json"))), None)
    if path is None:
        raise FileNotFoundError(f"{folder} has no log_map_archive_*.json: there is no map of this place")
    content = read_json(path)
    lanes = list(content["lane_segments"].values())
    sides = [(_corners(lane["left_lane_boundary"]), _corners(lane["right_lane_boundary"])) for lane in lanes]
    crossings = [(_corners(c["edge1"]), _corners(c["edge2"])) for c in content["pedestrian_crossings"].values()]
    areas: dict[str, list[Outline]] = {
        "drivable": [(_corners(a["area_boundary"]), []) for a in content["drivable_areas"].values()],
        "lane": [(np.concatenate((left, right[::-1])), []) for left, right in sides],
        "crossing": [(np.concatenate((one, _facing(one, two))), []) for one, two in crossings],
    }
    marked = [
        (lane[f"{side}_lane_mark_type"], boundary)
        for lane, pair in zip(lanes, sides, strict=True)
        for side, boundary in zip(("left", "right"), pair, strict=True)
    ]
    lines = {"lane_line": [boundary for kind, boundary in marked if kind != "NONE"]}
    heights = next(iter(sorted(folder.glob("*_ground_height_surface*.npy"))), None)
    similarity = next(iter(sorted(folder.glob("*img_Sim2_city.json"))), None)
    ground = None
    if heights is not None and similarity is not None:
        told = read_json(similarity)
        rotation, shift = np.array(told["R"], np.float64).reshape(2, 2), np.array(told["t"], np.float64)
        ground = Ground(np.load(heights).astype(np.float32), rotation, shift, float(told["s"]))
    return PlaceMap(areas, lines, ground, path.stem)


def _facing(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """The other edge in the order that makes an outline and no bow tie."""
    straight = np.linalg.norm(one[-1] - two[0]) + np.linalg.norm(one[0] - two[-1])
    turned = np.linalg.norm(one[-1] - two[-1]) + np.linalg.norm(one[0] - two[0])
    return two if straight <= turned else two[::-1]


def nuscenes_map(path: str | Path) -> PlaceMap:
    """A file of nuScenes' map expansion (maps/expansion/NAME.json).  FileNotFoundError, or ValueError for another file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no map {path}")
    content = read_json(path)
    if "node" not in content or "polygon" not in content:
        raise ValueError(f"{path} is no file of nuScenes' map expansion: it has no nodes and polygons")
    nodes = {row["token"]: (row["x"], row["y"], 0.0) for row in content["node"]}

    def run(tokens: Sequence[str]) -> np.ndarray:
        return np.array([nodes[token] for token in tokens], np.float64).reshape(-1, 3)

    polygons = {
        row["token"]: (run(row["exterior_node_tokens"]), [run(hole["node_tokens"]) for hole in row.get("holes", ())])
        for row in content["polygon"]
    }
    strokes = {row["token"]: run(row["node_tokens"]) for row in content.get("line", ())}
    lanes = [row for name in ("lane", "lane_connector") for row in content.get(name, ())]
    areas: dict[str, list[Outline]] = {
        "drivable": [polygons[token] for row in content.get("drivable_area", ()) for token in row["polygon_tokens"]],
        "lane": [polygons[row["polygon_token"]] for row in lanes if row.get("polygon_token")],
        "crossing": [polygons[row["polygon_token"]] for row in content.get("ped_crossing", ())],
    }
    dividers = [
        strokes[row["line_token"]] for name in ("lane_divider", "road_divider") for row in content.get(name, ())
    ]
    return PlaceMap(areas, {"lane_line": dividers}, None, path.stem)
