"""How a picture becomes a network's input: `Preprocessing`.  Imports no torch, exported networks do without it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


SMALLEST = 32  # the contract of a backbone: any height and width of 32 or more
OPTIONAL = ("long_side", "short_side", "multiple", "tile", "stride", "crop_size", "crop_ratio", "bits")
DEEPEST = 32  # bits of a value
LARGEST_MULTIPLE = 256
LARGEST = 16384  # no network was trained at more; a picture enlarged to it is 800 MB


@dataclass(frozen=True)
class Preprocessing:
    """What a model wants done to an RGB image with values in [0, 1]: (image - mean) / std, at which scale.

    long_side   pixels of the longer side that the model was trained at; images are brought to it, aspect kept, and the
                logits back to the image's size.  None: images stay as they are.
    short_side  the same of the shorter side; `long_side` is then the most that the longer one may have
    multiple    of which both sides are whole multiples, to the nearest: a network of that stride then draws its borders where
                they are, and not up to a stride beside them.  None: any side
    tile        side of the windows in which such images were scored, every `stride` pixels, and averaged; None: whole
    crop_size   of a classifier: the side of the square that it sees, out of the middle of the picture; None: it does not say
    crop_ratio  the share of the picture's shorter side that this square shows; None: the usual one
    bits        of pictures of more than 8 bits a value: 2 ** bits - 1 is white; None: by the bits that each picture needs
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    long_side: int | None = None
    short_side: int | None = None
    multiple: int | None = None
    tile: int | None = None
    stride: int | None = None
    crop_size: int | None = None
    crop_ratio: float | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std) or not all(map(math.isfinite, (*self.mean, *self.std))):
            raise ValueError(
                f"mean is {self.mean} and std {self.std}; give one finite number of each for every channel"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; give numbers above 0")
        for name in ("long_side", "short_side", "tile", "crop_size"):
            side = getattr(self, name)
            if side is not None and not SMALLEST <= side <= LARGEST:
                raise ValueError(f"{name} is {side}; give {SMALLEST} to {LARGEST} pixels, or None")
        if self.multiple is not None and not 1 <= self.multiple <= LARGEST_MULTIPLE:
            raise ValueError(f"multiple is {self.multiple}; give 1 to {LARGEST_MULTIPLE} pixels, or None")
        if (self.tile is None) != (self.stride is None) or not 0 < (self.stride or 1) <= (self.tile or 1):
            raise ValueError(
                f"tile is {self.tile} and stride {self.stride}; give both, the stride at most the tile, or neither"
            )
        if self.crop_ratio is not None and not 0 < self.crop_ratio <= 1:
            raise ValueError(f"crop_ratio is {self.crop_ratio}; give a share above 0, at most 1, or None")
        check_bits(self.bits)

    def for_channels(self, in_channels: int) -> Preprocessing:
        """The same for another number of input channels: the values are cycled (one channel: their mean)."""
        if in_channels == len(self.mean):
            return self
        if in_channels == 1:
            mean, std = (sum(self.mean) / len(self.mean),), (sum(self.std) / len(self.std),)
        else:
            mean = tuple(self.mean[i % len(self.mean)] for i in range(in_channels))
            std = tuple(self.std[i % len(self.std)] for i in range(in_channels))
        return replace(self, mean=mean, std=std)

    def size_of(self, size: tuple[int, int], scale: float = 1.0) -> tuple[int, int]:
        """(height, width) at which the network sees a picture of this (height, width), or a view of it at that scale."""
        factor = 1.0 if self.long_side is None else self.long_side / max(size)
        if self.short_side is not None:
            factor = self.short_side / min(size) if self.long_side is None else min(factor, self.short_side / min(size))
        return rounded(size, factor * scale, self.multiple)

    def normalise(self, image: Tensor) -> Tensor:
        """(..., C, H, W), uint8 in 0..255 or float in [0, 1] -> normalised float32."""
        import torch

        image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
        mean = torch.tensor(self.mean, device=image.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=image.device).view(-1, 1, 1)
        return (image - mean) / std

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        sizes = {name: values.get(name) for name in OPTIONAL}
        return cls(tuple(values["mean"]), tuple(values["std"]), **sizes)


def check_bits(bits: Any) -> None:
    """Raises ValueError for what cannot be the bits of deep pictures' values; None, which leaves that to each, may be."""
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, int) or not 8 <= bits <= DEEPEST):
        raise ValueError(
            f"bits is {bits!r}; give how many the pictures' values have, 8 to {DEEPEST} (12: 4095 is white)"
        )


def rounded(size: Sequence[int], factor: float, multiple: int | None) -> tuple[int, int]:
    """(height, width) times a factor, each side to the nearest multiple, and at least one of them."""
    step = multiple or 1
    height, width = (max(step, round(side * factor / step) * step) for side in size)
    return height, width
