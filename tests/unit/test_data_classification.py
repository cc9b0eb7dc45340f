"""Pictures with one class each: folders, splits, crops, mixtures, batches, and what the data doctor says of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from segmentarium.data import (
    ImageReadError,
    InfiniteSampler,
    MixPictures,
    TrainingStream,
    build_dataset,
    check_data,
    classification_eval_transform,
    classification_train_transform,
    collate_pictures,
    evaluation_split,
    picture_size,
)
from segmentarium.data.base import ClassificationDataset
from segmentarium.data.imagefolder import ImageFolder, ImageNet
from segmentarium.data.splits import hash_split
from tests.unit.data_files import write_image


def write_classes(root: Path, *classes: str, number: int = 3, size: tuple[int, int] = (12, 16)) -> Path:
    for label, name in enumerate(classes):
        for i in range(number):
            write_image(root / name / f"{i}.png", 100 * label + i, size)
    return root


def paths(dataset: ClassificationDataset) -> set[Path]:
    return {item.image for item in dataset.items}


def test_divided_by_folders(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", "cat", "ant")
    write_classes(tmp_path / "valid", "cat", number=1)
    write_image(tmp_path / "train" / "cat" / "deep" / "er.png", 7)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "readme.txt").write_text("not a class")
    train = build_dataset("imagefolder", tmp_path, "train")
    assert isinstance(train, ImageFolder)
    assert (train.task, train.split, train.info.classes) == ("classification", "train", ("ant", "cat"))
    assert train.counts() == [3, 4]
    assert train.notes == []
    sample = train[0]
    assert (sample["label"], sample["name"]) == (0, "ant/0")
    assert sample["image"].shape == (3, 12, 16)
    assert sample["image"].dtype == torch.uint8
    picture, label = train.load(6)
    assert (picture.size, label, train.name(6)) == ((16, 12), 1, "deep/er")
    val = ImageFolder(tmp_path, "val")
    assert [(item.label, item.part) for item in val.items] == [(1, "val")]
    assert val.notes == ["1 of 2 classes have no picture in 'val': ant"]
    assert [len(ImageFolder(tmp_path, split)) for split in ("trainval", "all")] == [8, 8]
    assert evaluation_split("imagefolder", tmp_path) == "val"
    with pytest.raises(FileNotFoundError, match="divided into train, valid, but has no test/<class>"):
        ImageFolder(tmp_path, "test")


def test_val_is_taken_from_train_and_never_from_test(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", "a", "b", number=40)
    write_classes(tmp_path / "test", "a", "b", number=5)
    train, val, test = (ImageFolder(tmp_path, split) for split in ("train", "val", "test"))
    assert paths(train) | paths(val) == set((tmp_path / "train").rglob("*.png"))
    assert not paths(train) & paths(val)
    assert paths(test) == set((tmp_path / "test").rglob("*.png"))
    assert all(hash_split(f"{item.image.parent.name}/{item.image.stem}", 0.1, 0) == "val" for item in val.items)
    assert f"train/ of {tmp_path.name} is not divided: {len(train)} train, {len(val)} val by hash" in val.notes[0]
    assert test.notes == []
    assert evaluation_split("imagefolder", tmp_path) == "test"


def test_an_undivided_folder_is_divided_by_hash(tmp_path: Path) -> None:
    write_classes(tmp_path, "train", "b", number=60)  # a class may be called train
    parts = [ImageFolder(tmp_path, split) for split in ("train", "val", "test")]
    assert sum(map(len, parts)) == 120 == len(set().union(*map(paths, parts)))
    assert all(len(part) for part in parts)
    sizes = ", ".join(f"{len(part)} {name}" for part, name in zip(parts, ("train", "val", "test"), strict=True))
    assert (
        parts[1]
        .notes[0]
        .startswith(f"folder {tmp_path.name} is not divided: {sizes} by hash of the name; this is 'val'")
    )
    both = ImageFolder(tmp_path, "trainval")
    assert {item.image: item.part for item in both.items} == {i.image: i.part for part in parts[:2] for i in part.items}


def test_folders_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a folder of pictures for each class"):
        ImageFolder(tmp_path / "none")
    with pytest.raises(ValueError, match=r"no pictures in folders of classes; .* found nothing"):
        ImageFolder(tmp_path)
    write_image(tmp_path / "train" / "0.png")
    with pytest.raises(FileNotFoundError, match="holds no pictures in split 'val'"):
        ImageFolder(tmp_path, "val")  # one class, "train", with one picture
    write_classes(tmp_path / "train", "a")
    write_classes(tmp_path / "val", "a", "A")
    with pytest.raises(ValueError, match=r"val has 1 classes that .*train does not have: A; give the folders"):
        ImageFolder(tmp_path)
    with pytest.raises(ValueError, match="no split 'holdout'"):
        ImageFolder(tmp_path, "holdout")


def test_imagenet_has_the_words_of_its_synsets(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", "n01", "n02", "n03", number=1)
    assert build_dataset("imagenet", tmp_path).info.classes == ("n01", "n02", "n03")
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01 tench, Tinca tinca\nn02 crane\nn03 crane\n")
    names = ImageNet(tmp_path, "all").info.classes
    assert names == ("tench, Tinca tinca", "crane (n02)", "crane (n03)")


def test_a_cache_and_an_unreadable_picture(tmp_path: Path) -> None:
    write_classes(tmp_path, "a", number=2)
    dataset = ImageFolder(tmp_path, "all", cache=True)
    dataset.preload()
    first = dataset[0]["image"].clone()
    dataset[0]["image"].zero_()
    assert torch.equal(dataset[0]["image"], first)
    (tmp_path / "a" / "1.png").write_bytes(b"no picture")
    with pytest.raises(ImageReadError, match=r"1\.png"):
        ImageFolder(tmp_path, "all")[1]


def test_evaluation_looks_at_the_middle_of_large_pictures_and_at_small_ones_whole(tmp_path: Path) -> None:
    large = torch.zeros(3, 256, 512, dtype=torch.uint8)
    large[:, :, 256 - 112 : 256 + 112] = 200
    seen = classification_eval_transform(224, mean=(0, 0, 0), std=(1, 1, 1))({"image": v2.functional.to_image(large)})
    assert seen["image"].shape == (3, 224, 224)
    assert torch.allclose(seen["image"].mean(), torch.tensor(200 / 255), atol=1e-3)  # 256 / 0.875 = 256: not resized
    write_classes(tmp_path, "a", size=(32, 32))
    dataset = ImageFolder(tmp_path, "all")
    assert picture_size(dataset) == 32
    assert picture_size(dataset, largest=24) == 24
    plain = dataset[1]["image"]
    dataset.transform = classification_eval_transform(32, mean=(0, 0, 0), std=(1, 1, 1))
    sample = dataset[1]
    assert torch.allclose(sample["image"], plain / 255)  # neither resized nor cut
    assert (sample["label"], sample["name"]) == (0, "a/1")
    with pytest.raises(ValueError, match="crop_ratio is 2"):
        classification_eval_transform(32, crop_ratio=2)


def test_small_pictures_are_shifted_not_enlarged(tmp_path: Path) -> None:
    write_classes(tmp_path, "a", size=(32, 32), number=1)
    dataset = ImageFolder(tmp_path, "all")
    plain = dataset[0]["image"].as_subclass(torch.Tensor) / 255
    padded = v2.functional.pad(plain, [4], padding_mode="reflect")
    windows = [padded[:, y : y + 32, x : x + 32] for y in range(9) for x in range(9)]
    windows += [window.flip(-1) for window in windows]
    stream = TrainingStream(dataset, classification_train_transform(32, mean=(0, 0, 0), std=(1, 1, 1)), seed=1)
    found = {next(i for i, w in enumerate(windows) if torch.allclose(stream[n, 0]["image"], w)) for n in range(20)}
    assert len(found) > 10


@pytest.mark.parametrize("crop", ["resized", "shifted"])
def test_a_sample_depends_on_seed_and_number_alone(tmp_path: Path, crop: str) -> None:
    write_classes(tmp_path, "a", "b", number=4, size=(40, 50))
    dataset = ImageFolder(tmp_path, "all")
    transform = classification_train_transform(32, crop=crop, rand_augment=2, jitter=0.3, erase=0.5)  # type: ignore[arg-type]
    stream = TrainingStream(dataset, transform, 3, 0.5, MixPictures(2))
    once = {n: stream[n, n % 8] for n in range(6)}
    torch.manual_seed(99)
    for n in reversed(range(6)):
        again = stream[n, n % 8]
        assert again["name"] == once[n]["name"]
        assert again["image"].shape == (3, 32, 32)
        assert torch.equal(again["image"], once[n]["image"])
        assert torch.equal(torch.as_tensor(again["label"]), torch.as_tensor(once[n]["label"]))
    other = TrainingStream(dataset, transform, 4, 0.5, MixPictures(2))
    assert not torch.equal(other[0, 0]["image"], once[0]["image"])


def test_mixtures_and_their_batches(tmp_path: Path) -> None:
    for name, value in (("black", 0), ("white", 255)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), (value,) * 3).save(tmp_path / name / "0.png")
    dataset = ImageFolder(tmp_path, "all", transform=classification_eval_transform(8, mean=(0, 0, 0), std=(1, 1, 1)))
    white, black = dataset[1], dataset[0]
    for mix in (MixPictures(2, mixup=1, cutmix=0), MixPictures(2, mixup=0, cutmix=1), MixPictures(2)):
        for seed in range(5):
            torch.manual_seed(seed)
            mixed = mix(white, black)
            # the share of white in the picture is its share in the label
            assert mixed["label"].sum() == pytest.approx(1)
            assert mixed["image"].mean().item() == pytest.approx(mixed["label"][1].item(), abs=1e-5)
            assert mixed["name"] == "white/0 with black/0"
    batch = collate_pictures([white, mixed, black])
    assert batch["image"].shape == (3, 3, 8, 8)
    assert torch.equal(
        batch["label"], torch.stack([torch.tensor([0.0, 1.0]), mixed["label"], torch.tensor([1.0, 0.0])])
    )
    assert collate_pictures([white, black])["label"].tolist() == [1, 0]
    assert collate_pictures([white, black])["label"].dtype == torch.int64
    with pytest.raises(ValueError, match="alpha above 0"):
        MixPictures(2, mixup=0, cutmix=0)


def test_batches_are_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    write_classes(tmp_path, "a", "b", number=4, size=(16, 16))
    stream = TrainingStream(ImageFolder(tmp_path, "all"), classification_train_transform(16), 0, 0.5, MixPictures(2))
    found = []
    for workers in (0, 2):
        loader = DataLoader(
            stream, batch_size=4, sampler=InfiniteSampler(8), num_workers=workers, collate_fn=collate_pictures
        )
        batches = iter(loader)
        found.append([next(batches) for _ in range(2)])
    for alone, together in zip(*found, strict=True):
        assert alone["name"] == together["name"]
        assert torch.equal(alone["image"], together["image"])
        assert torch.equal(alone["label"], together["label"])


def test_the_doctor_finds_what_is_wrong(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", "a", "b", number=6)
    write_classes(tmp_path / "val", "a", "b", number=2, size=(9, 9))
    (tmp_path / "train" / "c").mkdir()
    (tmp_path / "train" / "a" / "0.png").write_bytes(b"broken")
    (tmp_path / "val" / "a" / "leak.png").write_bytes((tmp_path / "train" / "a" / "1.png").read_bytes())
    (tmp_path / "train" / "b" / "both.png").write_bytes((tmp_path / "train" / "a" / "2.png").read_bytes())
    report = check_data(build_dataset("imagefolder", tmp_path, "all"))
    assert (report.task, report.pictures, report.readable, report.ok) == ("classification", 18, 17, False)
    assert [(c.name, c.images, c.pixels) for c in report.classes] == [("a", 9, None), ("b", 9, None), ("c", 0, None)]
    assert report.unused_classes == ["c"]
    found = {problem.kind: (problem.level, problem.message) for problem in report.problems}
    assert found.keys() == {"unreadable picture", "in two parts", "in two classes", "unused classes"}
    assert found["unreadable picture"][0] == "error"
    assert "one is in train, one in val" in found["in two parts"][1]
    assert "one is a, one b" in found["in two classes"][1]
    assert report.sizes == {"16 x 12": 13, "9 x 9": 4}
    assert [path.name for path in report.save(tmp_path / "out")] == ["report.json", "contact_sheet.png"]
