"""What makes PointPillars, CenterPoint and MapFusion what they are: matching, codes, radii, peaks, and a map that counts."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import segmentarium
from segmentarium.contracts import Detector3d
from segmentarium.layers.turned_boxes import as_in_earlier_code, iou_upright
from segmentarium.lidar.centerpoint import NUSCENES_RADII, CenterPoint
from segmentarium.lidar.centerpoint import TINY as TINY_CENTERPOINT
from segmentarium.lidar.dense import DensePart
from segmentarium.lidar.mapfusion import LAYERS, FeatureAgg, MapFusion, with_map
from segmentarium.lidar.pointpillars import TINY, PointPillars
from segmentarium.losses.anchor_boxes import AnchorBoxes, decode, direction_of, encode, match
from segmentarium.losses.centres import Centres, centre_heatmap, centre_radius
from segmentarium.losses.map_layers import MapLayers
from segmentarium.registry import create_model

# anchors ----------------------------------------------------------------------------------------------------------------


def test_codes_go_there_and_back() -> None:
    anchors = torch.tensor([[1.0, 2, -1, 3.9, 1.6, 1.56, 1.57]])
    boxes = torch.tensor([[1.5, 1.0, -0.8, 4.2, 1.7, 1.4, 1.2]])
    codes = encode(boxes, anchors)
    diagonal = math.hypot(3.9, 1.6)
    by_hand = [
        0.5 / diagonal,
        -1 / diagonal,
        0.2 / 1.56,
        math.log(4.2 / 3.9),
        math.log(1.7 / 1.6),
        math.log(1.4 / 1.56),
        -0.37,
    ]
    assert codes[0].tolist() == pytest.approx(by_hand, abs=1e-5)
    assert torch.allclose(decode(codes, anchors), boxes, atol=1e-5)
    assert direction_of(torch.tensor([0.1, 3.0, 3.3, -0.1, 6.4]), 0.0).tolist() == [0, 0, 1, 1, 0]


def test_anchors_are_matched_by_class_and_every_box_keeps_its_best() -> None:
    anchors = torch.tensor([[x, 0.0, 0, 4, 2, 1.5, 0] for x in (0.0, 0.5, 1.5, 10.0, 0.0)])
    classes = torch.tensor([0, 0, 0, 0, 1])
    boxes = torch.tensor([[0.0, 0, 0, 4, 2, 1.5, math.pi], [11.5, 0, 0, 4, 2, 1.5, 0]])
    positive, negative = torch.tensor([0.6, 0.6]), torch.tensor([0.45, 0.45])
    overlap = iou_upright(anchors, boxes)
    assert overlap[1, 0].item() == pytest.approx(3.5 / 4.5)
    assert overlap[3, 1].item() == pytest.approx(2.5 / 5.5)  # 0.4545
    state, which = match(anchors, classes, boxes, torch.tensor([0, 0]), positive, negative)
    # 1.5 m away is 0.4545, neither for nor against; the other class's anchor is for nothing; the last box has its best
    assert state.tolist() == [1, 1, -1, 1, 0]
    assert which[[0, 1, 3]].tolist() == [0, 0, 1]
    state, _ = match(anchors, classes, boxes[:0], torch.zeros(0).long(), positive, negative)
    assert state.tolist() == [0] * 5


def test_the_anchors_objective_by_hand() -> None:
    anchors = torch.tensor([[0.0, 0, 0, 4, 2, 1.5, 0], [20.0, 0, 0, 4, 2, 1.5, 0]])
    loss = AnchorBoxes(anchors, torch.tensor([0, 0]), [0.6], [0.45])
    scores = torch.tensor([0.3, -1.2]).view(1, 2, 1, 1)
    codes = torch.tensor([[0.05, 0, 0, 0.5, 0, 0, 0.4], [9.0] * 7]).view(1, 14, 1, 1)
    directions = torch.tensor([[0.2, 0.9], [5.0, -5.0]]).view(1, 4, 1, 1)
    target = torch.tensor([[[0.2, 0, 0, 4, 2, 1.5, 0.1, 0], [0, 0, 0, 0, 0, 0, 0, -1]]])
    found = loss(scores, codes, directions, target)
    p, q = torch.tensor(0.3).sigmoid(), torch.tensor(-1.2).sigmoid()
    focal = -0.25 * (1 - p) ** 2 * p.log() - 0.75 * q**2 * (1 - q).log()
    assert found["class"].item() == pytest.approx(focal.item(), rel=1e-5)
    away = [abs(0.05 - 0.2 / math.hypot(4, 2)), 0.5, math.sin(0.4 - 0.1)]
    beta = 1 / 9
    smooth = sum(0.5 * d * d / beta if d < beta else d - beta / 2 for d in away)
    assert found["box"].item() == pytest.approx(smooth, rel=1e-4)
    assert found["direction"].item() == pytest.approx(
        F.cross_entropy(torch.tensor([[0.2, 0.9]]), torch.tensor([0])).item()
    )
    # the second half of the circle
    turned = target.clone()
    turned[0, 0, 6] += math.pi
    again = loss(scores, codes, directions, turned)
    assert again["box"].item() == pytest.approx(smooth, rel=1e-4)  # sines see no difference
    assert again["direction"].item() == pytest.approx(
        F.cross_entropy(torch.tensor([[0.2, 0.9]]), torch.tensor([1])).item()
    )


@torch.no_grad()
def test_earlier_conventions_change_nothing_that_comes_out() -> None:
    """A perfect output under either convention gives the box that was meant, and costs nothing for its place and size."""
    box = torch.tensor([[[5.1, 0.3, -1.0, 3.8, 1.7, 1.5, 1.4, 0.0]]])
    for earlier in (False, True):
        model = PointPillars(num_classes=1, **{**TINY, "candidates": 1}, earlier=earlier)
        loss = model.losses["anchors"]
        inner = as_in_earlier_code(box) if earlier else box
        real = inner[0, :, :7]
        state, _ = match(model.anchors, loss.kinds, real, torch.tensor([0]), loss.positive, loss.negative)
        best = state.argmax()
        count, shape = len(model.anchors), (1, 16, 16)
        codes = encode(real, model.anchors)
        half = direction_of(real[0, 6], model.start)
        scores = torch.full((count, 1), -9.0)
        scores[best] = 9.0
        turns = torch.zeros(count, 2)
        turns[:, half] = 5.0

        def maps(rows: torch.Tensor, shape: tuple = shape) -> torch.Tensor:
            return rows.reshape(*shape, -1).permute(0, 3, 1, 2)

        outputs = {"scores": maps(scores), "codes": maps(codes), "directions": maps(turns)}
        found = model.criterion(outputs, {"boxes": box})
        assert found["anchors box"] < 1e-6
        assert found["anchors direction"] < 0.01
        boxes, labels, scored = model.decode(outputs)
        away = (boxes[0, 0, :6] - box[0, 0, :6]).abs().max()
        assert away < 1e-4
        assert math.cos(boxes[0, 0, 6].item() - 1.4) == pytest.approx(1, abs=1e-5)
        assert labels[0, 0] == 0
        assert scored[0, 0] > 0.99


# centres ----------------------------------------------------------------------------------------------------------------


def test_a_radius_is_the_least_of_cornernet_s_three() -> None:
    """Of a box of 20 by 9 cells at 0.1: 22.4 and 42.9 by the first two equations; by the third
    (-5.8 + sqrt(5.8**2 + 4 * 0.4 * 162)) / 2."""
    wanted = (-5.8 + math.sqrt(5.8**2 + 4 * 0.4 * 162)) / 2
    assert centre_radius(torch.tensor(20.0), torch.tensor(9.0)).item() == pytest.approx(wanted, rel=1e-5)
    assert centre_radius(torch.tensor(9.0), torch.tensor(20.0)).item() == pytest.approx(wanted, rel=1e-5)
    assert centre_radius(torch.tensor(0.0), torch.tensor(0.0)) == 0
    large = centre_radius(torch.full((3,), 20.0), torch.full((3,), 9.0), 0.7)
    assert (large < wanted).all()


def test_heat_is_one_at_the_centre_and_ends_at_the_radius() -> None:
    heat = centre_heatmap(
        torch.tensor([3, 8]), torch.tensor([2, 2]), torch.tensor([2.0, 3.0]), torch.tensor([0, 0]), (2, 6, 12)
    )
    assert heat[0, 2, 3] == heat[0, 2, 8] == 1
    assert (heat[1] == 0).all()
    assert heat[0, 2, 2].item() == pytest.approx(math.exp(-1 / (2 * (5 / 6) ** 2)))
    assert heat[0, 3, 4].item() == pytest.approx(math.exp(-2 / (2 * (5 / 6) ** 2)))
    assert heat[0, 5, 3] == 0  # three rows away from a radius of 2
    assert heat[0, 5, 8] > 0
    assert heat[0, 2, 5].item() == pytest.approx(  # where two meet, the greater
        max(math.exp(-4 / (2 * (5 / 6) ** 2)), math.exp(-9 / (2 * (7 / 6) ** 2)))
    )


@pytest.mark.parametrize("earlier", [False, True])
@torch.no_grad()
def test_what_is_asked_of_centerpoint_gives_the_box_back(earlier: bool) -> None:
    """Targets written into the maps are decoded to the boxes that they were made of."""
    model = CenterPoint(num_classes=3, tasks=[1, 2], **{**TINY_CENTERPOINT, "candidates": 4}, earlier=earlier)
    near = [1.3, -2.2, -1, 4.1, 1.8, 1.6, 2.9, 0, 1.5, -0.5]
    other = [-6.4, 3.3, 0, 0.8, 0.7, 1.7, -1.0, 2, 0, 0]
    boxes = torch.tensor([[near, other, [99.0, 0, 0, 1, 1, 1, 0, 1, 0, 0]]])
    loss = model.losses["centres"]
    assert isinstance(loss, Centres)
    height, width = (side // model.feature_strides[0] for side in model.grid.shape[1:])
    codes, place, real, label, heat = loss.targets(boxes, (height, width))
    assert real[0].tolist() == [True, True, False]  # the last stands outside
    outputs, first = {}, 0
    for task, count in enumerate((1, 2)):
        maps = torch.zeros(1, 10 + count, height * width)
        maps[:, 10:] = heat[:, first : first + count].flatten(2).clamp(1e-4, 1 - 1e-4).logit()
        mine = real & (label >= first) & (label < first + count)
        maps[0, :10, place[mine]] = codes[mine].T
        outputs[f"task{task}"] = maps.view(1, -1, height, width)
        first += count
    losses = model.criterion(outputs, {"boxes": boxes})
    assert losses["centres box"] < 1e-6
    found = model.decode(outputs)
    for i in range(2):
        assert (
            torch.allclose(found[0][0, i, [0, 1, 2, 3, 4, 5, 7, 8]], boxes[0, i, [0, 1, 2, 3, 4, 5, 8, 9]], atol=1e-4)
            or i
        )
    by_label = {int(lab): box for box, lab in zip(found[0][0, :2], found[1][0, :2], strict=True)}
    for one in boxes[0, :2]:
        box = by_label[int(one[7])]
        assert torch.allclose(box[:6], one[:6], atol=1e-4)
        assert math.cos(box[6].item() - one[6].item()) == pytest.approx(1, abs=1e-5)
        assert torch.allclose(box[7:], one[8:], atol=1e-4)


def test_speeds_that_are_not_known_cost_nothing() -> None:
    model = CenterPoint(num_classes=1, **TINY_CENTERPOINT)
    boxes = torch.tensor([[[1.3, -2.2, -1, 4.1, 1.8, 1.6, 2.9, 0, torch.nan, torch.nan]]])
    points = torch.rand(2, 50, 5)
    outputs = model.train().forward_train(points)
    outputs = {name: maps[:1].detach().requires_grad_() for name, maps in outputs.items()}
    sum(model.criterion(outputs, {"boxes": boxes}).values()).backward()  # type: ignore[union-attr]
    gradient = outputs["task0"].grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert (gradient[:, 8:10] == 0).all()
    assert gradient[:, :8].abs().amax((0, 2, 3)).min() > 0


def test_suppression_by_distance_is_a_task_s() -> None:
    model = CenterPoint(**TINY_CENTERPOINT)
    model.near_suppression()
    assert model.radii is not None
    assert len(model.radii) == 10
    assert model.radii[:3] == (NUSCENES_RADII[0], NUSCENES_RADII[1], NUSCENES_RADII[1])
    with pytest.raises(ValueError, match="6 tasks"):
        model.near_suppression([1.0])


class Given(Detector3d):
    """Gives the candidates that it was made with."""

    def __init__(self, boxes: torch.Tensor, labels: torch.Tensor, scores: torch.Tensor) -> None:
        super().__init__(num_classes=3, area=(0, 0, 0, 1, 1, 1))
        self.given = boxes[None], labels[None], scores[None]

    def forward(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.given


def test_one_box_an_object_is_left_of_the_candidates() -> None:
    car = [0.0, 0, 0, 4, 2, 1.5, 0]
    boxes = torch.tensor(
        [car, [0.3, *car[1:]], [0.1, *car[1:]], [10.0, *car[1:]], [20.0, *car[1:]], [math.inf, *car[1:]]]
    )
    model = Given(boxes, torch.tensor([0, 0, 1, 0, -1, 0]), torch.tensor([0.9, 0.8, 0.7, 0.05, 0.9, 0.95]))
    (found,) = model.detect(torch.zeros(1, 5, 4))
    assert (found.boxes[:, 0].tolist(), found.labels.tolist()) == (pytest.approx([0, 0.1]), [0, 1])
    assert len(model.detect(torch.zeros(1, 5, 4), threshold=0.01)[0]) == 3
    assert len(model.detect(torch.zeros(1, 5, 4), most=1)[0]) == 1
    model.groups = (0, 0, 0)
    assert model.detect(torch.zeros(1, 5, 4))[0].labels.tolist() == [0]
    model.radii = (0.2, 0.2, 0.2)
    assert model.detect(torch.zeros(1, 5, 4))[0].boxes[:, 0].tolist() == pytest.approx([0, 0.3])


def test_areas_that_do_not_fit_say_so() -> None:
    with pytest.raises(ValueError, match=r"31\.625, 1\.000 cells"):
        PointPillars(**{**TINY, "area": [0.0, -5.0, -3.0, 10.24, 5.12, 1.0]})
    with pytest.raises(ValueError, match="multiples of 8"):
        PointPillars(**{**TINY, "area": [0.0, -5.12, -3.0, 10.24, 5.44, 1.0]})
    with pytest.raises(ValueError, match="anchors is"):
        PointPillars(**TINY, anchors=[[1.0, 1, 1, 0, 0.5, 0.4]])
    with pytest.raises(ValueError, match="add up to 10"):
        CenterPoint(**TINY_CENTERPOINT, tasks=[1, 2])


@torch.no_grad()
def test_the_dense_part_begins_at_the_pillars() -> None:
    """Decoded or not, and with a map."""
    points = torch.rand(2, 80, 4) * 5
    for model in (PointPillars(**TINY).eval(), with_map(PointPillars(**TINY)).eval()):
        others = () if isinstance(model, PointPillars) else (torch.rand(2, 6, 16, 16),)
        canvas = model.canvas(points)
        dense = DensePart(model, decoded=False)
        wanted = model(points, *others)
        assert [x.shape[0] for x in dense(*DensePart(model).example(3, (16, 16)))] == [3] * 3
        for found in (DensePart(model)(canvas, *others), dense.read(dense(canvas, *others))):
            for ours, theirs in zip(found, wanted, strict=True):
                assert torch.equal(ours, theirs)
    assert DensePart(model).inputs == ("canvas", "map")
    with pytest.raises(TypeError, match="no pillars"):
        DensePart(Given(torch.zeros(1, 7), torch.zeros(1), torch.zeros(1)))


# nuScenes' forms --------------------------------------------------------------------------------------------------------

SHARED = {
    **{key: value for key, value in TINY.items() if key != "neck_width"},
    "num_classes": 3,
    "in_channels": 5,
    "columns": [0, 1, 2, 4],
    "anchors": [[4.0, 2.0, 1.5, -1.75, 0.6, 0.3], [0.8, 0.8, 1.7, -1.75, 0.6, 0.3]],
    "shared_anchors": True,
    "velocity": True,
    "box_weight": 1.0,
    "start": -math.pi / 4,
    "halved": False,
    "replaced": False,
    "encoder_widths": [8, 8],
}


@pytest.mark.parametrize("neck", ["second", "pyramid"])
@torch.no_grad()
def test_anchors_of_no_class_with_speeds_and_levels(neck: str) -> None:
    """A perfect output on the level whose anchors are as large as the box costs nothing and is decoded to it."""
    model = PointPillars(**{**SHARED, "candidates": 2}, neck=neck, neck_width=8).eval()
    assert model.feature_strides == ((2, 4, 8) if neck == "pyramid" else (2,))
    size = 8.0 if neck == "pyramid" else 4.0  # of the second level's anchors
    box = torch.tensor([[[5.3, 0.4, -1.75 + size * 1.5 / 8, size, size / 2, size * 1.5 / 4, 1.4, 2.0, 1.5, -0.5]]])
    loss = model.losses["anchors"]
    state, _ = match(
        model.anchors, loss.kinds, box[0, :, :7], torch.tensor([2]), loss.positive, loss.negative, shared=True
    )
    first = [0, *torch.tensor(model.level_anchors).cumsum(0).tolist()]
    assert [bool((state[a:b] == 1).any()) for a, b in pairwise(first)] == (
        [False, True, False] if neck == "pyramid" else [True]
    )
    codes = torch.cat((encode(box[0, :, :7], model.anchors), box[0, :, 8:].expand(len(state), -1)), 1)
    scores = torch.full((len(state), 3), -9.0)
    scores[state == 1, 2] = 9.0
    turns = torch.nn.functional.one_hot(direction_of(box[0, 0, 6], model.start), 2).expand(len(state), -1) * 5.0
    outputs = {}
    for i, stride in enumerate(model.feature_strides):
        ending = f"_{i}" if i else ""
        part = slice(first[i], first[i + 1])
        for name, rows in (("scores", scores), ("codes", codes), ("directions", turns)):
            outputs[name + ending] = rows[part].reshape(1, 32 // stride, 32 // stride, -1).permute(0, 3, 1, 2)
    assert outputs.keys() == set(model.map_names)
    losses = model.criterion(outputs, {"boxes": box})
    assert losses["anchors box"] < 1e-6
    assert losses["anchors direction"] < 0.01
    assert losses["anchors class"] < 1e-3
    found = model.chosen(*model.decode(outputs))[0]
    assert found.labels.tolist() == [2]
    assert torch.allclose(found.boxes[0], box[0, 0, [0, 1, 2, 3, 4, 5, 6, 8, 9]], atol=1e-4)
    # a speed that is a metre a second off costs 0.2 of its distance; one that is not known nothing
    outputs["codes" + ("_1" if neck == "pyramid" else "")][:, 7::9] += 1
    off = model.criterion(outputs, {"boxes": box})["anchors box"] / model.losses["anchors"].weights[7]
    assert off.item() == pytest.approx(1 - 1 / 18, rel=1e-4)
    box[..., 8:] = torch.nan
    assert model.criterion(outputs, {"boxes": box})["anchors box"] < 1e-6
    # the intensity is not read
    points = torch.rand(1, 90, 5) * torch.tensor((10.0, 10, 2, 1, 1)) - torch.tensor((0.0, 5, 2, 0, 0))
    other = points.clone()
    other[..., 3] = 7
    assert torch.equal(model(points)[2], model(other)[2])
    other[..., 4] = 7
    assert not torch.equal(model(points)[2], model(other)[2])


def test_a_map_reaches_every_level() -> None:
    torch.manual_seed(0)
    model = with_map(PointPillars(**SHARED, neck="pyramid", neck_width=8)).eval()
    for aggregate in (model.aggregate, *model.coarser):
        torch.nn.init.normal_(aggregate.out.weight)
    points, raster = scene(model)
    canvas = model.canvas(points)
    with torch.no_grad():
        for drawn, empty in zip(model.fused(canvas, raster)[1], model.fused(canvas, 0 * raster)[1], strict=True):
            assert not torch.equal(drawn, empty)
    losses = model.criterion(model.forward_train(points, raster), {"boxes": torch.zeros(1, 0, 10), "map": raster})
    assert losses.keys() == {"anchors class", "anchors box", "anchors direction", "map"}
    with pytest.raises(ValueError, match=r"columns is \(0, 1, 3\)"):
        PointPillars(**{**SHARED, "columns": [0, 1, 3]})
    with pytest.raises(ValueError, match="neck is 'bifpn'"):
        PointPillars(**SHARED, neck="bifpn")  # type: ignore[arg-type]


# the map ----------------------------------------------------------------------------------------------------------------


def scene(model: MapFusion) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = torch.tensor(model.area[:3]), torch.tensor(model.area[3:])
    points = torch.rand(1, 200, model.in_channels)
    points[..., :3] = low + points[..., :3] * (high - low)
    return points, torch.rand(1, model.map_channels, *model.map_size)


@pytest.mark.parametrize("aggregation", ["raster", "feature", "none"])
@torch.no_grad()
def test_a_detector_with_a_map_begins_as_the_detector(aggregation: str) -> None:
    for detector in (PointPillars(num_classes=2, **TINY), CenterPoint(num_classes=2, **TINY_CENTERPOINT)):
        alone = copy.deepcopy(detector).eval()
        model = with_map(detector, aggregation=aggregation).eval()  # type: ignore[arg-type]
        points, raster = scene(model)
        for ours, theirs in zip(model(points, raster), alone(points), strict=True):
            assert torch.equal(ours, theirs)
        assert model.classes == alone.classes
        assert {term.name for term in model.objective} == {*(term.name for term in alone.objective), "map"}


@torch.no_grad()
def test_the_map_counts_where_it_is() -> None:
    """The same weights and points, with and without the map: heads differ near what is drawn, and nowhere else."""
    torch.manual_seed(0)
    wide = {**TINY_CENTERPOINT, "cell": [0.16, 0.16]}  # 128 cells, and 32 of the features
    for aggregation in ("feature", "raster"):
        model = with_map(CenterPoint(num_classes=1, **wide), aggregation=aggregation).eval()  # type: ignore[arg-type]
        last = model.aggregate.out if aggregation == "feature" else model.encode
        assert last is not None
        torch.nn.init.normal_(last.weight, std=0.5)  # type: ignore[arg-type]
        points, raster = scene(model)
        empty = torch.zeros_like(raster)
        drawn = empty.clone()
        drawn[..., :4, :4] = 1
        canvas = model.canvas(points)
        own, fused = zip(*(model.fused(canvas, x) for x in (drawn, empty)), strict=True)
        away = (fused[0][0] - fused[1][0]).abs().amax((0, 1))
        assert away[0, 0] > 1e-4
        if aggregation == "feature":
            assert (away[14:] < 1e-6).all()
            assert (away[:, 14:] < 1e-6).all()
            assert torch.equal(*own)
        assert not torch.equal(*(model(points, x)[2] for x in (drawn, empty)))


def test_alignment_looks_the_map_up_elsewhere() -> None:
    aggregate = FeatureAgg(4, 3, reach=2.0)
    features, of_map = torch.rand(1, 4, 6, 7), torch.rand(1, 3, 6, 7)
    assert torch.allclose(aggregate.aligned(features, of_map), of_map, atol=1e-6)  # at first where it is
    with torch.no_grad():
        aggregate.shift[1].bias[:] = torch.tensor((0.5, -0.5)).atanh()  # type: ignore[index]
    moved = aggregate.aligned(features, of_map)  # one column to the right, one row up
    assert torch.allclose(moved[..., 1:, :-1], of_map[..., :-1, 1:], atol=1e-5)


def test_mapseg_learns_from_points_where_the_map_is_known_and_goes_with_deploy() -> None:
    model = with_map(PointPillars(num_classes=1, **TINY)).train()
    points, raster = scene(model)
    points, raster = points.expand(2, -1, -1), raster.expand(2, -1, -1, -1).clone()
    outputs = model.forward_train(points, raster)
    assert outputs["map"].shape[1] == 4
    again = model.forward_train(points, torch.zeros_like(raster))
    assert torch.equal(outputs["map"], again["map"])  # it never sees the map
    loss = MapLayers([0, 1], known=2)
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    target = torch.zeros(1, 3, 8, 8)
    target[:, :2, :, :4] = 1
    target[:, 2, :4] = 1  # the lower half is not known
    loss(logits, target).backward()
    assert logits.grad is not None
    assert (logits.grad[:, :, 2:] == 0).all()
    assert (logits.grad[:, :, :2, :2] < 0).all()
    assert (logits.grad[:, :, :2, 2:] > 0).all()
    assert loss(logits, torch.zeros(1, 3, 8, 8)) == 0
    deployed = model.deploy()
    assert not hasattr(deployed, "segment")
    assert hasattr(model, "segment")


def test_with_map_is_saved_and_says_what_it_cannot(tmp_path: Path) -> None:
    detector = create_model("pointpillars", **TINY, num_classes=2)
    model = with_map(detector, aggregation="raster", segmentation=False)
    again = segmentarium.load(segmentarium.save(model, tmp_path / "model.safetensors"))
    assert isinstance(again, MapFusion)
    points, raster = scene(model)
    with torch.no_grad():
        for ours, theirs in zip(again(points, raster), model.eval()(points, raster), strict=True):
            assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match=r"give \(B, 6, H, W\): drivable"):
        model(points, raster[:, :2])
    with pytest.raises(TypeError, match="give a BevDetector"):
        with_map(Given(torch.zeros(1, 7), torch.zeros(1), torch.zeros(1)))
    with pytest.raises(ValueError, match="aggregation is 'sum'"):
        with_map(PointPillars(**TINY), aggregation="sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="neither an aggregation nor"):
        with_map(PointPillars(**TINY), aggregation="none", segmentation=False)
    with pytest.raises(ValueError, match="MapSeg learns"):
        with_map(PointPillars(**TINY), layers=("ground",))
    assert tuple(with_map(PointPillars(**TINY)).layers) == LAYERS
