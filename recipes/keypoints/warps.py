"""Sequences of warps of one's own photographs, in HPatches' layout: what `evaluate --data hpatches` scores key points on.

    PHOTOS=DIR/coco_instances/val2017
    python recipes/keypoints/warps.py --photos $PHOTOS --without runs/superpoint_data/sources.csv --out runs/warps

Of every photograph two sequences of five pairs: v_NAME, warped as training warps, turned by at most 45 degrees; i_NAME, the
same view in other light: brightness, contrast, noise, shade and blur as training draws them.  Draws follow from the
photograph's place in the folder: the same photographs give the same sequences.  `--without`: photographs that
`superpoint_data.py` listed, which the network learnt from, are left out.
"""

import argparse
import csv
import math
from pathlib import Path

import cv2
import numpy as np

from segmentarium.data.homographies import sample_homography
from segmentarium.data.image_io import IMAGE_SUFFIXES, read_image
from segmentarium.data.photometric import OF_PICTURES

SEED, PAIRS, TURNED = 11, 5, math.pi / 4


def write_sequence(folder: Path, views: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """The first view, and the others with the homography from the first."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (view, homography) in enumerate(views, 1):
        cv2.imwrite(str(folder / f"{number}.png"), view)
        if number > 1:
            np.savetxt(folder / f"H_1_{number}", homography)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--without", type=Path, help="list of superpoint_data.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most", type=int, default=20, help="photographs (default: %(default)s)")
    given = parser.parse_args()
    learnt: set[str] = set()
    if given.without:
        with given.without.open(newline="", encoding="utf-8") as file:
            learnt = {row["name"].removeprefix("coco_") for row in csv.DictReader(file)}
    photos = sorted(path for path in given.photos.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    photos = [path for path in photos if path.stem not in learnt][: given.most]
    same = np.eye(3)
    for index, path in enumerate(photos):
        grey = np.array(read_image(path).convert("L"))
        size = (grey.shape[0], grey.shape[1])
        rng = np.random.default_rng((SEED, index))
        turned, lit = [(grey, same)], [(grey, same)]
        for _ in range(PAIRS):
            homography = sample_homography(rng, size, max_angle=TURNED)
            turned.append((cv2.warpPerspective(grey, homography, size[::-1]), homography))
            lit.append((OF_PICTURES(grey, rng).round().astype(np.uint8), same))
        write_sequence(given.out / f"v_{path.stem}", turned)
        write_sequence(given.out / f"i_{path.stem}", lit)
    print(f"{2 * len(photos)} sequences in {given.out}")


if __name__ == "__main__":
    main()
