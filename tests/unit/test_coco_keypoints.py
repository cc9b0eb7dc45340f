"""Persons with joints: what is read, how they are cut out, how poses are scored, and a run on drawn quadrilaterals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import default_collate
from torchvision import tv_tensors

import segmentarium
from segmentarium.data import InfiniteSampler, TrainingStream, build_dataset, check_data
from segmentarium.data.coco_keypoints import PersonCrop, crop_matrix, keypoint_transform, shown_box
from segmentarium.evaluation import PoseReport, evaluate
from segmentarium.evaluation.poses import PoseScoring, mean_poses, pose_scores
from segmentarium.inference import PoseFinder
from segmentarium.keypoints.heatmaps import in_picture, lower_body
from segmentarium.keypoints.hrnet_pose import COCO_JOINTS
from segmentarium.metrics.oks import keypoint_scores, sigmas_of, similarity
from segmentarium.registry import entry
from segmentarium.training import TrainingOptions, train

CORNERS = ("left_top", "right_top", "right_bottom", "left_bottom")


def written(root: Path, part: str, number: int, seed: int, **changes: Any) -> Path:
    """Pictures of 80 x 60 pixels with a quadrilateral each, whose corners are its joints."""
    random = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index in range(number):
        x, y = random.uniform(8, 30), random.uniform(8, 20)
        wide, high = random.uniform(25, 40), random.uniform(20, 30)
        corners = np.array([(x, y), (x + wide, y), (x + wide, y + high), (x, y + high)]) + random.uniform(-3, 3, (4, 2))
        picture = Image.new("RGB", (80, 60), (20, 20, 30))
        ImageDraw.Draw(picture).polygon([tuple(corner) for corner in corners], fill=(230, 200, 60))
        name = f"{part}{index:03d}.png"
        picture.save(root / "images" / name)
        images.append({"id": index, "file_name": name, "width": 80, "height": 60})
        (left, top), (right, low) = corners.min(0), corners.max(0)
        entry = {
            "id": 100 + index,
            "image_id": index,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": [left, top, right - left, low - top],
            "area": (right - left) * (low - top),
            "keypoints": np.concatenate((corners, np.full((4, 1), 2)), 1).ravel().tolist(),
        }
        annotations.append(entry | (changes if index == 0 else {}))
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "quadrilateral", "keypoints": CORNERS}],
    }
    (root / f"keypoints_{part}.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def test_persons_are_read_with_their_joints(tmp_path: Path) -> None:
    root = written(tmp_path, "train", 3, 0, keypoints=[10.0, 20.0, 2, 30.0, 21.0, 1, 0, 0, 0, 7.0, 7.0, 0])
    dataset = build_dataset("coco_keypoints", root)
    assert (len(dataset), dataset.info.classes, dataset.name(1)) == (3, CORNERS, "train001-101")
    sample = dataset[0]
    assert sample["image"].shape == (3, 60, 80)
    # a hidden joint is labelled, too; of one that is not, the place says nothing
    assert sample["joints"].tolist() == [[10, 20, 1], [30, 21, 1], [0, 0, 0], [0, 0, 0]]
    picture, joints = dataset.load(0)
    assert (picture.size, joints.shape) == ((80, 60), (4, 3))


def test_whole_numbers_are_numbers(tmp_path: Path) -> None:
    dataset = build_dataset("coco_keypoints", written(tmp_path, "train", 2, 0, bbox=[10, 8, 30, 25]))
    boxes = default_collate([dataset[0]["box"], dataset[1]["box"]])
    assert boxes.dtype == torch.float32
    assert boxes[0].tolist() == [10, 8, 29, 24]


@pytest.mark.parametrize("changes", [{"keypoints": [0] * 12}, {"iscrowd": 1}, {"area": 0}, {"bbox": [200, 0, 9, 9]}])
def test_persons_that_teach_nothing_are_left_out(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert len(build_dataset("coco_keypoints", written(tmp_path, "train", 3, 0, **changes))) == 2


def test_what_a_json_lacks_is_named_and_the_area_is_the_box_s(tmp_path: Path) -> None:
    path = written(tmp_path, "train", 2, 0, bbox=[10, 8, 30, 20]) / "keypoints_train.json"

    def without(group: str, key: str) -> Any:
        content = json.loads(path.read_text(encoding="utf-8"))
        del content[group][0][key]
        (tmp_path / "keypoints_val.json").write_text(json.dumps(content), encoding="utf-8")
        return build_dataset("coco_keypoints", tmp_path, "val")

    assert without("annotations", "area").items[0].area == 600
    with pytest.raises(ValueError, match=r"keypoints_val\.json: annotation 100 has no 'bbox'; write it"):
        without("annotations", "bbox")
    with pytest.raises(ValueError, match=r"keypoints_val\.json: picture 0 has no 'width'; write it"):
        without("images", "width")
    content = json.loads(path.read_text(encoding="utf-8"))
    content["annotations"][0]["image_id"] = 7
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="annotation 100 is of picture 7, which is not among its images"):
        build_dataset("coco_keypoints", tmp_path)


def test_errors_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has none of annotations/person_keypoints_train2017\.json"):
        build_dataset("coco_keypoints", tmp_path)
    root = written(tmp_path, "train", 2, 0, keypoints=[1.0, 2.0, 2])
    with pytest.raises(ValueError, match="annotation 100 has 3 numbers for 4 joints"):
        build_dataset("coco_keypoints", root)
    root = written(tmp_path, "train", 2, 0)
    with pytest.raises(ValueError, match="no split 'test'"):
        build_dataset("coco_keypoints", root, "test")
    with pytest.raises(ValueError, match="only masks, segments and classes are examined"):
        check_data(build_dataset("coco_keypoints", root))
    (root / "images" / "train001.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"train001\.png is not there"):
        build_dataset("coco_keypoints", root)


@pytest.mark.parametrize("degrees", [0.0, 30.0])
def test_a_crop_is_the_published_affine_map(degrees: float) -> None:
    """Of three points: the centre, one above it by half the width, turned, and one that makes a right angle with them."""
    centre, width, size = np.array([50.0, 40.0]), 60.0, (32, 24)
    angle = np.deg2rad(degrees)
    above = centre + width / 2 * np.array([np.sin(angle), -np.cos(angle)])
    target_centre, target_above = np.array([12.0, 16.0]), np.array([12.0, 4.0])

    def third(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return b + np.array([b[1] - a[1], a[0] - b[0]])

    source = np.float32([centre, above, third(centre, above)])
    target = np.float32([target_centre, target_above, third(target_centre, target_above)])
    expected = cv2.getAffineTransform(source, target)
    found = crop_matrix(torch.tensor(centre, dtype=torch.float32), width, size, degrees)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_box_has_the_crop_s_shape_and_a_margin() -> None:
    boxes = torch.tensor([[10.0, 20.0, 30.0, 100.0], [10.0, 20.0, 90.0, 40.0]])
    centre, width = shown_box(boxes, (256, 192))
    assert centre.tolist() == [[25, 70], [55, 40]]
    assert width.tolist() == [100 * 0.75 * 1.25, 90 * 1.25]


def test_joints_move_with_the_pixels(tmp_path: Path) -> None:
    """Whatever is drawn, the corners stay at the quadrilateral's corners, and change sides in a mirror."""
    dataset = build_dataset("coco_keypoints", written(tmp_path, "train", 4, 1))
    crop = PersonCrop((64, 48), scale=0.35, rotate=45, flip=0.5, pairs=[(0, 1), (3, 2)])
    stream = TrainingStream(dataset, crop, seed=3)
    for _, key in zip(range(12), InfiniteSampler(4), strict=False):
        sample = stream[key]
        assert sample["image"].shape == (3, 64, 48)
        joints = sample["joints"]
        middle = joints[:, :2].mean(0)
        height, width = sample["image"].shape[-2:]
        for x, y in (0.8 * joints[:, :2] + 0.2 * middle).round().long().tolist():  # a little inwards: bright
            if 0 <= x < width and 0 <= y < height:
                assert sample["image"][0, y, x] > 150
        turn = joints[1, :2] - joints[0, :2], joints[3, :2] - joints[0, :2]
        assert turn[0][0] * turn[1][1] > turn[0][1] * turn[1][0]  # clockwise, mirrored or not


