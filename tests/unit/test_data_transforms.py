"""The training transform does what the recipes say, and the sample stream repeats itself exactly."""

from __future__ import annotations

import colorsys
import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from segmentarium.data import InfiniteSampler, TrainingStream, build_dataset, eval_transform, train_transform
from segmentarium.data.transforms import (
    PhotometricDistortion,
    RandomScaleCrop,
    UnevenLight,
    degradation,
    hue_matrix,
    saturation_matrix,
)
from tests.unit.data_files import write_folder

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def _sample(height: int = 40, width: int = 60, classes: int = 3) -> dict:
    """A picture whose red channel is its label times 50, so that the two can be compared after any geometry."""
    mask = torch.arange(width).mul(classes).div(width, rounding_mode="floor").expand(height, width).to(torch.uint8)
    image = torch.stack([mask * 50, torch.full_like(mask, 99), 255 - mask * 50]).clone()
    return {"image": tv_tensors.Image(image), "mask": tv_tensors.Mask(mask.clone()), "name": "x"}


@pytest.mark.parametrize("crop", [(24, 32), (40, 60), (100, 30), (128, 128), (1, 1)])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 2.0), (0.125, 1.5), (3.0, 3.0)])
def test_result_has_the_crop_size_and_types(crop: tuple[int, int], scale: tuple[float, float]) -> None:
    transform = train_transform(crop, scale=scale, mean=MEAN, std=STD)
    for _ in range(5):
        sample = transform(_sample())
        assert sample["image"].shape == (3, *crop)
        assert sample["image"].dtype == torch.float32
        assert sample["image"].is_contiguous()
        assert sample["mask"].shape == crop
        assert sample["mask"].dtype == torch.int64
        assert set(sample["mask"].unique().tolist()) <= {0, 1, 2, 255}
        assert sample["name"] == "x"


@pytest.mark.parametrize("scale", [1.0, 0.5, 1.7, 2.0])
def test_image_and_mask_stay_aligned(scale: float) -> None:
    transform = train_transform(
        (30, 44), (scale, scale), photometric=False, max_class_ratio=1.0, mean=(0, 0, 0), std=(1, 1, 1)
    )
    for _ in range(10):
        sample = transform(_sample())
        labelled = sample["mask"] != 255
        red = sample["image"][0] * 255 / 50
        agree = (red.round() == sample["mask"])[labelled].float().mean()
        assert agree > 0.9  # a column or two beside each edge is interpolated
        assert not sample["image"][:, ~labelled].any()


def test_cropping_before_scaling_equals_scaling_before_cropping() -> None:
    """For factor 2 and even offsets the region is exact, so only the interpolated border may differ."""
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    step = RandomScaleCrop((32, 40), (2.0, 2.0), max_class_ratio=1.0)
    torch.manual_seed(3)
    params = step.make_params([tv_tensors.Image(image), tv_tensors.Mask(image[0])])
    top, left, height, width = params["region"]
    assert (height, width, params["size"]) == (16, 20, [32, 40])
    fast = step.transform(tv_tensors.Image(image), params)
    whole = v2.functional.resize(image, [80, 120], antialias=True)
    slow = whole[:, 2 * top : 2 * top + 32, 2 * left : 2 * left + 40]
    assert torch.equal(fast[:, 1:-1, 1:-1], slow[:, 1:-1, 1:-1])


def test_scale_factors_cover_their_range() -> None:
    step = RandomScaleCrop((10, 10), (0.5, 2.0), max_class_ratio=1.0)
    sizes = [step.make_params([_sample()["image"]])["region"][2] for _ in range(300)]
    assert min(sizes) == 5
    assert max(sizes) >= 19


def test_even_scales_halve_as_often_as_they_double() -> None:
    crop = RandomScaleCrop((8, 8), (0.25, 4.0), 1.0, even=True)
    picture = [tv_tensors.Image(torch.zeros(3, 1000, 1000))]
    torch.manual_seed(0)
    regions = [crop.make_params(picture)["region"][2] for _ in range(400)]
    assert 0.4 < np.mean([region < 8 for region in regions]) < 0.6
    assert min(regions) <= 3
    assert max(regions) >= 24


def test_degraded_pictures_keep_size_type_and_labels() -> None:
    torch.manual_seed(0)
    sample = {
        "image": tv_tensors.Image(torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)),
        "mask": tv_tensors.Mask(torch.randint(0, 2, (40, 60))),
    }
    changed = degradation(1.0)(sample)
    assert changed["image"].dtype == torch.uint8
    assert changed["image"].shape == (3, 40, 60)
    assert torch.equal(changed["mask"], sample["mask"])
    spread = changed["image"].float()
    assert (spread[0] - spread[1]).abs().mean() < 3  # grey, but for the file's artefacts
    assert spread.std() < sample["image"].float().std()  # blurred


