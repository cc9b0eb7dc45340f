"""What the contracts promise of detectors in point clouds, held against every registered one, in its tiny form."""

from __future__ import annotations

import copy
import inspect
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import segmentarium
from segmentarium.benchmarking.size import parameters_millions
from segmentarium.contracts import Detector3d
from segmentarium.export import export_formats
from segmentarium.layers.turned_boxes import iou_from_above
from segmentarium.lidar.dense import DensePart
from segmentarium.meta import on_meta
from segmentarium.registry import create_model, entry
from segmentarium.runtimes import onnx_session, openvino_network
from tests.conformance.subjects import DETECTORS, enrolled
from tests.parity.comparison import relative_error

CLASSES = 2
STEPS = 100


@cache
def made(name: str) -> Detector3d:
    torch.manual_seed(0)
    model = create_model(name, **entry(name).tiny_arguments(), num_classes=CLASSES)
    assert isinstance(model, Detector3d)
    return model


def trained_like(name: str) -> Detector3d:
    """Weights that make everything count, norms' statistics too.  In eval mode."""
    model = copy.deepcopy(made(name)).eval()
    generator = torch.Generator().manual_seed(2)
    for key, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=(1.5 / parameter[0].numel()) ** 0.5, generator=generator)
        else:
            parameter.data.uniform_(*((-0.2, 0.2) if key.endswith("bias") else (0.5, 1.5)), generator=generator)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