def test_half_a_body_is_shown_as_its_authors_draw_it() -> None:
    """Of 17 joints in a column, 10 pixels apart: the upper eleven, or the six from the hips down."""
    y = torch.arange(17.0) * 10
    joints = torch.stack((torch.full((17,), 50.0), y, torch.ones(17)), 1)
    lower = lower_body(COCO_JOINTS)
    assert lower == list(range(11, 17))
    crop = PersonCrop((64, 48), half=0.3, lower=lower)
    torch.manual_seed(0)
    drawn = [crop.half_body(joints) for _ in range(400)]
    shown = {(tuple(centre.tolist()), round(float(width), 3)) for centre, width in filter(None, drawn)}
    assert shown == {((50, 50), 100 * 0.75 * 1.5), ((50, 135), 50 * 0.75 * 1.5)}
    upper = sum(float(found[0][1]) == 50 for found in filter(None, drawn)) / 400
    assert upper == pytest.approx(0.69, abs=0.06)  # how often a normal number is below 0.5
    # too few of the lower half: the upper one, however the number falls
    few = joints * torch.cat((torch.ones(13), torch.zeros(4)))[:, None]
    assert {float(found[0][1]) for found in (crop.half_body(few) for _ in range(50)) if found} == {50}
    assert PersonCrop((64, 48), half=1.0, lower=lower).half_body(joints * 0) is None
    # in a crop, 48 pixels wide: of persons with more than eight joints alone
    sample = {
        "image": tv_tensors.Image(torch.zeros(3, 200, 100, dtype=torch.uint8)),
        "box": torch.tensor([0.0, 0, 99, 199]),
    }
    always = PersonCrop((64, 48), half=1.0, lower=lower)
    for kept, widths in ((17, (112.5, 56.25)), (13, (112.5,)), (9, (80 * 0.75 * 1.5,)), (8, (199 * 0.75 * 1.25,))):
        given = {**sample, "joints": joints * (torch.arange(17) < kept)[:, None]}
        steps = {round(float(always(given)["joints"][:2, 1].diff()), 2) for _ in range(40)}
        assert steps == {round(10 * 48 / width, 2) for width in widths}


