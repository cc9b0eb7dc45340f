"""Mask R-CNN beside torchvision's, with random weights: boxes, masks, losses, and the keys of both versions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from segmentarium.contracts.results import boxes_around
from segmentarium.losses.segments import Segments
from segmentarium.registry import entry
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, as_theirs, check_earlier_keys, randomise, relative_error

CLASSES = 3
SIZE = (96, 128)  # multiples of 32: theirs pads to such
# all that is sampled is taken, so that nothing is drawn
ALL: dict[str, Any] = {
    "rpn_batch_size_per_image": 10**6,
    "rpn_positive_fraction": 0.5,
    "box_batch_size_per_image": 10**6,
    "box_positive_fraction": 0.5,
}
FEW = {f"rpn_{when}_nms_top_n_{phase}": 60 for when in ("pre", "post") for phase in ("train", "test")}


def second() -> dict[str, Any]:
    """What torchvision's second version has in place of the first's."""
    norm = torch.nn.BatchNorm2d
    return {
        "rpn_head": RPNHead(256, 3, conv_depth=2),
        "box_head": FastRCNNConvFCHead((256, 7, 7), [256] * 4, [256], norm_layer=norm),
        "box_predictor": FastRCNNPredictor(256, CLASSES + 1),
        "mask_head": MaskRCNNHeads(256, [256] * 4, 1, norm_layer=norm),
    }


@pytest.fixture(scope="module", params=["torchvision", "torchvision_v2"])
def both(request: pytest.FixtureRequest) -> tuple[Any, Any, str]:
    """Theirs, on a smaller trunk, and ours with the same weights, which make boxes of all kinds."""
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d
    trunk = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=norm, trainable_layers=5)
    own: dict[str, Any] = {"box_head": TwoMLPHead(256 * 49, 256), "box_predictor": FastRCNNPredictor(256, CLASSES + 1)}
    if request.param == "torchvision_v2":
        trunk.fpn = FeaturePyramidNetwork([64, 128, 256, 512], 256, LastLevelMaxPool(), norm)
        own = second()
    mask = {"mask_predictor": MaskRCNNPredictor(256, 256, CLASSES + 1)}
    theirs = MaskRCNN(trunk, min_size=SIZE[0], max_size=SIZE[1], box_detections_per_img=20, **own, **mask, **FEW, **ALL)
    randomise(theirs)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.startswith("backbone.fpn") and name.endswith("weight") and parameter.ndim == 4:
                parameter.mul_(0.3)
            elif "cls_logits" in name or "bbox_pred" in name or "cls_score" in name:
                parameter.normal_(std=0.02 if "head" in name else 0.01)
    layout = get_layout(f"mask_rcnn/{request.param}")
    assert recognise(theirs.state_dict()) is layout
    arguments = {**entry(layout.model).arguments, **layout.arguments(theirs.state_dict())}
    ours = entry(layout.model).build(**arguments, proposals=(60, 60), detections=20).eval()
    assert load_state(ours, theirs.state_dict(), rules=layout.rules).complete
    return theirs, ours, layout.name


def pictures() -> Tensor:
    return torch.rand((2, 3, *SIZE), generator=torch.Generator().manual_seed(1))


def normalised(ours: Any) -> Tensor:
    return ours.preprocessing.normalise(pictures())


def test_keys_read_back(both: tuple[Any, Any, str]) -> None:
    theirs, ours, name = both
    back = to_theirs(ours.state_dict(), get_layout(name).rules)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in back.items())


@torch.no_grad()
def test_boxes_and_masks_are_equal(both: tuple[Any, Any, str]) -> None:
    theirs, ours, _ = both
    expected = theirs.eval()(list(pictures()))
    boxes, labels, scores, masks = ours(normalised(ours))
    for i, one in enumerate(expected):
        number = len(one["labels"])
        assert number == int((labels[i] >= 0).sum()) > 5
        assert torch.equal(labels[i, :number] + 1, one["labels"])
        assert relative_error(boxes[i, :number], one["boxes"]) <= TOLERANCE
        assert relative_error(scores[i, :number], one["scores"]) <= TOLERANCE
        assert relative_error(masks[i, :number], one["masks"][:, 0]) <= TOLERANCE


def objects() -> list[Segments]:
    found = []
    for left in (10, 40):
        masks = torch.zeros((2, *SIZE), dtype=torch.bool)
        masks[0, 20:70, left : left + 40] = True
        masks[0, 20:30, left : left + 9] = False
        masks[1, 60:90, 80:120] = True
        found.append(Segments(torch.tensor([0, 2]), masks))
    return found


def test_losses_are_equal_where_nothing_is_drawn(both: tuple[Any, Any, str], monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours, _ = both
    monkeypatch.setattr("segmentarium.instances.rpn.SAMPLED", 10**6)
    ours.decoder.sampled = 4 * 10**6  # a quarter of it are objects, half of theirs
    targets = [
        {"boxes": boxes_around(one.masks), "labels": one.labels + 1, "masks": one.masks.byte()} for one in objects()
    ]
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    expected = theirs(list(pictures()), targets)
    theirs.eval()
    losses = ours.criterion(ours.forward_train(normalised(ours), objects()), {})
    names = {
        "loss_objectness": "objectness",
        "loss_rpn_box_reg": "proposals",
        "loss_classifier": "class_0",
        "loss_box_reg": "box_0",
        "loss_mask": "mask_0",
    }
    assert losses.keys() == set(names.values())
    for name, mine in names.items():
        assert float(losses[mine].detach()) == pytest.approx(float(expected[name].detach()), rel=TOLERANCE), name


def test_other_layouts_have_a_key_for_every_tensor() -> None:
    as_theirs("mask_rcnn/mmdet", "mask_rcnn_resnet50")
    as_theirs("mask_rcnn/mmdet", "mask_rcnn_resnet101", num_classes=1203, detections=300, score=1e-4)
    as_theirs("cascade_mask_rcnn/mmdet", "cascade_mask_rcnn_resnet50")
    as_theirs("htc/mmdet", "htc_resnet50", semantic_classes=183)
    as_theirs("htc/mmdet", "htc_resnet101", semantic_classes=183, backbone="resnext101_64x4d")
    as_theirs(
        "mask_rcnn/detectron2",
        "mask_rcnn_resnet101",
        num_classes=1230,
        dropped={"pixel_mean": (3, 1, 1), "proposal_generator.anchor_generator.cell_anchors.0": (3, 4)},
    )
    told: dict[str, Any] = {
        "classifier": "eql",
        "class_loss": "eql",
        "class_loss_arguments": {"frequencies": [1.0] * 7},
    }
    as_theirs(
        "mask_rcnn/detectron2", "mask_rcnn_resnet50", num_classes=7, **told
    )  # of equalisation loss: no background


def test_torchvisions_first_files() -> None:
    earlier = {f"roi_heads.mask_head.{i}.0": f"roi_heads.mask_head.mask_fcn{i + 1}" for i in range(4)}
    earlier |= {f"_blocks.{i}.0": f"_blocks.{i}" for i in range(4)}
    check_earlier_keys("mask_rcnn/torchvision", {**earlier, "rpn.head.conv.0.0": "rpn.head.conv"})
