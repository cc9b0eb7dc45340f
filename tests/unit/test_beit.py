"""BEiT's mechanisms: biases of steps, the class token's rows, hidden patches, tables of other grids and other pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.backbones.beit import PositionBias, spline, token_index
from segmentarium.registry import create_model
from segmentarium.weights import load_part, save

SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 3, "heads": 2}


def biases(positions: PositionBias, rows: int, columns: int) -> Tensor:
    return positions(rows, columns, token_index(rows, columns, torch.device("cpu")))


def filled(grid: tuple[int, int]) -> PositionBias:
    positions = PositionBias(grid, 2)
    nn.init.normal_(positions.table)
    return positions


@torch.no_grad()
def test_a_bias_is_of_the_step_alone_and_the_class_token_has_its_own() -> None:
    positions = filled((2, 3))
    bias = biases(positions, 2, 3)
    for i, j in ((0, 0), (1, 5), (5, 2), (3, 3)):
        down, right = i // 3 - j // 3, i % 3 - j % 3
        assert torch.equal(bias[:, 1 + i, 1 + j], positions.table[(down + 1) * 5 + right + 2])
    from_class, to_class, within = positions.table[-3:]
    assert torch.equal(bias[:, 0, 1:], from_class[:, None].expand(2, 6))
    assert torch.equal(bias[:, 1:, 0], to_class[:, None].expand(2, 6))
    assert torch.equal(bias[:, 0, 0], within)


@torch.no_grad()
def test_one_graph_serves_all_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    positions = filled((3, 4))
    expected = {grid: biases(positions, *grid) for grid in ((3, 4), (5, 2))}
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    for grid, bias in expected.items():
        assert torch.allclose(biases(positions, *grid), bias, atol=1e-6)


@pytest.mark.parametrize(("given", "wanted"), [(27, 47), (27, 63), (9, 13), (27, 17), (5, 9)])
def test_the_spline_is_scipy_s_through_places_in_a_geometric_series(given: int, wanted: int) -> None:
    optimize, interpolate = pytest.importorskip("scipy.optimize"), pytest.importorskip("scipy.interpolate")
    half, reach = given // 2, wanted // 2

    def beyond(ratio: float) -> float:
        return sum(ratio**i for i in range(half)) - reach

    cut = beyond(1.01) >= 0  # a much smaller grid is cut out instead; a much larger one ends early
    ratio = 1.01 if cut else 1.5 if beyond(1.5) <= 0 else optimize.brentq(beyond, 1.01, 1.5)
    out = [sum(ratio**i for i in range(n + 1)) for n in range(half)]
    places = [-x for x in reversed(out)] + [0.0, *out]
    values = torch.randn(given, dtype=torch.float64)
    targets = torch.arange(-reach, reach + 1).double().clamp(places[0], places[-1])
    theirs = interpolate.make_interp_spline(places, values.numpy(), k=3)(targets.numpy())
    matrix = spline(given, wanted)
    assert torch.allclose(matrix @ values, torch.from_numpy(theirs), atol=2e-3)  # their ratio is within a millionth
    assert torch.allclose(matrix.sum(1), torch.ones(wanted, dtype=torch.float64))
    assert torch.allclose(matrix[reach] @ values, values[half])
    assert torch.allclose(matrix[-1] @ values, values[-1], atol=2e-3) != cut


def test_tables_of_another_grid_are_carried_over(tmp_path: Path) -> None:
    small: Any = create_model("beit_b", **SMALL, image_size=64, num_classes=3)
    for parameter in small.backbone.positions.parameters():
        nn.init.normal_(parameter)
    path = save(small, tmp_path / "beit.safetensors")
    with pytest.warns(UserWarning, match=r"from a table of another grid: positions.0.table"):
        large: Any = create_model("beit_b", weights=path, **SMALL, image_size=(96, 128))
    mine, given = large.backbone.positions[1].table, small.backbone.positions[1].table
    assert torch.equal(mine[-3:], given[-3:])
    steps = given[:-3].double().reshape(7, 7, 2)
    rows = torch.einsum("yi,ijh->yjh", spline(7, 11), steps)
    expected = torch.einsum("xj,yjh->yxh", spline(7, 15), rows).reshape(165, 2)
    assert torch.allclose(mine[:-3].double(), expected, atol=1e-5)
    assert torch.allclose(mine[82], given[24])  # no step is no step
    part = create_backbone("beit_b", **SMALL, image_size=128, out_indices=(0, 1))
    assert load_part(part, "", path).adapted == ["positions.0.table", "positions.1.table"]


@torch.no_grad()
def test_hidden_patches_are_one_token_and_move_nothing_by_what_they_show() -> None:
    model: Any = create_backbone("beit_b", **SMALL, image_size=64, mask_token=True).eval()
    hidden = torch.rand(2, 4, 4) < 0.5
    image = torch.randn(2, 3, 64, 64)
    covered = hidden[:, None].repeat_interleave(16, 2).repeat_interleave(16, 3)
    other = torch.where(covered, torch.randn_like(image), image)
    assert torch.equal(model.encode(image, hidden), model.encode(other, hidden.flatten(1)))
    assert not torch.allclose(model.encode(image), model.encode(other))
    ((tap, prefix),) = model.forward_tokens(image, (2,))
    assert torch.equal(torch.cat([prefix, tap.flatten(2).transpose(1, 2)], 1), model.encode(image))
    with pytest.raises(ValueError, match="build it with mask_token=True"):
        create_backbone("beit_b", **SMALL).encode(image, hidden)  # type: ignore[operator]


@torch.inference_mode()
def test_deployed_it_has_one_bias_a_projection_and_no_factors() -> None:
    model: Any = create_model("beit_b", **SMALL, image_size=64, num_classes=3).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("_bias", "gamma", "table")):
            nn.init.normal_(parameter)
    deployed: Any = model.deploy()
    assert not any(key.endswith(("query_bias", "gamma")) for key in deployed.state_dict())
    image = torch.randn(1, 3, 64, 80)
    assert torch.allclose(deployed(image), model(image), atol=1e-4)


def test_depths_decay_and_errors() -> None:
    shared = create_backbone("beit_b", **SMALL, shared_bias=True, mask_token=True, num_classes=2)
    assert shared.no_weight_decay() == {"class_token", "mask_token", "shared_positions.table"}
    depths = [shared.layer_of(name) for name in ("mask_token", "shared_positions.table", "blocks.1.norm1.bias")]
    assert depths == [0, 3, 2]
    own = create_backbone("beit_b", **SMALL, out_indices=(0, 1))
    assert len(own.no_weight_decay()) == 3
    assert own.layer_of("positions.1.table") == 2 == own.num_layers - 1
    with pytest.raises(ValueError, match=r"image_size is 100; give whole patches of 16"):
        create_backbone("beit_b", image_size=100)
    with pytest.raises(ValueError, match=r"the blocks to tap are \(1, 0\); give some of 0 to 1"):
        own.forward_tokens(torch.zeros(1, 3, 64, 64), (1, 0))
