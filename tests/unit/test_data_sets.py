"""Every published layout, from small generated files, and from the real samples where they are at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from segmentarium.data import DatasetInfo, ImageReadError, LabelError, build_dataset, list_datasets
from segmentarium.data.ade20k import INFO as ADE20K
from segmentarium.data.camvid import INFO as CAMVID
from segmentarium.data.camvid import ORIGINAL_COLOURS, published_split
from segmentarium.data.cityscapes import INFO as CITYSCAPES
from segmentarium.data.coco_stuff import INFO as COCO_STUFF
from segmentarium.data.voc import INFO as VOC
from segmentarium.weights.published import class_lists
from tests.unit.data_files import HEIGHT, WIDTH, stripes, write_folder, write_image, write_mask


def _labels(dataset: object, index: int = 0) -> list[int]:
    return np.unique(dataset.load(index)[1]).tolist()  # type: ignore[attr-defined]


def test_names_are_known_and_mistakes_are_answered(tmp_path: Path) -> None:
    assert list_datasets() == sorted(set(list_datasets()))
    assert {"camvid", "cityscapes", "coco_panoptic", "folder", "imagefolder", "instances"} <= set(list_datasets())
    with pytest.raises(KeyError, match="did you mean 'cityscapes'"):
        build_dataset("cityscape", tmp_path)
    with pytest.raises(ValueError, match="no split 'valid'; choose one of train, val"):
        build_dataset("camvid", tmp_path, "valid")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        build_dataset("camvid", tmp_path / "none")
    with pytest.raises(ValueError, match="data set 'shapes' has no option 'sise'; did you mean 'size'"):
        build_dataset("shapes", "", sise=(32, 32))
    with pytest.raises(ValueError, match="data set 'folder' has no option 'mask_maps'; did you mean 'mask_map'"):
        build_dataset("folder", tmp_path, mask_maps="0:0")


@pytest.mark.parametrize(
    ("info", "number"), [(CAMVID, 11), (CITYSCAPES, 19), (ADE20K, 150), (VOC, 21), (COCO_STUFF, 171)]
)
def test_class_tables_are_whole(info: DatasetInfo, number: int) -> None:
    assert info.num_classes == len(info.palette) == len(set(info.classes)) == number
    assert all(name == name.strip() and name for name in info.classes)
    assert info.licence
    assert info.url


def test_known_classes_stand_at_their_index() -> None:
    assert (VOC.classes[15], VOC.palette[15]) == ("person", (192, 128, 128))
    assert (CITYSCAPES.classes[13], CITYSCAPES.palette[13]) == ("car", (0, 0, 142))
    assert (ADE20K.classes[12], ADE20K.palette[12]) == ("person", (150, 5, 61))
    assert (ADE20K.classes[149], ADE20K.palette[149]) == ("flag", (92, 0, 255))
    assert COCO_STUFF.classes[0] == "person"
    assert COCO_STUFF.classes[79:81] == ("toothbrush", "banner")


def test_zero_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="zero classes"):
        DatasetInfo("mine", (), ())


def _camvid(root: Path, images: str, labels: str) -> None:
    for name in ("0006R0_f00930", "0016E5_08001", "Seq05VD_f00000"):
        write_image(root / images / f"{name}.png")
        write_mask(root / labels / f"{name}.png", stripes(0, 3, 10, 11))


def test_camvid_of_segnet(tmp_path: Path) -> None:
    _camvid(tmp_path, "images", "labels")
    (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/0006R0_f00930.png /SegNet/CamVid/trainannot/x.png\n\n")
    (tmp_path / "val.txt").write_text("0016E5_08001\n")
    train = build_dataset("camvid", tmp_path, "train")
    assert [train.name(i) for i in range(len(train))] == ["0006R0_f00930"]
    assert _labels(train) == [0, 3, 10, 255]
    assert len(build_dataset("camvid", tmp_path, "trainval")) == 2
    test = build_dataset("camvid", tmp_path, "test")  # without a list, by the names of the sequences
    assert test.name(0) == "Seq05VD_f00000"
    (tmp_path / "val.txt").write_text("0016E5_08001\n0016E5_09999\n")
    with pytest.raises(FileNotFoundError, match="1 of them have no picture or no label image: 0016E5_09999"):
        build_dataset("camvid", tmp_path, "val")


def test_camvid_divided_by_folder(tmp_path: Path) -> None:
    for split, labels in (("train", "trainannot"), ("val", "val_labels")):
        write_image(tmp_path / split / "a.png")
        write_mask(tmp_path / labels / "a.png", stripes(1, 11))
        assert _labels(build_dataset("camvid", tmp_path, split)) == [1, 255]
    with pytest.raises(FileNotFoundError, match="no layout of CamVid"):
        build_dataset("camvid", tmp_path, "test")


@pytest.mark.parametrize("folders", [("701_StillsRaw_full", "LabeledApproved_full"), ("images", "labels")])
def test_camvid_in_the_original_colours(tmp_path: Path, folders: tuple[str, str]) -> None:
    colours = [rgb for members in ORIGINAL_COLOURS.values() for rgb in members.values()]
    assert len(set(colours)) == 32
    label = np.array([colours], np.uint8).repeat(3, 0)
    write_image(tmp_path / folders[0] / "0006R0_f00930.png", size=(3, 32))
    write_mask(tmp_path / folders[1] / "0006R0_f00930_L.png", label)
    dataset = build_dataset("camvid", tmp_path, "train")
    expected = [i if i < 11 else 255 for i, m in enumerate(ORIGINAL_COLOURS.values()) for _ in m]
    assert dataset.load(0)[1][0].tolist() == expected


def test_published_split_of_camvid(shared: Path) -> None:
    for split in ("train", "val", "test"):
        names = (shared / "data" / "camvid" / f"{split}.txt").read_text().split()
        assert {published_split(name) for name in names} == {split}


def test_portraits(tmp_path: Path) -> None:
    for name, values in (("1", (0, 1)), ("2", (0, 255))):
        write_image(tmp_path / "images" / f"{name}.webp")
        write_mask(tmp_path / "masks" / f"{name}.png", stripes(*values))
    (tmp_path / "train.txt").write_text("1\n2\n")
    dataset = build_dataset("eg1800", tmp_path, "train")
    assert _labels(dataset, 0) == _labels(dataset, 1) == [0, 1]
    (tmp_path / "val.txt").write_text("3\n")
    with pytest.raises(FileNotFoundError, match="no photograph"):
        build_dataset("portrait", tmp_path, "val")


@pytest.mark.parametrize(("kind", "values"), [("labelIds", (7, 26, 0, 3)), ("labelTrainIds", (0, 13, 255, 255))])
def test_cityscapes(tmp_path: Path, kind: str, values: tuple[int, ...]) -> None:
    write_image(tmp_path / "leftImg8bit/val/bonn/bonn_000000_000019_leftImg8bit.png")
    label = tmp_path / f"gtFine/val/bonn/bonn_000000_000019_gtFine_{kind}.png"
    with pytest.raises(FileNotFoundError, match="labelIds"):
        build_dataset("cityscapes", tmp_path, "val")
    write_mask(label, stripes(*values))
    dataset = build_dataset("cityscapes", tmp_path, "val")
    assert _labels(dataset) == [0, 13, 255]
    write_mask(label, stripes(40))
    with pytest.raises(LabelError, match=r"40 \(192 px\)"):
        dataset.load(0)


def test_ade20k(tmp_path: Path) -> None:
    root = tmp_path / "ADEChallengeData2016"
    write_image(root / "images/training/a.jpg")
    write_mask(root / "annotations/training/a.png", stripes(0, 1, 150))
    assert _labels(build_dataset("ade20k", tmp_path, "train")) == [0, 149, 255]
    assert _labels(build_dataset("ade20k", root, "train")) == [0, 149, 255]
    write_image(root / "images/testing/b.jpg")
    assert _labels(build_dataset("ade20k", root, "test")) == [255]
    write_image(root / "images/training/c.jpg")
    with pytest.raises(FileNotFoundError, match="no label image for 1 of 2 pictures: c"):
        build_dataset("ade20k", root, "train")


def test_voc(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    write_image(root / "JPEGImages/a.jpg")
    write_mask(root / "SegmentationClass/a.png", stripes(0, 15, 255))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("a\n")
    for start in (tmp_path, tmp_path / "VOCdevkit", root):
        assert _labels(build_dataset("voc", start, "val")) == [0, 15, 255]
    coloured = np.array(VOC.palette, np.uint8)[stripes(0, 15)]
    coloured[:, -1] = (224, 224, 192)
    write_mask(root / "SegmentationClass/a.png", coloured)
    assert _labels(build_dataset("voc", root, "val")) == [0, 15, 255]
    with pytest.raises(FileNotFoundError, match=r"train\.txt does not exist"):
        build_dataset("voc", root, "train")
    (lists / "train.txt").write_text("\n")
    with pytest.raises(ValueError, match="names no pictures"):
        build_dataset("voc", root, "train")


def test_pascal_context(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2010"
    write_image(root / "JPEGImages/a.jpg")
    write_mask(root / "SegmentationClassContext/a.png", stripes(0, 1, 59))
    lists = root / "ImageSets" / "SegmentationContext"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("a\n")
    for start in (tmp_path, tmp_path / "VOCdevkit", root):
        assert _labels(build_dataset("pascal_context", start, "val")) == [0, 1, 59]
        assert _labels(build_dataset("pascal_context59", start, "val")) == [0, 58, 255]
    for name, classes in (("pascal_context", "context60"), ("pascal_context59", "context59")):
        # as the networks that are published for it have them
        assert list(build_dataset(name, root, "val").info.classes) == class_lists()[classes]["classes"]
    (lists / "train.txt").write_text("a\nb\n")
    with pytest.raises(FileNotFoundError, match="no label image for 1 of 2 names: b"):
        build_dataset("pascal_context", root, "train")


@pytest.mark.parametrize("layout", ["stuffthingmaps", "annotations"])
def test_coco_stuff(tmp_path: Path, layout: str) -> None:
    images = tmp_path / ("images/val2017" if layout == "annotations" else "val2017")
    write_image(images / "000000000139.jpg")
    write_mask(tmp_path / layout / "val2017" / "000000000139.png", stripes(0, 12, 91, 181, 255))
    assert _labels(build_dataset("coco_stuff", tmp_path, "val")) == [0, 11, 80, 170, 255]
    write_mask(tmp_path / layout / "val2017" / "000000000139.png", stripes(0, 11))
    with pytest.raises(LabelError, match="11"):  # COCO's id 12, "street sign", was never labelled
        build_dataset("coco_stuff", tmp_path, "val").load(0)


def test_coco_stuff_already_renumbered(tmp_path: Path) -> None:
    write_image(tmp_path / "val2017" / "1.jpg")
    write_mask(tmp_path / "annotations/val2017/1_labelTrainIds.png", stripes(0, 11, 170, 255))
    assert _labels(build_dataset("coco_stuff", tmp_path, "val")) == [0, 11, 170, 255]


def test_samples_have_types_sizes_and_names(tmp_path: Path) -> None:
    dataset = build_dataset("folder", write_folder(tmp_path, ["a"], 0, 1, 255), "all")
    sample = dataset[0]
    assert isinstance(sample["image"], tv_tensors.Image)
    assert isinstance(sample["mask"], tv_tensors.Mask)
    assert (sample["image"].shape, sample["image"].dtype) == ((3, HEIGHT, WIDTH), torch.uint8)
    assert (sample["mask"].shape, sample["mask"].dtype) == ((HEIGHT, WIDTH), torch.int64)
    assert sample["mask"].unique().tolist() == [0, 1, 255]
    assert sample["name"] == "a"
    image, mask = dataset.load(0)
    assert (image.mode, image.size, mask.shape) == ("RGB", (WIDTH, HEIGHT), (HEIGHT, WIDTH))


def test_the_cache_holds_what_was_read(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ["a", "b"], 0, 1)
    dataset = build_dataset("folder", root, "all", cache=True)
    dataset.preload()
    for path in (root / "images").iterdir():
        path.unlink()
    first = dataset[0]
    before = first["image"].clone()
    first["image"][:] = 0  # a caller may write into its sample
    first["mask"][:] = 0
    assert torch.equal(dataset[0]["image"], before)
    assert dataset[0]["mask"].unique().tolist() == [0, 1]
    with pytest.raises(ValueError, match="cache=True"):
        build_dataset("camvid", _tiny_camvid(tmp_path / "c"), "train").preload()


def _tiny_camvid(root: Path) -> Path:
    _camvid(root, "images", "labels")
    return root


def test_a_mask_of_another_size_is_an_error(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ["a"], 0, 1)
    write_mask(root / "masks" / "a.png", stripes(0, 1, size=(HEIGHT, WIDTH + 1)))
    with pytest.raises(ImageReadError, match=r"a\.png has 17 x 12 pixels, but its picture .* has 16 x 12"):
        build_dataset("folder", root, "all")[0]


REAL: dict[str, tuple[str, str, int, Callable[[list[int]], bool]]] = {
    "camvid": ("camvid", "val", 101, lambda v: set(v) <= {*range(11), 255}),
    "portrait": ("portrait", "val", 133, lambda v: v == [0, 1]),
    "ade20k": ("samples/ade20k", "val", 3, lambda v: 255 in v and 0 in v),
    "voc": ("samples/voc", "train", 2, lambda v: v == [0, 5, 15, 255]),
    "cityscapes": ("samples/cityscapes", "val", 1, lambda v: v == [0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 255]),
}


@pytest.mark.parametrize("name", REAL)
def test_real_samples(shared: Path, name: str) -> None:
    folder, split, number, fits = REAL[name]
    root = shared / "data" / folder
    if not root.is_dir():
        pytest.skip(f"{root} is not here")
    dataset = build_dataset(name, root, split)
    assert len(dataset) == number
    image, mask = dataset.load(0)
    assert image.size == mask.shape[::-1]
    assert fits(np.unique(mask).tolist())


def test_both_label_files_of_cityscapes_agree(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/samples/cityscapes"
    if not source.is_dir():
        pytest.skip(f"{source} is not here")
    ids = build_dataset("cityscapes", source, "val").load(0)[1]
    train_ids = next(source.rglob("*labelTrainIds.png"))
    picture = next(source.rglob("*leftImg8bit.png"))
    for path in (train_ids, picture):
        target = tmp_path / path.relative_to(source)
        target.parent.mkdir(parents=True)
        target.write_bytes(path.read_bytes())
    again = build_dataset("cityscapes", tmp_path, "val").load(0)[1]
    assert (again == ids).mean() > 0.995  # the two files were shrunk apart, so a few outline pixels differ


def test_ade20k_names_are_those_of_the_benchmark(shared: Path) -> None:
    path = shared / "data/samples/ade20k/ADEChallengeData2016/objectInfo150.txt"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    rows = path.read_text().splitlines()[1:]
    assert ADE20K.classes == tuple(row.split("\t")[-1].split(",")[0].strip() for row in rows)
