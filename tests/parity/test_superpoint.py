"""SuperPoint against transformers' and the stored outputs of rpautrat's pipeline; its losses against the public ones."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from segmentarium.keypoints.cells import cell_labels
from segmentarium.keypoints.superpoint import SuperPoint
from segmentarium.labels import IGNORE_INDEX
from segmentarium.losses import CrossEntropy, DescriptorHinge, SoftmaxBCE
from segmentarium.metrics.repeatability import detection_ap, localisation_error, repeatability
from segmentarium.registry import create_model
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.source import open_weights
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, as_theirs, example, golden_state, loaded, randomise, relative_error

SMALL = {"widths": [8, 8, 16, 16], "head_width": 32, "descriptor_size": 24}


def by_place(points: Tensor) -> Tensor:
    """The order of points by y, then x."""
    return torch.from_numpy(np.lexsort(points.double().T.numpy()))


@torch.inference_mode()
def test_every_step_of_rpautrat_s_pipeline(golden: ModuleType) -> None:
    state, _, arrays = golden_state(golden, "keypoint/superpoint-open-keypoints")
    layout = get_layout("superpoint/rpautrat")
    model = create_model(layout.model, **layout.arguments(state)).eval()
    assert load_state(model, state, rules=layout.rules).complete
    assert isinstance(model, SuperPoint)
    for form in (model, model.deploy()):
        found = form.detect(torch.from_numpy(arrays["target/image"]), count=200)
        theirs = torch.from_numpy(arrays["out/keypoints/0"])
        ours, order = by_place(found.keypoints), by_place(theirs)
        assert torch.equal(found.keypoints[ours], theirs[order])
        for mine, name in ((found.keypoint_scores, "scores"), (found.descriptors, "descriptors")):
            assert relative_error(mine[ours], torch.from_numpy(arrays[f"out/{name}/0"])[order]) <= TOLERANCE
        assert (found.keypoint_scores.diff() <= 0).all()


@torch.inference_mode()
def test_the_open_form_s_raw_descriptors(golden: ModuleType) -> None:
    case = loaded(golden, "superpoint/rpautrat", "keypoint/superpoint-open")
    raw = case.model.descriptor(case.model.encode(case.image))
    assert relative_error(raw, torch.from_numpy(case.arrays["out/desc_raw"])) <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("size", [(96, 128), (101, 67)])
def test_equals_transformers(size: tuple[int, int]) -> None:
    from transformers import SuperPointConfig, SuperPointForKeypointDetection

    torch.manual_seed(0)
    config = SuperPointConfig(
        encoder_hidden_sizes=SMALL["widths"],
        decoder_hidden_size=32,
        descriptor_decoder_dim=24,
        keypoint_threshold=0.016,
    )
    theirs = SuperPointForKeypointDetection(config).eval()
    for parameter in theirs.parameters():
        parameter.normal_(std=0.15)
    state = theirs.state_dict()
    layout = get_layout("superpoint/transformers")
    assert recognise(state) is layout
    assert layout.arguments(state) == {"form": "magicleap", **SMALL}
    ours = create_model(layout.model, **layout.arguments(state)).eval()
    assert load_state(ours, state, rules=layout.rules).complete
    back = to_theirs(ours.state_dict(), layout.rules)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())

    assert isinstance(ours, SuperPoint)
    image = torch.rand(1, 1, *size)
    reference = theirs(image.expand(1, 3, *size))
    found = ours.detect(image, threshold=0.016)
    points = (reference.keypoints[0] * torch.tensor([size[1], size[0]])).round()
    # theirs measures the border on the right and below from eight times the size: it leaves points there
    border = torch.tensor([size[1] // 8, size[0] // 8]) * 8 - 4
    within = (points < border).all(1)
    assert within.sum() > 20
    mine, order = by_place(found.keypoints), by_place(points[within])
    assert torch.equal(found.keypoints[mine], points[within][order])
    assert relative_error(found.keypoint_scores[mine], reference.scores[0][within][order]) <= TOLERANCE
    assert relative_error(found.descriptors[mine], reference.descriptors[0][within][order]) <= TOLERANCE


def test_a_matcher_of_transformers_gives_its_detector() -> None:
    from transformers import LightGlueConfig, LightGlueForKeypointMatching

    with torch.device("meta"):
        state = LightGlueForKeypointMatching(LightGlueConfig(num_hidden_layers=1)).state_dict()
    stored = open_weights(state)
    assert stored.layout is get_layout("superpoint/transformers_matching")
    assert stored.entry.name == "superpoint"
    ours = {key for key in state if key.startswith("keypoint_detector.")}
    assert len(ours) == 24
    as_theirs("superpoint/yyjau", "superpoint", form="yyjau")


@torch.inference_mode()
def test_yyjau_s_form_is_convolution_norm_activation() -> None:
    model = randomise(create_model("superpoint", form="yyjau", **SMALL))
    assert isinstance(model, SuperPoint)
    x = torch.rand(1, 1, 16, 16)
    unit = model.encoder[0][0]
    assert torch.equal(unit(x), torch.relu(unit.norm(unit.conv(x))))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.deploy().modules())


# losses ------------------------------------------------------------------------------------------------------------------


def test_detector_losses_equal_the_public_ones(golden: ModuleType) -> None:
    description, arrays = golden.load("keypoint/superpoint-detector-loss")
    logits = example(golden, description, "logits").requires_grad_()
    points, valid = (torch.from_numpy(arrays[f"target/{name}"]) for name in ("keypoint_map", "valid_mask"))
    labels = cell_labels(points, valid)
    whole = labels != IGNORE_INDEX
    assert torch.equal(whole, torch.from_numpy(arrays["out/cell_mask"]) > 0)
    assert torch.equal(cell_labels(points), torch.from_numpy(arrays["out/cell_label"]).long())
    loss = CrossEntropy()(logits, labels)
    assert loss.item() == pytest.approx(float(arrays["out/loss"]), rel=TOLERANCE)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert relative_error(gradient, torch.from_numpy(arrays["grad/loss/logits"])) <= TOLERANCE
    assert SoftmaxBCE()(logits, labels).item() == pytest.approx(float(arrays["out/loss_bce"]), rel=TOLERANCE)


def test_descriptor_losses_equal_the_public_ones(golden: ModuleType) -> None:
    description, arrays = golden.load("keypoint/superpoint-descriptor-loss")
    given = [example(golden, description, name).requires_grad_() for name in ("descriptors", "warped_descriptors")]
    homography = torch.from_numpy(arrays["target/homography"])
    valid = cell_labels(torch.zeros(2, 48, 64), torch.from_numpy(arrays["target/valid_mask"])) != IGNORE_INDEX
    # eric-yyjau's divides by one cell more, and counts the pictures twice
    theirs = float(valid.sum() / (len(valid) * (valid.sum() + 1)))
    for name, loss, mask, factor in (
        ("paper", DescriptorHinge(), None, 1.0),
        ("paper_masked", DescriptorHinge(), valid, 1.0),
        ("open_250", DescriptorHinge.rpautrat(250.0), valid, 1.0),
        ("open_0.05", DescriptorHinge.rpautrat(), valid, 1.0),
        ("dense_4", DescriptorHinge(radius=4.0), valid, theirs),
        ("dense_8", DescriptorHinge(), valid, theirs),
    ):
        found = loss(*given, homography, mask)
        assert found.item() * factor == pytest.approx(float(arrays[f"out/{name}"]), rel=TOLERANCE), name
        if f"grad/{name}/descriptors" in arrays:
            for mine, which in zip(torch.autograd.grad(found, given), ("", "warped_"), strict=True):
                stored = torch.from_numpy(arrays[f"grad/{name}/{which}descriptors"])
                assert relative_error(mine, stored) <= TOLERANCE, name


# scores ------------------------------------------------------------------------------------------------------------------


def test_scores_of_points_equal_rpautrat_s(golden: ModuleType) -> None:
    _, arrays = golden.load("keypoint/repeatability")

    def best_first(prob: np.ndarray, least: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        y, x = (prob > least).nonzero()
        order = np.argsort(-prob[y, x], kind="stable")
        return np.stack((x, y), 1)[order].astype(float), prob[y, x][order]

    pairs = [
        {k: arrays[f"target/{k}/{i}"] for k in ("prob", "warped_prob", "homography", "keypoint_map")} for i in range(3)
    ]
    size = pairs[0]["prob"].shape
    for count in (300, 20):
        for distance in (1, 3):
            shares = [
                repeatability(
                    best_first(pair["prob"])[0],
                    best_first(pair["warped_prob"])[0],
                    pair["homography"],
                    (size, size),
                    count=count,
                    distance=distance,
                ).share
                for pair in pairs
            ]
            assert np.mean(shares) == pytest.approx(float(arrays[f"out/repeatability/{count}/{distance}"]), rel=1e-6)
    labelled = [np.argwhere(pair["keypoint_map"])[:, ::-1].astype(float) for pair in pairs]
    found = [best_first(pair["prob"], 1e-4) for pair in pairs]
    ap = detection_ap([points for points, _ in found], [scores for _, scores in found], labelled)
    assert ap == pytest.approx(float(arrays["out/mAP"]), rel=1e-6)
    sure = [best_first(pair["prob"], 0.3)[0] for pair in pairs]
    assert localisation_error(sure, labelled) == pytest.approx(float(arrays["out/localization_error"]), rel=1e-6)
