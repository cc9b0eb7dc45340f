"""Context Cluster (CoC): an image is a set of points, and features are made by grouping them.

The authors' code (ma-xu/Context-Cluster, Apache-2.0) has it too.  This file was written from the paper.

A point is a pixel's colour and its place, five numbers.  Reducers thin the points out between the stages.  In each block points
gather around a few centres, which are means over a grid: every point joins the centre that it is most like, the members of a
cluster are averaged by their likeness (equation 1), and the average goes back to them by the same (equation 2).  There is no
convolution beyond the reducers and no attention.

What the public code does and the paper does not say: reducers are convolutions, 4×4 and then overlapping 3×3; norms are group
norms of one group; residuals have layer scales that start at 1e-5; one α and one β serve all heads of a block; a point joins one
centre alone, but keeps the sigmoid of their likeness as its weight.  The first release divided a cluster's sum by the number of
its points, not by their weights as equation 1 has it; the code was corrected, and this is the corrected form.  Regions are 8×8
parts of the map in the first stage, then 4×4, 2×2 and 1, whatever the size of the image.

What we change: similarity features and values are one linear layer; points stay (B, H, W, C); a region's points are brought
together by one copy; sums over clusters and the way back are products of matrices, without the tensor of centres × points ×
channels that the public code makes; the places' part of the first reducer is computed once for a batch.  `deploy` puts layer
scales into the layers before them.
Images whose sides are not divisible by stride × folds (32; plain: 4) are padded on the right and below with the mean colour, as
the authors' detector pads its batches, places are those of the padded image, and features are cut to the image.  Near a
tie between two centres rounding decides, so that engines may differ in single points.

For dense prediction each feature has a norm of its own (`feature_norms`), and clusters are more: `proposals` 2, 5 or 7.
The paper's parameters and FLOPs are in units of 2²⁰ and 2³⁰: 5.3, 14.0 and 27.9, and 1.0, 2.6 and 5.5, are our 5.57, 14.66 and
29.29 million, and 1.10, 2.79 and 5.93 thousand million multiply-adds.
Published (ADE20K, Semantic FPN, mIoU): small 36.6, 36.4, 36.3; medium 40.2, 40.6, 40.8 with 2², 5², 7² centres a region.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.contracts import Backbone
from segmentarium.layers.drop_path import DropPath, drop_path_rates
from segmentarium.layers.mlp import MLP
from segmentarium.layers.norm import channels_first, channels_last
from segmentarium.layers.pooling import adaptive_average_pool
from segmentarium.registry import TOKENS, Card, Paper, register

STRIDES = (4, 8, 16, 32)
EXPANSION = (8, 8, 4, 4)  # of the feed-forward networks, by stage


class PointReducer(nn.Module):
    """The first one: pixels with their places, -0.5 to 0.5 from one border to the other, to points of 4×4 patches."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.colour = nn.Conv2d(in_channels, channels, 4, 4)
        self.place = nn.Conv2d(2, channels, 4, 4, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W), sides divisible by 4 -> (B, channels, H / 4, W / 4)"""
        height, width = image.shape[-2:]
        rows = torch.arange(height, device=image.device) / (height - 1) - 0.5
        columns = torch.arange(width, device=image.device) / (width - 1) - 0.5
        places = torch.stack([rows[:, None].expand(-1, width), columns[None].expand(height, -1)])
        return self.colour(image) + self.place(places[None].to(image.dtype))


class Cluster(nn.Module):
    """Points to clusters and back (section 3.2), in each region and each head by itself.

    proposals   centres a side of a region
    folds       regions a side of the map
    """

    def __init__(self, channels: int, heads: int, head_width: int, proposals: int, folds: int) -> None:
        super().__init__()
        self.heads, self.proposals, self.folds = heads, proposals, folds
        self.point = nn.Linear(channels, 2 * heads * head_width)  # what is compared, and what is gathered
        self.alpha = nn.Parameter(torch.ones(1))
        self.beta = nn.Parameter(torch.zeros(1))
        self.proj = nn.Linear(heads * head_width, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C), sides divisible by `folds` -> the same shape"""
        batch, height, width, _ = x.shape
        f, h, w = self.folds, height // self.folds, width // self.folds
        points = self.point(x).view(batch, f, h, f, w, 2, self.heads, -1)
        points = points.permute(0, 1, 3, 6, 2, 4, 5, 7).reshape(batch * f * f * self.heads, h, w, -1)  # (R, h, w, 2D)
        centres = adaptive_average_pool(channels_first(points), self.proposals).flatten(2).transpose(1, 2)  # (R, M, 2D)
        gathered = self.gather(*points.flatten(1, 2).chunk(2, -1), *centres.chunk(2, -1))  # (R, N, D)
        gathered = gathered.view(batch, f, f, self.heads, h, w, -1).permute(0, 1, 4, 2, 5, 3, 6)
        return self.proj(gathered.reshape(batch, height, width, -1))

    def gather(self, point: Tensor, value: Tensor, centre: Tensor, value_centre: Tensor) -> Tensor:
        """Points and their values (R, N, D), centres and theirs (R, M, D) -> what their clusters give the points (R, N, D)."""
        # a point's own length, β and the sigmoid do not change which centre it is most like: only the best needs them
        best, chosen = (self.alpha * F.normalize(centre, dim=-1) @ point.transpose(1, 2)).max(1, keepdim=True)
        lengths = torch.linalg.vector_norm(point, dim=-1).clamp_min(1e-12)
        likeness = (self.beta + best / lengths[:, None]).sigmoid()  # (R, 1, N)
        numbers = torch.arange(centre.shape[1], device=centre.device)[:, None]
        weight = torch.where(chosen == numbers, likeness, 0.0)  # (R, M, N): each point with its centre alone
        clusters = (weight @ value + value_centre) / (weight.sum(-1, keepdim=True) + 1)
        return weight.transpose(1, 2) @ clusters


