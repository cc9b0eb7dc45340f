"""The training and evaluation transforms, as torchvision v2 modules over `{"image", "mask", "name"}` samples.

The order is that of the published recipes: random scale, random crop (tried again while one class fills it),
mirror, photometric distortion, normalise, pad. Two things are arranged for speed, as a training machine may have
two cores: the crop is cut from the source first and only that region is resized, so nothing is computed for pixels
that the crop throws away; and the colour changes are composed into one affine map of RGB, applied once.

All randomness comes from torch's default generator, so that seeding it before a sample fixes the sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from segmentarium.labels import IGNORE_INDEX

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DEVIATION = sum(IMAGENET_STD) / 3  # of a photograph's values

Size = tuple[int, int]


def train_transform(
    crop_size: Size,
    scale: tuple[float, float] = (0.5, 2.0),
    flip: float = 0.5,
    photometric: bool = True,
    max_class_ratio: float = 0.75,
    rotate: float = 0.0,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    long_side: int | None = None,
    even_scales: bool = False,
    degrade: float = 0.0,
) -> nn.Module:
    """The usual training transform: image uint8 (3, H, W) -> float32 (3, *crop_size), mask -> int64 crop_size.

    crop_size: (height, width) of the result; smaller pictures are padded below and to the right, with zeros after
        normalisation (the mean) and with 255 in the mask.
    scale: range of the random factor, uniform; (1, 1) leaves the size alone.
    even_scales: the factor's logarithm is uniform, so that halving is as frequent as doubling; for wide ranges.
    degrade: probability of each of grey, blur, JPEG's artefacts and uneven light.
    flip: probability of a left-right mirror.
    photometric: random brightness, contrast, saturation and hue.
    max_class_ratio: a crop in which one class has more than this share is drawn again, ten times at most; 1 turns
        this off.
    rotate: greatest angle in degrees, either way.
    mean, std: RGB, of values in 0..1.
    long_side: the scale factor is relative to the size at which the longer side has this many pixels.
    """
    crop = RandomScaleCrop(crop_size, scale, max_class_ratio, long_side=long_side, even=even_scales)
    steps = [crop, *changes(rotate, flip, degrade, photometric, mean, IGNORE_INDEX)]
    return v2.Compose([*steps, ToModelInput(mean, std, pad_to=crop_size)])


def changes(
    rotate: float, flip: float, degrade: float, photometric: bool, mean: Sequence[float], void: int
) -> list[nn.Module]:
    """What happens to a crop, as `train_transform` says; `void` is the value of a mask where nothing counts."""
    steps: list[nn.Module] = []
    if rotate:  # after the crop, which has fewer pixels to turn; the corners that come in empty are void
        fill = {tv_tensors.Image: [255.0 * m for m in mean], tv_tensors.Mask: void}
        steps.append(v2.RandomRotation([-rotate, rotate], interpolation=v2.InterpolationMode.BILINEAR, fill=fill))
    if flip:
        steps.append(v2.RandomHorizontalFlip(flip))
    if degrade:
        steps.append(degradation(degrade))
    if photometric:
        steps.append(PhotometricDistortion())
    return steps


def eval_transform(
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    size: Size | None = None,
    resize_mask: bool = True,
) -> nn.Module:
    """Normalise only; with `size` (height, width), resize first.

    `resize_mask=False` leaves the mask at its own size, for scores at the labels' resolution.
    """
    steps: list[nn.Module] = [ResizeTo(size, resize_mask)] if size is not None else []
    return v2.Compose([*steps, ToModelInput(mean, std)])


class RandomScaleCrop(v2.Transform):
    """Scale by a random factor and cut out a random crop, in that order by result, in the other order by work.

    For a factor s the region of crop_size / s pixels is cut from the source and resized. Up to rounding of the
    region to whole pixels, and the interpolation at its border, this equals resizing everything and then cropping.
    Where the scaled picture is smaller than the crop the result is smaller too; `ToModelInput` fills it up.
    """

    def __init__(
        self,
        crop_size: Size,
        scale: tuple[float, float] = (0.5, 2.0),
        max_class_ratio: float = 0.75,
        attempts: int = 10,
        long_side: int | None = None,
        even: bool = False,
    ) -> None:
        super().__init__()
        if min(crop_size) < 1:
            raise ValueError(f"crop_size is {crop_size}; give (height, width) of 1 or more")
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale is {scale}; give (least, greatest) factor, both above 0")
        if not 0 < max_class_ratio <= 1:
            raise ValueError(f"max_class_ratio is {max_class_ratio}; give a share above 0, at most 1 (1 turns it off)")
        self.crop_size, self.scale = crop_size, scale
        self.max_class_ratio, self.attempts = max_class_ratio, attempts
        self.long_side, self.even = long_side, even

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = _common_size(flat_inputs)
        low, high = self.scale
        factor = low
        if high > low:
            draw = torch.rand(()).item()
            factor = low * (high / low) ** draw if self.even else low + (high - low) * draw
        if self.long_side is not None:
            factor *= self.long_side / max(height, width)
        region_h, out_h = _region(height, self.crop_size[0], factor)
        region_w, out_w = _region(width, self.crop_size[1], factor)
        mask = next((x for x in flat_inputs if isinstance(x, tv_tensors.Mask)), None)
        top = left = 0
        for _ in range(self.attempts):
            top = int(torch.randint(height - region_h + 1, ()).item())
            left = int(torch.randint(width - region_w + 1, ()).item())
            if mask is None or self.max_class_ratio >= 1:
                break
            if _largest_share(mask[top : top + region_h, left : left + region_w]) <= self.max_class_ratio:
                break
        return {"region": (top, left, region_h, region_w), "size": [out_h, out_w]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        top, left, height, width = params["region"]
        region = inpt[..., top : top + height, left : left + width]
        return _resize(region, params["size"], like=inpt)


class ResizeTo(v2.Transform):
    """Resize the image (bilinear, antialiased) and, if asked, the mask (nearest) to (height, width)."""

    def __init__(self, size: Size, resize_mask: bool = True) -> None:
        super().__init__()
        self.size, self.resize_mask = size, resize_mask

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, tv_tensors.Mask) and not self.resize_mask:
            return inpt
        return _resize(inpt, list(self.size), like=inpt)


class PhotometricDistortion(v2.Transform):
    """Random brightness, contrast, saturation and hue, as in SSD (https://arxiv.org/abs/1512.02325, section 2.2).

    Each of the four happens with probability `p`; contrast comes first or last with equal probability, the rest in the
    order named. Saturation blends with the grey picture and hue turns about the grey axis, both linear in RGB, so
    that the whole chain is one 3x3 matrix and one offset; values are clamped to 0..1 once, at the end.

    brightness: greatest amount added (of a range of 1; SSD's 32 of 255) to a picture whose values differ as those of
        photographs do; to a dull one less, in proportion to their standard deviation: of nuclei in fluorescent light,
        most of them darker than a fifth, it would leave nothing where it darkens.
    contrast, saturation: factors lie in 1 ± this.
    hue: greatest angle in turns (SSD's 18 of 180).
    """

    def __init__(
        self,
        brightness: float = 32 / 255,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 0.1,
        p: float = 0.5,
    ) -> None:
        super().__init__()
        self.brightness, self.contrast, self.saturation, self.hue, self.p = brightness, contrast, saturation, hue, p

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        draws = torch.rand(5).tolist()
        amount = (2 * torch.rand(4) - 1).tolist()
        matrix, offset = torch.eye(3), torch.zeros(3)
        contrast = 1 + self.contrast * amount[1] if draws[1] < self.p else 1.0
        contrast_first = draws[4] < 0.5
        if draws[0] < self.p:
            offset += self.brightness * amount[0]
        if contrast_first:
            matrix, offset = contrast * matrix, contrast * offset
        if draws[2] < self.p:
            change = saturation_matrix(1 + self.saturation * amount[2])
            matrix, offset = change @ matrix, change @ offset
        if draws[3] < self.p:
            change = hue_matrix(self.hue * amount[3])
            matrix, offset = change @ matrix, change @ offset
        if not contrast_first:
            matrix, offset = contrast * matrix, contrast * offset
        brightness = self.brightness * amount[0] if draws[0] < self.p else 0.0
        grey = (contrast, brightness * (contrast if not contrast_first else 1.0))  # of bands that are no colours
        return {"matrix": matrix, "offset": offset, "grey": grey, "active": any(c < self.p for c in draws[:4])}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Image) or not params["active"]:
            return inpt
        pixels = inpt.as_subclass(Tensor)
        pixels = pixels.to(torch.float32) / 255 if pixels.dtype == torch.uint8 else pixels
        share = min(float(pixels[..., ::4, ::4].std(correction=0)) / DEVIATION, 1.0)
        if pixels.shape[0] != 3:
            gain, more = params["grey"]
            return tv_tensors.Image((pixels * gain + share * more).clamp_(0, 1))
        flat = pixels.reshape(3, -1)
        changed = torch.addmm(share * params["offset"][:, None], params["matrix"], flat).clamp_(0, 1)
        return tv_tensors.Image(changed.reshape(pixels.shape))


def degradation(p: float) -> nn.Module:
    """What cameras, old films and networks do to a picture (uint8), each with probability `p`: uneven light, blur, grey,
    JPEG's artefacts; in this order, as light comes first and the file last."""
    return v2.Compose(
        [
            v2.RandomApply([UnevenLight()], p),
            v2.RandomApply([v2.GaussianBlur(7, (0.4, 2.0))], p),
            v2.RandomGrayscale(p),
            v2.RandomApply([v2.JPEG((20, 80))], p),
        ]
    )


class UnevenLight(v2.Transform):
    """Light that falls off across the picture, as beside a window or against the sun.

    The exposure changes linearly, in stops, along a random direction, from one draw of `stops` to another; values above
    white are cut.
    """

    def __init__(self, stops: tuple[float, float] = (-2.0, 1.0)) -> None:
        super().__init__()
        self.stops = stops

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        low, high = self.stops
        first, second, turn = torch.rand(3).tolist()
        return {"ends": (low + (high - low) * first, low + (high - low) * second), "angle": 2 * math.pi * turn}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        pixels, (near, far), angle = inpt.as_subclass(Tensor), params["ends"], params["angle"]
        height, width = pixels.shape[-2:]
        along = torch.linspace(-1, 1, height)[:, None] * math.sin(angle) + torch.linspace(-1, 1, width) * math.cos(
            angle
        )
        share = (along / (abs(math.sin(angle)) + abs(math.cos(angle))) + 1) / 2
        gain = torch.exp2(near + (far - near) * share)
        return tv_tensors.Image((pixels * gain).clamp_(0, 255).to(pixels.dtype))


class ToModelInput(v2.Transform):
    """What a model takes: image float32, minus mean, over std (of values in 0..1); mask int64.

    `pad_to` (height, width): smaller samples are padded below and to the right, the image with 0, the mask with 255.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], pad_to: Size | None = None) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"mean {tuple(mean)} and std {tuple(std)}: give as many of each, every std above 0")
        self.mean, self.std, self.pad_to = tuple(mean), tuple(std), pad_to

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        plain = inpt.as_subclass(Tensor)
        height, width = plain.shape[-2:]
        size = (height, width) if self.pad_to is None else (max(height, self.pad_to[0]), max(width, self.pad_to[1]))
        if isinstance(inpt, tv_tensors.Mask):
            labels = torch.full((*plain.shape[:-2], *size), IGNORE_INDEX, dtype=torch.int64)
            labels[..., :height, :width] = plain
            return tv_tensors.Mask(labels)
        unit = 255.0 if plain.dtype == torch.uint8 else 1.0
        mean = torch.tensor(self.mean)[:, None, None] * unit
        factor = 1 / (torch.tensor(self.std)[:, None, None] * unit)
        result = torch.zeros(*plain.shape[:-2], *size) if size != (height, width) else torch.empty(*plain.shape)
        filled = result[..., :height, :width]
        torch.sub(plain, mean, out=filled)
        filled.mul_(factor)
        return tv_tensors.Image(result)


def saturation_matrix(factor: float) -> Tensor:
    """(3, 3) map of RGB that scales the distance from grey; factor 0 gives the luma (Rec. 601), 1 the identity."""
    luma = torch.tensor([0.299, 0.587, 0.114])
    return factor * torch.eye(3) + (1 - factor) * luma.expand(3, 3)


def hue_matrix(turns: float) -> Tensor:
    """(3, 3) rotation of RGB about the grey axis by an angle in turns (Rodrigues' formula); grey stays grey."""
    angle = 2 * math.pi * turns
    cosine, sine = math.cos(angle), math.sin(angle)
    axis = 1 / math.sqrt(3)
    cross = torch.tensor([[0.0, -axis, axis], [axis, 0.0, -axis], [-axis, axis, 0.0]])
    return cosine * torch.eye(3) + sine * cross + (1 - cosine) / 3 * torch.ones(3, 3)


def _common_size(inputs: list[Any]) -> tuple[int, int]:
    sizes = {tuple(x.shape[-2:]) for x in inputs if isinstance(x, tv_tensors.Image | tv_tensors.Mask)}
    if len(sizes) != 1:
        raise ValueError(f"a crop needs an image and a mask of one size, as tv_tensors; given sizes {sorted(sizes)}")
    height, width = sizes.pop()
    return height, width


def _region(length: int, crop: int, factor: float) -> tuple[int, int]:
    """(pixels of the source to cut out, pixels they become) along one axis."""
    scaled = max(round(length * factor), 1)
    if scaled <= crop:
        return length, scaled
    return min(max(round(crop / factor), 1), length), crop


def _largest_share(mask: Tensor) -> float:
    """Share of the most frequent class among the labelled pixels; 0 if none is labelled, which no retry can mend."""
    counts = torch.bincount(mask.as_subclass(Tensor).reshape(-1), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]
    return (counts.max() / counts.sum().clamp(min=1)).item()


def _resize(region: Any, size: list[int], like: Any) -> Any:
    plain = region.as_subclass(Tensor)
    if list(plain.shape[-2:]) == size:
        return type(like)(plain)
    if isinstance(like, tv_tensors.Mask):
        resized = F.resize(plain[None], size, interpolation=v2.InterpolationMode.NEAREST_EXACT)[0]
    else:
        resized = F.resize(plain, size, interpolation=v2.InterpolationMode.BILINEAR, antialias=True)
    return type(like)(resized)
