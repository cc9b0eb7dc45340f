"""`segmentarium train`: a model on a data set, by options, by a recipe, or by a recipe with other options.

The options are those of `TrainingOptions`, spelled with hyphens.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import types
import typing
from collections.abc import Collection
from typing import Any

EXAMPLES = (
    ("segmentarium train --root DIR", "a folder with images/, masks/ and classes.txt"),
    ("segmentarium train --root DIR --model segformer_b0 --max-steps 20000", ""),
    ("segmentarium train --data imagefolder --root DIR --model resnet18", "a folder of pictures for each class"),
    ("segmentarium train --resume --output runs/mine", "goes on where it was stopped"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe",
        metavar="FILE|paper",
        help="Python file whose recipe() returns the options; others override it.  paper: SGD at 0.01 and what else most\n"
        "papers of convolutional networks have.  Without it: by the pictures and the network",
    )
    add_training_options(parser)


def add_training_options(
    parser: argparse._ActionsContainer, leave_out: Collection[str] = (), of: str | None = None
) -> None:
    """An argument for each field of `TrainingOptions` that is not left out; what is not given is not in the namespace.

    of   the only kind of model whose options are wanted, beside those for all
    """
    from segmentarium.training.options import FITTED, GROUPS, TrainingOptions

    parser.add_argument(
        "--mask-map",
        dest="mask_map",
        default=argparse.SUPPRESS,
        metavar="MAP",
        help='of a folder: raw value to class, e.g. "0:0,255:1", or "0-127:0,128-255:1" (default: the values are the classes)',
    )
    types_of = typing.get_type_hints(TrainingOptions)
    heading, target = "", parser
    for item in dataclasses.fields(TrainingOptions):
        if item.name in GROUPS and isinstance(parser, argparse.ArgumentParser):
            heading = GROUPS[item.name]
        kinds = item.metadata["of"].split()
        if item.name in leave_out or (of is not None and kinds and of not in kinds):
            continue
        default = item.default if item.default is not dataclasses.MISSING else None
        flag = "--" + (item.metadata["flag"] or item.name.replace("_", "-"))
        text = item.metadata["help"]
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        if item.name in FITTED:
            text += (
                " (default: by the data and the network" + ("" if default is None else f"; recipe paper: {shown}") + ")"
            )
        elif default is not None and default != "":
            text += f" (default: {'yes' if default is True else 'no' if default is False else shown})"
        arguments: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        if heading:  # a group whose first options are left out begins later
            target, heading = parser.add_argument_group(heading), ""
        target.add_argument(flag, **arguments, **_kind(types_of[item.name], item.metadata["choices"]))


def add_data_options(parser: argparse._ActionsContainer) -> None:
    """`--data-set-options`, for verbs that read a data set and train nothing."""
    parser.add_argument(
        "--data-set-options",
        dest="data_arguments",
        default=[],
        help="the data set's own options, as `train` takes them, e.g. background=true",
        **_kind(dict[str, Any], ()),
    )


def _kind(annotation: Any, choices: tuple[str, ...]) -> dict[str, Any]:
    """What argparse must know of a field's type."""
    options = [part for part in typing.get_args(annotation) if part is not type(None)]
    if isinstance(annotation, types.UnionType):
        annotation = options[0]
    origin = typing.get_origin(annotation)
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if origin is dict:
        return {"nargs": "+", "action": "extend", "metavar": "KEY=VALUE", "type": pair}
    if origin is tuple:
        inner = typing.get_args(annotation)
        nargs = "+" if inner[-1] is Ellipsis else len(inner)
        return {"nargs": nargs, "type": inner[0], "metavar": inner[0].__name__.upper()}
    if choices:
        return {"choices": choices}
    return {"type": annotation, "metavar": annotation.__name__.upper()}


def pair(word: str) -> tuple[str, Any]:
    key, equals, value = word.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{word!r} is no KEY=VALUE")
    if value in ("true", "false"):
        return key, value == "true"
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def given_options(given: argparse.Namespace) -> dict[str, Any]:
    """The training options that the command line states, as `TrainingOptions` takes them."""
    from segmentarium.training import TrainingOptions

    names = {item.name for item in dataclasses.fields(TrainingOptions)}
    values: dict[str, Any] = {name: value for name, value in vars(given).items() if name in names}
    if "mask_map" in given:
        values["data_arguments"] = {**dict(values.get("data_arguments", {})), "mask_map": given.mask_map}
    values |= {name: dict(values[name]) for name in ("model_arguments", "data_arguments", "adapt") if name in values}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def options_of(given: argparse.Namespace) -> list[Any]:
    """TrainingOptions of each stage of the recipe, or of the run that is resumed, or the defaults; then the command line's."""
    from segmentarium.training import TrainingOptions, load_recipe
    from segmentarium.training.options import resumed_options

    values = given_options(given)
    if given.recipe and given.recipe != "paper":
        return [stage.changed(values) for stage in load_recipe(given.recipe)]
    return [resumed_options(TrainingOptions().changed(values), values)]


def run(given: argparse.Namespace) -> int:
    import os
    import sys

    stages = options_of(given)
    from segmentarium.training import train
    from segmentarium.training.checkpoints import CheckpointWriteError
    from segmentarium.training.options import FITTED

    said = given_options(given)
    try:
        result = train(stages, fit=[] if given.recipe else [name for name in FITTED if name not in said])
    except CheckpointWriteError as error:
        if given.debug:
            raise
        print(f"segmentarium train: {error}", file=sys.stderr)
        return 1
    if os.environ.get("LOCAL_RANK", "0") != "0":  # one of several processes speaks for all
        return 0
    if result.signal is not None:
        again = f"segmentarium train --resume --output {result.folder}"
        print(f"stopped in step {result.steps}; continue with: {'the same and --resume' if len(stages) > 1 else again}")
        return 128 + result.signal
    if result.best:
        print(f"best {result.best_line}: {result.best_weights}")
    return 0