class GroupNorm(nn.GroupNorm):
    """Of one group: over positions and channels of (B, H, W, C), in each image."""

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels)

    def forward(self, input: Tensor) -> Tensor:
        return channels_last(super().forward(channels_first(input)))


class Block(nn.Module):
    def __init__(self, channels: int, cluster: Cluster, expansion: int, drop: float) -> None:
        super().__init__()
        self.norm1 = GroupNorm(channels)
        self.cluster = cluster
        self.scale1: nn.Parameter | None = nn.Parameter(torch.full((channels,), 1e-5))
        self.norm2 = GroupNorm(channels)
        self.mlp = MLP(channels, expansion * channels)
        self.scale2: nn.Parameter | None = nn.Parameter(torch.full((channels,), 1e-5))
        self.drop_path = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same shape"""
        clustered = self.cluster(self.norm1(x))
        x = x + self.drop_path(clustered if self.scale1 is None else self.scale1 * clustered)
        mixed = self.mlp(self.norm2(x))
        return x + self.drop_path(mixed if self.scale2 is None else self.scale2 * mixed)

    @torch.no_grad()
    def reparameterize(self) -> None:
        """The layer scales become part of the linear layers before them."""
        for layer, scale in ((self.cluster.proj, self.scale1), (self.mlp.fc2, self.scale2)):
            if scale is not None:
                layer.weight *= scale[:, None]
                layer.bias.mul_(scale)
        self.scale1 = self.scale2 = None


def _parts(side: int, length: int) -> int:
    """side / length, rounded up, in numbers above zero: ONNX rounds a negative quotient the other way."""
    return (side + length - 1) // length


class ContextCluster(Backbone):
    """Context Cluster: features at 1/4, 1/8, 1/16 and 1/32.

    embed_dims, depths    channels and blocks of the four stages
    heads, head_width     heads of each stage, and channels of a head
    proposals             centres a side of a region, for all stages or for each
    folds                 regions a side of the map, by stage
    feature_norms         each feature that comes out has a group norm of its own, as in the authors' dense networks
    drop_path             stochastic depth of the last block; it grows linearly from 0 at the first
    out_indices           which features come out: 0 to 3 for the strides 4 to 32
    num_classes           classes of `classify`, of the mean over the deepest map behind a norm; None: no classifier
    """

    def __init__(
        self,
        *,
        embed_dims: tuple[int, int, int, int] = (32, 64, 196, 320),
        depths: tuple[int, int, int, int] = (3, 4, 5, 2),
        heads: tuple[int, int, int, int] = (4, 4, 8, 8),
        head_width: int = 24,
        proposals: int | tuple[int, int, int, int] = 2,
        folds: tuple[int, int, int, int] = (8, 4, 2, 1),
        feature_norms: bool = False,
        in_channels: int = 3,
        drop_path: float = 0.1,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        centres = (proposals,) * 4 if isinstance(proposals, int) else tuple(proposals)
        for name, given in (("proposals", centres), ("folds", folds)):
            if len(given) != 4 or min(given) < 1:
                raise ValueError(f"{name} are {tuple(given)}; give four numbers, 1 or more, one for each stage")
        self.multiple = math.lcm(4, *(stride * fold for stride, fold in zip(STRIDES, folds, strict=True) if fold > 1))
        self.points = PointReducer(in_channels, embed_dims[0])
        self.reducers = nn.ModuleList(nn.Conv2d(embed_dims[i], embed_dims[i + 1], 3, 2, 1) for i in range(3))
        self.stages = nn.ModuleList()
        for i, drops in enumerate(drop_path_rates(drop_path, tuple(depths))):
            channels = embed_dims[i]
            clusters = [Cluster(channels, heads[i], head_width, centres[i], folds[i]) for _ in drops]
            blocks = [
                Block(channels, *pair) for pair in zip(clusters, (EXPANSION[i],) * len(drops), drops, strict=True)
            ]
            self.stages.append(nn.Sequential(*blocks))
        self.norm = None if num_classes is None else GroupNorm(embed_dims[-1])
        self.describe(embed_dims, STRIDES, out_indices)
        self.feature_norms = nn.ModuleDict(
            {str(i): GroupNorm(embed_dims[i]) for i in self.out_indices} if feature_norms else {}
        )
        for module in self.modules():
            if isinstance(module, MLP | Cluster):
                for layer in module.children():
                    if isinstance(layer, nn.Linear):
                        nn.init.trunc_normal_(layer.weight, std=0.02)
                        nn.init.zeros_(layer.bias)
        self._depths = tuple(depths)
        self.num_layers = sum(depths) + 1

    def _maps(self, image: Tensor, last: int) -> list[Tensor]:
        """Of the stages up to `last`: (B, H', W', C) of the padded image."""
        below, right = (_parts(side, self.multiple) * self.multiple - side for side in image.shape[-2:])
        if torch.compiler.is_exporting() or below or right:
            image = F.pad(image, (0, right, 0, below))
        maps = [self.stages[0](channels_last(self.points(image)))]
        for reducer, stage in zip(self.reducers[:last], self.stages[1:], strict=False):
            maps.append(stage(channels_last(reducer(channels_first(maps[-1])))))
        return maps

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """-> features of the four stages, as far as `out_indices` needs them"""
        height, width = image.shape[-2:]
        features = []
        for i, found in enumerate(self._maps(image, self.out_indices[-1])):
            normed = self.feature_norms[str(i)](found) if str(i) in self.feature_norms else found
            features.append(channels_first(normed)[..., : _parts(height, STRIDES[i]), : _parts(width, STRIDES[i])])
        return features

    def embed(self, image: Tensor) -> Tensor:
        deepest = self._maps(image, 3)[-1]
        return (deepest if self.norm is None else self.norm(deepest)).mean((1, 2))

    def layer_of(self, name: str) -> int:
        """A layer is a block; a reducer stands below the first block of its stage, a feature's norm with its last."""
        part, _, rest = name.partition(".")
        if part in ("points", "norm", "classifier"):
            return 0 if part == "points" else self.num_layers
        stage = int(rest.split(".")[0])
        if part == "reducers":
            return sum(self._depths[: stage + 1])
        below = sum(self._depths[:stage])
        return below + (int(rest.split(".")[1]) + 1 if part == "stages" else self._depths[stage])


