"""Detectors with masks: which boxes are learned from, how stages hand over, how masks become pixels, and odd pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segmentarium.contracts import InstanceSet
from segmentarium.contracts.results import boxes_around
from segmentarium.inference.segments import SegmentPredictor
from segmentarium.instances import heads
from segmentarium.instances.cascade import CascadeDecoder
from segmentarium.instances.htc import HYBRID, TINY
from segmentarium.instances.losses import BoxDistance, MaskCrossEntropy, OfRegions
from segmentarium.instances.mask_rcnn import ONE
from segmentarium.instances.rpn import RegionProposals
from segmentarium.instances.sampling import NEITHER, NOTHING, assign, sample
from segmentarium.instances.semantic import SemanticLoss
from segmentarium.instances.targets import Chosen
from segmentarium.layers.boxes import clip, decode, encode, share_counted
from segmentarium.layers.nms import padded, places, suppress
from segmentarium.layers.roi_align import RoIAlign
from segmentarium.losses import Segments
from segmentarium.meta import on_meta
from segmentarium.preprocessing import Preprocessing
from segmentarium.registry import create_model

SIZE = (64, 96)


def detector(name: str = "htc_resnet18", num_classes: int = 3, **arguments: Any) -> Any:
    torch.manual_seed(0)
    small = {**TINY, "backbone_arguments": {"width": 8}, "num_classes": num_classes}
    return create_model(name, **{**small, **arguments})


def drawn(*boxes: tuple[int, int, int, int], labels: Any = None, valid: Tensor | None = None) -> Segments:
    """Full boxes (x0, y0, x1, y1) as segments of a picture of SIZE."""
    masks = torch.zeros((len(boxes), *SIZE), dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    given = torch.zeros(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return Segments(given, masks, valid)


def losses(model: Any, *segments: Segments) -> dict[str, Tensor]:
    image = torch.randn((len(segments), 3, *SIZE), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    return model.criterion(model.forward_train(image, segments), {"segments": segments})


# boxes ------------------------------------------------------------------------------------------------------------------


def test_what_a_regression_says_is_undone() -> None:
    anchors, boxes = torch.tensor([[10.0, 10, 30, 50]]), torch.tensor([[12.0, 5, 44, 45]])
    deltas = encode(boxes, anchors, (0.1, 0.1, 0.2, 0.2))
    assert torch.allclose(deltas[0, :2], torch.tensor([8 / 20 / 0.1, -5 / 40 / 0.1]))
    assert torch.allclose(decode(deltas, anchors, (0.1, 0.1, 0.2, 0.2)), boxes, atol=1e-5)
    assert decode(torch.tensor([[0.0, 0, 99, -99]]), anchors).isfinite().all()
    assert clip(torch.tensor([[-5.0, 3, 70, 99]]), (40, 60)).tolist() == [[0, 3, 60, 40]]


def test_how_much_of_a_box_counts() -> None:
    valid = torch.ones(SIZE, dtype=torch.bool)
    valid[:, :10] = False
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [90, 0, 102, 10], [7, 7, 7, 7]])
    assert share_counted(boxes, valid).tolist() == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_a_box_stands_for_an_object_for_nothing_or_for_neither() -> None:
    truth = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 5, 4], [48, 50, 60, 70], [30, 30, 40, 40]])
    assert assign(boxes, truth, 0.7, 0.3, valid=None).tolist() == [0, NEITHER, NOTHING, NEITHER, NOTHING]
    # the second object has no box from 0.7 on, and gets its best
    assert assign(boxes, truth, 0.7, 0.3, least=0.3, valid=None).tolist() == [0, NEITHER, NOTHING, 1, NOTHING]
    assert assign(boxes, truth, 0.7, 0.3, least=0.5, valid=None)[3] == NEITHER
    assert assign(boxes, truth[:0], 0.7, 0.3, least=0.3, valid=None).tolist() == [NOTHING] * 5
    valid = torch.ones(SIZE, dtype=torch.bool)
    valid[30:40, 30:38] = False
    assert assign(boxes, truth, 0.7, 0.3, valid=valid)[4] == NEITHER


def test_many_objects_are_assigned_in_parts_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    corners = torch.rand((400, 2), generator=torch.Generator().manual_seed(0)) * 50
    boxes = torch.cat((corners, corners + 12), 1)
    truth = boxes[::3] + 2
    whole = assign(boxes, truth, 0.6, 0.3, least=0.2, valid=None)
    monkeypatch.setattr("segmentarium.instances.sampling.AT_A_TIME", 10 * len(truth))
    assert torch.equal(assign(boxes, truth, 0.6, 0.3, least=0.2, valid=None), whole)
    assert (whole >= 0).sum() > 100


def test_a_share_of_what_is_sampled_are_objects() -> None:
    found = torch.tensor([NOTHING] * 20 + [NEITHER] * 20 + [3] * 20)
    chosen = sample(found, 16, 0.25)
    assert [int((found[chosen] == kind).sum()) for kind in (3, NOTHING, NEITHER)] == [4, 12, 0]
    assert len(set(chosen.tolist())) == 16
    few = sample(found[-22:], 16, 0.25)
    assert (found[-22:][few] == 3).sum() == 4
    assert len(few) == 4


def test_anchors_stand_around_the_corners_of_cells() -> None:
    rpn = RegionProposals(8, (4, 8))
    first, second = rpn.anchors([torch.zeros(1, 8, 2, 3), torch.zeros(1, 8, 1, 2)])
    assert first.shape == (18, 4)
    assert first[1].tolist() == [-16, -16, 16, 16]
    assert first[4].tolist() == [-12, -16, 20, 16]  # one cell to the right
    wide = second[0]
    assert float(wide[2] - wide[0]) == pytest.approx(2 * float(wide[3] - wide[1]))
    assert float((wide[2] - wide[0]) * (wide[3] - wide[1])) == pytest.approx(64**2)


@pytest.mark.parametrize("graph", [False, True])
def test_a_box_hides_others_of_its_group_alone(graph: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: graph)
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [30, 30, 40, 40]])
    kept = suppress(boxes, torch.tensor([0.5, 0.9, 0.4, 0.6]), torch.tensor([0, 0, 1, 0]), 0.5, (64, 64))
    assert kept.tolist() == [1, 3, 2]


def test_each_image_has_its_places() -> None:
    images = torch.tensor([1, 0, 1, 1])
    where = places(images, 2, 2)
    assert padded(torch.tensor([10, 11, 12, 13]), where, 2, 2, -1).tolist() == [[11, -1], [10, 12]]
    assert padded(torch.zeros(0, 4), places(images[:0], 2, 2), 2, 2, 0.0).shape == (2, 2, 4)


def test_larger_regions_are_seen_in_coarser_levels() -> None:
    align = RoIAlign((4, 8, 16, 32), 7)
    sides = torch.tensor([0.0, 20, 111, 113, 225, 460, 5000])
    rois = torch.stack((0 * sides, 0 * sides, 0 * sides, sides, sides), 1)
    assert align.levels(rois).tolist() == [0, 0, 0, 1, 2, 3, 3]
    maps = [torch.full((1, 2, 64 // i, 64 // i), float(i)) for i in (1, 2, 4, 8)]
    assert align(maps, rois[1:4])[:, 0, 0, 0].tolist() == pytest.approx([1, 1, 2])


# masks ------------------------------------------------------------------------------------------------------------------


def instance_set(pasting: Any = "centres") -> InstanceSet:
    boxes = torch.tensor([[[10.0, 4, 30, 20], [-6, 50, 12.4, 70.5], [0, 0, 0, 0]]])
    masks = torch.ones((1, 3, 28, 28))
    masks[0, 0, :, 14:] = 0
    return InstanceSet(boxes, torch.tensor([[1, 0, -1]]), torch.tensor([[0.9, 0.4, 0.0]]), masks, pasting)


def test_a_mask_is_spread_over_its_box() -> None:
    found = instance_set().pasted(SIZE)
    assert found.shape == (1, 3, *SIZE)
    whole = found[0, 0] >= 0.5
    assert boxes_around(whole[None]).tolist() == [[10, 4, 20, 20]]  # the left half of its box
    assert boxes_around(found[:, 1] >= 0.5).tolist() == [[0, 50, 12, 64]]
    assert not found[0, 2].any()


@pytest.mark.parametrize("pasting", ["centres", "integers"])
def test_masks_in_their_boxes_are_those_of_whole_pictures(pasting: str) -> None:
    given = instance_set(pasting)
    whole = given.pasted(SIZE)[0] >= 0.5
    patches = list(given.patches(0, SIZE, threshold=0.0))
    assert [(label, pytest.approx(score)) for label, score, _ in patches] == [(1, 0.9), (0, 0.4)]
    for mask, (_, _, patch) in zip(whole, patches, strict=False):
        assert (patch.full(*SIZE) == mask.numpy()).all()
    assert len(list(given.patches(0, SIZE, threshold=0.5))) == 1
    (instances,) = given.instances(SIZE, threshold=0.3)
    assert torch.equal(instances.masks, whole[:2])
    assert given.scaled((32, 48), SIZE).boxes[0, 0].tolist() == [20, 8, 60, 40]


def test_cells_that_do_not_count_cost_nothing() -> None:
    logits, targets = torch.zeros(1, 2, 2), torch.tensor([[[1.0, 0], [1, 0]]])
    weights = torch.tensor([[[1.0, 1], [0, 0]]])
    loss = MaskCrossEntropy()
    assert float(loss(logits, targets, weights)) == pytest.approx(0.6931, abs=1e-4)
    assert loss(logits + torch.tensor([[0.0], [99.0]]), targets, weights) == loss(logits, targets, weights)
    assert float(loss(logits[:0], targets[:0], weights[:0])) == 0


def test_boxes_of_nothing_are_not_moved_but_counted() -> None:
    deltas, targets = torch.tensor([[1.0, 0, 0, 0], [9, 9, 9, 9]]), torch.zeros(2, 4)
    assert float(BoxDistance(0.0, 3)(deltas, targets, torch.tensor([1, 3]))) == 0.5
    assert float(BoxDistance(1.0, 3)(deltas, targets, torch.tensor([1, 3]))) == 0.25
    assert float(OfRegions(nn.CrossEntropyLoss())(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))) == 0


# stages -----------------------------------------------------------------------------------------------------------------


def decoder(**arguments: Any) -> CascadeDecoder:
    torch.manual_seed(0)
    return CascadeDecoder(channels=(8,) * 4, strides=(4, 8, 16, 32), num_classes=3, **{**TINY, **arguments})


def test_later_stages_want_a_better_overlap() -> None:
    truth = [(drawn((0, 0, 40, 40)), torch.tensor([[0.0, 0, 40, 40]]))]
    rois = torch.tensor([[0.0, 0, 0, 40, 22], [0, 0, 0, 40, 26], [0, 0, 0, 40, 30]])
    found = [decoder(sampled=10**6).choose(stage, rois, truth) for stage in range(3)]
    assert [int((one.labels[~one.given] == 0).sum()) for one in found] == [3, 2, 1]
    assert all(int(one.given.sum()) == 1 for one in found)  # the labelled box itself is one of them


@pytest.mark.parametrize("interleaved", [True, False])
def test_masks_are_learned_on_boxes_that_their_stage_has_moved(
    interleaved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = decoder(interleaved=interleaved)
    seen: dict[str, list[Tensor]] = {"box": [], "mask": []}

    def note(kind: str, method: Any) -> Any:
        def noted(stage: int, chosen: Chosen, *rest: Any) -> Any:
            seen[kind].append(chosen.rois)
            return method(stage, chosen, *rest)

        return noted

    monkeypatch.setattr(made, "box_outputs", note("box", made.box_outputs))
    monkeypatch.setattr(made, "mask_outputs", note("mask", made.mask_outputs))
    with torch.no_grad():
        for head in made.boxes:
            head.deltas.bias.fill_(1.0)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    features = [torch.randn(1, 8, 64 // s, 96 // s) for s in (4, 8, 16, 32)]
    made.forward_train(features, SIZE, [drawn((10, 10, 50, 50))])
    same = [a.shape == b.shape and torch.equal(a, b) for a, b in zip(seen["box"], seen["mask"], strict=True)]
    assert same == [not interleaved] * 3


def test_the_last_mask_teaches_all_mask_heads_where_there_is_flow() -> None:
    for flow in (True, False):
        made = decoder(mask_flow=flow)
        made.masks[2].masks(made.mask_features(torch.randn(2, 16, 14, 14), 2)).sum().backward()  # pyright: ignore
        first = [p.grad for p in made.masks[0].convs.parameters()]  # pyright: ignore
        assert all((grad is not None) == flow for grad in first)
        assert (made.masks[1].previous is not None) == flow
        assert made.masks[0].previous is None


def test_mask_r_cnn_is_the_cascade_with_one_stage() -> None:
    one = decoder(**ONE)
    assert len(one.boxes) == len(one.masks) == 1
    assert one.semantic is None
    assert one.boxes[0].deltas.out_features == 4 * 3  # pyright: ignore
    names = [term.name for term in one.objective()]
    assert names == ["objectness", "proposals", "class_0", "box_0", "mask_0"]
    every = decoder(**HYBRID).objective()
    assert {term.weight for term in every if term.name.endswith("_2")} == {0.25}
    assert every[-1].name == "semantic"


def test_the_semantic_branch_learns_things_and_all_else() -> None:
    target = [drawn((0, 0, 48, 64), labels=[2])]
    valid = torch.ones(SIZE, dtype=torch.bool)
    valid[:, 48:] = False
    logits = torch.zeros(1, 4, 8, 12)
    logits[:, 2, :, :6] = 50.0
    logits[:, 3, :, 6:] = 50.0
    assert float(SemanticLoss()(logits, target)) == pytest.approx(0)
    logits[:, 3] = 0.0
    assert float(SemanticLoss()(logits, target)) > 0.5
    assert float(SemanticLoss()(logits, [drawn((0, 0, 48, 64), labels=[2], valid=valid)])) == pytest.approx(0)
    labels = torch.full((1, *SIZE), 255, dtype=torch.uint8)
    assert float(SemanticLoss()(logits, labels)) == 0


# what users give --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["htc_resnet18", "mask_rcnn_resnet18", "mask_rcnn_resnet50_v2"])
def test_pictures_without_objects_and_without_anything_that_counts(name: str) -> None:
    small = {"backbone": "resnet18"} if "50" in name else {}
    model = detector(name, **small).train()
    found = losses(model, drawn(), drawn())
    assert all(bool(loss.isfinite()) for loss in found.values())
    assert found["class_0"] > 0
    assert found["box_0"] == found["mask_0"] == 0
    torch.stack(list(found.values())).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    nowhere = drawn(valid=torch.zeros(SIZE, dtype=torch.bool))
    assert all(loss == 0 for loss in losses(model, nowhere, nowhere).values())


def test_objects_without_a_pixel_thin_ones_and_such_as_leave_their_box_empty() -> None:
    thin = torch.zeros((3, *SIZE), dtype=torch.bool)
    thin[1, 5, 3] = True  # a single pixel
    thin[2, 10, 10:80] = thin[2, 60, 10:80] = True  # two lines far apart
    found = losses(detector().train(), Segments(torch.tensor([0, 1, 2]), thin))
    assert all(bool(loss.isfinite()) for loss in found.values())
    assert found["mask_0"] > 0


def test_more_than_three_hundred_objects() -> None:
    boxes = [(x, y, x + 3, y + 3) for x in range(0, 90, 4) for y in range(0, 60, 4)]
    model = detector("mask_rcnn_resnet18", num_classes=1, detections=400, score=0.0, proposals=[64, 600])
    found = losses(model.train(), drawn(*boxes))
    assert len(boxes) > 300
    assert all(bool(loss.isfinite()) for loss in found.values())
    _, labels, _, masks = model.eval()(torch.randn(1, 3, *SIZE))
    assert labels.shape == (1, 400)
    assert masks.shape == (1, 400, *SIZE)


def test_the_classes_of_lvis() -> None:
    model = detector("mask_rcnn_resnet18", num_classes=1203, score=1e-4).train()
    found = losses(model, drawn((5, 5, 40, 40), labels=[1202]))
    assert all(bool(loss.isfinite()) for loss in found.values())
    assert len(model.classes) == len(model.palette) == 1203
    assert int(model.eval()(torch.randn(1, 3, *SIZE))[1].max()) < 1203


@pytest.mark.parametrize("lists", [True, False])
def test_what_nobody_knows_of_a_picture_is_not_taught(lists: bool) -> None:
    told = {"class_loss": "eql", "classifier": "eql", "class_loss_arguments": {"frequencies": [1.0, 1.0, 1.0]}}
    model = detector("mask_rcnn_resnet18", **told)
    answered = torch.tensor([True, False, False]) if lists else None
    picture = drawn((10, 10, 40, 40), (50, 10, 80, 50), labels=[0, 2])._replace(answered=answered)
    outputs = model.forward_train(torch.randn(1, 3, *SIZE), [picture])
    scores, labels = outputs["class_logits_0"], outputs["labels_0"]
    (taught,) = torch.autograd.grad(model.criterion(outputs, {})["class_0"], scores)
    assert taught[:, 0].all()
    assert bool(taught[:, 1].any()) is not lists
    assert taught[labels == 2, 2].all()  # its own class a region has, whatever the lists say
    assert bool(taught[labels != 2, 2].any()) is not lists


def test_stuff_is_seen_by_the_semantic_branch_alone() -> None:
    model = detector()
    model.things = (0,)
    only, both = drawn((5, 5, 40, 40)), drawn((5, 5, 40, 40), (50, 5, 90, 60), labels=[0, 2])
    first, second = losses(model, only), losses(model, both)
    assert {key for key in first if first[key] != second[key]} == {"semantic"}


def test_the_backbones_norms_keep_their_statistics() -> None:
    model, free = detector().train(), detector(frozen_norms=False).train()
    assert not any(m.training for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(m.training for m in free.backbone.modules() if isinstance(m, nn.BatchNorm2d))
    exact = detector(norm_eps=0.0)
    assert {m.eps for m in exact.backbone.modules() if isinstance(m, nn.BatchNorm2d)} == {0.0}


def test_what_cannot_be_built_is_said() -> None:
    for arguments, message in (
        ({"form": "caffe"}, "form is 'caffe'; give 'mmdet'"),
        ({"stages": 4}, "stages is 4"),
        ({"class_loss": "hinge"}, "class_loss is 'hinge'; give 'cross_entropy'"),
        ({"classifier": "cosine"}, "classifier is 'cosine'"),
        (
            {"backbone": "timm:vit_tiny_patch16_224", "backbone_arguments": {}},
            "give a backbone that has them, or neck=",
        ),
    ):
        with on_meta(), pytest.raises(ValueError, match=message):
            detector(**arguments)


class Halves(heads.BoxClassifier):
    """Two scores a class, of which the mean counts."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(channels, num_classes)
        self.scores = nn.Linear(channels, 2 * (num_classes + 1))

    def probabilities(self, scores: Tensor) -> Tensor:
        return scores.float().unflatten(1, (2, -1)).mean(1).softmax(-1)


