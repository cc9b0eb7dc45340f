"""Pictures without labels: what is taken of a folder, what is left out and said, the one split, and what a network sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segmentarium.cli.main import main
from segmentarium.data import InfiniteSampler, TrainingStream, build_dataset, check_data
from segmentarium.data.pretraining import PretrainingView
from segmentarium.data.splits import hash_split
from tests.unit.data_files import write_image

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def mixed_folder(root: Path) -> Path:
    """Twelve pictures at several depths, a small one, a broken one, one that is none, a text and a hidden file."""
    for number in range(12):
        place = root / ("deep/er" if number % 2 else "") / f"{number:02d}.png"
        write_image(place, number, (24, 32))
    write_image(root / "small.png", 0, (5, 40))
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    (root / "empty.png").touch()
    (root / "notes.txt").write_text("no picture")
    (root / ".hidden.png").write_bytes(b"nothing")
    return root


def test_a_folder_s_pictures_are_found_and_the_rest_is_said(tmp_path: Path) -> None:
    dataset = build_dataset("pictures", mixed_folder(tmp_path), "all")
    assert len(dataset) == 12
    assert {dataset.name(i) for i in range(12)} >= {"00", "deep/er/01"}
    sample = dataset[0]
    assert sample.keys() == {"image", "name"}
    assert sample["image"].shape == (3, 24, 32)
    said = "\n".join(dataset.notes)
    assert "1 other file passed over (.txt 1)" in said
    assert "2 pictures left out that cannot be read: broken.jpg, empty.png" in said
    assert "1 picture left out with a side below 16 pixels: small.png (40×5)" in said
    assert ".hidden" not in said
    assert len(build_dataset("pictures", tmp_path, "all", smallest=5)) == 13


def test_parts_are_those_of_every_other_data_set(tmp_path: Path) -> None:
    for number in range(40):
        write_image(tmp_path / "some" / f"{number}.png", number, (16, 16))
    parts = {part: build_dataset("pictures", tmp_path, part) for part in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == 40
    for part, dataset in parts.items():
        assert {hash_split(dataset.name(i)) for i in range(len(dataset))} == {part}
    divided = tmp_path / "divided"
    for part in ("train", "val"):
        write_image(divided / part / "a.png", 1, (20, 20))
    assert [build_dataset("pictures", divided, part).name(0) for part in ("train", "val")] == ["train/a", "val/a"]
    with pytest.raises(FileNotFoundError, match="no pictures for 'test'"):
        build_dataset("pictures", divided, "test")


def test_a_folder_without_a_usable_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("nothing")
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        build_dataset("pictures", tmp_path, "all")
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(FileNotFoundError, match=r"no picture for split 'all'.*cannot be read: a\.png"):
        build_dataset("pictures", tmp_path, "all")


def test_the_doctor_names_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = mixed_folder(tmp_path / "in")
    cut = folder / "cut.png"  # its head is whole, its pixels are not
    cut.write_bytes(write_image(tmp_path / "whole.png", 3, (64, 64)).read_bytes()[:3000])
    report = check_data(build_dataset("pictures", folder, "all"))
    found = {(problem.level, problem.kind, Path(problem.file).name) for problem in report.problems}
    assert found >= {
        ("error", "unreadable picture", "broken.jpg"), ("error", "unreadable picture", "empty.png"),
        ("error", "unreadable picture", "cut.png"), ("warning", "small picture", "small.png"),
        ("warning", "other file", "notes.txt"),
    }  # fmt: skip
    assert (report.pictures, report.readable, report.classes) == (13, 12, [])
    assert main(["check-data", str(folder), "--data", "pictures", "--out", str(tmp_path / "out")]) == 1
    assert "13 pictures, 12 of them sound" in capsys.readouterr().out


def test_what_is_seen_follows_from_seed_and_number_alone(tmp_path: Path) -> None:
    dataset = build_dataset("pictures", mixed_folder(tmp_path), "all")

    def draw(random: np.random.Generator, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        return {"noise": torch.from_numpy(random.random(size[0] // 8))}

    view = PretrainingView(16, mean=MEAN, std=STD, jitter=0.4, token_size=8, draw=draw)
    stream = TrainingStream(dataset, view, seed=3)
    keys = [key for key, _ in zip(InfiniteSampler(len(dataset), 3), range(20), strict=False)]
    first = [stream[key] for key in keys]
    torch.manual_seed(99)
    again = [stream[key] for key in reversed(keys)][::-1]
    for one, other in zip(first, again, strict=True):
        assert one.keys() == {"image", "token_image", "noise", "name", "counter"}
        assert all(torch.equal(one[name], other[name]) for name in ("image", "token_image", "noise"))
    assert first[0]["image"].shape == (3, 16, 16)
    assert first[0]["token_image"].shape == (3, 8, 8)
    assert len({float(sample["noise"][0]) for sample in first}) == len(first)


def test_both_pictures_show_one_box_the_one_mirrored_with_the_other(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
    Image.fromarray(np.stack([ramp, ramp.T[:48, :].repeat(2, 0)[:48, :48].repeat(2, 1)[:, :64], ramp], -1)).save(
        tmp_path / "ramp.png"
    )
    dataset = build_dataset("pictures", tmp_path, "all")
    view = PretrainingView(32, mean=(0, 0, 0), std=(1, 1, 1), token_size=16)
    stream = TrainingStream(dataset, view, seed=0)
    seen = [stream[i, 0] for i in range(12)]
    for sample in seen:
        shrunk = torch.nn.functional.avg_pool2d(sample["image"], 2)
        assert (shrunk - sample["token_image"])[:, 2:-2, 2:-2].abs().max() < 0.05
    slopes = [float((sample["image"][0, :, -1] - sample["image"][0, :, 0]).mean()) for sample in seen]
    assert min(slopes) < 0 < max(slopes)  # some are mirrored
    whole = PretrainingView(48, area=None, flip=0.0, mean=(0, 0, 0), std=(1, 1, 1)).of(
        dataset.sample(0), np.random.default_rng(0)
    )
    assert torch.allclose(whole["image"][0, 0] * 255, torch.from_numpy(ramp[0, 8:56]).float(), atol=0.5)
