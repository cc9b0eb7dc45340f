"""What every task with a fixed list of classes does first: the options' model, for the classes of the data."""

from __future__ import annotations

from dataclasses import replace

from segmentarium.contracts import LabelledModel
from segmentarium.data import DatasetInfo
from segmentarium.registry import create_model
from segmentarium.training.options import TrainingOptions


def labelled_model(options: TrainingOptions, info: DatasetInfo, bands: int = 3) -> LabelledModel:
    """The options' model, with the data's classes and the normalisation that was asked for.

    bands   of the data's pictures

    Raises ValueError where it cannot have these classes, or takes other pictures.
    """
    arguments = {"num_classes": info.num_classes, **options.model_arguments}
    if bands != 3:
        arguments.setdefault("in_channels", bands)
    model = create_model(options.model, weights=options.weights, backbone_weights=options.backbone_weights, **arguments)
    assert isinstance(model, LabelledModel)
    if len(model.classes) != info.num_classes:
        raise ValueError(
            f"the model has {model.num_classes} classes, but data set {info.name!r} has {info.num_classes} "
            f"({', '.join(info.classes[:6])}{', …' if info.num_classes > 6 else ''}); leave num_classes out"
        )
    if model.in_channels != bands:
        what = "RGB" if bands == 3 else f"{bands} bands"
        raise ValueError(
            f"the model takes {model.in_channels} channels, but data set {info.name!r} gives {what}; leave in_channels out, or "
            "train it on a folder, whose pictures have as many bands as are asked for"
        )
    model.classes = info.classes
    given = {"mean": options.mean, "std": options.std}
    model.preprocessing = replace(
        model.preprocessing,
        bits=options.data_arguments.get("bits"),  # as it now sees pictures, whatever its weights saw
        **{key: value for key, value in given.items() if value is not None},
    )
    return model
