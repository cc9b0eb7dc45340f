"""What a query says at last: its class, and its mask (Cheng et al., MaskFormer, 2107.06278, section 3.3)."""

from __future__ import annotations

from torch import Tensor, nn

from segmentarium.layers.init import init_classifier


class MaskHead(nn.Module):
    """Queries to class logits, "no object" the last, and to embeddings whose products with a map's pixels are mask logits.

    mask_channels   of the map
    """

    def __init__(self, channels: int, mask_channels: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = init_classifier(nn.Linear(channels, num_classes + 1))
        self.embed = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, mask_channels),
        )

    def forward(self, queries: Tensor, pixels: Tensor, embedded: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, Q, channels), (B, mask_channels, h, w), and what `embed` gives, where it is known ->
        class logits (B, Q, K + 1), mask logits (B, Q, h, w)"""
        masks = self.embed(queries) if embedded is None else embedded
        return self.classifier(queries), (masks @ pixels.flatten(2)).unflatten(2, pixels.shape[-2:])
