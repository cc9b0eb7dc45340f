"""`segmentarium compare`: budgets, candidates, the Pareto front, one failure among others, and going on where it was."""

from __future__ import annotations

import argparse
import csv
import html
import json
import random
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from segmentarium import benchmarking
from segmentarium.benchmarking.case import Case, Measurement, measure
from segmentarium.cli.compare import add_arguments
from segmentarium.cli.main import main
from segmentarium.cli.train import given_options
from segmentarium.comparison import Budget, candidates_of_models, pareto_front
from segmentarium.comparison.budget import plan, seconds_per_step
from segmentarium.comparison.candidates import candidates_of_recipes, digest, recipe_files
from segmentarium.comparison.engine import ComparisonOptions
from segmentarium.comparison.outcome import Comparison, Outcome
from segmentarium.comparison.page import _budget, _reproduce
from segmentarium.comparison.pictures import chosen, predict_pictures
from segmentarium.data import build_dataset
from segmentarium.inference.network import Network
from segmentarium.meta import on_meta
from segmentarium.registry import create_model, entry, list_models
from segmentarium.training import TrainingOptions, load_recipe, load_recipes
from segmentarium.weights import read_file, save
from tests.unit import training_material

pytest.importorskip("lightning", reason="training needs the extra [train]")

MACHINE = dict.fromkeys(
    ("processor", "instructions", "cores", "memory_gb", "system", "load_average", "commit", "date"), ""
) | {"versions": {}}
RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_material.labelled_folder(tmp_path_factory.mktemp("data"), number=4, size=(64, 64))


@pytest.fixture(autouse=True)
def timed_here(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """Times in this process: starting one for each form would take most of these tests' time.  The cases, as they come."""
    seen: list[Case] = []

    def here(case: Case, timeout: float = 0) -> Measurement:
        seen.append(case)
        return measure(case)

    monkeypatch.setattr(benchmarking, "run_case", here)
    return seen


def words(folder: Path, out: Path, models: str, *more: str, budget: str = "4steps") -> list[str]:
    return [
        "compare", "--data", "folder", "--root", str(folder), "--models", models, "--budget", budget, "--out", str(out),
        "--crop-size", "32", "32", "--batch-size", "2", "--workers", "0", "--save-every", "2", "--accelerator", "cpu",
        "--engines", "eager,deploy", "--repeats", "1", "--pictures", "2", "--device", "cpu", *more,
    ]  # fmt: skip


def foreign_weights(path: Path) -> Path:
    """A model of three classes, which the two classes of the folder do not fit."""
    return save(create_model("pphumanseg", num_classes=3), path)


# the front --------------------------------------------------------------------------------------------------------------


def test_the_front_is_what_nobody_beats() -> None:
    draw = random.Random(0)
    for _ in range(200):
        points = [(float(draw.randint(1, 6)), float(draw.randint(1, 6))) for _ in range(draw.randint(0, 9))]
        beaten = {
            i
            for i, (cost, value) in enumerate(points)
            for other_cost, other_value in points
            if other_cost <= cost and other_value >= value and (other_cost, other_value) != (cost, value)
        }
        front = pareto_front(points)
        assert set(front) == set(range(len(points))) - beaten
        assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


def test_what_is_not_measured_is_on_no_front() -> None:
    nan = float("nan")
    assert pareto_front([(nan, 0.9), (2.0, 0.5), (1.0, nan)]) == [1]


# the page ---------------------------------------------------------------------------------------------------------------


def test_the_commands_of_the_page_score_the_same_pictures(tmp_path: Path) -> None:
    options = ComparisonOptions(
        data="folder", root=str(tmp_path / "my data"), split="val", budget=Budget.parse("none"), output=tmp_path,
        data_arguments={"mask_map": {0: 0, 255: 1}, "strict": False, "bands": 5}, repeats=5, limit=7, boundary_ratio=0.0,
    )  # fmt: skip
    mine = Outcome("mine", "weights", "my runs/it's.pth", facts={"size": (64, 32)})
    shown = _reproduce(Comparison([mine], {"licence": ""}, options.identity(), MACHINE, "", ("eager", "deploy")))
    lines = [
        shlex.split(line)
        for line in html.unescape(shown.replace("<", "\n<")).splitlines()
        if line.startswith("segmentarium ")
    ]
    assert [line[1] for line in lines] == ["evaluate", "benchmark"]
    assert lines[0][2:] == [
        "--model", "my runs/it's.pth", "--data", "folder", "--root", str(tmp_path / "my data"), "--split", "val",
        "--mask-map", "0:0,255:1", "--data-set-options", "strict=false", "bands=5", "--limit", "7", "--boundary-ratio", "0.0",
    ]  # fmt: skip
    assert lines[1][2:] == [
        "my runs/it's.pth", "--size", "64x32", "--engines", "eager,deploy", "--model-only", "--repeats", "5",
    ]  # fmt: skip


# the budget -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("5m", "time", 300),
        ("90s", "time", 90),
        ("1.5h", "time", 5400),
        ("2000steps", "steps", 2000),
        ("none", "none", 0),
    ],
)
def test_a_budget_is_read(text: str, kind: str, amount: float) -> None:
    budget = Budget.parse(text)
    assert (budget.kind, budget.amount) == (kind, amount)


