"""Video frames as planes of brightness and colour (YUV 4:2:0), the form in which codecs give and take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# weights of red and blue in brightness: BT.601 for standard, BT.709 for high definition, BT.2020 for ultra high
_WEIGHTS = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}
_SPACES = {1: "709", 4: "601", 5: "601", 6: "601", 9: "2020", 10: "2020"}  # of FFmpeg's AVColorSpace
FULL_RANGE = 2  # of FFmpeg's AVColorRange


@dataclass(frozen=True)
class Layout:
    """Size and colours of a clip's frames.

    width, height  even: 4:2:0 has one pair of colour values for four pixels
    space, full    matrix ("601", "709", "2020"), and whether brightness goes from 0 to 255 instead of 16 to 235
    """

    width: int
    height: int
    space: str
    full: bool


def layout_of(frame: Any) -> Layout:
    """The layout of a decoded frame (upright); where it does not say its matrix, what players take for its size."""
    width, height = frame.width, frame.height
    if round(getattr(frame, "rotation", 0) / 90) % 2:
        width, height = height, width
    width, height = max(2, width - width % 2), max(2, height - height % 2)
    if frame.format.is_rgb:
        return Layout(width, height, "601", False)
    space = _SPACES.get(int(frame.colorspace), "709" if min(width, height) >= 720 else "601")
    return Layout(width, height, space, int(frame.color_range) == FULL_RANGE or frame.format.name.startswith("yuvj"))


def planes_of(frame: Any, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y (H, W), U and V (H/2, W/2), uint8, of a decoded frame, turned upright; another size is scaled."""
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    wanted = (layout.height, layout.width) if turns % 2 else (layout.width, layout.height)
    near = 0 <= frame.width - wanted[0] < 2 and 0 <= frame.height - wanted[1] < 2
    if frame.format.name not in ("yuv420p", "yuvj420p") or not near:
        size = (frame.width, frame.height) if near else wanted
        frame = frame.reformat(*size, format="yuvj420p" if layout.full else "yuv420p")
    planes = []
    for plane, divisor in zip(frame.planes, (1, 2, 2), strict=True):
        whole = plane_array(plane)[: wanted[1] // divisor, : wanted[0] // divisor]
        planes.append(np.ascontiguousarray(np.rot90(whole, turns)) if turns else whole)
    return planes[0], planes[1], planes[2]


def plane_array(plane: Any) -> np.ndarray:
    """(h, w) uint8 view of a frame's plane; writing to it writes into the frame."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]


def rgb_to_planes(pixels: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 RGB of even sides -> Y (H, W), U and V (H/2, W/2) uint8 in the layout's matrix and range."""
    red_weight, blue_weight = _WEIGHTS[layout.space]
    red, green, blue = (pixels[..., i].astype(np.float32) for i in range(3))
    bright = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    halved = [_halved(plane) for plane in (red, blue, bright)]
    u = (halved[1] - halved[2]) / (2 * (1 - blue_weight))
    v = (halved[0] - halved[2]) / (2 * (1 - red_weight))
    if not layout.full:
        bright, u, v = bright * (219 / 255) + 16, u * (224 / 255), v * (224 / 255)
    return _rounded(bright), _rounded(u + 128), _rounded(v + 128)


def _halved(plane: np.ndarray) -> np.ndarray:
    return (plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]) / 4


def _rounded(plane: np.ndarray) -> np.ndarray:
    return np.clip(plane + 0.5, 0, 255).astype(np.uint8)