class HalvesLoss(nn.Module):
    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(scores.unflatten(1, (2, -1)).mean(1), labels)


def test_another_classifier_and_its_loss_take_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(heads.CLASSIFIERS, "halves", f"{__name__}:Halves")
    monkeypatch.setitem(heads.CLASS_LOSSES, "halves", f"{__name__}:HalvesLoss")
    model = detector(classifier="halves", class_loss="halves")
    assert [head.classifier.scores.out_features for head in model.decoder.boxes] == [8, 8, 8]
    assert losses(model.train(), drawn((5, 5, 40, 40)))["class_0"] > 0
    assert model.eval()(torch.randn(1, 3, *SIZE))[0].isfinite().all()


def test_what_is_found_is_a_map_of_segments() -> None:
    model = detector(score=0.0, proposals=[64, 64], detections=6)
    picture = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(3))
    predictor = SegmentPredictor(model, task="instance", threshold=0.0)
    result = predictor((picture * 255).byte())
    assert result.segments.ids.shape == (50, 70)
    assert 0 < len(result.segments) <= 6
    for segment in result.segments.segments:
        assert segment.own is not None
        assert segment.area == segment.own.mask.sum() > 0
    with pytest.raises(ValueError, match="give task='instance', not 'panoptic'"):
        SegmentPredictor(model, task="panoptic")


def test_pictures_are_as_large_as_both_sides_allow() -> None:
    published = Preprocessing(long_side=1333, short_side=800)
    assert published.size_of((480, 640)) == (800, 1067)
    assert published.size_of((400, 1000)) == (533, 1333)
    assert published.size_of((800, 1200)) == (800, 1200)
    assert Preprocessing.from_dict(published.as_dict()) == published
    assert Preprocessing(short_side=800).size_of((400, 1000)) == (800, 2000)
