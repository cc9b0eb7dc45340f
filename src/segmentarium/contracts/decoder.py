"""`Decoder`: features to logits; `MaskDecoder`: to masks and their classes; `InstanceDecoder`: to boxes with masks.  A paper on
decoders is one of these, and `segmentarium.composition` puts it on any backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor, nn

from segmentarium.contracts.instance_set import InstanceSet
from segmentarium.contracts.model import Term
from segmentarium.losses import CrossEntropy
from segmentarium.losses.segments import Segments

SEGMENTS = ("segments", "mask")  # what masks are held against: segments, or those that a label map makes


class Decoder(nn.Module):
    """Features, finest first, to logits at a stride of its choice.

    A subclass is built by keywords: `channels` and `strides` of the features, `num_classes`, and arguments of its own.

    prefers_output_stride   asked of backbones that can be dilated, unless the user says otherwise
    final_norm              asked of backbones that can leave out a transformer's final norm, or let the last feature pass it
    takes_prefix            whether it reads the prefix tokens of a plain transformer, such as the class token, too: it is built
                            with `prefixes` besides, how many each feature comes with, and called with (features, prefix):
                            for each feature its tokens (B, P, channels[i]), or None
    auxiliary               whether an FCN head supervises the last feature but one, unless the user says otherwise
    training_only           dotted paths, from here, of what `forward` never uses
    align_corners           how its outputs are brought to the image's size
    covers                  its outputs cover the image padded below and to the right to a multiple of this, such as a
                            transformer's whole patches, and are cropped to the image; None: they cover the image
    """

    prefers_output_stride: ClassVar[int | None] = None
    final_norm: ClassVar[bool | None] = None
    takes_prefix: ClassVar[bool] = False
    auxiliary: ClassVar[bool] = False
    training_only: tuple[str, ...] = ()
    align_corners: bool = False
    covers: int | None = None

    def forward(self, features: Sequence[Tensor], *prefix: Sequence[Tensor | None]) -> Tensor:
        """[(B, channels[i], h_i, w_i), …] -> (B, K, h, w)"""
        raise NotImplementedError

    def forward_train(self, features: Sequence[Tensor], *prefix: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """What the paper supervises, by name; plain decoders need not say it again."""
        return {"logits": self(features, *prefix)}

    def objective(self) -> tuple[Term, ...]:
        """Cross entropy of the logits, unless the paper has more."""
        return (Term("logits", 1.0, CrossEntropy()),)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay must leave alone besides norms and biases: learned queries."""
        return set()


class MaskDecoder(Decoder):
    """Features, finest first, to Q masks with a class each (mask classification, 2107.06278).

    A subclass gives `predictions` and `objective`, whose terms read the names that `forward_train` makes of them.

    shift   of a decoder that decides by whether a number is below 0 (masked attention): where it decides instead, as a share of
            the greatest of these numbers, which shows what near ties are worth; None: it decides nothing so
    """

    shift: float | None = None

    def predictions(self, features: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Of every supervised layer, the last one last: class logits (B, Q, K + 1), the last of them "no object", and mask
        logits (B, Q, h, w)."""
        raise NotImplementedError

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """[(B, channels[i], h_i, w_i), …] -> class logits (B, Q, K + 1), mask logits (B, Q, h, w)"""
        return self.predictions(features)[-1]

    def forward_train(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """The last layer's "class_logits" and "mask_logits", and those of layer i before it with "_i" behind."""
        *earlier, (class_logits, mask_logits) = self.predictions(features)
        found = {"class_logits": class_logits, "mask_logits": mask_logits}
        for i, (class_logits, mask_logits) in enumerate(earlier):
            found |= {f"class_logits_{i}": class_logits, f"mask_logits_{i}": mask_logits}
        return found

    @staticmethod
    def every_layer(count: int, weight: Mapping[str, float], loss: nn.Module) -> tuple[Term, ...]:
        """The same loss on the last of `count` supervised layers and on each before it, each matched anew."""
        last = Term("last", weight, loss, ("class_logits", "mask_logits"), SEGMENTS, "as is", classes=False)
        earlier = (
            replace(last, name=f"aux_{i}", of=(f"class_logits_{i}", f"mask_logits_{i}")) for i in range(count - 1)
        )
        return (last, *earlier)


class InstanceDecoder(Decoder):
    """Features, finest first, and the image's size to boxes with classes and masks.

    In training it is given the segments too: what it proposes is many, and it learns from a few, chosen by what they stand for.
    So its outputs come with what they are held against, and its terms take nothing of the batch, but for maps of the image.
    """

    def forward(self, features: Sequence[Tensor], size: Sequence[int]) -> InstanceSet:  # type: ignore[override]
        """[(B, channels[i], h_i, w_i), …], (H, W) of the image -> N places a picture"""
        raise NotImplementedError

    def forward_train(  # type: ignore[override]
        self, features: Sequence[Tensor], size: Sequence[int], segments: Sequence[Segments]
    ) -> dict[str, Tensor]:
        """segments: of each picture, those of things, each with a pixel (`losses.segments_of`)"""
        raise NotImplementedError
