"""The semantic branch of a hybrid task cascade (1901.07518, section 3.4): what stands at each place, told to all heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.labels import IGNORE_INDEX
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier, init_convs
from segmentarium.layers.resize import resize
from segmentarium.losses.segments import Segments


class SemanticBranch(nn.Module):
    """All levels of the pyramid, brought to the second finest and added, four convolutions, and what comes of them.

    classes   that it tells apart, in training
    """

    at = 1  # the level to whose size all are brought

    def __init__(self, channels: int, levels: int, width: int, classes: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(ConvNormAct(channels, channels, 1, norm=None) for _ in range(levels))
        self.convs = nn.Sequential(*(ConvNormAct(width if i else channels, width, norm=None) for i in range(4)))
        self.embed = ConvNormAct(width, width, 1, norm=None)
        init_convs(self)
        self.classifier = init_classifier(nn.Conv2d(width, classes, 1))

    def trunk(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[self.at].shape[-2:]
        # resized before the convolution, with corners on corners, as the authors do
        parts = [lateral(resize(x, size, align_corners=True)) for lateral, x in zip(self.laterals, maps, strict=True)]
        return self.convs(torch.stack(parts).sum(0))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[(B, channels, h_i, w_i), …] -> (B, width, h_1, w_1), which regions are cut out of"""
        return self.embed(self.trunk(maps))

    def forward_train(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The same, and class logits (B, classes, h_1, w_1)"""
        x = self.trunk(maps)
        return self.embed(x), self.classifier(x)


class SemanticLoss(nn.Module):
    """Cross entropy of class logits (B, classes, h, w) at their own resolution, labels by nearest neighbour.

    The target is label maps (B, H, W), of which 255 counts nowhere; or segments, a picture each: a pixel has the class of the
    first that has it, one that nobody has the last class, and those that do not count have none.
    """

    def forward(self, logits: Tensor, target: Tensor | Sequence[Segments]) -> Tensor:
        nowhere = IGNORE_INDEX
        if not isinstance(target, Tensor):
            nowhere = -1  # there may be more than 255 classes
            target = torch.stack([self._map(Segments(*one), logits.shape[1] - 1) for one in target])
        labels = F.interpolate(target[:, None].float(), logits.shape[-2:], mode="nearest-exact")[:, 0].long()
        counted = labels != nowhere
        losses = F.cross_entropy(logits.float(), labels.clamp(0, logits.shape[1] - 1), reduction="none")
        return (losses * counted).sum() / counted.sum().clamp(min=1)

    @staticmethod
    def _map(segments: Segments, nobody: int) -> Tensor:
        labels, masks, valid, _ = segments
        size = masks.shape[-2:] if valid is None else valid.shape
        found = labels.new_full(size, nobody)
        for label, mask in zip(labels.flip(0), masks.flip(0), strict=True):
            found = torch.where(mask.bool(), label, found)
        return found if valid is None else found.where(valid, -1)
