"""Points and matches as other programs keep them: COLMAP's database, and the .h5 files of hloc.

Both say where a point is by other origins: here and in hloc's files pixel centres are at whole numbers; COLMAP's are at halves.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segmentarium.contracts import Keypoints
from segmentarium.files import atomic_write, check_targets
from segmentarium.matching.geometry import Geometry

MOST_IMAGES = 2147483647  # COLMAP's: a pair's number is made of two images' by it
SIMPLE_RADIAL = 2  # COLMAP's camera model: focal length, centre x, y, distortion
CONFIGURATION = {
    "essential": 2,
    "fundamental": 3,
    "homography": 6,
}  # of COLMAP's two-view geometries; 6: planar or panoramic
TABLES = """
CREATE TABLE cameras (camera_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, model INTEGER NOT NULL, width INTEGER NOT NULL,
    height INTEGER NOT NULL, params BLOB, prior_focal_length INTEGER NOT NULL);
CREATE TABLE images (image_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, name TEXT NOT NULL UNIQUE,
    camera_id INTEGER NOT NULL, prior_qw REAL, prior_qx REAL, prior_qy REAL, prior_qz REAL, prior_tx REAL, prior_ty REAL,
    prior_tz REAL, CONSTRAINT image_id_check CHECK(image_id >= 0 and image_id < 2147483647),
    FOREIGN KEY(camera_id) REFERENCES cameras(camera_id));
CREATE UNIQUE INDEX index_name ON images(name);
CREATE TABLE keypoints (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL, data BLOB,
    FOREIGN KEY(image_id) REFERENCES images(image_id) ON DELETE CASCADE);
CREATE TABLE descriptors (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL, data BLOB,
    FOREIGN KEY(image_id) REFERENCES images(image_id) ON DELETE CASCADE);
CREATE TABLE matches (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL, data BLOB);
CREATE TABLE two_view_geometries (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL,
    data BLOB, config INTEGER NOT NULL, F BLOB, E BLOB, H BLOB, qvec BLOB, tvec BLOB);
