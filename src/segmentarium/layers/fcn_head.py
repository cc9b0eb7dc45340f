"""The head of FCN (Long et al., arXiv 1411.4038) on one feature: a decoder of its own, and everyone's auxiliary classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier


class FCNHead(nn.Module):
    """3×3 convolutions on one feature, then the classifier: logits at that feature's stride.

    channels          of the features
    decoder_channels  of the convolutions; None: a quarter of the feature's
    concatenate       one more convolution sees the feature beside what the others made of it
    dilation          of the convolutions, but for that one
    index             which of the features
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        num_classes: int,
        decoder_channels: int | None = None,
        convs: int = 1,
        concatenate: bool = False,
        index: int = -1,
        dropout: float = 0.1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        if not -len(channels) <= index < len(channels):
            raise ValueError(
                f"index is {index}; the backbone has {len(channels)} features: give another, or auxiliary=False"
            )
        self.index = index
        inputs = channels[index]
        width = decoder_channels or inputs // 4
        self.convs = nn.Sequential(
            *(ConvNormAct(width if i else inputs, width, dilation=dilation) for i in range(convs))
        )
        self.concatenate = ConvNormAct(inputs + width, width) if concatenate else None
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(width, num_classes, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[(B, channels[i], h_i, w_i), …] -> (B, K, h, w) at the stride of `index`"""
        feature = features[self.index]
        x = self.convs(feature)
        if self.concatenate is not None:
            x = self.concatenate(torch.cat([feature, x], 1))
        return self.classifier(self.dropout(x))
