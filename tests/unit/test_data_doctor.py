"""The data doctor finds each kind of fault, counts right, and the command says so by its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentarium.cli.main import main
from segmentarium.data import build_dataset, check_data
from segmentarium.data.doctor import Report, group_problems
from segmentarium.losses import class_weights
from tests.unit.data_files import HEIGHT, WIDTH, stripes, write_folder, write_image, write_mask

NAMES = [f"{i:02d}" for i in range(12)]


def _check(root: Path, **options: object) -> Report:
    return check_data(build_dataset("folder", root, "all", strict=False, **options))


def _kinds(report: Report) -> dict[str, int]:
    return {f"{level}: {kind}": len(found) for level, kind, found in group_problems(report.problems)}


def test_a_sound_set(tmp_path: Path) -> None:
    root = write_folder(tmp_path, NAMES, 0, 1, 0, 255)
    steps: list[tuple[int, int]] = []
    dataset = build_dataset("folder", root, "all")
    report = check_data(dataset, lambda done, total: steps.append((done, total)))
    assert report.ok
    assert report.problems == []
    assert steps == [(i, 12) for i in range(1, 13)]
    assert (report.pictures, report.readable) == (12, 12)
    assert report.sizes == {"16 x 12": 12}
    assert report.image_modes == {"RGB": 12}
    assert report.mask_modes == {"L": 12}
    pixels = HEIGHT * WIDTH * 12
    assert [(c.name, c.pixels, c.images) for c in report.classes] == [
        ("background", pixels // 2, 12),
        ("person", pixels // 4, 12),
    ]
    assert report.classes[0].share == pytest.approx(2 / 3)
    assert report.ignored_share == pytest.approx(0.25)
    enet = class_weights([pixels // 2, pixels // 4], "enet").tolist()
    assert [c.weight_enet for c in report.classes] == pytest.approx(enet, abs=1e-4)
    assert [c.weight_median_frequency for c in report.classes] == pytest.approx([0.75, 1.5], abs=1e-4)
    images = np.stack([np.asarray(dataset.load(i)[0]) for i in range(12)]) / 255
    assert report.mean == pytest.approx(images.mean((0, 1, 2)).tolist(), abs=1e-4)
    assert report.std == pytest.approx(images.std((0, 1, 2)).tolist(), abs=1e-4)


def test_every_fault_is_found(tmp_path: Path) -> None:
    root = write_folder(tmp_path, NAMES, 0, 1, classes="background\nperson\ndog\n")
    whole = (root / "images" / "00.png").read_bytes()
    (root / "images" / "00.png").write_bytes(whole[: len(whole) // 2])
    (root / "images" / "01.png").write_bytes(b"")
    (root / "masks" / "02.png").write_bytes(b"nothing of the sort")
    (root / "masks" / "03.png").rename(root / "masks" / "stray.png")
    write_mask(root / "masks" / "04.png", stripes(0, 1, size=(HEIGHT + 1, WIDTH)))
    write_mask(root / "masks" / "05.png", stripes(0, 7))
    write_mask(root / "masks" / "06.png", stripes(7, 9, 9, 9))
    write_mask(root / "masks" / "07.png", stripes(255))
    (root / "images" / "08.png").write_bytes((root / "images" / "09.png").read_bytes())
    (root / "masks" / "10.png").unlink()
    write_mask(root / "masks" / "10.jpg", stripes(0))
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 9, np.uint8)).save(root / "images" / "11.png", exif=exif)
    report = _check(root)
    assert not report.ok
    assert _kinds(report) == {
        "error: unreadable picture": 2,
        "error: labels": 2,
        "error: unreadable mask": 1,
        "error: no mask": 1,
        "error: size": 1,
        "warning: unused classes": 1,
        "warning: no picture": 1,
        "warning: void mask": 1,
        "warning: duplicate": 1,
        "warning: lossy mask": 1,
        "warning: rotated": 1,
    }
    assert report.stray_labels == {"7": {"pixels": 96 + 48, "files": 2}, "9": {"pixels": 144, "files": 1}}
    by_kind = {kind: found for _, kind, found in group_problems(report.problems)}
    assert {Path(p.file).name for p in by_kind["unreadable picture"]} == {"00.png", "01.png"}
    assert Path(by_kind["no mask"][0].file).name == "03.png"
    assert "17" not in by_kind["size"][0].message
    assert "16 x 13" in by_kind["size"][0].message
    assert "7 (96 px)" in by_kind["labels"][0].message
    assert report.unused_classes == ["dog"]
    assert report.pictures == 11
    assert report.readable == 5


def test_report_and_contact_sheet_are_written(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", NAMES, 0, 1)
    report = _check(root)
    paths = report.save(tmp_path / "out" / "deep")
    assert [p.name for p in paths] == ["report.json", "contact_sheet.png"]
    content = json.loads(paths[0].read_text())
    assert content["ok"] is True
    assert content["pictures"] == 12
    assert content["classes"][1]["name"] == "person"
    with Image.open(paths[1]) as sheet:
        first = np.asarray(sheet)[24 : 24 + HEIGHT]  # below the name; pictures this small are not enlarged
    with Image.open(root / "images" / "00.png") as picture:
        pixels = np.asarray(picture)
    assert np.array_equal(first[:, 8 : 8 + WIDTH], pixels)
    person = first[:, 256 + WIDTH // 2 : 256 + WIDTH]  # the right half of the overlay, in dark red
    assert np.abs(person - (0.4 * pixels[:, WIDTH // 2 :] + 0.6 * np.array([128, 0, 0]))).max() <= 0.51


def test_a_set_without_pairs(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ["a"], 0, 1)
    (root / "masks" / "a.png").unlink()
    report = _check(root)
    assert _kinds(report) == {"error: no mask": 1, "error: empty": 1}
    assert report.sheet is None
    assert [p.name for p in report.save(tmp_path / "out")] == ["report.json"]


def test_void_only_sets_have_no_weights(tmp_path: Path) -> None:
    report = _check(write_folder(tmp_path, NAMES, 255, classes="a\nb\n"), mask_map="255:255")
    assert report.ignored_share == 1.0
    assert [c.weight_enet for c in report.classes] == [None, None]
    assert _kinds(report)["warning: void mask"] == 12


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folder(tmp_path / "set", NAMES, 0, 1, 255)
    out = tmp_path / "out"
    assert main(["check-data", str(root), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "person" in text
    assert "no errors" in text
    assert (out / "contact_sheet.png").is_file()
    write_mask(root / "masks" / "05.png", stripes(0, 3))
    assert main(["check-data", str(root), "--out", str(out)]) == 1
    text = capsys.readouterr().out
    assert "05.png" in text
    assert "3 (96 px" in text
    assert main(["check-data", str(root), "--out", str(out), "--num-classes", "4", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [c["images"] for c in content["classes"]] == [12, 11, 0, 1]
    mapped = ["--mask-map", "3:255,*:same", "--classes", "x,y"]
    assert main(["check-data", str(root), "--out", str(out), "--json", *mapped]) == 0
    assert json.loads(capsys.readouterr().out)["stray_labels"] == {}


def test_command_on_black_and_white_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folder(tmp_path / "set", NAMES, 0, 255)
    out = ["--out", str(tmp_path / "out")]
    assert main(["check-data", str(root), *out]) == 1
    assert '--mask-map "0:0,255:1"' in capsys.readouterr().err
    assert main(["check-data", str(root), *out, "--mask-map", "0:0,255:1"]) == 0


def test_command_with_nothing_to_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", str(tmp_path)]) == 2
    assert "images/ and masks/" in capsys.readouterr().err
    root = write_folder(tmp_path / "set", ["a"], 0, 2, classes=None)
    assert main(["check-data", str(root)]) == 2
    assert "write classes.txt with 3 names" in capsys.readouterr().err
    assert main(["check-data", str(root), "--classes", "a,b", "--num-classes", "3"]) == 2
    assert main(["check-data", str(root), "--data", "camvid", "--classes", "a"]) == 2
    assert "plain folders" in capsys.readouterr().err


def test_command_on_a_published_layout(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "0006R0_f00930.png")
    write_mask(tmp_path / "labels" / "0006R0_f00930.png", stripes(*range(12)))
    assert main(["check-data", str(tmp_path), "--data", "camvid", "--out", str(tmp_path / "out")]) == 0
