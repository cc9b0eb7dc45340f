"""Repeat-factor sampling and mosaics: by rarity, by seed and number alone, and with the labels in place."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from segmentarium.data import Mosaic, RepeatFactorSampler, TrainingStream, image_factors, segment_train_transform
from segmentarium.data.class_frequency import by_frequency, histogram
from segmentarium.data.segment_transforms import segments_of
from segmentarium.data.segments import TABLE

FACTORS = np.array([1.0, 1.0, 2.3, 1.5, 4.0, 1.0])


def test_factors_are_the_root_of_rarity() -> None:
    shown = [{0}] * 97 + [{0, 1}] * 2 + [{2}, set()]
    factors = image_factors(shown, 0.1)
    assert factors[:97].tolist() == [1.0] * 97
    assert factors[97] == pytest.approx((0.1 * 101 / 2) ** 0.5)
    assert factors[99] == pytest.approx((0.1 * 101) ** 0.5)
    assert factors[100] == 1  # of a picture without a class
    assert image_factors(shown, 0).max() == 1
    with pytest.raises(ValueError, match="0 to 1"):
        image_factors(shown, 2)


def test_a_pass_visits_as_often_as_the_factors_say() -> None:
    sampler = RepeatFactorSampler(FACTORS, seed=3)
    visits = np.stack([np.bincount(sampler.permutation(epoch), minlength=6) for epoch in range(400)])
    assert (visits >= np.floor(FACTORS)).all()
    assert (visits <= np.ceil(FACTORS)).all()
    np.testing.assert_allclose(visits.mean(0), FACTORS, atol=0.1)
    orders = {tuple(sampler.permutation(epoch)) for epoch in range(5)}
    assert len(orders) == 5


def _keys(count: int, **told: int) -> list[tuple[int, int]]:
    return list(itertools.islice(RepeatFactorSampler(FACTORS, **told), count))


def test_the_nth_sample_depends_on_seed_and_number_alone() -> None:
    whole = _keys(60, seed=7)
    assert [counter for counter, _ in whole] == list(range(60))
    for start in (1, 10, 11, 37):
        assert _keys(60 - start, seed=7, start_index=start) == whole[start:]
    for world in (2, 3):
        parts = [_keys(60 // world, seed=7, rank=rank, world_size=world) for rank in range(world)]
        assert sorted(itertools.chain(*parts)) == whole
    assert _keys(60, seed=8) != whole


def test_factors_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        RepeatFactorSampler(np.array([0.5, 1]))


def _sample(number: int, colour: int, height: int = 20, width: int = 30, layers: int = 1) -> dict[str, Any]:
    """Two objects: a square of class `number`, and one beside it, where there is a second layer, of class 9."""
    ids = torch.zeros(layers, height, width, dtype=torch.int32)
    ids[0, 5:15, 5:15] = 1
    ids[-1, 5:15, 18:28] = 2
    image = torch.full((3, height, width), colour, dtype=torch.uint8)
    table = np.zeros(2, TABLE)
    table["label"] = number, 9
    return {"image": tv_tensors.Image(image), "ids": tv_tensors.Mask(ids), "table": table, "name": str(number)}


def test_a_mosaic_has_each_picture_in_a_quarter_and_its_segments_on_it() -> None:
    torch.manual_seed(4)
    samples = [_sample(i, 50 * i + 50, layers=1 + i % 2) for i in range(4)]
    found = Mosaic((40, 60), scale=(0.5, 0.5))(samples)
    ids, image = found["ids"].as_subclass(Tensor), found["image"].as_subclass(Tensor)
    assert image.shape == (3, 80, 120)
    assert ids.shape == (2, 80, 120)
    assert found["table"]["label"].tolist() == [0, 9, 1, 9, 2, 9, 3, 9]
    corners = []
    for place in range(4):
        there = image[0] == 50 * place + 50
        assert there.sum() == 20 * 30  # the whole picture, at half of twice its size
        rows, columns = there.nonzero(as_tuple=True)
        corners.append(
            ((rows.max() + 1 if place < 2 else rows.min()), (columns.max() + 1 if place % 2 == 0 else columns.min()))
        )
        for number in (2 * place + 1, 2 * place + 2):
            own = (ids == number).any(0)
            assert own.sum() == 100
            assert there[own].all()
    assert len({(int(row), int(column)) for row, column in corners}) == 1  # all touch one point
    assert 20 <= corners[0][0] < 60
    assert 30 <= corners[0][1] < 90
    nowhere = torch.stack([image[0] != 50 * place + 50 for place in range(4)]).all(0)
    segments = segments_of(ids, found["table"])
    assert segments.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9]
    assert segments.valid is not None
    assert torch.equal(segments.valid, ~nowhere)


def test_a_mosaic_of_label_maps_is_void_beside_them() -> None:
    samples = []
    for i in range(4):
        sample = _sample(i, 200)
        del sample["ids"], sample["table"]
        samples.append({**sample, "mask": tv_tensors.Mask(torch.full((20, 30), i, dtype=torch.uint8))})
    found = Mosaic((40, 60))(samples)
    mask = found["mask"].as_subclass(Tensor)
    assert sorted(mask.unique().tolist()) == [0, 1, 2, 3, 255]
    assert torch.equal(mask == 255, found["image"][0] != 200)


class _Set:
    """Samples as a data set."""

    def sample(self, index: int) -> dict[str, Any]:
        return _sample(index, 40 * index)

    def __len__(self) -> int:
        return 6


def test_streams_of_mosaics_follow_seed_and_number_and_rotate() -> None:
    transform = segment_train_transform((32, 48), (0.5, 2.0), rotate=20.0)
    stream = TrainingStream(_Set(), transform, 5, joining=0.7, join=Mosaic((32, 48)))  # type: ignore[arg-type]
    names = [stream[n, n % 6]["name"] for n in range(12)]
    assert 4 <= sum("and" in name for name in names) < 12
    first, again = stream[3, 3], stream[3, 3]
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["segments"].masks, again["segments"].masks)
    assert first["image"].shape == (3, 32, 48)
    with pytest.raises(ValueError, match="Mosaic"):
        TrainingStream(_Set(), transform, joining=0.5)  # type: ignore[arg-type]


def test_rotation_and_scale_take_segments_along() -> None:
    """An object covers the pixels of its colour, at any scale and angle."""
    sample = _sample(1, 0)
    sample["image"][:, 5:15, 5:15] = 255
    transform = segment_train_transform(
        (40, 60), (1.0, 2.0), 0.5, photometric=False, rotate=30.0, mean=(0, 0, 0), std=(1, 1, 1)
    )
    seen = 0
    for seed in range(8):
        torch.manual_seed(seed)
        found = transform(dict(sample))
        own = [
            mask for label, mask in zip(found["segments"].labels, found["segments"].masks, strict=True) if label == 1
        ]
        if own and own[0].sum() > 150:
            bright = found["image"][0] > 0.5
            assert (bright & own[0]).sum() > 0.85 * (bright | own[0]).sum()
            seen += 1
    assert seen >= 4


def test_classes_by_frequency() -> None:
    counts = [0, 1, 10, 11, 100, 101, 5000]
    found = by_frequency("abcdefg", counts)
    assert found == {"rare": ["b", "c"], "common": ["d", "e"], "frequent": ["f", "g"]}
    assert by_frequency("ab", [500, 0], ("r", "c"))["rare"] == ["a"]
    assert histogram(counts) == {
        "0": 1, "1": 1, "2 to 10": 1, "11 to 100": 2, "101 to 1,000": 1, "1,001 to 10,000": 1
    }  # fmt: skip
    assert histogram([12, 300]) == {"11 to 100": 1, "101 to 1,000": 1}
    assert histogram([]) == {}
