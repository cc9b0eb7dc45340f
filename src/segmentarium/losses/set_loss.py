"""Losses of a set of masks with classes against the segments of a picture, each matched to one (MaskFormer, 2107.06278, section
3.2; Mask2Former, 2112.01527, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.layers.points import read_masks, read_points, uncertainty
from segmentarium.layers.resize import resize
from segmentarium.losses.base import safe_divide
from segmentarium.losses.class_masks import Ignored
from segmentarium.losses.segments import Segments, Target, segments_of

Pairs = tuple[Tensor, Tensor]  # numbers of queries, and of the segments that they are matched to


class SetLoss(nn.Module):
    """Class logits (B, Q, K + 1) and mask logits (B, Q, h, w) against the segments of B pictures -> "class", "mask", "dice".

    Each segment is matched to one query, by least cost in all; where there are more segments than queries, those that cost least
    are.  "class" is the cross entropy of all queries, whose class is "no object" where they are matched to nothing, as a mean by
    weight; "mask" and "dice" are means over the segments of the batch.  A picture without a counting pixel costs nothing; one
    that shows nothing asks every query for "no object".

    Args:
        costs: what the class's probability, the mask's cost a pixel and its dice weigh in the matching: "class", "mask",
            "dice".
        no_object: the weight of "no object" in the cross entropy; every class has 1.
        ignored: "excluded", pixels that do not count do so nowhere; "background", they are background in every mask, as in the
            authors' code.

    A subclass says where masks are compared (`compared`) and how the cost of a pixel goes (`matching_costs`, `pixel_costs`).
    """

    def __init__(self, costs: Mapping[str, float], *, no_object: float = 0.1, ignored: Ignored = "excluded") -> None:
        super().__init__()
        if sorted(costs) != ["class", "dice", "mask"] or not no_object > 0:
            raise ValueError(
                f"costs are {dict(costs)}, no_object is {no_object}; give those of class, mask and dice, and more than 0"
            )
        if ignored not in ("excluded", "background"):
            raise ValueError(f"ignored is {ignored!r}; give 'excluded' or 'background'")
        self.costs, self.no_object, self.ignored = dict(costs), no_object, ignored

    def forward(self, class_logits: Tensor, mask_logits: Tensor, target: Target) -> dict[str, Tensor]:
        num_classes = class_logits.shape[2] - 1
        pictures = segments_of(target, num_classes)
        if len(pictures) != len(class_logits):
            raise ValueError(f"there are masks of {len(class_logits)} pictures, and segments of {len(pictures)}")
        if self.ignored == "background":
            pictures = [picture._replace(valid=None) for picture in pictures]
        with torch.autocast(class_logits.device.type, enabled=False):
            class_logits, mask_logits = class_logits.float(), mask_logits.float()
            matched = [self.match(*one) for one in zip(class_logits, mask_logits, pictures, strict=True)]
            count = self._count(pictures, class_logits)
            mask, dice = self.outlines(mask_logits, pictures, matched)
            classes = self.classes(class_logits, pictures, matched)
            return {"class": classes, "mask": mask / count, "dice": dice / count}

    @staticmethod
    def _count(pictures: list[Segments], like: Tensor) -> Tensor:
        """Segments of the batch, as a mean over all processes, 1 at least."""
        count = torch.tensor(float(sum(len(picture.labels) for picture in pictures)), device=like.device)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(count)
            count /= torch.distributed.get_world_size()
        return count.clamp(min=1)

    @torch.no_grad()
    def match(self, class_logits: Tensor, mask_logits: Tensor, picture: Segments) -> Pairs:
        """Class logits (Q, K + 1), mask logits (Q, h, w) and a picture's segments -> the queries, in their order, that are
        matched, and the segments."""
        from scipy.optimize import linear_sum_assignment

        if not len(picture.labels):
            return picture.labels, picture.labels
        logits, truth, weight = self.compared(mask_logits, picture)
        outside, more = (cost * weight for cost in self.matching_costs(logits))
        area = weight.sum().clamp(min=1e-6)
        by_class = -class_logits.softmax(1)[:, picture.labels]
        by_mask = (outside.sum(1)[:, None] + more @ truth.T) / area
        probability = logits.sigmoid() * weight
        overlap = 2 * probability @ truth.T + 1
        by_dice = 1 - overlap / (probability.sum(1)[:, None] + (truth * weight).sum(1) + 1)
        cost = self.costs["class"] * by_class + self.costs["mask"] * by_mask + self.costs["dice"] * by_dice
        # logits that are not finite have a loss that is not, which the training reports; they need a matching for it
        pairs = linear_sum_assignment(torch.nan_to_num(cost, 1e10, 1e10, -1e10).cpu().numpy())
        query, segment = (torch.as_tensor(numbers, device=cost.device) for numbers in pairs)
        return query, segment

    def classes(self, logits: Tensor, pictures: list[Segments], matched: list[Pairs]) -> Tensor:
        """Class logits (B, Q, K + 1) -> their cross entropy, a mean by weight."""
        nothing = logits.shape[2] - 1
        wanted = torch.full(logits.shape[:2], nothing, device=logits.device)
        weight = torch.full(logits.shape[:2], self.no_object, device=logits.device)
        for i, (picture, (query, segment)) in enumerate(zip(pictures, matched, strict=True)):
            wanted[i, query] = picture.labels[segment]
            weight[i, query] = 1.0
            if picture.valid is not None:
                weight[i] *= picture.valid.any()
        entropy = F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
        return safe_divide((entropy * weight).sum(), weight.sum())

    def outline(self, logits: Tensor, truth: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Mask logits of pairs (M, N), what is true there, in [0, 1], and how much it counts -> "mask" and "dice", summed over
        the pairs."""
        cost = (self.pixel_costs(logits, truth) * weight).sum(1)
        mask = safe_divide(cost, weight.sum(1))
        probability = logits.sigmoid() * weight
        overlap = 2 * (probability * truth).sum(1) + 1
        dice = 1 - overlap / (probability.sum(1) + (truth * weight).sum(1) + 1)
        return mask.sum(), dice.sum()

    def matching_costs(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What each logit costs where the pixel does not belong to the mask, and how much more where it does."""
        raise NotImplementedError

    def pixel_costs(self, logits: Tensor, truth: Tensor) -> Tensor:
        """What each logit costs, of the same shape, where so much of the pixel belongs to the mask."""
        raise NotImplementedError

    def compared(self, mask_logits: Tensor, picture: Segments) -> tuple[Tensor, Tensor, Tensor]:
        """Mask logits (Q, h, w) and the segments -> where the matching compares them: logits (Q, N), truth (T, N), and how
        much each place counts (N,)."""
        raise NotImplementedError

    def outlines(self, mask_logits: Tensor, pictures: list[Segments], matched: list[Pairs]) -> tuple[Tensor, Tensor]:
        """Mask logits (B, Q, h, w) -> "mask" and "dice" of all pairs, summed up."""
        raise NotImplementedError


class FocalSetLoss(SetLoss):
    """All pixels, by focal loss (1708.02002): in the matching at the masks' size, in the loss at the segments' (MaskFormer).

    Args:
        alpha, gamma: of the focal loss.
    """

    def __init__(
        self,
        costs: Mapping[str, float],
        *,
        alpha: float = 0.25,
        gamma: float = 2.0,
        no_object: float = 0.1,
        ignored: Ignored = "excluded",
    ) -> None:
        super().__init__(costs, no_object=no_object, ignored=ignored)
        self.alpha, self.gamma = alpha, gamma

    def matching_costs(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        outside = (1 - self.alpha) * self._error(logits)
        return outside, self.alpha * self._error(-logits) - outside

    def pixel_costs(self, logits: Tensor, truth: Tensor) -> Tensor:
        inside = truth > 0.5  # at the segments' size a pixel belongs to a mask or does not
        return torch.where(inside, self.alpha, 1 - self.alpha) * self._error(torch.where(inside, -logits, logits))

    def _error(self, logits: Tensor) -> Tensor:
        """Of pixels outside of the mask: probability to the power of gamma, times cross entropy."""
        return logits.sigmoid().pow(self.gamma) * F.softplus(logits)

    def compared(self, mask_logits: Tensor, picture: Segments) -> tuple[Tensor, Tensor, Tensor]:
        valid = torch.ones_like(mask_logits[0], dtype=torch.bool) if picture.valid is None else picture.valid
        size = mask_logits.shape[-2:]
        masks = resize(picture.masks[None].float(), size, mode="nearest")[0]
        weight = resize(valid[None, None].float(), size, mode="nearest").flatten()
        return mask_logits.flatten(1), masks.flatten(1), weight

    def outlines(self, mask_logits: Tensor, pictures: list[Segments], matched: list[Pairs]) -> tuple[Tensor, Tensor]:
        mask = dice = mask_logits.sum() * 0.0
        for logits, picture, (query, segment) in zip(mask_logits, pictures, matched, strict=True):
            if not len(query):
                continue
            logits = resize(logits[None, query], picture.masks.shape[1:])[0].flatten(1)
            truth = picture.masks[segment].flatten(1).float()
            weight = torch.ones_like(logits[:1]) if picture.valid is None else picture.valid.flatten()[None].float()
            found = self.outline(logits, truth, weight)
            mask, dice = mask + found[0], dice + found[1]
        return mask, dice


class PointSetLoss(SetLoss):
    """Points between the pixels, by binary cross entropy: in the matching arbitrary ones, the same for all masks of a picture; in
    the loss those of many where a mask is least sure, and some arbitrary ones (Mask2Former).

    Args:
        points: how many.
        oversample: times as many are drawn for a matched mask,
        importance: of which this share of `points` is taken where its logit is nearest to 0.
    """

    def __init__(
        self,
        costs: Mapping[str, float],
        *,
        points: int = 12544,
        oversample: float = 3.0,
        importance: float = 0.75,
        no_object: float = 0.1,
        ignored: Ignored = "excluded",
    ) -> None:
        super().__init__(costs, no_object=no_object, ignored=ignored)
        if points < 1 or oversample < 1 or not 0 <= importance <= 1:
            raise ValueError(
                f"points are {points}, oversample {oversample}, importance {importance}; give 1 or more of both, and a share"
            )
        self.points, self.candidates, self.unsure = points, int(points * oversample), int(points * importance)

    def matching_costs(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return F.softplus(logits), -logits

    def pixel_costs(self, logits: Tensor, truth: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, truth, reduction="none")

    def compared(self, mask_logits: Tensor, picture: Segments) -> tuple[Tensor, Tensor, Tensor]:
        points = torch.rand(1, self.points, 2, device=mask_logits.device)
        truth, weight = read_truth(picture, picture.masks, points)
        return read_points(mask_logits[None], points)[0], truth, weight[0]

    def outlines(self, mask_logits: Tensor, pictures: list[Segments], matched: list[Pairs]) -> tuple[Tensor, Tensor]:
        chosen = [logits[query] for logits, (query, _) in zip(mask_logits, matched, strict=True)]
        counts = [len(query) for query, _ in matched]
        logits = torch.cat(chosen)[:, None]
        if not len(logits):
            return mask_logits.sum() * 0.0, mask_logits.sum() * 0.0
        points = self.choose(logits.detach(), pictures, counts)
        truth, weight = zip(
            *(
                read_truth(picture, picture.masks[segment], own)
                for picture, (_, segment), own in zip(pictures, matched, points.split(counts), strict=True)
            ),
            strict=True,
        )
        return self.outline(read_points(logits, points)[:, 0], torch.cat(truth), torch.cat(weight))

    @torch.no_grad()
    def choose(self, logits: Tensor, pictures: list[Segments], counts: list[int]) -> Tensor:
        """Mask logits (M, 1, h, w), of each picture as many as `counts` says -> points (M, P, 2), x and y in [0, 1]"""
        count, device = len(logits), logits.device
        candidates = torch.rand(count, self.candidates, 2, device=device)
        unsure = uncertainty(read_points(logits, candidates))
        weights = [counted(picture, own) for picture, own in zip(pictures, candidates.split(counts), strict=True)]
        unsure = unsure.masked_fill(torch.cat(weights) == 0, -torch.inf)
        least = unsure.topk(self.unsure, 1).indices
        taken = candidates.gather(1, least[..., None].expand(-1, -1, 2))
        return torch.cat([taken, torch.rand(count, self.points - self.unsure, 2, device=device)], 1)


def counted(picture: Segments, points: Tensor) -> Tensor:
    """Points (M, P, 2) -> (M, P) in [0, 1]: of the four pixels around each that lie in the picture, the share that counts."""
    if picture.valid is None:
        return torch.ones(points.shape[:2], device=points.device)
    within = torch.ones(points.shape[:2], device=points.device)
    for along, size in zip(points.unbind(2), picture.valid.shape[::-1], strict=True):
        within = within * torch.minimum(along * size + 0.5, size - along * size + 0.5).clamp(max=1)
    return read_masks(picture.valid[None], points.flatten(0, 1)[None])[0].view(points.shape[:2]) / within


def read_truth(picture: Segments, masks: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Masks (M, H, W) at points (M, P, 2), or (1, P, 2) for all -> what is true there (M, P), of the pixels that count, and how
    much the points count (M, P) or (1, P)."""
    weight = counted(picture, points)
    if picture.valid is None:
        return read_masks(masks, points), weight
    truth = read_masks(masks & picture.valid, points)
    return (truth / weight.clamp(min=1e-6)).clamp(max=1.0), weight
