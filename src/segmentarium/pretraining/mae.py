"""MAE: a transformer that sees a quarter of a picture and paints the rest.

The authors' code and weights are CC-BY-NC-4.0; transformers and mmpretrain (Apache-2.0) have it too.  This file was written from
the paper.

Of the patches of a picture, three quarters are taken away at random.  The encoder, a ViT, sees the others alone, so that a step
costs it about a quarter; a narrow decoder gets what the encoder says of them, one learned token for each that is missing, and
says of every patch what its pixels are.  The loss counts the missing ones: the squared error of pixels, each patch less its mean
and over its deviation.  Afterwards the decoder is thrown away.

What the public code does and the paper does not say: encoder and decoder know where a patch stands by fixed tables of sines and
cosines, of the column first; the class token's row is zero; a patch's variance is the unbiased one; the patches' convolution is
drawn as a linear layer is, by Xavier's rule as all others are; a patch counts as hidden by the rank of its random number.
What we change: a picture of another size than the tables' interpolates them, and is padded to whole patches.  Random numbers
come from outside, as an input: the ranks of a permutation, among which there are no ties.

Published (ImageNet top-1, fine-tuned): B 83.6, L 85.9, H 86.9; linear probe L 75.8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.backbones.vit import VisionTransformer
from segmentarium.contracts import Backbone, Pretrainer, Term
from segmentarium.contracts.model import Batch
from segmentarium.layers.attention import Attention
from segmentarium.layers.mlp import MLP
from segmentarium.layers.patches import patchify, unpatchify
from segmentarium.layers.positions import resize_positions
from segmentarium.layers.resize import pad_to_multiple
from segmentarium.layers.transformer import TransformerBlock
from segmentarium.losses import MaskedPatches
from segmentarium.preprocessing import Preprocessing
from segmentarium.registry import Card, Paper, register


def fixed_positions(grid: Sequence[int], channels: int, prefix: int) -> Tensor:
    """(1, prefix + h·w, channels): of each place of a grid (h, w) the sines and cosines of its column, then those of its row, at
    channels / 4 rates from 1 down to 1/10000; rows of the `prefix` tokens are zero.

    Raises ValueError where 4 does not divide `channels`.
    """
    if channels % 4:
        raise ValueError(f"{channels} channels cannot hold sine and cosine of column and row; give a multiple of 4")
    # by NumPy, as these operators without numbers (`meta.py`) would import PyTorch's compiler
    rates = 10000.0 ** (-np.arange(channels // 4) / (channels // 4))
    rows, columns = (
        np.concatenate((np.sin(angles), np.cos(angles)), 1)
        for angles in (np.arange(count)[:, None] * rates for count in grid)
    )
    height, width = grid
    places = np.zeros((prefix + height * width, channels), np.float32)
    places[prefix:, : channels // 2] = np.tile(columns, (height, 1))
    places[prefix:, channels // 2 :] = np.repeat(rows, width, 0)
    return torch.tensor(places)[None]


class MAEDecoder(nn.Module):
    """What the encoder says of the patches that it saw, (B, P + V, channels), prefix tokens first -> values of every patch.

    values        that a patch has
    dim           channels inside; `depth` blocks, `heads` of their attention
    grid, prefix  of the encoder's table: (h, w) of the patches, and rows before theirs
    resizing      how a table of another grid is interpolated
    """

    def __init__(
        self,
        channels: int,
        values: int,
        *,
        dim: int,
        depth: int,
        heads: int,
        grid: Sequence[int],
        prefix: int,
        eps: float,
        resizing: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.grid, self.prefix, self.resizing = tuple(grid), prefix, dict(resizing)
        self.embed = nn.Linear(channels, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(fixed_positions(grid, dim, prefix), requires_grad=False)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, Attention(dim, heads), MLP(dim, 4 * dim), eps=eps) for _ in range(depth)
        )
        self.norm, self.predict = nn.LayerNorm(dim, eps=eps), nn.Linear(dim, values)

    def forward(self, seen: Tensor, kept: Tensor, size: Sequence[int]) -> Tensor:
        """kept: (B, V), which of the h·w patches of the grid `size` were seen -> (B, h·w, values)"""
        x = self.embed(seen)
        first, seen = x[:, : self.prefix], x[:, self.prefix :]
        hidden = self.mask_token.to(x.dtype).expand(x.shape[0], size[0] * size[1], -1)
        tokens = torch.cat([first, hidden.scatter(1, kept[..., None].expand_as(seen), seen)], 1)
        x = tokens + resize_positions(self.positions, self.grid, size, prefix=self.prefix, **self.resizing)
        for block in self.blocks:
            x = block(x)
        return self.predict(self.norm(x[:, self.prefix :]))

    def carry(self, name: str, tensor: Tensor) -> Tensor:
        """The table of weights of another grid is this one's own: it is fixed."""
        fits = name == "positions" and tensor.ndim == 3 and tensor.shape[-1] == self.positions.shape[-1]
        return self.positions.detach() if fits else tensor