"""


@dataclass(frozen=True)
class Pair:
    """Matches of two pictures, called by their names: pairs (K, 2) indices of points, distances (K,), and which agree."""

    first: str
    second: str
    pairs: np.ndarray
    distances: np.ndarray
    geometry: Geometry | None = None


def write_colmap(
    path: str | Path, pictures: Mapping[str, Keypoints], pairs: Iterable[Pair], *, overwrite: bool = False
) -> Path:
    """A COLMAP database: one camera, one image and its points for each picture; matches, and those that agree with a geometry.

    pictures   file name, as COLMAP is to find it in its folder -> its points

    Cameras are guessed as COLMAP guesses them: a focal length of 1.2 times the longer side, centred, no distortion.

    Raises ValueError, before anything is written, for a pair of a picture that is not given, of one picture with itself, or that
    is given twice, in either order: the database has one place for both.
    """
    pairs, known = list(pairs), set[frozenset[str]]()
    for pair in pairs:
        _check_known(pair, pictures)
        both = frozenset((pair.first, pair.second))
        if len(both) < 2 or both in known:
            fault = "is given twice" if both in known else "is one picture"
            raise ValueError(f"the pair {pair.first!r}, {pair.second!r} {fault}; give each two pictures once")
        known.add(both)
    path = Path(path)
    check_targets([path], overwrite=overwrite)
    with atomic_write(path) as temporary, contextlib.closing(sqlite3.connect(temporary)) as database:
        database.executescript(TABLES)
        numbers: dict[str, int] = {}
        for name, found in pictures.items():
            width, height = (int(side) for side in found.image_size)
            camera = np.array([1.2 * max(width, height), width / 2, height / 2, 0.0])
            values = (SIMPLE_RADIAL, width, height, camera.tobytes(), 0)
            cursor = database.execute(
                "INSERT INTO cameras(model, width, height, params, prior_focal_length) VALUES (?, ?, ?, ?, ?)", values
            )
            cursor = database.execute("INSERT INTO images(name, camera_id) VALUES (?, ?)", (name, cursor.lastrowid))
            assert cursor.lastrowid is not None
            numbers[name] = cursor.lastrowid
            points = found.keypoints.cpu().numpy().astype(np.float32) + 0.5
            database.execute("INSERT INTO keypoints VALUES (?, ?, ?, ?)", (numbers[name], *_table(points, 2)))
        for pair in pairs:
            _write_pair(database, pair, numbers)
        database.commit()
    return path


def _write_pair(database: sqlite3.Connection, pair: Pair, numbers: Mapping[str, int]) -> None:
    first, second = numbers[pair.first], numbers[pair.second]
    turned = first > second
    number = min(first, second) * MOST_IMAGES + max(first, second)
    matches = pair.pairs[:, ::-1] if turned else pair.pairs
    matches = np.ascontiguousarray(matches, np.uint32)
    database.execute("INSERT INTO matches VALUES (?, ?, ?, ?)", (number, *_table(matches, 2)))
    geometry = pair.geometry
    if geometry is None or geometry.matrix is None:
        return
    agreeing = np.ascontiguousarray(matches[geometry.inliers])
    matrix = _in_halves(geometry.matrix, geometry.kind)
    if turned:  # of the other direction
        matrix = np.linalg.inv(matrix) if geometry.kind == "homography" else matrix.T
    blobs = dict.fromkeys(CONFIGURATION) | {geometry.kind: np.ascontiguousarray(matrix).tobytes()}
    values = (number, *_table(agreeing, 2), CONFIGURATION[geometry.kind])
    matrices = (blobs["fundamental"], blobs["essential"], blobs["homography"])
    database.execute(
        "INSERT INTO two_view_geometries(pair_id, rows, cols, data, config, F, E, H) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*values, *matrices),
    )


def _check_known(pair: Pair, pictures: Collection[str]) -> None:
    for name in (pair.first, pair.second):
        if name not in pictures:
            raise ValueError(f"a pair has the picture {name!r}, which is not among those given: {', '.join(pictures)}")


def _in_halves(matrix: np.ndarray, kind: str) -> np.ndarray:
    """A matrix between points whose pixel centres are at whole numbers -> at halves.  An essential one knows no pixels."""
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    back = np.linalg.inv(shift)
    if kind == "homography":
        return shift @ matrix @ back
    return back.T @ matrix @ back if kind == "fundamental" else matrix


def _table(values: np.ndarray, columns: int) -> tuple[int, int, bytes]:
    return len(values), columns, values.tobytes()


def write_hloc(
    folder: str | Path, pictures: Mapping[str, Keypoints], pairs: Iterable[Pair], *, overwrite: bool = False
) -> list[Path]:
    """features.h5 and matches.h5 as hloc keeps them: of each picture keypoints (N, 2), scores (N,), descriptors (D, N) and
    image_size; of each pair matches0 (N,), -1 where there is none, and matching_scores0.

    Half precision but for the places, as hloc stores.  ImportError without h5py; ValueError, before anything is written, for a
    pair of a picture that is not given, and for two pairs of one name there ("/" of pictures' names is "-").
    """
    h5py = _h5py()
    named: dict[str, Pair] = {}
    for pair in pairs:
        _check_known(pair, pictures)
        key = "/".join(name.replace("/", "-") for name in (pair.first, pair.second))
        if key in named:
            raise ValueError(
                f"two pairs are {key!r} in matches.h5; give each pair once, of pictures whose names differ"
            )
        named[key] = pair
    paths = [Path(folder) / name for name in ("features.h5", "matches.h5")]
    check_targets(paths, overwrite=overwrite)
    with atomic_write(paths[0]) as temporary, h5py.File(temporary, "w") as file:
        for name, found in pictures.items():
            group = file.create_group(name)
            group["keypoints"] = found.keypoints.cpu().numpy().astype(np.float32)
            group["keypoints"].attrs["uncertainty"] = 1.0
            group["scores"] = found.keypoint_scores.cpu().numpy().astype(np.float16)
            group["descriptors"] = found.descriptors.cpu().numpy().T.astype(np.float16)
            group["image_size"] = found.image_size.cpu().numpy()
    with atomic_write(paths[1]) as temporary, h5py.File(temporary, "w") as file:
        for key, pair in named.items():
            count = len(pictures[pair.first])
            matches, scores = np.full(count, -1, np.int32), np.zeros(count, np.float16)
            matches[pair.pairs[:, 0]] = pair.pairs[:, 1]
            scores[pair.pairs[:, 0]] = (1 - pair.distances / 2).clip(0, 1)
            group = file.create_group(key)
            group["matches0"], group["matching_scores0"] = matches, scores
    return paths


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise ImportError("hloc's files need h5py, which is not installed: pip install h5py") from None
    return h5py
