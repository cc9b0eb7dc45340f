"""From heat maps to places: the greatest cell, a quarter of a cell towards its larger neighbour, and back into the picture.

As in the HRNet authors' pose code (Sun et al., section 3; the shift is Newell et al.'s, 1603.06937).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor


def peaks(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """(B, J, h, w) -> the greatest cell of each map as x, y: (B, J, 2), at 0, 0 where none is above 0; and its value (B, J)."""
    value, index = heatmaps.flatten(2).max(2)
    width = heatmaps.shape[-1]
    found = torch.stack((index % width, index // width), -1).to(heatmaps.dtype)
    return found * (value > 0)[..., None], value


def refined(heatmaps: Tensor, places: Tensor) -> Tensor:
    """Cells (B, J, 2) moved by a quarter towards the larger of their two neighbours in x and in y.

    Those in the two outermost columns or rows on the left and above, or in the outermost on the right and below, stay.
    """
    height, width = heatmaps.shape[-2:]
    x, y = places.long().unbind(-1)
    inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    x, y = x.clamp(1, width - 2), y.clamp(1, height - 2)
    flat = heatmaps.flatten(2)

    def at(x: Tensor, y: Tensor) -> Tensor:
        return flat.gather(2, (y * width + x)[..., None])[..., 0]

    step = torch.stack((at(x + 1, y) - at(x - 1, y), at(x, y + 1) - at(x, y - 1)), -1).sign()
    return places + 0.25 * step * inner[..., None]


def in_picture(places: Tensor, centre: Tensor, box_width: Tensor, size: Sequence[int]) -> Tensor:
    """Cells of maps of `size` (h, w) -> pixels of the pictures that the maps' boxes were cut out of, upright.

    places      (B, J, 2) x, y
    centre      (B, 2) of the box, in pixels
    box_width   (B,) in pixels; its height follows from the maps' shape
    """
    height, width = size
    middle = places.new_tensor((width / 2, height / 2))
    return (places - middle) * (box_width / width)[:, None, None] + centre[:, None]


def mirror_pairs(names: Sequence[str]) -> list[tuple[int, int]]:
    """Of joints by their names, those that change places in a mirror: left_ear and right_ear, "Top left" and "Top right"."""
    place = {name.lower(): i for i, name in enumerate(names)}
    others = ((i, re.sub(r"(?<![a-z])left(?![a-z])", "right", name)) for name, i in place.items())
    return [(i, place[other]) for i, other in others if place.get(other, i) != i]


def lower_body(names: Sequence[str]) -> list[int]:
    """Of joints by their names, those from the hips down: left_hip, "Right knee", ankles."""
    return [i for i, name in enumerate(names) if re.search(r"hip|knee|ankle", name.lower())]


def mirrored(heatmaps: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Heat maps (B, J, h, w) of a mirrored picture -> of the picture itself."""
    order = list(range(heatmaps.shape[1]))
    for left, right in pairs:
        order[left], order[right] = right, left
    return heatmaps.flip(-1)[:, order]