class MAE(Pretrainer):
    """A ViT that learns by painting the patches that it does not see.

    inputs            the picture, and `noise` (B, N): one number for each of its N patches; those with the smallest are seen
    backbone          a registered ViT without a stem, or a `VisionTransformer`, whose weights and table then stay as they are
    mask_ratio        share of the patches that is hidden; at least one is seen
    decoder_dim, …    channels, blocks and heads of the decoder
    normalise         whether each patch is foreseen less its mean, over its deviation
    backbone_arguments  further arguments of the backbone's class: image_size, patch, drop_path
    """

    inputs = ("image", "noise")
    best_score = "explained"

    def __init__(
        self,
        *,
        backbone: str | nn.Module = "vit_base_patch16_224",
        mask_ratio: float = 0.75,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        normalise: bool = True,
        in_channels: int = 3,
        backbone_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        vit = _plain(create_backbone(backbone, in_channels=in_channels, **(backbone_arguments or {})))
        if not 0 <= mask_ratio < 1:
            raise ValueError(f"mask_ratio is {mask_ratio}; give a share of the patches, 0 or more and below 1")
        super().__init__(vit)
        self.backbone: VisionTransformer = vit
        self.mask_ratio, self.patch = mask_ratio, vit.stride
        rows = vit.positions.shape[1] - vit.grid[0] * vit.grid[1]
        if rows != vit.prefix_tokens:
            raise ValueError(
                f"the backbone has {vit.prefix_tokens} tokens before those of patches and {rows} rows of its table for them; "
                "build it with class_token=True or False, and without registers"
            )
        self.decoder = MAEDecoder(
            vit.all_channels[-1],
            vit.stride**2 * self.in_channels,
            dim=decoder_dim,
            depth=decoder_depth,
            heads=decoder_heads,
            grid=vit.grid,
            prefix=vit.prefix_tokens,
            eps=getattr(vit.norm, "eps", 1e-6),
            resizing=vit.resizing,
        )
        self._initialise(self.decoder)
        if isinstance(backbone, str):
            self._initialise(vit)
            with torch.no_grad():
                vit.positions.copy_(fixed_positions(vit.grid, vit.all_channels[-1], rows))
            vit.positions.requires_grad_(False)
            self.preprocessing = Preprocessing(crop_size=vit.preprocessing.crop_size).for_channels(self.in_channels)
        loss = MaskedPatches(self.patch, normalise)
        self.set_objective(
            Term("pixels", 1.0, loss, of=("prediction", "hidden"), on="image", at="as is", classes=False)
        )

    @staticmethod
    def _initialise(part: nn.Module) -> None:
        for name, parameter in part.named_parameters():
            if name.endswith("_token"):
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("proj.weight") and parameter.ndim == 4:  # of the patches
                nn.init.xavier_uniform_(parameter.data.flatten(1))
        for module in part.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> dict[str, Tensor]:
        """-> "noise" (N,) in [0, 1), no two alike"""
        count = -(-size[0] // self.patch) * -(-size[1] // self.patch)
        return {"noise": torch.from_numpy(rng.permutation(count)).float() / count}

    def kept(self, noise: Tensor) -> Tensor:
        """(B, N) -> (B, V): which patches are seen, by the rank of their numbers"""
        share = round((1 - self.mask_ratio) * 10**6)  # in whole numbers, so that 0.2 of 10 are 2
        return noise.argsort(1)[:, : max(noise.shape[1] * share // 10**6, 1)]

    def encode(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """-> what the encoder says of the seen patches (B, P + V, D), prefix tokens first; which they are (B, V); the grid"""
        tokens, size = self.backbone.embed_patches(image)
        if not torch.compiler.is_compiling() and noise.shape[1] != size[0] * size[1]:
            raise ValueError(
                f"the picture has {size[0]}×{size[1]} patches of {self.patch} pixels, and noise {noise.shape[1]} numbers; "
                "give one for each patch, as draw(rng, size) does"
            )
        kept, prefix = self.kept(noise), self.backbone.prefix_tokens
        seen = tokens[:, prefix:].gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
        seen = torch.cat([tokens[:, :prefix], seen], 1)
        (last,) = self.backbone.run_blocks(seen, size, (len(self.backbone.blocks) - 1,))
        return self.backbone.norm(last), kept, size

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        """-> (B, N, patch²·C), as `layers.patches.patchify` orders them: what each patch is said to be"""
        return self.decoder(*self.encode(image, noise))

    def forward_train(self, image: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """ "prediction" of `forward`, and "hidden" (B, N), True where a patch was not seen"""
        seen, kept, size = self.encode(image, noise)
        hidden = torch.ones_like(noise, dtype=torch.bool).scatter(1, kept, False)
        return {"prediction": self.decoder(seen, kept, size), "hidden": hidden}

    @property
    def _pixels(self) -> MaskedPatches:
        loss = self.losses["pixels"]
        assert isinstance(loss, MaskedPatches)
        return loss

    @torch.no_grad()
    def tally(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        hidden, target = outputs["hidden"], self._pixels.target(batch["image"])
        error = (outputs["prediction"].float() - target).square().mean(-1)
        spread = (target - target.mean(-1, keepdim=True)).square().mean(-1)
        return {"error": error[hidden].sum(), "trivial": spread[hidden].sum(), "patches": hidden.sum()}

    def summary(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """ "loss" of hidden patches; "trivial_loss" of one who knows the mean of each, about 1; "explained", the share of that
        which the prediction saves"""
        count = max(float(sums["patches"]), 1.0)
        loss, trivial = float(sums["error"]) / count, float(sums["trivial"]) / count
        return {"loss": loss, "trivial_loss": trivial, "explained": 1 - loss / max(trivial, 1e-12)}

    @torch.no_grad()
    def reconstruct(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Hidden patches are grey in "masked"; in "predicted" they are as foreseen, with the mean and deviation that they truly
        have where the loss takes those away."""
        image = batch["image"]
        padded = pad_to_multiple(image.float(), self.patch)
        patches, hidden = patchify(padded, self.patch), outputs["hidden"][..., None]
        foreseen = outputs["prediction"].float()
        if self._pixels.normalise:
            mean, deviation = self._pixels.statistics(patches)
            foreseen = foreseen * deviation + mean

        def drawn(x: Tensor) -> Tensor:
            whole = unpatchify(x, [side // self.patch for side in padded.shape[-2:]], self.patch)
            return self.unnormalised(whole[..., : image.shape[-2], : image.shape[-1]])

        return {
            "input": self.unnormalised(image),
            "masked": drawn(patches.masked_fill(hidden, 0.0)),
            "predicted": drawn(torch.where(hidden, foreseen, patches)),
        }


def _plain(backbone: Backbone) -> VisionTransformer:
    """The same, if each of its patches is seen by nothing before the first block; else ValueError."""
    if not isinstance(backbone, VisionTransformer) or backbone.stem is not None or backbone.shrink is not None:
        raise ValueError(
            f"MAE's encoder sees some of the patches alone, which {type(backbone).__name__} cannot: give a plain ViT of ours, "
            "such as 'vit_base_patch16_224', without a stem and without shrink"
        )
    return backbone


PAPER = Paper(
    title="Masked Autoencoders Are Scalable Vision Learners",
    authors="He, Chen, Xie, Li, Dollár, Girshick",
    venue="CVPR",
    year=2022,
    url="https://arxiv.org/abs/2111.06377",
    code="https://github.com/facebookresearch/mae",
    code_licence="CC-BY-NC-4.0",
)
TINY = {"decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 4}
for _name, _backbone, _top1 in (
    ("mae", "vit_base_patch16_224", 83.6),
    ("mae_large", "vit_large_patch16_224", 85.9),
    ("mae_huge", "vit_huge_patch14_224", 86.9),
):
    register(_name, MAE, Card(paper=PAPER, scores={"ImageNet top-1, fine-tuned": _top1}), tiny=TINY, backbone=_backbone)
