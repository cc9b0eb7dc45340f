"""A plain folder of images and masks: its splits, its class files, and everything people get wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segmentarium.data import LabelError, build_dataset, check_data
from segmentarium.data.class_table import read_classes
from segmentarium.data.folder import Folder
from segmentarium.data.splits import hash_split
from tests.unit.data_files import stripes, write_folder, write_image, write_mask


def _names(dataset: Folder) -> list[str]:
    return [dataset.name(i) for i in range(len(dataset))]


def test_all_pairs_without_splits(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ["b", "a"], 0, 1)
    write_image(root / "images" / "deep" / "er" / "c.jpg")
    write_mask(root / "masks" / "deep" / "er" / "c_mask.png", stripes(1))
    (root / "images" / "._a.png").write_bytes(b"left by a Mac")
    (root / "images" / "notes.txt").write_text("not a picture")
    dataset = Folder(root)
    assert _names(dataset) == ["a", "b", "c"]
    assert dataset.info.classes == ("background", "person")
    assert np.unique(dataset.load(2)[1]).tolist() == [1]


@pytest.mark.parametrize("pattern", ["{kind}/{split}", "{split}/{kind}"])
def test_splits_by_folder(tmp_path: Path, pattern: str) -> None:
    for split in ("train", "val"):
        write_image(tmp_path / pattern.format(kind="images", split=split) / f"{split}_1.png")
        write_mask(tmp_path / pattern.format(kind="masks", split=split) / f"{split}_1.png", stripes(0, 1))
    (tmp_path / "classes.txt").write_text("a\nb\n")
    assert _names(Folder(tmp_path, "train")) == ["train_1"]
    assert _names(Folder(tmp_path, "trainval")) == _names(Folder(tmp_path, "all")) == ["train_1", "val_1"]
    with pytest.raises(FileNotFoundError, match="divided into train, val, but has no pictures for 'test'"):
        Folder(tmp_path, "test")


def test_pictures_beside_the_folders_of_parts_are_told(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_image(tmp_path / "images" / split / f"{split}_1.png")
        write_mask(tmp_path / "masks" / split / f"{split}_1.png", stripes(0, 1))
    (tmp_path / "classes.txt").write_text("a\nb\n")
    assert Folder(tmp_path, "train").notes == []
    for name in ("lost.png", "more/other.jpg"):
        write_image(tmp_path / "images" / name)
    (note,) = Folder(tmp_path, "train").notes
    assert note.startswith(
        "2 pictures lie beside images/train/ and images/valid/ and are left out: lost.png, other.jpg; move"
    )


def test_splits_by_list(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ["a", "b", "c"], 0, 1)
    (root / "train.txt").write_text("c\na.png\n# b is held out\n")
    assert _names(Folder(root, "train")) == ["c", "a"]
    assert Folder(root, "train").notes == []
    with pytest.raises(FileNotFoundError, match=r"has train\.txt, but no val\.txt"):
        Folder(root, "val")
    (root / "val.txt").write_text("b\nnone\n")
    with pytest.raises(FileNotFoundError, match=r"1 names in val\.txt have no picture in images/: none"):
        Folder(root, "val")


def test_splits_by_hash_are_disjoint_complete_and_stable(tmp_path: Path) -> None:
    names = [f"{i:03d}" for i in range(60)]
    root = write_folder(tmp_path, names, 0, 1)
    parts = {split: set(_names(Folder(root, split))) for split in ("train", "val", "test")}
    assert set.union(*parts.values()) == set(names)
    assert sum(map(len, parts.values())) == 60
    assert set(_names(Folder(root, "trainval"))) == parts["train"] | parts["val"]
    note = f"is not divided: {len(parts['train'])} train, {len(parts['val'])} val, {len(parts['test'])} test by hash"
    for split in ("val", "all"):
        assert [note in line and f"this is {split!r}" in line for line in Folder(root, split).notes] == [True]
    write_image(root / "images" / "new.png")
    write_mask(root / "masks" / "new.png", stripes(0, 1))
    for split, before in parts.items():
        assert set(_names(Folder(root, split))) - {"new"} == before
    shares = np.bincount([("train", "val", "test").index(hash_split(str(i))) for i in range(4000)]) / 4000
    assert np.abs(shares - [0.8, 0.1, 0.1]).max() < 0.02


def test_an_empty_hash_split_says_what_to_do(tmp_path: Path) -> None:
    name = next(str(i) for i in range(100) if hash_split(str(i)) == "train")
    with pytest.raises(FileNotFoundError, match=r"no pictures in split 'val'; use the split 'all', or write val\.txt"):
        Folder(write_folder(tmp_path, [name], 0, 1), "val")


def test_empty_and_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        Folder(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="should hold the folders images/ and masks/; found nothing"):
        Folder(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        Folder(tmp_path)


def test_pictures_without_a_mask(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ["a", "b"], 0, 1)
    (root / "masks" / "b.png").rename(root / "masks" / "c.png")
    with pytest.raises(FileNotFoundError, match=r"1 pictures of split 'all' have no mask: b\.png"):
        Folder(root)
    dataset = Folder(root, strict=False)
    assert _names(dataset) == ["a"]
    assert [p.name for p in dataset.missing_masks] == ["b.png"]
    assert [p.name for p in dataset.stray_masks] == ["c.png"]


def test_two_pictures_of_one_name(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ["a"], 0, 1)
    write_image(root / "images" / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png have the same name"):
        Folder(root)


def test_black_and_white_masks_need_a_map(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ["a", "b"], 0, 255)
    with pytest.raises(LabelError, match=r'holds only 0 and 255 \(96 px\).*--mask-map "0:0,255:1"'):
        Folder(root)
    for given in ("0:0,255:1", {0: 0, 255: 1}):
        assert np.unique(Folder(root, mask_map=given).load(0)[1]).tolist() == [0, 1]
    (root / "classes.txt").unlink()
    (root / "classes.yaml").write_text("classes:\n- background\n- {name: person, value: 255}\n")
    with pytest.raises(ValueError, match="background has no `value`, others have"):  # values make a complete map
        Folder(root)
    (root / "classes.yaml").write_text("classes: [background, person]\nmask_map: {0: 0, 255: 1}\n")
    assert np.unique(Folder(root).load(0)[1]).tolist() == [0, 1]


def test_void_beside_real_classes_needs_no_map(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ["a"], 0, 255)
    write_image(root / "images" / "b.png")
    write_mask(root / "masks" / "b.png", stripes(0, 1))
    assert np.unique(Folder(root).load(0)[1]).tolist() == [0, 255]


def test_zero_classes(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ["a"], 0, 2, classes="\n# none\n")
    with pytest.raises(ValueError, match="names zero classes"):
        Folder(root)
    (root / "classes.txt").unlink()
    with pytest.raises(ValueError, match=r"the first 1 masks hold the values 0, 2: write classes\.txt with 3 names"):
        Folder(root)
    for wrong in (0, []):
        with pytest.raises(ValueError, match="zero classes"):
            Folder(root, classes=wrong)
    assert Folder(root, classes=3).info.classes == ("class 0", "class 1", "class 2")


def test_colour_masks_by_the_palette(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ["a"], 0, 1, classes="road 128 64 128\ntraffic light\t250 170 30\n")
    picture = np.array([(128, 64, 128), (250, 170, 30)], np.uint8)[stripes(0, 1)]
    write_mask(root / "masks" / "a.png", picture)
    dataset = Folder(root)
    assert dataset.info.classes == ("road", "traffic light")
    assert dataset.info.palette[1] == (250, 170, 30)
    assert np.array_equal(dataset.load(0)[1], stripes(0, 1))
    picture[:, 0] = 255
    write_mask(root / "masks" / "a.png", picture)
    with pytest.raises(LabelError, match=r"\(255, 255, 255\) \(12 px\)"):
        dataset.load(0)
    (root / "classes.txt").unlink()
    (root / "classes.yml").write_text(
        "classes: [road, traffic light]\npalette: [[128, 64, 128], [250, 170, 30]]\nignore_colours: [[255, 255, 255]]\n"
    )
    assert np.unique(Folder(root).load(0)[1]).tolist() == [0, 1, 255]
    given = Folder(root, classes=["r", "t"], palette=[(128, 64, 128), (255, 255, 255)])
    with pytest.raises(LabelError, match=r"\(250, 170, 30\) \(96 px\)"):
        given.load(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("classes: 3\n", "no list under `classes`"),
        ("classes: [a, b", "not valid YAML"),
        ("classes: [a, a]\n", "names a class twice"),
        ("classes: [a, b]\npalette: [[0, 0, 0]]\n", "2 classes but 1 colours"),
        ("classes: [a]\npalette: [[0, 0, 256]]\n", r"outside 0\.\.255"),
        ("classes: [a]\npalette: [red]\n", "is no colour"),
        ("classes: [{colour: [0, 0, 0]}]\n", "no `name`"),
        ("classes: [yes, no]\n", "reads a class as True; put its name in quotes"),
        ("classes: [{name: a, value: {b: 1}}]\n", "is no number and no list of numbers"),
        ("classes: [a, b]\nmask_map: [0, 255]\n", "mask map"),
        ("classes: [a, b]\nmask_map: {0: 0, 255: 2}\n", r"outside the classes 0\.\.1"),
    ],
)
def test_wrong_class_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "classes.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_classes(tmp_path / "classes.yaml").encoding()


def test_class_files_in_text_are_all_coloured_or_none(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a 1 2 3\nb\n")
    with pytest.raises(ValueError, match="1 of 2 classes have a colour"):
        read_classes(tmp_path / "classes.txt")
    (tmp_path / "classes.txt").write_text("a 1 2 3\nb 1 2 3\n")
    with pytest.raises(ValueError, match="same colour"):
        read_classes(tmp_path / "classes.txt").encoding()


@pytest.mark.parametrize(
    ("content", "colours"),
    [
        (b"# label:color_rgb:parts:actions\nwall:1,2,3::\nold door:40,50,60:handle:\n", True),
        (b"1 2 3\twall\n40 50 60\told door\n", True),
        (b"Name, R, G, B\nwall,1,2,3\nold door,40,50,60\n", True),
        (b"wall #010203\nold door; #28323C\n", True),
        (b"0 wall\n1: old door\n", False),
        (b"wall\nold door\n", False),
        ("wall\r\nold door\r\n".encode("utf-16"), False),
    ],
)
def test_class_files_of_tools(tmp_path: Path, content: bytes, colours: bool) -> None:
    (tmp_path / "classes.txt").write_bytes(content)
    table = read_classes(tmp_path / "classes.txt")
    assert table.classes == ("wall", "old door")
    assert table.coloured == colours
    assert not colours or table.palette == ((1, 2, 3), (40, 50, 60))


def test_class_files_that_are_not_understood_are_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes("T\u00fcr\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"classes\.txt is no text in UTF-8 .*; save it as UTF-8"):
        read_classes(tmp_path / "classes.txt")
    (tmp_path / "classes.txt").write_text("1 wall\n2 door\n")
    with pytest.raises(ValueError, match="numbers its classes, but not 0, 1, 2"):
        read_classes(tmp_path / "classes.txt")


def test_values_of_classes_in_yaml(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("classes:\n- {name: wall, value: 7}\n- {name: door, value: [8, 9]}\n")
    assert read_classes(path).mask_map == {7: 0, 8: 1, 9: 1}
    path.write_text("names:\n  0: wall\n  1: door\n")
    assert read_classes(path).classes == ("wall", "door")


def test_by_name_it_is_built_like_any_other(tmp_path: Path) -> None:
    dataset = build_dataset("folder", write_folder(tmp_path, ["a"], 0, 1), "all", classes=["x", "y"], mask_map="*:same")
    assert dataset.info.classes == ("x", "y")


@pytest.mark.parametrize("second", ["a_mask_1.png", "a-2.png", "a (copy).png", "a_label.png"])
def test_a_second_mask_of_a_picture_is_refused(tmp_path: Path, second: str) -> None:
    root = write_folder(tmp_path, ["a", "b"], 0, 1)
    (root / "masks" / "a.png").rename(root / "masks" / "a_mask.png")
    write_mask(root / "masks" / second, stripes(1, 0))
    with pytest.raises(
        ValueError, match=r"1 pictures have a second mask, which would be trained as background: .*a\.png"
    ):
        Folder(root)
    dataset = Folder(root, strict=False)
    assert _names(dataset) == ["a", "b"]
    assert [(item.image.name, item.mask and item.mask.name) for item in dataset.second_masks] == [("a.png", second)]
    assert [problem.kind for problem in check_data(dataset).errors] == ["second mask"]


def test_a_mask_of_another_name_is_no_second_mask(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ["a", "b"], 0, 1)
    write_mask(root / "masks" / "a2.png", stripes(1))
    assert [path.name for path in Folder(root).stray_masks] == ["a2.png"]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"left eye 1\nleft eye 2\n", ["left eye 1", "left eye 2"]),  # a picture "left" is not meant
        (b"\xef\xbb\xbfleft\r\n\r\n", ["left"]),
        ("left eye 2\r\n".encode("utf-16"), ["left eye 2"]),
        (b"images/left.png masks/left.png\n", ["left"]),
        (b"images/left eye 1.png\n./images/left\n", ["left eye 1", "left"]),
    ],
)
def test_lists_as_people_write_them(tmp_path: Path, content: bytes, names: list[str]) -> None:
    root = write_folder(tmp_path, ["left", "left eye 1", "left eye 2"], 0, 1)
    (root / "train.txt").write_bytes(content)
    assert _names(Folder(root, "train")) == names


def test_lists_that_name_something_else_are_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ["left", "right"], 0, 1)
    (root / "train.txt").write_text("left eye\nimages/left.png masks/right.png\nimages/\n")
    with pytest.raises(
        FileNotFoundError, match=r"3 names in train\.txt .*: left eye, images/left\.png masks/right\.png"
    ):
        Folder(root, "train")
    (root / "train.txt").write_bytes(b"\x81\x82")
    with pytest.raises(ValueError, match=r"train\.txt is no text in UTF-8"):
        Folder(root, "train")


def test_names_with_accents_and_capitals(tmp_path: Path) -> None:
    root = write_folder(tmp_path, [], 0, 1)
    composed, apart = "\u00e9t\u00e9", "e\u0301te\u0301"  # of one look; macOS writes the second
    write_image(root / "images" / f"{apart}.png")
    write_mask(root / "masks" / f"{composed}.png", stripes(0, 1))
    (root / "classes.txt").write_text("a\nb\n")
    assert len(Folder(root)) == 1
    assert hash_split(composed) == hash_split(apart)
    write_image(root / "images" / "DSC_1.JPG")
    write_mask(root / "masks" / "dsc_1.png", stripes(0, 1))
    with pytest.raises(FileNotFoundError, match=r"no mask: DSC_1\.JPG \(DSC_1\.JPG and dsc_1\.png differ by capital"):
        Folder(root)


def test_linked_folders_are_followed_and_hidden_ones_are_not(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", ["a"], 0, 1)
    for kind, write in (("images", write_image), ("masks", lambda path: write_mask(path, stripes(0, 1)))):
        write(tmp_path / "elsewhere" / kind / "b.png")
        (root / kind / "more").symlink_to(tmp_path / "elsewhere" / kind)
        (root / kind / "round").symlink_to(root / kind)
        write(root / kind / ".ipynb_checkpoints" / "a-checkpoint.png")
    assert _names(Folder(root)) == ["a", "b"]
