"""Points, matches and skeletons drawn on pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

GREEN, RED = (40, 200, 80), (220, 60, 50)
SIDES = {"left": (80, 160, 255), "right": (255, 140, 60), "": (250, 220, 70)}  # of limbs
# of a body with COCO's joints, which are joined
PARTS = (  # of one side
    ("eye", "ear"),
    ("ear", "shoulder"),
    ("shoulder", "elbow"),
    ("elbow", "wrist"),
    ("shoulder", "hip"),
    ("hip", "knee"),
    ("knee", "ankle"),
)
LIMBS = (
    *((f"{side}_{a}", f"{side}_{b}") for side in ("left", "right") for a, b in PARTS),
    *((f"left_{part}", f"right_{part}") for part in ("shoulder", "hip")),
    ("nose", "left_eye"),
    ("nose", "right_eye"),
)
SHIFT = 4  # OpenCV's fixed point: a sixteenth of a pixel


def _fixed(point: np.ndarray) -> tuple[int, int]:
    x, y = np.rint(np.clip(point, -1e5, 1e5) * 2**SHIFT).astype(int)
    return int(x), int(y)


def _size(image: np.ndarray) -> int:
    """Pixels of a thin line: 1, and more on pictures that are shown shrunk."""
    return max(1, round(max(image.shape[:2]) / 1000))


def draw_points(image: np.ndarray, points: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 with a ring at each of (N, 2), red for the least score to green for the greatest."""
    drawn, thick = image.copy(), _size(image)
    order = np.argsort(scores, kind="stable")  # the best on top
    share = np.linspace(0, 1, len(order))[:, None]
    colours = np.array(RED) * (1 - share) + np.array(GREEN) * share
    for i, colour in zip(order, colours.tolist(), strict=True):
        cv2.circle(drawn, _fixed(points[i]), 3 * thick << SHIFT, colour, thick, cv2.LINE_AA, SHIFT)
    return drawn


def draw_matches(
    first: np.ndarray, second: np.ndarray, points: tuple[np.ndarray, np.ndarray], inliers: np.ndarray, most: int = 500
) -> np.ndarray:
    """Two pictures side by side, lines between matched points ((K, 2) of either): red, and on top green where they agree.

    most   lines of either colour that are drawn, evenly taken
    """
    height, width = max(first.shape[0], second.shape[0]), first.shape[1]
    drawn = np.full((height, width + second.shape[1], 3), 30, np.uint8)
    drawn[: first.shape[0], :width] = first
    drawn[: second.shape[0], width:] = second
    thick = _size(drawn)
    for good, colour in ((False, RED), (True, GREEN)):
        chosen = np.flatnonzero(inliers == good)
        for i in chosen[:: max(1, -(-len(chosen) // most))]:
            a, b = _fixed(points[0][i]), _fixed(points[1][i] + (width, 0))
            cv2.line(drawn, a, b, colour, thick, cv2.LINE_AA, SHIFT)
            for end in (a, b):
                cv2.circle(drawn, end, 2 * thick << SHIFT, colour, -1, cv2.LINE_AA, SHIFT)
    return drawn


def draw_skeleton(
    image: np.ndarray, joints: np.ndarray, scores: np.ndarray, names: Sequence[str], threshold: float = 0.2
) -> np.ndarray:
    """(H, W, 3) uint8 with a body's joints (J, 2), those of scores (J,) above the threshold, and the limbs between them.

    names   of the joints: what COCO calls so is joined; others are points alone
    """
    drawn, thick = image.copy(), 2 * _size(image)
    place = {name: i for i, name in enumerate(names)}
    sure = scores > threshold
    for a, b in LIMBS:
        if a in place and b in place and sure[place[a]] and sure[place[b]]:
            side = a.partition("_")[0] if a.partition("_")[0] == b.partition("_")[0] else ""
            cv2.line(drawn, _fixed(joints[place[a]]), _fixed(joints[place[b]]), SIDES[side], thick, cv2.LINE_AA, SHIFT)
    for name, i in place.items():
        if sure[i]:
            side = name.partition("_")[0] if name.startswith(("left_", "right_")) else ""
            cv2.circle(drawn, _fixed(joints[i]), 2 * thick << SHIFT, SIDES[side], -1, cv2.LINE_AA, SHIFT)
    return drawn