PAPER = Paper(
    title="Image as Set of Points",
    authors="Ma, Zhou, Wang, Qin, Sun, Liu, Fu",
    venue="ICLR",
    year=2023,
    url="https://arxiv.org/abs/2303.01494",
    code="https://github.com/ma-xu/Context-Cluster",
    code_licence="Apache-2.0",
)


def _card(top1: float, parameters: float, flops: float | None) -> Card:
    """Of the paper's numbers, which count in units of 2²⁰ and 2³⁰."""
    return Card(
        paper=PAPER,
        training=TOKENS,
        parameters=round(parameters * 2**20 / 1e6, 3),
        flops=flops and round(flops * 2**30 / 1e9, 3),
        flops_size=(224, 224) if flops else None,
        num_classes=1000,
        scores={"ImageNet top-1": top1},
    )


WIDE = {"embed_dims": (64, 128, 320, 512), "head_width": 32}
PLAIN = {"proposals": (4, 4, 2, 2), "folds": (1, 1, 1, 1)}
TINY = {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "heads": [2, 2, 2, 2], "head_width": 8}
MEDIUM = {"depths": (4, 4, 12, 4), "heads": (6, 6, 12, 12), **WIDE}
register("coc_tiny", ContextCluster, _card(73.2, 5.3, 1.0), tiny=TINY)
register("coc_tiny_plain", ContextCluster, _card(73.8, 5.3, None), tiny=TINY, **PLAIN)
register("coc_small", ContextCluster, _card(78.1, 14.0, 2.6), tiny=TINY, depths=(2, 2, 6, 2), **WIDE)
register("coc_medium", ContextCluster, _card(81.2, 27.9, 5.5), tiny=TINY, **MEDIUM)
