"""`segmentarium pretrain`: a backbone that learns from pictures without labels, by the same loop and options as `train`.

    segmentarium pretrain --method mae --data FOLDER_OF_PICTURES --backbone vit_tiny --size 96

is, with the optimiser that such methods are published with,

    segmentarium train --model mae --data pictures --root FOLDER_OF_PICTURES --set backbone=vit_tiny_patch16_224 --size 96
"""

from __future__ import annotations

import argparse

# what the methods' recipes have in common; the rate is for a batch of 256
PUBLISHED = {"optimizer": "adamw", "schedule": "cosine", "weight_decay": 0.05, "batch_size": 64, "learning_rate": 5e-4}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from segmentarium.cli import train
    from segmentarium.registry import list_models

    parser.add_argument(
        "--method",
        dest="model",
        default=argparse.SUPPRESS,
        metavar="NAME",
        help=f"what is learnt: {', '.join(list_models(kind='pretrainer'))}",
    )
    parser.add_argument("--backbone", metavar="NAME", help="what learns it, e.g. vit_tiny (default: the method's own)")
    parser.add_argument(
        "--data",
        default=argparse.SUPPRESS,
        metavar="FOLDER",
        help="a folder of pictures, at any depth; with --root, the name of a data set whose pictures lie there",
    )
    standard = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in PUBLISHED.items())
    parser.epilog = f"Other defaults than train's: {standard}."
    parser.add_argument("--recipe", metavar="FILE", help="Python file whose recipe() returns the options")
    train.add_training_options(parser, leave_out=("model", "data"), of="pretrainer")


def run(given: argparse.Namespace) -> int:
    from segmentarium.cli import train
    from segmentarium.registry import list_models

    values = vars(given)
    methods = list_models(kind="pretrainer")
    if "model" in values:
        values["model"] = _beginning_with(given.model, methods)
        if values["model"].partition(".")[0] not in methods:
            from segmentarium.checks import did_you_mean

            raise ValueError(f"no method is called {given.model!r}{did_you_mean(given.model, methods)}")
    if given.recipe is None and not values.get("resume") and "model" not in values:
        raise ValueError(f"no method is given; give --method {' or '.join(methods)}")
    if "data" in values and "root" not in values:
        values |= {"root": given.data, "data": "pictures"}
    if given.backbone is not None:
        values["model_arguments"] = [*values.get("model_arguments", ()), ("backbone", backbone_called(given.backbone))]
    if given.recipe is None and not values.get("resume"):
        for name, value in {**PUBLISHED, "data": "pictures"}.items():
            values.setdefault(name, value)
    return train.run(given)


def backbone_called(name: str) -> str:
    """The registered backbone of that name, or the first whose name begins with it: "vit_tiny" is vit_tiny_patch16_224."""
    from segmentarium.registry import list_models

    return name if name.startswith("timm:") else _beginning_with(name, list_models(kind="classifier"))


def _beginning_with(name: str, known: list[str]) -> str:
    """The name itself, or the first that is it and more behind "_": "beit" is beit_mim."""
    return name if name in known else next((other for other in known if other.startswith(f"{name}_")), name)
