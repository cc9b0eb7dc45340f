"""The comparison of decoders on stored features, on made-up pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import heads
from benchmarks.stored import Given, Store, presence_auc
from segmentarium import create_model, save
from segmentarium.contracts import Term
from tests.unit.training_material import labelled_folder


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words that say where pictures and an untrained trunk lie."""
    folder = tmp_path_factory.mktemp("heads")
    model = create_model("fcn", backbone="resnet18", backbone_arguments={"width": 8}, num_classes=2)
    weights = save(model, folder / "trunk.safetensors")
    root = labelled_folder(folder / "data", number=4, size=(64, 96))
    data = ["--data", "folder", "--root", str(root), "--train-split", "train", "--test-split", "val"]
    return [*data, "--trunk", str(weights), "--out", str(folder / "out"), "--steps", "3"]


def test_rows_are_trained_once_and_held_against_each_other(trunk: list[str], capsys: pytest.CaptureFixture) -> None:
    words = [*trunk, "--seeds", "0", "1", "--heads", "fcn", "parsenet*"]
    assert heads.main(words) == 0
    printed = capsys.readouterr().out
    log = Path(trunk[trunk.index("--out") + 1]) / "heads.jsonl"
    runs = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(run["run"]["name"], run["seed"]) for run in runs] == [
        (name, seed) for seed in (0, 1) for name in ("fcn", "parsenet", "parsenet: no L2 norms")
    ]
    assert len({run["loss"] for run in runs}) == len(runs)
    with_norm, without = (100 * sum(run["miou"] for run in runs[i::3]) / 2 for i in (1, 2))
    assert f"| parsenet | {without - with_norm:+.2f} |" in printed
    log.write_text(log.read_text()[:-9])  # cut off: it is trained again, and comes to the same
    assert heads.main(words) == 0
    *_, cut, again = log.read_text().splitlines()
    assert json.loads(again)["miou"] == runs[-1]["miou"]
    assert cut == json.dumps(runs[-1])[:-8]
    assert heads.main(words) == 0  # nothing is left to do
    assert len(log.read_text().splitlines()) == len(runs) + 1
    capsys.readouterr()
    assert heads.main([*words, "--table"]) == 0
    printed = capsys.readouterr().out
    times = json.loads((log.parent / "times.json").read_text())["ms"]
    assert all(f"| {times[name]:.1f} |" in printed for name in ("fcn", "parsenet", "parsenet: no L2 norms"))


def test_every_row_stands_on_given_features() -> None:
    rows = heads.rows()
    assert rows[0].name == heads.BASELINE
    assert {row.against for row in rows} <= {row.name for row in rows}
    for row in rows:
        given = Given((8, 16, 32, 64), (4, 8, 8, 8))
        with torch.device("meta"):
            model = create_model(row.model, backbone=given, num_classes=3, auxiliary=False, **row.arguments)
        assert set(row.without) < {term.name for term in model.objective} or not row.without


def test_presence_is_ranked_by_class(tmp_path: Path) -> None:
    class Told:
        objective = (Term("presence", 1.0, nn.Identity(), of=("presence",)),)

        def forward_train(self, image: list[torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"presence": image[0][:, :3, 0, 0]}

    masks = np.array([[[0, 1]], [[0, 0]], [[0, 255]], [[0, 1]]], np.uint8)
    scores = np.array([[0, 3, 1], [0, 1, 2], [0, 2, 3], [0, 2, 4]], np.float16)
    np.save(tmp_path / "masks.npy", masks)
    np.save(tmp_path / "level0.npy", scores[:, None, None])
    (tmp_path / "facts.json").write_text(json.dumps({"channels": [3], "strides": [4], "classes": ["a", "b", "c"]}))
    # class 0 is everywhere and 2 nowhere; of the pairs with and without 1, 3 > 1, 3 > 2, 2 > 1 and 2 = 2
    assert presence_auc(Told(), Store(tmp_path)) == 3.5 / 4  # type: ignore[arg-type]


def test_a_term_that_is_not_there_cannot_be_left_out(trunk: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "CHANGES", (("nothing", "fcn", {}, ("aux",)),))
        assert heads.main([*trunk, "--heads", "fcn:*"]) == 1
    assert "fcn has no term aux" in capsys.readouterr().err
