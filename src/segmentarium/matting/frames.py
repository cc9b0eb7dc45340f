"""Video frames as planes of brightness and colour (YUV 4:2:0), the form in which codecs give and take them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

# weights of red and blue in brightness: BT.601 for standard, BT.709 for high definition, BT.2020 for ultra high
_WEIGHTS = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}
_SPACES = {1: "709", 4: "601", 5: "601", 6: "601", 9: "2020", 10: "2020"}  # of FFmpeg's AVColorSpace
MATRIX = {"601": 6, "709": 1, "2020": 9}  # of FFmpeg's AVColorSpace, in files
_SCALERS = {"601": 5, "709": 1, "2020": 9}  # the same where colours are converted
FULL_RANGE = 2  # of FFmpeg's AVColorRange
UNSAID = 2  # of primaries and transfer


@dataclass(frozen=True)
class Layout:
    """Size and colours of a clip's frames.

    width, height  even: 4:2:0 has one pair of colour values for four pixels
    space, full    matrix ("601", "709", "2020"), and whether brightness goes from 0 to 255 instead of 16 to 235
    primaries, transfer  of FFmpeg's AVColorPrimaries and AVColorTransferCharacteristic: what the values mean as light.
                   They stay as they are, HDR too: values are mixed as they stand, and players know what to make of them
    aspect         width of a pixel by its height, upright
    """

    width: int
    height: int
    space: str
    full: bool
    primaries: int = UNSAID
    transfer: int = UNSAID
    aspect: Fraction = Fraction(1)

    def tag(self, target: Any) -> None:
        """Says the colours on a frame or on an encoder."""
        target.color_range = 2 if self.full else 1
        target.colorspace = MATRIX[self.space]
        target.color_primaries, target.color_trc = self.primaries, self.transfer


@dataclass(frozen=True)
class Turn:
    """How a frame is shown: rows and columns exchanged, then columns mirrored, then rows: all that a display matrix can ask
    for without scaling."""

    exchanged: bool = False
    mirrored: bool = False
    flipped: bool = False

    def upright(self, plane: np.ndarray) -> np.ndarray:
        """(H, W, …) as it is to be shown, a view."""
        plane = plane.swapaxes(0, 1) if self.exchanged else plane
        return plane[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]


def turn_of(frame: Any) -> Turn:
    """What the display matrix of a decoded frame says, to the nearest quarter of a turn."""
    found = frame.side_data.get("DISPLAYMATRIX") if hasattr(frame, "side_data") else None
    if found is None:
        return Turn()
    a, b, _, c, d, *_ = np.frombuffer(bytes(found), np.int32, 9).tolist()  # x' = a x + c y, y' = b x + d y
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Turn(False, a < 0, d < 0)
    return Turn(True, c < 0, b < 0)


def layout_of(frame: Any, aspect: Fraction = Fraction(1)) -> Layout:
    """The layout of a decoded frame (upright) whose pixels, as stored, have this aspect.

    Where it does not say its matrix, it has what players take for its size.
    """
    width, height = frame.width, frame.height
    if turn_of(frame).exchanged:
        width, height, aspect = height, width, 1 / aspect
    width, height = max(2, width - width % 2), max(2, height - height % 2)
    if frame.format.is_rgb:
        return Layout(width, height, "601", False, aspect=aspect)
    space = _SPACES.get(int(frame.colorspace), "709" if min(width, height) >= 720 else "601")
    full = int(frame.color_range) == FULL_RANGE or frame.format.name.startswith("yuvj")
    return Layout(width, height, space, full, int(frame.color_primaries), int(frame.color_trc), aspect)


def pixels_of(frame: Any, layout: Layout, reformatter: Any) -> np.ndarray:
    """(H, W, 3) uint8 of a decoded frame as it is to be shown, RGB, or (H, W, 4) of one that is partly transparent.

    Nothing is cut off odd sides.
    """
    if not frame.format.is_rgb:
        frame.colorspace, frame.color_range = _SCALERS[layout.space], 2 if layout.full else 1
    kind = "rgba" if _has_alpha(frame) else "rgb24"
    pixels = reformatter.reformat(frame, format=kind, dst_color_range=2, threads=1).to_ndarray()
    if kind == "rgba" and pixels[..., 3].min() == 255:
        pixels = pixels[..., :3]
    return np.ascontiguousarray(turn_of(frame).upright(pixels))


def frame_of(pixels: np.ndarray, kind: str, pixel_format: str, layout: Layout, reformatter: Any) -> Any:
    """A frame to encode of (H, W[, C]) uint8 of `kind` ("rgb24", "rgba", "gray"), in the layout's colours."""
    import av

    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=kind)
    if kind == pixel_format:
        return frame
    space, full = _SCALERS[layout.space], 2 if layout.full else 1
    frame = reformatter.reformat(frame, format=pixel_format, dst_colorspace=space, dst_color_range=full, threads=1)
    layout.tag(frame)
    return frame


def planes_of(frame: Any, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y (H, W), U and V (H/2, W/2), uint8, of a decoded frame, turned upright; another size is scaled."""
    turn = turn_of(frame)
    wanted = (layout.height, layout.width) if turn.exchanged else (layout.width, layout.height)
    near = 0 <= frame.width - wanted[0] < 2 and 0 <= frame.height - wanted[1] < 2
    if frame.format.name not in ("yuv420p", "yuvj420p") or not near:
        size = (frame.width, frame.height) if near else wanted
        frame = frame.reformat(*size, format="yuvj420p" if layout.full else "yuv420p")
    planes = []
    for plane, divisor in zip(frame.planes, (1, 2, 2), strict=True):
        whole = plane_array(plane)[: wanted[1] // divisor, : wanted[0] // divisor]
        planes.append(whole if turn == Turn() else np.ascontiguousarray(turn.upright(whole)))
    return planes[0], planes[1], planes[2]


def alpha_of(frame: Any, layout: Layout) -> np.ndarray | None:
    """(H, W) uint8 of a frame that is partly transparent itself, turned upright; None: it is not."""
    if not _has_alpha(frame):
        return None
    turn = turn_of(frame)
    size = (layout.height, layout.width) if turn.exchanged else (layout.width, layout.height)
    plane = frame.reformat(*size, format="yuva420p").planes[3]
    alpha = np.ascontiguousarray(turn.upright(plane_array(plane)))
    return None if alpha.min() == 255 else alpha


def _has_alpha(frame: Any) -> bool:
    return any(part.is_alpha for part in frame.format.components)


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