def scene(model: Detector3d, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Cars of each class, as walls of points, among points that are nothing; the last place has no box."""
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor(model.area[:3]), torch.tensor(model.area[3:])
    boxes = torch.full((batch, 4, 10), -1.0)
    scans = []
    for scan in range(batch):
        for place in range(3):
            share = torch.tensor(((0.25, 0.3), (0.7, 0.25), (0.5, 0.75)))[(place + scan) % 3]
            boxes[scan, place, :2] = low[:2] + share * (high[:2] - low[:2])
            boxes[scan, place, 2:7] = torch.tensor((-1.0, 3.9, 1.6, 1.56, 1.57 * place))
            boxes[scan, place, 7:] = torch.tensor((place % CLASSES, 1.0, torch.nan))
        noise = low - 1 + torch.rand(200, 3, generator=generator) * (high - low + 2)
        walls = [
            box[:3] + (torch.rand(60, 3, generator=generator) - 0.5) * torch.tensor((3.0, 3.0, 1.5))
            for box in boxes[scan, :3]
        ]
        points = torch.cat((noise, *walls))
        scans.append(torch.cat((points, torch.rand(len(points), model.in_channels - 3, generator=generator)), 1))
    raster = torch.rand(batch, model.map_channels, 24, 20, generator=generator)
    return {"points": torch.stack(scans), "boxes": boxes} | ({"map": raster} if "map" in model.inputs else {})


def given(model: Detector3d, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(batch[key] for key in model.inputs)


def losses_of(model: Detector3d, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return model.criterion(model.forward_train(*given(model, batch)), batch)


@pytest.mark.parametrize("name", DETECTORS)
def test_builds_with_any_classes_and_values(name: str) -> None:
    for num_classes, in_channels in ((1, 3), (7, 6)):
        with on_meta():
            model = create_model(name, num_classes=num_classes, in_channels=in_channels).eval()
            with torch.no_grad():
                boxes, labels, scores = model(*model.example(2))
        assert boxes.shape[:2] == labels.shape == scores.shape
        assert boxes.shape[2] in (7, 9)
        assert labels.dtype == torch.int64
        assert len(model.classes) == num_classes
        assert parameters_millions(model) > 0.1
    parameters = inspect.signature(entry(name).build).parameters
    assert {"num_classes", "in_channels"} <= parameters.keys()
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters.values())


@pytest.mark.parametrize("name", enrolled(DETECTORS, "gradients"))
def test_every_parameter_gets_a_finite_gradient(name: str) -> None:
    model = trained_like(name).train()
    batch = scene(model)
    losses = losses_of(model, batch)
    assert list(losses) == [name for term in model.objective for name in term.names]
    assert all(loss.ndim == 0 and loss.dtype == torch.float32 and loss > 0 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    wrong = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert wrong == []
    assert np.mean([bool(p.grad.abs().max() > 0) for p in model.parameters() if p.grad is not None]) > 0.9


@pytest.mark.parametrize("name", enrolled(DETECTORS, "learning"))
def test_its_own_objective_teaches_the_boxes(name: str) -> None:
    """A few dozen steps on two scans, and their boxes are found where they are, of their class, and little else."""
    torch.manual_seed(0)
    model = copy.deepcopy(made(name)).train()
    batch = scene(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(STEPS):
        loss = torch.stack(list(losses_of(model, batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
    for scan in range(2):
        # statistics of so few steps lag behind: as in training
        found = model.detect(*given(model, batch), threshold=0.2)[scan]
        real = batch["boxes"][scan, :3]
        overlap = iou_from_above(real[:, :7], found.boxes)
        assert (overlap.amax(1) > 0.4).all(), overlap
        assert found.labels[overlap.argmax(1)].tolist() == real[:, 7].tolist()
        assert len(found) <= 8


@pytest.mark.parametrize("name", enrolled(DETECTORS, "deploy"))
@torch.no_grad()
def test_deploy_is_equal_and_smaller(name: str) -> None:
    model = trained_like(name)
    deployed = model.deploy()
    batch = scene(model)
    for ours, theirs in zip(deployed(*given(model, batch)), model(*given(model, batch)), strict=True):
        assert relative_error(ours.float(), theirs.float()) <= 1e-4
    assert not any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in deployed.modules())
    left = [key for key, _ in deployed.named_parameters()]
    assert [key for key in left for path in model.training_only if key.startswith(f"{path}.")] == []
    assert deployed.objective == ()


@pytest.mark.parametrize("name", enrolled(DETECTORS, "export"))
@torch.no_grad()
def test_exports_with_open_batch_and_points(name: str, tmp_path: Path) -> None:
    """From points to candidates, to ONNX, which comes from the program that torch.export makes."""
    model = trained_like(name)
    (report,) = export_formats(model, tmp_path / "model", formats=("onnx",))
    assert report.relative_error <= 1e-4
    assert [row.batch for row in report.comparisons] == [1, 2]
    session = onnx_session(tmp_path / "model.onnx", 1)
    for count in (1, 3):
        batch = scene(model, count, seed=count)
        inputs = {put.name: batch[key].numpy() for put, key in zip(session.get_inputs(), model.inputs, strict=True)}
        for ours, theirs in zip(session.run(None, inputs), model(*given(model, batch)), strict=True):
            assert relative_error(torch.from_numpy(np.asarray(ours)).float(), theirs.float()) <= 1e-4


@pytest.mark.parametrize("name", ["centerpoint_pillar", "mapfusion_pointpillars"])
@torch.no_grad()
def test_the_dense_part_exports_alone(name: str, tmp_path: Path) -> None:
    """From pillars to candidates, with and without a map; in the graph nothing is scattered."""
    model = trained_like(name)
    (report,) = export_formats(DensePart(model), tmp_path / "dense", formats=("onnx",))
    assert report.relative_error <= 1e-4
    session = onnx_session(tmp_path / "dense.onnx", 1)
    batch = scene(model, 3, seed=3)
    canvas = model.canvas(batch["points"]).contiguous()
    inputs = {
        put.name: x.numpy() for put, x in zip(session.get_inputs(), (canvas, *given(model, batch)[1:]), strict=True)
    }
    assert list(inputs) == ["canvas", *model.inputs[1:]]
    for ours, theirs in zip(session.run(None, inputs), model(*given(model, batch)), strict=True):
        assert relative_error(torch.from_numpy(np.asarray(ours)).float(), theirs.float()) <= 1e-4
    # the same on another engine, its maps with channels last
    compiled = openvino_network(tmp_path / "dense.onnx", "f32", 1, channels_last=True)
    turned = [np.ascontiguousarray(x.transpose(0, 2, 3, 1)) for x in inputs.values()]
    scores = compiled(turned)[compiled.outputs[2]]
    assert relative_error(torch.from_numpy(scores), model(*given(model, batch))[2]) <= 1e-4
    operators = {node.op_type for node in onnx.load(tmp_path / "dense.onnx").graph.node}
    assert not {name for name in operators if name.startswith("Scatter")}
    assert "Conv" in operators


@pytest.mark.parametrize("name", enrolled(DETECTORS, "autocast"))
def test_half_precision_is_finite(name: str) -> None:
    model = copy.deepcopy(made(name)).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(model, scene(model))
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("name", enrolled(DETECTORS, "round_trip"))
@torch.inference_mode()
def test_a_file_rebuilds_its_model(name: str, tmp_path: Path) -> None:
    model = trained_like(name)
    model.classes = ("Auto", "人")
    again = segmentarium.load(segmentarium.save(model, tmp_path / "model.safetensors"))
    assert type(again) is type(model)
    assert again.classes == model.classes
    batch = scene(model)
    for ours, theirs in zip(again(*given(model, batch)), model(*given(model, batch)), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", DETECTORS)
@torch.no_grad()
def test_scans_of_nothing_are_answered(name: str) -> None:
    """No point, one point, points that are no numbers or elsewhere: as if nothing were there.  Their order counts nowhere."""
    model = trained_like(name)
    batch = scene(model, 1)
    whole = model(*given(model, batch))
    nothing = model(*given(model, batch | {"points": batch["points"][:, :0]}))
    assert all(x.isfinite().all() for x in nothing)
    bad = batch["points"].clone()
    bad[:, ::2, 2] = torch.nan
    bad[:, 1::2, 0] = 1e6
    for ours, theirs in zip(model(*given(model, batch | {"points": bad})), nothing, strict=True):
        assert torch.equal(ours, theirs)
    assert all(x.isfinite().all() for x in model(*given(model, batch | {"points": batch["points"][:, -1:]})))
    padded = torch.cat((batch["points"].flip(1), torch.full_like(batch["points"], 1e6)), 1)
    for ours, theirs in zip(model(*given(model, batch | {"points": padded})), whole, strict=True):
        assert relative_error(ours.float(), theirs.float()) <= 1e-4
    with pytest.raises(ValueError, match="x, y, z and"):
        model(*given(model, batch | {"points": batch["points"][..., :2]}))


@pytest.mark.parametrize("name", DETECTORS)
def test_a_scan_without_boxes_or_points_trains(name: str) -> None:
    model = copy.deepcopy(made(name)).train()
    batch = scene(model)
    for points, boxes in (
        (batch["points"], batch["boxes"][:, :0]),
        (batch["points"][:, :0], batch["boxes"]),
        (batch["points"], batch["boxes"] * torch.tensor([1.0] * 3 + [0.0] * 3 + [1.0] * 4)),
    ):
        losses = losses_of(model, batch | {"points": points, "boxes": boxes})
        assert all(loss.isfinite() for loss in losses.values())
        torch.stack(list(losses.values())).sum().backward()
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
