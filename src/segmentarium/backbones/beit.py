"""BEiT: a transformer that was taught to foresee the visual words of hidden patches.

timm, transformers, mmpretrain and mmsegmentation have it too.  This file was written from the paper.

A ViT-like encoder without absolute positions: where two patches stand to each other is a learned bias of each attention, one
table a block (fine-tuned networks) or one for all (pretraining).  Branches are scaled channel by channel.  A class token goes
along; classes are told by the mean over the patches.  In pretraining, patches are replaced by one learned token (`encode`).

What the public code does and the paper does not say: queries and values have a bias, keys have none; three rows of the table are
for steps from, to and within the class token; no norm stands behind the last block, the mean has one of its own.
The implementations differ in the epsilon of their norms, by 1e-6 at most.
What we change: the authors' networks take the size of their table alone.  Here another picture makes its table by bilinear
interpolation as it comes, as transformers does, and weights of another grid are carried over when they are loaded by the
authors' rule: a cubic spline through rows that stand the further apart the further out they are, in a geometric series.

Published: ImageNet top-1 83.2 (B) and 85.2 (L), fine-tuned from what ImageNet-1k taught without labels (the paper, table 1), and
83.7 and 86.0 from what ImageNet-22k did (the authors' repository); with ImageNet-22k's labels in between 85.2 (B), 86.8 (B at
384), 87.4 (L), 88.4 (L at 384) and 88.6 (L at 512); 86 and 307 M parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.contracts import Backbone
from segmentarium.layers.attention import attend
from segmentarium.layers.drop_path import drop_path_rates
from segmentarium.layers.init import init_truncated
from segmentarium.layers.mlp import MLP
from segmentarium.layers.norm import channels_first
from segmentarium.layers.patch_embed import PatchEmbedding
from segmentarium.layers.positions import resize_positions
from segmentarium.layers.relative_positions import relative_index
from segmentarium.layers.resize import pad_to_multiple
from segmentarium.layers.transformer import TransformerBlock
from segmentarium.preprocessing import Preprocessing
from segmentarium.registry import TOKENS, Card, Paper, register

PATCH = 16
FROM_TO_WITHIN = 3  # the table's last rows: class token to patch, patch to class token, class token to itself


class BiasedAttention(nn.Module):
    """Self-attention over (B, N, C) whose queries and values have a bias, and whose keys have none unless `key_bias` is set."""

    def __init__(self, channels: int, heads: int, key_bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=key_bias)
        self.query_bias: nn.Parameter | None = None if key_bias else nn.Parameter(torch.zeros(channels))
        self.value_bias: nn.Parameter | None = None if key_bias else nn.Parameter(torch.zeros(channels))
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """bias: (heads, N, N), added before the softmax"""
        stacked = self.qkv(x)
        if self.query_bias is not None:
            stacked = stacked + self._stacked()
        query, key, value = stacked.chunk(3, -1)
        return self.proj(attend(query, key, value, self.heads, bias))

    def _stacked(self) -> Tensor:
        assert self.query_bias is not None
        assert self.value_bias is not None
        return torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])

    @torch.no_grad()
    def reparameterize(self) -> None:
        """One bias for the stacked projection."""
        if self.query_bias is None:
            return
        self.qkv.bias = nn.Parameter(self._stacked())
        self.query_bias = self.value_bias = None


class PositionBias(nn.Module):
    """A bias for each pair of tokens, of the step between their patches (of `grid`, rows and columns); the class token, which
    stands first, has three of its own."""

    def __init__(self, grid: tuple[int, int], heads: int) -> None:
        super().__init__()
        self.grid = grid
        steps = (2 * grid[0] - 1) * (2 * grid[1] - 1)
        self.table = nn.Parameter(torch.zeros(steps + FROM_TO_WITHIN, heads))
        self.biases: Tensor | None
        self.register_buffer("biases", None, persistent=False)

    @torch.no_grad()
    def reparameterize(self) -> None:
        """The biases of its own grid are looked up once for all; the table stays for others."""
        self.biases = self(*self.grid, token_index(*self.grid, self.table.device))

    def forward(self, rows: int, columns: int, index: Tensor) -> Tensor:
        """-> (heads, N, N) for the N = rows·columns + 1 tokens of such a grid, whose `token_index` it is."""
        if self.biases is not None and not torch.compiler.is_exporting() and (rows, columns) == self.grid:
            return self.biases
        steps, special = self.table[:-FROM_TO_WITHIN], self.table[-FROM_TO_WITHIN:]
        if (
            torch.compiler.is_exporting() or (rows, columns) != self.grid
        ):  # an exported graph interpolates whatever the size
            steps = steps.t().reshape(1, -1, 2 * self.grid[0] - 1, 2 * self.grid[1] - 1)
            steps = F.interpolate(steps, (2 * rows - 1, 2 * columns - 1), mode="bilinear", align_corners=False)
            steps = steps.flatten(2)[0].t()
        return F.embedding(index, torch.cat([special, steps])).permute(2, 0, 1).contiguous()

    def carry(self, name: str, tensor: Tensor) -> Tensor:
        """The table of weights of another, square, grid for this one."""
        side = math.isqrt(max(tensor.shape[0] - FROM_TO_WITHIN, 0)) if tensor.ndim == 2 else 0
        if side < 5 or side % 2 == 0 or side * side + FROM_TO_WITHIN != tensor.shape[0]:
            return tensor  # of no square grid, or too few rows for a cubic spline
        down, right = (spline(side, 2 * places - 1).to(tensor.device) for places in self.grid)
        steps = tensor[:-FROM_TO_WITHIN].double().unflatten(0, (side, side))
        steps = torch.einsum("yi,xj,ijh->yxh", down, right, steps).flatten(0, 1)
        return torch.cat([steps.to(tensor.dtype), tensor[-FROM_TO_WITHIN:]])


def token_index(rows: int, columns: int, device: torch.device) -> Tensor:
    """(N, N) for the class token and the patches of a grid: rows of a table that begins with the class token's three."""
    steps = relative_index(rows, columns, device) + FROM_TO_WITHIN
    first = F.pad(steps.new_zeros(1, rows * columns), (1, 0), value=2)
    return torch.cat([first, F.pad(steps, (1, 0), value=1)])


