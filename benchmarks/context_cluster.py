"""Context Cluster with the operations, layouts and keys of its authors' code, which is no package: what ours is measured beside.

Points are channels-first maps, similarity features and values have a convolution each, and both ways between points and clusters
go through a tensor of centres × points × channels (the notes of its stored outputs say so; `backbones/coc.py` cites the paper).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEPTHS, WIDTHS, EXPANSION, HEADS, FOLDS = (3, 4, 5, 2), (32, 64, 196, 320), (8, 8, 4, 4), (4, 4, 8, 8), (8, 4, 2, 1)
HEAD_WIDTH, CENTRES = 24, 2


class Cluster(nn.Module):
    def __init__(self, channels: int, heads: int, folds: int) -> None:
        super().__init__()
        self.heads, self.folds = heads, folds
        self.f = nn.Conv2d(channels, heads * HEAD_WIDTH, 1)
        self.v = nn.Conv2d(channels, heads * HEAD_WIDTH, 1)
        self.proj = nn.Conv2d(heads * HEAD_WIDTH, channels, 1)
        self.sim_alpha = nn.Parameter(torch.ones(1))
        self.sim_beta = nn.Parameter(torch.zeros(1))

    def _parts(self, x: Tensor) -> Tensor:
        """(B, heads·D, H, W) -> (B·heads·folds², D, H / folds, W / folds)"""
        x = x.reshape(-1, HEAD_WIDTH, *x.shape[2:])
        h, w = (side // self.folds for side in x.shape[2:])
        x = x.reshape(-1, HEAD_WIDTH, self.folds, h, self.folds, w).permute(0, 2, 4, 1, 3, 5)
        return x.reshape(-1, HEAD_WIDTH, h, w)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        values, points = self._parts(self.v(x)), self._parts(self.f(x))
        h, w = points.shape[2:]
        centres, value_centres = (
            F.adaptive_avg_pool2d(maps, CENTRES).flatten(2).transpose(1, 2) for maps in (points, values)
        )
        likeness = F.normalize(centres, dim=-1) @ F.normalize(points.flatten(2), dim=1)
        likeness = torch.sigmoid(self.sim_beta + self.sim_alpha * likeness)  # (R, M, N)
        chosen = likeness.max(1, keepdim=True).indices
        likeness = likeness * torch.zeros_like(likeness).scatter_(1, chosen, 1.0)
        value = values.flatten(2).transpose(1, 2)
        clusters = (value[:, None] * likeness[..., None]).sum(2) + value_centres
        clusters = clusters / (likeness.sum(-1, keepdim=True) + 1.0)
        found = (clusters[:, :, None] * likeness[..., None]).sum(1)  # (R, N, D)
        found = found.transpose(1, 2).reshape(-1, self.folds, self.folds, HEAD_WIDTH, h, w).permute(0, 3, 1, 4, 2, 5)
        return self.proj(found.reshape(x.shape[0], self.heads * HEAD_WIDTH, height, width))


class FeedForward(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)


class Block(nn.Module):
    def __init__(self, channels: int, heads: int, folds: int, expansion: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, channels), nn.GroupNorm(1, channels)
        self.token_mixer = Cluster(channels, heads, folds)
        self.mlp = FeedForward(channels, expansion * channels)
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), 1e-5))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale_1[:, None, None] * self.token_mixer(self.norm1(x))
        return x + self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x))


class Reducer(nn.Module):
    def __init__(self, inputs: int, channels: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, channels, kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class ContextClusterTiny(nn.Module):
    """(B, 3, H, W), sides divisible by 32 -> (B, num_classes)"""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.patch_embed = Reducer(5, WIDTHS[0], 4, 4, 0)
        parts: list[nn.Module] = []
        for i, (depth, channels) in enumerate(zip(DEPTHS, WIDTHS, strict=True)):
            if i:
                parts.append(Reducer(WIDTHS[i - 1], channels, 3, 2, 1))
            parts.append(nn.Sequential(*(Block(channels, HEADS[i], FOLDS[i], EXPANSION[i]) for _ in range(depth))))
        self.network = nn.ModuleList(parts)
        self.norm = nn.GroupNorm(1, WIDTHS[-1])
        self.head = nn.Linear(WIDTHS[-1], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        batch, _, height, width = image.shape
        rows = torch.arange(height, device=image.device) / (height - 1) - 0.5
        columns = torch.arange(width, device=image.device) / (width - 1) - 0.5
        places = torch.stack([rows[:, None].expand(height, width), columns.expand(height, width)])
        x = self.patch_embed(torch.cat([image, places.expand(batch, -1, -1, -1)], 1))
        for part in self.network:
            x = part(x)
        return self.head(self.norm(x).mean((2, 3)))
