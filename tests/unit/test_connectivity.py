"""Connected components, and the connectivity loss: the public code's values, and a gradient that joins pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from segmentarium.losses import Connectivity
from segmentarium.losses.connectivity import connected_components


def logits_of(mask: Tensor, classes: int, height: float = 4.0) -> Tensor:
    """(H, W) -> (1, classes, H, W) whose greatest is the mask's class."""
    return height * torch.nn.functional.one_hot(mask.long(), classes).permute(2, 0, 1)[None].float()


def box(*boxes: tuple[int, int, int, int]) -> Tensor:
    """(24, 40): 1 in rows a:b and columns c:d of each box."""
    mask = torch.zeros(24, 40, dtype=torch.long)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = 1
    return mask


@pytest.mark.parametrize("seed", range(6))
def test_components_equal_scipy(seed: int) -> None:
    from scipy.ndimage import label

    labels = torch.randint(0, 2 + seed % 3, (3, 17 + seed, 23))
    found = connected_components(labels)
    count = 0
    for image in range(3):
        for value in labels[image].unique().tolist():
            mask = (labels[image] == value).numpy()
            reference, number = label(mask, np.ones((3, 3)))
            pairs = set(zip(reference[mask].tolist(), found[image].numpy()[mask].tolist(), strict=True))
            assert len(pairs) == number
            count += number
    assert found.unique().tolist() == list(range(count))


def test_components_are_numbered_in_reading_order() -> None:
    labels = torch.tensor([[[1, 0, 2], [1, 0, 2], [0, 2, 2]]])
    assert connected_components(labels).tolist() == [[[0, 1, 2], [0, 1, 2], [1, 2, 2]]]
    spiral = torch.tensor([[[1, 1, 1, 1], [0, 0, 0, 1], [1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]])
    assert connected_components(spiral).unique().numel() == 2
    assert connected_components(torch.zeros(0, 4, 4)).shape == (0, 4, 4)


def test_values_equal_the_public_code(golden) -> None:
    description, arrays = golden.load("portrait/scl-loss")
    loss = Connectivity(form="paddleseg")
    logits, labels = [], []
    for case in description["cases"]:
        logits.append(logits_of(torch.from_numpy(arrays[f"target/pred/{case}"]), 3))
        labels.append(torch.from_numpy(arrays[f"target/label/{case}"]).long()[None])
        assert golden.relative_error(loss(logits[-1], labels[-1]).numpy(), arrays[f"out/{case}"]) <= 1e-4
    batch = loss(torch.cat(logits), torch.cat(labels))
    assert golden.relative_error(batch.numpy(), arrays["out/batch"]) <= 1e-4


def test_values_of_the_paper() -> None:
    loss, truth = Connectivity(), box((4, 20, 4, 36))[None]

    def value(mask: Tensor, target: Tensor = truth) -> float:
        return float(loss(logits_of(mask, 2), target))

    assert value(truth[0]) == pytest.approx(0, abs=1e-6)
    # half of it: one pair, IoU 1/2
    assert value(box((4, 20, 4, 20))) == pytest.approx(0.5)
    # the same pixels in two pieces: the mean of two IoU of 1/4, so being whole is worth as much as being right
    assert value(box((4, 20, 4, 12), (4, 20, 28, 36))) == pytest.approx(0.75)
    # a piece that overlaps nothing counts in the number
    assert value(box((4, 20, 4, 20), (0, 2, 0, 2))) == pytest.approx(0.75)
    # nothing overlaps: the share of the image in either
    assert value(box((0, 2, 0, 40))) == pytest.approx((16 * 32 + 80) / (24 * 40))
    assert value(box()) == pytest.approx(16 * 32 / (24 * 40))
    # nobody there: what is seen all the same; nobody seen either: nothing
    nobody = torch.zeros_like(truth)
    assert value(box((0, 2, 0, 40)), nobody) == pytest.approx(80 / (24 * 40))
    assert value(box(), nobody) == 0


@pytest.mark.parametrize("channels", [1, 2])
def test_its_gradient_joins_a_mask_in_pieces(channels: int) -> None:
    """Alone, without cross entropy: three pieces with gaps and an island become the one person."""
    truth = box((4, 20, 4, 36))[None]
    pieces = box((4, 20, 4, 12), (5, 19, 15, 24), (4, 20, 27, 36), (0, 3, 0, 3))
    logits = logits_of(pieces, 2, 2.0) - 1
    logits = (logits[:, 1:] if channels == 1 else logits).clone().requires_grad_()
    loss = Connectivity()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    history = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(logits, truth)
        value.backward()
        optimizer.step()
        history.append(float(value.detach()))
    assert history[0] > 0.8
    assert history[-1] < 0.02
    mask = (logits[:, 0] > 0 if channels == 1 else logits.argmax(1) > 0).long()
    assert torch.equal(mask, truth)
    assert connected_components(mask).unique().numel() == 2


def test_the_gap_the_island_and_what_is_too_much_each_get_their_gradient() -> None:
    truth = box((4, 20, 4, 36))[None]
    pieces = box((4, 20, 4, 18), (4, 20, 22, 39), (0, 2, 0, 2))
    logits = logits_of(pieces, 2)[:, 1:] - 2
    logits.requires_grad_()
    Connectivity()(logits, truth).backward()
    gradient = logits.grad[0, 0]
    assert (gradient[4:20, 18:22] < 0).all()  # the gap is to be filled
    assert (gradient[4:20, 36:39] > 0).all()  # what is outside is to go
    assert (gradient[0:2, 0:2] > 0).all()  # so is the island
    assert (gradient[20:24] == 0).all()  # the rest is for cross entropy


def test_where_nothing_overlaps_what_is_outside_shrinks() -> None:
    logits = (logits_of(box((0, 2, 0, 40)), 2)[:, 1:] - 2).requires_grad_()
    Connectivity()(logits, box((4, 20, 4, 36))[None]).backward()
    assert (logits.grad[0, 0, :2] > 0).all()


def test_ignored_pixels_change_nothing() -> None:
    truth = box((4, 20, 4, 36))[None]
    truth[..., :3] = 255
    logits = torch.randn(1, 2, 24, 40)
    other = logits.clone()
    other[..., :3] = torch.randn(1, 2, 24, 3)
    assert Connectivity()(logits, truth) == Connectivity()(other, truth)
    void = torch.full_like(truth, 255)
    assert Connectivity()(logits, void) == 0
    both = Connectivity()(torch.cat([logits, logits]), torch.cat([truth, void]))
    torch.testing.assert_close(both, Connectivity()(logits, truth))


def test_several_classes_and_the_background() -> None:
    truth = box((4, 20, 4, 20))[None]
    truth[:, 4:20, 24:36] = 2
    assert float(Connectivity()(logits_of(truth[0], 3), truth)) == pytest.approx(0, abs=1e-6)
    missing = truth[0].masked_fill(truth[0] == 2, 0)
    share = 16 * 12 / (24 * 40)
    assert float(Connectivity()(logits_of(missing, 3), truth)) == pytest.approx(share / 2)
    with_background = float(Connectivity(background=None)(logits_of(missing, 3), truth))
    assert with_background == pytest.approx((share + 1 - (960 - 448) / (960 - 256)) / 3, rel=1e-4)
    with pytest.raises(ValueError, match="paddleseg"):
        Connectivity(form="paddle")