def spline(given: int, wanted: int) -> Tensor:
    """(wanted, given), float64: what makes `wanted` values, at steps of one around 0, of `given` ones, odd and 5 or more, which
    lie at 0 and then at ±1, ±(1 + q), ±(1 + q + q²), …, so that the outermost meet: a cubic spline without knots at the first
    and last but one (the authors' fine-tuning script; SciPy's interpolating splines are the same)."""
    half, reach = given // 2, wanted // 2
    q, low, high = 0.0, 1.01, 1.5  # the authors' bounds of q: a much smaller grid is cut out instead
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if (1 - q**half) / (1 - q) > reach else (q, high)
    out = torch.tensor([q**i for i in range(half)], dtype=torch.float64).cumsum(0)
    places = torch.cat([-out.flip(0), out.new_zeros(1), out])
    knots = torch.cat([places[:1].expand(4), places[2:-2], places[-1:].expand(4)])
    targets = torch.arange(-reach, reach + 1, dtype=torch.float64).clamp(places[0], places[-1])
    return torch.linalg.solve(_basis(knots, places), _basis(knots, targets), left=False)


def _basis(knots: Tensor, at: Tensor) -> Tensor:
    """(len(at), len(knots) - 4): every cubic B-spline at those places, by de Boor's recursion."""
    # the last place belongs to the last piece that is not empty
    piece = (torch.searchsorted(knots, at, right=True) - 1).clamp(max=len(knots) - 5)
    values = F.one_hot(piece, len(knots) - 1).to(at.dtype)
    for degree in (1, 2, 3):
        left, right = knots[: -degree - 1], knots[degree + 1 :]
        rising, falling = knots[degree:-1] - left, right - knots[1:-degree]
        up = torch.where(rising > 0, (at[:, None] - left) / rising, 0.0)
        down = torch.where(falling > 0, (right - at[:, None]) / falling, 0.0)
        values = up * values[:, :-1] + down * values[:, 1:]
    return values


