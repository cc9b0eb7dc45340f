"""`segmentarium detect3d`: boxes in point clouds, as JSON and drawn from above and into the camera's picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from segmentarium.cli.engines import DEVICE

SWEPT = ("argoverse2", "nuscenes")  # data sets with sweeps beside a scan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "source",
        nargs="+",
        help="files of points (.bin, .pcd, .ply, .npy, .npz, .feather), or folders: scans of a data set",
    )
    add(
        "--model", required=True, help="a weights file, a catalogue name or hf:OWNER/NAME of a detector in point clouds"
    )
    add(
        "--data",
        help="how a folder is laid out: kitti, nuscenes, argoverse2, lidar_folder, scan_info (info.json)\n"
        "(default: what its files say)",
    )
    add("--split", default="all", help="of a folder (default: all)")
    add("--sweeps", type=int, help="of argoverse2 and nuscenes: so many laid over each other")
    add("--map", type=Path, metavar="DIR", help="of files: a folder with the map; needs --pose")
    add(
        "--pose",
        type=float,
        nargs=7,
        metavar="V",
        help="of files: quaternion w x y z and place x y z of the lidar on the map",
    )
    add("--threshold", type=float, help="least score (default: the model's)")
    add("--limit", type=int, help="stop after so many scans")
    add("--out", default="detected", metavar="DIR", help="folder for the results (default: detected)")
    add("--engine", choices=("torch", "compile", "onnxruntime", "openvino"), help="of what comes behind the pillars")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="of an engine")
    add("--device", help=DEVICE)


def run(options: argparse.Namespace) -> int:
    """0: everything was done; 1: some inputs failed; 2: nothing could be done."""
    from segmentarium.cli.progress import progress
    from segmentarium.inference.engines import default_device
    from segmentarium.inference.scans import ScanDetector, save_scan
    from segmentarium.weights import load
    from segmentarium.wording import problem

    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise ValueError(f"--threshold is {options.threshold:g}; scores lie between 0 and 1")
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit is {options.limit}; give 1 or more")
    loaded = load(options.model).to(default_device(options.device))
    detector = ScanDetector(loaded, options.threshold, options.engine, options.precision)  # type: ignore[arg-type]
    model, done, failed = detector.model, 0, 0
    with progress("detecting") as tell:
        for name, read in islice(_scans(options), options.limit):
            tell(done + failed, words=f"detecting {name}")
            try:
                scan = read()
                (found,) = detector([scan])
                save_scan(scan, found, model.classes, model.area, options.out, overwrite=options.overwrite)
                counts = ", ".join(
                    f"{int((found.labels == i).sum())} {label}"
                    for i, label in enumerate(model.classes)
                    if (found.labels == i).any()
                )
                print(f"{scan.name or name}: {counts or 'nothing'}")
                done += 1
            except (ValueError, OSError, ImportError) as error:
                if options.debug:
                    raise
                failed += 1
                print(f"segmentarium detect3d: {problem(name, error)}", file=sys.stderr)
    if done:
        print(f"{done} of {done + failed} done with {model.title}; see {options.out}")
    return 0 if done and not failed else 1 if done else 2


def _scans(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Name and reader of each scan."""
    for source in options.source:
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(f"there is no {source}")
        if path.is_dir():
            dataset = _dataset(path, options)
            for index in range(len(dataset)):
                yield f"{source} #{index}", lambda dataset=dataset, index=index: dataset.load(index)
        else:
            yield source, lambda path=path: _file(path, options)


def _file(path: Path, options: argparse.Namespace) -> Any:
    import numpy as np

    from segmentarium.data.clouds import read_points
    from segmentarium.data.lidar_folder import place_map
    from segmentarium.data.poses import pose_matrix
    from segmentarium.data.scans import Scan

    if (options.map is None) != (options.pose is None):
        raise ValueError("--map and --pose go together: where the lidar stood on the map, and the map")
    place = None if options.map is None else place_map(options.map)
    if options.map is not None and place is None:
        raise FileNotFoundError(f"--map {options.map} is no folder")
    pose = None if options.pose is None else pose_matrix(options.pose[:4], options.pose[4:])
    points = read_points(path).values
    return Scan(points, np.zeros((0, 7), np.float32), np.zeros(0, np.int64), path.stem, pose, place)


def _dataset(folder: Path, options: argparse.Namespace) -> Any:
    from segmentarium.data import build_dataset

    name = options.data or _layout(folder)
    if options.sweeps is not None and name not in SWEPT:
        raise ValueError(f"--sweeps goes with {' and '.join(SWEPT)}, and {folder} is read as {name}; leave it out")
    extra = {} if options.sweeps is None else {"sweeps": options.sweeps}
    return build_dataset(name, folder, options.split, **extra)


def _layout(folder: Path) -> str:
    """Which data set's layout a folder has.  ValueError where it has none that is known."""
    signs = {
        "scan_info": "info.json",
        "kitti": "training/velodyne",
        "lidar_folder": "classes.txt",
        "nuscenes": "v1.0-*",
        "argoverse2": "**/sensors/lidar",
    }
    found = next((name for name, sign in signs.items() if next(iter(folder.glob(sign)), None) is not None), None)
    if found is None and next(iter(folder.glob("**/sweep_*.npz")), None) is not None:
        found = "argoverse2"
    if found is None:
        raise ValueError(
            f"{folder} has no layout that is known ({', '.join(signs)}); say which by --data, or give its files"
        )
    return found