def test_uneven_light_changes_from_one_end_to_the_other() -> None:
    light = UnevenLight()
    white = tv_tensors.Image(torch.full((3, 20, 30), 80, dtype=torch.uint8))
    lit = light.transform(white, {"ends": (-1.0, 1.0), "angle": 0.0})
    assert lit[0, 0, 0] == 40
    assert lit[0, 0, -1] == 160
    assert torch.equal(lit[:, 0], lit[:, -1])
    assert (lit[0, 0].diff() >= 0).all()
    assert light.transform(white, {"ends": (1.0, 1.0), "angle": 1.0}).unique().tolist() == [160]


def test_crops_filled_by_one_class_are_drawn_again() -> None:
    mask = torch.zeros(60, 60, dtype=torch.uint8)
    mask[:, 50:] = 1
    image = mask.expand(3, 60, 60).contiguous()

    def filled(ratio: float) -> int:
        step = RandomScaleCrop((20, 20), (1.0, 1.0), max_class_ratio=ratio, attempts=10)
        torch.manual_seed(0)
        crops = (step(tv_tensors.Image(image), tv_tensors.Mask(mask))[1] for _ in range(200))
        return sum(bool((crop == 0).float().mean() > 0.75) for crop in crops)

    assert filled(1.0) > 100
    assert filled(0.75) < 40


def test_void_does_not_count_as_a_class() -> None:
    mask = torch.full((20, 20), 255, dtype=torch.uint8)
    step = RandomScaleCrop((10, 10), (1.0, 1.0))
    assert step(tv_tensors.Image(mask.expand(3, 20, 20)), tv_tensors.Mask(mask))[1].unique().tolist() == [255]


def test_flip_and_rotation() -> None:
    plain = {"scale": (1.0, 1.0), "photometric": False, "mean": (0, 0, 0), "std": (1, 1, 1)}
    straight = train_transform((40, 60), flip=0.0, **plain)(_sample())
    mirrored = train_transform((40, 60), flip=1.0, **plain)(_sample())
    assert torch.equal(straight["mask"].flip(-1), mirrored["mask"])
    assert torch.equal(straight["image"].flip(-1), mirrored["image"])
    assert np.allclose(straight["image"].numpy(), _sample()["image"].numpy() / 255, atol=1e-6)
    turned = train_transform((40, 60), rotate=30.0, flip=0.0, **plain)(_sample())
    assert (turned["mask"] == 255).any()
    assert turned["mask"].unique().tolist() == [0, 1, 2, 255]


def test_normalisation_and_padding() -> None:
    transform = train_transform((50, 70), (1.0, 1.0), flip=0, photometric=False, mean=MEAN, std=STD)
    sample = transform(_sample())
    expected = (_sample()["image"].float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(sample["image"][:, :40, :60].as_subclass(torch.Tensor), expected)
    assert not sample["image"][:, 40:].any()
    assert not sample["image"][:, :, 60:].any()
    assert (sample["mask"][40:] == 255).all()
    assert (sample["mask"][:, 60:] == 255).all()


def test_evaluation_changes_nothing_but_the_numbers() -> None:
    sample = eval_transform(MEAN, STD)(_sample())
    assert torch.equal(sample["mask"], _sample()["mask"].long())
    resized = eval_transform(MEAN, STD, size=(20, 30))(_sample())
    assert resized["image"].shape[-2:] == resized["mask"].shape == (20, 30)
    kept = eval_transform(MEAN, STD, size=(20, 30), resize_mask=False)(_sample())
    assert (kept["image"].shape[-2:], kept["mask"].shape) == ((20, 30), (40, 60))


def test_photometric_distortion_keeps_shape_range_and_labels() -> None:
    step = PhotometricDistortion(p=1.0)
    source = _sample()
    seen = set()
    for _ in range(20):
        changed = step(source)
        assert changed["image"].dtype == torch.float32
        assert changed["image"].min() >= 0
        assert changed["image"].max() <= 1
        assert torch.equal(changed["mask"], source["mask"])
        seen.add(round(changed["image"].mean().item(), 6))
    assert len(seen) > 10
    assert PhotometricDistortion(p=0.0)(source)["image"].dtype == torch.uint8


@pytest.mark.parametrize("bands", [3, 5])
def test_photometric_distortion_leaves_a_dark_picture_something(bands: int) -> None:
    torch.manual_seed(0)
    pixels = torch.full((bands, 32, 32), 5, dtype=torch.uint8)
    pixels[:, 8:16, 8:24] = 25  # a cell's nucleus, of 13 % of the picture
    step = PhotometricDistortion(p=1.0)
    for _ in range(50):
        changed = step({"image": tv_tensors.Image(pixels)})["image"]
        assert changed[:, 12, 12].mean() > changed[:, 2, 2].mean() + 0.02  # of 0.078


def test_the_colour_matrices() -> None:
    torch.testing.assert_close(saturation_matrix(1.0), torch.eye(3))
    grey = torch.full((3,), 0.3)
    for matrix in (saturation_matrix(0.2), saturation_matrix(1.5), hue_matrix(0.1), hue_matrix(-0.3)):
        torch.testing.assert_close(matrix @ grey, grey)
    torch.testing.assert_close(hue_matrix(1 / 3) @ torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))
    colour = (0.6, 0.45, 0.4)
    turned = (hue_matrix(0.1) @ torch.tensor(colour)).tolist()
    turn = (colorsys.rgb_to_hsv(*turned)[0] - colorsys.rgb_to_hsv(*colour)[0]) % 1
    assert abs(turn - 0.1) < 0.02


