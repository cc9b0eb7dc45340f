"""BEiT's pretraining: which visual word stands behind a hidden patch.

timm has the encoder, transformers and mmpretrain the whole; this file was written from the paper.

A discrete autoencoder (`dvae`), trained before, says of each patch of a picture which of its 8192 words it is.  About 40 % of the
patches are hidden, in blocks; BEiT's encoder (`backbones/beit.py`) gets one learned token in their place, and one linear layer on
the hidden ones is asked for their words.  That tells of what is there, where pixels would ask for every shade.

What the public code does and the paper does not say: one table of positions serves all blocks; a norm stands before the linear
layer; 75 of 196 patches are hidden.  Blocks of patches are drawn until so many are: each has an area from 16 patches to what is
missing, and sides in a proportion of 0.3 to 1/0.3, evenly by its logarithm; a block as high or as wide as the picture, one that
hides nothing new or more than is missing is drawn again, ten times at most.  Then the mask stays smaller than asked.
What we change: the smallest block shrinks with the grid below 14 × 14, where 16 patches would be most of it.

Published (ImageNet top-1, fine-tuned from ImageNet-1k without labels): B 83.2, L 85.2 (the paper, table 1); from ImageNet-22k
83.7 and 86.0 (the authors' repository).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones import can_take, create_backbone
from segmentarium.backbones.beit import PAPER, PATCH, BEiT
from segmentarium.contracts import Pretrainer, Term
from segmentarium.contracts.model import Batch
from segmentarium.layers.init import init_truncated
from segmentarium.losses import MaskedTokens
from segmentarium.registry import Card, register

ATTEMPTS, ASPECT = 10, 0.3
RIGHT, WRONG = (0.2, 0.8, 0.2), (0.9, 0.2, 0.2)


def block_mask(rng: np.random.Generator, grid: tuple[int, int], count: int, smallest: int) -> np.ndarray:
    """Bool (rows, columns): blocks of a `grid` that together hide `count` places, or fewer where no block was found.

    smallest   area from which on blocks are drawn
    """
    rows, columns = grid
    mask = np.zeros(grid, bool)
    while (missing := count - int(mask.sum())) > 0:
        for _ in range(ATTEMPTS):
            area = smallest + (missing - smallest) * rng.random()  # also where less is missing than the smallest
            aspect = math.exp(math.log(ASPECT) * (1 - 2 * rng.random()))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= rows or width >= columns:
                continue
            top, left = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
            block = mask[top : top + height, left : left + width]
            if 0 < block.size - int(block.sum()) <= missing:
                block[:] = True
                break
        else:
            break
    return mask


class Tokenizer(Protocol):
    """What says which word a patch is, and paints words: `pretraining.dvae.DVAE`."""

    def decode(self, tokens: Tensor) -> Tensor:
        """Integers (B, h, w) -> (B, C, H, W) in [0, 1]"""
        ...


class MaskedImageModelling(Pretrainer):
    """BEiT, and a linear layer that says of hidden patches which visual word they are.

    inputs             the picture, and `masked` (B, N): True for the patches, row by row, that are hidden
    backbone           a registered BEiT, or a `BEiT` built with `mask_token=True`
    vocabulary         number of words
    mask_ratio         share of the patches that is to be hidden
    backbone_arguments  further arguments of the backbone's class: image_size, drop_path; shared_bias=False for a table a block
    """

    inputs = ("image", "masked")
    output_names = ("logits",)
    best_score = "accuracy"

    def __init__(
        self,
        *,
        backbone: str | nn.Module = "beit_b",
        vocabulary: int = 8192,
        mask_ratio: float = 75 / 196,
        in_channels: int = 3,
        backbone_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        arguments = dict(backbone_arguments or {})
        if isinstance(backbone, str) and can_take(backbone, "mask_token"):  # another is refused for what it is
            arguments = {"shared_bias": True, "mask_token": True, **arguments}
        beit = create_backbone(backbone, in_channels=in_channels, **arguments)
        if not isinstance(beit, BEiT) or beit.mask_token is None:
            raise ValueError(
                f"{type(beit).__name__} has no token for hidden patches; give a BEiT of ours that has, such as 'beit_b'"
            )
        if vocabulary < 2:
            raise ValueError(f"vocabulary is {vocabulary}; give the number of visual words, 2 or more")
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio is {mask_ratio}; give a share of the patches between 0 and 1")
        super().__init__(beit)
        self.backbone: BEiT = beit
        self.vocabulary, self.mask_ratio = vocabulary, mask_ratio
        channels = beit.all_channels[-1]
        self.norm, self.head = nn.LayerNorm(channels, eps=1e-6), nn.Linear(channels, vocabulary)
        init_truncated(self.head)
        self.set_objective(
            Term("tokens", 1.0, MaskedTokens(), of=("logits", "masked"), on="tokens", at="as is", classes=False)
        )

    @staticmethod
    def grid(size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of the patches of a picture of `size` = (height, width)"""
        return -(-size[0] // PATCH), -(-size[1] // PATCH)

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> dict[str, Tensor]:
        """-> "masked", bool (N,)"""
        rows, columns = self.grid(size)
        places = rows * columns
        smallest = min(max(16 * places // 196, 1), 16)
        mask = block_mask(rng, (rows, columns), round(self.mask_ratio * places), smallest)
        return {"masked": torch.from_numpy(mask.reshape(-1))}

    def forward(self, image: Tensor, masked: Tensor) -> Tensor:
        """-> (B, N, V): scores of the words of every patch"""
        return self.head(self.norm(self.backbone.encode(image, masked)[:, 1:]))

    def forward_train(self, image: Tensor, masked: Tensor) -> dict[str, Tensor]:
        """ "logits" (M, V) of the M hidden patches alone, picture by picture, and "masked" """
        return {"logits": self.head(self.norm(self.backbone.encode(image, masked)[:, 1:][masked])), "masked": masked}

    @torch.no_grad()
    def tally(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        words, logits = batch["tokens"][outputs["masked"]].long(), outputs["logits"].float()
        return {
            "error": F.cross_entropy(logits, words, reduction="sum"),
            "right": (logits.argmax(1) == words).sum(),
            "words": torch.bincount(words, minlength=self.vocabulary),
        }

    def summary(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """ "accuracy" at hidden patches and "loss"; "trivial_accuracy" of one who always says the most frequent word, and
        "trivial_loss" of one who knows how frequent each is"""
        count = max(float(sums["words"].sum()), 1.0)
        share = sums["words"].double() / count
        return {
            "loss": float(sums["error"]) / count,
            "accuracy": float(sums["right"]) / count,
            "trivial_loss": float(-torch.xlogy(share, share).sum()),
            "trivial_accuracy": float(share.max()),
        }

    @torch.no_grad()
    def reconstruct(
        self, outputs: Mapping[str, Tensor], batch: Batch, tokenizer: Tokenizer | None = None
    ) -> dict[str, Tensor]:
        """Hidden patches are grey in "masked".  With a tokenizer "predicted" is what it paints of the true words, and of those
        foreseen where patches were hidden; without, hidden patches are green where the word is right and red where not."""
        image, masked, tokens = batch["image"], outputs["masked"], batch["tokens"]
        height, width = image.shape[-2:]
        size = self.grid((height, width))
        words = tokens.clone()
        words[masked] = outputs["logits"].argmax(1).to(tokens.dtype)
        shown = self.unnormalised(image)

        def over(colours: Tensor) -> Tensor:
            """The picture with colours (B, N, C) in place of hidden patches."""
            painted = colours.transpose(1, 2).unflatten(2, size).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
            where = masked.unflatten(1, size)[:, None].repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
            return torch.where(where[..., :height, :width], painted[..., :height, :width], shown)

        grey = shown.new_full((*masked.shape, shown.shape[1]), 0.5)
        if tokenizer is not None:
            predicted = F.interpolate(
                tokenizer.decode(words.unflatten(1, size)).to(shown), (height, width), mode="bilinear"
            )
        else:
            right, wrong = (shown.new_tensor(c)[torch.arange(shown.shape[1]) % 3] for c in (RIGHT, WRONG))
            predicted = over(torch.where((words == tokens)[..., None], right, wrong))
        return {"input": shown, "masked": over(grey), "predicted": predicted}


def _card(top1: float) -> Card:
    return Card(paper=PAPER, scores={"ImageNet top-1, fine-tuned": top1})


TINY = {"vocabulary": 64}
register("beit_mim", MaskedImageModelling, _card(83.2), tiny=TINY, backbone="beit_b")
register("beit_mim_large", MaskedImageModelling, _card(85.2), tiny=TINY, backbone="beit_l")
