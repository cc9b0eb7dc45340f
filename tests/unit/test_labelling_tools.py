"""Segments as the exports of labelling tools have them: turned shapes, folders in names, shared names, labels that are none."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segmentarium.cli.evaluate import labelled_data
from segmentarium.cli.main import main, parser_for
from segmentarium.data import (
    build_dataset,
    evaluation_split,
)
from segmentarium.data.class_table import read_classes
from segmentarium.data.image_io import ImageReadError
from segmentarium.data.splits import hash_split
from segmentarium.training.preflight import check_labels, count_labels
from tests.unit import segment_files as files
from tests.unit.segment_files import SIZE


@pytest.mark.parametrize(
    "shape", ['box label="cat" xtl="6" ytl="8" xbr="26" ybr="12"', 'ellipse label="cat" cx="16" cy="10" rx="10" ry="2"']
)
def test_shapes_that_were_turned_in_cvat(shape: str, tmp_path: Path) -> None:
    def shown(name: str, degrees: str) -> np.ndarray:
        dataset = build_dataset(
            "cvat", files.cvat(tmp_path / name, scene=(), more=f'<{shape} rotation="{degrees}"/>'), "all"
        )
        return (dataset.load(0)[1].ids == 1).any(0)

    lying = shown("lying", "0.00")
    assert (lying[:, 8:24].any(1).nonzero()[0].tolist(), lying[10].sum()) == ([8, 9, 10, 11], 20)
    upright = shown("upright", "90.00")
    assert np.array_equal(upright[:20, 6:26], lying[:20, 6:26].T)
    aslant = shown("aslant", "30.00")  # clockwise: the right end sinks
    assert aslant[13, 22]
    assert not aslant[6, 22]


def test_names_of_pictures_that_begin_with_their_folder(tmp_path: Path) -> None:
    """As Label Studio writes them."""
    image = {"id": 5, "file_name": "images/a.png", "height": SIZE[0], "width": SIZE[1]}
    root = files.coco(tmp_path, content={"images": [image]})
    (root / "annotations.json").rename(root / "result.json")
    for name in ("coco_instances", "folder"):
        dataset = build_dataset(name, root, "all")
        assert dataset.items[0].image == root / "images" / "a.png"
        assert dataset.load(0)[0].size == SIZE[::-1]


def test_pictures_that_share_a_name_are_all_there(tmp_path: Path) -> None:
    images = [
        {"id": i, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for i, name in ((5, "a.png"), (6, "a.jpg"))
    ]
    root = files.coco(tmp_path / "coco", content={"images": images})
    dataset = build_dataset("coco_instances", root, "all")
    assert [item.image.name for item in dataset.items] == ["a.png", "a.jpg"]
    root = files.cvat(tmp_path / "cvat")
    xml = (root / "annotations.xml").read_text()
    first, last = xml.index("<image "), xml.index("</annotations>")
    image = xml[first:last]
    (root / "annotations.xml").write_text(xml[:last] + image.replace("a.png", "a.jpg") + xml[last:])
    assert [item.image.name for item in build_dataset("cvat", root, "all").items] == ["a.png", "a.jpg"]
    parts = "".join(image.replace("<image ", f'<image subset="{part}" ') for part in ("Train", "Validation"))
    (root / "annotations.xml").write_text(xml[:first] + parts + xml[last:])
    assert [len(build_dataset("cvat", root, split)) for split in ("train", "val", "all")] == [1, 1, 2]


def test_what_labelme_ignores_is_no_class(tmp_path: Path) -> None:
    ignored = {"label": "__ignore__", "points": [[20, 12], [28, 12], [28, 20], [20, 20]], "shape_type": "polygon"}
    root = files.labelme(tmp_path, scene=((0, 2, 0, 8, 10),), more=[ignored])
    (root / "labels.txt").write_text("__ignore__\n_background_\ncat\n")
    for classes in (None, ("__ignore__", "_background_", "cat")):
        dataset: Any = build_dataset("labelme", root, "all", classes=classes)
        assert dataset.info.classes == ("_background_", "cat")
        assert dataset.load(0)[1].label_map(2)[[4, 15], [8, 24]].tolist() == [1, 255]
    dataset = build_dataset("folder", root, "all")
    assert dataset.info.classes == ("_background_", "cat")
    assert dataset.load(0)[1][[4, 15, 0], [8, 24, 0]].tolist() == [1, 255, 0]
    (root / "labels.txt").write_text("__ignore__ 9 9 9\n_background_ 0 0 0\ncat 1 2 3\n")
    table = read_classes(root / "labels.txt")
    assert (table.classes, table.palette, table.ignore_colours) == (
        ("_background_", "cat"),
        ((0, 0, 0), (1, 2, 3)),
        ((9, 9, 9),),
    )


def test_a_part_that_data_yaml_names_and_yolo_lacks(tmp_path: Path) -> None:
    root = files.yolo(tmp_path)
    with (root / "data.yaml").open("a") as file:
        file.write("test: ../test/images\n")
    dataset = build_dataset("yolo", root, "all")
    assert len(dataset) == 1
    assert "data.yaml names ../test/images for 'test', where no pictures are" in dataset.notes
    assert evaluation_split("yolo", root) == "val"
    with pytest.raises(FileNotFoundError, match=r"but data\.yaml names it for 'test'"):
        build_dataset("yolo", root, "test")
    (root / "data.yaml").write_text("names: [cat, dog]\nval: [images/val, images/more]\n")
    with pytest.raises(FileNotFoundError, match="more does not exist"):
        build_dataset("yolo", root, "all")


def test_pictures_without_a_text_file_are_counted_as_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGMENTARIUM_CACHE", str(tmp_path / "cache"))
    root = files.yolo(tmp_path / "data", scene=((0, 2, 0, 8, 10),))
    files.write_picture(root / "images" / "val" / "b.png", files.masks_of(()))
    dataset: Any = build_dataset("folder", root, "val")
    pixels = SIZE[0] * SIZE[1]
    assert list(check_labels(dataset, "val")) == ["warning: no label of split 'val' is dog"]
    assert count_labels(dataset).tolist() == [2 * pixels - 60, 60, 0]
    (root / "labels" / "val" / "b.txt").write_text("1 0 0 1 0 1 1 0 1\n")  # it is no longer what was counted
    assert count_labels(dataset).tolist() == [pixels - 60, 60, pixels]
    (root / "images" / "val" / "b.png").unlink()
    with pytest.raises(ImageReadError, match=r"b\.png does not exist"):
        count_labels(dataset)


def test_yolo_in_one_folder_of_pictures_is_divided_as_every_folder(tmp_path: Path) -> None:
    """As Label Studio exports it: images/, labels/ and classes.txt."""
    names = [f"{number:02d}" for number in range(20)]
    for name in names:
        files.yolo_pair(tmp_path / "images" / f"{name}.png", tmp_path / "labels" / f"{name}.txt")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "notes.json").write_text('{"categories": [{"id": 0, "name": "cat"}], "info": {}}')
    for tool, classes in (("yolo", ("cat", "dog")), ("folder", ("background", "cat", "dog"))):
        for part in ("train", "val", "test"):
            dataset: Any = build_dataset(tool, tmp_path, part)
            assert [dataset.name(i) for i in range(len(dataset))] == [n for n in names if hash_split(n) == part]
            assert any("not divided" in note for note in dataset.notes)
        whole = build_dataset(tool, tmp_path, "all")
        assert (len(whole), whole.info.classes) == (20, classes)
        assert main(["check-data", str(tmp_path), "--data", tool, "--out", str(tmp_path / tool)]) == 0
    (tmp_path / "train.txt").write_text("images/00.png\n./images/03.png\n04\n")
    assert [item.image.stem for item in build_dataset("yolo", tmp_path, "train").items] == ["00", "03", "04"]
    with pytest.raises(FileNotFoundError, match=r"has train\.txt, but no val\.txt"):
        build_dataset("yolo", tmp_path, "val")


@pytest.mark.parametrize("form", ["{}/{}", "{1}/{0}"])
@pytest.mark.parametrize("val", ["valid", "validation"])
def test_yolo_in_folders_without_data_yaml(form: str, val: str, tmp_path: Path) -> None:
    for part, number in (("train", 3), (val, 2)):
        for name in range(number):
            image, label = (tmp_path / form.format(part, kind) / str(name) for kind in ("images", "labels"))
            files.yolo_pair(image.with_suffix(".png"), label.with_suffix(".txt"))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    for tool in ("yolo", "folder"):
        assert [len(build_dataset(tool, tmp_path, part)) for part in ("train", "val", "trainval", "all")] == [
            3,
            2,
            5,
            5,
        ]
        with pytest.raises(FileNotFoundError, match="divided into train, val, but has neither images/test/"):
            build_dataset(tool, tmp_path, "test")


def test_what_is_called_valid_is_val_in_every_export(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        (tmp_path / "labelme" / part).mkdir(parents=True)
        files.labelme(tmp_path / "labelme" / part)
    root = files.cvat(tmp_path / "cvat")
    xml = (root / "annotations.xml").read_text()
    first, last = xml.index("<image "), xml.index("</annotations>")
    parts = [xml[first:last].replace("<image ", f'<image subset="{part}" ') for part in ("train", "Valid")]
    (root / "annotations.xml").write_text(xml[:first] + "".join(parts) + xml[last:])
    coco = files.coco(tmp_path / "coco")
    (coco / "annotations").mkdir()
    for part in ("train", "valid"):
        files.write_picture(coco / "images" / part / "a.png", files.masks_of())
        (coco / "annotations" / f"instances_{part}.json").write_text((coco / "annotations.json").read_text())
    (coco / "annotations.json").unlink()
    for tool in ("labelme", "cvat", "coco"):
        name = "coco_instances" if tool == "coco" else tool
        found = [build_dataset(name, tmp_path / tool, part) for part in ("train", "val")]
        assert [(len(one), one.notes[0] if one.notes and "not divided" in one.notes[0] else "") for one in found] == [
            (1, ""),
            (1, ""),
        ]
    assert found[1].items[0].image.parent.name == "valid"


def parts_of(tool: str, root: Path, labelled: bool = True) -> Path:
    """An export in train, val and test, whose test has labels, or pictures alone; labelme's labels are its files."""
    for part in ("train", "valid", "test"):
        here, scene = root / part, files.SCENE if labelled or part != "test" else ()
        if tool == "labelme" and scene:
            here.mkdir(parents=True)
            files.labelme(here)
        elif tool == "coco_instances":
            files.coco(here, scene)
            (here / "images" / "a.png").rename(here / "a.png")
            (here / "annotations.json").rename(here / "_annotations.coco.json")
        elif tool == "yolo":
            files.yolo_pair(here / "images" / "a.png", here / "labels" / "a.txt")
            if not scene:
                (here / "labels" / "a.txt").unlink()
    if tool == "yolo":
        (root / "data.yaml").write_text("names: [cat, dog]\ntrain: ../train/images\ntest: ../test/images\n")
    if tool == "cvat":
        whole, bare = ((files.cvat(root, scene) / "annotations.xml").read_text() for scene in (files.SCENE, ()))
        first, last = whole.index("<image "), whole.index("</annotations>")
        images = [
            whole[first:last],
            whole[first:last],
            whole[first:last] if labelled else bare[first : bare.index("</ann")],
        ]
        named = [
            image.replace("<image ", f'<image subset="{part}" ')
            for part, image in zip(("Train", "Validation", "Test"), images, strict=True)
        ]
        (root / "annotations.xml").write_text(whole[:first] + "".join(named) + whole[last:])
    return root


