"""Context Cluster's mechanisms, against the paper's equations written out with a loop over points."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segmentarium.backbones import create_backbone
from segmentarium.backbones.coc import Block, Cluster, PointReducer
from segmentarium.registry import create_model, entry
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import to_theirs

TINY = dict(entry("coc_tiny").tiny)


def by_hand(cluster: Cluster, x: torch.Tensor, head: int) -> torch.Tensor:
    """Of one region (h, w, C) -> (h·w, D): each point by itself (equations 1 and 2)."""
    h, w, _ = x.shape
    point, value = cluster.point(x).view(h, w, 2, cluster.heads, -1)[:, :, :, head].permute(2, 3, 0, 1)
    centre, value_centre = (F.adaptive_avg_pool2d(y, cluster.proposals).flatten(1).T for y in (point, value))
    point, value = point.flatten(1).T, value.flatten(1).T
    likeness = (cluster.beta + cluster.alpha * F.cosine_similarity(point[:, None], centre[None], dim=-1)).sigmoid()
    home = likeness.argmax(1)
    out = torch.zeros_like(value)
    for m in range(len(centre)):
        members = (home == m).nonzero()[:, 0]
        weights = likeness[members, m]
        mean = (value_centre[m] + (weights[:, None] * value[members]).sum(0)) / (1 + weights.sum())
        out[members] = weights[:, None] * mean
    return out


@torch.no_grad()
@pytest.mark.parametrize(("proposals", "folds"), [(2, 2), (3, 1), (5, 2)])
def test_clusters_are_the_papers(proposals: int, folds: int) -> None:
    torch.manual_seed(0)
    cluster = Cluster(12, 3, 4, proposals, folds)
    cluster.alpha.fill_(2.5)
    cluster.beta.fill_(-0.4)
    cluster.proj = torch.nn.Identity()  # type: ignore[assignment]
    x = torch.randn(2, 14, 18, 12)
    found = cluster(x)
    h, w = 14 // folds, 18 // folds
    for row in range(folds):
        for column in range(folds):
            part = (slice(row * h, (row + 1) * h), slice(column * w, (column + 1) * w))
            expected = torch.cat([by_hand(cluster, x[(1, *part)], head) for head in range(3)], 1)
            assert torch.allclose(found[(1, *part)].flatten(0, 1), expected, atol=1e-5)


@torch.no_grad()
def test_a_point_gets_from_its_cluster_alone() -> None:
    """Two groups of points of opposite features: what one group's values are, the other does not see."""
    cluster = Cluster(4, 1, 2, 2, 1)
    cluster.alpha.fill_(5.0)
    point = torch.tensor([[1.0, 0.0]] * 8 + [[-1.0, 0.0]] * 8)[None]
    centre = torch.tensor([[1.0, 0.0], [-1.0, 0.1]])[None]
    value = torch.randn(1, 16, 2)
    moved = value.clone()
    moved[:, 8:] += 1
    before, after = (cluster.gather(point, given, centre, torch.zeros(1, 2, 2)) for given in (value, moved))
    assert torch.equal(before[:, :8], after[:, :8])
    assert (before[:, 8:] != after[:, 8:]).all()


@torch.no_grad()
def test_places_go_from_minus_a_half_to_a_half() -> None:
    reducer = PointReducer(3, 2)
    reducer.colour.weight.zero_()
    reducer.colour.bias.zero_()
    reducer.place.weight.zero_()
    reducer.place.weight[0, 0, 0, 0] = reducer.place.weight[1, 1, 3, 3] = (
        1.0  # a patch's first row, and its last column
    )
    places = reducer(torch.rand(2, 3, 32, 48))
    assert torch.allclose(places[0, 0, :, 0], torch.arange(0, 32, 4) / 31 - 0.5)
    assert torch.allclose(places[1, 1, 0], torch.arange(3, 48, 4) / 47 - 0.5)


@torch.no_grad()
def test_odd_images_are_padded_once_and_features_cut() -> None:
    backbone = create_backbone("coc_tiny", **TINY).eval()
    image = torch.randn(1, 3, 70, 97)
    whole = backbone(F.pad(image, (0, 31, 0, 26)))
    for part, all_of_it, stride in zip(backbone(image), whole, backbone.strides, strict=True):
        assert torch.equal(part, all_of_it[..., : -(-70 // stride), : -(-97 // stride)])
    plain = create_backbone("coc_tiny_plain", **TINY)
    assert (backbone.multiple, plain.multiple) == (32, 4)


@pytest.mark.parametrize("proposals", [2, 5, 7])
def test_dense_use(proposals: int) -> None:
    """More centres, and a norm for each feature; the trunk's keys are the classifier's."""
    dense = create_backbone("coc_tiny", **TINY, proposals=proposals, feature_norms=True, out_indices=(1, 3))
    assert [tuple(x.shape[1:]) for x in dense(torch.randn(1, 3, 64, 96))] == [(16, 8, 12), (32, 2, 3)]
    extra = {key for key in dense.state_dict() if key.startswith("feature_norms")}
    assert extra == {f"feature_norms.{i}.{kind}" for i in (1, 3) for kind in ("weight", "bias")}
    assert dense.state_dict().keys() - extra == create_backbone("coc_tiny", **TINY).state_dict().keys()
    model = create_model("fcn", num_classes=3, backbone="coc_tiny", backbone_arguments={**TINY, "feature_norms": True})
    assert model(torch.randn(1, 3, 64, 96)).shape == (1, 3, 64, 96)
    with pytest.raises(ValueError, match=r"folds are \(8, 4\); give four numbers"):
        create_backbone("coc_tiny", folds=(8, 4))


@pytest.mark.parametrize("name", ["coc_tiny", "coc_small", "coc_medium"])
def test_files_of_the_authors_are_told_by_their_shapes(name: str) -> None:
    with torch.device("meta"):
        model = create_backbone(name, num_classes=7)
    theirs = to_theirs(model.state_dict(), get_layout("coc/authors").rules)
    found = recognise(theirs)
    assert found.name == "coc/authors"
    assert entry(name).arguments.items() <= found.arguments(theirs).items()


def test_no_tensor_of_centres_times_points_times_channels() -> None:
    """At 512×512, of what one block of the first stage makes, nothing is larger than its hidden layer."""
    block = Block(32, Cluster(32, 4, 24, 2, 8), 8, 0.0).to("meta")
    largest = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            largest.extend(t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    with torch.no_grad(), Watch():
        block(torch.empty(1, 128, 128, 32, device="meta"))
    assert max(largest) == 128 * 128 * 8 * 32  # the public code's has 4 × 96 a point, several times over
