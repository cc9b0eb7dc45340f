"""`Decoder`: features to logits.  A paper on decoders is one of these; `EncoderDecoder` puts it on any backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from segmentarium.contracts.model import Term
from segmentarium.losses import CrossEntropy


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
