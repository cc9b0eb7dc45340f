"""What masks are held against: the segments of a picture, or those that its label map makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from segmentarium.labels import IGNORE_INDEX


class Segments(NamedTuple):
    """What one picture shows: things, each one by itself, and stuff, one segment a class.

    labels    (N,) int64 class indices
    masks     (N, H, W) bool; they may overlap
    valid     (H, W) bool: pixels that count, which crowds and what nobody labelled do not; None: all
    answered  (K,) bool: classes of which it is known where the picture shows them, and where not (`losses.federated`); None: all
    """

    labels: Tensor
    masks: Tensor
    valid: Tensor | None = None
    answered: Tensor | None = None


Target = Sequence[Segments | tuple[Tensor, ...]] | Tensor


def segments_of(target: Target, num_classes: int, ignore_index: int = IGNORE_INDEX) -> list[Segments]:
    """A picture's segments each, those without a counting pixel left out.

    target   `Segments`, or plain tuples of their first two or more, a picture each; or label maps (B, H, W), of which
             each class that is present is one segment and `ignore_index` counts nowhere.  With one class, label 1 is it and
             label 0 nothing

    Raises ValueError for labels that are none of the classes, and for masks that are not one (N, H, W) tensor.
    """
    if isinstance(target, Tensor):
        given = [_of_labels(labels, num_classes, ignore_index) for labels in target]
    else:
        given = [Segments(*picture) for picture in target]  # type: ignore[arg-type]
    return [_checked(picture, num_classes) for picture in given]


def _of_labels(labels: Tensor, num_classes: int, ignore_index: int) -> Segments:
    valid = labels != ignore_index
    present = labels[valid].unique().long()
    if num_classes == 1:
        present = present[present > 0]
    return Segments(present - int(num_classes == 1), labels == present[:, None, None], valid)


def _checked(picture: Segments, num_classes: int) -> Segments:
    labels, masks, valid, answered = picture
    if masks.ndim != 3 or labels.shape != masks.shape[:1] or (valid is not None and valid.shape != masks.shape[1:]):
        raise ValueError(
            f"a picture's segments have labels {tuple(labels.shape)}, masks {tuple(masks.shape)}"
            + ("" if valid is None else f" and valid pixels {tuple(valid.shape)}")
            + "; give (N,), (N, H, W) and (H, W)"
        )
    if answered is not None and answered.shape != (num_classes,):
        raise ValueError(
            f"answered has shape {tuple(answered.shape)}, and there are {num_classes} classes; give ({num_classes},)"
        )
    masks = masks.bool()
    counted = masks if valid is None else masks & valid
    kept = counted.flatten(1).any(1)
    labels, masks = labels[kept].long(), masks[kept]
    wrong = labels[(labels < 0) | (labels >= num_classes)] if labels.device.type == "cpu" else labels[:0]
    if len(wrong):
        raise ValueError(
            f"segments have the classes {', '.join(map(str, sorted(set(wrong.tolist()))))}, but there are {num_classes}: "
            f"give 0 to {num_classes - 1}"
        )
    return Segments(labels, masks, valid, answered)