class BEiT(Backbone):
    """BEiT's encoder: features at 1/16 of some of its blocks.

    embed_dim     channels
    depth, heads  blocks, and heads of their attention
    image_size      (height, width), or both in one, that the tables of positions are for; pictures of other sizes interpolate
                  them, and are padded to whole patches of 16 pixels
    shared_bias   one table of positions for all blocks, as in pretraining, instead of one for each
    absolute      patches and class token have learned places besides, as ViT's (mmsegmentation's MAE)
    key_bias      keys have a bias, too (mmsegmentation's MAE)
    mask_token    has a token for hidden patches (`encode`)
    layer_scale   where the factors of the branches start: 0.1 for B, 1e-5 for L
    drop_path     stochastic depth of the last block; it grows linearly from 0 at the first
    out_indices   which blocks' features come out; None: four in equal steps, up to the last
    num_classes   classes of `classify`, of the mean over the last block's patches; None: no classifier, and no blocks behind the
                  last of `out_indices`
    """

    prefix_tokens = 1

    def __init__(
        self,
        *,
        embed_dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        image_size: int | tuple[int, int] = 224,
        shared_bias: bool = False,
        absolute: bool = False,
        key_bias: bool = False,
        mask_token: bool = False,
        layer_scale: float = 0.1,
        in_channels: int = 3,
        drop_path: float = 0.1,
        out_indices: Sequence[int] | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if height % PATCH or width % PATCH or min(height, width) < PATCH:
            raise ValueError(f"image_size is {image_size}; give whole patches of {PATCH} pixels, one or more")
        if embed_dim % heads:
            raise ValueError(f"embed_dim is {embed_dim}, heads {heads}; give channels that the heads can share")
        if out_indices is None:
            out_indices = sorted({max(depth * quarter // 4 - 1, 0) for quarter in (1, 2, 3, 4)})
        blocks = depth if num_classes is not None else min(max(out_indices, default=0) + 1, depth)
        self.grid = grid = (height // PATCH, width // PATCH)
        self.embedding = PatchEmbedding(in_channels, embed_dim, PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.places = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], embed_dim)) if absolute else None
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if mask_token else None
        self.shared_positions = PositionBias(grid, heads) if shared_bias else None
        self.positions = nn.ModuleList(PositionBias(grid, heads) for _ in range(0 if shared_bias else blocks))
        (drops,) = drop_path_rates(drop_path, (depth,))
        self.blocks = nn.ModuleList(
            TransformerBlock(
                embed_dim,
                BiasedAttention(embed_dim, heads, key_bias),
                MLP(embed_dim, 4 * embed_dim),
                drop_path=drop,
                layer_scale=layer_scale,
            )
            for drop in drops[:blocks]
        )
        self._initialise()
        head = nn.Sequential(nn.LayerNorm(embed_dim, eps=1e-6), nn.Linear(embed_dim, num_classes or 1))
        self.describe([embed_dim] * depth, [PATCH] * depth, out_indices, head=head)
        self.preprocessing = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop_size=min(height, width))
        self.num_layers = blocks + 1

    def _initialise(self) -> None:
        init_truncated(self)
        for token in (self.class_token, self.places, self.mask_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)
        for name, parameter in self.blocks.named_parameters():
            if name.endswith(("attention.proj.weight", "mlp.fc2.weight")):  # the deeper, the smaller (section 2.5)
                depth = int(name.partition(".")[0]) + 1
                nn.init.trunc_normal_(parameter, std=0.02 / math.sqrt(2 * depth))

    def _taps(self, image: Tensor, hidden: Tensor | None, indices: Sequence[int]) -> tuple[list[Tensor], int, int]:
        """The tokens (B, 1 + N, D) behind the blocks `indices`, and the rows and columns of their patches."""
        x = self.embedding(pad_to_multiple(image, PATCH))
        rows, columns = x.shape[1:3]
        x = x.flatten(1, 2)
        if hidden is not None:
            if self.mask_token is None:
                raise ValueError(
                    "patches are to be hidden, and this BEiT has no token for them; build it with mask_token=True"
                )
            x = torch.where(hidden.flatten(1)[..., None], self.mask_token.to(x.dtype), x)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1).to(x.dtype), x], 1)
        if self.places is not None:
            x = x + resize_positions(self.places, self.grid, (rows, columns), prefix=1).to(x.dtype)
        index = token_index(rows, columns, x.device)
        bias = None if self.shared_positions is None else self.shared_positions(rows, columns, index)
        taps = []
        for i in range(max(indices) + 1):
            x = self.blocks[i](x, self.positions[i](rows, columns, index) if bias is None else bias)
            if i in indices:
                taps.append(x)
        return taps, rows, columns

    def encode(self, image: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, 1 + N, D), the class token and the N patches, row by row, behind the last block.

        hidden   bool, (B, N) or (B, H / 16, W / 16): patches whose place `mask_token` takes before the first block
        """
        return self._taps(image, hidden, [len(self.blocks) - 1])[0][0]

    def forward_tokens(self, image: Tensor, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        if not indices or list(indices) != sorted(set(indices)) or not set(indices) <= set(range(len(self.blocks))):
            raise ValueError(
                f"the blocks to tap are {tuple(indices)}; give some of 0 to {len(self.blocks) - 1}, in their order"
            )
        taps, rows, columns = self._taps(image, None, indices)
        return [(channels_first(x[:, 1:].unflatten(1, (rows, columns))), x[:, :1]) for x in taps]

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """-> features of the blocks, all of one stride, up to the last that is used"""
        return [feature for feature, _ in self.forward_tokens(image, range(len(self.blocks)))]

    def forward(self, image: Tensor) -> list[Tensor]:
        return [feature for feature, _ in self.forward_tokens(image, self.out_indices)]

    def embed(self, image: Tensor) -> Tensor:
        """The mean of the last block's patches; the classifier begins with its norm."""
        return self.encode(image)[:, 1:].mean(1)

    def carry(self, name: str, tensor: Tensor) -> Tensor:
        """The places of weights of another, square, grid for this one; other tensors as they are."""
        side = math.isqrt(max(tensor.shape[1] - 1, 0)) if name == "places" and tensor.ndim == 3 else 0
        if side == 0 or side * side + 1 != tensor.shape[1]:
            return tensor
        return resize_positions(tensor, (side, side), self.grid, prefix=1)

    def receive(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The table that all blocks share in pretraining is each block's own where they have one each, as the authors fine-tune;
        without the token of hidden patches and blocks that are not here."""
        left = () if self.mask_token is not None else ("mask_token",)
        given = {key: tensor for key, tensor in state.items() if key not in left and not self._behind(key)}
        if self.shared_positions is None and "shared_positions.table" in given:
            table = given.pop("shared_positions.table")
            given |= {f"positions.{i}.table": table for i in range(len(self.positions))}
        return given

    def _behind(self, key: str) -> bool:
        """Whether a parameter stands behind the last block that is here."""
        part, number, *_ = f"{key}..".split(".")
        return part in ("positions", "blocks") and int(number) >= len(self.blocks)

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith((".table", "_token", "places"))}

    def layer_of(self, name: str) -> int:
        """A layer is a block with its table; a table for all belongs to the last, as the authors have it."""
        part, number, *_ = name.split(".") if "." in name else (name, "")
        if part in ("positions", "blocks"):
            return int(number) + 1
        return {"classifier": self.num_layers, "shared_positions": self.num_layers - 1}.get(part, 0)


PAPER = Paper(
    title="BEiT: BERT Pre-Training of Image Transformers",
    authors="Bao, Dong, Piao, Wei",
    venue="ICLR",
    year=2022,
    url="https://arxiv.org/abs/2106.08254",
    code="https://github.com/microsoft/unilm/tree/master/beit",
    code_licence="MIT",
)


def _card(
    parameters: float,
    flops: float,
    side: int,
    after_22k: float,
    top1: float | None = None,
    from_22k: float | None = None,
) -> Card:
    scores = {"ImageNet top-1, with ImageNet-22k's labels first": after_22k}
    if from_22k:
        scores = {"ImageNet top-1, from ImageNet-22k without labels": from_22k, **scores}
    return Card(
        paper=PAPER,
        training=TOKENS,
        parameters=parameters,
        flops=flops,
        flops_size=(side, side),
        num_classes=1000,
        scores={"ImageNet top-1": top1, **scores} if top1 else scores,
    )


TINY = {"embed_dim": 64, "depth": 4, "heads": 2, "image_size": 96}
B = {"embed_dim": 768, "depth": 12, "heads": 12, "layer_scale": 0.1}
L = {"embed_dim": 1024, "depth": 24, "heads": 16, "layer_scale": 1e-5}
register("beit_b", BEiT, _card(86.5, 17.6, 224, 85.2, 83.2, 83.7), tiny=TINY, **B)
register("beit_b_384", BEiT, _card(86.7, 55.5, 384, 86.8, 84.6), tiny=TINY, image_size=384, **B)
register("beit_l", BEiT, _card(304.4, 61.6, 224, 87.4, 85.2, 86.0), tiny=TINY, **L)
register("beit_l_384", BEiT, _card(305.0, 191.2, 384, 88.4, 86.3), tiny=TINY, image_size=384, **L)
register("beit_l_512", BEiT, _card(305.7, 362.2, 512, 88.6), tiny=TINY, image_size=512, **L)
