"""Heat maps of joints: what they are learnt from, how places are read off them; the network that gives them."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

import segmentarium
from segmentarium.keypoints.heatmaps import in_picture, mirror_pairs, mirrored, peaks, refined
from segmentarium.keypoints.hrnet_pose import COCO_JOINTS, HRNetPose
from segmentarium.losses import JointsMSE, joint_heatmaps, weighted_mse
from segmentarium.metrics.oks import pck
from segmentarium.registry import create_model, entry
from tests.parity.comparison import randomise, relative_error


@pytest.fixture(scope="module")
def stored(golden: ModuleType) -> dict[str, Tensor]:
    """What the authors' functions made of random heat maps, which stand under "heatmaps"."""
    description, arrays = golden.load("backbone/hrnet-pose-heatmaps")
    maps = golden.example_input("heatmaps", tuple(description["inputs"]["heatmaps"]))
    return {name: torch.from_numpy(array) for name, array in {**arrays, "heatmaps": maps}.items()}


def test_places_equal_the_authors(stored: dict[str, Tensor]) -> None:
    maps = stored["heatmaps"]
    places, values = peaks(maps)
    assert torch.equal(places, stored["out/max_preds"])
    assert torch.equal(values, stored["out/max_vals"][..., 0])
    box_width = stored["target/scale"][:, 0] * 200
    found = in_picture(refined(maps, places), stored["target/center"].float(), box_width.float(), maps.shape[-2:])
    assert relative_error(found, stored["out/final_preds"]) < 1e-5


def test_the_mirror_equals_the_authors(stored: dict[str, Tensor]) -> None:
    assert torch.equal(mirrored(stored["heatmaps"], [(0, 1), (2, 4)]), stored["out/flip_back"])


def test_targets_and_losses_equal_the_authors(stored: dict[str, Tensor]) -> None:
    joints = torch.cat((stored["target/joints"][:, :2], stored["target/visible"][:, :1]), 1).float()
    target, weight = joint_heatmaps(joints, (32, 24))
    assert relative_error(target, stored["target/generated"]) < 1e-6
    assert torch.equal(weight, stored["target/generated_weight"][:, 0])
    maps, wanted, weights = stored["heatmaps"], stored["target/target"], stored["target/weight"][..., 0]
    found = torch.stack((weighted_mse(maps, wanted, weights), weighted_mse(maps, wanted, torch.ones_like(weights))))
    assert relative_error(found, stored["out/losses"]) < 1e-5


def test_a_target_is_one_at_its_cell_and_ends_at_three_sigma() -> None:
    joints = torch.tensor(
        [[41.0, 21.9, 1.0], [0.0, 0.0, 1.0], [4.0 * 23 + 30, 4.0, 1.0], [9.0, 9.0, 0.0], [-200, 0, 1]]
    )
    target, weight = joint_heatmaps(joints, (32, 24))
    assert weight.tolist() == [1, 1, 0, 0, 0]
    assert [int(peak) for peak in peaks(target[None])[0][0, 0]] == [10, 5]  # 10.25 and 5.48 cells, rounded
    assert target[0, 5, 10] == 1
    assert target[0].count_nonzero() == (5 + 7) * 13
    assert target[1].count_nonzero() == 7 * 7  # cut off by two edges
    assert not target[2:].any()


def test_the_loss_pulls_only_at_joints_that_are_labelled() -> None:
    maps = torch.zeros(2, 3, 16, 12, requires_grad=True)
    joints = torch.tensor([[20.0, 30.0, 1.0], [5.0, 5.0, 0.0], [9.0, 9.0, 1.0]]).expand(2, 3, 3)
    JointsMSE()(maps, joints).backward()
    assert maps.grad is not None
    assert (maps.grad[:, 0] <= 0).all()
    assert not maps.grad[:, 1].any()
    assert maps.grad[0, 0].argmin() == 8 * 12 + 5  # row 30 / 4, rounded up from 7.5 + 0.5
    with pytest.raises(ValueError, match=r"joints \(2, 4, 3\)"):
        JointsMSE()(maps, torch.zeros(2, 4, 3))


def test_a_quarter_of_a_cell_towards_the_larger_neighbour() -> None:
    maps = torch.zeros(1, 3, 8, 8)
    maps[0, 0, 4, 4], maps[0, 0, 4, 5], maps[0, 0, 3, 4] = 1.0, 0.5, 0.2
    maps[0, 1, 1, 1] = 1.0  # next to the edge: it stays
    maps[0, 1, 1, 2] = 0.9
    maps[0, 2] = -1.0  # nothing found
    places, values = peaks(maps)
    assert places[0].tolist() == [[4, 4], [1, 1], [0, 0]]
    assert refined(maps, places)[0].tolist() == [[4.25, 3.75], [1, 1], [0, 0]]
    assert values[0].tolist() == [1, 1, -1]