@pytest.mark.parametrize("text", ["5", "0m", "five minutes", "-3m", "10 epochs", ""])
def test_an_unreadable_budget_says_what_can_be_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"give time \(5m, 90s, 1.5h\) or steps"):
        Budget.parse(text)


def test_a_budget_is_told_of_what_is_trained_alone() -> None:
    def told(*origins: str) -> str:
        outcomes = [Outcome(origin, origin) for origin in origins]
        return _budget(Comparison(outcomes, {}, {"budget_sentence": "each trained for 5m"}, {}, "", ("eager",)))

    assert told("published weights", "weights a.pth", "shipped weights") == "loaded weights, nothing trained"
    assert told("trained here", "published weights") == "1 of them trained (each trained for 5m), the others loaded"
    assert told("trained here", "recipe a.py") == "each trained for 5m"


def test_stages_divide_the_steps_as_their_own_are_divided() -> None:
    stages = (TrainingOptions(max_steps=100, warmup_steps=50), TrainingOptions(max_steps=300))
    planned, _ = plan(stages, Budget.parse("40steps"))
    assert [stage.max_steps for stage in planned] == [10, 30]
    assert planned[0].warmup_steps == 1
    assert [stage.val_every for stage in planned] == [10, 30]
    assert plan(stages, Budget("recipe"))[0] == stages


def test_a_budget_in_time_becomes_steps_that_fit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = training_material.quick_options(folder, tmp_path)
    assert 0 < seconds_per_step(options, 0.1) < 60
    monkeypatch.setattr("segmentarium.comparison.budget.seconds_per_step", lambda *_: 0.5)
    (planned,), measured = plan((options,), Budget.parse("1m"))
    assert measured == [0.5]
    assert 110 <= planned.max_steps <= 114  # 60 s less 5 %, by half seconds
    assert planned.save_every == 90
    with pytest.raises(ValueError, match="give a longer budget, a smaller crop or a smaller batch"):
        plan((options,), Budget.parse("0.4s"))


# candidates -------------------------------------------------------------------------------------------------------------


def test_models_are_trained_and_weights_are_loaded(tmp_path: Path) -> None:
    mine = foreign_weights(tmp_path / "run7" / "last.safetensors")
    found = candidates_of_models(["pphumanseg", "street", f"other={mine}", str(mine)], TrainingOptions())
    assert [c.label for c in found] == ["pphumanseg", "street", "other", "run7"]
    assert [bool(c.stages) for c in found] == [True, False, False, False]
    assert found[0].stages[0].model == "pphumanseg"


