"""What models give that is more than one tensor: sets of masks, instances, keypoints."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from segmentarium.brief import Brief
from segmentarium.layers.resize import resize, resized_rows

BAND_BYTES = 2**22  # of the masks of all queries that are read at a time: what a cache holds is twice as fast
BAND_ROWS = 256


@dataclass(frozen=True, repr=False)
class Instances(Brief):
    """The instances of one picture, best first.

    labels   (N,) int64 class indices
    scores   (N,) in [0, 1]
    boxes    (N, 4) x0, y0, x1, y1 in pixels of the masks
    masks    (N, H, W) bool
    """

    labels: Tensor
    scores: Tensor
    boxes: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class Segment(NamedTuple):
    """One segment of a panoptic map: its number there, its class, and how sure its query was of the class, in [0, 1]."""

    id: int
    label: int
    score: float


@dataclass(frozen=True, repr=False)
class Panoptic(Brief):
    """ids (H, W) int32: the number of the segment that has the pixel, 0 where none has; the segments in their order."""

    ids: Tensor
    segments: tuple[Segment, ...]


@dataclass(frozen=True, repr=False)
class MaskSet(Brief):
    """The answer of a mask classifier (arXiv 2107.06278): Q queries, each a class or none, and each a mask.

    class_logits   (B, Q, K + 1), the last is "no object"
    mask_logits    (B, Q, h, w)
    size           (H, W) at which the masks are read, interpolated as logits; None: their own

    However large the pictures are, masks are read in bands of rows: at the full size there is never a float for each query
    and pixel.
    """

    class_logits: Tensor
    mask_logits: Tensor
    size: tuple[int, int] | None = None

    def resized(self, size: tuple[int, int]) -> MaskSet:
        """The same with masks of (H, W) = `size`, interpolated as logits: a float for each query and pixel."""
        return MaskSet(self.class_logits, resize(self.mask_logits, size))

    def at(self, size: tuple[int, int]) -> MaskSet:
        """The same, read at (H, W) = `size`: what `resized` gives, and only as many rows of it at a time as fit into a cache."""
        return MaskSet(self.class_logits, self.mask_logits, size)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of what is read."""
        height, width = self.mask_logits.shape[-2:] if self.size is None else self.size
        return height, width

    @property
    def finite(self) -> bool:
        """Whether all numbers are."""
        return bool(torch.isfinite(self.class_logits.sum()) and torch.isfinite(self.mask_logits.sum()))

    def semantic(self) -> Tensor:
        """-> (B, K, H, W): of each class, the sum over the queries of class probability times mask probability
        (semantic inference, section 3.4)."""
        probability = self.class_logits.float().softmax(-1)[..., :-1]

        def scores(masks: Tensor) -> Tensor:
            return torch.einsum("bqk,bqhw->bkhw", probability, masks.float().sigmoid())

        # a graph has no loop over rows that depends on the size, and what is differentiated is kept anyway
        if torch.compiler.is_compiling() or self.mask_logits.requires_grad:
            return scores(resize(self.mask_logits, self.shape))
        height, width = self.shape
        rows = max(1, BAND_BYTES // (4 * self.mask_logits.shape[0] * self.mask_logits.shape[1] * width))
        if rows >= height:
            return scores(resize(self.mask_logits, self.shape))
        result = probability.new_empty((*probability.shape[::2], height, width))
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            result[..., top:bottom, :] = scores(resized_rows(self.mask_logits, self.shape, top, bottom))
        return result

    @torch.no_grad()
    def instances(
        self,
        *,
        count: int = 100,
        things: Collection[int] | None = None,
        threshold: float = 0.0,
        inside: float = 0.5,
    ) -> list[Instances]:
        """The `count` best pairs of query and class of each picture, as in the authors' code: their masks may overlap.

        A score is the class's probability times the mean probability inside the mask.

        things      classes that have instances; None: all
        threshold   those of a lower score are left out
        inside      probability above which a pixel belongs to a mask
        """
        return [self._instances(picture, count, things, threshold, inside) for picture in range(len(self.class_logits))]

    @torch.no_grad()
    def panoptic(
        self,
        things: Collection[int],
        *,
        threshold: float = 0.8,
        overlap: float = 0.8,
        inside: float = 0.5,
        faint: bool = False,
    ) -> list[Panoptic]:
        """Every pixel to at most one segment (section 3.4).

        things      classes whose segments are told apart; those of other classes are one segment a class
        threshold   a query takes part if its class's probability is greater
        overlap     a query is dropped if less than this share of its mask is left to it where masks compete
        inside      probability from which on a pixel belongs to a mask
        faint       a pixel goes to the query that wants it most, however little that is, as in MaskFormer's code; else to
                    none where its probability is below `inside`, as in Mask2Former's
        """
        return [
            self._panoptic(picture, things, threshold, overlap, inside, faint)
            for picture in range(len(self.class_logits))
        ]

    def _bands(self, picture: int, queries: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """First row, last, and the probabilities (N, rows, W) of the masks of some queries of a picture."""
        height, width = self.shape
        masks = self.mask_logits[picture, queries][None].float()
        rows = max(1, BAND_BYTES // (4 * max(1, len(queries)) * width))
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            yield top, bottom, resized_rows(masks, (height, width), top, bottom)[0].sigmoid()

    def _instances(
        self, picture: int, count: int, things: Collection[int] | None, threshold: float, inside: float
    ) -> Instances:
        classes = self.class_logits[picture].float().softmax(-1)[:, :-1]
        scores, best = classes.flatten().topk(min(count, classes.numel()))
        labels = best % classes.shape[1]
        wanted = scores >= threshold  # the mask's share is at most 1
        if things is not None:
            wanted &= torch.isin(labels, torch.tensor(list(things), dtype=labels.dtype, device=labels.device))
        scores, labels = scores[wanted], labels[wanted]
        queries, which = (best[wanted] // classes.shape[1]).unique(
            return_inverse=True
        )  # a query may have several classes
        kept = torch.zeros((len(queries), *self.shape), dtype=torch.bool, device=classes.device)
        pixels, total = classes.new_zeros(2, len(queries), dtype=torch.float64)
        for top, bottom, probability in self._bands(picture, queries) if len(queries) else ():
            kept[:, top:bottom] = probability > inside
            pixels += kept[:, top:bottom].sum((1, 2))
            total += (probability * kept[:, top:bottom]).sum((1, 2))
        scores = scores * (total / (pixels + 1e-6)).float()[which]
        chosen = ((pixels[which] > 0) & (scores >= threshold)).nonzero()[:, 0]
        chosen = chosen[scores[chosen].argsort(descending=True)]
        masks = kept[which[chosen]]
        return Instances(labels[chosen], scores[chosen], boxes_around(masks), masks)

    def _panoptic(
        self, picture: int, things: Collection[int], threshold: float, overlap: float, inside: float, faint: bool
    ) -> Panoptic:
        classes = self.class_logits[picture].float().softmax(-1)
        score, label = classes.max(-1)
        queries = ((label < classes.shape[-1] - 1) & (score > threshold)).nonzero()[:, 0]
        score, label, count = score[queries], label[queries], len(queries)
        if not count:
            return Panoptic(torch.zeros(self.shape, dtype=torch.int32, device=classes.device), ())
        # of each query: pixels that it wants most, that its mask has, and that it gets
        won, whole, seen = torch.zeros(3, count, dtype=torch.int64, device=classes.device)
        winners = torch.empty(self.shape, dtype=torch.int16, device=classes.device)
        for top, bottom, probability in self._bands(picture, queries):
            whole += (probability >= inside).sum((1, 2))
            winner = (score[:, None, None] * probability).max(0).indices  # argmax is slower
            won += winner.flatten().bincount(minlength=count)
            if not faint:
                winner.masked_fill_(probability.gather(0, winner[None])[0] < inside, count)
            seen += winner.flatten().bincount(minlength=count + 1)[:count]
            winners[top:bottom] = winner
        segments: list[Segment] = []
        numbers = torch.zeros(count + 1, dtype=torch.int32)  # of each query's segment; the last: nobody's
        stuff: dict[int, int] = {}  # class -> its one segment
        good = ((seen > 0) & (whole > 0) & (won >= overlap * whole)).tolist()
        for query, one in enumerate(label.tolist()):
            if not good[query]:
                continue
            if one not in stuff:
                segments.append(Segment(len(segments) + 1, one, float(score[query])))
            numbers[query] = stuff.get(one, len(segments))
            if one not in things:
                stuff.setdefault(one, len(segments))
        ids = torch.empty(self.shape, dtype=torch.int32, device=classes.device)
        numbers = numbers.to(classes.device)
        for row, band in zip(ids.split(BAND_ROWS), winners.split(BAND_ROWS), strict=True):
            row.copy_(numbers[band.long()])
        return Panoptic(ids, tuple(segments))


def boxes_around(masks: Tensor) -> Tensor:
    """(N, H, W) bool, none of them empty -> (N, 4) float x0, y0, x1, y1: left, top, and one past right and bottom."""

    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        line = line.to(torch.uint8)
        return line.argmax(1), line.shape[1] - line.flip(1).argmax(1)

    (x0, x1), (y0, y1) = ends(masks.any(1)), ends(masks.any(2))
    return torch.stack((x0, y0, x1, y1), 1).float()


@dataclass(frozen=True, repr=False)
class Keypoints(Brief):
    """The keypoints of one picture, best first, under the names that LightGlue knows them by.

    keypoints         (N, 2) x, y in pixels
    keypoint_scores   (N,)
    descriptors       (N, D) of length 1; D = 0 for keypoints that are told apart by their place in the list (joints)
    image_size        (2,) width and height of the picture
    """

    keypoints: Tensor
    keypoint_scores: Tensor
    descriptors: Tensor
    image_size: Tensor

    def __len__(self) -> int:
        return len(self.keypoints)

    def to_lightglue(self) -> dict[str, Tensor]:
        """What a LightGlue matcher takes for one of its two pictures: the same with a batch of one in front."""
        return {name: value[None] for name, value in vars(self).items()}


@dataclass(frozen=True, repr=False)
class Boxes3d(Brief):
    """The boxes of one scan, best first.

    boxes    (N, 7) x, y, z of the centre, length, width, height in metres, angle about z in radians; or (N, 9), with the
             speed along x and y in metres a second
    labels   (N,) int64 class indices
    scores   (N,) in [0, 1]
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.labels)
