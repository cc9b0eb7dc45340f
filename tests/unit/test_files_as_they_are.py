"""Data as people have them: what tools write, what is beside it, what cameras of more than eight bits and three colours give."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from segmentarium.data import build_dataset, check_data, parse_mask_map
from segmentarium.data.bands import bands_of, picture_array, picture_size, read_bands
from segmentarium.data.class_table import class_file, read_classes
from segmentarium.data.finding import is_clip, is_picture, pictures_below
from segmentarium.data.image_io import ImageReadError, read_image, to_8_bit
from segmentarium.data.mask_io import LabelError
from segmentarium.data.samplers import TrainingStream
from segmentarium.data.transforms import PhotometricDistortion, train_transform
from segmentarium.media.sources import expand, is_media
from segmentarium.training.loaders import _of_a_worker, endless
from segmentarium.training.preflight import check_labels, count_values
from segmentarium.weights.reading import CheckpointError, read_file
from tests.unit.training_material import quick_options


def picture(path: Path, size: tuple[int, int] = (32, 24), seed: int = 0, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 255, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    Image.fromarray(values).resize(size).save(path, **options)
    return path


def shape(size: tuple[int, int] = (24, 32), value: int = 1) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[6:18, 8:24] = value
    return mask


def mask(path: Path, values: np.ndarray | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(shape() if values is None else values).save(path, **options)
    return path


def plain(root: Path, classes: str = "background\nthing\n", number: int = 2) -> Path:
    for index in range(number):
        picture(root / f"images/{index}.png", seed=index)
        mask(root / f"masks/{index}.png")
    (root / "classes.txt").write_text(classes, encoding="utf-8")
    return root


def labels(root: Path, split: str = "all", **options: Any) -> list[dict[int, int]]:
    data = build_dataset("folder", root, split, **options)
    found = [np.unique(data.load(index)[1], return_counts=True) for index in range(len(data))]
    return [dict(zip(values.tolist(), counts.tolist(), strict=True)) for values, counts in found]


WANTED = {0: 24 * 32 - 12 * 16, 1: 12 * 16}


# what masks hold


def test_ranges_of_values_are_classes() -> None:
    found = parse_mask_map("0-127:0,128-255:1", 2)
    assert (found[0], found[127], found[128], found[255], len(found)) == (0, 0, 1, 1, 256)
    with pytest.raises(ValueError, match="9-3 is no range"):
        parse_mask_map("9-3:1", 2)


@pytest.mark.parametrize("kind", ["smoothed", "jpeg", "jpeg in colour", "best jpeg"])
def test_black_and_white_with_shades_is_recognised(tmp_path: Path, kind: str) -> None:
    root = plain(tmp_path)
    for old in (root / "masks").iterdir():
        large = Image.fromarray(shape(value=255)).resize((320, 240), 0)
        old.unlink()
        if kind == "smoothed":
            large.resize((32, 24), Image.Resampling.BILINEAR).save(old)
        else:
            shown = large.convert("RGB") if kind == "jpeg in colour" else large
            shown.resize((32, 24), 0).save(old.with_suffix(".jpg"), quality=100 if kind == "best jpeg" else 70)
    with pytest.raises(LabelError, match=r'--mask-map "(0-127:0,128-255:1|0:0,255:1)"'):
        build_dataset("folder", root, "all")
    if kind == "smoothed":
        with pytest.raises(LabelError, match='"0-127:0,128-255:1" takes the darker half'):
            labels(root, mask_map="0:0,255:1")
    found = labels(root, mask_map="0-127:0,128-255:1")
    assert all(set(one) == {0, 1} and abs(one[1] - 192) < 30 for one in found)


def test_masks_of_one_bit_beside_others_are_black_and_white_too(tmp_path: Path) -> None:
    root = plain(tmp_path)
    mask(root / "masks/0.png", shape(value=255))
    Image.fromarray(shape(value=255)).convert("1").save(root / "masks/1.png")
    with pytest.raises(LabelError, match="holds only 0 and 255"):
        build_dataset("folder", root, "all")
    assert labels(root, mask_map="0:0,255:1") == [WANTED, WANTED]
    assert labels(root, mask_map="0-127:0,128-255:1") == [WANTED, WANTED]
    assert labels(root, mask_map="0:0,*:1") == [WANTED, WANTED]


def test_indices_with_255_around_them_are_no_black_and_white(tmp_path: Path) -> None:
    root = plain(tmp_path)
    edged = shape()
    edged[5, :] = 255
    mask(root / "masks/0.png", edged)
    assert labels(root)[0][255] == 32


def test_greys_that_are_the_colours_of_classes_are_no_shades(tmp_path: Path) -> None:
    root = plain(tmp_path, "background 0 0 0\nedge 128 128 128\nbody 255 255 255\n")
    painted = shape(value=255)
    painted[5] = 128
    for old in (root / "masks").iterdir():
        mask(old, painted)
    assert labels(root) == [{0: 24 * 32 - 192 - 32, 1: 32, 2: 192}] * 2


def test_a_link_to_nothing_is_called_so(tmp_path: Path) -> None:
    root = plain(tmp_path)
    (root / "images/gone.png").symlink_to("nowhere.png")
    with pytest.raises(FileNotFoundError, match=r"no mask: gone.png \(gone.png: links to nothing\)"):
        labels(root)


def test_labels_of_one_class_alone_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENTARIUM_CACHE", str(tmp_path / "cache"))
    root = plain(tmp_path / "data", "background\nthing\nother\n")
    for path in (root / "masks").iterdir():
        mask(path, np.zeros((24, 32), np.uint8))
    (root / "images/notes.docx").write_bytes(b"no picture")
    data = build_dataset("folder", root, "all")
    lines = list(check_labels(data, "all"))  # type: ignore[arg-type]
    assert any("all labels of split 'all' are 'background'" in line for line in lines)
    assert any("1 files beside them are neither picture nor mask: notes.docx" in line for line in lines)
    report = check_data(data)
    assert {"one class", "other file"} <= {problem.kind for problem in report.warnings}


def test_all_labels_are_looked_at_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENTARIUM_CACHE", str(tmp_path / "cache"))
    root = plain(tmp_path / "data", number=18)
    data: Any = build_dataset("folder", root, "all")
    assert count_values(data)[:2].tolist() == [18 * WANTED[0], 18 * WANTED[1]]
    monkeypatch.setattr(type(data), "read_label", lambda *_: pytest.fail("read again"))
    assert count_values(data).sum() == 18 * 24 * 32
    monkeypatch.undo()
    monkeypatch.setenv("SEGMENTARIUM_CACHE", str(tmp_path / "cache"))
    mask(root / "masks/9.png", shape(value=7))  # the last by name, which the first look does not reach
    with pytest.raises(LabelError, match=r"9\.png has labels outside the classes: 7"):
        list(check_labels(build_dataset("folder", root, "all"), "all"))  # type: ignore[arg-type]
    picture(root / "images/9.png", (40, 24))
    mask(root / "masks/9.png")
    with pytest.raises(ImageReadError, match=r"9\.png has 32 x 24 pixels, but its picture"):
        count_values(build_dataset("folder", root, "all"))  # type: ignore[arg-type]


def test_what_a_worker_met_is_one_line() -> None:
    text = (
        "Caught LabelError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File ...\n"
        "segmentarium.data.mask_io.LabelError: masks/9.png has labels outside\nthe classes: 7\n"
    )
    assert _of_a_worker(RuntimeError(text)) == "masks/9.png has labels outside the classes: 7"
    text = text.replace("Caught", "During handling of the above exception, another exception occurred:\n\nCaught")
    assert _of_a_worker(RuntimeError(f"Caught KeyError in DataLoader worker process 0.\nKeyError: 3\n\n{text}")) == (
        "masks/9.png has labels outside the classes: 7"
    )
    assert _of_a_worker(ValueError("of this process")) is None


# how folders are laid out


def test_masks_of_numpy_and_of_challenges(tmp_path: Path) -> None:
    root = plain(tmp_path)
    (root / "masks/0.png").unlink()
    np.save(root / "masks/0.npy", shape().astype(np.int64))
    (root / "masks/1.png").rename(root / "masks/1_segmentation.png")
    assert labels(root) == [WANTED, WANTED]
    np.save(root / "masks/0.npy", np.zeros((2, 24, 32), np.float32) + 0.5)
    with pytest.raises(ImageReadError, match=r"a label image is \(H, W\) integers"):
        labels(root)


def test_voc_with_its_lists_and_colours(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [128, 0, 0]], np.uint8)
    for name in ("a", "b", "c"):
        picture(tmp_path / f"JPEGImages/{name}.jpg")
        mask(tmp_path / f"SegmentationClass/{name}.png", colours[shape()])
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nthing:128,0,0::\n")
    assert labels(tmp_path, "train") == [WANTED, WANTED]
    assert labels(tmp_path, "val") == [WANTED]


def test_lists_of_pairs_in_any_folders(tmp_path: Path) -> None:
    for name in ("scan 1", "scan 2"):
        picture(tmp_path / f"photos/{name}.jpg")
        mask(tmp_path / f"truth/{name}.png")
    (tmp_path / "train.txt").write_text("photos/scan 1.jpg truth/scan 1.png\nphotos/scan 2.jpg\ttruth/scan 2.png\n")
    (tmp_path / "labels.txt").write_text("background\nthing\n")
    assert labels(tmp_path, "train") == [WANTED, WANTED]
    (tmp_path / "train.txt").write_text("photos/scan 1.jpg truth/scan 1.png\nphotos/gone.jpg truth/scan 2.png\n")
    with pytest.raises(FileNotFoundError, match=r"1 lines of train\.txt are no picture and mask"):
        labels(tmp_path, "train")


def test_roboflow_masks_beside_their_pictures(tmp_path: Path) -> None:
    for part, number in (("train", 2), ("valid", 1)):
        for index in range(number):
            picture(tmp_path / f"{part}/{index}.jpg")
            mask(tmp_path / f"{part}/{index}_mask.png")
        (tmp_path / part / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, thing\n")
    assert labels(tmp_path, "train") == [WANTED, WANTED]
    assert labels(tmp_path, "val") == [WANTED]
    data: Any = build_dataset("folder", tmp_path, "train")
    assert data.info.classes == ("background", "thing")
    assert data.left_out == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("class_dict.csv", "name,r,g,b\nsky,1,2,3\nroad,4,5,6\n"),
        ("label_colors.txt", "1 2 3\tsky\n4 5 6\troad\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nsky:1,2,3::\nroad:4,5,6::\n"),
    ],
)
def test_class_files_of_tools(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = class_file(tmp_path)
    assert found is not None
    table = read_classes(found)
    assert (table.classes, table.palette, table.coloured) == (("sky", "road"), ((1, 2, 3), (4, 5, 6)), True)


def test_names_of_data_yaml_and_numbered_lists(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names:\n  0: sky\n  1: road\ntrain: images\n")
    (tmp_path / "labels.txt").write_text("0: sky\n1: road\n")
    assert [read_classes(tmp_path / name).classes for name in ("data.yaml", "labels.txt")] == [("sky", "road")] * 2


SQUARE = [8, 6, 24, 6, 24, 18, 8, 18]


def coco(root: Path) -> None:
    picture(root / "images/0.png")
    content = {
        "images": [{"id": 1, "file_name": "0.png", "width": 32, "height": 24}],
        "categories": [{"id": 5, "name": "thing"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 5, "segmentation": [SQUARE], "area": 192, "bbox": [8, 6, 16, 12]}
        ],
    }
    (root / "annotations").mkdir()
    (root / "annotations/instances_default.json").write_text(json.dumps(content))


def labelme(root: Path) -> None:
    picture(root / "0.png")
    points = [[x, y] for x, y in zip(SQUARE[::2], SQUARE[1::2], strict=True)]
    shapes = [{"label": "thing", "points": points, "shape_type": "polygon"}]
    (root / "0.json").write_text(
        json.dumps({"shapes": shapes, "imagePath": "0.png", "imageWidth": 32, "imageHeight": 24})
    )


def cvat(root: Path) -> None:
    picture(root / "images/0.png")
    points = ";".join(f"{x},{y}" for x, y in zip(SQUARE[::2], SQUARE[1::2], strict=True))
    (root / "annotations.xml").write_text(
        f'<annotations><image id="0" name="0.png" width="32" height="24"><polygon label="thing" points="{points}"/>'
        "</image></annotations>"
    )


def yolo(root: Path) -> None:
    picture(root / "images/train/0.png")
    (root / "labels/train").mkdir(parents=True)
    shares = " ".join(f"{value / (32, 24)[place % 2]}" for place, value in enumerate(SQUARE))
    (root / "labels/train/0.txt").write_text(f"0 {shares}\n")
    (root / "data.yaml").write_text("names: [thing]\n")


@pytest.mark.parametrize("write", [coco, labelme, cvat, yolo])
def test_outlines_of_tools_are_classes_beside_a_background(tmp_path: Path, write: Any) -> None:
    write(tmp_path)
    assert labels(tmp_path) == [WANTED]
    data: Any = build_dataset("folder", tmp_path, "all")
    assert data.info.classes == ("background", "thing")
    assert "is an export of" in " ".join(data.notes)
    report = check_data(data)
    assert report.ok, report.errors
    assert [one.pixels for one in report.classes] == list(WANTED.values())


def test_segmenters_learn_objects_as_classes_of_pixels(tmp_path: Path) -> None:
    from segmentarium.training.tasks import task_for
    from tests.unit.training_material import quick_options

    labelme(tmp_path)
    task: Any = task_for(quick_options(tmp_path, tmp_path, data="labelme", train_split="all", val_split="all"))
    assert task.train_set.info.classes == ("background", "thing")
    assert np.bincount(task.train_set.load(0)[1].reshape(-1)).tolist() == list(WANTED.values())


def test_the_mask_map_reaches_training_and_comparing() -> None:
    import argparse

    from segmentarium.cli.train import add_training_options, given_options

    parser = argparse.ArgumentParser()
    add_training_options(parser)
    given = given_options(parser.parse_args(["--mask-map", "0:0,255:1", "--data-set-options", "strict=false"]))
    assert given == {"data_arguments": {"strict": False, "mask_map": "0:0,255:1"}}


# what pictures hold


def test_pictures_and_clips_are_known_by_how_they_begin(tmp_path: Path) -> None:
    for name, kind in (
        ("a.photo", "PNG"),
        ("b", "JPEG"),
        ("c.dat", "WEBP"),
        ("d.bin", "TIFF"),
        ("e.x", "BMP"),
        ("f.y", "PPM"),
    ):
        picture(tmp_path / name, format=kind)
    (tmp_path / "notes.doc").write_bytes(b"Pictures of a text")
    (tmp_path / "random").write_bytes(bytes(range(7, 255)))
    assert [path.name for path in pictures_below(tmp_path)] == ["a.photo", "b", "c.dat", "d.bin", "e.x", "f.y"]
    assert [item.name for item in expand(tmp_path)] == ["a", "b", "c", "d", "e", "f"]
    assert is_clip(b"\0\0\0\x20ftypisom" + bytes(20))
    assert not is_picture(b"\0\0\0\x20ftypisom")


def test_a_folder_of_pictures_follows_links_and_passes_over_hidden_ones(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere/far.png")
    picture(tmp_path / "here/near.png")
    picture(tmp_path / "here/.ipynb_checkpoints/near-checkpoint.png")
    (tmp_path / "here/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here/linked/back").symlink_to(tmp_path / "here")
    assert sorted(item.name for item in expand(tmp_path / "here")) == ["linked/far", "near"]


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.linspace(0, 4095, 64).astype(np.uint16), 4095), (np.linspace(0, 65535, 64).astype(np.uint16), 65535),
        (np.linspace(0, 200, 64).astype(np.int32), 255), (np.linspace(0, 1000, 64).astype(np.int32), 1023),
        (np.linspace(0, 1, 64).astype(np.float32), 1.0), (np.linspace(0, 250, 64).astype(np.float32), 255),
    ],
)  # fmt: skip
def test_deep_values_become_bytes_by_the_bits_that_they_need(values: np.ndarray, white: float) -> None:
    assert np.abs(to_8_bit(values).astype(float) - values / white * 255).max() <= 0.5001


def test_what_is_no_count_is_stretched() -> None:
    assert to_8_bit(np.array([-50.0, 0.0, 50.0], np.float32)).tolist() == [0, 128, 255]
    assert to_8_bit(np.array([np.nan, 0.5, 1.0], np.float32)).tolist() == [0, 128, 255]


def test_colours_of_twelve_bits(tmp_path: Path) -> None:
    import cv2

    ramp = np.linspace(0, 4095, 32).astype(np.uint16)[None, :, None].repeat(24, 0) * np.array([1, 0, 0], np.uint16)
    for name in ("deep.png", "deep.tif"):
        cv2.imwrite(str(tmp_path / name), ramp[..., ::-1])
        found = np.asarray(read_image(tmp_path / name))
        assert np.abs(found[0, :, 0] - ramp[0, :, 0] / 4095 * 255).max() <= 1
        assert not found[..., 1:].any()


@pytest.fixture
def five_bands(tmp_path: Path) -> tuple[Path, np.ndarray]:
    pyvips = pytest.importorskip("pyvips")
    values = np.random.default_rng(0).integers(0, 255, (24, 32, 5)).astype(np.uint8)
    values[:, :, 4][shape() == 1] = 255
    root = plain(tmp_path)
    for index in range(2):
        (root / f"images/{index}.png").unlink()
        pyvips.Image.new_from_array(values).write_to_file(str(root / f"images/{index}.tif"))
    return root, values


def test_bands_and_pages_of_tiffs(five_bands: tuple[Path, np.ndarray], tmp_path: Path) -> None:

    root, values = five_bands
    assert np.array_equal(picture_array(root / "images/0.tif"), values)
    Image.fromarray(values[..., :4], "RGBA").save(tmp_path / "alpha.tif")
    content = (tmp_path / "alpha.tif").read_bytes()
    extra = b"\x52\x01\x03\x00\x01\x00\x00\x00"  # the tag that says what the fourth band is: alpha, or nobody knows
    assert content.count(extra + b"\x02") == 1
    (tmp_path / "four.tif").write_bytes(content.replace(extra + b"\x02", extra + b"\x00"))
    with pytest.raises(ImageReadError, match="has 5 bands, and three are wanted"):
        read_image(root / "images/0.tif")
    assert bands_of(tmp_path / "four.tif") == 4
    assert np.array_equal(picture_array(tmp_path / "four.tif"), values[..., :4])
    assert bands_of(tmp_path / "alpha.tif") == 3
    pages = [Image.fromarray(np.ascontiguousarray(values[..., i])) for i in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    assert np.array_equal(read_bands(tmp_path / "pages.tif"), values[..., :3])
    with pytest.raises(ImageReadError, match="has 5 bands, and 4 are wanted"):
        build_dataset("folder", root, "all", bands=4).load(0)


def test_five_bands_are_of_a_size_that_the_verbs_know(five_bands: tuple[Path, np.ndarray]) -> None:
    from segmentarium.cli.segment import _Job

    root, values = five_bands
    path = next(iter((root / "images").iterdir()))
    assert picture_size(path) == (values.shape[1], values.shape[0])
    assert not _Job._is_large(path)


def test_text_that_begins_as_a_picture_is_none(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("P3 is the third point")
    (tmp_path / "scan").write_text("P3 1 1 255 0 0 0")
    assert [is_media(tmp_path / name) for name in ("notes.txt", "scan")] == [False, True]


def test_five_bands_are_trained_on_and_scored(five_bands: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    import segmentarium
    from segmentarium.evaluation import evaluate
    from segmentarium.training import train

    root, values = five_bands
    changes: Any = {"train_split": "all", "val_split": "all", "model_arguments": {"in_channels": 5}, "max_steps": 2}
    result = train(quick_options(root, tmp_path / "run", **changes))
    model = segmentarium.load(result.last_weights)
    assert evaluate(model, build_dataset("folder", root, "all", bands=5), boundary_ratio=None).images == 2
    assert next(iter(segmentarium.predict(root / "images/0.tif", model))).mask.shape == values.shape[:2]


def test_workers_are_no_forks_of_a_process_that_used_libvips(five_bands: tuple[Path, np.ndarray]) -> None:
    """Its threads do not live on in a fork, which waited for them for ever: training on such files hung."""
    root, _ = five_bands
    options = quick_options(root, root / "run", workers=1)
    stream = TrainingStream(
        build_dataset("folder", root, "all", bands=5), train_transform((16, 16), mean=[0.5] * 5, std=[0.5] * 5)
    )
    loader = endless(stream, options, SimpleNamespace(global_rank=0, world_size=1), 2, 0).loader  # type: ignore[arg-type]
    assert loader.multiprocessing_context.get_start_method() == "spawn"  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(stream))
    assert torch.equal(again[(0, 1)]["image"], stream[(0, 1)]["image"])


def test_other_bands_are_made_brighter_and_not_turned_in_colour() -> None:
    torch.manual_seed(3)
    change = PhotometricDistortion(p=1.0)
    image = tv_tensors.Image(torch.full((5, 4, 4), 100, dtype=torch.uint8))
    found = change({"image": image})["image"]
    assert found.shape == (5, 4, 4)
    assert len(found.unique()) == 1


# what is no checkpoint


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "a web page, not weights"), (b"", "an empty file"),
        (b"\x08\x07\x12\x07pytorch", "an ONNX file"),
    ],
)  # fmt: skip
def test_what_lies_in_a_checkpoints_place_is_told(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        read_file(path)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "model._orig_mod."])
def test_what_loops_put_before_the_keys_is_taken_off(tmp_path: Path, prefix: str) -> None:
    import segmentarium
    from segmentarium.weights import export_layout

    model = segmentarium.create_model("erfnet", num_classes=3)
    state = export_layout(model, "erfnet/eromera")
    torch.save({"state_dict": {prefix + key: value for key, value in state.items()}}, tmp_path / "w.pth")
    names = {str(index): name for index, name in enumerate(("road", "sky", "tree"))}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": names}))  # as transformers leaves it beside
    found = segmentarium.load(tmp_path / "w.pth")
    assert getattr(found, "classes", ()) == ("road", "sky", "tree")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in found.state_dict().items())
