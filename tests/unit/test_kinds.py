"""Every kind of model: counted, deployed and exported through `example()` by code that does not know the kind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.benchmarking.size import count, multiply_adds, parameters_millions
from segmentarium.composition import EncoderDecoder
from segmentarium.contracts import (
    Classifier,
    Decoder,
    Detector3d,
    InstanceModel,
    InstanceSet,
    KeypointModel,
    MaskModel,
    MaskSet,
    Model,
    Pretrainer,
    SegmentationModel,
    Term,
)
from segmentarium.contracts.point_kinds import local_maxima
from segmentarium.layers.conv import ConvNormAct
from segmentarium.registry import Card, Entry, Paper

PAPER = Paper(title="t", authors="a", venue="v", year=2026, url="https://example.org")


class Stem(nn.Sequential):
    """Two convolutions of stride 2 with batch norm, and one that only training uses."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(ConvNormAct(in_channels, 8, 3, 2), ConvNormAct(8, 8, 3, 2))
        self.edge = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self[1](self[0](x))


class TinySegmenter(SegmentationModel):
    training_only = ("stem.edge",)

    def __init__(self, *, num_classes: int = 3, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.stem, self.head = Stem(in_channels), nn.Conv2d(8, num_classes, 1)

    def logits(self, image: Tensor) -> Tensor:
        return self.head(self.stem(image))


class TinyMasks(MaskModel):
    training_only = ("stem.edge",)

    def __init__(self, *, num_classes: int = 3, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.stem = Stem(in_channels)
        self.queries, self.classify = nn.Conv2d(8, 5, 1), nn.Linear(8, 5 * (num_classes + 1))

    def forward_masks(self, image: Tensor) -> MaskSet:
        x = self.stem(image)
        return MaskSet(self.classify(x.mean((2, 3))).unflatten(1, (5, -1)), self.queries(x))


class TinyPretrainer(Pretrainer):
    def __init__(self) -> None:
        super().__init__(create_backbone("resnet18", width=8, out_indices=(1,)))
        self.predict = nn.Conv2d(self.backbone.channels[-1], 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.predict(self.backbone(image)[-1])


class TinyKeypoints(KeypointModel):
    training_only = ("stem.edge",)
    stride = 4

    def __init__(self, *, in_channels: int = 3) -> None:
        super().__init__(in_channels=in_channels)
        self.stem = Stem(in_channels)
        self.score, self.describe = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 6, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(image)
        return nn.functional.pixel_shuffle(self.score(x).softmax(1), 4)[:, 0], self.describe(x)


class TinyInstances(InstanceModel):
    training_only = ("stem.edge",)

    def __init__(self, *, num_classes: int = 1, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.stem, self.head = Stem(in_channels), nn.Conv2d(8, 2, 1)

    def forward_instances(self, image: Tensor) -> InstanceSet:
        masks = nn.functional.adaptive_avg_pool2d(self.head(self.stem(image)).sigmoid(), 4)
        scores = masks.amax((2, 3))
        boxes = scores[..., None] * torch.tensor((0.0, 0.0, 8.0, 8.0), device=image.device)
        labels = torch.stack((torch.zeros_like(scores[:, 0]), -torch.ones_like(scores[:, 0])), 1).long()
        return InstanceSet(boxes, labels, scores, masks)


class TinyDetector(Detector3d):
    inputs = ("points", "map")

    def __init__(self) -> None:
        super().__init__(num_classes=1, area=(0, -40, -3, 70, 40, 1), map_channels=2)
        self.points, self.raster = nn.Linear(4, 8), ConvNormAct(2, 8, 3, 2)
        self.head = nn.Linear(8, 8)

    def forward(self, points: Tensor, raster: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.points(points).amax(1) + self.raster(raster).mean((2, 3))
        boxes, score = self.head(x)[:, None].split((7, 1), -1)
        return boxes, torch.zeros_like(score[..., 0]).long(), score[..., 0].sigmoid()


def tiny_classifier() -> Classifier:
    return Classifier(create_backbone("resnet18", width=8, num_classes=5))


KINDS = {
    "segmenter": TinySegmenter,
    "mask": TinyMasks,
    "classifier": tiny_classifier,
    "pretrainer": TinyPretrainer,
    "keypoints": TinyKeypoints,
    "instances": TinyInstances,
    "detector3d": TinyDetector,
}
TRAINED_ONLY = [kind for kind, build in KINDS.items() if getattr(build, "training_only", ())]


def made(kind: str) -> Model:
    torch.manual_seed(0)
    model = KINDS[kind]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def filled(model: Model, batch: int = 2, size: tuple[int, int] = (64, 96)) -> tuple[Tensor, ...]:
    """Inputs of the shapes of `example`, with noise on them."""
    generator = torch.Generator().manual_seed(1)
    return tuple(x + torch.randn(x.shape, generator=generator) for x in model.example(batch, size))


def tensors(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_takes_what_its_example_shows(kind: str) -> None:
    model = made(kind)
    assert model.kind == kind
    example = model.example(2, (64, 96))
    assert len(example) == len(model.inputs)
    assert all(len(x) == 2 for x in example)
    outputs = tensors(model(*example))
    assert len(outputs) == len(model.output_names)
    assert all(len(output) == 2 and output.isfinite().all() for output in outputs)
    double = model.double()
    assert all(x.dtype == torch.float64 for x in double.example())


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_counted_without_being_known(kind: str) -> None:
    found = Entry("tiny", KINDS[kind], {}, Card(paper=PAPER, flops_size=(64, 96)), "elsewhere")
    if kind == "classifier":  # there, what is registered is the backbone
        backbone = type(made(kind).backbone)
        arguments = {"depth": 18, "width": 8, "num_classes": 5}
        found = Entry("tiny", backbone, arguments, Card(paper=PAPER, flops_size=(64, 96)), "elsewhere")
    counted, model = count(found), made(kind)
    whole = sum(p.numel() for p in model.parameters())
    left_out = sum(p.numel() for p in model.get_submodule("stem.edge").parameters()) if kind in TRAINED_ONLY else 0
    assert counted["parameters"] == round((whole - left_out) / 1e6, 3)
    assert parameters_millions(model) * 1e6 == pytest.approx(whole)
    assert parameters_millions(model, training_only=False) * 1e6 == pytest.approx(whole - left_out)
    assert counted["flops"] == round(multiply_adds(model, *model.example(1, (64, 96))), 3)
    assert counted["flops_size"] == [64, 96]


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_deployed_without_being_known(kind: str) -> None:
    model = made(kind)
    inputs = filled(model)
    deployed = model.deploy()
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())
    if kind in TRAINED_ONLY:
        assert not hasattr(deployed.stem, "edge")
        assert hasattr(model.stem, "edge")
    with torch.no_grad():
        for ours, theirs in zip(tensors(deployed(*inputs)), tensors(model(*inputs)), strict=True):
            assert torch.allclose(ours.float(), theirs.float(), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_exported_without_being_known(kind: str) -> None:
    model = made(kind).deploy()
    inputs = filled(model, 2)
    program = torch.export.export(model, inputs, dynamic_shapes=[{0: torch.export.Dim.DYNAMIC} for _ in inputs])
    others = filled(model, 3)
    with torch.no_grad():
        for ours, theirs in zip(tensors(program.module()(*others)), tensors(model(*others)), strict=True):
            assert torch.allclose(ours.float(), theirs.float(), atol=1e-5)


def test_a_branch_inside_a_decoder_is_neither_counted_nor_deployed() -> None:
    class WithEdge(Decoder):
        training_only = ("edge",)

        def __init__(self, *, channels: tuple[int, ...], strides: tuple[int, ...], num_classes: int) -> None:
            super().__init__()
            self.head, self.edge = nn.Conv2d(channels[-1], num_classes, 1), nn.Conv2d(channels[-1], 1, 1)
            self.edge_width = nn.Conv2d(channels[-1], 1, 1)  # begins like it, and stays

        def forward(self, features: list[Tensor]) -> Tensor:
            return self.head(features[-1])

    model = EncoderDecoder(WithEdge, num_classes=2, backbone=create_backbone("resnet18", width=8))
    assert model.training_only == ("auxiliary", "decoder.edge")
    all_of_it, inference = parameters_millions(model), parameters_millions(model, training_only=False)
    assert (all_of_it - inference) * 1e6 == pytest.approx(65)
    deployed = model.deploy()
    assert not hasattr(deployed.decoder, "edge")
    assert hasattr(deployed.decoder, "edge_width")


# keypoints, instances, boxes --------------------------------------------------------------------------------------------


class GivenKeypoints(KeypointModel):
    """Gives the maps that it was made with."""

    def __init__(self, scores: Tensor, dense: Tensor) -> None:
        super().__init__(in_channels=1)
        self.scores, self.dense = scores, dense

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.scores, self.dense


def test_keypoints_are_peaks_with_the_descriptor_of_their_place() -> None:
    scores = torch.zeros(1, 40, 48)
    scores[0, 10, 12], scores[0, 12, 14] = 0.9, 0.8  # the second within the first's radius
    scores[0, 30, 20], scores[0, 1, 40], scores[0, 20, 40] = 0.5, 0.99, 0.004  # one at the edge, one too faint
    dense = torch.randn(1, 6, 5, 6, generator=torch.Generator().manual_seed(0))
    found = GivenKeypoints(scores, dense).detect(torch.zeros(1, 40, 48))
    assert found.keypoints.tolist() == [[12, 10], [20, 30]]
    assert found.keypoint_scores.tolist() == pytest.approx([0.9, 0.5])
    assert found.image_size.tolist() == [48, 40]
    # x = 12, y = 10 is, in cells of 8 pixels, 1.0625 and 0.8125 from the first cell's centre
    rows = dense[0, :, 0] * 0.1875 + dense[0, :, 1] * 0.8125
    by_hand = rows[:, 1] * 0.9375 + rows[:, 2] * 0.0625
    assert torch.allclose(found.descriptors[0], by_hand / by_hand.norm(), atol=1e-6)
    assert len(GivenKeypoints(scores, dense).detect(torch.zeros(1, 1, 40, 48), count=1).keypoints) == 1
    with pytest.raises(ValueError, match="one picture, and got 2"):
        GivenKeypoints(scores, dense).detect(torch.zeros(2, 1, 40, 48))


def test_keypoints_have_the_names_that_lightglue_takes() -> None:
    found = made("keypoints").detect(torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(0)))
    assert len(found.keypoints) > 3
    given = found.to_lightglue()
    assert {name: value.shape[0] for name, value in given.items()} == dict.fromkeys(
        ("keypoints", "keypoint_scores", "descriptors", "image_size"), 1
    )
    assert torch.allclose(given["descriptors"].norm(dim=-1), torch.ones(1, len(found.keypoints)))


def test_a_peak_that_a_suppressed_one_hid_counts() -> None:
    scores = torch.zeros(1, 1, 20)
    scores[0, 0, 2], scores[0, 0, 5], scores[0, 0, 9] = 0.9, 0.8, 0.7  # a chain: each within 4 of the one before
    assert local_maxima(scores, 4, rounds=0)[0, 0, [2, 5, 9]].tolist() == [True, False, False]
    assert local_maxima(scores, 4)[0, 0, [2, 5, 9]].tolist() == [True, False, True]


def test_instances_leave_out_empty_and_unsure_places() -> None:
    model = made("instances")
    assert model.classes == ("class 0",)
    said = {"num_classes": 1, "classes": ["class 0"], "palette": [[128, 0, 0]], "things": [0]}
    assert model.labels() == said
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for picture in model.detect(image, threshold=0.0):
        assert picture.labels.tolist() == [0]
        assert picture.masks.shape == (1, 32, 32)
        assert picture.masks.dtype == torch.bool
    assert [len(picture) for picture in model.detect(image, threshold=1.1)] == [0, 0]


def test_a_detector_s_example_lies_in_its_area_with_its_map() -> None:
    model = made("detector3d")
    points, raster = model.example(2, (32, 48))
    assert points.shape == (2, 2048, 4)
    assert raster.shape == (2, 2, 32, 48)
    low, high = torch.tensor(model.area[:3]), torch.tensor(model.area[3:])
    assert ((points[..., :3] > low) & (points[..., :3] < high)).all()
    with pytest.raises(ValueError, match="in_channels is 2"):
        Detector3d(num_classes=1, area=(0, 0, 0, 1, 1, 1), in_channels=2)
    with pytest.raises(ValueError, match="least x, y, z"):
        Detector3d(num_classes=1, area=(0, 0, 0, 1, 0, 1))
    with pytest.raises(ValueError, match="map_channels is 3, and Detector3d takes points"):
        Detector3d(num_classes=1, area=(0, 0, 0, 1, 1, 1), map_channels=3)


def test_a_pretrainer_s_backbone_stands_where_every_model_s_does() -> None:
    model = made("pretrainer")
    own = create_backbone("resnet18", width=8, out_indices=(1,))
    below = {
        name.removeprefix("backbone."): value
        for name, value in model.state_dict().items()
        if name.startswith("backbone.")
    }
    own.load_state_dict(below, strict=True)
    assert model.preprocessing == own.preprocessing
    model.set_objective(Term("pixels", 1.0, nn.L1Loss(), of=("pixels",), on="image", at="target"))
    image = torch.rand(1, 3, 32, 32)
    losses = model.criterion({"pixels": model(image)}, {"image": image})
    assert losses["pixels"].isfinite()