def test_each_network_is_optimised_as_train_would() -> None:
    base = TrainingOptions(optimizer="adamw", learning_rate=1e-3)
    rates = {"bisenetv2": 1e-3, "segformer_b0": 3e-4, "mask2former_resnet50": 1e-4}
    found = candidates_of_models([*rates], base)
    assert {c.label: c.stages[0].learning_rate for c in found} == rates
    (said,) = candidates_of_models(["segformer_b0"], base.replace(learning_rate=2e-3), {"learning_rate"})
    assert said.stages[0].learning_rate == 2e-3


@pytest.mark.parametrize(
    ("item", "base", "kind", "message"),
    [
        ("bisenetv3", TrainingOptions(), KeyError, "did you mean 'bisenetv2'"),
        ("pphumanseg", None, ValueError, "give a budget"),
        ("mine=missing.safetensors", TrainingOptions(), FileNotFoundError, "missing.safetensors"),
        ("missing.safetensors", TrainingOptions(), FileNotFoundError, "no weights at missing.safetensors"),
        ("mine=", TrainingOptions(), ValueError, "NAME=WEIGHTS"),
    ],
)
def test_what_is_unknown_is_said(item: str, base: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        candidates_of_models([item], base)


def test_two_candidates_have_two_names() -> None:
    with pytest.raises(ValueError, match="several candidates are called street; name them apart"):
        candidates_of_models(["street", "street"], None)


def test_weights_of_openvino_lie_beside_its_file(tmp_path: Path) -> None:
    mine, weights = tmp_path / "mine.xml", tmp_path / "mine.bin"
    mine.write_text("<net/>")
    weights.write_bytes(b"of one training")
    before = digest(str(mine))
    weights.write_bytes(b"of another one")
    assert digest(str(mine)) != before


def test_pictures_are_spread_over_the_split() -> None:
    assert chosen(100, 4) == [12, 37, 62, 87]
    assert chosen(2, 4) == [0, 1]
    assert chosen(5, 0) == []


def test_pictures_are_predicted_as_they_are_scored(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published weights may ask for windows, which `evaluate` then takes."""
    model = create_model("pphumanseg", num_classes=2).eval()
    model.preprocessing = replace(model.preprocessing, tile=32, stride=32)
    seen, forward = [], Network.__call__

    def noted(network: Network, pixels: torch.Tensor) -> Any:
        seen.append(tuple(pixels.shape[-2:]))
        return forward(network, pixels)

    monkeypatch.setattr(Network, "__call__", noted)
    predict_pictures(model, build_dataset("folder", folder, "val"), [0], tmp_path, "cpu")
    assert seen == [(32, 32)] * 4
    with Image.open(tmp_path / "pictures" / "0.png") as image:
        assert image.size == (64, 64)


# the whole --------------------------------------------------------------------------------------------------------------


def test_one_failure_does_not_end_the_others(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], timed_here: list[Case], monkeypatch: Any
) -> None:
    broken = foreign_weights(tmp_path / "three.safetensors")
    out = tmp_path / "out"
    given = words(folder, out, f"broken={broken},pphumanseg")
    assert main(given) == 1
    assert "broken: evaluation failed: the model gives 3 classes" in capsys.readouterr().err

    page = (out / "comparison.html").read_text(encoding="utf-8")
    assert "the model gives 3 classes" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert page.count("data:image/jpeg") == 2 * 3  # photograph, truth and the one model, for each picture
    assert page.count("data:image/png") == 1
    numbers = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert numbers["pareto_front"] == ["pphumanseg"]
    trained, failed = numbers["models"]
    assert (trained["label"], failed["label"]) == ("pphumanseg", "broken")
    assert trained["training"]["steps"] == 4
    assert trained["training"]["seconds"] > 0
    assert set(trained["speed"]) == {"eager", "deploy"}
    assert trained["facts"]["size"] == [64, 64]
    rows = list(csv.DictReader((out / "comparison.csv").open(encoding="utf-8")))
    assert float(rows[0]["miou"]) == pytest.approx(100 * trained["scores"]["miou"], abs=0.01)
    assert "| pphumanseg |" in (out / "comparison.md").read_text(encoding="utf-8")
    assert [case.form for case in timed_here] == ["eager", "deploy"]

    # A second start does nothing again; an engine and a candidate more are all that it does.
    monkeypatch.setattr("segmentarium.training.train", lambda _: pytest.fail("trained again"))
    more = foreign_weights(tmp_path / "more.safetensors")
    given[given.index("--models") + 1] = f"pphumanseg,more={more}"
    given[given.index("--engines") + 1] = "eager,deploy,channels-last"
    assert main(given) == 1
    assert [case.form for case in timed_here] == ["eager", "deploy", "channels-last"]
    assert "more" in (out / "comparison.html").read_text(encoding="utf-8")

    # Other options are another comparison.
    capsys.readouterr()
    assert main([*given, "--limit", "1"]) == 2
    assert "limit: None -> 1" in capsys.readouterr().err
    assert main([*given, "--learning-rate", "0.5"]) == 2
    assert "learning_rate: 0.001 -> 0.5" in capsys.readouterr().err


def test_a_stopped_comparison_ends_with_the_same_weights(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from segmentarium.training.loop import Training

    assert main(words(folder, tmp_path / "straight", "pphumanseg")) == 0
    advance = Training.advance

    def killed(training: Training) -> None:
        if training.step == 3:  # one step behind the last checkpoint
            raise KeyboardInterrupt
        advance(training)

    given = words(folder, tmp_path / "stopped", "pphumanseg")
    with monkeypatch.context() as patch:
        patch.setattr(Training, "advance", killed)
        assert main(given) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert main(given) == 0
    assert "going on with 4 steps" in capsys.readouterr().out
    one, other = (
        read_file(tmp_path / run / "candidates" / "pphumanseg" / "training" / "last.safetensors")[0]
        for run in ("straight", "stopped")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_errors_come_before_the_work(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [
        (words(folder, tmp_path / "a", "pphumanseq"), "did you mean 'pphumanseg'"),
        (words(tmp_path / "nowhere", tmp_path / "a", "pphumanseg"), "is not a folder"),
        (words(folder, tmp_path / "a", "pphumanseg", budget="soon"), "budget is 'soon'"),
        (words(folder, tmp_path / "a", "pphumanseg", budget="none"), "give a budget"),
        (words(folder, folder, "pphumanseg"), "holds other files and no comparison"),
        (["compare", "--out", str(tmp_path / "a")], "give --models A,B or --recipes FOLDER"),
    ]
    for given, message in cases:
        assert main(given) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


# recipes ----------------------------------------------------------------------------------------------------------------


def write_recipes(place: Path, folder: Path) -> Path:
    place.mkdir()
    (place / "shared.py").write_text(
        "from segmentarium.training import TrainingOptions\n"
        "def options(**changes):\n"
        f"    return TrainingOptions(model='pphumanseg', data='folder', root={str(folder)!r}, crop_size=(32, 32),\n"
        "        batch_size=2, max_steps=2, val_every=2, log_every=1, workers=0, accelerator='cpu', **changes)\n"
    )
    head = "from shared import options\ndef recipe():\n    return "
    (place / "once.py").write_text(head + "options(seed=1)\n")
    (place / "twice.py").write_text(head + "[options(), options(learning_rate=0.02)]\n")
    return place


def test_a_recipe_may_have_stages_and_neighbours(folder: Path, tmp_path: Path) -> None:
    place = write_recipes(tmp_path / "recipes", folder)
    assert [file.name for file in recipe_files([place])] == ["once.py", "twice.py"]
    assert [stage.seed for stage in load_recipe(place / "once.py")] == [1]
    assert len(load_recipe(place / "twice.py")) == 2
    with pytest.raises(FileNotFoundError, match="holds no recipe"):
        recipe_files([tmp_path])
    found = candidates_of_recipes([place], {"batch_size": 4})
    assert [(c.label, len(c.stages), c.stages[0].batch_size) for c in found] == [("once", 1, 4), ("twice", 2, 4)]


def test_options_of_the_comparison_are_none_of_the_recipes() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    own = vars(parser.parse_args(["--out", "x", "--size", "64x96"]))
    assert own["timed_size"] == (64, 96)
    assert given_options(argparse.Namespace(**own)) == {}


def test_a_file_may_hold_several_recipes(folder: Path, tmp_path: Path) -> None:
    place = write_recipes(tmp_path / "recipes", folder)
    file = place / "both.py"
    file.write_text(
        "from shared import options\ndef recipes():\n    return {'a': options(), 'b': [options(seed=1)] * 2}\n"
    )
    assert file in recipe_files([place])
    found = candidates_of_recipes([file], {"batch_size": 4})
    assert [(c.label, len(c.stages), c.stages[-1].seed) for c in found] == [("a", 1, 0), ("b", 2, 1)]
    with pytest.raises(ValueError, match=r"holds 2 recipes \(a, b, …\).*compare --recipes"):
        load_recipe(file)
    file.write_text("def recipes():\n    return {'a': 1}\n")
    with pytest.raises(ValueError, match=r"recipes\(\)\['a'\] returned int"):
        candidates_of_recipes([file], {})


def test_recipes_run_as_a_batch(folder: Path, tmp_path: Path) -> None:
    place = write_recipes(tmp_path / "recipes", folder)
    out = tmp_path / "out"
    shared = ["--engines", "eager", "--repeats", "1", "--pictures", "1", "--device", "cpu", "--out", str(out)]
    assert main(["compare", "--recipes", str(place / "twice.py"), *shared]) == 0
    model = json.loads((out / "comparison.json").read_text(encoding="utf-8"))["models"][0]
    assert model["training"]["steps"] == 4
    first, second = (out / "candidates" / "twice" / f"training-{n}" for n in (1, 2))
    assert json.loads((second / "options.json").read_text())["weights"] == str(first.resolve() / "last.safetensors")
    assert model["weights"] == str(out / "candidates" / "twice" / "training-2" / "last.safetensors")


@pytest.mark.parametrize(
    ("name", "family", "number", "steps"), [("camvid", "realtime", 16, 12_000), ("portrait", "portrait", 5, 20_000)]
)
def test_a_batch_of_recipes_shares_one_budget(name: str, family: str, number: int, steps: int) -> None:
    files = recipe_files([RECIPES / name])
    assert len(files) == number
    known = list_models(family=family)
    budgets = set()
    for file in files:
        stages = load_recipe(file)
        assert all(stage.model in known for stage in stages), file.name
        used = [(s.data, s.train_split, s.crop_size, s.batch_size, s.optimizer, s.scale) for s in stages]
        budgets.add(tuple(dict.fromkeys(used)))  # each size of picture once, whatever is trained on it
        assert sum(stage.max_steps for stage in stages) == steps, file.name
    assert len(budgets) == 1


def test_every_family_of_backbones_has_a_recipe_that_fits_its_size() -> None:
    found = load_recipes(RECIPES / "classification" / "cifar10_backbones.py")
    builds = {entry(name).build for name in list_models(kind="classifier")}
    assert {entry(stage.model).build for (stage,) in found.values()} == builds
    assert len({(s.data, s.max_steps, s.batch_size, s.optimizer, s.learning_rate) for (s,) in found.values()}) == 1
    for (stage,) in found.values():
        with on_meta():
            model = create_model(stage.model, num_classes=10, **stage.model_arguments)
        assert model.fixed_size in (None, (stage.size, stage.size)), stage.model
