"""Colours for classes that have none of their own."""

from __future__ import annotations


def default_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """RGB colours in 0..255, far apart and the same for every model: the bit-interleaved scheme of Pascal VOC.

    Class 0 is black, 1 dark red, 2 dark green, ...: the three lowest bits of the index give the highest bits of R, G
    and B, the next three the next lower bits, and so on.
    """
    colours = []
    for index in range(num_classes):
        rgb = [0, 0, 0]
        for level in range(8):
            for channel in range(3):
                rgb[channel] |= (index >> (3 * level + channel) & 1) << (7 - level)
        colours.append((rgb[0], rgb[1], rgb[2]))
    return tuple(colours)
