"""The cascade of boxes and masks that HTC, Cascade Mask R-CNN and Mask R-CNN are cases of.

`htc.py` says what it is, `cascade_mask_rcnn.py` and `mask_rcnn.py` what is left out; this file is the network of all three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segmentarium.contracts import InstanceDecoder, InstanceSet, Term
from segmentarium.contracts.instance_set import Pasting
from segmentarium.contracts.results import boxes_around
from segmentarium.instances.heads import (
    CLASS_LOSSES,
    CLASSIFIERS,
    MASK_CLASSIFIERS,
    MASK_LOSSES,
    BoxHead,
    MaskHead,
    mask_regions,
    named,
)
from segmentarium.instances.losses import BoxDistance, Objectness, OfRegions
from segmentarium.instances.rpn import RegionProposals
from segmentarium.instances.semantic import SemanticBranch, SemanticLoss
from segmentarium.instances.targets import Chosen, Truth, answers, box_targets, choose, mask_targets
from segmentarium.layers.boxes import clip, decode
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.fpn import FeaturePyramid, first_of_quarter
from segmentarium.layers.nms import indices, padded, places, suppress
from segmentarium.layers.roi_align import RoIAlign
from segmentarium.losses.segments import Segments

BOX_SIZE, MASK_SIZE = 7, 14  # cells along each side of what the heads see
OVERLAPS, STAGE_WEIGHTS = (0.5, 0.6, 0.7), (1.0, 0.5, 0.25)
DEVIATIONS = (0.1, 0.1, 0.2, 0.2)  # of the first stage's deltas; of the second a half, of the third a third
SMALLEST = 1e-2  # pixels of a found box's sides


@dataclass(frozen=True)
class Form:
    """What implementations do not agree in.

    aligned, samples   of RoIAlign
    rounded            anchors' sides are whole pixels
    least              overlap from which on an object gets its best anchors
    spare              deltas and masks of the background too, which nothing uses
    soft               what a mask should be is a share of each cell, not yes or no
    pasting            how a mask becomes pixels
    """

    aligned: bool = True
    samples: int = 0
    rounded: bool = False
    least: float = 0.3
    spare: bool = False
    soft: bool = False
    pasting: Pasting = "centres"


FORMS = {
    "mmdet": Form(),
    "detectron2": Form(least=0.0),
    "torchvision": Form(False, 2, True, 0.0, True, True, "integers"),
}


class CascadeDecoder(InstanceDecoder):
    """Pyramid, proposals, and the heads of each stage.

    width            channels of the pyramid and of the regions
    stages           1 to 3
    interleaved      masks are learned on boxes that their stage has moved
    mask_flow        a mask head takes in the feature of the one before
    semantic         there is a semantic branch
    semantic_classes that it tells apart; None: the things, and one of all else
    classwise        each class has its own deltas
    ensemble         of the stages' masks: "mean" of their probabilities, or the "last" one's
    hidden           channels of the box heads' fully connected layers, of which there are `box_layers`, after `box_convs`
                     convolutions
    mask_width       channels of the mask heads' `mask_convs` convolutions
    rpn_convs        3×3 convolutions of the proposal network
    norm             "batch": batch norm in pyramid and heads (torchvision's second version); None: none
    form             whose implementation: "mmdet", "detectron2", "torchvision"
    anchor_scale     side of an anchor over the stride of its level
    proposals        kept in training and at inference, of each picture; so many of each level compete
    sampled          regions of each picture that a stage learns from, a quarter of them objects
    detections       of a picture, at most
    score            above which a region's class is found
    overlap          of two boxes of a class, above which the surer one hides the other
    rpn_beta, box_beta  distance up to which smooth L1 is a square; 0: nowhere
    classifier       what scores the classes, by its name in `heads.CLASSIFIERS`, with `classifier_arguments`
    class_loss       what trains the scores, by its name in `heads.CLASS_LOSSES`, with `class_loss_arguments`
    mask_classifier  what gives the masks, by its name in `heads.MASK_CLASSIFIERS`
    mask_loss        what trains the masks, by its name in `heads.MASK_LOSSES`
    mask_levels      what tells the level that mask heads see, by its name in `heads.MASK_REGIONS`
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int = 256,
        stages: int = 3,
        interleaved: bool = False,
        mask_flow: bool = False,
        semantic: bool = False,
        semantic_classes: int | None = None,
        classwise: bool = False,
        ensemble: Literal["mean", "last"] = "mean",
        hidden: int = 1024,
        box_convs: int = 0,
        box_layers: int = 2,
        mask_width: int = 256,
        mask_convs: int = 4,
        rpn_convs: int = 1,
        norm: Literal["batch"] | None = None,
        form: str = "mmdet",
        anchor_scale: float = 8.0,
        proposals: Sequence[int] = (2000, 1000),
        sampled: int = 512,
        detections: int = 100,
        score: float = 0.05,
        overlap: float = 0.5,
        rpn_beta: float = 1 / 9,
        box_beta: float = 1.0,
        classifier: str = "linear",
        classifier_arguments: Mapping[str, Any] | None = None,
        class_loss: str = "cross_entropy",
        class_loss_arguments: Mapping[str, Any] | None = None,
        mask_classifier: str = "linear",
        mask_loss: str = "cross_entropy",
        mask_levels: str = "scale",
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; give {' or '.join(map(repr, FORMS))}")
        if not 1 <= stages <= len(OVERLAPS) or ensemble not in ("mean", "last"):
            raise ValueError(f"stages is {stages}, ensemble {ensemble!r}; give 1 to 3, and 'mean' or 'last'")
        self.first = first_of_quarter(strides)
        channels, strides = channels[self.first :], tuple(strides[self.first :])
        if any(b != 2 * a for a, b in pairwise(strides)):
            raise ValueError(
                f"the features have strides {strides}; regions are cut out of levels each half as fine as the one before: give "
                "a backbone that has them, or neck='pyramid' for a plain transformer"
            )
        self.form, self.num_classes, self.norm = FORMS[form], num_classes, norm
        self.proposals, self.sampled, self.detections = tuple(proposals), sampled, detections
        self.score, self.overlap, self.betas = score, overlap, (rpn_beta, box_beta)
        self.interleaved, self.mask_flow, self.ensemble = interleaved, mask_flow, ensemble
        norms = nn.BatchNorm2d if norm == "batch" else None
        self.pyramid = pyramid_of(channels, width, norms)
        levels = (*strides, 2 * strides[-1])
        form_, groups = self.form, num_classes + self.form.spare
        self.rpn = RegionProposals(
            width, levels, scale=anchor_scale, convs=rpn_convs, rounded=form_.rounded, least=form_.least
        )
        align = partial(RoIAlign, aligned=form_.aligned, samples=form_.samples)
        self.box_regions = align(strides, BOX_SIZE)
        self.mask_regions = mask_regions(mask_levels, strides, MASK_SIZE, aligned=form_.aligned, samples=form_.samples)
        scores: Any = partial(
            named, CLASSIFIERS, "classifier", classifier, num_classes=num_classes, **(classifier_arguments or {})
        )
        self.boxes = nn.ModuleList(
            BoxHead(
                width,
                BOX_SIZE,
                groups if classwise else 1,
                scores,
                hidden=hidden,
                convs=box_convs,
                layers=box_layers,
                norm=norms,
            )
            for _ in range(stages)
        )
        maps = partial(named, MASK_CLASSIFIERS, "mask_classifier", mask_classifier)
        self.masks = nn.ModuleList(
            MaskHead(
                width, groups, maps, width=mask_width, convs=mask_convs, norm=norms, previous=mask_flow and stage > 0
            )
            for stage in range(stages)
        )
        self.semantic = None
        if semantic:
            self.semantic = SemanticBranch(width, len(levels), width, semantic_classes or num_classes + 1)
            self.semantic_regions = align(strides[1:2], MASK_SIZE)
            self.semantic_boxes = align(strides[1:2], BOX_SIZE, pool=MASK_SIZE // BOX_SIZE)
            self.training_only = ("semantic.classifier",)
        self.class_losses = [
            named(CLASS_LOSSES, "class_loss", class_loss, **(class_loss_arguments or {})) for _ in range(stages)
        ]
        self.asks = getattr(self.class_losses[0], "takes_known", False)
        self.mask_losses = [named(MASK_LOSSES, "mask_loss", mask_loss) for _ in range(stages)]

    # what both passes share -----------------------------------------------------------------------------------------

    def maps(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features -> the levels of the pyramid; the coarsest is every second place of the one before"""
        maps = self.pyramid(features[self.first :])
        return [*maps, maps[-1][..., ::2, ::2]]

    def of_boxes(self, maps: Sequence[Tensor], scene: Tensor | None, rois: Tensor) -> Tensor:
        """Regions (M, 5) -> (M, width, 7, 7), what a box head sees"""
        found = self.box_regions(maps[:-1], rois)
        return found if scene is None else found + self.semantic_boxes([scene], rois)

    def of_masks(
        self, maps: Sequence[Tensor], scene: Tensor | None, rois: Tensor, levels: Tensor | None = None
    ) -> Tensor:
        """Regions (M, 5) -> (M, width, 14, 14), what a mask head sees; levels (M,), where not their size tells them"""
        found = self.mask_regions(maps[:-1], rois, levels)
        return found if scene is None else found + self.semantic_regions([scene], rois)

    def mask_features(self, x: Tensor, stage: int) -> Tensor:
        """What the mask head of a stage makes of regions, told what the ones before made of the same."""
        if not self.mask_flow:
            return self.masks[stage].features(x)  # pyright: ignore[reportCallIssue]
        found = None
        for head in list(self.masks)[: stage + 1]:
            found = head.features(x, found)  # pyright: ignore[reportCallIssue]
        assert found is not None
        return found

    def moved(self, stage: int, rois: Tensor, deltas: Tensor, size: Sequence[int]) -> Tensor:
        """Regions (M, 5) and deltas (M, boxes, 4) -> (M, boxes, 4), cut off at the image"""
        return clip(decode(deltas, rois[:, None, 1:], deviations(stage)), size)

    @torch.no_grad()
    def refined(self, stage: int, rois: Tensor, scores: Tensor, deltas: Tensor, size: Sequence[int]) -> Tensor:
        """Regions (M, 5) as the stage moves them, by the deltas of the class that it thinks most likely."""
        boxes = self.moved(stage, rois, deltas.unflatten(1, (-1, 4)), size)
        if boxes.shape[1] == 1:
            return torch.cat((rois[:, :1], boxes[:, 0]), 1)
        head = self.boxes[stage]
        assert isinstance(head, BoxHead)
        best = head.classifier.probabilities(scores)[:, : self.num_classes].argmax(1)
        return torch.cat((rois[:, :1], boxes.gather(1, best[:, None, None].expand(-1, 1, 4))[:, 0]), 1)

    # inference ------------------------------------------------------------------------------------------------------

    def forward(self, features: Sequence[Tensor], size: Sequence[int]) -> InstanceSet:  # type: ignore[override]
        maps = self.maps(features)
        scene = None if self.semantic is None else self.semantic(maps)
        logits, moves = self.rpn(maps)
        count = self.proposals[1]
        rois = self.rpn.propose(logits, moves, self.rpn.anchors(maps), size, count, count)
        every = []
        for stage, head in enumerate(self.boxes):
            scores, deltas = head(self.of_boxes(maps, scene, rois))
            every.append(scores)
            if stage + 1 < len(self.boxes):
                rois = self.refined(stage, rois, scores, deltas, size)
        head = self.boxes[-1]
        assert isinstance(head, BoxHead)
        probability = head.classifier.probabilities(torch.stack(every).mean(0))[:, : self.num_classes]
        boxes = self.moved(len(self.boxes) - 1, rois, deltas.unflatten(1, (-1, 4)), size)
        return self.found(maps, scene, rois, probability, boxes, size)

    def found(
        self,
        maps: Sequence[Tensor],
        scene: Tensor | None,
        rois: Tensor,
        probability: Tensor,
        boxes: Tensor,
        size: Sequence[int],
    ) -> InstanceSet:
        """Of regions (M, 5) with class probabilities (M, K) and boxes (M, 1 or more, 4): the best, with their masks."""
        batch, count = maps[0].shape[0], self.detections
        if rois.is_meta:
            image = torch.zeros(batch * count, dtype=torch.int64, device="meta")
            label, score, box = image, probability.new_zeros(batch * count), boxes.new_zeros((batch * count, 4))
        else:
            solid = ((boxes[..., 2:] - boxes[..., :2]) >= SMALLEST).all(-1)[:, : self.num_classes]
            region, label = indices((probability > self.score) & solid)
            image, score = rois[region, 0].long(), probability[region, label]
            box = boxes[region, label if boxes.shape[1] > 1 else torch.zeros_like(label)]
            kept = suppress(box, score, image * self.num_classes + label, self.overlap, size)
            (inside,) = indices(places(image[kept], batch, count) % (count + 1) < count)
            kept = kept[inside]
            image, label, score, box = image[kept], label[kept], score[kept], box[kept]
        masks = self.masked(maps, scene, torch.cat((image[:, None].to(box.dtype), box), 1), label)
        where = places(image, batch, count)
        values = ((box, 0.0), (label, -1), (score, 0.0), (masks, 0.0))
        boxes, labels, scores, found = (padded(value, where, batch, count, empty) for value, empty in values)
        return InstanceSet(boxes, labels, scores, found, self.form.pasting)

    def masked(self, maps: Sequence[Tensor], scene: Tensor | None, rois: Tensor, labels: Tensor) -> Tensor:
        """Regions (M, 5) and their classes -> (M, 28, 28) probabilities"""
        look = partial(self.look, maps, scene)
        return self.mask_regions.second_look(look(rois, labels), rois, labels, look)

    def look(
        self, maps: Sequence[Tensor], scene: Tensor | None, rois: Tensor, labels: Tensor, levels: Tensor | None = None
    ) -> Tensor:
        """The same, seen at these levels"""
        x = self.of_masks(maps, scene, rois, levels)
        previous, every = None, []
        for stage, head in enumerate(self.masks):
            assert isinstance(head, MaskHead)
            previous = head.features(x, previous)
            if self.ensemble == "mean" or stage + 1 == len(self.masks):
                masks = head.masks(previous)
                own = labels[:, None, None, None].expand(-1, 1, *masks.shape[-2:])
                every.append(masks.gather(1, own)[:, 0].float().sigmoid())
        return torch.stack(every).mean(0)

    # training -------------------------------------------------------------------------------------------------------

    def forward_train(  # type: ignore[override]
        self, features: Sequence[Tensor], size: Sequence[int], segments: Sequence[Segments]
    ) -> dict[str, Tensor]:
        truth = [(one, boxes_around(one.masks)) for one in segments]
        maps, scene = self.maps(features), None
        outputs: dict[str, Tensor] = {}
        if self.semantic is not None:
            scene, outputs["semantic_logits"] = self.semantic.forward_train(maps)
        logits, moves = self.rpn(maps)
        anchors = self.rpn.anchors(maps)
        outputs |= self.rpn.sampled(logits, moves, anchors, truth)
        rois = self.rpn.propose(logits, moves, anchors, size, self.proposals[0], self.proposals[0])
        for stage, head in enumerate(self.boxes):
            chosen = self.choose(stage, rois, truth)
            scores, deltas = (
                x[: len(chosen.rois)] for x in head(self.of_boxes(maps, scene, _one_at_least(chosen.rois)))
            )
            outputs |= self.box_outputs(stage, chosen, truth, scores, deltas)
            if self.interleaved or stage + 1 < len(self.boxes):
                rois = self.refined(stage, chosen.rois, scores, deltas, size)[~chosen.given]
            if self.interleaved:
                chosen = self.choose(stage, rois, truth)
            outputs |= self.mask_outputs(stage, chosen, truth, maps, scene)
        return outputs

    def choose(self, stage: int, rois: Tensor, truth: Truth) -> Chosen:
        """Of regions (M, 5) and the labelled boxes, those that a stage learns from."""
        return choose(rois, truth, overlap=OVERLAPS[stage], count=self.sampled, nothing=self.num_classes)

    def box_outputs(
        self, stage: int, chosen: Chosen, truth: Truth, scores: Tensor, deltas: Tensor
    ) -> dict[str, Tensor]:
        deltas = deltas.unflatten(1, (-1, 4))
        own = chosen.labels.clamp(max=deltas.shape[1] - 1) if deltas.shape[1] > 1 else torch.zeros_like(chosen.labels)
        told = {f"answered_{stage}": answers(chosen, truth, self.num_classes)} if self.asks else {}
        return told | {
            f"class_logits_{stage}": scores,
            f"labels_{stage}": chosen.labels,
            f"deltas_{stage}": deltas[torch.arange(len(own), device=own.device), own],
            f"targets_{stage}": box_targets(chosen, truth, deviations(stage)),
        }

    def mask_outputs(
        self, stage: int, chosen: Chosen, truth: Truth, maps: Sequence[Tensor], scene: Tensor | None
    ) -> dict[str, Tensor]:
        kept = chosen.objects >= 0
        rois, labels = chosen.rois[kept], chosen.labels[kept]
        head = self.masks[stage]
        assert isinstance(head, MaskHead)
        levels = self.mask_regions.levels_of(rois, chosen.objects[kept], truth)
        x = self.of_masks(maps, scene, _one_at_least(rois), levels)
        masks = head.masks(self.mask_features(x, stage))[: len(rois)]
        form = {"aligned": self.form.aligned, "soft": self.form.soft}
        targets, weights = mask_targets(rois, chosen.objects[kept], truth, masks.shape[-1], **form)
        return {
            f"mask_logits_{stage}": masks[torch.arange(len(rois), device=rois.device), labels],
            f"mask_targets_{stage}": targets,
            f"mask_weights_{stage}": weights,
        }

    def objective(self) -> tuple[Term, ...]:
        def term(name: str, weight: float, loss: nn.Module, *of: str) -> Term:
            return Term(name, weight, loss, of, on=None, at="as is", classes=False)

        rpn_beta, box_beta = self.betas
        terms = [
            term("objectness", 1.0, Objectness(), "rpn_logits", "rpn_labels"),
            term("proposals", 1.0, BoxDistance(rpn_beta), "rpn_deltas", "rpn_targets", "rpn_labels"),
        ]
        for s in range(len(self.boxes)):
            weight, box = STAGE_WEIGHTS[s], BoxDistance(box_beta, self.num_classes)
            told = (f"answered_{s}",) if self.asks else ()
            terms += [
                term(f"class_{s}", weight, OfRegions(self.class_losses[s]), f"class_logits_{s}", f"labels_{s}", *told),
                term(f"box_{s}", weight, box, f"deltas_{s}", f"targets_{s}", f"labels_{s}"),
                term(
                    f"mask_{s}",
                    weight,
                    self.mask_losses[s],
                    f"mask_logits_{s}",
                    f"mask_targets_{s}",
                    f"mask_weights_{s}",
                ),
            ]
        if self.semantic is not None:
            on = ("semantic", "segments")
            terms.append(Term("semantic", 0.2, SemanticLoss(), ("semantic_logits",), on, at="as is", classes=False))
        return tuple(terms)


def deviations(stage: int) -> list[float]:
    """Of the deltas of a stage."""
    return [value / (stage + 1) for value in DEVIATIONS]


def pyramid_of(channels: Sequence[int], width: int, norm: type[nn.BatchNorm2d] | None) -> FeaturePyramid:
    """The feature pyramid, on a wish with a norm behind each convolution."""
    made = FeaturePyramid(channels, width)
    if norm is not None:
        made.laterals = nn.ModuleList(ConvNormAct(inputs, width, 1, norm=norm, act=None) for inputs in channels)
        made.outputs = nn.ModuleList(ConvNormAct(width, width, norm=norm, act=None) for _ in channels)
    return made


def _one_at_least(rois: Tensor) -> Tensor:
    """Regions, or one to compute with where there is none, so that no parameter is ever without a gradient."""
    return rois if len(rois) else rois.new_tensor([[0.0, 0.0, 0.0, 16.0, 16.0]])
