"""Options, schedule, parameter groups and the average: the parts of training that need no run."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

import pytest
import torch
from torch import nn

from segmentarium.cli.train import add_arguments, options_of
from segmentarium.comparison.candidates import recipe_files
from segmentarium.contracts import Backbone
from segmentarium.registry import known
from segmentarium.training import TrainingOptions, load_recipe, load_recipes
from segmentarium.training.optimizer import AveragedModel, build_optimizer, parameter_groups, rate_factor
from segmentarium.training.options import changed_options, command_of
from segmentarium.training.preflight import divide_batch

REPOSITORY = Path(__file__).resolve().parents[2]


def parse(*words: str) -> TrainingOptions:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    (options,) = options_of(parser.parse_args(list(words)))
    return options


def test_every_option_has_a_help_line_and_a_flag() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    helps = {action.dest: action.help for action in parser._actions}
    for name in TrainingOptions.__dataclass_fields__:
        assert helps[name], name
    assert "--set KEY=VALUE" in parser.format_help()


def test_command_line_reaches_every_kind_of_option() -> None:
    options = parse(
        "--model", "deeplabv3plus", "--set", "backbone=resnet18", "output_stride=16", "--crop-size", "360", "480",
        "--scale", "0.75", "1.5", "--no-flip", "--learning-rate", "0.05", "--mean", "0.5", "0.5", "0.5",
        "--precision", "32", "--clip-norm", "1",
    )  # fmt: skip
    assert options.model_arguments == {"backbone": "resnet18", "output_stride": 16}
    assert options.crop_size == (360, 480)
    assert options.scale == (0.75, 1.5)
    assert options.mean == (0.5, 0.5, 0.5)
    assert not options.flip
    assert (options.learning_rate, options.precision, options.clip_norm) == (0.05, "32", 1.0)


def test_command_line_overrides_a_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from segmentarium.training import TrainingOptions\n"
        "def recipe():\n"
        "    return TrainingOptions(model='pphumanseg', max_steps=7, model_arguments={'num_classes': 1})\n",
        encoding="utf-8",
    )
    options = parse("--recipe", str(recipe), "--max-steps", "9", "--set", "width=2")
    assert (options.model, options.max_steps) == ("pphumanseg", 9)
    assert options.model_arguments == {"num_classes": 1, "width": 2}


def test_recipe_without_the_function_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"no function recipe\(\)"):
        load_recipe(tmp_path / "empty.py")
    with pytest.raises(FileNotFoundError, match="no recipe at"):
        load_recipe(tmp_path / "absent.py")


@pytest.mark.parametrize(
    "path",
    recipe_files([REPOSITORY / "recipes" / folder for folder in ("", "classification", "keypoints", "semantic")]),
    ids=lambda path: path.stem,
)
def test_shipped_recipes_say_how_they_are_run(path: Path) -> None:
    recipes = load_recipes(path)
    assert all(stage.max_steps > 0 and stage.model in known() for stages in recipes.values() for stage in stages)
    documentation = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    verb = "train --recipe" if len(recipes) == 1 else "compare --recipes"
    assert f"segmentarium {verb}" in (documentation or "")


def test_plain_data_round_trip() -> None:
    options = TrainingOptions(crop_size=(100, 200), model_arguments={"a": 1}, class_weight="auto", mean=(0.1, 0.2, 0.3))
    assert TrainingOptions.from_dict(options.as_dict()) == options
    with pytest.raises(ValueError, match="unknown training options colour"):
        TrainingOptions.from_dict({"colour": 1})


def test_command_of_parses_back_to_the_same_options() -> None:
    options = TrainingOptions(
        data="camvid", root="a folder/x", crop_size=(10, 20), flip=False, model_arguments={"k": 3}, class_weight="auto"
    )
    import shlex

    assert parse(*shlex.split(command_of(options))[2:]) == options


def test_only_options_that_change_the_weights_count_as_changed() -> None:
    old = TrainingOptions()
    new = old.replace(workers=3, log_every=1, output="x", learning_rate=0.5, max_steps=9)
    assert changed_options(old.as_dict(), new.as_dict()) == {"learning_rate": (0.01, 0.5), "max_steps": (40_000, 9)}
    before = {name: value for name, value in old.as_dict().items() if name != "degrade"}  # of a version without it
    assert changed_options(before, old.as_dict()) == {}
    assert changed_options(before, old.replace(degrade=0.5).as_dict()) == {"degrade": (0.0, 0.5)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 0}, "max_steps is 0"),
        ({"crop_size": (0, 5)}, "crop_size is"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"optimizer": "adam"}, "choose one of sgd, adamw"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5"),
    ],
)
def test_bad_options_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**changes)


def test_schedules_begin_and_end_where_they_should() -> None:
    poly = TrainingOptions(max_steps=100, warmup_steps=10)
    assert rate_factor(0, poly) == pytest.approx(0.1)
    assert rate_factor(10, poly) == pytest.approx(1.0)
    assert rate_factor(55, poly) == pytest.approx(0.5**0.9)
    assert rate_factor(100, poly) == 0.0
    assert rate_factor(50, TrainingOptions(max_steps=100, schedule="cosine")) == pytest.approx(0.5)
    assert rate_factor(99, TrainingOptions(max_steps=100, schedule="constant")) == 1.0


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)


def test_parameter_groups() -> None:
    groups = parameter_groups(Net(), TrainingOptions(learning_rate=0.1, weight_decay=0.01, weights="some"))
    seen = {(group["base_lr"], group["weight_decay"]): len(group["params"]) for group in groups}
    tenth = 0.1 * 0.1
    assert seen == {(tenth, 0.01): 1, (tenth, 0.0): 3, (0.1, 0.01): 1, (0.1, 0.0): 1}
    same_rate = parameter_groups(Net(), TrainingOptions(learning_rate=0.1, decay_norm_bias=True))
    assert {(group["base_lr"], group["weight_decay"]) for group in same_rate} == {(0.1, 5e-4)}
    assert isinstance(build_optimizer(Net(), TrainingOptions(optimizer="adamw")), torch.optim.AdamW)


class Deep(Backbone):
    """Two layers and a table, as a plain transformer has it."""

    num_layers = 2

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.second = nn.Parameter(torch.zeros(4, 4)), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def no_weight_decay(self) -> set[str]:
        return {"table"}

    def layer_of(self, name: str) -> int:
        return {"table": 0, "first": 0, "second": 1}[name.partition(".")[0]]


def test_layers_learn_the_slower_the_shallower_and_tables_are_not_decayed() -> None:
    net = nn.Module()
    net.backbone, net.head = Deep(), nn.Conv2d(4, 2, 1)
    options = TrainingOptions(learning_rate=1.0, weight_decay=0.01, layer_decay=0.5, weights="some")
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in parameter_groups(net, options)
        for parameter in group["params"]
    }
    assert found[id(net.backbone.table)] == (0.25, 0.0)
    assert found[id(net.backbone.first.weight)] == (0.25, 0.01)
    assert found[id(net.backbone.first.bias)] == (0.25, 0.0)
    assert found[id(net.backbone.second.weight)] == (0.5, 0.01)
    assert found[id(net.head.weight)] == (1.0, 0.01)
    with pytest.raises(ValueError, match="no backbone that says how deep its layers stand"):
        parameter_groups(Net(), options)


def test_average_follows_its_formula_and_warms_up() -> None:
    model = Net()
    averaged = AveragedModel(model, 0.9)
    expected = model.head.weight.detach().clone()
    for step in range(20):
        with torch.no_grad():
            model.head.weight += 1
            model.backbone[1].running_mean += 1
        averaged.update(model)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.head.weight.detach()
    mine = averaged.model.head.weight  # type: ignore[union-attr]
    torch.testing.assert_close(mine, expected)
    assert not mine.requires_grad
    assert not averaged.model.training
    assert averaged.model.backbone[1].running_mean.min() > 10  # type: ignore[index]


def test_division_of_the_batch() -> None:
    assert divide_batch(TrainingOptions(batch_size=16), 1) == (16, 1)
    assert divide_batch(TrainingOptions(batch_size=16), 4) == (4, 1)
    assert divide_batch(TrainingOptions(batch_size=16, micro_batch=2), 4) == (2, 2)
    with pytest.raises(ValueError, match="multiple of 6"):
        divide_batch(TrainingOptions(batch_size=16, micro_batch=3), 2)