def test_joints_change_sides_in_a_mirror() -> None:
    pairs = mirror_pairs(COCO_JOINTS)
    assert pairs == [(i, i + 1) for i in range(1, 17, 2)]
    assert mirror_pairs(("left_hand", "tail", "cleft")) == []
    assert mirror_pairs(("Top right", "Top left", "paw-left", "paw-right")) == [(1, 0), (2, 3)]


def tiny(**arguments: object) -> HRNetPose:
    model = randomise(create_model("hrnet_pose_w32", **{**entry("hrnet_pose_w32").tiny, **arguments}))
    assert isinstance(model, HRNetPose)
    torch.nn.init.normal_(model.final.weight)
    return model


@torch.no_grad()
def test_detect_gives_every_joint_in_pixels() -> None:
    model = tiny()
    image = torch.randn(3, 96, 64)
    found = model.detect(image)
    maps = model(image[None])
    assert maps.shape == (1, 17, 24, 16)
    greatest = maps[0].flatten(1).argmax(1)
    cells = torch.stack((greatest % 16, greatest // 16), 1)
    assert ((found.keypoints / 4 - cells).abs() <= 0.25)[found.keypoint_scores > 0].all()
    assert torch.equal(found.keypoint_scores, maps[0].flatten(1).amax(1))
    assert found.image_size.tolist() == [64, 96]
    assert found.descriptors.shape == (17, 0)
    best = model.detect(image, count=3)
    assert torch.equal(best.keypoint_scores, found.keypoint_scores.sort(descending=True).values[:3])
    with pytest.raises(ValueError, match="detect takes one picture"):
        model.detect(torch.zeros(2, 3, 64, 64))


@torch.no_grad()
def test_the_mirrored_picture_gives_the_mirrored_pose() -> None:
    """Averaged with its mirror, a picture and its mirror image have the same heat maps, but for the shift by a cell."""
    model = tiny()
    image = torch.randn(1, 3, 64, 64)
    plain, other = model(image), mirrored(model(image.flip(-1)), mirror_pairs(model.joints))
    expected = plain.clone()
    expected[..., 0] += other[..., 0]
    expected[..., 1:] += other[..., :-1]
    assert torch.allclose(model.heatmaps(image, flip=True), expected / 2)
    assert torch.equal(model.heatmaps(image), plain)


def test_names_of_joints_stand_in_the_file(tmp_path: object) -> None:
    model = tiny(num_joints=3)
    assert model.joints == ("joint 0", "joint 1", "joint 2")
    model.joints = ("left_ear", "right_ear", "nose")
    path = segmentarium.save(model, f"{tmp_path}/model.safetensors")
    again = segmentarium.load(path)
    assert isinstance(again, HRNetPose)
    assert again.joints == model.joints
    with pytest.warns(UserWarning, match="another shape"):
        other = create_model("hrnet_pose_w32", weights=path, num_joints=2)
    assert isinstance(other, HRNetPose)
    assert other.joints == ("joint 0", "joint 1")


def test_what_a_variant_says_of_its_backbone_is_not_said_of_another() -> None:
    with torch.device("meta"):
        model = create_model("fcn_hr18", num_classes=3, backbone="resnet18")
        assert create_model("fcn_hr18", num_classes=3).backbone.stages[0][0].upsample == "bilinear"
    assert model.decoder.fuse.in_channels == sum(model.backbone.channels)


def test_another_backbone_says_which_feature_it_gives() -> None:
    with torch.device("meta"):
        with pytest.raises(ValueError, match=r"strides \(2,\), and heat maps want the one of stride 4"):
            create_model("hrnet_pose_w32", backbone="resnet18")
        model = create_model("hrnet_pose_w32", backbone="resnet18", backbone_arguments={"out_indices": (1,)})
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 17, 16, 16)
    with pytest.raises(ValueError, match="num_joints is 0"):
        create_model("hrnet_pose_w32", num_joints=0)


def test_a_joint_is_correct_within_a_share_of_its_person_s_box() -> None:
    joints = np.array([[[10.0, 10, 1], [50, 20, 1], [30, 30, 0]]])
    found = np.array([[[10.0, 29], [50, 41], [0, 0]]])
    boxes = np.array([[0.0, 0, 40, 100]])
    assert pck(found, joints, boxes) == 0.5
    assert pck(found, joints, boxes, 0.25) == 1
    assert pck(found, joints * (1, 1, 0), boxes) == 0
