"""From pictures with one class each to batches of a classifier: crops, distortions, mixtures of two pictures.

    dataset = build_dataset("imagefolder", root, "train")
    size = picture_size(dataset, 224)                      # 32 for CIFAR, 224 for photographs
    stream = TrainingStream(dataset, classification_train_transform(size), seed=0)
    batches = DataLoader(stream, batch_size=64, sampler=InfiniteSampler(len(dataset)), collate_fn=collate_pictures)

    dataset = build_dataset("imagefolder", root, "val", transform=classification_eval_transform(size))
    dataset[0]                                             # {"image": float32 (3, size, size), "label": int, "name": str}

The order is that of the published recipes (He et al., https://arxiv.org/abs/1512.03385; Wightman et al., "ResNet
strikes back", https://arxiv.org/abs/2110.00476): random crop, mirror, RandAugment, colour jitter, normalise, erase;
then, with a second picture, MixUp or CutMix. Pictures of 64 pixels or less are shifted in a reflected border instead of
being cut out and enlarged, which would blur what little they show. All randomness is torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from segmentarium.data.base import ClassificationDataset, Sample
from segmentarium.data.transforms import IMAGENET_MEAN, IMAGENET_STD, ToModelInput

SMALL = 64  # pixels a side up to which pictures are shown whole
CROP_RATIO = 0.875  # of the picture that evaluation looks at, where the network was not trained otherwise
_LOOKED_AT = 16

Interpolation = Literal["bilinear", "bicubic"]


def picture_size(dataset: ClassificationDataset, largest: int = 224) -> int:
    """The side at which a data set's pictures are shown unless one is asked for: their own, at most `largest`.

    It is the median of the shorter sides of a few pictures spread over the set; it reads these.
    """
    chosen = np.linspace(0, len(dataset) - 1, min(_LOOKED_AT, len(dataset))).astype(int)
    return min(largest, int(np.median([min(dataset.load(int(i))[0].size) for i in chosen])))


def classification_train_transform(
    size: int,
    *,
    crop: Literal["auto", "resized", "shifted"] = "auto",
    scale: tuple[float, float] = (0.08, 1.0),
    flip: float = 0.5,
    rand_augment: int = 0,
    magnitude: int = 9,
    jitter: float = 0.0,
    erase: float = 0.0,
    interpolation: Interpolation = "bilinear",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> nn.Module:
    """Training: image uint8 (3, H, W) -> float32 (3, size, size); labels and names pass through.

    crop: "resized" cuts out a part of the area within `scale`, 3:4 to 4:3, and resizes it; "shifted" resizes the
        shorter side to `size` and shifts the picture in a reflected border of an eighth of it; "auto" is "shifted" up
        to 64 pixels.
    flip: probability of a left-right mirror.
    rand_augment, magnitude: operations of RandAugment (https://arxiv.org/abs/1909.13719) a picture, and their strength,
        0 to 30; 0 operations turn it off.
    jitter: brightness, contrast and saturation change by factors of 1 ± this.
    erase: probability that a rectangle becomes the mean (https://arxiv.org/abs/1708.04896).
    mean, std: RGB, of values in 0..1.
    """
    if crop not in ("auto", "resized", "shifted"):
        raise ValueError(f'crop is {crop!r}; give "auto", "resized" or "shifted"')
    steps: list[nn.Module] = []
    if crop == "shifted" or (crop == "auto" and size <= SMALL):
        border = max(size // 8, 1)
        steps += [_shorter_side(size, interpolation), v2.RandomCrop(size, padding=border, padding_mode="reflect")]
    else:
        steps.append(
            v2.RandomResizedCrop(size, scale, interpolation=v2.InterpolationMode(interpolation), antialias=True)
        )
    if flip:
        steps.append(v2.RandomHorizontalFlip(flip))
    steps += changes(rand_augment, magnitude, jitter, erase, mean, std)
    return v2.Compose(steps)


def changes(
    rand_augment: int, magnitude: int, jitter: float, erase: float, mean: Sequence[float], std: Sequence[float]
) -> list[nn.Module]:
    """What `classification_train_transform` does to a crop: distortions, and the values that the network takes."""
    steps: list[nn.Module] = []
    if rand_augment:
        steps.append(v2.RandAugment(rand_augment, magnitude, interpolation=v2.InterpolationMode.BILINEAR))
    if jitter:
        steps.append(v2.ColorJitter(jitter, jitter, jitter))
    steps.append(ToModelInput(mean, std))
    if erase:
        steps.append(v2.RandomErasing(erase))
    return steps


def classification_eval_transform(
    size: int,
    *,
    crop_ratio: float | None = None,
    interpolation: Interpolation = "bilinear",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> nn.Module:
    """Evaluation: what `middle_crop` takes out, normalised: float32 (3, size, size)."""
    return v2.Compose([middle_crop(size, crop_ratio, interpolation), ToModelInput(mean, std)])


def middle_crop(size: int, crop_ratio: float | None = None, interpolation: Interpolation = "bilinear") -> nn.Module:
    """What a classifier sees of a picture: shorter side to size / crop_ratio, the middle of it: (..., size, size).

    crop_ratio: share of the shorter side that is looked at; None: 0.875, and 1 for pictures of 64 pixels or less, which
        stay as they are where their shorter side is `size`.
    """
    ratio = (1.0 if size <= SMALL else CROP_RATIO) if crop_ratio is None else crop_ratio
    if not 0 < ratio <= 1:
        raise ValueError(f"crop_ratio is {ratio}; give a share above 0, at most 1")
    return v2.Compose([_shorter_side(round(size / ratio), interpolation), v2.CenterCrop(size)])


def _shorter_side(size: int, interpolation: Interpolation) -> nn.Module:
    return v2.Resize(size, v2.InterpolationMode(interpolation), antialias=True)


class MixPictures:
    """MixUp (https://arxiv.org/abs/1710.09412) or CutMix (https://arxiv.org/abs/1905.04899) of two transformed samples.

    As `mix` of a `TrainingStream`, so that seed and number decide a sample's partner too. The label becomes the shares of
    the classes, float32 (K,). Where both are on, each is as likely as the other.

    num_classes: K.
    mixup, cutmix: alpha of the Beta distribution that the shares are drawn from; 0 turns one off.
    """

    def __init__(self, num_classes: int, mixup: float = 0.2, cutmix: float = 1.0) -> None:
        if min(mixup, cutmix) < 0 or not max(mixup, cutmix):
            raise ValueError(f"mixup is {mixup} and cutmix {cutmix}; give alpha above 0 for one of them or both")
        self.ways: list[Any] = [v2.MixUp(alpha=float(mixup), num_classes=num_classes)] if mixup else []
        self.ways += [v2.CutMix(alpha=float(cutmix), num_classes=num_classes)] if cutmix else []

    def __call__(self, first: Sample, second: Sample) -> Sample:
        way = self.ways[int(torch.randint(len(self.ways), ()))] if len(self.ways) > 1 else self.ways[0]
        images = torch.stack([s["image"].as_subclass(Tensor) for s in (first, second)])
        mixed, labels = way(images, torch.tensor([first["label"], second["label"]]))
        return {**first, "image": mixed[0], "label": labels[0], "name": f"{first['name']} with {second['name']}"}


def collate_pictures(samples: Sequence[Sample]) -> dict[str, Any]:
    """A batch: "image" float32 (B, 3, H, W); "label" int64 (B,), or shares (B, K) where a sample is mixed; "name" a list."""
    labels = [sample["label"] for sample in samples]
    numbers = next((len(label) for label in labels if isinstance(label, Tensor)), None)
    if numbers is not None:
        shares = [x if isinstance(x, Tensor) else F.one_hot(torch.tensor(x), numbers).to(torch.float32) for x in labels]
    return {
        "image": torch.stack([sample["image"].as_subclass(Tensor) for sample in samples]),
        "label": torch.tensor(labels) if numbers is None else torch.stack(shares),
        "name": [sample["name"] for sample in samples],
    }