def test_a_place_in_the_crop_leads_back_into_the_picture(tmp_path: Path) -> None:
    dataset = build_dataset("coco_keypoints", written(tmp_path, "train", 2, 1))
    given = dataset[1]
    sample = keypoint_transform((64, 48))(dataset[1])
    centre, width = shown_box(sample["box"][None], (64, 48))
    back = in_picture(sample["joints"][None, :, :2] / 4, centre, width, (16, 12))
    torch.testing.assert_close(back[0], given["joints"][:, :2], atol=1e-3, rtol=0)
    assert sample["image"].as_subclass(Tensor).dtype == torch.float32


def test_similarity_falls_with_the_distance_by_the_joint_s_own_measure() -> None:
    sigmas = sigmas_of(("nose", "left_hip", "tail"))
    assert sigmas.tolist() == [0.026, 0.107, 0.079]
    joints = np.array([[[10.0, 10, 1], [50, 50, 1], [0, 0, 0]]])
    found = joints[..., :2].copy()
    area = np.array([900.0])
    assert similarity(found, joints, area, sigmas) == pytest.approx(1)
    found[0, 0, 0] += 2 * 0.026 * 30  # one deviation of the nose
    found[0, 2] += 1000  # not labelled
    assert similarity(found, joints, area, sigmas) == pytest.approx((np.exp(-0.5) + 1) / 2)


def test_precision_is_averaged_over_recall_and_thresholds() -> None:
    joints = np.zeros((4, 1, 3)) + np.array([0, 0, 1])
    joints[:, 0, 0] = [0, 100, 0, 100]
    area, sigmas = np.full(4, 100.0), np.array([0.1])
    found = joints[..., :2].copy()
    perfect = keypoint_scores([0, 0, 1, 1], found, np.array([0.9, 0.8, 0.7, 0.6]), joints, area, sigmas)
    assert perfect == {"ap": pytest.approx(1), "ap50": pytest.approx(1), "ap75": pytest.approx(1)}
    found[0] += 50  # the surest is wrong: precision is 1/2, 2/3, 3/4 at recalls up to 3/4, and 0 beyond
    wrong = keypoint_scores([0, 0, 1, 1], found, np.array([0.9, 0.8, 0.7, 0.6]), joints, area, sigmas)
    assert wrong["ap50"] == pytest.approx(76 / 101 * 0.75)
    # a little off: within the lower thresholds alone
    off = joints[..., :2] + np.array([0.2 * 10 * np.sqrt(2 * -np.log(0.72)), 0])
    near = keypoint_scores([0, 0, 1, 1], off, np.array([0.9, 0.8, 0.7, 0.6]), joints, area, sigmas)
    assert (near["ap"], near["ap50"], near["ap75"]) == (pytest.approx(0.5), pytest.approx(1), pytest.approx(0))
    # two poses on one person: the better takes it, the other finds none
    both = np.array([[[0.0, 0]], [[0.5, 0]]])
    twice = keypoint_scores([0, 0], both, np.array([0.9, 0.8]), joints[:2], area[:2], sigmas)
    assert twice["ap50"] == pytest.approx(51 / 101)