def test_wrong_options_are_refused() -> None:
    for options in ({"crop_size": (0, 4)}, {"scale": (0.0, 1.0)}, {"scale": (2.0, 1.0)}, {"max_class_ratio": 0.0}):
        with pytest.raises(ValueError, match="give"):
            train_transform(**{"crop_size": (8, 8), **options})
    with pytest.raises(ValueError, match="std"):
        eval_transform(std=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="one size"):
        RandomScaleCrop((4, 4))(tv_tensors.Image(torch.zeros(3, 8, 8)), tv_tensors.Mask(torch.zeros(8, 9)))


def test_each_pass_of_the_sampler_visits_everything_once() -> None:
    keys = list(itertools.islice(InfiniteSampler(7, seed=5), 21))
    assert [counter for counter, _ in keys] == list(range(21))
    passes = [[index for _, index in keys[i : i + 7]] for i in (0, 7, 14)]
    assert all(sorted(p) == list(range(7)) for p in passes)
    assert passes[0] != passes[1]
    other = [index for _, index in itertools.islice(InfiniteSampler(7, seed=6), 7)]
    assert other != passes[0]


def test_a_resumed_sampler_continues() -> None:
    keys = list(itertools.islice(InfiniteSampler(7, seed=5), 30))
    assert list(itertools.islice(InfiniteSampler(7, seed=5, start_index=11), 19)) == keys[11:]


def test_processes_share_the_stream() -> None:
    keys = list(itertools.islice(InfiniteSampler(7, seed=5), 24))
    ranks = [itertools.islice(InfiniteSampler(7, 5, rank=rank, world_size=3), 8) for rank in range(3)]
    assert [key for group in zip(*ranks, strict=True) for key in group] == keys


def test_sampler_errors() -> None:
    with pytest.raises(ValueError, match="no samples"):
        InfiniteSampler(0)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        InfiniteSampler(3, rank=2, world_size=2)
    with pytest.raises(ValueError, match="start_index"):
        InfiniteSampler(3, start_index=-1)


def test_samples_depend_on_seed_and_counter_only(tmp_path: Path) -> None:
    dataset = build_dataset("folder", write_folder(tmp_path, ["a", "b", "c"], 0, 1), "all")
    stream = TrainingStream(dataset, train_transform((8, 8)), seed=4)

    def batches(workers: int, start: int) -> list[dict]:
        sampler = InfiniteSampler(len(dataset), seed=4, start_index=start)
        return list(itertools.islice(DataLoader(stream, batch_size=2, sampler=sampler, num_workers=workers), 3))

    whole = batches(0, 0)
    for other in (batches(2, 0), whole[:2] + batches(1, 4)[:1]):
        for ours, theirs in zip(whole, other, strict=True):
            assert ours["name"] == theirs["name"]
            assert ours["counter"].tolist() == theirs["counter"].tolist()
            assert torch.equal(ours["image"], theirs["image"])
            assert torch.equal(ours["mask"], theirs["mask"])
    assert not torch.equal(stream[(0, 1)]["image"], stream[(1, 1)]["image"])
    assert not torch.equal(stream[(0, 1)]["image"], TrainingStream(dataset, stream.transform, 5)[(0, 1)]["image"])


def test_the_stream_seeds_every_generator_and_puts_them_back(tmp_path: Path) -> None:
    dataset = build_dataset("folder", write_folder(tmp_path, ["a"], 0, 1), "all")

    def draw(sample: dict) -> dict:
        return sample | {"drawn": (torch.rand(()).item(), float(np.random.rand()), random.random())}

    stream = TrainingStream(dataset, draw, seed=1)
    first = stream[(3, 0)]["drawn"]
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = (torch.rand(()).item(), float(np.random.rand()), random.random())
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    assert stream[(3, 0)]["drawn"] == first
    assert (torch.rand(()).item(), float(np.random.rand()), random.random()) == expected
