"""PointRend's heads and its semantic FPN against mmsegmentation's stored outputs; whole checkpoints by their keys."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from segmentarium.layers.fpn import FeaturePyramid, PyramidSum
from segmentarium.losses import CrossEntropy
from segmentarium.meta import on_meta
from segmentarium.registry import create_model
from segmentarium.semantic.pointrend import PointHead, PointLoss, PointRendDecoder, choose_points, read_points
from segmentarium.weights import export_layout
from segmentarium.weights.layouts import get_layout
from segmentarium.weights.layouts.fpn import mmseg_head, mmseg_neck
from segmentarium.weights.layouts.pointrend import point_rules
from segmentarium.weights.source import open_weights
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, as_theirs, example, golden_state, relative_error

STRIDES = (4, 8, 16, 32)


def test_training_points_their_scores_and_loss(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "semantic/pointrend-training")
    head = PointHead(16, 5, 24)
    rules = point_rules("", "")
    assert load_state(head, state, rules=rules).complete
    assert sum(p.numel() for p in head.parameters()) == description["parameters"]
    assert all(torch.equal(value, state[key]) for key, value in to_theirs(head.state_dict(), rules).items())
    fine, coarse = (example(golden, description, name) for name in ("fine", "coarse"))
    label, candidates, random = (
        torch.from_numpy(arrays[f"target/{name}"]) for name in ("label", "oversampled_points", "random_points")
    )
    points = choose_points(coarse, candidates, random, 30)
    assert relative_error(points, torch.from_numpy(arrays["out/points"])) <= TOLERANCE
    logits = head(read_points(fine, points), read_points(coarse, points)).detach()
    assert relative_error(logits, torch.from_numpy(arrays["out/point_logits"])) <= TOLERANCE
    expected = torch.from_numpy(arrays["out/loss"])
    assert relative_error(PointLoss(CrossEntropy(average="all"))(points, logits, label.long()), expected) <= TOLERANCE
    # ours divides by the points that are labelled
    share = float((read_points(label[:, None].float(), points, mode="nearest") != 255).float().mean())
    assert share < 1
    assert relative_error(PointLoss()(points, logits, label.long()) * share, expected) <= TOLERANCE


@torch.inference_mode()
def test_subdivision(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "semantic/pointrend-inference")
    decoder: Any = PointRendDecoder(
        channels=(16,) * 4,
        strides=STRIDES,
        num_classes=5,
        pyramid_channels=16,
        width=12,
        point_width=24,
        step_points=189,
    ).eval()
    decoder.pyramid = nn.Identity()  # theirs is fed with the pyramid's features
    rules = [*mmseg_head("0.", ""), *point_rules("1.", "head.")]
    assert load_state(decoder, state, rules=rules).complete
    assert sum(p.numel() for p in decoder.parameters()) == description["parameters"]
    fine, coarse = decoder.coarse([example(golden, description, f"p{i}") for i in (2, 3, 4, 5)])
    assert relative_error(coarse, torch.from_numpy(arrays["out/coarse"])) <= TOLERANCE
    expected = torch.from_numpy(arrays["out/refined"])
    assert relative_error(decoder.refine(fine, coarse), expected) <= TOLERANCE
    last = [x.contiguous(memory_format=torch.channels_last) for x in (fine, coarse)]
    assert relative_error(decoder.refine(*last), expected) <= TOLERANCE


@torch.inference_mode()
def test_semantic_fpn(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "semantic/fpn-neck-head")
    model = nn.ModuleDict(
        {
            "pyramid": FeaturePyramid((8, 12, 16, 32), 16),
            "fuse": PyramidSum(16, STRIDES, 12),
            "classifier": nn.Conv2d(12, 5, 1),
        }
    ).eval()
    assert load_state(model, state, rules=[*mmseg_neck(ours="pyramid."), *mmseg_head("decode_head.", "")]).complete
    pyramid = model["pyramid"]([example(golden, description, f"c{i}") for i in (1, 2, 3, 4)])
    for i, feature in enumerate(pyramid):
        assert relative_error(feature, torch.from_numpy(arrays[f"out/neck/{i}"])) <= TOLERANCE
    logits = model["classifier"](model["fuse"](pyramid))
    assert relative_error(logits, torch.from_numpy(arrays["out/logits"])) <= TOLERANCE


def test_whole_checkpoints_are_recognised() -> None:
    for depth in (101, 50):
        with on_meta():
            model: Any = create_model(f"pointrend_resnet{depth}", num_classes=19)
        theirs = to_theirs(model.state_dict(), get_layout("pointrend/mmseg").rules)
        assert {"decode_head.0.scale_heads.3.4.bn.weight", "decode_head.1.fc_seg.bias"} <= theirs.keys()
        stored = open_weights(theirs)
        assert stored.layout is get_layout("pointrend/mmseg")
        assert stored.entry.name == f"pointrend_resnet{depth}"
        assert stored.shapes().keys() == model.state_dict().keys()
    parts = model.decoder
    assert sum(p.numel() for p in parts.pyramid.parameters()) == 3_344_384
    assert sum(p.numel() for p in parts.head.parameters()) == 217_212
    assert sum(p.numel() for p in parts.parameters()) == 3_344_384 + 1_626_259 + 217_212


AUTHORS = {"groups": 32, "step_points": 8192, "backbone": "resnet101", "backbone_arguments": {"stride_first": True}}


def test_the_authors_network() -> None:
    pixels = {"pixel_mean": (3, 1, 1), "pixel_std": (3, 1, 1)}
    as_theirs("pointrend/detectron2", "pointrend_resnet50", pixels, num_classes=19, **AUTHORS)
    layout = get_layout("pointrend/detectron2")
    assert layout.blue_first
    assert layout.facts({})["preprocessing"]["std"] == (1 / 255,) * 3
    model = create_model("pointrend_resnet50", **{**AUTHORS, "backbone": "resnet50"})
    state = export_layout(model, layout.name)
    first = model.backbone.stem[0].conv.weight
    assert torch.equal(state["backbone.bottom_up.stem.conv1.weight"], first.flip(1))
    assert {
        "backbone.bottom_up.res2.0.shortcut.norm.bias",
        "backbone.fpn_output5.bias",
        "sem_seg_head.coarse_sem_seg_head.p5.4.norm.weight",
        "sem_seg_head.point_head.predictor.bias",
    } <= state.keys()


@torch.inference_mode()
def test_the_coarse_head_with_group_norms_by_its_definition() -> None:
    fuse = PyramidSum(8, STRIDES, 8, groups=4)
    for parameter in fuse.parameters():
        parameter.uniform_(-0.5, 0.5)
    features, total = [torch.randn(2, 8, 64 // stride, 64 // stride) for stride in STRIDES], torch.zeros(())
    for level, x in zip(fuse.levels, features, strict=True):
        for conv in level:
            y = F.conv2d(x, conv.conv.weight, padding=1)
            x = F.relu(F.group_norm(y, 4, conv.norm.weight, conv.norm.bias))
            if len(x[0, 0]) < 16:
                x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
        total = total + x
    assert relative_error(fuse(features), total) <= TOLERANCE