@pytest.mark.parametrize("tool", ["labelme", "cvat", "coco_instances", "yolo"])
def test_what_is_scored_of_an_export_is_its_test_where_that_has_labels(tool: str, tmp_path: Path) -> None:
    root = parts_of(tool, tmp_path / "labelled")
    bare = parts_of(tool, tmp_path / "bare", labelled=False)
    for name in ("folder", tool):
        assert evaluation_split(name, root) == "test"
        assert len(build_dataset(name, root, "test")) == 1
        assert evaluation_split(name, bare) == "val"
        assert len(build_dataset(name, bare, "val")) == 1


@pytest.mark.parametrize("tool", ["labelme", "cvat", "coco", "instances"])
def test_what_is_scored_of_an_export_that_nothing_divides(tool: str, tmp_path: Path) -> None:
    name = "coco_instances" if tool == "coco" else tool
    if tool == "instances":
        files.instances(tmp_path, [np.ones(SIZE, int)], parts=False)
    else:
        getattr(files, tool)(tmp_path)
    assert evaluation_split(name, tmp_path) == "val"
    (tmp_path / "test.txt").write_text("a.png\n")
    assert evaluation_split(name, tmp_path) == "test"
    assert len(build_dataset(name, tmp_path, "test")) == 1


@pytest.mark.parametrize("tool", ["labelme", "cvat", "coco"])
def test_pictures_that_no_label_names_are_told_and_may_be_background(
    tool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGMENTARIUM_CACHE", str(tmp_path / "cache"))
    name, root = "coco_instances" if tool == "coco" else tool, getattr(files, tool)(tmp_path / "data")
    folder = root if tool == "labelme" else root / "images"
    for number in range(4):
        files.write_picture(folder / f"new{number}.png", files.masks_of(()))
    data: Any
    for reader in (name, "folder"):
        data = build_dataset(reader, root, "all")
        assert len(data) == 1
        said = [note for note in data.notes if "are left out: new0.png, new1.png, new2.png, …" in note]
        assert [note.startswith("4 pictures have no ") for note in said] == [True]
        capsys.readouterr()
        assert main(["check-data", str(root), "--data", reader, "--out", str(tmp_path / reader)]) == 0
        assert f"not listed (4)\n  {folder / 'new0.png'}: no label names the picture" in capsys.readouterr().out
        data = build_dataset(reader, root, "all", background=True)
        assert (len(data), data.unlisted) == (5, [])
        assert any(note.startswith("4 pictures have no ") and "so no object" in note for note in data.notes)
        words = ["check-data", str(root), "--data", reader, "--data-set-options", "background=true", "--overwrite"]
        assert main([*words, "--out", str(tmp_path / reader)]) == 0
        assert "not listed" not in capsys.readouterr().out
        words = ["--model", "street", "--data", reader, "--root", str(root), "--split", "all"]
        options = parser_for("evaluate").parse_args([*words, "--data-set-options", "background=true"])
        assert len(labelled_data(options, SimpleNamespace(in_channels=3))) == 5
    assert set(np.unique(data.load(4)[1])) == {0}
    assert list(check_labels(data, "all")) == []
    hashed = [hash_split(path.stem) for path in folder.glob("*.png")]
    for part in set(hashed):
        assert len(build_dataset(name, root, part, background=True)) == hashed.count(part)


def test_pictures_that_other_files_list_are_not_told(tmp_path: Path) -> None:
    """One folder of pictures for the JSONs of two parts; a file that names a picture elsewhere, or by a link."""
    root = files.coco(tmp_path / "coco")
    content = json.loads((root / "annotations.json").read_text())
    (root / "annotations.json").unlink()
    for part in ("train", "val"):
        files.write_picture(root / "images" / f"{part}.png", files.masks_of())
        content["images"][0]["file_name"] = f"{part}.png"
        (root / f"{part}.json").write_text(json.dumps(content))
    assert build_dataset("coco_instances", root, "train").unlisted == []
    root = tmp_path / "labelme"
    (root / "json").mkdir(parents=True)
    files.labelme(root / "json")
    (root / "pictures").mkdir()
    (root / "json" / "a.png").rename(root / "pictures" / "b.png")
    (root / "linked.png").symlink_to(root / "pictures" / "b.png")
    file = root / "json" / "a.json"
    file.write_text(file.read_text().replace('"a.png"', r'"..\\pictures\\b.png"'))
    dataset = build_dataset("labelme", root, "all", background=True)
    assert ([item.image.name for item in dataset.items], dataset.unlisted) == (["b.png"], [])


def test_a_division_by_folders_stays_what_it_is(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        files.labelme(tmp_path / part)
    files.write_picture(tmp_path / "train" / "b.png", files.masks_of(()))
    files.write_picture(tmp_path / "cover.png", files.masks_of(()))
    train = build_dataset("labelme", tmp_path, "train", background=True)
    assert [train.name(i) for i in range(len(train))] == ["train/a", "train/b"]
    assert train.unlisted == [tmp_path / "cover.png"]