def test_the_mean_pose_is_the_guess_that_looks_at_nothing(tmp_path: Path) -> None:
    persons = build_dataset("coco_keypoints", written(tmp_path, "train", 12, 0)).items
    mean = mean_poses(persons)
    within = [(pose[:, :2] - person.box[:2]) / person.box[2:] for pose, person in zip(mean, persons, strict=True)]
    np.testing.assert_allclose(within, np.broadcast_to(within[0], np.shape(within)), atol=1e-5)
    scores = pose_scores(persons, mean, CORNERS)
    assert scores["pck"] == 1  # corners lie near the box's
    assert 0 < scores["ap"] < 1
    own = np.stack([person.joints for person in persons]).astype(float)
    assert pose_scores(persons, own, CORNERS)["ap"] == pytest.approx(1)


def test_joints_are_scored_by_their_names(tmp_path: Path) -> None:
    dataset = build_dataset("coco_keypoints", written(tmp_path, "val", 3, 1), "val")
    torch.manual_seed(0)
    model = segmentarium.create_model("hrnet_pose_w32", **entry("hrnet_pose_w32").tiny_arguments())
    with pytest.raises(ValueError, match="no name is common"):
        evaluate(model, dataset)
    model.joints = ("tail", *CORNERS[2:0:-1], *(f"joint {i}" for i in range(14)))
    model.input_size = (64, 48)
    report = evaluate(model, dataset)
    assert isinstance(report, PoseReport)
    assert list(report.pck_by_joint) == ["right_top", "right_bottom"]
    assert report.notes == ["the model does not know left_top, left_bottom, which count nowhere"]
    assert report.labelled == {"right_top": 3, "right_bottom": 3}
    found = PoseFinder(model, flip=True)(dataset.load(0)[0], boxes=[dataset.items[0].box]).joints[0, [2, 1]]
    scoring = PoseScoring(PoseFinder(model, flip=True), dataset)
    assert list(scoring.run(2)) == [1, 2, 3]
    np.testing.assert_allclose(scoring.poses[0, :, :2], found, atol=1e-4)
    for person in dataset.items:
        person.joints[:, 2] = 0
    with pytest.raises(ValueError, match=r"no person of .* has a labelled joint that the model finds \(right_top, "):
        evaluate(model, dataset)


def test_a_network_is_trained_on_joints(tmp_path: Path) -> None:
    root = written(written(tmp_path / "set", "train", 8, 0), "val", 3, 1)
    tiny = {"width": 8, "modules": [1, 1, 1], "blocks": 1, "bottlenecks": 1, "bottleneck_width": 8}
    options = TrainingOptions(
        model="hrnet_pose_w32",
        model_arguments={"backbone_arguments": tiny},
        data="coco_keypoints",
        root=str(root),
        output=str(tmp_path / "run"),
        input_size=(64, 48),
        batch_size=4,
        max_steps=4,
        val_every=2,
        save_every=4,
        optimizer="adamw",
        learning_rate=1e-3,
        precision="32",
        workers=0,
        accelerator="cpu",
    )
    result = train(options)
    assert result.best_line.startswith("AP ")
    assert 0 <= result.best["ap"] <= result.best["ap50"] <= 1
    assert list((tmp_path / "run" / "pictures").glob("*.png"))
    model = segmentarium.load(result.last_weights)
    assert (model.kind, model.joints, model.input_size) == ("keypoints", CORNERS, (64, 48))
    # the verb says what the run's evaluation said, of the crops that it was trained on
    report = evaluate(tmp_path / "run" / "best.safetensors", build_dataset("coco_keypoints", root, "val"))
    assert isinstance(report, PoseReport)
    for name in ("ap", "ap50", "ap75", "pck"):
        assert getattr(report, name) == pytest.approx(result.best[name], abs=1e-3)
    assert "crops of 64×48" in report.options["protocol"]
    assert evaluate(model, build_dataset("coco_keypoints", root), limit=2).warning.startswith("8 of the 8 pictures")
    with pytest.raises(ValueError, match="has no use for crop_size"):
        train(options.replace(crop_size=(64, 64), output=str(tmp_path / "other")))
    with pytest.raises(ValueError, match="finds joints, which are labelled, and has no use for learn, adapt; leave"):
        train(options.replace(learn="pairs", adapt={"homographies": 3}, output=str(tmp_path / "other")))
