"""Visual words of patches that a network did not see (BEiT, 2106.08254, section 2.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskedTokens(nn.Module):
    """Cross entropy of the scores (M, V) of the M masked patches, picture by picture and row by row, against the words of all
    patches (B, N), integers below V, of which the masked ones (B, N) count."""

    def forward(self, logits: Tensor, masked: Tensor, tokens: Tensor) -> Tensor:
        """The mean over the masked patches of the batch, a float32 scalar; 0 where none is."""
        if tokens.shape != masked.shape:
            raise ValueError(
                f"the tokens have shape {tuple(tokens.shape)}, the mask {tuple(masked.shape)}; give one word for each patch: "
                "the tokenizer's picture has as many cells as the network's has patches"
            )
        with torch.autocast(logits.device.type, enabled=False):
            if not len(logits):
                return logits.float().sum()
            return F.cross_entropy(logits.float(), tokens[masked].long())
