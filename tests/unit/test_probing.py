"""Probes: features that separate classes score 1, others chance; the blocks' size changes nothing; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from segmentarium.cli.main import main
from segmentarium.contracts import Backbone
from segmentarium.data import build_dataset
from segmentarium.evaluation import probe, probing


def coloured_folder(root: Path, number: int = 20) -> Path:
    """Two classes that differ in red against blue, three in ten pixels of noise."""
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for label, name in enumerate(("blue", "red")):
            (root / part / name).mkdir(parents=True)
            for index in range(number):
                pixels = random.integers(0, 100, (32, 32, 3), dtype=np.uint8)
                pixels[..., 0 if label else 2] += 100
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
    return root


def _labelled(root: Path, part: str) -> Any:
    return build_dataset("imagefolder", root, part)


class Means(Backbone):
    """Each channel's mean as features; the blind one says the same of every picture."""

    def __init__(self, blind: bool = False) -> None:
        super().__init__()
        self.blind, self.weight = blind, nn.Parameter(torch.ones(1))
        self.describe([3], [1], [0])

    def embed(self, image: Tensor) -> Tensor:
        return image.mean((2, 3)) * (0.0 if self.blind else 1.0) * self.weight


def test_features_that_tell_classes_apart_score_one_and_blind_ones_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = coloured_folder(tmp_path)
    train, test = (_labelled(root, part) for part in ("train", "test"))
    backbone = Means()
    report = probe(backbone, train, test, size=32, batch_size=7)
    assert (report.knn, report.linear, report.linear_top5) == (1.0, 1.0, 1.0)
    assert (report.majority, report.features, report.size) == (0.5, 3, 32)
    assert backbone.weight.item() == 1.0
    monkeypatch.setattr(probing, "BLOCK", 3)
    monkeypatch.setattr(probing, "BATCH", 8)
    assert probe(Means(), train, test, size=32).knn == 1.0
    blind = probe(Means(blind=True), train, test, size=32)
    assert (blind.knn, blind.linear) == (0.5, 0.5)
    few = _labelled(root / "train", "val")
    with pytest.raises(ValueError, match="two classes or more"):
        probe(Means(), few, few)
    test.items = ()
    with pytest.raises(ValueError, match="has no test pictures: there is nothing to score"):
        probe(Means(), train, test)


def test_neighbours_over_blocks_are_those_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    train = random.normal(size=(300, 8)).astype(np.float32), torch.from_numpy(random.integers(0, 5, 300))
    test = random.normal(size=(60, 8)).astype(np.float32), torch.from_numpy(random.integers(0, 5, 60))
    whole = probing._neighbours(train, test, 5, torch.device("cpu"))
    monkeypatch.setattr(probing, "BLOCK", 17)
    assert probing._neighbours(train, test, 5, torch.device("cpu")) == whole
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train[0], test[0])]
    right = 0
    for row, label in zip(unit[1] @ unit[0].T, test[1], strict=True):
        near = np.argsort(-row)[:20]
        votes = np.zeros(5)
        np.add.at(votes, train[1].numpy()[near], np.exp(row[near] / 0.07))
        right += votes.argmax() == label
    assert whole == pytest.approx(right / 60)


def test_the_verb_prints_both_numbers_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = coloured_folder(tmp_path / "data", 8), tmp_path / "probe.json"
    words = ["probe", "--backbone", "shufflenet_v2_050", "--root", str(root), "--size", "32", "--json", str(out)]
    assert main(words) == 0
    assert "k-NN" in (said := capsys.readouterr().out)
    assert "linear" in said
    numbers = json.loads(out.read_text("utf-8"))
    assert 0 <= numbers["knn"] <= 1 >= numbers["linear"] >= 0
    assert numbers["pictures"] == {"train": 12, "test": 16}  # a tenth or so of train is val, by hash
    assert numbers["data"]["test"] == "test"
    assert main(["probe", "--root", str(root)]) == 2
    assert "give --model FILE, or --backbone NAME" in capsys.readouterr().err
