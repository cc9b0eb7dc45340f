"""DALL-E's dVAE: a picture as a grid of words, out of which it can be painted again.

OpenAI published encoder and decoder under a modified MIT licence, without the training; transformers has the encoder as FLAVA's
codebook.  BEiT's words are this network's.  This file was written from the paper and its appendix.

An encoder of residual blocks says of each 8 × 8 pixels which of 8192 words they are, a decoder paints words.  A choice has no
gradient; in training each word is therefore a mixture of all, drawn by Gumbel's softmax, whose temperature falls until the
mixture is nearly a choice.  The loss is how improbable the picture is under what the decoder says of each value, a distribution
over the logits of values between 0.1 and 0.9, and how far the words are from being equally probable.

What the public code does and the paper does not say: a block's branch is weighted by one over the square of the number of
blocks; its kernels are 3, 3, 3, 1 in the encoder and 1, 3, 3, 3 in the decoder; pictures enter as 0.8 x + 0.1, which is this
model's normalisation.  The mixture is drawn forwards and backwards alike, without a choice in between (an author's word).
What we change: in evaluation words are chosen.  A picture is padded to whole words, and what was padded is cut off again.  The
schedules are the paper's in steps (weight of the words' term 0 to 6.6 over 5,000, temperature 1 to 1/16 over 150,000, both along
a cosine) but take at most a tenth and half of a run: of a short one, therefore.

Published: nothing that the words alone would be scored by.  8192 words, 3 M steps of 512 pictures, AdamW from 1e-4 to 1.25e-6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.contracts import Pretrainer, Term
from segmentarium.contracts.model import Batch
from segmentarium.layers.resize import pad_to_multiple
from segmentarium.losses import LogitLaplace, UniformKL
from segmentarium.preprocessing import Preprocessing
from segmentarium.registry import Card, Paper, register

STRIDE, GROUPS = 8, 4
KL_STEPS, TEMPERATURE_STEPS, COLDEST = 5_000, 150_000, 1 / 16


class Block(nn.Module):
    """Four convolutions, each behind a ReLU, the inner ones of a quarter of the channels; `gain` times that is added."""

    def __init__(self, channels: int, out_channels: int, kernels: Sequence[int], gain: float) -> None:
        super().__init__()
        self.gain, inner = gain, out_channels // 4
        widths = (channels, inner, inner, inner, out_channels)
        self.shortcut = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        self.convs = nn.ModuleDict(
            {
                str(i + 1): nn.Conv2d(widths[i], widths[i + 1], kernel, padding=kernel // 2)
                for i, kernel in enumerate(kernels)
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        branch = x
        for conv in self.convs.values():
            branch = conv(F.relu(branch))
        return self.shortcut(x) + self.gain * branch


def _groups(channels: int, widths: Sequence[int], blocks: int, kernels: Sequence[int]) -> nn.ModuleDict:
    """Groups "1" to "4" of blocks "1" to `blocks`, of these widths."""
    groups = nn.ModuleDict()
    for number, width in enumerate(widths, 1):
        group = nn.ModuleDict()
        for i in range(blocks):
            group[str(i + 1)] = Block(width if i else channels, width, kernels, 1 / (GROUPS * blocks) ** 2)
        groups[str(number)], channels = group, width
    return groups


class Encoder(nn.Module):
    """(B, C, H, W), whose sides 8 divides, -> scores of the words (B, V, H / 8, W / 8).

    width, blocks   channels of the first group, which the next ones double; blocks of each group
    """

    def __init__(self, in_channels: int, width: int, blocks: int, vocabulary: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 7, padding=3)
        self.groups = _groups(width, [width * 2**i for i in range(GROUPS)], blocks, (3, 3, 3, 1))
        self.output = nn.Conv2d(8 * width, vocabulary, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for number, group in self.groups.items():
            x = x if number == "1" else F.max_pool2d(x, 2)
            for block in group.values():  # type: ignore[union-attr]
                x = block(x)
        return self.output(F.relu(x))


class Decoder(nn.Module):
    """Shares of the words (B, V, h, w) -> (B, 2C, 8h, 8w): the centre of each value's logit, then the logarithm of its spread.

    width, blocks   channels of the last group, of which the ones before have two, four and eight times; blocks of each
    start           channels before the first group
    """

    def __init__(self, out_channels: int, width: int, blocks: int, vocabulary: int, start: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(vocabulary, start, 1)
        self.groups = _groups(start, [width * 2 ** (GROUPS - 1 - i) for i in range(GROUPS)], blocks, (1, 3, 3, 3))
        self.output = nn.Conv2d(width, 2 * out_channels, 1)

    def forward(self, codes: Tensor) -> Tensor:
        x = self.stem(codes)
        for number, group in self.groups.items():
            x = x if number == "1" else F.interpolate(x, scale_factor=2.0, mode="nearest")
            for block in group.values():  # type: ignore[union-attr]
                x = block(x)
        return self.output(F.relu(x))


class DVAE(Pretrainer):
    """Encoder and decoder, or one of them, as OpenAI's files have it.

    `forward` gives what the decoder says of a picture's own words (B, 2C, H, W); of the encoder alone the scores of the words
    (B, V, h, w); and the decoder alone takes words, `tokens` (B, h, w), integers.

    width, blocks   channels of the widest maps' groups, and blocks of each group
    vocabulary      number of words
    start           channels that the decoder begins with
    parts           "both", "encoder" or "decoder"
    temperature     of the mixture that a word is in training; `kl_weight`: of the words' term.  `at_step` sets both
    """

    output_names = ("stats",)
    best_score = "explained"

    def __init__(
        self,
        *,
        width: int = 256,
        blocks: int = 2,
        vocabulary: int = 8192,
        start: int = 128,
        parts: Literal["both", "encoder", "decoder"] = "both",
        kl_weight: float = 6.6,
        in_channels: int = 3,
    ) -> None:
        super().__init__(in_channels=in_channels)
        if parts not in ("both", "encoder", "decoder"):
            raise ValueError(f"parts is {parts!r}; give 'both', 'encoder' or 'decoder'")
        if width < 4 or width % 4 or blocks < 1 or vocabulary < 2:
            raise ValueError(
                f"width is {width}, blocks {blocks}, vocabulary {vocabulary}; give a multiple of 4, 1 or more, and 2 or more"
            )
        self.vocabulary, self.full_kl_weight, self.temperature = vocabulary, kl_weight, 1.0
        self.encoder = self.decoder = None
        if parts != "decoder":
            self.encoder = Encoder(in_channels, width, blocks, vocabulary)
        if parts != "encoder":
            self.decoder = Decoder(in_channels, width, blocks, vocabulary, start)
        self.preprocessing = Preprocessing((-0.125,), (1.25,)).for_channels(in_channels)  # 0.8 x + 0.1
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if parts == "both":
            values = STRIDE**2 * in_channels
            self.set_objective(
                Term("likelihood", 1.0, LogitLaplace(), of=("stats",), on="image", at="as is", classes=False),
                Term("words", 1.0, UniformKL(kl_weight, values), of=("logits",), on=None, at="as is", classes=False),
            )
        elif parts == "encoder":
            self.output_names = ("logits",)  # type: ignore[misc]
        else:
            self.inputs = ("tokens",)  # type: ignore[misc]

    def example(self, batch: int = 1, size: tuple[int, int] = (64, 64)) -> tuple[Tensor, ...]:
        (image,) = super().example(batch, size) if self.encoder is not None else (None,)
        if image is not None:
            return (image,)
        grid = [max(-(-side // STRIDE), 1) for side in size]
        return (torch.zeros(batch, *grid, dtype=torch.int64, device=next(self.parameters()).device),)

    # what is changed while it trains --------------------------------------------------------------------------------

    @property
    def kl_weight(self) -> float:
        """β, of the words' term"""
        return self._words.weight

    @kl_weight.setter
    def kl_weight(self, weight: float) -> None:
        self._words.weight = weight

    @property
    def _words(self) -> UniformKL:
        loss = self.losses["words"]
        assert isinstance(loss, UniformKL)
        return loss

    def at_step(self, step: int, steps: int) -> None:
        def along(most: int) -> float:
            """From 0 to 1 over so many steps, along a cosine."""
            return (1 - math.cos(math.pi * min(step / max(most, 1), 1.0))) / 2

        self.kl_weight = self.full_kl_weight * along(min(KL_STEPS, steps // 10))
        self.temperature = 1 + (COLDEST - 1) * along(min(TEMPERATURE_STEPS, steps // 2))

    # words --------------------------------------------------------------------------------------------------------------

    def word_logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W), normalised -> (B, V, ⌈H / 8⌉, ⌈W / 8⌉)"""
        if self.encoder is None:
            raise ValueError('this dVAE is the decoder alone, which takes words; build it with parts="both"')
        return self.encoder(pad_to_multiple(image, STRIDE))

    def stats(self, codes: Tensor) -> Tensor:
        """Shares of the words (B, V, h, w) -> (B, 2C, 8h, 8w)"""
        if self.decoder is None:
            raise ValueError('this dVAE is the encoder alone, which paints nothing; build it with parts="both"')
        return self.decoder(codes)

    def _chosen(self, tokens: Tensor) -> Tensor:
        like = next(self.parameters())
        return F.one_hot(tokens, self.vocabulary).movedim(-1, 1).to(like.dtype)

    def tokens(self, image: Tensor) -> Tensor:
        """(B, C, H, W), normalised -> the words of the picture (B, ⌈H / 8⌉, ⌈W / 8⌉), int64"""
        return self.word_logits(image).argmax(1)

    def decode(self, tokens: Tensor) -> Tensor:
        """Words (B, h, w) -> the picture (B, C, 8h, 8w) in [0, 1]"""
        return self._painted(self.stats(self._chosen(tokens)))

    def _painted(self, stats: Tensor) -> Tensor:
        return self.unnormalised(stats[:, : self.in_channels].float().sigmoid())

    def forward(self, image: Tensor) -> Tensor:
        if self.encoder is None:
            return self.stats(self._chosen(image))
        if self.decoder is None:
            return self.word_logits(image)
        return self.stats(self._chosen(self.tokens(image)))[..., : image.shape[-2], : image.shape[-1]]

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        """ "stats" of `forward`, in training of mixtures of words, and "logits" (B, V, h, w)"""
        logits = self.word_logits(image)
        if self.training:
            codes = F.gumbel_softmax(logits.float(), self.temperature, dim=1)
        else:
            codes = self._chosen(logits.argmax(1))
        return {"stats": self.stats(codes)[..., : image.shape[-2], : image.shape[-1]], "logits": logits}

    # scores -------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def tally(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        picture = self.unnormalised(batch["image"])
        size = (picture.shape[-2], picture.shape[-1])
        small = F.interpolate(picture, [-(-side // STRIDE) for side in size], mode="area")
        blurred = F.interpolate(small, size, mode="bilinear")
        mean = picture.mean((2, 3), keepdim=True)
        return {
            "error": (self._painted(outputs["stats"]) - picture).square().sum(),
            "trivial": (mean - picture).square().sum(),
            "blur": (blurred - picture).square().sum(),
            "values": torch.tensor(picture.numel(), device=picture.device),
            "words": torch.bincount(outputs["logits"].argmax(1).flatten(), minlength=self.vocabulary),
        }

    def summary(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """ "error", of values in [0, 1], squared; "trivial_error" of each picture's mean colour and "blur_error" of the picture
        shrunk to as many cells as it has words; "explained", the share of the trivial error that the words save; "perplexity", of
        how many equally frequent words the use of the vocabulary would be"""
        count = max(float(sums["values"]), 1.0)
        error, trivial, blur = (float(sums[name]) / count for name in ("error", "trivial", "blur"))
        share = sums["words"].double() / max(float(sums["words"].sum()), 1.0)
        return {
            "error": error,
            "trivial_error": trivial,
            "blur_error": blur,
            "explained": 1 - error / max(trivial, 1e-12),
            "perplexity": float(torch.exp(-torch.xlogy(share, share).sum())),
        }

    @torch.no_grad()
    def reconstruct(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"input": self.unnormalised(batch["image"]), "predicted": self._painted(outputs["stats"])}


PAPER = Paper(
    title="Zero-Shot Text-to-Image Generation",
    authors="Ramesh, Pavlov, Goh, Gray, Voss, Radford, Chen, Sutskever",
    venue="ICML",
    year=2021,
    url="https://arxiv.org/abs/2102.12092",
    code="https://github.com/openai/DALL-E",
    code_licence="modified MIT",
)
TINY = {"width": 16, "blocks": 1, "vocabulary": 64, "start": 16}
register("dvae", DVAE, Card(paper=PAPER), tiny=TINY)
register("dvae_encoder", DVAE, Card(paper=PAPER), tiny=TINY, parts="encoder")
register("dvae_decoder", DVAE, Card(paper=PAPER), tiny=TINY, parts="decoder")
