"""SegViTv2: what its parts promise, since there is no public code to compare with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import segmentarium
from segmentarium.backbones.vit import VisionTransformer
from segmentarium.export import export_formats
from segmentarium.registry import create_model, entry
from segmentarium.semantic.segvitv2 import PatchEdges, SegViTv2, grid_and_edges

SHRUNK = "segvitv2_shrunk_vit_large"


def model(name: str = SHRUNK, **arguments: object) -> SegViTv2:
    torch.manual_seed(0)
    made = create_model(name, **{"num_classes": 3, **entry(name).tiny_arguments(), **arguments}).eval()
    assert isinstance(made, SegViTv2)
    return made


@torch.no_grad()
def set_edges(network: SegViTv2, logit: float) -> None:
    """Every token is an edge of that logit."""
    assert network.shrunk is not None
    network.shrunk.edge[-1].weight.fill_(0)
    network.shrunk.edge[-1].bias.fill_(logit)


@torch.no_grad()
def set_some_edges(network: SegViTv2, image: torch.Tensor) -> None:
    """One token in five is an edge."""
    assert network.shrunk is not None
    network.shrunk.edge[-1].weight.normal_(std=300)
    *_, edges, _ = network.shrunk.encode(network.backbone, image)
    network.shrunk.edge[-1].bias.add_(1 - edges.quantile(0.8))


# Shrunk++ ----------------------------------------------------------------------------------------------------------------


def test_what_stays_is_the_grid_and_the_edges() -> None:
    probability = torch.rand(3, 5 * 7)
    places, kept = grid_and_edges(probability, (5, 7), 0.8, 1)
    grid = {7 * y + x for y in range(0, 5, 2) for x in range(0, 7, 2)}
    for one, found, stays in zip(probability, places, kept, strict=True):
        edges = {i for i, p in enumerate(one.tolist()) if p > 0.8}
        assert set(found[stays].tolist()) == grid | edges
        assert found[:12].tolist() == sorted(grid), "the grid comes first, as it stands"


def test_no_more_edges_than_are_allowed_and_of_them_the_likeliest() -> None:
    probability = torch.linspace(0.9, 1.0, 64)[None]
    places, kept = grid_and_edges(probability, (8, 8), 0.7, 3)
    assert bool(kept.all())
    assert places.shape[1] == 16 + 48 // 3 == 64 // 2
    rest = places[0, 16:].tolist()
    assert rest == [i for i in range(63, -1, -1) if i // 8 % 2 or i % 2][:16]


@torch.inference_mode()
def test_without_edges_it_is_the_shrinking_of_the_first_version() -> None:
    network = model()
    set_edges(network, -9.0)
    assert network.shrunk is not None
    image = torch.randn(2, 3, 40, 56)
    shallow, deep, mask, _, size = network.shrunk.encode(network.backbone, image)
    told = entry(SHRUNK).tiny_arguments()["backbone_arguments"]
    first = VisionTransformer(**told, shrink=2, out_indices=(1, 3)).eval()
    first.load_state_dict(network.backbone.state_dict())
    before, behind = (x.flatten(2).mT for x in first(image))
    assert mask is None
    assert size == (5, 7)
    assert torch.equal(shallow, before)
    assert torch.allclose(deep, behind, atol=1e-6)


@torch.inference_mode()
def test_pictures_of_one_batch_keep_different_tokens_and_do_not_disturb_each_other() -> None:
    network, image = model(), torch.randn(3, 3, 48, 48)
    set_some_edges(network, image)
    assert network.shrunk is not None
    *_, mask, _, _ = network.shrunk.encode(network.backbone, image)
    assert mask is not None
    assert len({int(row.sum()) for row in mask}) > 1
    alone = torch.cat([network(one[None]) for one in image])
    assert (network(image) - alone).abs().max() / alone.abs().max() < 1e-4


@torch.inference_mode()
def test_tokens_that_are_not_kept_have_no_say() -> None:
    """The exported form runs a fixed number of tokens and masks the rest; the other runs only those that stay."""
    network, image = model(), torch.randn(2, 3, 40, 56)
    set_some_edges(network, image)
    trimmed = network(image)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_exporting", lambda: True)
        whole = network(image)
    assert (whole - trimmed).abs().max() / whole.abs().max() < 1e-4


@torch.no_grad()
def test_the_trunk_costs_up_to_half_less_and_every_patch_gets_a_query() -> None:
    image = torch.randn(1, 3, 128, 128)
    network = model()

    def cost(logit: float | None) -> float:
        """Of the blocks, by multiply-adds."""
        assert network.shrunk is not None
        if logit is not None:
            set_edges(network, logit)
        with FlopCounterMode(display=False) as counter:
            if logit is None:
                network.backbone(image)
            else:
                network.shrunk.encode(network.backbone, image)
        return counter.get_total_flops()

    plain, bare, edges = cost(None), cost(-9.0), cost(9.0)
    assert bare < edges < plain
    # two of four blocks before; behind, a quarter of the tokens
    assert bare < 0.7 * plain
    assert network.shrunk is not None
    queries, size, found = network.shrunk(network.backbone, image)
    assert (size, queries.shape[1], found.shape) == ((16, 16), 256, (1, 1, 16, 16))


def test_the_exported_form_masks_what_the_other_leaves_out(tmp_path: Path) -> None:
    network = model()
    set_some_edges(network, torch.randn(2, 3, 32, 48))
    reports = export_formats(
        network,
        tmp_path / "model",
        formats=("onnx",),
        sizes=((40, 56), (33, 65)),
        images=[torch.rand(3, 64, 80)],
    )
    assert all(report.relative_error <= 1e-4 for report in reports)


def test_a_patch_is_an_edge_if_it_shows_two_labels() -> None:
    target = torch.zeros(1, 8, 12, dtype=torch.long)
    target[:, :, 6:] = 1  # within the second column of patches
    target[:, 4:, :4] = 255
    target[:, 4, 9] = 255
    loss = PatchEdges(4)
    edges, shown = loss.edges(target, (2, 3))
    assert edges[0].tolist() == [[False, True, False], [False, True, False]]
    assert shown[0].tolist() == [[True, True, True], [False, True, True]]
    logits = torch.where(edges, 20.0, -20.0)[:, None]
    assert loss(logits, target) < 1e-6
    assert loss(-logits, target) > 10
    assert loss(logits, torch.full_like(target, 255)) == 0
    assert loss.edges(target[:, :7, :11], (2, 3))[0].equal(edges), "patches may go beyond the picture"


def test_edges_are_learnt_with_the_first_task_alone() -> None:
    network = model()
    assert "edges" in network.losses
    network.add_task(["a", "b"])
    assert "edges" not in network.losses
    assert "edges" not in network.forward_train(torch.randn(1, 3, 64, 64))


# continual learning ---------------------------------------------------------------------------------------------------------


def step(network: SegViTv2, image: torch.Tensor, target: torch.Tensor) -> None:
    network.train()
    learning = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=0.01, weight_decay=0.1)
    loss = torch.stack(list(network.criterion(network.forward_train(image), {"mask": target}).values())).sum()
    loss.backward()
    assert all(p.grad is not None for p in learning)
    optimizer.step()
    network.eval()


@torch.inference_mode()  # with gradients, PyTorch may take kernels that round otherwise
def answer(network: SegViTv2, image: torch.Tensor) -> torch.Tensor:
    return network(image)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (SHRUNK, {}),
        ("segvitv2_vit_base", {}),
        ("segvitv2_vit_base", {"backbone": "resnet18", "backbone_arguments": {"width": 16}}),
    ],
)
def test_old_masks_are_the_same_to_the_bit_after_a_step(name: str, arguments: dict[str, object]) -> None:
    network, image = model(name, **arguments), torch.randn(2, 3, 64, 96)
    before = answer(network, image)
    network.add_task(["tram", "bus"])
    assert network.classes[3:] == ("tram", "bus")
    fresh = answer(network, image)
    assert fresh.shape[1] == 5
    step(network, image, torch.randint(0, 5, (2, 64, 96)))
    both = answer(network, image)
    assert torch.equal(both[:, :3], before)
    assert not torch.equal(both[:, 3:], fresh[:, 3:])
    network.add_task(["car"])
    step(network, image, torch.randint(0, 6, (2, 64, 96)))
    assert torch.equal(answer(network, image)[:, :5], both)
    assert network.task_classes == (3, 2, 1)


def test_a_new_task_learns_its_own_classes_alone() -> None:
    network = model()
    network.add_task(["a", "b"])
    outputs = network.forward_train(torch.randn(1, 3, 64, 64))
    assert outputs["class_logits"].shape == (1, 2, 3)
    target = torch.zeros(1, 64, 64, dtype=torch.long)
    losses = network.criterion(outputs, {"mask": target})
    assert losses["mask"] == losses["dice"] == 0, "only old classes are shown"
    target[:, 5] = 4
    assert network.criterion(outputs, {"mask": target})["mask"] > 0


def test_tasks_survive_a_file(tmp_path: Path) -> None:
    network = model()
    network.add_task(["a", "b"])
    segmentarium.save(network, tmp_path / "model.safetensors")
    again = segmentarium.load(tmp_path / "model.safetensors")
    assert isinstance(again, SegViTv2)
    assert (again.task_classes, again.classes) == (network.task_classes, network.classes)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(image), network(image))
    assert not any(p.requires_grad for p in again.tasks[0].parameters())


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ValueError, match=r"tasks have \(2, 2\) classes; give 1 or more each, 3 in all"):
        model(tasks=(2, 2))
    with pytest.raises(ValueError, match="Shrunk\\+\\+ runs the blocks of a plain transformer"):
        model(backbone="resnet18", backbone_arguments={})
    with pytest.raises(ValueError, match="one sigmoid logit"):
        model(num_classes=1).add_task(["a"])
    with pytest.raises(ValueError, match="names is empty"):
        model().add_task([])
