"""The region proposal network: at every place of every level, a few boxes of fixed shapes, scored and moved.

Ren et al., Faster R-CNN, 1506.01497, on a feature pyramid (1612.03144, section 4.1): one size of anchor a level, three shapes.
An anchor stands for an object from an overlap of 0.7 on, or where none overlaps it more, and for nothing below 0.3; of each
picture 256 are learned from, at most half of them objects.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmentarium.instances.sampling import assign, sample
from segmentarium.layers.boxes import clip, decode, encode
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier
from segmentarium.layers.nms import indices, places, suppress
from segmentarium.losses.segments import Segments

SMALLEST = 1e-3  # pixels of a proposal's sides
SAMPLED, SHARE = 256, 0.5
OVERLAP = 0.7  # of proposals, above which the surer one hides the other
SHAPES = (0.5, 1.0, 2.0)  # height over width


def _around_zero(side: float, shape: float, rounded: bool) -> list[float]:
    """A box of the area side² whose height is `shape` times its width."""
    half = (side / shape**0.5 / 2, side * shape**0.5 / 2)
    corners = [-half[0], -half[1], *half]
    return [float(round(corner)) for corner in corners] if rounded else corners


def least_int(a: int, b: int) -> int:
    """The smaller one, of sizes that a graph leaves open too."""
    return torch.sym_min(a, b)  # type: ignore[return-value]


class RegionProposals(nn.Module):
    """Maps of a pyramid -> scores and deltas of all anchors, and the best boxes.

    strides   of the maps
    scale     side of an anchor over the stride of its map
    convs     3×3 convolutions before the scores
    rounded   anchors' sides are rounded to whole pixels, as torchvision's are
    least     overlap from which on an object gets the anchors that overlap it most, though it be less than 0.7
    """

    def __init__(
        self,
        channels: int,
        strides: Sequence[int],
        *,
        scale: float = 8.0,
        convs: int = 1,
        rounded: bool = False,
        least: float = 0.3,
    ) -> None:
        super().__init__()
        self.strides, self.least = tuple(strides), least
        self.convs = nn.Sequential(*(ConvNormAct(channels, channels, norm=None) for _ in range(convs)))
        self.objectness = nn.Conv2d(channels, len(SHAPES), 1)
        self.deltas = nn.Conv2d(channels, 4 * len(SHAPES), 1)
        init_classifier(self)
        # numbers and no buffer, which half precision would round
        self.cells = [[_around_zero(scale * stride, shape, rounded) for shape in SHAPES] for stride in strides]

    def anchors(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Of each level: (h · w · 3, 4), row by row."""
        found = []
        for map_, stride, cells in zip(maps, self.strides, self.cells, strict=True):
            height, width = map_.shape[-2:]
            y = torch.arange(height, device=map_.device, dtype=torch.float32)[:, None].expand(-1, width) * stride
            x = torch.arange(width, device=map_.device, dtype=torch.float32)[None].expand(height, -1) * stride
            corners = torch.stack((x, y, x, y), -1)[:, :, None]
            found.append((corners + torch.tensor(cells, device=map_.device)).flatten(0, 2))
        return found

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """-> of each level: logits (B, N) and deltas (B, N, 4) of its anchors"""
        logits, deltas = [], []
        for x in maps:
            x = self.convs(x)
            logits.append(self.objectness(x).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
        return logits, deltas

    @torch.no_grad()
    def propose(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        size: Sequence[int],
        before: int,
        count: int,
    ) -> Tensor:
        """-> regions (M, 5): number of the image, and a box in it; the best `count` of each image.

        before   of each level, so many are compared with each other
        """
        batch = logits[0].shape[0]
        if logits[0].is_meta:
            return logits[0].new_zeros((batch * count, 5))
        boxes, scores, levels = [], [], []
        for level, (score, delta, anchor) in enumerate(zip(logits, deltas, anchors, strict=True)):
            top, best = score.float().topk(least_int(before, score.shape[1]))
            chosen = delta.gather(1, best[..., None].expand(-1, -1, 4))
            boxes.append(clip(decode(chosen, anchor[best]), size))
            scores.append(top.sigmoid())
            levels.append(torch.full_like(best, level))
        box, score, level = torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(levels, 1)
        image, place = indices(((box[..., 2:] - box[..., :2]) >= SMALLEST).all(-1))
        box, score, level = box[image, place], score[image, place], level[image, place]
        kept = suppress(box, score, image * len(self.strides) + level, OVERLAP, size)
        image, box = image[kept], box[kept]
        (inside,) = indices(places(image, batch, count) % (count + 1) < count)
        return torch.cat((image[inside, None].to(box.dtype), box[inside]), 1)

    def sampled(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        truth: Sequence[tuple[Segments, Tensor]],
    ) -> dict[str, Tensor]:
        """What is learned from: logits and labels (S,), deltas and what they should be (S, 4).

        truth   of each picture: its segments, and their boxes (N, 4)
        """
        every = torch.cat(list(anchors))
        logit, delta = torch.cat(list(logits), 1), torch.cat(list(deltas), 1)
        found: dict[str, list[Tensor]] = {"rpn_logits": [], "rpn_labels": [], "rpn_deltas": [], "rpn_targets": []}
        for i, (segments, boxes) in enumerate(truth):
            stands_for = assign(every, boxes, 0.7, 0.3, least=self.least, valid=segments.valid)
            chosen = sample(stands_for, SAMPLED, SHARE)
            object_of = stands_for[chosen]
            target = torch.zeros_like(every[chosen])
            target[object_of >= 0] = encode(boxes[object_of[object_of >= 0]], every[chosen][object_of >= 0])
            found["rpn_logits"].append(logit[i, chosen])
            found["rpn_labels"].append((object_of >= 0).float())
            found["rpn_deltas"].append(delta[i, chosen])
            found["rpn_targets"].append(target)
        return {name: torch.cat(parts) for name, parts in found.items()}
